/* SPDX-License-Identifier: ISC */
/*
 * The resolver: answers qmgr's question "where does mail for this domain go?" from the DNS. It has
 * sockets to the configured name servers and nothing else: no spool, no keys, no file system.
 *
 *   main.c      puts the parts together       walk.c    one domain's way to its route (pure)
 *   inbox.c     RESOLVE in, ROUTE out         mx.c      MX order, self, private addresses (pure)
 *   control.c   posternctl resolver           query.c   exchange with name servers
 *   fixed.c     smtp-hosts                    names.c   of our own addresses: PTR, blocklists
 *   routes.c    the walks under way           cache.c   answers with their time (pure)
 *   settings.c  configuration                 answer.c  DNS packets, by ldns (pure)
 *                                             name.c, table.c  names, hash table (pure)
 */
#include "common/log.h"
#include "resolver/resolver.h"
#include "resolver/settings.h"
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdlib.h>

/* The machine's addresses, while we may still ask for them: a listener on 0.0.0.0 is on all of
 * them. */
static void before_drop(void *ctx)
{
	enum { LOCAL_MAX = 4096 };
	struct resolver *r = ctx;
	struct ifaddrs *list = NULL;
	if (getifaddrs(&list) != 0)
		return;
	r->local = xcalloc(LOCAL_MAX, sizeof(*r->local));
	for (const struct ifaddrs *i = list; i != NULL && r->local_count < LOCAL_MAX;
	     i = i->ifa_next) {
		struct route_address *a = &r->local[r->local_count];
		if (i->ifa_addr == NULL)
			continue;
		if (i->ifa_addr->sa_family == AF_INET) {
			struct sockaddr_in in;
			memcpy(&in, i->ifa_addr, sizeof(in));
			a->family = 4;
			memcpy(a->bytes, &in.sin_addr, 4);
			r->local_count++;
		} else if (i->ifa_addr->sa_family == AF_INET6) {
			struct sockaddr_in6 in;
			memcpy(&in, i->ifa_addr, sizeof(in));
			a->family = 6;
			memcpy(a->bytes, &in.sin6_addr, 16);
			r->local_count++;
		}
	}
	freeifaddrs(list);
}

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	struct resolver *r = ctx;
	(void)config;
	if (r->queries == NULL) {
		r->queries = queries_new(worker_loop(r->worker), &query_timing_default);
		r->routes = routes_new(worker_loop(r->worker), r->queries);
		r->fixed = fixed_new(r->routes);
		r->names = names_new(r->queries);
	}
	settings_free(&r->prepared);
	r->prepared = settings_new(conf, r->local, r->local_count, why);
	return r->prepared != NULL ? 0 : -1;
}

static void use(void *ctx, uint32_t config)
{
	struct resolver *r = ctx;
	(void)config;
	queries_use(
	    r->queries, r->prepared->servers, r->prepared->server_count, r->prepared->trusted);
	routes_use(r->routes, &r->prepared->rules);
	fixed_use(r->fixed, &r->prepared->rules);
	names_use(r->names, r->prepared);
	settings_free(&r->used);
	r->used = r->prepared;
	r->prepared = NULL;
}

static void on_peer_channel(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	(void)process;
	(void)instance;
	(void)generation;
	inbox_open(ctx, fd); /* the table of who talks to whom gives us qmgr only */
}

int main(int argc, char **argv)
{
	struct resolver r = {.worker = worker_new()};
	const struct worker_spec spec = {
	    .process = PROC_resolver,
	    .verbs = resolver_verbs,
	    .verb_count = resolver_verb_count,
	    .ctx = &r,
	    .before_drop = before_drop,
	    .prepare = prepare,
	    .use = use,
	    .on_peer = on_peer_channel,
	};
	return worker_run(r.worker, &spec, argc, argv);
}

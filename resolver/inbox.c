/* SPDX-License-Identifier: ISC */
/*
 * RESOLVE comes in from qmgr, ROUTE goes back, once for each RESOLVE, in any order: by the domain's
 * MX, or where qmgr gives smtp-hosts by these. When qmgr's
 * channel ends its questions are dropped; the walks go on and fill the cache. qmgr asks again after
 * our death.
 */
#include "common/chan.h"
#include "resolver/resolver.h"
#include <stdlib.h>

enum {
	ASKS_MAX =
	    1000000, /* open questions of qmgr: it has one per domain; more ends its channel */
	HOSTS_BYTES = 65536, /* ROUTE's bound; ROUTE_HOSTS_MAX hosts with all addresses fit */
};
struct ask {
	struct ask *next, *prev;
	struct resolver *resolver;
	struct route_wait wait; /* one of the two waits */
	struct fixed_wait fixed;
	uint32_t query;
	char *domain; /* owned: as qmgr spelled it */
};

static void ask_free(struct ask *ask)
{
	struct resolver *r = ask->resolver;
	routes_cancel(&ask->wait);
	fixed_cancel(&ask->fixed);
	*(ask->prev != NULL ? &ask->prev->next : &r->asks) = ask->next;
	if (ask->next != NULL)
		ask->next->prev = ask->prev;
	r->ask_count--;
	free(ask->domain);
	free(ask);
}

static void on_route_found(void *arg, const struct mx_route *route)
{
	struct ask *ask = arg;
	struct resolver *r = ask->resolver;
	struct buf hosts;
	buf_init(&hosts, HOSTS_BYTES);
	for (size_t i = 0; i < route->host_count; i++)
		route_put_host(&hosts, &route->hosts[i]);
	must(!hosts.failed);
	chan_send_route(r->qmgr, &(struct msg_route){.query = ask->query,
				     .domain = str_of(ask->domain),
				     .route_class = (uint8_t)route->class,
				     .implicit = route->implicit,
				     .ttl_s = route->ttl_s,
				     .text = str_of(route->text),
				     .hosts = {(const char *)hosts.p, hosts.n}});
	buf_fini(&hosts);
	ask_free(ask);
}

void on_resolve(void *ctx, struct chan *from_chan, struct msg_resolve *m)
{
	struct resolver *r = ctx;
	if (r->ask_count >= ASKS_MAX) {
		chan_close(from_chan, "too many questions");
		return;
	}
	struct ask *ask = xcalloc(1, sizeof(*ask));
	ask->resolver = r;
	ask->query = m->query;
	ask->domain = str_dup(m->domain);
	ask->wait = (struct route_wait){.fn = on_route_found, .arg = ask};
	ask->fixed = (struct fixed_wait){.fn = on_route_found, .arg = ask};
	ask->next = r->asks;
	if (ask->next != NULL)
		ask->next->prev = ask;
	r->asks = ask;
	r->ask_count++;
	if (m->hosts.n > 0)
		fixed_ask(r->fixed, m->hosts, &ask->fixed);
	else
		routes_ask(r->routes, m->domain, &ask->wait);
}

static void drop_asks(struct resolver *r)
{
	while (r->asks != NULL)
		ask_free(r->asks);
	names_drop(r->names);
}

static void on_qmgr_gone(void *ctx, struct chan *chan, const char *why)
{
	struct resolver *r = ctx;
	if (chan != r->qmgr)
		return;
	worker_peer_closed(chan, PROC_qmgr, why);
	drop_asks(r);
	r->qmgr = NULL;
}

void inbox_open(struct resolver *r, int fd)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_resolver, NULL};
	drop_asks(r); /* of a qmgr whose end we have not seen yet */
	if (r->qmgr != NULL)
		chan_free(&r->qmgr);
	r->qmgr = chan_new(worker_loop(r->worker), fd,
	    &(struct chan_spec){
		.peer_roles = ROLE_qmgr, .dispatch = dispatch, .on_close = on_qmgr_gone, .ctx = r});
}

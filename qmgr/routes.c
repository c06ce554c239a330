/* SPDX-License-Identifier: ISC */
/*
 * Questions to the resolver that have no answer yet. A dead resolver has taken them with it: its
 * successor is asked again. The core asks for a domain once and bounds how many are open.
 */
#include "qmgr/shell.h"
#include <stdlib.h>

struct route_query {
	uint32_t query;
	char domain[256];
	char *fixed; /* owned: smtp-hosts; empty: its MX */
};

static void query_free(struct route_query *r)
{
	if (r != NULL)
		free(r->fixed);
	free(r);
}

static void ask(struct qmgr *q, const struct route_query *r)
{
	struct peer *resolver = peers_find(q, PROC_resolver, -1);
	if (resolver != NULL)
		chan_send_resolve(resolver->chan,
		    &(struct msg_resolve){
			.query = r->query, .domain = str_of(r->domain), .hosts = str_of(r->fixed)});
}

void routes_ask(struct qmgr *q, struct str domain, struct str fixed)
{
	struct route_query *r = xcalloc(1, sizeof(*r));
	r->query = ++q->routes.next_query;
	str_copy(r->domain, sizeof(r->domain), domain);
	r->fixed = str_dup(fixed);
	query_free(map_take(&q->routes.waiting, r->query));
	map_set(&q->routes.waiting, r->query, r);
	ask(q, r);
}

bool routes_answered(struct qmgr *q, uint32_t query, struct str domain, char **fixed)
{
	struct route_query *r = map_find(&q->routes.waiting, query);
	if (r == NULL || !str_eq(str_of(r->domain), domain))
		return false;
	map_take(&q->routes.waiting, query);
	*fixed = r->fixed;
	free(r);
	return true;
}

void routes_ask_again(struct qmgr *q)
{
	size_t at = 0;
	for (struct route_query *r; (r = map_next(&q->routes.waiting, &at)) != NULL;)
		ask(q, r);
}

void routes_fini(struct qmgr *q)
{
	size_t at = 0;
	for (struct route_query *r; (r = map_next(&q->routes.waiting, &at)) != NULL;)
		query_free(r);
	map_fini(&q->routes.waiting);
}

/* SPDX-License-Identifier: ISC */
/*
 * Destinations and paths. A destination is a domain of its own (named in `domains`, or not routed
 * yet), a provider's, named by it, or a site: all domains with the same set of best MX hosts, named
 * [LOWEST-HOST]. Two different sets may share their lowest host; the second then gets a mark from a
 * hash of the set behind its name, [LOWEST-HOST~HASH], so that what one domain puts into its MX
 * records never disturbs another's queue.
 *
 * Within a site every best host serves every domain; worse hosts serve the domain that names them.
 * Within a provider's destination a host serves the domains that have it among their best.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct dest *find(
    const struct core *core, struct str name, bool rollup, const struct domain *own)
{
	uint64_t hash = hash_bytes(core->seed, name);

	for (struct node *i = table_first(&core->dests, hash); i; i = table_next(i)) {
		struct dest *dest = OWNER(i, struct dest, node);

		if (dest->rollup == rollup && dest->own == own &&
		    str_eq(name_str(dest->name), name))
			return dest;
	}
	return NULL;
}

struct dest *dest_find_provider(const struct core *core, struct str name)
{
	return find(core, name, true, NULL);
}

struct dest *dest_find(const struct core *core, struct str name)
{
	struct dest *dest = find(core, name, true, NULL);
	const struct domain *d;

	if (!dest)
		dest = find(core, name, false, NULL);
	if (dest)
		return dest;
	d = domain_find(core, name);
	return d ? d->own : NULL;
}

struct dest *dest_get(struct core *core, struct str name, struct domain *own)
{
	struct dest *dest = find(core, name, false, own);

	if (dest)
		return dest;
	dest = xcalloc(1, sizeof(*dest));
	dest->name = name_get(core, name);
	dest->own = own;
	link_init(&dest->queues);
	link_init(&dest->paths);
	table_add(&core->dests, &dest->node, hash_bytes(core->seed, name));
	return dest;
}

struct dest *dest_provider(struct core *core, struct str name)
{
	struct dest *dest = dest_find_provider(core, name);

	if (!dest) {
		dest = xcalloc(1, sizeof(*dest));
		dest->name = name_get(core, name);
		dest->rollup = true;
		link_init(&dest->queues);
		link_init(&dest->paths);
		table_add(&core->dests, &dest->node, hash_bytes(core->seed, name));
	}
	return dest;
}

struct dest *dest_named(struct core *core, struct str name)
{
	if (name.n && name.p[0] == '[')
		return dest_get(core, name, NULL);
	if (provider_named(core, name))
		return dest_provider(core, name);
	return domain_own(core, domain_get(core, name));
}

static const struct name *lowest_best(const struct route *route)
{
	const struct name *low = route->host[0].name;

	for (uint32_t i = 1; i < route->best_count; i++) {
		const struct name *n = route->host[i].name;
		size_t common = n->n < low->n ? n->n : low->n;
		int order = memcmp(n->p, low->p, common);

		if (order < 0 || (order == 0 && n->n < low->n))
			low = n;
	}
	return low;
}

static struct dest *site_of(struct core *core, const struct route *route)
{
	struct str low = name_str(lowest_best(route));
	char name[300];
	int n = snprintf(name, sizeof(name), "[%.*s]", STR_ARG(low));
	struct dest *dest = dest_get(core, (struct str){name, (size_t)n}, NULL);

	if (dest->best_hash && dest->best_hash != route->best_hash) {
		n = snprintf(name, sizeof(name), "[%.*s~%06x]", STR_ARG(low),
		    (unsigned)(route->best_hash & 0xffffff));
		dest = dest_get(core, (struct str){name, (size_t)n}, NULL);
	}
	dest->best_hash = route->best_hash;
	return dest;
}

struct dest *dest_for_route(
    struct core *core, const struct route *route, struct name *provider, const struct dest *from)
{
	struct dest *dest =
	    provider ? dest_provider(core, name_str(provider)) : site_of(core, route);

	/* use_route() holds `from` once more: without other domains there is nothing to differ
	 * from. */
	if (dest->domains <= (dest == from ? 2u : 0u))
		dest->mixed = false;
	else if (dest->list_hash != route->list_hash)
		dest->mixed = true;
	dest->list_hash = route->list_hash;
	return dest;
}

struct path *dest_path_find(const struct dest *dest, const struct name *source)
{
	for (struct link *l = dest->paths.next; l != &dest->paths; l = l->next) {
		struct path *p = OWNER(l, struct path, in_dest);

		if (p->source == source)
			return p;
	}
	return NULL;
}

/* One more or the first use; conn_free() and dest_drop() end it. */
struct path *dest_path(struct core *core, struct dest *dest, struct str source)
{
	struct name *name = name_get(core, source);
	struct path *p = dest_path_find(dest, name);

	if (p) {
		name_drop(core, name);
		return p;
	}
	p = xcalloc(1, sizeof(*p));
	p->source = name;
	link_append(&dest->paths, &p->in_dest);
	limit_path(core, dest, p);
	warmup_path(core, dest, p);
	return p;
}

void dest_path_drop(struct core *core, struct path *p)
{
	if (p->conns.used || p->blocked_ms > core->now)
		return;
	link_remove(&p->in_dest);
	name_drop(core, p->source);
	budget_close(core, &p->own);
	if (p->warm)
		p->warm->paths--;
	free(p);
}

void dest_drop(struct core *core, struct dest *dest)
{
	struct domain *own = dest->own;
	struct link *next;

	if (dest->domains || !link_alone(&dest->queues))
		return;
	for (struct link *l = dest->paths.next; l != &dest->paths; l = next) {
		struct path *p = OWNER(l, struct path, in_dest);

		next = l->next;
		p->blocked_ms = 0;
		dest_path_drop(core, p);
	}
	table_remove(&core->dests, &dest->node);
	name_drop(core, dest->name);
	free(dest);
	if (own) {
		own->own = NULL;
		domain_idle(core, own);
	}
}

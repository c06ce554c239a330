/* SPDX-License-Identifier: ISC */
/*
 * Virtual MTAs, with their sources, and pools of them.
 *
 * A pool is a name that mail may be given to: one of its members is drawn by weight among those
 * that can send now, that is, are not paused and have a source that is usable at the destination.
 * The draw is remembered with the lane, so that the mail stays with its member while that can send,
 * also over a restart, and is drawn anew when it cannot. If none can, mail is drawn as if all
 * could, and waits.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

struct member {
	struct vmta *vmta;
	uint32_t weight;
};
struct pool {
	struct node node;
	struct name *name;
	const struct conf_node *conf;
	struct member *members; /* owned */
	size_t count;
};

/* ---- virtual MTAs ---- */

struct vmta *vmta_find(const struct core *core, struct str name)
{
	uint64_t hash = hash_bytes(core->seed, name);

	for (struct node *i = table_first(&core->vmtas, hash); i; i = table_next(i))
		if (str_eq(name_str(OWNER(i, struct vmta, node)->name), name))
			return OWNER(i, struct vmta, node);
	return NULL;
}

static void forget_sources(struct core *core, struct vmta *v)
{
	for (size_t i = 0; i < v->source_count; i++) {
		name_drop(core, v->sources[i].address);
		name_drop(core, v->sources[i].ehlo);
	}
	free(v->sources);
	v->sources = NULL;
	v->source_count = v->turn = 0;
}

static void read_sources(struct core *core, struct vmta *v)
{
	const struct conf_node *n = NULL;

	while ((n = conf_next(v->conf, CONF_SOURCE, n))) {
		const char *address = conf_text(n, CO_SOURCE_address);
		const char *ehlo = conf_text(n, CO_SOURCE_host_name);
		struct source *s;

		v->sources = xrealloc(v->sources, (v->source_count + 1) * sizeof(*v->sources));
		s = &v->sources[v->source_count++];
		s->address = name_get(core, str_of(address));
		s->ehlo = *ehlo ? name_get(core, str_of(ehlo)) : name_keep(core->host_name);
		s->family = strchr(address, ':') ? 6 : 4;
	}
}

static struct vmta *vmta_new(struct core *core, struct str name)
{
	struct vmta *v = xcalloc(1, sizeof(*v));

	v->name = name_get(core, name);
	table_add(&core->vmtas, &v->node, hash_bytes(core->seed, name));
	if (v->name == core->default_vmta && !core->default_at)
		core->default_at = v;
	return v;
}

static struct vmta *find_default(const struct core *core)
{
	struct str name = name_str(core->default_vmta);
	const struct pool *pool = pool_find(core, name);

	return pool && pool->count ? pool->members[0].vmta : vmta_find(core, name);
}

struct vmta *vmta_default(const struct core *core)
{
	return core->default_at;
}

struct vmta *vmta_get(struct core *core, struct str name)
{
	struct vmta *v = name.n ? vmta_find(core, name) : vmta_default(core);

	return v ? v : vmta_new(core, name.n ? name : name_str(core->default_vmta));
}

void vmta_drop(struct core *core, struct vmta *v)
{
	if (v->queues || v->conf)
		return;
	if (core->default_at == v)
		core->default_at = NULL;
	forget_sources(core, v);
	table_remove(&core->vmtas, &v->node);
	name_drop(core, v->name);
	free(v);
}

struct vmta *vmta_acting(const struct core *core, struct vmta *v)
{
	struct vmta *d = v->conf ? v : vmta_default(core);

	return d ? d : v;
}

struct str core_default_vmta(const struct core *core)
{
	return name_str(core->default_vmta);
}

static const char *default_vmta_name(const struct conf_node *root)
{
	const struct conf_node *first = conf_next(root, CONF_VMTA, NULL);
	const char *name = conf_text(root, CO_GLOBAL_default_virtual_mta);

	if (*name)
		return name;
	return first ? conf_text(first, CO_VMTA_name) : "default";
}

/* ---- pools ---- */

struct pool *pool_find(const struct core *core, struct str name)
{
	uint64_t hash;

	if (core->pools.count == 0)
		return NULL;
	hash = hash_bytes(core->seed, name);
	for (struct node *i = table_first(&core->pools, hash); i; i = table_next(i))
		if (str_eq(name_str(OWNER(i, struct pool, node)->name), name))
			return OWNER(i, struct pool, node);
	return NULL;
}

struct name *pool_name(const struct pool *pool)
{
	return pool->name;
}

const struct conf_node *pool_conf(const struct pool *pool)
{
	return pool->conf;
}

bool pool_has(const struct pool *pool, const struct vmta *v)
{
	for (size_t i = 0; i < pool->count; i++)
		if (pool->members[i].vmta == v)
			return true;
	return false;
}

bool pool_can_send(const struct core *core, const struct vmta *v, const struct dest *dest)
{
	const struct queue *q = dest ? queue_at(core, dest, v) : NULL;

	if (!v->conf || hold_vmta(core, v))
		return false;
	for (size_t i = 0; i < v->source_count; i++)
		if (!source_disabled(core, q, v->sources[i].address))
			return true;
	return v->source_count == 0;
}

static bool among(struct vmta *const *seen, size_t n, const struct vmta *v)
{
	for (size_t i = 0; i < n; i++)
		if (seen[i] == v)
			return true;
	return false;
}

/* By weight among those that are left; `any`: whether they can send or not. */
static struct vmta *draw(struct core *core, const struct pool *pool, const struct dest *dest,
    struct vmta *const * not, size_t not_count, bool any)
{
	struct vmta *found = NULL;
	uint64_t sum = 0;

	for (size_t i = 0; i < pool->count; i++) {
		const struct member *m = &pool->members[i];

		if (m->weight == 0 || among(not, not_count, m->vmta) ||
		    !(any || pool_can_send(core, m->vmta, dest)))
			continue;
		sum += m->weight;
		if (core_random(core) % sum < m->weight)
			found = m->vmta;
	}
	return found;
}

struct vmta *pool_draw(struct core *core, const struct pool *pool, const struct dest *dest,
    struct vmta *const * not, size_t not_count)
{
	struct vmta *v = draw(core, pool, dest, not, not_count, false);

	return v ? v : draw(core, pool, dest, not, not_count, true);
}

struct vmta *pool_redraw(
    struct core *core, const struct pool *pool, const struct dest *dest, struct vmta *v)
{
	return draw(core, pool, dest, &v, 1, false);
}

static void learn_pool(struct core *core, const struct conf_node *n)
{
	struct pool *pool = xcalloc(1, sizeof(*pool));
	const struct conf_node *m = NULL;
	bool sections = conf_next(n, CONF_DOMAIN, NULL) || conf_next(n, CONF_PROVIDER, NULL);

	pool->name = name_get(core, str_of(conf_text(n, CO_POOL_name)));
	pool->conf = n;
	table_add(&core->pools, &pool->node, hash_bytes(core->seed, name_str(pool->name)));
	while ((m = conf_next(n, CONF_MEMBER, m))) {
		struct vmta *v = vmta_find(core, str_of(conf_text(m, CO_MEMBER_virtual_mta)));

		if (!v || !v->conf)
			continue;
		pool->members = xrealloc(pool->members, (pool->count + 1) * sizeof(struct member));
		pool->members[pool->count++] =
		    (struct member){v, (uint32_t)conf_num(m, CO_MEMBER_weight)};
		if (sections && !v->pool)
			v->pool = n;
	}
	value_learn(core, n);
}

void pool_configure(struct core *core, const struct conf_node *root)
{
	const struct conf_node *n = NULL;

	core->default_vmta = name_get(core, str_of(default_vmta_name(root)));
	while ((n = conf_next(root, CONF_VMTA, n))) {
		struct vmta *v = vmta_get(core, str_of(conf_text(n, CO_VMTA_name)));

		v->conf = n;
		read_sources(core, v);
		value_learn(core, n);
	}
	while ((n = conf_next(root, CONF_POOL, n)))
		learn_pool(core, n);
	core->default_at = find_default(core);
}

void pool_forget(struct core *core)
{
	struct node **all = table_list(&core->vmtas), *n;

	for (size_t i = 0; all[i]; i++) {
		struct vmta *v = OWNER(all[i], struct vmta, node);

		forget_sources(core, v);
		v->conf = v->pool = NULL;
		vmta_drop(core, v);
	}
	free(all);
	while ((n = table_any(&core->pools))) {
		struct pool *pool = OWNER(n, struct pool, node);

		table_remove(&core->pools, n);
		name_drop(core, pool->name);
		free(pool->members);
		free(pool);
	}
}

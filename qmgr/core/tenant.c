/* SPDX-License-Identifier: ISC */
/*
 * Tenants and campaigns as wholes: what one of them has in all queues, found without looking at
 * anybody else's. A tenant links its shares (one a queue) and its lanes, a campaign its lanes, and
 * both count their jobs by state, so that pausing, counting and listing cost what is their own.
 *
 * They are made with their first lane and freed with their last one. The mail without a tenant is
 * the tenant "", mail without a campaign its tenant's campaign "".
 *
 * A tenant has at most CORE_CAMPAIGNS campaigns with lanes of their own: whoever numbers his
 * mailings gets no lane for each of a million of them. Further ones share the lane of campaign "";
 * their name stays in the envelope.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

/* ---- numbers: places in an array, so that a listing can go on where it was ---- */

static uint32_t number_take(
    void ***at, uint32_t *count, uint32_t **free_at, uint32_t *frees, void *what)
{
	uint32_t i;

	if (*frees) {
		i = (*free_at)[--*frees];
	} else {
		i = ++*count;
		if ((i & (i - 1)) == 0) {
			*at = xrealloc(*at, 2 * i * sizeof(void *));
			*free_at = xrealloc(*free_at, 2 * i * sizeof(uint32_t));
		}
	}
	(*at)[i] = what;
	return i;
}

static void number_give(void **at, uint32_t *free_at, uint32_t *frees, uint32_t i)
{
	at[i] = NULL;
	free_at[(*frees)++] = i;
}

/* ---- tenants ---- */

static struct tenant *find(const struct core *core, const struct name *name)
{
	uint64_t hash = hash_mix(core->seed, (uintptr_t)name);

	for (struct node *i = table_first(&core->tenants, hash); i; i = table_next(i))
		if (OWNER(i, struct tenant, node)->name == name)
			return OWNER(i, struct tenant, node);
	return NULL;
}

struct tenant *tenant_find(const struct core *core, struct str text)
{
	const struct name *name = name_find(core, text);

	return name ? find(core, name) : NULL;
}

struct tenant *tenant_get(struct core *core, struct name *name)
{
	struct tenant *t = find(core, name);

	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->name = name_keep(name);
	t->weight = 1;
	link_init(&t->shares);
	link_init(&t->lanes);
	link_init(&t->all);
	t->number = number_take((void ***)(void *)&core->tenant_at, &core->tenant_count,
	    &core->tenant_free, &core->tenant_frees, t);
	table_add(&core->tenants, &t->node, hash_mix(core->seed, (uintptr_t)name));
	return t;
}

void tenant_drop(struct core *core, struct tenant *t)
{
	if (!link_alone(&t->shares) || !link_alone(&t->all))
		return;
	table_remove(&core->tenants, &t->node);
	number_give(
	    (void **)(void *)core->tenant_at, core->tenant_free, &core->tenant_frees, t->number);
	name_drop(core, t->name);
	free(t);
}

/* ---- campaigns ---- */

static uint64_t campaign_hash(const struct tenant *t, const struct name *name)
{
	return hash_mix((uintptr_t)t, (uintptr_t)name);
}

struct campaign *campaign_find(
    const struct core *core, const struct tenant *t, const struct name *name)
{
	uint64_t hash = campaign_hash(t, name);

	for (struct node *i = table_first(&core->campaigns, hash); i; i = table_next(i)) {
		struct campaign *c = OWNER(i, struct campaign, node);

		if (c->tenant == t && c->name == name)
			return c;
	}
	return NULL;
}

struct campaign *campaign_get(struct core *core, struct tenant *t, struct name *name)
{
	struct campaign *c = campaign_find(core, t, name);

	if (c)
		return c;
	if (name->n && t->campaigns >= CORE_CAMPAIGNS)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->tenant = t;
	c->name = name_keep(name);
	c->weight = 1;
	t->campaigns += name->n != 0;
	link_init(&c->lanes);
	link_append(&t->all, &c->in_tenant);
	c->number = number_take((void ***)(void *)&core->campaign_at, &core->campaign_count,
	    &core->campaign_free, &core->campaign_frees, c);
	table_add(&core->campaigns, &c->node, campaign_hash(t, name));
	return c;
}

void campaign_drop(struct core *core, struct campaign *c)
{
	if (!link_alone(&c->lanes))
		return;
	table_remove(&core->campaigns, &c->node);
	number_give((void **)(void *)core->campaign_at, core->campaign_free, &core->campaign_frees,
	    c->number);
	link_remove(&c->in_tenant);
	c->tenant->campaigns -= c->name->n != 0;
	name_drop(core, c->name);
	free(c);
}

/* ---- counting ---- */

static void count(struct counts *tally, enum tally_event event)
{
	tally->delivered += event == TALLY_DELIVERED;
	tally->deferred += event == TALLY_DEFERRED;
	tally->bounced += event == TALLY_BOUNCED;
}

void tenant_tally(struct lane *lane, enum tally_event event)
{
	count(&lane->of->tally, event);
	count(&lane->of->tenant->tally, event);
}

void tenant_fini(struct core *core)
{
	free(core->tenant_at);
	free(core->tenant_free);
	free(core->campaign_at);
	free(core->campaign_free);
}

/* SPDX-License-Identifier: ISC */
/*
 * Limits that rules set for tenants and campaigns, and what is left of their suspensions: parties.
 *
 * A *party* is a tenant or campaign at a destination, with what is set there for a time, over all
 * virtual MTAs. It has one budget that carries, of each kind, the strictest that lives (see
 * party_bound.c); it only ever comes on top of what is configured, so that it cannot raise a limit.
 * The budget hangs on all shares or lanes that are its own, also on those that come later.
 *
 * A party lives while something is set (party_set.c) or it recovers (party_recover.c); each change
 * ends in party_apply(), which frees one of which nothing is left. Its one timer stands at the next
 * end of any of these.
 *
 * Each party is a state of its own (party_state.c), so a crash leaves steps and times as they were.
 */
#include "qmgr/core/party.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- parties ---- */

static uint64_t party_hash(
    const struct name *tenant, const struct name *campaign, const struct name *at)
{
	return hash_mix(hash_mix((uintptr_t)tenant, (uintptr_t)campaign), (uintptr_t)at);
}

static uint64_t key_hash(const struct core *core, const struct name *key)
{
	return hash_mix(core->seed, (uintptr_t)key);
}

struct party *party_find(const struct core *core, const struct name *tenant,
    const struct name *campaign, const struct name *at)
{
	uint64_t hash = party_hash(tenant, campaign, at);

	for (struct node *i = table_first(&core->parties, hash); i; i = table_next(i)) {
		struct party *p = OWNER(i, struct party, node);

		if (p->tenant == tenant && p->campaign == campaign && p->at == at)
			return p;
	}
	return NULL;
}

/* "tenant acme at google", "campaign acme/news at google". */
static struct str state_name(
    char out[PARTY_KEY_MAX], struct str tenant, struct str campaign, struct str at)
{
	char name[PARTY_NAME_MAX];
	struct str of = party_budget_name(name, tenant, campaign, at);
	const char *kind = campaign.n ? "campaign" : "tenant";
	int n = snprintf(out, PARTY_KEY_MAX, "%s %.*s", kind, STR_ARG(of));

	if (n < 0 || n >= PARTY_KEY_MAX)
		n = snprintf(out, PARTY_KEY_MAX, "%s #%016llx%016llx", kind,
		    (unsigned long long)hash_bytes(PARTY_MARK, of),
		    (unsigned long long)hash_bytes(PARTY_MARK + 1, of));
	return (struct str){out, (size_t)n};
}

void party_changed(struct core *core, const struct party *p)
{
	state_changed(core, STR("party"), name_str(p->key));
}

/* A share of it there: its destination's values serve for steps. NULL: it has no mail there. */
struct share *party_home(const struct core *core, const struct party *p)
{
	const struct tenant *t = tenant_find(core, name_str(p->tenant));

	for (struct link *l = t ? t->shares.next : NULL; l && l != &t->shares; l = l->next)
		if (OWNER(l, struct share, in_tenant)->queue->dest->name == p->at)
			return OWNER(l, struct share, in_tenant);
	return NULL;
}

static void put_budget(struct core *core, struct budget **slot, struct budget *b)
{
	if (b)
		budget_keep(b);
	budget_close(core, slot);
	*slot = b;
}

static void put_lanes(struct core *core, const struct party *p, struct share *s, struct budget *b)
{
	for (struct link *l = s->lanes.next; l != &s->lanes; l = l->next) {
		struct lane *lane = OWNER(l, struct lane, in_owner);

		if (p->campaign && lane->campaign == p->campaign)
			put_budget(core, &lane->at, b);
		if (!p->campaign || lane->campaign == p->campaign)
			party_let_go(core, lane);
	}
}

/* Its budget hangs on all that is its own, or (b NULL) no longer. */
static void put(struct core *core, const struct party *p, struct budget *b)
{
	const struct tenant *t = tenant_find(core, name_str(p->tenant));

	for (struct link *l = t ? t->shares.next : NULL; l && l != &t->shares; l = l->next) {
		struct share *s = OWNER(l, struct share, in_tenant);

		if (s->queue->dest->name != p->at)
			continue;
		if (!p->campaign)
			put_budget(core, &s->at[AT_PARTY], b);
		put_lanes(core, p, s, b);
		party_count_queue(core, s->queue);
	}
}

void party_new_share(struct core *core, struct share *s)
{
	struct party *p =
	    core->parties.count ? party_find(core, s->tenant, NULL, s->queue->dest->name) : NULL;

	party_hang_places(core, s);
	if (!p)
		return;
	put_budget(core, &s->at[AT_PARTY], p->budget);
	party_apply(core, p); /* its steps are of the values that hold here */
}

void party_new_lane(struct core *core, struct lane *lane)
{
	const struct share *s = lane->share;
	struct party *p = core->parties.count
			      ? party_find(core, s->tenant, lane->campaign, s->queue->dest->name)
			      : NULL;

	if (!p)
		return;
	put_budget(core, &lane->at, p->budget);
	party_apply(core, p);
}

void party_drop_share(struct core *core, struct share *s)
{
	for (int i = 0; i < SHARE_AT; i++)
		budget_close(core, &s->at[i]);
}

void party_drop_lane(struct core *core, struct lane *lane)
{
	budget_close(core, &lane->at);
}

static struct party *party_new(
    struct core *core, struct str tenant, struct str campaign, struct str at)
{
	struct party *p = xcalloc(1, sizeof(*p));
	char text[PARTY_NAME_MAX], key[PARTY_KEY_MAX];

	p->tenant = name_get(core, tenant);
	p->campaign = campaign.n ? name_get(core, campaign) : NULL;
	p->at = name_get(core, at);
	p->key = name_get(core, state_name(key, tenant, campaign, at));
	p->whole = name_get(core, party_budget_name(text, tenant, campaign, STR("")));
	p->timer.kind = TIMER_PARTY;
	p->budget =
	    budget_open(core, SCOPE_PARTY, party_budget_name(text, tenant, campaign, at), NULL);
	table_add(&core->parties, &p->node, party_hash(p->tenant, p->campaign, p->at));
	table_add(&core->party_keys, &p->by_key, key_hash(core, p->key));
	link_append(&core->all_parties, &p->in_all);
	put(core, p, p->budget);
	return p;
}

struct party *party_get(struct core *core, struct str tenant, struct str campaign, struct str at)
{
	const struct name *t = name_find(core, tenant), *a = name_find(core, at);
	const struct name *c = campaign.n ? name_find(core, campaign) : NULL;
	struct party *p = t && a && (c || !campaign.n) ? party_find(core, t, c, a) : NULL;

	if (!p && core->parties.count < PARTY_MOST)
		p = party_new(core, tenant, campaign, at);
	return p;
}

void party_free(struct core *core, struct party *p)
{
	put(core, p, NULL);
	wheel_cancel(core->wheel, &p->timer.node);
	table_remove(&core->parties, &p->node);
	table_remove(&core->party_keys, &p->by_key);
	link_remove(&p->in_all);
	while (p->set_count)
		party_setting_drop(p, 0);
	budget_release(core, p->budget);
	name_drop(core, p->tenant);
	name_drop(core, p->campaign);
	name_drop(core, p->at);
	name_drop(core, p->key);
	name_drop(core, p->whole);
	free(p->set);
	free(p->rule);
	free(p->text);
	free(p);
}

void party_init(struct core *core)
{
	table_init(&core->parties);
	table_init(&core->party_keys);
	link_init(&core->all_parties);
}

void party_fini(struct core *core)
{
	while (!link_alone(&core->all_parties))
		party_free(core, OWNER(core->all_parties.next, struct party, in_all));
	table_fini(&core->parties);
	table_fini(&core->party_keys);
}

struct party *party_find_key(const struct core *core, struct str key)
{
	const struct name *name = name_find(core, key);
	struct node *i = name ? table_first(&core->party_keys, key_hash(core, name)) : NULL;

	for (; i; i = table_next(i))
		if (OWNER(i, struct party, by_key)->key == name)
			return OWNER(i, struct party, by_key);
	return NULL;
}

void party_say(struct core *core, const struct party *p, const char *text, struct str rule)
{
	event_push(core, &(struct core_event){.kind = EVENT_RELEASE,
			     .scope = name_str(p->key),
			     .text = str_of(text),
			     .rule = rule});
}

void party_timer(struct core *core, struct timer *t)
{
	struct party *p = OWNER(t, struct party, timer);

	for (uint32_t i = p->set_count; i-- > 0;)
		if (p->set[i].until_ms && p->set[i].until_ms <= core->now)
			party_setting_step(core, p, i);
	if (p->recovering && p->until_ms <= core->now) {
		if (p->step)
			party_next_step(core, p);
		else if (party_home(core, p))
			p->until_ms = core->now + PARTY_PROBE_LINGER;
		else
			p->recovering = false;
	}
	party_changed(core, p);
	party_apply(core, p);
}

/* ---- a look ---- */

/* TENANT or TENANT/CAMPAIGN. */
struct str party_view_name(const struct party *p)
{
	return p->campaign ? name_str(p->whole) : name_str(p->tenant);
}

/* The setting that makes a limit what it is may be any: the last one is named, with its rule. */
void party_why(const struct core *core, const struct budget *b, struct core_why *why)
{
	for (struct link *l = core->all_parties.next; l != &core->all_parties; l = l->next) {
		const struct party *p = OWNER(l, struct party, in_all);
		const struct party_setting *s = p->set_count ? &p->set[p->set_count - 1] : NULL;

		if (p->budget != b)
			continue;
		why->rule = str_of(s ? s->rule : p->rule);
		why->text = str_of(s ? s->text : p->text);
		return;
	}
}

static struct hold_view view_of(const struct party *p)
{
	return (struct hold_view){.scope = p->campaign ? CORE_CAMPAIGN : CORE_TENANT,
	    .kind = STR("set"),
	    .name = party_view_name(p),
	    .at = name_str(p->at)};
}

static struct hold_view view_of_setting(const struct party *p, const struct party_setting *s)
{
	struct hold_view v = view_of(p);

	v.what = str_of(s->what);
	v.rule = str_of(s->rule);
	v.text = s->step ? STR("its time is over: it returns in steps") : str_of(s->text);
	v.since_ms = s->since_ms;
	v.until_ms = s->until_ms;
	return v;
}

static struct hold_view view_of_recovery(const struct party *p)
{
	struct hold_view v = view_of(p);

	v.kind = STR("recovery");
	v.what = p->step ? STR("in steps") : STR("a probe");
	v.rule = str_of(p->rule);
	v.text = str_of(p->text);
	v.since_ms = p->since_ms;
	v.until_ms = p->step ? p->until_ms : 0;
	return v;
}

size_t party_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n)
{
	uint64_t skip = *from;
	size_t found = 0;

	for (struct link *l = core->all_parties.next; l != &core->all_parties && found < n;
	     l = l->next) {
		const struct party *p = OWNER(l, struct party, in_all);

		for (uint32_t i = 0; i < p->set_count + p->recovering && found < n; i++) {
			if (skip)
				skip--;
			else if (i < p->set_count)
				out[found++] = view_of_setting(p, &p->set[i]);
			else
				out[found++] = view_of_recovery(p);
		}
	}
	*from += found;
	return found;
}

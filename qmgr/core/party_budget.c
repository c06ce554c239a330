/* SPDX-License-Identifier: ISC */
/*
 * What a lane's mail must pass beside its queue's own limits: the budgets of its tenant and
 * campaign.
 *
 * Configured ones hang where they are found without a search: the tenant's on the tenant, the
 * campaign's on the campaign, those of `at` on the tenant's shares in the queues of that provider
 * or domain. One budget for all of them: its key says whose it is. A party's (party.c) hangs beside
 * them and comes on top.
 *
 * max-smtp-out of a tenant or campaign counts its transactions in flight; as its mail then goes to
 * idle connections only, that is the number of connections in use for it. A transaction counts from
 * its decision to its result in the budgets that hung there, and is counted anew when others do.
 * max-connect-rate counts connections opened because its mail was next; who opened a connection
 * does not matter to those that use it afterwards.
 *
 * Nothing here survives a crash by itself: configured budgets hang anew with the configuration,
 * their levels are level.c's.
 */
#include "qmgr/core/party.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what applies ---- */

unsigned party_budgets(const struct lane *lane, struct budget *out[LANE_BUDGETS])
{
	const struct share *s = lane->share;
	unsigned n = 0;

	if (lane->of->budget)
		out[n++] = lane->of->budget;
	if (lane->at)
		out[n++] = lane->at;
	if (s->of->budget)
		out[n++] = s->of->budget;
	for (int i = 0; i < SHARE_AT; i++)
		if (s->at[i])
			out[n++] = s->at[i];
	return n;
}

/* ---- transactions in flight ---- */

const struct lane *party_lane_of(const struct core *core, const struct tx *tx)
{
	for (uint32_t i = 0; i < tx->n; i++)
		if (tx->jobs[i])
			return core->lane_at[core_at(core, tx->jobs[i])->lane];
	return NULL;
}

void party_fly(struct core *core, struct tx *tx)
{
	const struct lane *lane = party_lane_of(core, tx);

	tx->in_count = lane ? party_budgets(lane, tx->in) : 0;
	for (uint32_t i = 0; i < tx->in_count; i++) {
		struct budget *b = budget_keep(tx->in[i]);

		b->used++;
		if (b->of[LIMIT_CONNS])
			b->of[LIMIT_CONNS]->line[LINE_SEND].woken = 0;
	}
}

static void land(struct core *core, struct budget *const *in, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		must(in[i]->used > 0);
		in[i]->used--;
		limit_used(core, in[i]);
		budget_release(core, in[i]);
	}
}

void party_land(struct core *core, struct tx *tx)
{
	uint32_t n = tx->in_count;

	tx->in_count = 0;
	land(core, tx->in, n);
}

/* Other budgets hang there now. */
static void count_anew(struct core *core, struct tx *tx)
{
	struct budget *old[LANE_BUDGETS];
	uint32_t n = tx->in_count;

	memcpy(old, tx->in, sizeof(old));
	party_fly(core, tx);
	land(core, old, n);
}

void party_count_queue(struct core *core, const struct queue *q)
{
	for (struct link *l = q->conns.next; l != &q->conns; l = l->next) {
		struct conn *c = OWNER(l, struct conn, in_queue);

		for (uint32_t i = 0; i < c->tx_count; i++)
			count_anew(core, c->tx[i]);
	}
}

/* ---- what a tenant sends ---- */

static void pace_add(struct pace *p, int64_t now, uint32_t n)
{
	uint32_t minute = (uint32_t)(now / MINUTE);

	if (p->minute != minute) {
		p->last = p->minute + 1 == minute ? p->n : 0;
		p->n = 0;
		p->minute = minute;
	}
	p->n += n;
}

void party_sent(struct core *core, struct lane *lane, uint32_t rcpts)
{
	pace_add(&lane->pace, core->now, rcpts);
	pace_add(&lane->share->pace, core->now, rcpts);
}

/* Recipients of the last sixty seconds, the minute before taken as even. */
uint64_t party_pace(struct pace *p, int64_t now)
{
	pace_add(p, now, 0);
	return p->n + (uint64_t)p->last * (uint64_t)(MINUTE - now % MINUTE) / MINUTE;
}

/* ---- budgets of the configuration ---- */

/* A lane may wait for what does not hang there any more. */
void party_let_go(struct core *core, struct lane *lane)
{
	if (!lane->wait.at)
		return;
	limit_leave(core, &lane->wait, false);
	lane_unpark(core, lane, PARK_LIMIT);
}

/* Names that no key has room for are told apart by a hash. */
struct str party_budget_name(
    char out[PARTY_NAME_MAX], struct str tenant, struct str campaign, struct str at)
{
	int n = snprintf(out, PARTY_NAME_MAX, "%.*s%s%.*s%s%.*s", STR_ARG(tenant),
	    campaign.n ? "/" : "", STR_ARG(campaign), at.n ? " at " : "", STR_ARG(at));

	if (n < 0 || n >= PARTY_NAME_MAX)
		n = snprintf(out, PARTY_NAME_MAX, "#%016llx%016llx",
		    (unsigned long long)hash_bytes(hash_bytes(PARTY_MARK, tenant), campaign),
		    (unsigned long long)hash_bytes(PARTY_MARK, at));
	return (struct str){out, (size_t)n};
}

/* True: another budget hangs there now. */
static bool hang(struct core *core, struct budget **slot, enum budget_scope scope, struct str name,
    const struct conf_node *holder)
{
	struct budget *old = *slot;

	*slot = budget_holds(holder) ? budget_open(core, scope, name, holder) : NULL;
	if (old)
		budget_release(core, old);
	return *slot != old;
}

void party_new_tenant(struct core *core, struct tenant *t)
{
	if (!hang(core, &t->budget, SCOPE_TENANT, name_str(t->name), t->conf))
		return;
	for (struct link *l = t->lanes.next; l && l != &t->lanes; l = l->next)
		party_let_go(core, OWNER(l, struct lane, in_tenant));
}

void party_new_campaign(struct core *core, struct campaign *c)
{
	char text[PARTY_NAME_MAX];
	struct str name =
	    party_budget_name(text, name_str(c->tenant->name), name_str(c->name), STR(""));

	if (!hang(core, &c->budget, SCOPE_CAMPAIGN, name, c->conf))
		return;
	for (struct link *l = c->lanes.next; l && l != &c->lanes; l = l->next)
		party_let_go(core, OWNER(l, struct lane, in_campaign));
}

static const struct conf_node *section_at(
    const struct conf_node *tenant, enum conf_opt by, struct str name)
{
	const struct conf_node *n = NULL;

	while (tenant && name.n && (n = conf_next(tenant, CONF_TENANT_AT, n)))
		if (str_eq(str_of(conf_text(n, by)), name))
			return n;
	return NULL;
}

static bool hang_at(struct core *core, struct share *s, enum share_at at, enum conf_opt by,
    const struct name *place)
{
	char text[PARTY_NAME_MAX];
	const struct conf_node *n = section_at(s->of->conf, by, name_str(place));

	if (!n && !s->at[at])
		return false;
	return hang(core, &s->at[at], SCOPE_TENANT_AT,
	    party_budget_name(text, name_str(s->tenant), STR(""), name_str(place)), n);
}

bool party_hang_places(struct core *core, struct share *s)
{
	const struct queue *q = s->queue;
	bool changed = hang_at(core, s, AT_PROVIDER, CO_TENANT_AT_provider, q->provider);

	changed |= hang_at(
	    core, s, AT_DOMAIN, CO_TENANT_AT_domain, q->dest->own ? q->dest->own->name : NULL);
	for (struct link *l = s->lanes.next; changed && l != &s->lanes; l = l->next)
		party_let_go(core, OWNER(l, struct lane, in_owner));
	return changed;
}

void party_provider(struct core *core, struct queue *q)
{
	bool changed = false;

	for (struct link *l = q->shares.next; l && l != &q->shares; l = l->next)
		changed |= party_hang_places(core, OWNER(l, struct share, in_queue));
	if (changed)
		party_count_queue(core, q);
}

void party_configure(struct core *core)
{
	struct node **all;

	for (uint32_t i = 1; i <= core->tenant_slots.count; i++) {
		struct tenant *t = core->tenant_slots.at[i];

		if (!t)
			continue;
		party_new_tenant(core, t);
		for (struct link *l = t->shares.next; l != &t->shares; l = l->next)
			party_hang_places(core, OWNER(l, struct share, in_tenant));
	}
	for (uint32_t i = 1; i <= core->campaign_slots.count; i++)
		if (core->campaign_slots.at[i])
			party_new_campaign(core, core->campaign_slots.at[i]);
	all = table_list(&core->txs);
	for (size_t i = 0; all[i]; i++)
		count_anew(core, OWNER(all[i], struct tx, node));
	free(all);
}

/* ---- connections ---- */

struct limiter *party_refuses_open(const struct core *core, const struct lane *lane, int64_t *when)
{
	struct budget *of[LANE_BUDGETS];
	struct limiter *worst = NULL;

	for (unsigned n = party_budgets(lane, of); n--;) {
		struct limiter *l = of[n]->of[LIMIT_CONNECTS];
		int64_t at = l ? limiter_frees_ms(core, l, LINE_OPEN) : 0;

		if (!l || at <= core->now || (worst && at <= *when))
			continue;
		worst = l;
		*when = at;
	}
	return worst;
}

void party_opened(struct core *core, const struct lane *lane)
{
	struct budget *of[LANE_BUDGETS];

	for (unsigned n = party_budgets(lane, of); n--;) {
		struct limiter *l = of[n]->of[LIMIT_CONNECTS];

		if (!l)
			continue;
		bucket_take(&l->bucket, 1, core->now);
		limiter_wake(core, l);
	}
}

/* SPDX-License-Identifier: ISC */
/*
 * Limits of tenants and campaigns: what a lane's mail must pass beside its queue's own.
 *
 * Configured ones hang where they are found without a search: the tenant's on the tenant, the
 * campaign's on the campaign, those of `at` on the tenant's shares in the queues of that provider
 * or domain. One budget for all of them: its key says whose it is.
 *
 * A rule's are a *party*: a tenant or campaign at a destination, with what is set there for a time,
 * over all virtual MTAs. It has one budget that carries, of each kind, the strictest that lives; it
 * only ever comes on top of what is configured, so that it cannot raise a limit. A factor is of the
 * tightest rate configured for that tenant or campaign there, else (max-msg-rate) of what it sent
 * there in the last minute, (max-smtp-out) of what it has in flight; the number is fixed when the
 * rule fires. When the time is over a limit grows with the shares of the destination's
 * backoff-recovery ("10%,25%,50%,100% every 10m": it is 2.5, 5, 10 times itself) and then goes.
 *
 * After a suspension a party recovers: a probe (one transaction; if it is deferred, the suspension
 * goes on for a retry step), then transactions at once and recipients by those same shares of what
 * the destination allows, then nothing.
 *
 * max-smtp-out of a tenant or campaign counts its transactions in flight; as its mail then goes to
 * idle connections only, that is the number of connections in use for it. A transaction counts from
 * its decision to its result in the budgets that hung there, and is counted anew when others do.
 * max-connect-rate counts connections opened because its mail was next; who opened a connection
 * does not matter to those that use it afterwards.
 *
 * Each party is a state of its own (kind "party"), so a crash leaves steps and times as they were.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PARTY_MOST = 100000,   /* all: what rules set stays bounded, whatever remotes answer */
	PARTY_SETTINGS = 16,   /* of one: what is more replaces the one that ends first */
	PARTY_TEXT_MAX = 1000, /* bytes of a rule or text kept */
	PARTY_KEY_MAX = 240,   /* of a state's name: longer ones are told by their hash */
	PARTY_NAME_MAX = 600,  /* of a budget's: tenant, campaign and destination */
};
#define PARTY_PROBE_LINGER DAY /* without mail to probe with: then nothing is left to protect */
#define PARTY_MARK UINT64_C(0x7061727479) /* the same after a restart, unlike core->seed */

struct party_setting {
	enum limit_kind kind;
	struct rate rate; /* of the others: */
	uint32_t max;	  /* of LIMIT_CONNS */
	uint32_t step;	  /* 0: it holds; else its time is over, and it grows: from 2 */
	int64_t since_ms, until_ms;
	char *what, *rule, *text; /* owned; what: NAME=VALUE as the rule has it */
};
struct party {
	struct node node, by_key;
	struct link in_all;
	struct name *key;		     /* of its state */
	struct name *whole;		     /* TENANT/CAMPAIGN */
	struct name *tenant, *campaign, *at; /* campaign NULL: the whole tenant */
	struct budget *budget;		     /* kept */
	struct party_setting *set;	     /* owned */
	uint32_t set_count;
	bool recovering;
	uint32_t step;	 /* of recovery: 0 is the probe */
	uint32_t probes; /* that were deferred, one after the other */
	uint64_t first_tx;
	int64_t since_ms, until_ms; /* of the step; of the probe, if no mail comes */
	char *rule, *text;	    /* owned; of the suspension */
	struct timer timer;
};

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

static const struct lane *lane_of(const struct core *core, const struct tx *tx)
{
	for (uint32_t i = 0; i < tx->n; i++)
		if (tx->jobs[i])
			return core->lane_at[core_at(core, tx->jobs[i])->lane];
	return NULL;
}

void party_fly(struct core *core, struct tx *tx)
{
	const struct lane *lane = lane_of(core, tx);

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

static void count_queue(struct core *core, const struct queue *q)
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
static uint64_t pace_of(struct pace *p, int64_t now)
{
	pace_add(p, now, 0);
	return p->n + (uint64_t)p->last * (uint64_t)(MINUTE - now % MINUTE) / MINUTE;
}

/* ---- budgets of the configuration ---- */

/* A lane may wait for what does not hang there any more. */
static void let_go(struct core *core, struct lane *lane)
{
	if (!lane->wait.at)
		return;
	limit_leave(core, &lane->wait, false);
	lane_unpark(core, lane, PARK_LIMIT);
}

/* Names that no key has room for are told apart by a hash. */
static struct str budget_name(
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
		let_go(core, OWNER(l, struct lane, in_tenant));
}

void party_new_campaign(struct core *core, struct campaign *c)
{
	char text[PARTY_NAME_MAX];
	struct str name = budget_name(text, name_str(c->tenant->name), name_str(c->name), STR(""));

	if (!hang(core, &c->budget, SCOPE_CAMPAIGN, name, c->conf))
		return;
	for (struct link *l = c->lanes.next; l && l != &c->lanes; l = l->next)
		let_go(core, OWNER(l, struct lane, in_campaign));
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
	    budget_name(text, name_str(s->tenant), STR(""), name_str(place)), n);
}

static bool hang_places(struct core *core, struct share *s)
{
	const struct queue *q = s->queue;
	bool changed = hang_at(core, s, AT_PROVIDER, CO_TENANT_AT_provider, q->provider);

	changed |= hang_at(
	    core, s, AT_DOMAIN, CO_TENANT_AT_domain, q->dest->own ? q->dest->own->name : NULL);
	for (struct link *l = s->lanes.next; changed && l != &s->lanes; l = l->next)
		let_go(core, OWNER(l, struct lane, in_owner));
	return changed;
}

void party_provider(struct core *core, struct queue *q)
{
	bool changed = false;

	for (struct link *l = q->shares.next; l && l != &q->shares; l = l->next)
		changed |= hang_places(core, OWNER(l, struct share, in_queue));
	if (changed)
		count_queue(core, q);
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
			hang_places(core, OWNER(l, struct share, in_tenant));
	}
	for (uint32_t i = 1; i <= core->campaign_slots.count; i++)
		if (core->campaign_slots.at[i])
			party_new_campaign(core, core->campaign_slots.at[i]);
	all = table_list(&core->txs);
	for (size_t i = 0; all[i]; i++)
		count_anew(core, OWNER(all[i], struct tx, node));
	free(all);
}

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

static struct party *find(const struct core *core, const struct name *tenant,
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
	struct str of = budget_name(name, tenant, campaign, at);
	const char *kind = campaign.n ? "campaign" : "tenant";
	int n = snprintf(out, PARTY_KEY_MAX, "%s %.*s", kind, STR_ARG(of));

	if (n < 0 || n >= PARTY_KEY_MAX)
		n = snprintf(out, PARTY_KEY_MAX, "%s #%016llx%016llx", kind,
		    (unsigned long long)hash_bytes(PARTY_MARK, of),
		    (unsigned long long)hash_bytes(PARTY_MARK + 1, of));
	return (struct str){out, (size_t)n};
}

static void changed(struct core *core, const struct party *p)
{
	state_changed(core, STR("party"), name_str(p->key));
}

/* A share of it there: its destination's values serve for steps. NULL: it has no mail there. */
static struct share *home(const struct core *core, const struct party *p)
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
			let_go(core, lane);
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
		count_queue(core, s->queue);
	}
}

static void apply(struct core *core, struct party *p);

void party_new_share(struct core *core, struct share *s)
{
	struct party *p =
	    core->parties.count ? find(core, s->tenant, NULL, s->queue->dest->name) : NULL;

	hang_places(core, s);
	if (!p)
		return;
	put_budget(core, &s->at[AT_PARTY], p->budget);
	apply(core, p); /* its steps are of the values that hold here */
}

void party_new_lane(struct core *core, struct lane *lane)
{
	const struct share *s = lane->share;
	struct party *p = core->parties.count
			      ? find(core, s->tenant, lane->campaign, s->queue->dest->name)
			      : NULL;

	if (!p)
		return;
	put_budget(core, &lane->at, p->budget);
	apply(core, p);
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
	p->whole = name_get(core, budget_name(text, tenant, campaign, STR("")));
	p->timer.kind = TIMER_PARTY;
	p->budget = budget_open(core, SCOPE_PARTY, budget_name(text, tenant, campaign, at), NULL);
	table_add(&core->parties, &p->node, party_hash(p->tenant, p->campaign, p->at));
	table_add(&core->party_keys, &p->by_key, key_hash(core, p->key));
	link_append(&core->all_parties, &p->in_all);
	put(core, p, p->budget);
	return p;
}

static struct party *party_get(
    struct core *core, struct str tenant, struct str campaign, struct str at)
{
	const struct name *t = name_find(core, tenant), *a = name_find(core, at);
	const struct name *c = campaign.n ? name_find(core, campaign) : NULL;
	struct party *p = t && a && (c || !campaign.n) ? find(core, t, c, a) : NULL;

	if (!p && core->parties.count < PARTY_MOST)
		p = party_new(core, tenant, campaign, at);
	return p;
}

static void setting_fini(struct party_setting *s)
{
	free(s->what);
	free(s->rule);
	free(s->text);
}

static void drop_setting(struct party *p, uint32_t i)
{
	setting_fini(&p->set[i]);
	p->set[i] = p->set[--p->set_count];
}

static void party_free(struct core *core, struct party *p)
{
	put(core, p, NULL);
	wheel_cancel(core->wheel, &p->timer.node);
	table_remove(&core->parties, &p->node);
	table_remove(&core->party_keys, &p->by_key);
	link_remove(&p->in_all);
	while (p->set_count)
		drop_setting(p, 0);
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

/* ---- what its budget says ---- */

static const struct conf_value *steps_of(const struct share *s)
{
	const struct conf_value *r = s ? s->queue->v.recovery : NULL;

	return r && r->count && r->num > 0 ? r : NULL;
}

static struct rate rate_times(const struct rate *r, int64_t num, int64_t den)
{
	struct rate to = *r;

	to.per_ms = r->per_ms * den / num;
	to.per_ms = to.per_ms > 0 ? to.per_ms : 1;
	to.burst = (r->burst * (uint64_t)num + (uint64_t)den - 1) / (uint64_t)den;
	return to;
}

struct bounds { /* max 0, n 0: none */
	uint32_t max;
	struct rate rate[LIMIT_KINDS];
};

static void bound_conns(struct bounds *b, uint64_t max)
{
	max = max ? max : 1;
	max = max < UINT32_MAX ? max : UINT32_MAX;
	if (b->max == 0 || max < b->max)
		b->max = (uint32_t)max;
}

static void bound_rate(struct bounds *b, enum limit_kind kind, const struct rate *r)
{
	if (r->n && (b->rate[kind].n == 0 || rate_slower(r, &b->rate[kind])))
		b->rate[kind] = *r;
}

static void bound_by(
    struct bounds *b, const struct party_setting *s, const struct conf_value *steps)
{
	int64_t num = 1, den = 1;
	struct rate r;

	if (s->step && steps) {
		size_t at = s->step <= steps->count ? s->step : steps->count;

		num = steps->nums[at - 1];
		den = steps->nums[0];
	}
	r = rate_times(&s->rate, num, den);
	if (s->kind == LIMIT_CONNS)
		bound_conns(b, (uint64_t)s->max * (uint64_t)num / (uint64_t)den);
	else
		bound_rate(b, s->kind, &r);
}

/* The tightest that is configured for it there. */
static struct rate configured_rate(
    const struct party *p, const struct share *s, enum limit_kind kind)
{
	struct rate tightest = {0, 0, 0};
	const struct budget *of[SHARE_AT + 2] = {NULL};
	size_t n = 0;

	if (!s)
		return tightest;
	of[n++] = s->of->budget;
	of[n++] = s->at[AT_PROVIDER];
	of[n++] = s->at[AT_DOMAIN];
	for (struct link *l = s->lanes.next; p->campaign && l != &s->lanes; l = l->next)
		if (OWNER(l, struct lane, in_owner)->campaign == p->campaign)
			of[n] = OWNER(l, struct lane, in_owner)->of->budget;
	for (size_t i = 0; i < COUNT_OF(of); i++) {
		const struct limiter *l = of[i] ? of[i]->of[kind] : NULL;

		if (l && (tightest.n == 0 || rate_slower(&l->bucket.rate, &tightest)))
			tightest = l->bucket.rate;
	}
	return tightest;
}

static void bound_recovery(struct bounds *b, const struct party *p, const struct share *s)
{
	const struct conf_value *steps = steps_of(s);
	struct rate r;
	int64_t part;

	if (!steps)
		return;
	if (p->step == 0) {
		bound_conns(b, 1);
		return;
	}
	part = steps->nums[(p->step <= steps->count ? p->step : steps->count) - 1];
	bound_conns(b, (uint64_t)s->queue->v.max_smtp_out * (uint64_t)part / 100);
	r = configured_rate(p, s, LIMIT_MSGS);
	if (r.n == 0)
		r = s->queue->v.msg;
	if (r.n)
		r = rate_times(&r, part, 100);
	bound_rate(b, LIMIT_MSGS, &r);
}

static int64_t next_ms(const struct party *p)
{
	int64_t at = p->recovering ? p->until_ms : NEVER;

	for (uint32_t i = 0; i < p->set_count; i++)
		if (p->set[i].until_ms && p->set[i].until_ms < at)
			at = p->set[i].until_ms;
	return at;
}

/* After any change; it goes when nothing is left of it. */
static void apply(struct core *core, struct party *p)
{
	const struct share *s = home(core, p);
	struct bounds b = {0};
	int64_t at;

	for (uint32_t i = 0; i < p->set_count; i++)
		bound_by(&b, &p->set[i], steps_of(s));
	if (p->recovering)
		bound_recovery(&b, p, s);
	budget_conns(core, p->budget, b.max, NULL);
	for (int kind = LIMIT_CONNECTS; kind < LIMIT_KINDS; kind++)
		if (kind != LIMIT_RAMPUP)
			budget_rate(core, p->budget, (enum limit_kind)kind, &b.rate[kind], NULL);
	if (!p->recovering && p->set_count == 0) {
		party_free(core, p);
		return;
	}
	at = next_ms(p);
	wheel_cancel(core->wheel, &p->timer.node);
	if (at != NEVER)
		wheel_add(core->wheel, &p->timer.node, at);
}

static void say(struct core *core, const struct party *p, const char *text, struct str rule)
{
	event_push(core, &(struct core_event){.kind = EVENT_RELEASE,
			     .scope = name_str(p->key),
			     .text = str_of(text),
			     .rule = rule});
}

/* ---- what rules set ---- */

static bool kind_of(struct str option, enum limit_kind *kind, enum conf_opt *opt)
{
	static const struct {
		enum conf_opt opt;
		enum limit_kind kind;
	} known[] = {{CO_DOMAIN_max_smtp_out, LIMIT_CONNS},
	    {CO_DOMAIN_max_connect_rate, LIMIT_CONNECTS}, {CO_DOMAIN_max_msg_rate, LIMIT_MSGS},
	    {CO_DOMAIN_max_data_volume_rate, LIMIT_BYTES}};

	for (size_t i = 0; i < COUNT_OF(known); i++)
		if (str_eq(str_of(conf_opt_key(known[i].opt)), option)) {
			*kind = known[i].kind;
			*opt = known[i].opt;
			return true;
		}
	return false;
}

static uint32_t in_flight(const struct core *core, const struct party *p, const struct share *s)
{
	uint32_t n = 0;

	for (struct link *l = s->queue->conns.next; l != &s->queue->conns; l = l->next) {
		const struct conn *c = OWNER(l, struct conn, in_queue);

		for (uint32_t i = 0; i < c->tx_count; i++) {
			const struct lane *lane = lane_of(core, c->tx[i]);

			n += lane && lane->share == s &&
			     (!p->campaign || lane->campaign == p->campaign);
		}
	}
	return n;
}

/* What it sends there now, over all virtual MTAs. */
static void measure(const struct core *core, const struct party *p, uint64_t *rcpts, uint32_t *txs)
{
	const struct tenant *t = tenant_find(core, name_str(p->tenant));

	*rcpts = *txs = 0;
	for (struct link *l = t ? t->shares.next : NULL; l && l != &t->shares; l = l->next) {
		struct share *s = OWNER(l, struct share, in_tenant);

		if (s->queue->dest->name != p->at)
			continue;
		*txs += in_flight(core, p, s);
		if (!p->campaign)
			*rcpts += pace_of(&s->pace, core->now);
		for (struct link *k = s->lanes.next; p->campaign && k != &s->lanes; k = k->next)
			if (OWNER(k, struct lane, in_owner)->campaign == p->campaign)
				*rcpts +=
				    pace_of(&OWNER(k, struct lane, in_owner)->pace, core->now);
	}
}

static int part_of(
    const struct core *core, const struct party *p, struct party_setting *s, uint32_t permille)
{
	const struct share *at = home(core, p);
	const struct budget *of[] = {at ? at->of->budget : NULL, at ? at->at[AT_PROVIDER] : NULL,
	    at ? at->at[AT_DOMAIN] : NULL};
	uint64_t rcpts;
	uint32_t txs;

	measure(core, p, &rcpts, &txs);
	if (s->kind == LIMIT_CONNS) {
		for (size_t i = 0; i < COUNT_OF(of); i++)
			if (of[i] && of[i]->of[LIMIT_CONNS] &&
			    (s->max == 0 || of[i]->of[LIMIT_CONNS]->max < s->max))
				s->max = of[i]->of[LIMIT_CONNS]->max;
		s->max = (uint32_t)((uint64_t)(s->max ? s->max : txs) * permille / 1000);
		s->max = s->max ? s->max : 1;
		return 0;
	}
	s->rate = configured_rate(p, at, s->kind);
	if (s->rate.n == 0 && s->kind == LIMIT_MSGS)
		s->rate = (struct rate){
		    rcpts ? rcpts : 1, (rcpts + 59) / 60 ? (rcpts + 59) / 60 : 1, MINUTE};
	if (s->rate.n == 0)
		return -ENODATA;
	s->rate = rate_times(&s->rate, permille, 1000);
	return 0;
}

static int read_value(const struct core *core, const struct party *p, struct party_setting *s,
    const struct rule_action *a)
{
	struct conf_value v = {0};
	enum conf_opt opt;
	char why[200];
	int rc = 0;

	if (!kind_of(str_of(a->name), &s->kind, &opt))
		return -ENOTSUP;
	if (a->factor_permille)
		return part_of(core, p, s, a->factor_permille);
	if (conf_parse_value(opt, str_of(a->value), &v, why))
		return -ENOTSUP;
	if (s->kind == LIMIT_CONNS)
		s->max = v.num > 0 ? (uint32_t)v.num : 0;
	else
		s->rate = rate_read(&v);
	if (s->max == 0 && s->rate.n == 0) /* unlimited: nothing to be strict about */
		rc = -ENODATA;
	conf_value_fini(&v);
	return rc;
}

static struct party_setting *setting_find(const struct party *p, struct str what)
{
	for (uint32_t i = 0; i < p->set_count; i++)
		if (str_eq(str_of(p->set[i].what), what))
			return &p->set[i];
	return NULL;
}

static void setting_put(struct party *p, const struct party_setting *s)
{
	uint32_t first = 0;

	for (uint32_t i = 1; i < p->set_count; i++)
		if (p->set[i].until_ms < p->set[first].until_ms)
			first = i;
	if (p->set_count == PARTY_SETTINGS)
		drop_setting(p, first);
	p->set = xrealloc(p->set, (p->set_count + 1) * sizeof(*p->set));
	p->set[p->set_count++] = *s;
}

static struct str shorten(struct str text)
{
	text.n = text.n > PARTY_TEXT_MAX ? PARTY_TEXT_MAX : text.n;
	return text;
}

/* What lives lasts longer; what was on its way back holds again. Not every match is given out. */
static void renew(struct core *core, struct party *p, struct party_setting *s, int64_t until_ms)
{
	bool again = s->step != 0;

	if (!again && until_ms - s->until_ms < SECOND)
		return;
	s->until_ms = until_ms;
	s->step = 0;
	changed(core, p);
	apply(core, p);
}

static int set(struct core *core, struct party *p, const struct party_request *r, struct str what)
{
	struct party_setting s = {.since_ms = core->now, .until_ms = r->until_ms};
	struct party_setting *old = setting_find(p, what);
	int rc = old ? 0 : read_value(core, p, &s, r->action);

	if (old) {
		renew(core, p, old, r->until_ms);
		return 0;
	}
	if (rc == 0) {
		s.what = str_dup(what);
		s.rule = str_dup(shorten(r->why->rule));
		s.text = str_dup(shorten(r->why->text));
		setting_put(p, &s);
		changed(core, p);
	}
	apply(core, p); /* without any setting it goes */
	return rc;
}

int party_set(struct core *core, const struct party_request *r)
{
	struct party *p = party_get(core, r->tenant, r->campaign, r->at);
	const struct rule_action *a = r->action;
	struct buf what;
	int rc;

	if (!p)
		return -ENOSPC;
	buf_init(&what, PARTY_TEXT_MAX);
	if (a->factor_permille)
		buf_printf(&what, "%s=*%u.%03u", a->name, a->factor_permille / 1000,
		    a->factor_permille % 1000);
	else
		buf_printf(&what, "%s=%s", a->name, a->value ? a->value : "");
	rc = set(core, p, r, (struct str){(const char *)what.p, what.n});
	buf_fini(&what);
	return rc;
}

/* Its time is over, or that of a step of its return. True: it is gone. */
static bool setting_step(struct core *core, struct party *p, uint32_t i)
{
	struct party_setting *s = &p->set[i];
	const struct conf_value *steps = steps_of(home(core, p));
	char text[PARTY_TEXT_MAX + 40];

	s->step = s->step ? s->step + 1 : 2;
	if (steps && s->step <= steps->count) {
		s->until_ms = core->now + steps->num;
		return false;
	}
	snprintf(text, sizeof(text), "%s is over", s->what);
	say(core, p, text, str_of(s->rule));
	drop_setting(p, i);
	return true;
}

/* ---- recovery ---- */

void party_recover(struct core *core, const struct name *tenant, const struct name *campaign,
    const struct name *at, const struct why *why)
{
	struct party *p = party_get(core, name_str(tenant), name_str(campaign), name_str(at));

	if (!p)
		return;
	if (!steps_of(home(core, p))) { /* nothing is there, or it is "off" */
		apply(core, p);
		return;
	}
	p->recovering = true;
	p->step = 0;
	p->since_ms = core->now;
	p->until_ms = core->now + PARTY_PROBE_LINGER;
	p->first_tx = core->next_id;
	free(p->rule);
	free(p->text);
	p->rule = str_dup(shorten(why->rule));
	p->text = str_dup(shorten(why->text));
	changed(core, p);
	apply(core, p);
}

static void next_step(struct core *core, struct party *p)
{
	const struct conf_value *steps = steps_of(home(core, p));
	char text[100];

	p->step++;
	if (!steps || p->step > steps->count || steps->nums[p->step - 1] >= 100) {
		p->recovering = false;
		say(core, p, "recovery is over: nothing holds it back", str_of(p->rule));
	} else {
		p->until_ms = core->now + steps->num;
		snprintf(text, sizeof(text), "recovery: %lld %% of what the destination allows",
		    (long long)steps->nums[p->step - 1]);
		say(core, p, text, str_of(p->rule));
	}
	changed(core, p);
}

/* TENANT or TENANT/CAMPAIGN. */
static struct str view_name(const struct party *p)
{
	return p->campaign ? name_str(p->whole) : name_str(p->tenant);
}

/* As long as the next retry of a message of this queue would wait. */
static void suspend_again(struct core *core, struct party *p, const struct queue *q)
{
	struct str name = view_name(p);
	int64_t step = value_step(q->e.retry, q->e.retry_count, ++p->probes);
	const struct hold_request h = {.scope = p->campaign ? CORE_CAMPAIGN : CORE_TENANT,
	    .name = name,
	    .at = name_str(p->at),
	    .rule = str_of(p->rule),
	    .text = STR("the probe was deferred"),
	    .until_ms = core->now + core_jitter(core, step)};

	changed(core, p);
	if (hold_add(core, &h) != 0) /* too many are held: it goes on probing */
		p->probes--;
}

static void answer(struct core *core, struct party *p, const struct lane *lane, uint64_t tx,
    const uint32_t counts[2])
{
	if (!p || !p->recovering || p->step || tx < p->first_tx)
		return;
	if (counts[0]) {
		p->probes = 0;
		next_step(core, p);
		apply(core, p);
	} else if (counts[1] && !((lane->parked | lane->share->parked) & PARK_HOLD)) {
		suspend_again(core, p, lane->share->queue);
	}
}

void party_answer(
    struct core *core, const struct lane *lane, uint64_t tx, uint32_t delivered, uint32_t deferred)
{
	const struct share *s = lane->share;
	const struct name *at = s->queue->dest->name;
	const uint32_t counts[2] = {delivered, deferred};

	if (s->at[AT_PARTY])
		answer(core, find(core, s->tenant, NULL, at), lane, tx, counts);
	if (lane->at)
		answer(core, find(core, s->tenant, lane->campaign, at), lane, tx, counts);
}

void party_timer(struct core *core, struct timer *t)
{
	struct party *p = OWNER(t, struct party, timer);

	for (uint32_t i = p->set_count; i-- > 0;)
		if (p->set[i].until_ms && p->set[i].until_ms <= core->now)
			setting_step(core, p, i);
	if (p->recovering && p->until_ms <= core->now) {
		if (p->step)
			next_step(core, p);
		else if (home(core, p))
			p->until_ms = core->now + PARTY_PROBE_LINGER;
		else
			p->recovering = false;
	}
	changed(core, p);
	apply(core, p);
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

/* ---- a look ---- */

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
	    .name = view_name(p),
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

/* ---- over a restart ---- */

static struct party *find_key(const struct core *core, struct str key)
{
	const struct name *name = name_find(core, key);
	struct node *i = name ? table_first(&core->party_keys, key_hash(core, name)) : NULL;

	for (; i; i = table_next(i))
		if (OWNER(i, struct party, by_key)->key == name)
			return OWNER(i, struct party, by_key);
	return NULL;
}

bool party_encode(struct core *core, struct str key, struct buf *out)
{
	const struct party *p = find_key(core, key);

	if (!p)
		return false;
	buf_str16(out, name_str(p->tenant));
	buf_str16(out, name_str(p->campaign));
	buf_str16(out, name_str(p->at));
	buf_u8(out, p->recovering);
	buf_u32(out, p->step);
	buf_u32(out, p->probes);
	buf_u64(out, (uint64_t)p->since_ms);
	buf_u64(out, (uint64_t)p->until_ms);
	buf_str16(out, str_of(p->rule));
	buf_str16(out, str_of(p->text));
	for (uint32_t i = 0; i < p->set_count; i++) {
		const struct party_setting *s = &p->set[i];

		buf_u8(out, (uint8_t)s->kind);
		buf_u64(out, s->kind == LIMIT_CONNS ? s->max : s->rate.n);
		buf_u64(out, s->rate.burst);
		buf_u64(out, (uint64_t)s->rate.per_ms);
		buf_u32(out, s->step);
		buf_u64(out, (uint64_t)s->since_ms);
		buf_u64(out, (uint64_t)s->until_ms);
		buf_str16(out, str_of(s->what));
		buf_str16(out, str_of(s->rule));
		buf_str16(out, str_of(s->text));
	}
	return true;
}

static bool is_sound(const struct party_setting *s)
{
	if (s->kind == LIMIT_CONNS)
		return s->max > 0;
	return (s->kind == LIMIT_CONNECTS || s->kind == LIMIT_MSGS || s->kind == LIMIT_BYTES) &&
	       s->rate.n > 0 && s->rate.n <= BUCKET_MOST && s->rate.burst > 0 &&
	       s->rate.burst <= BUCKET_MOST && s->rate.per_ms > 0 &&
	       (uint64_t)s->rate.per_ms <= BUCKET_MOST;
}

static void restore_setting(struct party *p, struct rd *value)
{
	struct party_setting s = {.kind = (enum limit_kind)rd_u8(value)};
	struct str what, rule, text;

	s.rate.n = rd_u64(value);
	s.rate.burst = rd_u64(value);
	s.rate.per_ms = (int64_t)rd_u64(value);
	s.step = rd_u32(value);
	s.since_ms = (int64_t)rd_u64(value);
	s.until_ms = (int64_t)rd_u64(value);
	what = rd_str16(value);
	rule = rd_str16(value);
	text = rd_str16(value);
	if (s.kind == LIMIT_CONNS && s.rate.n <= UINT32_MAX)
		s.max = (uint32_t)s.rate.n;
	if (value->bad || !is_sound(&s) || s.until_ms <= 0 || setting_find(p, what))
		return;
	s.what = str_dup(what);
	s.rule = str_dup(shorten(rule));
	s.text = str_dup(shorten(text));
	setting_put(p, &s);
}

int party_restore(struct core *core, struct str key, struct rd *value)
{
	struct str tenant = rd_str16(value), campaign = rd_str16(value), at = rd_str16(value);
	char *text;
	struct party *p;

	if (value->bad || tenant.n == 0 || at.n == 0 || find_key(core, key) ||
	    core->parties.count >= PARTY_MOST)
		return -EBADMSG;
	p = party_get(core, tenant, campaign, at);
	if (!p || !str_eq(name_str(p->key), key)) {
		if (p && !p->recovering && p->set_count == 0)
			party_free(core, p);
		return -EBADMSG;
	}
	p->recovering = rd_u8(value) != 0;
	p->step = rd_u32(value);
	p->probes = rd_u32(value);
	p->since_ms = (int64_t)rd_u64(value);
	p->until_ms = (int64_t)rd_u64(value);
	p->first_tx = core->next_id;
	text = state_text(value);
	p->rule = text;
	p->text = state_text(value);
	while (value->n && !value->bad)
		restore_setting(p, value);
	if (p->until_ms <= 0)
		p->recovering = false;
	apply(core, p);
	return value->bad ? -EBADMSG : 0;
}

/* SPDX-License-Identifier: ISC */
/*
 * The core's frame: its life, time, and the way decisions go out.
 *
 * Events change state and put what follows of them at once (outcomes, closings) into a ring. What
 * is a choice (questions, grants, transactions) is not made before core_next() asks: it takes the
 * queues that something happened to in turn, and each makes one decision and goes to the end of the
 * line. So no queue with work and permission waits for more than one decision of each other queue.
 *
 * A crash leaves nothing: the core is memory only. The shell's journal and index are what it is
 * made from again, by core_add(), core_have_conn(), core_have_job() and core_start().
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

uint64_t core_random(struct core *core)
{
	uint64_t x = core->random += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

int64_t core_jitter(struct core *core, int64_t ms)
{
	return ms + (int64_t)(core_random(core) % ((uint64_t)ms / 10 + 1));
}

struct core *core_new(uint64_t seed, int64_t now_ms)
{
	struct core *core = xcalloc(1, sizeof(*core));
	struct table *tables[] = {&core->named, &core->providers, &core->entries, &core->pools,
	    &core->warm_sources, &core->warmups, &core->names, &core->domains, &core->dests,
	    &core->vmtas, &core->queues, &core->lanes, &core->conns, &core->txs, &core->tls,
	    &core->shares, &core->tenants, &core->campaigns};
	struct link *links[] = {
	    &core->dirty, &core->unserved, &core->sweeping, &core->resolve_fifo, &core->tls_age};

	core->seed = hash_mix(seed, UINT64_C(0x506f737465726e));
	core->random = seed;
	core->now = now_ms;
	for (size_t i = 0; i < COUNT_OF(tables); i++)
		table_init(tables[i]);
	for (size_t i = 0; i < COUNT_OF(links); i++)
		link_init(links[i]);
	state_init(core);
	link_init(&core->modes);
	link_init(&core->notes);
	table_init(&core->disabled);
	link_init(&core->disabled_all);
	link_init(&core->sourceless);
	rules_init(core);
	hold_init(core);
	table_init(&core->tenant_confs);
	table_init(&core->sender_domains);
	job_store_init(&core->jobs);
	due_init(&core->due, now_ms);
	core->wheel = wheel_new(now_ms);
	budget_init(core);
	party_init(core);
	core->default_vmta = name_get(core, STR("default"));
	core->host_name = name_get(core, STR(""));
	core->no_source = name_keep(core->host_name);
	core->default_port = 25;
	/* Numbers of connections and transactions go on after a restart: time is part of them. */
	core->next_id = ((uint64_t)now_ms << 20 & INT64_MAX) | 1;
	core->ring_cap = 256;
	core->ring = xcalloc(core->ring_cap, sizeof(*core->ring));
	return core;
}

/* ---- the end ---- */

static void free_conns(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->conns))) {
		struct conn *c = OWNER(n, struct conn, node);

		while (c->tx_count)
			tx_free(core, c->tx[0]);
		conn_free(core, c);
	}
	while (core->tx_free) {
		struct tx *tx = core->tx_free;

		core->tx_free = tx->next_free;
		free(tx->jobs);
		free(tx);
	}
	for (unsigned i = 0; i < core->worker_count; i++)
		free(core->workers[i]);
	free(core->workers);
}

static void free_places(struct core *core)
{
	for (uint32_t i = 1; i <= core->lane_count; i++)
		if (core->lane_at[i])
			core->lane_at[i]->jobs = 0;
	for (uint32_t i = 1; i <= core->queue_count; i++)
		if (core->queue_at[i])
			queue_free(core, core->queue_at[i]);
	for (uint32_t i = 1; i <= core->domain_count; i++)
		if (core->domain_at[i])
			domain_free(core, core->domain_at[i]);
	grant_tls_forget(core, true);
	warmup_fini(core);
	party_fini(core);
	budget_fini(core);
	name_drop(core, core->no_source);
	core->no_source = NULL;
	source_fini(core);
	rules_fini(core);
	state_fini(core);
	hold_fini(core);
	value_fini(core);
	free(core->lane_at);
	free(core->lane_free);
	free(core->queue_at);
	free(core->queue_free);
	free(core->domain_at);
	free(core->domain_free);
	tenant_fini(core);
}

void core_free(struct core **at)
{
	struct core *core = *at;
	struct table *tables[] = {&core->named, &core->providers, &core->entries, &core->pools,
	    &core->warm_sources, &core->warmups, &core->names, &core->domains, &core->dests,
	    &core->vmtas, &core->queues, &core->lanes, &core->conns, &core->txs, &core->tls,
	    &core->shares, &core->tenants, &core->campaigns, &core->states.marks, &core->disabled};

	free_conns(core);
	free_places(core);
	for (size_t i = 0; i < COUNT_OF(tables); i++) {
		must(tables[i]->count == 0); /* everything that was counted has been given back */
		table_fini(tables[i]);
	}
	wheel_free(&core->wheel);
	job_store_fini(&core->jobs);
	due_fini(&core->due);
	free(core->ring);
	free(core->text);
	free(core);
	*at = NULL;
}

/* ---- configuration ---- */

void core_configure(struct core *core, const struct conf *conf, int64_t now_ms)
{
	core_clock(core, now_ms);
	value_configure(core, conf_clone(conf));
	tenant_configure(core);
	rules_configured(core);
	budget_configure(core);
	for (uint32_t i = 1; i <= core->domain_count; i++)
		if (core->domain_at[i])
			domain_configured(core, core->domain_at[i]);
	for (uint32_t i = 1; i <= core->queue_count; i++)
		if (core->queue_at[i])
			queue_configured(core, core->queue_at[i]);
	party_configure(core);
	state_configured(core);
	conn_configured(core);
	value_configured(core);
	for (uint32_t i = 1; i <= core->queue_count; i++)
		if (core->queue_at[i])
			queue_dirty(core, core->queue_at[i]);
}

/* ---- jobs come in ---- */

static struct lane *lane_for(struct core *core, const struct core_add *a, struct domain *d)
{
	struct name *tenant = name_get(core, tenant_for(core, a->tenant));
	struct name *campaign = name_get(core, a->campaign);
	struct lane *last = d->last_lane ? core->lane_at[d->last_lane] : NULL, *lane;
	struct place p;

	place_new(core, d, a->vmta, a->pool, last ? last->share->queue : NULL, &p);
	if (last && lane_is(last, p.queue, tenant, campaign, p.pool))
		lane = last;
	else
		lane = lane_get(core, p.queue, tenant, campaign, p.pool);
	d->last_lane = lane->index;
	name_drop(core, tenant);
	name_drop(core, campaign);
	name_drop(core, p.pool);
	return lane;
}

static void job_fill(struct job *j, const struct core_add *a)
{
	const uint64_t low40 = (UINT64_C(1) << 40) - 1, low44 = (UINT64_C(1) << 44) - 1;

	j->id = a->id;
	j->segment = a->segment & low40;
	j->offset = a->offset & low40;
	j->rcpt = a->rcpt;
	j->attempts = a->attempts;
	j->flags = a->flags;
	j->bytes_low = a->bytes & ((1u << 20) - 1);
	j->bytes_high = (uint16_t)(a->bytes >> 20) & ((1u << 11) - 1);
	j->arrived_ms = (uint64_t)(a->arrived_ms < 0 ? 0 : a->arrived_ms) & low44;
	j->due_ms = (uint64_t)(a->due_ms < 0 ? 0 : a->due_ms) & low44;
}

/* Notices told before a restart are not told again. */
static void count_notices(const struct core *core, struct job *j, const struct queue *q)
{
	int64_t k = 0;

	if ((j->flags & JOB_DELAY_TOLD) && q->v.notify_ms > 0)
		k = (core->now - (int64_t)j->arrived_ms) / q->v.notify_ms;
	j->notices = k < 0 ? 0 : k > UINT8_MAX ? UINT8_MAX : (uint8_t)k;
}

static void settle(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);

	if (j->flags & JOB_HELD)
		outcome_set_aside(core, ref);
	else if ((int64_t)j->due_ms > core->now)
		outcome_wait(core, ref);
	else
		outcome_place(core, ref, false);
}

job_ref core_add(struct core *core, const struct core_add *a, int64_t now_ms)
{
	struct domain *d;
	struct lane *lane;
	struct job *j;
	job_ref ref;

	job_ahead(core, a->id); /* its look-up comes last and misses the cache */
	d = domain_get(core, a->domain);
	lane = lane_for(core, a, d);
	ref = job_new(core);
	j = core_at(core, ref);
	core_clock(core, now_ms);
	job_fill(j, a);
	j->lane = lane->index;
	j->domain = d->index;
	lane->jobs++;
	d->jobs++;
	job_index(core, ref);
	job_state(core, ref, JOB_UNROUTED);
	count_notices(core, j, lane->share->queue);
	if ((j->flags & JOB_IN_DOUBT) && core->started) { /* nobody will report it any more */
		j->flags = (j->flags & (uint8_t)~JOB_IN_DOUBT) | JOB_UNCERTAIN;
	} else if (j->flags & JOB_IN_DOUBT) {
		job_state(core, ref, JOB_DOUBT);
		job_append(core, LIST_DOUBT, ref);
		return ref;
	}
	settle(core, ref);
	return ref;
}

void core_start(struct core *core, int64_t now_ms)
{
	job_ref ref;

	core_clock(core, now_ms);
	core->started = true;
	while ((ref = core->due.doubt.head)) {
		struct job *j = core_at(core, ref);

		outcome_loosen(core, ref);
		j->flags = (j->flags & (uint8_t)~JOB_IN_DOUBT) | JOB_UNCERTAIN;
		outcome_changed(core, ref);
		settle(core, ref);
	}
	conn_start(core);
}

static void job_drop(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct queue *q = lane->share->queue;
	struct domain *d = core->domain_at[j->domain];

	core->n[JOB_ENDED]--;
	q->n[JOB_ENDED]--;
	lane->of->tally.n[JOB_ENDED]--;
	lane->share->of->tally.n[JOB_ENDED]--;
	if (--lane->jobs == 0)
		lane->empty_ms = core->now;
	if (--d->jobs == 0)
		domain_idle(core, d);
	q->idle_ms = core->now;
	job_free(core, ref);
}

/* ---- time ---- */

static void on_timer(void *ctx, struct wheel_node *node)
{
	struct core *core = ctx;
	struct timer *t = OWNER(node, struct timer, node);
	struct queue *q;

	switch (t->kind) {
	case TIMER_WAKE:
		queue_dirty(core, OWNER(t, struct queue, wake));
		break;
	case TIMER_SWEEP:
		q = OWNER(t, struct queue, sweep);
		if (core->started)
			sweep_now(core, q);
		break;
	case TIMER_IDLE_QUEUE:
		queue_on_idle(core, OWNER(t, struct queue, idle_timer));
		break;
	case TIMER_CONN:
		conn_on_timer(core, OWNER(t, struct conn, timer));
		break;
	case TIMER_DOMAIN:
		domain_timer(core, OWNER(t, struct domain, timer));
		break;
	case TIMER_LIMIT:
		limiter_timer(core, t);
		break;
	case TIMER_LEVEL:
		level_timer(core, t);
		break;
	case TIMER_STATE:
		state_timer(core, t);
		break;
	case TIMER_MODE:
		mode_timer(core, t);
		break;
	case TIMER_SOURCE:
		source_timer(core, t);
		break;
	case TIMER_HOLD:
	case TIMER_RELEASE:
		hold_timer(core, t);
		break;
	case TIMER_PARTY:
		party_timer(core, t);
		break;
	}
}

void core_tick(struct core *core, int64_t now_ms)
{
	unsigned budget = CORE_SLICE;

	core_clock(core, now_ms);
	wheel_advance(core->wheel, core->now, on_timer, core);
	core->more = false;
	if (core->started)
		core->more = due_advance(core, &budget) || hold_run(core, &budget) ||
			     sweep_run(core, &budget);
	grant_tls_forget(core, false);
}

int64_t core_next_ms(const struct core *core)
{
	int64_t timer = wheel_next_ms(core->wheel), due;

	if (!core->started)
		return timer;
	if (core->more || core->holds.walk || !link_alone(&core->sweeping))
		return core->now;
	due = due_next_ms(core);
	return due < timer ? due : timer;
}

/* ---- decisions go out ---- */

static uint32_t keep_text(struct core *core, struct str s)
{
	size_t at = core->text_n;

	if (at + s.n > core->text_cap) {
		core->text_cap = 2 * (at + s.n) + 4096;
		core->text = xrealloc(core->text, core->text_cap);
	}
	if (s.n)
		memcpy(core->text + at, s.p, s.n);
	core->text_n += s.n;
	return (uint32_t)at;
}

void core_push(struct core *core, const struct pending *p, struct str status, struct str text)
{
	struct pending *slot;

	if (core->ring_count == core->ring_cap) {
		struct pending *ring = xcalloc(2 * core->ring_cap, sizeof(*ring));

		for (size_t i = 0; i < core->ring_count; i++)
			ring[i] = core->ring[(core->ring_head + i) & (core->ring_cap - 1)];
		free(core->ring);
		core->ring = ring;
		core->ring_cap *= 2;
		core->ring_head = 0;
	}
	if (core->ring_count == 0)
		core->text_n = 0;
	slot = &core->ring[(core->ring_head + core->ring_count++) & (core->ring_cap - 1)];
	*slot = *p;
	slot->rule = STR("");
	slot->text_at = keep_text(core, status);
	slot->status_n = (uint32_t)status.n;
	keep_text(core, text);
	slot->text_n = (uint32_t)text.n;
	keep_text(core, p->rule);
	slot->rule_n = (uint32_t)p->rule.n;
}

/* As event_push() has packed it. */
static struct core_event event_of(const char *at)
{
	struct core_event e;
	struct str *text[] = {&e.scope, &e.from, &e.to, &e.text, &e.rule, &e.who, &e.notify};

	memcpy(&e, at, sizeof(e));
	at += sizeof(e);
	for (size_t i = 0; i < COUNT_OF(text); i++) {
		text[i]->p = at;
		at += text[i]->n;
	}
	return e;
}

static bool is_final(const struct core_decision *d)
{
	return d->kind == DECIDE_DONE && d->outcome != OUTCOME_DEFERRED &&
	       d->outcome != OUTCOME_RETRY;
}

/* A connection that is to be closed may have gone by itself meanwhile. */
static bool is_obsolete(const struct core *core, const struct pending *p)
{
	const struct conn *c = p->kind == DECIDE_CLOSE ? conn_find(core, p->conn) : NULL;

	return p->kind == DECIDE_CLOSE && (!c || c->lost);
}

static void give_out(const struct core *core, const struct pending *p, struct core_decision *d)
{
	const char *text = core->text + p->text_at;

	decision_clear(d);
	d->kind = p->kind;
	d->worker = p->worker;
	d->conn = p->conn;
	d->hard = p->hard;
	d->job = p->job;
	d->outcome = p->outcome;
	d->result = p->result;
	d->report = p->report;
	if (p->kind == DECIDE_EVENT) {
		d->event = event_of(text);
		return;
	}
	d->status = (struct str){text, p->status_n};
	d->text = (struct str){text + p->status_n, p->text_n};
	d->rule = (struct str){text + p->status_n + p->text_n, p->rule_n};
}

static bool pop(struct core *core, struct core_decision *d)
{
	while (core->ring_count) {
		const struct pending *p = &core->ring[core->ring_head];

		core->ring_head = (core->ring_head + 1) & (core->ring_cap - 1);
		core->ring_count--;
		if (is_obsolete(core, p))
			continue;
		give_out(core, p, d);
		if (is_final(d))
			core->ended = d->job;
		return true;
	}
	return false;
}

/* One decision of one queue. Sending comes first: it costs the least and frees the most. */
static bool step(struct core *core, struct queue *q, struct core_decision *d)
{
	enum send_found found;
	bool granted = false;

	hold_look(core, q);
	if (hold_queue(q))
		return false;
	found = send_next(core, q, d);

	if (found == SEND_NONE || found == SEND_SPARE)
		granted = grant_next(core, q, found == SEND_SPARE, d);
	else if (found == SEND_HELD)
		grant_unwait(core, q);
	if (found == SEND_ONE || found == SEND_AGAIN || granted)
		queue_dirty(core, q);
	return found == SEND_ONE || granted;
}

bool core_next(struct core *core, struct core_decision *d)
{
	if (core->ended) {
		job_drop(core, core->ended);
		core->ended = 0;
	}
	for (unsigned steps = CORE_SLICE; steps; steps--) {
		struct queue *q;

		if (state_next(core, d) || pop(core, d))
			return true;
		if (!core->started)
			return false;
		if (domain_next(core, d))
			return true;
		if (link_alone(&core->dirty))
			return false;
		q = OWNER(core->dirty.next, struct queue, in_dirty);
		link_remove(&q->in_dirty);
		if (step(core, q, d))
			return true;
	}
	core->more = true; /* jobs were put aside without end: go on in the next turn */
	return false;
}

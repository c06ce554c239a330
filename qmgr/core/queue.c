/* SPDX-License-Identifier: ISC */
/*
 * Queues: destination × virtual MTA. Their life (made when the first job or an inherited connection
 * needs one, freed when empty and idle for CORE_LINGER, an hour later while a failure clock runs),
 * their values, and the clock of connection failures that holds them.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t queue_hash(const struct dest *dest, const struct vmta *vmta)
{
	return hash_mix((uintptr_t)dest, (uintptr_t)vmta);
}

void queue_values(struct core *core, struct queue *q)
{
	struct value_of of = {
	    q->dest->own ? name_str(q->dest->name) : STR(""), name_str(q->provider)};

	value_resolve(core, &of, q->vmta, &q->v);
	setting_apply(q);
	q->rated = rules_have_shares(core, q->v.patterns);
	q->stepwise = rules_have_tenants(core, q->v.patterns);
	mode_apply(core, q);
	if (!vmta_acting(core, q->vmta)->conf || q->vmta->conf)
		return;
	queue_error(core, q, STR("virtual MTA is not configured: the default one's sources serve"),
	    ERROR_OTHER);
}

static uint32_t queue_number(struct core *core, struct queue *q)
{
	uint32_t i;

	if (core->queue_frees) {
		i = core->queue_free[--core->queue_frees];
	} else {
		i = ++core->queue_count;
		if ((i & (i - 1)) == 0) {
			core->queue_at = xrealloc(core->queue_at, 2 * i * sizeof(struct queue *));
			core->queue_free = xrealloc(core->queue_free, 2 * i * sizeof(uint32_t));
		}
	}
	core->queue_at[i] = q;
	return i;
}

static void queue_link(struct core *core, struct queue *q)
{
	struct link *links[] = {&q->lanes, &q->shares, &q->active, &q->conns, &q->idle, &q->half,
	    &q->in_dirty, &q->in_unserved, &q->in_sweeping, &q->in_users, &q->visits,
	    &q->in_sourceless, &q->notes};

	for (size_t i = 0; i < COUNT_OF(links); i++)
		link_init(links[i]);
	link_append(&q->dest->queues, &q->in_dest);
	table_add(&core->queues, &q->node, queue_hash(q->dest, q->vmta));
	q->slot = queue_number(core, q);
	q->wake.kind = TIMER_WAKE;
	q->grant.kind = WAITER_GRANT;
	q->send.kind = WAITER_SEND;
	q->sweep.kind = TIMER_SWEEP;
	q->idle_timer.kind = TIMER_IDLE_QUEUE;
}

/* Of a single domain's queue: whose route its mail takes, and whose provider that leads to. */
static struct name *look_route(struct core *core, struct queue *q)
{
	struct place p;

	if (!q->dest->own)
		return q->dest->rollup ? q->dest->name : NULL;
	place_find(core, q->dest->own, q->vmta, &p);
	q->routed = p.routed && p.dest == q->dest;
	if (q->route_of != p.route)
		link_append(&p.route->users, &q->in_users);
	q->route_of = p.route;
	if (!p.route->route && !link_alone(&q->conns)) /* these go on counting there */
		return q->provider;
	return p.route->provider; /* also of what is left here of an older configuration */
}

static bool set_provider(struct core *core, struct queue *q)
{
	struct name *provider = look_route(core, q);

	if (provider == q->provider)
		return false;
	name_drop(core, q->provider);
	q->provider = provider ? name_keep(provider) : NULL;
	party_provider(core, q);
	return true;
}

/* It has inherited a connection to that provider's host, and its route is not known yet. */
void queue_adopted(struct core *core, struct queue *q, struct name *provider)
{
	if (!q->dest->own || !provider || q->provider || q->route_of->route)
		return;
	q->provider = name_keep(provider);
	queue_values(core, q);
	hold_moved(core, q);
}

static struct queue *queue_new(struct core *core, struct dest *dest, struct vmta *vmta)
{
	struct queue *q = xcalloc(1, sizeof(*q));
	size_t n = dest->name->n + vmta->name->n + (size_t)2;

	q->dest = dest;
	q->vmta = vmta;
	vmta->queues++;
	q->name = xmalloc(n);
	snprintf(
	    q->name, n, "%.*s/%.*s", STR_ARG(name_str(dest->name)), STR_ARG(name_str(vmta->name)));
	queue_link(core, q);
	q->ceiling = CORE_START_CONNS;
	q->event_ms = NEVER;
	q->swept_ms = q->idle_ms = core->now;
	q->routed = true;
	set_provider(core, q);
	queue_values(core, q);
	queue_idle(core, q);
	hold_new_queue(core, q);
	return q;
}

struct queue *queue_at(const struct core *core, const struct dest *dest, const struct vmta *vmta)
{
	uint64_t hash = queue_hash(dest, vmta);

	for (struct node *i = table_first(&core->queues, hash); i; i = table_next(i)) {
		struct queue *q = OWNER(i, struct queue, node);

		if (q->dest == dest && q->vmta == vmta)
			return q;
	}
	return NULL;
}

struct queue *queue_get(struct core *core, struct dest *dest, struct vmta *vmta)
{
	struct queue *q = queue_at(core, dest, vmta);

	return q ? q : queue_new(core, dest, vmta);
}

/* Splits at the last slash: false, it is no queue's name. */
static bool split_name(struct str name, struct str *dest, struct str *vmta)
{
	size_t slash = name.n;

	while (slash && name.p[slash - 1] != '/')
		slash--;
	if (slash < 2)
		return false;
	*dest = (struct str){name.p, slash - 1};
	*vmta = (struct str){name.p + slash, name.n - slash};
	return true;
}

struct queue *queue_find(const struct core *core, struct str name)
{
	struct str to, by;
	struct dest *dest;
	struct vmta *vmta;

	if (!split_name(name, &to, &by) || !(dest = dest_find(core, to)) ||
	    !(vmta = vmta_find(core, by)))
		return NULL;
	return queue_at(core, dest, vmta);
}

struct queue *queue_named(struct core *core, struct str name)
{
	struct str to, by;

	if (!split_name(name, &to, &by))
		return NULL;
	return queue_get(core, dest_named(core, to), vmta_get(core, by));
}

void queue_dirty(struct core *core, struct queue *q)
{
	if (link_alone(&q->in_dirty))
		link_append(&core->dirty, &q->in_dirty);
}

void queue_error(struct core *core, struct queue *q, struct str text, enum error_of of)
{
	q->error_of = of;
	if (text.n > CORE_TEXT_MAX)
		text.n = CORE_TEXT_MAX;
	if (!q->error || !str_eq(str_of(q->error), text)) {
		free(q->error);
		q->error = str_dup(text);
	}
	note_add(core, q, NOTE_ERROR, text);
	q->error_ms = core->now;
}

void queue_rerouted(struct core *core, struct queue *q)
{
	bool was = q->routed;

	if (set_provider(core, q)) {
		queue_values(core, q);
		hold_moved(core, q);
	}
	place_changed(core, q);
	if (was != q->routed)
		core->unrouted += q->routed ? -q->n[JOB_READY] : q->n[JOB_READY];
	queue_dirty(core, q);
}

/* Another configuration: what it says of this queue, and what of its mail belongs elsewhere now. */
void queue_configured(struct core *core, struct queue *q)
{
	queue_rerouted(core, q);
	queue_values(core, q);
	place_changed(core, q); /* by what the values say now */
	if (*q->v.reroute)
		queue_visit(core, q, VISIT_REPLACE, STR(""));
	else if (q->n[JOB_READY])
		sweep_now(core, q);
}

/* ---- the clock ---- */

void queue_wake_at(struct core *core, struct queue *q, int64_t at_ms)
{
	if (wheel_armed(&q->wake.node) && q->wake.node.at_ms <= at_ms &&
	    q->wake.node.at_ms > core->now)
		return;
	wheel_add(core->wheel, &q->wake.node, at_ms);
}

void queue_hold(struct core *core, struct queue *q, int64_t until_ms)
{
	q->hold_ms = until_ms;
	wheel_add(core->wheel, &q->wake.node, until_ms);
	if (q->failures)
		clock_changed(core, q);
}

/* A hold that is about the connections, too, that are open already: they end with what they have,
 * and what they still deliver of it does not end the hold. */
void queue_defer(struct core *core, struct queue *q, int64_t until_ms)
{
	struct link *next;

	queue_hold(core, q, until_ms);
	q->deferred_from = core->next_id;
	for (struct link *l = q->conns.next; l != &q->conns; l = next) {
		struct conn *c = OWNER(l, struct conn, in_queue);

		next = l->next;
		c->deferred = true;
		conn_settle(core, c);
	}
}

void queue_unhold(struct core *core, struct queue *q)
{
	if (q->failures)
		clock_changed(core, q);
	q->failures = 0;
	q->hold_ms = 0;
	for (uint32_t i = 0; i < q->target_count; i++)
		q->targets[i].until_ms = 0;
	queue_dirty(core, q);
}

/* ---- its end ---- */

static bool empty(const struct queue *q)
{
	uint64_t jobs = 0;

	for (size_t i = 0; i < COUNT_OF(q->n); i++)
		jobs += q->n[i];
	return jobs == 0 && link_alone(&q->conns);
}

void queue_idle(struct core *core, struct queue *q)
{
	if (!wheel_armed(&q->idle_timer.node))
		wheel_add(core->wheel, &q->idle_timer.node, core->now + CORE_LINGER);
}

static void free_idle_lanes(struct core *core, struct queue *q)
{
	struct link *next;

	if (!link_alone(&q->in_sweeping))
		return;
	for (struct link *l = q->lanes.next; l != &q->lanes; l = next) {
		struct lane *lane = OWNER(l, struct lane, in_queue);

		next = l->next;
		if (lane->jobs == 0 && core->now - lane->empty_ms >= CORE_LINGER)
			lane_free(core, lane);
	}
}

/* Every CORE_LINGER while the queue lives: its idle lanes go, and in the end itself. */
void queue_on_idle(struct core *core, struct queue *q)
{
	int64_t clock = q->failures ? q->hold_ms + CORE_CLOCK_LINGER : 0;

	free_idle_lanes(core, q);
	if (!empty(q) || q->mode) {
		q->idle_ms = core->now;
		queue_idle(core, q);
	} else if (core->now - q->idle_ms < CORE_LINGER || core->now < clock) {
		queue_idle(core, q);
	} else {
		queue_free(core, q);
	}
}

void queue_free(struct core *core, struct queue *q)
{
	struct dest *dest = q->dest;
	struct link *next;

	if (q->failures)
		clock_changed(core, q);
	sweep_end(core, q);
	for (struct link *l = q->lanes.next; l != &q->lanes; l = next) {
		next = l->next;
		lane_free(core, OWNER(l, struct lane, in_queue));
	}
	limit_queue_gone(core, q);
	link_remove(&q->in_unserved);
	mode_free(core, q);
	notes_free(core, q);
	link_remove(&q->in_sourceless);
	wheel_cancel(core->wheel, &q->wake.node);
	wheel_cancel(core->wheel, &q->sweep.node);
	wheel_cancel(core->wheel, &q->idle_timer.node);
	link_remove(&q->in_dirty);
	link_remove(&q->in_dest);
	link_remove(&q->in_users);
	name_drop(core, q->provider);
	name_drop(core, q->rerouted);
	table_remove(&core->queues, &q->node);
	core->queue_at[q->slot] = NULL;
	core->queue_free[core->queue_frees++] = q->slot;
	q->vmta->queues--;
	vmta_drop(core, q->vmta);
	free(q->targets);
	free(q->error);
	free(q->name);
	free(q);
	dest_drop(core, dest);
}

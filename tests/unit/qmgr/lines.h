/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * The invariant of the lines (limit.c), looked at from outside: included by tests of the core, for
 * after every event, when all decisions have been taken. Whoever stands in a line needs what it is
 * for, and no first one stands still though its limiter has room or will have without being woken.
 */
#include "tests/unit/qmgr/sim.h"

static SIM_DEAD struct queue *lines_queue(struct waiter *w)
{
	if (w->of)
		w = w->of;
	if (w->kind == WAITER_LANE)
		return OWNER(w, struct lane, wait)->share->queue;
	return w->kind == WAITER_GRANT ? OWNER(w, struct queue, grant)
				       : OWNER(w, struct queue, send);
}

/* It has a need: else it stands in the others' way. */
static void lines_waiter(const struct core *core, const struct limiter *l, int line, uint32_t i)
{
	const struct line *ln = &l->line[line];
	struct waiter *w = ln->heap[i];
	struct queue *q = lines_queue(w);
	const struct lane *lane = w->kind == WAITER_LANE ? OWNER(w, struct lane, wait) : NULL;

	if (w->at != l || w->line != line || w->place != i)
		fail_msg("%s: a waiter that is not where it is", q->name);
	if (i && ln->heap[(i - 1) / 2]->key > w->key)
		fail_msg("%s overtaken in the line of %s", q->name, l->budget->key);
	if (lane && !(lane->parked & PARK_LIMIT))
		fail_msg("%s: a lane waits and is in the turn", q->name);
	if (!lane && hold_queue(q))
		fail_msg("%s waits at %s and is held", q->name, l->budget->key);
	if (!lane && queue_ready(q) == 0)
		fail_msg("%s waits at %s and has nothing", q->name, l->budget->key);
	if (!lane && line == LINE_SEND && !q->v.discard && link_alone(&q->idle))
		fail_msg("%s waits at %s and has no connection", q->name, l->budget->key);
	if (w->kind == WAITER_GRANT && !w->of && q->limit.used >= q->limit.max)
		fail_msg("%s waits at %s and has all it may", q->name, l->budget->key);
	(void)core;
}

static void lines_limiter(const struct core *core, struct limiter *l)
{
	bool armed = wheel_armed(&l->timer.node);

	for (int line = 0; line < LIMIT_LINES; line++) {
		const struct line *ln = &l->line[line];
		int64_t at = limiter_frees_ms(core, l, (enum limit_line)line);
		uint32_t starved = 0;

		if (ln->n == 0)
			continue;
		for (uint32_t i = 0; i < ln->n; i++) {
			lines_waiter(core, l, line, i);
			starved += !(ln->heap[i]->key >> 63);
		}
		assert_int_equal(starved, ln->starved);
		if (ln->heap[0]->claim_ms > core->now && ln->heap[0]->claim_ms > at)
			at = ln->heap[0]->claim_ms; /* its queue has its own alarm till then */
		else if (at <= core->now && ln->heap[0]->kind != WAITER_LANE)
			fail_msg("%s is first at %s, which has room",
			    lines_queue(ln->heap[0])->name, l->budget->key);
		if (at <= core->now)
			at = core->now + CORE_CALL; /* lanes were called: the next ones then */
		if (at != NEVER && !(armed && l->timer.node.at_ms <= at))
			fail_msg("nobody wakes the line of %s", l->budget->key);
	}
}

static SIM_DEAD void lines_check(struct sim *s)
{
	const struct core *core = s->core;

	if (!core->started || !link_alone(&core->dirty) || core->ring_count)
		return; /* not all has been decided */
	for (uint32_t i = 1; i <= core->budget_count; i++)
		for (int kind = 0; core->budget_at[i] && kind < LIMIT_KINDS; kind++)
			if (core->budget_at[i]->of[kind])
				lines_limiter(core, core->budget_at[i]->of[kind]);
	for (uint32_t i = 1; i <= core->lane_count; i++)
		if (core->lane_at[i] && (core->lane_at[i]->parked & PARK_LIMIT) &&
		    !core->lane_at[i]->wait.at)
			fail_msg("a lane of %s is out of the turn and waits for nothing",
			    core->lane_at[i]->share->queue->name);
}

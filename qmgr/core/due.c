/* SPDX-License-Identifier: ISC */
/*
 * Jobs that wait: a wheel of lists with ticks of a second. A job's time is rounded up to the next
 * tick, so it is never early and less than a second late.
 *
 * Level 0 has a slot a second, level 1 one for 256 of these, level 2 one for 65,536 (18 hours).
 * Each level has 512 slots, two turns' worth: while the clock runs through one turn, the next
 * turn's jobs are brought down in the background, in slices, so that a slot with a million jobs
 * stalls nothing. What is farther away than level 2 reaches (a year) stands in its last slot and is
 * looked at again.
 */
#include "qmgr/core/internal.h"

enum { TURN_BITS = 8, SLOT_MASK = DUE_SLOTS - 1 };

void due_init(struct due *due, int64_t now_ms)
{
	*due = (struct due){.tick = now_ms / SECOND};
}

static uint32_t slot_for(const struct due *due, int64_t tick)
{
	int64_t turn = due->tick >> TURN_BITS, great = turn >> TURN_BITS;

	if (tick >> TURN_BITS <= turn + 1)
		return (uint32_t)(tick & SLOT_MASK);
	if (tick >> 2 * TURN_BITS <= great + 1)
		return DUE_SLOTS + (uint32_t)(tick >> TURN_BITS & SLOT_MASK);
	if (tick >> 2 * TURN_BITS > great + DUE_SLOTS - 2)
		return 2 * DUE_SLOTS + (uint32_t)((great + DUE_SLOTS - 2) & SLOT_MASK);
	return 2 * DUE_SLOTS + (uint32_t)(tick >> 2 * TURN_BITS & SLOT_MASK);
}

/* When it must be looked at: its time to be sent, or to be given up, or a notice of delay. */
static int64_t wake_ms(const struct core *core, const struct job *j)
{
	int64_t event = outcome_event_ms(core, j), due = (int64_t)j->due_ms;

	return event < due ? event : due;
}

void due_add(struct core *core, job_ref ref)
{
	struct due *due = &core->due;
	int64_t tick = (wake_ms(core, core_at(core, ref)) + SECOND - 1) / SECOND;
	uint32_t slot = slot_for(due, tick < due->tick ? due->tick : tick);

	if (slot < DUE_SLOTS)
		due->bits[slot / 64] |= UINT64_C(1) << slot % 64;
	job_append(core, slot, ref);
}

/* Brings a slot's jobs down a level (or to where their time has moved). True: it is empty. */
static bool bring_down(struct core *core, uint32_t slot, unsigned *budget)
{
	struct due *due = &core->due;
	job_ref ref;

	while ((ref = due->slot[slot].head)) {
		if (*budget == 0)
			return false;
		--*budget;
		job_unlink(core, ref);
		due_add(core, ref);
	}
	return true;
}

static uint32_t turn_slot(int64_t turn)
{
	return DUE_SLOTS + (uint32_t)(turn & SLOT_MASK);
}

static uint32_t great_slot(int64_t great)
{
	return 2 * DUE_SLOTS + (uint32_t)(great & SLOT_MASK);
}

/* Everything of this turn must be on level 0 before its seconds pass. */
static bool prepare(struct core *core, int64_t turn, unsigned *budget)
{
	return bring_down(core, great_slot(turn >> TURN_BITS), budget) &&
	       bring_down(core, turn_slot(turn), budget);
}

static void fire(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);

	job_unlink(core, ref);
	job_state(core, ref, JOB_UNROUTED);
	if (outcome_aged(core, ref))
		return;
	if ((int64_t)j->due_ms > core->now)
		outcome_wait(core, ref);
	else
		outcome_place(core, ref, false);
}

/* The next tick up to `limit` whose slot may hold jobs. */
static int64_t skip_empty(const struct due *due, int64_t tick, int64_t limit)
{
	while (tick < limit) {
		uint32_t slot = (uint32_t)(tick & SLOT_MASK);
		uint64_t rest = due->bits[slot / 64] >> slot % 64;

		if (rest) {
			tick += __builtin_ctzll(rest);
			return tick < limit ? tick : limit;
		}
		tick += 64 - slot % 64;
	}
	return limit;
}

bool due_advance(struct core *core, unsigned *budget)
{
	struct due *due = &core->due;
	int64_t now = core->now / SECOND;

	while (due->tick <= now) {
		int64_t turn = due->tick >> TURN_BITS, end = (turn + 1) << TURN_BITS;
		uint32_t slot = (uint32_t)(due->tick & SLOT_MASK);

		if (!prepare(core, turn, budget))
			return true;
		while (due->slot[slot].head) {
			if (*budget == 0)
				return true;
			--*budget;
			fire(core, due->slot[slot].head);
		}
		due->bits[slot / 64] &= ~(UINT64_C(1) << slot % 64);
		due->tick = skip_empty(due, due->tick + 1, end < now + 1 ? end : now + 1);
	}
	if (!bring_down(core, great_slot((due->tick >> 2 * TURN_BITS) + 1), budget))
		return true;
	return !bring_down(core, turn_slot((due->tick >> TURN_BITS) + 1), budget);
}

int64_t due_next_ms(const struct core *core)
{
	const struct due *due = &core->due;
	int64_t turn = due->tick >> TURN_BITS, next = (turn + 1) << TURN_BITS, tick;

	if (core->n[JOB_WAITING] == 0)
		return NEVER;
	if (due->slot[turn_slot(turn)].head || due->slot[turn_slot(turn + 1)].head ||
	    due->slot[great_slot(turn >> TURN_BITS)].head ||
	    due->slot[great_slot((turn >> TURN_BITS) + 1)].head)
		return core->now;
	/* Not later than the next turn, whose jobs may still stand a level higher. */
	tick = skip_empty(due, due->tick, next);
	return tick * SECOND;
}

/* SPDX-License-Identifier: ISC */
/*
 * Jobs that wait: a wheel with ticks of a second. A job's time is rounded up to the next tick, so
 * it is never early and less than a second late.
 *
 * Level 0 has a slot a second, level 1 one for 256 of these, level 2 one for 65,536 (18 hours).
 * Each level has 512 slots, two turns' worth: while the clock runs through one turn, the next
 * turn's jobs are brought down in the background, in slices, so that a slot with a million jobs
 * stalls nothing. What is farther away than level 2 reaches (a year) stands in its last slot and is
 * looked at again.
 *
 * What stands in a slot are batches: one for each lane that has jobs there, found by hash, or by
 * being the slot's last one. What is brought down to level 0 asks for the last one only, and its
 * batches are in no table: it comes lane by lane, so that few are made that could have been one,
 * and each of these may be a single job's, which then costs no more than that. So a lane's waiting
 * jobs can be walked without meeting anybody else's: it links its batches, in the order in which
 * they were made. A batch is 64 bytes; far away, where a slot is minutes or hours wide, many jobs
 * share one, and ten million jobs of a few lanes cost nothing beyond themselves. A batch is made
 * with its first job and goes with its last one, whoever takes that away.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

enum { TURN_BITS = 8, SLOT_MASK = DUE_SLOTS - 1 };

void due_init(struct due *due, int64_t now_ms)
{
	*due = (struct due){.tick = now_ms / SECOND};
	for (size_t i = 0; i < COUNT_OF(due->slot); i++)
		link_init(&due->slot[i]);
	table_init(&due->batches);
}

/* None is in use: their memory goes back but for one slab's. */
static void slabs_shrink(struct due *due, uint32_t keep)
{
	while (due->slab_count > keep)
		free(due->slabs[--due->slab_count]);
	due->used = 0;
	due->free = NULL;
}

void due_fini(struct due *due)
{
	slabs_shrink(due, 0);
	free(due->slabs);
	table_fini(&due->batches);
}

uint64_t due_bytes(const struct due *due)
{
	return sizeof(*due) +
	       (uint64_t)due->slab_count * (JOB_SLAB * sizeof(struct batch) + sizeof(*due->slabs)) +
	       (uint64_t)(due->batches.base + due->batches.split) * sizeof(struct node *);
}

/* ---- batches ---- */

static struct batch *batch_new(struct due *due)
{
	struct batch *b = due->free;

	if (b) {
		due->free = OWNER(b->node.next, struct batch, node);
		if (!b->node.next)
			due->free = NULL;
		return b;
	}
	must(due->used < LIST_BATCH);
	if (due->used / JOB_SLAB >= due->slab_count) {
		due->slabs = xrealloc(due->slabs, (due->slab_count + 1) * sizeof(struct batch *));
		due->slabs[due->slab_count++] = xmalloc_lines(JOB_SLAB * sizeof(struct batch));
	}
	b = due_batch(due, due->used);
	b->number = due->used++;
	return b;
}

/* The key is mixed by steps that can be undone: equal hashes are equal keys. */
static uint64_t batch_hash(const struct lane *lane, uint32_t slot)
{
	return hash_mix((uint64_t)lane->index << 12 | slot, 0);
}

static struct batch *batch_make(struct due *due, struct lane *lane, uint32_t slot)
{
	struct batch *b = batch_new(due);

	b->list = (struct job_list){0, 0};
	b->seq = ++due->seq;
	b->node.hash = 0;
	link_init(&b->in_slot);
	link_init(&b->in_lane);
	link_append(&due->slot[slot], &b->in_slot);
	link_append(&lane->waiting, &b->in_lane);
	due->last[slot] = lane->index;
	due->live++;
	return b;
}

static struct batch *batch_get(struct due *due, struct lane *lane, uint32_t slot, bool down)
{
	uint64_t hash;
	struct node *n;
	struct batch *b;

	if (due->last[slot] == lane->index)
		return OWNER(due->slot[slot].prev, struct batch, in_slot);
	if (down && slot < DUE_SLOTS)
		return batch_make(due, lane, slot);
	hash = batch_hash(lane, slot);
	n = table_first(&due->batches, hash);
	if (n)
		return OWNER(n, struct batch, node);
	b = batch_make(due, lane, slot);
	table_add(&due->batches, &b->node, hash);
	return b;
}

/* The slot whose last batch this is, or one that there is not. */
static size_t ends_slot(const struct due *due, const struct batch *b)
{
	return ((uintptr_t)b->in_slot.next - (uintptr_t)due->slot) / sizeof(due->slot[0]);
}

void due_empty(struct core *core, struct queue *q, uint32_t number)
{
	struct due *due = &core->due;
	struct batch *b = due_batch(due, number);
	size_t slot = ends_slot(due, b);

	if (q->pass.batch == &b->in_lane)
		q->pass.batch = b->in_lane.next;
	if (slot < COUNT_OF(due->last))
		due->last[slot] = 0;
	link_remove(&b->in_slot);
	link_remove(&b->in_lane);
	if (b->node.hash)
		table_remove(&due->batches, &b->node);
	b->node.next = due->free ? &due->free->node : NULL;
	due->free = b;
	if (--due->live == 0)
		slabs_shrink(due, 1);
}

/* ---- slots ---- */

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

static uint32_t turn_slot(int64_t turn)
{
	return DUE_SLOTS + (uint32_t)(turn & SLOT_MASK);
}

static uint32_t great_slot(int64_t great)
{
	return 2 * DUE_SLOTS + (uint32_t)(great & SLOT_MASK);
}

/* When it must be looked at: its time to be sent, or to be given up, or a notice of delay. */
static int64_t wake_ms(const struct core *core, const struct job *j)
{
	int64_t event = outcome_event_ms(core, j), due = (int64_t)j->due_ms;

	return event < due ? event : due;
}

static void add(struct core *core, job_ref ref, bool down)
{
	struct due *due = &core->due;
	const struct job *j = core_at(core, ref);
	int64_t tick = (wake_ms(core, j) + SECOND - 1) / SECOND;
	uint32_t slot = slot_for(due, tick < due->tick ? due->tick : tick);

	if (slot < DUE_SLOTS)
		due->bits[slot / 64] |= UINT64_C(1) << slot % 64;
	job_append(
	    core, LIST_BATCH | batch_get(due, core->lane_at[j->lane], slot, down)->number, ref);
}

void due_add(struct core *core, job_ref ref)
{
	add(core, ref, false);
}

/* It is being brought down: what is gone from it stands in later batches now. */
bool due_falls(const struct due *due, const struct lane *lane, const struct batch *b)
{
	int64_t turn = due->tick >> TURN_BITS, great = turn >> TURN_BITS;
	uint32_t slots[] = {
	    turn_slot(turn), turn_slot(turn + 1), great_slot(great), great_slot(great + 1)};

	for (size_t i = 0; i < COUNT_OF(slots); i++)
		if (b->node.hash == batch_hash(lane, slots[i]))
			return true;
	return false;
}

/* The first job of the slot, or 0. */
static job_ref slot_head(const struct due *due, uint32_t slot)
{
	const struct link *l = &due->slot[slot];

	return link_alone(l) ? 0 : OWNER(l->next, struct batch, in_slot)->list.head;
}

/* Of ten million jobs none is in the cache, nor is its batch, nor those beside it: what the step
 * after next will want is asked for while this one is done. (always_inline: gcc takes a function
 * that does nothing else for one without effect.) */
static inline __attribute__((always_inline)) void look_ahead(
    struct core *core, uint32_t slot, job_ref ref)
{
	struct link *head = &core->due.slot[slot], *next = head->next->next;
	uint32_t behind = core_at(core, ref)->next;
	struct batch *b;

	if (!(behind & LIST_END))
		__builtin_prefetch(core_at(core, behind), 1);
	next = next == head ? head : next->next;
	if (next == head)
		return;
	b = OWNER(next, struct batch, in_slot);
	__builtin_prefetch(b->in_slot.next, 1);
	__builtin_prefetch(b->in_lane.next, 1);
	__builtin_prefetch(b->in_lane.prev, 1);
	__builtin_prefetch(core_at(core, b->list.head), 1);
}

/* Brings a slot's jobs down a level (or to where their time has moved). True: it is empty. */
static bool bring_down(struct core *core, uint32_t slot, unsigned *budget)
{
	job_ref ref;

	while ((ref = slot_head(&core->due, slot))) {
		if (*budget == 0)
			return false;
		--*budget;
		look_ahead(core, slot, ref);
		job_unlink(core, ref);
		add(core, ref, true);
	}
	return true;
}

/* Everything of this turn must be on level 0 before its seconds pass. */
static bool prepare(struct core *core, int64_t turn, unsigned *budget)
{
	return bring_down(core, great_slot(turn >> TURN_BITS), budget) &&
	       bring_down(core, turn_slot(turn), budget);
}

static void fire(struct core *core, job_ref ref)
{
	/* Before its state changes, which shares a word with it: what is stored in part and loaded
	 * whole waits for all stores before it. */
	int64_t due = (int64_t)core_at(core, ref)->due_ms;

	job_unlink(core, ref);
	job_state(core, ref, JOB_UNROUTED);
	if (outcome_aged(core, ref))
		return;
	if (due > core->now)
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
		job_ref ref;

		if (!prepare(core, turn, budget))
			return true;
		while ((ref = slot_head(due, slot))) {
			if (*budget == 0)
				return true;
			--*budget;
			look_ahead(core, slot, ref);
			fire(core, ref);
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
	if (slot_head(due, turn_slot(turn)) || slot_head(due, turn_slot(turn + 1)) ||
	    slot_head(due, great_slot(turn >> TURN_BITS)) ||
	    slot_head(due, great_slot((turn >> TURN_BITS) + 1)))
		return core->now;
	/* Not later than the next turn, whose jobs may still stand a level higher. */
	tick = skip_empty(due, due->tick, next);
	return tick * SECOND;
}

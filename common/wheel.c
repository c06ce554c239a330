/* SPDX-License-Identifier: ISC */
/*
 * Timers by radix: eleven levels of 64 slots cover every 64-bit time, so there is no "too far"
 * list. A node stands at the level of the highest group of six bits in which its time differs from
 * the wheel's own time, in the slot that this group names.
 *
 * From that follows all the rest. Every node of a level lies in a slot behind the wheel's own
 * position in that level, and all of a lower level is due before any of a higher one: so the next
 * slot is the lowest bit of the lowest level that has one, and a jump over years touches only
 * occupied slots. A slot of level 0 is one tick; a slot above is spread to lower levels when the
 * wheel reaches its beginning. A node is moved at most eleven times, in practice two or three.
 *
 * A node that is already due when it is added waits in `late` for the next wheel_advance(), so that
 * a callback which re-arms itself for now cannot hold the wheel for ever.
 */
#include "common/wheel.h"
#include "common/check.h"
#include <stdlib.h>

enum { BITS = 6, SLOTS = 1 << BITS, LEVELS = 11 };

struct wheel {
	int64_t now_ms;
	bool advancing;
	uint64_t used[LEVELS]; /* a bit for each slot that holds nodes */
	struct wheel_node late;
	struct wheel_node firing;
	struct wheel_node slot[LEVELS][SLOTS]; /* heads of rings */
};

static void ring_init(struct wheel_node *head)
{
	head->next = head->prev = head;
}

static bool ring_empty(const struct wheel_node *head)
{
	return head->next == head;
}

static void ring_add(struct wheel_node *head, struct wheel_node *node)
{
	node->next = head;
	node->prev = head->prev;
	head->prev->next = node;
	head->prev = node;
}

static void ring_remove(struct wheel_node *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node->next = node->prev = NULL;
}

struct wheel *wheel_new(int64_t now_ms)
{
	must(now_ms >= 0);
	struct wheel *w = xcalloc(1, sizeof(*w));
	w->now_ms = now_ms;
	ring_init(&w->late);
	ring_init(&w->firing);
	for (size_t level = 0; level < LEVELS; level++)
		for (size_t i = 0; i < SLOTS; i++)
			ring_init(&w->slot[level][i]);
	return w;
}

void wheel_free(struct wheel **w)
{
	free(*w);
	*w = NULL;
}

static void insert(struct wheel *w, struct wheel_node *node)
{
	uint64_t differs = (uint64_t)node->at_ms ^ (uint64_t)w->now_ms; /* at_ms > now_ms >= 0 */
	unsigned level = (63U - (unsigned)__builtin_clzll(differs)) / BITS;
	unsigned i = (unsigned)((uint64_t)node->at_ms >> (level * BITS)) % SLOTS;
	ring_add(&w->slot[level][i], node);
	w->used[level] |= UINT64_C(1) << i;
}

void wheel_add(struct wheel *w, struct wheel_node *node, int64_t at_ms)
{
	wheel_cancel(w, node);
	node->at_ms = at_ms;
	if (at_ms <= w->now_ms)
		ring_add(&w->late, node);
	else
		insert(w, node);
}

void wheel_cancel(struct wheel *w, struct wheel_node *node)
{
	if (!wheel_armed(node))
		return;
	struct wheel_node *neighbour = node->next;
	ring_remove(node);
	const struct wheel_node *first = &w->slot[0][0];
	if (!ring_empty(neighbour) || neighbour < first || neighbour >= first + LEVELS * SLOTS)
		return;
	size_t at =
	    (size_t)(neighbour - first); /* an empty ring is its head: that slot is free now */
	w->used[at / SLOTS] &= ~(UINT64_C(1) << (at % SLOTS));
}

bool wheel_armed(const struct wheel_node *node)
{
	return node->next != NULL;
}

/* The next slot that holds nodes, and the time at which it begins. */
static bool next_slot(const struct wheel *w, unsigned *level, unsigned *i, int64_t *begins_ms)
{
	for (*level = 0; *level < LEVELS; (*level)++) {
		if (w->used[*level] == 0)
			continue;
		*i = (unsigned)__builtin_ctzll(w->used[*level]);
		unsigned low = *level * BITS, high = low + BITS;
		uint64_t above = high < 64 ? (uint64_t)w->now_ms >> high << high : 0;
		*begins_ms = (int64_t)(above | (uint64_t)*i << low);
		return true;
	}
	return false;
}

/* The wheel stands at the slot's beginning: what is due now goes to `firing`, the rest one level
 * down. */
static void open_slot(struct wheel *w, unsigned level, unsigned i)
{
	struct wheel_node *head = &w->slot[level][i];
	w->used[level] &= ~(UINT64_C(1) << i);
	while (!ring_empty(head)) {
		struct wheel_node *node = head->next;
		ring_remove(node);
		if (node->at_ms <= w->now_ms)
			ring_add(&w->firing, node);
		else
			insert(w, node);
	}
}

static void fire(struct wheel *w, wheel_fn *fn, void *ctx)
{
	while (!ring_empty(&w->firing)) {
		struct wheel_node *node = w->firing.next;
		ring_remove(node);
		fn(ctx, node); /* may free it, and may cancel those still in `firing` */
	}
}

void wheel_advance(struct wheel *w, int64_t now_ms, wheel_fn *fn, void *ctx)
{
	must(!w->advancing);
	w->advancing = true;
	while (!ring_empty(&w->late)) {
		struct wheel_node *node = w->late.next;
		ring_remove(node);
		ring_add(&w->firing, node);
	}
	fire(w, fn, ctx);
	unsigned level, i;
	int64_t begins_ms;
	while (next_slot(w, &level, &i, &begins_ms) && begins_ms <= now_ms) {
		w->now_ms = begins_ms;
		open_slot(w, level, i);
		fire(w, fn, ctx);
	}
	if (now_ms > w->now_ms)
		w->now_ms = now_ms;
	w->advancing = false;
}

int64_t wheel_next_ms(const struct wheel *w)
{
	unsigned level, i;
	int64_t begins_ms;
	if (!ring_empty(&w->late) || !ring_empty(&w->firing))
		return w->now_ms;
	return next_slot(w, &level, &i, &begins_ms) ? begins_ms : INT64_MAX;
}

/* SPDX-License-Identifier: ISC */
/*
 * The wheel against a plain list: random adds, re-arms, cancels, also inside callbacks, and random
 * jumps of time from 0 to centuries. After each jump both must agree about who has fired, and the
 * wheel's next time must never lie behind the list's earliest.
 */
#include "common/check.h"
#include "common/wheel.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { NODES = 300 };

struct item {
	struct wheel_node node;
	bool armed; /* the model's view */
	int64_t at_ms;
};

struct world {
	struct wheel *wheel;
	struct item items[NODES];
	uint64_t seed;
	int64_t now_ms;	   /* of the last wheel_advance() */
	int64_t target_ms; /* of the running one */
	int64_t last_fired_ms;
	bool advancing;
	size_t fired, chained;
};

static uint64_t random_u64(struct world *w)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed;
}

/* Mostly small, sometimes up to 2^60: every level of the wheel is reached. */
static int64_t random_delay(struct world *w)
{
	unsigned bits = (unsigned)(random_u64(w) % 61);
	if (random_u64(w) % 3 != 0)
		bits %= 14;
	return (int64_t)(random_u64(w) & ((UINT64_C(1) << bits) - 1));
}

static int64_t later(int64_t from, int64_t delay)
{
	return delay > INT64_MAX - from ? INT64_MAX : from + delay;
}

static void arm(struct world *w, struct item *it, int64_t at_ms)
{
	wheel_add(w->wheel, &it->node, at_ms);
	it->armed = true;
	it->at_ms = at_ms;
	assert_true(wheel_armed(&it->node));
}

static void disarm(struct world *w, struct item *it)
{
	wheel_cancel(w->wheel, &it->node);
	it->armed = false;
	assert_false(wheel_armed(&it->node));
}

static struct item *random_item(struct world *w)
{
	return &w->items[random_u64(w) % NODES];
}

static void on_fire(void *ctx, struct wheel_node *node)
{
	struct world *w = ctx;
	struct item *it = (struct item *)((char *)node - offsetof(struct item, node));
	assert_true(w->advancing);
	assert_true(it->armed);
	assert_false(wheel_armed(node));
	assert_true(it->at_ms <= w->target_ms);
	if (it->at_ms > w->now_ms) { /* not late when it was added: order of time */
		assert_true(it->at_ms >= w->last_fired_ms);
		w->last_fired_ms = it->at_ms;
	}
	it->armed = false;
	w->fired++;
	switch (random_u64(w) % 6) {
	case 0: /* itself again, maybe within this same jump */
		arm(w, it, later(it->at_ms, random_delay(w)));
		w->chained++;
		break;
	case 1:
		disarm(w, random_item(w));
		break;
	case 2:
		arm(w, random_item(w), later(w->target_ms, random_delay(w)));
		break;
	case 3: /* already late */
		arm(w, random_item(w), it->at_ms);
		break;
	default:
		break;
	}
}

static int64_t earliest(const struct world *w)
{
	int64_t at = INT64_MAX;
	for (size_t i = 0; i < NODES; i++)
		if (w->items[i].armed && w->items[i].at_ms < at)
			at = w->items[i].at_ms;
	return at;
}

static bool any_armed(const struct world *w)
{
	for (size_t i = 0; i < NODES; i++)
		if (w->items[i].armed)
			return true;
	return false;
}

static void check_next(const struct world *w)
{
	int64_t next = wheel_next_ms(w->wheel);
	if (!any_armed(w)) {
		assert_true(next == INT64_MAX);
		return;
	}
	int64_t due = earliest(w);
	assert_true(next <= (due > w->now_ms ? due : w->now_ms));
	assert_true(next >= w->now_ms);
}

static void advance(struct world *w, int64_t to_ms)
{
	w->target_ms = to_ms;
	w->last_fired_ms = 0;
	w->advancing = true;
	wheel_advance(w->wheel, to_ms, on_fire, w);
	w->advancing = false;
	w->now_ms = to_ms;
}

/* What is still due was added late by a callback: it fires in the next call, which is due at once.
 */
static void settle(struct world *w)
{
	for (int i = 0; i < 1000 && earliest(w) <= w->now_ms; i++) {
		assert_true(wheel_next_ms(w->wheel) <= w->now_ms);
		advance(w, w->now_ms);
	}
	assert_true(earliest(w) > w->now_ms || !any_armed(w) || w->now_ms == INT64_MAX);
}

static void run_seed(uint64_t seed)
{
	struct world w = {.seed = seed * 0x9e3779b97f4a7c15 + 1};
	w.now_ms = (int64_t)(random_u64(&w) >> (1 + random_u64(&w) % 50)) / 4;
	w.wheel = wheel_new(w.now_ms);
	for (int step = 0; step < 400; step++) {
		for (unsigned n = (unsigned)(random_u64(&w) % 20); n > 0; n--) {
			int64_t delay = random_delay(&w);
			if (random_u64(&w) % 8 == 0)
				disarm(&w, random_item(&w));
			else if (random_u64(&w) % 16 == 0)
				arm(&w, random_item(&w), w.now_ms / 2);
			else
				arm(&w, random_item(&w), later(w.now_ms, delay));
		}
		check_next(&w);
		int64_t to = later(w.now_ms, random_delay(&w));
		if (random_u64(&w) % 2 == 0 && wheel_next_ms(w.wheel) < to)
			to = wheel_next_ms(w.wheel); /* as the loop does */
		advance(&w, to);
		settle(&w);
		check_next(&w);
	}
	assert_true(w.fired > 100);
	wheel_free(&w.wheel);
	assert_null(w.wheel);
}

static void agrees_with_a_list(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++)
		run_seed(seed);
}

struct log {
	struct wheel *wheel;
	int64_t at[64];
	size_t n;
};

static void note(void *ctx, struct wheel_node *node)
{
	struct log *log = ctx;
	must(log->n < COUNT_OF(log->at));
	log->at[log->n++] = node->at_ms;
}

static void fires_in_order_over_a_long_jump(void **state)
{
	static const int64_t at[] = {5, 70, 4095, 4096, 4097, 1000000, 86400000, INT64_C(1) << 40};
	struct wheel_node nodes[COUNT_OF(at)] = {0};
	struct log log = {.wheel = wheel_new(3)};
	(void)state;
	for (size_t i = COUNT_OF(at); i > 0; i--)
		wheel_add(log.wheel, &nodes[i - 1], at[i - 1]);
	assert_int_equal(wheel_next_ms(log.wheel), 5);
	wheel_advance(log.wheel, 4, note, &log);
	assert_int_equal(log.n, 0);
	wheel_advance(log.wheel, INT64_C(1) << 50, note, &log);
	assert_int_equal(log.n, COUNT_OF(at));
	for (size_t i = 0; i < COUNT_OF(at); i++)
		assert_int_equal(log.at[i], at[i]);
	assert_true(wheel_next_ms(log.wheel) == INT64_MAX);
	wheel_free(&log.wheel);
}

static void takes_the_end_of_time(void **state)
{
	struct wheel_node far = {0}, near = {0};
	struct log log = {.wheel = wheel_new(0)};
	(void)state;
	wheel_add(log.wheel, &far, INT64_MAX);
	wheel_add(log.wheel, &near, 1);
	wheel_advance(log.wheel, INT64_MAX - 1, note, &log);
	assert_int_equal(log.n, 1);
	assert_true(wheel_armed(&far));
	wheel_advance(log.wheel, INT64_MAX, note, &log);
	assert_int_equal(log.n, 2);
	wheel_free(&log.wheel);
}

static void rearm_for_now(void *ctx, struct wheel_node *node)
{
	struct log *log = ctx;
	note(ctx, node);
	wheel_add(log->wheel, node, node->at_ms);
}

/* A callback that always re-arms itself for now runs once a call, and the wheel never sleeps on it.
 */
static void rearming_for_now_does_not_hang(void **state)
{
	struct wheel_node node = {0};
	struct log log = {.wheel = wheel_new(100)};
	(void)state;
	wheel_add(log.wheel, &node, 100);
	for (size_t i = 1; i < 5; i++) {
		assert_true(wheel_next_ms(log.wheel) <= 100);
		wheel_advance(log.wheel, 100, rearm_for_now, &log);
		assert_int_equal(log.n, i);
	}
	wheel_cancel(log.wheel, &node);
	assert_true(wheel_next_ms(log.wheel) == INT64_MAX);
	wheel_cancel(log.wheel, &node);
	wheel_free(&log.wheel);
}

/* Time that goes backwards fires nothing and breaks nothing. */
static void ignores_time_going_back(void **state)
{
	struct wheel_node node = {0};
	struct log log = {.wheel = wheel_new(1000)};
	(void)state;
	wheel_add(log.wheel, &node, 1500);
	wheel_advance(log.wheel, 400, note, &log);
	assert_int_equal(log.n, 0);
	wheel_advance(log.wheel, 1500, note, &log);
	assert_int_equal(log.n, 1);
	wheel_free(&log.wheel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(agrees_with_a_list),
	    cmocka_unit_test(fires_in_order_over_a_long_jump),
	    cmocka_unit_test(takes_the_end_of_time),
	    cmocka_unit_test(rearming_for_now_does_not_hang),
	    cmocka_unit_test(ignores_time_going_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * What tenants may bring: random tenants, times, reloads and numbers of processes, against a count
 * by brute force. No window holds more than its share and the burst, whatever is forgotten.
 */
#include "smtpd/rates.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { TAKES = 300, WORLDS = 200, TENANTS = 3000 };
#define START_MS INT64_C(5000)

static uint64_t seed = 88172645463325252u;
static uint64_t draw(uint64_t below)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return (seed >> 11) % below;
}

static struct tenant limited(char *name, struct rate msg, struct rate rcpt, struct rate data)
{
	return (struct tenant){.name = name, .in = {{msg, "m"}, {rcpt, "r"}, {data, "d"}}};
}

static void no_window_exceeds(void **state)
{
	static int64_t at[TAKES];

	(void)state;
	for (int world = 0; world < WORLDS; world++) {
		struct rate r = {1 + draw(20), 1 + draw(10), (int64_t)(1 + draw(5000))};
		char name[] = "acme", other_name[] = "beta";
		struct tenant t = limited(name, r, (struct rate){0}, (struct rate){0});
		struct tenant other = limited(other_name, r, r, r);
		struct rates *rates = rates_new();
		int64_t now = START_MS;
		size_t n = 0;

		for (int i = 0; i < 20 * TAKES && n < TAKES; i++) {
			now += (int64_t)draw((uint64_t)r.per_ms / r.n + 2);
			if (draw(3) == 0)
				rates_take(rates, &other, 1, 1, now); /* sweeps, too */
			if (rates_check(rates, &t, 1, 1, now) == IN_MSG)
				continue;
			rates_take(rates, &t, 1, 1000, now);
			at[n++] = now;
		}
		assert_true(n > 1);
		for (size_t i = 0; i < n; i++)
			for (size_t j = i; j < n; j++)
				assert_true(
				    (int64_t)(j - i + 1) * r.per_ms <=
				    (int64_t)r.burst * r.per_ms + (at[j] - at[i]) * (int64_t)r.n);
		rates_free(&rates);
	}
}

static void each_limit_by_itself(void **state)
{
	char name[] = "acme", free_name[] = "free";
	struct rate slow = {1, 10, 1000}, none = {0};
	struct tenant t = limited(name, (struct rate){1, 100, 1000}, slow, none);
	struct tenant free_one = limited(free_name, none, none, none);
	struct rates *rates = rates_new();

	(void)state;
	assert_int_equal(rates_check(rates, &t, 1, 500, 0), IN_RATES); /* more than it ever holds */
	rates_take(rates, &t, 4, 1, 0);
	assert_int_equal(rates_check(rates, &t, 1, 7, 0), IN_RCPT);
	assert_int_equal(rates_check(rates, &t, 1, 6, 0), IN_RATES);
	assert_int_equal(rates_check(rates, &t, 1, 500, 3999), IN_RCPT);
	assert_int_equal(rates_check(rates, &t, 1, 500, 4000), IN_RATES);
	rates_take(rates, &t, 500, 1, 4000); /* overdrawn by 490: pays for it */
	assert_int_equal(rates_check(rates, &t, 1, 1, 4000 + 490999), IN_RCPT);
	assert_int_equal(rates_check(rates, &t, 1, 1, 4000 + 491000), IN_RATES);

	t = limited(name, none, none, (struct rate){1000, 1000, 1000});
	rates_take(rates, &t, 1, 5000, 500000);
	assert_int_equal(rates_check(rates, &t, 1, 1, 504000), IN_DATA);
	assert_int_equal(rates_check(rates, &t, 1, 1, 504001), IN_RATES);

	rates_take(rates, &free_one, 1000, 1 << 30, 500000);
	assert_int_equal(rates_check(rates, &free_one, 1, 1000, 500000), IN_RATES);
	assert_int_equal(rates_count(rates), 1);
	rates_free(&rates);
}

static void a_reload_changes_the_rate_only(void **state)
{
	char name[] = "acme";
	struct rate none = {0};
	struct tenant before = limited(name, (struct rate){1, 5, 1000}, none, none),
		      after = limited(name, (struct rate){1, 500, 1000}, none, none);
	struct rates *rates = rates_new();

	(void)state;
	for (int i = 0; i < 5; i++)
		rates_take(rates, &before, 1, 1, 0);
	assert_int_equal(rates_check(rates, &before, 1, 1, 0), IN_MSG);
	assert_int_equal(rates_check(rates, &after, 1, 1, 999), IN_MSG);
	assert_int_equal(rates_check(rates, &after, 1, 1, 1000), IN_RATES);
	rates_free(&rates);
}

/* Thousands come and go: all are found, and what is full again is soon forgotten. */
static void idle_ones_are_forgotten(void **state)
{
	static struct tenant all[TENANTS];
	static char names[TENANTS][16];
	struct rate r = {1, 2, 1000}, none = {0};
	struct rates *rates = rates_new();
	char last[] = "last";
	struct tenant one = limited(last, r, none, none);

	(void)state;
	for (int i = 0; i < TENANTS; i++) {
		snprintf(names[i], sizeof(names[i]), "t%d", i);
		all[i] = limited(names[i], r, none, none);
		rates_take(rates, &all[i], 1, 1, 0);
		rates_take(rates, &all[i], 1, 1, 0);
	}
	assert_int_equal(rates_count(rates), TENANTS);
	for (int i = 0; i < TENANTS; i++)
		assert_int_equal(rates_check(rates, &all[i], 1, 1, 0), IN_MSG);
	for (int i = 0; i < 2 * TENANTS; i++)
		rates_take(rates, &one, 1, 1, 10000);
	assert_int_equal(rates_count(rates), 1);
	for (int i = 0; i < TENANTS; i++)
		assert_int_equal(rates_check(rates, &all[i], 1, 1, 10000), IN_RATES);
	rates_free(&rates);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_window_exceeds),
	    cmocka_unit_test(each_limit_by_itself),
	    cmocka_unit_test(a_reload_changes_the_rate_only),
	    cmocka_unit_test(idle_ones_are_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * Token buckets against a count by brute force: whatever the rate and the times, no window holds
 * more than its share and the burst; whoever takes at once what is there gets all of it.
 */
#include "common/bucket.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#define START_MS INT64_C(1700000000000)

enum { TAKES = 400, WORLDS = 400 };

static uint64_t seed = 88172645463325252u;
static uint64_t draw(uint64_t below)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return (seed >> 11) % below;
}

static struct rate any_rate(void)
{
	static const int64_t times[] = {1, 7, 1000, 60000, 900000, 3600000, 86400000};
	struct rate r = {1 + draw(draw(2) ? 20 : 100000), 1 + draw(draw(2) ? 3 : 500), 0};

	r.per_ms = times[draw(COUNT_OF(times))] * (int64_t)(1 + draw(3));
	return r;
}

struct take {
	int64_t at;
	uint64_t n;
};

/* At most B + N / T * length in any window that begins and ends with a take. */
static void check_windows(const struct take *takes, size_t n, const struct rate *r)
{
	for (size_t i = 0; i < n; i++) {
		level_t sum = 0;

		for (size_t j = i; j < n; j++) {
			level_t span = takes[j].at - takes[i].at;

			sum += takes[j].n;
			assert_true(sum * r->per_ms <=
				    (level_t)r->burst * r->per_ms + span * (level_t)r->n);
		}
	}
}

static int64_t pause_for(const struct rate *r)
{
	switch (draw(4)) {
	case 0:
		return 0;
	case 1:
		return (int64_t)draw(5);
	case 2:
		return (int64_t)draw((uint64_t)r->per_ms / r->n + 2);
	default:
		return (int64_t)draw(2 * (uint64_t)r->per_ms + 1);
	}
}

static void restart(struct bucket *b)
{
	struct buf out;
	struct rd in;

	buf_init(&out, 1000);
	bucket_encode(b, &out);
	in = rd_of(out.p, out.n);
	memset(b, 0x55, sizeof(*b));
	assert_int_equal(bucket_decode(b, &in), 0);
	buf_fini(&out);
}

static void no_window_exceeds(void **state)
{
	static struct take takes[TAKES];

	(void)state;
	for (int world = 0; world < WORLDS; world++) {
		struct rate r = any_rate();
		struct bucket b;
		int64_t now = START_MS + (int64_t)draw(1000000);

		bucket_init(&b, &r, INT64_MAX, now);
		for (size_t i = 0; i < TAKES; i++) {
			uint64_t there;

			now += pause_for(&r);
			there = bucket_tokens(&b, now);
			assert_true(there <= r.burst);
			takes[i] = (struct take){now, draw(2) ? there : draw(there + 1)};
			bucket_take(&b, takes[i].n, now);
			if (draw(20) == 0)
				restart(&b);
			if (draw(20) == 0)
				bucket_change(&b, &r, now); /* the same again */
		}
		check_windows(takes, TAKES, &r);
	}
}

/* Taken as soon as it is there: nothing is lost, and bucket_when() says when to the millisecond. */
static void all_of_it_can_be_used(void **state)
{
	(void)state;
	for (int world = 0; world < WORLDS; world++) {
		struct rate r = any_rate();
		struct bucket b;
		int64_t start = START_MS, now = start;
		uint64_t taken = 0;

		bucket_init(&b, &r, INT64_MAX, now);
		for (int i = 0; i < TAKES; i++) {
			uint64_t there = bucket_tokens(&b, now);

			if (there == 0) {
				int64_t at = bucket_when(&b, 1, now);

				assert_true(at > now);
				assert_int_equal(bucket_tokens(&b, at - 1), 0);
				assert_true(bucket_tokens(&b, at) >= 1);
				now = at;
				there = bucket_tokens(&b, now);
			}
			bucket_take(&b, there, now);
			taken += there;
		}
		/* A token a millisecond at most, and room for what comes within one. */
		if ((uint64_t)r.per_ms >= r.n && r.burst >= 2) {
			level_t due =
			    (level_t)(now - start) * (level_t)r.n / r.per_ms + (level_t)r.burst;

			assert_true(due - (level_t)taken <= 1);
		}
	}
}

/* Never more than was there, and in the end the new rate. */
static void another_rate_adds_nothing(void **state)
{
	(void)state;
	for (int world = 0; world < 20 * WORLDS; world++) {
		struct rate r = any_rate(), other = any_rate();
		struct bucket b;
		uint64_t before;

		bucket_init(&b, &r, draw(2) ? INT64_MAX : START_MS, START_MS);
		bucket_take(&b, draw(bucket_tokens(&b, START_MS) + 1), START_MS);
		before = bucket_tokens(&b, START_MS);
		bucket_change(&b, &other, START_MS);
		assert_true(bucket_tokens(&b, START_MS) <= before);
		bucket_change(&b, &r, START_MS);
		assert_true(bucket_tokens(&b, START_MS) <= before);
	}
}

static void an_overdrawn_one_takes_longer(void **state)
{
	struct rate r = {1000, 1000, 1000};
	struct bucket b;

	(void)state;
	bucket_init(&b, &r, INT64_MAX, START_MS);
	bucket_take(&b, 5000, START_MS);
	assert_int_equal(bucket_tokens(&b, START_MS + 4000), 0);
	assert_int_equal(bucket_when(&b, 1, START_MS), START_MS + 4001);
	restart(&b);
	assert_int_equal(bucket_when(&b, 1, START_MS), START_MS + 4001);
	assert_int_equal(bucket_full_ms(&b, START_MS), START_MS + 5000);
}

static void damaged_levels_are_refused(void **state)
{
	struct rate r = {1000, 1000, 1000};
	struct bucket b;
	struct buf out;
	int refused = 0;

	(void)state;
	buf_init(&out, 1000);
	bucket_init(&b, &r, INT64_MAX, START_MS);
	bucket_encode(&b, &out);
	for (size_t n = 0; n < out.n; n++) {
		struct rd in = rd_of(out.p, n);

		assert_int_equal(bucket_decode(&b, &in), -EBADMSG);
	}
	for (int i = 0; i < 100000; i++) { /* whatever is taken can be reckoned with */
		struct rd in;
		size_t at = draw(out.n);
		unsigned char was = out.p[at];

		out.p[at] = (unsigned char)draw(256);
		in = rd_of(out.p, out.n);
		if (bucket_decode(&b, &in) != 0) {
			refused++;
		} else {
			bucket_change(&b, &r, START_MS);
			assert_true(bucket_tokens(&b, START_MS) <= 1000);
			assert_true(bucket_when(&b, 1, START_MS) >= START_MS);
		}
		out.p[at] = was;
	}
	assert_true(refused > 1000);
	buf_fini(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_window_exceeds),
	    cmocka_unit_test(all_of_it_can_be_used),
	    cmocka_unit_test(another_rate_adds_nothing),
	    cmocka_unit_test(an_overdrawn_one_takes_longer),
	    cmocka_unit_test(damaged_levels_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

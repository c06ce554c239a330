/* SPDX-License-Identifier: ISC */
/* The cache over virtual time, against a model, and its bounds. */
#include "resolver/cache.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint8_t key[16] = {4, 3};

static struct answer *address(enum answer_status status, uint32_t ttl)
{
	struct answer *a = answer_new(status);
	a->ttl_s = ttl;
	return a;
}

static void ttl_bounds(void **state)
{
	static const struct {
		enum answer_status status;
		uint32_t ttl, want;
	} cases[] = {
	    {ANSWER_OK, 0, CACHE_TTL_FLOOR_S},
	    {ANSWER_OK, 300, 300},
	    {ANSWER_OK, INT32_MAX, CACHE_TTL_CEILING_S},
	    {ANSWER_ALIAS, 86400, CACHE_TTL_CEILING_S},
	    {ANSWER_NODATA, 0, CACHE_TTL_FLOOR_S},
	    {ANSWER_NODATA, 86400, CACHE_NEGATIVE_CEILING_S},
	    {ANSWER_NXDOMAIN, 60, 60},
	    {ANSWER_FAILED, 86400, CACHE_FAILED_S},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct answer *a = address(cases[i].status, cases[i].ttl);
		assert_int_equal(cache_ttl(a), cases[i].want);
		answer_unref(&a);
	}
}

/* 200,000 steps over 40 names: what is found is the latest that was put, and never past its time.
 */
static void property(void **state)
{
	enum { NAMES = 40, STEPS = 200000 };
	struct model {
		struct answer *a;
		int64_t until;
	} model[NAMES] = {{0}};
	struct cache *c = cache_new(1000, 1000000, key);
	uint64_t seed = 1;
	int64_t now = 1000;
	unsigned found = 0;
	(void)state;
	for (int i = 0; i < STEPS; i++) {
		seed = seed * 6364136223846793005U + 1442695040888963407U;
		unsigned n = (unsigned)(seed >> 33) % NAMES, ttl = (unsigned)(seed >> 50) % 100;
		char name[32];
		snprintf(name, sizeof(name), "n%u.example", n / 2);
		uint16_t type = n % 2 ? RR_A : RR_MX;
		now += (int64_t)((seed >> 45) & 511);
		if ((seed >> 20) % 8 == 0) {
			struct answer *a = address(ANSWER_OK, ttl);
			answer_unref(&model[n].a);
			model[n].a = answer_ref(a);
			model[n].until = now + 1000 * (int64_t)cache_put(c, name, type, a, now);
			answer_unref(&a);
			continue;
		}
		uint32_t left = 0;
		struct answer *a = cache_find(c, name, type, now, &left);
		bool live = model[n].a != NULL && model[n].until > now;
		assert_ptr_equal(a, live ? model[n].a : NULL);
		if (live) {
			found++;
			assert_true(left >= 1 && now + (int64_t)left * 1000 >= model[n].until &&
				    now + ((int64_t)left - 1) * 1000 < model[n].until);
		}
	}
	assert_true(found > STEPS / 4);
	for (int i = 0; i < NAMES; i++)
		answer_unref(&model[i].a);
	cache_free(&c);
	assert_null(c);
}

static void a_million_names_stay_bounded(void **state)
{
	enum { NAMES = 1000000, ENTRIES = 1000, BYTES = 200000 };
	struct cache *c = cache_new(ENTRIES, BYTES, key);
	(void)state;
	for (int i = 0; i < NAMES; i++) {
		char name[32];
		uint32_t left;
		struct answer *a = address(ANSWER_OK, 300);
		snprintf(name, sizeof(name), "n%d.example", i);
		cache_put(c, name, RR_A, a, 0);
		answer_unref(&a);
		assert_true(cache_count(c) <= ENTRIES && cache_used_bytes(c) <= BYTES);
		assert_non_null(cache_find(c, name, RR_A, 0, &left)); /* the newest always stays */
		if (i > 0)					      /* what is used stays */
			assert_non_null(cache_find(c, "n0.example", RR_A, 0, &left));
	}
	cache_free(&c);
}

static void flush(void **state)
{
	struct cache *c = cache_new(100, 100000, key);
	struct answer *mx = address(ANSWER_OK, 300), *a = address(ANSWER_OK, 300);
	uint32_t left;
	(void)state;
	mx->mx = xcalloc(1, sizeof(*mx->mx));
	mx->mx[0].name = xstrdup("mx.example");
	mx->count = 1;
	cache_put(c, "d.example", RR_MX, mx, 0);
	cache_put(c, "mx.example", RR_A, a, 0);
	cache_put(c, "mx.example", RR_AAAA, a, 0);
	cache_put(c, "e.example", RR_A, a, 0);
	assert_int_equal(cache_flush(c, "d.example"), 3);
	assert_null(cache_find(c, "mx.example", RR_A, 0, &left));
	assert_non_null(cache_find(c, "e.example", RR_A, 0, &left));
	assert_int_equal(cache_flush(c, NULL), 1);
	assert_int_equal(cache_used_bytes(c), 0);
	answer_unref(&mx);
	answer_unref(&a);
	cache_free(&c);
}

/* The vector of the paper's appendix A. */
static void siphash_vector(void **state)
{
	uint8_t k[16], in[15];
	(void)state;
	for (uint8_t i = 0; i < 16; i++)
		k[i] = i;
	for (uint8_t i = 0; i < 15; i++)
		in[i] = i;
	assert_true(siphash(k, in, 15) == UINT64_C(0xa129ca6149be45e5));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ttl_bounds),
	    cmocka_unit_test(property),
	    cmocka_unit_test(a_million_names_stay_bounded),
	    cmocka_unit_test(flush),
	    cmocka_unit_test(siphash_vector),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

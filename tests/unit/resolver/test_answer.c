/* SPDX-License-Identifier: ISC */
/* DNS answers, honest and hostile: what becomes of each. */
#include "tests/unit/resolver/packet.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { OK = 0x8180, AD = 0x81a0, NX = 0x8183, FAIL = 0x8182 };
static struct packet k;

static struct answer *parse(const char *name, uint16_t type, int want)
{
	struct answer *a = NULL;
	uint8_t *exact = malloc(k.n + 1); /* so that a reader past the end is seen by sanitizers */
	memcpy(exact, k.p, k.n);
	assert_int_equal(answer_parse(&a, exact, k.n, name, type), want);
	free(exact);
	if (want != 0)
		assert_null(a);
	return a;
}

static void sorted_and_bounded(void **state)
{
	(void)state;
	pk_reply(&k, AD, "d.example", RR_MX);
	pk_mx(&k, "D.Example", 20, "b.example", 300);
	pk_mx(&k, "d.example", 10, "C.example", 100);
	pk_mx(&k, "d.example", 10, "a.example", 200);
	pk_mx(&k, "d.example", 10, "a.example", 200);
	pk_mx(&k, "other.example", 1, "evil.example", 1);
	pk_opt(&k, 0);
	struct answer *a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_OK);
	assert_true(a->secure);
	assert_int_equal(a->count, 3);
	assert_string_equal(a->mx[0].name, "a.example");
	assert_string_equal(a->mx[1].name, "c.example");
	assert_string_equal(a->mx[2].name, "b.example");
	assert_int_equal(a->ttl_s, 100);
	answer_unref(&a);
}

static void ten_thousand_mx_keep_the_best_hundred(void **state)
{
	(void)state;
	char host[40];
	pk_reply(&k, OK, "d", RR_MX);
	unsigned n = 0;
	for (; n < 10000 && k.n < 65000; n++) {
		snprintf(host, sizeof(host), "h%u", n % 5000);
		pk_mx(&k, "d", 60000 - n, host, 60);
	}
	struct answer *a = parse("d", RR_MX, 0);
	assert_int_equal(a->count, ANSWER_MX_MAX);
	assert_int_equal(a->mx[0].preference, 60000 - (n - 1));
	assert_int_equal(a->refused, n - ANSWER_MX_MAX);
	answer_unref(&a);
}

static void null_mx(void **state)
{
	(void)state;
	pk_reply(&k, OK, "d.example", RR_MX);
	pk_mx(&k, "d.example", 0, "", 300);
	struct answer *a = parse("d.example", RR_MX, 0);
	assert_true(a->null_mx);
	answer_unref(&a);
	pk_mx(&k, "d.example", 10, "mx.example", 300); /* beside others it is ignored */
	a = parse("d.example", RR_MX, 0);
	assert_false(a->null_mx);
	assert_int_equal(a->count, 1);
	assert_string_equal(a->mx[0].name, "mx.example");
	answer_unref(&a);
}

static void bad_names_are_refused(void **state)
{
	static const struct {
		const char *wire;
		size_t n;
	} bad[] = {
	    {"\x04"
	     "a\0bc\0",
		6}, /* NUL */
	    {"\x04"
	     "a\nbc\0",
		6}, /* newline */
	    {"\x04"
	     "a bc\0",
		6}, /* blank */
	    {"\x04"
	     "a.bc\0",
		6}, /* dot inside a label */
	    {"\x04"
	     "a/bc\0",
		6},
	    {"\x04"
	     "a%bc\0",
		6},
	    {"\x04"
	     "a\x1b[m\0",
		6}, /* terminal code */
	    {"\x04"
	     "a\xc3\xa9z\0",
		6}, /* 8-bit */
	    {"\x04"
	     "a\\bc\0",
		6},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		pk_reply(&k, OK, "d.example", RR_MX);
		size_t at = pk_rr(&k, AT_ANSWERS, "d.example", RR_MX, 60);
		pk_u16(&k, 10);
		pk_bytes(&k, bad[i].wire, bad[i].n);
		pk_end(&k, at);
		struct answer *a = parse("d.example", RR_MX, 0);
		assert_int_equal(a->status, ANSWER_OK); /* there are MX records: no implicit MX */
		assert_int_equal(a->count, 0);
		assert_int_equal(a->refused, 1);
		answer_unref(&a);
	}
}

static void names_at_their_bounds(void **state)
{
	uint8_t wire[300];
	char text[NAME_TEXT];
	size_t n = 0;
	(void)state;
	for (int i = 0; i < 4; i++) { /* 3 × 63 + 61, with lengths and root 255 */
		uint8_t label = i < 3 ? 63 : 61;
		wire[n++] = label;
		memset(wire + n, 'x', label);
		n += label;
	}
	wire[n++] = 0;
	assert_int_equal(n, 255);
	assert_int_equal(name_from_wire(text, wire, n), 0);
	uint8_t back[NAME_WIRE];
	assert_int_equal(name_to_wire(back, text), 255);
	assert_memory_equal(back, wire, 255);
	assert_int_equal(name_from_wire(text, wire, 254), -EINVAL);
	wire[0] = 64;
	assert_int_equal(name_from_wire(text, wire, n), -EINVAL);
	assert_int_equal(name_from_text(text, STR("a..b")), -EINVAL);
	assert_int_equal(name_from_text(text, STR("")), -EINVAL);
	assert_int_equal(name_from_text(text, STR(".")), -EINVAL);
	assert_int_equal(name_from_text(text, STR("a.b..")), -EINVAL);
	assert_int_equal(name_from_text(text, STR("A.b.")), 0);
	assert_string_equal(text, "a.b");
	assert_int_equal(name_from_text(text, (struct str){"a\0b", 3}), -EINVAL);
}

static void rdata_of_every_length(void **state)
{
	static const uint16_t types[] = {
	    RR_A, RR_AAAA, RR_MX, RR_CNAME, RR_SOA, 52 /* TLSA */, 33 /* SRV */, 41};
	(void)state;
	for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
		for (unsigned n = 0; n <= 40; n++) {
			pk_reply(&k, OK, "d.example", types[t]);
			size_t at = pk_rr(&k, AT_ANSWERS, "d.example", types[t], 60);
			for (unsigned i = 0; i < n; i++)
				pk_u8(&k, i);
			pk_end(&k, at);
			struct answer *a = NULL;
			int rc = answer_parse(&a, k.p, k.n, "d.example", types[t]);
			if (types[t] == RR_A || types[t] == RR_AAAA)
				assert_int_equal(
				    rc, n == (types[t] == RR_A ? 4 : 16) ? 0 : -EBADMSG);
			answer_unref(&a);
		}
	}
}

static void cut_at_every_offset(void **state)
{
	(void)state;
	pk_reply(&k, OK, "d.example", RR_MX);
	pk_cname(&k, "d.example", "e.example", 60);
	pk_mx(&k, "e.example", 10, "mx.e.example", 60);
	pk_soa(&k, "example", 60, 60);
	pk_opt(&k, 0);
	size_t whole = k.n;
	for (size_t n = 0; n < whole; n++) {
		k.n = n;
		parse("d.example", RR_MX, -EBADMSG);
	}
}

static void compression(void **state)
{
	(void)state;
	/* pointers to themselves, forward, beyond the packet, in circles: refused, and quickly */
	static const unsigned targets[] = {29, 31, 40, 4000, 0x3fff, 12};
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		pk_reply(&k, OK, "d.example", RR_MX); /* ends at 27 */
		size_t at = pk_rr(&k, AT_ANSWERS, "", RR_MX, 60);
		pk_u16(&k, 10);
		pk_u16(&k, 0xc000 | targets[i]);
		pk_end(&k, at);
		k.p[27] = 0xc0; /* the owner: a pointer to the question */
		memmove(k.p + 29, k.p + 28, k.n - 28);
		k.p[28] = 12;
		k.n++;
		struct answer *a = NULL;
		if (answer_parse(&a, k.p, k.n, "d.example", RR_MX) == 0)
			assert_true(a->count <= 1);
		answer_unref(&a);
	}
}

static void counts_beyond_the_content(void **state)
{
	(void)state;
	for (size_t section = AT_ANSWERS; section <= AT_ADDITIONAL; section += 2) {
		pk_reply(&k, OK, "d.example", RR_MX);
		pk_mx(&k, "d.example", 10, "mx.example", 60);
		pk_set16(&k, section, 65535);
		parse("d.example", RR_MX, -EBADMSG);
	}
}

static void chain_inside_the_answer(void **state)
{
	(void)state;
	pk_reply(&k, OK, "w.example", RR_A);
	pk_cname(&k, "b.example", "c.example", 50);
	pk_cname(&k, "w.example", "b.example", 70);
	pk_a(&k, "c.example", 1, 60);
	pk_a(&k, "x.example", 2, 1);
	struct answer *a = parse("w.example", RR_A, 0);
	assert_int_equal(a->status, ANSWER_OK);
	assert_int_equal(a->aliases, 2);
	assert_int_equal(a->count, 1);
	assert_int_equal(a->ttl_s, 50);
	answer_unref(&a);
}

static void chains_too_long(void **state)
{
	char from[32], to[32];
	(void)state;
	for (unsigned length = 1; length <= 20; length++) {
		pk_reply(&k, OK, "n0.example", RR_A);
		for (unsigned i = 0; i < length; i++) {
			snprintf(from, sizeof(from), "n%u.example", i);
			snprintf(to, sizeof(to), "n%u.example", i + 1);
			pk_cname(&k, from, to, 60);
		}
		pk_a(&k, to, 1, 60);
		struct answer *a = parse("n0.example", RR_A, 0);
		assert_int_equal(a->status, length <= ALIAS_MAX ? ANSWER_OK : ANSWER_FAILED);
		answer_unref(&a);
	}
	pk_reply(&k, OK, "a.example", RR_A); /* a circle */
	pk_cname(&k, "a.example", "b.example", 60);
	pk_cname(&k, "b.example", "a.example", 60);
	struct answer *a = parse("a.example", RR_A, 0);
	assert_int_equal(a->status, ANSWER_FAILED);
	answer_unref(&a);
}

static void chain_that_leaves_the_answer(void **state)
{
	(void)state;
	pk_reply(&k, OK, "a.example", RR_A);
	pk_cname(&k, "a.example", "b.other", 60);
	struct answer *a = parse("a.example", RR_A, 0);
	assert_int_equal(a->status, ANSWER_ALIAS);
	assert_string_equal(a->alias, "b.other");
	answer_unref(&a);
	pk_soa(&k, "other", 60, 30); /* the server says that there is nothing behind it */
	a = parse("a.example", RR_A, 0);
	assert_int_equal(a->status, ANSWER_NODATA);
	assert_int_equal(a->ttl_s, 30);
	answer_unref(&a);
}

static void negative_answers(void **state)
{
	(void)state;
	pk_reply(&k, NX, "d.example", RR_MX);
	pk_soa(&k, "example", 900, 120);
	struct answer *a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_NXDOMAIN);
	assert_int_equal(a->ttl_s, 120);
	answer_unref(&a);

	pk_reply(&k, OK, "d.example", RR_MX);
	pk_soa(&k, "example", 90, 120);
	a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_NODATA);
	assert_int_equal(a->ttl_s, 90);
	answer_unref(&a);

	pk_reply(&k, OK, "d.example", RR_MX); /* without an SOA it holds no time at all */
	a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_NODATA);
	assert_int_equal(a->ttl_s, 0);
	answer_unref(&a);

	pk_reply(&k, FAIL, "d.example", RR_MX);
	a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_FAILED);
	answer_unref(&a);

	pk_reply(&k, OK, "d.example", RR_MX); /* BADVERS: the basic code alone says success */
	pk_opt(&k, 1);
	a = parse("d.example", RR_MX, 0);
	assert_int_equal(a->status, ANSWER_FAILED);
	answer_unref(&a);
}

static void a_referral_is_no_answer(void **state)
{
	(void)state;
	pk_reply(&k, 0x8100, "d.example", RR_MX);
	size_t at = pk_rr(&k, AT_AUTHORITY, "example", 2, 60);
	pk_name(&k, "ns.example");
	pk_end(&k, at);
	parse("d.example", RR_MX, -EBADMSG);
}

static void ttl_with_the_top_bit_is_zero(void **state)
{
	(void)state;
	pk_reply(&k, OK, "d.example", RR_A);
	pk_a(&k, "d.example", 1, 0x80000000UL);
	struct answer *a = parse("d.example", RR_A, 0);
	assert_int_equal(a->ttl_s, 0);
	answer_unref(&a);
}

static void addresses_are_bounded(void **state)
{
	(void)state;
	pk_reply(&k, OK, "d.example", RR_AAAA);
	for (unsigned i = 0; i < 200; i++)
		pk_aaaa(&k, "d.example", i, 60);
	struct answer *a = parse("d.example", RR_AAAA, 0);
	assert_int_equal(a->count, ANSWER_ADDRESSES_MAX);
	assert_int_equal(a->address[0].family, 6);
	answer_unref(&a);
}

static void queries_and_what_matches_them(void **state)
{
	uint8_t qname[NAME_WIRE], query[QUERY_MAX];
	(void)state;
	int n = name_to_wire(qname, "d.example");
	size_t length = answer_query(query, 0x1234, qname, (size_t)n, RR_MX, true);
	assert_int_equal(length, 12 + n + 4 + 11);
	assert_int_equal(query[3], 0x20);
	struct {
		const char *what;
		size_t at;
		uint8_t value;
		bool want;
	} cases[] = {
	    {"as sent", 0, 0x12, true},
	    {"wrong id", 1, 0x35, false},
	    {"a query", 2, 0x01, false},
	    {"another opcode", 2, 0xa1, false},
	    {"no question", 5, 0, false},
	    {"two questions", 5, 2, false},
	    {"another name", 13, 'e', false},
	    {"another case", 13, 'D', true},
	    {"another type", 24, 1, false},
	    {"another class", 26, 3, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		pk_reply(&k, OK, "d.example", RR_MX);
		k.p[cases[i].at] = cases[i].value;
		if (answer_matches(k.p, k.n, 0x1234, qname, (size_t)n, RR_MX) != cases[i].want)
			fail_msg("%s", cases[i].what);
	}
	pk_reply(&k, OK, "d.example", RR_MX);
	for (size_t cut = 0; cut < k.n; cut++)
		assert_false(answer_matches(k.p, cut, 0x1234, qname, (size_t)n, RR_MX));
}

/* Flips, cuts and splices of honest packets: no crash, and what comes out is within its bounds. */
static void mutations(void **state)
{
	uint64_t seed = 43;
	(void)state;
	for (int i = 0; i < 20000; i++) {
		pk_reply(&k, OK, "d.example", RR_MX);
		pk_cname(&k, "d.example", "e.example", 60);
		pk_mx(&k, "e.example", 10, "mx.e.example", 60);
		pk_mx(&k, "e.example", 20, "", 60);
		pk_soa(&k, "example", 60, 60);
		pk_opt(&k, 0);
		for (int m = 0; m < 4; m++) {
			seed = seed * 6364136223846793005U + 1442695040888963407U;
			k.p[(seed >> 33) % k.n] = (uint8_t)(seed >> 20);
		}
		struct answer *a = NULL;
		if (answer_parse(&a, k.p, k.n, "d.example", RR_MX) == 0)
			assert_true(a->count <= ANSWER_MX_MAX);
		answer_unref(&a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sorted_and_bounded),
	    cmocka_unit_test(ten_thousand_mx_keep_the_best_hundred),
	    cmocka_unit_test(null_mx),
	    cmocka_unit_test(bad_names_are_refused),
	    cmocka_unit_test(names_at_their_bounds),
	    cmocka_unit_test(rdata_of_every_length),
	    cmocka_unit_test(cut_at_every_offset),
	    cmocka_unit_test(compression),
	    cmocka_unit_test(counts_beyond_the_content),
	    cmocka_unit_test(chain_inside_the_answer),
	    cmocka_unit_test(chains_too_long),
	    cmocka_unit_test(chain_that_leaves_the_answer),
	    cmocka_unit_test(negative_answers),
	    cmocka_unit_test(a_referral_is_no_answer),
	    cmocka_unit_test(ttl_with_the_top_bit_is_zero),
	    cmocka_unit_test(addresses_are_bounded),
	    cmocka_unit_test(queries_and_what_matches_them),
	    cmocka_unit_test(mutations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

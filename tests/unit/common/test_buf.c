/* SPDX-License-Identifier: ISC */
/* Buffer, cursor and counted strings: bounds, sticky errors, and that what goes in comes out. */
#include "common/buf.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void numbers_are_big_endian_and_come_back(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 100);
	buf_u8(&b, 0x01);
	buf_u16(&b, 0x0203);
	buf_u32(&b, 0x04050607);
	buf_u64(&b, 0x08090a0b0c0d0e0f);
	assert_int_equal(b.n, 15);
	for (unsigned i = 0; i < 15; i++)
		assert_int_equal(b.p[i], i + 1);
	struct rd r = rd_of(b.p, b.n);
	assert_int_equal(rd_u8(&r), 0x01);
	assert_int_equal(rd_u16(&r), 0x0203);
	assert_int_equal(rd_u32(&r), 0x04050607);
	assert_true(rd_u64(&r) == 0x08090a0b0c0d0e0f);
	assert_false(r.bad);
	assert_int_equal(r.n, 0);
	buf_fini(&b);
}

static void what_passes_max_is_not_written(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 5);
	buf_cstr(&b, "abcd");
	buf_u16(&b, 1);
	assert_true(b.failed);
	assert_int_equal(b.n, 4);
	buf_u8(&b, 1); /* would fit: but the error sticks */
	assert_int_equal(b.n, 4);
	buf_reset(&b);
	assert_false(b.failed);
	buf_cstr(&b, "abcde");
	assert_false(b.failed);
	assert_int_equal(b.n, 5);
	assert_null(buf_reserve(&b, SIZE_MAX));
	assert_true(b.failed);
	buf_fini(&b);
	assert_null(b.p);
}

static void counted_strings_are_whole_or_not_there(void **state)
{
	struct buf b;
	char *big = xcalloc(1, 65536);
	(void)state;
	buf_init(&b, 10);
	buf_str16(&b, STR("123456789"));
	assert_true(b.failed);
	assert_int_equal(b.n, 0);
	buf_reset(&b);
	buf_str16(&b, STR("12345678"));
	assert_false(b.failed);
	assert_int_equal(b.n, 10);
	buf_fini(&b);
	buf_init(&b, 100000);
	buf_str16(&b, (struct str){big, 65536});
	assert_true(b.failed);
	buf_reset(&b);
	buf_str16(&b, (struct str){big, 65535});
	assert_false(b.failed);
	buf_fini(&b);
	free(big);
}

static void strings_come_back(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 1000);
	buf_str16(&b, STR("short"));
	buf_str32(&b, STR(""));
	buf_str32(&b, (struct str){NULL, 0});
	buf_str32(&b, STR("long\0er"));
	struct rd r = rd_of(b.p, b.n);
	assert_true(str_eq(rd_str16(&r), STR("short")));
	assert_int_equal(rd_str32(&r).n, 0);
	assert_int_equal(rd_str32(&r).n, 0);
	assert_true(str_eq(rd_str32(&r), STR("long\0er")));
	assert_false(r.bad);
	buf_fini(&b);
}

static void grows_without_losing_anything(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 1000000);
	for (uint32_t i = 0; i < 250000; i++)
		buf_u32(&b, i);
	assert_false(b.failed);
	assert_int_equal(b.n, 1000000);
	struct rd r = rd_of(b.p, b.n);
	for (uint32_t i = 0; i < 250000; i++)
		assert_int_equal(rd_u32(&r), i);
	buf_u8(&b, 1);
	assert_true(b.failed);
	buf_fini(&b);
}

static void prints(void **state)
{
	struct buf b;
	char text[400];
	(void)state;
	memset(text, 'x', sizeof(text));
	text[399] = '\0';
	buf_init(&b, 1000);
	buf_printf(&b, "%d %s", 42, "is it");
	assert_true(str_eq((struct str){(char *)b.p, b.n}, STR("42 is it")));
	buf_printf(&b, "%s", text);
	assert_int_equal(b.n, 8 + 399);
	buf_printf(&b, "%s%s", text, text);
	assert_true(b.failed);
	assert_int_equal(b.n, 8 + 399);
	buf_fini(&b);
}

static void consumes_from_the_front(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 100);
	buf_cstr(&b, "abcdef");
	buf_consume(&b, 0);
	buf_consume(&b, 2);
	assert_true(str_eq((struct str){(char *)b.p, b.n}, STR("cdef")));
	buf_consume(&b, 4);
	assert_int_equal(b.n, 0);
	buf_u32(&b, 0);
	buf_set_u32(&b, 0, 0xdeadbeef);
	assert_int_equal(b.p[0], 0xde);
	assert_int_equal(b.p[3], 0xef);
	buf_fini(&b);
}

static void a_short_cursor_reads_zeros(void **state)
{
	const unsigned char bytes[] = {0, 5, 'a', 'b', 'c'};
	struct rd r = rd_of(bytes, sizeof(bytes));
	(void)state;
	assert_int_equal(rd_str16(&r).n, 0);
	assert_true(r.bad);
	assert_int_equal(rd_u8(&r), 0);
	assert_int_equal(rd_u64(&r), 0);
	assert_int_equal(rd_bytes(&r, 0).n, 0);
	assert_true(r.bad);
	r = rd_of(NULL, 0);
	assert_int_equal(rd_bytes(&r, 0).n, 0);
	assert_false(r.bad);
	assert_int_equal(rd_bytes(&r, SIZE_MAX).n, 0);
	assert_true(r.bad);
}

static void parses_numbers(void **state)
{
	static const struct {
		const char *text;
		unsigned long long max;
		int rc;
		unsigned long long value;
	} cases[] = {
	    {"0", 0, 0, 0},
	    {"00012", 100, 0, 12},
	    {"100", 100, 0, 100},
	    {"101", 100, -ERANGE, 0},
	    {"7", 3, -ERANGE, 0},
	    {"18446744073709551615", UINT64_MAX, 0, UINT64_MAX},
	    {"18446744073709551616", UINT64_MAX, -ERANGE, 0},
	    {"99999999999999999999999", UINT64_MAX, -ERANGE, 0},
	    {"", 9, -EINVAL, 0},
	    {"-1", 9, -EINVAL, 0},
	    {"+1", 9, -EINVAL, 0},
	    {" 1", 9, -EINVAL, 0},
	    {"1x", 9, -EINVAL, 0},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		unsigned long long v = 0;
		int rc = str_number(str_of(cases[i].text), cases[i].max, &v);
		if (rc != cases[i].rc || (rc == 0 && v != cases[i].value))
			fail_msg("%s: %d, %llu", cases[i].text, rc, v);
	}
}

static void compares_copies_and_cuts(void **state)
{
	char small[4];
	(void)state;
	assert_true(str_eq_nocase(STR("MaIl"), STR("mAiL")));
	assert_false(str_eq_nocase(STR("mail"), STR("mails")));
	assert_false(str_eq_nocase(STR("@"), STR("`"))); /* differ by the case bit only */
	assert_false(str_eq_nocase(STR("\xc4"), STR("\xe4")));
	assert_true(str_starts_nocase(STR("SIZE=10"), STR("size=")));
	assert_false(str_starts_nocase(STR("SIZ"), STR("size=")));
	assert_int_equal(str_copy(small, sizeof(small), STR("abcdef")), 3);
	assert_string_equal(small, "abc");
	assert_int_equal(str_copy(small, 0, STR("x")), 0);
	assert_int_equal(str_copy(small, 1, STR("x")), 0);
	assert_string_equal(small, "");
	struct str list = STR("a,,b");
	assert_true(str_eq(str_cut(&list, ','), STR("a")));
	assert_true(str_eq(str_cut(&list, ','), STR("")));
	assert_true(str_eq(str_cut(&list, ','), STR("b")));
	assert_int_equal(list.n, 0);
	assert_int_equal(str_cut(&list, ',').n, 0);
	char *copy = str_dup((struct str){NULL, 0});
	assert_string_equal(copy, "");
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(numbers_are_big_endian_and_come_back),
	    cmocka_unit_test(what_passes_max_is_not_written),
	    cmocka_unit_test(counted_strings_are_whole_or_not_there),
	    cmocka_unit_test(strings_come_back),
	    cmocka_unit_test(grows_without_losing_anything),
	    cmocka_unit_test(prints),
	    cmocka_unit_test(consumes_from_the_front),
	    cmocka_unit_test(a_short_cursor_reads_zeros),
	    cmocka_unit_test(parses_numbers),
	    cmocka_unit_test(compares_copies_and_cuts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

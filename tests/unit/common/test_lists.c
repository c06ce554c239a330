/* SPDX-License-Identifier: ISC */
/* The lists inside ROUTE and RESULT, the names of enumerations, the clocks. */
#include "common/clock.h"
#include "common/msg.h"
#include "common/result.h"
#include "common/route.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct route_host host(void)
{
	struct route_host h = {.preference = 10, .port = 2525, .secure = 1, .address_count = 2};
	str_copy(h.name, sizeof(h.name), STR("mx.example.com"));
	must(route_address_parse(&h.address[0], STR("192.0.2.1")) == 0);
	must(route_address_parse(&h.address[1], STR("2001:db8::1")) == 0);
	return h;
}

static void hosts_come_back(void **state)
{
	struct route_host h = host(), bare = {.preference = 20}, back;
	struct buf b;
	char text[64];
	(void)state;
	str_copy(bare.name, sizeof(bare.name), STR("[192.0.2.9]"));
	buf_init(&b, 65536);
	route_put_host(&b, &h);
	route_put_host(&b, &bare);
	struct rd r = rd_of(b.p, b.n);
	assert_int_equal(route_take_host(&r, &back), 1);
	assert_memory_equal(&back, &h, sizeof(h));
	route_address_print(text, &back.address[0]);
	assert_string_equal(text, "192.0.2.1");
	route_address_print(text, &back.address[1]);
	assert_string_equal(text, "2001:db8::1");
	assert_int_equal(route_take_host(&r, &back), 1);
	assert_memory_equal(&back, &bare, sizeof(bare));
	assert_int_equal(route_take_host(&r, &back), 0);
	buf_fini(&b);
}

static void cut_hosts_are_refused(void **state)
{
	struct route_host h = host(), back;
	struct buf b;
	(void)state;
	buf_init(&b, 65536);
	route_put_host(&b, &h);
	for (size_t n = 1; n < b.n; n++) {
		struct rd r = rd_of(b.p, n);
		assert_int_equal(route_take_host(&r, &back), -EBADMSG);
		assert_int_equal(route_take_host(&r, &back), -EBADMSG);
	}
	buf_fini(&b);
}

/* Every host the table allows fits into ROUTE's field. */
static void the_longest_list_fits(void **state)
{
	struct route_host h = host();
	struct buf b;
	(void)state;
	memset(h.name, 'a', 255);
	h.address_count = ROUTE_ADDRESSES_MAX;
	for (size_t i = 0; i < ROUTE_ADDRESSES_MAX; i++)
		h.address[i] = h.address[1];
	buf_init(&b, 65536);
	for (int i = 0; i < ROUTE_HOSTS_MAX; i++)
		route_put_host(&b, &h);
	assert_false(b.failed);
	buf_fini(&b);
}

static int take_broken(size_t at, unsigned char value)
{
	struct route_host h = host(), back;
	struct buf b;
	buf_init(&b, 65536);
	route_put_host(&b, &h);
	b.p[at] = value;
	struct rd r = rd_of(b.p, b.n);
	int rc = route_take_host(&r, &back);
	buf_fini(&b);
	return rc;
}

static void broken_hosts_are_refused(void **state)
{
	(void)state;
	assert_int_equal(take_broken(4, 2), -EBADMSG);	  /* secure */
	assert_int_equal(take_broken(5, 0), -EBADMSG);	  /* no name */
	assert_int_equal(take_broken(6, '\n'), -EBADMSG); /* name */
	assert_int_equal(take_broken(6, 0), -EBADMSG);
	assert_int_equal(take_broken(6, 0xe4), -EBADMSG);
	assert_int_equal(take_broken(6, ' '), -EBADMSG);
	assert_int_equal(take_broken(20, 17), -EBADMSG); /* addresses */
	assert_int_equal(take_broken(21, 5), -EBADMSG);	 /* family */
	assert_int_equal(take_broken(6, 'n'), 1);
}

static void parses_addresses(void **state)
{
	struct route_address a;
	(void)state;
	assert_int_equal(route_address_parse(&a, STR("127.0.0.1")), 0);
	assert_int_equal(a.family, 4);
	assert_int_equal(route_address_parse(&a, STR("::ffff:1.2.3.4")), 0);
	assert_int_equal(a.family, 6);
	static const char *const bad[] = {"", "1.2.3", "1.2.3.4 ", "01.2.3.4.5", "::g", "localhost",
	    "1111111111111111111111111111111111111111111111111111111111111111111111"};
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(route_address_parse(&a, str_of(bad[i])), -EINVAL);
	assert_int_equal(route_address_parse(&a, STR("1.2.3.4\0")), -EINVAL);
}

/* --- results --- */

static struct rcpt_result result(void)
{
	return (struct rcpt_result){.ordinal = 7,
	    .verdict = VERDICT_FAILED,
	    .stage = STAGE_RCPT,
	    .past_dot = 1,
	    .notify = 3 * 2,
	    .code = 550,
	    .status = STR("5.1.1"),
	    .text = STR("550 5.1.1 no such user \xc3\xa9"),
	    .said_by = STR("mx.example.com"),
	    .address = STR("a@b"),
	    .orcpt = STR("rfc822;a@b")};
}

static void results_come_back(void **state)
{
	struct rcpt_result in = result(), out;
	struct buf b;
	(void)state;
	buf_init(&b, 65536);
	result_put(&b, &in);
	in.relayed = 1;
	result_put(&b, &in);
	struct rd r = rd_of(b.p, b.n);
	assert_int_equal(result_take(&r, &out), 1);
	assert_int_equal(out.ordinal, 7);
	assert_int_equal(out.verdict, VERDICT_FAILED);
	assert_int_equal(out.stage, STAGE_RCPT);
	assert_true(out.past_dot && !out.relayed);
	assert_int_equal(out.notify, 6);
	assert_int_equal(out.code, 550);
	assert_true(str_eq(out.status, in.status) && str_eq(out.text, in.text));
	assert_true(str_eq(out.said_by, in.said_by) && str_eq(out.address, in.address));
	assert_true(str_eq(out.orcpt, in.orcpt));
	assert_int_equal(result_take(&r, &out), 1);
	assert_true(out.past_dot && out.relayed);
	assert_int_equal(result_take(&r, &out), 0);
	for (size_t n = 1; n < b.n / 2; n++) {
		r = rd_of(b.p, n);
		assert_int_equal(result_take(&r, &out), -EBADMSG);
	}
	buf_fini(&b);
}

static void remote_text_becomes_one_bounded_line(void **state)
{
	struct rcpt_result in = result(), out;
	char text[2000];
	struct buf b;
	(void)state;
	memset(text, 'x', sizeof(text));
	memcpy(text, "a\r\nb\0c\x7f\x1b[2J", 11);
	in.text = (struct str){text, sizeof(text)};
	in.address = (struct str){text, sizeof(text)};
	buf_init(&b, 65536);
	result_put(&b, &in);
	struct rd r = rd_of(b.p, b.n);
	assert_int_equal(result_take(&r, &out), 1);
	assert_int_equal(out.text.n, REPLY_TEXT_MAX);
	assert_memory_equal(out.text.p, "a??b?c??[2J", 11);
	assert_int_equal(out.address.n, RESULT_ADDRESS_MAX);
	buf_fini(&b);
}

/* RESULT and BOUNCE take the longest list that a peer's replies can make of RESULT_RCPTS_MAX. */
static void the_longest_results_fit(void **state)
{
	char text[2000];
	struct buf b, frame;
	(void)state;
	memset(text, 'x', sizeof(text));
	struct str all = {text, sizeof(text)};
	struct rcpt_result in = {
	    .status = all, .text = all, .said_by = all, .address = all, .orcpt = all};
	buf_init(&b, SIZE_MAX / 2);
	buf_init(&frame, 4 + MSG_FRAME_MAX);
	result_put(&b, &in);
	assert_int_equal(b.n, RESULT_ENTRY_MAX);
	for (int i = 1; i < RESULT_RCPTS_MAX; i++)
		result_put(&b, &in);
	struct str list = {(const char *)b.p, b.n};
	msg_encode_result(&frame, &(struct msg_result){.results = list}); /* aborts when too long */
	assert_false(frame.failed);
	buf_reset(&frame);
	msg_encode_bounce(&frame, &(struct msg_bounce){.rcpts = list});
	assert_false(frame.failed);
	buf_fini(&frame);
	buf_fini(&b);
}

static int take_result_with(size_t at, unsigned char value)
{
	struct rcpt_result in = result(), out;
	struct buf b;
	buf_init(&b, 65536);
	result_put(&b, &in);
	b.p[at] = value;
	struct rd r = rd_of(b.p, b.n);
	int rc = result_take(&r, &out);
	buf_fini(&b);
	return rc;
}

static void broken_results_are_refused(void **state)
{
	(void)state;
	assert_int_equal(take_result_with(2, VERDICT_COUNT), -EBADMSG);
	assert_int_equal(take_result_with(3, STAGE_COUNT), -EBADMSG);
	assert_int_equal(take_result_with(4, 4), -EBADMSG);
	assert_int_equal(take_result_with(5, 16), -EBADMSG);
	assert_int_equal(take_result_with(6, 3), -EBADMSG); /* code 768 and more */
	assert_int_equal(take_result_with(10, '\n'), -EBADMSG);
	assert_int_equal(take_result_with(9, 17), -EBADMSG); /* status too long */
	assert_int_equal(take_result_with(1, 8), 1);
}

static void enumerations_have_names(void **state)
{
	(void)state;
	assert_string_equal(proc_name(PROC_MASTER), "master");
	assert_string_equal(proc_name(PROC_smtp_out), "smtp-out");
	assert_string_equal(proc_name(PROC_COUNT), "?");
	assert_string_equal(proc_name(UINT32_MAX), "?");
	assert_string_equal(stage_name(STAGE_DOT), "dot");
	assert_string_equal(stage_name(STAGE_COUNT), "?");
	for (unsigned i = 0; i < STAGE_COUNT; i++)
		assert_string_not_equal(stage_name(i), "?");
	for (unsigned i = 0; i < PROC_COUNT; i++)
		assert_string_not_equal(proc_name(i), "?");
}

static void clocks_run_forward(void **state)
{
	int64_t mono = clock_mono_ms(), us = clock_mono_us(), steady = clock_steady_ms();
	(void)state;
	assert_true(clock_mono_ms() >= mono);
	assert_true(clock_mono_us() >= us && us / 1000 >= mono);
	assert_true(clock_steady_ms() >= steady);
	int64_t apart = clock_wall_ms() - clock_steady_ms();
	assert_true(apart > -60000 && apart < 60000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hosts_come_back),
	    cmocka_unit_test(cut_hosts_are_refused),
	    cmocka_unit_test(the_longest_list_fits),
	    cmocka_unit_test(broken_hosts_are_refused),
	    cmocka_unit_test(parses_addresses),
	    cmocka_unit_test(results_come_back),
	    cmocka_unit_test(remote_text_becomes_one_bounded_line),
	    cmocka_unit_test(the_longest_results_fit),
	    cmocka_unit_test(broken_results_are_refused),
	    cmocka_unit_test(enumerations_have_names),
	    cmocka_unit_test(clocks_run_forward),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

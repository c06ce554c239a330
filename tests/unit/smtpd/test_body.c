/* SPDX-License-Identifier: ISC */
/* Content: each case as a whole, and cut in two at every byte, and byte by byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "smtpd/body.h"

static const struct body_limits limits = {.content_max = 100000, .header_max = 5000, .hops_max = 3};

struct run {
	struct body b;
	struct buf out;
	bool ended;
	size_t left; /* bytes behind the end */
	enum answer answer;
};

/* Feeds text cut at the places of step (0: whole); at: the first cut. */
static void run(struct run *r, struct str text, bool chunked, size_t at, size_t step)
{
	memset(r, 0, sizeof(*r));
	buf_init(&r->out, 1 << 20);
	body_init(&r->b, &limits, &r->out, chunked);
	for (size_t done = 0; done < text.n && !r->ended;) {
		size_t n = at && done == 0 ? at : step ? step : text.n - done;
		n = n > text.n - done ? text.n - done : n;
		char *copy =
		    malloc(n ? n : 1); /* its own memory: reading beyond shows under ASan */
		memcpy(copy, text.p + done, n);
		struct str in = {copy, n};
		if (chunked)
			body_take_chunk(&r->b, in), in.n = 0;
		else
			r->ended = body_take_data(&r->b, &in);
		done += n - in.n;
		r->left = text.n - done;
		free(copy);
	}
	r->answer = body_end(&r->b);
}

static void check(struct str text, bool chunked, enum answer answer, struct str out, size_t left)
{
	struct run r;
	for (size_t k = 0; k <= text.n; k++) {
		run(&r, text, chunked, k == text.n ? 1 : k, k == text.n ? 1 : 0);
		if (r.answer != answer ||
		    (answer == ANSWER_NONE &&
			(r.out.n != out.n || (out.n && memcmp(r.out.p, out.p, out.n) != 0))))
			print_error("cut at %zu: '%.*s' gave %d '%.*s'\n", k, (int)text.n, text.p,
			    (int)r.answer, (int)r.out.n, (const char *)r.out.p);
		assert_int_equal(r.answer, answer);
		if (!chunked) {
			assert_true(r.ended);
			assert_int_equal(r.left, left);
		}
		if (answer == ANSWER_NONE) {
			assert_int_equal(r.out.n, out.n);
			if (out.n)
				assert_memory_equal(r.out.p, out.p, out.n);
			assert_int_equal(r.b.bytes, out.n);
		} else {
			assert_int_equal(r.out.n, 0);
		}
		buf_fini(&r.out);
	}
}

static const struct {
	const char *in, *out;
} data[] = {
    {".\r\n", ""},
    {"a: b\r\n\r\nx\r\n.\r\n", "a: b\r\n\r\nx\r\n"},
    {"a: b\r\n\r\n..\r\n...x\r\n.x\r\n.\r\n", "a: b\r\n\r\n..\r\n...x\r\n.x\r\n"},
    {"a: b\r\n.\r\n", "a: b\r\n"},
    {"\r\n\r\n\r\n.\r\n", "\r\n\r\n\r\n"},
    {"no header\r\n.\r\n", "\r\nno header\r\n"},
    {"a: b\r\nno header\r\nc: d\r\n.\r\n", "a: b\r\n\r\nno header\r\nc: d\r\n"},
    {" folded\r\na: b\r\n.\r\n", "\r\n folded\r\na: b\r\n"},
    {"..\r\n.\r\n", "\r\n..\r\n"},
    {"From a@b Mon\r\n>From c\r\na: b\r\n\r\nFrom x\r\n.\r\n", "a: b\r\n\r\nFrom x\r\n"},
    {"X-Job: j\r\na: b\r\n\r\nX-Job: k\r\n.\r\n", "a: b\r\n\r\nX-Job: k\r\n"},
    {"a: b\r\nx-job:\r\n j\r\n\tk\r\nX-TENANT : t\r\n \r\nc: d\r\n e\r\nX-EnvID: 1\r\n\r\n.\r\n",
	"a: b\r\nc: d\r\n e\r\n\r\n"},
    {"X-Virtual-MTA: m\r\n.\r\n", ""},
    {"X-Jobs: j\r\nX-Jo: k\r\nX: X-Job: j\r\n.\r\n", "X-Jobs: j\r\nX-Jo: k\r\nX: X-Job: j\r\n"},
};

static void test_data(void **state)
{
	char text[500];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(data); i++) {
		check(str_of(data[i].in), false, ANSWER_NONE, str_of(data[i].out), 0);
		strcpy(text, data[i].in); /* what follows stays */
		strcat(text, "QUIT\r\n");
		check(str_of(text), false, ANSWER_NONE, str_of(data[i].out), 6);
	}
}

/* The public set of smuggling sequences, and more of the kind: never an end, always a refusal. */
static const char *const false_ends[] = {"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n",
    "\r\n.\r", "\n.\r", "\r.\n", "\r\n\r.\r\n", "\r\r\n.\r\r\n", "\n\n.\r\n", "\r\n.\r\r\n",
    "\r\n.\n\r\n", "\n\r\n.\r\r\n", "\r", "\n", "\r\r\n", "\n\r"};

static void test_smuggling(void **state)
{
	char text[500];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(false_ends); i++) {
		snprintf(text, sizeof(text),
		    "a: b\r\n\r\nx%sMAIL FROM:<s@x.test>\r\nDATA\r\ny\r\n.\r\nQUIT\r\n",
		    false_ends[i]);
		check(str_of(text), false, ANSWER_BARE_CONTENT, STR(""), 6);
		snprintf(
		    text, sizeof(text), "a: b\r\n\r\nx%sMAIL FROM:<s@x.test>\r\n", false_ends[i]);
		check(str_of(text), true, ANSWER_BARE_CONTENT, STR(""), 0);
		snprintf(text, sizeof(text), "a: b%sc: d\r\n\r\n.\r\n",
		    false_ends[i]); /* in the header */
		check(str_of(text), false, ANSWER_BARE_CONTENT, STR(""), 0);
	}
}

static void test_chunks(void **state)
{
	static const struct {
		const char *in, *out;
		enum answer answer;
	} cases[] = {
	    {"", "", ANSWER_NONE},
	    {"a: b\r\n\r\n.\r\nx", "a: b\r\n\r\n..\r\nx\r\n", ANSWER_NONE},
	    {"a: b\r\n\r\n.x\r\n..\r\n", "a: b\r\n\r\n..x\r\n...\r\n", ANSWER_NONE},
	    {"a: b", "a: b\r\n", ANSWER_NONE},
	    {"a: b\r\n\r\n.", "a: b\r\n\r\n..\r\n", ANSWER_NONE},
	    {".\r\n", "\r\n..\r\n", ANSWER_NONE},
	    {"X-Job: k", "", ANSWER_NONE},
	    {"a: b\r", "", ANSWER_BARE_CONTENT},
	    {"\r\n.\r\nMAIL FROM:<x@y.test>\r\n", "\r\n..\r\nMAIL FROM:<x@y.test>\r\n",
		ANSWER_NONE},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		check(str_of(cases[i].in), true, cases[i].answer, str_of(cases[i].out), 0);
}

static void test_nul_and_eight_bit(void **state)
{
	struct run r;
	(void)state;
	check(STR("a: b\r\n\r\nx\0y\r\n.\r\n"), false, ANSWER_NUL_CONTENT, STR(""), 0);
	check(STR("\0\r\n.\r\n"), false, ANSWER_NUL_CONTENT, STR(""), 0);
	for (size_t at = 1; at < 40; at++) {
		char text[64];
		memset(text, 'x', sizeof(text));
		memcpy(text, "a: b\r\n\r\n", 8);
		text[8 + at] = (char)0xe4;
		memcpy(text + 59, "\r\n.\r\n", 5);
		run(&r, (struct str){text, 64}, false, 0, 0);
		assert_true(r.b.eight_bit && !r.b.header_eight_bit && r.answer == ANSWER_NONE);
		buf_fini(&r.out);
	}
	run(&r, STR("Subject: \xc3\xbc\r\n\r\nx\r\n.\r\n"), false, 0, 1);
	assert_true(r.b.eight_bit && r.b.header_eight_bit);
	buf_fini(&r.out);
	run(&r, STR("Subject: u\r\n\r\nx\r\n.\r\n"), false, 0, 1);
	assert_true(!r.b.eight_bit && !r.b.header_eight_bit);
	buf_fini(&r.out);
}

static void test_header_values(void **state)
{
	struct run r;
	(void)state;
	run(&r,
	    STR("Received: 1\r\nreceived : 2\r\nX-Received: 3\r\nDATE: now\r\nMessage-Id: \r\n "
		"<a@b>\r\n"
		"Message-ID: <second>\r\n more\r\nX-Job: one\r\nX-JOB:  two \r\n\t words  "
		"\r\nX-EnvID: e\xc3\xbc\x01\r\n"
		"X-Virtual-MTA: mta1\r\n\r\nDate: body\r\nX-Job: body\r\n.\r\n"),
	    false, 0, 3);
	assert_int_equal(r.answer, ANSWER_NONE);
	assert_int_equal(r.b.hops, 2);
	assert_true(r.b.has_date && r.b.has_message_id);
	assert_string_equal(r.b.message_id, "<a@b>");
	assert_string_equal(r.b.job, "two words");
	assert_int_equal(r.b.envid[0], 'e');
	for (const char *p = r.b.envid; *p; p++)
		assert_true(*p >= 0x20 && *p < 0x7f);
	assert_string_equal(r.b.vmta, "mta1");
	assert_int_equal(r.b.vmta_count, 1);
	buf_fini(&r.out);
}

static void test_limits(void **state)
{
	struct run r;
	struct buf text;
	(void)state;
	check(STR("Received: 1\r\nReceived: 2\r\nReceived: 3\r\n\r\n.\r\n"), false, ANSWER_NONE,
	    STR("Received: 1\r\nReceived: 2\r\nReceived: 3\r\n\r\n"), 0);
	check(STR("Received: 1\r\nReceived: 2\r\nReceived: 3\r\nReceived: 4\r\n\r\n.\r\n"), false,
	    ANSWER_LOOP, STR(""), 0);
	buf_init(&text, 1 << 24);
	for (int i = 0; i < 1000; i++) /* many short fields */
		buf_cstr(&text, "a: b\r\n");
	buf_cstr(&text, "\r\n.\r\nX");
	run(&r, (struct str){(char *)text.p, text.n}, false, 0, 100);
	assert_int_equal(r.answer, ANSWER_BIG_HEADER);
	assert_int_equal(r.left, 1);
	buf_fini(&r.out);
	buf_reset(&text); /* removed fields count as well, and one long one */
	for (int i = 0; i < 100; i++)
		buf_cstr(&text,
		    "X-Job: a long value of a field that is taken out of the header again\r\n");
	buf_cstr(&text, "\r\n.\r\n");
	run(&r, (struct str){(char *)text.p, text.n}, false, 0, 100);
	assert_int_equal(r.answer, ANSWER_BIG_HEADER);
	buf_fini(&r.out);
	buf_reset(&text);
	buf_cstr(&text, "a: ");
	for (int i = 0; i < 100000; i++)
		buf_u8(&text, 'x');
	run(&r, (struct str){(char *)text.p, text.n}, true, 0, 1000);
	assert_int_equal(r.answer, ANSWER_BIG_HEADER);
	assert_true(r.out.cap < 20000); /* it stopped growing */
	buf_fini(&r.out);
	buf_reset(&text); /* exactly the size, and one more */
	buf_cstr(&text, "\r\n");
	for (int i = 0; i < 999; i++)
		buf_printf(&text, "%0*d\r\n", 98, 0);
	buf_printf(&text, "%0*d\r\n", 96, 0);
	assert_int_equal(text.n, 100000);
	run(&r, (struct str){(char *)text.p, text.n}, true, 0, 777);
	assert_int_equal(r.answer, ANSWER_NONE);
	buf_fini(&r.out);
	buf_u8(&text, 'x');
	run(&r, (struct str){(char *)text.p, text.n}, true, 0, 777);
	assert_int_equal(r.answer, ANSWER_BIG);
	buf_fini(&r.out);
	buf_fini(&text);
}

static void test_long_line(void **state)
{
	struct body_limits large = {.content_max = 1 << 22, .header_max = 5000, .hops_max = 3};
	struct buf out;
	struct body b;
	char *line = malloc(CONTENT_LINE_MAX + 3);
	(void)state;
	memset(line, 'x', CONTENT_LINE_MAX + 3);
	for (int more = 0; more < 2; more++) {
		buf_init(&out, 1 << 23);
		body_init(&b, &large, &out, true);
		body_take_chunk(&b, STR("\r\n"));
		memcpy(line + CONTENT_LINE_MAX + more, "\r\n", 2);
		body_take_chunk(&b, (struct str){line, (size_t)(CONTENT_LINE_MAX + 2 + more)});
		assert_int_equal(body_end(&b), more ? ANSWER_LONG_CONTENT : ANSWER_NONE);
		buf_fini(&out);
		line[CONTENT_LINE_MAX] = 'x';
	}
	free(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_data),
	    cmocka_unit_test(test_smuggling),
	    cmocka_unit_test(test_chunks),
	    cmocka_unit_test(test_nul_and_eight_bit),
	    cmocka_unit_test(test_header_values),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_long_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

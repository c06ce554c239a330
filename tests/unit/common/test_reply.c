/* SPDX-License-Identifier: ISC */
/*
 * Replies, good and hostile, as a table. Each is parsed whole, byte by byte, and split once at each
 * place: the answer must always be the same, one bounded line without control characters.
 */
#include "common/reply.h"
#include "common/utf8.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define BYTES(s) (s), sizeof(s) - 1

struct row {
	const char *name, *in;
	size_t n;
	int done; /* 1, 0 or the error */
	unsigned code, lines;
	const char *status;
	bool has_status;
	const char *text;
};

static const struct row rows[] = {
    {"plain", BYTES("250 ok\r\n"), 1, 250, 1, "2.0.0", false, "250 ok"},
    {"enhanced", BYTES("550 5.1.1 no such user\r\n"), 1, 550, 1, "5.1.1", true,
	"550 5.1.1 no such user"},
    {"lines, codes said once", BYTES("550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n"), 1,
	550, 3, "5.7.1", true, "550 5.7.1 one two three"},
    {"another status on a later line", BYTES("550-5.7.1 one\r\n550 5.7.26 two\r\n"), 1, 550, 2,
	"5.7.1", true, "550 5.7.1 one 5.7.26 two"},
    {"status only on the second line", BYTES("550-hello\r\n550 5.7.26 two\r\n"), 1, 550, 2,
	"5.7.26", true, "550 hello 5.7.26 two"},
    {"the code's class wins", BYTES("421 5.7.32 from header\r\n"), 1, 421, 1, "4.7.32", true,
	"421 5.7.32 from header"},
    {"status without text", BYTES("550 5.7.2\r\n"), 1, 550, 1, "5.7.2", true, "550 5.7.2"},
    {"status 9.9.9", BYTES("550 9.9.9 x\r\n"), 1, 550, 1, "5.0.0", false, "550 9.9.9 x"},
    {"status too long", BYTES("550 5.1234.1 x\r\n"), 1, 550, 1, "5.0.0", false, "550 5.1234.1 x"},
    {"status cut", BYTES("550 5.1\r\n"), 1, 550, 1, "5.0.0", false, "550 5.1"},
    {"status glued", BYTES("550 5.1.1x\r\n"), 1, 550, 1, "5.0.0", false, "550 5.1.1x"},
    {"status of three digits", BYTES("550 5.123.456 x\r\n"), 1, 550, 1, "5.123.456", true,
	"550 5.123.456 x"},
    {"no text", BYTES("250\r\n"), 1, 250, 1, "2.0.0", false, "250"},
    {"blank text", BYTES("250   \r\n"), 1, 250, 1, "2.0.0", false, "250"},
    {"bare LF", BYTES("250 ok\n"), 1, 250, 1, "2.0.0", false, "250 ok"},
    {"empty lines within", BYTES("250-\r\n250-\r\n250 x\r\n"), 1, 250, 3, "2.0.0", false, "250 x"},
    {"250- only", BYTES("250-\r\n"), 0, 0, 0, NULL, false, NULL},
    {"what follows stays", BYTES("250 ok\r\n250 more"), 1, 250, 1, "2.0.0", false, "250 ok"},
    {"continued code of the same class", BYTES("250-a\r\n251 b\r\n"), 1, 251, 2, "2.0.0", false,
	"250 a b"},
    {"code changes class", BYTES("250-ok\r\n550 no\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"354", BYTES("354 go\r\n"), 1, 354, 1, "3.0.0", false, "354 go"},
    {"nothing", BYTES(""), 0, 0, 0, NULL, false, NULL},
    {"one byte", BYTES("2"), 0, 0, 0, NULL, false, NULL},
    {"three bytes", BYTES("250"), 0, 0, 0, NULL, false, NULL},
    {"four bytes", BYTES("250 "), 0, 0, 0, NULL, false, NULL},
    {"no line end", BYTES("250 ok"), 0, 0, 0, NULL, false, NULL},
    {"CR only", BYTES("250 ok\r250 x"), 0, 0, 0, NULL, false, NULL},
    {"CR within", BYTES("250 a\rb\r\n"), 1, 250, 1, "2.0.0", false, "250 a?b"},
    {"empty line", BYTES("\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"two digits", BYTES("25\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"code glued", BYTES("250ok\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"000", BYTES("000 x\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"199", BYTES("199 x\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"600", BYTES("600 x\r\n"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"not SMTP", BYTES("HTTP/1.1 400"), -EBADMSG, 0, 0, NULL, false, NULL},
    {"NUL", BYTES("250 a\0b\r\n"), 1, 250, 1, "2.0.0", false, "250 a?b"},
    {"escape codes", BYTES("250 \x1b[2Jx\x7f\r\n"), 1, 250, 1, "2.0.0", false, "250 ?[2Jx?"},
    {"tab", BYTES("250 a\tb\r\n"), 1, 250, 1, "2.0.0", false, "250 a b"},
    {"UTF-8", BYTES("550 5.1.1 gr\xc3\xbc\xc3\x9f\r\n"), 1, 550, 1, "5.1.1", true,
	"550 5.1.1 gr\xc3\xbc\xc3\x9f"},
    {"8-bit noise", BYTES("550 \xff\xfe\xc3\r\n"), 1, 550, 1, "5.0.0", false, "550 ???"},
    {"C1 control, line separator", BYTES("550 \xc2\x85\xe2\x80\xa8\r\n"), 1, 550, 1, "5.0.0", false,
	"550 ?????"},
};

static int parse_in_steps(
    const struct row *row, size_t first, size_t step, struct reply_parser *p, size_t *left)
{
	size_t have = first < row->n ? first : row->n, eaten = 0;
	reply_parser_init(p);
	for (;;) {
		/* a copy of the exact size: what reads past it is found by the sanitizer */
		char *copy = malloc(have - eaten + 1);
		memcpy(copy, row->in + eaten, have - eaten);
		struct str in = {copy, have - eaten};
		int done = reply_parse(p, &in, NULL, NULL);
		eaten = have - in.n;
		free(copy);
		*left = row->n - eaten;
		if (done != 0 || have == row->n)
			return done;
		have = have + step < row->n ? have + step : row->n;
	}
}

static void check_row(const struct row *row, size_t first, size_t step)
{
	struct reply_parser p;
	size_t left;
	int done = parse_in_steps(row, first, step, &p, &left);
	if (done != row->done)
		fail_msg("%s: %d, wanted %d", row->name, done, row->done);
	if (done != 1)
		return;
	if (p.reply.code != row->code || p.reply.lines != row->lines ||
	    p.reply.has_status != row->has_status || strcmp(p.reply.status, row->status) != 0 ||
	    strcmp(p.reply.text, row->text) != 0)
		fail_msg("%s: %u %u %s \"%s\"", row->name, p.reply.code, p.reply.lines,
		    p.reply.status, p.reply.text);
	assert_true(utf8_printable(str_of(p.reply.text)));
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rows); i++)
		for (size_t first = 0; first <= rows[i].n; first++) {
			check_row(&rows[i], first, rows[i].n + 1);
			check_row(&rows[i], first, 1);
		}
}

static int parse_all(struct reply_parser *p, const char *bytes, size_t n)
{
	struct str in = {bytes, n};
	reply_parser_init(p);
	return reply_parse(p, &in, NULL, NULL);
}

static void test_line_bound(void **state)
{
	(void)state;
	static char line[REPLY_LINE_MAX + 100];
	struct reply_parser p;
	memset(line, 'x', sizeof(line));
	memcpy(line, "250 ", 4);
	assert_int_equal(parse_all(&p, line, REPLY_LINE_MAX), 0);
	assert_int_equal(parse_all(&p, line, REPLY_LINE_MAX + 1), -E2BIG);
	assert_int_equal(parse_all(&p, line, sizeof(line)), -E2BIG);
	memcpy(line + REPLY_LINE_MAX - 1, "\r\n", 2);
	assert_int_equal(parse_all(&p, line, REPLY_LINE_MAX + 1), 1);
	assert_int_equal(strlen(p.reply.text), REPLY_TEXT_MAX);
}

static void count_line(void *ctx, unsigned line, struct str text)
{
	unsigned *lines = ctx;
	assert_int_equal(line, *lines);
	assert_true(str_eq(text, STR("KEYWORD x")));
	++*lines;
}

static void test_lines_bound(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 1 << 20);
	unsigned seen = 0;
	for (unsigned i = 0; i < REPLY_LINES_MAX - 1; i++)
		buf_cstr(&b, "250-KEYWORD x\r\n");
	size_t before = b.n;
	buf_cstr(&b, "250 KEYWORD x\r\n");
	struct reply_parser p;
	struct str in = {(const char *)b.p, b.n};
	reply_parser_init(&p);
	assert_int_equal(reply_parse(&p, &in, count_line, &seen), 1);
	assert_int_equal(seen, REPLY_LINES_MAX);
	b.n = before;
	buf_cstr(&b, "250-KEYWORD x\r\n250-KEYWORD x\r\n");
	assert_int_equal(parse_all(&p, (const char *)b.p, b.n), -E2BIG);
	buf_fini(&b);
}

/* A sequence that does not fit is left out whole. */
static void test_text_is_cut_between_characters(void **state)
{
	(void)state;
	char line[2000];
	struct reply_parser p;
	for (size_t pad = 0; pad < 4; pad++) {
		size_t n = (size_t)snprintf(line, sizeof(line), "250 %.*s", (int)pad, "aaaa");
		while (n < 1900) {
			memcpy(line + n, "\xe2\x82\xac", 3);
			n += 3;
		}
		line[n++] = '\n';
		assert_int_equal(parse_all(&p, line, n), 1);
		assert_true(utf8_printable(str_of(p.reply.text)));
		assert_true(strlen(p.reply.text) > REPLY_TEXT_MAX - 4 &&
			    strlen(p.reply.text) <= REPLY_TEXT_MAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_table),
	    cmocka_unit_test(test_line_bound),
	    cmocka_unit_test(test_lines_bound),
	    cmocka_unit_test(test_text_is_cut_between_characters),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

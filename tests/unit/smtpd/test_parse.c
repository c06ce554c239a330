/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "smtpd/parse.h"

static const struct {
	const char *line;
	enum verb verb;
	enum answer answer;
} lines[] = {
    {"EHLO a.test", VERB_EHLO, ANSWER_NONE},
    {"ehlo [127.0.0.1] more", VERB_EHLO, ANSWER_NONE},
    {"  HELO   a ", VERB_HELO, ANSWER_NONE},
    {"EHLO", VERB_EHLO, ANSWER_BAD_HELO},
    {"EHLO a<b", VERB_EHLO, ANSWER_BAD_HELO},
    {"EHLO a\x01", VERB_EHLO, ANSWER_CONTROL},
    {"EHLO \xc3\xbc", VERB_EHLO, ANSWER_CONTROL},
    {"EHLOX a", VERB_UNKNOWN, ANSWER_UNKNOWN},
    {"", VERB_UNKNOWN, ANSWER_UNKNOWN},
    {" ", VERB_UNKNOWN, ANSWER_UNKNOWN},
    {"MAIL FROM:<a@b.test>", VERB_MAIL, ANSWER_NONE},
    {"mail from:<>", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM: <a@b.test> ", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<\"a>b\"@b.test> SIZE=1", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<\"a\\\">b\"@b.test>", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:a@b.test", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL FROM:<a@b.test", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL FROM:<a@b.test>SIZE=1", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL FROM:<\"a@b.test>", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL FROM", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL TO:<a@b.test>", VERB_MAIL, ANSWER_BAD_MAIL},
    {"MAIL FROM:<a>", VERB_MAIL, ANSWER_BAD_SENDER},
    {"MAIL FROM:<a@b.test> SIZE=99999999999999999999", VERB_MAIL, ANSWER_BAD_SIZE},
    {"MAIL FROM:<a@b.test> SIZE=", VERB_MAIL, ANSWER_BAD_SIZE},
    {"MAIL FROM:<a@b.test> SIZE", VERB_MAIL, ANSWER_UNKNOWN_PARAMETER},
    {"MAIL FROM:<a@b.test> SIZE=1 SIZE=1", VERB_MAIL, ANSWER_TWICE_PARAMETER},
    {"MAIL FROM:<a@b.test> BODY=8bitmime", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<a@b.test> BODY=BINARYMIME", VERB_MAIL, ANSWER_BAD_BODY},
    {"MAIL FROM:<a@b.test> SMTPUTF8", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<a@b.test> SMTPUTF8=1", VERB_MAIL, ANSWER_UNKNOWN_PARAMETER},
    {"MAIL FROM:<a\xc3\xbc@b.test>", VERB_MAIL, ANSWER_NEEDS_UTF8},
    {"MAIL FROM:<a@b\xc3\xbc.test>", VERB_MAIL, ANSWER_NEEDS_UTF8},
    {"MAIL FROM:<a\xc3\xbc@b.test> SMTPUTF8", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<a\xff@b.test> SMTPUTF8", VERB_MAIL, ANSWER_BAD_SENDER},
    {"MAIL FROM:<a@b.test> RET=full", VERB_MAIL, ANSWER_NONE},
    {"MAIL FROM:<a@b.test> RET=ALL", VERB_MAIL, ANSWER_BAD_RET},
    {"MAIL FROM:<a@b.test> ENVID=", VERB_MAIL, ANSWER_BAD_ENVID},
    {"MAIL FROM:<a@b.test> ENVID=a+00", VERB_MAIL, ANSWER_BAD_ENVID},
    {"MAIL FROM:<a@b.test> ENVID=a+0A", VERB_MAIL, ANSWER_BAD_ENVID},
    {"MAIL FROM:<a@b.test> ENVID=\xc3\xbc", VERB_MAIL, ANSWER_BAD_ENVID},
    {"MAIL FROM:<a@b.test> AUTH=<>", VERB_MAIL, ANSWER_UNKNOWN_PARAMETER},
    {"MAIL FROM:<a@b.test> NOTIFY=NEVER", VERB_MAIL, ANSWER_UNKNOWN_PARAMETER},
    {"MAIL FROM:<a\x01@b.test>", VERB_MAIL, ANSWER_CONTROL},
    {"RCPT TO:<a@b.test>", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<Postmaster>", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<>", VERB_RCPT, ANSWER_BAD_ADDRESS},
    {"RCPT TO:<@a.test,@b.test:c@d.test>", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<a@b.test> NOTIFY=SUCCESS,failure,DELAY", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<a@b.test> NOTIFY=NEVER,DELAY", VERB_RCPT, ANSWER_BAD_NOTIFY},
    {"RCPT TO:<a@b.test> NOTIFY=DELAY,", VERB_RCPT, ANSWER_BAD_NOTIFY},
    {"RCPT TO:<a@b.test> NOTIFY=DELAY,DELAY", VERB_RCPT, ANSWER_BAD_NOTIFY},
    {"RCPT TO:<a@b.test> NOTIFY=", VERB_RCPT, ANSWER_BAD_NOTIFY},
    {"RCPT TO:<a@b.test> ORCPT=rfc822;a+2Bb@c.test", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<a@b.test> ORCPT=rfc822", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> ORCPT=;x", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> ORCPT=rfc822;+0A", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> ORCPT=rfc822;+00", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> ORCPT=rfc822;\xc3\xbc", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> ORCPT=utf-8;\xc3\xbc@c.test", VERB_RCPT, ANSWER_NONE},
    {"RCPT TO:<a@b.test> ORCPT=utf-8;\xff", VERB_RCPT, ANSWER_BAD_ORCPT},
    {"RCPT TO:<a@b.test> SIZE=1", VERB_RCPT, ANSWER_UNKNOWN_PARAMETER},
    {"DATA", VERB_DATA, ANSWER_NONE},
    {"DATA x", VERB_DATA, ANSWER_NO_ARGUMENT},
    {"BDAT 5", VERB_BDAT, ANSWER_NONE},
    {"BDAT 5 last", VERB_BDAT, ANSWER_NONE},
    {"BDAT 5 LASTX", VERB_BDAT, ANSWER_BAD_BDAT},
    {"BDAT", VERB_BDAT, ANSWER_BAD_BDAT},
    {"BDAT -1", VERB_BDAT, ANSWER_BAD_BDAT},
    {"BDAT 4294967296", VERB_BDAT, ANSWER_BAD_BDAT},
    {"BDAT 4294967297 LAST", VERB_BDAT, ANSWER_BAD_BDAT},
    {"BDAT 99999999999999999999999999", VERB_BDAT, ANSWER_BAD_BDAT},
    {"RSET", VERB_RSET, ANSWER_NONE},
    {"RSET x", VERB_RSET, ANSWER_NO_ARGUMENT},
    {"NOOP anything", VERB_NOOP, ANSWER_NONE},
    {"VRFY", VERB_VRFY, ANSWER_BAD_VRFY},
    {"VRFY x", VERB_VRFY, ANSWER_NONE},
    {"QUIT", VERB_QUIT, ANSWER_NONE},
    {"STARTTLS now", VERB_STARTTLS, ANSWER_NO_ARGUMENT},
};

static void test_lines(void **state)
{
	struct command c;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(lines); i++) {
		enum answer a = command_parse(&c, str_of(lines[i].line));
		if (c.verb != lines[i].verb || a != lines[i].answer)
			print_error("case %zu: '%s'\n", i, lines[i].line);
		assert_int_equal(c.verb, lines[i].verb);
		assert_int_equal(a, lines[i].answer);
	}
	assert_int_equal(command_parse(&c, STR("NOOP \0")), ANSWER_CONTROL);
	assert_int_equal(command_parse(&c, STR("MAIL FROM:<a@b.test>\0")), ANSWER_CONTROL);
}

static void test_values(void **state)
{
	struct command c;
	(void)state;
	assert_int_equal(
	    command_parse(
		&c, STR("MAIL FROM:<A@B.test> SIZE=18446744073709551615 RET=HDRS BODY=8BITMIME "
			"SMTPUTF8  ENVID=x+2By")),
	    ANSWER_NONE);
	assert_true(c.size == UINT64_MAX && c.ret == RET_HDRS && c.body_8bit && c.utf8);
	assert_string_equal(c.envid, "x+y");
	assert_string_equal(c.mailbox.local, "A");
	assert_string_equal(c.mailbox.domain, "b.test");
	assert_int_equal(
	    command_parse(
		&c, STR("RCPT TO:<a@b.test> ORCPT=utf-8;\xc3\xbc\xe2\x82\xac@c.test NOTIFY=NEVER")),
	    ANSWER_NONE);
	assert_string_equal(c.orcpt, "utf-8;\\x{FC}\\x{20AC}@c.test");
	assert_int_equal(c.notify, NOTIFY_NEVER);
	assert_int_equal(command_parse(&c, STR("BDAT 4294967295 LAST")), ANSWER_NONE);
	assert_true(c.chunk == UINT32_MAX && c.last);
	assert_int_equal(command_parse(&c, STR("BDAT x")), ANSWER_BAD_BDAT);
	assert_true(c.chunk == UINT64_MAX);
}

/* Lengths at their bounds, and beyond: refused, never cut. */
static void test_bounds(void **state)
{
	char line[COMMAND_LINE_MAX], text[600];
	struct command c;
	(void)state;
	memset(text, 'x', sizeof(text));
	snprintf(line, sizeof(line), "MAIL FROM:<> ENVID=%.100s", text);
	assert_int_equal(command_parse(&c, str_of(line)), ANSWER_NONE);
	assert_int_equal(strlen(c.envid), 100);
	snprintf(line, sizeof(line), "MAIL FROM:<> ENVID=%.101s", text);
	assert_int_equal(command_parse(&c, str_of(line)), ANSWER_BAD_ENVID);
	snprintf(line, sizeof(line), "RCPT TO:<a@b.test> ORCPT=t;%.498s", text);
	assert_int_equal(command_parse(&c, str_of(line)), ANSWER_NONE);
	assert_int_equal(strlen(c.orcpt), 500);
	snprintf(line, sizeof(line), "RCPT TO:<a@b.test> ORCPT=t;%.499s", text);
	assert_int_equal(command_parse(&c, str_of(line)), ANSWER_BAD_ORCPT);
	strcpy(line, "MAIL FROM:<>");
	for (int i = 0; i < 1000; i++)
		strcat(line, " a");
	assert_int_equal(command_parse(&c, str_of(line)), ANSWER_UNKNOWN_PARAMETER);
}

static void test_answers(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 1 << 20);
	for (enum answer a = ANSWER_NONE + 1; a < ANSWER_COUNT; a++) {
		struct str t = answer_text(a);
		buf_reset(&b);
		answer_put(&b, a);
		assert_int_equal(b.n, t.n + 2);
		assert_memory_equal(b.p + t.n, "\r\n", 2);
		assert_true(b.n <= 512); /* RFC 5321 4.5.3.1.5 */
		assert_int_equal(t.p[3], ' ');
		assert_int_equal(t.p[9], ' ');
		/* RFC 2034: the enhanced code's class is the code's */
		assert_int_equal(t.p[4], t.p[0]);
	}
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lines),
	    cmocka_unit_test(test_values),
	    cmocka_unit_test(test_bounds),
	    cmocka_unit_test(test_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

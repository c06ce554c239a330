/* SPDX-License-Identifier: ISC */
/* What each reply and each failure does with a recipient, as one table each. */
#include "smtp-out/verdict.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { GOOD = VERDICT_COUNT };
#define ENDS true

static const struct {
	const char *reply;
	enum smtp_stage stage;
	unsigned accepted;
	unsigned verdict; /* or GOOD */
	bool ends;
	enum conn_cause cause; /* when it ends */
	const char *status;
} replies[] = {
    {"220 hi", STAGE_GREETING, 0, GOOD, false, 0, "2.0.0"},
    {"554 no", STAGE_GREETING, 0, VERDICT_FAILED, false, 0, "5.0.0"},
    {"421 no", STAGE_GREETING, 0, VERDICT_DEFERRED, ENDS, CONN_REPLY, "4.0.0"},
    {"354 go", STAGE_GREETING, 0, VERDICT_DEFERRED, ENDS, CONN_PROTOCOL, "4.5.0"},
    {"250 ok", STAGE_EHLO, 0, GOOD, false, 0, "2.0.0"},
    {"502 what", STAGE_EHLO, 0, VERDICT_FAILED, false, 0, "5.0.0"},
    {"220 go", STAGE_STARTTLS, 0, GOOD, false, 0, "2.0.0"},
    {"454 4.7.0 no", STAGE_STARTTLS, 0, VERDICT_DEFERRED, false, 0, "4.7.0"},
    {"250 2.1.0 ok", STAGE_MAIL, 0, GOOD, false, 0, "2.1.0"},
    {"452 4.3.1 full", STAGE_MAIL, 0, VERDICT_DEFERRED, false, 0, "4.3.1"},
    {"552 5.3.4 big", STAGE_MAIL, 0, VERDICT_FAILED, false, 0, "5.3.4"},
    {"421 5.7.32 x", STAGE_MAIL, 0, VERDICT_DEFERRED, ENDS, CONN_REPLY, "4.7.32"},
    {"354 go", STAGE_MAIL, 0, VERDICT_DEFERRED, ENDS, CONN_PROTOCOL, "4.5.0"},
    {"250 ok", STAGE_RCPT, 0, GOOD, false, 0, "2.0.0"},
    {"251 2.1.5 forwards", STAGE_RCPT, 3, GOOD, false, 0, "2.1.5"},
    {"252 maybe", STAGE_RCPT, 0, GOOD, false, 0, "2.0.0"},
    {"550 5.1.1 no", STAGE_RCPT, 0, VERDICT_FAILED, false, 0, "5.1.1"},
    {"450 4.2.1 later", STAGE_RCPT, 0, VERDICT_DEFERRED, false, 0, "4.2.1"},
    {"452 4.5.3 many", STAGE_RCPT, 1, VERDICT_RETRY_NOW, false, 0, "4.5.3"},
    {"452 many", STAGE_RCPT, 1, VERDICT_RETRY_NOW, false, 0, "4.0.0"},
    {"452 4.5.3 many", STAGE_RCPT, 0, VERDICT_DEFERRED, false, 0, "4.5.3"},
    {"452 4.2.2 full", STAGE_RCPT, 5, VERDICT_DEFERRED, false, 0, "4.2.2"},
    {"452 4.3.1 full", STAGE_RCPT, 5, VERDICT_DEFERRED, false, 0, "4.3.1"},
    {"552 many", STAGE_RCPT, 1, VERDICT_RETRY_NOW, false, 0, "5.0.0"},
    {"552 5.5.3 many", STAGE_RCPT, 1, VERDICT_RETRY_NOW, false, 0, "5.5.3"},
    {"552 many", STAGE_RCPT, 0, VERDICT_FAILED, false, 0, "5.0.0"},
    {"552 5.2.2 full", STAGE_RCPT, 1, VERDICT_FAILED, false, 0, "5.2.2"},
    {"354 go", STAGE_RCPT, 1, VERDICT_DEFERRED, ENDS, CONN_PROTOCOL, "4.5.0"},
    {"421 bye", STAGE_RCPT, 1, VERDICT_DEFERRED, ENDS, CONN_REPLY, "4.0.0"},
    {"354 go", STAGE_DATA, 0, GOOD, false, 0, "3.0.0"},
    {"250 ok", STAGE_DATA, 0, VERDICT_DEFERRED, ENDS, CONN_PROTOCOL, "4.5.0"},
    {"452 4.5.3 many", STAGE_DATA, 5, VERDICT_DEFERRED, false, 0, "4.5.3"},
    {"554 5.5.1 no", STAGE_DATA, 0, VERDICT_FAILED, false, 0, "5.5.1"},
    {"250 2.0.0 ok", STAGE_DOT, 1, GOOD, false, 0, "2.0.0"},
    {"451 4.7.1 later", STAGE_DOT, 1, VERDICT_DEFERRED, false, 0, "4.7.1"},
    {"550 5.7.26 no", STAGE_DOT, 1, VERDICT_FAILED, false, 0, "5.7.26"},
    {"552 many", STAGE_DOT, 1, VERDICT_FAILED, false, 0, "5.0.0"},
    {"354 more", STAGE_DOT, 1, VERDICT_DEFERRED, ENDS, CONN_PROTOCOL, "4.5.0"},
    {"421 4.3.2 down", STAGE_DOT, 1, VERDICT_DEFERRED, ENDS, CONN_REPLY, "4.3.2"},
};

static void test_replies(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(replies); i++) {
		char line[200];
		snprintf(line, sizeof(line), "%s\r\n", replies[i].reply);
		struct reply_parser p;
		struct str in = str_of(line);
		reply_parser_init(&p);
		assert_int_equal(reply_parse(&p, &in, NULL, NULL), 1);
		struct judgement j;
		verdict_reply(&j,
		    &(struct reply_context){replies[i].stage, replies[i].accepted, false},
		    &p.reply);
		bool good = replies[i].verdict == GOOD;
		if (j.good != good || (!good && j.verdict != replies[i].verdict) ||
		    j.ends_session != replies[i].ends || strcmp(j.status, replies[i].status) != 0 ||
		    (j.ends_session && j.cause != replies[i].cause))
			fail_msg("%s to %s: good %d, verdict %d, ends %d, cause %d, %s",
			    replies[i].reply, stage_name(replies[i].stage), j.good, j.verdict,
			    j.ends_session, j.cause, j.status);
		bool ours = j.ends_session && j.cause == CONN_PROTOCOL;
		assert_int_equal(j.by_peer, !ours);
		assert_int_equal(j.code, ours ? 0 : p.reply.code);
		assert_non_null(strstr(j.text, replies[i].reply)); /* what it said is never lost */
	}
}

/* Servers enforce their messages per connection by 421 to MAIL: that is no attempt, once others
 * went over it. */
static void test_421_to_mail_on_a_reused_connection(void **state)
{
	static const struct {
		const char *reply;
		enum smtp_stage stage;
		bool reused;
		enum verdict verdict;
	} cases[] = {
	    {"421 4.7.0 enough", STAGE_MAIL, true, VERDICT_RETRY_NOW},
	    {"421 4.7.0 enough", STAGE_MAIL, false, VERDICT_DEFERRED},
	    {"421 4.7.0 enough", STAGE_RCPT, true, VERDICT_DEFERRED},
	    {"421 4.7.0 enough", STAGE_DOT, true, VERDICT_DEFERRED},
	    {"450 4.7.0 enough", STAGE_MAIL, true, VERDICT_DEFERRED},
	    {"550 5.7.0 enough", STAGE_MAIL, true, VERDICT_FAILED},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		char line[200];
		snprintf(line, sizeof(line), "%s\r\n", cases[i].reply);
		struct reply_parser p;
		struct str in = str_of(line);
		reply_parser_init(&p);
		assert_int_equal(reply_parse(&p, &in, NULL, NULL), 1);
		struct judgement j;
		verdict_reply(
		    &j, &(struct reply_context){cases[i].stage, 0, cases[i].reused}, &p.reply);
		assert_int_equal(cases[i].verdict, j.verdict);
		assert_int_equal(p.reply.code == 421, j.ends_session);
		assert_true(j.by_peer);
	}
}

static const struct {
	struct failure_context context;
	enum verdict verdict;
	const char *status;
} failures[] = {
    {{CONN_LOST, STAGE_MAIL, true, false}, VERDICT_DEFERRED, "4.4.2"},
    {{CONN_LOST, STAGE_MAIL, true, true}, VERDICT_RETRY_NOW, "4.4.2"},
    {{CONN_REPLY, STAGE_MAIL, true, true}, VERDICT_RETRY_NOW, "4.4.2"},
    {{CONN_DONE, STAGE_MAIL, true, true}, VERDICT_RETRY_NOW, "4.4.2"},
    {{CONN_LOST, STAGE_RCPT, false, true}, VERDICT_DEFERRED, "4.4.2"},
    {{CONN_TIMEOUT, STAGE_MAIL, true, true}, VERDICT_DEFERRED, "4.4.2"},
    {{CONN_PROTOCOL, STAGE_MAIL, true, true}, VERDICT_DEFERRED, "4.5.0"},
    {{CONN_LOST, STAGE_DOT, false, false}, VERDICT_DEFERRED, "4.4.2"},
    {{CONN_LOCAL, STAGE_DATA, false, false}, VERDICT_DEFERRED, "4.3.0"},
    {{CONN_TLS, STAGE_DATA, false, false}, VERDICT_DEFERRED, "4.7.5"},
};

static void test_failures(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(failures); i++) {
		struct judgement j;
		verdict_failure(&j, &failures[i].context, "what happened");
		assert_int_equal(j.verdict, failures[i].verdict);
		assert_string_equal(j.status, failures[i].status);
		assert_string_equal(j.text, "what happened");
		assert_true(!j.good && !j.by_peer && j.code == 0);
	}
}

static const struct {
	unsigned bits;
	uint64_t size_max;
	uint8_t body;
	bool ignore;
	const char *status; /* NULL: may be sent */
} offers[] = {
    {0, 0, 0, false, NULL},
    {0, 999, 0, true, "5.3.4"},
    {0, 1000, 0, true, NULL},
    {0, 0, ENV_8BIT, true, NULL},
    {0, 0, ENV_8BIT, false, "5.6.3"},
    {FEATURE_8BITMIME, 0, ENV_8BIT, false, NULL},
    {FEATURE_8BITMIME, 0, ENV_UTF8, true, "5.6.7"},
    {FEATURE_SMTPUTF8, 0, ENV_UTF8, false, NULL},
    {FEATURE_SMTPUTF8, 0, ENV_UTF8 | ENV_8BIT, false, "5.6.3"},
};

static void test_offers(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(offers); i++) {
		struct features f = {.bits = offers[i].bits, .size_max = offers[i].size_max};
		struct judgement j;
		verdict_features(&j, &f, offers[i].body, 1000, offers[i].ignore);
		assert_int_equal(j.good, offers[i].status == NULL);
		if (offers[i].status) {
			assert_int_equal(j.verdict, VERDICT_FAILED);
			assert_string_equal(j.status, offers[i].status);
		}
	}
}

static const struct {
	const char *line;
	unsigned bits;
	uint64_t size;
	uint32_t rcpt_max, mail_max;
} keywords[] = {
    {"PIPELINING", FEATURE_PIPELINING, 0, 0, 0},
    {"pipelining", FEATURE_PIPELINING, 0, 0, 0},
    {"PIPELINING extra", FEATURE_PIPELINING, 0, 0, 0},
    {"PIPELININGX", 0, 0, 0, 0},
    {"SIZE", FEATURE_SIZE, 0, 0, 0},
    {"SIZE 0", FEATURE_SIZE, 0, 0, 0},
    {"SIZE 35882577", FEATURE_SIZE, 35882577, 0, 0},
    {"SIZE  12", FEATURE_SIZE, 12, 0, 0},
    {"SIZE 18446744073709551616", FEATURE_SIZE, 0, 0, 0},
    {"SIZE 99999999999999999999999999", FEATURE_SIZE, 0, 0, 0},
    {"SIZE -5", FEATURE_SIZE, 0, 0, 0},
    {"SIZE=5", 0, 0, 0, 0},
    {"LIMITS RCPTMAX=20", 0, 0, 20, 0},
    {"LIMITS MAILMAX=3 RCPTMAX=20 RCPTDOMAINMAX=1", 0, 0, 20, 3},
    {"LIMITS RCPTMAX=0 MAILMAX=x", 0, 0, 0, 0},
    {"LIMITS RCPTMAX=4294967296", 0, 0, 0, 0},
    {"LIMITS", 0, 0, 0, 0},
    {"", 0, 0, 0, 0},
    {" ", 0, 0, 0, 0},
    {"AUTH PLAIN LOGIN", 0, 0, 0, 0},
    {"8BITMIME", FEATURE_8BITMIME, 0, 0, 0},
};

static void test_keywords(void **state)
{
	(void)state;
	struct features f;
	for (size_t i = 0; i < COUNT_OF(keywords); i++) {
		features_init(&f);
		features_line(&f, 0, STR("PIPELINING SIZE 5")); /* the greeting: no keyword */
		features_line(&f, 1, str_of(keywords[i].line));
		assert_int_equal(f.bits, keywords[i].bits);
		assert_int_equal(f.size_max, keywords[i].size);
		assert_int_equal(f.rcpt_max, keywords[i].rcpt_max);
		assert_int_equal(f.mail_max, keywords[i].mail_max);
	}
	features_init(&f);
	for (unsigned i = 1; i < 200; i++)
		features_line(&f, i, STR("X-KEYWORD-OF-SOME-LENGTH \x01\xff"));
	assert_true(strlen(f.esmtp) < sizeof(f.esmtp) && strlen(f.esmtp) > 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_replies),
	    cmocka_unit_test(test_421_to_mail_on_a_reused_connection),
	    cmocka_unit_test(test_failures),
	    cmocka_unit_test(test_offers),
	    cmocka_unit_test(test_keywords),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

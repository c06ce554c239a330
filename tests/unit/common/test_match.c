/* SPDX-License-Identifier: ISC */
/*
 * Patterns over real replies of large providers, as the wire has them: lines joined, codes said
 * once. Which rules see which stage, the order of lists, the objects that groups name, and that no
 * pattern holds the process.
 */
#include "common/clock.h"
#include "common/conf_impl.h"
#include "common/match.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct {
	const char *wire, *line, *pattern;
} replies[] = {
    {"421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating\r\n"
     "421-4.7.28 from your IP address. To protect our users from spam, mail sent from\r\n"
     "421-4.7.28 your IP address has been temporarily rate limited. For more\r\n"
     "421 4.7.28 information, go to https://support.example/a - gsmtp\r\n",
	"421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your "
	"IP "
	"address. To protect our users from spam, mail sent from your IP address has been "
	"temporarily rate limited. For more information, go to https://support.example/a - gsmtp",
	"4\\.7\\.28 .*originating from your IP (address|Netblock)"},
    {"550-5.7.26 This mail has been blocked because the sender is unauthenticated.\r\n"
     "550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.\r\n"
     "550 5.7.26  DKIM = did not pass\r\n",
	"550 5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail "
	"requires all senders to authenticate with either SPF or DKIM. DKIM = did not pass",
	"[45]\\.7\\.26"},
    {"421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints\r\n",
	"421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
	"^4[0-9]{2} .*\\[(TSS|IPTS)04\\]"},
    {"451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP "
     "reputation. (S775)\r\n",
	"451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP "
	"reputation. (S775)",
	"4\\.7\\.65[0-2]"},
    {"550 Ip frequency limited. http://service.example/\r\n",
	"550 Ip frequency limited. http://service.example/",
	"(ip|domain|sender|connection) frequency limited"},
    {"554-gmx.net (mxgmx016) Nemesis ESMTP Service not available\r\n554-No SMTP service\r\n"
     "554-Bad DNS PTR resource record.\r\n554 For explanation visit "
     "https://postmaster.example/\r\n",
	"554 gmx.net (mxgmx016) Nemesis ESMTP Service not available No SMTP service Bad DNS PTR "
	"resource record. For explanation visit https://postmaster.example/",
	"nemesis .*bad dns ptr"},
    {"452-4.2.2 The recipient's inbox is out of storage space.\r\n452 4.2.2 - gsmtp\r\n",
	"452 4.2.2 The recipient's inbox is out of storage space. - gsmtp",
	"4\\.2\\.2 .*out of storage"},
};

static void test_patterns_see_one_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(replies); i++) {
		char line[REPLY_TEXT_MAX + 1], again[REPLY_TEXT_MAX + 1];
		assert_int_equal(
		    match_line(line, str_of(replies[i].wire)), strlen(replies[i].line));
		assert_string_equal(line, replies[i].line);
		match_line(again, str_of(line)); /* a line stays as it is */
		assert_string_equal(again, line);
		assert_true(match_one(str_of(replies[i].pattern), str_of(line)));
		for (size_t j = 0; j < COUNT_OF(replies); j++)
			if (j != i)
				assert_false(match_one(str_of(replies[j].pattern), str_of(line)));
	}
}

static void test_lines_that_are_no_replies(void **state)
{
	char line[REPLY_TEXT_MAX + 1], longest[3000];
	(void)state;
	match_line(line, STR("connect to mx.example: Connection refused"));
	assert_string_equal(line, "connect to mx.example: Connection refused");
	match_line(line, STR("421-4.7.28 copied from a log"));
	assert_string_equal(line, "421 4.7.28 copied from a log");
	assert_int_equal(match_line(line, STR("")), 0);
	match_line(line, STR("a\tb\x01"));
	assert_string_equal(line, "a?b?");
	memset(longest, 'x', sizeof(longest));
	assert_true(match_line(line, (struct str){longest, sizeof(longest)}) <= REPLY_TEXT_MAX);
}

/* --- lists ------------------------------------------------------------------------------------ */

struct spec {
	const char *list, *reply, *stages;
};

static struct conf *conf_of(const struct spec *rules, size_t n)
{
	struct conf *c = conf_new();
	struct conf_node *l = NULL;
	for (size_t i = 0; i < n; i++) {
		if (i == 0 || strcmp(rules[i].list, rules[i - 1].list) != 0) {
			l = conf_node_new(CONF_PATTERN_LIST, 0, 1);
			conf_node_add(c->root, l);
			conf_set_text(l, CO_PATTERN_LIST_name, rules[i].list, 0, 1);
		}
		struct conf_node *r = conf_node_new(CONF_RULE, 0, (uint32_t)i + 2);
		conf_node_add(l, r);
		conf_set_text(r, CO_RULE_reply, rules[i].reply, 0, 1);
		conf_set_text(r, CO_RULE_actions, "skip-mx", 0, 1);
		if (rules[i].stages)
			conf_set_text(r, CO_RULE_stage, rules[i].stages, 0, 1);
	}
	return c;
}

static struct matcher *matcher_of(const struct spec *rules, size_t n)
{
	struct conf *c = conf_of(rules, n);
	struct matcher *m = matcher_new(c);
	conf_free(&c); /* it keeps nothing of it */
	return m;
}

static void test_all_that_match_in_order(void **state)
{
	static const struct spec rules[] = {{"one", "4\\.7\\.28", NULL}, {"one", "never", NULL},
	    {"one", "rate LIMITED", NULL}, {"two", ".", NULL}, {"three", ".", NULL}};
	(void)state;
	struct conf *c = conf_of(rules, COUNT_OF(rules));
	struct matcher *m = matcher_new(c);
	size_t n = 0;
	struct rule_list *l = rule_lists(c, &n);
	struct rule_hit hits[HITS_MAX];
	struct str line = STR("421 4.7.28 you are rate limited");
	assert_int_equal(
	    matcher_run(m, STR("two,one"), line, STAGE_RCPT, false, hits, HITS_MAX), 3);
	assert_true(hits[0].rule == l[1].rules[0].id);
	assert_true(hits[1].rule == l[0].rules[0].id);
	assert_true(hits[2].rule == l[0].rules[2].id);
	assert_int_equal(hits[2].stage, STAGE_RCPT);
	assert_int_equal(hits[2].ordinal, HIT_ALL);
	assert_int_equal(matcher_run(m, STR("one"), line, STAGE_RCPT, false, hits, 1), 1);
	assert_int_equal(matcher_run(m, STR(""), line, STAGE_RCPT, false, hits, HITS_MAX), 0);
	assert_int_equal(
	    matcher_run(m, STR("on,onee,,"), line, STAGE_RCPT, false, hits, HITS_MAX), 0);
	rule_lists_free(&l, n);
	matcher_free(&m);
	conf_free(&c);
}

static void test_stages(void **state)
{
	static const struct spec rules[] = {{"l", ".", NULL}, {"l", ".", "rcpt,dot"},
	    {"l", ".", "connect"}, {"l", ".", "internal"}, {"l", ".", "greeting,internal"}};
	static const struct {
		enum smtp_stage stage;
		bool own;
		size_t hits;
	} rows[] = {
	    {STAGE_GREETING, false, 2}, /* any stage; greeting */
	    {STAGE_RCPT, false, 2},	/* any stage; rcpt */
	    {STAGE_MAIL, false, 1},
	    {STAGE_DOT, false, 2},
	    {STAGE_CONNECT, true, 3}, /* connect, internal twice */
	    {STAGE_RCPT, true, 2},    /* a time-out: internal only */
	    {STAGE_INTERNAL, true, 2},
	    {STAGE_GREETING, true, 2},
	};
	(void)state;
	struct matcher *m = matcher_of(rules, COUNT_OF(rules));
	struct rule_hit hits[HITS_MAX];
	for (size_t i = 0; i < COUNT_OF(rows); i++)
		assert_int_equal(
		    matcher_run(m, STR("l"), STR("x"), rows[i].stage, rows[i].own, hits, HITS_MAX),
		    rows[i].hits);
	matcher_free(&m);
}

static void test_objects(void **state)
{
	static const struct {
		const char *pattern, *line;
		enum hit_object kind;
		const char *object;
	} rows[] = {
	    {"domain \\[?(?<domain>[^] ]+)", "421 4.7.28 DKIM domain [News.Example.COM 36].",
		HIT_DOMAIN, "news.example.com"},
	    {"from (?<ip>\\S+)", "421 from [192.0.2.1]. later", HIT_IP, "192.0.2.1"},
	    {"from (?<ip>\\S+)", "421 from [IPv6:2001:DB8::0:1], later", HIT_IP, "2001:db8::1"},
	    {"from (?<ip>\\S+)", "421 from 2001:db8::", HIT_IP, "2001:db8::"},
	    {"from (?<ip>\\S+)", "421 from mail.example", HIT_NOTHING, ""},
	    {"block (?<netblock>\\S+)", "421 block 192.0.2.0/24.", HIT_NETBLOCK, "192.0.2.0/24"},
	    {"block (?<netblock>\\S+)", "421 block 192.0.2.0/33", HIT_NOTHING, ""},
	    {"block (?<netblock>\\S+)", "421 block 192.0.2.7", HIT_NETBLOCK, "192.0.2.7"},
	    {"(?:ip (?<ip>\\S+)|domain (?<domain>\\S+))", "421 domain x.example", HIT_DOMAIN,
		"x.example"},
	    {"(?:a (?<ip>\\S+)|b (?<ip>\\S+))", "421 b 192.0.2.2", HIT_IP, "192.0.2.2"},
	    {"for (?<domain>\\S+)", "421 for <who@X.example>;", HIT_DOMAIN, "x.example"},
	    {"for (?<domain>.*)", "421 for two words", HIT_NOTHING, ""},
	    {"for(?<domain>.*)", "421 for", HIT_NOTHING, ""},
	    {"for (?<other>.*)", "421 for x.example", HIT_NOTHING, ""},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rows); i++) {
		struct spec rule = {"l", rows[i].pattern, NULL};
		struct matcher *m = matcher_of(&rule, 1);
		struct rule_hit hit;
		assert_int_equal(
		    matcher_run(m, STR("l"), str_of(rows[i].line), STAGE_RCPT, false, &hit, 1), 1);
		assert_int_equal(hit.object_kind, rows[i].kind);
		if (!str_eq(hit.object, str_of(rows[i].object)))
			fail_msg("row %zu: %.*s", i, STR_ARG(hit.object));
		matcher_free(&m);
	}
}

static void test_errors_of_patterns(void **state)
{
	static const char *const bad[] = {
	    "", "(", "a{2,1}", "[", "(*UTF)x", "(?<ip>a", "\\C", "(?"};
	static const char *const good[] = {"4\\.7\\.28 .*IP (address|Netblock)", "(?-i)GU_EIB",
	    "\\d+", "(?<domain>[^] ]+)", "\xc3\xa4", "^5"};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		if (!match_pattern_error(str_of(bad[i])))
			fail_msg("%s was taken", bad[i]);
	for (size_t i = 0; i < COUNT_OF(good); i++)
		if (match_pattern_error(str_of(good[i])))
			fail_msg("%s: %s", good[i], match_pattern_error(str_of(good[i])));
	assert_false(match_one(STR("("), STR("(")));
	assert_true(match_one(STR("gmail"), STR("421 GMail")));
	assert_false(match_one(STR("(?-i)gmail"), STR("421 GMail")));
	assert_true(match_one(STR("a.b"), STR("a\xff"
					      "b"))); /* bytes */
}

/* Each would run for years without limits. */
static void test_no_pattern_holds_the_process(void **state)
{
	static const struct spec rules[] = {{"l", "(a+)+$", NULL}, {"l", "(a|aa)+$", NULL},
	    {"l", "(.*a){20}b", NULL}, {"l", "(?:(?:a?){30}){30}b", NULL}, {"l", "b$", NULL},
	    {"l", "^(a|b)*$", NULL}};
	char line[REPLY_TEXT_MAX];
	(void)state;
	memset(line, 'a', sizeof(line));
	line[sizeof(line) - 1] = 'b';
	struct matcher *m = matcher_of(rules, COUNT_OF(rules));
	struct rule_hit hits[HITS_MAX];
	int64_t start = clock_mono_us();
	size_t n = 0;
	for (int i = 0; i < 3; i++)
		n = matcher_run(m, STR("l"), (struct str){line, sizeof(line)}, STAGE_RCPT, false,
		    hits, HITS_MAX);
	int64_t took = clock_mono_us() - start;
	assert_true(n >= 2); /* "b$" and the harmless group */
	assert_true(took < 3000000);
	matcher_free(&m);
}

/* 200 rules such as operators have, none of which is about this reply. */
static void test_measure_two_hundred_rules(void **state)
{
	enum { RULES = 200, ROUNDS = 2000 };
	static const char *const shapes[] = {"4\\.7\\.%d .*IP (address|Netblock)",
	    "\\[(TSS|IPTS)%d\\]", "(too many|exceeded).*connections.*%d",
	    "^5[0-9]{2} .*blocked.*S%d", "RL%06d"};
	static char text[RULES][100];
	struct spec rules[RULES];
	(void)state;
	for (int i = 0; i < RULES; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(text[i], sizeof(text[i]), shapes[(size_t)i % COUNT_OF(shapes)], 1000 + i);
#pragma GCC diagnostic pop
		rules[i] = (struct spec){"l", text[i], NULL};
	}
	struct matcher *m = matcher_of(rules, RULES);
	struct str line =
	    STR("550 5.1.1 The email account that you tried to reach does not exist. Please "
		"try double-checking the recipient's email address for typos or "
		"unnecessary spaces. For more information, go to x - gsmtp");
	struct rule_hit hits[HITS_MAX];
	int64_t start = clock_mono_us();
	for (int i = 0; i < ROUNDS; i++)
		assert_int_equal(
		    matcher_run(m, STR("l"), line, STAGE_RCPT, false, hits, HITS_MAX), 0);
	double us = (double)(clock_mono_us() - start) / ROUNDS;
	print_message("%d patterns on a failed reply: %.1f us\n", RULES, us);
	matcher_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_patterns_see_one_line),
	    cmocka_unit_test(test_lines_that_are_no_replies),
	    cmocka_unit_test(test_all_that_match_in_order),
	    cmocka_unit_test(test_stages),
	    cmocka_unit_test(test_objects),
	    cmocka_unit_test(test_errors_of_patterns),
	    cmocka_unit_test(test_no_pattern_holds_the_process),
	    cmocka_unit_test(test_measure_two_hundred_rules),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

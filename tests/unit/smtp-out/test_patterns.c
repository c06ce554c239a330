/* SPDX-License-Identifier: ISC */
/*
 * Which replies are run through the grant's rules, once each, and with which report what matched
 * travels; that mail which needs TLS is never spoken of without it; and whether an address can be
 * bound.
 */
#include "tests/unit/smtp-out/peer.h"
#include "common/conf_impl.h"

#define OK "delivered dot 250 2.0.0 past"

static const struct {
	const char *name, *reply, *stages;
} rules[] = {
    {"any", ".", NULL},
    {"rate", "4\\.7\\.28 .*rate", NULL},
    {"own", ".", "internal"},
    {"connect", ".", "connect"},
};
static struct rule_list *lists;
static size_t list_count;

static const char *rule_name(uint64_t id)
{
	for (size_t i = 0; i < lists[0].count; i++)
		if (lists[0].rules[i].id == id)
			return rules[i].name;
	return "?";
}

static struct conf *conf_with_rules(void)
{
	struct conf *c = conf_new();
	struct conf_node *l = conf_node_new(CONF_PATTERN_LIST, 0, 1);
	conf_node_add(c->root, l);
	conf_set_text(l, CO_PATTERN_LIST_name, "list", 0, 1);
	for (size_t i = 0; i < COUNT_OF(rules); i++) {
		struct conf_node *r = conf_node_new(CONF_RULE, 0, (uint32_t)i + 2);
		conf_node_add(l, r);
		conf_set_text(r, CO_RULE_reply, rules[i].reply, 0, 1);
		conf_set_text(r, CO_RULE_actions, "skip-mx", 0, 1);
		if (rules[i].stages)
			conf_set_text(r, CO_RULE_stage, rules[i].stages, 0, 1);
	}
	return c;
}

static const struct match_case {
	const char *name;
	struct script rules[RULES_MAX];
	unsigned rcpts, jobs;
	const char *hits, *closed_hits; /* with PIPELINING and without */
	bool pipelined_only;
} cases[] = {
    {.name = "all is well", .hits = "", .closed_hits = ""},
    {.name = "one recipient refused",
	.rules = {{"RCPT TO:<user1", "550 5.1.1 no\r\n"}},
	.rcpts = 3,
	.hits = "any rcpt 1;",
	.closed_hits = ""},
    {.name = "two rules, one reply of two lines",
	.rules = {{"RCPT TO:<user0", "421-4.7.28 too high\r\n421 4.7.28 a rate\r\n"}},
	.rcpts = 2,
	.hits = "any rcpt 0;rate rcpt 0;",
	.closed_hits = ""},
    {.name = "all refused, and DATA for nobody",
	.rules = {{"RCPT", "!again550 no\r\n"}, {"DATA", "554 no valid recipients\r\n"}},
	.rcpts = 2,
	.hits = "any rcpt 0;any rcpt 1;",
	.closed_hits = ""},
    {.name = "MAIL refused, and what follows from it",
	.rules = {{"MAIL", "450 4.7.1 no\r\n"}, {"RCPT", "!again503 need MAIL\r\n"},
	    {"DATA", "503 need RCPT\r\n"}},
	.rcpts = 2,
	.hits = "any mail all;",
	.closed_hits = ""},
    {.name = "DATA refused",
	.rules = {{"DATA", "451 no\r\n"}},
	.hits = "any data all;",
	.closed_hits = ""},
    {.name = "the message refused",
	.rules = {{".", "554 5.7.1 spam\r\n"}},
	.rcpts = 3,
	.hits = "any dot all;",
	.closed_hits = ""},
    {.name = "greeting 554",
	.rules = {{"CONNECT", "554 no\r\n"}},
	.hits = "",
	.closed_hits = "any greeting all;"},
    {.name = "greeting 421",
	.rules = {{"CONNECT", "421 no\r\n"}},
	.hits = "",
	.closed_hits = "any greeting all;"},
    {.name = "greeting and gone",
	.rules = {{"CONNECT", "!close"}},
	.hits = "",
	.closed_hits = "own greeting all;"},
    {.name = "EHLO and HELO refused",
	.rules = {{"EHLO", "550 no\r\n"}, {"HELO", "550 no\r\n"}},
	.hits = "",
	.closed_hits = "any ehlo all;"},
    {.name = "STARTTLS refused, mail goes on",
	.rules = {{"EHLO", "250-x\r\n250 STARTTLS\r\n"}, {"STARTTLS", "454 4.7.0 no\r\n"}},
	.hits = "",
	.closed_hits = "any starttls all;"},
    {.name = "gone in the middle",
	.rules = {{"DATA", "!close"}},
	.hits = "own data all;",
	.closed_hits = ""},
    {.name = "no SMTP",
	.rules = {{"MAIL", "junk\r\n"}},
	.hits = "own mail all;",
	.closed_hits = ""},
    {.name = "a reply that cannot be",
	.rules = {{"MAIL", "354 go\r\n"}},
	.hits = "own mail all;",
	.closed_hits = ""},
    {.name = "the second message is too many",
	.rules = {{"MAIL", "!default"}, {"MAIL", "421 enough\r\n"}},
	.jobs = 2,
	.hits = "any mail all;",
	.closed_hits = ""},
    {.name = "gone while idle",
	.rules = {{".", "250 ok\r\n!close"}},
	.hits = "",
	.closed_hits = ""},
    {.name = "421 while idle",
	.rules = {{".", "250 ok\r\n421 4.4.2 idle\r\n"}},
	.hits = "",
	.closed_hits = "any mail all;"},
};

static struct stage *stage_with_rules(const struct script *script, unsigned rcpts, unsigned jobs)
{
	struct stage *s = stage_new();
	struct conf *c = conf_with_rules();
	s->out.matcher = matcher_new(c);
	conf_free(&c);
	char err[256];
	s->out.tls = tls_client_context(STR(""), err);
	s->rule_name = rule_name;
	for (unsigned i = 0; i < jobs; i++)
		stage_message(s, i, &(struct content){.rcpts = rcpts});
	s->jobs_total = s->close_after = jobs;
	s->jobs_at_ready = 1;
	s->peer.rules = script;
	return s;
}

static void run_case(const struct match_case *c, bool pipelining, const char *patterns)
{
	struct stage *s =
	    stage_with_rules(c->rules, c->rcpts ? c->rcpts : 1, c->jobs ? c->jobs : 1);
	s->peer.pipelining = pipelining;
	if (strstr(c->name, "while idle"))
		s->close_after = 99; /* never: the server ends it */
	struct msg_grant grant = stage_grant(s);
	grant.patterns = str_of(patterns);
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	if (strstr(s->results, "delivered") && s->peer.message.n > 3)
		stage_check_message(s, 0); /* rules touch no mail */
	const char *hits = patterns[0] == 'l' ? c->hits : "";
	const char *closed = patterns[0] == 'l' ? c->closed_hits : "";
	if (strcmp(s->hits, hits) != 0 || strcmp(s->closed_hits, closed) != 0)
		fail_msg("%s (%s): \"%s\" and \"%s\"; closed: %s", c->name,
		    pipelining ? "pipelining" : "plain", s->hits, s->closed_hits, s->closed_text);
	stage_free(&s);
}

static void test_what_is_matched(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		run_case(&cases[i], true, "list");
		run_case(&cases[i], false, "list");
		run_case(&cases[i], true, "");
	}
}

static void test_connection_errors(void **state)
{
	(void)state;
	struct stage *s = stage_with_rules(NULL, 1, 1);
	struct msg_grant grant = stage_grant(s);
	grant.patterns = STR("list");
	grant.port = 1;
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	assert_string_equal(s->closed, "refused connect 0");
	assert_string_equal(s->closed_hits, "own connect all;connect connect all;");
	assert_int_equal(s->out.counters.hits, 2);
	stage_free(&s);
}

/* What was not confirmed is told to the next qmgr, hits and all. */
static void test_hits_outlive_qmgr(void **state)
{
	static const struct script script[] = {{"RCPT", "550 no\r\n"}, {NULL, NULL}};
	(void)state;
	struct stage *s = stage_with_rules(script, 1, 1);
	struct msg_grant grant = stage_grant(s);
	grant.patterns = STR("list");
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	assert_string_equal(s->hits, "any rcpt 0;");
	s->hits[0] = '\0';
	s->close_after = 99;
	chan_free(&s->qmgr);
	stage_qmgr(s);
	loop_timer_after(s->loop, &s->guard, GUARD_MS, guard_fired, s);
	while (s->result_count < 2 && !s->timed_out)
		loop_turn(s->loop);
	assert_string_equal(s->hits, "any rcpt 0;");
	stage_free(&s);
}

static const struct {
	const char *name;
	struct script rules[4];
	bool has_tls;
	const char *results, *closed, *says_not;
} secured[] = {
    {"offered and used", {{NULL, NULL}}, true, OK "\n", "done quit 0", NULL},
    {"not offered", {{NULL, NULL}}, false, "", "tls starttls 0", "MAIL"},
    {"refused", {{"STARTTLS", "454 4.7.0 not now\r\n"}}, true, "", "tls starttls 0", "MAIL"},
    {"broken", {{"STARTTLS", "220 go\r\n!junk"}}, true, "", "tls * 0", "MAIL"},
    {"an old server", {{"EHLO", "502 no\r\n"}}, true, "", "tls starttls 0", "MAIL"},
};

static void test_required_tls(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(secured); i++) {
		struct stage *s = stage_with_rules(secured[i].rules, 1, 1);
		if (secured[i].has_tls) {
			peer_with_tls(&s->peer);
			s->peer.caps = "STARTTLS|";
		}
		struct msg_grant grant = stage_grant(s);
		grant.tls = TLS_REQUIRED;
		grant.patterns = STR("list");
		chan_send_grant(s->qmgr, &grant);
		stage_run(s);
		buf_u8(&s->peer.all, 0);
		bool closed = strcmp(secured[i].closed, s->closed) == 0 ||
			      (strchr(secured[i].closed, '*') && strncmp(s->closed, "tls", 3) == 0);
		if (strcmp(s->results, secured[i].results) != 0 || !closed)
			fail_msg("%s: \"%s\", \"%s\" (%s)", secured[i].name, s->results, s->closed,
			    s->closed_text);
		if (secured[i].says_not)
			assert_null(strstr((char *)s->peer.all.p, secured[i].says_not));
		if (secured[i].says_not) /* ours, which a rule may look for */
			assert_non_null(strstr(s->closed_hits, "own "));
		stage_free(&s);
	}
}

static void test_sources_that_can_be_bound(void **state)
{
	static const struct {
		const char *address;
		bool ok;
	} addresses[] = {{"127.0.0.1", true}, {"127.9.9.9", true}, {"192.0.2.77", false},
	    {"2001:db8::77", false}, {"somewhere", false}};
	(void)state;
	struct stage *s = stage_with_rules(NULL, 1, 1);
	loop_timer_after(s->loop, &s->guard, GUARD_MS, guard_fired, s);
	for (size_t i = 0; i < COUNT_OF(addresses); i++) {
		char good[100];
		s->checked[0] = '\0';
		snprintf(good, sizeof(good), "%zu %s: ", i + 1, addresses[i].address);
		chan_send_source_check(
		    s->qmgr, &(struct msg_source_check){.ticket = (uint32_t)i + 1,
				 .address = str_of(addresses[i].address)});
		while (s->checked[0] == '\0' && !s->timed_out)
			loop_turn(s->loop);
		assert_int_equal(strncmp(s->checked, good, strlen(good)), 0);
		assert_int_equal(strcmp(s->checked, good) == 0, addresses[i].ok);
	}
	stage_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_matched),
	    cmocka_unit_test(test_connection_errors),
	    cmocka_unit_test(test_hits_outlive_qmgr),
	    cmocka_unit_test(test_required_tls),
	    cmocka_unit_test(test_sources_that_can_be_bound),
	};
	struct conf *c = conf_with_rules();
	lists = rule_lists(c, &list_count);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	rule_lists_free(&lists, list_count);
	conf_free(&c);
	return failed;
}

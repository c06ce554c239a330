/* SPDX-License-Identifier: ISC */
/*
 * Real replies and their categories, as a table; and the one rule that protects lists of addresses:
 * what is said of the sender never marks the recipient.
 */
#include "common/classify.h"
#include "common/clock.h"
#include "common/reply.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct {
	const char *text, *category;
} rows[] = {
    /* the status decides */
    {"550 5.1.1 The email account that you tried to reach does not exist. Please try "
     "double-checking "
     "the recipient's email address - gsmtp",
	"bad-mailbox"},
    {"550 5.1.2 host unknown", "bad-domain"},
    {"550 5.2.1 The email account that you tried to reach is inactive", "inactive-mailbox"},
    {"452 4.2.2 The recipient's inbox is out of storage space", "quota-issues"},
    {"552 5.2.2 mailbox is over quota", "quota-issues"},
    {"552 5.3.4 message too big", "content-related"},
    {"554 5.4.6 too many hops", "routing-errors"},
    {"554 5.4.7 delivery time expired", "message-expired"},
    {"554 5.6.0 bad MIME", "content-related"},
    {"501 5.5.4 bad parameter", "protocol-errors"},
    {"550 5.7.26 unauthenticated mail from x.example is not accepted", "policy-related"},
    {"525 5.7.13 user account disabled", "inactive-mailbox"},
    /* the status is used for many things: the text decides */
    {"550 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
	"spam-related"},
    {"550 5.7.1 [CS01] Message rejected due to local policy.", "spam-related"},
    {"550 5.7.1 Unable to relay", "relaying-issues"},
    {"550 5.7.1 message contains a virus", "virus-related"},
    {"550 5.7.1 rejected by policy", "policy-related"},
    {"550 5.5.0 Requested action not taken: mailbox unavailable", "bad-mailbox"},
    {"550 5.4.1 Recipient address rejected: Access denied. [x.outlook.example]", "bad-mailbox"},
    {"550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient x@y.example not found by SMTP address "
     "lookup",
	"bad-mailbox"},
    {"450 4.2.1 The user you are trying to contact is receiving mail too quickly",
	"policy-related"},
    {"554 5.7.9 Message not accepted for policy reasons", "policy-related"},
    {"421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
	"spam-related"},
    /* no status */
    {"550 No such user here", "bad-mailbox"},
    {"550 unknown user", "bad-mailbox"},
    {"550 User x@y.example not found", "bad-mailbox"},
    {"550 <x@y.example>: Recipient address rejected: User unknown in virtual mailbox table",
	"bad-mailbox"},
    {"550 Mailbox full", "quota-issues"},
    {"554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0]",
	"bad-mailbox"},
    {"550 account has been disabled", "inactive-mailbox"},
    {"550 This mailbox has been suspended", "inactive-mailbox"},
    {"550 relaying denied", "relaying-issues"},
    {"554 Transaction failed, spam message", "spam-related"},
    {"550 Ip frequency limited", "policy-related"},
    {"503 bad sequence of commands", "protocol-errors"},
    {"550 domain no longer in use", "bad-domain"},
    {"554 no valid host", "bad-domain"},
    {"552 x", "quota-issues"},
    {"550 x", "other"},
    {"", "other"},
    /* ours */
    {"connect: Connection refused", "no-answer-from-host"},
    {"connect timed out", "no-answer-from-host"},
    {"connection closed by the server while waiting for the reply to EHLO", "bad-connection"},
    /* of the sender */
    {"550 5.1.1 <a@b.example>: Sender address rejected: user unknown", "invalid-sender"},
    {"550 5.1.8 Sender address rejected: Domain not found", "invalid-sender"},
    {"553 sender domain does not exist", "invalid-sender"},
    {"550 5.1.1 invalid address in MAIL FROM", "invalid-sender"},
    {"550 5.2.1 sender's account is disabled", "invalid-sender"},
};

static enum bounce_category of(struct classifier *c, const char *text, unsigned stage)
{
	struct reply_parser p;
	char line[1200];
	snprintf(line, sizeof(line), "%s\n", text);
	struct str in = str_of(line);
	reply_parser_init(&p);
	bool parsed = reply_parse(&p, &in, NULL, NULL) == 1;
	return classify(c, parsed && p.reply.has_status ? str_of(p.reply.status) : STR(""),
	    str_of(text), stage);
}

static void test_replies(void **state)
{
	struct classifier *c = classifier_new();
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rows); i++) {
		const char *got = bounce_category_name(of(c, rows[i].text, STAGE_COUNT));
		if (strcmp(got, rows[i].category) != 0)
			fail_msg("\"%s\" is %s, not %s", rows[i].text, got, rows[i].category);
	}
	classifier_free(&c);
}

/* Each reply that is about a mailbox, with the sender named or said to MAIL: never the mailbox's.
 */
static void test_of_the_sender(void **state)
{
	static const char *const of_sender[] = {
	    "sender", "your return-path", "MAIL FROM", "the From address"};
	struct classifier *c = classifier_new();
	size_t tried = 0;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(rows); i++) {
		if (!strstr(rows[i].category, "-mailbox"))
			continue;
		tried++;
		assert_int_equal(of(c, rows[i].text, STAGE_MAIL), BOUNCE_INVALID_SENDER);
		for (size_t j = 0; j < COUNT_OF(of_sender); j++) {
			char text[1000];
			snprintf(text, sizeof(text), "%s (%s)", rows[i].text, of_sender[j]);
			enum bounce_category got = of(c, text, STAGE_RCPT);
			if (got == BOUNCE_BAD_MAILBOX || got == BOUNCE_INACTIVE_MAILBOX)
				fail_msg("%s: %s", text, bounce_category_name(got));
		}
	}
	assert_true(tried > 10);
	classifier_free(&c);
}

static void test_every_category_has_a_name(void **state)
{
	(void)state;
	assert_int_equal(BOUNCE_CATEGORY_COUNT, 17);
	for (unsigned i = 0; i < BOUNCE_CATEGORY_COUNT; i++)
		assert_non_null(bounce_category_name((enum bounce_category)i));
	assert_string_equal(bounce_category_name(BOUNCE_CATEGORY_COUNT), "other");
}

static void test_measure(void **state)
{
	enum { ROUNDS = 200 };
	struct classifier *c = classifier_new();
	int64_t start = clock_mono_us();
	(void)state;
	for (int r = 0; r < ROUNDS; r++)
		for (size_t i = 0; i < COUNT_OF(rows); i++)
			of(c, rows[i].text, STAGE_RCPT);
	print_message("a bounce is classified in %.1f us\n",
	    (double)(clock_mono_us() - start) / (ROUNDS * (double)COUNT_OF(rows)));
	classifier_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_replies),
	    cmocka_unit_test(test_of_the_sender),
	    cmocka_unit_test(test_every_category_has_a_name),
	    cmocka_unit_test(test_measure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

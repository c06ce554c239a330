/* SPDX-License-Identifier: ISC */
/* Envelopes: what was put in comes out; what is out of place, twice, too long or broken is refused.
 */
#include "common/envelope.h"
#include "common/types.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct str bytes_of(const struct buf *b)
{
	return (struct str){(const char *)b->p, b->n};
}

static void put_full(struct buf *b)
{
	char cause[13] = "\0\0\0\0\0\0\x01\x02\x01\0\x03\0\x04";
	envelope_put(b, ENV_SENDER, STR("a@example.org"));
	envelope_put(b, ENV_ENVID, STR("QQ314159"));
	envelope_put_u8(b, ENV_RET, RET_HDRS);
	envelope_put_u8(b, ENV_BODY, ENV_8BIT | ENV_UTF8);
	envelope_put(b, ENV_CLIENT, STR("192.0.2.1"));
	envelope_put(b, ENV_HELO, STR("client.example"));
	envelope_put(b, ENV_VMTA, STR("bulk"));
	envelope_put(b, ENV_TENANT, STR("acme"));
	envelope_put(b, ENV_CAMPAIGN, STR("news"));
	envelope_put(b, ENV_CAUSE, (struct str){cause, sizeof(cause)});
	envelope_put_u64(b, ENV_TICKET, 0x0102030405060708);
	envelope_put(b, ENV_MESSAGE_ID, STR("<1@x>"));
	envelope_put(b, (enum envelope_tag)31, STR("of a newer build\r\n"));
	envelope_put(b, ENV_RCPT, STR("b@example.com"));
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_SUCCESS | NOTIFY_DELAY);
	envelope_put(b, ENV_ORCPT, STR("rfc822;c@example.com"));
	envelope_put(b, (enum envelope_tag)200, STR(""));
	envelope_put(b, ENV_RCPT, STR("d@example.net"));
}

static void check_full(const struct envelope *e)
{
	assert_true(str_eq(e->sender, STR("a@example.org")));
	assert_true(str_eq(e->envid, STR("QQ314159")));
	assert_int_equal(e->ret, RET_HDRS);
	assert_int_equal(e->body, ENV_8BIT | ENV_UTF8);
	assert_true(str_eq(e->client, STR("192.0.2.1")));
	assert_true(str_eq(e->helo, STR("client.example")));
	assert_true(str_eq(e->vmta, STR("bulk")));
	assert_true(str_eq(e->tenant, STR("acme")));
	assert_true(str_eq(e->campaign, STR("news")));
	assert_true(str_eq(e->message_id, STR("<1@x>")));
	assert_true(e->has_cause);
	assert_true(e->cause_id == 0x0102 && e->cause_kind == DSN_DELAYED);
	assert_true(e->cause_ticket == 0x0102030405060708);
	assert_int_equal(e->cause_ordinals.n, 4);
	assert_int_equal(e->rcpt_count, 2);
}

static void a_full_envelope_comes_back(void **state)
{
	struct buf b;
	struct envelope e;
	(void)state;
	buf_init(&b, ENVELOPE_MAX);
	put_full(&b);
	assert_int_equal(envelope_decode(&e, bytes_of(&b)), 0);
	check_full(&e);
	assert_true(str_eq(e.rcpt[0].address, STR("b@example.com")));
	assert_int_equal(e.rcpt[0].notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
	assert_true(str_eq(e.rcpt[0].orcpt, STR("rfc822;c@example.com")));
	assert_true(str_eq(e.rcpt[1].address, STR("d@example.net")));
	assert_int_equal(e.rcpt[1].notify, NOTIFY_ABSENT);
	assert_int_equal(e.rcpt[1].orcpt.n, 0);
	envelope_fini(&e);
	buf_fini(&b);
}

struct seen {
	unsigned n, stop_at;
};

static int see(void *ctx, unsigned ordinal, const struct env_rcpt *rcpt)
{
	struct seen *seen = ctx;
	assert_int_equal(ordinal, seen->n);
	assert_true(rcpt->address.n > 0);
	return ++seen->n == seen->stop_at ? 77 : 0;
}

static void a_walk_calls_for_each_and_stops_when_told(void **state)
{
	struct buf b;
	struct envelope e;
	struct seen all = {0}, one = {.stop_at = 1};
	(void)state;
	buf_init(&b, ENVELOPE_MAX);
	put_full(&b);
	assert_int_equal(envelope_walk(&e, bytes_of(&b), see, &all), 0);
	check_full(&e);
	assert_null(e.rcpt);
	assert_int_equal(all.n, 2);
	assert_int_equal(envelope_walk(&e, bytes_of(&b), see, &one), 77);
	assert_int_equal(one.n, 1);
	buf_fini(&b);
}

static void no_truncation_passes_unseen(void **state)
{
	struct buf b;
	struct envelope e;
	(void)state;
	buf_init(&b, ENVELOPE_MAX);
	put_full(&b);
	size_t passed = 0;
	for (size_t n = 0; n < b.n; n++) {
		char *exact = xmalloc(n);
		memcpy(exact, b.p, n);
		int rc = envelope_decode(&e, (struct str){exact, n});
		if (rc == 0) { /* cut exactly between two fields behind a recipient */
			passed++;
			assert_true(e.rcpt_count >= 1);
			envelope_fini(&e);
		}
		free(exact);
	}
	assert_int_equal(passed, 4);
	buf_fini(&b);
}

/* --- refusals --- */

static char longest[1200];

static void put_sender(struct buf *b)
{
	envelope_put(b, ENV_SENDER, STR(""));
}

static void put_rcpt(struct buf *b)
{
	envelope_put(b, ENV_RCPT, STR("x@y"));
}

static void put_minimum(struct buf *b)
{
	put_sender(b);
	put_rcpt(b);
}

static void put_empty(struct buf *b)
{
	(void)b;
}

static void put_no_sender(struct buf *b)
{
	put_rcpt(b);
}

static void put_no_rcpt(struct buf *b)
{
	put_sender(b);
}

static void put_two_senders(struct buf *b)
{
	put_sender(b);
	put_minimum(b);
}

static void put_late_sender(struct buf *b)
{
	put_minimum(b);
	put_sender(b);
}

static void put_late_vmta(struct buf *b)
{
	put_minimum(b);
	envelope_put(b, ENV_VMTA, STR("v"));
}

static void put_early_notify(struct buf *b)
{
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_NEVER);
	put_minimum(b);
}

static void put_two_notifies(struct buf *b)
{
	put_minimum(b);
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_NEVER);
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_NEVER);
}

static void put_notify_each(struct buf *b)
{
	put_minimum(b);
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_NEVER);
	put_rcpt(b);
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_FAILURE);
}

static void put_never_and_more(struct buf *b)
{
	put_minimum(b);
	envelope_put_u8(b, ENV_NOTIFY, NOTIFY_NEVER | NOTIFY_FAILURE);
}

static void put_notify_16(struct buf *b)
{
	put_minimum(b);
	envelope_put_u8(b, ENV_NOTIFY, 16);
}

static void put_empty_rcpt(struct buf *b)
{
	put_sender(b);
	envelope_put(b, ENV_RCPT, STR(""));
}

static void put_long_rcpt(struct buf *b)
{
	put_sender(b);
	envelope_put(b, ENV_RCPT, (struct str){longest, ENV_ADDRESS_MAX + 1});
}

static void put_longest_rcpt(struct buf *b)
{
	put_sender(b);
	envelope_put(b, ENV_RCPT, (struct str){longest, ENV_ADDRESS_MAX});
}

static void put_newline(struct buf *b)
{
	put_sender(b);
	envelope_put(b, ENV_RCPT, STR("x@y>\r\nRCPT TO:<z@y"));
}

static void put_nul(struct buf *b)
{
	envelope_put(b, ENV_SENDER, STR("x\0@y"));
	put_rcpt(b);
}

static void put_long_orcpt(struct buf *b)
{
	put_minimum(b);
	envelope_put(b, ENV_ORCPT, (struct str){longest, ENV_ORCPT_MAX + 1});
}

static void put_long_campaign(struct buf *b)
{
	envelope_put(b, ENV_CAMPAIGN, (struct str){longest, ENV_TEXT_MAX + 1});
	put_minimum(b);
}

static void put_ret_3(struct buf *b)
{
	envelope_put_u8(b, ENV_RET, 3);
	put_minimum(b);
}

static void put_body_4(struct buf *b)
{
	envelope_put_u8(b, ENV_BODY, 4);
	put_minimum(b);
}

static void put_wide_ret(struct buf *b)
{
	envelope_put(b, ENV_RET, STR("\0\1"));
	put_minimum(b);
}

static void put_short_ticket(struct buf *b)
{
	envelope_put(b, ENV_TICKET, STR("1234567"));
	put_minimum(b);
}

static void put_odd_cause(struct buf *b)
{
	envelope_put(b, ENV_CAUSE, STR("12345678\0x"));
	put_minimum(b);
}

static void put_cause_kind_outside(struct buf *b)
{
	envelope_put(b, ENV_CAUSE, STR("12345678\4"));
	put_minimum(b);
}

static const struct {
	const char *name;
	void (*put)(struct buf *b);
	int rc;
} cases[] = {
    {"the least", put_minimum, 0},
    {"the longest address", put_longest_rcpt, 0},
    {"NOTIFY for each", put_notify_each, 0},
    {"nothing", put_empty, -EBADMSG},
    {"no sender", put_no_sender, -EBADMSG},
    {"no recipient", put_no_rcpt, -EBADMSG},
    {"two senders", put_two_senders, -EBADMSG},
    {"sender behind a recipient", put_late_sender, -EBADMSG},
    {"vmta behind a recipient", put_late_vmta, -EBADMSG},
    {"NOTIFY before a recipient", put_early_notify, -EBADMSG},
    {"NOTIFY twice", put_two_notifies, -EBADMSG},
    {"NEVER and more", put_never_and_more, -EBADMSG},
    {"NOTIFY out of range", put_notify_16, -EBADMSG},
    {"empty recipient", put_empty_rcpt, -EBADMSG},
    {"long recipient", put_long_rcpt, -EBADMSG},
    {"a command in a recipient", put_newline, -EBADMSG},
    {"NUL in the sender", put_nul, -EBADMSG},
    {"long ORCPT", put_long_orcpt, -EBADMSG},
    {"long campaign", put_long_campaign, -EBADMSG},
    {"RET out of range", put_ret_3, -EBADMSG},
    {"BODY out of range", put_body_4, -EBADMSG},
    {"RET of two bytes", put_wide_ret, -EBADMSG},
    {"short ticket", put_short_ticket, -EBADMSG},
    {"half an ordinal", put_odd_cause, -EBADMSG},
    {"kind of DSN out of range", put_cause_kind_outside, -EBADMSG},
};

static void wrong_envelopes_are_refused(void **state)
{
	(void)state;
	memset(longest, 'a', sizeof(longest));
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct buf b;
		struct envelope e;
		buf_init(&b, ENVELOPE_MAX);
		cases[i].put(&b);
		assert_false(b.failed);
		int rc = envelope_decode(&e, bytes_of(&b));
		if (rc != cases[i].rc)
			fail_msg("%s: %d", cases[i].name, rc);
		if (rc == 0)
			envelope_fini(&e);
		buf_fini(&b);
	}
}

static int decode_many(unsigned n)
{
	struct buf b;
	struct envelope e;
	buf_init(&b, ENVELOPE_MAX + 64);
	put_sender(&b);
	for (unsigned i = 0; i < n; i++)
		put_rcpt(&b);
	int rc = envelope_decode(&e, bytes_of(&b));
	if (rc == 0) {
		assert_int_equal(e.rcpt_count, n);
		envelope_fini(&e);
	}
	buf_fini(&b);
	return rc;
}

static void recipients_have_a_bound(void **state)
{
	(void)state;
	assert_int_equal(decode_many(RCPT_MAX), 0);
	assert_int_equal(decode_many(RCPT_MAX + 1), -EBADMSG);
}

static void a_field_is_whole_or_not_there(void **state)
{
	struct buf b;
	char *big = xcalloc(1, 65536);
	(void)state;
	buf_init(&b, 200000);
	envelope_put(&b, ENV_HELO, (struct str){big, 65536});
	assert_true(b.failed);
	assert_int_equal(b.n, 0);
	buf_fini(&b);
	buf_init(&b, 10);
	envelope_put(&b, ENV_HELO, STR("12345678"));
	assert_true(b.failed);
	assert_int_equal(b.n, 0);
	buf_fini(&b);
	free(big);
}

static void finds_the_domain(void **state)
{
	(void)state;
	assert_true(str_eq(address_domain(STR("a@b.c")), STR("b.c")));
	assert_true(str_eq(address_domain(STR("\"a@b\"@c")), STR("c")));
	assert_int_equal(address_domain(STR("a@")).n, 0);
	assert_int_equal(address_domain(STR("postmaster")).n, 0);
	assert_int_equal(address_domain((struct str){NULL, 0}).n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_full_envelope_comes_back),
	    cmocka_unit_test(a_walk_calls_for_each_and_stops_when_told),
	    cmocka_unit_test(no_truncation_passes_unseen),
	    cmocka_unit_test(wrong_envelopes_are_refused),
	    cmocka_unit_test(recipients_have_a_bound),
	    cmocka_unit_test(a_field_is_whole_or_not_there),
	    cmocka_unit_test(finds_the_domain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/* Who is owed a report. */
#include "bouncer/decide.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void per_recipient(void **state)
{
	enum { N = NOTIFY_NEVER, S = NOTIFY_SUCCESS, F = NOTIFY_FAILURE, D = NOTIFY_DELAY };
	static const struct {
		unsigned notify;
		bool failed, delayed, success;
	} table[] = {
	    {NOTIFY_ABSENT, true, true, false}, {N, false, false, false}, {S, false, false, true},
	    {F, true, false, false}, {D, false, true, false}, {S | F, true, false, true},
	    {S | D, false, true, true}, {F | D, true, true, false}, {S | F | D, true, true, true},
	    {N | S | F | D, false, false, false}, /* never written by smtpd: NEVER stands alone */
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(table); i++) {
		uint8_t notify = (uint8_t)table[i].notify;
		assert_int_equal(decide_rcpt(DSN_FAILED, notify) == NULL, table[i].failed);
		assert_int_equal(decide_rcpt(DSN_DELAYED, notify) == NULL, table[i].delayed);
		assert_int_equal(decide_rcpt(DSN_SUCCESS, notify) == NULL, table[i].success);
		assert_non_null(decide_rcpt(DSN_KIND_COUNT, notify));
	}
}

static void per_message(void **state)
{
	struct envelope plain = {.sender = STR("a@b.example")};
	struct envelope null_sender = {.sender = STR("")};
	struct envelope report = {.sender = STR("a@b.example"), .has_cause = true};
	(void)state;
	assert_null(decide_message(&plain));
	assert_string_equal(decide_message(&null_sender), "null sender");
	assert_non_null(decide_message(&report));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(per_recipient),
	    cmocka_unit_test(per_message),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

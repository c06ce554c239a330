/* SPDX-License-Identifier: ISC */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "smtpd/received.h"

static void test_dates(void **state)
{
	char out[DATE_TEXT], want[DATE_TEXT];
	(void)state;
	date_print(out, 0);
	assert_string_equal(out, "Thu, 01 Jan 1970 00:00:00 +0000");
	date_print(out, 951782399999);
	assert_string_equal(out, "Mon, 28 Feb 2000 23:59:59 +0000");
	for (int64_t s = 1; s < 4000000000; s += 7654321) { /* the C library's way */
		time_t t = (time_t)s;
		struct tm tm;
		gmtime_r(&t, &tm);
		strftime(want, sizeof(want), "%a, %d %b %Y %H:%M:%S +0000", &tm);
		date_print(out, s * 1000 + 999);
		assert_string_equal(out, want);
	}
}

static void check(const struct received *r, const char *want)
{
	struct buf b;
	buf_init(&b, 10000);
	received_put(&b, r);
	assert_int_equal(b.n, strlen(want));
	assert_memory_equal(b.p, want, b.n);
	buf_fini(&b);
}

static void test_received(void **state)
{
	struct received r = {.helo = "c.test",
	    .client = "192.0.2.1",
	    .host = "mx.test",
	    .protocol = received_protocol(true, false, false),
	    .tls = "",
	    .id = "0000000001000001",
	    .rcpt = "",
	    .wall_ms = 0};
	(void)state;
	check(&r,
	    "Received: from c.test (unknown [192.0.2.1])\r\n\tby mx.test (Postern) with ESMTP id "
	    "0000000001000001;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n");
	r.client = "2001:db8::1";
	r.rcpt = "a@b.test";
	r.tls = "TLSv1.3 X";
	r.protocol = received_protocol(true, true, true);
	check(&r, "Received: from c.test (unknown [IPv6:2001:db8::1])\r\n\t(using TLSv1.3 "
		  "X)\r\n\tby mx.test (Postern) "
		  "with UTF8SMTPS id 0000000001000001\r\n\tfor <a@b.test>;\r\n\tThu, 01 Jan 1970 "
		  "00:00:00 +0000\r\n");
	assert_string_equal(received_protocol(false, false, false), "SMTP");
	assert_string_equal(received_protocol(true, true, false), "ESMTPS");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_dates),
	    cmocka_unit_test(test_received),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/* What people read: numbers, times, and answers in words. */
#include "ctl/view.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

static const int64_t now_ms = INT64_C(1795395723) * 1000; /* 2026-11-23T01:02:03Z */

static void test_numbers(void **state)
{
	static const struct {
		int64_t n;
		const char *text;
	} cases[] = {{0, "0"}, {12, "12"}, {999, "999"}, {1204, "1,204"}, {1000000, "1,000,000"},
	    {-1204, "-1,204"}, {-999, "-999"}, {INT64_MAX, "9,223,372,036,854,775,807"}};
	char out[CELL_MAX];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		cell_number(out, cases[i].n);
		assert_string_equal(out, cases[i].text);
	}
}

static void test_spans(void **state)
{
	static const struct {
		int64_t ms;
		const char *text;
	} cases[] = {{-5, "0.0 s"}, {0, "0.0 s"}, {3600, "3.6 s"}, {9999, "9.9 s"}, {10000, "10 s"},
	    {59400, "59 s"}, {59500, "1m"}, {200000, "3m 20s"}, {3600000, "1h"},
	    {5400000, "1h 30m"}, {86400000, "1d"}, {93600000, "1d 2h"},
	    {INT64_C(31536000000), "365d"}};
	char out[CELL_MAX];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		cell_span(out, cases[i].ms);
		assert_string_equal(out, cases[i].text);
	}
}

static int64_t time_of(const char *text)
{
	json_t *v = text != NULL ? json_string(text) : json_null();
	int64_t ms = cell_time(v);
	json_decref(v);
	return ms;
}

static void test_times(void **state)
{
	char out[CELL_MAX];
	(void)state;
	assert_int_equal(time_of("2026-11-23T01:02:03Z"), now_ms);
	assert_int_equal(time_of("2026-11-23T01:02:03.045Z"), now_ms + 45);
	assert_int_equal(time_of("soon"), 0);
	assert_int_equal(time_of(NULL), 0);
	cell_when_ms(out, now_ms + 200000, now_ms);
	assert_string_equal(out, "in 3m 20s (01:05:23)");
	cell_when_ms(out, now_ms - 5400000, now_ms);
	assert_string_equal(out, "1h 30m ago (2026-11-22 23:32)");
	cell_until(out, now_ms + 2 * 86400000, now_ms);
	assert_string_equal(out, "2026-11-25 01:02 (in 2d)");
}

/* The words for that answer; the caller frees. */
static char *said(say_fn *say, const char *text)
{
	char *out = NULL;
	size_t n;
	FILE *f = open_memstream(&out, &n);
	json_t *row = json_loads(text, 0, NULL);
	assert_non_null(row);
	say(f, row, now_ms);
	fclose(f);
	json_decref(row);
	return out;
}

static void must_say(say_fn *say, const char *text, const char *expected)
{
	char *out = said(say, text);
	assert_string_equal(out, expected);
	free(out);
}

static void test_why(void **state)
{
	(void)state;
	must_say(say_why,
	    "{\"target\":\"google/mta1\",\"state\":\"limit\",\"binding\":\"max-msg-rate of "
	    "provider "
	    "google\",\"until\":\"2026-11-23T01:02:06.600Z\",\"text\":null,\"recipients\":1204,"
	    "\"connections\":3,\"limits\":[{\"name\":\"max-msg-rate\",\"key\":\"provider google\","
	    "\"limit\":1000,\"per\":\"h\",\"burst\":1,\"used\":1,\"full\":true,\"binding\":true,"
	    "\"frees\":\"2026-11-23T01:02:06.600Z\",\"origin\":\"google.conf:12\"},"
	    "{\"name\":\"max-smtp-out\",\"key\":\"queue google/mta1\",\"limit\":20,\"used\":3,"
	    "\"full\":false,\"binding\":false,\"frees\":null,\"origin\":\"default\"}]}",
	    "google/mta1 waits: max-msg-rate 1,000/h of provider google (google.conf:12) is used "
	    "up; "
	    "one more may go in 3.6 s (01:02:06). 1,204 recipients wait; 3 connections are open.\n"
	    "\n"
	    "LIMIT         OF                   VALUE     USED  ONE MORE FITS                 SET "
	    "IN\n"
	    "max-msg-rate  provider google    1,000/h   1 of 1  in 3.6 s (01:02:06) <- binds  "
	    "google.conf:12\n"
	    "max-smtp-out  queue google/mta1       20  3 of 20  now                           "
	    "default\n");
	must_say(say_why,
	    "{\"target\":\"a/b\",\"state\":\"limit\",\"binding\":\"x\",\"until\":null,\"limits\":[{"
	    "\"name\":\"max-smtp-out\",\"key\":\"mx m.test\",\"limit\":1,\"used\":1,\"full\":true,"
	    "\"binding\":true,\"frees\":null,\"origin\":null}],\"recipients\":1,\"connections\":0}",
	    "a/b waits: max-smtp-out 1 of mx m.test is used up; one more may go when another ends. "
	    "1 "
	    "recipient waits; 0 connections are open.\n"
	    "\n"
	    "LIMIT         OF         VALUE    USED  ONE MORE FITS               SET IN\n"
	    "max-smtp-out  mx m.test      1  1 of 1  when another ends <- binds  -\n");
	must_say(say_why,
	    "{\"target\":\"a/b\",\"state\":\"retry\",\"binding\":\"failed connections\",\"until\":"
	    "\"2026-11-23T01:12:03Z\",\"text\":\"451 \\u001b[2J no\",\"limits\":[]}",
	    "a/b waits for its next attempt: failed connections, until 01:12:03 (in 10m). The last "
	    "word on it: 451 ?[2J no.\n");
	must_say(say_why,
	    "{\"target\":\"a/b\",\"state\":\"suspended\",\"binding\":\"tenant acme\",\"until\":"
	    "\"2026-11-23T04:02:03Z\",\"rule\":\"l:2 (f:3)\",\"text\":\"550 "
	    "5.7.26\",\"limits\":[]}",
	    "a/b is suspended: tenant acme, by rule l:2 (f:3), until 04:02:03 (in 3h). The last "
	    "word "
	    "on it: 550 5.7.26.\n");
	must_say(say_why, "{\"target\":\"a/b\",\"state\":\"empty\",\"limits\":[]}",
	    "a/b is empty: nothing waits there.\n");
	must_say(
	    say_why, "{\"target\":\"a/b\",\"state\":\"new to us\",\"limits\":[]}", "a/b waits.\n");
}

static void test_why_of_a_message(void **state)
{
	(void)state;
	must_say(say_why,
	    "{\"target\":\"0000000001000001\",\"recipient\":\"u@a.test\",\"state\":\"held\","
	    "\"binding\":null,\"limits\":[],\"recipients_waiting\":[{}]}",
	    "u@a.test is set aside.\n");
	must_say(say_why,
	    "{\"target\":\"0000000001000001\",\"state\":\"held\",\"limits\":[],\"recipients_"
	    "waiting\":["
	    "{\"recipient\":\"u@a.test\",\"queue\":\"a.test/m\",\"state\":\"retry\",\"attempts\":2,"
	    "\"binding\":\"retry-after\",\"until\":\"2026-11-23T01:12:03Z\"},"
	    "{\"recipient\":\"w@a.test\",\"queue\":\"a.test/m\",\"state\":\"ready\",\"attempts\":0,"
	    "\"binding\":null,\"until\":null}]}",
	    "0000000001000001\n"
	    "RECIPIENT  QUEUE     STATE  TRIES  WAITS FOR    UNTIL\n"
	    "u@a.test   a.test/m  retry      2  retry-after  in 10m (01:12:03)\n"
	    "w@a.test   a.test/m  ready      0  ready        -\n");
}

static void test_changes(void **state)
{
	(void)state;
	must_say(say_delete, "{\"recipients\":1}", "1 recipient deleted\n");
	must_say(say_bounce, "{\"recipients\":1204,\"in_flight\":2}",
	    "1,204 recipients returned to sender; 2 more being delivered right now, left alone\n");
	must_say(say_flush, "{\"recipients\":0,\"dry_run\":true}",
	    "0 recipients would be made due now; nothing was changed\n");
	must_say(say_pause,
	    "{\"scope\":\"tenant\",\"name\":\"acme\",\"at\":\"google\",\"until\":"
	    "\"2026-11-23T02:02:03Z\"}",
	    "tenant acme at google is paused, until 02:02:03 (in 1h)\n");
	must_say(say_pause, "{\"scope\":\"vmta\",\"name\":\"m\",\"at\":null,\"until\":null}",
	    "vmta m is paused, without end\n");
	must_say(say_pause,
	    "{\"scope\":\"queue\",\"name\":\"m\",\"at\":null,\"until\":null,\"known\":false}",
	    "queue m is paused, without end; nothing has that name yet\n");
	must_say(say_resume, "{\"scope\":\"vmta\",\"name\":\"m\",\"at\":null,\"ended\":2}",
	    "vmta m goes on; 2 holds ended\n");
	must_say(say_mode, "{\"queue\":\"a/b\",\"done\":true,\"mode\":\"backoff\"}",
	    "a/b: mode backoff\n");
	must_say(say_reset, "{\"queue\":\"a/b\",\"done\":false}", "a/b: refused\n");
	must_say(say_event,
	    "{\"at\":\"2026-11-23T01:02:03Z\",\"kind\":\"mode\",\"scope\":\"a/"
	    "b\",\"from\":\"normal\","
	    "\"to\":\"backoff\",\"until\":null,\"rule\":\"l:1 (f:2)\",\"who\":null,\"text\":\"421 "
	    "no\"}",
	    "01:02:03 mode a/b: normal -> backoff; rule l:1 (f:2): 421 no\n");
}

static void test_explain(void **state)
{
	(void)state;
	must_say(say_explain,
	    "{\"domain\":\"a.test\",\"vmta\":\"m\",\"destination\":\"a.test\",\"values\":["
	    "{\"option\":\"type\",\"value\":\"smtp\",\"origin\":\"default\",\"layer\":\"default\","
	    "\"overrides\":[]},{\"option\":\"max-smtp-out\",\"value\":\"7\",\"origin\":\"f:3\","
	    "\"layer\":\"domain\",\"overrides\":[{\"value\":\"9\",\"origin\":\"f:1\"}]}],"
	    "\"budgets\":[],\"arithmetic\":{\"per_hour\":25200.0,\"binds\":\"max-smtp-out\","
	    "\"by_connections\":25200.0,\"by_connects\":null,\"by_messages\":null,"
	    "\"seconds_per_message\":1.0}}",
	    "Mail for a.test by m waits in the queue a.test/m.\n"
	    "\n"
	    "max-smtp-out  7     domain, f:3\n"
	    "              over 9 (f:1)\n"
	    "\n"
	    "type          smtp  default\n"
	    "\n"
	    "Together these allow 25,200 recipients an hour; max-smtp-out binds (at 1 s a "
	    "message). By "
	    "itself:\n"
	    "  connections                          25,200 an hour\n");
}

static void test_views(void **state)
{
	(void)state;
	assert_non_null(view_find("qmgr", "why"));
	assert_non_null(view_find("qmgr.0", "queues"));
	assert_null(view_find("smtpd", "queues"));
	assert_null(view_find("qmgr", "status"));
}

/* Rows of a list whose view has columns: these and no others, and JSON untouched. */
static void test_columns(void **state)
{
	static const char text[] =
	    "{\"queue\":\"a/"
	    "b\",\"recipients\":1204,\"ready\":3,\"connections\":1,\"connections_max\":2,"
	    "\"mode\":\"backoff\",\"paused\":true,\"held\":1,\"next_retry\":null,\"last_error\":"
	    "null}";
	(void)state;
	for (int json = 0; json <= 1; json++) {
		char *out = NULL;
		size_t n;
		FILE *f = open_memstream(&out, &n);
		struct show *s = show_new(f, SHAPE_LIST, json == 1, false);
		json_t *row = json_loads(text, 0, NULL);
		show_view(s, view_find("qmgr", "queues"));
		show_row(s, 0, row);
		show_end(&s);
		fclose(f);
		json_decref(row);
		if (json == 0)
			assert_string_equal(out, "QUEUE  RECIPIENTS  READY  CONNS  MODE            "
						 "     NEXT RETRY  LAST ERROR\n"
						 "a/b         1,204      3    1/2  "
						 "backoff,paused,held  -           -\n");
		else
			assert_non_null(strstr(out, text));
		free(out);
	}
}

/* What is followed comes a row at a time, as JSON an object a line. */
static void test_stream(void **state)
{
	char *out = NULL;
	size_t n;
	FILE *f = open_memstream(&out, &n);
	struct show *s = show_new(f, SHAPE_STREAM, true, false);
	json_t *row = json_pack("{s:i}", "seq", 1);
	(void)state;
	show_row(s, 0, row);
	assert_string_equal(out, "{\"seq\":1}\n"); /* before it ends */
	show_end(&s);
	fclose(f);
	assert_string_equal(out, "{\"seq\":1}\n");
	json_decref(row);
	free(out);
}

static int in_utc(void **state)
{
	(void)state;
	return setenv("TZ", "UTC0", 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_spans),
	    cmocka_unit_test(test_times),
	    cmocka_unit_test(test_why),
	    cmocka_unit_test(test_why_of_a_message),
	    cmocka_unit_test(test_changes),
	    cmocka_unit_test(test_explain),
	    cmocka_unit_test(test_views),
	    cmocka_unit_test(test_columns),
	    cmocka_unit_test(test_stream),
	};
	return cmocka_run_group_tests(tests, in_utc, NULL);
}

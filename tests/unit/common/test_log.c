/* SPDX-License-Identifier: ISC */
/* Log lines: their two forms, one write each, nothing that breaks a line or a terminal. */
#include "common/log.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
#include <cmocka.h>

static int pair[2];

/* Datagram sockets: one write is one datagram. */
static int setup(void **state)
{
	(void)state;
	setenv("TZ", "UTC", 1);
	return socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
	(void)state;
	log_open("test", STDERR_FILENO, false);
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static const char *next_write(char *out, size_t size)
{
	ssize_t n = recv(pair[1], out, size - 1, MSG_DONTWAIT);
	out[n > 0 ? n : 0] = 0;
	return out;
}

static void test_stderr_form(void **state)
{
	char got[4096], expected[256];
	(void)state;
	log_open("qmgr", pair[0], false);
	log_error("broken: %d", 7);
	snprintf(expected, sizeof expected, "<3>postern/qmgr[%ld]: broken: 7\n", (long)getpid());
	assert_string_equal(next_write(got, sizeof got), expected);
	log_warn("w");
	log_info("i");
	snprintf(expected, sizeof expected, "<4>postern/qmgr[%ld]: w\n", (long)getpid());
	assert_string_equal(next_write(got, sizeof got), expected);
	snprintf(expected, sizeof expected, "<6>postern/qmgr[%ld]: i\n", (long)getpid());
	assert_string_equal(next_write(got, sizeof got), expected);
}

static void test_file_form(void **state)
{
	char got[4096], host[65] = "", expected[256];
	(void)state;
	log_open("qmgr", pair[0], true);
	log_as("smtp-out", 42, INT64_C(1767323045678), STR("1234: to=<a@b>, status=sent (250 ok)"));
	gethostname(host, sizeof host - 1);
	host[strcspn(host, ".")] = 0;
	snprintf(expected, sizeof expected,
	    "Jan  2 03:04:05 %s postern/smtp-out[42]: 1234: to=<a@b>, status=sent (250 ok)\n",
	    host);
	assert_string_equal(next_write(got, sizeof got), expected);
}

static void test_long_and_dirty_lines(void **state)
{
	static char text[5000];
	char got[8192];
	(void)state;
	log_open("qmgr", pair[0], false);
	memset(text, 'x', sizeof text - 1);
	log_info("%s", text);
	next_write(got, sizeof got);
	assert_int_equal(strlen(got), LOG_LINE_MAX);
	assert_int_equal(got[LOG_LINE_MAX - 1], '\n');
	log_info("a\nb\rc\033d\x7f");
	next_write(got, sizeof got);
	assert_string_equal(strstr(got, "]: "), "]: a b c d \n");
}

static void test_held_lines_leave_together(void **state)
{
	char got[8192];
	(void)state;
	log_open("qmgr", pair[0], false);
	log_hold();
	log_info("one");
	log_info("two");
	assert_string_equal(next_write(got, sizeof got), "");
	log_flush();
	next_write(got, sizeof got);
	assert_non_null(strstr(got, "one\n<6>"));
	assert_non_null(strstr(got, "two\n"));
	assert_string_equal(next_write(got, sizeof got), "");
	log_info("three");
	next_write(got, sizeof got);
	assert_non_null(strstr(got, "three\n"));
}

/* More than the gathering holds: nothing is lost, no line is cut, the order stays. */
static void test_held_lines_overflow(void **state)
{
	enum { LINES = 3000 };
	int fds[2], n = 0;
	char line[256];
	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_true(fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) > 0);
	log_open("qmgr", fds[1], false);
	log_hold();
	for (int i = 0; i < LINES; i++)
		log_info("line %d of many that are held until the end", i);
	log_open("qmgr", pair[0], false); /* also writes what is held, to the old file */
	close(fds[1]);
	FILE *f = fdopen(fds[0], "r");
	while (fgets(line, sizeof line, f) != NULL) {
		char expected[64];
		snprintf(expected, sizeof expected, "]: line %d of many", n++);
		assert_non_null(strstr(line, expected));
	}
	assert_int_equal(n, LINES);
	fclose(f);
}

static void test_clean(void **state)
{
	static const struct {
		const char *in;
		size_t n, size;
		const char *out;
	} cases[] = {
	    {"plain", 5, 100, "plain"},
	    {"a\r\nb\0c\x7f", 7, 100, "a??b?c?"},
	    {"gr\xC3\xBC\xC3\x9F", 6, 100, "gr\xC3\xBC\xC3\x9F"},
	    {"\xC3", 1, 100, "?"},
	    {"\xC0\x80\xED\xA0\x80\xFF", 6, 100, "??????"},
	    {"\xC2\x9B"
	     "2J",
		4, 100, "?2J"},
	    {"12345", 5, 4, "123"},
	    {"12\xE2\x82\xAC", 5, 5, "12"}, /* no half character */
	    {"12\xE2\x82\xAC", 5, 6, "12\xE2\x82\xAC"},
	    {"x", 1, 1, ""},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		char out[128];
		assert_string_equal(
		    log_clean(out, cases[i].size, (struct str){cases[i].in, cases[i].n}),
		    cases[i].out);
	}
}

static void test_die(void **state)
{
	char got[4096];
	int status = 0;
	(void)state;
	pid_t child = fork();
	if (child == 0) {
		log_open("master", pair[0], false);
		die(EX_CONFIG, "cannot read %s", "x");
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(WEXITSTATUS(status), EX_CONFIG);
	assert_non_null(strstr(next_write(got, sizeof got), "]: cannot read x\n"));
}

static void test_reader_gone(void **state)
{
	int fds[2];
	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	log_open("qmgr", fds[1], false);
	for (int i = 0; i < 5000; i++)
		log_info("nobody reads this, and nothing waits for it %d", i);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_stderr_form, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_file_form, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_long_and_dirty_lines, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_held_lines_leave_together, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_held_lines_overflow, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_clean, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_die, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_reader_gone, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

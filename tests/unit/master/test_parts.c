/* SPDX-License-Identifier: ISC */
#include "master/master.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
/* After the four above, which it needs. */
#include <cmocka.h>

/* --- boot.c
 * ------------------------------------------------------------------------------------------- */

static void when_an_end_was_unclean(void **unused)
{
	static const struct {
		const char *name;
		enum boot_mark mark;
		const char *marked, *current;
		bool new_spool, unclean;
	} cases[] = {
	    {"a new spool", BOOT_NONE, "", "b", true, false},
	    {"a mark that does not read", BOOT_NONE, "", "b", false, true},
	    {"killed, same boot", BOOT_RUNNING, "a", "a", false, false},
	    {"power lost", BOOT_RUNNING, "a", "b", false, true},
	    {"boot id unknown", BOOT_RUNNING, "a", "", false, true},
	    {"clean, same boot", BOOT_CLEAN, "a", "a", false, false},
	    {"clean, then rebooted", BOOT_CLEAN, "a", "b", false, false},
	    {"died while it recovered", BOOT_UNCLEAN, "b", "b", false, true},
	    {"power lost while it recovered", BOOT_UNCLEAN, "b", "c", false, true},
	};
	(void)unused;
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		if (boot_is_unclean(cases[i].mark, str_of(cases[i].marked),
			str_of(cases[i].current), cases[i].new_spool) != cases[i].unclean)
			fail_msg("%s", cases[i].name);
}

/* --- handover.c
 * --------------------------------------------------------------------------------------- */

static void links_are_those_of_the_table(void **unused)
{
	(void)unused;
	for (enum proc_id a = 1; a < PROC_COUNT; a++)
		for (enum proc_id b = 1; b < PROC_COUNT; b++) {
			bool expected = (a == PROC_qmgr) != (b == PROC_qmgr);
			if (handover_linked(a, b) != expected)
				fail_msg("%s and %s", proc_name(a), proc_name(b));
		}
}

/* --- notify.c
 * ----------------------------------------------------------------------------------------- */

static int receiver(const char *path, socklen_t length)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	memcpy(a.sun_path, path, length);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
	    0);
	return fd;
}

static void expect_datagram(int fd, const char *text)
{
	char got[2048];
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);
	assert_true(n >= 0);
	got[n] = '\0';
	assert_string_equal(got, text);
}

static void one_datagram_to_an_abstract_socket(void **unused)
{
	char name[64];
	struct notify n;
	(void)unused;
	snprintf(name, sizeof(name), "@postern-test-notify-%d", getpid());
	setenv("NOTIFY_SOCKET", name, 1);
	setenv("WATCHDOG_USEC", "3000000", 1);
	name[0] = '\0';
	int fd = receiver(name, (socklen_t)(1 + strlen(name + 1)));
	notify_open(&n);
	assert_int_equal(n.watchdog_ms, 3000);
	assert_null(getenv("NOTIFY_SOCKET")); /* workers must not speak to systemd */
	assert_null(getenv("WATCHDOG_USEC"));
	notify_send(&n, "STATUS=%d of %d", 3, 7);
	expect_datagram(fd, "STATUS=3 of 7");
	close(fd);
	notify_send(&n, "READY=1"); /* nobody there: no matter */
	close(n.fd);
}

static void somebody_elses_watchdog_and_wrong_sockets(void **unused)
{
	static const char *const wrong[] = {
	    "relative", "", "vsock:2:1234", "@", "/nonexistent/notify"};
	struct notify n;
	(void)unused;
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		setenv("NOTIFY_SOCKET", wrong[i], 1);
		setenv("WATCHDOG_USEC", "3000000", 1);
		notify_open(&n);
		assert_int_equal(n.fd, -1);
		assert_int_equal(n.watchdog_ms, 0);
		notify_send(&n, "READY=1");
	}
	char name[64] = {0};
	snprintf(name + 1, sizeof(name) - 1, "postern-test-other-%d", getpid());
	int fd = receiver(name, (socklen_t)(1 + strlen(name + 1)));
	name[0] = '@';
	setenv("NOTIFY_SOCKET", name, 1);
	setenv("WATCHDOG_USEC", "3000000", 1);
	setenv("WATCHDOG_PID", "1", 1);
	notify_open(&n);
	assert_int_equal(n.watchdog_ms, 0);
	close(n.fd);
	close(fd);
}

/* --- dirs.c
 * -------------------------------------------------------------------------------------------- */

static void small_files_are_replaced_whole(void **unused)
{
	char directory[] = "/tmp/postern-test-XXXXXX", path[256];
	struct buf text;
	(void)unused;
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/a/b/c", directory);
	assert_int_equal(dirs_make(path, 0700), 0);
	assert_int_equal(dirs_make(path, 0700), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	struct dirs d = {.own_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
	buf_init(&text, 1048576);
	assert_int_equal(dirs_read(&d, "x", &text), -ENOENT);
	assert_int_equal(dirs_replace(&d, "x", STR("first, and longer")), 0);
	assert_int_equal(dirs_replace(&d, "x", STR("second")), 0);
	assert_int_equal(dirs_read(&d, "x", &text), 0);
	assert_true(str_eq((struct str){(char *)text.p, text.n}, STR("second")));
	assert_int_equal(faccessat(d.own_fd, "x.new", F_OK, 0), -1);
	assert_int_equal(symlinkat("/etc/passwd", d.own_fd, "y"), 0);
	assert_true(dirs_read(&d, "y", &text) < 0); /* never through a link */
	buf_fini(&text);
	close(d.own_fd);
	snprintf(path, sizeof(path), "rm -r %s", directory);
	assert_int_equal(system(path), 0);
}

static void names_of_renamed_files(void **state)
{
	static const char *const rising[] = {"a-20261122-235959", "a-20261123-000000",
	    "a-20261123-000000-2", "a-20261123-000000-9", "a-20261123-000000-10",
	    "a-20261123-000001"};
	static const char *const others[] = {"a", "a-", "a-20261123", "a-20261123-00000",
	    "a-20261123-000000.gz", "a-20261123-000000-", "a-20261123-000000-1",
	    "b-20261123-000000", "aa-20261123-000000", "a-2026112x-000000", "a-20261123-000000-2x",
	    "a_20261123-000000"};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(rising); i++) {
		assert_true(rotate_is_ours("a", rising[i]));
		for (size_t k = 0; k < COUNT_OF(rising); k++) {
			int order = rotate_order("a", rising[i], rising[k]);
			assert_true(i < k ? order < 0 : i > k ? order > 0 : order == 0);
		}
	}
	for (size_t i = 0; i < COUNT_OF(others); i++)
		assert_false(rotate_is_ours("a", others[i]));
}

/* The full hour, midnight where the clock is ahead of UTC; never now or in the past. */
static void times_of_rotation(void **state)
{
	const int64_t hour = 3600000, day = 24 * hour, now = INT64_C(1795400000123);

	(void)state;
	assert_int_equal(rotate_next_ms(5 * hour, hour, 0), 6 * hour);
	assert_int_equal(rotate_next_ms(5 * hour + 1, hour, 0), 6 * hour);
	assert_int_equal(rotate_next_ms(5 * hour - 1, hour, 0), 5 * hour);
	assert_int_equal((rotate_next_ms(now, day, 2 * hour) + 2 * hour) % day, 0);
	assert_true(rotate_next_ms(now, day, 2 * hour) > now);
	assert_true(rotate_next_ms(now, day, 2 * hour) <= now + day);
	assert_int_equal((rotate_next_ms(now, day, -5 * hour) - 5 * hour) % day, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(when_an_end_was_unclean),
	    cmocka_unit_test(links_are_those_of_the_table),
	    cmocka_unit_test(one_datagram_to_an_abstract_socket),
	    cmocka_unit_test(somebody_elses_watchdog_and_wrong_sockets),
	    cmocka_unit_test(names_of_renamed_files),
	    cmocka_unit_test(times_of_rotation),
	    cmocka_unit_test(small_files_are_replaced_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

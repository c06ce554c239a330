/* SPDX-License-Identifier: ISC */
/*
 * The filters of system calls, each tried in a child: what a worker that was taken over must not be
 * able to do ends it, what it needs goes on.
 */
#include "common/sandbox.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int pair[2];

static void send_plainly(void)
{
	char x = 0;
	struct iovec iov = {&x, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	(void)!send(pair[0], "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)!sendmsg(pair[0], &m, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE);
}

static void send_fast_open(void)
{
	(void)!send(pair[0], "x", 1, MSG_FASTOPEN);
}

static void sendmsg_fast_open(void)
{
	struct msghdr m = {0};
	(void)!sendmsg(pair[0], &m, MSG_FASTOPEN | MSG_NOSIGNAL);
}

static void sendmmsg_fast_open(void)
{
	struct mmsghdr m = {0};
	(void)!sendmmsg(pair[0], &m, 1, MSG_FASTOPEN);
}

static void shut_down(void)
{
	shutdown(pair[0], SHUT_RDWR);
}

static void make_socket(void)
{
	(void)!socket(AF_INET, SOCK_STREAM, 0);
}

static const struct {
	const char *name;
	enum proc_id process;
	void (*act)(void);
	bool allowed;
} cases[] = {
    {"smtpd sends", PROC_smtpd, send_plainly, true},
    {"qmgr sends", PROC_qmgr, send_plainly, true},
    {"smtp-out sends", PROC_smtp_out, send_plainly, true},
    {"smtp-out shuts down", PROC_smtp_out, shut_down, true},
    {"smtp-out makes a socket", PROC_smtp_out, make_socket, true},
    {"smtpd makes a socket", PROC_smtpd, make_socket, false},
    {"smtpd shuts down", PROC_smtpd, shut_down, false},
    {"qmgr shuts down", PROC_qmgr, shut_down, false},
    {"smtpd connects by sendto", PROC_smtpd, send_fast_open, false},
    {"smtpd connects by sendmsg", PROC_smtpd, sendmsg_fast_open, false},
    {"smtpd connects by sendmmsg", PROC_smtpd, sendmmsg_fast_open, false},
    {"smtp-out connects by sendto", PROC_smtp_out, send_fast_open, false},
    {"bouncer connects by sendmsg", PROC_bouncer, sendmsg_fast_open, false},
};

static bool survives(enum proc_id process, void (*act)(void))
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		sandbox_seccomp(process);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	return false;
}

static void test_calls_of_a_worker_that_was_taken_over(void **state)
{
	const char *preload = getenv("LD_PRELOAD");
	(void)state;
#ifdef POSTERN_SANITIZED
	skip(); /* the relaxed profile */
#endif
	if (preload && strstr(preload, "vgpreload"))
		skip(); /* valgrind makes calls of its own */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (survives(cases[i].process, cases[i].act) != cases[i].allowed)
			fail_msg("%s: %s", cases[i].name, cases[i].allowed ? "killed" : "survived");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_calls_of_a_worker_that_was_taken_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
#include "common/sandbox.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * The system calls that each process may make, as allow-lists. The only file that includes
 * libseccomp.
 *
 * What is not listed ends the process with SIGSYS, which master logs with its name; built with
 * -DPOSTERN_SECCOMP_LOG the process says the call's number first. Three kinds of call answer with
 * an error instead, because libc makes them on its own and lives well without: clone3 (ENOSYS:
 * glibc falls back to clone, whose flags a filter can see), the openers of files in processes that
 * have none (EACCES, as their empty root would), and scheduling hints.
 *
 * Invariants:
 * - nobody maps or makes memory executable, executes, forks, traces or changes ids;
 * - who writes a segment (smtpd, bouncer) has an append-only descriptor and no call to make it
 * anything else: no truncation, no writing at an offset (pwritev2 with RWF_NOAPPEND too), no
 * fallocate, no F_SETFL, no shared mapping (the blame page is mapped before the filter);
 * - only smtp-out and resolver make sockets, of the Internet only; qmgr and bouncer make none at
 * all; nobody connects by sending (MSG_FASTOPEN), which a socket that smtpd accepted could;
 * - nobody but those two shuts a socket down: a listening one is shared with all smtpds, and with
 * master, so that one of them could close it for all;
 * - only qmgr opens files.
 *
 * Sanitizer builds run the relaxed profile: the sanitizers' runtimes need calls that no list would
 * keep up with. It still refuses what no worker ever does.
 */
enum set {
	FOR_ALL = 1,
	FOR_FILES = 2,	  /* the spool: qmgr */
	FOR_APPEND = 4,	  /* writers of segments */
	FOR_READ = 8,	  /* readers of segments */
	FOR_CONNECT = 16, /* the network, outwards */
	FOR_SOCKET = 32,  /* connections that exist */
};

static unsigned sets_of(enum proc_id process)
{
	switch (process) {
	case PROC_smtpd:
		return FOR_ALL | FOR_APPEND | FOR_SOCKET;
	case PROC_qmgr:
		return FOR_ALL | FOR_FILES;
	case PROC_smtp_out:
		return FOR_ALL | FOR_READ | FOR_CONNECT | FOR_SOCKET;
	case PROC_resolver:
		return FOR_ALL | FOR_CONNECT | FOR_SOCKET;
	case PROC_bouncer:
		return FOR_ALL | FOR_APPEND | FOR_READ;
	default:
		return FOR_ALL;
	}
}

static const struct {
	unsigned sets;
	const char *names; /* separated by blanks */
} allowed[] = {
    /* descriptors and frames; control sockets are accepted by everybody */
    {FOR_ALL,
	"read readv write writev close recvmsg recvfrom accept4 getsockopt getsockname getpeername "
	"dup lseek fstat"},
    {FOR_ALL,
	"epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll eventfd2 signalfd4 "
	"timerfd_create timerfd_settime"},
    /* time, memory, threads, signals, the end */
    {FOR_ALL,
	"clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time restart_syscall"},
    {FOR_ALL, "brk munmap mremap madvise mincore membarrier"},
    {FOR_ALL, "futex futex_waitv set_robust_list get_robust_list rseq set_tid_address sched_yield "
	      "sched_getaffinity getcpu gettid getpid getppid getuid geteuid getgid getegid"},
    {FOR_ALL,
	"rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigpending sigaltstack tgkill "
	"exit exit_group"},
    {FOR_ALL, "getrandom uname sysinfo getrusage times"},
    {FOR_APPEND, "fdatasync"},
    {FOR_READ, "pread64 preadv fadvise64 readahead"},
    {FOR_SOCKET, "setsockopt"},
    {FOR_CONNECT, "connect bind shutdown sendfile"},
    {FOR_FILES,
	"open openat close_range unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir "
	"link "
	"linkat ftruncate truncate fallocate fadvise64 readahead pread64 preadv preadv2 pwrite64 "
	"pwritev pwritev2 fdatasync fsync sync_file_range syncfs flock fstatfs statfs stat lstat "
	"newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 getcwd "
	"copy_file_range sendfile chmod fchmod fchmodat utimensat msync fcntl"},
};

/* Refused with an error, in processes that do not have them among the above. */
static const struct {
	int error;
	const char *names;
} refused[] = {
    {ENOSYS, "clone3"},
    {EACCES, "open openat openat2 access faccessat faccessat2 stat lstat readlink readlinkat"},
    {EPERM, "sched_setscheduler sched_setaffinity setpriority"},
};

#ifdef POSTERN_SANITIZED
/* Never, in any build. */
static const char never[] =
    "execveat chroot mount setuid setgid setresuid setresgid init_module bpf";
#endif

static scmp_filter_ctx filter;

static void check(int rc, const char *what)
{
	if (rc != 0)
		die(EX_OSERR, "cannot make the filter of system calls (%s): %s", what,
		    strerror(-rc));
}

/* Names that this machine's processor or library does not know are nothing to allow or refuse. */
static void rule(uint32_t action, const char *name, unsigned n, const struct scmp_arg_cmp *args)
{
	int nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR)
		return;
	int rc = seccomp_rule_add_array(filter, action, nr, n, args);
	if (rc != -EEXIST && rc != -EDOM)
		check(rc, name);
}

static void rules(uint32_t action, const char *names)
{
	char name[64];
	for (const char *p = names; *p;) {
		size_t n = strcspn(p, " ");
		snprintf(name, sizeof(name), "%.*s", (int)n, p);
		rule(action, name, 0, NULL);
		p += n + (p[n] == ' ');
	}
}

#define ONE_ARG(arg, op, ...) (&(struct scmp_arg_cmp){(arg), (op), __VA_ARGS__})

/* Calls that are allowed with certain arguments only, everybody's first. */
static void rules_with_arguments(unsigned sets)
{
	rule(
	    SCMP_ACT_ALLOW, "clone", 1, ONE_ARG(0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	rule(SCMP_ACT_ALLOW, "sendto", 1, ONE_ARG(3, SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
	rule(SCMP_ACT_ALLOW, "sendmsg", 1, ONE_ARG(2, SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
	rule(SCMP_ACT_ALLOW, "mprotect", 1, ONE_ARG(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	rule(SCMP_ACT_ALLOW, "prctl", 1, ONE_ARG(0, SCMP_CMP_EQ, PR_SET_NAME, 0));
	rule(SCMP_ACT_ALLOW, "prctl", 1,
	    ONE_ARG(0, SCMP_CMP_EQ, 0x53564d41 /* PR_SET_VMA, malloc's */, 0));
	rule(SCMP_ACT_ALLOW, "prlimit64", 1,
	    ONE_ARG(2, SCMP_CMP_EQ, 0, 0)); /* asking, not setting */
	if (sets & FOR_FILES) {		    /* LMDB maps its file shared */
		rule(SCMP_ACT_ALLOW, "mmap", 1, ONE_ARG(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
		return;
	}
	struct scmp_arg_cmp private_only[] = {{2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
	    {3, SCMP_CMP_MASKED_EQ, MAP_SHARED | MAP_PRIVATE, MAP_PRIVATE}};
	rule(SCMP_ACT_ALLOW, "mmap", 2, private_only);
	/* glibc's fstat() is newfstatat() with this flag; without it there is a path to look at */
	rule(SCMP_ACT_ALLOW, "newfstatat", 1,
	    ONE_ARG(3, SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
	rule(SCMP_ACT_ERRNO(EACCES), "newfstatat", 1,
	    ONE_ARG(3, SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, 0));
	static const uint64_t asked[] = {F_GETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC};
	for (size_t i = 0; i < COUNT_OF(asked); i++)
		rule(SCMP_ACT_ALLOW, "fcntl", 1, ONE_ARG(1, SCMP_CMP_EQ, asked[i], 0));
	if (!(sets & FOR_APPEND)) /* a writer could take O_APPEND away from its segment */
		rule(SCMP_ACT_ALLOW, "fcntl", 1, ONE_ARG(1, SCMP_CMP_EQ, F_SETFL, 0));
	static const uint64_t queues[] = {FIONREAD, SIOCOUTQ, FIONBIO};
	for (size_t i = 0; i < COUNT_OF(queues) && (sets & FOR_SOCKET); i++)
		rule(SCMP_ACT_ALLOW, "ioctl", 1, ONE_ARG(1, SCMP_CMP_EQ, queues[i], 0));
	if (sets & FOR_CONNECT) {
		rule(SCMP_ACT_ALLOW, "socket", 1, ONE_ARG(0, SCMP_CMP_EQ, AF_INET, 0));
		rule(SCMP_ACT_ALLOW, "socket", 1, ONE_ARG(0, SCMP_CMP_EQ, AF_INET6, 0));
	}
}

static void strict_profile(enum proc_id process)
{
	unsigned sets = sets_of(process);
	for (size_t i = 0; i < COUNT_OF(allowed); i++)
		if (allowed[i].sets & sets)
			rules(SCMP_ACT_ALLOW, allowed[i].names);
	rules_with_arguments(sets);
	for (size_t i = 0; i < COUNT_OF(refused); i++)
		if (refused[i].error != EACCES || !(sets & FOR_FILES))
			rules(SCMP_ACT_ERRNO((uint32_t)refused[i].error), refused[i].names);
}

#ifdef POSTERN_SECCOMP_LOG
/* For developers: which call it was. Not in other builds: a trapped process goes on if it is
 * clever. */
static void on_violation(int signo, siginfo_t *info, void *context)
{
	char text[80];
	(void)context;
	int n = snprintf(
	    text, sizeof(text), "postern: system call %d is not allowed here\n", info->si_syscall);
	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(EX_SOFTWARE);
	signal(signo, SIG_DFL);
	raise(signo);
}
#endif

void sandbox_seccomp(enum proc_id process)
{
	uint32_t otherwise = SCMP_ACT_KILL_PROCESS;
#ifdef POSTERN_SECCOMP_LOG
	struct sigaction trap = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO | SA_NODEFER};
	sigaction(SIGSYS, &trap, NULL);
	otherwise = SCMP_ACT_TRAP;
#endif
#ifdef POSTERN_SANITIZED
	otherwise = SCMP_ACT_ALLOW;
#endif
	filter = seccomp_init(otherwise);
	if (!filter)
		die(EX_OSERR, "cannot make the filter of system calls");
#ifdef POSTERN_SANITIZED
	(void)process;
	(void)strict_profile;
	rules(SCMP_ACT_KILL_PROCESS, never);
#else
	strict_profile(process);
#endif
	seccomp_attr_set(
	    filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree: fewer steps a call */
	int rc = seccomp_load(filter);
	if (rc != 0)
		die(EX_OSERR,
		    "cannot load the filter of system calls: %s (is seccomp in this kernel?)",
		    strerror(-rc));
	seccomp_release(filter);
	filter = NULL;
}

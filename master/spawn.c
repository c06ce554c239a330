/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "common/sandbox.h"
#include "common/worker.h"
#include "master/master.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * How a worker's process is made: which file, which user, which descriptors, which environment.
 *
 * The child gets standard error, its channel, the spool lock and its blame page, and nothing else:
 * what master has open (keys, other workers' channels, listening sockets) ends at exec. Between
 * fork and exec it calls only what is safe after fork.
 */
enum {
	FILES_WANTED = 1048576, /* connections of one smtp-out and then some */
	FD_ABOVE = 10,		/* above all descriptors that a worker is started with */
};

static const struct {
	const char *file, *user;
} workers[PROC_COUNT] = {
#define PROC(id, file, user, instances, root) [PROC_##id] = {file, user},
#include "common/procs.def"
#undef PROC
};

enum { EMPTY, SPOOL };
static const int roots[PROC_COUNT] = {
#define PROC(id, file, user, instances, root) [PROC_##id] = root,
#include "common/procs.def"
#undef PROC
};

static bool is_workers_dir(const char *dir)
{
	char path[PATH_MAX + 16];
	snprintf(path, sizeof(path), "%s/%s", dir, workers[PROC_qmgr].file);
	return access(path, X_OK) == 0;
}

/* Beside us in a build tree, else where `make install` puts them for our prefix. */
void spawn_find_workers(struct master *m)
{
	char self[PATH_MAX - 32];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	snprintf(m->workers_dir, sizeof(m->workers_dir), "%s", self);
	if (!is_workers_dir(m->workers_dir))
		snprintf(m->workers_dir, sizeof(m->workers_dir), "%s/../libexec/postern", self);
	if (!is_workers_dir(m->workers_dir))
		snprintf(m->workers_dir, sizeof(m->workers_dir), "/usr/libexec/postern");
	if (!is_workers_dir(m->workers_dir))
		die(EX_UNAVAILABLE,
		    "no workers in %s, ../libexec/postern or /usr/libexec/postern: is the "
		    "installation complete?",
		    self);
}

void spawn_find_users(struct master *m, const struct conf *conf)
{
	uid_t base = (uid_t)conf_num(conf->root, CO_GLOBAL_worker_uid_base);
	bool said = false;
	if (!m->root) {
		int abi = sandbox_landlock_abi();
		log_warn("not root: workers keep user %u%s", geteuid(),
		    abi ? ", and Landlock takes the place of their empty root directory"
			: ", and see the whole file system, since this kernel has no Landlock");
		return;
	}
	for (unsigned p = 1; p < PROC_COUNT; p++) {
		const struct passwd *pw = getpwnam(workers[p].user);
		if (pw && pw->pw_uid == 0)
			die(EX_CONFIG, "user %s is root: give it an id of its own",
			    workers[p].user);
		m->ids[p] =
		    pw ? (struct ids){pw->pw_uid, pw->pw_gid} : (struct ids){base + p, base + p};
		if (!pw && !said)
			log_info("no user %s: such workers get numeric ids from worker-uid-base "
				 "(%u) upward",
			    workers[p].user, base);
		said = said || !pw;
	}
}

void spawn_raise_limits(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return;
	files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
	setrlimit(RLIMIT_NOFILE, &files);
}

/* What a worker's libc and a sanitizer's runtime look at. TZ is always set: without it, strftime()
 * would look for the time zone file again, in the empty root, and fall back to UTC. */
static char **environment(void)
{
	static const char *const passed[] = {
	    "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"};
	static char text[COUNT_OF(passed) + 1][512];
	static char *env[COUNT_OF(passed) + 2];
	size_t n = 0;
	const char *tz = getenv("TZ");
	snprintf(text[n], sizeof(text[n]), "TZ=%s", tz && tz[0] ? tz : ":/etc/localtime");
	env[n] = text[n];
	n++;
	for (size_t i = 0; i < COUNT_OF(passed); i++) {
		const char *value = getenv(passed[i]);
		if (!value)
			continue;
		snprintf(text[n], sizeof(text[n]), "%s=%s", passed[i], value);
		env[n] = text[n];
		n++;
	}
	env[n] = NULL;
	return env;
}

struct plan { /* all that the child needs, made before fork */
	char path[PATH_MAX + 16];
	char *argv[7];
	char **env;
	char numbers[4][12];
	int fds[3]; /* for WORKER_CHANNEL_FD and up */
};

static void make_plan(struct plan *p, const struct slot *s, int channel, int blame)
{
	const struct master *m = s->master;
	union {
		const char *in;
		char *out;
	} root = {roots[s->process] == SPOOL ? m->dirs.spool : m->dirs.empty};
	snprintf(p->path, sizeof(p->path), "%s/%s", m->workers_dir, workers[s->process].file);
	snprintf(p->numbers[0], sizeof(p->numbers[0]), "%u", s->instance);
	snprintf(p->numbers[1], sizeof(p->numbers[1]), "%u", s->generation);
	snprintf(p->numbers[2], sizeof(p->numbers[2]), "%u", m->ids[s->process].uid);
	snprintf(p->numbers[3], sizeof(p->numbers[3]), "%u", m->ids[s->process].gid);
	p->argv[0] = p->path;
	for (size_t i = 0; i < 4; i++)
		p->argv[i + 1] = p->numbers[i];
	p->argv[5] = root.out;
	p->argv[6] = NULL;
	p->env = environment();
	p->fds[0] = channel;
	p->fds[1] = m->dirs.lock_fd;
	p->fds[2] = blame;
}

static _Noreturn void become(struct plan *p)
{
	int high[3];
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	bool ok = null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0;
	for (int i = 0; i < 3; i++) /* out of the way first: a target may be another one's source */
		ok = ok && (high[i] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, FD_ABOVE)) >= 0;
	for (int i = 0; i < 3; i++)
		ok = ok && dup2(high[i], WORKER_CHANNEL_FD + i) >= 0;
	ok = ok && close_range(WORKER_BLAME_FD + 1, ~0U, 0) == 0;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (ok)
		execve(p->path, p->argv, p->env);
	static const char text[] = "postern-master: cannot start a worker (execve failed)\n";
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(EX_OSERR);
	_exit(EX_UNAVAILABLE);
}

static int fork_worker(struct slot *s, int channel, int blame)
{
	static struct plan plan;
	make_plan(&plan, s, channel, blame);
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		become(&plan);
	s->pid = pid;
	return 0;
}

int spawn_worker(struct slot *s)
{
	int pair[2];
	int blame = blame_page();
	if (blame < 0)
		return blame;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
		int error = errno;
		close(blame);
		return -error;
	}
	int rc = fork_worker(s, pair[1], blame);
	close(pair[1]);
	if (rc != 0) {
		close(pair[0]);
		close(blame);
		return rc;
	}
	struct chan_spec spec = supervise_chan;
	spec.ctx = s;
	s->chan = chan_new(s->master->loop, pair[0], &spec);
	s->blame_fd = blame;
	return 0;
}

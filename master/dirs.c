/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "master/master.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
/*
 * The directories: who they belong to, what of them is ours, and the lock.
 *
 *   SPOOL          qmgr's, 0700; what stands in it is qmgr's business, except:
 *   SPOOL/lock     held by master and, as an inherited descriptor, by every worker: a new master
 * waits until the last worker of a killed one is gone SPOOL/master   ours: poison (blame.c), boot
 * (boot.c) RUN            control sockets; locked, so that two suites never share one RUN/empty the
 * root directory of workers that need no file
 *
 * qmgr owns SPOOL and could put anything in the place of our entries, so they are opened without
 * following links, must be ours, and are used through the descriptor from then on. Ownership is
 * only ever given to a directory that is new or empty: a mistyped spool-directory must not give
 * away /home.
 */
enum {
	LOCK_WAIT_MS =
	    60000, /* a worker ends when its master's socket closes; this is for a stalled disk */
	LOCK_STEP_MS = 50,
	OWN_FILE_MAX = 1048576,
};

int dirs_make(const char *path, mode_t mode)
{
	char copy[PATH_MAX];
	if (strlen(path) >= sizeof(copy))
		return -ENAMETOOLONG;
	str_copy(copy, sizeof(copy), str_of(path));
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) != 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(copy, mode) == 0)
		return chmod(copy, mode) == 0 ? 0 : -errno; /* whatever the umask */
	return errno == EEXIST ? 0 : -errno;
}

static bool is_empty(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	bool empty = dir != NULL;
	if (!dir)
		return false;
	for (struct dirent *e; empty && (e = readdir(dir)) != NULL;)
		empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
	closedir(dir);
	return empty;
}

static int open_directory(const char *path, mode_t mode, const char *option)
{
	int rc = dirs_make(path, mode);
	if (rc != 0)
		die(EX_CANTCREAT, "cannot make %s: %s (see %s)", path, strerrordesc_np(-rc),
		    option);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die(EX_NOPERM, "cannot open %s: %s (see %s)", path, strerror(errno), option);
	return fd;
}

/* Gives a new or empty directory to its user; refuses one that is full of somebody else's. */
static void give_to(int fd, const char *path, uid_t uid, gid_t gid)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		die(EX_OSERR, "cannot look at %s: %s", path, strerror(errno));
	if (st.st_uid != uid && !is_empty(fd))
		die(EX_CONFIG,
		    "%s belongs to user %u, but qmgr runs as user %u: when it is the spool, stop "
		    "everything "
		    "and say chown -R --from=%u %u:%u %s",
		    path, st.st_uid, uid, st.st_uid, uid, gid, path);
	if ((st.st_uid != uid || st.st_gid != gid) && fchown(fd, uid, gid) != 0)
		die(EX_NOPERM, "cannot give %s to user %u: %s", path, uid, strerror(errno));
	if ((st.st_mode & 0777) != 0700 && fchmod(fd, 0700) != 0)
		die(EX_NOPERM, "cannot set the mode of %s: %s", path, strerror(errno));
}

/* Opens an entry of the spool that is ours. */
static int open_own(int spool_fd, const char *spool, const char *name, int flags)
{
	struct stat st;
	int fd = openat(spool_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) != 0)
		die(EX_NOPERM, "cannot open %s/%s: %s", spool, name, strerror(errno));
	bool kind = flags & O_DIRECTORY ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode);
	if (!kind || st.st_uid != geteuid())
		die(EX_NOPERM,
		    "%s/%s is not ours: somebody has put it there. Look at it, then remove it",
		    spool, name);
	return fd;
}

static void prepare_run(struct dirs *d)
{
	d->run_fd = open_directory(d->run, 0755, "run-directory");
	int rc = dirs_make(d->empty, 0555);
	if (rc != 0)
		die(EX_CANTCREAT, "cannot make %s: %s", d->empty, strerrordesc_np(-rc));
	int fd = open_directory(d->empty, 0555, "run-directory");
	if (!is_empty(fd))
		die(EX_CONFIG,
		    "%s is not empty: it is the root directory of workers. Remove what is in it",
		    d->empty);
	close(fd);
}

void dirs_prepare(struct dirs *d, const struct conf *conf, uid_t qmgr_uid, gid_t qmgr_gid)
{
	d->spool = xstrdup(conf_text(conf->root, CO_GLOBAL_spool_directory));
	d->run = xstrdup(conf_text(conf->root, CO_GLOBAL_run_directory));
	if (asprintf(&d->empty, "%s/empty", d->run) < 0)
		bug("no memory for a path");
	int spool_fd = open_directory(d->spool, 0700, "spool-directory");
	give_to(spool_fd, d->spool, qmgr_uid, qmgr_gid);
	if (mkdirat(spool_fd, "master", 0700) != 0 && errno != EEXIST)
		die(EX_CANTCREAT, "cannot make %s/master: %s", d->spool, strerror(errno));
	d->own_fd = open_own(spool_fd, d->spool, "master", O_RDONLY | O_DIRECTORY);
	d->lock_fd = open_own(spool_fd, d->spool, "lock", O_RDWR | O_CREAT | O_NONBLOCK);
	close(spool_fd);
	prepare_run(d);
}

void dirs_lock(struct dirs *d)
{
	int64_t began = clock_mono_ms();
	struct timespec step = {.tv_nsec = LOCK_STEP_MS * 1000000L};
	bool said = false;
	while (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			die(EX_OSERR, "cannot lock %s/lock: %s", d->spool, strerror(errno));
		if (!said)
			log_info("waiting for the last worker of the previous master to leave %s",
			    d->spool);
		said = true;
		if (clock_mono_ms() - began >= LOCK_WAIT_MS)
			die(EX_TEMPFAIL,
			    "%s is still in use after %d s: another postern-master runs on it",
			    d->spool, LOCK_WAIT_MS / 1000);
		nanosleep(&step, NULL);
	}
	if (flock(d->run_fd, LOCK_EX | LOCK_NB) != 0)
		die(EX_TEMPFAIL, "%s is in use by another postern-master, with another spool",
		    d->run);
}

int dirs_read(const struct dirs *d, const char *name, struct buf *out)
{
	int fd = openat(d->own_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	unsigned char *room = buf_reserve(out, OWN_FILE_MAX / 2);
	ssize_t n = room ? read(fd, room, OWN_FILE_MAX / 2) : -1;
	int rc = n < 0 ? -EIO : 0;
	if (n > 0)
		out->n += (size_t)n;
	close(fd);
	return rc;
}

static int write_all(int fd, struct str content)
{
	while (content.n > 0) {
		ssize_t n = write(fd, content.p, content.n);
		if (n < 0 && errno != EINTR)
			return -errno;
		content.p += n > 0 ? n : 0;
		content.n -= n > 0 ? (size_t)n : 0;
	}
	return fdatasync(fd) == 0 ? 0 : -errno;
}

/* After a crash at any line there is the old file or the new one. */
int dirs_replace(const struct dirs *d, const char *name, struct str content)
{
	char temporary[64];
	snprintf(temporary, sizeof(temporary), "%s.new", name);
	int fd = openat(
	    d->own_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int rc = write_all(fd, content);
	close(fd);
	if (rc == 0 && renameat(d->own_fd, temporary, d->own_fd, name) != 0)
		rc = -errno;
	if (rc == 0 && fsync(d->own_fd) != 0)
		rc = -errno;
	return rc;
}

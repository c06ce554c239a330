/* SPDX-License-Identifier: ISC */
/*
 * Accounting files that end and begin anew. What this file alone knows: when, under which name, and
 * what is left of a line that was torn.
 *
 * Only master has the directory. A file is renamed to FILE-YYYYMMDD-HHMMSS (local time; -2, -3 …
 * where that exists: nothing is ever replaced), a new one is opened under its name, and qmgr gets
 * the descriptor. Until it takes it up it goes on in the renamed file, between two lines it changes
 * over: so every line is in exactly one of the files, whenever who dies.
 *
 * It happens when qmgr says that a file is full (FILE_ROTATE; believed only when the file is as
 * large as that), when its time has come, and by `posternctl master rotate`. Not while a reload is
 * going on, for that has opened the files already: it is tried again after it.
 *
 * A qmgr that is killed in a write leaves a part of a line, which its successor writes again whole.
 * So before a new qmgr is given the files, what stands behind the last line's end is cut off, also
 * in the youngest renamed file, which the old one may still have been writing.
 *
 *   dies              when                            left
 *   master            before the rename               nothing has happened
 *   master            renamed, none opened yet        its successor opens one
 *   qmgr              has not taken up the new one    its successor gets the new one
 */
#include "common/log.h"
#include "master/master.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum {
	STAMP = 15,		 /* "20261123-021500" */
	NUMBER_MAX = 1000000000, /* of a name: stays an int with one more */
	TRIES_MAX = 1000,	 /* names that somebody has taken; then it waits */
	LONG_MS = 3600000,	 /* the clock is looked at as often: it may have been set */
	AGAIN_MS = 1000,	 /* after a reload that is going on */
	MEND_MAX = 262144,	 /* more than any line */
	HEADER_MAX = 4096,	 /* more than the first line of a file */
};

/* --- names: pure ------------------------------------------------------------------------------ */

static bool digits(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] < '0' || p[i] > '9')
			return false;
	return true;
}

bool rotate_is_ours(const char *file, const char *name)
{
	size_t n = strlen(file);
	const char *rest = name + n + 1;
	char *end = NULL;
	long number;

	if (strncmp(name, file, n) != 0 || name[n] != '-' || strlen(rest) < STAMP ||
	    !digits(rest, 8) || rest[8] != '-' || !digits(rest + 9, 6))
		return false;
	rest += STAMP;
	if (!*rest)
		return true;
	number = rest[0] == '-' && digits(rest + 1, 1) ? strtol(rest + 1, &end, 10) : 0;
	return number > 1 && number < NUMBER_MAX && !*end;
}

int rotate_order(const char *file, const char *a, const char *b)
{
	size_t stamp = strlen(file) + 1 + STAMP, na = strlen(a), nb = strlen(b);
	int order = strncmp(a, b, stamp);

	if (order != 0 || na == nb)
		return order != 0 ? order : strcmp(a, b);
	return na < nb ? -1 : 1; /* no number, one of a digit, of two … */
}

int64_t rotate_next_ms(int64_t now_ms, int64_t every_ms, int64_t offset_ms)
{
	int64_t local = now_ms + offset_ms;

	return now_ms + every_ms - local % every_ms;
}

/* --- files ------------------------------------------------------------------------------------ */

static const struct conf_node *node_of(const struct generation *g, size_t index)
{
	const struct conf_node *n = conf_next(g->conf->root, CONF_ACCOUNTING, NULL);

	while (n && index-- > 0)
		n = conf_next(g->conf->root, CONF_ACCOUNTING, n);
	return n;
}

static int directory_of(const struct generation *g)
{
	return open(
	    conf_text(g->conf->root, CO_GLOBAL_log_directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Every renamed file of that name; the youngest last. */
static char **renamed_list(int dir_fd, const char *file, size_t *count)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	char **list = NULL;

	*count = 0;
	for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
		if (!rotate_is_ours(file, e->d_name))
			continue;
		list = xrealloc(list, (*count + 1) * sizeof(*list));
		list[(*count)++] = xstrdup(e->d_name);
	}
	if (dir)
		closedir(dir);
	for (size_t i = 1; i < *count; i++) /* few, and mostly in order */
		for (size_t k = i; k > 0 && rotate_order(file, list[k - 1], list[k]) > 0; k--) {
			char *swap = list[k];
			list[k] = list[k - 1];
			list[k - 1] = swap;
		}
	return list;
}

static void list_free(char **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

static void remove_oldest(int dir_fd, const char *file, size_t keep)
{
	size_t count;
	char **list = renamed_list(dir_fd, file, &count);

	for (size_t i = 0; keep > 0 && i + keep < count; i++)
		if (unlinkat(dir_fd, list[i], 0) == 0)
			log_info("accounting file %s is removed: %zu are kept", list[i], keep);
	list_free(list, count);
}

/* Behind the last line's end there is part of a line at most: nobody writes now. */
static void mend(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char *tail = xmalloc(MEND_MAX), *end;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
		off_t from = st.st_size > MEND_MAX ? st.st_size - MEND_MAX : 0;
		ssize_t n = pread(fd, tail, MEND_MAX, from);

		end = n > 0 ? memrchr(tail, '\n', (size_t)n) : NULL;
		if (n > 0 && (end || from == 0) && (!end || end + 1 < tail + n)) {
			log_info("accounting file %s: an unfinished line is cut off", name);
			if (ftruncate(fd, from + (end ? end + 1 - tail : 0)) != 0)
				log_error("%s: %s", name, strerror(errno));
		}
	}
	free(tail);
	if (fd >= 0)
		close(fd);
}

void rotate_mend(const struct generation *g)
{
	const struct conf_node *n = NULL;
	int dir_fd = g->accounting_count > 0 ? directory_of(g) : -1;

	while (dir_fd >= 0 && (n = conf_next(g->conf->root, CONF_ACCOUNTING, n)) != NULL) {
		size_t count;
		const char *file = conf_text(n, CO_ACCOUNTING_file);
		char **list = renamed_list(dir_fd, file, &count);

		if (count > 0)
			mend(dir_fd, list[count - 1]);
		mend(dir_fd, file);
		list_free(list, count);
	}
	if (dir_fd >= 0)
		close(dir_fd);
}

/* --- one rotation ----------------------------------------------------------------------------- */

/* Nothing, or nothing but the line that names the columns. */
static bool is_blank(int dir_fd, const char *name, const struct stat *st, bool has_header)
{
	char text[HEADER_MAX];
	ssize_t n = 0;
	int fd;

	if (st->st_size == 0 || !has_header || st->st_size >= HEADER_MAX)
		return st->st_size == 0;
	fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text));
	close(fd);
	return n > 0 && memchr(text, '\n', (size_t)n) == text + n - 1;
}

static int rename_new(int dir_fd, const char *from, const char *to)
{
	if (renameat2(dir_fd, from, dir_fd, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* a file system without it: nobody but us makes such names */
	if (faccessat(dir_fd, to, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	return renameat(dir_fd, from, dir_fd, to) == 0 ? 0 : -errno;
}

/* Behind the youngest one's name: what is removed from the other end (keep) frees names that must
 * not come again, and the clock may have been set back. */
static int first_number(int dir_fd, const char *file, char stamp[STAMP + 1])
{
	size_t count, at = strlen(file) + 1;
	char **list = renamed_list(dir_fd, file, &count);
	int number = 1;

	if (count > 0 && strncmp(list[count - 1] + at, stamp, STAMP) >= 0) {
		const char *rest = list[count - 1] + at + STAMP;

		memcpy(stamp, list[count - 1] + at, STAMP);
		number = *rest ? atoi(rest + 1) + 1 : 2;
	}
	list_free(list, count);
	return number;
}

static int set_aside(int dir_fd, const char *file, char to[ROTATE_NAME])
{
	time_t now = time(NULL);
	struct tm tm;
	char stamp[STAMP + 1];
	int rc = -EEXIST, number;

	if (!localtime_r(&now, &tm) ||
	    strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm) != STAMP)
		return -EINVAL;
	number = first_number(dir_fd, file, stamp);
	for (int tries = 0; tries < TRIES_MAX && rc == -EEXIST; tries++, number++) {
		int n = number == 1 ? snprintf(to, ROTATE_NAME, "%s-%s", file, stamp)
				    : snprintf(to, ROTATE_NAME, "%s-%s-%d", file, stamp, number);

		rc = n < ROTATE_NAME ? rename_new(dir_fd, file, to) : -ENAMETOOLONG;
	}
	return rc;
}

static void tell_qmgr(struct master *m, size_t index)
{
	for (size_t i = 0; i < m->slot_count; i++) {
		struct slot *s = m->slots[i];

		if (s->process == PROC_qmgr && s->chan && !s->fresh)
			chan_send_file(s->chan, &(struct msg_file){.kind = FILE_ACCOUNTING,
						    .index = (uint16_t)index,
						    .fd = m->generation->accounting[index].fd});
	}
}

/* 0 with the new name, 1: it holds nothing; or -errno, and it goes on as it was. */
static int rotate_in(struct master *m, int dir_fd, size_t index, char to[ROTATE_NAME])
{
	struct accounting *a = &m->generation->accounting[index];
	const struct conf_node *n = node_of(m->generation, index);
	const char *file = conf_text(n, CO_ACCOUNTING_file);
	struct stat st;
	int fd, rc;

	if (fstat(a->fd, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode) ||
	    is_blank(dir_fd, file, &st, conf_num(n, CO_ACCOUNTING_format) == 0))
		return 1;
	rc = set_aside(dir_fd, file, to);
	if (rc != 0)
		return rc;
	rc = generation_open_append(dir_fd, file, &fd);
	if (rc != 0) {
		(void)rename_new(dir_fd, to, file);
		return rc;
	}
	close(a->fd);
	a->fd = fd;
	tell_qmgr(m, index);
	remove_oldest(dir_fd, file, (size_t)conf_num(n, CO_ACCOUNTING_keep));
	log_info("accounting file %s goes on as a new one: what was is %s", file, to);
	return 0;
}

static int rotate_one(struct master *m, size_t index, char to[ROTATE_NAME])
{
	int dir_fd = directory_of(m->generation);
	int rc = dir_fd < 0 ? -errno : rotate_in(m, dir_fd, index, to);

	if (rc < 0)
		log_error("accounting file %s cannot begin anew: %s",
		    conf_text(node_of(m->generation, index), CO_ACCOUNTING_file),
		    strerrordesc_np(-rc));
	if (dir_fd >= 0)
		close(dir_fd);
	return rc;
}

/* --- when ------------------------------------------------------------------------------------- */

static int64_t wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t next_after(const struct generation *g, size_t index, int64_t at_ms)
{
	const struct conf_value *v = conf_get(node_of(g, index), CO_ACCOUNTING_rotate_every);
	time_t t = (time_t)(at_ms / 1000);
	struct tm tm;

	if (v->num <= 0 || v->num == INT64_MAX || !localtime_r(&t, &tm))
		return INT64_MAX;
	return rotate_next_ms(at_ms, v->num, (int64_t)tm.tm_gmtoff * 1000);
}

static void on_time(void *arg);

static void arm(struct master *m)
{
	int64_t now = wall_ms(), first = INT64_MAX;

	for (size_t i = 0; i < m->generation->accounting_count; i++)
		if (m->generation->accounting[i].rotate_at_ms < first)
			first = m->generation->accounting[i].rotate_at_ms;
	loop_timer_cancel(m->loop, &m->rotation);
	if (first == INT64_MAX)
		return;
	first = first > now ? first - now : 1;
	loop_timer_after(m->loop, &m->rotation,
	    m->reload.next    ? AGAIN_MS
	    : first > LONG_MS ? LONG_MS
			      : first,
	    on_time, m);
}

static void on_time(void *arg)
{
	struct master *m = arg;
	int64_t now = wall_ms();
	char to[ROTATE_NAME];

	for (size_t i = 0; !m->reload.next && i < m->generation->accounting_count; i++) {
		struct accounting *a = &m->generation->accounting[i];

		if (a->rotate_at_ms > now)
			continue;
		(void)rotate_one(m, i, to);
		a->rotate_at_ms = next_after(m->generation, i, now);
	}
	arm(m);
}

void rotate_begin(struct master *m)
{
	for (size_t i = 0; i < m->generation->accounting_count; i++) {
		struct accounting *a = &m->generation->accounting[i];
		struct stat st;
		int64_t last = wall_ms();

		/* what was written last before a time that has passed since is due at once */
		if (fstat(a->fd, &st) == 0 && st.st_size > 0 &&
		    (int64_t)st.st_mtim.tv_sec * 1000 < last)
			last = (int64_t)st.st_mtim.tv_sec * 1000;
		a->rotate_at_ms = next_after(m->generation, i, last);
	}
	arm(m);
}

void on_file_rotate(void *ctx, struct chan *from_chan, struct msg_file_rotate *m)
{
	const struct slot *from = ctx;
	struct master *master = from->master;
	const struct generation *g = master->generation;
	struct stat st;
	char to[ROTATE_NAME];
	int64_t most;

	if (from->process != PROC_qmgr) {
		chan_close(from_chan, "it has no accounting files");
		return;
	}
	if (m->index >= g->accounting_count || master->reload.next)
		return; /* it asks again */
	most = conf_num(node_of(g, m->index), CO_ACCOUNTING_max_size);
	if (most > 0 && fstat(g->accounting[m->index].fd, &st) == 0 && st.st_size >= most)
		(void)rotate_one(master, m->index, to);
}

void rotate_by_control(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct master *m = ctx;
	int status = EX_OK;

	(void)args;
	(void)options;
	if (m->reload.next) {
		control_end(reply, EX_TEMPFAIL, "a reload is going on: try again");
		return;
	}
	for (size_t i = 0; i < m->generation->accounting_count; i++) {
		char to[ROTATE_NAME] = "";
		int rc = rotate_one(m, i, to);

		control_row(reply, json_pack("{s:s, s:s, s:s}", "file",
				       conf_text(node_of(m->generation, i), CO_ACCOUNTING_file),
				       "renamed_to", rc == 0 ? to : "", "result",
				       rc < 0	 ? strerrordesc_np(-rc)
				       : rc == 0 ? "rotated"
						 : "empty"));
		if (rc < 0)
			status = EX_IOERR;
	}
	control_end(reply, status, "%s", status == EX_OK ? "" : "not every file was rotated");
}

/* SPDX-License-Identifier: ISC */
/*
 * What this file alone knows: which journal files there are, which one is being written, and how
 * much room is left before the disk could say no.
 *
 * A file is a SPARE (allocated and synced, directory too, before its first use; what stands in it
 * does not validate at its number), CURRENT, or USED. A write that fails or is short ends the
 * current file at once: the whole run is written again at the head of the next one. Records may so
 * stand twice, which replay does not mind, but never out of order and never with a hole: a reader
 * goes on in the next file whenever that begins with a valid record.
 *
 * Room: with every INTENT goes the promise that its OUTCOME will fit. While `reserve` does not fit
 * into what is allocated, intents stay in memory and everything else is written.
 *
 * A crash: records that were written are in the page cache (kill) or, up to the last sync, on disk
 * (power). After a start nothing is appended to an old file, since stale records could stand behind
 * its torn end; numbers only grow.
 */
#include "qmgr/journal.h"
#include "common/clock.h"
#include "common/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	FILES_MAX = 4096, /* 256 GiB of 64 MiB files: a log that cannot be written holds them */
	PENDING_MAX = 1 << 30, /* bytes gathered in memory: bounded by credits and connections */
	RETRY_MS = 1000,       /* after a failed allocation or write */
	NEXT_BYTES = JOURNAL_RECORD_HEAD,
	START_BYTES = JOURNAL_RECORD_HEAD + 8,
};

enum state { SPARE, CURRENT, USED };

struct file {
	uint64_t number;
	int fd; /* -1: an older process' file */
	enum state state;
	bool unsynced;
};

struct part { /* the write that is going on; the writer thread owns it meanwhile */
	struct journal *journal;
	int fd;
	uint64_t pos;
	unsigned char *bytes;
	size_t n;
	bool start, next; /* put a J_START before, a J_NEXT behind */
	int rc;
};

struct prepare { /* the allocation that is going on; the files thread owns it meanwhile */
	struct journal *journal;
	uint64_t number, old; /* old != 0: rename that one */
	int dir_fd, fd, rc;
	uint32_t bytes;
};

struct journal {
	struct loop *loop;
	struct iothread *writer, *files_thread;
	struct journal_events events;
	int dir_fd;
	uint32_t file_bytes;
	struct file files[FILES_MAX]; /* by number */
	size_t file_count;
	uint64_t first, next_number;
	struct file *current; /* NULL before the first */
	uint32_t offset;      /* in current */
	struct buf pending, batch;
	size_t batch_at;
	struct part part;
	struct prepare prepare;
	bool writing, part_running, preparing, failing;
	struct loop_timer retry;
};

static void file_name(char out[32], uint64_t number)
{
	snprintf(out, 32, "%016" PRIx64, number);
}

/* --- the set of files ---------------------------------------------------------------------------
 */

static struct file *add_file(struct journal *j, uint64_t number, int fd, enum state state)
{
	must(j->file_count < FILES_MAX);
	struct file *f = &j->files[j->file_count++];
	*f = (struct file){.number = number, .fd = fd, .state = state};
	return f;
}

static struct file *first_spare(struct journal *j)
{
	for (size_t i = 0; i < j->file_count; i++)
		if (j->files[i].state == SPARE)
			return &j->files[i];
	return NULL;
}

static uint64_t room(const struct journal *j)
{
	uint64_t n = j->current ? j->file_bytes - j->offset : 0;
	for (size_t i = 0; i < j->file_count; i++)
		n += j->files[i].state == SPARE ? j->file_bytes - START_BYTES : 0;
	uint64_t waste = (uint64_t)NEXT_BYTES * (j->file_count + 1);
	return n > waste ? n - waste : 0;
}

static void sync_directory(int fd)
{
	if (fsync(fd) != 0 && errno != EINVAL)
		log_error("journal: cannot sync the directory: %s", strerror(errno));
}

static void work_prepare(void *arg)
{
	struct prepare *p = arg;
	char name[32], old[32];
	file_name(name, p->number);
	p->rc = 0;
	if (p->old != 0) {
		file_name(old, p->old);
		if (renameat(p->dir_fd, old, p->dir_fd, name) != 0)
			unlinkat(p->dir_fd, old, 0);
	}
	p->fd = openat(p->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (p->fd < 0 || fallocate(p->fd, 0, 0, p->bytes) != 0 || fsync(p->fd) != 0) {
		p->rc = -errno;
		if (p->fd >= 0)
			close(p->fd);
		unlinkat(p->dir_fd, name, 0); /* half allocated it would only take space */
		p->fd = -1;
		return;
	}
	sync_directory(p->dir_fd);
}

static void on_retry(void *arg)
{
	(void)arg; /* the turn's end, where journal_turn() is called, is all that is wanted */
}

static void prepared(void *arg)
{
	struct prepare *p = arg;
	struct journal *j = p->journal;
	j->preparing = false;
	if (p->rc == 0) {
		add_file(j, p->number, p->fd, SPARE);
		j->failing = false;
		return;
	}
	if (!j->failing)
		log_error("journal: cannot allocate a file of %u bytes: %s; no delivery begins "
			  "without room "
			  "for its outcome",
		    j->file_bytes, strerror(-p->rc));
	j->failing = true;
	j->next_number = p->number; /* numbers have no gaps: a reader goes from one to the next */
	loop_timer_after(j->loop, &j->retry, RETRY_MS, on_retry, j);
}

static void start_prepare(struct journal *j, uint64_t old)
{
	if (j->preparing || (j->failing && wheel_armed(&j->retry.node)))
		return;
	if (j->file_count + 1 >=
	    FILES_MAX) { /* neither log nor index have come on for a long time */
		j->failing = true;
		return;
	}
	j->preparing = true;
	j->prepare = (struct prepare){.journal = j,
	    .number = j->next_number++,
	    .old = old,
	    .dir_fd = j->dir_fd,
	    .bytes = j->file_bytes};
	iothread_do(j->files_thread, work_prepare, prepared, &j->prepare);
}

struct dropping {
	int dir_fd;
	uint64_t number;
};

static void work_drop(void *arg)
{
	struct dropping *d = arg;
	char name[32];
	file_name(name, d->number);
	if (unlinkat(d->dir_fd, name, 0) != 0 && errno != ENOENT)
		log_error("journal: cannot delete file %s: %s", name, strerror(errno));
	free(d);
}

void journal_passed(struct journal *j, uint64_t pos)
{
	size_t kept = 0, spares = 0;
	for (size_t i = 0; i < j->file_count; i++)
		spares += j->files[i].state == SPARE;
	size_t current = 0;
	for (size_t i = 0; i < j->file_count; i++) {
		struct file f = j->files[i];
		if (f.state != USED || f.number >= JOURNAL_POS_NUMBER(pos)) {
			if (f.state == CURRENT)
				current = kept;
			j->files[kept++] = f;
			continue;
		}
		if (f.fd >= 0)
			close(f.fd);
		if (f.fd >= 0 && spares < 2 && !j->preparing) {
			start_prepare(j,
			    f.number); /* overwriting allocated blocks makes the next sync cheap */
			spares++;
			if (j->preparing)
				continue;
		}
		struct dropping *d = xmalloc(sizeof(*d));
		*d = (struct dropping){j->dir_fd, f.number};
		iothread_do(j->files_thread, work_drop, NULL, d);
	}
	j->file_count = kept;
	if (j->current != NULL)
		j->current = &j->files[current];
}

/* --- writing ------------------------------------------------------------------------------------
 */

static int write_all(int fd, const unsigned char *p, size_t n, uint64_t offset)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, p, n, (off_t)offset);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -EIO;
		p += w;
		n -= (size_t)w;
		offset += (uint64_t)w;
	}
	return 0;
}

static int write_single(int fd, uint64_t *pos, bool start)
{
	struct buf b;
	buf_init(&b, 64);
	if (start)
		j_start_encode(&b, &(struct j_start){.wall_ms = (uint64_t)clock_wall_ms()});
	else
		j_next_encode(&b);
	journal_record_seal(b.p, b.n, *pos);
	int rc = write_all(fd, b.p, b.n, JOURNAL_POS_OFFSET(*pos));
	*pos += b.n;
	buf_fini(&b);
	return rc;
}

static void work_write(void *arg)
{
	struct part *p = arg;
	uint64_t pos = p->pos;
	p->rc = 0;
	if (p->start) {
		pos -= START_BYTES;
		p->rc = write_single(p->fd, &pos, true);
	}
	journal_record_seal(p->bytes, p->n, pos);
	if (p->rc == 0)
		p->rc = write_all(p->fd, p->bytes, p->n, JOURNAL_POS_OFFSET(pos));
	pos += p->n;
	if (p->rc == 0 && p->next)
		p->rc = write_single(p->fd, &pos, false);
}

/* Bytes of whole records at the batch's front that fit into the current file, a J_NEXT behind them.
 */
static size_t fitting(const struct journal *j)
{
	size_t left = j->file_bytes - j->offset - NEXT_BYTES, n = 0;
	size_t have = j->batch.n - j->batch_at;
	while (n < have) {
		struct rd r = rd_of(j->batch.p + j->batch_at + n, have - n);
		size_t record = rd_u32(&r);
		must(record <= j->file_bytes - START_BYTES - NEXT_BYTES);
		if (n + record > left)
			break;
		n += record;
	}
	return n;
}

static bool use_spare(struct journal *j)
{
	struct file *spare = first_spare(j);
	if (spare == NULL)
		return false;
	if (j->current != NULL)
		j->current->state = USED;
	spare->state = CURRENT;
	j->current = spare;
	j->offset = START_BYTES;
	return true;
}

static void written_part(void *arg);

/* Writes what is left of the batch, as much as goes into one file. */
static void start_part(struct journal *j)
{
	bool start = j->current == NULL || j->offset + NEXT_BYTES > j->file_bytes;
	if (start && !use_spare(j))
		return; /* journal_turn() comes back when there is one */
	start = j->offset == START_BYTES;
	size_t n = fitting(j);
	bool next = j->batch_at + n < j->batch.n;
	j->part = (struct part){.journal = j,
	    .fd = j->current->fd,
	    .pos = JOURNAL_POS(j->current->number, j->offset),
	    .n = n,
	    .start = start,
	    .next = next};
	j->part.bytes = xmalloc(n ? n : 1);
	memcpy(j->part.bytes, j->batch.p + j->batch_at, n);
	j->current->unsynced = true;
	j->part_running = true;
	iothread_do(j->writer, work_write, written_part, &j->part);
}

/* The file is bad from here on: nothing is appended to it, and the part goes to the next. */
static void part_failed(struct journal *j)
{
	log_error("journal: cannot write to file %" PRIx64 ": %s; going on in the next",
	    j->current->number, strerror(-j->part.rc));
	free(j->part.bytes);
	j->failing = true;
	j->offset = j->file_bytes; /* full */
	loop_timer_after(j->loop, &j->retry, RETRY_MS, on_retry, j);
}

static void written_part(void *arg)
{
	struct part *p = arg;
	struct journal *j = p->journal;
	j->part_running = false;
	if (p->rc != 0) {
		part_failed(j);
		return;
	}
	j->failing = false;
	j->offset += (uint32_t)p->n;
	j->batch_at += p->n;
	uint64_t pos = p->pos;
	if (p->next)
		j->offset = j->file_bytes;
	if (p->n > 0)
		j->events.part(j->events.ctx, pos, p->bytes, p->n);
	else
		free(p->bytes);
	if (j->batch_at < j->batch.n) {
		start_part(j);
		return;
	}
	buf_reset(&j->batch);
	j->batch_at = 0;
	j->writing = false;
	j->events.written(j->events.ctx);
}

/* Moves all but the intents from pending to the batch. */
static void take_all_but_intents(struct journal *j)
{
	struct buf intents;
	buf_init(&intents, PENDING_MAX);
	for (size_t at = 0; at < j->pending.n;) {
		struct rd r = rd_of(j->pending.p + at, j->pending.n - at);
		size_t n = rd_u32(&r);
		buf_put(
		    j->pending.p[at + 8] == J_INTENT ? &intents : &j->batch, j->pending.p + at, n);
		at += n;
	}
	buf_fini(&j->pending);
	j->pending = intents;
}

static void swap(struct buf *a, struct buf *b)
{
	struct buf t = *a;
	*a = *b;
	*b = t;
}

/* At least one spare, and room for what is promised and one more file's worth. */
static void want_room(struct journal *j, uint64_t need)
{
	if (first_spare(j) == NULL || room(j) < need + j->file_bytes / 2)
		start_prepare(j, 0);
}

enum journal_turn journal_turn(struct journal *j, uint64_t reserve)
{
	uint64_t need = j->pending.n + reserve;
	want_room(j, need + (j->batch.n - j->batch_at));
	if (j->writing) {
		if (!j->part_running && !wheel_armed(&j->retry.node))
			start_part(j);
		return JOURNAL_BUSY;
	}
	if (j->pending.n == 0)
		return JOURNAL_IDLE;
	must(!j->pending.failed);
	enum journal_turn turn = JOURNAL_STARTED;
	if (need <= room(j)) {
		swap(&j->pending, &j->batch);
	} else {
		take_all_but_intents(j);
		turn = j->pending.n > 0 ? JOURNAL_PARTIAL : JOURNAL_STARTED;
		if (j->batch.n == 0)
			return JOURNAL_BUSY;
	}
	j->writing = true;
	start_part(j);
	return turn;
}

struct buf *journal_buf(struct journal *j)
{
	return &j->pending;
}

bool journal_is_idle(const struct journal *j)
{
	return !j->writing && j->pending.n == 0;
}

bool journal_is_writing(const struct journal *j)
{
	return j->writing;
}

bool journal_is_stuck(const struct journal *j)
{
	return j->failing;
}

uint64_t journal_pos(const struct journal *j)
{
	return j->current ? JOURNAL_POS(j->current->number, j->offset) : JOURNAL_POS(j->first, 0);
}

size_t journal_unsynced(struct journal *j, int *fds, size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < j->file_count && n < max; i++)
		if (j->files[i].unsynced && j->files[i].fd >= 0)
			fds[n++] = j->files[i].fd;
	return n;
}

void journal_synced(struct journal *j, uint64_t pos)
{
	for (size_t i = 0; i < j->file_count; i++)
		if (j->files[i].number <
		    JOURNAL_POS_NUMBER(pos)) /* the last one may have grown since */
			j->files[i].unsynced = false;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

/* Numbers of the files in the directory, in order; other names are not ours and stay. */
static size_t list_numbers(int dir_fd, uint64_t *numbers, size_t max)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t n = 0;
	if (dir == NULL) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	for (struct dirent *e; (e = readdir(dir)) != NULL && n < max;) {
		char *end;
		uint64_t number = strtoull(e->d_name, &end, 16);
		if (end == e->d_name + 16 && *end == '\0')
			numbers[n++] = number;
	}
	closedir(dir);
	qsort(numbers, n, sizeof(*numbers), by_number);
	return n;
}

static int open_directory(int spool_fd)
{
	if (mkdirat(spool_fd, "journal", 0700) != 0 && errno != EEXIST)
		return -errno;
	int fd = openat(spool_fd, "journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

struct journal *journal_new(struct loop *loop, struct iothread *files, int spool_fd, uint64_t first,
    uint32_t file_bytes, const struct journal_events *events)
{
	struct journal *j = xcalloc(1, sizeof(*j));
	static uint64_t numbers[FILES_MAX / 2]; /* start only */
	j->loop = loop;
	j->files_thread = files;
	j->events = *events;
	j->file_bytes = file_bytes;
	j->first = j->next_number = first;
	j->dir_fd = open_directory(spool_fd);
	must(j->dir_fd >= 0);
	buf_init(&j->pending, PENDING_MAX);
	buf_init(&j->batch, PENDING_MAX);
	size_t n = list_numbers(j->dir_fd, numbers, COUNT_OF(numbers));
	for (size_t i = 0; i < n; i++)
		add_file(j, numbers[i], -1, USED);
	j->writer = iothread_new(loop, "journal");
	return j;
}

void journal_free(struct journal **journal)
{
	struct journal *j = *journal;
	if (j == NULL)
		return;
	*journal = NULL;
	iothread_free(&j->writer);
	if (j->part_running)
		free(j->part.bytes);
	loop_timer_cancel(j->loop, &j->retry);
	for (size_t i = 0; i < j->file_count; i++)
		if (j->files[i].fd >= 0)
			close(j->files[i].fd);
	close(j->dir_fd);
	buf_fini(&j->pending);
	buf_fini(&j->batch);
	free(j);
}

/* --- reading ------------------------------------------------------------------------------------
 */

bool journal_numbers(int spool_fd, uint64_t *lowest, uint64_t *highest)
{
	uint64_t *numbers = xcalloc(FILES_MAX, sizeof(*numbers));
	int fd = openat(spool_fd, "journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t n = fd < 0 ? 0 : list_numbers(fd, numbers, FILES_MAX);
	if (fd >= 0)
		close(fd);
	if (n > 0) {
		*lowest = numbers[0];
		*highest = numbers[n - 1];
	}
	free(numbers);
	return n > 0;
}

/* Reads a whole file. -ENOENT: there is none. */
static int read_file(int spool_fd, uint64_t number, char **bytes, size_t *n)
{
	char path[48] = "journal/";
	struct stat st;
	file_name(path + 8, number);
	int fd = openat(spool_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fstat(fd, &st) != 0 ? -errno : 0;
	*n = 0;
	*bytes = rc == 0 ? xmalloc((size_t)st.st_size + 1) : NULL;
	while (rc == 0 && *n < (size_t)st.st_size) {
		ssize_t r = pread(fd, *bytes + *n, (size_t)st.st_size - *n, (off_t)*n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) { /* a bad block: what was read so far still counts */
			if (r < 0)
				log_error("journal: cannot read %s: %s", path, strerror(errno));
			break;
		}
		*n += (size_t)r;
	}
	close(fd);
	return rc;
}

/* Does the file begin with a record of its own number? */
static bool begins(int spool_fd, uint64_t number)
{
	char path[48] = "journal/", head[START_BYTES];
	file_name(path + 8, number);
	int fd = openat(spool_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = pread(fd, head, sizeof(head), 0);
	close(fd);
	struct str bytes = {head, n < 0 ? 0 : (size_t)n};
	uint64_t pos = JOURNAL_POS(number, 0);
	struct journal_record r;
	return journal_record_take(&bytes, &pos, &r) == 1;
}

/* The next file that was ever written to. Between two there may be spares that nobody came to use.
 */
static uint64_t next_file(int spool_fd, uint64_t number)
{
	uint64_t *numbers = xcalloc(FILES_MAX, sizeof(*numbers)), found = 0;
	int fd = openat(spool_fd, "journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t n = fd < 0 ? 0 : list_numbers(fd, numbers, FILES_MAX);
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < n && found == 0; i++)
		if (numbers[i] > number && begins(spool_fd, numbers[i]))
			found = numbers[i];
	free(numbers);
	return found;
}

static int replay_file(int spool_fd, uint64_t *pos, bool *more, journal_record_fn *fn, void *ctx)
{
	char *all = NULL;
	size_t n = 0;
	uint64_t number = JOURNAL_POS_NUMBER(*pos), offset = JOURNAL_POS_OFFSET(*pos);
	int rc = read_file(spool_fd, number, &all, &n);
	struct str bytes = {
	    all ? all + (offset < n ? offset : n) : "", offset < n ? n - offset : 0};
	struct journal_record r;
	int got = 0;
	while (rc == 0 && (got = journal_record_take(&bytes, pos, &r)) == 1) {
		if (r.type == J_NEXT)
			break;
		fn(ctx, &r);
	}
	free(all);
	uint64_t next = next_file(spool_fd, number);
	*more = next != 0;
	if (got < 0 && *more)
		log_warn("journal: file %016" PRIx64 " is damaged or torn at byte %" PRIu64
			 "; going on in the next",
		    number, JOURNAL_POS_OFFSET(*pos));
	if (*more)
		*pos = JOURNAL_POS(next, 0);
	return rc == -ENOENT ? 0 : rc;
}

int journal_replay(
    int spool_fd, uint64_t *pos, unsigned max, bool *more, journal_record_fn *fn, void *ctx)
{
	int rc = 0;
	*more = true;
	for (unsigned i = 0; i < max && *more && rc == 0; i++)
		rc = replay_file(spool_fd, pos, more, fn, ctx);
	return rc;
}

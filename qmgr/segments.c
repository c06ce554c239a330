/* SPDX-License-Identifier: ISC */
/*
 * Lives of segments. MAKING → OPEN (a writer has it) ⇄ READING (we read what it did not tell) →
 * SEALED → GOING → no more. Compaction's own go MAKING → OPEN → SEALED.
 *
 * Making: a free number, file created and preallocated, directory synced, row committed; only then
 * does the descriptor leave. What a crash leaves: a file without a row (set aside unread by the
 * next qmgr), or an empty segment with a row (read, found empty, sealed, deleted).
 *
 * Sealed: what was preallocated and not used is given back. What a crash leaves: those blocks stay
 * until the segment goes.
 *
 * Going: sealed, nothing alive in it, a commit that holds its last changes, and a log that has
 * passed them (log and accounting may read envelopes). Then SEGMENT_CLOSE to its readers, unlink,
 * directory sync, row removed. What a crash leaves: a row without a file, which recovery removes.
 *
 * The counts of what is alive are kept by message: one count from its intake until its last
 * recipient is settled and its last report is sent.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

struct errand { /* about one file; the files thread's while it runs */
	struct errand *next;
	struct qmgr *q;
	uint64_t number;
	int dir_fd, rc;
};

struct making { /* the files thread's while it runs; then it waits for its row's commit */
	struct making *next;
	struct qmgr *q;
	enum proc_id process;
	uint16_t instance;
	uint32_t generation, ticket;
	struct row_segment row;
	uint64_t bytes; /* to preallocate */
	uint64_t commit;
	int dir_fd, fd, rc;
	void (*ready)(void *ctx, struct segment *s, int fd); /* of a compact one */
	void *ctx;
};

static struct making *waiting; /* for their rows' commits; one qmgr a process */
static struct making *at_work; /* with the files thread */
static struct errand *errands; /* with the files thread */

void segment_file_name(char out[48], uint64_t number)
{
	snprintf(out, 48, "segments/%016" PRIx64, number);
}

static void base_name(char out[32], uint64_t number)
{
	snprintf(out, 32, "%016" PRIx64, number);
}

static int directory(struct qmgr *q, const char *name)
{
	if (mkdirat(q->spool_fd, name, 0700) != 0 && errno != EEXIST)
		return -errno;
	int fd = openat(q->spool_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void segments_init(struct qmgr *q)
{
	q->segments.dir_fd = directory(q, "segments");
	int aside = directory(q, "aside");
	if (q->segments.dir_fd < 0 || aside < 0)
		die(71, "cannot make the spool's directories: %s",
		    strerror(q->segments.dir_fd < 0 ? -q->segments.dir_fd : -aside));
	close(aside);
	if (fsync(q->spool_fd) != 0)
		log_warn("cannot sync the spool directory: %s", strerror(errno));
}

void segments_fini(struct qmgr *q)
{
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		free(s);
	map_fini(&q->segments.map);
	free(q->segments.going);
	while (waiting != NULL) {
		struct making *m = waiting;
		waiting = m->next;
		close(m->fd);
		free(m);
	}
	while (at_work != NULL) {
		struct making *m = at_work;
		at_work = m->next;
		if (m->rc == 0)
			close(m->fd);
		free(m);
	}
	while (errands != NULL) {
		struct errand *e = errands;
		errands = e->next;
		free(e);
	}
	if (q->segments.dir_fd >= 0)
		close(q->segments.dir_fd);
}

struct segment *segments_find(struct qmgr *q, uint64_t number)
{
	return map_find(&q->segments.map, number);
}

struct segment *segments_add(struct qmgr *q, const struct row_segment *row)
{
	struct segment *s = xcalloc(1, sizeof(*s));
	s->row = *row;
	s->state = row->sealed ? SEGMENT_SEALED : SEGMENT_OPEN;
	s->end = row->mark;
	map_set(&q->segments.map, row->number, s);
	if (q->segments.next_number <= row->number)
		q->segments.next_number = row->number + 1;
	return s;
}

void segment_changed(struct qmgr *q, struct segment *s)
{
	struct commit *c = &q->commit;
	if (s->dirty)
		return;
	s->dirty = true;
	if (c->segment_count == c->segment_cap) {
		c->segment_cap = c->segment_cap ? c->segment_cap * 2 : 64;
		c->segments = xrealloc(c->segments, c->segment_cap * sizeof(struct segment *));
	}
	c->segments[c->segment_count++] = s;
}

/* --- making --------------------------------------------------------------------------------------
 */

static void work_make(void *arg)
{
	struct making *m = arg;
	char name[32];
	base_name(name, m->row.number);
	m->rc = 0;
	m->fd = openat(m->dir_fd, name, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (m->fd < 0) {
		m->rc = -errno;
		return;
	}
	if (fallocate(m->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)m->bytes) != 0 && errno != EOPNOTSUPP)
		m->rc = -errno;
	else if (fsync(m->fd) != 0 || fsync(m->dir_fd) != 0)
		m->rc = -errno;
	if (m->rc != 0) {
		close(m->fd);
		unlinkat(m->dir_fd, name, 0);
	}
}

static void refuse(struct making *m, uint8_t reason)
{
	struct peer *peer = peers_find(m->q, m->process, m->instance);
	if (m->ready != NULL)
		m->ready(m->ctx, NULL, -1);
	else if (peer != NULL && peer->generation == m->generation)
		chan_send_segment_none(
		    peer->chan, &(struct msg_segment_none){.ticket = m->ticket, .reason = reason});
}

static void made(void *arg)
{
	struct making *m = arg, **at = &at_work;
	struct qmgr *q = m->q;
	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (m->rc != 0) {
		log_error(
		    "cannot make segment %016" PRIx64 ": %s", m->row.number, strerror(-m->rc));
		refuse(m, REFUSE_DISK);
		free(m);
		return;
	}
	struct segment *s = segments_add(q, &m->row);
	s->state = SEGMENT_MAKING;
	segment_changed(q, s);
	q->commit.urgent = true;
	m->commit = commit_after(q);
	m->next = waiting;
	waiting = m;
}

static struct making *start_making(struct qmgr *q, uint8_t kind, uint64_t bytes)
{
	struct making *m = xcalloc(1, sizeof(*m));
	m->q = q;
	m->bytes = bytes;
	m->dir_fd = q->segments.dir_fd;
	m->row = (struct row_segment){
	    .number = q->segments.next_number++, .kind = kind, .created_ms = q->now_ms};
	q->commit.meta_dirty = true;
	uint64_t nonce[2];
	must(getrandom(nonce, sizeof(nonce), 0) == (ssize_t)sizeof(nonce));
	m->row.nonce_high = nonce[0];
	m->row.nonce_low = nonce[1];
	return m;
}

static void make(struct qmgr *q, struct making *m)
{
	m->next = at_work;
	at_work = m;
	iothread_do(q->files, work_make, made, m);
}

static unsigned open_of(struct qmgr *q, const struct peer *peer)
{
	unsigned n = 0;
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		n += s->owner == peer;
	struct making *lists[] = {waiting, at_work};
	for (size_t i = 0; i < COUNT_OF(lists); i++)
		for (struct making *m = lists[i]; m != NULL; m = m->next)
			n += m->process == peer->process && m->instance == peer->instance;
	return n;
}

void segments_want(struct qmgr *q, struct peer *peer, uint32_t ticket, uint64_t size)
{
	uint8_t no = admission_state(q);
	if (peer->process == PROC_bouncer && no == REFUSE_QUEUE)
		no = REFUSE_NONE; /* reports only make the queue shorter */
	if (no == REFUSE_NONE &&
	    (open_of(q, peer) >= SEGMENTS_OF_WRITER_MAX || q->segments.next_number >> 40))
		no = REFUSE_MEMORY;
	if (no == REFUSE_NONE && size > q->max_message_bytes * 2 + SEGMENT_BYTES_MAX)
		no = REFUSE_DISK;
	if (no != REFUSE_NONE) {
		chan_send_segment_none(
		    peer->chan, &(struct msg_segment_none){.ticket = ticket, .reason = no});
		return;
	}
	struct making *m = start_making(
	    q, size ? SEGMENT_LARGE : SEGMENT_COMMON, size ? size + 4096 : q->segment_bytes);
	m->process = peer->process;
	m->instance = peer->instance;
	m->generation = peer->generation;
	m->ticket = ticket;
	m->row.process = (uint8_t)peer->process;
	m->row.instance = peer->instance;
	m->row.generation = peer->generation;
	make(q, m);
}

void segments_make_compact(
    struct qmgr *q, void (*ready)(void *ctx, struct segment *s, int fd), void *ctx)
{
	struct making *m = start_making(q, SEGMENT_COMPACT, q->segment_bytes);
	m->process = PROC_qmgr;
	m->row.process = PROC_qmgr;
	m->ready = ready;
	m->ctx = ctx;
	make(q, m);
}

/* Its row is in the index. */
static void give(struct qmgr *q, struct making *m)
{
	struct segment *s = segments_find(q, m->row.number);
	s->state = SEGMENT_OPEN;
	if (m->ready != NULL) {
		m->ready(m->ctx, s, m->fd); /* takes the descriptor */
		return;
	}
	struct peer *peer = peers_find(q, m->process, m->instance);
	if (peer == NULL || peer->generation != m->generation) {
		segment_seal(q, s, 0); /* nobody ever had it */
	} else {
		s->owner = peer;
		uint64_t limit = s->row.kind == SEGMENT_LARGE ? m->bytes : m->bytes - m->bytes / 16;
		chan_send_segment_give(peer->chan, &(struct msg_segment_give){.ticket = m->ticket,
						       .segment = s->row.number,
						       .nonce_high = s->row.nonce_high,
						       .nonce_low = s->row.nonce_low,
						       .limit = limit,
						       .fd = m->fd});
	}
	close(m->fd);
}

static void give_committed(struct qmgr *q)
{
	for (struct making **at = &waiting; *at != NULL;) {
		struct making *m = *at;
		if (m->commit > q->commit.number) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		give(q, m);
		free(m);
	}
}

/* --- living --------------------------------------------------------------------------------------
 */

void segment_keep(struct segment *s, uint64_t bytes)
{
	s->messages++;
	s->live_bytes += bytes;
}

static void check_empty(struct qmgr *q, struct segment *s)
{
	struct segments *g = &q->segments;
	if (s->state != SEGMENT_SEALED || s->messages > 0 || s->compacting)
		return;
	s->state = SEGMENT_GOING;
	s->empty_commit = commit_after(q);
	s->empty_pos = 0;
	q->commit.meta_dirty = true; /* that commit must come */
	if (g->going_count == g->going_cap) {
		g->going_cap = g->going_cap ? g->going_cap * 2 : 64;
		g->going = xrealloc(g->going, g->going_cap * sizeof(struct segment *));
	}
	g->going[g->going_count++] = s;
}

void segment_release(struct qmgr *q, struct segment *s, uint64_t bytes)
{
	must(s->messages > 0);
	s->messages--;
	s->live_bytes -= bytes < s->live_bytes ? bytes : s->live_bytes;
	check_empty(q, s);
}

/* Gives the blocks behind the end of the file back, which were preallocated with KEEP_SIZE. Setting
 * the size to what it is frees those and nothing else; no byte of the file is cut off, also not
 * behind the last message. */
static void work_trim(void *arg)
{
	struct errand *e = arg;
	struct stat st;
	char name[32];
	base_name(name, e->number);
	int fd = openat(e->dir_fd, name, O_WRONLY | O_CLOEXEC);
	e->rc = 0;
	if (fd < 0 || fstat(fd, &st) != 0 || ftruncate(fd, st.st_size) != 0)
		e->rc = -errno;
	if (fd >= 0)
		close(fd);
}

static void errand_end(struct errand *e)
{
	struct errand **at = &errands;
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	free(e);
}

static void trimmed(void *arg)
{
	struct errand *e = arg;
	if (e->rc != 0 && e->rc != -ENOENT)
		log_warn("cannot give back what segment %016" PRIx64 " did not use: %s", e->number,
		    strerror(-e->rc));
	errand_end(e);
}

static void errand_start(struct qmgr *q, uint64_t number, io_work_fn *work, io_done_fn *done)
{
	struct errand *e = xmalloc(sizeof(*e));
	*e = (struct errand){
	    .next = errands, .q = q, .number = number, .dir_fd = q->segments.dir_fd};
	errands = e;
	iothread_do(q->files, work, done, e);
}

void segment_seal(struct qmgr *q, struct segment *s, uint64_t end)
{
	s->state = SEGMENT_SEALED;
	s->row.sealed = true;
	s->row.mark = s->end = end;
	segment_changed(q, s);
	check_empty(q, s);
	if (s->state == SEGMENT_SEALED) /* else it goes as a whole */
		errand_start(q, s->row.number, work_trim, trimmed);
}

int segment_open_read(struct qmgr *q, uint64_t number)
{
	char name[32];
	base_name(name, number);
	int fd = openat(q->segments.dir_fd, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

bool segment_show(struct qmgr *q, struct segment *s, struct peer *reader)
{
	unsigned bit = peer_reader_bit(reader);
	if (s->readers[bit / 64] >> (bit % 64) & 1)
		return true;
	int fd = segment_open_read(q, s->row.number);
	if (fd < 0) {
		log_error("cannot open segment %016" PRIx64 ": %s", s->row.number, strerror(-fd));
		return false;
	}
	chan_send_segment_open(reader->chan, &(struct msg_segment_open){.segment = s->row.number,
						 .nonce_high = s->row.nonce_high,
						 .nonce_low = s->row.nonce_low,
						 .fd = fd});
	close(fd);
	s->readers[bit / 64] |= UINT64_C(1) << (bit % 64);
	return true;
}

void segments_reader_gone(struct qmgr *q, unsigned bit)
{
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		s->readers[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

/* --- going ---------------------------------------------------------------------------------------
 */

static void work_remove(void *arg)
{
	struct errand *e = arg;
	char name[32];
	base_name(name, e->number);
	e->rc = 0;
	if (unlinkat(e->dir_fd, name, 0) != 0 && errno != ENOENT)
		e->rc = -errno;
	else if (fsync(e->dir_fd) != 0)
		e->rc = -errno;
}

static void removed(void *arg)
{
	struct errand *e = arg;
	if (e->rc != 0)
		log_error("cannot delete segment %016" PRIx64 ": %s", e->number, strerror(-e->rc));
	struct row_key key = row_key_number(e->number);
	store_ops_delete(
	    &e->q->commit.other, STORE_SEGMENT, &key); /* a file that stays is set aside later */
	errand_end(e);
}

static void close_readers(struct qmgr *q, const struct segment *s)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next) {
		unsigned bit = peer_reader_bit(p);
		bool reads = p->process == PROC_smtp_out || p->process == PROC_bouncer;
		if (reads && p->chan != NULL && (s->readers[bit / 64] >> (bit % 64) & 1))
			chan_send_segment_close(
			    p->chan, &(struct msg_segment_close){.segment = s->row.number});
	}
}

static bool may_go(struct qmgr *q, struct segment *s)
{
	if (q->commit.number < s->empty_commit || s->dirty)
		return false;
	if (s->empty_pos == 0)
		s->empty_pos = q->commit.meta.journal_pos;
	return logger_pos(q->logger) >= s->empty_pos;
}

void segments_turn(struct qmgr *q)
{
	struct segments *g = &q->segments;
	if (waiting != NULL)
		give_committed(q);
	size_t kept = 0;
	for (size_t i = 0; i < g->going_count; i++) {
		struct segment *s = g->going[i];
		if (!may_go(q, s)) {
			g->going[kept++] = s;
			continue;
		}
		close_readers(q, s);
		errand_start(q, s->row.number, work_remove, removed);
		map_take(&g->map, s->row.number);
		free(s);
	}
	g->going_count = kept;
}

int segment_set_aside(struct qmgr *q, uint64_t number, const char *why)
{
	char from[48], to[64];
	segment_file_name(from, number);
	snprintf(to, sizeof(to), "aside/%016" PRIx64 ".%" PRId64, number, clock_wall_ms());
	if (renameat(q->spool_fd, from, q->spool_fd, to) != 0)
		return -errno;
	log_error("segment %016" PRIx64 " is set aside as %s: %s", number, to, why);
	q->counters.damaged++;
	return 0;
}

/* SPDX-License-Identifier: ISC */
/*
 * One deferred message must not pin 64 MB. A sealed segment of which less than a quarter is alive
 * has its live records copied to a segment of compaction's own kind, which is never replayed: rows
 * alone say what is alive in it. One source at a time; reading and copying in a thread of its own.
 *
 * Order: list the source's records (thread) → which are alive and at rest? (loop, in slices) → copy
 * and sync (thread) → move the jobs that are still alive and at rest, rows marked (loop). The
 * source then goes the way of every empty segment: commit, unlink, directory sync, row removed.
 *
 * A message that is in flight or owed a report is not moved: its reader or bouncer reads the old
 * place.
 *
 * What a crash leaves: before the commit the rows name the old place, and the source is still
 * there; the copies are nobody's and go with their segment. After it the rows name the new place,
 * which was synced before they were written. A source whose messages have all moved is empty at the
 * next start and is deleted then.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	LOOK_MS = 1000,	      /* between searches for a source */
	AGAIN_MS = 60000,     /* a source that could not be emptied rests that long */
	SHARE = 4,	      /* alive less than 1/SHARE of the file */
	FILTER_A_TURN = 5000, /* records looked up in a turn: about a millisecond */
	COPY_BYTES = 8 << 20, /* copied between two syncs */
	RECORD_COPY_MAX = 64 << 20,
};

struct entry {
	uint64_t id, from, to; /* offsets of the head, in source and target */
	uint64_t bytes;	       /* of the record with its head */
	bool copied;
};

enum state { IDLE, LISTING, FILTERING, MAKING, COPYING };

struct compact {
	struct qmgr *q;
	struct iothread *thread;
	enum state state;
	int64_t next_look_ms;
	struct segment *source;
	struct segment *target; /* the loop's; NULL: none with room */
	int target_fd;
	uint64_t target_end;
	/* the thread's while it runs */
	struct row_segment source_row, target_row;
	int source_fd;
	struct entry *entries; /* owned */
	size_t count, cap;
	size_t filtered, alive; /* entries[0, alive) are to be copied; looked at up to `filtered` */
	size_t copy_from, copy_to;
	int rc;
};

void compact_init(struct qmgr *q)
{
	struct compact *c = xcalloc(1, sizeof(*c));
	c->q = q;
	c->target_fd = c->source_fd = -1;
	c->thread = iothread_new(q->loop, "compact");
	q->compact = c;
}

void compact_fini(struct qmgr *q)
{
	struct compact *c = q->compact;
	if (c == NULL)
		return;
	iothread_free(&c->thread);
	if (c->source_fd >= 0)
		close(c->source_fd);
	if (c->target_fd >= 0)
		close(c->target_fd);
	free(c->entries);
	free(c);
	q->compact = NULL;
}

static void leave_source(struct compact *c)
{
	struct segment *s = c->source;
	close(c->source_fd);
	c->source_fd = -1;
	c->source = NULL;
	c->state = IDLE;
	c->count = 0;
	s->compacting = false;
	s->rest_until_ms = c->q->now_ms + AGAIN_MS;
	if (s->messages == 0)
		segment_seal(c->q, s, s->end); /* it may go */
}

/* --- the thread: listing
 * -------------------------------------------------------------------------- */

static bool read_all(int fd, void *to, size_t n, uint64_t at)
{
	unsigned char *p = to;
	while (n > 0) {
		ssize_t got = pread(fd, p, n, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return true;
}

static bool read_head(int fd, const struct row_segment *row, uint64_t at, struct record *r)
{
	unsigned char head[RECORD_HEAD];
	return read_all(fd, head, sizeof(head), at) && record_decode(r, head) == 0 &&
	       r->offset == at && r->nonce_high == row->nonce_high &&
	       r->nonce_low == row->nonce_low;
}

static void add_entry(struct compact *c, const struct record *r)
{
	if (c->count == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 1024;
		c->entries = xrealloc(c->entries, c->cap * sizeof(*c->entries));
	}
	uint64_t bytes =
	    RECORD_HEAD + (uint64_t)r->envelope_bytes + r->headers_bytes + r->content_bytes;
	c->entries[c->count++] = (struct entry){.id = r->id, .from = r->offset, .bytes = bytes};
}

static void work_list(void *arg)
{
	struct compact *c = arg;
	struct stat st;
	struct record r;
	uint64_t at = 0;
	c->rc = fstat(c->source_fd, &st) != 0 ? -errno : 0;
	uint64_t end = c->rc == 0 ? (uint64_t)st.st_size : 0;
	while (at + RECORD_HEAD <= end) {
		if (!read_head(c->source_fd, &c->source_row, at, &r)) {
			at += RECORD_ALIGN; /* damage: step to the next head */
			continue;
		}
		if (r.kind != RECORD_OPEN)
			add_entry(c, &r);
		at = record_end(&r);
	}
}

/* --- the thread: copying
 * -------------------------------------------------------------------------- */

static bool write_all(int fd, const unsigned char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

/* The record as it will stand at e->to: same id and data, another head. NULL: it is damaged. */
static unsigned char *new_record(struct compact *c, const struct entry *e, size_t *n)
{
	struct record r;
	if (e->bytes > RECORD_COPY_MAX || !read_head(c->source_fd, &c->source_row, e->from, &r))
		return NULL;
	size_t data = (size_t)e->bytes - RECORD_HEAD;
	*n = (size_t)record_align(e->bytes);
	unsigned char *p = xcalloc(1, *n);
	const unsigned char *content = p + RECORD_HEAD + r.envelope_bytes;
	if (!read_all(c->source_fd, p + RECORD_HEAD, data, r.data_offset) ||
	    crc32c(0, p + RECORD_HEAD, r.envelope_bytes) != r.envelope_crc ||
	    crc32c(0, content, data - r.envelope_bytes) != r.content_crc) {
		free(p);
		return NULL;
	}
	r.kind = RECORD_MESSAGE;
	r.nonce_high = c->target_row.nonce_high;
	r.nonce_low = c->target_row.nonce_low;
	r.offset = e->to;
	r.data_offset = e->to + RECORD_HEAD;
	record_encode(&r, p);
	return p;
}

static void work_copy(void *arg)
{
	struct compact *c = arg;
	c->rc = 0;
	for (size_t i = c->copy_from; i < c->copy_to && c->rc == 0; i++) {
		struct entry *e = &c->entries[i];
		size_t n = 0;
		e->to = c->target_end;
		unsigned char *p = new_record(c, e, &n);
		if (p == NULL)
			continue; /* it stays where it is; whoever reads it will say so */
		if (!write_all(c->target_fd, p, n))
			c->rc = errno ? -errno : -EIO;
		else
			c->target_end += n;
		e->copied = c->rc == 0;
		free(p);
	}
	if (c->rc == 0 && fdatasync(c->target_fd) != 0)
		c->rc = -errno;
}

/* --- the loop
 * ------------------------------------------------------------------------------------- */

/* Alive, all of it at that place, nobody reading it, no report owed. */
static bool is_movable(struct qmgr *q, uint64_t id, uint64_t segment, uint64_t offset)
{
	struct job_view v;
	job_ref j = core_find(q->core, id);
	if (j == 0 || bounces_of(q, id) > 0)
		return false;
	for (; j != 0; j = core_sibling(q->core, j))
		if (!core_job(q->core, j, &v) || v.segment != segment || v.offset != offset ||
		    v.state == JOB_IN_FLIGHT || (v.flags & JOB_IN_DOUBT))
			return false;
	return true;
}

static void give_up(struct compact *c, const char *what, int rc)
{
	log_warn("compaction of segment %016" PRIx64 ": %s: %s", c->source->row.number, what,
	    strerror(-rc));
	leave_source(c);
}

static void drop_target(struct compact *c)
{
	if (c->target == NULL)
		return;
	close(c->target_fd);
	c->target_fd = -1;
	segment_seal(c->q, c->target, c->target_end);
	c->target = NULL;
}

static void move_message(struct compact *c, const struct entry *e)
{
	struct qmgr *q = c->q;
	struct job_view v = {0};
	if (!e->copied || !is_movable(q, e->id, c->source->row.number, e->from))
		return;
	for (job_ref j = core_find(q->core, e->id); j != 0; j = core_sibling(q->core, j)) {
		core_move(q->core, j, c->target->row.number, e->to);
		if (core_job(q->core, j, &v))
			decisions_dirty(q, j, v.flags);
	}
	segment_keep(c->target, v.bytes);
	segment_release(q, c->source, v.bytes);
}

static void next_copy(struct compact *c);

static void copied(void *arg)
{
	struct compact *c = arg;
	if (c->rc != 0) { /* never appended to again; what was copied is nobody's */
		drop_target(c);
		give_up(c, "cannot write the copy", c->rc);
		return;
	}
	for (size_t i = c->copy_from; i < c->copy_to; i++)
		move_message(c, &c->entries[i]);
	c->target->row.mark = c->target_end;
	segment_changed(c->q, c->target);
	c->copy_from = c->copy_to;
	if (c->target_end >= c->q->segment_bytes)
		drop_target(c);
	next_copy(c);
}

static void target_ready(void *ctx, struct segment *s, int fd)
{
	struct compact *c = ctx;
	if (s == NULL) {
		give_up(c, "no segment to copy to", -ENOSPC);
		return;
	}
	c->target = s;
	c->target_row = s->row;
	c->target_fd = fd;
	c->target_end = 0;
	next_copy(c);
}

static void next_copy(struct compact *c)
{
	uint64_t bytes = 0;
	if (c->copy_from == c->alive || c->q->stopping) {
		leave_source(c);
		return;
	}
	if (c->target == NULL) {
		c->state = MAKING;
		segments_make_compact(c->q, target_ready, c);
		return;
	}
	c->state = COPYING;
	for (c->copy_to = c->copy_from; c->copy_to < c->alive && bytes < COPY_BYTES; c->copy_to++)
		bytes += c->entries[c->copy_to].bytes;
	iothread_do(c->thread, work_copy, copied, c);
}

static void filter_slice(struct compact *c)
{
	size_t end =
	    c->filtered + FILTER_A_TURN < c->count ? c->filtered + FILTER_A_TURN : c->count;
	for (; c->filtered < end; c->filtered++) {
		const struct entry *e = &c->entries[c->filtered];
		if (is_movable(c->q, e->id, c->source->row.number, e->from))
			c->entries[c->alive++] = *e;
	}
	if (c->filtered < c->count)
		loop_again(c->q->loop);
	else
		next_copy(c);
}

static void listed(void *arg)
{
	struct compact *c = arg;
	if (c->rc != 0) {
		give_up(c, "cannot be listed", c->rc);
		return;
	}
	c->filtered = c->alive = c->copy_from = c->copy_to = 0;
	c->state = FILTERING;
	loop_again(c->q->loop);
}

static bool is_candidate(const struct qmgr *q, const struct segment *s)
{
	return s->state == SEGMENT_SEALED && s->row.kind != SEGMENT_LARGE && s->messages > 0 &&
	       !s->dirty && s->rest_until_ms <= q->now_ms && s->live_bytes < s->end / SHARE;
}

static void look_for_source(struct compact *c)
{
	struct qmgr *q = c->q;
	struct segment *best = NULL;
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (is_candidate(q, s) && (best == NULL || s->live_bytes < best->live_bytes))
			best = s;
	if (best == NULL)
		return;
	c->source_fd = segment_open_read(q, best->row.number);
	if (c->source_fd < 0) {
		best->rest_until_ms = q->now_ms + AGAIN_MS;
		return;
	}
	c->source = best;
	c->source_row = best->row;
	best->compacting = true;
	c->count = 0;
	c->state = LISTING;
	iothread_do(c->thread, work_list, listed, c);
}

void compact_turn(struct qmgr *q)
{
	struct compact *c = q->compact;
	if (c->state == FILTERING) {
		filter_slice(c);
	} else if (c->state == IDLE && !q->stopping && q->now_ms >= c->next_look_ms) {
		c->next_look_ms = q->now_ms + LOOK_MS;
		look_for_source(c);
	}
}

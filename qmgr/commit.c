/* SPDX-License-Identifier: ISC */
/*
 * The index, committed continuously: a snapshot of what changed is encoded in the loop's thread, a
 * helper thread syncs the journal and then applies it; the next snapshot gathers meanwhile.
 *
 * A snapshot is taken at the end of a turn, together with the journal's write of that turn, and
 * given to the thread when that write is done. So journal position, marks and rows are one
 * consistent cut: all that the rows say stands in the journal before the position, and the journal
 * is synced first. When more is dirty than a snapshot takes, rows go ahead of position and marks;
 * that is safe, because replay sets absolute states and recovery asks before it adds.
 *
 * A job that ends before its first snapshot never enters LMDB: its reference in the list is stale
 * then, and JOB_DIRTY of whoever has the reference now decides. A reference may stand twice; the
 * first one clears the flag.
 *
 * A commit that fails keeps its changes; after RETRY_MS they are merged with the newer ones,
 * deletions first. Meanwhile new mail is refused; what is accepted stands in segments and journal,
 * neither of which is dropped before a commit has passed it. A crash anywhere leaves the last
 * transaction.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	GATHER_MS = 20,	  /* after the first change: most mail is delivered before */
	INTERVAL_MS = 50, /* between the beginnings of commits */
	RETRY_MS = 1000,
	SNAPSHOT_ROWS = 20000, /* encoded in about 10 ms */
	SYNC_FILES = 64,
	SOFT_CAP_PERCENT = 80, /* of the map: above it no new mail is taken */
	SOFT_CAP_LOW = 75,
};

struct commit_task { /* the commit thread's while it runs */
	struct qmgr *q;
	struct store *store;
	struct store_ops ops;
	int fds[SYNC_FILES];
	size_t fd_count;
	struct row_meta meta;
	struct store_room room;
	int rc, sync_errno;
};

void commit_init(struct qmgr *q)
{
	struct commit *c = &q->commit;
	c->thread = iothread_new(q->loop, "commit");
	store_ops_init(&c->deletes);
	store_ops_init(&c->other);
	c->task = xcalloc(1, sizeof(*c->task));
	c->task->q = q;
	store_ops_init(&c->task->ops);
}

void commit_fini(struct qmgr *q)
{
	struct commit *c = &q->commit;
	if (c->task == NULL)
		return;
	iothread_free(&c->thread);
	loop_timer_cancel(q->loop, &c->timer);
	store_ops_fini(&c->deletes);
	store_ops_fini(&c->other);
	store_ops_fini(&c->task->ops);
	free(c->task);
	free(c->dirty);
	free(c->segments);
	map_fini(&c->not_sent);
	c->task = NULL;
}

void commit_changed(struct qmgr *q)
{
	if (q->commit.since_ms == 0)
		q->commit.since_ms = q->now_ms;
}

void commit_dirty(struct qmgr *q, job_ref ref)
{
	struct commit *c = &q->commit;
	if (c->dirty_count == c->dirty_cap) {
		c->dirty_cap = c->dirty_cap ? c->dirty_cap * 2 : 1024;
		c->dirty = xrealloc(c->dirty, c->dirty_cap * sizeof(*c->dirty));
	}
	c->dirty[c->dirty_count++] = ref;
	commit_changed(q);
}

void commit_delete_rcpt(struct qmgr *q, uint64_t id, uint16_t rcpt)
{
	struct row_key key = row_key_rcpt(id, rcpt);
	store_ops_delete(&q->commit.deletes, STORE_RCPT, &key);
	commit_changed(q);
}

uint64_t commit_after(const struct qmgr *q)
{
	return q->commit.snapshot_number + 1;
}

static bool has_changes(const struct qmgr *q)
{
	const struct commit *c = &q->commit;
	return c->dirty_count > 0 || c->deletes.count > 0 || c->other.count > 0 ||
	       c->segment_count > 0 || q->bounces.changed_count > 0 ||
	       q->bounces.settled_count > 0 || c->meta_dirty;
}

bool commit_is_clean(const struct qmgr *q)
{
	const struct commit *c = &q->commit;
	return !c->running && !c->gathered && !c->failing && !has_changes(q);
}

/* --- the snapshot
 * --------------------------------------------------------------------------------- */

static bool encode_job(struct qmgr *q, job_ref ref, struct store_ops *ops)
{
	struct job_view v;
	if (!core_job(q->core, ref, &v) || !(v.flags & JOB_DIRTY))
		return false;
	struct row_key key = row_key_rcpt(v.id, v.rcpt);
	struct row_rcpt row = {.id = v.id,
	    .segment = v.segment,
	    .offset = v.offset,
	    .bytes = v.bytes,
	    .rcpt = v.rcpt,
	    .attempts = v.attempts,
	    .flags = v.flags & ROW_FLAGS,
	    .in_flight = (v.flags & JOB_IN_DOUBT) ||
			 (v.state == JOB_IN_FLIGHT && map_find(&q->commit.not_sent, ref) == NULL),
	    .arrived_ms = v.arrived_ms,
	    .due_ms = v.due_ms,
	    .domain = v.domain,
	    .vmta = v.vmta,
	    .tenant = v.tenant,
	    .campaign = v.campaign,
	    .pool = v.pool};
	size_t at = store_ops_put_begin(ops, STORE_RCPT, &key);
	row_rcpt_encode(&ops->b, &row);
	store_ops_put_end(ops, at);
	core_set_flags(q->core, ref, JOB_STORED, JOB_DIRTY);
	return true;
}

static void encode_jobs(struct qmgr *q, struct store_ops *ops)
{
	struct commit *c = &q->commit;
	size_t rows = 0, i = 0;
	for (; i < c->dirty_count && rows < SNAPSHOT_ROWS; i++)
		rows += encode_job(q, c->dirty[i], ops);
	c->dirty_count -= i;
	if (i > 0 && c->dirty_count > 0)
		memmove(c->dirty, c->dirty + i, c->dirty_count * sizeof(*c->dirty));
}

static void encode_segments(struct qmgr *q, struct store_ops *ops)
{
	struct commit *c = &q->commit;
	for (size_t i = 0; i < c->segment_count; i++) {
		struct segment *s = c->segments[i];
		struct row_key key = row_key_number(s->row.number);
		size_t at = store_ops_put_begin(ops, STORE_SEGMENT, &key);
		row_segment_encode(&ops->b, &s->row);
		store_ops_put_end(ops, at);
		s->dirty = false;
		s->stored = true;
	}
	c->segment_count = 0;
}

static void append(struct store_ops *to, struct store_ops *from)
{
	buf_put(&to->b, from->b.p, from->b.n);
	must(!to->b.failed);
	to->count += from->count;
	buf_reset(&from->b);
	from->count = 0;
}

static void take_snapshot(struct qmgr *q)
{
	struct commit *c = &q->commit;
	struct store_ops ops;
	store_ops_init(&ops);
	append(&ops, &c->deletes);
	append(&ops, &c->other);
	bounces_commit(q, &ops);
	encode_jobs(q, &ops);
	c->complete = c->dirty_count == 0;
	if (c->complete) {
		encode_segments(q, &ops);
		c->snapshot_number++;
		c->meta_dirty = false;
		c->since_ms = 0;
	}
	if (c->failing) {
		store_ops_merge(&c->task->ops, &ops);
		store_ops_fini(&ops);
	} else {
		store_ops_fini(&c->task->ops);
		c->task->ops = ops;
	}
	c->gathered = true;
	c->urgent = false;
	c->last_ms = q->now_ms;
}

static void on_timer(void *arg)
{
	(void)arg; /* the turn's end does it */
}

void commit_gather(struct qmgr *q)
{
	struct commit *c = &q->commit;
	if (q->recover.phase < RECOVER_OUTS)
		return; /* the position may move only when all that the journal knows is in jobs */
	if (c->running || c->gathered || (!c->failing && !has_changes(q)))
		return;
	int64_t since = c->since_ms ? c->since_ms : q->now_ms - GATHER_MS;
	int64_t at = since + GATHER_MS > c->last_ms + INTERVAL_MS ? since + GATHER_MS
								  : c->last_ms + INTERVAL_MS;
	if (c->urgent || q->stopping || c->dirty_count > SNAPSHOT_ROWS)
		at = q->now_ms;
	if (c->failing && at < c->retry_ms)
		at = c->retry_ms;
	if (at <= q->now_ms)
		take_snapshot(q);
	else if (!wheel_armed(&c->timer.node))
		loop_timer_after(q->loop, &c->timer, at - q->now_ms, on_timer, q);
}

/* --- the thread
 * ----------------------------------------------------------------------------------- */

static void work_commit(void *arg)
{
	struct commit_task *t = arg;
	t->sync_errno = 0;
	for (size_t i = 0; i < t->fd_count; i++)
		if (fdatasync(t->fds[i]) != 0)
			t->sync_errno = errno;
	t->rc = store_apply(t->store, &t->ops, &t->room);
}

static void set_refuse(struct qmgr *q, uint8_t refuse, const char *why)
{
	struct commit *c = &q->commit;
	if (c->refuse != refuse && refuse != REFUSE_NONE)
		log_error("index: %s; new mail is refused until this is over", why);
	if (c->refuse != refuse && refuse == REFUSE_NONE)
		log_info("index: there is room again");
	c->refuse = refuse;
}

static void judge_room(struct qmgr *q)
{
	struct commit *c = &q->commit;
	uint64_t percent = c->room.map_pages ? c->room.used_pages * 100 / c->room.map_pages : 0;
	if (percent >= SOFT_CAP_PERCENT)
		set_refuse(q, REFUSE_INDEX, "it is filled to 80 percent of index-map-size");
	else if (percent < SOFT_CAP_LOW)
		set_refuse(q, REFUSE_NONE, "");
}

static void failed(struct qmgr *q, int rc)
{
	struct commit *c = &q->commit;
	c->failing = true;
	c->retry_ms = q->now_ms + RETRY_MS;
	loop_timer_after(q->loop, &c->timer, RETRY_MS, on_timer, q);
	if (rc == -EOVERFLOW)
		set_refuse(q, REFUSE_INDEX, "the map is full (index-map-size)");
	else
		set_refuse(q, REFUSE_DISK, strerror(-rc));
}

static void committed(void *arg)
{
	struct commit_task *t = arg;
	struct qmgr *q = t->q;
	struct commit *c = &q->commit;
	c->running = false;
	if (t->sync_errno != 0) /* rows now say what it said; only the log's lines hang on it */
		log_error("journal: sync failed: %s; log lines of the last moments may be lost "
			  "with the power",
		    strerror(t->sync_errno));
	c->room = t->room;
	if (t->rc != 0) {
		failed(q, t->rc);
		return;
	}
	c->failing = false;
	judge_room(q);
	if (!c->complete)
		return;
	c->number = c->snapshot_number;
	c->meta = t->meta;
	journal_synced(q->journal, c->meta.journal_pos);
	uint64_t passed =
	    c->meta.log_pos < c->meta.journal_pos ? c->meta.log_pos : c->meta.journal_pos;
	journal_passed(q->journal, passed);
}

static void put_meta(struct qmgr *q, struct commit_task *t)
{
	struct row_key key = row_key_text(ROW_META_KEY);
	t->meta = (struct row_meta){.journal_pos = journal_pos(q->journal),
	    .log_pos = logger_pos(q->logger),
	    .next_segment = q->segments.next_number + 64, /* ahead of use */
	    .commit_ms = q->now_ms,
	    .clean = q->saved};
	size_t at = store_ops_put_begin(&t->ops, STORE_META, &key);
	row_meta_encode(&t->ops.b, &t->meta);
	store_ops_put_end(&t->ops, at);
}

void commit_start(struct qmgr *q)
{
	struct commit *c = &q->commit;
	struct commit_task *t = c->task;
	if (!c->gathered || c->running)
		return;
	if (c->complete)
		put_meta(q, t);
	t->store = q->store;
	t->fd_count = journal_unsynced(q->journal, t->fds, SYNC_FILES);
	c->gathered = false;
	c->running = true;
	iothread_do(c->thread, work_commit, committed, t);
}

/* SPDX-License-Identifier: ISC */
/*
 * The start: index, then what the journal says beyond it, then the segments from their marks. In
 * slices of the loop's turns, so that heartbeats are answered.
 *
 * - ROWS: segments' rows and files are compared; reports; the journal from its position into `redo`
 *   (redo.c); what the core remembers (states.c); recipients' rows, each corrected by redo →
 * core_add() (recover_rows.c);
 * - WRITERS: living writers say what they hold and how far it is synced: those are read up to
 *   there; then segments that nobody holds are read to their ends and sealed (recover_segments.c);
 * - OUTS: living smtp-outs say their connections and jobs; then core_start(): a job in doubt that
 *   nobody has is uncertain.
 *
 * Nothing here trusts what it reads: a row or record that does not decode is named in the log,
 * counted, and left out. Only a whole index that is missing or shorter than its pages stops the
 * start, because guessing would repeat or lose mail: the operator decides with --rebuild.
 *
 * A crash during recovery: nothing was dropped before a commit has passed it, so the next start
 * does the same again.
 */
#include "common/log.h"
#include "qmgr/recover.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#define REBUILD_ADVICE                                                                             \
	"restore it, or start postern-master with --rebuild to take all mail from the segments "   \
	"again "                                                                                   \
	"(everything is flagged uncertain, and may be delivered twice)"

static void open_index(struct qmgr *q)
{
	char why[300], old[64];
	bool fresh = recover_spool_is_fresh(q);
	if (q->recover.rebuild) {
		snprintf(old, sizeof(old), "index.old-%" PRId64, clock_wall_ms());
		if (renameat(q->spool_fd, "index", q->spool_fd, old) == 0)
			log_warn("the old index is kept as %s", old);
	}
	int rc = store_open(&q->store, "index", q->map_bytes, fresh || q->recover.rebuild, why);
	if (rc != 0)
		die(rc == -ENOENT || rc == -EBADMSG || rc == -EIO ? EX_DATAERR : EX_IOERR, "%s; %s",
		    why, REBUILD_ADVICE);
	struct row_key key = row_key_text(ROW_META_KEY);
	struct buf value;
	buf_init(&value, 4096);
	rc = store_get(q->store, STORE_META, &key, &value);
	if (rc == 0)
		rc = row_meta_decode((struct str){(const char *)value.p, value.n}, &q->commit.meta);
	buf_fini(&value);
	if (rc != 0 && !fresh && !q->recover.rebuild)
		die(EX_DATAERR,
		    "the index has no valid head (%s), but there is mail in the spool; %s",
		    strerror(-rc), REBUILD_ADVICE);
	if (rc == 0) {
		q->segments.next_number = q->commit.meta.next_segment;
	} else {
		q->segments.next_number = 1;
		q->commit.meta.clean = fresh; /* nothing was before */
	}
}

static void journal_part(void *ctx, uint64_t pos, unsigned char *bytes, size_t n)
{
	struct qmgr *q = ctx;
	logger_part(q->logger, pos, bytes, n);
}

static void journal_written(void *ctx)
{
	struct qmgr *q = ctx;
	peers_release(q);
	control_release(worker_control(q->worker));
	commit_start(q);
}

static void open_journal(struct qmgr *q)
{
	uint64_t lowest = 0, highest = 0;
	bool any = journal_numbers(q->spool_fd, &lowest, &highest);
	struct row_meta *meta = &q->commit.meta;
	if (JOURNAL_POS_NUMBER(meta->journal_pos) > highest)
		highest = JOURNAL_POS_NUMBER(meta->journal_pos);
	uint64_t first = highest + 1;
	q->recover.redo->journal_pos = meta->journal_pos;
	if (q->recover.rebuild || meta->journal_pos == 0)
		q->recover.redo->journal_pos = any ? JOURNAL_POS(lowest, 0) : JOURNAL_POS(first, 0);
	uint64_t log_from = meta->log_pos ? meta->log_pos : q->recover.redo->journal_pos;
	struct journal_events events = {journal_part, journal_written, q};
	q->journal =
	    journal_new(q->loop, q->files, q->spool_fd, first, q->journal_file_bytes, &events);
	q->logger = logger_new(q->loop, q->spool_fd, log_from, JOURNAL_POS(first, 0));
	bounces_init(q, first << 32);
	qmgr_logger_ready(q);
}

void recover_start(struct qmgr *q, bool unclean, bool rebuild)
{
	struct recover *r = &q->recover;
	r->unclean = unclean;
	r->rebuild = rebuild;
	r->began_ms = clock_mono_ms();
	r->redo = xcalloc(1, sizeof(*r->redo));
	r->phase = RECOVER_ROWS;
	open_index(q);
	open_journal(q);
	q->commit.meta_dirty = true;
	if (unclean)
		log_warn("the machine or the suite did not stop cleanly: every recipient that was "
			 "due is uncertain");
	if (rebuild)
		log_warn("rebuilding the index from the segments: every recipient is uncertain");
}

static bool replay_slice(struct qmgr *q)
{
	bool more;
	int rc =
	    journal_replay(q->spool_fd, &q->recover.redo->journal_pos, 1, &more, redo_record, q);
	if (rc != 0)
		log_error("journal: %s", strerror(-rc));
	return !more;
}

/* A report is never older than the last move of its message, since what is owed a report is not
 * moved; rows may be. */
static void follow_report(struct qmgr *q, struct segment *s, const struct bounce *b)
{
	struct job_view v;
	job_ref ref = core_find(q->core, b->id);
	if (!core_job(q->core, ref, &v) || (v.segment == b->segment && v.offset == b->offset))
		return;
	struct segment *old = segments_find(q, v.segment);
	must(old != NULL); /* else it would not have become a job */
	segment_keep(s, v.bytes);
	segment_release(q, old, v.bytes);
	for (; ref != 0; ref = core_sibling(q->core, ref)) {
		core_move(q->core, ref, b->segment, b->offset);
		core_set_flags(q->core, ref, JOB_DIRTY, 0);
		commit_dirty(q, ref);
	}
}

/* Messages that live by a report that is owed: only by it, or with recipients at the same place. */
static void count_reported(struct qmgr *q)
{
	struct map seen = {0};
	size_t at = 0;
	for (struct bounce *b; (b = map_next(&q->bounces.tickets, &at)) != NULL;) {
		struct segment *s = segments_find(q, b->segment);
		if (s != NULL && core_find(q->core, b->id) != 0)
			follow_report(q, s, b);
		else if (s != NULL && map_find(&seen, b->id) == NULL)
			segment_keep(s, b->bytes);
		map_set(&seen, b->id, q);
	}
	map_fini(&seen);
}

static void end_rows(struct qmgr *q)
{
	recover_drop_missing(q);
	count_reported(q);
	store_forget_pages(q->store);
	if (q->recover.damaged_count > DAMAGED_NAMED)
		log_error("index: %" PRIu64 " rows are damaged", q->recover.damaged_count);
	q->recover.phase = RECOVER_WRITERS;
	peers_connect_writers(q);
}

/* Else mail may have left of which the core's memory, as it was kept, knows nothing. */
static bool stopped_cleanly(const struct qmgr *q)
{
	const struct recover *r = &q->recover;
	return q->commit.meta.clean && !r->redo->intents && !r->unclean && !r->rebuild;
}

static void rows_step(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	bool through = false;
	switch (redo->step) {
	case STEP_SEGMENTS:
		through = recover_load(q, STORE_SEGMENT);
		if (through)
			recover_compare_files(q);
		break;
	case STEP_BOUNCES:
		through = recover_load(q, STORE_BOUNCE);
		break;
	case STEP_STATES:
		through = recover_load(q, STORE_STATE);
		break;
	case STEP_JOURNAL:
		through = replay_slice(q);
		break;
	case STEP_RESTORE:
		through = states_restore(q);
		if (through && !stopped_cleanly(q))
			core_unclean(q->core, q->now_ms);
		break;
	case STEP_RCPTS:
		through = recover_load(q, STORE_RCPT);
		break;
	case STEP_ASIDES:
		through = recover_load(q, STORE_ASIDE);
		break;
	case STEP_DONE:
		end_rows(q);
		return;
	}
	if (through)
		redo->step++;
}

static bool writers_step(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	if (!peers_writers_told_all(q) || !reading_is_idle(q))
		return false;
	if (!redo->rest_started) {
		redo->rest_started = true;
		recover_read_orphans(q);
		return true;
	}
	recover_restore_damaged(q);
	recover_drop_empty(q);
	redo_free(q);
	q->recover.phase = RECOVER_OUTS;
	peers_connect_all(q);
	return true;
}

static void finish(struct qmgr *q)
{
	struct recover *r = &q->recover;
	struct core_totals t;
	core_totals(q->core, &t);
	r->phase = RECOVER_DONE;
	log_info("recovered %llu recipients of %llu messages in %lld ms: %" PRIu64
		 " from the index, %" PRIu64 " were on the way, %" PRIu64 " rows damaged, %" PRIu64
		 " lost",
	    (unsigned long long)t.recipients, (unsigned long long)t.messages,
	    (long long)(clock_mono_ms() - r->began_ms), r->added, r->doubt, r->damaged_count,
	    r->lost);
	qmgr_serve(q);
}

bool recover_turn(struct qmgr *q)
{
	switch (q->recover.phase) {
	case RECOVER_ROWS:
		rows_step(q);
		return true;
	case RECOVER_WRITERS:
		return writers_step(q);
	case RECOVER_OUTS:
		if (peers_outs_told_all(q))
			finish(q);
		return false;
	default:
		return false;
	}
}

void recover_fini(struct qmgr *q)
{
	redo_free(q);
	while (q->recover.damaged != NULL) {
		struct damaged_row *d = q->recover.damaged;
		q->recover.damaged = d->next;
		free(d);
	}
}

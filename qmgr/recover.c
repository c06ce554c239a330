/* SPDX-License-Identifier: ISC */
/*
 * The start: index, then what the journal says beyond it, then the segments from their marks. In
 * slices of the loop's turns, so that heartbeats are answered.
 *
 *   ROWS     segments' rows and files are compared; reports; the journal from its position into
 * `redo` (absolute states by recipient); recipients' rows, each corrected by redo → core_add()
 *   WRITERS  living writers say what they hold and how far it is synced: those are read up to
 * there; then segments that nobody holds are read to their ends and sealed OUTS     living
 * smtp-outs say their connections and jobs; then core_start(): a job in doubt that nobody has is
 * uncertain
 *
 * Nothing here trusts what it reads: a row or record that does not decode is named in the log,
 * counted, and left out. Only a whole index that is missing or shorter than its pages stops the
 * start, because guessing would repeat or lose mail: the operator decides with --rebuild.
 *
 * A crash during recovery: nothing was dropped before a commit has passed it, so the next start
 * does the same again.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

enum {
	ROWS_A_TURN = 10000,   /* some 10 ms */
	DAMAGED_NAMED = 100,   /* damaged rows named in the log one by one */
	DUE_MARGIN_MS = 60000, /* how late a commit may have been when the power went */
};
enum step { STEP_SEGMENTS, STEP_BOUNCES, STEP_JOURNAL, STEP_RCPTS, STEP_ASIDES, STEP_DONE };

struct redo {
	struct map messages; /* id → struct redo_message */
	enum step step;
	uint64_t journal_pos;
	bool rest_started; /* segments without an owner are being read */
	struct qmgr *q;
};

/* --- redo ----------------------------------------------------------------------------------------
 */

struct redo_message *redo_find(struct qmgr *q, uint64_t id)
{
	return q->recover.redo ? map_find(&q->recover.redo->messages, id) : NULL;
}

static struct redo_message *redo_get(struct qmgr *q, uint64_t id)
{
	struct redo_message *m = redo_find(q, id);
	if (m != NULL)
		return m;
	m = xcalloc(1, sizeof(*m));
	m->id = id;
	map_set(&q->recover.redo->messages, id, m);
	return m;
}

struct redo_rcpt *redo_rcpt_find(struct redo_message *m, uint16_t rcpt)
{
	struct redo_rcpt *r = m->rcpts;
	while (r != NULL && r->rcpt != rcpt)
		r = r->next;
	return r;
}

static struct redo_rcpt *redo_rcpt_get(struct redo_message *m, uint16_t rcpt)
{
	struct redo_rcpt *r = redo_rcpt_find(m, rcpt);
	if (r != NULL)
		return r;
	r = xcalloc(1, sizeof(*r));
	r->rcpt = rcpt;
	r->next = m->rcpts;
	m->rcpts = r;
	return r;
}

void redo_apply(const struct redo_rcpt *r, struct core_add *add)
{
	if (r == NULL)
		return;
	if (r->has_state) {
		add->attempts = r->attempts;
		add->due_ms = r->due_ms;
		add->flags = (uint8_t)((add->flags & ~ROW_FLAGS) | (r->flags & ROW_FLAGS));
	}
	add->flags =
	    (uint8_t)(r->in_doubt ? add->flags | JOB_IN_DOUBT : add->flags & ~JOB_IN_DOUBT);
}

static void free_redo(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	size_t at = 0;
	if (redo == NULL)
		return;
	for (struct redo_message *m; (m = map_next(&redo->messages, &at)) != NULL;) {
		while (m->rcpts != NULL) {
			struct redo_rcpt *r = m->rcpts;
			m->rcpts = r->next;
			free(r);
		}
		free(m);
	}
	map_fini(&redo->messages);
	free(redo);
	q->recover.redo = NULL;
}

static void redo_intent(struct qmgr *q, struct str payload)
{
	struct j_intent r;
	if (j_intent_decode(payload, &r) != 0)
		return;
	struct redo_message *m = redo_get(q, r.id);
	struct rd rd = rd_of(r.ordinals.p, r.ordinals.n);
	while (rd.n >= 2)
		redo_rcpt_get(m, rd_u16(&rd))->in_doubt = true;
}

static void redo_state(struct redo_rcpt *r, uint16_t attempts, uint8_t flags, uint64_t due_ms)
{
	r->has_state = true;
	r->in_doubt = false;
	r->attempts = attempts;
	r->flags = flags;
	r->due_ms = (int64_t)due_ms;
}

/* The report that an outcome asked for, as it was in memory. */
static void redo_report(
    struct qmgr *q, const struct j_outcome *o, enum j_report report, const struct buf *results)
{
	bounces_add(q,
	    &(struct row_bounce){.ticket = o->ticket,
		.id = o->id,
		.segment = o->segment,
		.offset = o->offset,
		.bytes = o->bytes,
		.kind = bounces_kind(report),
		.arrived_ms = (int64_t)o->arrived_ms,
		.retry_until_ms = (int64_t)o->retry_until_ms,
		.results = {(const char *)results->p, results->n}},
	    false);
}

static void redo_outcome(struct qmgr *q, struct str payload)
{
	struct j_outcome o;
	struct j_rcpt rcpt;
	if (j_outcome_decode(payload, &o) != 0)
		return;
	struct redo_message *m = redo_get(q, o.id);
	struct j_rcpt_reader reader = j_rcpt_reader(&o);
	enum j_report report = REPORT_NONE;
	struct buf results;
	buf_init(&results, JOURNAL_RECORD_MAX);
	while (j_rcpt_take(&reader, &rcpt) == 1) {
		struct redo_rcpt *r = redo_rcpt_get(m, rcpt.result.ordinal);
		bool lives = rcpt.outcome == OUTCOME_DEFERRED || rcpt.outcome == OUTCOME_RETRY ||
			     rcpt.outcome == J_OUTCOME_DELAY;
		bool doubt = r->in_doubt;
		redo_state(r, rcpt.attempts, rcpt.flags, rcpt.due_ms);
		r->in_doubt = doubt && rcpt.outcome == J_OUTCOME_DELAY;
		r->gone = !lives;
		if (rcpt.report != REPORT_NONE) {
			report = rcpt.report;
			result_put(&results, &rcpt.result);
		}
	}
	if (report != REPORT_NONE)
		redo_report(q, &o, report, &results);
	buf_fini(&results);
}

static void redo_rest(struct qmgr *q, const struct journal_record *rec)
{
	struct j_changed changed;
	struct j_received received;
	struct j_removed removed;
	struct j_reported reported;
	struct j_settled settled;
	if (rec->type == J_CHANGED && j_changed_decode(rec->payload, &changed) == 0) {
		struct redo_rcpt *r = redo_rcpt_get(redo_get(q, changed.id), changed.rcpt);
		bool doubt = r->in_doubt; /* held or deleted in flight: that goes on */
		redo_state(r, changed.attempts, changed.flags, changed.due_ms);
		r->in_doubt = doubt;
	} else if (rec->type == J_RECEIVED && j_received_decode(rec->payload, &received) == 0) {
		redo_get(q, received.id)->received = true;
	} else if (rec->type == J_REMOVED && j_removed_decode(rec->payload, &removed) == 0) {
		redo_get(q, removed.id)->removed = true;
	} else if (rec->type == J_REPORTED && j_reported_decode(rec->payload, &reported) == 0) {
		bounces_settle(q, reported.ticket, reported.cause_id);
		redo_get(q, reported.id)->reported = true;
	} else if (rec->type == J_SETTLED && j_settled_decode(rec->payload, &settled) == 0) {
		bounces_settle(q, settled.ticket, settled.id);
	}
}

static void redo_record(void *ctx, const struct journal_record *rec)
{
	struct qmgr *q = ctx;
	if (rec->type == J_INTENT)
		redo_intent(q, rec->payload);
	else if (rec->type == J_OUTCOME)
		redo_outcome(q, rec->payload);
	else
		redo_rest(q, rec);
}

/* --- rows ----------------------------------------------------------------------------------------
 */

static void damaged(struct qmgr *q, const char *table, struct str key)
{
	char hex[2 * ROW_KEY_MAX + 1] = "";
	for (size_t i = 0; i < key.n && i < ROW_KEY_MAX; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)key.p[i]);
	if (q->recover.damaged_count++ < DAMAGED_NAMED)
		log_error("index: row %s of table %s is damaged and set aside", hex, table);
	q->counters.damaged++;
}

static bool read_nonce(struct qmgr *q, uint64_t number, struct row_segment *row)
{
	unsigned char head[RECORD_HEAD];
	struct record r;
	int fd = segment_open_read(q, number);
	if (fd < 0)
		return false;
	bool good = pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
		    record_decode(&r, head) == 0 && r.offset == 0;
	close(fd);
	*row = (struct row_segment){.number = number,
	    .nonce_high = r.nonce_high,
	    .nonce_low = r.nonce_low,
	    .kind = r.kind == RECORD_OPEN ? SEGMENT_LARGE : SEGMENT_COMMON,
	    .process = PROC_MASTER, /* nobody's */
	    .created_ms = q->now_ms};
	return good;
}

/* Its mark is not known any more: it is read from its beginning. Messages that have rows are not
 * taken twice; others are uncertain, for their rows may have been deleted. */
static void restore_segment(struct qmgr *q, struct str key)
{
	uint64_t number;
	struct row_segment row;
	damaged(q, "segment", key);
	if (row_key_number_decode(key, &number) != 0 || !read_nonce(q, number, &row))
		return;
	struct segment *s = segments_add(q, &row);
	s->stored = s->suspect = true;
	segment_changed(q, s);
}

static void load_segment(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_segment row;
	if (row_segment_decode(key, value, &row) != 0)
		restore_segment(q, key);
	else
		segments_add(q, &row)->stored = true;
}

static void load_bounce(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_bounce row;
	if (row_bounce_decode(key, value, &row) != 0)
		damaged(q, "bounce", key);
	else
		bounces_add(q, &row, true);
}

static void load_aside(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_aside row;
	if (row_aside_decode(key, value, &row) != 0)
		damaged(q, "aside", key);
	else
		intake_aside(q, &row, true);
}

bool recover_is_uncertain(const struct qmgr *q, int64_t due_ms)
{
	if (q->recover.rebuild)
		return true;
	return q->recover.unclean && due_ms <= q->commit.meta.commit_ms + DUE_MARGIN_MS;
}

static void lose(struct qmgr *q, struct segment *s, const struct row_rcpt *row)
{
	if (q->recover.lost++ < DAMAGED_NAMED)
		log_error("message %016" PRIx64 ", recipient %u: its segment %016" PRIx64
			  " is not there; the row stays, should the file come back",
		    row->id, row->rcpt, row->segment);
	if (s != NULL)
		s->wanted = true;
}

/* A message is one record and is counted once. Its rows may name two places: those that a commit
 * took while compaction moved it, and those that died with qmgr before the next. Both copies are
 * whole: the first row's place is the place of all. True: this row named the other one. */
static bool follow_sibling(struct qmgr *q, struct segment *s, struct core_add *add)
{
	struct job_view first;
	job_ref ref = core_find(q->core, add->id);
	if (ref == 0 || !core_job(q->core, ref, &first)) {
		segment_keep(s, add->bytes);
		return false;
	}
	bool moved = first.segment != add->segment || first.offset != add->offset;
	add->segment = first.segment;
	add->offset = first.offset;
	return moved;
}

static void add_row(
    struct qmgr *q, struct segment *s, const struct row_rcpt *row, const struct redo_rcpt *redo)
{
	struct core_add add = {.id = row->id,
	    .segment = row->segment,
	    .offset = row->offset,
	    .bytes = row->bytes,
	    .rcpt = row->rcpt,
	    .attempts = row->attempts,
	    .flags = (uint8_t)(row->flags | JOB_STORED | (row->in_flight ? JOB_IN_DOUBT : 0)),
	    .arrived_ms = row->arrived_ms,
	    .due_ms = row->due_ms,
	    .domain = row->domain,
	    .vmta = row->vmta,
	    .tenant = row->tenant,
	    .campaign = row->campaign};
	redo_apply(redo, &add);
	if (recover_is_uncertain(q, add.due_ms))
		add.flags |= JOB_UNCERTAIN;
	if ((uintptr_t)map_find(&q->poison, row->id) >= POISON_DEATHS)
		add.flags |= JOB_HELD;
	bool differs = follow_sibling(q, s, &add) || redo != NULL ||
		       ((add.flags ^ row->flags) & ROW_FLAGS) != 0;
	if (differs)
		add.flags |= JOB_DIRTY;
	job_ref ref = core_add(q->core, &add, q->now_ms);
	if (differs)
		commit_dirty(q, ref);
	q->recover.doubt += (add.flags & JOB_IN_DOUBT) != 0;
	q->recover.added++;
}

/* It is looked for in its segment when all segments are read. */
static void remember_damaged(struct qmgr *q, uint64_t id, uint16_t rcpt)
{
	struct damaged_row *d = xcalloc(1, sizeof(*d));
	*d = (struct damaged_row){.next = q->recover.damaged, .id = id, .rcpt = rcpt};
	q->recover.damaged = d;
}

static void load_rcpt(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_rcpt row;
	q->recover.rows++;
	if (row_rcpt_decode(key, value, &row) != 0) {
		uint64_t id;
		uint16_t rcpt;
		damaged(q, "rcpt", key);
		if (row_key_rcpt_decode(key, &id, &rcpt) == 0)
			remember_damaged(q, id, rcpt);
		return;
	}
	struct redo_message *m = redo_find(q, row.id);
	struct redo_rcpt *redo = m ? redo_rcpt_find(m, row.rcpt) : NULL;
	struct segment *s = segments_find(q, row.segment);
	if ((redo != NULL && redo->gone) || (m != NULL && m->removed))
		commit_delete_rcpt(q, row.id, row.rcpt);
	else if (s == NULL || s->missing)
		lose(q, s, &row);
	else
		add_row(q, s, &row, redo);
}

/* True: the table is through. */
static bool load_table(struct qmgr *q, enum store_table table, store_row_fn *fn)
{
	int n = store_scan(q->store, table, &q->recover.at, ROWS_A_TURN, fn, q);
	if (n < 0)
		die(EX_IOERR, "the index cannot be read: %s", strerror(-n));
	if (n > 0)
		return false;
	q->recover.at = (struct row_key){0};
	return true;
}

/* --- segments' files
 * ------------------------------------------------------------------------------ */

static void unknown_file(struct qmgr *q, uint64_t number)
{
	struct row_segment row;
	if (q->segments.next_number <= number)
		q->segments.next_number = number + 1;
	if (q->recover.rebuild && read_nonce(q, number, &row)) {
		segment_changed(q, segments_add(q, &row));
		return;
	}
	int rc = segment_set_aside(q, number,
	    q->recover.rebuild ? "it does not begin with a record" : "the index has no row for it");
	if (rc != 0)
		log_error("segment %016" PRIx64 " has no row and cannot be set aside: %s", number,
		    strerror(-rc));
}

/* Rows without files: if nothing names them, their deletion was on the way. Else rows stay as they
 * are, for the file may come back; the messages are not there meanwhile. */
static void drop_missing(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->missing)
			list[n++] = s;
	for (size_t i = 0; i < n; i++) {
		struct row_key key = row_key_number(list[i]->row.number);
		if (!list[i]->wanted)
			store_ops_delete(&q->commit.other, STORE_SEGMENT, &key);
		map_take(&q->segments.map, list[i]->row.number);
		free(list[i]);
	}
	free(list);
}

/* Files without rows, and rows without files. */
static void compare_files(struct qmgr *q)
{
	struct map seen = {0};
	int fd = openat(q->segments.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (dir == NULL)
		die(EX_IOERR, "the spool's segments cannot be listed: %s", strerror(errno));
	for (struct dirent *e; (e = readdir(dir)) != NULL;) {
		char *end;
		uint64_t number = strtoull(e->d_name, &end, 16);
		if (end != e->d_name + 16 || *end != '\0')
			continue;
		if (segments_find(q, number) == NULL)
			unknown_file(q, number);
		map_set(&seen, number, q);
	}
	closedir(dir);
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		s->missing = map_find(&seen, s->row.number) == NULL;
	map_fini(&seen);
}

static bool spool_is_fresh(struct qmgr *q)
{
	uint64_t a, b;
	int fd = openat(q->segments.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool fresh = !journal_numbers(q->spool_fd, &a, &b);
	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		fresh &= e->d_name[0] == '.';
	if (dir != NULL)
		closedir(dir);
	return fresh;
}

/* --- the steps
 * ------------------------------------------------------------------------------------ */

#define REBUILD_ADVICE                                                                             \
	"restore it, or start postern-master with --rebuild to take all mail from the segments "   \
	"again "                                                                                   \
	"(everything is flagged uncertain, and may be delivered twice)"

static void open_index(struct qmgr *q)
{
	char why[300], old[64];
	bool fresh = spool_is_fresh(q);
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
	if (rc == 0)
		q->segments.next_number = q->commit.meta.next_segment;
	else
		q->segments.next_number = 1;
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
	r->redo->q = q;
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
	drop_missing(q);
	count_reported(q);
	store_forget_pages(q->store);
	if (q->recover.damaged_count > DAMAGED_NAMED)
		log_error("index: %" PRIu64 " rows are damaged", q->recover.damaged_count);
	q->recover.phase = RECOVER_WRITERS;
	peers_connect_writers(q);
}

static void rows_step(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	bool through = false;
	switch (redo->step) {
	case STEP_SEGMENTS:
		through = load_table(q, STORE_SEGMENT, load_segment);
		if (through)
			compare_files(q);
		break;
	case STEP_BOUNCES:
		through = load_table(q, STORE_BOUNCE, load_bounce);
		break;
	case STEP_JOURNAL:
		through = replay_slice(q);
		break;
	case STEP_RCPTS:
		through = load_table(q, STORE_RCPT, load_rcpt);
		break;
	case STEP_ASIDES:
		through = load_table(q, STORE_ASIDE, load_aside);
		break;
	case STEP_DONE:
		end_rows(q);
		return;
	}
	if (through)
		redo->step++;
}

static void rest_read(struct qmgr *q, struct segment *s, void *arg)
{
	(void)arg;
	segment_seal(q, s, s->row.mark);
}

/* A writer that lives and has not told what it holds: its channel was closed for a fault. It may
 * append still. What stands there now is read now, while the journal's word on it is known; the
 * rest when it has died, and peers.c knows when. */
static struct peer *still_writing(struct qmgr *q, const struct segment *s)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->process == s->row.process && p->instance == s->row.instance &&
		    p->generation == s->row.generation && (p->chan == NULL || !p->told_all))
			return p;
	return NULL;
}

static void read_so_far(struct qmgr *q, struct segment *s, void *arg)
{
	(void)q;
	(void)arg;
	s->state = SEGMENT_OPEN;
}

/* What no living writer holds is read to its end. Compaction's own are never replayed. */
static void read_orphans(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->state == SEGMENT_OPEN && s->owner == NULL)
			list[n++] = s;
	for (size_t i = 0; i < n; i++) {
		list[i]->owner = still_writing(q, list[i]);
		if (list[i]->row.kind == SEGMENT_COMPACT)
			segment_seal(q, list[i], list[i]->row.mark);
		else
			reading_start(q, list[i], UINT64_MAX,
			    list[i]->owner != NULL ? read_so_far : rest_read, NULL);
	}
	free(list);
}

/* Sealed ones that nothing is alive in: their deletion was on the way. */
static void drop_empty(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->state == SEGMENT_SEALED && s->messages == 0)
			list[n++] = s;
	for (size_t i = 0; i < n; i++)
		segment_seal(q, list[i], list[i]->end);
	free(list);
}

static bool take_from(struct qmgr *q, struct segment *s, const struct damaged_row *d)
{
	struct record r;
	struct buf envelope;
	buf_init(&envelope, ENVELOPE_MAX);
	bool found = s != NULL && reading_find(q, s, d->id, &r, &envelope);
	if (found)
		intake_rcpt(q, s, &r, (struct str){(const char *)envelope.p, envelope.n}, d->rcpt);
	buf_fini(&envelope);
	return found;
}

/* A damaged row's message stands in the segment of its birth, or was compacted. Its state is lost:
 * it is tried at once, and uncertain. */
static void restore_damaged(struct qmgr *q)
{
	while (q->recover.damaged != NULL) {
		struct damaged_row *d = q->recover.damaged;
		q->recover.damaged = d->next;
		bool found = take_from(q, segments_find(q, RECORD_ID_SEGMENT(d->id)), d);
		size_t at = 0;
		for (struct segment *s; !found && (s = map_next(&q->segments.map, &at)) != NULL;)
			found = s->row.kind == SEGMENT_COMPACT && take_from(q, s, d);
		if (!found) {
			q->recover.lost++;
			log_error("message %016" PRIx64
				  ", recipient %u: its row is damaged and it stands in no "
				  "segment: lost",
			    d->id, d->rcpt);
			commit_delete_rcpt(q, d->id, d->rcpt);
		}
		free(d);
	}
}

static bool writers_step(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	if (!peers_writers_told_all(q) || !reading_is_idle(q))
		return false;
	if (!redo->rest_started) {
		redo->rest_started = true;
		read_orphans(q);
		return true;
	}
	restore_damaged(q);
	drop_empty(q);
	free_redo(q);
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
	free_redo(q);
	while (q->recover.damaged != NULL) {
		struct damaged_row *d = q->recover.damaged;
		q->recover.damaged = d->next;
		free(d);
	}
}

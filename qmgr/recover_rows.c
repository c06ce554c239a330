/* SPDX-License-Identifier: ISC */
/*
 * The rows of the index become segments, reports, jobs and messages set aside, each corrected by
 * what the journal says beyond it (redo.c).
 *
 * A row that does not decode is named in the log, counted, and left out; a recipient's is
 * remembered and looked for in the segments when they have been read (recover_segments.c). A
 * message whose segment is not there keeps its row, should the file come back.
 */
#include "common/log.h"
#include "qmgr/recover.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

enum {
	ROWS_A_TURN = 10000,   /* some 10 ms */
	DUE_MARGIN_MS = 60000, /* how late a commit may have been when the power went */
};

void recover_damaged_row(struct qmgr *q, const char *table, struct str key)
{
	char hex[2 * ROW_KEY_MAX + 1] = "";
	for (size_t i = 0; i < key.n && i < ROW_KEY_MAX; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)key.p[i]);
	if (q->recover.damaged_count++ < DAMAGED_NAMED)
		log_error("index: row %s of table %s is damaged and set aside", hex, table);
	q->counters.damaged++;
}

/* Its mark is not known any more: it is read from its beginning. Messages that have rows are not
 * taken twice; others are uncertain, for their rows may have been deleted. */
static void restore_segment(struct qmgr *q, struct str key)
{
	uint64_t number;
	struct row_segment row;
	recover_damaged_row(q, "segment", key);
	if (row_key_number_decode(key, &number) != 0 || !recover_read_nonce(q, number, &row))
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
		recover_damaged_row(q, "bounce", key);
	else
		bounces_add(q, &row, true);
}

static void load_aside(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_aside row;
	if (row_aside_decode(key, value, &row) != 0)
		recover_damaged_row(q, "aside", key);
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
	    .campaign = row->campaign,
	    .pool = row->pool};
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
		recover_damaged_row(q, "rcpt", key);
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

bool recover_load(struct qmgr *q, enum store_table table)
{
	static store_row_fn *const load[STORE_TABLES] = {[STORE_SEGMENT] = load_segment,
	    [STORE_BOUNCE] = load_bounce,
	    [STORE_RCPT] = load_rcpt,
	    [STORE_ASIDE] = load_aside,
	    [STORE_STATE] = states_load};
	int n = store_scan(q->store, table, &q->recover.at, ROWS_A_TURN, load[table], q);
	if (n < 0)
		die(EX_IOERR, "the index cannot be read: %s", strerror(-n));
	if (n > 0)
		return false;
	q->recover.at = (struct row_key){0};
	return true;
}

/* SPDX-License-Identifier: ISC */
#pragma once
#include "qmgr/shell.h"
/*
 * What the start's files share: recover.c (the steps), recover_rows.c, redo.c, recover_segments.c.
 */
enum { DAMAGED_NAMED = 100 /* damaged rows named in the log one by one */ };
enum step { STEP_SEGMENTS, STEP_BOUNCES, STEP_JOURNAL, STEP_RCPTS, STEP_ASIDES, STEP_DONE };
struct redo {
	struct map messages; /* id → struct redo_message */
	enum step step;
	uint64_t journal_pos;
	bool rest_started; /* segments without an owner are being read */
};

/* redo.c */
void redo_record(void *ctx, const struct journal_record *rec); /* ctx: struct qmgr */
void redo_free(struct qmgr *q);

/* recover_rows.c */
bool recover_load(struct qmgr *q, enum store_table table); /* a slice; true: it is through */
void recover_damaged_row(struct qmgr *q, const char *table, struct str key);

/* recover_segments.c */
bool recover_read_nonce(struct qmgr *q, uint64_t number, struct row_segment *row);
bool recover_spool_is_fresh(struct qmgr *q);
void recover_compare_files(struct qmgr *q); /* files without rows, and rows without files */
void recover_drop_missing(struct qmgr *q);
void recover_read_orphans(struct qmgr *q);
void recover_drop_empty(struct qmgr *q);
void recover_restore_damaged(struct qmgr *q);

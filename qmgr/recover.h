/* SPDX-License-Identifier: ISC */
#pragma once
#include "qmgr/shell.h"
/*
 * What the start's files share: recover.c (the steps), recover_rows.c, redo.c, recover_segments.c.
 */
enum { DAMAGED_NAMED = 100 /* damaged rows named in the log one by one */ };
enum step {
	STEP_SEGMENTS,
	STEP_BOUNCES,
	STEP_STATES,
	STEP_JOURNAL,
	STEP_RESTORE,
	STEP_RCPTS,
	STEP_ASIDES,
	STEP_DONE
};
struct redo {
	struct map messages; /* id → struct redo_message */
	enum step step;
	uint64_t journal_pos;
	bool rest_started; /* segments without an owner are being read */
	struct map states; /* hash of key → struct kept_state, of states.c */
	size_t states_at;  /* map_next() */
	bool intents;	   /* mail was sent behind the last commit */
};

/* redo.c */
void redo_record(void *ctx, const struct journal_record *rec); /* ctx: struct qmgr */
void redo_free(struct qmgr *q);

/* states.c */
void states_load(void *ctx, struct str key, struct str value);
void states_redo(struct qmgr *q, struct str payload);
bool states_restore(struct qmgr *q); /* a slice; true: the core has them all */
void states_free(struct redo *redo);

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

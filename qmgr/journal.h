/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/iothread.h"
#include "common/loop.h"
#include "qmgr/journal_record.h"
/*
 * The journal's files: preallocated, numbered, written by one thread, dropped or used again once
 * both the index and the log have passed them. Records are appended in memory; journal_turn()
 * writes what has gathered with one write(), and `written` tells when it is on file.
 */
enum journal_turn {
	JOURNAL_IDLE,	 /* nothing to write and nothing being written */
	JOURNAL_STARTED, /* all that had gathered is being written now */
	JOURNAL_PARTIAL, /* the same, but intents stay behind: there is no room for their outcomes
			  */
	JOURNAL_BUSY,	 /* the last write is still going on, or there is no room at all */
};
struct journal_events {
	/* A run of records is on file at [pos, pos + n); bytes are the callee's to free. */
	void (*part)(void *ctx, uint64_t pos, unsigned char *bytes, size_t n);
	/* All of what journal_turn() started is on file. */
	void (*written)(void *ctx);
	void *ctx;
};
struct journal;
/* first: the number of the first file to write; older ones found on disk are kept until passed. */
struct journal *journal_new(struct loop *loop, struct iothread *files, int spool_fd, uint64_t first,
    uint32_t file_bytes, const struct journal_events *events);
/* What was not yet written is lost. The files thread must be freed before: it works for the
 * journal. */
void journal_free(struct journal **j);
struct buf *journal_buf(struct journal *j); /* where records are appended, by j_*_encode() */
/* reserve: bytes that must stay free for outcomes of what is in flight, this turn's intents
 * included. */
enum journal_turn journal_turn(struct journal *j, uint64_t reserve);
bool journal_is_idle(const struct journal *j); /* nothing gathered, nothing being written */
bool journal_is_writing(const struct journal *j);
bool journal_is_stuck(
    const struct journal *j); /* cannot get room or cannot write: refuse new mail */
uint64_t journal_pos(const struct journal *j); /* behind the last record on file */
/* Descriptors of files with writes that are not yet known to be synced; the caller syncs them, in
 * another thread, and says so. At most max; returns how many. */
size_t journal_unsynced(struct journal *j, int *fds, size_t max);
void journal_synced(struct journal *j, uint64_t pos);
void journal_passed(struct journal *j, uint64_t pos); /* nothing before pos is needed any more */

/* Reading, at start and by the logger. Calls fn for each valid record from *pos on, over files;
 * *pos is behind the last one. Stops after `max` files; *more says that another file follows. */
typedef void journal_record_fn(void *ctx, const struct journal_record *r);
int journal_replay(int spool_fd, uint64_t *pos, unsigned max, bool *more, journal_record_fn *fn,
    void *ctx) MUST_USE; /* 0 or -errno */
/* The lowest and highest file numbers there are; false: none. */
bool journal_numbers(int spool_fd, uint64_t *lowest, uint64_t *highest);
enum { JOURNAL_FILE_BYTES_MIN = 2 * JOURNAL_RECORD_MAX, JOURNAL_FILE_BYTES_MAX = 64 << 20 };

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "qmgr/core/core.h"
#include <stdint.h>
/*
 * The rows of the index: their keys and values as bytes. Pure. Every value begins with a version
 * and ends with the CRC32C of its key and of itself: LMDB does not notice a garbled page.
 */
enum {
	ROW_VERSION = 1,
	ROW_RCPT_VERSION = 2, /* 1, without a pool, is read still */
	ROW_KEY_MAX = 17,     /* 16, and one byte for the key that follows it in a scan */
};
struct row_key { /* big-endian, so that order of bytes is order of numbers */
	unsigned char bytes[ROW_KEY_MAX];
	size_t n;
};
struct row_key row_key_number(uint64_t number); /* segment, ticket, id set aside */
struct row_key row_key_rcpt(uint64_t id, uint16_t rcpt);
struct row_key row_key_text(const char *name); /* of the meta table */
struct row_key row_key_state(struct str key);  /* 128 bits of hash: the row has the whole key */
uint64_t row_hash(uint64_t k0, uint64_t k1, struct str s); /* SipHash-2-4 */
int row_key_number_decode(struct str key, uint64_t *number) MUST_USE;
int row_key_rcpt_decode(struct str key, uint64_t *id, uint16_t *rcpt) MUST_USE;
static inline struct str row_key_str(const struct row_key *k)
{
	return (struct str){(const char *)k->bytes, k->n};
}

struct row_rcpt { /* one recipient; all that core_add() needs */
	uint64_t id, segment, offset;
	uint32_t bytes;
	uint16_t rcpt, attempts;
	uint8_t flags;	/* those of ROW_FLAGS */
	bool in_flight; /* an intent without outcome stood in the journal when this was written */
	int64_t arrived_ms, due_ms;
	struct str domain, vmta, tenant, campaign, pool;
};
enum { ROW_FLAGS = JOB_UNCERTAIN | JOB_NULL_SENDER | JOB_DELAY_ASKED | JOB_DELAY_TOLD | JOB_HELD };

enum segment_kind {
	SEGMENT_COMMON = 0,
	SEGMENT_LARGE = 1, /* one streamed message */
	SEGMENT_COMPACT =
	    2, /* written by qmgr itself; never replayed: rows alone say what is alive in it */
};
struct row_segment {
	uint64_t number, nonce_high, nonce_low;
	uint8_t kind; /* enum segment_kind */
	bool sealed;
	uint8_t process;
	uint16_t instance;
	uint32_t generation; /* whose it was made for */
	int64_t created_ms;
	uint64_t mark; /* what lies before it was taken in */
};
struct row_bounce { /* a report that the bouncer owes */
	uint64_t ticket, id, segment, offset;
	uint32_t bytes;
	uint8_t kind; /* enum dsn_kind */
	int64_t arrived_ms, retry_until_ms;
	struct str results; /* as in BOUNCE */
};
struct row_aside { /* a message that nobody may touch */
	uint64_t id, segment, offset;
	uint32_t bytes;
	struct str why;
};
struct row_meta {
	uint64_t journal_pos; /* before it everything is in the rows */
	uint64_t log_pos;     /* before it everything is in log and accounting */
	uint64_t next_segment;
	int64_t commit_ms; /* steady clock of the last complete commit */
	bool clean;	   /* all was given out by core_save(), and nothing happened after it */
};
struct row_state { /* what the core remembers of something that is no job (DECIDE_STATE) */
	struct str key, value;
};
/* Append the value to b. */
void row_rcpt_encode(struct buf *b, const struct row_rcpt *r);
void row_segment_encode(struct buf *b, const struct row_segment *r);
void row_bounce_encode(struct buf *b, const struct row_bounce *r);
void row_aside_encode(struct buf *b, const struct row_aside *r);
void row_meta_encode(struct buf *b, const struct row_meta *r);
void row_state_encode(struct buf *b, const struct row_state *r);
/* 0 or -EBADMSG; texts are views. */
int row_rcpt_decode(struct str key, struct str value, struct row_rcpt *r) MUST_USE;
int row_segment_decode(struct str key, struct str value, struct row_segment *r) MUST_USE;
int row_bounce_decode(struct str key, struct str value, struct row_bounce *r) MUST_USE;
int row_aside_decode(struct str key, struct str value, struct row_aside *r) MUST_USE;
int row_meta_decode(struct str value, struct row_meta *r) MUST_USE;
int row_state_decode(struct str key, struct str value, struct row_state *r) MUST_USE;
#define ROW_META_KEY "meta"

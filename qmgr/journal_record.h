/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/result.h"
#include "qmgr/core/core.h"
#include <stdint.h>
/*
 * The journal's records: how they lie in a file, and what stands in each. Pure; journal.c does the
 * files. A position is file number << 32 | offset in the file: it only grows.
 *
 * A record: u32 bytes (all of it, a multiple of 8), u32 CRC32C of its position and of everything
 * but the sum itself, u8 type, three zero bytes, u32 bytes of the payload, payload, zero bytes. The
 * position in the sum makes what is left in a reused file invalid.
 */
#define JOURNAL_POS(number, offset) ((uint64_t)(number) << 32 | (uint64_t)(offset))
#define JOURNAL_POS_NUMBER(pos) ((uint64_t)(pos) >> 32)
#define JOURNAL_POS_OFFSET(pos) ((uint64_t)(pos)&0xffffffffU)
enum {
	JOURNAL_RECORD_HEAD = 16,
	JOURNAL_RECORD_MAX = 4 * 1048576, /* a larger length in a file is damage */
};
enum journal_type {
	J_START = 1,	/* a qmgr begins */
	J_INTENT = 2,	/* a JOB is about to leave */
	J_OUTCOME = 3,	/* what became of recipients */
	J_CHANGED = 4,	/* a recipient's state changed without an outcome */
	J_RECEIVED = 5, /* a message was taken in */
	J_REMOVED = 6,	/* nothing of it is alive any more */
	J_REPORTED = 7, /* a DSN was taken in: its cause is settled */
	J_SETTLED = 8,	/* no DSN is owed */
	J_NEXT = 9,	/* the journal goes on in the next file */
	J_QUEUE = 10,	/* a connection, or the way to a domain, failed before any message */
	J_STATE = 11,	/* the core's memory of something that is no job: now this */
	J_EVENT = 12,	/* for people: log, events, alert mail */
	J_TYPES
};
struct journal_record {
	enum journal_type type;
	uint64_t pos; /* of its first byte */
	struct str payload;
};
size_t journal_record_begin(struct buf *b, enum journal_type type);
void journal_record_end(struct buf *b, size_t begin);
/* Fills in the sums of a run of finished records that will stand at `pos`. */
void journal_record_seal(unsigned char *p, size_t n, uint64_t pos);
/* The next record at *pos: 1, and *bytes and *pos are behind it; 0: zero bytes or the end;
 * -EBADMSG. */
int journal_record_take(struct str *bytes, uint64_t *pos, struct journal_record *r) MUST_USE;

struct j_start {
	uint64_t wall_ms;
};
struct j_intent {
	uint64_t transaction, id;
	struct str ordinals; /* u16 big-endian each */
};
struct j_changed {
	uint64_t id;
	uint16_t rcpt, attempts;
	uint8_t flags; /* enum job_flags */
	uint64_t due_ms;
	bool has_place; /* since it is written at all */
	struct str vmta, pool;
};
struct j_received {
	uint64_t id, wall_ms, arrived_ms, segment, offset;
	uint64_t bytes;
	uint32_t rcpt_count;
	struct str sender, envid, vmta, tenant, campaign, client, helo;
	struct str
	    rcpts; /* (str16 address, str16 orcpt)*; empty unless an accounting file wants `r` */
};
struct j_removed {
	uint64_t id, wall_ms;
	struct str why; /* empty: as usual */
};
struct j_reported {
	uint64_t cause_id, id, ticket, wall_ms;
	uint8_t kind; /* enum dsn_kind */
};
struct j_settled {
	uint64_t id, ticket, wall_ms;
	struct str why;
};
/* Tells log and accounting; nothing follows from it. Without a relay, the name servers failed. */
struct j_queue {
	uint64_t wall_ms;
	uint16_t code; /* 0: no reply */
	uint8_t stage; /* enum smtp_stage */
	struct str queue, vmta, domain, relay, source, text;
};
/* DECIDE_STATE; the latest record of a key counts. */
struct j_state {
	bool gone;
	struct str key, value;
};
/* DECIDE_EVENT. The ticket is the alert mail's that it asks for; 0: none. */
struct j_event {
	uint64_t wall_ms, ticket;
	uint64_t until_wall_ms; /* 0: none */
	uint8_t kind;		/* enum core_event_kind */
	struct str scope, from, to, text, rule, who, notify;
};

/* What a report is wanted for; values stand on disk. */
enum j_report { REPORT_NONE = 0, REPORT_FAILED = 1, REPORT_DELAYED = 2, REPORT_SUCCESS = 3 };
enum { J_OUTCOME_DELAY = 100 }; /* beside enum core_outcome: only a delay report, no attempt */
/* Where a recipient stands, as the core names it. */
struct j_place {
	struct str queue, vmta, pool, mode;
};
struct j_rcpt {
	uint8_t outcome; /* enum core_outcome or J_OUTCOME_DELAY */
	uint8_t flags;	 /* enum job_flags, after it */
	uint8_t report;	 /* enum j_report */
	uint16_t attempts;
	uint64_t due_ms;
	struct j_place place; /* encode: an empty queue is the record's */
	struct str rule;      /* that decided, "LIST:INDEX (FILE:LINE)"; empty: none */
	struct rcpt_result result;
};
struct j_outcome {
	uint64_t id, transaction; /* transaction 0: there was no attempt */
	uint64_t wall_ms, arrived_ms, segment, offset;
	uint64_t ticket; /* of the report that some recipients want */
	uint64_t retry_until_ms;
	uint32_t bytes, connect_ms, transmit_ms;
	struct str sender, envid, relay, source, esmtp, tenant, campaign;
	struct j_place place; /* the first recipient's */
	bool has_place;	      /* decoded: pool and mode are known; older records lack them */
	uint16_t rcpt_count;
	struct str rcpts; /* decoded: read with j_rcpt_take() */
};
void j_start_encode(struct buf *b, const struct j_start *r);
void j_intent_encode(struct buf *b, const struct j_intent *r);
void j_changed_encode(struct buf *b, const struct j_changed *r);
void j_received_encode(struct buf *b, const struct j_received *r);
void j_removed_encode(struct buf *b, const struct j_removed *r);
void j_reported_encode(struct buf *b, const struct j_reported *r);
void j_settled_encode(struct buf *b, const struct j_settled *r);
void j_queue_encode(struct buf *b, const struct j_queue *r);
void j_state_encode(struct buf *b, const struct j_state *r);
void j_event_encode(struct buf *b, const struct j_event *r);
void j_next_encode(struct buf *b);
/* 0 or -EBADMSG; views into the payload */
int j_start_decode(struct str payload, struct j_start *r) MUST_USE;
int j_intent_decode(struct str payload, struct j_intent *r) MUST_USE;
int j_changed_decode(struct str payload, struct j_changed *r) MUST_USE;
int j_received_decode(struct str payload, struct j_received *r) MUST_USE;
int j_removed_decode(struct str payload, struct j_removed *r) MUST_USE;
int j_reported_decode(struct str payload, struct j_reported *r) MUST_USE;
int j_settled_decode(struct str payload, struct j_settled *r) MUST_USE;
int j_queue_decode(struct str payload, struct j_queue *r) MUST_USE;
int j_state_decode(struct str payload, struct j_state *r) MUST_USE;
int j_event_decode(struct str payload, struct j_event *r) MUST_USE;
int j_outcome_decode(struct str payload, struct j_outcome *r) MUST_USE;

/* An outcome is built recipient by recipient: the recipients gather in `rcpts`, then the record is
 * written around them. Texts, places and rules equal to those before are written once. */
struct j_rcpts {
	struct buf b;
	uint16_t count;
	size_t text_at, text_n; /* of the last one, in b */
	size_t place_at, place_n, rule_at, rule_n;
};
void j_rcpts_init(struct j_rcpts *r);
void j_rcpts_fini(struct j_rcpts *r);
void j_rcpts_reset(struct j_rcpts *r);
void j_rcpts_put(struct j_rcpts *r, const struct j_rcpt *rcpt);
void j_outcome_encode(struct buf *b, const struct j_outcome *r, const struct j_rcpts *rcpts);
struct j_rcpt_reader {
	struct rd rd;
	struct str text, rule;
	struct j_place record_place, place;
};
struct j_rcpt_reader j_rcpt_reader(const struct j_outcome *r);
int j_rcpt_take(
    struct j_rcpt_reader *reader, struct j_rcpt *out) MUST_USE; /* 1, 0 = end, -EBADMSG */

/* Room that an outcome of n recipients may take at most: kept free before their JOB leaves. */
static inline uint64_t j_outcome_room(uint64_t recipients)
{
	enum {
		COMMON = 4096,
		EACH = 2400
	}; /* sums of the fields' bounds in msg.def and result.h; a place and a rule of its own fit
	      into what COMMON leaves: a recipient that shares a record does not need it */
	return recipients * (COMMON + EACH);
}

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/segread.h"
#include "smtp-out/verdict.h"

enum { HITS_BYTES_MAX = 65536 }; /* as RESULT and CONN_CLOSED carry them */

struct outcome {		/* of one recipient */
	bool decided, accepted; /* accepted: RCPT was answered 2xx, the dot decides */
	uint8_t verdict, stage, past_dot;
	bool by_peer;
	uint16_t code;
	char status[16];
	uint32_t text_at; /* in the transaction's texts */
	uint16_t text_bytes;
};

enum txn_at { AT_MAIL, AT_RCPT, AT_DATA, AT_CONTENT, AT_LONE_DOT, AT_DOT, AT_OVER };

struct txn { /* one JOB; made whole, dropped whole */
	struct txn *next;
	uint64_t transaction, id;
	struct message message;
	const char *damage;  /* static text: it cannot be sent, and why; NULL */
	unsigned rcpt_count; /* of this transaction */
	uint16_t *ordinals;  /* in the same block of memory, as are */
	struct outcome *outcomes;
	struct buf texts; /* owned: the replies' texts, each once */
	uint32_t last_text_at;
	uint16_t last_text_bytes;
	struct buf hits; /* owned: hit_put()'s list, of the patterns that matched */

	enum txn_at at;			      /* what is written next */
	unsigned written, answered, accepted; /* of the RCPTs */
	unsigned pending;		      /* replies to come */
	bool refused;			      /* MAIL was */
	bool spoken;			      /* the peer has answered at least once */
	bool more_later;  /* "too many recipients": the rest goes in another transaction */
	bool past_dot;	  /* some of the final dot may be out */
	bool reused;	  /* not the first on its connection */
	bool relayed;	  /* the peer has no DSN */
	int64_t begun_ms; /* when MAIL was written; 0: it was not */
};
/* rcpts: u16 big-endian ordinals, checked against the envelope. Takes *m over (m->file NULL:
 * `damage` says why there is none). */
struct txn *txn_new(
    uint64_t transaction, uint64_t id, struct message *m, struct str rcpts, const char *damage);
void txn_free(struct txn **t);
struct str txn_text(const struct txn *t, const struct outcome *o);
/* The first judgement of a recipient counts. */
void txn_settle(struct txn *t, unsigned rcpt, const struct judgement *j, enum smtp_stage stage);
void txn_settle_all(struct txn *t, const struct judgement *j, enum smtp_stage stage);
void txn_settle_unwritten(
    struct txn *t, const struct judgement *j); /* no RCPT was written for these */
/* May stand in a command: no control characters, and not endless. */
bool txn_is_clean(struct str s);

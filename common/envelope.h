/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include <stdint.h>
/*
 * The envelope as it stands in a spool record and in ACCEPTED: a list of (u8 tag, u16 length,
 * bytes). Message fields first, then each recipient: RCPT opens one, its own fields follow. Unknown
 * tags are skipped (an older build reads a newer record); a tag out of place, twice, or with a bad
 * value is -EBADMSG, as is an envelope without a sender (ENV_SENDER, "" for the null sender) or
 * recipients.
 */
enum envelope_tag {
	ENV_SENDER = 1, /* "" = null sender; without <> */
	ENV_ENVID = 2,	/* decoded xtext */
	ENV_RET = 3,	/* u8: enum env_ret */
	ENV_BODY = 4,	/* u8: bits ENV_8BIT, ENV_UTF8 */
	ENV_CLIENT = 5, /* text: client address */
	ENV_HELO = 6,
	ENV_VMTA = 7,
	ENV_TENANT = 8,
	ENV_CAMPAIGN = 9,    /* also the job id */
	ENV_CAUSE = 10,	     /* of a DSN: u64 message id, u8 dsn_kind, then u16 ordinals */
	ENV_TICKET = 11,     /* of a DSN: u64 ticket of the BOUNCE it answers */
	ENV_MESSAGE_ID = 12, /* header Message-ID, for the log */
	ENV_HOLD = 13,	     /* u8: 1, set it aside: an operator decides */
	ENV_RCPT = 32,	     /* address */
	ENV_NOTIFY = 33,     /* u8: bits NOTIFY_*; absent: failure and delay */
	ENV_ORCPT = 34,	     /* "type;decoded address" */
};
enum env_ret { RET_DEFAULT = 0, RET_FULL = 1, RET_HDRS = 2 };
enum { ENV_8BIT = 1, ENV_UTF8 = 2 };
enum {
	NOTIFY_NEVER = 1,
	NOTIFY_SUCCESS = 2,
	NOTIFY_FAILURE = 4,
	NOTIFY_DELAY = 8,
	NOTIFY_ABSENT = 0
};
enum {
	ENVELOPE_MAX = 1048576, /* bytes: what ACCEPTED carries */
	RCPT_MAX = 50000,	/* recipients a message can have at all */
	/* Longer values are -EBADMSG, as are NUL, CR and LF in them: they travel on into commands
	   and logs. */
	ENV_ADDRESS_MAX = 320, /* sender, recipient: 64 + @ + 255 (RFC 5321 4.5.3.1) */
	ENV_ORCPT_MAX = 500,   /* RFC 3461 4.2 */
	ENV_TEXT_MAX = 998,    /* the others: a line (RFC 5322 2.1.1) */
};

struct env_rcpt {
	struct str address;
	struct str orcpt;
	uint8_t notify;
};
struct envelope {
	struct str sender, envid, client, helo, vmta, tenant, campaign, message_id;
	uint8_t ret, body, hold;
	bool has_cause;
	uint64_t cause_id, cause_ticket;
	uint8_t cause_kind;
	struct str cause_ordinals; /* u16 big-endian each */
	size_t rcpt_count;
	struct env_rcpt *rcpt; /* owned */
};
/* Views into `bytes`; envelope_fini() frees the recipients. 0 or -EBADMSG (then nothing to free).
 */
int envelope_decode(struct envelope *e, struct str bytes) MUST_USE;
void envelope_fini(struct envelope *e);
/* The same walk without an allocation: calls fn (may be NULL) for each recipient, in order, and
 * returns what it returns when that is not zero. Message fields are complete before the first call;
 * what follows a recipient is checked only after it. e->rcpt stays NULL, rcpt_count counts. */
typedef int envelope_rcpt_fn(void *ctx, unsigned ordinal, const struct env_rcpt *rcpt);
int envelope_walk(struct envelope *e, struct str bytes, envelope_rcpt_fn *fn, void *ctx) MUST_USE;
void envelope_put(struct buf *b, enum envelope_tag tag, struct str value);
void envelope_put_u8(struct buf *b, enum envelope_tag tag, uint8_t value);
void envelope_put_u64(struct buf *b, enum envelope_tag tag, uint64_t value);
struct str address_domain(struct str address); /* what follows the last @, or "" */

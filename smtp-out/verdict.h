/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/envelope.h"
#include "common/reply.h"
#include "common/types.h"
#include "smtp-out/features.h"
/*
 * From a reply or a failure to what becomes of recipients. Pure; the only place that judges.
 */
struct judgement {
	bool good;	       /* the step succeeded: go on */
	bool ends_session;     /* nothing more can be said on this connection */
	enum verdict verdict;  /* when not good */
	enum conn_cause cause; /* when it ends the session */
	uint16_t code;	       /* the peer's; 0: ours */
	bool by_peer;
	char status[16];
	char text[REPLY_TEXT_MAX + 1];
};
struct reply_context {
	enum smtp_stage stage;
	unsigned accepted; /* recipients of this transaction, so far (for RCPT) */
	bool reused;	   /* an earlier transaction went over this connection (for MAIL) */
};
void verdict_reply(struct judgement *j, const struct reply_context *c, const struct reply *r);

struct failure_context { /* of a transaction whose MAIL was written */
	enum conn_cause cause;
	enum smtp_stage stage;
	bool unanswered; /* the peer has not said a word about this transaction */
	bool reused;	 /* an earlier transaction went over this connection */
};
void verdict_failure(struct judgement *j, const struct failure_context *f, const char *what);
/* May this message be sent to this peer at all? good, or the failure of all its recipients. */
void verdict_features(struct judgement *j, const struct features *f, uint8_t body,
    uint64_t content_bytes, bool ignore_8bitmime);
/* The message could not be read from the spool, or makes no sense: ours, tried again. */
void verdict_local(struct judgement *j, const char *what);

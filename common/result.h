/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/types.h"
/* Lists inside RESULT and BOUNCE: one entry a recipient. Remote text is one line, printable,
 * bounded. */
enum {
	REPLY_TEXT_MAX = 900,	  /* text: the rest of a long reply helps nobody */
	RESULT_STATUS_MAX = 16,	  /* "5.123.123" and some room */
	RESULT_NAME_MAX = 400,	  /* said_by */
	RESULT_ADDRESS_MAX = 500, /* address, orcpt */
	/* So no entry is longer than RESULT_ENTRY_MAX, and a list of RESULT_RCPTS_MAX entries
	 * always fits into its field in msg.def, whatever remote servers said: who builds a list
	 * keeps to that count. */
	RESULT_ENTRY_MAX = 8 + 5 * 2 + RESULT_STATUS_MAX + REPLY_TEXT_MAX + RESULT_NAME_MAX +
			   2 * RESULT_ADDRESS_MAX,
	RESULT_RCPTS_MAX = 1000, /* of one transaction, of one report */
};
struct rcpt_result {
	uint16_t ordinal;
	uint8_t verdict;  /* enum verdict */
	uint8_t stage;	  /* enum smtp_stage: where it was decided */
	uint8_t past_dot; /* the final dot had been written: a repeat may be a duplicate */
	uint8_t
	    relayed; /* delivered to a peer without DSN though NOTIFY asked: we report "relayed" */
	uint8_t notify;	    /* NOTIFY_* of the envelope */
	uint16_t code;	    /* basic reply code; 0: no reply, ours */
	struct str status;  /* enhanced code "x.y.z" */
	struct str text;    /* the whole reply as one line: code, enhanced code, text */
	struct str said_by; /* host that said it, empty: we */
	struct str address, orcpt;
};
/* Texts are cut to their bounds; control characters in them become '?'. */
void result_put(struct buf *b, const struct rcpt_result *r);
/* 1 = one entry read (views), 0 = end, -EBADMSG: cut off, a number outside its enumeration, a text
 * that result_put() would not have written. */
int result_take(struct rd *r, struct rcpt_result *out) MUST_USE;

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/segwrite.h"
#include "smtpd/body.h"
#include "smtpd/parse.h"
/*
 * One mail transaction: made whole by MAIL, dropped whole by RSET, EHLO, STARTTLS, content that is
 * refused, and the end. Never reset by parts. DATA or BDAT without a recipient (554) is a command
 * out of place: it changes nothing, and RCPT may follow.
 */
struct txn {
	char sender[ADDRESS_MAX + 1]; /* "": the null sender */
	bool smtputf8, declared_8bit; /* as MAIL said */
	bool address_utf8;	      /* an address is not ASCII */
	uint8_t ret;
	uint64_t size; /* SIZE=, or 0 */
	char envid[ENVID_TEXT_MAX + 1];
	struct buf rcpts; /* encoded recipients; owned */
	unsigned rcpt_count;
	char first_rcpt[ADDRESS_MAX + 1];
	const struct tenant
	    *tenant;	     /* whose mail it is, once nothing can say otherwise; borrowed */
	char check[200];     /* what was wrong with its header, for X-Postern-Check; "": nothing */
	int64_t deadline_ms; /* monotonic */
	bool receiving;	     /* body is in use */
	struct body body;
	struct buf content;			/* owned; body's out */
	uint64_t counted;			/* of it, in the server's sum */
	struct segstream *stream;		/* owned until closed */
	uint32_t envelope_bytes, headers_bytes; /* as appended to the stream */
};
struct txn *txn_new(const struct command *mail, int64_t deadline_ms);
void txn_free(struct txn **t); /* abandons the stream */
/* ANSWER_RCPT_OK, or why not. host: for Postmaster without a domain. */
enum answer txn_add_rcpt(struct txn *t, const struct command *rcpt, unsigned max, const char *host);
void txn_receive(struct txn *t, const struct body_limits *limits, bool chunked);
struct txn_origin {
	const char *client, *helo, *vmta, *tenant;
	bool hold;
};
/* The whole envelope: after the header is known. */
void txn_put_envelope(const struct txn *t, const struct txn_origin *from, struct buf *out);

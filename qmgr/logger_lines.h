/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "common/envelope.h"
#include "qmgr/journal_record.h"
/*
 * The lines of delivery log and accounting, made from a journal record. Pure but for local time.
 */
/* Beginning of a log line of that service up to and with ": ", in b. */
typedef void log_prefix_fn(void *ctx, struct buf *b, const char *service, uint64_t wall_ms);

void log_lines_received(
    struct buf *b, const struct j_received *r, log_prefix_fn *prefix, void *ctx);
void log_lines_removed(struct buf *b, const struct j_removed *r, log_prefix_fn *prefix, void *ctx);
void log_lines_reported(
    struct buf *b, const struct j_reported *r, log_prefix_fn *prefix, void *ctx);
void log_lines_outcome(struct buf *b, const struct j_outcome *o, const struct j_rcpt *rcpt,
    const struct envelope *e, log_prefix_fn *prefix, void *ctx);
void log_lines_queue(struct buf *b, const struct j_queue *r, log_prefix_fn *prefix, void *ctx);
void log_lines_event(struct buf *b, const struct j_event *e, log_prefix_fn *prefix, void *ctx);

/* ---- event_line.c ---- */
void event_print(struct buf *b, const struct j_event *e);   /* one line, without its end */
void event_subject(struct buf *b, const struct j_event *e); /* of the alert mail */
void event_letter(struct buf *b, const struct j_event *e);  /* its text; lines end with LF */

enum account_format { ACCOUNT_CSV = 0, ACCOUNT_JSON = 1 };
enum account_type {
	ACCOUNT_DELIVERED = 1,
	ACCOUNT_BOUNCED = 2,
	ACCOUNT_DEFERRED = 4,
	ACCOUNT_QUEUE_DEFERRED = 8,
	ACCOUNT_RECEIVED = 16,
	ACCOUNT_REMOTE_BOUNCE = 32,
	ACCOUNT_FEEDBACK = 64
};
unsigned account_types_parse(const struct conf_value *records); /* bits */
unsigned account_type_of(
    const struct j_outcome *o, const struct j_rcpt *rcpt); /* one bit, or 0: none */
void account_header(struct buf *b);			   /* of CSV */
void account_outcome(struct buf *b, enum account_format format, const struct j_outcome *o,
    const struct j_rcpt *rcpt, const struct envelope *e);
void account_queue(struct buf *b, enum account_format format, const struct j_queue *r);
/* A line for each recipient that the record names. */
void account_received(struct buf *b, enum account_format format, const struct j_received *r);

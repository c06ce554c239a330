/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/rule.h"
/*
 * Mail to operators: that a queue is in backoff mode, that a source address was disabled. Pure.
 */
enum { ALERT_RCPTS_MAX = 100 }; /* addresses of one notice */
struct alert_mail {
	struct alert alert;
	const char *host_name;
	const char *postmaster; /* "": MAILER-DAEMON at host_name */
	uint64_t id;		/* the record's own */
	int64_t now_ms;
};
/* Appends the envelope's recipients (after its message fields), the Received header and the rest of
 * the message in wire form. How many recipients: 0 when no address is one. */
size_t alert_build(const struct alert_mail *a, struct buf *rcpts, struct buf *headers,
    struct buf *content, uint8_t *body);

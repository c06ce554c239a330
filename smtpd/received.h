/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include <stdint.h>
/* The header fields that we add. RFC 5321 4.4, RFC 5322 3.6, RFC 6409 8. */
struct received {
	const char *helo, *client; /* as the client said; its address */
	const char *host;	   /* ours */
	const char *protocol;	   /* "ESMTPS" */
	const char *tls;	   /* "TLSv1.3 …", or "" */
	const char *id;
	const char *rcpt; /* the only recipient, or "" when there are more */
	int64_t wall_ms;
};
enum { DATE_TEXT = 32 };
void date_print(char out[DATE_TEXT], int64_t wall_ms); /* "Sun, 22 Nov 2026 21:58:04 +0000" */
void received_put(struct buf *b, const struct received *r);
void received_put_date(struct buf *b, int64_t wall_ms);
void received_put_message_id(struct buf *b, const struct received *r);
/* RFC 3848, RFC 6531 4.3 */
const char *received_protocol(bool ehlo, bool tls, bool utf8);

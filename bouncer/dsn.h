/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/envelope.h"
#include "common/types.h"
/*
 * The builder of delivery status notifications: RFC 3461 to 3464, 6522, and 6533 for addresses and
 * messages in UTF-8. Pure: the same input gives the same bytes.
 */
enum {
	DSN_DETAIL_MAX = 1000, /* recipients with a section of their own; the rest is counted */
	DSN_RETURN_MAX = 50 * 1024,  /* a larger message comes back as headers only */
	DSN_HEADERS_MAX = 64 * 1024, /* of the original, returned */
	DSN_BYTES_MAX = 8 * 1048576, /* never reached: 1,000 recipients of 3 KiB and the original */
};
struct dsn_rcpt {
	struct str address;
	struct str orcpt;   /* "type;address" or "" */
	struct str status;  /* "x.y.z" */
	struct str text;    /* reply or our own words, one line */
	struct str said_by; /* host; "": we */
	uint16_t code;	    /* basic reply code; 0: no reply */
	uint8_t stage;	    /* enum smtp_stage */
	bool relayed;	    /* of success: the next hop makes no reports */
};
struct dsn {
	enum dsn_kind kind;
	const char *host_name;
	const char *postmaster; /* "": MAILER-DAEMON at host_name */
	uint64_t id;		/* the report's own */
	uint64_t original_id;
	int64_t now_ms, arrived_ms;
	int64_t retry_until_ms;		 /* 0: none */
	const struct envelope *envelope; /* of the original */
	struct str content;		 /* of the original, in wire form: as much as was read */
	uint64_t content_bytes;		 /* all of it */
	const struct dsn_rcpt *rcpt;
	size_t rcpt_count;
};
/* Appends the Received header and the rest of the message, in wire form. Returns its ENV_BODY bits.
 */
uint8_t dsn_build(const struct dsn *d, struct buf *headers, struct buf *content);

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "smtpd/answer.h"
#include "smtpd/tenants.h"
/*
 * The receiver of content, from DATA or BDAT: bytes in, content in wire form out (CRLF,
 * dot-stuffed, without the final dot line), header scanned and cleaned on the way. Pure, fuzzed.
 */
enum {
	/* RFC 5322 allows 998, but HTML in one line is common and all large MTAs take it; what is
	 * longer than this is no text. Nothing of ours grows with the line. */
	CONTENT_LINE_MAX = 262144,
	HEADER_VALUE_MAX = 255, /* of what is kept of a header field */
	VMTA_VALUE_MAX = 100,	/* as of a name in the configuration */
	JOB_VALUE_MAX = 128,
	ENVID_VALUE_MAX = 100, /* as of ENVID=, RFC 3461 4.4 */
};
struct body_limits {
	uint64_t content_max; /* bytes of a message */
	size_t header_max;    /* bytes of its header; at most HEADER_MAX */
	unsigned hops_max;
	const struct tenants *tenants; /* borrowed */
};
enum { HEADER_MAX = 16 * 1048576 }; /* the header lies in memory whole */

enum body_state { BODY_LINE_START, BODY_DOT, BODY_DOT_CR, BODY_TEXT, BODY_CR };
struct body {
	struct body_limits limits;
	struct buf *out; /* borrowed; the owner may take its bytes once header_done */
	bool chunked;	 /* BDAT: no end in the bytes, dots are stuffed here */
	enum body_state state;
	enum answer refused; /* then bytes are read and dropped until the end is found */
	uint64_t bytes;	     /* that went to out, less what was removed */
	size_t line_bytes;
	bool eight_bit; /* an octet above 127 was seen */
	/* the header */
	bool header_done, header_eight_bit;
	size_t header_bytes, line_at; /* line_at: where the line being read begins in out */
	unsigned fields, hops;
	int field; /* whose continuation lines may follow */
	bool has_date;
	unsigned vmta_count;
	char message_id[HEADER_VALUE_MAX + 1];
	char job[JOB_VALUE_MAX + 1];
	char envid[ENVID_VALUE_MAX + 1]; /* ASCII */
	char vmta[VMTA_VALUE_MAX + 2];	 /* a value that was cut to this is longer than any name */
	bool has_message_id;
	char tenant[VMTA_VALUE_MAX + 2];
	bool has_tenant;
	int match_header;	    /* whose value stands in match_value; -1: none */
	const struct tenant *match; /* the first that a header of `match` named */
	char match_value[MATCH_VALUE_MAX + 1];
	uint8_t singletons[SINGLETONS];
	char from[FROM_VALUE_MAX + 1];
};
void body_init(struct body *b, const struct body_limits *limits, struct buf *out, bool chunked);
/* DATA: eats from *in up to and with the final dot line; true when that was there. */
bool body_take_data(struct body *b, struct str *in);
/* BDAT: eats all. */
void body_take_chunk(struct body *b, struct str in);
/* The content is complete: ends a last line that has no CRLF, and the header. ANSWER_NONE or the
 * refusal. */
enum answer body_end(struct body *b) MUST_USE;

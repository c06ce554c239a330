/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/result.h"
/*
 * Parser of SMTP replies from a server that may be hostile: bytes in, one reply out. Bounded in
 * line length, number of lines and text; RFC 5321 4.2, enhanced codes RFC 2034. Pure, fuzzed.
 */
enum { REPLY_LINE_MAX = 4096, REPLY_LINES_MAX = 200 };
struct reply {
	uint16_t code;	 /* 200 … 599 */
	char status[16]; /* "5.1.1": the reply's own, or derived from the code ("5.0.0") */
	bool has_status;
	char text[REPLY_TEXT_MAX +
		  1]; /* one line: code, enhanced code, text; printable ASCII or UTF-8 */
	unsigned lines;
};
struct reply_parser {
	struct reply reply;
	unsigned lines;
	size_t text_bytes;
};
void reply_parser_init(struct reply_parser *p);
/* Eats from *in. 1: p->reply is complete; 0: more bytes wanted; -EBADMSG: not SMTP; -E2BIG: over a
 * bound. line_fn (may be NULL) sees each line's text, for EHLO keywords. */
typedef void reply_line_fn(void *ctx, unsigned line, struct str text);
int reply_parse(struct reply_parser *p, struct str *in, reply_line_fn *line_fn, void *ctx) MUST_USE;

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/str.h"
/*
 * Writing lines of a message in wire form: CRLF, dot-stuffed, never longer than RFC 5322 allows,
 * and never made of remote bytes that could end a line.
 */
enum {
	LINE_MAX_BYTES = 998, /* RFC 5322 2.1.1, without CRLF */
	LINE_FOLD = 76,	      /* where text is folded when it has a blank */
};
/* One whole line; `line` holds no CR, LF or NUL (they become '?'). */
void part_line(struct buf *b, struct str line);
void part_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3); /* one line, likewise */
/* "name: value", cleaned and folded. utf8: else everything outside ASCII becomes '?'. */
void part_field(struct buf *b, const char *name, struct str value, bool utf8);
/* Paragraph text with `indent` before each line, cleaned and folded. */
void part_text(struct buf *b, const char *indent, struct str text, bool utf8);
/* Remote text as one line: control characters, broken UTF-8 (and, without utf8, everything that is
 * not ASCII) become '?'. Cut to fit. */
struct str part_clean(char *out, size_t size, struct str s, bool utf8);
bool part_is_ascii(struct str s);
void part_date(char out[40], int64_t wall_ms); /* RFC 5322, UTC */

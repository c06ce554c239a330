/* SPDX-License-Identifier: ISC */
/*
 * Replies of SMTP servers. This file alone knows what a reply looks like (RFC 5321 4.2, RFC 2034)
 * and turns it, whatever the server sent, into one bounded, printable line for logs, reports and
 * patterns: code, enhanced code, text; the lines of a longer reply joined by blanks, their repeated
 * codes removed.
 *
 * The parser keeps no part of a line: what is not yet a whole line stays with the caller. It is
 * strict where being lenient would mean guessing an outcome (no code, a code out of range, a class
 * that changes within one reply) and lenient where nothing depends on it (a bare LF, no text, 8-bit
 * text).
 */
#include "common/reply.h"
#include "common/utf8.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { STATUS_DIGITS_MAX = 3 }; /* of the second and third part, RFC 3463 2 */

void reply_parser_init(struct reply_parser *p)
{
	p->reply.code = 0;
	p->reply.status[0] = '\0';
	p->reply.has_status = false;
	p->reply.text[0] = '\0';
	p->reply.lines = 0;
	p->lines = 0;
	p->text_bytes = 0;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Bytes of the UTF-8 sequence at s that may stand in a log line; 0: none, the byte is replaced. */
static size_t printable_bytes(struct str s)
{
	const unsigned char *b = (const unsigned char *)s.p;
	size_t n = utf8_sequence(s);
	if (n == 1)
		return b[0] >= 0x20 && b[0] != 0x7f;
	if (n == 2 && b[0] == 0xc2 && b[1] < 0xa0) /* C1 controls: terminals obey them */
		return 0;
	if (n == 3 && b[0] == 0xe2 && b[1] == 0x80 && (b[2] == 0xa8 || b[2] == 0xa9))
		return 0; /* line and paragraph separator: a log stays one line */
	return n;
}

static void add_text(struct reply_parser *p, struct str s)
{
	while (s.n > 0) {
		size_t n = printable_bytes(s), take = n ? n : 1;
		const char *from = n ? s.p : s.p[0] == '\t' ? " " : "?";
		if (p->text_bytes + take > REPLY_TEXT_MAX)
			break;
		memcpy(p->reply.text + p->text_bytes, from, take);
		p->text_bytes += take;
		s.p += take;
		s.n -= take;
	}
	p->reply.text[p->text_bytes] = '\0';
}

/* Length of the enhanced code at the start of s, followed by a blank or the end; 0: none. */
static size_t status_bytes(struct str s)
{
	if (s.n < 5 || (s.p[0] != '2' && s.p[0] != '4' && s.p[0] != '5'))
		return 0;
	size_t at = 1;
	for (int part = 0; part < 2; part++) {
		if (at >= s.n || s.p[at] != '.')
			return 0;
		size_t from = ++at;
		while (at < s.n && is_digit(s.p[at]))
			at++;
		if (at == from || at - from > STATUS_DIGITS_MAX)
			return 0;
	}
	return at == s.n || s.p[at] == ' ' || s.p[at] == '\t' ? at : 0;
}

static struct str trim(struct str s)
{
	while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = (struct str){s.p + 1, s.n - 1};
	while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* The first enhanced code counts. Where its class contradicts the code's, the code wins (Gmail
 * documents "421 5.7.32"): a 4xx must not become permanent by its decoration. */
static struct str take_status(struct reply_parser *p, struct str text)
{
	size_t n = status_bytes(text);
	if (n == 0)
		return text;
	struct reply *r = &p->reply;
	if (!r->has_status) {
		str_copy(r->status, sizeof(r->status), (struct str){text.p, n});
		r->status[0] = (char)('0' + r->code / 100);
		r->has_status = true;
		return text;
	}
	struct str shown = {text.p + 1, n - 1}; /* repeated on a later line: said once */
	if (str_eq(shown, str_of(r->status + 1)))
		return trim((struct str){text.p + n, text.n - n});
	return text;
}

static int line_code(struct str line)
{
	if (line.n < 3 || !is_digit(line.p[0]) || !is_digit(line.p[1]) || !is_digit(line.p[2]))
		return -EBADMSG;
	int code = (line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0');
	if (code < 200 || code > 599 || (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-'))
		return -EBADMSG;
	return code;
}

static int finish(struct reply_parser *p)
{
	struct reply *r = &p->reply;
	if (!r->has_status)
		snprintf(r->status, sizeof(r->status), "%d.0.0", r->code / 100);
	r->lines = p->lines;
	return 1;
}

static int take_line(struct reply_parser *p, struct str line, reply_line_fn *line_fn, void *ctx)
{
	int code = line_code(line);
	if (code < 0)
		return code;
	struct reply *r = &p->reply;
	if (p->lines > 0 && code / 100 != r->code / 100)
		return -EBADMSG; /* accepted or refused? we do not guess */
	if (p->lines >= REPLY_LINES_MAX)
		return -E2BIG;
	if (p->lines == 0)
		add_text(p, (struct str){line.p, 3});
	r->code = (uint16_t)code;
	struct str raw =
	    line.n > 4 ? (struct str){line.p + 4, line.n - 4} : (struct str){line.p, 0};
	if (line_fn)
		line_fn(ctx, p->lines, raw);
	struct str text = take_status(p, trim(raw));
	if (text.n > 0 && p->text_bytes + 1 < REPLY_TEXT_MAX) {
		add_text(p, STR(" "));
		add_text(p, text);
	}
	p->lines++;
	return line.n > 3 && line.p[3] == '-' ? 0 : finish(p);
}

/* What cannot become a reply any more is told at once: a peer that speaks another protocol may
 * never send an end of line. */
static int check_partial(struct str in)
{
	for (size_t i = 0; i < in.n && i < 3; i++)
		if (!is_digit(in.p[i]))
			return -EBADMSG;
	return in.n > REPLY_LINE_MAX ? -E2BIG : 0;
}

int reply_parse(struct reply_parser *p, struct str *in, reply_line_fn *line_fn, void *ctx)
{
	while (in->n > 0) {
		size_t look = in->n < REPLY_LINE_MAX + 1 ? in->n : REPLY_LINE_MAX + 1;
		const char *end = memchr(in->p, '\n', look);
		if (!end)
			return check_partial(*in);
		struct str line = {in->p, (size_t)(end - in->p)};
		*in = (struct str){end + 1, in->n - line.n - 1};
		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line.n--;
		int done = take_line(p, line, line_fn, ctx);
		if (done != 0)
			return done;
	}
	return 0;
}

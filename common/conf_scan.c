/* SPDX-License-Identifier: ISC */
/*
 * A look at the text of a configuration file before libconfig 1.5 parses it, for what that library
 * lets pass or garbles without an error (measured): integers beyond 32 bits wrap, "08" is read as 8
 * and "0x" numbers as negative ones; two strings side by side are joined, so that a forgotten comma
 * makes one name of two; an open comment swallows the rest of the file, a NUL its end; @include
 * opens any file.
 *
 * The tokens are libconfig's own (its scanner.l): names, numbers by longest match, strings,
 * comments. What is no token at all is left to libconfig, which reports it as a syntax error.
 */
#include "common/conf_impl.h"
#include <stdlib.h>

enum {
	NESTING_MAX = 32
}; /* the deepest section stands 8 brackets deep; stops a stack of parser states */

struct scan {
	const char *p, *end;
	uint32_t line;
	uint16_t file;
	struct conf_problems *problems;
	struct conf_lines *bad_lines;
	int nesting;
	bool after_string; /* the token before was a string */
	bool broken;	   /* libconfig would misread what follows: stop */
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_name_start(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '*';
}

static char peek(const struct scan *s, ptrdiff_t ahead)
{
	return ahead < s->end - s->p ? s->p[ahead] : 0;
}

static void stop(struct scan *s, uint32_t line, const char *why)
{
	conf_problem(s->problems, s->file, line, "%s", why);
	s->broken = true;
}

static void bad_number(struct scan *s, struct str number, const char *why)
{
	struct conf_lines *bad = s->bad_lines;
	conf_problem(s->problems, s->file, s->line, "%.*s: %s",
	    (int)(number.n < 40 ? number.n : 40), number.p, why);
	if (bad->count % 64 == 0)
		bad->at = xrealloc(bad->at, (bad->count + 64) * sizeof *bad->at);
	bad->at[bad->count++] = s->line;
	/* More than these are as good as none: the file is not worth parsing. */
	if (bad->count == CONF_PROBLEMS_MAX)
		s->broken = true;
}

static void scan_line_comment(struct scan *s)
{
	while (s->p < s->end && *s->p != '\n')
		s->p++;
}

static void scan_block_comment(struct scan *s)
{
	uint32_t line = s->line;
	for (s->p += 2; s->p < s->end; s->p++) {
		if (*s->p == '*' && peek(s, 1) == '/') {
			s->p += 2;
			return;
		}
		if (*s->p == '\n')
			s->line++;
	}
	stop(s, line, "a comment that begins here is never closed");
}

static void scan_string(struct scan *s)
{
	if (s->after_string) {
		stop(s, s->line, "two strings side by side: a comma is missing between them");
		return;
	}
	for (s->p++; s->p < s->end && *s->p != '"' && *s->p != '\n'; s->p++) {
		if (*s->p == 0) {
			stop(s, s->line, "a string contains a NUL");
			return;
		}
		if (*s->p != '\\')
			continue;
		if ((peek(s, 1) == 'x' || peek(s, 1) == 'X') && peek(s, 2) == '0' &&
		    peek(s, 3) == '0') {
			stop(s, s->line, "a string contains a NUL");
			return;
		}
		if (peek(s, 1) != '\n')
			s->p++;
	}
	if (s->p >= s->end || *s->p == '\n') {
		stop(s, s->line, "a string is not closed on its line");
		return;
	}
	s->p++;
}

/* Past the fraction and exponent of a float that begins at s->p; false: it is an integer. */
static bool scan_float(struct scan *s, const char *after_digits)
{
	const char *p = after_digits;
	bool is_float = false;
	if (p < s->end && *p == '.') {
		is_float = true;
		for (p++; p < s->end && is_digit(*p); p++)
			;
	}
	if (p < s->end && (*p == 'e' || *p == 'E')) {
		const char *q = p + 1;
		if (q < s->end && (*q == '+' || *q == '-'))
			q++;
		if (q < s->end && is_digit(*q)) {
			is_float = true;
			for (p = q; p < s->end && is_digit(*p); p++)
				;
		}
	}
	if (is_float)
		s->p = p;
	return is_float;
}

static bool fits_int32(struct str digits, bool minus)
{
	unsigned long long value = 0;
	return str_number(digits, minus ? 2147483648ULL : 2147483647ULL, &value) == 0;
}

static void scan_number(struct scan *s)
{
	const char *start = s->p, *p = s->p;
	bool minus = *p == '-';
	if (*p == '-' || *p == '+')
		p++;
	if (p == start && *p == '0' && (peek(s, 1) == 'x' || peek(s, 1) == 'X') &&
	    is_hex(peek(s, 2))) {
		for (p += 2; p < s->end && (is_hex(*p) || *p == 'L'); p++)
			;
		s->p = p;
		bad_number(s, (struct str){start, (size_t)(p - start)}, "write numbers in decimal");
		return;
	}
	const char *digits = p;
	while (p < s->end && is_digit(*p))
		p++;
	if (scan_float(s, p))
		return; /* no option takes one: the check of types says so */
	struct str number = {start, (size_t)(p - start)}, bare = {digits, (size_t)(p - digits)};
	s->p = p;
	if (p < s->end && *p == 'L') {
		while (s->p < s->end && *s->p == 'L')
			s->p++;
		bad_number(s, number, "write numbers without L");
	} else if (bare.n > 1 && bare.p[0] == '0') {
		bad_number(s, number, "write numbers without leading zeros");
	} else if (!fits_int32(bare, minus)) {
		bad_number(s, number, "the number is out of range (-2147483648 to 2147483647)");
	}
}

static void scan_bracket(struct scan *s)
{
	bool opens = strchr("({[", *s->p) != NULL;
	s->nesting += opens ? 1 : -1;
	s->p++;
	if (s->nesting > NESTING_MAX)
		stop(s, s->line, "brackets are nested too deeply");
}

static void scan_other(struct scan *s)
{
	char c = *s->p;
	if (c == 0) {
		stop(s, s->line, "the file contains a NUL byte");
	} else if (c == '@') {
		stop(s, s->line, "@include is not supported: write include = [ \"FILE\" ];");
	} else if (is_name_start(c)) {
		while (s->p < s->end &&
		       (is_name_start(*s->p) || is_digit(*s->p) || *s->p == '-' || *s->p == '_'))
			s->p++;
	} else if (strchr("(){}[]", c) != NULL) {
		scan_bracket(s);
	} else {
		s->p++;
	}
}

/* One token or one run of blanks. */
static void scan_step(struct scan *s)
{
	char c = *s->p;
	bool string = false;
	if (c == '\n' || c == ' ' || c == '\t' || c == '\r' || c == '\f') {
		s->line += c == '\n';
		s->p++;
		return;
	}
	if (c == '#' || (c == '/' && peek(s, 1) == '/')) {
		scan_line_comment(s);
		return;
	}
	if (c == '/' && peek(s, 1) == '*') {
		scan_block_comment(s);
		return;
	}
	if (c == '"') {
		scan_string(s);
		string = true;
	} else if (is_digit(c) || ((c == '-' || c == '+') && is_digit(peek(s, 1)))) {
		scan_number(s);
	} else {
		scan_other(s);
	}
	s->after_string = string;
}

bool conf_scan(
    struct str text, uint16_t file, struct conf_problems *p, struct conf_lines *bad_lines)
{
	struct scan s = {.p = text.p,
	    .end = text.p + text.n,
	    .line = 1,
	    .file = file,
	    .problems = p,
	    .bad_lines = bad_lines};
	if (text.n >= 3 && memcmp(text.p, "\xEF\xBB\xBF", 3) == 0)
		stop(&s, 1, "the file begins with a byte order mark: save it without one");
	while (!s.broken && s.p < s.end)
		scan_step(&s);
	return !s.broken;
}

/* SPDX-License-Identifier: ISC */
/*
 * Lines of a report. Everything that a remote said goes through part_clean() before it becomes part
 * of a line, and every line through part_line(), which alone writes CRLF and stuffs dots: so remote
 * text can add neither a header, nor a MIME part, nor the end of the message.
 */
#include "bouncer/part.h"
#include "common/utf8.h"
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

enum { CLEAN_MAX = 4096 };

void part_line(struct buf *b, struct str line)
{
	if (line.n > 0 && line.p[0] == '.')
		buf_u8(b, '.');
	size_t at = b->n;
	buf_str(b, line);
	for (; !b->failed && at < b->n; at++) {
		if (b->p[at] == '\r' || b->p[at] == '\n' || b->p[at] == '\0')
			b->p[at] = '?';
	}
	buf_cstr(b, "\r\n");
}

void part_printf(struct buf *b, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES + 1];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	part_line(b, str_of(line));
}

struct str part_clean(char *out, size_t size, struct str s, bool utf8)
{
	size_t used = 0;
	while (s.n > 0) {
		size_t n = utf8_sequence(s);
		unsigned char c = (unsigned char)s.p[0];
		bool good = n > 1 ? utf8 : n == 1 && c >= 0x20 && c != 0x7f;
		/* C1 control characters are two bytes long */
		if (n == 2 && c == 0xc2 && (unsigned char)s.p[1] < 0xa0)
			good = false;
		if (used + (good ? n : 1) >= size)
			break;
		if (good) {
			memcpy(out + used, s.p, n);
			used += n;
		} else {
			out[used++] = '?';
		}
		n = n == 0 ? 1 : n;
		s.p += n;
		s.n -= n;
	}
	out[used] = '\0';
	return (struct str){out, used};
}

bool part_is_ascii(struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		if ((unsigned char)s.p[i] >= 0x80)
			return false;
	}
	return true;
}

/* How much of the text goes on a line with `room` bytes: up to the last blank that fits; a word
 * longer than the room stays whole up to the hard limit. */
static size_t fold_at(struct str s, size_t room)
{
	enum { HARD = LINE_MAX_BYTES - 100 }; /* leaves room for indents and field names */
	size_t at = 0;
	if (s.n <= room)
		return s.n;
	for (size_t i = 1; i < s.n && i <= HARD; i++) {
		if (s.p[i] != ' ' || s.p[i - 1] == ' ')
			continue;
		if (i <= room || at == 0)
			at = i;
		if (i > room)
			break;
	}
	if (at == 0)
		at = s.n <= HARD ? s.n : HARD;
	while (at > 1 && at < s.n && ((unsigned char)s.p[at] & 0xc0) == 0x80)
		at--; /* not within a character */
	return at;
}

static void folded(struct buf *b, const char *first, const char *next, struct str text)
{
	char line[LINE_MAX_BYTES + 1];
	const char *before = first;
	do {
		size_t indent = strlen(before);
		size_t n = fold_at(text, LINE_FOLD > indent ? LINE_FOLD - indent : 1);
		snprintf(line, sizeof(line), "%s%.*s", before, (int)n, text.p);
		part_line(b, str_of(line));
		text.p += n;
		text.n -= n;
		while (text.n > 0 && text.p[0] == ' ') {
			text.p++;
			text.n--;
		}
		before = next;
	} while (text.n > 0);
}

void part_field(struct buf *b, const char *name, struct str value, bool utf8)
{
	char clean[CLEAN_MAX], first[80];
	snprintf(first, sizeof(first), "%s: ", name);
	folded(b, first, "    ", part_clean(clean, sizeof(clean), value, utf8));
}

void part_text(struct buf *b, const char *indent, struct str text, bool utf8)
{
	char clean[CLEAN_MAX];
	folded(b, indent, indent, part_clean(clean, sizeof(clean), text, utf8));
}

void part_date(char out[40], int64_t wall_ms)
{
	static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char months[12][4] = {
	    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm = {0};
	gmtime_r(&t, &tm);
	snprintf(out, 40, "%s, %d %s %d %02d:%02d:%02d +0000", days[tm.tm_wday % 7], tm.tm_mday,
	    months[tm.tm_mon % 12], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* SPDX-License-Identifier: ISC */
/*
 * Values as people read them: one cell of a table or half a line. Counts have separators, times are
 * told from now and by the clock on the wall, and nothing that a remote server said reaches the
 * terminal as a control character.
 */
#include "common/buf.h"
#include "common/log.h"
#include "ctl/view.h"
#include <inttypes.h>
#include <string.h>
#include <time.h>

static int to_buf(const char *p, size_t n, void *arg)
{
	buf_put(arg, p, n);
	return 0;
}

static bool all_texts(const json_t *array)
{
	size_t i;
	json_t *item;
	json_array_foreach(array, i, item) if (!json_is_string(item)) return false;
	return true;
}

static void raw_text(struct buf *b, const json_t *v)
{
	size_t i;
	json_t *item;
	if (json_is_string(v)) {
		buf_put(b, json_string_value(v), json_string_length(v));
	} else if (json_is_boolean(v)) {
		buf_cstr(b, json_is_true(v) ? "yes" : "no");
	} else if (json_is_array(v) && all_texts(v)) {
		json_array_foreach(v, i, item)
		{
			if (i > 0)
				buf_cstr(b, ", ");
			buf_put(b, json_string_value(item), json_string_length(item));
		}
	} else if (v != NULL && !json_is_null(v)) {
		json_dump_callback(
		    v, to_buf, b, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
	}
}

void cell_print(char out[CELL_MAX], const json_t *v)
{
	struct buf b;
	buf_init(&b, CELL_MAX);
	raw_text(&b, v);
	if (b.n == 0 && !b.failed)
		buf_cstr(&b, "-");
	log_clean(out, CELL_MAX, (struct str){(const char *)b.p, b.n});
	if (b.failed)
		str_copy(out, CELL_MAX, STR("(long: see --json)"));
	buf_fini(&b);
}

size_t cell_width(const char *text)
{
	size_t n = 0;
	for (; *text != 0; text++)
		n += ((unsigned char)*text & 0xC0) != 0x80;
	return n;
}

void cell_pad(FILE *out, const char *text, size_t width, bool right, bool last)
{
	size_t n = cell_width(text);
	int blanks = n < width ? (int)(width - n) : 0;
	if (right)
		fprintf(out, "%*s%s", blanks, "", text);
	else
		fprintf(out, "%s%*s", text, last ? 0 : blanks, "");
	fputs(last ? "\n" : "  ", out);
}

/* --- numbers ---------------------------------------------------------------------------------- */

void cell_number(char out[CELL_MAX], int64_t n)
{
	char digits[32];
	size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRId64, n), k = 0;
	for (size_t i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-')
			out[k++] = ',';
		out[k++] = digits[i];
	}
	out[k] = 0;
}

void cell_count(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const json_t *v = json_object_get(row, key);
	(void)now_ms;
	if (json_is_integer(v))
		cell_number(out, (int64_t)json_integer_value(v));
	else
		cell_print(out, v);
}

void cell_plain(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	(void)now_ms;
	cell_print(out, json_object_get(row, key));
}

/* --- times ------------------------------------------------------------------------------------ */

int64_t cell_time(const json_t *v)
{
	struct tm tm = {0};
	int ms = 0, used = 0;
	const char *text = json_string_value(v);
	if (text == NULL || sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon,
				&tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used) != 6)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	if (text[used] == '.')
		sscanf(text + used, ".%3d", &ms);
	return (int64_t)timegm(&tm) * 1000 + ms;
}

/* Two units at most: 1d 2h, 3m 20s, 3.6 s. */
void cell_span(char out[CELL_MAX], int64_t ms)
{
	static const struct {
		int64_t s;
		const char *big, *small;
		int64_t small_s;
	} units[] = {{86400, "d", "h", 3600}, {3600, "h", "m", 60}, {60, "m", "s", 1}};
	if (ms < 0)
		ms = 0;
	if (ms < 10000) {
		snprintf(out, CELL_MAX, "%" PRId64 ".%" PRId64 " s", ms / 1000, ms % 1000 / 100);
		return;
	}
	int64_t s = (ms + 500) / 1000;
	for (size_t i = 0; i < COUNT_OF(units); i++) {
		int64_t rest = s % units[i].s / units[i].small_s;
		if (s < units[i].s)
			continue;
		if (rest > 0)
			snprintf(out, CELL_MAX, "%" PRId64 "%s %" PRId64 "%s", s / units[i].s,
			    units[i].big, rest, units[i].small);
		else
			snprintf(out, CELL_MAX, "%" PRId64 "%s", s / units[i].s, units[i].big);
		return;
	}
	snprintf(out, CELL_MAX, "%" PRId64 " s", s);
}

/* By the clock of the reader's zone; the date where it is another day's. */
void cell_clock(char out[CELL_MAX], int64_t at_ms, int64_t now_ms)
{
	time_t at = (time_t)(at_ms / 1000), now = (time_t)(now_ms / 1000);
	struct tm a, n;
	if (localtime_r(&at, &a) == NULL || localtime_r(&now, &n) == NULL) {
		str_copy(out, CELL_MAX, STR("?"));
		return;
	}
	bool same = a.tm_yday == n.tm_yday && a.tm_year == n.tm_year;
	if (strftime(out, CELL_MAX, same ? "%H:%M:%S" : "%Y-%m-%d %H:%M", &a) == 0)
		out[0] = 0;
}

void cell_when_ms(char out[CELL_MAX], int64_t at_ms, int64_t now_ms)
{
	char span[CELL_MAX], clock[CELL_MAX];
	bool past = at_ms <= now_ms;
	cell_span(span, past ? now_ms - at_ms : at_ms - now_ms);
	cell_clock(clock, at_ms, now_ms);
	snprintf(out, CELL_MAX, past ? "%.100s ago (%.100s)" : "in %.100s (%.100s)", span, clock);
}

void cell_until(char out[CELL_MAX], int64_t at_ms, int64_t now_ms)
{
	char span[CELL_MAX], clock[CELL_MAX];
	cell_span(span, at_ms - now_ms);
	cell_clock(clock, at_ms, now_ms);
	snprintf(out, CELL_MAX, "%.100s (in %.100s)", clock, span);
}

void cell_when(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const json_t *v = json_object_get(row, key);
	int64_t at_ms = cell_time(v);
	if (at_ms == 0)
		cell_print(out, v);
	else
		cell_when_ms(out, at_ms, now_ms);
}

/* SPDX-License-Identifier: ISC */
/*
 * queue NAME for people: first what it does now, then its counts, the limits in use, what holds it,
 * and its own log, the newest first.
 */
#include "ctl/view.h"
#include <inttypes.h>
#include <string.h>

static void put_counts(FILE *out, const json_t *row)
{
	static const char *const keys[] = {"ready", "waiting", "in_flight", "unrouted", "held"};
	static const char *const ended[] = {"delivered", "deferred", "bounced"};
	char n[CELL_MAX];
	fputs("recipients:  ", out);
	for (size_t i = 0; i < COUNT_OF(keys); i++) {
		cell_count(n, row, keys[i], 0);
		fprintf(out, "%s%s %s", i > 0 ? ", " : "", n,
		    strcmp(keys[i], "in_flight") == 0 ? "in flight" : keys[i]);
	}
	fputs("\nsince start: ", out);
	for (size_t i = 0; i < COUNT_OF(ended); i++) {
		cell_count(n, row, ended[i], 0);
		fprintf(out, "%s%s %s", i > 0 ? ", " : "", n, ended[i]);
	}
	fprintf(out, "\nconnections: %" PRId64 " of %" PRId64 "\n",
	    (int64_t)json_integer_value(json_object_get(row, "connections")),
	    (int64_t)json_integer_value(json_object_get(row, "connections_max")));
}

static void put_line(FILE *out, const char *name, const json_t *row, const char *key)
{
	char text[CELL_MAX];
	if (say_text(row, key)[0] == 0)
		return;
	cell_print(text, json_object_get(row, key));
	fprintf(out, "%s%s\n", name, text);
}

static void put_time(
    FILE *out, const char *name, const json_t *row, const char *key, int64_t now_ms)
{
	char text[CELL_MAX];
	if (cell_time(json_object_get(row, key)) == 0)
		return;
	cell_when(text, row, key, now_ms);
	fprintf(out, "%s%s\n", name, text);
}

static const struct column events[] = {
    {"AT", "at", cell_when, false},
    {"KIND", "kind", cell_plain, false},
    {"WHAT", "text", cell_plain, false},
    {0},
};

void say_queue(FILE *out, const json_t *row, int64_t now_ms)
{
	char name[CELL_MAX];
	cell_print(name, json_object_get(row, "queue"));
	say_why_sentences(out, row, name, now_ms);
	put_counts(out, row);
	put_line(out, "mode:        ", row, "mode");
	put_line(out, "  because:   ", row, "mode_cause");
	put_line(out, "  rule:      ", row, "mode_rule");
	put_time(out, "  since:     ", row, "mode_since", now_ms);
	put_time(out, "  until:     ", row, "mode_until", now_ms);
	put_time(out, "next retry:  ", row, "next_retry", now_ms);
	put_line(out, "last error:  ", row, "last_error");
	put_time(out, "  at:        ", row, "last_error_at", now_ms);
	say_table(out, "\nlimits:", json_object_get(row, "limits"), view_limits, now_ms);
	say_table(out, "\nheld:", json_object_get(row, "holds"), view_holds, now_ms);
	say_table(out, "\ndisabled sources:", json_object_get(row, "disabled_sources"), view_holds,
	    now_ms);
	say_table(
	    out, "\nevents, the newest first:", json_object_get(row, "events"), events, now_ms);
}

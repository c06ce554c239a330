/* SPDX-License-Identifier: ISC */
/*
 * Answers in words: what a change did, and what happened, a line each. Texts that others may have
 * chosen are cleaned by cell_print() before they are printed.
 */
#include "ctl/view.h"
#include <inttypes.h>
#include <string.h>

const char *say_text(const json_t *row, const char *key)
{
	const char *text = json_string_value(json_object_get(row, key));
	return text != NULL ? text : "";
}

static int64_t number(const json_t *row, const char *key)
{
	return (int64_t)json_integer_value(json_object_get(row, key));
}

/* A cleaned text; "-" for nothing. */
static void put(FILE *out, const char *before, const json_t *row, const char *key)
{
	char text[CELL_MAX];
	if (say_text(row, key)[0] == 0)
		return;
	cell_print(text, json_object_get(row, key));
	fprintf(out, "%s%s", before, text);
}

static void put_until(FILE *out, const json_t *row, int64_t now_ms)
{
	char when[CELL_MAX];
	int64_t at_ms = cell_time(json_object_get(row, "until"));
	if (at_ms == 0)
		return;
	cell_until(when, at_ms, now_ms);
	fprintf(out, ", until %s", when);
}

/* --- mail changed ----------------------------------------------------------------------------- */

static void changed(FILE *out, const json_t *row, const char *done)
{
	char n[CELL_MAX];
	int64_t count = number(row, "recipients"), in_flight = number(row, "in_flight");
	bool dry = json_is_true(json_object_get(row, "dry_run"));
	cell_number(n, count);
	fprintf(out, "%s recipient%s %s%s", n, count == 1 ? "" : "s", dry ? "would be " : "", done);
	if (in_flight > 0)
		fprintf(out, "; %" PRId64 " more being delivered right now, left alone", in_flight);
	fputs(dry ? "; nothing was changed\n" : "\n", out);
}

void say_flush(FILE *out, const json_t *row, int64_t now_ms)
{
	(void)now_ms;
	changed(out, row, "made due now");
}

void say_release(FILE *out, const json_t *row, int64_t now_ms)
{
	(void)now_ms;
	changed(out, row, "released");
}

void say_delete(FILE *out, const json_t *row, int64_t now_ms)
{
	(void)now_ms;
	changed(out, row, "deleted");
}

void say_bounce(FILE *out, const json_t *row, int64_t now_ms)
{
	(void)now_ms;
	changed(out, row, "returned to sender");
}

/* --- queues steered --------------------------------------------------------------------------- */

static void held(FILE *out, const json_t *row, const char *what)
{
	put(out, "", row, "scope");
	put(out, " ", row, "name");
	put(out, " at ", row, "at");
	fputs(what, out);
}

void say_pause(FILE *out, const json_t *row, int64_t now_ms)
{
	held(out, row, " is paused");
	if (cell_time(json_object_get(row, "until")) == 0)
		fputs(", without end", out);
	put_until(out, row, now_ms);
	if (json_is_false(json_object_get(row, "known")))
		fputs("; nothing has that name yet", out);
	fputs("\n", out);
}

void say_resume(FILE *out, const json_t *row, int64_t now_ms)
{
	int64_t n = number(row, "ended");
	(void)now_ms;
	held(out, row, " goes on");
	if (n > 1)
		fprintf(out, "; %" PRId64 " holds ended", n);
	fputs("\n", out);
}

static void steered(FILE *out, const json_t *row, const char *what, const char *key, int64_t now_ms)
{
	put(out, "", row, "queue");
	fputs(json_is_true(json_object_get(row, "done")) ? what : ": refused", out);
	if (key != NULL)
		put(out, " ", row, key);
	put_until(out, row, now_ms);
	fputs("\n", out);
}

void say_mode(FILE *out, const json_t *row, int64_t now_ms)
{
	steered(out, row, ": mode", "mode", now_ms);
}

void say_reset(FILE *out, const json_t *row, int64_t now_ms)
{
	steered(out, row, " is reset", NULL, now_ms);
}

void say_reroute(FILE *out, const json_t *row, int64_t now_ms)
{
	steered(out, row, ": its mail moves to", "vmta", now_ms);
}

/* --- what happened ---------------------------------------------------------------------------- */

void say_event(FILE *out, const json_t *row, int64_t now_ms)
{
	char when[CELL_MAX];
	int64_t at_ms = cell_time(json_object_get(row, "at"));
	cell_clock(when, at_ms, now_ms);
	fprintf(out, "%s ", at_ms != 0 ? when : "-");
	put(out, "", row, "kind");
	put(out, " ", row, "scope");
	if (strcmp(say_text(row, "kind"), "source") == 0) { /* of one queue, or everywhere */
		put(out, " for ", row, "from");
		put(out, ": ", row, "to");
	} else {
		put(out, ": ", row, "from");
		put(out, say_text(row, "from")[0] != 0 ? " -> " : ": ", row, "to");
	}
	put_until(out, row, now_ms);
	put(out, "; rule ", row, "rule");
	put(out, "; by ", row, "who");
	put(out, ": ", row, "text");
	fputs("\n", out);
}

/* "  12.034  < 250 2.0.0 taken" */
void say_trace(FILE *out, const json_t *row, int64_t now_ms)
{
	int64_t ms = json_integer_value(json_object_get(row, "ms"));
	(void)now_ms;
	fprintf(out, "%5lld.%03d %s %s\n", (long long)(ms / 1000), (int)(ms % 1000),
	    say_text(row, "who"), say_text(row, "line"));
}

/* A rule that a reply would fire, and below it what each of its actions does. */
void say_match(FILE *out, const json_t *row, int64_t now_ms)
{
	size_t i;
	json_t *action;
	(void)now_ms;
	fprintf(out, "%s: %s\n", say_text(row, "rule"), say_text(row, "reply"));
	fprintf(out, "  trigger %s, scope %s", say_text(row, "trigger"), say_text(row, "scope"));
	put(out, ", for ", row, "for");
	put(out, ", about ", row, "object");
	fputs("\n", out);
	json_array_foreach(json_object_get(row, "actions"), i, action)
	    fprintf(out, "  %s: %s\n", say_text(action, "action"), say_text(action, "does"));
}

/* --- tables inside of words ------------------------------------------------------------------- */

void say_table(FILE *out, const char *heading, const json_t *rows, const struct column *columns,
    int64_t now_ms)
{
	size_t i, widths[16] = {0}, n = 0;
	json_t *row;
	char text[CELL_MAX];
	if (json_array_size(rows) == 0)
		return;
	while (n < COUNT_OF(widths) && columns[n].heading != NULL)
		n++;
	for (size_t c = 0; c < n; c++) {
		widths[c] = strlen(columns[c].heading);
		json_array_foreach(rows, i, row)
		{
			columns[c].cell(text, row, columns[c].key, now_ms);
			if (cell_width(text) > widths[c])
				widths[c] = cell_width(text);
		}
	}
	fprintf(out, "%s\n", heading);
	for (size_t c = 0; c < n; c++)
		cell_pad(out, columns[c].heading, widths[c], columns[c].right, c + 1 == n);
	json_array_foreach(rows, i, row) for (size_t c = 0; c < n; c++)
	{
		columns[c].cell(text, row, columns[c].key, now_ms);
		cell_pad(out, text, widths[c], columns[c].right, c + 1 == n);
	}
}

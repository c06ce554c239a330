/* SPDX-License-Identifier: ISC */
/*
 * Events in words: one line for the log, the same as an alert's subject, and the alert's letter.
 * The line's order is fixed: what, about what, what changed, until when, which rule, who, why.
 */
#include "common/log.h"
#include "qmgr/logger_lines.h"
#include <time.h>

enum { TEXT_MAX = 1200 };

static void clean(struct buf *b, struct str s)
{
	char text[TEXT_MAX];
	buf_cstr(b, log_clean(text, sizeof(text), s));
}

static void put_time(struct buf *b, uint64_t wall_ms)
{
	time_t s = (time_t)(wall_ms / 1000);
	struct tm tm;
	char text[40];
	if (gmtime_r(&s, &tm) != NULL &&
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) > 0)
		buf_cstr(b, text);
}

static void part(struct buf *b, const char *before, struct str s)
{
	if (s.n == 0)
		return;
	buf_cstr(b, before);
	clean(b, s);
}

static void what(struct buf *b, const struct j_event *e)
{
	buf_cstr(b, core_event_name(e->kind));
	part(b, " ", e->scope);
	if (e->kind == EVENT_SOURCE) { /* of one queue, or everywhere */
		part(b, " for ", e->from);
		part(b, ": ", e->to);
	} else {
		part(b, ": ", e->from);
		part(b, e->from.n > 0 ? " -> " : ": ", e->to);
	}
	if (e->until_wall_ms > 0) {
		buf_cstr(b, " until ");
		put_time(b, e->until_wall_ms);
	}
}

void event_print(struct buf *b, const struct j_event *e)
{
	what(b, e);
	part(b, ": rule ", e->rule);
	part(b, ": by ", e->who);
	part(b, ": ", e->text);
}

void event_subject(struct buf *b, const struct j_event *e)
{
	buf_cstr(b, "Postern: ");
	what(b, e);
}

static void field(struct buf *b, const char *name, struct str s)
{
	if (s.n == 0)
		return;
	buf_printf(b, "%-9s", name);
	clean(b, s);
	buf_cstr(b, "\n");
}

static void time_field(struct buf *b, const char *name, uint64_t wall_ms)
{
	if (wall_ms == 0)
		return;
	buf_printf(b, "%-9s", name);
	put_time(b, wall_ms);
	buf_cstr(b, "\n");
}

void event_letter(struct buf *b, const struct j_event *e)
{
	static const struct str words[EVENT_KINDS] = {
	    [EVENT_MODE] = {"The mode of a queue has changed.", 32},
	    [EVENT_RULE] = {"A rule for replies has fired.", 29},
	    [EVENT_HOLD] = {"Mail is held back.", 18},
	    [EVENT_RELEASE] = {"Mail that was held back goes on.", 32},
	    [EVENT_SOURCE] = {"A source address was disabled or enabled.", 41},
	    [EVENT_REROUTE] = {"Mail takes another way.", 23},
	    [EVENT_WARMUP] = {"A warm-up plan has changed its step.", 36},
	    [EVENT_ALERT] = {"A rule for replies asked for this notice.", 41},
	    [EVENT_ERROR] = {"Something is wrong in what was asked for.", 41},
	};
	buf_str(b, words[e->kind]);
	buf_cstr(b, "\n\n");
	time_field(b, "when", e->wall_ms);
	field(b, "what", e->scope);
	field(b, "from", e->from);
	field(b, "to", e->to);
	time_field(b, "until", e->until_wall_ms);
	field(b, "rule", e->rule);
	field(b, "by", e->who);
	field(b, "because", e->text);
}

void log_lines_event(struct buf *b, const struct j_event *e, log_prefix_fn *prefix, void *ctx)
{
	prefix(ctx, b, "qmgr", e->wall_ms);
	event_print(b, e);
	buf_cstr(b, "\n");
}

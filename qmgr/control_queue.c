/* SPDX-License-Identifier: ISC */
/*
 * queue NAME: all that is known of a queue: counters, what it waits for, the limits in use, what
 * holds it, which sources are disabled, and its own log of errors, changes of mode and events.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

enum {
	NOTES_MAX = 64,
	HOLDS_LOOK = 20000, /* holds looked at for one queue: about a millisecond */
};

struct queue_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
	unsigned found;
};

static void set_why(struct qmgr *q, json_t *row, struct str queue)
{
	struct core_why why = {0};
	struct core_limit_view limits[WHY_LIMITS];
	size_t n = WHY_LIMITS;
	if (core_why_queue(q->core, queue, &why, limits, &n) == 0)
		control_why_set(q, row, &why, limits, n);
}

static void set_notes(struct qmgr *q, json_t *row, struct str queue)
{
	struct queue_note notes[NOTES_MAX];
	json_t *list = json_array();
	size_t n = core_queue_notes(q->core, queue, notes, NOTES_MAX);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
		    list, json_pack("{s:o, s:o, s:o}", "at", say_steady(q, notes[i].at_ms), "kind",
			      say_text(notes[i].kind), "text", say_text(notes[i].text)));
	json_object_set_new(row, "events", list);
}

/* Does it hold this queue, or a part of it? */
static bool concerns(const struct qmgr *q, const struct hold_view *h, struct str queue,
    struct str destination, struct str vmta)
{
	switch (h->scope) {
	case CORE_QUEUE:
		return core_glob(h->name, queue);
	case CORE_VMTA:
		return str_eq_nocase(h->name, vmta);
	case CORE_PROVIDER:
		return str_eq_nocase(h->name, destination);
	case CORE_SOURCE:
		return h->at.n == 0 || core_glob(h->at, queue);
	default: /* a tenant's or campaign's: where it names this destination */
		return str_eq_nocase(h->at, destination) ||
		       (h->at.n > 0 && str_eq(core_destination(q->core, h->at), destination));
	}
}

static void set_holds(
    struct qmgr *q, json_t *row, struct str queue, struct str destination, struct str vmta)
{
	struct core_cursor cursor = {0};
	struct hold_view views[64];
	json_t *holds = json_array(), *sources = json_array();
	for (size_t seen = 0, n; seen < HOLDS_LOOK; seen += n) {
		n = core_holds(q->core, &cursor, views, COUNT_OF(views));
		for (size_t i = 0; i < n; i++)
			if (concerns(q, &views[i], queue, destination, vmta))
				json_array_append_new(
				    views[i].scope == CORE_SOURCE ? sources : holds,
				    control_hold_row(q, &views[i]));
		if (n == 0)
			break;
	}
	json_object_set_new(row, "holds", holds);
	json_object_set_new(row, "disabled_sources", sources);
}

/* The core's views end with the next call: names are copied first. */
static json_t *whole_queue(struct qmgr *q, const struct queue_view *v)
{
	json_t *row = control_queue_row(q, v);
	char *name = str_dup(v->name), *destination = str_dup(v->destination),
	     *vmta = str_dup(v->vmta);
	set_why(q, row, str_of(name));
	set_holds(q, row, str_of(name), str_of(destination), str_of(vmta));
	set_notes(q, row, str_of(name));
	free(name);
	free(destination);
	free(vmta);
	return row;
}

void control_end_queues(struct control_reply *r, const char *pattern, size_t found)
{
	if (found == 0)
		control_end(r, EX_UNAVAILABLE, "no queue %s", pattern);
	else
		control_end(r, EX_OK, "%s", "");
}

static bool next_queue(void *state, struct control_reply *r)
{
	struct queue_state *s = state;
	struct queue_view v;
	bool more;
	s->q->now_ms = clock_steady_ms();
	if (core_queues_slice(
		s->q->core, str_of(s->pattern), &s->cursor, &v, 1, QUEUES_LOOKED_AT, &more) > 0) {
		control_row(r, whole_queue(s->q, &v));
		s->found++;
	}
	if (!more)
		control_end_queues(r, s->pattern, s->found);
	return more;
}

static void drop_queue(void *state)
{
	struct queue_state *s = state;
	free(s->pattern);
	free(s);
}

void verb_queue(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct queue_state *s = xcalloc(1, sizeof(*s));
	(void)options;
	s->q = ctx;
	s->pattern = filter_queue_named(s->q, said_arg(args, 0), NULL);
	control_stream(reply, next_queue, drop_queue, s);
}

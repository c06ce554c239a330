/* SPDX-License-Identifier: ISC */
/*
 * Looking: queues and messages. Listing has no side effects and streams: a slice of the core's
 * state a call, no pointer kept between calls. Filters that ask for addresses read envelopes, a
 * bounded number a call.
 */
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

/* ISO times, null where there is none. */
json_t *control_queue_row(const struct qmgr *q, const struct queue_view *v)
{
	json_t *row = json_pack("{s:o, s:I, s:I, s:o, s:b, s:o, s:o}", "queue", say_text(v->name),
	    "recipients", say_num(v->recipients), "connections", say_num(v->connections), "mode",
	    say_text(v->mode), "paused", v->paused, "next_retry", say_steady(q, v->next_retry_ms),
	    "last_error", say_text_or_null(v->last_error));
	json_object_update_new(row,
	    json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "destination",
		say_text(v->destination), "vmta", say_text(v->vmta), "ready", say_num(v->ready),
		"waiting", say_num(v->waiting), "in_flight", say_num(v->in_flight), "unrouted",
		say_num(v->unrouted), "held", say_num(v->held), "connections_max",
		say_num(v->connections_max), "lanes", say_num(v->lanes)));
	json_object_update_new(
	    row, json_pack("{s:I, s:I, s:I, s:I, s:o}", "delivered", say_num(v->delivered),
		     "deferred", say_num(v->deferred), "bounced", say_num(v->bounced), "failures",
		     say_num(v->failures), "last_error_at", say_steady(q, v->last_error_ms)));
	json_object_update_new(
	    row, json_pack("{s:o, s:o, s:o, s:o, s:o}", "mode_who", say_text_or_null(v->mode_who),
		     "mode_cause", say_text_or_null(v->mode_cause), "mode_rule",
		     say_text_or_null(v->mode_rule), "mode_since", say_steady(q, v->mode_since_ms),
		     "mode_until", say_steady(q, v->mode_until_ms)));
	return row;
}

/* --- queues ----------------------------------------------------------------------------------- */

enum { LARGEST_MAX = 1000 }; /* kept in order by moving: more would hold mail up */

struct large {
	uint64_t recipients;
	json_t *row; /* owned */
};
struct queues_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern, *mode; /* owned */
	bool paused, connected;
	size_t largest_max, largest_count; /* only these: 0, all */
	struct large *largest;		   /* owned; most recipients first */
};

static bool queue_wanted(const struct queues_state *s, const struct queue_view *v)
{
	return (!s->paused || v->paused) && (!s->connected || v->connections > 0) &&
	       (s->mode == NULL || core_glob(str_of(s->mode), v->mode));
}

/* Keeps it if it is among the largest so far. */
static void take_largest(struct queues_state *s, const struct queue_view *v)
{
	struct large *l = s->largest;
	size_t at = s->largest_count;
	if (at == s->largest_max) {
		if (v->recipients <= l[at - 1].recipients)
			return;
		json_decref(l[--at].row);
	} else {
		s->largest_count++;
	}
	for (; at > 0 && l[at - 1].recipients < v->recipients; at--)
		l[at] = l[at - 1];
	l[at] = (struct large){v->recipients, control_queue_row(s->q, v)};
}

static void give_largest(struct queues_state *s, struct control_reply *r)
{
	for (size_t i = 0; i < s->largest_count; i++)
		control_row(r, s->largest[i].row);
	s->largest_count = 0;
}

static bool next_queues(void *state, struct control_reply *r)
{
	struct queues_state *s = state;
	struct queue_view views[QUEUES_A_CALL];
	bool more;
	size_t n = core_queues_slice(s->q->core, str_of(s->pattern), &s->cursor, views,
	    QUEUES_A_CALL, QUEUES_LOOKED_AT, &more);
	for (size_t i = 0; i < n; i++)
		if (queue_wanted(s, &views[i]) && s->largest_max > 0)
			take_largest(s, &views[i]);
		else if (queue_wanted(s, &views[i]))
			control_row(r, control_queue_row(s->q, &views[i]));
	if (more)
		return true;
	give_largest(s, r);
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_queues(void *state)
{
	struct queues_state *s = state;
	for (size_t i = 0; i < s->largest_count; i++)
		json_decref(s->largest[i].row);
	free(s->largest);
	free(s->pattern);
	free(s->mode);
	free(s);
}

void verb_queues(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct queues_state *s = xcalloc(1, sizeof(*s));
	struct str pattern = said_arg(args, 0);
	const char *mode = control_option(options, "mode"),
		   *largest = control_option(options, "largest");
	unsigned long long n = 0;
	if (largest != NULL && (str_number(str_of(largest), LARGEST_MAX, &n) != 0 || n == 0)) {
		free(s);
		control_end(reply, EX_USAGE, "--largest wants a number from 1 to %d", LARGEST_MAX);
		return;
	}
	s->largest_max = n;
	if (n > 0)
		s->largest = xcalloc(n, sizeof(*s->largest));
	s->q = ctx;
	s->pattern = pattern.n ? filter_queue_named(s->q, pattern, NULL) : xstrdup("*");
	s->mode = mode != NULL ? xstrdup(mode) : NULL;
	s->paused = control_option(options, "paused") != NULL;
	s->connected = control_option(options, "connected") != NULL;
	control_stream(reply, next_queues, drop_queues, s);
}

/* --- messages --------------------------------------------------------------------------------- */

static const char *state_name(uint8_t state)
{
	switch (state) {
	case JOB_UNROUTED:
		return "unrouted";
	case JOB_WAITING:
		return "waiting";
	case JOB_READY:
		return "ready";
	case JOB_IN_FLIGHT:
		return "in-flight";
	case JOB_SET_ASIDE:
		return "held";
	default:
		return "other";
	}
}

static json_t *job_row(const struct qmgr *q, const struct job_view *v, const struct envelope *e)
{
	json_t *row = json_pack("{s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:s, s:i, s:o, s:o, s:I, s:b}",
	    "id", say_id(v->id), "rcpt", (int)v->rcpt, "queue", say_text(v->queue), "domain",
	    say_text(v->domain), "vmta", say_text(v->vmta), "tenant", say_text(v->tenant),
	    "campaign", say_text(v->campaign), "state", state_name(v->state), "attempts",
	    (int)v->attempts, "arrived", say_time(v->arrived_ms), "due", say_steady(q, v->due_ms),
	    "size", say_num(v->bytes), "uncertain", (v->flags & JOB_UNCERTAIN) != 0);
	if (e != NULL) {
		json_object_set_new(row, "sender", say_text(e->sender));
		if (v->rcpt < e->rcpt_count)
			json_object_set_new(row, "recipient", say_text(e->rcpt[v->rcpt].address));
	}
	return row;
}

struct messages_state {
	struct qmgr *q;
	struct filter filter;
	struct core_cursor cursor;
	uint64_t limit, shown;
	struct reader reader;
};

static void show_job(struct messages_state *s, struct control_reply *r, job_ref ref)
{
	struct job_view v;
	if (!core_job(s->q->core, ref, &v) || !filter_job(&s->filter, &v))
		return;
	const struct envelope *e = reader_get(s->q, &s->reader, &v);
	if (filter_needs_envelope(&s->filter) &&
	    (e == NULL || !filter_envelope(&s->filter, e, v.rcpt)))
		return;
	control_row(r, job_row(s->q, &v, e));
	s->shown++;
}

/* References are valid only within one call: what the limit cuts off is not looked at again. */
static bool next_messages(void *state, struct control_reply *r)
{
	struct messages_state *s = state;
	job_ref jobs[ENVELOPES_A_CALL];
	struct core_filter which;
	bool more;
	filter_for_core(&s->filter, &which);
	size_t n =
	    core_select(s->q->core, &which, &s->cursor, jobs, ENVELOPES_A_CALL, LOOK_A_CALL, &more);
	for (size_t i = 0; i < n && (s->limit == 0 || s->shown < s->limit); i++)
		show_job(s, r, jobs[i]);
	if (more && (s->limit == 0 || s->shown < s->limit))
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_messages(void *state)
{
	struct messages_state *s = state;
	filter_fini(&s->filter);
	reader_fini(&s->reader);
	free(s);
}

void verb_messages(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct messages_state *s = xcalloc(1, sizeof(*s));
	unsigned long long limit = 0;
	(void)args;
	s->q = ctx;
	reader_init(&s->reader);
	if (!filter_options(&s->filter, s->q, options, reply)) {
		drop_messages(s);
		return;
	}
	struct str given = said_option(options, "limit");
	if (given.n > 0 && str_number(given, UINT32_MAX, &limit) != 0) {
		drop_messages(s);
		control_end(reply, EX_USAGE, "--limit wants a number");
		return;
	}
	s->limit = limit;
	control_stream(reply, next_messages, drop_messages, s);
}

static void show_aside(const struct aside *a, struct control_reply *reply)
{
	control_row(
	    reply, json_pack("{s:o, s:s, s:s, s:I, s:I, s:I}", "id", say_id(a->row.id), "state",
		       "set-aside", "why", a->text, "segment", say_num(a->row.segment), "offset",
		       say_num(a->row.offset), "size", say_num(a->row.bytes)));
	control_end(reply, EX_OK, "%s", "");
}

void verb_message(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	uint64_t id;
	(void)options;
	if (record_id_parse(&id, said_arg(args, 0)) != 0) {
		control_end(reply, EX_USAGE, "not a message id: 16 hexadecimal digits");
		return;
	}
	const struct aside *a = map_find(&q->asides, id);
	if (a != NULL) {
		show_aside(a, reply);
		return;
	}
	struct reader reader;
	reader_init(&reader);
	unsigned n = 0;
	struct job_view v;
	for (job_ref j = core_find(q->core, id); j != 0 && n < RCPT_MAX;
	     j = core_sibling(q->core, j))
		if (core_job(q->core, j, &v)) {
			json_t *row = job_row(q, &v, reader_get(q, &reader, &v));
			json_object_set_new(row, "segment", json_integer(say_num(v.segment)));
			json_object_set_new(row, "offset", json_integer(say_num(v.offset)));
			control_row(reply, row);
			n++;
		}
	reader_fini(&reader);
	if (n == 0 && bounces_of(q, id) > 0) {
		control_row(reply, json_pack("{s:o, s:s, s:I}", "id", say_id(id), "state",
				       "report-owed", "reports", say_num(bounces_of(q, id))));
		n++;
	}
	if (n == 0)
		control_end(reply, EX_UNAVAILABLE, "no such message in the queue");
	else
		control_end(reply, EX_OK, "%s", "");
}

/* SPDX-License-Identifier: ISC */
/*
 * why and limits: what mail waits for now, which limit binds and when it frees, in the words of the
 * core. A target is a message, one recipient of it, or whatever the core knows by name: a queue,
 * lane, domain, virtual MTA, tenant. Nothing is decided here; the core's views live until its next
 * call, so each is turned into JSON at once.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

enum {
	LIMITS_A_CALL = 64,
	WHY_RCPTS_MAX = 1000, /* of one message, shown one by one; the others are counted */
};

/* --- limits ----------------------------------------------------------------------------------- */

static json_t *span_text(int64_t ms)
{
	static const struct {
		int64_t ms;
		const char *unit;
	} units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
	char out[40];
	for (size_t i = 0; i < COUNT_OF(units); i++)
		if (ms % units[i].ms == 0) {
			if (ms == units[i].ms && i < 4)
				snprintf(out, sizeof(out), "%s", units[i].unit);
			else
				snprintf(out, sizeof(out), "%lld%s", (long long)(ms / units[i].ms),
				    units[i].unit);
			break;
		}
	return json_string(out);
}

json_t *control_limit_row(const struct qmgr *q, const struct core_limit_view *v)
{
	json_t *row = json_pack("{s:o, s:o, s:I, s:I, s:o, s:o, s:b}", "name", say_text(v->name),
	    "key", say_text(v->key), "limit", say_num(v->limit), "used", say_num(v->used), "frees",
	    say_steady_exact(q, v->frees_ms > q->now_ms ? v->frees_ms : 0), "origin",
	    say_origin(q, v->origin), "binding", v->binding);
	json_object_set_new(row, "full", json_boolean(v->frees_ms != 0 && v->frees_ms > q->now_ms));
	struct core_warmup w;
	if (str_eq(v->name, STR("warmup")) && core_warmup(q->core, v->key, &w))
		json_object_set_new(row, "plan",
		    json_pack("{s:i, s:i, s:I, s:I, s:I}", "step", (int)w.step, "steps",
			(int)w.steps, "a_day", (json_int_t)w.a_day, "attempts", say_num(w.attempts),
			"deferred", say_num(w.deferred)));
	if (v->per_ms > 0) {
		json_object_set_new(row, "per", span_text(v->per_ms));
		json_object_set_new(row, "burst", json_integer(say_num(v->burst)));
	}
	return row;
}

struct limits_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
};

static bool next_limits(void *state, struct control_reply *r)
{
	struct limits_state *s = state;
	struct core_limit_view views[LIMITS_A_CALL];
	s->q->now_ms = clock_steady_ms();
	size_t n = core_limits(s->q->core, str_of(s->pattern), &s->cursor, views, LIMITS_A_CALL);
	for (size_t i = 0; i < n; i++)
		control_row(r, control_limit_row(s->q, &views[i]));
	if (n > 0)
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_limits(void *state)
{
	struct limits_state *s = state;
	free(s->pattern);
	free(s);
}

void verb_limits(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct limits_state *s = xcalloc(1, sizeof(*s));
	struct str pattern = said_arg(args, 0);
	(void)options;
	s->q = ctx;
	s->pattern = pattern.n > 0 ? filter_queue_named(s->q, pattern, NULL) : xstrdup("*");
	control_stream(reply, next_limits, drop_limits, s);
}

/* --- why -------------------------------------------------------------------------------------- */

void control_why_set(const struct qmgr *q, json_t *row, const struct core_why *why,
    const struct core_limit_view *limits, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, control_limit_row(q, &limits[i]));
	json_object_set_new(row, "state", say_text(why->state));
	json_object_set_new(row, "binding", say_text_or_null(why->binding));
	json_object_set_new(row, "until", say_steady_exact(q, why->until_ms));
	json_object_set_new(row, "text", say_text_or_null(why->text));
	json_object_set_new(row, "who", say_text_or_null(why->who));
	json_object_set_new(row, "rule", say_text_or_null(why->rule));
	json_object_set_new(row, "origin", say_origin(q, why->origin));
	json_object_set_new(row, "limits", list);
}

/* A tenant's or campaign's, in all its queues. */
static bool count_tenant(const struct qmgr *q, struct str name, uint64_t *recipients)
{
	struct core_cursor cursor = {0};
	struct tenant_view v;
	bool any = false;
	for (; core_tenants(q->core, name, &cursor, &v, 1) > 0; any = true)
		*recipients += v.recipients;
	return any;
}

/* How much is behind a target: for queues, domains and destinations. */
static void set_counts(const struct qmgr *q, json_t *row, struct str pattern)
{
	struct core_cursor cursor = {0};
	struct queue_view v;
	uint64_t recipients = 0, connections = 0;
	bool any = false, more;
	/* looking at none: names are found by themselves, and a tenant's is no queue's */
	while (core_queues_slice(q->core, pattern, &cursor, &v, 1, 0, &more) > 0) {
		recipients += v.recipients;
		connections += v.connections;
		any = true;
	}
	if (!any && !count_tenant(q, pattern, &recipients))
		return;
	json_object_set_new(row, "recipients", json_integer(say_num(recipients)));
	json_object_set_new(row, "connections", json_integer(say_num(connections)));
}

static void why_named(struct qmgr *q, struct control_reply *reply, struct str given)
{
	struct core_why why = {0};
	struct core_limit_view limits[WHY_LIMITS];
	size_t n = WHY_LIMITS;
	char *target = filter_queue_named(q, given, NULL);
	if (core_why_queue(q->core, str_of(target), &why, limits, &n) != 0) {
		control_end(reply, EX_UNAVAILABLE,
		    "nothing here is called %s: a queue, lane, domain, message, virtual MTA or "
		    "tenant",
		    target);
		free(target);
		return;
	}
	json_t *row = json_pack("{s:o}", "target", say_text(str_of(target)));
	control_why_set(q, row, &why, limits, n);
	set_counts(q, row, str_of(target));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
	free(target);
}

struct asked { /* a message, and perhaps one address of it */
	uint64_t id;
	struct str address; /* empty: all */
};

static bool read_asked(struct asked *a, struct str target)
{
	struct str rest = target, id = str_cut(&rest, '/');
	*a = (struct asked){.address = rest};
	return record_id_parse(&a->id, id) == 0;
}

/* One recipient: as an object of its own, or as one of a message's. */
static json_t *why_job_row(struct qmgr *q, job_ref ref, const struct job_view *v, struct str rcpt)
{
	struct core_why why = {0};
	struct core_limit_view limits[WHY_LIMITS];
	size_t n = WHY_LIMITS;
	json_t *row = json_pack("{s:o, s:o, s:o, s:i, s:o}", "id", say_id(v->id), "recipient",
	    say_text_or_null(rcpt), "queue", say_text(v->queue), "attempts", (int)v->attempts,
	    "due", say_steady(q, v->due_ms));
	if (core_why_job(q->core, ref, &why, limits, &n) == 0)
		control_why_set(q, row, &why, limits, n);
	return row;
}

/* The object of a message is that of its first recipient, with the list of all. */
static void add_recipient(json_t **all, json_t *row)
{
	if (*all == NULL) {
		*all = json_copy(row);
		json_object_set_new(*all, "recipients_waiting", json_array());
	}
	json_object_del(row, "limits");
	json_array_append_new(json_object_get(*all, "recipients_waiting"), row);
}

static void why_message(
    struct qmgr *q, struct control_reply *reply, const struct asked *a, struct str target)
{
	struct reader reader;
	struct job_view v;
	json_t *all = NULL;
	uint64_t n = 0;
	reader_init(&reader);
	for (job_ref j = core_find(q->core, a->id); j != 0; j = core_sibling(q->core, j)) {
		if (!core_job(q->core, j, &v))
			continue;
		const struct envelope *e = reader_get(q, &reader, &v);
		struct str rcpt =
		    e != NULL && v.rcpt < e->rcpt_count ? e->rcpt[v.rcpt].address : STR("");
		if ((a->address.n > 0 && !str_eq_nocase(a->address, rcpt)) || n++ >= WHY_RCPTS_MAX)
			continue;
		add_recipient(&all, why_job_row(q, j, &v, rcpt));
	}
	reader_fini(&reader);
	if (all == NULL) {
		control_end(
		    reply, EX_UNAVAILABLE, "%s", "no such message or recipient in the queue");
		return;
	}
	json_object_set_new(all, "target", say_text(target));
	json_object_set_new(all, "recipients", json_integer(say_num(n)));
	control_row(reply, all);
	control_end(reply, EX_OK, "%s", "");
}

static void why_aside(struct qmgr *q, struct control_reply *reply, const struct aside *a)
{
	(void)q;
	control_row(reply, json_pack("{s:o, s:s, s:s, s:n, s:o, s:n, s:[]}", "target",
			       say_id(a->row.id), "state", "held", "binding", "set aside", "until",
			       "text", say_text(str_of(a->text)), "origin", "limits"));
	control_end(reply, EX_OK, "%s", "");
}

void verb_why(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct str target = said_arg(args, 0);
	struct asked asked;
	(void)options;
	if (!control_is_serving(q, reply))
		return;
	q->now_ms = clock_steady_ms();
	if (!read_asked(&asked, target)) {
		why_named(q, reply, target);
		return;
	}
	const struct aside *aside = map_find(&q->asides, asked.id);
	if (aside != NULL)
		why_aside(q, reply, aside);
	else
		why_message(q, reply, &asked, target);
}

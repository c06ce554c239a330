/* SPDX-License-Identifier: ISC */
/*
 * What an operator does to mail: flush and delete, through the core, in slices, answered with a
 * count.
 */
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

struct change_state {
	struct qmgr *q;
	struct filter filter;
	struct core_cursor cursor;
	struct reader reader;
	uint64_t changed;
	void (*change)(struct qmgr *q, job_ref ref, const struct job_view *v);
	bool more;
	job_ref jobs[CHANGES_A_CALL];
};

static bool wanted(struct change_state *s, const struct job_view *v)
{
	if (!filter_job(&s->filter, v))
		return false;
	if (!filter_needs_envelope(&s->filter))
		return true;
	const struct envelope *e = reader_get(s->q, &s->reader, v);
	return e != NULL && filter_envelope(&s->filter, e, v->rcpt);
}

static void change_one(struct change_state *s, job_ref ref)
{
	struct job_view v;
	if (!core_job(s->q->core, ref, &v) || !wanted(s, &v))
		return;
	s->change(s->q, ref, &v);
	decisions_drain(s->q, NULL);
	s->changed++;
}

/* All references first: one that ends takes its links with it, but no other changes meanwhile. */
static void change_message(struct change_state *s)
{
	job_ref *refs = NULL;
	size_t n = 0, cap = 0;
	for (job_ref j = core_find(s->q->core, s->filter.id); j != 0;
	     j = core_sibling(s->q->core, j)) {
		if (n == cap) {
			cap = cap ? cap * 2 : 64;
			refs = xrealloc(refs, cap * sizeof(*refs));
		}
		refs[n++] = j;
	}
	for (size_t i = 0; i < n; i++)
		change_one(s, refs[i]);
	free(refs);
}

static bool next_changes(void *state, struct control_reply *r)
{
	struct change_state *s = state;
	s->q->now_ms = clock_steady_ms();
	if (s->filter.id != 0) {
		change_message(s);
		s->more = false;
	} else {
		size_t most = filter_needs_envelope(&s->filter) ? ENVELOPES_A_CALL : CHANGES_A_CALL;
		size_t n = core_jobs(s->q->core, &s->cursor, s->jobs, most, LOOK_A_CALL, &s->more);
		for (size_t i = 0; i < n; i++)
			change_one(s, s->jobs[i]);
	}
	if (s->more)
		return true;
	control_row(r, json_pack("{s:I}", "recipients", say_num(s->changed)));
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_change(void *state)
{
	struct change_state *s = state;
	filter_fini(&s->filter);
	reader_fini(&s->reader);
	free(s);
}

static struct change_state *new_change(struct qmgr *q, const json_t *args, const json_t *options)
{
	struct change_state *s = xcalloc(1, sizeof(*s));
	s->q = q;
	reader_init(&s->reader);
	filter_args(&s->filter, q, args, options);
	return s;
}

static void delete_aside(struct qmgr *q, struct aside *a, struct control_reply *reply)
{
	struct row_key key = row_key_number(a->row.id);
	store_ops_delete(&q->commit.other, STORE_ASIDE, &key);
	message_removed(q, a->row.id, segments_find(q, a->row.segment), a->row.bytes,
	    STR("deleted by an operator"));
	map_take(&q->asides, a->row.id);
	free(a);
	control_row(reply, json_pack("{s:i}", "recipients", 1));
	control_end(reply, EX_OK, "%s", "");
}

/* One in flight ends with its result; should we die before that, it must not come back to be sent.
 */
static void delete_one(struct qmgr *q, job_ref ref, const struct job_view *v)
{
	if (v->state == JOB_IN_FLIGHT) {
		core_set_flags(q->core, ref, JOB_HELD, 0);
		j_changed_encode(
		    journal_buf(q->journal), &(struct j_changed){.id = v->id,
						 .rcpt = v->rcpt,
						 .attempts = v->attempts,
						 .flags = (v->flags & ROW_FLAGS) | JOB_HELD,
						 .due_ms = (uint64_t)v->due_ms});
		decisions_dirty(q, ref, v->flags);
	}
	core_delete(q->core, ref, q->now_ms);
}

void change_delete(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	if (!control_is_serving(q, reply))
		return;
	struct change_state *s = new_change(q, args, options);
	if (s->filter.wrong != NULL) {
		control_end(reply, EX_USAGE, "%s", s->filter.wrong);
		drop_change(s);
		return;
	}
	if (filter_is_empty(&s->filter) && !str_eq(said_arg(args, 0), STR("ALL"))) {
		drop_change(s);
		control_end(
		    reply, EX_USAGE, "delete what? An id, a queue, a domain, options, or ALL");
		return;
	}
	struct aside *a = s->filter.id ? map_find(&q->asides, s->filter.id) : NULL;
	if (a != NULL) {
		drop_change(s);
		delete_aside(q, a, reply);
		return;
	}
	s->change = delete_one;
	control_stream(reply, next_changes, drop_change, s);
}

struct flush_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
	uint64_t flushed;
};

/* Something waits there, even if it is all in flight or held. */
static bool is_known(const struct core *core, struct str pattern)
{
	struct core_cursor cursor = {0};
	struct queue_view v;
	while (core_queues(core, pattern, &cursor, &v, 1) > 0)
		if (v.recipients > 0)
			return true;
	return false;
}

static bool next_flush(void *state, struct control_reply *r)
{
	struct flush_state *s = state;
	s->q->now_ms = clock_steady_ms();
	struct core *core = s->q->core;
	struct str pattern = str_of(s->pattern);
	struct core_totals before, after;
	core_totals(core, &before);
	bool more = core_flush(core, pattern, &s->cursor, CHANGES_A_CALL, s->q->now_ms);
	core_totals(core, &after);
	decisions_drain(s->q, NULL);
	s->flushed += after.flushed - before.flushed;
	if (more)
		return true;
	bool is_name = memchr(pattern.p, '*', pattern.n) == NULL;
	if (s->flushed == 0 && is_name && !is_known(core, pattern)) {
		control_end(r, EX_DATAERR, "no mail waits for %s", s->pattern);
		return false;
	}
	control_row(r, json_pack("{s:I}", "recipients", say_num(s->flushed)));
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_flush(void *state)
{
	struct flush_state *s = state;
	free(s->pattern);
	free(s);
}

/* Held ones are let go, others become due now. */
static void release_one(struct qmgr *q, job_ref ref, const struct job_view *v)
{
	if (v->state == JOB_IN_FLIGHT)
		return;
	core_hold(q->core, ref, q->now_ms); /* what is let go is due at once */
	core_release(q->core, ref, q->now_ms);
}

void change_flush(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	if (!control_is_serving(q, reply))
		return;
	struct filter f = {0};
	filter_args(&f, q, args, options);
	if (f.wrong == NULL && f.queue != NULL && control_option(options, "domain") != NULL)
		f.wrong = "a queue is flushed whole: a queue or --domain, not both";
	if (f.wrong != NULL) {
		control_end(reply, EX_USAGE, "%s", f.wrong);
		filter_fini(&f);
		return;
	}
	bool by_queue = f.id == 0 && f.tenant == NULL && f.campaign == NULL && f.sender == NULL &&
			f.rcpt == NULL;
	if (by_queue) {
		struct flush_state *s = xcalloc(1, sizeof(*s));
		s->q = q;
		s->pattern = xstrdup(f.queue ? f.queue : f.domain ? f.domain : "*");
		filter_fini(&f);
		control_stream(reply, next_flush, drop_flush, s);
		return;
	}
	filter_fini(&f);
	struct change_state *s = new_change(q, args, options);
	s->change = release_one;
	control_stream(reply, next_changes, drop_change, s);
}

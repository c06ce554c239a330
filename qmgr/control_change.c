/* SPDX-License-Identifier: ISC */
/*
 * What an operator does to mail: flush, release, delete, bounce. A filter says which; the core is
 * asked for its jobs in slices, each is changed through the core, and the answer is a count.
 * --dry-run counts only. An empty filter is refused unless --all is said: a variable that a script
 * left unset must not bounce a spool.
 *
 * A change is journalled with the decisions that follow from it, so what was counted before a crash
 * stays done; the rest of a slice is asked for again by the operator.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

struct change { /* what is done to each job */
	const char *name;
	bool in_flight;	 /* also to one that is being delivered right now */
	bool held_by_id; /* one that is set aside only when its message is named */
	void (*fn)(struct qmgr *q, job_ref ref, const struct job_view *v, struct str text);
};
struct change_state {
	struct qmgr *q;
	const struct change *change;
	struct filter filter;
	struct core_cursor cursor;
	struct reader reader;
	char *text; /* owned; of bounce */
	bool dry;
	uint64_t found, changed, in_flight;
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
	s->found++;
	if (v.state == JOB_IN_FLIGHT && !s->change->in_flight) {
		s->in_flight++;
		return;
	}
	if (v.state == JOB_SET_ASIDE && s->change->held_by_id && s->filter.id == 0)
		return;
	s->changed++;
	if (s->dry)
		return;
	s->change->fn(s->q, ref, &v, str_of(s->text));
	decisions_drain(s->q, NULL);
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

static void change_slice(struct change_state *s)
{
	size_t most = filter_needs_envelope(&s->filter) ? ENVELOPES_A_CALL : CHANGES_A_CALL;
	struct core_filter which;
	filter_for_core(&s->filter, &which);
	size_t n =
	    core_select(s->q->core, &which, &s->cursor, s->jobs, most, LOOK_A_CALL, &s->more);
	for (size_t i = 0; i < n; i++)
		change_one(s, s->jobs[i]);
	if (!s->more && filter_next_pass(&s->filter)) {
		s->cursor = (struct core_cursor){0};
		s->more = true;
	}
}

static bool next_changes(void *state, struct control_reply *r)
{
	struct change_state *s = state;
	s->q->now_ms = clock_steady_ms();
	if (s->filter.id != 0)
		change_message(s);
	else
		change_slice(s);
	if (s->more)
		return true;
	/* One name with nothing behind it is a typing mistake more often than not. */
	if (s->found == 0 && filter_names_one(&s->filter)) {
		control_end(r, EX_DATAERR, "no mail waits for %s", filter_named(&s->filter));
		return false;
	}
	json_t *row = json_pack("{s:I}", "recipients", say_num(s->changed));
	if (s->in_flight > 0)
		json_object_set_new(row, "in_flight", json_integer(say_num(s->in_flight)));
	if (s->dry)
		json_object_set_new(row, "dry_run", json_true());
	control_row(r, row);
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_change(void *state)
{
	struct change_state *s = state;
	filter_fini(&s->filter);
	reader_fini(&s->reader);
	free(s->text);
	free(s);
}

static bool find_mail(
    struct change_state *s, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const char *dry = control_option(options, "dry-run");
	if (!filter_args(&s->filter, s->q, args, options, reply))
		return false;
	if (dry != NULL && strcmp(dry, "true") != 0) {
		control_end(reply, EX_USAGE, "--dry-run takes no value");
		return false;
	}
	s->dry = dry != NULL;
	if (filter_is_empty(&s->filter) && !s->filter.all) {
		control_end(reply, EX_USAGE,
		    "%s what? An id, a queue, a domain, options that choose, or --all",
		    s->change->name);
		return false;
	}
	return true;
}

/* NULL: the answer is ended. */
static struct change_state *begin(struct qmgr *q, const struct change *change,
    struct control_reply *reply, const json_t *args, const json_t *options)
{
	if (!control_is_serving(q, reply))
		return NULL;
	struct change_state *s = xcalloc(1, sizeof(*s));
	s->q = q;
	s->change = change;
	reader_init(&s->reader);
	if (find_mail(s, reply, args, options))
		return s;
	drop_change(s);
	return NULL;
}

/* --- delete ----------------------------------------------------------------------------------- */

/* A whole message that was set aside is no job of the core's. */
static void delete_aside(struct qmgr *q, struct aside *a, struct control_reply *reply, bool dry)
{
	if (!dry) {
		struct row_key key = row_key_number(a->row.id);
		store_ops_delete(&q->commit.other, STORE_ASIDE, &key);
		message_removed(q, a->row.id, segments_find(q, a->row.segment), a->row.bytes,
		    STR("deleted by an operator"));
		map_take(&q->asides, a->row.id);
		free(a);
	}
	json_t *row = json_pack("{s:i}", "recipients", 1);
	if (dry)
		json_object_set_new(row, "dry_run", json_true());
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

/* One in flight ends with its result; should we die before that, it must not come back to be sent.
 */
static void delete_one(struct qmgr *q, job_ref ref, const struct job_view *v, struct str text)
{
	(void)text;
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

void verb_delete(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	static const struct change change = {"delete", true, false, delete_one};
	struct qmgr *q = ctx;
	struct change_state *s = begin(q, &change, reply, args, options);
	if (s == NULL)
		return;
	struct aside *a = s->filter.id ? map_find(&q->asides, s->filter.id) : NULL;
	if (a != NULL) {
		delete_aside(q, a, reply, s->dry);
		drop_change(s);
		return;
	}
	control_stream(reply, next_changes, drop_change, s);
}

/* --- bounce ----------------------------------------------------------------------------------- */

enum { BOUNCE_TEXT_MAX = 300 }; /* it stands in one line of the report and the log */

static void bounce_one(struct qmgr *q, job_ref ref, const struct job_view *v, struct str text)
{
	(void)v;
	core_bounce(q->core, ref, text, q->now_ms);
}

void verb_bounce(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	static const struct change change = {"bounce", false, false, bounce_one};
	const char *text = control_option(options, "text");
	if (text != NULL && (text[0] == 0 || strlen(text) > BOUNCE_TEXT_MAX)) {
		control_end(reply, EX_USAGE, "--text wants 1 to %d bytes", BOUNCE_TEXT_MAX);
		return;
	}
	struct change_state *s = begin(ctx, &change, reply, args, options);
	if (s == NULL)
		return;
	char clean[BOUNCE_TEXT_MAX + 1];
	s->text = xstrdup(text != NULL ? log_clean(clean, sizeof(clean), str_of(text))
				       : "returned by the operator");
	control_stream(reply, next_changes, drop_change, s);
}

/* --- flush ------------------------------------------------------------------------------------ */

/* Held ones are let go, others become due now. */
static void flush_one(struct qmgr *q, job_ref ref, const struct job_view *v, struct str text)
{
	(void)text;
	if (v->state == JOB_SET_ASIDE)
		core_release(q->core, ref, q->now_ms);
	else
		core_flush_job(q->core, ref, q->now_ms);
}

/* What was set aside, by a check of its header or because it ended its worker: on its way. */
static void release_one(struct qmgr *q, job_ref ref, const struct job_view *v, struct str text)
{
	(void)v;
	(void)text;
	core_release(q->core, ref, q->now_ms);
}

void verb_release(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	static const struct change change = {"release", false, false, release_one};
	struct change_state *s = begin(ctx, &change, reply, args, options);
	if (s == NULL)
		return;
	s->filter.held = true;
	control_stream(reply, next_changes, drop_change, s);
}

void verb_flush(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	static const struct change change = {"flush", false, true, flush_one};
	struct change_state *s = begin(ctx, &change, reply, args, options);
	if (s != NULL)
		control_stream(reply, next_changes, drop_change, s);
}

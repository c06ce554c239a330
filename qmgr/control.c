/* SPDX-License-Identifier: ISC */
/*
 * The verbs of `posternctl qmgr`. Listing has no side effects and streams: a slice of the core's
 * state a call, no pointer kept between calls. Filters that ask for addresses read envelopes, a
 * bounded number a call. Changes (flush, delete) go through the core in slices too, and are
 * answered with a count.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

enum {
	QUEUES_A_CALL = 64,
	ENVELOPES_A_CALL = 64, /* files read in one call: a few milliseconds when they are cached */
	LOOK_A_CALL = 20000,   /* jobs looked at in one call: about a millisecond */
	CHANGES_A_CALL = 2000,
};

static json_t *text(struct str s)
{
	char clean[1024];
	return json_string(log_clean(clean, sizeof(clean), s));
}

static json_t *time_text(int64_t wall_ms)
{
	time_t s = (time_t)(wall_ms / 1000);
	struct tm tm;
	char out[40];
	if (wall_ms <= 0 || gmtime_r(&s, &tm) == NULL ||
	    strftime(out, sizeof(out), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		return json_null();
	return json_string(out);
}

/* Steady time of the core to what a clock on the wall shows. */
static json_t *steady_text(const struct qmgr *q, int64_t ms)
{
	return ms <= 0 || ms == INT64_MAX ? json_null()
					  : time_text(ms - q->now_ms + clock_wall_ms());
}

static json_t *id_text(uint64_t id)
{
	char out[RECORD_ID_TEXT];
	record_id_print(out, id);
	return json_string(out);
}

static struct str arg(const json_t *args, size_t i)
{
	const json_t *a = json_array_get(args, i);
	return json_is_string(a) ? str_of(json_string_value(a)) : STR("");
}

static struct str option(const json_t *options, const char *name)
{
	const json_t *o = json_object_get(options, name);
	return json_is_string(o) ? str_of(json_string_value(o)) : STR("");
}

static json_int_t num(uint64_t n)
{
	return (json_int_t)n;
}

/* --- status --------------------------------------------------------------------------------------
 */

static json_t *spool_status(struct qmgr *q)
{
	const struct commit *c = &q->commit;
	uint64_t live = 0;
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		live += s->live_bytes;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I}", "segments",
	    num(q->segments.map.n), "live_bytes", num(live), "free_bytes",
	    num(q->admission.free_bytes), "index_pages", num(c->room.used_pages), "index_pages_max",
	    num(c->room.map_pages), "refuse", refuse_name(admission_state(q)), "commits",
	    num(c->number), "journal_file", num(JOURNAL_POS_NUMBER(journal_pos(q->journal))),
	    "not_logged_bytes", num(journal_pos(q->journal) - logger_pos(q->logger)), "set_aside",
	    num(q->asides.n));
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct core_totals t;
	const struct counters *c = &q->counters;
	(void)args, (void)options;
	if (q->journal == NULL || q->core == NULL) {
		control_end(reply, EX_TEMPFAIL, "qmgr is starting");
		return;
	}
	core_totals(q->core, &t);
	json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
	    q->stopping	 ? "stopping"
	    : q->started ? "running"
			 : "recovering",
	    "recipients", num(t.recipients), "messages", num(t.messages), "queues", num(t.queues),
	    "ready", num(t.ready), "waiting", num(t.waiting), "in_flight", num(t.in_flight),
	    "unrouted", num(t.unrouted), "held", num(t.held), "connections", num(t.connections));
	json_object_set_new(row, "since_start",
	    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "received",
		num(c->received), "received_bytes", num(c->received_bytes), "delivered",
		num(c->delivered), "deferred", num(c->deferred), "bounced", num(c->bounced),
		"expired", num(c->expired), "deleted", num(c->deleted), "uncertain",
		num(c->uncertain), "damaged", num(c->damaged), "dropped_reports",
		num(c->dropped_reports)));
	json_object_set_new(row, "reports_owed", json_integer(num(q->bounces.tickets.n)));
	json_object_set_new(row, "memory_bytes", json_integer(num(t.bytes_of_memory)));
	json_object_set_new(row, "spool", spool_status(q));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

/* --- queues --------------------------------------------------------------------------------------
 */

struct queues_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
	bool one;      /* `queue NAME`: an error when nothing matches */
	unsigned found;
};

static json_t *queue_row(const struct qmgr *q, const struct queue_view *v)
{
	json_t *row = json_pack("{s:o, s:I, s:I, s:o, s:b, s:o, s:o}", "queue", text(v->name),
	    "recipients", num(v->recipients), "connections", num(v->connections), "mode",
	    text(v->mode), "paused", v->paused, "next_retry", steady_text(q, v->next_retry_ms),
	    "last_error", v->last_error.n ? text(v->last_error) : json_null());
	json_object_update_new(
	    row, json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "destination",
		     text(v->destination), "vmta", text(v->vmta), "ready", num(v->ready), "waiting",
		     num(v->waiting), "in_flight", num(v->in_flight), "unrouted", num(v->unrouted),
		     "held", num(v->held), "connections_max", num(v->connections_max), "lanes",
		     num(v->lanes)));
	json_object_update_new(row,
	    json_pack("{s:I, s:I, s:I, s:I, s:o}", "delivered", (json_int_t)v->delivered,
		"deferred", (json_int_t)v->deferred, "bounced", (json_int_t)v->bounced, "failures",
		num(v->failures), "last_error_at", steady_text(q, v->last_error_ms)));
	return row;
}

static bool next_queues(void *state, struct control_reply *r)
{
	struct queues_state *s = state;
	struct queue_view views[QUEUES_A_CALL];
	size_t n = core_queues(s->q->core, str_of(s->pattern), &s->cursor, views, QUEUES_A_CALL);
	for (size_t i = 0; i < n; i++)
		control_row(r, queue_row(s->q, &views[i]));
	s->found += (unsigned)n;
	if (n > 0)
		return true;
	if (s->one && s->found == 0)
		control_end(r, EX_UNAVAILABLE, "no queue %s", s->pattern);
	else
		control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_queues(void *state)
{
	struct queues_state *s = state;
	free(s->pattern);
	free(s);
}

/*
 * DOMAIN/VMTA is the queue where the domain's mail waits now, which may be a whole site's, such as
 * [mx.example.net]/main: then *domain, where wanted, becomes the domain, to choose its mail alone.
 * Other names, and patterns, stay as they are.
 */
static char *queue_named(const struct qmgr *q, struct str given, char **domain)
{
	struct str vmta = given, name = str_cut(&vmta, '/');
	struct str site = q->core != NULL ? core_destination(q->core, name) : STR("");
	if (vmta.n == 0 || site.n == 0 || str_eq_nocase(site, name))
		return str_dup(given);
	if (domain != NULL && *domain != NULL && !str_eq_nocase(str_of(*domain), name))
		return str_dup(given); /* another domain was asked for: nothing can match */
	if (domain != NULL && *domain == NULL)
		*domain = str_dup(name);
	struct buf out;
	buf_init(&out, site.n + vmta.n + 2);
	buf_str(&out, site);
	buf_put(&out, "/", 1);
	buf_str(&out, vmta);
	char *queue = str_dup((struct str){(const char *)out.p, out.n});
	buf_fini(&out);
	return queue;
}

static void list_queues(struct qmgr *q, struct control_reply *reply, struct str pattern, bool one)
{
	struct queues_state *s = xcalloc(1, sizeof(*s));
	s->q = q;
	s->one = one;
	s->pattern = pattern.n ? queue_named(q, pattern, NULL) : xstrdup("*");
	control_stream(reply, next_queues, drop_queues, s);
}

static void verb_queues(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	(void)options;
	list_queues(ctx, reply, arg(args, 0), false);
}

static void verb_queue(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	(void)options;
	list_queues(ctx, reply, arg(args, 0), true);
}

/* --- messages ------------------------------------------------------------------------------------
 */

struct filter { /* all that are given must match; empty: any */
	char *queue, *tenant, *campaign, *sender, *rcpt, *domain; /* owned; patterns with * */
	uint64_t id;						  /* 0: any */
	const char *wrong;					  /* why it is refused, or NULL */
};

/* An option that was given empty, say by an unset variable of a shell, is a filter nonetheless:
 * --sender= chooses the null sender, not everybody. */
static char *pattern(const json_t *options, const char *name)
{
	const char *given = control_option(options, name);
	return given != NULL ? xstrdup(given) : NULL;
}

static void filter_free(struct filter *f)
{
	free(f->queue);
	free(f->tenant);
	free(f->campaign);
	free(f->sender);
	free(f->rcpt);
	free(f->domain);
}

static void filter_options(struct filter *f, const struct qmgr *q, const json_t *options)
{
	const char *queue = control_option(options, "queue");
	f->tenant = pattern(options, "tenant");
	f->campaign = pattern(options, "campaign");
	f->sender = pattern(options, "sender");
	f->rcpt = pattern(options, "recipient");
	f->domain = pattern(options, "domain");
	if (queue != NULL)
		f->queue = queue_named(q, str_of(queue), &f->domain);
}

static bool like(const char *want, struct str s)
{
	return want == NULL || core_glob(str_of(want), s);
}

static bool filter_job(const struct filter *f, const struct job_view *v)
{
	return (f->id == 0 || f->id == v->id) && like(f->queue, v->queue) &&
	       like(f->tenant, v->tenant) && like(f->campaign, v->campaign) &&
	       like(f->domain, v->domain);
}

static bool filter_needs_envelope(const struct filter *f)
{
	return f->sender != NULL || f->rcpt != NULL;
}

static bool filter_envelope(const struct filter *f, const struct envelope *e, uint16_t rcpt)
{
	return like(f->sender, e->sender) &&
	       like(f->rcpt, rcpt < e->rcpt_count ? e->rcpt[rcpt].address : STR(""));
}

static bool filter_is_empty(const struct filter *f)
{
	return f->id == 0 && f->queue == NULL && f->tenant == NULL && f->campaign == NULL &&
	       f->sender == NULL && f->rcpt == NULL && f->domain == NULL;
}

/* The envelope that was read last stays, since a message's recipients come one after another. */
struct reader {
	struct buf bytes;
	struct envelope e;
	uint64_t id;
};

static const struct envelope *read_envelope(
    struct qmgr *q, struct reader *r, const struct job_view *v)
{
	struct record rec;
	if (r->id == v->id)
		return &r->e;
	if (r->id != 0)
		envelope_fini(&r->e);
	r->id = 0;
	if (reading_envelope(q, v->segment, v->offset, &rec, &r->bytes) != 0 || rec.id != v->id ||
	    envelope_decode(&r->e, (struct str){(const char *)r->bytes.p, r->bytes.n}) != 0)
		return NULL;
	r->id = v->id;
	return &r->e;
}

static void reader_fini(struct reader *r)
{
	if (r->id != 0)
		envelope_fini(&r->e);
	buf_fini(&r->bytes);
}

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
	    "id", id_text(v->id), "rcpt", (int)v->rcpt, "queue", text(v->queue), "domain",
	    text(v->domain), "vmta", text(v->vmta), "tenant", text(v->tenant), "campaign",
	    text(v->campaign), "state", state_name(v->state), "attempts", (int)v->attempts,
	    "arrived", time_text(v->arrived_ms), "due", steady_text(q, v->due_ms), "size",
	    num(v->bytes), "uncertain", (v->flags & JOB_UNCERTAIN) != 0);
	if (e != NULL) {
		json_object_set_new(row, "sender", text(e->sender));
		if (v->rcpt < e->rcpt_count)
			json_object_set_new(row, "recipient", text(e->rcpt[v->rcpt].address));
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

/* References are valid only within one call: what the limit cuts off is not looked at again. */
static bool next_messages(void *state, struct control_reply *r)
{
	struct messages_state *s = state;
	job_ref jobs[ENVELOPES_A_CALL];
	bool more;
	size_t n = core_jobs(s->q->core, &s->cursor, jobs, ENVELOPES_A_CALL, LOOK_A_CALL, &more);
	for (size_t i = 0; i < n && (s->limit == 0 || s->shown < s->limit); i++) {
		struct job_view v;
		if (!core_job(s->q->core, jobs[i], &v) || !filter_job(&s->filter, &v))
			continue;
		const struct envelope *e = read_envelope(s->q, &s->reader, &v);
		if (filter_needs_envelope(&s->filter) &&
		    (e == NULL || !filter_envelope(&s->filter, e, v.rcpt)))
			continue;
		control_row(r, job_row(s->q, &v, e));
		s->shown++;
	}
	if (more && (s->limit == 0 || s->shown < s->limit))
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_messages(void *state)
{
	struct messages_state *s = state;
	filter_free(&s->filter);
	reader_fini(&s->reader);
	free(s);
}

static void verb_messages(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct messages_state *s = xcalloc(1, sizeof(*s));
	unsigned long long limit = 0;
	(void)args;
	s->q = ctx;
	buf_init(&s->reader.bytes, ENVELOPE_MAX + 1);
	filter_options(&s->filter, s->q, options);
	struct str given = option(options, "limit");
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
	control_row(reply, json_pack("{s:o, s:s, s:s, s:I, s:I, s:I}", "id", id_text(a->row.id),
			       "state", "set-aside", "why", a->text, "segment", num(a->row.segment),
			       "offset", num(a->row.offset), "size", num(a->row.bytes)));
	control_end(reply, EX_OK, "%s", "");
}

static void verb_message(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	uint64_t id;
	(void)options;
	if (record_id_parse(&id, arg(args, 0)) != 0) {
		control_end(reply, EX_USAGE, "not a message id: 16 hexadecimal digits");
		return;
	}
	const struct aside *a = map_find(&q->asides, id);
	if (a != NULL) {
		show_aside(a, reply);
		return;
	}
	struct reader reader = {0};
	buf_init(&reader.bytes, ENVELOPE_MAX + 1);
	unsigned n = 0;
	struct job_view v;
	for (job_ref j = core_find(q->core, id); j != 0 && n < RCPT_MAX;
	     j = core_sibling(q->core, j))
		if (core_job(q->core, j, &v)) {
			json_t *row = job_row(q, &v, read_envelope(q, &reader, &v));
			json_object_set_new(row, "segment", json_integer(num(v.segment)));
			json_object_set_new(row, "offset", json_integer(num(v.offset)));
			control_row(reply, row);
			n++;
		}
	reader_fini(&reader);
	if (n == 0 && bounces_of(q, id) > 0) {
		control_row(reply, json_pack("{s:o, s:s, s:I}", "id", id_text(id), "state",
				       "report-owed", "reports", num(bounces_of(q, id))));
		n++;
	}
	if (n == 0)
		control_end(reply, EX_UNAVAILABLE, "no such message in the queue");
	else
		control_end(reply, EX_OK, "%s", "");
}

/* --- changes
 * -------------------------------------------------------------------------------------- */

/* FILTER: an id, a queue's name or pattern, or the options of `messages`. */
static void filter_args(
    struct filter *f, const struct qmgr *q, const json_t *args, const json_t *options)
{
	struct str a = arg(args, 0);
	bool is_queue = a.n > 0 && memchr(a.p, '/', a.n) != NULL;
	filter_options(f, q, options);
	if (json_array_size(args) == 0 || str_eq(a, STR("ALL")) || record_id_parse(&f->id, a) == 0)
		return;
	f->id = 0;
	if (a.n == 0)
		f->wrong = "the argument is empty: an id, a queue, a domain, or ALL";
	else if (control_option(options, is_queue ? "queue" : "domain") != NULL)
		f->wrong = "an argument and an option name two queues, or two domains";
	else if (is_queue)
		f->queue = queue_named(q, a, &f->domain);
	else
		f->domain = str_dup(a);
}

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
	const struct envelope *e = read_envelope(s->q, &s->reader, v);
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
	control_row(r, json_pack("{s:I}", "recipients", num(s->changed)));
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_change(void *state)
{
	struct change_state *s = state;
	filter_free(&s->filter);
	reader_fini(&s->reader);
	free(s);
}

static struct change_state *new_change(struct qmgr *q, const json_t *args, const json_t *options)
{
	struct change_state *s = xcalloc(1, sizeof(*s));
	s->q = q;
	buf_init(&s->reader.bytes, ENVELOPE_MAX + 1);
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

static bool is_serving(const struct qmgr *q, struct control_reply *reply)
{
	if (q->started && !q->stopping)
		return true;
	control_end(reply, EX_TEMPFAIL, "qmgr is %s", q->stopping ? "stopping" : "starting");
	return false;
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

static void verb_delete(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	if (!is_serving(q, reply))
		return;
	struct change_state *s = new_change(q, args, options);
	if (s->filter.wrong != NULL) {
		control_end(reply, EX_USAGE, "%s", s->filter.wrong);
		drop_change(s);
		return;
	}
	if (filter_is_empty(&s->filter) && !str_eq(arg(args, 0), STR("ALL"))) {
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
	control_row(r, json_pack("{s:I}", "recipients", num(s->flushed)));
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

static void verb_flush(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	if (!is_serving(q, reply))
		return;
	struct filter f = {0};
	filter_args(&f, q, args, options);
	if (f.wrong == NULL && f.queue != NULL && control_option(options, "domain") != NULL)
		f.wrong = "a queue is flushed whole: a queue or --domain, not both";
	if (f.wrong != NULL) {
		control_end(reply, EX_USAGE, "%s", f.wrong);
		filter_free(&f);
		return;
	}
	bool by_queue = f.id == 0 && f.tenant == NULL && f.campaign == NULL && f.sender == NULL &&
			f.rcpt == NULL;
	if (by_queue) {
		struct flush_state *s = xcalloc(1, sizeof(*s));
		s->q = q;
		s->pattern = xstrdup(f.queue ? f.queue : f.domain ? f.domain : "*");
		filter_free(&f);
		control_stream(reply, next_flush, drop_flush, s);
		return;
	}
	filter_free(&f);
	struct change_state *s = new_change(q, args, options);
	s->change = release_one;
	control_stream(reply, next_changes, drop_change, s);
}

#define FILTERS "[--queue=P] [--tenant=P] [--campaign=P] [--sender=P] [--recipient=P] [--domain=P]"

const struct control_verb qmgr_verbs[] = {
    {"status", "status", "totals, spool, index, what is refused", 0, 0, verb_status},
    {"queues", "queues [PATTERN]", "queues with their counts, connections, mode and last error", 0,
	1, verb_queues},
    {"queue", "queue NAME", "one queue", 1, 1, verb_queue},
    {"messages", "messages " FILTERS " [--limit=N]", "recipients that wait, one a line", 0, 0,
	verb_messages},
    {"message", "message ID", "one message with all its waiting recipients", 1, 1, verb_message},
    {"flush", "flush [ID|QUEUE|DOMAIN|ALL] " FILTERS, "make it due now; releases held messages", 0,
	1, verb_flush},
    {"delete", "delete ID|QUEUE|DOMAIN|ALL " FILTERS, "remove it without a report", 0, 1,
	verb_delete},
};
const size_t qmgr_verb_count = COUNT_OF(qmgr_verbs);

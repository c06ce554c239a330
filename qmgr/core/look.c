/* SPDX-License-Identifier: ISC */
/*
 * Looking at the core, and the operator's hand in it: views, streams in slices, flush, delete,
 * hold.
 */
#include "qmgr/core/internal.h"
#include <limits.h>

/* ---- views ---- */

static uint8_t state_shown(const struct job *j, const struct queue *q)
{
	switch (j->state) {
	case JOB_READY:
		return q->routed ? JOB_READY : JOB_UNROUTED;
	case JOB_DOUBT:
		return JOB_WAITING;
	case JOB_ENDED:
		return JOB_FREE;
	default:
		return j->state;
	}
}

bool core_job(const struct core *core, job_ref ref, struct job_view *v)
{
	const struct job *j = job_valid(core, ref);
	const struct lane *lane;

	if (!j)
		return false;
	lane = core->lane_at[j->lane];
	*v = (struct job_view){.id = j->id,
	    .segment = j->segment,
	    .offset = j->offset,
	    .rcpt = (uint16_t)j->rcpt,
	    .attempts = (uint16_t)j->attempts,
	    .flags = (uint8_t)j->flags,
	    .state = state_shown(j, lane->share->queue),
	    .arrived_ms = (int64_t)j->arrived_ms,
	    .due_ms = (int64_t)j->due_ms,
	    .bytes = job_bytes(j),
	    .domain = name_str(core->domain_at[j->domain]->name),
	    .queue = str_of(lane->share->queue->name),
	    .vmta = name_str(lane->share->queue->vmta->name),
	    .tenant = name_str(lane->share->tenant),
	    .campaign = name_str(lane->campaign),
	    .pool = name_str(lane->pool),
	    .mode = mode_name(lane->share->queue)};
	return true;
}

int64_t core_expires_ms(const struct core *core, job_ref ref)
{
	const struct job *j = job_valid(core, ref);

	return j ? (int64_t)j->arrived_ms + core->lane_at[j->lane]->share->queue->v.bounce_ms : 0;
}

job_ref core_find(const struct core *core, uint64_t id)
{
	return job_find(core, id);
}

job_ref core_sibling(const struct core *core, job_ref ref)
{
	const struct job *j = job_valid(core, ref);

	return j ? j->sibling_next : 0;
}

static int64_t next_retry(const struct core *core, const struct queue *q)
{
	if (q->hold_ms > core->now)
		return q->hold_ms;
	if (q->n[JOB_WAITING] == 0)
		return 0;
	return q->next_due_ms > core->now ? q->next_due_ms : q->last_due_ms;
}

static void view_queue(const struct core *core, const struct queue *q, struct queue_view *v)
{
	*v = (struct queue_view){.name = str_of(q->name),
	    .destination = name_str(q->dest->name),
	    .vmta = name_str(q->vmta->name),
	    .mode = mode_name(q),
	    .last_error = str_of(q->error),
	    .ready = q->routed ? q->n[JOB_READY] : 0,
	    .unrouted = q->routed ? 0 : q->n[JOB_READY],
	    .waiting = q->n[JOB_WAITING] + q->n[JOB_DOUBT],
	    .in_flight = q->n[JOB_IN_FLIGHT],
	    .held = q->n[JOB_SET_ASIDE],
	    .connections = q->limit.used,
	    .connections_max = q->limit.max,
	    .lanes = q->lane_count,
	    .delivered = q->delivered,
	    .deferred = q->deferred,
	    .bounced = q->bounced,
	    .next_retry_ms = next_retry(core, q),
	    .last_error_ms = q->error_ms,
	    .failures = q->failures,
	    .paused = hold_now(core, q)};
	if (q->mode && q->mode->kind != MODE_NORMAL) {
		v->mode_cause = str_of(q->mode->cause);
		v->mode_rule = str_of(q->mode->rule);
		v->mode_who = str_of(q->mode->who);
		v->mode_since_ms = q->mode->since_ms;
		v->mode_until_ms = q->mode->until_ms;
	}
	v->recipients = v->ready + v->unrouted + v->waiting + v->in_flight + v->held;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

/* '*' is any text. Iterative, with one step back: O(pattern * text), both are names. */
bool core_glob(struct str pattern, struct str text)
{
	size_t p = 0, t = 0, star = SIZE_MAX, from = 0;

	while (t < text.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			from = t;
		} else if (p < pattern.n && lower(pattern.p[p]) == lower(text.p[t])) {
			p++;
			t++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			t = ++from;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

/* Of a name that is no pattern: by its destinations, without a look at the others. cursor->b counts
 * what was given out. */
static size_t queues_named(const struct core *core, struct str name, struct core_cursor *cursor,
    struct queue_view *out, size_t n)
{
	const struct dest *dests[DESTS_NAMED];
	size_t count = dests_named(core, name, dests), found = 0, at = 0;

	for (size_t i = 0; i < count; i++)
		for (struct link *l = dests[i]->queues.next; l != &dests[i]->queues; l = l->next)
			if (at++ >= cursor->b && found < n)
				view_queue(core, OWNER(l, struct queue, in_dest), &out[found++]);
	cursor->b += found;
	return found;
}

size_t core_queues_slice(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct queue_view *out, size_t n, unsigned look, bool *more)
{
	bool named = !core_is_pattern(pattern);
	const struct queue *one = named && n && !cursor->a ? queue_find(core, pattern) : NULL;
	struct str at;
	size_t found = 0;

	*more = false;
	if (one) { /* the name of one */
		view_queue(core, one, &out[0]);
		cursor->a = core->queue_count;
		return 1;
	}
	if (named && !cursor->a) {
		found = queues_named(core, pattern, cursor, out, n);
		*more = found > 0;
		if (cursor->b)
			return found;
	}
	at = queue_destination(core, pattern);
	for (; found < n && look && cursor->a < core->queue_count; look--) {
		const struct queue *q = core->queue_at[++cursor->a];

		if (q && queue_is_like(q, pattern, at))
			view_queue(core, q, &out[found++]);
	}
	*more = cursor->a < core->queue_count;
	return found;
}

size_t core_queues(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct queue_view *out, size_t n)
{
	bool more;

	return core_queues_slice(core, pattern, cursor, out, n, UINT_MAX, &more);
}

size_t core_jobs(const struct core *core, struct core_cursor *cursor, job_ref *out, size_t n,
    unsigned budget, bool *more)
{
	size_t found = 0;

	for (; found < n && budget && cursor->a + 1 < core->jobs.used; budget--) {
		job_ref ref = (job_ref)++cursor->a;
		const struct job *j = job_valid(core, ref);

		if (j && j->state != JOB_ENDED)
			out[found++] = ref;
	}
	*more = cursor->a + 1 < core->jobs.used;
	return found;
}

void core_totals(const struct core *core, struct core_totals *t)
{
	*t = (struct core_totals){.messages = core->jobs.messages,
	    .queues = core->queues.count,
	    .lanes = core->lanes.count,
	    .ready = core->n[JOB_READY] - core->unrouted,
	    .unrouted = core->unrouted,
	    .waiting = core->n[JOB_WAITING] + core->n[JOB_DOUBT],
	    .in_flight = core->n[JOB_IN_FLIGHT],
	    .held = core->n[JOB_SET_ASIDE],
	    .connections = core->total->used,
	    .delivered = core->delivered,
	    .deferred = core->deferred,
	    .bounced = core->bounced,
	    .flushed = core->flushed,
	    .bytes_of_memory = job_store_bytes(&core->jobs) + due_bytes(&core->due)};
	t->recipients = t->ready + t->unrouted + t->waiting + t->in_flight + t->held;
}

/* ---- steering ---- */

void core_set_flags(struct core *core, job_ref ref, uint8_t set, uint8_t clear)
{
	struct job *j = job_valid(core, ref);

	if (j)
		j->flags = (j->flags & (uint8_t)~clear) | set;
}

void core_move(struct core *core, job_ref ref, uint64_t segment, uint64_t offset)
{
	const uint64_t low40 = (UINT64_C(1) << 40) - 1;
	struct job *j = job_valid(core, ref);

	if (!j)
		return;
	j->segment = segment & low40;
	j->offset = offset & low40;
}

void core_delete(struct core *core, job_ref ref, int64_t now_ms)
{
	struct job *j = job_valid(core, ref);

	core_clock(core, now_ms);
	if (!j || j->state == JOB_ENDED)
		return;
	if (j->state == JOB_IN_FLIGHT) {
		j->doomed = 1;
		return;
	}
	outcome_loosen(core, ref);
	outcome_end(
	    core, ref, OUTCOME_DELETED, -1, STR("5.0.0"), STR("deleted by the operator"), false);
}

void core_hold(struct core *core, job_ref ref, int64_t now_ms)
{
	struct job *j = job_valid(core, ref);

	core_clock(core, now_ms);
	if (!j || j->state == JOB_ENDED || (j->flags & JOB_HELD))
		return;
	j->flags |= JOB_HELD;
	if (j->flags & JOB_IN_DOUBT)
		j->flags = (j->flags & (uint8_t)~JOB_IN_DOUBT) | JOB_UNCERTAIN;
	if (j->state != JOB_IN_FLIGHT) {
		outcome_loosen(core, ref);
		outcome_set_aside(core, ref);
	}
	outcome_changed(core, ref);
}

void core_release(struct core *core, job_ref ref, int64_t now_ms)
{
	struct job *j = job_valid(core, ref);

	core_clock(core, now_ms);
	if (!j || !(j->flags & JOB_HELD))
		return;
	j->flags &= (uint8_t)~JOB_HELD;
	outcome_changed(core, ref);
	if (j->state != JOB_SET_ASIDE)
		return;
	j->due_ms = 0;
	outcome_loosen(core, ref);
	outcome_place(core, ref, false);
}

static void flush_job(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct domain *d = core->domain_at[j->domain];
	struct queue *q = core->lane_at[j->lane]->share->queue;

	if (j->state != JOB_WAITING && j->state != JOB_READY)
		return;
	if (q->failures || q->hold_ms)
		queue_unhold(core, q);
	if (!d->route && !d->asking) { /* ask the name servers again, too */
		d->ask_ms = 0;
		domain_want(core, d);
	}
	if (j->state != JOB_WAITING)
		return;
	outcome_loosen(core, ref);
	j->due_ms = 0;
	outcome_place(core, ref, false);
}

/* A whole queue, or lanes, or what a pattern matches: only that is walked, see select.c. */
bool core_flush(struct core *core, struct str pattern, struct core_cursor *cursor, unsigned budget,
    int64_t now_ms)
{
	struct core_filter filter = {.queue = pattern};
	bool more = true;
	job_ref ref[64];

	core_clock(core, now_ms);
	while (more && budget) {
		unsigned looks = budget < COUNT_OF(ref) ? budget : COUNT_OF(ref);
		size_t n = core_select(core, &filter, cursor, ref, COUNT_OF(ref), looks, &more);

		for (size_t i = 0; i < n; i++) {
			const struct job *j = core_at(core, ref[i]);

			/* Without a due time, but tried: it was waiting until we came. */
			if (j->state == JOB_WAITING ||
			    (j->state == JOB_READY && (j->due_ms || !j->attempts)))
				core->flushed++;
			flush_job(core, ref[i]);
		}
		budget -= looks;
	}
	return more;
}

void core_flush_job(struct core *core, job_ref ref, int64_t now_ms)
{
	core_clock(core, now_ms);
	if (job_valid(core, ref))
		flush_job(core, ref);
}

void core_bounce(struct core *core, job_ref ref, struct str text, int64_t now_ms)
{
	struct job *j = job_valid(core, ref);

	core_clock(core, now_ms);
	if (!j || j->state == JOB_ENDED || j->state == JOB_IN_FLIGHT)
		return;
	outcome_loosen(core, ref);
	outcome_end(core, ref, OUTCOME_BOUNCED, -1, STR("5.7.0"), text, true);
}

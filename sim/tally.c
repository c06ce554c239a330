/* SPDX-License-Identifier: ISC */
/*
 * What happened. Counts, peaks, delays and the times of queues' last deliveries are exact: they are
 * taken from each job as it comes and goes. What holds a queue, its mode's share of the time and
 * its peak are seen by looks at all queues, at even distances each moved by chance, so that nothing
 * that repeats hides between them; a look asks the core the question that `why` asks.
 *
 * Memory is bounded whatever the load: delays go into 512 buckets an eighth of a power of two wide,
 * series have at most SIM_POINTS points, queues beyond SIM_QUEUES share a row, and of events the
 * first SIM_EVENTS are kept and all are counted.
 */
#include "sim/impl.h"
#include <stdio.h>
#include <stdlib.h>

enum { DELAY_STEPS = 8, VIEWS = 64, JOBS = 256 };

/* ---- delays ---- */

static size_t bucket_of(int64_t ms)
{
	uint64_t x = ms < 0 ? 0 : (uint64_t)ms;
	unsigned e;

	if (x < DELAY_STEPS)
		return (size_t)x;
	e = 63u - (unsigned)__builtin_clzll(x);
	return (size_t)(e - 2) * DELAY_STEPS + (size_t)(x >> (e - 3) & 7);
}

void tally_delay_add(uint64_t delays[SIM_BUCKETS], int64_t ms)
{
	delays[bucket_of(ms)]++;
}

static int64_t bucket_ms(size_t i)
{
	if (i < DELAY_STEPS)
		return (int64_t)i;
	return (int64_t)((DELAY_STEPS + i % DELAY_STEPS) << (i / DELAY_STEPS - 1));
}

int64_t tally_delay(const uint64_t delays[SIM_BUCKETS], double part)
{
	uint64_t all = 0, until, sum = 0;

	for (size_t i = 0; i < SIM_BUCKETS; i++)
		all += delays[i];
	if (!all)
		return -1;
	until = (uint64_t)((double)(all - 1) * part);
	for (size_t i = 0;; i++) {
		sum += delays[i];
		if (sum > until)
			return bucket_ms(i);
	}
}

/* ---- rows ---- */

struct tenant_row *tally_tenant(struct sim *s, const char *name)
{
	uint64_t hash = hash_bytes(1, str_of(name));
	struct tenant_row *t;

	for (struct node *n = table_first(&s->tenants, hash); n; n = table_next(n))
		if (strcmp(OWNER(n, struct tenant_row, node)->name, name) == 0)
			return OWNER(n, struct tenant_row, node);
	t = xcalloc(1, sizeof(*t));
	t->name = name;
	table_add(&s->tenants, &t->node, hash);
	return t;
}

static struct queue_row *queue_find(struct sim *s, struct str name)
{
	uint64_t hash = hash_bytes(1, name);
	struct queue_row *q;

	for (struct node *n = table_first(&s->queues, hash); n; n = table_next(n)) {
		q = OWNER(n, struct queue_row, node);
		if (str_eq(str_of(q->name), name))
			return q;
	}
	if (s->queues.count >= SIM_QUEUES)
		return s->more_queues;
	q = xcalloc(1, sizeof(*q));
	q->name = str_dup(name);
	table_add(&s->queues, &q->node, hash);
	return q;
}

/* A queue's name stays in its place while the queue lives, and most jobs are of few queues. */
static struct queue_row *queue_row(struct sim *s, struct str name)
{
	uintptr_t place = (uintptr_t)name.p;
	struct queue_row **recent =
	    &s->recent[(place >> 4 ^ place >> 12) & (COUNT_OF(s->recent) - 1)];

	if (!*recent || !str_eq(str_of((*recent)->name), name))
		*recent = queue_find(s, name);
	return *recent;
}

static struct rule_row *rule_row(struct sim *s, struct str name)
{
	uint64_t hash = hash_bytes(1, name);
	struct rule_row *r;

	for (struct node *n = table_first(&s->rules, hash); n; n = table_next(n)) {
		r = OWNER(n, struct rule_row, node);
		if (str_eq(str_of(r->name), name))
			return r;
	}
	r = xcalloc(1, sizeof(*r));
	r->name = str_dup(name);
	r->first_ms = s->now;
	table_add(&s->rules, &r->node, hash);
	return r;
}

/* ---- mail ---- */

size_t tally_point(const struct sim *s)
{
	return (size_t)((s->now - SIM_START) / s->sample_ms);
}

void tally_in(struct sim *s, struct load *l, struct receiver *r)
{
	size_t point = tally_point(s);

	s->in++;
	l->tenant->in++;
	r->in++;
	if (++r->backlog > r->backlog_peak) {
		r->backlog_peak = r->backlog;
		r->backlog_peak_ms = s->now;
	}
	r->series_backlog[point] = r->backlog;
	s->series_backlog[point] = s->in - s->delivered - s->bounced - s->expired;
}

static void count_end(struct sim *s, const struct core_decision *d, const struct job_view *v,
    struct receiver *r, struct tenant_row *t, struct queue_row *q)
{
	size_t point = tally_point(s);
	int64_t delay = s->now - v->arrived_ms;

	if (delay > q->oldest_ms)
		q->oldest_ms = delay;
	if (d->outcome == OUTCOME_DELIVERED) {
		tally_delay_add(s->delays, delay);
		tally_delay_add(t->delays, delay);
		if (delay > t->delay_max_ms)
			t->delay_max_ms = delay;
		s->delivered++;
		t->delivered++;
		r->delivered++;
		q->delivered++;
		s->series_delivered[point]++;
	} else {
		*(d->outcome == OUTCOME_EXPIRED ? &s->expired : &s->bounced) += 1;
		t->bounced++;
		r->bounced++;
		q->bounced++;
	}
	q->last_ms = r->last_ms = s->now;
	r->backlog--;
	r->series_backlog[point] = r->backlog;
	s->series_backlog[point] = s->in - s->delivered - s->bounced - s->expired;
}

void tally_done(struct sim *s, const struct core_decision *d)
{
	struct job_view v;
	struct receiver *r;
	struct tenant_row *t;
	struct queue_row *q;

	if (d->outcome == OUTCOME_RETRY)
		return;
	must(core_job(s->core, d->job, &v));
	r = &s->receivers[v.segment];
	t = s->loads[v.offset].tenant;
	q = queue_row(s, v.queue);
	if (d->outcome != OUTCOME_DEFERRED) {
		count_end(s, d, &v, r, t, q);
		return;
	}
	s->deferrals++;
	t->deferrals++;
	r->deferrals++;
	q->deferrals++;
}

/* ---- events ---- */

static void keep_event(struct event_row *row, const struct sim *s, const struct core_event *e)
{
	*row = (struct event_row){.at_ms = s->now,
	    .last_ms = s->now,
	    .times = 1,
	    .until_ms = e->until_ms,
	    .kind = e->kind,
	    .scope = str_dup(e->scope),
	    .from = str_dup(e->from),
	    .to = str_dup(e->to),
	    .text = str_dup(e->text),
	    .rule = str_dup(e->rule)};
}

/* What a rule does upon each of a thousand replies is told once, with the first reply. */
static bool is_told_once(enum core_event_kind kind)
{
	return kind == EVENT_RULE || kind == EVENT_ALERT || kind == EVENT_ERROR ||
	       kind == EVENT_REROUTE;
}

static uint64_t repeat_hash(const struct core_event *e)
{
	return hash_bytes(hash_bytes(e->kind, e->scope), e->rule) ^ hash_bytes(2, e->to);
}

static struct event_row *repeat_find(const struct sim *s, const struct core_event *e)
{
	for (struct node *n = table_first(&s->repeats, repeat_hash(e)); n; n = table_next(n)) {
		struct event_row *row = OWNER(n, struct event_row, node);

		if (row->kind == e->kind && str_eq(str_of(row->scope), e->scope) &&
		    str_eq(str_of(row->rule), e->rule) && str_eq(str_of(row->to), e->to))
			return row;
	}
	return NULL;
}

static void add_event(struct sim *s, const struct core_event *e)
{
	struct event_row *row = is_told_once(e->kind) ? repeat_find(s, e) : NULL;

	if (row) {
		row->times++;
		row->last_ms = s->now;
		row->until_ms = e->until_ms;
		return;
	}
	if (s->event_count == SIM_EVENTS)
		return;
	row = &s->events[s->event_count++];
	keep_event(row, s, e);
	if (is_told_once(e->kind))
		table_add(&s->repeats, &row->node, repeat_hash(e));
}

void tally_event(struct sim *s, const struct core_event *e)
{
	s->event_counts[e->kind]++;
	add_event(s, e);
	if (e->kind == EVENT_MODE && s->mode_count < SIM_EVENTS)
		keep_event(&s->modes[s->mode_count++], s, e);
	if (e->kind == EVENT_RULE) {
		struct rule_row *r = rule_row(s, e->rule);

		r->fired++;
		r->last_ms = s->now;
	}
}

/* ---- looks at queues ---- */

/* "max-smtp-out of queue google/mta1" in a row of that queue: "max-smtp-out". */
static void cause_text(char out[SIM_TEXT], const struct core_why *why, struct str queue)
{
	struct str b = why->binding;
	const struct str of = STR(" of queue ");

	if (b.n > of.n + queue.n && memcmp(b.p + b.n - queue.n, queue.p, queue.n) == 0 &&
	    memcmp(b.p + b.n - queue.n - of.n, of.p, of.n) == 0)
		b.n -= of.n + queue.n;
	if (str_eq(why->state, STR("limit")) || str_eq(why->state, STR("sending")) ||
	    str_eq(why->state, STR("connecting")) || !b.n)
		snprintf(out, SIM_TEXT, "%.*s", STR_ARG(b.n ? b : why->state));
	else
		snprintf(out, SIM_TEXT, "%.*s: %.*s", STR_ARG(why->state), STR_ARG(b));
}

static void add_cause(struct sim *s, struct queue_row *q, const char *text, int64_t ms)
{
	struct cause *c = q->causes;

	while (c < q->causes + q->cause_count && strcmp(c->text, text) != 0)
		c++;
	if (c == q->causes + q->cause_count) {
		if (q->cause_count == SIM_CAUSES) /* the last one's place is for all others */
			text = "other";
		if (q->cause_count <= SIM_CAUSES) {
			*c = (struct cause){.first_ms = s->now};
			snprintf(c->text, sizeof(c->text), "%s", text);
			q->cause_count++;
		} else {
			c--;
		}
	}
	c->ms += ms;
	c->last_ms = s->now;
}

static void look_why(struct sim *s, struct queue_row *q, const struct queue_view *v, int64_t ms)
{
	struct core_why why;
	char text[SIM_TEXT];
	size_t none = 0;

	if (core_why_queue(s->core, str_of(q->name), &why, NULL, &none) != 0)
		return;
	cause_text(text, &why, v->name);
	if (strcmp(text, "sending") != 0 && strcmp(text, "ready") != 0 &&
	    strcmp(text, "empty") != 0)
		add_cause(s, q, text, ms);
}

static void look(struct sim *s, const struct queue_view *v, int64_t ms)
{
	struct queue_row *q = queue_find(s, v->name);
	size_t mode = str_eq(v->mode, STR("backoff"))	 ? 1
		      : str_eq(v->mode, STR("recovery")) ? 2
							 : 0;

	q->seen_ms = s->now;
	q->in_queue = v->recipients;
	if (v->recipients > q->peak) {
		q->peak = v->recipients;
		q->peak_ms = s->now;
	}
	if (v->connections > q->connections_peak)
		q->connections_peak = v->connections;
	q->mode_ms[mode] += ms;
	if (v->recipients && q != s->more_queues)
		look_why(s, q, v, ms);
}

static size_t look_at_all(struct sim *s, int64_t ms)
{
	struct core_cursor cursor = {0, 0};
	struct queue_view views[VIEWS];
	size_t n, seen = 0;

	while ((n = core_queues(s->core, STR("*"), &cursor, views, VIEWS))) {
		for (size_t i = 0; i < n; i++)
			look(s, &views[i], ms);
		seen += n;
	}
	return seen;
}

void tally_probe(struct sim *s)
{
	size_t seen = look_at_all(s, s->now - s->probed_ms);
	int64_t step = s->probe_ms * (1 + (int64_t)(seen / SIM_PROBE_QUEUES));

	s->probed_ms = s->now;
	s->next_probe_ms = s->now + step / 2 + (int64_t)(sim_chance(s) * (double)step);
	if (s->next_probe_ms <= s->now)
		s->next_probe_ms = s->now + 1;
}

/* ---- the end ---- */

/* Points in which nothing happened are as the one before. */
static void fill_series(uint64_t *series, size_t n)
{
	uint64_t last = 0;

	for (size_t i = 0; i < n; i++) {
		if (series[i] == UINT64_MAX)
			series[i] = last;
		last = series[i];
	}
}

static void age_of_rest(struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	job_ref refs[JOBS];
	bool more = true;

	while (more) {
		size_t n = core_jobs(s->core, &cursor, refs, JOBS, 10 * JOBS, &more);

		for (size_t i = 0; i < n; i++) {
			struct job_view v;
			struct queue_row *q;
			int64_t age;

			if (!core_job(s->core, refs[i], &v))
				continue;
			q = queue_row(s, v.queue);
			age = s->now - v.arrived_ms;
			s->left++;
			if (age > s->left_oldest_ms)
				s->left_oldest_ms = age;
			if (age > q->oldest_ms)
				q->oldest_ms = age;
		}
	}
}

void tally_end(struct sim *s)
{
	struct node **all = table_list(&s->queues);

	tally_probe(s);
	for (size_t i = 0; all[i]; i++) { /* one that is not there any more is empty */
		struct queue_row *q = OWNER(all[i], struct queue_row, node);

		if (q->seen_ms != s->now)
			q->in_queue = 0;
	}
	free(all);
	age_of_rest(s);
	s->points = (size_t)((s->now - SIM_START + s->sample_ms - 1) / s->sample_ms);
	fill_series(s->series_backlog, s->points);
	for (size_t i = 0; i < s->receiver_count; i++)
		fill_series(s->receivers[i].series_backlog, s->points);
}

/* ---- sorted, for reports ---- */

static int by_peak(const void *a, const void *b)
{
	const struct queue_row *x = *(struct queue_row *const *)a,
			       *y = *(struct queue_row *const *)b;

	if (x->peak != y->peak)
		return x->peak > y->peak ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int by_tenant(const void *a, const void *b)
{
	const struct tenant_row *x = *(struct tenant_row *const *)a,
				*y = *(struct tenant_row *const *)b;

	return x->in != y->in ? (x->in > y->in ? -1 : 1) : strcmp(x->name, y->name);
}

static int by_fired(const void *a, const void *b)
{
	const struct rule_row *x = *(struct rule_row *const *)a, *y = *(struct rule_row *const *)b;

	return x->fired != y->fired ? (x->fired > y->fired ? -1 : 1) : strcmp(x->name, y->name);
}

/* The owners of a table's nodes; every row begins with its node. */
static void **list(const struct table *t, size_t *n, int (*order)(const void *, const void *))
{
	struct node **all = table_list(t);

	*n = t->count;
	qsort(all, *n, sizeof(*all), order);
	return (void **)all;
}

/* Without those in which mail only stood while its route was asked for. */
struct queue_row **tally_queues(const struct sim *s, size_t *n)
{
	struct queue_row **all = (struct queue_row **)list(&s->queues, n, by_peak);
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++)
		if (all[i]->delivered + all[i]->bounced + all[i]->deferrals + all[i]->in_queue)
			all[kept++] = all[i];
	*n = kept;
	return all;
}

struct tenant_row **tally_tenants(const struct sim *s, size_t *n)
{
	return (struct tenant_row **)list(&s->tenants, n, by_tenant);
}

struct rule_row **tally_rules(const struct sim *s, size_t *n)
{
	return (struct rule_row **)list(&s->rules, n, by_fired);
}

/* ---- life ---- */

static uint64_t *new_series(size_t points, uint64_t value)
{
	uint64_t *series = xcalloc(points + 1, sizeof(*series));

	for (size_t i = 0; i <= points; i++)
		series[i] = value;
	return series;
}

void tally_init(struct sim *s)
{
	int64_t duration = s->end_ms - SIM_START;
	int64_t least = (duration + SIM_POINTS - 1) / SIM_POINTS;
	size_t points;

	s->sample_ms = conf_num(s->conf_sim, CO_SIMULATION_sample);
	if (s->sample_ms < least)
		s->sample_ms = least;
	s->probe_ms = duration / SIM_PROBES < 100 ? 100 : duration / SIM_PROBES;
	s->probed_ms = s->now;
	s->next_probe_ms = s->now + s->probe_ms;
	points = (size_t)(duration / s->sample_ms) + 1;
	s->series_backlog = new_series(points, UINT64_MAX);
	s->series_delivered = new_series(points, 0);
	for (size_t i = 0; i < s->receiver_count; i++) {
		s->receivers[i].series_backlog = new_series(points, UINT64_MAX);
		s->receivers[i].series_taken = new_series(points, 0);
	}
	s->events = xcalloc(SIM_EVENTS, sizeof(*s->events));
	s->modes = xcalloc(SIM_EVENTS, sizeof(*s->modes));
	s->more_queues = xcalloc(1, sizeof(*s->more_queues));
	s->more_queues->name = xstrdup("(other queues)");
}

static void event_fini(struct event_row *e)
{
	free(e->scope);
	free(e->from);
	free(e->to);
	free(e->text);
	free(e->rule);
}

static void queue_free(struct queue_row *q)
{
	free(q->name);
	free(q);
}

void tally_fini(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->repeats)))
		table_remove(&s->repeats, n);
	for (size_t i = 0; i < s->event_count; i++)
		event_fini(&s->events[i]);
	for (size_t i = 0; i < s->mode_count; i++)
		event_fini(&s->modes[i]);
	while ((n = table_any(&s->queues))) {
		table_remove(&s->queues, n);
		queue_free(OWNER(n, struct queue_row, node));
	}
	while ((n = table_any(&s->tenants))) {
		table_remove(&s->tenants, n);
		free(OWNER(n, struct tenant_row, node));
	}
	while ((n = table_any(&s->rules))) {
		struct rule_row *r = OWNER(n, struct rule_row, node);

		table_remove(&s->rules, n);
		free(r->name);
		free(r);
	}
	queue_free(s->more_queues);
	free(s->events);
	free(s->modes);
	free(s->series_backlog);
	free(s->series_delivered);
}

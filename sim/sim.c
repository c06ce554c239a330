/* SPDX-License-Identifier: ISC */
/*
 * The frame of the simulation: virtual time, and the core's decisions carried out.
 *
 * What is to happen stands in a heap, in order of time and, within a millisecond, of its making;
 * time jumps from one happening to the next, or to the core's own next tick. Each happening is told
 * to the core as qmgr's shell would tell it, and the decisions that follow are drained at once.
 * Nothing here decides anything about mail: that is the core's, the same code that runs in qmgr.
 * Chance comes from one generator, so that a file and a seed give the same report every time.
 */
#include "sim/impl.h"
#include <stdlib.h>

uint64_t sim_random(struct sim *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return s->random;
}

double sim_chance(struct sim *s)
{
	return (double)(sim_random(s) >> 11) * 0x1p-53;
}

/* ---- what is to happen ---- */

static bool is_before(const struct happening *a, const struct happening *b)
{
	return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

void sim_at(struct sim *s, int64_t at_ms, enum happening_kind kind, void *what)
{
	struct happening h = {at_ms, ++s->order, kind, what};
	size_t i = s->heap_count++;

	if (i == s->heap_cap) {
		s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 1024;
		s->heap = xrealloc(s->heap, s->heap_cap * sizeof(h));
	}
	for (; i && is_before(&h, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = h;
}

static struct happening take_next(struct sim *s)
{
	struct happening top = s->heap[0], last = s->heap[--s->heap_count];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < s->heap_count) {
		if (child + 1 < s->heap_count && is_before(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!is_before(&s->heap[child], &last))
			break;
		s->heap[i] = s->heap[child];
		i = child;
	}
	s->heap[i] = last;
	return top;
}

static void happen(struct sim *s, const struct happening *h)
{
	switch (h->kind) {
	case HAPPENS_MAIL:
		load_come(s, h->what);
		break;
	case HAPPENS_ROUTE:
		receiver_answer(s, h->what);
		break;
	case HAPPENS_READY:
		session_ready(s, h->what);
		break;
	case HAPPENS_RESULT:
		session_result(s, h->what);
		break;
	case HAPPENS_CLOSED:
		session_closed(s, h->what);
		break;
	}
}

/* ---- decisions ---- */

static void decide(struct sim *s, const struct core_decision *d)
{
	switch (d->kind) {
	case DECIDE_RESOLVE:
		receiver_route(s, d->domain, d->hosts);
		break;
	case DECIDE_GRANT:
		s->grants++;
		session_grant(s, d);
		break;
	case DECIDE_SEND:
		s->sends++;
		session_send(s, d);
		break;
	case DECIDE_CLOSE:
		session_close(s, d);
		break;
	case DECIDE_DONE:
		tally_done(s, d);
		break;
	case DECIDE_EVENT:
		tally_event(s, &d->event);
		break;
	case DECIDE_DELAYED: /* reports and what is kept for a restart: nobody needs them here */
	case DECIDE_CHANGED:
	case DECIDE_STATE:
		break;
	}
}

static void drain(struct sim *s)
{
	struct core_decision d;

	while (core_next(s->core, &d))
		decide(s, &d);
}

/* ---- time ---- */

static bool is_over(const struct sim *s)
{
	return s->loads_left == 0 && s->delivered + s->bounced + s->expired == s->in;
}

static int64_t next_time(const struct sim *s, int64_t tick)
{
	int64_t next = s->next_probe_ms;

	if (tick < next)
		next = tick;
	if (s->heap_count && s->heap[0].at_ms < next)
		next = s->heap[0].at_ms;
	return next;
}

void sim_run(struct sim *s)
{
	drain(s);
	while (!is_over(s)) {
		int64_t tick = core_next_ms(s->core), next = next_time(s, tick);

		if (next >= s->end_ms)
			break;
		if (next > s->now)
			s->now = next;
		if (tick <= s->now) {
			core_tick(s->core, s->now);
			drain(s);
		}
		while (s->heap_count && s->heap[0].at_ms <= s->now) {
			struct happening h = take_next(s);

			happen(s, &h);
			drain(s);
		}
		if (s->next_probe_ms <= s->now)
			tally_probe(s);
	}
	if (!is_over(s))
		s->now = s->end_ms;
	tally_end(s);
}

/* ---- names ---- */

struct kept_name {
	struct node node;
	struct str text;
	char p[];
};

const char *sim_name(struct sim *s, struct str text)
{
	uint64_t hash = hash_bytes(1, text);
	struct kept_name *k;

	for (struct node *n = table_first(&s->names, hash); n; n = table_next(n)) {
		k = OWNER(n, struct kept_name, node);
		if (str_eq(k->text, text))
			return k->p;
	}
	k = xcalloc(1, sizeof(*k) + text.n + 1);
	if (text.n)
		memcpy(k->p, text.p, text.n);
	k->text = (struct str){k->p, text.n};
	table_add(&s->names, &k->node, hash);
	return k->p;
}

static void free_names(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->names))) {
		table_remove(&s->names, n);
		free(OWNER(n, struct kept_name, node));
	}
}

/* ---- life ---- */

struct sim *sim_new(const struct conf *conf)
{
	struct sim *s = xcalloc(1, sizeof(*s));
	struct table *tables[] = {&s->conns, &s->hosts, &s->queues, &s->tenants, &s->rules,
	    &s->matches, &s->names, &s->repeats};
	uint64_t seed;

	s->conf = conf;
	s->conf_sim = conf_next(conf->root, CONF_SIMULATION, NULL);
	must(s->conf_sim);
	seed = (uint64_t)conf_num(s->conf_sim, CO_SIMULATION_seed);
	s->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	s->now = SIM_START;
	s->end_ms = SIM_START + conf_num(s->conf_sim, CO_SIMULATION_duration);
	for (size_t i = 0; i < COUNT_OF(tables); i++)
		table_init(tables[i]);
	s->matcher = matcher_new(conf);
	s->core = core_new(seed, s->now);
	core_configure(s->core, conf, s->now);
	core_worker_up(s->core, 0, s->now);
	core_start(s->core, s->now);
	receiver_all(s);
	tally_init(s);
	load_all(s);
	return s;
}

void sim_free(struct sim **at)
{
	struct sim *s = *at;
	struct table *tables[] = {&s->conns, &s->hosts, &s->queues, &s->tenants, &s->rules,
	    &s->matches, &s->names, &s->repeats};

	while (s->heap_count) { /* questions on their way are the heap's */
		struct happening h = take_next(s);

		if (h.kind == HAPPENS_ROUTE)
			free(h.what);
	}
	session_fini(s);
	load_fini(s);
	receiver_fini(s);
	hits_fini(s);
	tally_fini(s);
	free_names(s);
	for (size_t i = 0; i < COUNT_OF(tables); i++)
		table_fini(tables[i]);
	core_free(&s->core);
	matcher_free(&s->matcher);
	free(s->heap);
	free(s->results);
	free(s->hits);
	free(s->texts);
	free(s);
	*at = NULL;
}

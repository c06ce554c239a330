/* SPDX-License-Identifier: ISC */
/*
 * Drives the walks: gives each its questions and answers, holds its deadline, and tells those who
 * wait for the route. A domain that is asked for while its walk is under way joins that walk. So
 * many domains at once that memory or sockets would run short wait their turn; a route is never
 * guessed.
 */
#include "resolver/routes.h"
#include "resolver/cache.h"
#include "resolver/walk.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum run_kind { RUN_DOMAIN, RUN_HOST };
struct run {
	struct table_node node; /* first; by domain and kind */
	struct routes *all;
	struct run *next, *prev;
	struct route_wait *waits, **waits_end;
	struct walk *walk;	  /* owned; NULL while it waits for its turn */
	struct query_wait *asked; /* owned; one for each slot of the walk */
	struct loop_timer deadline;
	char domain[NAME_TEXT];
};
struct run_list {
	struct run *first, *last;
	size_t count;
};
struct routes {
	struct loop *loop;
	struct queries *queries;
	const struct mx_rules *rules;
	struct table table;
	struct run_list waiting, working;
	struct loop_timer wake;
	struct routes_stats stats;
};

const char *route_class_name(enum route_class class)
{
	static const char *const names[ROUTE_CLASS_COUNT] = {
	    [ROUTE_OK] = "ok",
	    [ROUTE_NO_DOMAIN] = "no-domain",
	    [ROUTE_NULL_MX] = "null-mx",
	    [ROUTE_NO_HOST] = "no-host",
	    [ROUTE_TEMPORARY] = "temporary",
	    [ROUTE_BAD_NAME] = "bad-name",
	    [ROUTE_SELF] = "self",
	};
	return class < ROUTE_CLASS_COUNT ? names[class] : "?";
}

static void list_put(struct run_list *l, struct run *run)
{
	run->next = NULL;
	run->prev = l->last;
	*(l->last != NULL ? &l->last->next : &l->first) = run;
	l->last = run;
	l->count++;
}

static void list_take(struct run_list *l, struct run *run)
{
	*(run->prev != NULL ? &run->prev->next : &l->first) = run->next;
	*(run->next != NULL ? &run->next->prev : &l->last) = run->prev;
	run->next = run->prev = NULL;
	l->count--;
}

static void run_free(struct run *run)
{
	struct routes *all = run->all;
	for (unsigned i = 0; run->asked != NULL && i < WALK_PARALLEL; i++)
		queries_cancel(&run->asked[i]);
	while (run->waits != NULL) {
		struct route_wait *w = run->waits;
		run->waits = w->next;
		w->run = NULL;
	}
	loop_timer_cancel(all->loop, &run->deadline);
	list_take(run->walk == NULL ? &all->waiting : &all->working, run);
	table_remove(&all->table, &run->node);
	walk_free(&run->walk);
	free(run->asked);
	free(run);
}

/* The bounds of a route's life: its parts' least, never so short that qmgr asks without end. */
static void bound_ttl(struct mx_route *route)
{
	if (route->ttl_s < CACHE_TTL_FLOOR_S)
		route->ttl_s = CACHE_TTL_FLOOR_S;
	if (route->ttl_s > CACHE_TTL_CEILING_S)
		route->ttl_s = CACHE_TTL_CEILING_S;
}

static void wake(struct routes *all);

static void finish(struct run *run)
{
	struct routes *all = run->all;
	struct mx_route route;
	walk_route(run->walk, all->rules, &route);
	bound_ttl(&route);
	all->stats.resolved[route.class]++;
	while (run->waits != NULL) {
		struct route_wait *w = run->waits;
		run->waits = w->next;
		w->run = NULL;
		w->fn(w->arg, &route);
	}
	mx_route_fini(&route);
	run_free(run);
	if (all->waiting.first != NULL)
		wake(all);
}

static void on_answer(
    void *arg, struct query_wait *wait, const struct answer *a, uint32_t ttl_s, bool secure);

/* Asks what the walk wants to know, until it must wait or knows its route (then `run` is gone). */
static void drive(struct run *run)
{
	struct walk_question question;
	while (walk_next(run->walk, &question)) {
		struct query_wait *wait = &run->asked[question.slot];
		uint32_t ttl_s;
		bool secure;
		*wait = (struct query_wait){.fn = on_answer, .arg = run, .slot = question.slot};
		const struct answer *a = queries_ask(
		    run->all->queries, question.name, question.type, wait, &ttl_s, &secure);
		if (a != NULL)
			walk_answer(run->walk, question.slot, a, ttl_s, secure);
	}
	if (walk_done(run->walk))
		finish(run);
}

static void on_answer(
    void *arg, struct query_wait *wait, const struct answer *a, uint32_t ttl_s, bool secure)
{
	struct run *run = arg;
	walk_answer(run->walk, wait->slot, a, ttl_s, secure);
	drive(run);
}

static void on_deadline(void *arg)
{
	struct run *run = arg;
	run->all->stats.deadlines++;
	for (unsigned i = 0; i < WALK_PARALLEL; i++)
		queries_cancel(&run->asked[i]);
	walk_give_up(run->walk);
	finish(run);
}

static void start(struct run *run)
{
	struct routes *all = run->all;
	list_take(&all->waiting, run);
	list_put(&all->working, run);
	run->walk = run->node.type == RUN_HOST ? walk_new_host(run->domain) : walk_new(run->domain);
	run->asked = xcalloc(WALK_PARALLEL, sizeof(*run->asked));
	loop_timer_after(all->loop, &run->deadline, WALK_DEADLINE_MS, on_deadline, run);
	drive(run);
}

static void start_waiting(void *arg)
{
	struct routes *all = arg;
	while (all->waiting.first != NULL && all->working.count < WALKS_MAX)
		start(all->waiting.first);
}

static void wake(struct routes *all)
{
	loop_timer_after(all->loop, &all->wake, 0, start_waiting, all);
}

static void tell_now(struct routes *all, struct route_wait *wait, struct mx_route *route)
{
	bound_ttl(route);
	all->stats.resolved[route->class]++;
	wait->fn(wait->arg, route);
	mx_route_fini(route);
}

static struct run *run_new(struct routes *all, const char *domain, enum run_kind kind)
{
	struct run *run = xcalloc(1, sizeof(*run));
	run->all = all;
	run->waits_end = &run->waits;
	str_copy(run->domain, sizeof(run->domain), str_of(domain));
	run->node.name = run->domain;
	run->node.type = (uint16_t)kind;
	table_insert(&all->table, &run->node);
	list_put(&all->waiting, run);
	return run;
}

static void join(struct routes *all, const char *name, enum run_kind kind, struct route_wait *wait)
{
	struct mx_route route;
	struct run *run = (struct run *)(void *)table_find(&all->table, name, (uint16_t)kind);
	if (run == NULL && all->table.count >= DOMAINS_MAX) {
		route = (struct mx_route){
		    .class = ROUTE_TEMPORARY, .text = "the resolver is overloaded"};
		all->stats.overloads++;
		tell_now(all, wait, &route);
		return;
	}
	bool fresh = run == NULL;
	if (fresh)
		run = run_new(all, name, kind);
	wait->next = NULL;
	wait->run = run;
	*run->waits_end = wait;
	run->waits_end = &wait->next;
	if (fresh && all->working.count < WALKS_MAX)
		start(run);
}

void routes_ask(struct routes *all, struct str domain, struct route_wait *wait)
{
	char name[NAME_TEXT];
	struct mx_route route = {.class = ROUTE_BAD_NAME, .text = "not a host name"};
	route.ttl_s = CACHE_TTL_CEILING_S;
	if (mx_literal(&route, all->rules, domain) || name_from_text(name, domain) != 0 ||
	    name_is_address(name)) {
		route.ttl_s = CACHE_TTL_CEILING_S;
		tell_now(all, wait, &route);
		return;
	}
	join(all, name, RUN_DOMAIN, wait);
}

void routes_ask_host(struct routes *all, struct str host, struct route_wait *wait)
{
	char name[NAME_TEXT];
	struct mx_route route = {.class = ROUTE_BAD_NAME, .text = "not a host name"};
	if (name_from_text(name, host) != 0 || name_is_address(name))
		tell_now(all, wait, &route);
	else
		join(all, name, RUN_HOST, wait);
}

void routes_cancel(struct route_wait *wait)
{
	struct run *run = wait->run;
	if (run == NULL)
		return;
	struct route_wait **at = &run->waits;
	while (*at != wait)
		at = &(*at)->next;
	*at = wait->next;
	if (run->waits_end == &wait->next)
		run->waits_end = at;
	wait->run = NULL;
}

struct routes *routes_new(struct loop *loop, struct queries *queries)
{
	static const struct mx_rules no_rules;
	uint8_t key[16];
	struct routes *r = xcalloc(1, sizeof(*r));
	must(getrandom(key, sizeof(key), 0) == (ssize_t)sizeof(key));
	r->loop = loop;
	r->queries = queries;
	r->rules = &no_rules;
	table_init(&r->table, key);
	return r;
}

void routes_free(struct routes **routes)
{
	struct routes *r = *routes;
	*routes = NULL;
	if (r == NULL)
		return;
	loop_timer_cancel(r->loop, &r->wake);
	while (r->waiting.first != NULL)
		run_free(r->waiting.first);
	while (r->working.first != NULL)
		run_free(r->working.first);
	table_fini(&r->table);
	free(r);
}

void routes_use(struct routes *r, const struct mx_rules *rules)
{
	r->rules = rules;
}

void routes_stats(const struct routes *r, struct routes_stats *out)
{
	*out = r->stats;
	out->at_work = r->working.count;
	out->waiting = r->waiting.count;
}

/* SPDX-License-Identifier: ISC */
/*
 * Where mail goes. First, of a domain by a virtual MTA: to which destination, and by whose route.
 *
 * The route is the domain's own, or another's: `queue-to` names another destination in its place
 * (and that one perhaps a third; a loop ends the chain where it began), and `smtp-hosts` names the
 * hosts themselves. The destination is the domain if `domains` names it, else the provider whose
 * hosts the route leads to, else the site of the route; a single domain's, too, where
 * disable-mx-rollup says so. All of this may differ from virtual MTA to virtual MTA. What a
 * provider says about places is known only when the MX records of a domain are: where any provider
 * says something, they are asked for first, and where they cannot be had, what "*" says holds.
 *
 * Mail whose route is not known yet waits in a queue of its own domain. Nothing is remembered here:
 * where a configuration has no such options, an answer costs a pointer or two, else a few look-ups.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>

enum {
	QUEUE_TO_MAX = 8, /* a chain of queue-to: stops loops */
	REROUTE_MAX = 8,  /* a chain of reroutes: likewise */
};

/* Finds, and makes what is missing; without `make` it only finds. */
struct finder {
	const struct core *core;
	struct core *make;
	bool missing;
};

static struct domain *find_domain(struct finder *f, struct str name)
{
	return f->make ? domain_get(f->make, name) : domain_find(f->core, name);
}

static struct domain *find_fixed(struct finder *f, struct str hosts, const struct domain *asker)
{
	return f->make ? domain_fixed(f->make, hosts, asker) : domain_find_fixed(f->core, hosts);
}

static struct dest *find_own(struct finder *f, struct domain *d)
{
	return f->make ? domain_own(f->make, d) : d->own;
}

/* ---- without options that say where ---- */

static void plain(struct finder *f, struct domain *d, struct vmta *vmta, struct place *p)
{
	bool routed = d->route != NULL;

	*p = (struct place){.dest = routed && !d->literal ? d->site : find_own(f, d),
	    .route = d,
	    .routed = routed,
	    .vmta = vmta};
}

/* ---- with them ---- */

struct options {
	const struct conf_node *layers[VALUE_LAYERS];
	bool early; /* its provider is not known, and may have a word */
};

/* Nothing more will be known of its MX records soon. */
static bool is_known(const struct domain *d)
{
	return d->route || d->answered || d->dns_failures > 0;
}

static void read_options(struct finder *f, struct domain *d, struct vmta *vmta, struct options *o)
{
	struct value_of of = {name_str(d->name),
	    f->core->provider_places && d->route ? name_str(d->provider) : STR("")};

	value_layers(f->core, &of, vmta, o->layers);
	o->early = f->core->provider_places && !is_known(d);
}

/* The option as it holds; *wait: the MX records must be known first. */
static const struct conf_value *option(const struct options *o, enum conf_opt opt, bool *wait)
{
	const struct conf_value *v;
	int layer = value_pick(o->layers, opt, &v);

	*wait |= o->early && layer >= VALUE_LAYERS / 3; /* nothing on the domain itself */
	return v;
}

static struct str option_text(const struct options *o, enum conf_opt opt, bool *wait)
{
	return str_of(option(o, opt, wait)->text);
}

static void wait_for(struct finder *f, struct domain *d, struct domain *route, struct place *p)
{
	p->route = route;
	p->routed = false;
	p->dest = find_own(f, d);
}

/* The end of the chain of queue-to that starts at d; NULL: it is a loop. *wait: the MX of what is
 * returned must be known first. */
static struct domain *follow(
    struct finder *f, struct domain *d, struct vmta *vmta, struct options *o, bool *wait)
{
	struct domain *at = d;

	for (unsigned i = 0; i <= QUEUE_TO_MAX; i++) {
		struct str to;

		read_options(f, at, vmta, o);
		to = option_text(o, CO_DOMAIN_queue_to, wait);
		if (*wait || to.n == 0 || str_eq(to, name_str(at->name)))
			return at;
		at = find_domain(f, to);
		if (!at) {
			f->missing = true;
			return d;
		}
	}
	return NULL;
}

static void complain(struct finder *f, const struct domain *d, const struct vmta *vmta)
{
	char text[200];
	int n = snprintf(text, sizeof(text),
	    "queue-to leads round in a circle or too far: the mail goes by %.*s",
	    d->name->n < 100 ? d->name->n : 100, d->name->p);

	if (f->make)
		place_error(f->make, name_str(d->name), vmta,
		    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1});
}

/* `at` ends the chain; its options are o. */
static void choose(
    struct finder *f, struct domain *d, struct domain *at, const struct options *o, struct place *p)
{
	bool wait = false, alone, discard;
	struct str hosts = option_text(o, CO_DOMAIN_smtp_hosts, &wait);

	alone = option(o, CO_DOMAIN_disable_mx_rollup, &wait)->num != 0 || at->literal;
	discard = option(o, CO_DOMAIN_type, &wait)->num != 0;
	if (wait) {
		wait_for(f, d, at, p);
		return;
	}
	p->route = hosts.n ? find_fixed(f, hosts, d) : at;
	p->routed = discard || (p->route && p->route->route);
	if (!p->route) {
		f->missing = true;
		return;
	}
	if (!p->routed)
		p->dest = find_own(f, d);
	else if (alone || !p->route->route)
		p->dest = find_own(f, at);
	else if (f->core->provider_places && at->route && at->provider)
		p->dest = at->site;
	else
		p->dest = p->route->site;
}

static bool find_by_options(struct finder *f, struct domain *d, struct vmta *vmta, struct place *p)
{
	struct options o;
	struct domain *at;
	bool wait = false;

	*p = (struct place){.vmta = vmta};
	at = follow(f, d, vmta, &o, &wait);
	if (!at) {
		complain(f, d, vmta);
		at = d;
		read_options(f, at, vmta, &o);
	}
	if (f->missing)
		return false;
	if (wait)
		wait_for(f, d, at, p);
	else
		choose(f, d, at, &o, p);
	return !f->missing && p->dest;
}

static bool find(struct finder *f, struct domain *d, struct vmta *vmta, struct place *p)
{
	if (f->core->places)
		return find_by_options(f, d, vmta, p);
	plain(f, d, vmta, p);
	return p->dest != NULL;
}

void place_find(struct core *core, struct domain *d, struct vmta *vmta, struct place *p)
{
	struct finder f = {.core = core, .make = core};

	must(find(&f, d, vmta, p));
}

bool place_look(const struct core *core, struct domain *d, struct vmta *vmta, struct place *p)
{
	struct finder f = {.core = core};

	return find(&f, d, vmta, p);
}

struct domain *place_route(struct core *core, const struct queue *q, struct domain *d)
{
	struct place p;

	if (!core->places)
		return d;
	place_find(core, d, q->vmta, &p);
	return p.route;
}

bool place_serves(struct core *core, const struct conn *c, struct domain *d)
{
	struct domain *route;

	if (c->general && !c->queue->dest->rollup)
		return true;
	if (c->domain == d)
		return true;
	route = place_route(core, c->queue, d);
	return route->site == c->queue->dest && domain_best(route, c->host, c->port);
}

/* It need not be moved first. */
bool place_is_here(struct core *core, const struct queue *q, const struct job *j)
{
	struct place p;

	place_find(core, core->domain_at[j->domain], q->vmta, &p);
	return p.routed && p.dest == q->dest;
}

struct str core_destination(const struct core *core, struct str name)
{
	struct domain *d = domain_find(core, name);
	struct vmta *vmta = vmta_default(core);
	struct place p;

	if (!d || !place_look(core, d, vmta, &p) || !p.routed)
		return STR("");
	return name_str(p.dest->name);
}

/* ---- mail ---- */

/* What mail of this queue is rerouted to, "": nothing. */
static const char *reroute_of(struct core *core, const struct queue *q)
{
	const char *to = mode_reroute(q);

	if (*to)
		return to;
	return *q->v.reroute ? q->v.reroute : warmup_overflow(core, q);
}

static bool among(struct vmta *const *seen, size_t n, const struct vmta *v)
{
	for (size_t i = 0; i < n; i++)
		if (seen[i] == v)
			return true;
	return false;
}

/* The virtual MTA of that name, or one that is drawn from the pool of that name; NULL: none. */
static struct vmta *target(struct core *core, struct str name, const struct dest *dest,
    struct vmta *const * not, size_t not_count, struct name **pool)
{
	struct pool *p = pool_find(core, name);
	struct vmta *v = p ? pool_draw(core, p, dest, not, not_count) : vmta_find(core, name);

	*pool = p ? pool_name(p) : NULL;
	return v && v->conf && !among(not, not_count, v) ? v : NULL;
}

static void settle(struct core *core, struct domain *d, struct vmta *vmta, struct name *pool,
    struct queue *at, struct place *p)
{
	place_find(core, d, vmta, p);
	p->pool = pool;
	p->queue =
	    at && at->dest == p->dest && at->vmta == vmta ? at : queue_get(core, p->dest, vmta);
}

/* A member of a pool that cannot send gives its mail to one that can. */
static void redraw(struct core *core, struct domain *d, struct place *p)
{
	struct pool *pool = p->pool && p->routed ? pool_find(core, name_str(p->pool)) : NULL;
	struct vmta *other;

	if (!pool || pool_can_send(core, p->vmta, p->dest))
		return;
	other = pool_redraw(core, pool, p->dest, p->vmta);
	if (other)
		settle(core, d, other, p->pool, p->queue, p);
}

/* p is where it goes before any reroute. */
static void follow_reroutes(struct core *core, struct domain *d, struct queue *at, struct place *p)
{
	struct vmta *seen[REROUTE_MAX], *next;
	struct place first = *p;
	size_t n = 0;

	while (p->routed) {
		const char *to = reroute_of(core, p->queue);
		struct name *drawn;

		if (!*to)
			return;
		seen[n++] = p->vmta;
		next = target(core, str_of(to), p->dest, seen, n, &drawn);
		if (!next || n == REROUTE_MAX) {
			place_error(core, str_of(first.queue->name), first.vmta,
			    STR("its reroute leads round in a circle or to nothing: the mail "
				"stays"));
			*p = first;
			return;
		}
		settle(core, d, next, drawn, at, p);
		redraw(core, d, p);
	}
}

/* Asked twice or more for each job: the way without pool and reroute is short. */
void place_mail(struct core *core, struct domain *d, struct vmta *vmta, struct name *pool,
    struct queue *at, struct place *p)
{
	settle(core, d, vmta, pool, at, p);
	if (p->pool)
		redraw(core, d, p);
	if (p->routed && *reroute_of(core, p->queue))
		follow_reroutes(core, d, at, p);
}

/* p->pool is one more reference here. */
void place_new(struct core *core, struct domain *d, struct str vmta, struct str pool,
    struct queue *at, struct place *p)
{
	struct str name = vmta.n ? vmta : name_str(core->default_vmta);
	struct pool *from = pool.n ? NULL : pool_find(core, name);
	struct name *drawn = pool.n ? name_get(core, pool) : NULL;
	struct vmta *v = NULL;
	struct place there;

	if (from) {
		place_find(core, d, vmta_get(core, STR("")), &there);
		v = pool_draw(core, from, there.dest, NULL, 0);
		drawn = v ? name_keep(pool_name(from)) : NULL;
	}
	place_mail(core, d, v ? v : vmta_get(core, from ? STR("") : vmta), drawn, at, p);
	if (p->pool)
		name_keep(p->pool);
	name_drop(core, drawn);
}

void place_move(struct core *core, job_ref ref, const struct place *p)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	bool other = lane->share->queue->vmta != p->vmta || lane->pool != p->pool;

	if (lane->share->queue == p->queue && !other)
		return;
	lane_move(core, j, lane_get(core, p->queue, lane->share->tenant, lane->campaign, p->pool));
	if (other)
		outcome_changed(core, ref);
}

void place_reroute(struct core *core, job_ref ref, struct str vmta)
{
	struct job *j = core_at(core, ref);
	struct queue *q = core->lane_at[j->lane]->share->queue;
	int64_t due = j->state == JOB_WAITING ? (int64_t)j->due_ms : 0;
	struct name *pool;
	struct vmta *to = target(core, vmta, q->dest, &q->vmta, 1, &pool);
	struct place p;

	if (!to)
		return; /* not configured any more */
	place_mail(core, core->domain_at[j->domain], to, pool, NULL, &p);
	outcome_loosen(core, ref);
	place_move(core, ref, &p);
	if (due > core->now)
		outcome_wait(core, ref);
	else
		outcome_place(core, ref, false);
}

int core_reroute(
    struct core *core, struct str queue, struct str vmta, struct str who, int64_t now_ms)
{
	struct queue *q = queue_find(core, queue);
	struct vmta *to = vmta_find(core, vmta);

	core_clock(core, now_ms);
	if (!q || (!pool_find(core, vmta) && !(to && to->conf)))
		return -ENOENT;
	if (to == q->vmta)
		return -EINVAL;
	queue_visit(core, q, VISIT_REROUTE, vmta);
	event_push(core, &(struct core_event){.kind = EVENT_REROUTE,
			     .scope = str_of(q->name),
			     .from = name_str(q->vmta->name),
			     .to = vmta,
			     .who = who,
			     .text = STR("what is in the queue now is moved")});
	return 0;
}

/* Once for all lanes: they mostly have one pool. */
void place_lost(struct core *core, struct queue *q)
{
	const struct name *seen = NULL;

	if (core->pools.count == 0 || pool_can_send(core, q->vmta, q->dest))
		return;
	for (struct link *l = q->lanes.next; l != &q->lanes; l = l->next) {
		const struct lane *lane = OWNER(l, struct lane, in_queue);
		struct pool *pool;

		if (!lane->pool || lane->pool == seen)
			continue;
		seen = lane->pool;
		pool = pool_find(core, name_str(lane->pool));
		if (!pool || !pool_redraw(core, pool, q->dest, q->vmta))
			continue;
		queue_visit(core, q, VISIT_REPLACE, STR(""));
		return;
	}
}

void place_found(struct core *core, struct queue *q)
{
	for (struct link *l = q->dest->queues.next; l != &q->dest->queues && core->pools.count;
	     l = l->next)
		if (l != &q->in_dest)
			place_lost(core, OWNER(l, struct queue, in_dest));
}

/* All its mail goes there, waiting mail, too, which keeps its time; and people are told once. */
void place_changed(struct core *core, struct queue *q)
{
	const char *to = mode_reroute(q);

	if (str_eq(str_of(to), name_str(q->rerouted)))
		return;
	event_push(
	    core, &(struct core_event){.kind = EVENT_REROUTE,
		      .scope = str_of(q->name),
		      .from = *to ? name_str(q->vmta->name) : name_str(q->rerouted),
		      .to = *to ? str_of(to) : name_str(q->vmta->name),
		      .text = *to ? STR("its mail, and what comes while this lasts, goes there")
				  : STR("new mail stays here again")});
	name_drop(core, q->rerouted);
	q->rerouted = *to ? name_get(core, str_of(to)) : NULL;
	if (*to)
		queue_visit(core, q, VISIT_REPLACE, STR(""));
}

int64_t place_no_mx_ms(const struct core *core, const struct queue *q, const struct job *j)
{
	struct place p = {.route = core->domain_at[j->domain]};

	if (q->v.no_mx_ms < 0 || !q->routed)
		return NEVER;
	if (core->places && !place_look(core, p.route, q->vmta, &p))
		return NEVER;
	/* By smtp-hosts or queue-to, its own records do not matter. */
	if (!p.route || !p.route->implicit)
		return NEVER;
	return (int64_t)j->arrived_ms + q->v.no_mx_ms;
}

void place_error(struct core *core, struct str scope, const struct vmta *vmta, struct str text)
{
	uint64_t mark = hash_mix(
	    hash_mix(hash_bytes(core->seed, scope), (uintptr_t)vmta), hash_bytes(core->seed, text));
	size_t at = mark % COUNT_OF(core->told);

	if (core->told[at] == mark)
		return;
	core->told[at] = mark;
	event_push(core, &(struct core_event){.kind = EVENT_ERROR, .scope = scope, .text = text});
}

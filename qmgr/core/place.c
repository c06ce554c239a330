/* SPDX-License-Identifier: ISC */
/*
 * Where mail of a domain goes by a virtual MTA: to which destination, and by whose route.
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
#include <stdio.h>

enum { QUEUE_TO_MAX = 8 }; /* a chain of queue-to: stops loops */

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

static void plain(struct finder *f, struct domain *d, struct place *p)
{
	p->route = d;
	p->routed = d->route != NULL;
	p->dest = p->routed && !d->literal ? d->site : find_own(f, d);
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
	int n =
	    snprintf(text, sizeof(text), "queue-to leads round in a circle: the mail goes by %.*s",
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

static bool find(struct finder *f, struct domain *d, struct vmta *vmta, struct place *p)
{
	struct options o;
	struct domain *at;
	bool wait = false;

	*p = (struct place){.vmta = vmta};
	if (!f->core->places) {
		plain(f, d, p);
		return p->dest != NULL;
	}
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

void place_mail(
    struct core *core, struct domain *d, struct vmta *vmta, struct name *pool, struct place *p)
{
	place_find(core, d, vmta, p);
	p->pool = pool;
}

struct lane *place_lane(
    struct core *core, const struct place *p, struct name *tenant, struct name *campaign)
{
	return lane_get(core, queue_get(core, p->dest, p->vmta), tenant, campaign);
}

int64_t place_no_mx_ms(const struct core *core, const struct queue *q, const struct job *j)
{
	const struct domain *d = core->domain_at[j->domain];

	if (!d->implicit || q->v.no_mx_ms < 0 || !q->routed)
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

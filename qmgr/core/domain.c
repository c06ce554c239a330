/* SPDX-License-Identifier: ISC */
/*
 * Recipient domains and their routes. Each domain has its own route, whatever destination it
 * shares; a route is asked for once, used while the new one is on its way, and for a day if none
 * can be had. Fixed routes (smtp-hosts) are domains likewise, whose name is the text of the option:
 * however many domains take one, it is asked for once. Which route a domain's mail takes is
 * place.c's business.
 *
 * What the resolver's answer means:
 *   OK         mail goes to the domain's own queue if `domains` names it, else to its site's
 *   TEMPORARY  asked again after the steps of retry-after-dns-error; no attempt is counted
 *   NO_HOST    permanent, 5.4.4, as RFC 5321 5.1 has it and everybody does: an authoritative answer
 *              says that there is nowhere to go. Name servers that fail are TEMPORARY
 *   the others permanent, with the enhanced codes of the table below
 * A permanent answer holds for its time to live; mail that comes later asks anew.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

static const struct {
	bool permanent;
	const char *status, *text;
} classes[ROUTE_CLASS_COUNT] = {
    [ROUTE_OK] = {false, "2.0.0", ""},
    [ROUTE_NO_DOMAIN] = {true, "5.1.2", "the domain does not exist"},
    [ROUTE_NULL_MX] = {true, "5.1.10", "the domain takes no mail (null MX)"},
    [ROUTE_NO_HOST] = {true, "5.4.4", "no mail host of the domain has an address"},
    [ROUTE_TEMPORARY] = {false, "4.4.3", "the domain's name servers do not answer"},
    [ROUTE_BAD_NAME] = {true, "5.1.2", "not a domain name"},
    [ROUTE_SELF] = {true, "5.4.6", "mail for the domain would come back to this host"},
};

static uint32_t domain_number(struct core *core, struct domain *d)
{
	uint32_t i;

	if (core->domain_frees) {
		i = core->domain_free[--core->domain_frees];
	} else {
		i = ++core->domain_count;
		if ((i & (i - 1)) == 0) {
			core->domain_at =
			    xrealloc(core->domain_at, 2 * i * sizeof(struct domain *));
			core->domain_free = xrealloc(core->domain_free, 2 * i * sizeof(uint32_t));
		}
	}
	core->domain_at[i] = d;
	return i;
}

static uint64_t domain_hash(const struct core *core, struct str name, bool fixed)
{
	return hash_bytes(core->seed, name) + fixed;
}

static struct domain *find(const struct core *core, struct str name, bool fixed)
{
	uint64_t hash = domain_hash(core, name, fixed);

	for (struct node *i = table_first(&core->domains, hash); i; i = table_next(i)) {
		struct domain *d = OWNER(i, struct domain, node);

		if (d->fixed == fixed && str_eq(name_str(d->name), name))
			return d;
	}
	return NULL;
}

struct domain *domain_find(const struct core *core, struct str name)
{
	return find(core, name, false);
}

struct domain *domain_find_fixed(const struct core *core, struct str hosts)
{
	return find(core, hosts, true);
}

static struct domain *domain_new(struct core *core, struct str name, bool fixed)
{
	struct domain *d = xcalloc(1, sizeof(*d));

	d->name = name_get(core, name);
	d->fixed = fixed;
	d->index = domain_number(core, d);
	d->literal = !fixed && value_literal(core, name);
	d->timer.kind = TIMER_DOMAIN;
	link_init(&d->fifo);
	link_init(&d->users);
	table_add(&core->domains, &d->node, domain_hash(core, name, fixed));
	domain_idle(core, d);
	return d;
}

struct domain *domain_get(struct core *core, struct str name)
{
	struct domain *d = domain_find(core, name);

	return d ? d : domain_new(core, name, false);
}

struct domain *domain_fixed(struct core *core, struct str hosts, const struct domain *asker)
{
	struct domain *d = domain_find_fixed(core, hosts);

	if (!d) {
		d = domain_new(core, hosts, true);
		d->asker = name_keep(asker->name);
	}
	return d;
}

struct dest *domain_own(struct core *core, struct domain *d)
{
	if (!d->own)
		d->own = dest_get(core, name_str(d->name), d);
	return d->own;
}

bool domain_best(const struct domain *d, const struct name *host, uint16_t port)
{
	for (uint32_t i = 0; d->route && i < d->route->best_count; i++)
		if (d->route->host[i].name == host && d->route->host[i].port == port)
			return true;
	return false;
}

bool domain_failed(const struct core *core, const struct domain *d, struct str *status)
{
	if (!d->answered || !classes[d->class].permanent || core->now >= d->expires_ms)
		return false;
	*status = str_of(classes[d->class].status);
	return true;
}

/* ---- asking ---- */

static bool fresh(const struct core *core, const struct domain *d)
{
	return d->answered && core->now < d->expires_ms;
}

void domain_want(struct core *core, struct domain *d)
{
	d->used_ms = core->now;
	if (d->asking || d->queued || fresh(core, d))
		return;
	if (core->now < d->ask_ms) {
		wheel_add(core->wheel, &d->timer.node, d->ask_ms);
		return;
	}
	d->queued = true;
	link_append(&core->resolve_fifo, &d->fifo);
}

bool domain_next(struct core *core, struct core_decision *out)
{
	struct domain *d;

	if (link_alone(&core->resolve_fifo) || core->resolving >= CORE_RESOLVES)
		return false;
	d = OWNER(core->resolve_fifo.next, struct domain, fifo);
	link_remove(&d->fifo);
	d->queued = false;
	d->asking = true;
	core->resolving++;
	wheel_add(core->wheel, &d->timer.node, core->now + CORE_RESOLVE_TIMEOUT);
	*out = (struct core_decision){.kind = DECIDE_RESOLVE,
	    .domain = name_str(d->fixed ? d->asker : d->name),
	    .hosts = d->fixed ? name_str(d->name) : STR("")};
	return true;
}

static void not_asking(struct core *core, struct domain *d)
{
	if (d->asking)
		core->resolving--;
	d->asking = false;
	if (d->queued)
		link_remove(&d->fifo);
	d->queued = false;
}

/* ---- the answer ---- */

static void route_free(struct core *core, struct route **route)
{
	for (uint32_t i = 0; *route && i < (*route)->host_count; i++)
		name_drop(core, (*route)->host[i].name);
	free(*route);
	*route = NULL;
}

/* Sums of the hosts' hashes: a set's hash does not depend on its order. */
static void route_hash(const struct core *core, struct route *r)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < r->host_count; i++) {
		sum += hash_mix(hash_bytes(core->seed, name_str(r->host[i].name)),
		    (uint64_t)r->host[i].port << 1 | (i < r->best_count));
		if (i + 1 == r->best_count)
			r->best_hash = sum | 1;
	}
	r->list_hash = sum | 1;
}

static size_t address_count(const struct route_host *h)
{
	return h->address_count < ROUTE_ADDRESSES_MAX ? h->address_count : ROUTE_ADDRESSES_MAX;
}

static struct route *route_new(struct core *core, const struct route_host *hosts, size_t n)
{
	size_t addresses = 0, size;
	struct route_address *next;
	struct route *r;

	if (n > ROUTE_HOSTS_MAX)
		n = ROUTE_HOSTS_MAX;
	for (size_t i = 0; i < n; i++)
		addresses += address_count(&hosts[i]);
	size = sizeof(*r) + n * sizeof(r->host[0]);
	r = xcalloc(1, size + addresses * sizeof(*next));
	next = (struct route_address *)(void *)((char *)r + size);
	for (size_t i = 0; i < n; i++) {
		struct route_entry *e = &r->host[i];

		e->name = name_get(core, str_of(hosts[i].name));
		e->preference = hosts[i].preference;
		e->port = hosts[i].port ? hosts[i].port : core->default_port;
		e->address = next;
		e->address_count = (uint8_t)address_count(&hosts[i]);
		memcpy(next, hosts[i].address, e->address_count * sizeof(*next));
		next += e->address_count;
		r->best_count += r->best_count == i && e->preference == hosts[0].preference;
	}
	r->host_count = (uint32_t)n;
	route_hash(core, r);
	return r;
}

static void set_site(struct core *core, struct domain *d, struct dest *site)
{
	struct dest *old = d->site;

	if (old == site)
		return;
	d->site = site;
	if (site)
		site->domains++;
	if (old) {
		old->domains--;
		dest_drop(core, old);
	}
}

/* Mail of this domain that stands elsewhere moves there, and what waited for the route goes on. */
void domain_moved(struct core *core, struct domain *d, struct dest *from)
{
	struct dest *rollups[] = {from, d->site == from ? NULL : d->site};
	struct link *next;

	for (size_t i = 0; i < COUNT_OF(rollups); i++) {
		struct dest *at = rollups[i];

		for (struct link *l = at ? at->queues.next : NULL; l && l != &at->queues;
		     l = l->next) {
			struct queue *q = OWNER(l, struct queue, in_dest);

			queue_rerouted(core, q);
			if (at == from && (from != d->site || d->literal))
				sweep_now(core, q);
		}
	}
	for (struct link *l = d->own ? d->own->queues.next : NULL; l && l != &d->own->queues;
	     l = l->next) {
		struct queue *q = OWNER(l, struct queue, in_dest);

		queue_rerouted(core, q);
		if (!q->routed)
			sweep_now(core, q);
	}
	for (struct link *l = d->users.next; l != &d->users; l = next) {
		struct queue *q = OWNER(l, struct queue, in_users);

		next = l->next;
		if (q->dest == d->own)
			continue;
		queue_rerouted(core, q);
		if (!q->routed)
			sweep_now(core, q);
	}
	hold_domain_moved(core, d->name);
}

static void set_provider(struct core *core, struct domain *d)
{
	struct name *provider = provider_of_route(core, d->route);

	if (provider)
		name_keep(provider);
	if (d->provider)
		name_drop(core, d->provider);
	d->provider = provider;
}

/* Whether it is named, and whose provider's it is, may be another. */
void domain_configured(struct core *core, struct domain *d)
{
	struct dest *from = d->site;

	d->literal = !d->fixed && value_literal(core, name_str(d->name));
	if (from)
		from->domains++; /* stays while we tell its queues */
	set_provider(core, d);
	set_site(core, d, d->route ? dest_for_route(core, d->route, d->provider, from) : NULL);
	domain_moved(core, d, from);
	if (from) {
		from->domains--;
		dest_drop(core, from);
	}
}

static void use_route(struct core *core, struct domain *d, struct route *route)
{
	struct dest *from = d->site;

	if (from)
		from->domains++; /* stays while we tell its queues */
	route_free(core, &d->route);
	d->route = route;
	set_provider(core, d);
	set_site(core, d, route ? dest_for_route(core, route, d->provider, from) : NULL);
	domain_moved(core, d, from);
	if (from) {
		from->domains--;
		dest_drop(core, from);
	}
}

static void on_failure(struct core *core, struct domain *d, enum route_class class, struct str text)
{
	struct value_of of = {name_str(d->fixed ? d->asker : d->name), name_str(d->provider)};
	struct values v;

	free(d->text);
	d->text = str_dup(text.n ? text : str_of(classes[class].text));
	if (!classes[class].permanent) {
		struct vmta *vmta = vmta_get(core, STR(""));

		value_resolve(core, &of, vmta, &v);
		vmta_drop(core, vmta);
		d->ask_ms = core->now + core_jitter(core, value_step(v.retry_dns, v.retry_dns_count,
							      ++d->dns_failures));
		wheel_add(core->wheel, &d->timer.node, d->ask_ms);
	}
	for (struct link *l = d->users.next; l != &d->users; l = l->next)
		queue_error(core, OWNER(l, struct queue, in_users), str_of(d->text), ERROR_ROUTE);
}

/* A permanent failure: its mail is returned, wherever it stands, in slices. */
static void fail_mail(struct core *core, struct domain *d)
{
	if (d->route)
		use_route(core, d, NULL);
	else
		domain_moved(core, d, d->site);
}

static int64_t lifetime(uint32_t ttl_s)
{
	int64_t ms = ttl_s * SECOND;

	if (ms < CORE_ROUTE_LEAST)
		return CORE_ROUTE_LEAST;
	return ms > CORE_ROUTE_MOST ? CORE_ROUTE_MOST : ms;
}

static void on_ok(
    struct core *core, struct domain *d, int64_t lives, const struct route_host *hosts, size_t n)
{
	free(d->text);
	d->text = NULL;
	d->dns_failures = 0;
	d->stale_ms = core->now + lives + CORE_ROUTE_STALE;
	use_route(core, d, route_new(core, hosts, n));
}

void core_route(struct core *core, const struct core_answer *a, int64_t now_ms)
{
	struct domain *d =
	    a->fixed.n ? domain_find_fixed(core, a->fixed) : domain_find(core, a->domain);
	enum route_class class = a->class;
	unsigned budget = CORE_LOOK;

	core_clock(core, now_ms);
	if (!d)
		return;
	if (class >= ROUTE_CLASS_COUNT || (class == ROUTE_OK && a->host_count == 0))
		class = ROUTE_TEMPORARY; /* nonsense from the resolver */
	not_asking(core, d);
	wheel_cancel(core->wheel, &d->timer.node);
	d->class = class;
	d->answered = class != ROUTE_TEMPORARY;
	d->implicit = a->implicit && class == ROUTE_OK && !d->fixed;
	d->expires_ms = core->now + lifetime(a->ttl_s);
	d->ask_ms = 0;
	if (class == ROUTE_OK) {
		on_ok(core, d, lifetime(a->ttl_s), a->hosts, a->host_count);
	} else {
		on_failure(core, d, class, a->text);
		if (classes[class].permanent)
			fail_mail(core, d);
		else if (d->route && core->now >= d->stale_ms)
			use_route(core, d, NULL);
	}
	domain_idle(core, d);
	if (core->started)
		sweep_run(
		    core, &budget); /* what waited for it goes on at once, a million of it later */
}

bool core_unrouted_queue(
    const struct core *core, struct str domain, size_t n, struct core_conn_view *v)
{
	const struct domain *d = domain_find(core, domain);

	if (!d || !d->own)
		return false;
	for (struct link *l = d->own->queues.next; l != &d->own->queues; l = l->next) {
		const struct queue *q = OWNER(l, struct queue, in_dest);

		if (q->routed || n-- > 0)
			continue;
		*v = (struct core_conn_view){.queue = str_of(q->name),
		    .vmta = name_str(q->vmta->name),
		    .domain = name_str(d->name)};
		return true;
	}
	return false;
}

/* ---- timer and end ---- */

/* One timer: the next question while mail waits for it, else the end of an idle domain. */
void domain_idle(struct core *core, struct domain *d)
{
	if (!wheel_armed(&d->timer.node))
		wheel_add(core->wheel, &d->timer.node, core->now + CORE_LINGER);
}

void domain_timer(struct core *core, struct domain *d)
{
	bool waited_for = !link_alone(&d->users), needed;

	if (d->own) /* looked for, and no queue was made there */
		dest_drop(core, d->own);
	needed = d->jobs || d->conns || d->own || waited_for || core->now < d->ask_ms ||
		 core->now - d->used_ms < CORE_LINGER;
	if (d->asking) /* no answer: the question is lost */
		not_asking(core, d);
	if (!needed && !d->queued) {
		domain_free(core, d);
		return;
	}
	if (waited_for && !d->route)
		domain_want(core, d);
	domain_idle(core, d);
}

void domain_free(struct core *core, struct domain *d)
{
	if (d->own)
		dest_drop(core, d->own);
	wheel_cancel(core->wheel, &d->timer.node);
	not_asking(core, d);
	set_site(core, d, NULL);
	route_free(core, &d->route);
	table_remove(&core->domains, &d->node);
	core->domain_at[d->index] = NULL;
	core->domain_free[core->domain_frees++] = d->index;
	while (!link_alone(&d->users)) {
		OWNER(d->users.next, struct queue, in_users)->route_of = NULL;
		link_remove(d->users.next);
	}
	if (d->asker)
		name_drop(core, d->asker);
	if (d->provider)
		name_drop(core, d->provider);
	name_drop(core, d->name);
	free(d->text);
	free(d);
}

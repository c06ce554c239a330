/* SPDX-License-Identifier: ISC */
/*
 * When to open one more connection, and where to: one source, one MX host, one address.
 *
 * A round tries the addresses of the best preference, at random among equals, then the next ones.
 * An address that failed is passed over for a step of retry-after; when all have failed and no
 * connection is open, the round is over: the queue is held for the step of its consecutive failed
 * rounds, and the next round starts from the best again. While other addresses work, a dead one is
 * probed by one connection at a time. Where domains of a site differ in their worse hosts
 * (`mixed`), there is no hold for all: the jobs of the domain that has nowhere to go wait until one
 * of its addresses may be tried.
 *
 * A queue that finds a limit in the way waits in one line (limit.c): the total's or another one
 * that applies whatever the source; else, where no source and no address is left that could be
 * used, the line of the one that frees first among these. Queues without any connection stand
 * before those that want one more; who gets one goes to the end. Bound: each connection of a queue
 * that has several ends within CORE_ROOM_SLICE transactions more while a queue without any waits
 * for a limit in which it counts (within four times that if it is its queue's only one), so the
 * n-th in line waits for n such ends at most.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

/* ---- addresses that fail ---- */

static struct target *target_find(
    const struct queue *q, const struct route_address *a, uint16_t port)
{
	for (uint32_t i = 0; i < q->target_count; i++) {
		struct target *t = &q->targets[i];

		if (t->port == port && t->address.family == a->family &&
		    memcmp(t->address.bytes, a->bytes, sizeof(a->bytes)) == 0)
			return t;
	}
	return NULL;
}

static struct target *target_get(struct queue *q, const struct route_address *a, uint16_t port)
{
	struct target *t = target_find(q, a, port);

	if (t)
		return t;
	if (q->target_count < CORE_TARGETS) {
		if ((q->target_count & (q->target_count - 1)) == 0) {
			size_t cap = q->target_count ? 2 * (size_t)q->target_count : 1;

			q->targets = xrealloc(q->targets, cap * sizeof(*q->targets));
		}
		t = &q->targets[q->target_count++];
	} else { /* forget the one that may be tried again first */
		t = &q->targets[0];
		for (uint32_t i = 1; i < q->target_count; i++)
			if (q->targets[i].until_ms < t->until_ms)
				t = &q->targets[i];
	}
	*t = (struct target){.address = *a, .port = port};
	return t;
}

static void target_remove(struct queue *q, struct target *t)
{
	*t = q->targets[--q->target_count];
	if (q->target_count == 0) {
		free(q->targets);
		q->targets = NULL;
	} else if ((q->target_count & (q->target_count - 1)) == 0) {
		q->targets = xrealloc(q->targets, q->target_count * sizeof(*q->targets));
	}
}

static void set_ceiling(struct queue *q, uint32_t ceiling)
{
	q->ceiling = ceiling;
	limit_ceiling(q);
}

static void target_failed(struct core *core, struct conn *c)
{
	struct queue *q = c->queue;
	struct target *t = target_get(q, &c->address, c->port);
	/* Connections that failed side by side are one failure. */
	uint32_t failures = t->failures += t->until_ms <= core->now;
	int64_t step = value_step(q->e.retry, q->e.retry_count, failures);
	uint32_t others = q->limit.used - q->closing;

	if (!q->dest->mixed && step > CORE_HOST_SKIP_MAX)
		step = CORE_HOST_SKIP_MAX;
	t->until_ms = core->now + core_jitter(core, step);
	q->tries++;
	set_ceiling(q, others > CORE_START_CONNS ? others : CORE_START_CONNS);
}

/* All addresses of these hosts of its domain are passed over: all hosts, or its own only. */
static void pass_over(struct core *core, const struct conn *c, bool all)
{
	struct queue *q = c->queue;
	const struct route *route = c->domain->route;
	int64_t step = value_step(q->e.retry, q->e.retry_count, q->failures + 1);
	int64_t until = core->now + core_jitter(core, step);

	for (uint32_t i = 0; route && i < route->host_count; i++) {
		const struct route_entry *e = &route->host[i];

		for (int k = 0; (all || e->name == c->host) && k < e->address_count; k++) {
			struct target *t = target_get(q, &e->address[k], e->port);

			if (t->until_ms < until)
				t->until_ms = until;
		}
	}
}

/* All that can be remembered is passed over: one more would be forgotten, and tried again, at once.
 */
static bool targets_full(const struct core *core, const struct queue *q)
{
	for (uint32_t i = 0; i < q->target_count; i++)
		if (q->targets[i].until_ms <= core->now)
			return false;
	return q->target_count == CORE_TARGETS;
}

bool grant_skip(struct core *core, struct conn *c)
{
	struct queue *q = c->queue;
	const struct route *route = c->domain->route;

	if (!c->spent)
		pass_over(core, c, false);
	c->spent = true;
	if (targets_full(core, q))
		return false;
	for (uint32_t i = 0; route && i < route->host_count; i++) {
		const struct route_entry *e = &route->host[i];

		for (int k = 0; e->name != c->host && k < e->address_count; k++) {
			const struct target *t = target_find(q, &e->address[k], e->port);

			if (!t || t->until_ms <= core->now)
				return true;
		}
	}
	return false;
}

void grant_opened(struct core *core, struct conn *c)
{
	struct target *t = c->probe ? target_find(c->queue, &c->address, c->port) : NULL;

	(void)core;
	c->probe = false;
	if (t && t->opening)
		t->opening--;
}

void grant_works(struct core *core, struct conn *c, uint64_t tx)
{
	struct queue *q = c->queue;
	struct target *t = target_find(q, &c->address, c->port);

	if (t && !c->spent) /* else a rule says to pass over it */
		target_remove(q, t);
	source_works(core, c);
	if (tx < q->deferred_from && q->hold_ms > core->now)
		return; /* it was on its way when all was deferred */
	if (q->failures)
		clock_changed(core, q);
	q->failures = q->tries = 0;
	q->hold_ms = 0;
	q->error_of = ERROR_OTHER; /* what it was is over */
	if (q->ceiling < q->e.max_smtp_out)
		set_ceiling(q, q->ceiling + 1);
	queue_dirty(core, q);
}

void grant_failed(struct core *core, struct conn *c, const struct core_failure *f)
{
	struct queue *q = c->queue;

	if (f->cause == CONN_DONE || c->adopted)
		return;
	if (f->text.n)
		queue_error(core, q, f->text, f->was_ready ? ERROR_OTHER : ERROR_CONNECTION);
	/* It has served, or was closed by the peer while it had nothing to do: no failure. */
	if (c->answered || (f->was_ready && c->sent == 0))
		return;
	if (f->cause == CONN_LOCAL && c->path->source->n)
		c->path->blocked_ms = core->now + CORE_LOCAL_HOLD;
	else if (f->cause == CONN_TLS && c->tls == TLS_OPPORTUNISTIC)
		grant_tls_broken(core, c->host);
	else
		target_failed(core, c);
	/* A 421 speaks of the site, unless it is said to speak of that host only. */
	if (f->code == 421 && !q->v.mx_421 && !c->spent)
		pass_over(core, c, true);
}

/* ---- hosts with broken TLS ---- */

static struct tls_broken *tls_find(const struct core *core, const struct name *host)
{
	uint64_t hash = hash_mix(core->seed, (uintptr_t)host);

	for (struct node *i = table_first(&core->tls, hash); i; i = table_next(i))
		if (OWNER(i, struct tls_broken, node)->host == host)
			return OWNER(i, struct tls_broken, node);
	return NULL;
}

static void tls_free(struct core *core, struct tls_broken *t)
{
	table_remove(&core->tls, &t->node);
	link_remove(&t->in_age);
	name_drop(core, t->host);
	free(t);
}

void grant_tls_forget(struct core *core, bool all)
{
	while (!link_alone(&core->tls_age)) {
		struct tls_broken *t = OWNER(core->tls_age.next, struct tls_broken, in_age);

		if (!all && t->until_ms > core->now && core->tls.count <= CORE_TLS_MEMORY)
			return;
		tls_free(core, t);
	}
}

void grant_tls_broken(struct core *core, struct name *host)
{
	struct tls_broken *t = tls_find(core, host);

	if (!t) {
		t = xcalloc(1, sizeof(*t));
		t->host = name_keep(host);
		table_add(&core->tls, &t->node, hash_mix(core->seed, (uintptr_t)host));
	}
	t->until_ms = core->now + CORE_TLS_FORGET;
	link_append(&core->tls_age, &t->in_age);
	grant_tls_forget(core, false);
}

static enum tls_policy tls_for(
    const struct core *core, const struct queue *q, const struct name *host)
{
	const struct tls_broken *t = tls_find(core, host);

	if (q->e.tls_required)
		return TLS_REQUIRED;
	if (!q->v.starttls || (t && t->until_ms > core->now))
		return TLS_OFF;
	return TLS_OPPORTUNISTIC;
}

/* ---- the choice of source, host and address ---- */

/* What a choice has met on its way. */
struct obstacle {
	struct alternatives any;
	int64_t blocked_ms; /* a source that could not be bound may be tried again; NEVER: none */
	bool spare;	    /* not from a source whose connections are idle: they wait */
};

static bool has_idle(const struct queue *q, const struct name *source)
{
	unsigned looks = CORE_CHOICES;

	for (struct link *l = q->idle.next; l != &q->idle && looks; l = l->next, looks--)
		if (OWNER(l, struct conn, in_ready)->path->source == source)
			return true;
	return false;
}

/* There is a source that it could open one from, though it has idle ones. */
static bool has_spare(const struct core *core, const struct queue *q)
{
	const struct vmta *v = vmta_acting(core, q->vmta);

	for (size_t i = 0; i < v->source_count; i++)
		if (!has_idle(q, v->sources[i].address))
			return true;
	return false;
}

static bool source_usable(
    struct core *core, struct queue *q, struct name *source, struct obstacle *o)
{
	struct path *p;
	struct limiter *l;
	int64_t when = 0;

	if (source->n && source_disabled(core, q, source))
		return false;
	if (o->spare && has_idle(q, source))
		return false;
	p = limit_path_of(core, q->dest, source);
	if (p && p->blocked_ms > core->now) {
		if (p->blocked_ms < o->blocked_ms)
			o->blocked_ms = p->blocked_ms;
		return false;
	}
	if (p && p->warm)
		warmup_path(core, q->dest, p); /* perhaps another day */
	if (!p && !core->configured_count)
		return true;
	l = seat_refuses_source(core, q, p, source, &when);
	if (l)
		limit_alternative(&o->any, l, when);
	return !l;
}

struct target_place { /* where to; address NULL: not chosen yet */
	const struct name *host;
	const struct route_address *address;
};

/* The peer's limits let that source in. */
static bool peer_admits(struct core *core, const struct queue *q, const struct name *source,
    const struct target_place *to, struct obstacle *o)
{
	struct limiter *l;
	int64_t when = 0;

	if (!to->address || core->mx_limit_count + core->ip_limit_count == 0)
		return true;
	l = seat_refuses_peer(core, q, source, to->host, to->address, &when);
	if (l)
		limit_alternative(&o->any, l, when);
	return !l;
}

/* In turn. */
static struct source *source_next(struct core *core, struct queue *q, int family,
    const struct target_place *to, bool take, struct obstacle *o)
{
	struct vmta *v = vmta_acting(core, q->vmta);

	for (size_t i = 0; i < v->source_count; i++) {
		size_t k = (v->turn + i) % v->source_count;
		struct source *s = &v->sources[k];

		if (s->family != family || !source_usable(core, q, s->address, o) ||
		    !peer_admits(core, q, s->address, to, o))
			continue;
		if (take)
			v->turn = (k + 1) % v->source_count;
		return s;
	}
	return NULL;
}

enum { FAMILY_4 = 1, FAMILY_6 = 2, FAMILY_ANY = 4 }; /* ANY: no source, the kernel chooses */

static int families(struct core *core, struct queue *q, struct obstacle *o)
{
	const struct target_place anywhere = {NULL, NULL};

	if (vmta_acting(core, q->vmta)->source_count == 0)
		return source_usable(core, q, core->no_source, o) ? FAMILY_ANY : 0;
	return (source_next(core, q, 4, &anywhere, false, o) ? FAMILY_4 : 0) |
	       (source_next(core, q, 6, &anywhere, false, o) ? FAMILY_6 : 0);
}

/* There is a source for that very address. */
static bool reachable(struct core *core, struct queue *q, const struct route_entry *e,
    const struct route_address *a, struct obstacle *o)
{
	const struct target_place to = {e->name, a};

	if (core->mx_limit_count + core->ip_limit_count == 0)
		return true;
	if (vmta_acting(core, q->vmta)->source_count == 0)
		return peer_admits(core, q, core->no_source, &to, o);
	return source_next(core, q, a->family, &to, false, o) != NULL;
}

struct choice {
	const struct route_entry *host;
	const struct route_address *address;
	bool busy; /* one that may be tried is being probed already */
};

static bool has_family(const struct route_entry *e, int family)
{
	for (int i = 0; i < e->address_count; i++)
		if (e->address[i].family == family)
			return true;
	return false;
}

static bool allowed(const struct route_entry *e, int mask, int family)
{
	if (mask & FAMILY_ANY)
		return family == 4 || !has_family(e, 4);
	return mask & (family == 4 ? FAMILY_4 : FAMILY_6);
}

/* One of the host's addresses that may be tried, at random, or NULL. */
static const struct route_address *pick_address(struct core *core, struct queue *q,
    const struct route_entry *e, int family, struct choice *choice, struct obstacle *o)
{
	const struct route_address *found = NULL;
	uint32_t n = 0;

	for (int i = 0; i < e->address_count; i++) {
		const struct target *t = target_find(q, &e->address[i], e->port);

		if (e->address[i].family != family || (t && t->until_ms > core->now))
			continue;
		if (t && t->opening)
			choice->busy = true;
		else if (reachable(core, q, e, &e->address[i], o) && core_random(core) % ++n == 0)
			found = &e->address[i];
	}
	return found;
}

static bool pick_host(struct core *core, struct queue *q, const struct route_entry *from,
    const struct route_entry *end, int mask, int family, struct choice *choice, struct obstacle *o)
{
	uint32_t n = 0;

	for (const struct route_entry *e = from; e < end; e++) {
		const struct route_address *a =
		    allowed(e, mask, family) ? pick_address(core, q, e, family, choice, o) : NULL;

		if (!a || core_random(core) % ++n != 0)
			continue;
		choice->host = e;
		choice->address = a;
	}
	return n > 0;
}

/* Best preference first; IPv4 before IPv6 within one. */
static bool pick(struct core *core, struct queue *q, const struct domain *d, int mask,
    struct choice *choice, struct obstacle *o)
{
	const struct route_entry *e = d->route->host, *all = e + d->route->host_count, *end;

	*choice = (struct choice){0};
	if (q->tries >= CORE_ROUND_TRIES && !q->dest->mixed)
		return false;
	for (; e < all; e = end) {
		for (end = e + 1; end < all && end->preference == e->preference; end++)
			;
		if (pick_host(core, q, e, end, mask, 4, choice, o) ||
		    pick_host(core, q, e, end, mask, 6, choice, o))
			return true;
	}
	return false;
}

/* ---- nowhere to go ---- */

static int64_t first_until(const struct queue *q, const struct domain *d, int64_t now)
{
	int64_t first = NEVER;

	for (uint32_t i = 0; i < d->route->host_count; i++) {
		const struct route_entry *e = &d->route->host[i];

		for (int k = 0; k < e->address_count; k++) {
			const struct target *t = target_find(q, &e->address[k], e->port);

			if (t && t->until_ms > now && t->until_ms < first)
				first = t->until_ms;
		}
	}
	return first;
}

static void end_round(struct core *core, struct queue *q)
{
	int64_t step = value_step(q->e.retry, q->e.retry_count, ++q->failures);

	for (uint32_t i = 0; i < q->target_count; i++)
		q->targets[i].until_ms = 0;
	q->tries = 0;
	set_ceiling(q, CORE_START_CONNS);
	queue_hold(core, q, core->now + core_jitter(core, step));
}

static void job_aside(struct core *core, struct queue *q, job_ref ref, int64_t until)
{
	struct job *j = core_at(core, ref);

	if (until == NEVER)
		until = core->now + core_jitter(core, value_step(q->e.retry, q->e.retry_count, 1));
	lane_take(core, ref);
	j->due_ms = (uint64_t)until & ((UINT64_C(1) << 44) - 1);
	outcome_wait(core, ref);
	queue_dirty(core, q);
}

/* Who enables a source wakes its queues. */
static void no_source(struct core *core, struct queue *q, const struct obstacle *o)
{
	if (o->blocked_ms != NEVER)
		queue_hold(core, q, o->blocked_ms);
}

static void nowhere(
    struct core *core, struct queue *q, job_ref ref, int mask, const struct obstacle *o)
{
	struct domain *d = core->domain_at[core_at(core, ref)->domain];
	int64_t until = first_until(q, place_route(core, q, d), core->now);

	if (mask == 0 && source_wait(core, q))
		return;
	if (mask == 0) {
		no_source(core, q, o);
		return;
	}
	if (until == NEVER && q->tries == 0)
		queue_error(core, q, STR("no address of the family of the virtual MTA's sources"),
		    ERROR_OTHER);
	if (q->dest->mixed)
		job_aside(core, q, ref, until);
	else if (q->limit.used > q->closing && until != NEVER)
		queue_wake_at(core, q, until);
	else if (q->limit.used == q->closing)
		end_round(core, q);
}

/* A limit is in the way, and nothing else could be used: into its line. */
static void wait_for(struct core *core, struct queue *q, struct domain *d, const struct obstacle *o)
{
	int64_t until = first_until(q, place_route(core, q, d), core->now);
	struct claims also = {.n = 0};

	if (o->blocked_ms < until)
		until = o->blocked_ms;
	if (until != NEVER) /* an address that failed, or a source, may be back before */
		queue_wake_at(core, q, until);
	seat_candidates(core, q, &also);
	limit_wait_any(core, &o->any, LINE_OPEN, &q->grant, &also);
}

void grant_unwait(struct core *core, struct queue *q)
{
	limit_leave(core, &q->grant, true);
}

static unsigned choose_worker(const struct core *core)
{
	unsigned best = CORE_WORKERS;

	for (unsigned i = 0; i < core->worker_count; i++)
		if (core->workers[i]->up &&
		    (best == CORE_WORKERS || core->workers[i]->conns < core->workers[best]->conns))
			best = i;
	return best;
}

/* ---- the grant ---- */

/* Names of lists, commas between; a view until the next grant. */
static struct str patterns(struct core *core, const struct values *v)
{
	if (!v->patterns)
		return STR("");
	buf_reset(core->keys);
	for (size_t i = 0; i < v->patterns->count; i++) {
		if (i)
			buf_u8(core->keys, ',');
		buf_cstr(core->keys, v->patterns->texts[i]);
	}
	return (struct str){(const char *)core->keys->p, core->keys->n};
}

static void fill(
    struct core *core, const struct conn *c, const struct source *s, struct core_decision *out)
{
	const struct queue *q = c->queue;
	const struct values *v = &q->v;

	*out = (struct core_decision){.kind = DECIDE_GRANT, .worker = c->worker, .conn = c->id};
	out->domain = name_str(c->domain->name);
	out->grant = (struct core_grant){
	    .queue = str_of(q->name),
	    .domain = out->domain,
	    .source = name_str(c->path->source),
	    .ehlo = name_str(s ? s->ehlo : core->host_name),
	    .host = name_str(c->host),
	    .address = c->address,
	    .port = c->port,
	    .tls = c->tls,
	    .ignore_8bitmime = v->ignore_8bitmime,
	    .patterns = patterns(core, v),
	    .connect_timeout_ms = (uint32_t)v->connect_ms,
	    .greeting_timeout_ms = (uint32_t)v->greeting_ms,
	    .command_timeout_ms = (uint32_t)v->command_ms,
	    .data_timeout_ms = (uint32_t)v->data_ms,
	    .dot_timeout_ms = (uint32_t)v->dot_ms,
	    .idle_timeout_ms = (uint32_t)(v->idle_ms + MINUTE), /* a net below our own timer */
	};
}

static void grant(struct core *core, struct queue *q, struct domain *d, const struct choice *choice,
    unsigned worker, struct obstacle *o, struct core_decision *out)
{
	const struct target_place to = {choice->host->name, choice->address};
	struct source *s = source_next(core, q, choice->address->family, &to, true, o);
	struct target *t = target_find(q, choice->address, choice->host->port);
	struct conn *c =
	    conn_new(core, core->next_id++, worker, q, d, s ? name_str(s->address) : STR(""),
		name_str(choice->host->name), choice->address, choice->host->port);

	c->general = domain_best(place_route(core, q, d), c->host, c->port);
	c->tls = q->e.tls_required ? TLS_REQUIRED : tls_for(core, q, c->host);
	if (t) {
		t->opening++;
		c->probe = true;
	}
	c->ticket = q->grant.ticket;
	seat_connected(core, c);
	fill(core, c, s, out);
}

/* At a provider, what could not take the next job stands in the way of a connection that can: its
 * host may be one domain's alone. */
static void make_room(struct core *core, struct queue *q)
{
	if (q->dest->rollup && !q->e.probe && q->closing == 0 && !link_alone(&q->idle))
		conn_close(core, OWNER(q->idle.prev, struct conn, in_ready), false);
}

/* The source whose turn it would be. */
static void claim_source(struct core *core, struct queue *q, struct claims *also)
{
	const struct vmta *v = vmta_acting(core, q->vmta);
	unsigned looks = CORE_LOOK;

	for (size_t i = 0; i < v->source_count && looks; i++, looks--) {
		struct name *source = v->sources[(v->turn + i) % v->source_count].address;
		struct path *p = dest_path_find(q->dest, source);
		int64_t when = 0;

		if (source_disabled(core, q, source) || (p && p->blocked_ms > core->now) ||
		    seat_refuses_source(core, q, p, source, &when))
			continue;
		source_candidates(core, p, source, also);
		return;
	}
}

/* A limit is in the way of any connection. */
static void wait_whatever(struct core *core, struct queue *q, struct limiter *l)
{
	const struct alternatives only = {.limit = {l}, .n = 1};
	struct claims also = {.n = 0};

	seat_candidates(core, q, &also);
	claim_source(core, q, &also);
	limit_wait_any(core, &only, LINE_OPEN, &q->grant, &also);
}

/* May it open one more now, whatever the source? Waits in line if a limit is in the way. */
static bool may_open(struct core *core, struct queue *q, unsigned *worker)
{
	struct limiter *l;
	int64_t when = 0;

	if (q->limit.used >= q->limit.max) {
		make_room(core, q);
		grant_unwait(core, q);
		return false;
	}
	limit_rank(&q->grant, q->limit.used == 0, q->v.priority);
	l = seat_refuses_queue(core, q, &when);
	if (l) {
		wait_whatever(core, q, l);
		return false;
	}
	*worker = choose_worker(core);
	if (*worker != CORE_WORKERS)
		return true;
	link_append(&core->unserved, &q->in_unserved);
	grant_unwait(core, q);
	return false;
}

/* It has more to send than connections on their way. */
static bool wants_one(const struct core *core, const struct queue *q)
{
	return queue_ready(q) > q->opening && q->hold_ms <= core->now && q->routed &&
	       !hold_queue(q);
}

static bool open_for(struct core *core, struct queue *q, job_ref ref, bool spare, unsigned worker,
    struct core_decision *out)
{
	struct domain *d = core->domain_at[core_at(core, ref)->domain];
	struct obstacle o = {.blocked_ms = NEVER, .spare = spare};
	struct choice choice = {0};
	int mask = families(core, q, &o);

	q->hold_ms = 0;
	if (mask && pick(core, q, place_route(core, q, d), mask, &choice, &o)) {
		grant(core, q, d, &choice, worker, &o, out);
		grant_unwait(core, q);
		return true;
	}
	if (o.any.n) { /* a probe may end before */
		wait_for(core, q, d, &o);
		return false;
	}
	if (!choice.busy && !spare) /* else the probe's end wakes us */
		nowhere(core, q, ref, mask, &o);
	grant_unwait(core, q);
	return false;
}

/* The next job of a tenant that may open a connection; 0: none of those that are looked at, and the
 * queue waits for any of them. */
static job_ref opener(struct core *core, struct queue *q, job_ref next)
{
	struct alternatives any = {.n = 0};
	unsigned looks = CORE_LOOK;

	for (struct link *l = q->active.next; l != &q->active && looks; l = l->next, looks--) {
		struct share *s = OWNER(l, struct share, in_active);
		struct link *ring = link_alone(&s->urgent) ? &s->active : &s->urgent;
		struct lane *lane = OWNER(ring->next, struct lane, in_share);
		job_ref ref = l == q->active.next ? next : lane_head(lane);
		struct limiter *refuses;
		int64_t when = 0;

		lane = core->lane_at[core_at(core, ref)->lane];
		refuses = party_refuses_open(core, lane, &when);
		if (refuses)
			limit_alternative(&any, refuses, when);
		else if (ref == next || place_is_here(core, q, core_at(core, ref)))
			return ref;
	}
	any.cut |= looks == 0;
	if (any.n)
		limit_wait_any(core, &any, LINE_OPEN, &q->grant, NULL);
	else
		grant_unwait(core, q);
	return 0;
}

static bool open_next(
    struct core *core, struct queue *q, job_ref ref, bool spare, struct core_decision *out)
{
	const struct lane *lane;
	unsigned worker = 0;

	if (!may_open(core, q, &worker))
		return false;
	if (core->party_connects && !(ref = opener(core, q, ref)))
		return false;
	lane = core->lane_at[core_at(core, ref)->lane];
	if (!open_for(core, q, ref, spare, worker, out))
		return false;
	if (core->party_connects)
		party_opened(core, lane);
	return true;
}

bool grant_next(struct core *core, struct queue *q, bool spare, struct core_decision *out)
{
	unsigned budget = CORE_LOOK;
	job_ref ref;

	if (wants_one(core, q) && (!spare || has_spare(core, q)) &&
	    (ref = send_vet(core, q, &budget)))
		return open_next(core, q, ref, spare, out);
	if (budget == 0)
		queue_dirty(core, q);
	grant_unwait(core, q);
	return false;
}

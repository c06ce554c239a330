/* SPDX-License-Identifier: ISC */
/*
 * What applies: the budgets that a connection counts in (its seats), those that a queue's next
 * connection and next transaction must pass, and the limits of a queue and of a path themselves.
 *
 * Whatever the source: the total, the queue's own, and those of provider, domain, virtual MTA and
 * pools (q->shared). By the source: the path's and the source address's. By the peer: the MX host's
 * and the address's. A connection holds its seats from its grant to its end, also over a reload,
 * which gives it others if others apply now; so counts never drift.
 *
 * A path's limits are the smallest of those of the queues that use it; they only shrink until the
 * next configuration, which begins anew.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a queue's own, and the shared ones ---- */

static void share(struct queue *q, struct budget *b)
{
	if (!b)
		return;
	for (uint32_t i = 0; i < q->shared_count; i++)
		if (q->shared[i] == b)
			return;
	q->shared = xrealloc(q->shared, (q->shared_count + 1) * sizeof(struct budget *));
	q->shared[q->shared_count++] = budget_keep(b);
}

static void share_of(
    struct core *core, struct queue *q, enum budget_scope scope, struct str name, struct str of)
{
	char text[PEER_NAME_MAX];
	int n;

	if (name.n == 0)
		return;
	if (of.n == 0) {
		share(q, budget_find(core, scope, name));
		return;
	}
	n = snprintf(text, sizeof(text), "%.*s of %.*s", STR_ARG(name), STR_ARG(of));
	if ((size_t)n < sizeof(text))
		share(q, budget_find(core, scope, (struct str){text, (size_t)n}));
}

/* Everybody's word on the place, then the virtual MTA's or pool's. */
static void share_place(struct core *core, struct queue *q, struct str of)
{
	share_of(core, q, SCOPE_PROVIDER, name_str(q->provider), of);
	if (q->dest->own)
		share_of(core, q, SCOPE_DOMAIN, name_str(q->dest->own->name), of);
}

static void share_pools(struct core *core, struct queue *q, struct str vmta)
{
	const struct conf_node *pool = NULL, *m;

	while ((pool = conf_next(core->conf->root, CONF_POOL, pool))) {
		m = NULL;
		while ((m = conf_next(pool, CONF_MEMBER, m)))
			if (str_eq(str_of(conf_text(m, CO_MEMBER_virtual_mta)), vmta))
				break;
		if (!m)
			continue;
		share_of(core, q, SCOPE_POOL, str_of(conf_text(pool, CO_POOL_name)), STR(""));
		share_place(core, q, str_of(conf_text(pool, CO_POOL_name)));
	}
}

static void forget_shared(struct core *core, struct budget **old, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		budget_release(core, old[i]);
	free(old);
}

static bool read_shared(struct core *core, struct queue *q)
{
	struct budget **old = q->shared;
	uint32_t old_count = q->shared_count;
	struct str vmta = name_str(vmta_acting(core, q->vmta)->name);
	bool same;

	q->shared = NULL;
	q->shared_count = 0;
	if (core->configured_count) {
		share_place(core, q, STR(""));
		share_of(core, q, SCOPE_VMTA, vmta, STR(""));
		share_place(core, q, vmta);
		share_pools(core, q, vmta);
	}
	same = q->shared_count == old_count;
	for (uint32_t i = 0; same && i < old_count; i++)
		same = q->shared[i] == old[i];
	forget_shared(core, old, old_count);
	return !same;
}

static bool read_own(struct core *core, struct queue *q)
{
	const struct rate ramp = {q->v.rampup_ms > 0, 1, q->v.rampup_ms};
	bool wanted = q->e.connect.n || q->e.msg.n || q->e.bytes.n || ramp.n;
	bool had = q->own != NULL;

	if (wanted && !had)
		q->own = budget_open(core, SCOPE_QUEUE, str_of(q->name), NULL);
	if (q->own) {
		budget_rate(core, q->own, LIMIT_CONNECTS, &q->e.connect, NULL);
		budget_rate(core, q->own, LIMIT_RAMPUP, &ramp, NULL);
		budget_rate(core, q->own, LIMIT_MSGS, &q->e.msg, NULL);
		budget_rate(core, q->own, LIMIT_BYTES, &q->e.bytes, NULL);
	}
	if (!wanted)
		budget_close(core, &q->own);
	return wanted != had;
}

/* ---- paths ---- */

static bool limits_paths(const struct queue *q)
{
	return q->v.source_max_smtp_out || q->v.source_connect.n || q->v.source_msg.n;
}

static void tighten(
    struct core *core, struct budget *b, enum limit_kind kind, const struct rate *rate)
{
	const struct limiter *l = b->of[kind];

	if (rate->n && (!l || rate_slower(rate, &l->bucket.rate)))
		budget_rate(core, b, kind, rate, NULL);
}

/* What the queue says of the path. True: it has its first limit. */
static bool limit_path_by(struct core *core, struct path *p, const struct queue *q)
{
	const struct rate none = {0, 0, 0};
	uint32_t max = q->v.source_max_smtp_out;
	char name[PEER_NAME_MAX];
	bool had = p->own != NULL;

	if (had && p->generation != core->generation) {
		budget_conns(core, p->own, 0, NULL);
		budget_rate(core, p->own, LIMIT_CONNECTS, &none, NULL);
		budget_rate(core, p->own, LIMIT_MSGS, &none, NULL);
	}
	p->generation = core->generation;
	if (!limits_paths(q))
		return false;
	if (!had) {
		int n = snprintf(name, sizeof(name), "%.*s %.*s", STR_ARG(name_str(q->dest->name)),
		    STR_ARG(p->source->n ? name_str(p->source) : STR("any address")));

		p->own = budget_open(core, SCOPE_PATH,
		    (struct str){name, (size_t)n < sizeof(name) ? (size_t)n : sizeof(name) - 1},
		    NULL);
	}
	if (max && (!p->own->of[LIMIT_CONNS] || max < p->own->of[LIMIT_CONNS]->max))
		budget_conns(core, p->own, max, NULL);
	tighten(core, p->own, LIMIT_CONNECTS, &q->v.source_connect);
	tighten(core, p->own, LIMIT_MSGS, &q->v.source_msg);
	return !had;
}

static bool uses(const struct core *core, const struct queue *q, const struct name *source)
{
	const struct vmta *v = vmta_acting(core, q->vmta);

	for (size_t i = 0; i < v->source_count; i++)
		if (v->sources[i].address == source)
			return true;
	return v->source_count == 0 && source->n == 0;
}

/* A new path: what all the queues say that use it. */
void limit_path(struct core *core, struct dest *dest, struct path *p)
{
	if (!dest->paths_limited)
		return;
	for (struct link *l = dest->queues.next; l != &dest->queues; l = l->next) {
		const struct queue *q = OWNER(l, struct queue, in_dest);

		if (uses(core, q, p->source))
			limit_path_by(core, p, q);
	}
}

static void seat_dest(struct core *core, struct dest *dest)
{
	for (struct link *l = dest->queues.next; l != &dest->queues; l = l->next) {
		struct queue *q = OWNER(l, struct queue, in_dest);

		for (struct link *k = q->conns.next; k != &q->conns; k = k->next)
			seat_conn(core, OWNER(k, struct conn, in_queue));
	}
}

static void read_paths(struct core *core, struct queue *q)
{
	bool first = false;

	q->dest->paths_limited |= limits_paths(q);
	for (struct link *l = q->dest->paths.next; l != &q->dest->paths; l = l->next) {
		struct path *p = OWNER(l, struct path, in_dest);

		if ((p->own || limits_paths(q)) && uses(core, q, p->source))
			first |= limit_path_by(core, p, q);
	}
	if (first)
		seat_dest(core, q->dest);
}

/* The path from that source, made if the destination limits paths: its buckets may be half empty
 * though nobody uses it. */
struct path *limit_path_of(struct core *core, struct dest *dest, struct name *source)
{
	if (dest->paths_limited || warmup_is_configured(core, source))
		return dest_path(core, dest, name_str(source));
	return dest_path_find(dest, source);
}

/* ---- q->e has changed ---- */

void limit_ceiling(struct queue *q)
{
	q->limit.max = q->ceiling < q->e.max_smtp_out ? q->ceiling : q->e.max_smtp_out;
	if (q->e.probe)
		q->limit.max = 1;
}

void limit_queue(struct core *core, struct queue *q)
{
	bool changed = read_own(core, q);
	struct link *next;

	changed |= read_shared(core, q);
	limit_ceiling(q);
	read_paths(core, q);
	for (struct link *l = q->conns.next; l != &q->conns; l = next) {
		struct conn *c = OWNER(l, struct conn, in_queue);

		next = l->next;
		if (changed)
			seat_conn(core, c);
		if (c->state == CONN_READY)
			conn_settle(core, c);
	}
	queue_dirty(core, q);
}

void limit_queue_gone(struct core *core, struct queue *q)
{
	limit_leave(core, &q->grant, true);
	limit_leave(core, &q->send, true);
	budget_close(core, &q->own);
	forget_shared(core, q->shared, q->shared_count);
	q->shared = NULL;
	q->shared_count = 0;
}

/* ---- seats ---- */

struct places {
	struct budget **list;
	uint32_t n;
};

static void place(struct places *p, struct budget *b)
{
	if (!b)
		return;
	p->list = xrealloc(p->list, (p->n + 1) * sizeof(struct budget *));
	p->list[p->n++] = budget_keep(b);
}

static void place_peer(struct core *core, struct places *p, const struct conn *c)
{
	const struct peer_limit *mx = peer_limit_mx(core, c->host),
				*ip = peer_limit_ip(core, &c->address);
	char name[PEER_NAME_MAX];
	struct budget *b;

	if (mx) {
		b = budget_open(
		    core, SCOPE_MX, peer_mx_name(name, mx, c->host, c->path->source), NULL);
		place(p, b);
		budget_conns(core, b, mx->limit, mx->origin);
		budget_release(core, b);
	}
	if (ip) {
		b = budget_open(core, SCOPE_ADDRESS,
		    peer_ip_name(name, ip, &c->address, c->path->source), NULL);
		place(p, b);
		budget_conns(core, b, ip->limit, ip->origin);
		budget_release(core, b);
	}
}

static struct places places_of(struct core *core, struct conn *c)
{
	struct places p = {NULL, 0};
	struct queue *q = c->queue;

	place(&p, core->total);
	place(&p, q->own);
	for (uint32_t i = 0; i < q->shared_count; i++)
		place(&p, q->shared[i]);
	place(&p, c->path->own);
	c->source = core->configured_count
			? budget_find(core, SCOPE_SOURCE, name_str(c->path->source))
			: NULL;
	place(&p, c->source);
	if (core->mx_limit_count + core->ip_limit_count)
		place_peer(core, &p, c);
	return p;
}

static void count(struct budget *b, enum conn_state state, uint32_t by)
{
	b->used += by;
	b->opening += state == CONN_OPENING ? by : 0;
	b->closing += state == CONN_CLOSING ? by : 0;
}

static void sit(struct core *core, struct conn *c, struct places *p)
{
	bool idle = c->state == CONN_READY && c->tx_count == 0;

	c->seats = xcalloc(p->n, sizeof(*c->seats));
	c->seat_count = p->n;
	for (uint32_t i = 0; i < p->n; i++) {
		c->seats[i] = (struct seat){.budget = p->list[i], .conn = c};
		link_init(&c->seats[i].in_idle);
		count(p->list[i], c->state, 1);
	}
	if (idle && !link_alone(&c->in_ready))
		seat_idle(core, c, true);
}

static void stand_up(struct core *core, struct conn *c, struct seat *seats, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct budget *b = seats[i].budget;

		link_remove(&seats[i].in_idle);
		count(b, c->state, UINT32_MAX); /* one less */
		limit_used(core, b);
		budget_release(core, b);
	}
	free(seats);
}

void seat_conn(struct core *core, struct conn *c)
{
	struct places p = places_of(core, c);
	struct seat *old = c->seats;
	uint32_t old_count = c->seat_count;
	bool same = p.n == old_count;

	for (uint32_t i = 0; same && i < p.n; i++)
		same = p.list[i] == old[i].budget;
	if (same) {
		for (uint32_t i = 0; i < p.n; i++)
			budget_release(core, p.list[i]);
	} else {
		sit(core, c, &p);
		stand_up(core, c, old, old_count);
	}
	free(p.list);
}

void seat_unseat(struct core *core, struct conn *c)
{
	struct seat *old = c->seats;
	uint32_t n = c->seat_count;

	c->seats = NULL;
	c->seat_count = 0;
	stand_up(core, c, old, n);
}

/* Before c->state becomes `state`. */
void seat_state(struct core *core, struct conn *c, enum conn_state state)
{
	if (state == c->state)
		return;
	for (uint32_t i = 0; i < c->seat_count; i++) {
		struct budget *b = c->seats[i].budget;

		count(b, c->state, UINT32_MAX);
		count(b, state, 1);
		if (c->state == CONN_OPENING) /* another one may be opened for the next token */
			limit_used(core, b);
	}
}

/* In the lists of those that may be closed for others who wait. A queue's own limits nobody else
 * waits for. */
void seat_idle(struct core *core, struct conn *c, bool idle)
{
	(void)core;
	for (uint32_t i = 0; i < c->seat_count; i++) {
		struct seat *s = &c->seats[i];

		if (!idle)
			link_remove(&s->in_idle);
		else if (s->budget->of[LIMIT_CONNS])
			link_append(&s->budget->idle, &s->in_idle);
	}
}

void seat_connected(struct core *core, struct conn *c)
{
	for (uint32_t i = 0; i < c->seat_count; i++) {
		struct budget *b = c->seats[i].budget;

		for (int kind = LIMIT_CONNECTS; kind <= LIMIT_RAMPUP; kind++)
			if (b->of[kind]) {
				bucket_take(&b->of[kind]->bucket, 1, core->now);
				limiter_wake(core, b->of[kind]);
			}
	}
}

bool seat_too_many(const struct conn *c)
{
	const struct queue *q = c->queue;
	uint32_t most = q->e.probe ? 1 : q->e.max_smtp_out;

	if (q->limit.used - q->closing > most)
		return true;
	for (uint32_t i = 0; i < c->seat_count; i++) {
		const struct budget *b = c->seats[i].budget;

		if (b->of[LIMIT_CONNS] && b->used - b->closing > b->of[LIMIT_CONNS]->max)
			return true;
	}
	return false;
}

/* A queue without any connection waits for one where this one counts, and none is on its way. */
bool seat_starves(const struct conn *c)
{
	for (uint32_t i = 0; i < c->seat_count; i++) {
		const struct budget *b = c->seats[i].budget;
		const struct limiter *l = b->of[LIMIT_CONNS];

		if (l && b->used >= l->max && b->closing < l->line[LINE_OPEN].starved)
			return true;
	}
	return false;
}

/* ---- what holds a connection back ---- */

struct limiter *seat_refuses_queue(const struct core *core, const struct queue *q, int64_t *when)
{
	struct limiter *worst = limit_check(core, core->total, LINE_OPEN, &q->grant, NULL, when);

	if (q->own)
		worst = limit_check(core, q->own, LINE_OPEN, &q->grant, worst, when);
	for (uint32_t i = 0; i < q->shared_count; i++)
		worst = limit_check(core, q->shared[i], LINE_OPEN, &q->grant, worst, when);
	return worst;
}

struct limiter *seat_refuses_source(const struct core *core, struct queue *q, struct path *p,
    const struct name *source, int64_t *when)
{
	const struct budget *both[3] = {p ? p->own : NULL,
	    core->configured_count ? budget_find(core, SCOPE_SOURCE, name_str(source)) : NULL,
	    p && p->warm ? p->warm->budget : NULL};
	struct limiter *worst = NULL;

	for (int i = 0; i < 3; i++)
		if (both[i])
			worst = limit_check(core, both[i], LINE_OPEN, &q->grant, worst, when);
	return worst;
}

struct limiter *seat_refuses_peer(const struct core *core, const struct queue *q,
    const struct name *source, const struct name *host, const struct route_address *address,
    int64_t *when)
{
	const struct peer_limit *mx = peer_limit_mx(core, host), *ip = peer_limit_ip(core, address);
	struct limiter *worst = NULL;
	const struct budget *b;
	char name[PEER_NAME_MAX];

	b = mx ? budget_find(core, SCOPE_MX, peer_mx_name(name, mx, host, source)) : NULL;
	if (b)
		worst = limit_check(core, b, LINE_OPEN, &q->grant, worst, when);
	b = ip ? budget_find(core, SCOPE_ADDRESS, peer_ip_name(name, ip, address, source)) : NULL;
	if (b)
		worst = limit_check(core, b, LINE_OPEN, &q->grant, worst, when);
	return worst;
}

void seat_candidates(const struct core *core, const struct queue *q, struct claims *also)
{
	limit_candidate(also, core->total, LINE_OPEN);
	for (uint32_t i = 0; i < q->shared_count; i++)
		limit_candidate(also, q->shared[i], LINE_OPEN);
}

void source_candidates(
    const struct core *core, const struct path *p, const struct name *source, struct claims *also)
{
	if (p)
		limit_candidate(also, p->own, LINE_OPEN);
	if (p && p->warm)
		limit_candidate(also, p->warm->budget, LINE_OPEN);
	if (core->configured_count)
		limit_candidate(also, budget_find(core, SCOPE_SOURCE, name_str(source)), LINE_OPEN);
}

/* ---- what holds a transaction back ---- */

static struct limiter *check_send(const struct core *core, const struct budget *b,
    const struct waiter *w, struct limiter *worst, int64_t *when, uint64_t *most)
{
	uint64_t tokens;

	if (!b)
		return worst;
	if (b->of[LIMIT_MSGS]) {
		tokens = bucket_tokens(&b->of[LIMIT_MSGS]->bucket, core->now);
		if (tokens < *most)
			*most = tokens;
	}
	return limit_check(core, b, LINE_SEND, w, worst, when);
}

struct limiter *send_refuses_lane(const struct core *core, const struct lane *lane, uint64_t *most)
{
	struct budget *of[LANE_BUDGETS];
	unsigned n = party_budgets(lane, of);
	struct limiter *worst = NULL;
	int64_t when = 0;

	for (unsigned i = 0; i < n; i++)
		worst = check_send(core, of[i], &lane->wait, worst, &when, most);
	return worst;
}

struct limiter *send_refuses_queue(const struct core *core, const struct queue *q, uint64_t *most)
{
	struct limiter *worst = NULL;
	int64_t when = 0;

	worst = check_send(core, q->own, &q->send, worst, &when, most);
	for (uint32_t i = 0; i < q->shared_count; i++)
		worst = check_send(core, q->shared[i], &q->send, worst, &when, most);
	return worst;
}

struct limiter *send_refuses_conn(
    const struct core *core, const struct conn *c, uint64_t *most, int64_t *when)
{
	const struct waiter *w = &c->queue->send;
	struct limiter *worst = check_send(core, c->path->own, w, NULL, when, most);

	if (c->path->warm)
		worst = check_send(core, c->path->warm->budget, w, worst, when, most);
	return check_send(core, c->source, w, worst, when, most);
}

void send_candidates(const struct queue *q, const struct conn *c, struct claims *also)
{
	for (uint32_t i = 0; i < q->shared_count; i++)
		limit_candidate(also, q->shared[i], LINE_SEND);
	if (!c)
		return;
	limit_candidate(also, c->path->own, LINE_SEND);
	limit_candidate(also, c->source, LINE_SEND);
	if (c->path->warm)
		limit_candidate(also, c->path->warm->budget, LINE_SEND);
}

static bool limits_sending(const struct budget *b)
{
	return b && (b->of[LIMIT_MSGS] || b->of[LIMIT_BYTES] ||
			(b->of[LIMIT_CONNS] && scope_is_party(b->scope)));
}

bool send_is_limited(const struct core *core, const struct conn *c, const struct lane *lane)
{
	const struct queue *q = c->queue;
	struct budget *of[LANE_BUDGETS];
	bool limited = false;

	if (!core->rates)
		return false;
	for (uint32_t i = 0; i < q->shared_count; i++)
		limited |= limits_sending(q->shared[i]);
	for (unsigned n = party_budgets(lane, of); n--;)
		limited |= limits_sending(of[n]);
	return limited || limits_sending(q->own) || limits_sending(c->path->own) ||
	       limits_sending(c->source) || (c->path->warm && c->path->warm->conf);
}

static void spend(struct core *core, struct budget *b, uint32_t rcpts, uint32_t bytes)
{
	const uint64_t n[LIMIT_KINDS] = {[LIMIT_MSGS] = rcpts, [LIMIT_BYTES] = bytes};

	for (int kind = LIMIT_MSGS; b && kind <= LIMIT_BYTES; kind++) {
		if (!b->of[kind])
			continue;
		bucket_take(&b->of[kind]->bucket, n[kind], core->now);
		b->of[kind]->line[LINE_SEND].woken = 0;
		limiter_wake(core, b->of[kind]);
	}
}

void send_spend_queue(struct core *core, const struct queue *q, const struct lane *lane,
    uint32_t rcpts, uint32_t bytes)
{
	struct budget *of[LANE_BUDGETS];

	if (!core->rates)
		return;
	spend(core, q->own, rcpts, bytes);
	for (uint32_t i = 0; i < q->shared_count; i++)
		spend(core, q->shared[i], rcpts, bytes);
	for (unsigned n = party_budgets(lane, of); n--;)
		spend(core, of[n], rcpts, bytes);
}

void send_spend(struct core *core, const struct conn *c, const struct lane *lane, uint32_t rcpts,
    uint32_t bytes)
{
	if (!core->rates)
		return;
	send_spend_queue(core, c->queue, lane, rcpts, bytes);
	spend(core, c->path->own, rcpts, bytes);
	spend(core, c->source, rcpts, bytes);
	if (c->path->warm) {
		warmup_take(core, c->path->warm, rcpts);
		spend(core, c->path->warm->budget, rcpts, bytes);
	}
}

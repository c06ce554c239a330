/* SPDX-License-Identifier: ISC */
/*
 * Connections and transactions: their life, and the events that smtp-out reports of them.
 *
 * A connection counts against its limits from the moment it is granted until CONN_CLOSED says that
 * the peer's slot is free, or CORE_SLOT has passed since its process died. Ready, it stands in one
 * of two lists of its queue, idle (nothing outstanding) or half (room for one more), until it is
 * spent: then it is closed after its last result.
 *
 * One that was inherited from before our start is spent from the beginning, since nobody knows how
 * many transactions it has had: it finishes what it has and goes.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- transactions ---- */

struct tx *tx_find(const struct core *core, uint64_t id)
{
	for (struct node *i = table_first(&core->txs, hash_mix(core->seed, id)); i;
	     i = table_next(i))
		if (OWNER(i, struct tx, node)->id == id)
			return OWNER(i, struct tx, node);
	return NULL;
}

struct tx *tx_new(struct core *core, uint64_t id, struct conn *c, uint64_t message)
{
	struct tx *tx = core->tx_free;

	must(c->tx_count < CORE_DEPTH);
	if (tx)
		core->tx_free = tx->next_free;
	else
		tx = xcalloc(1, sizeof(*tx));
	tx->id = id;
	tx->message = message;
	tx->conn = c;
	tx->n = 0;
	tx->sent_ms = 0;
	c->tx[c->tx_count++] = tx;
	table_add(&core->txs, &tx->node, hash_mix(core->seed, id));
	return tx;
}

void tx_put(struct tx *tx, job_ref ref)
{
	if (tx->n == tx->cap) {
		tx->cap = tx->cap ? 2 * tx->cap : 4;
		tx->jobs = xrealloc(tx->jobs, tx->cap * sizeof(*tx->jobs));
	}
	tx->jobs[tx->n++] = ref;
}

void tx_free(struct core *core, struct tx *tx)
{
	struct conn *c = tx->conn;
	uint32_t i = 0;

	party_land(core, tx);
	while (c->tx[i] != tx)
		must(++i < c->tx_count);
	for (c->tx_count--; i < c->tx_count; i++)
		c->tx[i] = c->tx[i + 1];
	table_remove(&core->txs, &tx->node);
	tx->conn = NULL;
	tx->next_free = core->tx_free;
	core->tx_free = tx;
}

/* ---- connections ---- */

struct conn *conn_find(const struct core *core, uint64_t id)
{
	for (struct node *i = table_first(&core->conns, hash_mix(core->seed, id)); i;
	     i = table_next(i))
		if (OWNER(i, struct conn, node)->id == id)
			return OWNER(i, struct conn, node);
	return NULL;
}

struct conn *conn_new(struct core *core, uint64_t id, unsigned worker, struct queue *q,
    struct domain *d, struct str source, struct str host, const struct route_address *address,
    uint16_t port)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	struct link *links[] = {&c->in_queue, &c->in_worker, &c->in_ready};

	for (size_t i = 0; i < COUNT_OF(links); i++)
		link_init(links[i]);
	c->id = id;
	c->worker = worker;
	c->queue = q;
	c->domain = d;
	c->path = dest_path(core, q->dest, source);
	c->host = name_get(core, host);
	c->address = *address;
	c->port = port;
	c->timer.kind = TIMER_CONN;
	d->conns++;
	q->opening++;
	q->limit.used++;
	c->path->conns.used++;
	seat_conn(core, c);
	core->workers[worker]->conns++;
	link_append(&q->conns, &c->in_queue);
	link_append(&core->workers[worker]->list, &c->in_worker);
	table_add(&core->conns, &c->node, hash_mix(core->seed, id));
	source_opened(core, c);
	return c;
}

static void unlist(struct core *core, struct conn *c)
{
	wheel_cancel(core->wheel, &c->timer.node);
	link_remove(&c->in_ready);
	seat_idle(core, c, false);
}

/* The one place where a connection's state changes: the queue counts them by state. */
static void set_state(struct core *core, struct conn *c, enum conn_state state)
{
	struct queue *q = c->queue;

	q->opening -= c->state == CONN_OPENING;
	q->closing -= c->state == CONN_CLOSING;
	q->opening += state == CONN_OPENING;
	q->closing += state == CONN_CLOSING;
	seat_state(core, c, state);
	c->state = state;
}

/* Time of its own: what it spent behind another one does not count. */
void conn_measured(struct core *core, const struct tx *tx)
{
	struct conn *c = tx->conn;
	struct queue *q = c->queue;
	int64_t from = tx->sent_ms > c->result_ms ? tx->sent_ms : c->result_ms, us;

	c->result_ms = core->now;
	if (!tx->sent_ms)
		return;
	us = 1000 * (core->now - from);
	if (us > UINT32_MAX / 8)
		us = UINT32_MAX / 8;
	q->message_us = q->message_us ? (7 * q->message_us + (uint32_t)us) / 8 : (uint32_t)us;
	if (q->message_us == 0)
		q->message_us = 1;
}

void conn_free(struct core *core, struct conn *c)
{
	struct queue *q = c->queue;
	struct domain *d = c->domain;

	must(c->tx_count == 0);
	unlist(core, c);
	source_closed(core, c);
	seat_unseat(core, c);
	set_state(core, c, CONN_READY);
	must(q->limit.used > 0 && c->path->conns.used > 0);
	q->limit.used--;
	c->path->conns.used--;
	link_remove(&c->in_queue);
	link_remove(&c->in_worker);
	core->workers[c->worker]->conns--;
	table_remove(&core->conns, &c->node);
	dest_path_drop(core, c->path);
	name_drop(core, c->host);
	free(c);
	d->conns--;
	domain_idle(core, d);
	queue_idle(core, q);
	queue_dirty(core, q);
}

void conn_close(struct core *core, struct conn *c, bool hard)
{
	if (c->state == CONN_CLOSING)
		return;
	unlist(core, c);
	set_state(core, c, CONN_CLOSING);
	queue_dirty(core, c->queue); /* it may want another one */
	core_push(core,
	    &(struct pending){
		.kind = DECIDE_CLOSE, .worker = c->worker, .conn = c->id, .hard = hard},
	    STR(""), STR(""));
}

/* Transactions that it may still have. */
static uint32_t left(const struct conn *c)
{
	uint32_t most = c->queue->e.max_msg;

	if (c->mail_max && c->mail_max < most)
		most = c->mail_max;
	if (c->adopted || c->spent || c->deferred)
		return 0;
	if (c->single)
		most = 1;
	return c->sent < most ? most - c->sent : 0;
}

/* A queue without any connection waits for one, and this one has had its slice. */
static bool gives_way(const struct conn *c)
{
	uint32_t slice = c->queue->limit.used > 1 ? CORE_ROOM_SLICE : 4 * CORE_ROOM_SLICE;

	return c->sent >= slice && seat_starves(c);
}

static bool leads_to(const struct domain *d, const struct conn *c)
{
	for (uint32_t i = 0; d->route && i < d->route->host_count; i++)
		if (d->route->host[i].name == c->host && d->route->host[i].port == c->port)
			return true;
	return !d->route; /* discarded: nobody is asked */
}

/* The configuration has given its domain another queue since, or other hosts. */
static bool is_astray(const struct core *core, const struct conn *c)
{
	struct place p;

	if (!core->places)
		return c->domain->literal != (c->queue->dest->own != NULL);
	if (!place_look(core, c->domain, c->queue->vmta, &p) || !p.routed)
		return false;
	if (p.dest == c->queue->dest)
		return p.dest->own && !leads_to(p.route, c);
	return p.dest->own || c->queue->dest->own;
}

/* It gets no further transaction, and is closed after the last result. More may be open than the
 * limits allow: a reload or a mode has lowered them; those that are closing already are on their
 * way out, so that as many end as there are too many. */
static bool is_spent(const struct core *core, const struct conn *c)
{
	return hold_queue(c->queue) || left(c) == 0 || gives_way(c) || seat_too_many(c) ||
	       is_astray(core, c) || (c->queue->e.tls_required && c->tls != TLS_REQUIRED) ||
	       (!c->single && source_disabled(core, c->queue, c->path->source));
}

/* Others wait where it counts. */
static void offer_room(struct core *core, const struct conn *c)
{
	for (uint32_t i = 0; i < c->seat_count; i++) {
		struct limiter *l = c->seats[i].budget->of[LIMIT_CONNS];

		if (l && l->line[LINE_OPEN].n)
			conn_room(core, l);
	}
}

void conn_settle(struct core *core, struct conn *c)
{
	struct queue *q = c->queue;

	queue_dirty(core, q);
	if (c->lost)
		return;
	unlist(core, c);
	if (c->state != CONN_READY || !core->started)
		return;
	if (is_spent(core, c) || (c->tx_count == 0 && hold_queue(q))) {
		if (c->tx_count == 0)
			conn_close(core, c, false);
		return;
	}
	if (c->tx_count == 0) {
		link_prepend(&q->idle, &c->in_ready); /* the last used goes first: the others age */
		seat_idle(core, c, true);
		wheel_add(core->wheel, &c->timer.node, core->now + q->v.idle_ms);
		offer_room(core, c);
	} else if (c->tx_count < CORE_DEPTH) {
		link_append(&q->half, &c->in_ready);
	}
}

/* Its queue waits for a token that comes soon: the one of each path that was used last is kept for
 * it. */
static bool is_kept(const struct core *core, const struct conn *c)
{
	const struct queue *q = c->queue;
	unsigned looks = CORE_LOOK;

	if (!q->send.at || q->v.idle_ms == 0 ||
	    limiter_frees_ms(core, q->send.at, LINE_SEND) > core->now + CORE_WAIT_IDLE)
		return false;
	for (struct link *l = q->idle.next; l != &c->in_ready && looks; l = l->next, looks--)
		if (l == &q->idle || OWNER(l, struct conn, in_ready)->path == c->path)
			return false;
	return looks > 0;
}

void conn_on_timer(struct core *core, struct conn *c)
{
	if (c->lost)
		conn_free(core, c);
	else if (c->state == CONN_READY && c->tx_count == 0 && is_kept(core, c))
		wheel_add(core->wheel, &c->timer.node, core->now + c->queue->v.idle_ms);
	else if (c->state == CONN_READY && c->tx_count == 0)
		conn_close(core, c, false);
}

/* While queues wait for a connection there: closes those that have been idle for longest. */
void conn_room(struct core *core, struct limiter *limiter)
{
	struct budget *b = limiter->budget;
	struct link *l = b->idle.next, *next;
	unsigned looks = CORE_LOOK;

	for (; l != &b->idle && looks; l = next, looks--) {
		struct conn *c = OWNER(l, struct seat, in_idle)->conn;

		next = l->next;
		if (b->closing >= limiter->line[LINE_OPEN].n || b->used < limiter->max)
			return;
		if (!limiter->line[LINE_OPEN].starved && is_kept(core, c))
			continue; /* its token is near: only for a queue without any */
		if (link_alone(&c->queue->in_dirty) || queue_ready(c->queue) == 0)
			conn_close(core, c, false); /* else it is about to be used */
	}
}

/* A limit holds the queue: its idle connections are free for queues without any after all. */
void conn_offer(struct core *core, struct queue *q)
{
	unsigned looks = CORE_LOOK;
	struct link *next;

	for (struct link *l = q->idle.next; l != &q->idle && looks; l = next, looks--) {
		next = l->next;
		offer_room(core, OWNER(l, struct conn, in_ready));
		if (link_alone(next)) /* closed, or the end */
			return;
	}
}

/* ---- events ---- */

static struct worker *worker_get(struct core *core, unsigned i)
{
	if (i >= core->worker_count) {
		core->workers = xrealloc(core->workers, (i + 1) * sizeof(struct worker *));
		for (; core->worker_count <= i; core->worker_count++) {
			struct worker *w = xcalloc(1, sizeof(*w));

			link_init(&w->list);
			core->workers[core->worker_count] = w;
		}
	}
	return core->workers[i];
}

void core_worker_up(struct core *core, unsigned worker, int64_t now_ms)
{
	core_clock(core, now_ms);
	must(worker < CORE_WORKERS);
	worker_get(core, worker)->up = true;
	while (!link_alone(&core->unserved)) {
		struct queue *q = OWNER(core->unserved.next, struct queue, in_unserved);

		link_remove(&q->in_unserved);
		queue_dirty(core, q);
	}
}

/* Its process died. The kernel has reset it, but the peer need not have noticed yet: it counts
 * against its limits for a moment more. */
static void lose(struct core *core, struct conn *c)
{
	while (c->tx_count)
		outcome_uncertain(core, c->tx[0]);
	grant_opened(core, c);
	unlist(core, c);
	set_state(core, c, CONN_CLOSING);
	c->lost = true;
	link_remove(&c->in_worker);
	wheel_add(core->wheel, &c->timer.node, core->now + CORE_SLOT);
	queue_dirty(core, c->queue);
}

void core_worker_down(struct core *core, unsigned worker, int64_t now_ms)
{
	struct worker *w;

	core_clock(core, now_ms);
	if (worker >= core->worker_count)
		return;
	w = core->workers[worker];
	w->up = false;
	while (!link_alone(&w->list)) {
		struct conn *c = OWNER(w->list.next, struct conn, in_worker);

		lose(core, c);
	}
}

void core_have_conn(struct core *core, unsigned worker, uint64_t id, struct str queue,
    struct str domain, struct str source, struct str host, const struct route_address *address,
    uint16_t port, bool ready, int64_t now_ms)
{
	struct domain *d;
	struct dest *dest;
	struct queue *q;
	struct conn *c;
	size_t slash = queue.n;

	core_clock(core, now_ms);
	if (worker >= CORE_WORKERS || id >= CORE_ID_END)
		return;
	c = conn_find(core, id);
	if (c && !c->lost)
		return;
	if (c) /* only the channel had died */
		conn_free(core, c);
	while (slash && queue.p[slash - 1] != '/')
		slash--;
	if (slash < 2)
		return;
	d = domain_get(core, domain);
	dest = dest_named(core, (struct str){queue.p, slash - 1});
	q = queue_get(core, dest, vmta_get(core, (struct str){queue.p + slash, queue.n - slash}));
	worker_get(core, worker);
	c = conn_new(core, id, worker, q, d, source, host, address, port);
	c->adopted = true;
	queue_adopted(core, q, provider_of_host(core, c->host, address));
	if (ready)
		set_state(core, c, CONN_READY);
	if (id >= core->next_id)
		core->next_id = id + 1;
	conn_settle(core, c);
}

static bool among(const uint16_t *rcpts, size_t n, uint16_t rcpt)
{
	for (size_t i = 0; i < n; i++)
		if (rcpts[i] == rcpt)
			return true;
	return false;
}

int core_have_job(struct core *core, uint64_t conn, uint64_t transaction, uint64_t id,
    const uint16_t *rcpts, size_t n, int64_t now_ms)
{
	struct conn *c = conn_find(core, conn);
	struct tx *tx;

	core_clock(core, now_ms);
	if (transaction >= CORE_ID_END)
		return -ENOENT;
	if (transaction >= core->next_id)
		core->next_id = transaction + 1;
	if (!c || c->lost || c->tx_count >= CORE_DEPTH || tx_find(core, transaction))
		return -ENOENT;
	tx = tx_new(core, transaction, c, id);
	for (job_ref ref = job_find(core, id); ref; ref = core_at(core, ref)->sibling_next) {
		struct job *j = core_at(core, ref);

		if (!among(rcpts, n, (uint16_t)j->rcpt) || j->state == JOB_IN_FLIGHT ||
		    j->state == JOB_ENDED)
			continue;
		outcome_loosen(core, ref);
		j->flags &= (uint8_t)~JOB_IN_DOUBT;
		job_state(core, ref, JOB_IN_FLIGHT);
		tx_put(tx, ref);
	}
	party_fly(core, tx);
	conn_settle(core, c);
	return tx->n == n ? 0 : -ENOENT;
}

/* The virtual MTA has that source address no longer. */
static bool is_sourceless(const struct core *core, const struct conn *c)
{
	const struct vmta *v = vmta_acting(core, c->queue->vmta);

	for (size_t i = 0; i < v->source_count; i++)
		if (v->sources[i].address == c->path->source)
			return false;
	return v->source_count || c->path->source->n;
}

/* Another configuration: what is not to be used any more goes, the idle ones at once. */
void conn_configured(struct core *core)
{
	struct node **all = table_list(&core->conns);

	for (size_t i = 0; all[i]; i++)
		seat_conn(core, OWNER(all[i], struct conn, node));
	for (size_t i = 0; all[i]; i++) {
		struct conn *c = OWNER(all[i], struct conn, node);

		c->spent |= is_sourceless(core, c);
		if (c->state == CONN_READY && is_spent(core, c))
			conn_settle(core, c);
	}
	free(all);
}

/* An inherited connection that has nothing to do goes at once. */
void conn_start(struct core *core)
{
	struct node **all = table_list(&core->conns);

	for (size_t i = 0; all[i]; i++)
		conn_settle(core, OWNER(all[i], struct conn, node));
	free(all);
}

void core_conn_ready(
    struct core *core, uint64_t id, uint32_t rcpt_max, uint32_t mail_max, int64_t now_ms)
{
	struct conn *c = conn_find(core, id);

	core_clock(core, now_ms);
	if (!c)
		return;
	c->rcpt_max = rcpt_max;
	c->mail_max = mail_max;
	if (c->state == CONN_OPENING)
		set_state(core, c, CONN_READY);
	if (!c->queue->send.at && !c->queue->send.ticket)
		c->queue->send.ticket = c->ticket; /* it has waited long enough */
	grant_opened(core, c);
	conn_settle(core, c);
}

bool core_conn(const struct core *core, uint64_t id, struct core_conn_view *v)
{
	const struct conn *c = conn_find(core, id);

	if (!c)
		return false;
	*v = (struct core_conn_view){.queue = str_of(c->queue->name),
	    .vmta = name_str(c->queue->vmta->name),
	    .domain = name_str(c->domain->name),
	    .source = name_str(c->path->source)};
	return true;
}

void core_conn_closed(
    struct core *core, uint64_t id, const struct core_failure *failure, int64_t now_ms)
{
	struct conn *c = conn_find(core, id);

	core_clock(core, now_ms);
	if (!c) {
		rules_forget(core);
		return;
	}
	unlist(core, c);
	set_state(core, c, CONN_CLOSING);
	while (c->tx_count) /* the last first: each goes to the front of its lane */
		outcome_unsent(core, c->tx[c->tx_count - 1], c->answered > 0);
	grant_opened(core, c);
	if (failure->cause != CONN_DONE)
		rules_reply(core,
		    &(struct rule_reply){.queue = c->queue, .conn = c, .text = failure->text});
	rules_forget(core);
	if (failure->stage == STAGE_GREETING && failure->code >= 500 &&
	    c->queue->v.bounce_5xx_greeting)
		queue_visit(core, c->queue, VISIT_BOUNCE, failure->text);
	grant_failed(core, c, failure);
	conn_free(core, c);
}

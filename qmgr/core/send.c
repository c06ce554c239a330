/* SPDX-License-Identifier: ISC */
/*
 * Transactions: which connection takes what. The turn among lanes (lane.c) says which job is next;
 * it takes the jobs behind it along that are of the same message and domain, and the turn is spent.
 *
 * Where a rate applies, only idle connections are used, so that a token is taken when MAIL is
 * written; a transaction takes as many recipients as there are tokens. What holds the queue, its
 * connections' paths or the lane decides who waits in whose line: the queue, or the lane alone.
 *
 * An idle connection goes first. A connection that works already gets a second transaction to go on
 * with, as long as the queue has more jobs ready than connections, so that the wire never idles and
 * no job waits behind another while a connection elsewhere is free. Where rules act upon tenants it
 * gets none: the next one of a tenant must not be on its way when the reply comes that suspends it.
 * A connection to a worse MX host
 * takes its own domain's jobs only, and one at a provider those of domains that have its host among
 * their best; such jobs are looked for among the first CORE_LOOK of the queue.
 */
#include "qmgr/core/internal.h"

/* The next job that is fit to go: expired, failed and moved ones are dealt with on the way. */
job_ref send_vet(struct core *core, struct queue *q, unsigned *budget)
{
	struct lane *lane;

	for (; *budget && (lane = lane_turn(q)); --*budget) {
		job_ref ref = lane_head(lane);
		struct domain *d = core->domain_at[core_at(core, ref)->domain];

		if (outcome_moved(core, ref) || outcome_aged(core, ref))
			continue;
		if (!q->v.discard) /* a new route, if this one's time is up */
			domain_want(core, place_route(core, q, d));
		return ref;
	}
	return 0;
}

static job_ref look_in(struct core *core, const struct queue *q, const struct link *ring,
    const struct conn *c, unsigned *looks)
{
	for (struct link *l = ring->next; l != ring; l = l->next) {
		job_ref ref = lane_head(OWNER(l, struct lane, in_share));

		for (; ref && !(ref & LIST_END) && *looks; ref = core_at(core, ref)->next) {
			const struct job *j = core_at(core, ref);

			if (place_serves(core, c, core->domain_at[j->domain]) &&
			    place_is_here(core, q, j) && outcome_age(core, j) != AGE_EXPIRED)
				return ref;
			--*looks;
		}
	}
	return 0;
}

/* For a connection that cannot serve what is next: the first job that it can, not far behind. */
static job_ref look_for(struct core *core, const struct queue *q, struct conn *c)
{
	unsigned looks = q->dest->rollup ? CORE_LOOK_FAR : CORE_LOOK;

	if (core->next_id < c->barren_id)
		return 0;
	for (struct link *s = q->active.next; s != &q->active; s = s->next) {
		struct share *share = OWNER(s, struct share, in_active);
		job_ref found = look_in(core, q, &share->urgent, c, &looks);

		if (!found)
			found = look_in(core, q, &share->active, c, &looks);
		if (found)
			return found;
		if (looks == 0)
			break;
	}
	if (q->dest->rollup)
		c->barren_id = core->next_id + CORE_LOOK; /* not again for so many transactions */
	return 0;
}

static void fly(struct core *core, struct tx *tx, job_ref ref)
{
	lane_fly(core, ref);
	tx_put(tx, ref);
}

static void gather(struct core *core, struct tx *tx, job_ref first, uint32_t most)
{
	const struct job *j = core_at(core, first);
	uint64_t id = j->id;
	uint32_t domain = j->domain;
	unsigned looks = CORE_LOOK + 4 * most;
	uint32_t next = j->next;

	fly(core, tx, first);
	while (tx->n < most && looks-- && !(next & LIST_END)) {
		job_ref ref = next;

		j = core_at(core, ref);
		if (j->id != id)
			break;
		next = j->next;
		if (j->domain == domain)
			fly(core, tx, ref);
	}
}

static uint32_t most_rcpts(const struct conn *c, uint64_t tokens)
{
	uint32_t most = c->queue->v.max_rcpt;

	if (c->rcpt_max && c->rcpt_max < most)
		most = c->rcpt_max;
	if (tokens < most)
		most = (uint32_t)tokens;
	return most < CORE_TX_RCPTS ? most : CORE_TX_RCPTS;
}

static void send(
    struct core *core, struct conn *c, job_ref ref, uint64_t tokens, struct core_decision *out)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct domain *d = core->domain_at[j->domain];
	bool last = j->last, idle = c->tx_count == 0;
	uint32_t bytes = job_bytes(j);
	struct tx *tx = tx_new(core, core->next_id++, c, j->id);

	tx->sent_ms = core->now;
	gather(core, tx, ref, most_rcpts(c, tokens));
	party_fly(core, tx);
	party_sent(core, lane, tx->n);
	send_spend(core, c, lane, tx->n, bytes);
	if (idle) /* else it goes on waiting, for what holds its idle connections */
		limit_leave(core, &c->queue->send, true);
	lane->wait.ticket = 0;
	lane_spend(lane, last);
	c->sent++;
	conn_settle(core, c);
	decision_clear(out);
	out->kind = DECIDE_SEND;
	out->worker = c->worker;
	out->conn = c->id;
	out->transaction = tx->id;
	out->domain = name_str(d->name);
	out->jobs = tx->jobs;
	out->job_count = tx->n;
}

/* What a choice of connections has met. */
struct held {
	struct alternatives by; /* what holds connections back */
	uint64_t tokens;
};

/* The job that it can take: the next one, or one of its own domain; 0: none. */
static job_ref suits(struct core *core, struct conn *c, job_ref ref)
{
	if (place_serves(core, c, core->domain_at[core_at(core, ref)->domain]))
		return ref;
	return look_for(core, c->queue, c);
}

/* The lane may send; else it is put into the line of what holds it. */
static bool lane_may(struct core *core, struct lane *lane, uint64_t *tokens)
{
	struct limiter *l;

	limit_rank(&lane->wait, false, lane->share->queue->v.priority);
	l = send_refuses_lane(core, lane, tokens);
	if (!l)
		return true;
	lane_park(core, lane, PARK_LIMIT);
	limit_wait(core, l, LINE_SEND, &lane->wait);
	return false;
}

/* Path and source let it send, and the lane, if it is not the one that was asked already. */
static bool passes(struct core *core, const struct conn *c, job_ref ref, struct held *held)
{
	struct limiter *l;
	int64_t when = 0;

	if (!core->rates)
		return true;
	if (!lane_may(core, core->lane_at[core_at(core, ref)->lane], &held->tokens))
		return false;
	l = send_refuses_conn(core, c, &held->tokens, &when);
	if (l)
		limit_alternative(&held->by, l, when);
	return !l;
}

/* The first connection of the list that can take something; one that cannot goes behind the others.
 */
static struct conn *choose(
    struct core *core, struct link *list, bool busy, job_ref *ref, struct held *held)
{
	struct link *l = list->next, *next, *last = list->prev;
	unsigned tries = core->rates ? CORE_CHOICES : 8;
	uint64_t tokens = held->tokens;

	for (bool end = false; l != list && tries && !end; l = next, tries--) {
		struct conn *c = OWNER(l, struct conn, in_ready);
		job_ref own = suits(core, c, *ref);

		next = l->next;
		end = l == last;
		held->tokens = tokens;
		if (own &&
		    !(busy && send_is_limited(core, c, core->lane_at[core_at(core, own)->lane])) &&
		    passes(core, c, own, held)) {
			*ref = own;
			return c;
		}
		link_append(list, l);
	}
	return NULL;
}

/* The next job whose lane may send. */
static job_ref next_job(struct core *core, struct queue *q, unsigned *budget, uint64_t *tokens)
{
	job_ref ref;

	while ((ref = send_vet(core, q, budget))) {
		struct lane *lane = core->lane_at[core_at(core, ref)->lane];

		if (!core->rates)
			return ref;
		*tokens = CORE_TX_RCPTS;
		if (lane_may(core, lane, tokens))
			return ref;
		--*budget;
	}
	return 0;
}

static enum send_found hold(struct core *core, struct queue *q, struct limiter *l)
{
	const struct alternatives only = {.limit = {l}, .n = 1};
	struct claims also = {.n = 0};

	send_candidates(
	    q, link_alone(&q->idle) ? NULL : OWNER(q->idle.next, struct conn, in_ready), &also);
	limit_wait_any(core, &only, LINE_SEND, &q->send, &also);
	return SEND_HELD;
}

/* Any one of its connections would do. */
static enum send_found spare(struct core *core, struct queue *q, const struct alternatives *any)
{
	struct claims also = {.n = 0};

	send_candidates(q, NULL, &also);
	limit_wait_any(core, any, LINE_SEND, &q->send, &also);
	return SEND_SPARE;
}

static enum send_found find(struct core *core, struct queue *q, struct core_decision *out)
{
	struct held held; /* its lists are long: they are not cleared for each message */
	unsigned budget = CORE_LOOK;
	uint64_t tokens;
	struct conn *c;
	job_ref ref;

	if ((link_alone(&q->idle) && link_alone(&q->half)) || hold_queue(q))
		return SEND_NONE;
	if (q->e.probe && q->n[JOB_IN_FLIGHT])
		return SEND_NONE;
	held.by.n = 0;
	held.tokens = CORE_TX_RCPTS;
	ref = next_job(core, q, &budget, &held.tokens);
	if (budget == 0)
		return SEND_AGAIN;
	if (!ref)
		return SEND_NONE;
	if (core->rates && !link_alone(&q->idle)) {
		struct limiter *l;

		limit_rank(&q->send, false, q->v.priority);
		l = send_refuses_queue(core, q, &held.tokens);
		if (l)
			return hold(core, q, l);
	}
	tokens = held.tokens;
	c = choose(core, &q->idle, false, &ref, &held);
	if (!c && !q->stepwise && queue_ready(q) > q->limit.used) {
		held.tokens = tokens;
		c = choose(core, &q->half, true, &ref, &held);
	}
	if (c) {
		send(core, c, ref, held.tokens, out);
		return SEND_ONE;
	}
	return held.by.n ? spare(core, q, &held.by) : SEND_NONE;
}

/* type = "discard": delivered, as far as anybody is told, at the rate at which it would be sent. */
static enum send_found discard(struct core *core, struct queue *q)
{
	uint64_t tokens = CORE_TX_RCPTS;
	unsigned budget = CORE_LOOK;
	struct limiter *l = NULL;
	struct lane *lane;
	job_ref ref;

	if (hold_queue(q))
		return SEND_NONE;
	ref = next_job(core, q, &budget, &tokens);
	if (budget == 0)
		return SEND_AGAIN;
	if (!ref)
		return SEND_NONE;
	limit_rank(&q->send, false, q->v.priority);
	if (core->rates)
		l = send_refuses_queue(core, q, &tokens);
	if (l)
		return hold(core, q, l);
	lane = core->lane_at[core_at(core, ref)->lane];
	send_spend_queue(core, q, lane, 1, job_bytes(core_at(core, ref)));
	limit_leave(core, &q->send, true);
	lane->wait.ticket = 0;
	lane_take(core, ref);
	lane_spend(lane, false);
	outcome_end(core, ref, OUTCOME_DELIVERED, -1, STR("2.0.0"), STR("discarded"), false);
	return SEND_AGAIN;
}

enum send_found send_next(struct core *core, struct queue *q, struct core_decision *out)
{
	enum send_found found;

	if (q->v.discard && q->routed) {
		found = discard(core, q);
		if (found == SEND_NONE)
			limit_leave(core, &q->send, link_alone(&q->active));
		return found == SEND_NONE ? SEND_HELD : found; /* it never needs a connection */
	}
	found = find(core, q, out);
	if (found == SEND_HELD || found == SEND_SPARE)
		conn_offer(core, q);
	if (found == SEND_NONE || found == SEND_AGAIN)
		limit_leave(core, &q->send, link_alone(&q->active));
	return found;
}

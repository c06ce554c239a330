/* SPDX-License-Identifier: ISC */
/*
 * Transactions: which connection takes what. The turn among lanes (lane.c) says which job is next;
 * it takes the jobs behind it along that are of the same message and domain, and the turn is spent.
 *
 * An idle connection goes first. A connection that works already gets a second transaction to go on
 * with, as long as the queue has more jobs ready than connections, so that the wire never idles and
 * no job waits behind another while a connection elsewhere is free. A connection to a worse MX host
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
		domain_want(
		    core, place_route(core, q, d)); /* a new route, if this one's time is up */
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
static job_ref look_for(struct core *core, const struct queue *q, const struct conn *c)
{
	unsigned looks = CORE_LOOK;

	for (struct link *s = q->active.next; s != &q->active; s = s->next) {
		struct share *share = OWNER(s, struct share, in_active);
		job_ref found = look_in(core, q, &share->urgent, c, &looks);

		if (!found)
			found = look_in(core, q, &share->active, c, &looks);
		if (found || looks == 0)
			return found;
	}
	return 0;
}

static void fly(struct core *core, struct tx *tx, job_ref ref)
{
	lane_take(core, ref);
	job_state(core, ref, JOB_IN_FLIGHT);
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

static uint32_t most_rcpts(const struct conn *c)
{
	uint32_t most = c->queue->v.max_rcpt;

	if (c->rcpt_max && c->rcpt_max < most)
		most = c->rcpt_max;
	return most < CORE_TX_RCPTS ? most : CORE_TX_RCPTS;
}

static void send(struct core *core, struct conn *c, job_ref ref, struct core_decision *out)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct domain *d = core->domain_at[j->domain];
	bool last = j->last;
	struct tx *tx = tx_new(core, core->next_id++, c, j->id);

	gather(core, tx, ref, most_rcpts(c));
	lane_spend(lane, last);
	c->sent++;
	conn_settle(core, c);
	*out = (struct core_decision){.kind = DECIDE_SEND,
	    .worker = c->worker,
	    .conn = c->id,
	    .transaction = tx->id,
	    .domain = name_str(d->name),
	    .jobs = tx->jobs,
	    .job_count = tx->n};
}

/* The first connection of the list that can take something; one that cannot goes behind the others.
 */
static struct conn *choose(struct core *core, struct link *list, job_ref *ref)
{
	struct link *l = list->next, *next;
	unsigned tries = 8;

	for (; l != list && tries; l = next, tries--) {
		struct conn *c = OWNER(l, struct conn, in_ready);
		job_ref own;

		next = l->next;
		if (place_serves(core, c, core->domain_at[core_at(core, *ref)->domain]))
			return c;
		own = look_for(core, c->queue, c);
		if (own) {
			*ref = own;
			return c;
		}
		link_append(list, l);
	}
	return NULL;
}

bool send_next(struct core *core, struct queue *q, struct core_decision *out, bool *again)
{
	unsigned budget = CORE_LOOK;
	struct conn *c;
	job_ref ref;

	if (link_alone(&q->idle) && link_alone(&q->half))
		return false;
	ref = send_vet(core, q, &budget);
	*again = budget == 0;
	if (!ref)
		return false;
	c = choose(core, &q->idle, &ref);
	if (!c && queue_ready(q) > q->limit.used)
		c = choose(core, &q->half, &ref);
	if (c)
		send(core, c, ref, out);
	return c != NULL;
}

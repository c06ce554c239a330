/* SPDX-License-Identifier: ISC */
/*
 * Shares and lanes: who is next within a queue. Weighted deficit round robin over the tenants with
 * ready jobs, and within a tenant's turn over its lanes; the coin is one transaction. The rings
 * hold only those with ready jobs and start with whose turn it is, so every step is O(1).
 *
 * Bound: with T tenants and, at that tenant, L lanes that have ready jobs, a lane gets a
 * transaction within T * L transactions of its queue (all weights being 1).
 *
 * Uncertain mail (maybe delivered already) stands in a list of its own behind the lane's other
 * mail, and gets every CORE_UNCERTAIN_EVERY-th transaction of a lane that never runs out of other
 * mail.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

static uint64_t lane_hash(
    const struct queue *q, const struct name *tenant, const struct name *campaign)
{
	return hash_mix(hash_mix((uintptr_t)q, (uintptr_t)tenant), (uintptr_t)campaign);
}

static struct share *share_get(struct queue *q, struct name *tenant)
{
	struct share *s;

	for (struct link *l = q->shares.next; l != &q->shares; l = l->next) {
		s = OWNER(l, struct share, in_queue);
		if (s->tenant == tenant)
			return s;
	}
	s = xcalloc(1, sizeof(*s));
	s->queue = q;
	s->tenant = name_keep(tenant);
	s->weight = 1;
	link_init(&s->active);
	link_init(&s->in_active);
	link_append(&q->shares, &s->in_queue);
	return s;
}

static uint32_t lane_number(struct core *core, struct lane *lane)
{
	uint32_t i;

	if (core->lane_frees) {
		i = core->lane_free[--core->lane_frees];
	} else {
		i = ++core->lane_count;
		if ((i & (i - 1)) == 0) { /* room for twice as many */
			core->lane_at = xrealloc(core->lane_at, 2 * i * sizeof(struct lane *));
			core->lane_free = xrealloc(core->lane_free, 2 * i * sizeof(uint32_t));
		}
	}
	core->lane_at[i] = lane;
	return i;
}

struct lane *lane_get(
    struct core *core, struct queue *q, struct name *tenant, struct name *campaign)
{
	uint64_t hash = lane_hash(q, tenant, campaign);
	struct lane *lane;

	for (struct node *i = table_first(&core->lanes, hash); i; i = table_next(i)) {
		lane = OWNER(i, struct lane, node);
		if (lane->share->queue == q && lane->share->tenant == tenant &&
		    lane->campaign == campaign)
			return lane;
	}
	lane = xcalloc(1, sizeof(*lane));
	lane->share = share_get(q, tenant);
	lane->share->lanes++;
	lane->campaign = name_keep(campaign);
	lane->weight = 1;
	lane->index = lane_number(core, lane);
	lane->empty_ms = core->now;
	link_init(&lane->in_share);
	link_append(&q->lanes, &lane->in_queue);
	table_add(&core->lanes, &lane->node, hash);
	return lane;
}

void lane_free(struct core *core, struct lane *lane)
{
	struct share *s = lane->share;

	must(lane->jobs == 0);
	table_remove(&core->lanes, &lane->node);
	link_remove(&lane->in_share);
	link_remove(&lane->in_queue);
	core->lane_at[lane->index] = NULL;
	core->lane_free[core->lane_frees++] = lane->index;
	name_drop(core, lane->campaign);
	free(lane);
	if (--s->lanes)
		return;
	link_remove(&s->in_active);
	link_remove(&s->in_queue);
	name_drop(core, s->tenant);
	free(s);
}

void lane_move(struct core *core, struct job *j, struct lane *to)
{
	struct lane *from = core->lane_at[j->lane];
	struct queue *old = from->share->queue, *q = to->share->queue;

	must(j->state == JOB_UNROUTED); /* loose: in no list */
	if (from == to)
		return;
	old->n[JOB_UNROUTED]--;
	q->n[JOB_UNROUTED]++;
	to->jobs++;
	j->lane = to->index;
	if (--from->jobs == 0)
		from->empty_ms = core->now;
	queue_idle(core, old);
}

void lane_push(struct core *core, job_ref ref, bool front)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct share *s = lane->share;
	uint32_t list;

	j->last = (j->flags & JOB_UNCERTAIN) != 0;
	list = LIST_LANES + 2 * lane->index + j->last;
	if (front)
		job_prepend(core, list, ref);
	else
		job_append(core, list, ref);
	job_state(core, ref, JOB_READY);
	if (link_alone(&lane->in_share))
		link_append(&s->active, &lane->in_share);
	if (link_alone(&s->in_active))
		link_append(&s->queue->active, &s->in_active);
	sweep_note(core, s->queue, j);
	queue_dirty(core, s->queue);
}

void lane_take(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct share *s = lane->share;

	if (s->queue->sweep_job == ref)
		s->queue->sweep_job = j->next & LIST_END ? 0 : j->next;
	job_unlink(core, ref);
	job_state(core, ref, JOB_UNROUTED);
	if (lane->list[0].head || lane->list[1].head)
		return;
	link_remove(&lane->in_share);
	lane->credit = 0;
	if (!link_alone(&s->active))
		return;
	link_remove(&s->in_active);
	s->credit = 0;
}

struct lane *lane_turn(const struct queue *q)
{
	const struct share *s;

	if (link_alone(&q->active))
		return NULL;
	s = OWNER(q->active.next, struct share, in_active);
	return OWNER(s->active.next, struct lane, in_share);
}

job_ref lane_head(const struct lane *lane)
{
	if (lane->list[1].head &&
	    (!lane->list[0].head || lane->since_last >= CORE_UNCERTAIN_EVERY - 1))
		return lane->list[1].head;
	return lane->list[0].head;
}

/* Credit is what is left of this turn; a turn that is used up goes to the end of the ring. */
static void turn_spend(struct link *ring, struct link *member, uint32_t weight, uint32_t *credit)
{
	if (*credit == 0)
		*credit = weight;
	if (--*credit == 0 && !link_alone(member))
		link_append(ring, member);
}

void lane_spend(struct lane *lane, bool last)
{
	struct share *s = lane->share;

	lane->since_last = last ? 0 : (uint8_t)(lane->since_last + (lane->since_last < UINT8_MAX));
	turn_spend(&s->active, &lane->in_share, lane->weight, &lane->credit);
	turn_spend(&s->queue->active, &s->in_active, s->weight, &s->credit);
}

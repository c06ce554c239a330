/* SPDX-License-Identifier: ISC */
/*
 * Shares and lanes: who is next within a queue. Weighted deficit round robin over the tenants with
 * ready jobs, and within a tenant's turn over its lanes; the coin is one transaction. A share has
 * its tenant's weight, a lane its campaign's. The rings hold only those with ready jobs that are
 * not parked, and start with whose turn it is, so every step is O(1).
 *
 * Bound: with T tenants and, at that tenant, L lanes that have ready jobs, a lane gets a
 * transaction within T * L transactions of its queue (all weights being 1).
 *
 * Transactional lanes have a ring of their own in their tenant's share and go before its other
 * lanes, but one transaction of ten is the others' while they have something.
 *
 * Uncertain mail (maybe delivered already) stands in a list of its own behind the lane's other
 * mail, and gets every CORE_UNCERTAIN_EVERY-th transaction of a lane that never runs out of other
 * mail.
 *
 * Parking takes a lane, or a tenant's whole share, out of the turn, whatever it has; it may have
 * several reasons, and is back when the last one is gone. Its jobs stay READY and age;
 * queue_ready() does not count them, so that no connection is opened for them.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

static uint64_t lane_hash(const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool)
{
	return hash_mix(
	    hash_mix((uintptr_t)q, (uintptr_t)tenant), (uintptr_t)campaign + 3 * (uintptr_t)pool);
}

static uint64_t share_hash(const struct queue *q, const struct name *tenant)
{
	return hash_mix((uintptr_t)q, (uintptr_t)tenant);
}

/* ---- shares ---- */

struct share *share_find(const struct core *core, const struct queue *q, const struct name *tenant)
{
	uint64_t hash = share_hash(q, tenant);

	for (struct node *i = table_first(&core->shares, hash); i; i = table_next(i)) {
		struct share *s = OWNER(i, struct share, node);

		if (s->queue == q && s->tenant == tenant)
			return s;
	}
	return NULL;
}

static struct share *share_new(struct core *core, struct queue *q, struct tenant *t)
{
	struct share *s = xcalloc(1, sizeof(*s));
	struct link *links[] = {&s->lanes, &s->active, &s->urgent, &s->in_active, &s->in_release};

	for (size_t i = 0; i < COUNT_OF(links); i++)
		link_init(links[i]);
	s->queue = q;
	s->of = t;
	s->tenant = t->name;
	link_append(&q->shares, &s->in_queue);
	link_append(&t->shares, &s->in_tenant);
	table_add(&core->shares, &s->node, share_hash(q, t->name));
	party_new_share(core, s);
	hold_new_share(core, s);
	return s;
}

static void share_free(struct core *core, struct share *s)
{
	struct tenant *t = s->of;

	table_remove(&core->shares, &s->node);
	link_remove(&s->in_active);
	link_remove(&s->in_queue);
	link_remove(&s->in_tenant);
	link_remove(&s->in_release);
	party_drop_share(core, s);
	free(s);
	tenant_drop(core, t);
}

/* ---- lanes ---- */

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

bool lane_is(const struct lane *lane, const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool)
{
	return lane->share->queue == q && lane->share->tenant == tenant &&
	       lane->campaign == campaign && lane->pool == pool;
}

struct lane *lane_find(const struct core *core, const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool)
{
	uint64_t hash = lane_hash(q, tenant, campaign, pool);

	for (struct node *i = table_first(&core->lanes, hash); i; i = table_next(i)) {
		struct lane *lane = OWNER(i, struct lane, node);

		if (lane_is(lane, q, tenant, campaign, pool))
			return lane;
	}
	return NULL;
}

static void lane_link(struct core *core, struct lane *lane, struct share *s, struct campaign *c)
{
	lane->share = s;
	lane->of = c;
	lane->campaign = c->name;
	link_init(&lane->waiting);
	link_init(&lane->in_share);
	link_init(&lane->in_release);
	link_append(&s->queue->lanes, &lane->in_queue);
	s->queue->lane_count++;
	link_append(&s->lanes, &lane->in_owner);
	link_append(&s->of->lanes, &lane->in_tenant);
	link_append(&c->lanes, &lane->in_campaign);
	table_add(&core->lanes, &lane->node, lane_hash(s->queue, s->tenant, c->name, lane->pool));
}

static struct lane *lane_new(
    struct core *core, struct queue *q, struct campaign *c, struct name *pool)
{
	struct lane *lane = xcalloc(1, sizeof(*lane));
	struct share *s = share_find(core, q, c->tenant->name);

	lane->pool = pool ? name_keep(pool) : NULL;
	lane_link(core, lane, s ? s : share_new(core, q, c->tenant), c);
	lane->wait.kind = WAITER_LANE;
	lane->index = lane_number(core, lane);
	lane->seq = ++core->lane_seq;
	lane->empty_ms = core->now;
	party_new_lane(core, lane);
	hold_new_lane(core, lane);
	return lane;
}

struct lane *lane_get(struct core *core, struct queue *q, struct name *tenant,
    struct name *campaign, struct name *pool)
{
	struct lane *lane = lane_find(core, q, tenant, campaign, pool);
	struct campaign *c;
	struct tenant *t;

	if (lane)
		return lane;
	t = tenant_get(core, tenant);
	c = campaign_get(core, t, campaign);
	if (!c) { /* one too many: the lane of mail without a campaign is for all of these */
		struct name *none = name_get(core, STR(""));

		c = campaign_get(core, t, none);
		lane = lane_find(core, q, tenant, none, pool);
		name_drop(core, none);
	}
	return lane ? lane : lane_new(core, q, c, pool);
}

void lane_free(struct core *core, struct lane *lane)
{
	struct share *s = lane->share;
	struct campaign *c = lane->of;

	must(lane->jobs == 0);
	limit_leave(core, &lane->wait, true);
	table_remove(&core->lanes, &lane->node);
	link_remove(&lane->in_share);
	link_remove(&lane->in_queue);
	lane->share->queue->lane_count--;
	link_remove(&lane->in_owner);
	link_remove(&lane->in_tenant);
	link_remove(&lane->in_campaign);
	link_remove(&lane->in_release);
	core->lane_at[lane->index] = NULL;
	core->lane_free[core->lane_frees++] = lane->index;
	name_drop(core, lane->pool);
	party_drop_lane(core, lane);
	free(lane);
	campaign_drop(core, c);
	if (link_alone(&s->lanes))
		share_free(core, s);
}

void lane_move(struct core *core, struct job *j, struct lane *to)
{
	struct lane *from = core->lane_at[j->lane];
	struct queue *old = from->share->queue, *q = to->share->queue;

	must(j->state == JOB_UNROUTED); /* loose: in no list */
	if (from == to)
		return;
	old->n[JOB_UNROUTED]--;
	from->of->tally.n[JOB_UNROUTED]--;
	from->of->tenant->tally.n[JOB_UNROUTED]--;
	q->n[JOB_UNROUTED]++;
	to->of->tally.n[JOB_UNROUTED]++;
	to->of->tenant->tally.n[JOB_UNROUTED]++;
	to->jobs++;
	j->lane = to->index;
	if (--from->jobs == 0)
		from->empty_ms = core->now;
	queue_idle(core, old);
}

/* ---- who is in the rings ---- */

static bool has_ready(const struct lane *lane)
{
	return lane->list[LANE_READY].head || lane->list[LANE_UNCERTAIN].head;
}

static void share_look(struct share *s)
{
	bool in = !s->parked && (!link_alone(&s->active) || !link_alone(&s->urgent));

	if (in == !link_alone(&s->in_active))
		return;
	if (in) {
		link_append(&s->queue->active, &s->in_active);
	} else {
		link_remove(&s->in_active);
		s->credit = 0;
	}
}

static struct link *ring_of(const struct lane *lane)
{
	struct share *s = lane->share;

	return lane->of->class == CLASS_TRANSACTIONAL ? &s->urgent : &s->active;
}

static void lane_look(struct lane *lane)
{
	bool in = !lane->parked && has_ready(lane);

	if (in == !link_alone(&lane->in_share))
		return;
	if (in) {
		link_append(ring_of(lane), &lane->in_share);
	} else {
		link_remove(&lane->in_share);
		lane->credit = 0;
	}
	share_look(lane->share);
}

/* Its ready jobs are counted as parked from now on, or no longer. */
static void count_parked(struct lane *lane, bool was)
{
	bool is = lane_parked(lane);
	struct queue *q = lane->share->queue;

	if (is && !was)
		q->parked += lane->ready;
	else if (was && !is)
		q->parked -= lane->ready;
}

static void lane_set_parked(struct core *core, struct lane *lane, uint8_t parked)
{
	bool was = lane_parked(lane);

	lane->parked = parked;
	count_parked(lane, was);
	lane_look(lane);
	queue_dirty(core, lane->share->queue);
}

void lane_park(struct core *core, struct lane *lane, enum park why)
{
	if (!(lane->parked & why))
		lane_set_parked(core, lane, lane->parked | (uint8_t)why);
}

void lane_unpark(struct core *core, struct lane *lane, enum park why)
{
	if (lane->parked & why)
		lane_set_parked(core, lane, lane->parked & (uint8_t)~why);
}

static void share_set_parked(struct core *core, struct share *s, uint8_t parked)
{
	bool was = s->parked != 0;

	s->parked = parked;
	for (struct link *l = s->lanes.next; l != &s->lanes; l = l->next) {
		struct lane *lane = OWNER(l, struct lane, in_owner);

		count_parked(lane, was || lane->parked);
	}
	share_look(s);
	queue_dirty(core, s->queue);
}

void share_park(struct core *core, struct share *s, enum park why)
{
	if (!(s->parked & why))
		share_set_parked(core, s, s->parked | (uint8_t)why);
}

void share_unpark(struct core *core, struct share *s, enum park why)
{
	if (s->parked & why)
		share_set_parked(core, s, s->parked & (uint8_t)~why);
}

/* Its lanes change over into the other ring. */
void campaign_class(struct campaign *c, enum lane_class class)
{
	if (c->class == class)
		return;
	c->class = class;
	for (struct link *l = c->lanes.next; l != &c->lanes; l = l->next) {
		struct lane *lane = OWNER(l, struct lane, in_campaign);

		if (!link_alone(&lane->in_share))
			link_append(ring_of(lane), &lane->in_share);
	}
}

/* ---- the turn ---- */

void lane_push(struct core *core, job_ref ref, bool front)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct queue *q = lane->share->queue;
	uint32_t list;

	j->last = (j->flags & JOB_UNCERTAIN) != 0;
	list = lane_list(lane->index, j->last ? LANE_UNCERTAIN : LANE_READY);
	if (front)
		job_prepend(core, list, ref);
	else
		job_append(core, list, ref);
	job_state(core, ref, JOB_READY);
	lane_look(lane);
	sweep_note(core, q, j);
	queue_dirty(core, q);
}

static void take(struct core *core, job_ref ref, unsigned state)
{
	struct lane *lane = core->lane_at[core_at(core, ref)->lane];

	job_unlink(core, ref);
	job_state(core, ref, state);
	lane_look(lane);
}

void lane_take(struct core *core, job_ref ref)
{
	take(core, ref, JOB_UNROUTED);
}

void lane_fly(struct core *core, job_ref ref)
{
	take(core, ref, JOB_IN_FLIGHT);
}

struct lane *lane_turn(const struct queue *q)
{
	const struct share *s;
	bool urgent;

	if (link_alone(&q->active))
		return NULL;
	s = OWNER(q->active.next, struct share, in_active);
	urgent = !link_alone(&s->urgent) && (link_alone(&s->active) || s->favoured < CORE_FAVOUR);
	return OWNER(urgent ? s->urgent.next : s->active.next, struct lane, in_share);
}

job_ref lane_head(const struct lane *lane)
{
	const struct job_list *list = lane->list;

	if (list[LANE_UNCERTAIN].head &&
	    (!list[LANE_READY].head || lane->since_last >= CORE_UNCERTAIN_EVERY - 1))
		return list[LANE_UNCERTAIN].head;
	return list[LANE_READY].head;
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
	if (lane->of->class != CLASS_TRANSACTIONAL)
		s->favoured = 0;
	else if (s->favoured < CORE_FAVOUR)
		s->favoured++;
	turn_spend(ring_of(lane), &lane->in_share, lane->of->weight, &lane->credit);
	turn_spend(&s->queue->active, &s->in_active, s->of->weight, &s->credit);
}

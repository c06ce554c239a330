/* SPDX-License-Identifier: ISC */
/*
 * What holds do. Three kinds of things are held, each where it costs the least:
 *   a queue             it makes no decision: nothing granted, nothing sent; its idle connections
 *                       are closed, and busy ones after their last result
 *   a tenant's share    parked: out of the turn of its queue (lane.c), all its lanes at once
 *   a campaign's lane   parked likewise
 * What is in flight ends normally. Held mail burns no retry but ages: sweeps look at parked lanes
 * and held queues like at all others.
 *
 * A change of a wide hold moves a generation on; each queue looks again before its next decision,
 * and a walk in slices brings it to those that have nothing to decide. A tenant's or campaign's
 * hold touches that one's shares or lanes and nothing else; new ones ask when they are made.
 *
 * What is released: a queue that a rule had suspended begins with a probe (mode.c); an operator's
 * pause ends at once; a tenant's shares and a campaign's lanes come back one after the other within
 * RELEASE_STEPS steps, so that a hundred destinations do not see the burst in the same second. A
 * crash amid a release forgets the rest of the staggering: all of it flows.
 */
#include "qmgr/core/hold.h"

enum { RELEASE_STEPS = 40 };
#define RELEASE_STEP 100 /* ms */

/* ---- queues ---- */

bool hold_queue(const struct queue *q)
{
	return q->held;
}

static void shut(struct core *core, struct queue *q)
{
	grant_unwait(core, q);
	limit_leave(core, &q->send, true);
	while (!link_alone(&q->idle))
		conn_close(core, OWNER(q->idle.next, struct conn, in_ready), false);
}

void hold_look(struct core *core, struct queue *q)
{
	struct hold_state now, was = {q->held, q->suspended};

	if (q->hold_generation == core->holds.generation)
		return;
	q->hold_generation = core->holds.generation;
	now = hold_of_queue(core, q);
	q->held = now.held;
	q->suspended = now.held && (was.suspended || now.suspended); /* a pause may outlast it */
	if (now.held && !was.held)
		shut(core, q);
	if (!now.held && was.suspended)
		mode_recover(core, q);
	if (now.held && !was.held)
		place_lost(core, q);
	if (was.held && !now.held) {
		queue_dirty(core, q);
		place_found(core, q);
	}
}

static void look_again(struct core *core, struct queue *q)
{
	q->hold_generation--;
	hold_look(core, q);
}

void hold_new_queue(struct core *core, struct queue *q)
{
	look_again(core, q);
}

static void wide_changed(struct core *core)
{
	core->holds.generation++;
	core->holds.walk = core->queue_count;
}

bool hold_run(struct core *core, unsigned *budget)
{
	struct holds *h = &core->holds;

	for (; h->walk; h->walk--) {
		struct queue *q = core->queue_at[h->walk];

		if (*budget == 0)
			return true;
		--*budget;
		if (q)
			hold_look(core, q);
	}
	return false;
}

/* ---- shares and lanes ---- */

void hold_release(struct core *core)
{
	struct holds *h = &core->holds;

	for (uint32_t i = 0; i < h->pace && h->releasing; i++, h->releasing--) {
		if (!link_alone(&h->shares)) {
			struct share *s = OWNER(h->shares.next, struct share, in_release);

			link_remove(&s->in_release);
			share_unpark(core, s, PARK_HOLD);
		} else if (!link_alone(&h->lanes)) {
			struct lane *lane = OWNER(h->lanes.next, struct lane, in_release);

			link_remove(&lane->in_release);
			lane_unpark(core, lane, PARK_HOLD);
		}
	}
	if (link_alone(&h->shares) && link_alone(&h->lanes))
		h->releasing = h->pace = 0;
	else
		wheel_add(core->wheel, &h->timer.node, core->now + RELEASE_STEP);
}

/* Those that were put into the line just now go on with it; the first ones at once. */
static void begin_release(struct core *core, uint32_t more)
{
	struct holds *h = &core->holds;
	uint32_t pace;

	if (!more)
		return;
	h->releasing += more;
	pace = (h->releasing + RELEASE_STEPS - 1) / RELEASE_STEPS;
	h->pace = pace > h->pace ? pace : h->pace;
	if (!wheel_armed(&h->timer.node))
		hold_release(core);
}

/* Returns 1 when it is to be released. */
static uint32_t look_share(struct core *core, struct share *s)
{
	if (hold_of_party(core, CORE_TENANT, s->tenant, NULL, s->queue)) {
		link_remove(&s->in_release);
		share_park(core, s, PARK_HOLD);
	} else if ((s->parked & PARK_HOLD) && link_alone(&s->in_release)) {
		link_append(&core->holds.shares, &s->in_release);
		return 1;
	}
	return 0;
}

static uint32_t look_lane(struct core *core, struct lane *lane)
{
	struct share *s = lane->share;

	if (hold_of_party(core, CORE_CAMPAIGN, s->tenant, lane->campaign, s->queue)) {
		link_remove(&lane->in_release);
		lane_park(core, lane, PARK_HOLD);
	} else if ((lane->parked & PARK_HOLD) && link_alone(&lane->in_release)) {
		link_append(&core->holds.lanes, &lane->in_release);
		return 1;
	}
	return 0;
}

void hold_new_share(struct core *core, struct share *s)
{
	if (core->holds.keys.count)
		look_share(core, s);
}

void hold_new_lane(struct core *core, struct lane *lane)
{
	if (core->holds.keys.count)
		look_lane(core, lane);
}

/* The queue leads to another provider now: what is held there is held here. */
void hold_moved(struct core *core, struct queue *q)
{
	uint32_t n = 0;

	if (core->holds.keys.count == 0)
		return;
	look_again(core, q);
	for (struct link *l = q->shares.next; l != &q->shares; l = l->next)
		n += look_share(core, OWNER(l, struct share, in_queue));
	for (struct link *l = q->lanes.next; l != &q->lanes; l = l->next)
		n += look_lane(core, OWNER(l, struct lane, in_queue));
	begin_release(core, n);
}

static void look_party(struct core *core, const struct hold *h)
{
	const struct tenant *t = tenant_find(core, name_str(h->tenant));
	const struct campaign *c =
	    t && h->scope == CORE_CAMPAIGN ? campaign_find(core, t, h->campaign) : NULL;
	uint32_t n = 0;

	if (t && h->scope == CORE_TENANT)
		for (struct link *l = t->shares.next; l != &t->shares; l = l->next)
			n += look_share(core, OWNER(l, struct share, in_tenant));
	for (struct link *l = c ? c->lanes.next : NULL; l && l != &c->lanes; l = l->next)
		n += look_lane(core, OWNER(l, struct lane, in_campaign));
	begin_release(core, n);
}

/* That domain's mail goes elsewhere now: and with it what is held at it. */
void hold_domain_moved(struct core *core, const struct name *domain)
{
	const struct table *t = &core->holds.places;

	if (t->count == 0)
		return;
	for (struct node *n = table_first(t, hold_subject_hash(core, domain)); n;
	     n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_at);

		if (h->at == domain)
			look_party(core, h);
	}
}

void hold_changed(struct core *core, const struct hold *h)
{
	struct queue *q;

	if (h->tenant) {
		look_party(core, h);
	} else if (hold_is_wide(h->scope, name_str(h->name))) {
		wide_changed(core);
	} else {
		q = queue_find(core, name_str(h->name));
		if (q)
			look_again(core, q);
	}
}

/* SPDX-License-Identifier: ISC */
/*
 * Ready jobs have no timer of their own. Each queue knows a lower bound of the next moment when one
 * of them expires or earns a notice of delay (event_ms); when that comes, or when a domain of it
 * has moved, the queue is swept: all its ready jobs are looked at, in slices. In a queue that flows
 * the bound lies days ahead, so nothing is swept at all. A sweep follows the last one after a 64th
 * of the shortest time that matters at the earliest, between 1 and 60 s: that is how late an expiry
 * can be.
 */
#include "qmgr/core/internal.h"

static int64_t pause_ms(const struct queue *q)
{
	int64_t least = q->v.bounce_ms;

	if (q->v.notify_ms > 0 && q->v.notify_ms < least)
		least = q->v.notify_ms;
	least /= 64;
	if (least < SECOND)
		return SECOND;
	return least > MINUTE ? MINUTE : least;
}

static void arm(struct core *core, struct queue *q)
{
	int64_t at = q->swept_ms + pause_ms(q);

	if (q->event_ms == NEVER || !link_alone(&q->in_sweeping))
		return;
	wheel_add(core->wheel, &q->sweep.node, at > q->event_ms ? at : q->event_ms);
}

void sweep_note(struct core *core, struct queue *q, const struct job *j)
{
	int64_t event = outcome_event_ms(core, j);

	if (event >= q->event_ms)
		return;
	q->event_ms = event;
	arm(core, q);
}

static void at_lane(struct queue *q, struct link *lane)
{
	q->sweep_lane = lane;
	q->sweep_list = 0;
	q->sweep_job = lane == &q->lanes ? 0 : OWNER(lane, struct lane, in_queue)->list[0].head;
}

void sweep_now(struct core *core, struct queue *q)
{
	wheel_cancel(core->wheel, &q->sweep.node);
	if (link_alone(&q->in_sweeping))
		link_append(&core->sweeping, &q->in_sweeping);
	q->event_ms = NEVER;
	at_lane(q, q->lanes.next);
}

void sweep_end(struct core *core, struct queue *q)
{
	(void)core;
	link_remove(&q->in_sweeping);
	q->sweep_job = 0;
	q->sweep_lane = NULL;
}

static void visit(struct core *core, struct queue *q, job_ref ref)
{
	int64_t event;

	if (outcome_moved(core, ref) || outcome_aged(core, ref))
		return;
	event = outcome_event_ms(core, core_at(core, ref));
	if (event < q->event_ms)
		q->event_ms = event;
}

/* True: all of it was looked at. */
static bool sweep_queue(struct core *core, struct queue *q, unsigned *budget)
{
	while (q->sweep_lane != &q->lanes) {
		while (q->sweep_job) {
			job_ref ref = q->sweep_job;
			uint32_t next = core_at(core, ref)->next;

			if (*budget == 0)
				return false;
			--*budget;
			q->sweep_job = next & LIST_END ? 0 : next;
			visit(core, q, ref);
		}
		if (q->sweep_list++ == 0)
			q->sweep_job = OWNER(q->sweep_lane, struct lane, in_queue)->list[1].head;
		else
			at_lane(q, q->sweep_lane->next);
	}
	return true;
}

bool sweep_run(struct core *core, unsigned *budget)
{
	while (!link_alone(&core->sweeping)) {
		struct queue *q = OWNER(core->sweeping.next, struct queue, in_sweeping);

		if (*budget == 0)
			return true;
		--*budget; /* queues without jobs cost something, too */
		if (!sweep_queue(core, q, budget))
			return true;
		sweep_end(core, q);
		q->swept_ms = core->now;
		arm(core, q);
	}
	return false;
}

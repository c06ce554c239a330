/* SPDX-License-Identifier: ISC */
/*
 * Passes over a queue's jobs, in the background, in slices.
 *
 * The sweep: ready jobs have no timer of their own. Each queue knows a lower bound of the next
 * moment when one of them expires or earns a notice of delay (event_ms); when that comes, or when a
 * domain of it has moved, all its ready jobs are looked at. In a queue that flows the bound lies
 * days ahead, so nothing is swept at all. A sweep follows the last one after a 64th of the shortest
 * time that matters at the earliest, between 1 and 60 s: that is how late an expiry can be.
 *
 * Visits: what is to happen to all jobs of a queue, a tenant's share of it, or a lane, because of a
 * command, a rule or a change of mode: waiting ones too, lane by lane, batch by batch. A queue
 * makes one pass at a time, a sweep first, then its visits in the order in which they were asked
 * for; a visit that waits already is not asked for twice.
 *
 * A pass stands at a job; when that one leaves its list, whoever takes it, the pass moves on
 * (sweep_leaves(), due_empty()). It ends a list at the job that was its last when the pass came,
 * and enters no batch that was made after its lane was reached, so it ends although it puts jobs
 * back behind itself. Lanes are not freed while their queue has a pass.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

struct visit {
	struct link in_queue;
	enum visit_kind kind;
	struct share *share; /* these only; NULL: all of the queue */
	struct lane *lane;
	int64_t since_ms;
	char *text; /* owned */
};

/* ---- when ---- */

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

static void wanted(struct core *core, struct queue *q)
{
	wheel_cancel(core->wheel, &q->sweep.node);
	if (link_alone(&q->in_sweeping))
		link_append(&core->sweeping, &q->in_sweeping);
}

void sweep_now(struct core *core, struct queue *q)
{
	wanted(core, q);
	q->sweep_due = true;
	if (q->pass.on && !q->pass.visit)
		q->pass = (struct pass){0}; /* from the beginning */
}

static void visit_free(struct visit *v)
{
	link_remove(&v->in_queue);
	free(v->text);
	free(v);
}

void sweep_end(struct core *core, struct queue *q)
{
	(void)core;
	link_remove(&q->in_sweeping);
	q->pass = (struct pass){0};
	q->sweep_due = false;
	while (!link_alone(&q->visits))
		visit_free(OWNER(q->visits.next, struct visit, in_queue));
}

/* ---- visits are asked for ---- */

static void ask(struct core *core, struct queue *q, const struct visit *what, struct str text)
{
	struct visit *v;

	for (struct link *l = q->visits.next; l != &q->visits; l = l->next) {
		v = OWNER(l, struct visit, in_queue);
		if (v != q->pass.visit && v->kind == what->kind && v->share == what->share &&
		    v->lane == what->lane &&
		    (v->kind != VISIT_REROUTE || str_eq(str_of(v->text), text))) {
			v->since_ms = core->now;
			return;
		}
	}
	v = xmalloc(sizeof(*v));
	*v = *what;
	v->since_ms = core->now;
	v->text = str_dup(text);
	link_init(&v->in_queue);
	link_append(&q->visits, &v->in_queue);
	wanted(core, q);
}

void queue_visit(struct core *core, struct queue *q, enum visit_kind kind, struct str text)
{
	ask(core, q, &(struct visit){.kind = kind}, text);
}

void share_visit(struct core *core, struct share *s, enum visit_kind kind, struct str text)
{
	ask(core, s->queue, &(struct visit){.kind = kind, .share = s}, text);
}

void lane_visit(struct core *core, struct lane *lane, enum visit_kind kind, struct str text)
{
	ask(core, lane->share->queue, &(struct visit){.kind = kind, .lane = lane}, text);
}

void sweep_retime(struct core *core, struct queue *q)
{
	queue_visit(core, q, VISIT_RETIME, STR(""));
}

/* ---- what happens to a job ---- */

static void sweep_job(struct core *core, struct queue *q, job_ref ref)
{
	int64_t event;

	if (outcome_moved(core, ref) || outcome_aged(core, ref))
		return;
	event = outcome_event_ms(core, core_at(core, ref));
	if (event < q->event_ms)
		q->event_ms = event;
}

static void retime(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	uint64_t before = j->due_ms;

	outcome_retime(core, ref);
	if (j->due_ms == before)
		return;
	outcome_loosen(core, ref);
	outcome_wait(core, ref);
}

static void bounce(struct core *core, const struct visit *v, job_ref ref)
{
	if ((int64_t)core_at(core, ref)->arrived_ms > v->since_ms)
		return;
	outcome_loosen(core, ref);
	outcome_end(core, ref, OUTCOME_BOUNCED, -1, STR("5.7.0"), str_of(v->text), true);
}

static void visit_job(struct core *core, struct queue *q, job_ref ref)
{
	const struct visit *v = q->pass.visit;

	if (!v) {
		sweep_job(core, q, ref);
		return;
	}
	switch (v->kind) {
	case VISIT_RETIME:
		if (core_at(core, ref)->state == JOB_WAITING)
			retime(core, ref);
		break;
	case VISIT_REPLACE:
		outcome_moved(core, ref);
		break;
	case VISIT_REROUTE:
		if ((int64_t)core_at(core, ref)->arrived_ms <= v->since_ms)
			place_reroute(core, ref, str_of(v->text));
		break;
	case VISIT_BOUNCE:
		bounce(core, v, ref);
		break;
	}
}

/* ---- a pass: lanes; of each its two lists of ready jobs, then its batches ---- */

static struct link *lane_ring(struct queue *q)
{
	struct visit *v = q->pass.visit;

	return v && v->share ? &v->share->lanes : &q->lanes;
}

static struct lane *lane_here(const struct queue *q)
{
	const struct visit *v = q->pass.visit;

	if (v && v->lane)
		return v->lane;
	return v && v->share ? OWNER(q->pass.lane, struct lane, in_owner)
			     : OWNER(q->pass.lane, struct lane, in_queue);
}

/* False: there is none. */
static bool enter_lane(struct core *core, struct queue *q, struct link *lane)
{
	struct pass *p = &q->pass;

	p->lane = lane;
	p->stage = 0;
	p->job = p->last = 0;
	p->batch = NULL;
	p->end = core->due.seq;
	return lane != lane_ring(q);
}

static void enter_list(struct pass *p, const struct job_list *list)
{
	p->job = list->head;
	p->last = list->tail;
}

/* The lane's next list that may hold jobs. False: it has none any more. */
static bool next_list(struct queue *q)
{
	struct pass *p = &q->pass;
	struct lane *lane = lane_here(q);
	struct batch *b;

	if (p->stage <= LANE_UNCERTAIN) {
		enter_list(p, &lane->list[p->stage++]);
		return true;
	}
	if (!p->visit) /* waiting jobs have their own timers */
		return false;
	if (p->stage == LANE_UNCERTAIN + 1) {
		p->stage++;
		p->batch = lane->waiting.next;
	}
	if (p->batch == &lane->waiting)
		return false;
	b = OWNER(p->batch, struct batch, in_lane);
	if ((int32_t)(b->seq - p->end) > 0)
		return false;
	p->batch = b->in_lane.next;
	enter_list(p, &b->list);
	return true;
}

/* The pass goes on behind it. */
static void step_over(struct core *core, struct pass *p, job_ref ref)
{
	uint32_t next = core_at(core, ref)->next;

	p->job = ref == p->last || next & LIST_END ? 0 : next;
}

void sweep_leaves(struct queue *q, job_ref ref, uint32_t next, uint32_t prev)
{
	struct pass *p = &q->pass;

	if (p->job == ref)
		p->job = ref == p->last || next & LIST_END ? 0 : next;
	if (p->last == ref)
		p->last = prev & LIST_END ? 0 : prev;
}

/* True: all of it was looked at. */
static bool pass_run(struct core *core, struct queue *q, unsigned *budget)
{
	struct pass *p = &q->pass;

	for (;;) {
		job_ref ref = p->job;

		if (*budget == 0)
			return false;
		if (ref) {
			--*budget;
			step_over(core, p, ref);
			visit_job(core, q, ref);
		} else if (!next_list(q)) {
			--*budget; /* lanes without jobs cost something, too */
			if ((p->visit && p->visit->lane) || !enter_lane(core, q, p->lane->next))
				return true;
		}
	}
}

static void pass_begin(struct core *core, struct queue *q)
{
	q->pass = (struct pass){.on = true};
	if (q->sweep_due) {
		q->sweep_due = false;
		q->event_ms = NEVER;
	} else {
		q->pass.visit = OWNER(q->visits.next, struct visit, in_queue);
	}
	if (!enter_lane(core, q, lane_ring(q)->next) && !(q->pass.visit && q->pass.visit->lane))
		q->pass.on = false;
}

static void pass_end(struct core *core, struct queue *q)
{
	if (q->pass.visit)
		visit_free(q->pass.visit);
	else
		q->swept_ms = core->now;
	q->pass = (struct pass){0};
	if (q->sweep_due || !link_alone(&q->visits)) {
		link_append(&core->sweeping, &q->in_sweeping); /* others' turn */
		return;
	}
	link_remove(&q->in_sweeping);
	arm(core, q);
}

bool sweep_run(struct core *core, unsigned *budget)
{
	while (!link_alone(&core->sweeping)) {
		struct queue *q = OWNER(core->sweeping.next, struct queue, in_sweeping);

		if (*budget == 0)
			return true;
		--*budget; /* queues without jobs cost something, too */
		if (!q->pass.on)
			pass_begin(core, q);
		if (q->pass.on && !pass_run(core, q, budget))
			return true;
		pass_end(core, q);
	}
	return false;
}

/* SPDX-License-Identifier: ISC */
/*
 * What the journal says beyond the rows: while the start reads it, the latest word on each
 * recipient gathers here, and corrects the row or the record that is read afterwards
 * (recover_rows.c, intake.c).
 *
 * States are absolute, so it does not matter how often a record is read: once by the start that a
 * crash interrupted, and again by the next. What does not decode is left out; the journal's sums
 * have told of it.
 */
#include "qmgr/recover.h"
#include <stdlib.h>

struct redo_message *redo_find(struct qmgr *q, uint64_t id)
{
	return q->recover.redo ? map_find(&q->recover.redo->messages, id) : NULL;
}

static struct redo_message *redo_get(struct qmgr *q, uint64_t id)
{
	struct redo_message *m = redo_find(q, id);
	if (m != NULL)
		return m;
	m = xcalloc(1, sizeof(*m));
	m->id = id;
	map_set(&q->recover.redo->messages, id, m);
	return m;
}

struct redo_rcpt *redo_rcpt_find(struct redo_message *m, uint16_t rcpt)
{
	struct redo_rcpt *r = m->rcpts;
	while (r != NULL && r->rcpt != rcpt)
		r = r->next;
	return r;
}

static struct redo_rcpt *redo_rcpt_get(struct redo_message *m, uint16_t rcpt)
{
	struct redo_rcpt *r = redo_rcpt_find(m, rcpt);
	if (r != NULL)
		return r;
	r = xcalloc(1, sizeof(*r));
	r->rcpt = rcpt;
	r->next = m->rcpts;
	m->rcpts = r;
	return r;
}

void redo_apply(const struct redo_rcpt *r, struct core_add *add)
{
	if (r == NULL)
		return;
	if (r->has_state) {
		add->attempts = r->attempts;
		add->due_ms = r->due_ms;
		add->flags = (uint8_t)((add->flags & ~ROW_FLAGS) | (r->flags & ROW_FLAGS));
	}
	if (r->place != NULL) {
		add->vmta = str_of(r->place);
		add->pool = str_of(r->place + add->vmta.n + 1);
	}
	add->flags =
	    (uint8_t)(r->in_doubt ? add->flags | JOB_IN_DOUBT : add->flags & ~JOB_IN_DOUBT);
}

void redo_free(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	size_t at = 0;
	if (redo == NULL)
		return;
	for (struct redo_message *m; (m = map_next(&redo->messages, &at)) != NULL;) {
		while (m->rcpts != NULL) {
			struct redo_rcpt *r = m->rcpts;
			m->rcpts = r->next;
			free(r->place);
			free(r);
		}
		free(m);
	}
	map_fini(&redo->messages);
	states_free(redo);
	free(redo);
	q->recover.redo = NULL;
}

static void redo_intent(struct qmgr *q, struct str payload)
{
	struct j_intent r;
	if (j_intent_decode(payload, &r) != 0)
		return;
	q->recover.redo->intents = true;
	struct redo_message *m = redo_get(q, r.id);
	struct rd rd = rd_of(r.ordinals.p, r.ordinals.n);
	while (rd.n >= 2)
		redo_rcpt_get(m, rd_u16(&rd))->in_doubt = true;
}

/* Where it goes since then: in one piece, each with a NUL. */
static void redo_place(struct redo_rcpt *r, struct str vmta, struct str pool)
{
	free(r->place);
	r->place = xmalloc(vmta.n + pool.n + 2);
	str_copy(r->place, vmta.n + 1, vmta);
	str_copy(r->place + vmta.n + 1, pool.n + 1, pool);
}

static void redo_state(struct redo_rcpt *r, uint16_t attempts, uint8_t flags, uint64_t due_ms)
{
	r->has_state = true;
	r->in_doubt = false;
	r->attempts = attempts;
	r->flags = flags;
	r->due_ms = (int64_t)due_ms;
}

/* The report that an outcome asked for, as it was in memory. */
static void redo_report(
    struct qmgr *q, const struct j_outcome *o, enum j_report report, const struct buf *results)
{
	bounces_add(q,
	    &(struct row_bounce){.ticket = o->ticket,
		.id = o->id,
		.segment = o->segment,
		.offset = o->offset,
		.bytes = o->bytes,
		.kind = bounces_kind(report),
		.arrived_ms = (int64_t)o->arrived_ms,
		.retry_until_ms = (int64_t)o->retry_until_ms,
		.results = {(const char *)results->p, results->n}},
	    false);
}

static void redo_outcome(struct qmgr *q, struct str payload)
{
	struct j_outcome o;
	struct j_rcpt rcpt;
	if (j_outcome_decode(payload, &o) != 0)
		return;
	struct redo_message *m = redo_get(q, o.id);
	struct j_rcpt_reader reader = j_rcpt_reader(&o);
	enum j_report report = REPORT_NONE;
	struct buf results;
	buf_init(&results, JOURNAL_RECORD_MAX);
	while (j_rcpt_take(&reader, &rcpt) == 1) {
		struct redo_rcpt *r = redo_rcpt_get(m, rcpt.result.ordinal);
		bool lives = rcpt.outcome == OUTCOME_DEFERRED || rcpt.outcome == OUTCOME_RETRY ||
			     rcpt.outcome == J_OUTCOME_DELAY;
		bool doubt = r->in_doubt;
		redo_state(r, rcpt.attempts, rcpt.flags, rcpt.due_ms);
		r->in_doubt = doubt && rcpt.outcome == J_OUTCOME_DELAY;
		r->gone = !lives;
		if (lives && o.has_place)
			redo_place(r, rcpt.place.vmta, rcpt.place.pool);
		if (rcpt.report != REPORT_NONE) {
			report = rcpt.report;
			result_put(&results, &rcpt.result);
		}
	}
	if (report != REPORT_NONE)
		redo_report(q, &o, report, &results);
	buf_fini(&results);
}

static void redo_rest(struct qmgr *q, const struct journal_record *rec)
{
	struct j_changed changed;
	struct j_received received;
	struct j_removed removed;
	struct j_reported reported;
	struct j_settled settled;
	if (rec->type == J_CHANGED && j_changed_decode(rec->payload, &changed) == 0) {
		struct redo_rcpt *r = redo_rcpt_get(redo_get(q, changed.id), changed.rcpt);
		bool doubt = r->in_doubt; /* held or deleted in flight: that goes on */
		redo_state(r, changed.attempts, changed.flags, changed.due_ms);
		r->in_doubt = doubt;
		if (changed.has_place)
			redo_place(r, changed.vmta, changed.pool);
	} else if (rec->type == J_RECEIVED && j_received_decode(rec->payload, &received) == 0) {
		redo_get(q, received.id)->received = true;
	} else if (rec->type == J_REMOVED && j_removed_decode(rec->payload, &removed) == 0) {
		redo_get(q, removed.id)->removed = true;
	} else if (rec->type == J_REPORTED && j_reported_decode(rec->payload, &reported) == 0) {
		bounces_settle(q, reported.ticket, reported.cause_id);
		redo_get(q, reported.id)->reported = true;
	} else if (rec->type == J_SETTLED && j_settled_decode(rec->payload, &settled) == 0) {
		bounces_settle(q, settled.ticket, settled.id);
	}
}

void redo_record(void *ctx, const struct journal_record *rec)
{
	struct qmgr *q = ctx;
	if (rec->type == J_INTENT)
		redo_intent(q, rec->payload);
	else if (rec->type == J_OUTCOME)
		redo_outcome(q, rec->payload);
	else if (rec->type == J_STATE)
		states_redo(q, rec->payload);
	else if (rec->type == J_EVENT)
		events_redo(q, rec->payload);
	else
		redo_rest(q, rec);
}

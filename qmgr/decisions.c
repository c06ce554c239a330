/* SPDX-License-Identifier: ISC */
/*
 * What the core decided, carried out: frames to smtp-out and resolver, records to the journal, rows
 * marked dirty, reports asked of the bouncer, messages removed.
 *
 * Order is the whole point. Everything of a turn is appended to the journal's buffer and to
 * channels that are held; main.c lets the frames go when the records are on file. So no JOB leaves
 * before its INTENT, and nothing that follows from an outcome leaves before the outcome.
 *
 * The core tells outcomes recipient by recipient; consecutive ones of one message become one record
 * (`open`), with one report for all of them that failed together.
 *
 * A crash before the record is written: the recipient is in doubt, and smtp-out, which keeps its
 * RESULT until qmgr took it, or its death, decides. After it: the outcome is known.
 */
#include "common/log.h"
#include "common/route.h"
#include "qmgr/shell.h"
#include <inttypes.h>
#include <stdlib.h>

enum {
	TEXTS_MAX = 8192,      /* the common fields of an outcome: sum of their bounds */
	RESULTS_MAX = 1 << 20, /* what BOUNCE carries */
	RESULT_ROOM = 4096,    /* one more result fits */
	RCPTS_A_RECORD = 4000, /* keeps a record far below JOURNAL_RECORD_MAX */
};

static struct buf *records(struct qmgr *q)
{
	return journal_buf(q->journal);
}

void decisions_init(struct qmgr *q)
{
	j_rcpts_init(&q->decisions.rcpts);
	buf_init(&q->decisions.texts, TEXTS_MAX);
	buf_init(&q->decisions.results, RESULTS_MAX);
	buf_init(&q->decisions.ordinals, 65536);
}

void decisions_fini(struct qmgr *q)
{
	j_rcpts_fini(&q->decisions.rcpts);
	buf_fini(&q->decisions.texts);
	buf_fini(&q->decisions.results);
	buf_fini(&q->decisions.ordinals);
	free(q->decisions.scratch);
}

void decisions_dirty(struct qmgr *q, job_ref ref, uint8_t flags)
{
	if (flags & JOB_DIRTY)
		return; /* it stands in the list */
	core_set_flags(q->core, ref, JOB_DIRTY, 0);
	commit_dirty(q, ref);
}

void message_removed(struct qmgr *q, uint64_t id, struct segment *s, uint64_t bytes, struct str why)
{
	j_removed_encode(records(q),
	    &(struct j_removed){.id = id, .wall_ms = (uint64_t)clock_wall_ms(), .why = why});
	if (s != NULL)
		segment_release(q, s, bytes);
}

/* --- outcomes ------------------------------------------------------------------------------------
 */

static void flush(struct qmgr *q)
{
	struct decisions *d = &q->decisions;
	if (!d->open)
		return;
	d->open = false;
	j_outcome_encode(records(q), &d->common, &d->rcpts);
	if (d->report != REPORT_NONE)
		bounces_add(q,
		    &(struct row_bounce){.ticket = d->common.ticket,
			.id = d->common.id,
			.segment = d->common.segment,
			.offset = d->common.offset,
			.bytes = d->common.bytes,
			.kind = bounces_kind(d->report),
			.arrived_ms = (int64_t)d->common.arrived_ms,
			.retry_until_ms = (int64_t)d->common.retry_until_ms,
			.results = {(const char *)d->results.p, d->results.n}},
		    false);
	if (d->removed)
		message_removed(q, d->common.id, d->segment, d->common.bytes, STR(""));
}

static struct str keep(struct decisions *d, struct str s)
{
	size_t at = d->texts.n;
	buf_str(&d->texts, s);
	return d->texts.failed ? STR("") : (struct str){(const char *)d->texts.p + at, s.n};
}

static void begin(struct qmgr *q, const struct job_view *v, const struct result_context *ctx)
{
	struct decisions *d = &q->decisions;
	d->open = true;
	d->removed = false;
	d->report = REPORT_NONE;
	d->has_result = ctx != NULL;
	d->segment = segments_find(q, v->segment);
	j_rcpts_reset(&d->rcpts);
	buf_reset(&d->results);
	buf_reset(&d->texts);
	must(buf_reserve(&d->texts, TEXTS_MAX) != NULL); /* it must not move under the views */
	struct j_outcome *c = &d->common;
	*c = (struct j_outcome){.id = v->id,
	    .wall_ms = (uint64_t)clock_wall_ms(),
	    .arrived_ms = (uint64_t)v->arrived_ms,
	    .segment = v->segment,
	    .offset = v->offset,
	    .bytes = v->bytes,
	    .place = {.queue = keep(d, v->queue),
		.vmta = keep(d, v->vmta),
		.pool = keep(d, v->pool),
		.mode = keep(d, v->mode)},
	    .tenant = keep(d, v->tenant),
	    .campaign = keep(d, v->campaign)};
	if (ctx == NULL)
		return;
	const struct msg_result *m = ctx->msg;
	c->transaction = m->transaction;
	c->connect_ms = m->connect_ms;
	c->transmit_ms = m->transmit_ms;
	c->sender = keep(d, m->sender);
	c->envid = keep(d, m->envid);
	c->relay = keep(d, m->relay);
	c->source = keep(d, m->source);
	c->esmtp = keep(d, m->esmtp);
}

static void need(struct qmgr *q, const struct job_view *v, const struct result_context *ctx,
    enum j_report report)
{
	struct decisions *d = &q->decisions;
	bool fits = d->open && d->common.id == v->id && d->has_result == (ctx != NULL) &&
		    d->common.offset == v->offset && d->rcpts.count < RCPTS_A_RECORD &&
		    d->results.n < RESULTS_MAX - RESULT_ROOM &&
		    (d->report == REPORT_NONE || report == REPORT_NONE || d->report == report);
	if (!fits) {
		flush(q);
		begin(q, v, ctx);
	}
	if (report != REPORT_NONE && d->report == REPORT_NONE) {
		d->report = report;
		d->common.ticket = bounces_ticket(q);
	}
}

/* Recipients of one message that end together may stand in several queues; the record names the
 * first one's. They stay in one record all the same, so that the sender gets one report. */
static struct j_place place_of(const struct qmgr *q, const struct job_view *v)
{
	const struct j_place *first = &q->decisions.common.place;
	if (str_eq(first->queue, v->queue) && str_eq(first->vmta, v->vmta) &&
	    str_eq(first->pool, v->pool) && str_eq(first->mode, v->mode))
		return (struct j_place){.queue = STR("")};
	return (struct j_place){
	    .queue = v->queue, .vmta = v->vmta, .pool = v->pool, .mode = v->mode};
}

static bool is_final(enum core_outcome outcome)
{
	return outcome != OUTCOME_DEFERRED && outcome != OUTCOME_RETRY;
}

/* Without an attempt: expired, deleted, discarded … */
static uint8_t verdict_of(enum core_outcome outcome)
{
	if (outcome == OUTCOME_DELIVERED)
		return VERDICT_DELIVERED;
	return is_final(outcome) ? VERDICT_FAILED : VERDICT_DEFERRED;
}

static enum j_report report_for(
    const struct core_decision *dec, const struct rcpt_result *r, const struct job_view *v)
{
	if (dec->report && (dec->outcome == OUTCOME_BOUNCED || dec->outcome == OUTCOME_EXPIRED))
		return REPORT_FAILED;
	/* RFC 3461 5.2.2: the next hop does not speak DSN, so the success it will not report is
	 * ours. */
	if (dec->outcome == OUTCOME_DELIVERED && r->relayed && (r->notify & NOTIFY_SUCCESS) &&
	    !(v->flags & JOB_NULL_SENDER))
		return REPORT_SUCCESS;
	return REPORT_NONE;
}

static void count(struct qmgr *q, const struct core_decision *dec, const struct job_view *v)
{
	struct counters *c = &q->counters;
	c->delivered += dec->outcome == OUTCOME_DELIVERED;
	c->deferred += dec->outcome == OUTCOME_DEFERRED;
	c->bounced += dec->outcome == OUTCOME_BOUNCED;
	c->expired += dec->outcome == OUTCOME_EXPIRED;
	c->deleted += dec->outcome == OUTCOME_DELETED;
	c->uncertain += dec->outcome == OUTCOME_DELIVERED && (v->flags & JOB_UNCERTAIN);
}

static void put_rcpt(struct qmgr *q, const struct j_rcpt *rcpt)
{
	j_rcpts_put(&q->decisions.rcpts, rcpt);
	if (rcpt->report != REPORT_NONE)
		result_put(&q->decisions.results, &rcpt->result);
}

static bool is_last_job(struct qmgr *q, job_ref ref, uint64_t id)
{
	return core_find(q->core, id) == ref && core_sibling(q->core, ref) == 0;
}

static void end_job(struct qmgr *q, job_ref ref, const struct job_view *v, enum j_report report)
{
	if (v->flags & JOB_STORED)
		commit_delete_rcpt(q, v->id, v->rcpt);
	if (is_last_job(q, ref, v->id) && report == REPORT_NONE &&
	    q->decisions.report == REPORT_NONE && bounces_of(q, v->id) == 0)
		q->decisions.removed = true;
}

static void done(struct qmgr *q, const struct core_decision *dec, const struct result_context *ctx)
{
	struct job_view v;
	if (!core_job(q->core, dec->job, &v))
		return;
	if (dec->result < 0 || ctx == NULL || (size_t)dec->result >= ctx->count)
		ctx = NULL;
	struct j_rcpt rcpt = {.outcome = (uint8_t)dec->outcome,
	    .flags = v.flags,
	    .attempts = v.attempts,
	    .due_ms = (uint64_t)v.due_ms,
	    .rule = dec->rule};
	rcpt.result = ctx ? ctx->results[dec->result]
			  : (struct rcpt_result){
				.stage = STAGE_INTERNAL, .verdict = verdict_of(dec->outcome)};
	rcpt.result.ordinal = v.rcpt;
	if (dec->status.n > 0)
		rcpt.result.status = dec->status;
	if (dec->text.n > 0)
		rcpt.result.text = dec->text;
	enum j_report report = report_for(dec, &rcpt.result, &v);
	rcpt.report = (uint8_t)report;
	need(q, &v, ctx, report);
	rcpt.place = place_of(q, &v);
	put_rcpt(q, &rcpt);
	count(q, dec, &v);
	if (is_final(dec->outcome))
		end_job(q, dec->job, &v, report);
	else
		decisions_dirty(q, dec->job, v.flags);
}

static void delayed(struct qmgr *q, const struct core_decision *dec)
{
	struct job_view v;
	if (!core_job(q->core, dec->job, &v))
		return;
	struct j_rcpt rcpt = {.outcome = J_OUTCOME_DELAY,
	    .flags = v.flags,
	    .attempts = v.attempts,
	    .due_ms = (uint64_t)v.due_ms,
	    .report = REPORT_DELAYED,
	    .result = {.ordinal = v.rcpt,
		.stage = STAGE_INTERNAL,
		.verdict = VERDICT_DEFERRED,
		.status = dec->status,
		.text = dec->text}};
	need(q, &v, NULL, REPORT_DELAYED);
	q->decisions.common.retry_until_ms = (uint64_t)core_expires_ms(q->core, dec->job);
	rcpt.place = place_of(q, &v);
	put_rcpt(q, &rcpt);
	decisions_dirty(q, dec->job, v.flags);
}

static void changed(struct qmgr *q, const struct core_decision *dec)
{
	struct job_view v;
	if (!core_job(q->core, dec->job, &v))
		return;
	flush(q);
	j_changed_encode(records(q), &(struct j_changed){.id = v.id,
					 .rcpt = v.rcpt,
					 .attempts = v.attempts,
					 .flags = v.flags & ROW_FLAGS,
					 .due_ms = (uint64_t)v.due_ms,
					 .vmta = v.vmta,
					 .pool = v.pool});
	decisions_dirty(q, dec->job, v.flags);
}

/* --- sending -------------------------------------------------------------------------------------
 */

static void send_grant(struct qmgr *q, const struct core_decision *dec)
{
	struct peer *peer = peers_find(q, PROC_smtp_out, (int)dec->worker);
	char address[64];
	const struct core_grant *g = &dec->grant;
	if (peer == NULL)
		return; /* its end is on the way to the core */
	route_address_print(address, &g->address);
	peer->conns++;
	chan_send_grant(peer->chan, &(struct msg_grant){.conn = dec->conn,
					.queue = g->queue,
					.domain = g->domain,
					.source = g->source,
					.ehlo = g->ehlo,
					.host = g->host,
					.address = str_of(address),
					.port = g->port,
					.tls = (uint8_t)g->tls,
					.ignore_8bitmime = g->ignore_8bitmime,
					.connect_timeout_ms = g->connect_timeout_ms,
					.greeting_timeout_ms = g->greeting_timeout_ms,
					.command_timeout_ms = g->command_timeout_ms,
					.data_timeout_ms = g->data_timeout_ms,
					.dot_timeout_ms = g->dot_timeout_ms,
					.idle_timeout_ms = g->idle_timeout_ms,
					.patterns = g->patterns});
}

/* A transaction that cannot be sent because its segment cannot be opened: answered after the drain.
 */
struct unsendable {
	struct unsendable *next;
	uint64_t transaction;
	size_t n;
	uint16_t ordinals[];
};
static struct unsendable *unsendable; /* one qmgr a process */

static void give_up(const struct core_decision *dec, struct str ordinals)
{
	struct unsendable *u = xcalloc(1, sizeof(*u) + dec->job_count * sizeof(uint16_t));
	struct rd rd = rd_of(ordinals.p, ordinals.n);
	u->transaction = dec->transaction;
	u->n = dec->job_count;
	for (size_t i = 0; i < u->n; i++)
		u->ordinals[i] = rd_u16(&rd);
	u->next = unsendable;
	unsendable = u;
}

static bool answer_unsendable(struct qmgr *q)
{
	struct unsendable *u = unsendable;
	if (u == NULL)
		return false;
	unsendable = u->next;
	struct rcpt_result *results = xcalloc(u->n, sizeof(*results));
	for (size_t i = 0; i < u->n; i++)
		results[i] = (struct rcpt_result){.ordinal = u->ordinals[i],
		    .verdict = VERDICT_DEFERRED,
		    .stage = STAGE_INTERNAL,
		    .status = STR("4.3.0"),
		    .text = STR("the message cannot be read from the spool")};
	struct msg_result m = {.transaction = u->transaction};
	core_result(q->core, u->transaction, results, u->n, q->now_ms);
	struct result_context ctx = {&m, results, u->n};
	struct core_decision d;
	while (core_next(q->core, &d))
		decisions_carry_out(q, &d, &ctx);
	free(results);
	free(u);
	return true;
}

static void gather_jobs(struct qmgr *q, const struct core_decision *dec, struct buf *ordinals)
{
	struct job_view v;
	for (size_t i = 0; i < dec->job_count; i++)
		if (core_job(q->core, dec->jobs[i], &v))
			buf_u16(ordinals, v.rcpt);
}

/* Their rows, if they have any, must say that they are in flight, should a commit come meanwhile.
 */
static void mark_sent(struct qmgr *q, const job_ref *jobs, size_t n)
{
	struct job_view v;
	for (size_t i = 0; i < n; i++)
		if (core_job(q->core, jobs[i], &v) && !(v.flags & JOB_DIRTY))
			decisions_dirty(q, jobs[i], v.flags);
}

static void send_job(struct qmgr *q, const struct core_decision *dec)
{
	struct peer *peer = peers_find(q, PROC_smtp_out, (int)dec->worker);
	struct job_view v;
	if (peer == NULL || dec->job_count == 0 || !core_job(q->core, dec->jobs[0], &v))
		return;
	struct segment *s = segments_find(q, v.segment);
	struct buf *b = &q->decisions.ordinals;
	buf_reset(b);
	gather_jobs(q, dec, b);
	struct str ordinals = {(const char *)b->p, b->n};
	if (s == NULL || !segment_show(q, s, peer)) {
		give_up(dec, ordinals);
		return;
	}
	flush(q);
	qmgr_blame(q, v.id);
	j_intent_encode(records(q),
	    &(struct j_intent){.transaction = dec->transaction, .id = v.id, .ordinals = ordinals});
	chan_send_job(peer->chan, &(struct msg_job){.conn = dec->conn,
				      .transaction = dec->transaction,
				      .id = v.id,
				      .segment = v.segment,
				      .offset = v.offset,
				      .rcpts = ordinals});
	mark_sent(q, dec->jobs, dec->job_count);
	qmgr_blame(q, 0);
}

static void send_close(struct qmgr *q, const struct core_decision *dec)
{
	struct peer *peer = peers_find(q, PROC_smtp_out, (int)dec->worker);
	if (peer != NULL)
		chan_send_conn_close(
		    peer->chan, &(struct msg_conn_close){.conn = dec->conn, .hard = dec->hard});
}

/* Stopping: what would begin now does not. Its jobs are due at the next start, and not in doubt. */
static void do_not_send(struct qmgr *q, const struct core_decision *dec)
{
	for (size_t i = 0; i < dec->job_count; i++)
		map_set(&q->commit.not_sent, dec->jobs[i], q);
}

void decisions_carry_out(
    struct qmgr *q, const struct core_decision *d, const struct result_context *ctx)
{
	switch (d->kind) {
	case DECIDE_RESOLVE:
		routes_ask(q, d->domain, d->hosts);
		break;
	case DECIDE_GRANT:
		if (!q->stopping)
			send_grant(q, d);
		break;
	case DECIDE_SEND:
		if (q->stopping)
			do_not_send(q, d);
		else
			send_job(q, d);
		break;
	case DECIDE_CLOSE:
		send_close(q, d);
		break;
	case DECIDE_DONE:
		done(q, d, ctx);
		break;
	case DECIDE_DELAYED:
		delayed(q, d);
		break;
	case DECIDE_CHANGED:
		changed(q, d);
		break;
	case DECIDE_STATE:
		states_keep(q, d);
		break;
	case DECIDE_EVENT:
		events_put(q, &d->event);
		break;
	}
}

void decisions_drain(struct qmgr *q, const struct result_context *ctx)
{
	struct core_decision d;
	while (core_next(q->core, &d))
		decisions_carry_out(q, &d, ctx);
	while (answer_unsendable(q))
		continue;
	flush(q);
}

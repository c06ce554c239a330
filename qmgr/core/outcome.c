/* SPDX-License-Identifier: ISC */
/*
 * What becomes of a job: its results, its next attempt, its age.
 *
 * A deferral counts an attempt and waits for the larger of the retry list's step and
 * retry-recipients-after. What never began (RETRY_NOW) goes back to the front of its lane and
 * counts nothing, three times in a row at most. The jitter is a hash of message, domain and
 * attempt: the recipients that went together stay together.
 *
 * A job that is older than bounce-after expires wherever it stands, and is told of as delayed once
 * per notify-of-delay-every, or once after four hours if only the sender asked; null senders never.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>

static struct queue *queue_of(const struct core *core, const struct job *j)
{
	return core->lane_at[j->lane]->share->queue;
}

/* ---- age ---- */

static int64_t notice_ms(const struct queue *q, const struct job *j)
{
	int64_t arrived = (int64_t)j->arrived_ms;

	if (j->flags & JOB_NULL_SENDER || j->notices == UINT8_MAX)
		return NEVER;
	if (q->v.notify_ms > 0)
		return arrived + ((int64_t)j->notices + 1) * q->v.notify_ms;
	if ((j->flags & JOB_DELAY_ASKED) && !(j->flags & JOB_DELAY_TOLD))
		return arrived + CORE_DELAY_ASKED;
	return NEVER;
}

int64_t outcome_event_ms(const struct core *core, const struct job *j)
{
	const struct queue *q = queue_of(core, j);
	int64_t expiry = (int64_t)j->arrived_ms + q->v.bounce_ms, notice = notice_ms(q, j);
	int64_t no_mx = place_no_mx_ms(core, q, j);

	if (no_mx < expiry)
		expiry = no_mx;
	return notice < expiry ? notice : expiry;
}

enum age outcome_age(const struct core *core, const struct job *j)
{
	const struct queue *q = queue_of(core, j);

	if (core->now - (int64_t)j->arrived_ms >= q->v.bounce_ms ||
	    core->now >= place_no_mx_ms(core, q, j))
		return AGE_EXPIRED;
	return core->now >= notice_ms(q, j) ? AGE_NOTICE : AGE_FINE;
}

/* What a sender is told of mail that no reply of its own explains. The queue's last error serves
 * only where it speaks of the destination as a whole: any other may name another one's recipient.
 */
static struct reason {
	struct str status, text;
} reason_of(const struct queue *q)
{
	switch (q->error_of) {
	case ERROR_CONNECTION:
		return (struct reason){STR("4.4.1"), str_of(q->error)};
	case ERROR_ROUTE:
		return (struct reason){STR("4.4.3"), str_of(q->error)};
	case ERROR_OTHER:
		break;
	}
	return (struct reason){STR("4.0.0"), STR("it could not be delivered so far")};
}

static void tell_delay(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);
	struct reason why = reason_of(q);
	int64_t k = 1;

	if (q->v.notify_ms > 0)
		k = (core->now - (int64_t)j->arrived_ms) / q->v.notify_ms;
	j->notices = k > UINT8_MAX ? UINT8_MAX : (uint8_t)k;
	j->flags |= JOB_DELAY_TOLD;
	core_push(core, &(struct pending){.kind = DECIDE_DELAYED, .job = ref, .result = -1},
	    why.status, why.text);
}

/* It has no MX record, and its address records serve no longer, or not at all. */
static void outcome_no_mx(struct core *core, job_ref ref)
{
	const struct queue *q = queue_of(core, core_at(core, ref));

	outcome_end(core, ref, OUTCOME_BOUNCED, -1, STR("5.1.2"),
	    q->v.no_mx_ms
		? STR("the domain has no MX record, and mail is sent to its address records "
		      "for a limited time only (bounce-upon-no-mx)")
		: STR("the domain has no MX record (bounce-upon-no-mx)"),
	    true);
}

static void expire(struct core *core, job_ref ref)
{
	struct reason why = reason_of(queue_of(core, core_at(core, ref)));
	char text[CORE_TEXT_MAX + 40];
	int n = snprintf(text, sizeof(text), "delivery time expired: %.*s", STR_ARG(why.text));

	if (core_at(core, ref)->state == JOB_READY)
		lane_take(core, ref);
	if (core->now >=
	    place_no_mx_ms(core, queue_of(core, core_at(core, ref)), core_at(core, ref))) {
		outcome_no_mx(core, ref);
		return;
	}
	outcome_end(core, ref, OUTCOME_EXPIRED, -1, STR("4.4.7"),
	    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1}, true);
}

bool outcome_aged(struct core *core, job_ref ref)
{
	switch (outcome_age(core, core_at(core, ref))) {
	case AGE_EXPIRED:
		expire(core, ref);
		return true;
	case AGE_NOTICE:
		tell_delay(core, ref);
		break;
	case AGE_FINE:
		break;
	}
	return false;
}

/* ---- where it goes ---- */

void outcome_end(struct core *core, job_ref ref, enum core_outcome outcome, int result,
    struct str status, struct str text, bool report)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);

	if (outcome == OUTCOME_DELIVERED) {
		q->delivered++;
		core->delivered++;
		tenant_tally(core->lane_at[j->lane], TALLY_DELIVERED);
	} else if (outcome != OUTCOME_DELETED) {
		q->bounced++;
		core->bounced++;
		tenant_tally(core->lane_at[j->lane], TALLY_BOUNCED);
	}
	job_state(core, ref, JOB_ENDED);
	core_push(core,
	    &(struct pending){.kind = DECIDE_DONE,
		.job = ref,
		.outcome = outcome,
		.result = result,
		.rule = core->deciding,
		.report = report && !(j->flags & JOB_NULL_SENDER)},
	    status, text);
}

void outcome_changed(struct core *core, job_ref ref)
{
	core_push(core, &(struct pending){.kind = DECIDE_CHANGED, .job = ref, .result = -1},
	    STR(""), STR(""));
}

void outcome_set_aside(struct core *core, job_ref ref)
{
	job_state(core, ref, JOB_SET_ASIDE);
}

/* Out of wherever it stands: in no list, JOB_UNROUTED. */
void outcome_loosen(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);

	if (j->state == JOB_READY) {
		lane_take(core, ref);
		return;
	}
	if (j->state == JOB_WAITING || j->state == JOB_DOUBT) /* others: job_state() */
		job_unlink(core, ref);
	job_state(core, ref, JOB_UNROUTED);
}

void outcome_wait(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);

	q->last_due_ms = (int64_t)j->due_ms;
	if (q->last_due_ms < q->next_due_ms || q->next_due_ms <= core->now)
		q->next_due_ms = q->last_due_ms;
	job_state(core, ref, JOB_WAITING);
	due_add(core, ref);
}

void outcome_place(struct core *core, job_ref ref, bool front)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);
	struct domain *d = core->domain_at[j->domain];
	struct place p;
	struct str status;

	if (j->flags & JOB_HELD) {
		outcome_set_aside(core, ref);
		return;
	}
	place_mail(core, d, q->vmta, core->lane_at[j->lane]->pool, q, &p);
	if (!p.routed && domain_failed(core, p.route, &status)) {
		outcome_end(core, ref, OUTCOME_BOUNCED, -1, status, str_of(p.route->text), true);
		return;
	}
	place_move(core, ref, &p);
	if (core->now >= place_no_mx_ms(core, p.queue, j)) {
		outcome_no_mx(core, ref);
		return;
	}
	lane_push(core, ref, front);
	if (!p.queue->v.discard)
		domain_want(core, p.route); /* even if held: what comes in keeps the route fresh */
}

bool outcome_moved(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);
	struct place p;
	struct str status;
	bool failed;
	int64_t due;

	place_mail(core, core->domain_at[j->domain], q->vmta, core->lane_at[j->lane]->pool, q, &p);
	failed = !p.routed && domain_failed(core, p.route, &status);
	if (!failed && p.queue == q && p.pool == core->lane_at[j->lane]->pool) {
		if (!p.routed) /* a configuration may have named other hosts for it */
			domain_want(core, p.route);
		return false;
	}
	due = j->state == JOB_WAITING ? (int64_t)j->due_ms : 0;
	outcome_loosen(core, ref);
	if (due > core->now && !failed) { /* goes on waiting there */
		place_move(core, ref, &p);
		outcome_wait(core, ref);
	} else {
		outcome_place(core, ref, false);
	}
	return true;
}

/* ---- results ---- */

/* Up to a tenth more; the same for all recipients of a transaction. */
static int64_t spread(const struct core *core, const struct job *j, int64_t ms)
{
	uint64_t h = hash_mix(hash_mix(core->seed, j->id), (uint64_t)j->domain << 16 | j->attempts);

	return ms + (int64_t)((uint64_t)(ms / 10) * (h & 1023) / 1024);
}

/* How long it waits by that list after the attempts it had. */
static int64_t wait_by(const struct core *core, const struct job *j, const int64_t *list, size_t n)
{
	const struct queue *q = queue_of(core, j);
	int64_t step = value_step(list, n, j->attempts);

	return spread(core, j, step > q->v.retry_rcpt_ms ? step : q->v.retry_rcpt_ms);
}

void outcome_retime(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	const struct queue *q = queue_of(core, j);
	int64_t due = (int64_t)j->due_ms, latest;

	if (j->state != JOB_WAITING || j->attempts == 0)
		return;
	latest = wait_by(core, j, q->e.retry, q->e.retry_count);
	if (j->backed_off != mode_is_backoff(q)) {
		due += latest - (j->backed_off ? wait_by(core, j, q->v.backoff_retry,
						     q->v.backoff_retry_count)
					       : wait_by(core, j, q->v.retry, q->v.retry_count));
		j->backed_off = mode_is_backoff(q);
	}
	latest += core->now; /* nobody waits longer than if it had been deferred now */
	due = due > latest ? latest : due < 0 ? 0 : due;
	if (due == (int64_t)j->due_ms)
		return;
	j->due_ms = (uint64_t)due & ((UINT64_C(1) << 44) - 1);
	outcome_changed(core, ref);
}

static void done(struct core *core, job_ref ref, enum core_outcome outcome, int result,
    struct str status, struct str text)
{
	core_push(core,
	    &(struct pending){.kind = DECIDE_DONE,
		.job = ref,
		.outcome = outcome,
		.result = result,
		.rule = core->deciding},
	    status, text);
}

static void deferred(struct core *core, job_ref ref, int result, struct str status, struct str text)
{
	struct job *j = core_at(core, ref);
	struct queue *q = queue_of(core, j);

	q->deferred++;
	core->deferred++;
	tenant_tally(core->lane_at[j->lane], TALLY_DEFERRED);
	j->retries = 0;
	if (j->attempts < UINT16_MAX)
		j->attempts = (j->attempts + 1) & UINT16_MAX;
	if (text.n)
		queue_error(core, q, text, ERROR_OTHER);
	if (j->doomed) {
		outcome_end(core, ref, OUTCOME_DELETED, result, status, text, false);
		return;
	}
	if (outcome_age(core, j) == AGE_EXPIRED) {
		outcome_end(core, ref, OUTCOME_EXPIRED, result, status, text, true);
		return;
	}
	j->due_ms = (uint64_t)(core->now + wait_by(core, j, q->e.retry, q->e.retry_count)) &
		    ((UINT64_C(1) << 44) - 1);
	j->backed_off = mode_is_backoff(q);
	job_state(core, ref, JOB_UNROUTED);
	done(core, ref, OUTCOME_DEFERRED, result, status, text);
	if (j->flags & JOB_HELD) {
		outcome_set_aside(core, ref);
		return;
	}
	outcome_aged(core, ref); /* a notice may have come due in flight */
	outcome_wait(core, ref);
}

/* It did not begin. `progress`: others of its transaction or connection did, so that it is not its
 * own fault and nothing is counted. */
static void retry_now(
    struct core *core, job_ref ref, int result, const struct rcpt_result *r, bool progress)
{
	struct job *j = core_at(core, ref);
	struct str status = r ? r->status : STR("4.4.2"), text = r ? r->text : STR("not begun");

	if (j->doomed) {
		outcome_end(core, ref, OUTCOME_DELETED, result, status, text, false);
		return;
	}
	if (!progress && ++j->retries == 0) { /* two bits: the fourth in a row */
		deferred(core, ref, result, status, text);
		return;
	}
	job_state(core, ref, JOB_UNROUTED);
	done(core, ref, OUTCOME_RETRY, result, status, text);
	outcome_place(core, ref, true);
}

static void settle(
    struct core *core, job_ref ref, const struct rcpt_result *r, int result, bool progress)
{
	struct job *j = core_at(core, ref);

	switch (r->verdict) {
	case VERDICT_DELIVERED:
		outcome_end(core, ref, OUTCOME_DELIVERED, result, r->status, r->text, false);
		break;
	case VERDICT_FAILED:
		outcome_end(core, ref, OUTCOME_BOUNCED, result, r->status, r->text, true);
		break;
	case VERDICT_DEFERRED:
		if (r->past_dot && r->code == 0)
			j->flags |= JOB_UNCERTAIN;
		deferred(core, ref, result, r->status, r->text);
		break;
	default:
		retry_now(core, ref, result, r, progress);
	}
}

/* Its place in the transaction; results nearly always come in the order in which they were sent. */
static uint32_t find_job(
    const struct core *core, const struct tx *tx, uint16_t ordinal, uint32_t hint)
{
	for (uint32_t k = 0; k < tx->n; k++) {
		uint32_t i = hint + k < tx->n ? hint + k : hint + k - tx->n;

		if (tx->jobs[i] && core_at(core, tx->jobs[i])->rcpt == ordinal)
			return i;
	}
	return UINT32_MAX;
}

struct tally {
	uint32_t delivered, other, again, deferred;
};

static struct tally count(const struct rcpt_result *results, size_t n)
{
	struct tally t = {0, 0, 0, 0};

	for (size_t i = 0; i < n; i++) {
		t.delivered += results[i].verdict == VERDICT_DELIVERED;
		t.again += results[i].verdict >= VERDICT_RETRY_NOW;
		t.deferred += results[i].verdict == VERDICT_DEFERRED;
	}
	t.other = (uint32_t)n - t.delivered - t.again;
	return t;
}

static void learn(
    struct core *core, struct conn *c, uint64_t tx, const struct rcpt_result *results, size_t n)
{
	struct tally t = count(results, n);

	/* "452 4.5.3 too many recipients": what it took this time is what it takes at once. */
	for (size_t i = 0; i < n && t.again; i++) {
		if (results[i].verdict >= VERDICT_RETRY_NOW && results[i].code == 452 &&
		    results[i].stage == STAGE_RCPT && t.delivered + t.other) {
			c->rcpt_max = t.delivered + t.other;
			break;
		}
	}
	if (c->path->warm)
		warmup_result(core, c->path->warm, t.deferred);
	if (t.delivered + t.other)
		c->answered++;
	if (t.delivered)
		grant_works(core, c, tx);
}

static void unsent(struct core *core, struct tx *tx, bool progress)
{
	for (uint32_t i = tx->n; i-- > 0;) /* backwards: each goes to the front */
		if (tx->jobs[i])
			retry_now(core, tx->jobs[i], -1, NULL, progress);
}

void outcome_unsent(struct core *core, struct tx *tx, bool progress)
{
	unsent(core, tx, progress);
	tx_free(core, tx);
}

/* What a rule makes of a result; what was delivered, or never asked, stays as it is. */
static bool overrule(const struct rule_verdict *v, struct rcpt_result *r, char status[20])
{
	char first = v->action == ACTION_BOUNCE_RECIPIENT ? '5' : '4';

	if (r->verdict == VERDICT_DELIVERED || (r->verdict == VERDICT_RETRY_NOW && r->code == 0))
		return false;
	if (v->action == ACTION_SKIP_MX && !(r->past_dot && r->code == 0))
		r->verdict = VERDICT_RETRY_NOW;
	else
		r->verdict = first == '5' ? VERDICT_FAILED : VERDICT_DEFERRED;
	snprintf(status, 20, "%.*s", STR_ARG(r->status.n ? r->status : STR("5.0.0")));
	status[0] = first;
	r->status = str_of(status);
	return true;
}

static void settle_by_rules(
    struct core *core, job_ref ref, const struct rcpt_result *result, int i, bool progress)
{
	struct rcpt_result r = *result;
	struct rule_verdict v;
	char status[20];

	if (!rules_verdict(core, r.ordinal, &v) || !overrule(&v, &r, status)) {
		settle(core, ref, result, i, progress);
		return;
	}
	core->deciding = str_of(v.rule);
	settle(core, ref, &r, i, progress || v.action == ACTION_SKIP_MX);
	core->deciding = STR("");
}

static const struct lane *lane_of(const struct core *core, const struct tx *tx)
{
	for (uint32_t i = 0; i < tx->n; i++)
		if (tx->jobs[i])
			return core->lane_at[core_at(core, tx->jobs[i])->lane];
	return NULL;
}

int core_result(struct core *core, uint64_t transaction, const struct rcpt_result *results,
    size_t n, int64_t now_ms)
{
	struct tx *tx = tx_find(core, transaction);
	struct tally t = count(results, n);
	const struct lane *lane;
	struct conn *c;
	uint32_t hint = 0;

	core_clock(core, now_ms);
	if (!tx) {
		rules_forget(core);
		return 0;
	}
	c = tx->conn;
	lane = lane_of(core, tx);
	rules_reply(
	    core, &(struct rule_reply){
		      .queue = c->queue, .conn = c, .lane = lane, .results = results, .count = n});
	for (size_t i = 0; i < n; i++) {
		uint32_t at = find_job(core, tx, results[i].ordinal, hint);

		if (at == UINT32_MAX)
			continue; /* not of this transaction, or a second result: ignored */
		settle_by_rules(core, tx->jobs[at], &results[i], (int)i, t.delivered + t.other > 0);
		tx->jobs[at] = 0;
		hint = at + 1 < tx->n ? at + 1 : 0;
	}
	unsent(core, tx, false);
	learn(core, c, transaction, results, n);
	conn_measured(core, tx);
	mode_answer(core, c->queue, transaction, t.delivered, t.deferred);
	if (lane)
		party_answer(core, lane, transaction, t.delivered, t.deferred);
	tx_free(core, tx);
	conn_settle(core, c);
	return 1;
}

/* The worker died with it: nobody knows how far it came. */
void outcome_uncertain(struct core *core, struct tx *tx)
{
	for (uint32_t i = 0; i < tx->n; i++) {
		job_ref ref = tx->jobs[i];

		if (!ref)
			continue;
		core_at(core, ref)->flags |= JOB_UNCERTAIN;
		job_state(core, ref, JOB_UNROUTED);
		if (core_at(core, ref)->doomed) {
			outcome_end(core, ref, OUTCOME_DELETED, -1, STR("4.3.0"),
			    STR("deleted; the delivery process had died over it"), false);
			continue;
		}
		outcome_changed(core, ref);
		outcome_place(core, ref, false);
	}
	tx_free(core, tx);
}

/* SPDX-License-Identifier: ISC */
/*
 * The engine of the dialogue: which command may be written now, and whose answer a reply is. What
 * the commands are and what their answers mean stands in steps.c.
 *
 * Pipelining (RFC 2920) is a FIFO of expected replies, nothing else: commands may be written while
 * there is room in it, one entry without PIPELINING. What comes when nothing is expected is a peer
 * that talks out of turn, and ends the session: no reply is ever taken for an answer to a command
 * that was not yet written when it came. Behind a final dot the next transaction's commands may
 * follow in the same write; so at most two transactions have begun, and the replies belong to the
 * older one.
 *
 * A transaction has begun when its MAIL is in `out`. From then on it ends with a RESULT, whatever
 * happens; what has not begun is dropped without one, and the connection's end tells qmgr so. All
 * outcomes come from verdict.c. `past_dot` is set before the dot can reach the peer, and a reply to
 * the dot counts only when the dot is out: a 250 that comes earlier is never a delivery.
 */
#include "smtp-out/dialogue.h"
#include "smtp-out/steps.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	OUT_MAX = 1 << 20,	/* commands not yet taken by the socket; never nearly reached: */
	OUT_ENOUGH = 16 * 1024, /* no more are written above this */
	OUT_KEEP = 4096,	/* a larger buffer is given back when the connection is idle */
	WHAT_MAX = 160,
};

static void fill(struct dialogue *d);

/* --- the FIFO
 * ------------------------------------------------------------------------------------- */

static void expect(struct dialogue *d, enum step_id step, unsigned rcpt)
{
	must(d->expected_count < PIPELINE_MAX);
	if (d->expected_count == 0)
		d->since_ms = d->now_ms;
	unsigned at = (d->expected_first + d->expected_count++) % PIPELINE_MAX;
	d->expected[at] = (struct expected){(uint8_t)step, (uint16_t)rcpt};
}

static const struct expected *front(const struct dialogue *d)
{
	return d->expected_count > 0 ? &d->expected[d->expected_first] : NULL;
}

static const struct step *front_step(const struct dialogue *d)
{
	return front(d) ? step_get(front(d)->step) : NULL;
}

static bool may_write(const struct dialogue *d)
{
	unsigned room = (d->features.bits & FEATURE_PIPELINING) ? PIPELINE_MAX : 1;
	return d->expected_count < room && d->out.n < OUT_ENOUGH;
}

static void tell_said(struct dialogue *d, char who, struct str line)
{
	while (line.n > 0 && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
		line.n--;
	if (d->spec.said)
		d->spec.said(d->spec.ctx, who, line);
}

static void say(struct dialogue *d, enum step_id step, struct txn *t)
{
	unsigned rcpt = t ? t->written : 0;
	size_t at = d->out.n;
	step_get(step)->send(d, t);
	tell_said(d, '>', (struct str){(const char *)d->out.p + at, d->out.n - at});
	expect(d, step, rcpt);
	if (t)
		t->pending++;
}

/* --- transactions
 * --------------------------------------------------------------------------------- */

/* The oldest transaction is complete: report it and forget it. */
static void finish_oldest(struct dialogue *d)
{
	struct txn *t = d->active;
	d->active = t->next;
	t->next = NULL;
	if (d->writing == t)
		d->writing = NULL;
	if (d->content == t)
		d->content = NULL;
	for (unsigned i = 0; i < t->rcpt_count; i++) {
		must(t->outcomes[i].decided);
		d->delivered += t->outcomes[i].verdict == VERDICT_DELIVERED;
	}
	d->spec.result(d->spec.ctx, t);
	txn_free(&t);
}

static bool finish_ready(struct dialogue *d)
{
	if (!d->active || d->active->at != AT_OVER || d->active->pending > 0)
		return false;
	finish_oldest(d);
	return true;
}

void dialogue_over(struct dialogue *d, struct txn *t)
{
	t->at = AT_OVER;
	if (d->writing == t)
		d->writing = NULL;
}

void dialogue_drop_queue(struct dialogue *d)
{
	while (d->queue) {
		struct txn *t = d->queue;
		d->queue = t->next;
		txn_free(&t);
	}
	d->queue_end = &d->queue;
}

/* --- failures, for whoever looks for patterns in them
 * --------------------------------------------- */

static void tell_failed(
    struct dialogue *d, enum smtp_stage stage, bool own, const char *text, struct txn *t, int rcpt)
{
	if (d->spec.failed)
		d->spec.failed(d->spec.ctx, &(struct dialogue_failure){stage, own, text, t, rcpt});
}

/* A refusal that only follows from one that was told already is none of its own: what is pipelined
 * behind a refused MAIL, DATA for nobody, HELO after EHLO. 421 always is. */
static bool says_something_new(
    const struct dialogue *d, const struct expected *e, const struct judgement *j)
{
	const struct txn *t = d->active;
	if (j->ends_session)
		return e->step != STEP_QUIT;
	switch (e->step) {
	case STEP_RSET:
	case STEP_LONE_DOT:
	case STEP_QUIT:
		return false;
	case STEP_HELO:
		return j->code / 100 != 5;
	case STEP_RCPT:
		return !t->refused;
	case STEP_DATA:
		return !t->refused && t->accepted > 0;
	default:
		return true;
	}
}

static void tell_refusal(struct dialogue *d, const struct expected *e, const struct judgement *j)
{
	bool of_txn = j->ends_session || (e->step >= STEP_MAIL && e->step <= STEP_DOT);
	if (!j->good && says_something_new(d, e, j))
		tell_failed(d, step_get(e->step)->stage, !j->by_peer, j->text,
		    of_txn ? d->active : NULL, e->step == STEP_RCPT ? e->rcpt : -1);
}

/* Ours. A connection that goes while it is idle has failed nobody. */
static void tell_broken(struct dialogue *d, enum conn_cause cause, enum smtp_stage stage,
    const char *text, bool no_attempt)
{
	bool idle = d->is_ready && !d->active;
	if (cause != CONN_DONE && !idle && !no_attempt)
		tell_failed(d, stage, true, text, d->active, -1);
}

/* --- the end of the session
 * ----------------------------------------------------------------------- */

static void set_end(struct dialogue *d, enum conn_cause cause, enum smtp_stage stage, uint16_t code,
    const char *text)
{
	if (d->end.text)
		return; /* the first cause counts */
	d->end = (struct dialogue_end){cause, stage, code, xstrdup(text)};
}

enum smtp_stage dialogue_stage(const struct dialogue *d)
{
	static const uint8_t of_txn[] = {[AT_MAIL] = STAGE_MAIL,
	    [AT_RCPT] = STAGE_RCPT,
	    [AT_DATA] = STAGE_DATA,
	    [AT_CONTENT] = STAGE_DATA,
	    [AT_LONE_DOT] = STAGE_DATA,
	    [AT_DOT] = STAGE_DOT,
	    [AT_OVER] = STAGE_MAIL};
	if (d->state == DIALOGUE_STARTTLS)
		return STAGE_STARTTLS;
	if (!d->content && front(d))
		return front_step(d)->stage;
	if (d->active)
		return of_txn[d->active->at];
	return d->is_ready ? STAGE_MAIL : d->started ? STAGE_GREETING : STAGE_CONNECT;
}

/* Between the command STARTTLS and the first word behind the handshake: without TLS it may work. */
static bool is_securing(const struct dialogue *d)
{
	return d->state == DIALOGUE_STARTTLS || (d->secured && !d->is_ready) ||
	       (front(d) && front(d)->step == STEP_STARTTLS);
}

/* The oldest transaction is told `first`, if there is one; the one behind it was not spoken of. */
static void end_now(struct dialogue *d, enum conn_cause cause, enum smtp_stage stage, uint16_t code,
    const char *text, const struct judgement *first)
{
	if (!first) {
		struct judgement j = {0};
		if (d->active)
			verdict_failure(&j,
			    &(struct failure_context){
				cause, stage, !d->active->spoken, d->active->reused},
			    text);
		tell_broken(d, cause, stage, text, d->active && j.verdict == VERDICT_RETRY_NOW);
	}
	set_end(d, cause, stage, code, text);
	d->state = DIALOGUE_ENDED;
	while (d->active) {
		struct txn *t = d->active;
		struct judgement j;
		verdict_failure(
		    &j, &(struct failure_context){cause, stage, !t->spoken, t->reused}, text);
		txn_settle_all(t, first ? first : &j, stage);
		first = NULL;
		stage = STAGE_MAIL;
		finish_oldest(d);
	}
	dialogue_drop_queue(d);
	d->expected_count = 0;
}

static void end_by(struct dialogue *d, enum smtp_stage stage, const struct judgement *j)
{
	end_now(d, j->cause, stage, j->code, j->text, j);
}

static const char *circumstance(const struct dialogue *d)
{
	if (d->content)
		return " while sending the message";
	if (d->state == DIALOGUE_STARTTLS)
		return " in the TLS handshake";
	return d->is_ready ? " while idle" : "";
}

void dialogue_fail(struct dialogue *d, enum conn_cause cause, const char *what)
{
	if (d->state == DIALOGUE_ENDED)
		return;
	char text[WHAT_MAX];
	if (front(d))
		snprintf(text, sizeof(text), "%s while waiting for the reply to %s", what,
		    front_step(d)->name);
	else
		snprintf(text, sizeof(text), "%s%s", what, circumstance(d));
	if (d->quit_written) /* we have said goodbye: how it leaves is its own affair */
		end_now(d, CONN_DONE, STAGE_QUIT, 0, "", NULL);
	else
		end_now(d, is_securing(d) && cause != CONN_DONE ? CONN_TLS : cause,
		    dialogue_stage(d), 0, text, NULL);
}

void dialogue_break(struct dialogue *d, enum smtp_stage stage, const char *why)
{
	end_now(d, CONN_PROTOCOL, stage, 0, why, NULL);
}

void dialogue_refused(struct dialogue *d, const struct judgement *j, enum smtp_stage stage)
{
	set_end(d, CONN_REPLY, stage, j->code, j->text);
	dialogue_drop_queue(d);
	d->quit_wanted = true;
}

void dialogue_in_the_clear(struct dialogue *d, const char *why)
{
	tell_failed(d, STAGE_STARTTLS, true, why, NULL, -1);
	set_end(d, CONN_TLS, STAGE_STARTTLS, 0, why);
	dialogue_drop_queue(d);
	d->quit_wanted = true;
}

/* --- writing
 * -------------------------------------------------------------------------------------- */

/* One more command of the transaction that is being written; false: nothing can be written now. */
static bool write_step(struct dialogue *d, struct txn *t)
{
	if (t->at == AT_RCPT && (t->refused || t->more_later || t->written == t->rcpt_count))
		t->at = AT_DATA;
	if (t->at == AT_DATA && (t->refused || (t->answered == t->written && t->accepted == 0))) {
		d->needs_reset = !t->refused;
		dialogue_over(d, t);
		return true;
	}
	static const uint8_t step_at[] = {[AT_MAIL] = STEP_MAIL,
	    [AT_RCPT] = STEP_RCPT,
	    [AT_DATA] = STEP_DATA,
	    [AT_LONE_DOT] = STEP_LONE_DOT};
	if (t->at > AT_LONE_DOT || t->at == AT_CONTENT || !may_write(d))
		return false;
	say(d, step_at[t->at], t);
	return true;
}

/* A message that this peer, or nobody, can be given ends before it begins. */
static bool settled_before(struct dialogue *d, struct txn *t)
{
	struct judgement j;
	if (t->damage)
		verdict_local(&j, t->damage);
	else
		verdict_features(&j, &d->features, t->message.envelope.body,
		    t->message.content_bytes, d->spec.ignore_8bitmime);
	if (!t->damage && j.good)
		return false;
	tell_failed(d, STAGE_INTERNAL, true, j.text, t, -1);
	txn_settle_all(t, &j, STAGE_INTERNAL);
	return true;
}

static bool may_begin(const struct dialogue *d)
{
	if (!d->queue || d->end.text || d->quit_written || !may_write(d))
		return false;
	if (!d->active)
		return true;
	/* Behind another's dot; but a RSET would come between the other's replies. */
	return (d->features.bits & FEATURE_PIPELINING) && !d->active->next &&
	       d->active->at == AT_DOT && !d->needs_reset;
}

/* Takes the next transaction from the queue; false: none can begin now. */
static bool begin(struct dialogue *d)
{
	if (!may_begin(d))
		return false;
	if (d->needs_reset) {
		say(d, STEP_RSET, NULL);
		if (!may_write(d))
			return false;
	}
	struct txn *t = d->queue;
	d->queue = t->next;
	if (!d->queue)
		d->queue_end = &d->queue;
	t->next = NULL;
	t->reused = d->begun > 0;
	*(d->active ? &d->active->next : &d->active) = t;
	if (settled_before(d, t)) {
		t->at = AT_OVER;
		return true;
	}
	d->begun++;
	d->writing = t;
	return true;
}

static void write_transactions(struct dialogue *d)
{
	bool moved = true;
	while (moved && d->state == DIALOGUE_TALKING) {
		moved = finish_ready(d);
		if (!d->writing)
			moved = begin(d) || moved;
		while (d->writing && write_step(d, d->writing))
			moved = true;
	}
}

/* Writes whatever may be written now. Called whenever something has changed, and never while
 * replies are waiting to be read: what stands behind the last expected one was said before our next
 * command. */
static void fill(struct dialogue *d)
{
	if (d->state != DIALOGUE_TALKING || d->babbling)
		return;
	if (d->next != STEP_GREETING) {
		enum step_id step = d->next;
		d->next = STEP_GREETING;
		say(d, step, NULL);
	}
	if (d->is_ready)
		write_transactions(d);
	if (d->state != DIALOGUE_TALKING || !dialogue_idle(d))
		return;
	if (d->quit_wanted && !d->quit_written)
		say(d, STEP_QUIT, NULL);
	else if (d->out.n == 0 && d->out.cap > OUT_KEEP)
		buf_fini(&d->out);
}

/* --- reading
 * -------------------------------------------------------------------------------------- */

static void on_line(void *ctx, unsigned line, struct str text)
{
	features_line(ctx, line, text);
}

/* Nothing was asked. While content is being sent, a refusal is the answer to the message (too
 * large, or unwanted after all): it is taken, and the session with its half message ends. While
 * idle, 421. */
static void out_of_turn(struct dialogue *d, const struct reply *r)
{
	enum smtp_stage stage = dialogue_stage(d);
	struct judgement j;
	verdict_reply(&j, &(struct reply_context){.stage = d->content ? STAGE_DOT : STAGE_MAIL}, r);
	if (j.good || (!d->content && r->code != 421)) {
		char text[REPLY_TEXT_MAX + 1];
		snprintf(
		    text, sizeof(text), "reply out of turn: %.*s", REPLY_TEXT_MAX - 32, r->text);
		end_now(d, CONN_PROTOCOL, stage, 0, text, NULL);
		return;
	}
	j.cause = j.by_peer ? CONN_REPLY : CONN_PROTOCOL;
	if (d->content)
		stage = STAGE_DOT;
	tell_failed(d, stage, !j.by_peer, j.text, d->active, -1);
	end_by(d, stage, &j);
}

static struct expected take_expected(struct dialogue *d)
{
	struct expected e = *front(d);
	d->expected_first = (d->expected_first + 1) % PIPELINE_MAX;
	d->expected_count--;
	d->since_ms = d->now_ms;
	if (d->active && e.step >= STEP_MAIL && e.step <= STEP_DOT) {
		must(d->active->pending > 0);
		d->active->pending--;
		d->active->spoken = true;
	}
	return e;
}

static void take_reply(struct dialogue *d, const struct reply *r)
{
	if (d->expected_count == 0) {
		out_of_turn(d, r);
		return;
	}
	if (front(d)->step == STEP_DOT && d->dot_left > 0) { /* it has not read our dot */
		end_now(
		    d, CONN_PROTOCOL, STAGE_DOT, 0, "reply before the end of the message", NULL);
		return;
	}
	struct expected e = take_expected(d);
	const struct step *step = step_get(e.step);
	struct reply_context context = {step->stage, 0, false};
	if (d->active) {
		context.accepted = d->active->accepted;
		context.reused = d->active->reused;
	}
	struct judgement j;
	verdict_reply(&j, &context, r);
	tell_refusal(d, &e, &j);
	if (j.ends_session && e.step != STEP_QUIT) {
		if (e.step == STEP_STARTTLS)
			j.cause = CONN_TLS;
		end_by(d, step->stage, &j);
		return;
	}
	step->got(d, e.rcpt, &j);
	if (d->quit_answered)
		end_now(d, CONN_DONE, STAGE_QUIT, 0, "", NULL);
	/* Over and answered in full: the next reply belongs to the transaction behind it. */
	while (d->state == DIALOGUE_TALKING && finish_ready(d))
		;
}

static bool next_reply(struct dialogue *d, struct str *in)
{
	bool ehlo = front(d) && front(d)->step == STEP_EHLO;
	int done = reply_parse(&d->parser, in, ehlo ? on_line : NULL, &d->features);
	if (done == 0)
		return false;
	if (done < 0) {
		d->quit_answered = d->quit_written;
		const char *why =
		    done == -E2BIG ? "the reply is too long" : "the reply is not SMTP";
		dialogue_fail(d, CONN_PROTOCOL, why);
		return false;
	}
	tell_said(d, '<', str_of(d->parser.reply.text));
	take_reply(d, &d->parser.reply);
	reply_parser_init(&d->parser);
	return true;
}

void dialogue_feed(struct dialogue *d, struct str *in)
{
	while (d->state == DIALOGUE_TALKING && in->n > 0 && next_reply(d, in))
		;
	if (d->state == DIALOGUE_STARTTLS && in->n > 0) {
		const char *text = "plaintext behind the reply to STARTTLS"; /* command injection */
		end_now(d, CONN_TLS, STAGE_STARTTLS, 0, text, NULL);
	}
	d->babbling = in->n > 0 && d->expected_count == 0;
	fill(d);
}

/* --- what the session says
 * ------------------------------------------------------------------------ */

void dialogue_start(struct dialogue *d)
{
	d->started = true;
	expect(d, STEP_GREETING, 0);
}

void dialogue_secured(struct dialogue *d)
{
	if (d->state != DIALOGUE_STARTTLS)
		return;
	d->secured = true;
	d->state = DIALOGUE_TALKING;
	d->next = STEP_EHLO; /* what was said in the clear is forgotten: RFC 3207 4.2 */
	fill(d);
}

void dialogue_add(struct dialogue *d, struct txn *t)
{
	if (d->state == DIALOGUE_ENDED) { /* handed back like what was queued */
		txn_free(&t);
		return;
	}
	t->at = AT_MAIL;
	*d->queue_end = t;
	d->queue_end = &t->next;
	fill(d);
}

void dialogue_content_end(struct dialogue *d)
{
	must(d->content);
	say(d, STEP_DOT, d->content);
	d->content = NULL;
	d->writing = NULL;
	fill(d); /* the next transaction's commands travel with the dot */
}

static void dot_may_be_out(struct dialogue *d)
{
	for (struct txn *t = d->active; t; t = t->next)
		if (t->at == AT_DOT)
			t->past_dot = true;
}

void dialogue_sealed(struct dialogue *d)
{
	if (d->dot_left > 0)
		dot_may_be_out(d);
}

void dialogue_sent(struct dialogue *d, size_t n)
{
	if (d->dot_left == 0 || n == 0)
		return;
	dot_may_be_out(d);
	d->since_ms = d->now_ms;
	d->dot_left -= n < d->dot_left ? n : d->dot_left;
}

void dialogue_quit(struct dialogue *d)
{
	d->quit_wanted = true;
	fill(d);
}

/* --- life
 * ----------------------------------------------------------------------------------------- */

void dialogue_init(struct dialogue *d, const struct dialogue_spec *spec)
{
	memset(d, 0, sizeof(*d));
	d->spec = *spec;
	d->queue_end = &d->queue;
	buf_init(&d->out, OUT_MAX);
	reply_parser_init(&d->parser);
}

void dialogue_fini(struct dialogue *d)
{
	dialogue_drop_queue(d);
	while (d->active) {
		struct txn *t = d->active;
		d->active = t->next;
		txn_free(&t);
	}
	buf_fini(&d->out);
	free(d->end.text);
	d->end.text = NULL;
}

bool dialogue_idle(const struct dialogue *d)
{
	return !d->active && !d->queue && d->expected_count == 0;
}

enum dialogue_wait dialogue_wait(const struct dialogue *d)
{
	if (d->content || d->dot_left > 0)
		return WAIT_DATA;
	if (d->state == DIALOGUE_STARTTLS)
		return WAIT_COMMAND;
	return front(d) ? front_step(d)->wait : WAIT_IDLE;
}

const char *dialogue_step_name(const struct dialogue *d)
{
	if (d->content)
		return "content";
	if (d->state == DIALOGUE_STARTTLS)
		return "TLS";
	return front(d) ? front_step(d)->name : d->is_ready ? "idle" : "connect";
}

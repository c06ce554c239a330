/* SPDX-License-Identifier: ISC */
/*
 * The dialogue in wire order: greeting, EHLO (HELO), STARTTLS, EHLO, then for each transaction
 * MAIL, RCPT, DATA, content, dot, and QUIT. The table of steps is the table of contents; below it,
 * for each step, the sender and the judge of its reply are neighbours.
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
#include "common/addr.h"
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

/* --- the steps, in wire order --------------------------------------------------------------------
 */

typedef void got_fn(struct dialogue *d, unsigned rcpt, const struct reply *r);
static got_fn got_greeting, got_ehlo, got_helo, got_starttls, got_rset, got_mail, got_rcpt,
    got_data, got_dot, got_lone_dot, got_quit;

enum step_id {
	STEP_GREETING,
	STEP_EHLO,
	STEP_HELO,
	STEP_STARTTLS,
	STEP_RSET,
	STEP_MAIL,
	STEP_RCPT,
	STEP_DATA,
	STEP_DOT,
	STEP_LONE_DOT,
	STEP_QUIT
};
static const struct step {
	const char *name; /* "waiting for the reply to …" */
	enum smtp_stage stage;
	enum dialogue_wait wait;
	got_fn *got;
} steps[] = {
    [STEP_GREETING] = {"the greeting", STAGE_GREETING, WAIT_GREETING, got_greeting},
    [STEP_EHLO] = {"EHLO", STAGE_EHLO, WAIT_COMMAND, got_ehlo},
    [STEP_HELO] = {"HELO", STAGE_EHLO, WAIT_COMMAND, got_helo},
    [STEP_STARTTLS] = {"STARTTLS", STAGE_STARTTLS, WAIT_COMMAND, got_starttls},
    [STEP_RSET] = {"RSET", STAGE_MAIL, WAIT_COMMAND, got_rset},
    [STEP_MAIL] = {"MAIL FROM", STAGE_MAIL, WAIT_COMMAND, got_mail},
    [STEP_RCPT] = {"RCPT TO", STAGE_RCPT, WAIT_COMMAND, got_rcpt},
    [STEP_DATA] = {"DATA", STAGE_DATA, WAIT_COMMAND, got_data},
    [STEP_DOT] = {"the end of the message", STAGE_DOT, WAIT_DOT, got_dot},
    [STEP_LONE_DOT] = {"an empty message", STAGE_DATA, WAIT_COMMAND, got_lone_dot},
    [STEP_QUIT] = {"QUIT", STAGE_QUIT, WAIT_QUIT, got_quit},
};

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

static bool may_write(const struct dialogue *d)
{
	unsigned room = (d->features.bits & FEATURE_PIPELINING) ? PIPELINE_MAX : 1;
	return d->expected_count < room && d->out.n < OUT_ENOUGH;
}

/* --- transactions
 * ---------------------------------------------------------------------------------- */

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

static void over(struct dialogue *d, struct txn *t)
{
	t->at = AT_OVER;
	if (d->writing == t)
		d->writing = NULL;
}

/* --- the end of the session ---------------------------------------------------------------------
 */

static void set_end(struct dialogue *d, enum conn_cause cause, enum smtp_stage stage, uint16_t code,
    const char *text)
{
	if (d->end.text)
		return; /* the first cause counts */
	d->end = (struct dialogue_end){cause, stage, code, xstrdup(text)};
}

static enum smtp_stage stage_now(const struct dialogue *d)
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
		return steps[front(d)->step].stage;
	if (d->active)
		return of_txn[d->active->at];
	return d->is_ready ? STAGE_MAIL : d->started ? STAGE_GREETING : STAGE_CONNECT;
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

/* The oldest transaction is told `first`, if there is one; the one behind it was not spoken of. */
static void end_now(struct dialogue *d, enum conn_cause cause, enum smtp_stage stage, uint16_t code,
    const char *text, const struct judgement *first)
{
	set_end(d, cause, stage, code, text);
	d->state = DIALOGUE_ENDED;
	while (d->active) {
		struct txn *t = d->active;
		if (first) {
			txn_settle_all(t, first, stage);
			first = NULL;
		} else {
			struct judgement j;
			verdict_failure(&j,
			    &(struct failure_context){cause, stage, !t->spoken, t->reused}, text);
			txn_settle_all(t, &j, stage);
		}
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

void dialogue_fail(struct dialogue *d, enum conn_cause cause, const char *what)
{
	if (d->state == DIALOGUE_ENDED)
		return;
	enum smtp_stage stage = stage_now(d);
	char text[WHAT_MAX];
	if (front(d))
		snprintf(text, sizeof(text), "%s while waiting for the reply to %s", what,
		    steps[front(d)->step].name);
	else
		snprintf(text, sizeof(text), "%s%s", what,
		    d->content			    ? " while sending the message"
		    : d->state == DIALOGUE_STARTTLS ? " in the TLS handshake"
		    : d->is_ready		    ? " while idle"
						    : "");
	if (d->quit_written) /* we have said goodbye: how it leaves is its own affair */
		end_now(d, CONN_DONE, STAGE_QUIT, 0, "", NULL);
	else
		end_now(d, cause, stage, 0, text, NULL);
}

static void send_quit(struct dialogue *d)
{
	d->quit_written = true;
	buf_str(&d->out, STR("QUIT\r\n"));
	expect(d, STEP_QUIT, 0);
}

/* Refused before any transaction, but in order: say goodbye. After a 421 the peer has hung up. */
static void refused(struct dialogue *d, const struct judgement *j, enum smtp_stage stage)
{
	if (j->ends_session) {
		end_by(d, stage, j);
		return;
	}
	set_end(d, CONN_REPLY, stage, j->code, j->text);
	dialogue_drop_queue(d);
	d->quit_wanted = true;
}

/* --- greeting ------------------------------------------------------------------------------------
 */

void dialogue_start(struct dialogue *d)
{
	d->started = true;
	expect(d, STEP_GREETING, 0);
}

static void got_greeting(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_GREETING, r, 0);
	if (j.good)
		d->next = STEP_EHLO;
	else
		refused(d, &j, STAGE_GREETING);
}

/* --- EHLO, HELO ----------------------------------------------------------------------------------
 */

static void send_hello(struct dialogue *d, const char *verb, enum step_id step)
{
	features_init(&d->features);
	buf_cstr(&d->out, verb);
	buf_cstr(&d->out, d->spec.ehlo);
	buf_str(&d->out, STR("\r\n"));
	expect(d, step, 0);
}

static void ready(struct dialogue *d)
{
	d->is_ready = true;
	d->since_ms = d->now_ms;
	d->spec.ready(d->spec.ctx);
}

static void got_ehlo(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_EHLO, r, 0);
	if (j.good && d->spec.tls && !d->secured && (d->features.bits & FEATURE_STARTTLS))
		d->next = STEP_STARTTLS;
	else if (j.good)
		ready(d);
	else if (r->code / 100 == 5) /* an old server: RFC 5321 4.1.4 */
		d->next = STEP_HELO;
	else
		refused(d, &j, STAGE_EHLO);
}

static void got_helo(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_EHLO, r, 0);
	features_init(&d->features); /* what EHLO's refusal listed does not count */
	if (j.good)
		ready(d);
	else
		refused(d, &j, STAGE_EHLO);
}

/* --- STARTTLS ------------------------------------------------------------------------------------
 */

static void send_starttls(struct dialogue *d)
{
	buf_str(&d->out, STR("STARTTLS\r\n"));
	expect(d, STEP_STARTTLS, 0);
}

/* Opportunistic: a server that offers and then refuses it gets the mail in the clear. */
static void got_starttls(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_STARTTLS, r, 0);
	if (j.good)
		d->state = DIALOGUE_STARTTLS;
	else if (j.ends_session)
		end_by(d, STAGE_STARTTLS, &j);
	else
		ready(d);
}

static void fill(struct dialogue *d);

void dialogue_secured(struct dialogue *d)
{
	if (d->state != DIALOGUE_STARTTLS)
		return;
	d->secured = true;
	d->state = DIALOGUE_TALKING;
	d->next = STEP_EHLO; /* what was said in the clear is forgotten: RFC 3207 4.2 */
	fill(d);
}

/* --- RSET ----------------------------------------------------------------------------------------
 */

static void send_rset(struct dialogue *d)
{
	d->needs_reset = false;
	buf_str(&d->out, STR("RSET\r\n"));
	expect(d, STEP_RSET, 0);
}

/* A server that refuses RSET says the rest in its reply to MAIL. */
static void got_rset(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_MAIL, r, 0);
	if (j.ends_session)
		end_by(d, STAGE_MAIL, &j);
}

/* --- MAIL ----------------------------------------------------------------------------------------
 */

static void put_mail_dsn(struct buf *b, const struct envelope *e)
{
	if (e->ret == RET_FULL || e->ret == RET_HDRS)
		buf_cstr(b, e->ret == RET_FULL ? " RET=FULL" : " RET=HDRS");
	if (e->envid.n > 0) {
		buf_str(b, STR(" ENVID="));
		xtext_encode(b, e->envid);
	}
}

static void send_mail(struct dialogue *d, struct txn *t)
{
	const struct envelope *e = &t->message.envelope;
	unsigned bits = d->features.bits;
	t->begun_ms = d->now_ms;
	t->relayed = !(bits & FEATURE_DSN);
	buf_str(&d->out, STR("MAIL FROM:<"));
	buf_str(&d->out, e->sender);
	buf_str(&d->out, STR(">"));
	if (bits & FEATURE_SIZE)
		buf_printf(&d->out, " SIZE=%llu", (unsigned long long)t->message.content_bytes);
	if ((bits & FEATURE_8BITMIME) && (e->body & (ENV_8BIT | ENV_UTF8)))
		buf_str(&d->out, STR(" BODY=8BITMIME"));
	if (e->body & ENV_UTF8)
		buf_str(&d->out, STR(" SMTPUTF8"));
	if (bits & FEATURE_DSN)
		put_mail_dsn(&d->out, e);
	buf_str(&d->out, STR("\r\n"));
	expect(d, STEP_MAIL, 0);
	t->pending++;
	t->at = AT_RCPT;
}

static void got_mail(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct txn *t = d->active;
	struct judgement j;
	verdict_reply(&j, STAGE_MAIL, r, 0);
	if (j.ends_session) {
		end_by(d, STAGE_MAIL, &j);
	} else if (!j.good) {
		t->refused = true;
		txn_settle_all(t, &j, STAGE_MAIL);
	}
}

/* --- RCPT ----------------------------------------------------------------------------------------
 */

/* NOTIFY is a list (RFC 3461 4.1); NEVER stands alone. */
static void put_notify(struct buf *b, uint8_t notify)
{
	static const struct {
		uint8_t bit;
		const char *name;
	} words[] = {
	    {NOTIFY_SUCCESS, "SUCCESS"}, {NOTIFY_FAILURE, "FAILURE"}, {NOTIFY_DELAY, "DELAY"}};
	if (notify == NOTIFY_ABSENT)
		return;
	buf_str(b, STR(" NOTIFY="));
	if (notify & NOTIFY_NEVER) {
		buf_str(b, STR("NEVER"));
		return;
	}
	const char *comma = "";
	for (size_t i = 0; i < COUNT_OF(words); i++)
		if (notify & words[i].bit) {
			buf_printf(b, "%s%s", comma, words[i].name);
			comma = ",";
		}
}

/* "type;address": only the address is xtext. */
static void put_orcpt(struct buf *b, struct str orcpt)
{
	struct str address = orcpt, type = str_cut(&address, ';');
	if (type.n == 0 || address.n == 0 || !txn_is_clean(orcpt))
		return;
	buf_str(b, STR(" ORCPT="));
	buf_str(b, type);
	buf_str(b, STR(";"));
	xtext_encode(b, address);
}

static void send_rcpt(struct dialogue *d, struct txn *t)
{
	const struct env_rcpt *rcpt = &t->message.envelope.rcpt[t->ordinals[t->written]];
	buf_str(&d->out, STR("RCPT TO:<"));
	buf_str(&d->out, rcpt->address);
	buf_str(&d->out, STR(">"));
	if (d->features.bits & FEATURE_DSN) {
		put_notify(&d->out, rcpt->notify);
		put_orcpt(&d->out, rcpt->orcpt);
	}
	buf_str(&d->out, STR("\r\n"));
	expect(d, STEP_RCPT, t->written++);
	t->pending++;
}

static void got_rcpt(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	struct txn *t = d->active;
	struct judgement j;
	t->answered++;
	verdict_reply(&j, STAGE_RCPT, r, t->accepted);
	if (j.ends_session) {
		end_by(d, STAGE_RCPT, &j);
	} else if (t->refused) {
		return; /* MAIL's refusal has settled it */
	} else if (j.good) {
		t->outcomes[rcpt].accepted = true;
		t->accepted++;
	} else {
		txn_settle(t, rcpt, &j, STAGE_RCPT);
		if (j.verdict == VERDICT_RETRY_NOW) {
			t->more_later = true;
			txn_settle_unwritten(t, &j);
		}
	}
}

/* --- DATA ----------------------------------------------------------------------------------------
 */

static void send_data(struct dialogue *d, struct txn *t)
{
	buf_str(&d->out, STR("DATA\r\n"));
	expect(d, STEP_DATA, 0);
	t->pending++;
	t->at = AT_CONTENT;
}

static void send_lone_dot(struct dialogue *d, struct txn *t)
{
	buf_str(&d->out, STR(".\r\n"));
	expect(d, STEP_LONE_DOT, 0);
	t->pending++;
	t->at = AT_CONTENT;
}

static void got_data(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct txn *t = d->active;
	struct judgement j;
	verdict_reply(&j, STAGE_DATA, r, 0);
	if (j.ends_session) {
		end_by(d, STAGE_DATA, &j);
	} else if (j.good && t->accepted == 0) {
		t->at = AT_LONE_DOT; /* RFC 2920 3.1: it wants a message for nobody */
	} else if (j.good) {
		d->content = t;
		d->since_ms = d->now_ms;
	} else {
		d->needs_reset = !t->refused;
		txn_settle_all(t, &j, STAGE_DATA);
		over(d, t);
	}
}

static void got_lone_dot(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct judgement j;
	verdict_reply(&j, STAGE_DOT, r, 0);
	if (j.ends_session)
		end_by(d, STAGE_DOT, &j);
	else
		over(d, d->active);
}

/* --- content and dot -----------------------------------------------------------------------------
 */

void dialogue_content_end(struct dialogue *d)
{
	struct txn *t = d->content;
	must(t);
	d->content = NULL;
	t->at = AT_DOT;
	buf_str(&d->out, STR(".\r\n"));
	d->dot_left = d->out.n;
	expect(d, STEP_DOT, 0);
	t->pending++;
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

static void got_dot(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt;
	struct txn *t = d->active;
	struct judgement j;
	verdict_reply(&j, STAGE_DOT, r, 0);
	if (j.ends_session) {
		end_by(d, STAGE_DOT, &j);
		return;
	}
	txn_settle_all(t, &j, STAGE_DOT);
	over(d, t);
}

/* --- QUIT ----------------------------------------------------------------------------------------
 */

void dialogue_quit(struct dialogue *d)
{
	d->quit_wanted = true;
	fill(d);
}

static void got_quit(struct dialogue *d, unsigned rcpt, const struct reply *r)
{
	(void)rcpt, (void)r; /* whatever it says */
	d->quit_answered = true;
	end_now(d, CONN_DONE, STAGE_QUIT, 0, "", NULL);
}

/* --- writing -------------------------------------------------------------------------------------
 */

/* One more command of the transaction that is being written; false: nothing can be written now. */
static bool write_step(struct dialogue *d, struct txn *t)
{
	switch (t->at) {
	case AT_MAIL:
		if (!may_write(d))
			return false;
		send_mail(d, t);
		return true;
	case AT_RCPT:
		if (t->refused || t->more_later || t->written == t->rcpt_count) {
			t->at = AT_DATA;
			return true;
		}
		if (!may_write(d))
			return false;
		send_rcpt(d, t);
		return true;
	case AT_DATA:
		if (t->refused || (t->answered == t->written && t->accepted == 0)) {
			d->needs_reset = !t->refused;
			over(d, t);
			return true;
		}
		if (!may_write(d))
			return false;
		send_data(d, t);
		return true;
	case AT_LONE_DOT:
		if (!may_write(d))
			return false;
		send_lone_dot(d, t);
		return true;
	default:
		return false;
	}
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
	txn_settle_all(t, &j, STAGE_INTERNAL);
	return true;
}

static bool may_begin(const struct dialogue *d)
{
	if (!d->queue || d->end.text || d->quit_written)
		return false;
	if (d->needs_reset && d->active)
		return false; /* its RSET would come between the other's replies */
	if (!d->active)
		return may_write(d);
	return (d->features.bits & FEATURE_PIPELINING) && !d->active->next &&
	       d->active->at == AT_DOT && may_write(d);
}

/* Takes the next transaction from the queue; false: none can begin now. */
static bool begin(struct dialogue *d)
{
	if (!may_begin(d))
		return false;
	struct txn *t = d->queue;
	if (d->needs_reset) {
		send_rset(d);
		if (!may_write(d))
			return false;
	}
	d->queue = t->next;
	if (!d->queue)
		d->queue_end = &d->queue;
	t->next = NULL;
	t->reused = d->begun > 0;
	bool settled = settled_before(d, t);
	*(d->active ? &d->active->next : &d->active) = t;
	if (settled) {
		t->at = AT_OVER;
		return true;
	}
	d->begun++;
	d->writing = t;
	return true;
}

static bool finish_ready(struct dialogue *d)
{
	if (!d->active || d->active->at != AT_OVER || d->active->pending > 0)
		return false;
	finish_oldest(d);
	return true;
}

static void write_hello(struct dialogue *d)
{
	enum step_id step = d->next;
	d->next = STEP_GREETING;
	if (step == STEP_STARTTLS)
		send_starttls(d);
	else
		send_hello(d, step == STEP_EHLO ? "EHLO " : "HELO ", step);
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
	if (d->next != STEP_GREETING)
		write_hello(d);
	if (d->is_ready)
		write_transactions(d);
	if (d->state != DIALOGUE_TALKING || !dialogue_idle(d))
		return;
	if (d->quit_wanted && !d->quit_written)
		send_quit(d);
	else if (d->out.n == 0 && d->out.cap > OUT_KEEP)
		buf_fini(&d->out);
}

/* --- reading -------------------------------------------------------------------------------------
 */

static void on_line(void *ctx, unsigned line, struct str text)
{
	features_line(ctx, line, text);
}

/* Nothing was asked. While content is being sent, a refusal is the answer to the message (too
 * large, or unwanted after all): it is taken, and the session with its half message ends. While
 * idle, 421. */
static void out_of_turn(struct dialogue *d, const struct reply *r)
{
	enum smtp_stage stage = stage_now(d);
	struct judgement j;
	verdict_reply(&j, d->content ? STAGE_DOT : STAGE_MAIL, r, 0);
	if (j.good || (!d->content && r->code != 421)) {
		char text[REPLY_TEXT_MAX + 1];
		snprintf(
		    text, sizeof(text), "reply out of turn: %.*s", REPLY_TEXT_MAX - 32, r->text);
		end_now(d, CONN_PROTOCOL, stage, 0, text, NULL);
		return;
	}
	j.cause = j.by_peer ? CONN_REPLY : CONN_PROTOCOL;
	end_by(d, d->content ? STAGE_DOT : stage, &j);
}

static void take_reply(struct dialogue *d, const struct reply *r)
{
	if (d->expected_count == 0) {
		out_of_turn(d, r);
		return;
	}
	struct expected e = *front(d);
	if (e.step == STEP_DOT && d->dot_left > 0) { /* it has not read our dot */
		end_now(
		    d, CONN_PROTOCOL, STAGE_DOT, 0, "reply before the end of the message", NULL);
		return;
	}
	d->expected_first = (d->expected_first + 1) % PIPELINE_MAX;
	d->expected_count--;
	d->since_ms = d->now_ms;
	if (d->active && e.step >= STEP_MAIL && e.step <= STEP_LONE_DOT) {
		must(d->active->pending > 0);
		d->active->pending--;
		d->active->spoken = true;
	}
	steps[e.step].got(d, e.rcpt, r);
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
	take_reply(d, &d->parser.reply);
	reply_parser_init(&d->parser);
	return true;
}

void dialogue_feed(struct dialogue *d, struct str *in)
{
	while (d->state == DIALOGUE_TALKING && in->n > 0 && next_reply(d, in))
		;
	if (d->state == DIALOGUE_STARTTLS && in->n > 0) {
		const char *text =
		    "plaintext behind the reply to STARTTLS"; /* injected: RFC 3207, 2011 */
		end_now(d, CONN_TLS, STAGE_STARTTLS, 0, text, NULL);
	}
	d->babbling = in->n > 0 && d->expected_count == 0;
	fill(d);
}

/* --- life ----------------------------------------------------------------------------------------
 */

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
	return front(d) ? steps[front(d)->step].wait : WAIT_IDLE;
}

const char *dialogue_step_name(const struct dialogue *d)
{
	if (d->content)
		return "content";
	if (d->state == DIALOGUE_STARTTLS)
		return "TLS";
	return front(d) ? steps[front(d)->step].name : d->is_ready ? "idle" : "connect";
}

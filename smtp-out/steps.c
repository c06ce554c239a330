/* SPDX-License-Identifier: ISC */
/*
 * What is said and how each answer is judged, in wire order: greeting, EHLO (HELO), STARTTLS, EHLO,
 * then for each transaction RSET where needed, MAIL, RCPT, DATA, content, dot, and QUIT. The table
 * is the table of contents; below it, for each step, the sender and the judge of its reply are
 * neighbours.
 *
 * A judge only notes what the reply means; it writes nothing. When the next command may go out is
 * the engine's business (dialogue.c), and what becomes of mail is verdict.c's.
 */
#include "smtp-out/steps.h"
#include "common/addr.h"

typedef void send_fn(struct dialogue *d, struct txn *t);
typedef void got_fn(struct dialogue *d, unsigned rcpt, const struct judgement *j);
static send_fn send_ehlo, send_helo, send_starttls, send_rset, send_mail, send_rcpt, send_data,
    send_lone_dot, send_dot, send_quit;
static got_fn got_greeting, got_ehlo, got_helo, got_starttls, got_rset, got_mail, got_rcpt,
    got_data, got_lone_dot, got_dot, got_quit;

static const struct step steps[] = {
    [STEP_GREETING] = {"the greeting", STAGE_GREETING, WAIT_GREETING, NULL, got_greeting},
    [STEP_EHLO] = {"EHLO", STAGE_EHLO, WAIT_COMMAND, send_ehlo, got_ehlo},
    [STEP_HELO] = {"HELO", STAGE_EHLO, WAIT_COMMAND, send_helo, got_helo},
    [STEP_STARTTLS] = {"STARTTLS", STAGE_STARTTLS, WAIT_COMMAND, send_starttls, got_starttls},
    [STEP_RSET] = {"RSET", STAGE_MAIL, WAIT_COMMAND, send_rset, got_rset},
    [STEP_MAIL] = {"MAIL FROM", STAGE_MAIL, WAIT_COMMAND, send_mail, got_mail},
    [STEP_RCPT] = {"RCPT TO", STAGE_RCPT, WAIT_COMMAND, send_rcpt, got_rcpt},
    [STEP_DATA] = {"DATA", STAGE_DATA, WAIT_COMMAND, send_data, got_data},
    [STEP_LONE_DOT] = {"an empty message", STAGE_DOT, WAIT_COMMAND, send_lone_dot, got_lone_dot},
    [STEP_DOT] = {"the end of the message", STAGE_DOT, WAIT_DOT, send_dot, got_dot},
    [STEP_QUIT] = {"QUIT", STAGE_QUIT, WAIT_QUIT, send_quit, got_quit},
};

const struct step *step_get(enum step_id id)
{
	return &steps[id];
}

/* --- greeting --- */

static void got_greeting(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	if (j->good)
		d->next = STEP_EHLO;
	else
		dialogue_refused(d, j, STAGE_GREETING);
}

/* --- EHLO, HELO --- */

static void say_hello(struct dialogue *d, const char *verb)
{
	features_init(&d->features); /* what was said before does not count any more */
	buf_cstr(&d->out, verb);
	buf_cstr(&d->out, d->spec.ehlo);
	buf_str(&d->out, STR("\r\n"));
}

/* Ready, unless mail must not be spoken of in the clear. 4.7.4: a security feature is missing. */
static void ready(struct dialogue *d)
{
	if (d->spec.tls_required && !d->secured) {
		dialogue_in_the_clear(
		    d, d->features.bits & FEATURE_STARTTLS
			   ? "4.7.4 TLS is required and the server refuses STARTTLS"
			   : "4.7.4 TLS is required and the server does not offer "
			     "STARTTLS");
		return;
	}
	d->is_ready = true;
	d->since_ms = d->now_ms;
	d->spec.ready(d->spec.ctx);
}

static void send_ehlo(struct dialogue *d, struct txn *t)
{
	(void)t;
	say_hello(d, "EHLO ");
}

static void got_ehlo(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	if (j->good && d->spec.tls && !d->secured && (d->features.bits & FEATURE_STARTTLS))
		d->next = STEP_STARTTLS;
	else if (j->good)
		ready(d);
	else if (j->code / 100 == 5) /* an old server: RFC 5321 4.1.4 */
		d->next = STEP_HELO;
	else
		dialogue_refused(d, j, STAGE_EHLO);
}

static void send_helo(struct dialogue *d, struct txn *t)
{
	(void)t;
	say_hello(d, "HELO ");
}

static void got_helo(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	if (j->good)
		ready(d);
	else
		dialogue_refused(d, j, STAGE_EHLO);
}

/* --- STARTTLS --- */

static void send_starttls(struct dialogue *d, struct txn *t)
{
	(void)t;
	buf_str(&d->out, STR("STARTTLS\r\n"));
}

/* A server that offers it and then refuses gets the mail in the clear where that is allowed. */
static void got_starttls(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	if (j->good)
		d->state = DIALOGUE_STARTTLS;
	else
		ready(d);
}

/* --- RSET --- */

static void send_rset(struct dialogue *d, struct txn *t)
{
	(void)t;
	d->needs_reset = false;
	buf_str(&d->out, STR("RSET\r\n"));
}

/* A server that refuses RSET says the rest in its reply to MAIL. */
static void got_rset(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)d, (void)rcpt, (void)j;
}

/* --- MAIL --- */

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
	t->at = AT_RCPT;
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
}

static void got_mail(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	if (j->good)
		return;
	d->active->refused = true;
	txn_settle_all(d->active, j, STAGE_MAIL);
}

/* --- RCPT --- */

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
	const struct env_rcpt *rcpt = &t->message.envelope.rcpt[t->ordinals[t->written++]];
	buf_str(&d->out, STR("RCPT TO:<"));
	buf_str(&d->out, rcpt->address);
	buf_str(&d->out, STR(">"));
	if (d->features.bits & FEATURE_DSN) {
		put_notify(&d->out, rcpt->notify);
		put_orcpt(&d->out, rcpt->orcpt);
	}
	buf_str(&d->out, STR("\r\n"));
}

static void got_rcpt(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	struct txn *t = d->active;
	t->answered++;
	if (t->refused)
		return; /* MAIL's refusal has settled it */
	if (j->good) {
		t->outcomes[rcpt].accepted = true;
		t->accepted++;
		return;
	}
	txn_settle(t, rcpt, j, STAGE_RCPT);
	if (j->verdict == VERDICT_RETRY_NOW) {
		t->more_later = true;
		txn_settle_unwritten(t, j);
	}
}

/* --- DATA --- */

static void send_data(struct dialogue *d, struct txn *t)
{
	t->at = AT_CONTENT;
	buf_str(&d->out, STR("DATA\r\n"));
}

static void got_data(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	struct txn *t = d->active;
	(void)rcpt;
	if (!j->good) {
		d->needs_reset = !t->refused;
		txn_settle_all(t, j, STAGE_DATA);
		dialogue_over(d, t);
	} else if (t->refused) { /* to a server this confused a dot might be a message */
		dialogue_break(d, STAGE_DATA, "DATA accepted after MAIL was refused");
	} else if (t->accepted == 0) {
		t->at = AT_LONE_DOT; /* RFC 2920 3.1: it wants a message for nobody */
	} else {
		d->content = t;
		d->since_ms = d->now_ms;
	}
}

static void send_lone_dot(struct dialogue *d, struct txn *t)
{
	t->at = AT_CONTENT;
	buf_str(&d->out, STR(".\r\n"));
}

static void got_lone_dot(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt, (void)j; /* whatever becomes of it, nobody is to get it */
	dialogue_over(d, d->active);
}

/* --- content (wire.c) and dot --- */

static void send_dot(struct dialogue *d, struct txn *t)
{
	t->at = AT_DOT;
	buf_str(&d->out, STR(".\r\n"));
	d->dot_left = d->out.n;
}

static void got_dot(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt;
	txn_settle_all(d->active, j, STAGE_DOT);
	dialogue_over(d, d->active);
}

/* --- QUIT --- */

static void send_quit(struct dialogue *d, struct txn *t)
{
	(void)t;
	d->quit_written = true;
	buf_str(&d->out, STR("QUIT\r\n"));
}

/* Whatever it says. */
static void got_quit(struct dialogue *d, unsigned rcpt, const struct judgement *j)
{
	(void)rcpt, (void)j;
	d->quit_answered = true;
}

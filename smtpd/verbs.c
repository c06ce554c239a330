/* SPDX-License-Identifier: ISC */
/*
 * The commands, in the order of the dialogue: for each, check_x() says what stands against it and
 * do_x() does it. verb_run() is the only caller: parse, order, check, do, in this order, so that no
 * command acts before all of its conditions hold. A refused command changes nothing.
 */
#include "smtpd/policy.h"
#include "smtpd/session.h"

#include "common/log.h"

#include <string.h>

/* --- EHLO, HELO ------------------------------------------------------------------------------- */

static enum answer check_ehlo(struct session *s, const struct command *c)
{
	(void)s;
	(void)c;
	return ANSWER_NONE;
}

static void do_ehlo(struct session *s, const struct command *c)
{
	session_drop_txn(s); /* RFC 5321 4.1.4 */
	str_copy(s->helo, sizeof(s->helo), c->argument);
	s->ehlo = c->verb == VERB_EHLO;
	if (!s->ehlo) {
		session_text(s, "250 %s\r\n", s->settings->host);
		return;
	}
	session_text(s,
	    "250-%s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n%s250-ENHANCEDSTATUSCODES\r\n"
	    "250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n",
	    s->settings->host, (unsigned long long)s->settings->max_message,
	    s->listener->tls && !s->tls ? "250-STARTTLS\r\n" : "");
}

/* --- STARTTLS --------------------------------------------------------------------------------- */

static enum answer check_starttls(struct session *s, const struct command *c)
{
	(void)c;
	if (s->tls)
		return ANSWER_TLS_TWICE;
	return s->listener->tls ? ANSWER_NONE : ANSWER_NO_TLS;
}

/* RFC 3207 4.2: all that was said before is forgotten. session.c sees the new `tls` and closes when
 * anything was sent behind the command. */
static void do_starttls(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_TLS_GO);
	session_drop_txn(s);
	s->helo[0] = '\0';
	s->tls = tls_accept(s->listener->tls);
	s->server->counters.starttls++;
}

/* --- MAIL, RCPT ------------------------------------------------------------------------------- */

/* Whose mail it will be, where no header can say otherwise; NULL: not known yet, or nobody's. */
static const struct tenant *early_tenant(const struct session *s, struct str sender)
{
	const struct tenants *tenants = s->settings->tenants;
	struct tenant_evidence evidence = {
	    .listener = s->listener->tenant, .client = s->client_tenant, .sender = sender};
	const struct tenant *tenant = NULL;

	if (!tenants_known_early(tenants, s->listener->process_x_tenant) ||
	    tenants_choose(tenants, &evidence, &tenant) != ANSWER_NONE)
		return NULL;
	return tenant;
}

static enum answer check_mail(struct session *s, const struct command *c)
{
	char sender[ADDRESS_MAX + 1];
	const struct tenant *tenant;
	enum answer a;
	struct policy_load load = {.stopping = s->server->stopping,
	    .writer = segwriter_state(s->server->writer),
	    .content_bytes = s->server->content_bytes};

	a = policy_mail(&load, c->size, s->settings->max_message);
	if (a != ANSWER_NONE)
		return a;
	mailbox_print(sender, &c->mailbox);
	tenant = early_tenant(s, str_of(sender));
	return tenant ? session_tenant_rate(s, tenant, 1, 1) : ANSWER_NONE;
}

static void do_mail(struct session *s, const struct command *c)
{
	int64_t deadline_ms = loop_now_ms(s->server->loop) + s->listener->transaction_timeout_ms;

	s->txn = txn_new(c, deadline_ms);
	s->txn->tenant = early_tenant(s, str_of(s->txn->sender));
	session_answer(s, ANSWER_SENDER_OK);
}

static enum answer check_rcpt(struct session *s, const struct command *c)
{
	const struct txn *t = s->txn;
	enum answer a = policy_relay(s->listener, s->address);

	(void)c;
	if (a == ANSWER_NONE && t->tenant)
		a = session_tenant_rate(s, t->tenant, 1, t->rcpt_count + 1);
	return a;
}

static void do_rcpt(struct session *s, const struct command *c)
{
	enum answer a = txn_add_rcpt(s->txn, c, s->listener->max_recipients, s->settings->host);

	session_answer(s, a);
}

/* --- DATA, BDAT ------------------------------------------------------------------------------- */

static enum answer check_data(struct session *s, const struct command *c)
{
	(void)s;
	(void)c;
	return ANSWER_NONE;
}

static void do_data(struct session *s, const struct command *c)
{
	(void)c;
	session_text(s, "354 End data with <CR><LF>.<CR><LF>\r\n");
	content_begin(s, false);
	s->mode = MODE_DATA;
}

static enum answer check_bdat(struct session *s, const struct command *c)
{
	(void)s;
	(void)c;
	return ANSWER_NONE; /* what stands against it is said after its octets, by content.c */
}

static void do_bdat(struct session *s, const struct command *c)
{
	unsigned phase = session_phase(s);

	s->chunk_refused = (phase & (PHASE_RCPTS | PHASE_CHUNKS)) == 0;
	s->chunk_left = c->chunk;
	s->chunk_last = c->last;
	if (phase == PHASE_RCPTS)
		content_begin(s, true);
	else
		content_wait(s);
	s->mode = MODE_CHUNK;
}

/* --- RSET, NOOP, VRFY, HELP, QUIT, and what we do not have -------------------------------------
 */

static enum answer check_rset(struct session *s, const struct command *c)
{
	(void)s;
	(void)c;
	return ANSWER_NONE;
}

static void do_rset(struct session *s, const struct command *c)
{
	(void)c;
	session_drop_txn(s);
	session_answer(s, ANSWER_OK);
}

#define check_noop check_rset
#define check_vrfy check_rset
#define check_help check_rset
#define check_quit check_rset

static void do_noop(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_OK);
}

static void do_vrfy(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_VRFY_OK);
}

static void do_help(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_HELP);
}

static void do_quit(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_BYE);
	session_end(s);
}

static enum answer check_not_here(struct session *s, const struct command *c)
{
	(void)s;
	(void)c;
	return ANSWER_NOT_HERE;
}

static void do_not_here(struct session *s, const struct command *c)
{
	(void)c;
	session_answer(s, ANSWER_NOT_HERE);
}

/* --- the table, and its one user -------------------------------------------------------------- */

static const struct {
	unsigned phases;
	enum answer (*check)(struct session *s, const struct command *c);
	void (*run)(struct session *s, const struct command *c);
} verbs[VERB_COUNT] = {
#define VERB(id, text, handler, phases) [VERB_##id] = {phases, check_##handler, do_##handler},
#include "smtpd/verbs.def"
#undef VERB
};

static enum answer out_of_order(const struct session *s, enum verb v)
{
	unsigned phase = session_phase(s);

	if (verbs[v].phases & phase)
		return ANSWER_NONE;
	if (phase == PHASE_START)
		return ANSWER_NO_HELO;
	if (phase == PHASE_CHUNKS)
		return ANSWER_BDAT_OPEN;
	if (v == VERB_MAIL)
		return ANSWER_NESTED_MAIL;
	/* RFC 2920 3.2: after a pipelined group whose recipients were all refused */
	return v == VERB_DATA && phase == PHASE_SENDER ? ANSWER_NO_RCPT : ANSWER_NO_MAIL;
}

static void refuse_command(struct session *s, const struct command *c, enum answer a)
{
	char address[ADDRESS_MAX + 1] = "";

	if (c->verb == VERB_RCPT && c->mailbox.domain[0])
		mailbox_print(address, &c->mailbox);
	if (a == ANSWER_RELAY_DENIED)
		s->server->counters.refused_relay++;
	session_reject(s, verb_name(c->verb), a, address);
	session_answer(s, a);
	/* Nobody knows where the octets of this BDAT end: what follows must not be taken for
	 * commands. */
	if (c->verb == VERB_BDAT && c->chunk == UINT64_MAX)
		session_end(s);
}

/* A chunk with octets brings its message nearer to its end (and has the data rate's deadline); one
 * without, or in the wrong place, does nothing. */
static bool is_junk(const struct session *s, const struct command *c)
{
	if (c->verb == VERB_BDAT)
		return (session_phase(s) & (PHASE_RCPTS | PHASE_CHUNKS)) == 0 || c->chunk == 0;
	return c->verb != VERB_MAIL && c->verb != VERB_RCPT && c->verb != VERB_DATA &&
	       c->verb != VERB_QUIT;
}

void verb_run(struct session *s, struct str line)
{
	struct command c;
	enum answer a = command_parse(&c, line);

	s->last_verb = c.verb;
	s->count[c.verb][1]++;
	if (is_junk(s, &c) && ++s->junk > JUNK_MAX) {
		session_answer(s, ANSWER_TOO_MUCH_JUNK);
		return;
	}
	if (a == ANSWER_NONE && c.verb != VERB_UNKNOWN)
		a = out_of_order(s, c.verb);
	if (a == ANSWER_NONE)
		a = verbs[c.verb].check(s, &c);
	if (a != ANSWER_NONE) {
		refuse_command(s, &c, a);
		return;
	}
	s->count[c.verb][0]++;
	verbs[c.verb].run(s, &c);
}

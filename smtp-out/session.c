/* SPDX-License-Identifier: ISC */
/*
 * One connection's life: GRANT → connect → dialogue → end → CONN_CLOSED, exactly one for each
 * grant, and only when the peer's slot is free: the peer has closed, or a second has passed since
 * we closed or reset, for a peer that is busy sees neither at once. This file alone knows deadlines
 * and how connections end; wire.c moves the bytes, dialogue.c says what they mean.
 *
 * Every entry (event, timer, message from qmgr) does its thing and then calls run(), which writes,
 * starts TLS, ends or arms the deadline; run() is the last thing an entry does, because it may free
 * the session.
 *
 * The deadline timer is lazy: steps move `deadline_ms`, and a timer that fires early looks there
 * and sleeps on. So a busy connection costs no work on the wheel.
 *
 * Killed at any line: the kernel resets the connection (SO_LINGER 0), qmgr sees our end of file,
 * and what had begun is uncertain; nothing is kept here that would have to survive.
 */
#include "smtp-out/session_impl.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/result.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	PARTING_MS = 1000,		 /* after QUIT's answer, or without one: then we close */
	TIMEOUT_DEFAULT_MS = 300 * 1000, /* RFC 5321 4.5.3.2, where GRANT says 0 */
	IDLE_DEFAULT_MS = 60 * 1000,
	READ_AHEAD = 16 * 1024, /* of a message, in the one pread() that brings its head */
	SENDER_SHOWN = 320,
};

static void run(struct session *s);

/* --- the table -----------------------------------------------------------------------------------
 */

static struct session **bucket_of(struct out *o, uint64_t conn)
{
	return &o->bucket[(conn ^ conn >> 16) & (SESSION_BUCKETS - 1)];
}

struct session *session_find(struct out *o, uint64_t conn)
{
	struct session *s = *bucket_of(o, conn);
	while (s && s->conn != conn)
		s = s->next;
	return s;
}

static void table_remove(struct session *s)
{
	struct session **at = bucket_of(s->out, s->conn);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	s->out->sessions--;
}

void session_each(struct out *o, void (*fn)(struct session *s, void *arg), void *arg)
{
	for (size_t i = 0; i < SESSION_BUCKETS; i++)
		for (struct session *s = o->bucket[i], *next; s; s = next) {
			next = s->next;
			fn(s, arg);
		}
}

/* --- what is told to qmgr ------------------------------------------------------------------------
 */

static struct msg_have_conn have_conn(const struct session *s)
{
	const struct grant *g = &s->grant;
	return (struct msg_have_conn){.conn = s->conn,
	    .queue = str_of(g->queue),
	    .domain = str_of(g->domain),
	    .source = str_of(g->source),
	    .host = str_of(g->host),
	    .address = str_of(g->address),
	    .port = g->port,
	    .ready = s->was_ready};
}

void session_tell_conn(struct session *s, struct chan *qmgr)
{
	struct msg_have_conn have = have_conn(s);
	chan_send_have_conn(qmgr, &have);
}

static void tell_job(const struct session *s, struct chan *qmgr, const struct txn *t)
{
	struct buf rcpts;
	buf_init(&rcpts, 2 * 65536);
	for (unsigned i = 0; i < t->rcpt_count; i++)
		buf_u16(&rcpts, t->ordinals[i]);
	chan_send_have_job(qmgr, &(struct msg_have_job){.conn = s->conn,
				     .transaction = t->transaction,
				     .id = t->id,
				     .rcpts = {(const char *)rcpts.p, rcpts.n}});
	buf_fini(&rcpts);
}

void session_tell_jobs(struct session *s, struct chan *qmgr)
{
	for (const struct txn *t = s->dialogue.active; t; t = t->next)
		tell_job(s, qmgr, t);
	for (const struct txn *t = s->dialogue.queue; t; t = t->next)
		tell_job(s, qmgr, t);
}

static void tell_ready(void *ctx)
{
	struct session *s = ctx;
	const struct features *f = &s->dialogue.features;
	s->was_ready = true;
	s->setup_ms = (uint32_t)(clock_mono_ms() - s->started_ms);
	trace_said(s, '*', s->dialogue.secured ? STR("ready, encrypted") : STR("ready"));
	if (s->out->qmgr)
		chan_send_conn_ready(s->out->qmgr, &(struct msg_conn_ready){.conn = s->conn,
						       .rcpt_max = f->rcpt_max,
						       .mail_max = f->mail_max,
						       .tls = s->dialogue.secured});
}

static void count(struct out_counters *c, const struct outcome *o)
{
	c->delivered += o->verdict == VERDICT_DELIVERED;
	c->deferred += o->verdict == VERDICT_DEFERRED || o->verdict == VERDICT_RETRY_NOW;
	c->failed += o->verdict == VERDICT_FAILED;
}

static void put_outcome(struct session *s, const struct txn *t, unsigned i)
{
	const struct outcome *o = &t->outcomes[i];
	const struct env_rcpt none = {0};
	const struct env_rcpt *rcpt = &none;
	if (t->ordinals[i] < t->message.envelope.rcpt_count)
		rcpt = &t->message.envelope.rcpt[t->ordinals[i]];
	bool relayed =
	    t->relayed && o->verdict == VERDICT_DELIVERED && (rcpt->notify & NOTIFY_SUCCESS);
	result_put(&s->out->results, &(struct rcpt_result){.ordinal = t->ordinals[i],
					 .verdict = o->verdict,
					 .stage = o->stage,
					 .past_dot = o->past_dot,
					 .relayed = relayed,
					 .notify = rcpt->notify,
					 .code = o->code,
					 .status = str_of(o->status),
					 .text = txn_text(t, o),
					 .said_by = str_of(o->by_peer ? s->grant.host : ""),
					 .address = rcpt->address,
					 .orcpt = rcpt->orcpt});
	count(&s->out->counters, o);
}

static struct str cut(struct str s, size_t n)
{
	return (struct str){s.p, s.n < n ? s.n : n};
}

static void tell_result(void *ctx, struct txn *t)
{
	struct session *s = ctx;
	struct out *out = s->out;
	const struct envelope *e = &t->message.envelope;
	buf_reset(&out->results);
	for (unsigned i = 0; i < t->rcpt_count; i++)
		put_outcome(s, t, i);
	struct msg_result m = {.conn = s->conn,
	    .transaction = t->transaction,
	    .id = t->id,
	    .connect_ms = s->setup_ms,
	    .transmit_ms = t->begun_ms ? (uint32_t)(s->dialogue.now_ms - t->begun_ms) : 0,
	    .size = t->message.content_bytes,
	    .sender = cut(e->sender, SENDER_SHOWN),
	    .envid = cut(e->envid, 255),
	    .relay = str_of(s->relay),
	    .source = str_of(s->local),
	    .esmtp = str_of(s->dialogue.features.esmtp),
	    .results = {(const char *)out->results.p, out->results.n},
	    .hits = {(const char *)t->hits.p, t->hits.n}};
	s->setup_ms = 0;
	out->counters.transactions++;
	reports_result(&out->reports, out->qmgr, &m);
}

/* --- the end -------------------------------------------------------------------------------------
 */

static void close_socket(struct session *s)
{
	if (s->fd < 0)
		return;
	loop_del(&s->io);
	close(s->fd);
	s->fd = -1;
}

static void destroy(struct session *s)
{
	loop_timer_cancel(s->out->loop, &s->timer);
	close_socket(s);
	dialogue_fini(&s->dialogue);
	body_fini(&s->body);
	buf_fini(&s->in);
	buf_fini(&s->wire);
	buf_fini(&s->hits);
	tls_free(&s->tls);
	free(s->grant.texts);
	free(s);
}

/* The peer's slot is free. */
static void gone(struct session *s)
{
	struct out *out = s->out;
	const struct dialogue_end *end = &s->dialogue.end;
	struct msg_have_conn have = have_conn(s);
	struct msg_conn_closed m = {.conn = s->conn,
	    .cause = (uint8_t)end->cause,
	    .stage = (uint8_t)end->stage,
	    .code = end->code,
	    .text = str_of(end->text ? end->text : ""),
	    .relay = str_of(s->relay),
	    .was_ready = s->was_ready,
	    .hits = {(const char *)s->hits.p, s->hits.n}};
	out->counters.refused += !s->was_ready;
	if (end->cause == CONN_TLS) /* delivery goes on in the clear: that should not pass unseen */
		log_warn("%s: STARTTLS: %s", s->relay, end->text ? end->text : "");
	trace_end(s);
	reports_closed(&out->reports, out->qmgr, &have, &m);
	table_remove(s);
	destroy(s);
	out_check_stopped(out);
}

static void wait_until(struct session *s, int64_t at_ms);

static void enter(struct session *s, enum session_state state, int64_t ms)
{
	s->state = state;
	wait_until(s, loop_now_ms(s->out->loop) + ms);
}

/* Our FIN or reset is out, nothing has come back: they may still count us. */
static void linger(struct session *s)
{
	close_socket(s);
	enter(s, SESSION_LINGERING, s->out->slot_ms);
}

/* QUIT was answered: we say that we are done and wait for the peer to close, which frees its slot.
 */
static void part(struct session *s)
{
	if (s->tls) {
		buf_reset(&s->wire);
		tls_shutdown(s->tls, &s->wire);
		if (send(s->fd, s->wire.p, s->wire.n, MSG_NOSIGNAL) < 0)
			s->write_failed = true;
	}
	shutdown(s->fd, SHUT_WR);
	loop_mod(&s->io, EPOLLIN);
	enter(s, SESSION_PARTING, PARTING_MS);
}

/* It has closed, or was never reached. */
static bool has_no_slot(const struct session *s)
{
	return s->fd < 0 || s->peer_closed ||
	       (s->state == SESSION_CONNECTING && s->dialogue.end.cause != CONN_DONE);
}

/* Without QUIT the close is a reset: abortive is on until then. After a 421 the server closes by
 * itself (RFC 5321 3.8): its end of file frees the slot, and tells qmgr what it said, at once. */
static void finish(struct session *s)
{
	const struct dialogue *d = &s->dialogue;
	bool it_closes = d->end.cause == CONN_REPLY && d->end.code == 421;
	if (has_no_slot(s))
		gone(s);
	else if (d->quit_answered || it_closes)
		part(s);
	else
		linger(s);
}

/* --- deadlines -----------------------------------------------------------------------------------
 */

static void on_timer(void *arg);

static void wait_until(struct session *s, int64_t at_ms)
{
	s->deadline_ms = at_ms;
	if (!wheel_armed(&s->timer.node) || s->timer.node.at_ms > at_ms)
		loop_timer_at(s->out->loop, &s->timer, at_ms, on_timer, s);
}

static int64_t or_default(uint32_t ms, int64_t otherwise)
{
	return ms ? ms : otherwise;
}

static int64_t wait_ms(const struct session *s)
{
	const struct grant *g = &s->grant;
	switch (dialogue_wait(&s->dialogue)) {
	case WAIT_GREETING:
		return or_default(g->greeting_ms, TIMEOUT_DEFAULT_MS);
	case WAIT_DATA:
		return or_default(g->data_ms, TIMEOUT_DEFAULT_MS);
	case WAIT_DOT:
		return or_default(g->dot_ms, 2 * TIMEOUT_DEFAULT_MS);
	case WAIT_IDLE:
		return or_default(g->idle_ms, IDLE_DEFAULT_MS);
	case WAIT_QUIT:
		return PARTING_MS;
	case WAIT_COMMAND:
		break;
	}
	return or_default(g->command_ms, TIMEOUT_DEFAULT_MS);
}

static void talk_timed_out(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (dialogue_wait(d) == WAIT_IDLE)
		dialogue_quit(d);
	if (dialogue_wait(d) == WAIT_QUIT && d->since_ms == d->now_ms)
		return; /* just written */
	dialogue_fail(d, CONN_TIMEOUT, "timed out");
}

static void fail_connect(struct session *s, enum conn_cause cause, const char *why)
{
	dialogue_fail(&s->dialogue, cause, why);
}

static void on_timer(void *arg)
{
	struct session *s = arg;
	int64_t now = loop_now_ms(s->out->loop);
	if (now < s->deadline_ms) {
		wait_until(s, s->deadline_ms);
		return;
	}
	s->dialogue.now_ms = now;
	switch (s->state) {
	case SESSION_CONNECTING:
		fail_connect(s, CONN_TIMEOUT, "connect timed out");
		break;
	case SESSION_TALKING:
		talk_timed_out(s);
		break;
	case SESSION_PARTING:
		linger(s);
		return;
	case SESSION_LINGERING:
		gone(s);
		return;
	}
	run(s);
}

/* --- the loop of a session
 * ------------------------------------------------------------------------ */

static void blame(struct session *s)
{
	const struct dialogue *d = &s->dialogue;
	out_blame(s->out, d->active ? d->active->id : d->queue ? d->queue->id : 0);
}

static void run(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (s->state == SESSION_TALKING) {
		wire_push(s);
		if (d->state == DIALOGUE_STARTTLS && !s->tls) {
			wire_start_tls(s);
			wire_push(s);
		}
	}
	if (d->state == DIALOGUE_ENDED && s->state <= SESSION_TALKING)
		finish(s);
	else if (s->state == SESSION_TALKING)
		wait_until(s, d->since_ms + wait_ms(s));
}

static void on_connected(struct session *s)
{
	char why[160];
	enum conn_cause cause = connect_end(s, why);
	if (cause != CONN_DONE) {
		fail_connect(s, cause, why);
		return;
	}
	s->state = SESSION_TALKING;
	trace_said(s, '*', STR("connected"));
	dialogue_start(&s->dialogue);
	loop_mod(&s->io, EPOLLIN);
}

/* The peer's slot is free when it closes; what it still says is of no interest. */
static void read_parting(struct session *s)
{
	ssize_t n = recv(s->fd, s->out->scratch, READ_SIZE, 0);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		gone(s);
}

static void on_io(void *arg, uint32_t events)
{
	struct session *s = arg;
	struct out *out = s->out;
	blame(s);
	s->dialogue.now_ms = loop_now_ms(out->loop);
	if (s->state == SESSION_PARTING) {
		read_parting(s);
	} else {
		if (s->state == SESSION_CONNECTING)
			on_connected(s);
		else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			wire_read(s);
		run(s);
	}
	out_blame(out, 0);
}

/* --- what qmgr says
 * ------------------------------------------------------------------------------- */

static const char *keep(char **at, struct str s)
{
	char *text = *at;
	memcpy(text, s.p, s.n);
	text[s.n] = '\0';
	*at += s.n + 1;
	return text;
}

static void grant_copy(struct grant *g, const struct msg_grant *m, const char *default_ehlo)
{
	struct str ehlo = m->ehlo.n > 0 ? m->ehlo : str_of(default_ehlo);
	char *at = xmalloc(m->queue.n + m->domain.n + m->source.n + ehlo.n + m->host.n +
			   m->address.n + m->patterns.n + 7);
	*g = (struct grant){.texts = at,
	    .port = m->port,
	    .tls = m->tls != TLS_OFF,
	    .tls_required = m->tls == TLS_REQUIRED,
	    .ignore_8bitmime = m->ignore_8bitmime,
	    .connect_ms = m->connect_timeout_ms,
	    .greeting_ms = m->greeting_timeout_ms,
	    .command_ms = m->command_timeout_ms,
	    .data_ms = m->data_timeout_ms,
	    .dot_ms = m->dot_timeout_ms,
	    .idle_ms = m->idle_timeout_ms};
	g->queue = keep(&at, m->queue);
	g->domain = keep(&at, m->domain);
	g->source = keep(&at, m->source);
	g->ehlo = keep(&at, ehlo);
	g->host = keep(&at, m->host);
	g->address = keep(&at, m->address);
	g->patterns = keep(&at, m->patterns);
}

static struct session *make(struct out *o, const struct msg_grant *m)
{
	struct session *s = xcalloc(1, sizeof(*s));
	s->out = o;
	s->conn = m->conn;
	s->fd = -1;
	s->started_ms = loop_now_ms(o->loop);
	grant_copy(&s->grant, m, o->ehlo);
	snprintf(s->relay, sizeof(s->relay), "%s[%s]:%u", s->grant.host, s->grant.address,
	    s->grant.port);
	body_init(&s->body);
	buf_init(&s->in, PLAIN_MAX);
	buf_init(&s->wire, WIRE_MAX);
	buf_init(&s->hits, HITS_BYTES_MAX);
	trace_begin(s);
	dialogue_init(&s->dialogue, &(struct dialogue_spec){.ehlo = s->grant.ehlo,
					.tls = s->grant.tls && o->tls,
					.tls_required = s->grant.tls_required,
					.ignore_8bitmime = s->grant.ignore_8bitmime,
					.ctx = s,
					.ready = tell_ready,
					.result = tell_result,
					.failed = s->grant.patterns[0] ? patterns_on_failure : NULL,
					.said = s->trace ? trace_said : NULL});
	s->dialogue.now_ms = s->started_ms;
	struct session **bucket = bucket_of(o, s->conn);
	s->next = *bucket;
	*bucket = s;
	o->sessions++;
	o->counters.grants++;
	return s;
}

void session_new(struct out *o, const struct msg_grant *m)
{
	struct session *s = make(o, m);
	char why[160];
	if (o->stopping) { /* no fault of the source or the server */
		fail_connect(s, CONN_DONE, "the process is stopping");
		run(s);
		return;
	}
	enum conn_cause cause = connect_begin(s, why);
	if (cause == CONN_DONE && loop_add(o->loop, &s->io, s->fd, EPOLLOUT, on_io, s) != 0) {
		cause = CONN_LOCAL;
		snprintf(why, sizeof(why), "epoll: %s", strerror(errno));
	}
	if (cause == CONN_DONE)
		enter(s, SESSION_CONNECTING, or_default(s->grant.connect_ms, TIMEOUT_DEFAULT_MS));
	else
		fail_connect(s, cause, why);
	run(s);
}

static const char *damage_of(int error)
{
	switch (error) {
	case 0:
		return NULL;
	case -ENOENT:
		return "the message's segment is not open here";
	case -EBADMSG:
		return "the message's record is damaged";
	default:
		return "the message cannot be read from the spool";
	}
}

void session_job(struct session *s, const struct msg_job *m)
{
	struct out *out = s->out;
	struct dialogue *d = &s->dialogue;
	if (d->state == DIALOGUE_ENDED || d->quit_written || out->stopping)
		return; /* handed back: CONN_CLOSED comes without its RESULT */
	out_blame(out, m->id);
	struct message message = {.fd = -1};
	int error =
	    segread_message(out->segments, m->segment, m->offset, m->id, READ_AHEAD, &message);
	if (error) {
		char id[RECORD_ID_TEXT];
		record_id_print(id, m->id);
		log_error("%s: segment %llu offset %llu: %s", id, (unsigned long long)m->segment,
		    (unsigned long long)m->offset, damage_of(error));
		message = (struct message){.fd = -1};
	}
	d->now_ms = loop_now_ms(out->loop);
	dialogue_add(d, txn_new(m->transaction, m->id, &message, m->rcpts, damage_of(error)));
	run(s);
	out_blame(out, 0);
}

void session_close(struct session *s, bool hard)
{
	struct dialogue *d = &s->dialogue;
	d->now_ms = loop_now_ms(s->out->loop);
	if (s->state > SESSION_TALKING)
		return;
	if (hard || !s->was_ready)
		dialogue_fail(d, CONN_DONE, "closed by us");
	else
		dialogue_quit(d);
	run(s);
}

void session_stop(struct session *s)
{
	if (s->state <= SESSION_TALKING)
		dialogue_drop_queue(&s->dialogue);
	session_close(s, false);
}

void session_view(const struct session *s, struct session_view *v)
{
	static const char *const names[] = {"connect", NULL, "parting", "lingering"};
	const struct dialogue *d = &s->dialogue;
	const char *name = names[s->state];
	*v = (struct session_view){.conn = s->conn,
	    .message_id = d->active ? d->active->id : 0,
	    .begun = d->begun,
	    .queue = s->grant.queue,
	    .domain = s->grant.domain,
	    .host = s->grant.host,
	    .address = s->grant.address,
	    .stage = stage_name(s->state == SESSION_CONNECTING ? STAGE_CONNECT
				: s->state == SESSION_TALKING  ? dialogue_stage(d)
							       : STAGE_QUIT),
	    .source = s->local[0] ? s->local : s->grant.source,
	    .relay = s->relay,
	    .step = name ? name : dialogue_step_name(d),
	    .age_ms = loop_now_ms(s->out->loop) - s->started_ms,
	    .ready = s->was_ready,
	    .tls = d->secured};
	if (s->tls)
		tls_describe(s->tls, v->tls_text, sizeof(v->tls_text));
}

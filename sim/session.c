/* SPDX-License-Identifier: ISC */
/*
 * Connections and what is said on them: smtp-out and the peer in one. A connection's transactions
 * are answered in order, each a receiver's latency after the one before it. What a reply means for
 * the recipients follows smtp-out's verdict.c: 421 ends the session, and to MAIL on a connection
 * that had transactions before it is no attempt; 452 4.5.3 neither.
 *
 * A happening points to its connection; a connection that is gone stays until none does.
 */
#include "sim/impl.h"
#include <stdio.h>
#include <stdlib.h>

enum { CLOSE_MS = 5 };

/* ---- life ---- */

static struct session *session_find(const struct sim *s, uint64_t id)
{
	for (struct node *n = table_first(&s->conns, hash_mix(id, 1)); n; n = table_next(n))
		if (OWNER(n, struct session, node)->id == id)
			return OWNER(n, struct session, node);
	return NULL;
}

/* One from before keeps its transactions' room. */
static struct session *session_take(struct sim *s)
{
	struct session *c = s->free_conns;
	struct sim_tx kept[SIM_DEPTH];

	if (!c)
		return xcalloc(1, sizeof(*c));
	s->free_conns = c->next_free;
	memcpy(kept, c->tx, sizeof(kept));
	memset(c, 0, offsetof(struct session, text));
	c->next_free = NULL;
	memcpy(c->tx, kept, sizeof(kept));
	return c;
}

static void session_put(struct sim *s, struct session *c)
{
	if (!c->gone || c->events)
		return;
	c->next_free = s->free_conns;
	s->free_conns = c;
}

static void session_free(struct session *c)
{
	for (size_t i = 0; i < SIM_DEPTH; i++)
		free(c->tx[i].jobs);
	free(c);
}

void session_fini(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->conns))) {
		table_remove(&s->conns, n);
		session_free(OWNER(n, struct session, node));
	}
	while (s->free_conns) {
		struct session *c = s->free_conns;

		s->free_conns = c->next_free;
		session_free(c);
	}
}

static void later(struct sim *s, struct session *c, int64_t at_ms, enum happening_kind kind)
{
	c->events++;
	sim_at(s, at_ms, kind, c);
}

static int64_t about(struct sim *s, const struct receiver *r, int64_t ms)
{
	double part = (2 * sim_chance(s) - 1) * r->jitter / 100;
	int64_t with = ms + (int64_t)((double)ms * part);

	return with < 1 ? 1 : with;
}

/* ---- replies ---- */

static struct str variable(const struct session *c, const struct job_view *v, struct str name)
{
	const struct {
		struct str name, value;
	} known[] = {
	    {STR("source"), str_of(c->source)},
	    {STR("tenant"), v ? v->tenant : STR("")},
	    {STR("campaign"), v ? v->campaign : STR("")},
	    {STR("domain"), v ? v->domain : STR("")},
	};

	for (size_t i = 0; i < COUNT_OF(known); i++)
		if (str_eq(known[i].name, name))
			return known[i].value;
	return STR("");
}

static struct str expand(const struct session *c, const struct job_view *v, const char *from,
    char out[REPLY_TEXT_MAX + 1])
{
	size_t n = 0;

	while (*from && n < REPLY_TEXT_MAX) {
		const char *end = *from == '{' ? strchr(from, '}') : NULL;

		if (end) {
			n += str_copy(out + n, REPLY_TEXT_MAX + 1 - n,
			    variable(c, v, (struct str){from + 1, (size_t)(end - from - 1)}));
			from = end + 1;
		} else {
			out[n++] = *from++;
		}
	}
	out[n] = 0;
	return (struct str){out, n};
}

static struct str reply_text(const struct reply_row *row, const struct session *c,
    const struct job_view *v, char out[REPLY_TEXT_MAX + 1])
{
	return row->variable ? expand(c, v, row->text, out) : str_of(row->text);
}

/* ---- connecting ---- */

static void fail_later(struct sim *s, struct session *c, int64_t at_ms, enum conn_cause cause,
    enum smtp_stage stage, uint16_t code, struct str text)
{
	str_copy(c->text, sizeof(c->text), text);
	c->end =
	    (struct core_failure){.cause = cause, .stage = stage, .code = code, .was_ready = false};
	later(s, c, at_ms, HAPPENS_CLOSED);
}

static void punish(struct sim *s, const struct receiver *r, struct peer *p, unsigned reply)
{
	if (r->penalty_ms) {
		p->blocked_ms = s->now + r->penalty_ms;
		p->blocked_by = reply;
	}
}

/* What the greeting of a new connection says. */
static unsigned greeting(struct sim *s, struct session *c)
{
	struct receiver *r = c->receiver;
	struct peer *p = &r->peers[c->peer];

	if (p->blocked_ms > s->now) {
		punish(s, r, p, p->blocked_by);
		return p->blocked_by;
	}
	if (!receiver_allows(&p->connects, &r->connects, 1, s->now)) {
		punish(s, r, p, REPLY_CONNECT);
		return REPLY_CONNECT;
	}
	if (r->max_connections && p->open >= r->max_connections)
		return REPLY_CONNECT;
	return receiver_says(s, r, STAGE_GREETING, c->source, STR(""), STR(""));
}

static void count_open(struct sim *s, struct session *c)
{
	struct receiver *r = c->receiver;
	struct peer *p = &r->peers[c->peer];

	c->counted = true;
	if (++p->open > r->peer_peak)
		r->peer_peak = p->open;
	if (++r->open > r->open_peak) {
		r->open_peak = r->open;
		r->open_peak_ms = s->now;
	}
}

static void connect_now(struct sim *s, struct session *c, const struct core_grant *g)
{
	struct receiver *r = c->receiver;
	int64_t at = s->now + about(s, r, r->connect_ms);
	unsigned reply = receiver_says(s, r, STAGE_CONNECT, c->source, STR(""), STR(""));
	char text[REPLY_TEXT_MAX + 1];

	r->connections++;
	if (reply != REPLY_OK) {
		bool timeout = r->answers[reply - REPLY_ANSWERS].timeout;

		r->replies[reply].given++;
		r->refused++;
		fail_later(s, c, timeout ? s->now + g->connect_timeout_ms : at,
		    timeout ? CONN_TIMEOUT : CONN_REFUSED, STAGE_CONNECT, 0,
		    timeout ? STR("connection timed out") : STR("connection refused"));
		return;
	}
	reply = greeting(s, c);
	if (reply == REPLY_OK) {
		count_open(s, c);
		later(s, c, at, HAPPENS_READY);
		return;
	}
	r->replies[reply].given++;
	r->refused++;
	fail_later(s, c, at, CONN_REPLY, STAGE_GREETING, r->replies[reply].code,
	    reply_text(&r->replies[reply], c, NULL, text));
}

void session_grant(struct sim *s, const struct core_decision *d)
{
	struct session *c = session_take(s);

	c->id = d->conn;
	c->worker = d->worker;
	c->receiver = receiver_host(s, d->grant.host)->receiver;
	str_copy(c->source, sizeof(c->source), d->grant.source);
	c->peer = receiver_peer(c->receiver, d->grant.source);
	c->patterns = sim_name(s, d->grant.patterns);
	table_add(&s->conns, &c->node, hash_mix(c->id, 1));
	connect_now(s, c, &d->grant);
}

void session_ready(struct sim *s, struct session *c)
{
	c->events--;
	if (!c->gone) {
		c->ready = true;
		core_conn_ready(s->core, c->id, 0, 0, s->now);
	}
	session_put(s, c);
}

/* ---- ending ---- */

static void end_now(struct sim *s, struct session *c)
{
	table_remove(&s->conns, &c->node);
	c->gone = true;
	if (c->counted) {
		c->receiver->open--;
		c->receiver->peers[c->peer].open--;
	}
	c->end.text = str_of(c->text);
	c->end.was_ready = c->ready;
	if (c->end.cause != CONN_DONE && !c->ready) { /* else the transaction's result told it */
		hits_match(s, c->patterns, c->end.text, c->end.stage, c->end.code == 0, HIT_ALL);
		hits_tell(s);
	}
	core_conn_closed(s->core, c->id, &c->end, s->now);
}

void session_close(struct sim *s, const struct core_decision *d)
{
	struct session *c = session_find(s, d->conn);

	if (!c || c->end.cause != CONN_DONE)
		return; /* it is on its way out by itself */
	c->text[0] = 0;
	c->end = (struct core_failure){.cause = CONN_DONE, .stage = STAGE_QUIT};
	later(s, c, s->now + CLOSE_MS, HAPPENS_CLOSED);
}

void session_closed(struct sim *s, struct session *c)
{
	c->events--;
	if (!c->gone)
		end_now(s, c);
	session_put(s, c);
}

/* ---- transactions ---- */

static void next_result(struct sim *s, struct session *c)
{
	int64_t from = c->busy_ms > s->now ? c->busy_ms : s->now;

	c->busy_ms = from + about(s, c->receiver, c->receiver->latency_ms);
	later(s, c, c->busy_ms, HAPPENS_RESULT);
}

void session_send(struct sim *s, const struct core_decision *d)
{
	struct session *c = session_find(s, d->conn);
	struct sim_tx *tx;

	must(c && c->ready && c->tx_count < SIM_DEPTH);
	tx = &c->tx[c->tx_count++];
	tx->id = d->transaction;
	tx->n = (uint32_t)d->job_count;
	if (tx->n > tx->cap) {
		tx->cap = tx->n;
		tx->jobs = xrealloc(tx->jobs, tx->cap * sizeof(*tx->jobs));
	}
	memcpy(tx->jobs, d->jobs, tx->n * sizeof(*tx->jobs));
	next_result(s, c);
}

/* A reply to all recipients of the transaction, or REPLY_OK. */
static unsigned whole_answer(struct sim *s, struct session *c, const struct job_view *v, uint32_t n)
{
	struct receiver *r = c->receiver;
	struct peer *p = &r->peers[c->peer];
	unsigned reply;

	if (p->blocked_ms > s->now) {
		punish(s, r, p, p->blocked_by);
		return p->blocked_by;
	}
	if (r->max_messages && c->done >= r->max_messages)
		return REPLY_FULL;
	reply = receiver_says(s, r, STAGE_MAIL, c->source, v->tenant, v->campaign);
	if (reply == REPLY_OK && !receiver_allows(&p->recipients, &r->recipients, n, s->now)) {
		punish(s, r, p, REPLY_RATE);
		reply = REPLY_RATE;
	}
	return reply;
}

static unsigned rcpt_answer(struct sim *s, struct session *c, const struct job_view *v, uint32_t k)
{
	struct receiver *r = c->receiver;
	unsigned reply;
	double x;

	if (r->max_rcpts && k >= r->max_rcpts)
		return REPLY_RCPTS;
	if (r->answer_count) {
		reply = receiver_says(s, r, STAGE_RCPT, c->source, v->tenant, v->campaign);
		if (reply != REPLY_OK)
			return reply;
	}
	if (!(r->bounce + r->defer))
		return REPLY_OK;
	x = sim_chance(s) * 100;
	return x < r->bounce ? REPLY_BOUNCE : x < r->bounce + r->defer ? REPLY_DEFER : REPLY_OK;
}

static enum verdict verdict_of(
    const struct session *c, uint16_t code, enum smtp_stage stage, unsigned reply)
{
	if (code < 400)
		return VERDICT_DELIVERED;
	if (reply == REPLY_RCPTS || (code == 421 && stage == STAGE_MAIL && c->done > 0))
		return VERDICT_RETRY_NOW;
	return code < 500 ? VERDICT_DEFERRED : VERDICT_FAILED;
}

static void set_result(struct sim *s, struct session *c, const struct job_view *v, uint32_t i,
    unsigned reply, enum smtp_stage stage)
{
	struct reply_row *row = &c->receiver->replies[reply];

	row->given++;
	s->results[i] = (struct rcpt_result){.ordinal = v->rcpt,
	    .verdict = (uint8_t)verdict_of(c, row->code, stage, reply),
	    .stage = (uint8_t)stage,
	    .past_dot = stage == STAGE_DOT,
	    .code = row->code,
	    .status = str_of(row->status),
	    .text = reply_text(row, c, v, s->texts[i])};
}

static void make_room(struct sim *s, uint32_t n)
{
	if (n <= s->result_cap)
		return;
	s->result_cap = n;
	s->results = xrealloc(s->results, n * sizeof(*s->results));
	s->texts = xrealloc(s->texts, n * sizeof(*s->texts));
}

/* To one recipient; those behind it are cut off when it ends the session. */
static bool answer_rcpts(struct sim *s, struct session *c, const struct sim_tx *tx)
{
	struct job_view v;
	unsigned reply = REPLY_OK, late;
	bool ends = false;

	must(core_job(s->core, tx->jobs[0], &v));
	late = receiver_says(s, c->receiver, STAGE_DATA, c->source, v.tenant, v.campaign);
	for (uint32_t i = 0; i < tx->n; i++) {
		must(core_job(s->core, tx->jobs[i], &v));
		if (!ends)
			reply = rcpt_answer(s, c, &v, i);
		if (reply != REPLY_OK) {
			set_result(s, c, &v, i, reply, STAGE_RCPT);
			if (!ends)
				hits_match(
				    s, c->patterns, s->results[i].text, STAGE_RCPT, false, v.rcpt);
			ends = s->results[i].code == 421;
		} else if (late != REPLY_OK) {
			set_result(s, c, &v, i, late, STAGE_DATA);
		} else {
			set_result(s, c, &v, i, REPLY_OK, STAGE_DOT);
		}
	}
	return ends;
}

/* To DATA or the final dot: of those that were accepted so far. */
static void answer_content(struct sim *s, struct session *c, const struct sim_tx *tx)
{
	struct receiver *r = c->receiver;
	struct job_view v;
	unsigned reply;
	bool told = false;

	must(core_job(s->core, tx->jobs[0], &v));
	reply = receiver_says(s, r, STAGE_DOT, c->source, v.tenant, v.campaign);
	for (uint32_t i = 0; i < tx->n; i++) {
		if (s->results[i].code < 400 && reply != REPLY_OK) {
			r->replies[REPLY_OK].given--;
			must(core_job(s->core, tx->jobs[i], &v));
			set_result(s, c, &v, i, reply, STAGE_DOT);
		}
		if (s->results[i].code >= 400 && s->results[i].stage != STAGE_RCPT && !told) {
			hits_match(s, c->patterns, s->results[i].text,
			    (enum smtp_stage)s->results[i].stage, false, HIT_ALL);
			told = true;
		}
	}
}

static void answer_all(struct sim *s, struct session *c, const struct sim_tx *tx, unsigned reply)
{
	struct job_view v;

	for (uint32_t i = 0; i < tx->n; i++) {
		must(core_job(s->core, tx->jobs[i], &v));
		set_result(s, c, &v, i, reply, STAGE_MAIL);
	}
	hits_match(s, c->patterns, s->results[0].text, STAGE_MAIL, false, HIT_ALL);
}

static void judge(struct sim *s, struct session *c, const struct sim_tx *tx)
{
	struct job_view v;
	unsigned reply;

	make_room(s, tx->n);
	must(core_job(s->core, tx->jobs[0], &v));
	reply = whole_answer(s, c, &v, tx->n);
	if (reply != REPLY_OK)
		answer_all(s, c, tx, reply);
	else if (!answer_rcpts(s, c, tx) && c->receiver->answer_count)
		answer_content(s, c, tx);
}

static void count_minute(struct sim *s, struct receiver *r, uint32_t n)
{
	int64_t minute = (s->now - SIM_START) / SIM_MINUTE;

	if (minute != r->minute_ms) {
		r->minute_ms = minute;
		r->minute = 0;
	}
	r->minute += n;
	if (r->minute > r->minute_peak) {
		r->minute_peak = r->minute;
		r->minute_peak_ms = s->now;
	}
}

/* The last result of it that ends the session, or NULL. */
static const struct rcpt_result *last_word(const struct sim *s, uint32_t n)
{
	for (uint32_t i = n; i-- > 0;)
		if (s->results[i].code == 421)
			return &s->results[i];
	return NULL;
}

static void count_results(struct sim *s, struct receiver *r, uint32_t n)
{
	uint64_t taken = 0;

	for (uint32_t i = 0; i < n; i++)
		taken += s->results[i].verdict == VERDICT_DELIVERED;
	r->transactions++;
	r->attempted += n;
	r->taken += taken;
	r->series_taken[tally_point(s)] += taken;
	count_minute(s, r, n);
}

static void take_first(struct session *c)
{
	struct sim_tx first = c->tx[0];

	memmove(&c->tx[0], &c->tx[1], (SIM_DEPTH - 1) * sizeof(c->tx[0]));
	c->tx[SIM_DEPTH - 1] = first; /* its room is used again */
	c->tx_count--;
}

void session_result(struct sim *s, struct session *c)
{
	const struct rcpt_result *end;
	uint32_t n = c->tx[0].n;

	c->events--;
	if (c->gone) {
		session_put(s, c);
		return;
	}
	judge(s, c, &c->tx[0]);
	count_results(s, c->receiver, n);
	end = last_word(s, n);
	if (end) {
		str_copy(c->text, sizeof(c->text), end->text);
		c->end = (struct core_failure){
		    .cause = CONN_REPLY, .stage = (enum smtp_stage)end->stage, .code = end->code};
	}
	c->done++;
	hits_tell(s);
	core_result(s->core, c->tx[0].id, s->results, n, s->now);
	take_first(c);
	if (end)
		end_now(s, c);
	session_put(s, c);
}

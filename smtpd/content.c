/* SPDX-License-Identifier: ISC */
/*
 * From the first byte of content to the answer to its end. The way of a message here:
 *
 *   content_begin ─▶ content_take … ─▶ finish ─▶ commit ─▶ on_committed ─▶ 250
 *                        │ above STREAM_FROM         │ no credit
 *                        ▼                           ▼
 *                    MODE_STREAM ─▶ on_stream    MODE_PARKED ─▶ session_credit
 *
 * A message takes its id when it is complete (segwriter_begin) or when its stream is open; up to
 * then a log line about it says NOQUEUE. The transaction is dropped whole at every end. While the
 * writer holds a message the session stays in memory, even when its client has gone: the message is
 * complete, so it goes on, and only the answer is lost.
 */
#include "smtpd/policy.h"
#include "smtpd/received.h"
#include "smtpd/session.h"

#include "common/clock.h"
#include "common/log.h"

#include <stdio.h>
#include <string.h>

/* The server's sum of content in memory follows this transaction's, with what its stream has not
 * yet on file. What the writer has taken over for good stays counted until the transaction is
 * dropped, when it is written: a disk that stalls must not let memory fill behind our back. */
static void count_content(struct session *s)
{
	struct txn *t = s->txn;
	uint64_t bytes = t->content.n + (t->stream ? segstream_waiting(t->stream) : 0);

	s->server->content_bytes += bytes;
	s->server->content_bytes -= t->counted;
	t->counted = bytes;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void end_refused(struct session *s, enum answer a)
{
	char from[ADDRESS_MAX + 1];

	str_copy(from, sizeof(from), str_of(s->txn ? s->txn->first_rcpt : ""));
	if (answer_code(a) >= 500)
		s->server->counters.rejected++;
	else
		s->server->counters.deferred++;
	session_reject(s, "END-OF-MESSAGE", a, from);
	session_drop_txn(s);
	session_answer(s, a);
	if (s->mode != MODE_CLOSING)
		s->mode = MODE_COMMAND;
	session_wait_command(s);
}

static void on_committed(void *arg, bool ok, enum refuse why, uint64_t id)
{
	struct session *s = arg;
	char text[RECORD_ID_TEXT];

	record_id_print(text, id);
	s->committing = false;
	s->server->counters.messages += ok;
	if (s->mode == MODE_DEAD) {
		session_resume(s); /* frees it */
		return;
	}
	s->mode = MODE_COMMAND;
	if (ok) {
		s->junk = 0;
		session_drop_txn(s);
		session_text(s, "250 2.0.0 Ok: queued as %s\r\n", text);
		session_wait_command(s);
		if (s->server->stopping)
			session_answer(s, ANSWER_STOPPING);
	} else {
		end_refused(s, policy_refuse(why));
	}
	session_resume(s);
}

/* --- what stands above and beside the content --------------------------------------------------
 */

static void put_headers(struct session *s, uint64_t id, int64_t wall_ms, struct buf *out)
{
	const struct txn *t = s->txn;
	char text[RECORD_ID_TEXT], tls[128] = "";
	bool utf8 = t->smtputf8 && t->address_utf8;

	record_id_print(text, id);
	if (s->tls)
		tls_describe(s->tls, tls, sizeof(tls));
	struct received r = {.helo = s->helo,
	    .client = s->client,
	    .host = s->settings->host,
	    .protocol = received_protocol(s->ehlo, s->tls != NULL, utf8),
	    .tls = tls,
	    .id = text,
	    .rcpt = t->rcpt_count == 1 ? t->first_rcpt : "",
	    .wall_ms = wall_ms};
	received_put(out, &r);
	if (t->check[0])
		buf_printf(out, "X-Postern-Check: %s\r\n", t->check);
	if (!t->body.has_date)
		received_put_date(out, wall_ms);
	if (!t->body.has_message_id)
		received_put_message_id(out, &r);
}

static void log_message(struct session *s, uint64_t id, int64_t wall_ms)
{
	char text[RECORD_ID_TEXT];
	const struct body *b = &s->txn->body;

	record_id_print(text, id);
	log_info("%s: client=unknown[%s]", text, s->client);
	if (b->has_message_id)
		log_info("%s: message-id=%s", text, b->message_id);
	else
		log_info("%s: message-id=<%s.%llx@%s>", text, text, (unsigned long long)wall_ms,
		    s->settings->host);
}

static enum answer choose_tenant(struct session *s, const struct tenant **tenant)
{
	const struct body *b = &s->txn->body;
	struct tenant_evidence evidence = {
	    .has_x_tenant = b->has_tenant && s->listener->process_x_tenant,
	    .x_tenant = str_of(b->tenant),
	    .match = b->match,
	    .listener = s->listener->tenant,
	    .client = s->client_tenant,
	    .sender = str_of(s->txn->sender)};

	return tenants_choose(s->settings->tenants, &evidence, tenant);
}

static enum answer judge(struct session *s, const struct tenant *tenant, bool *hold)
{
	const struct body *b = &s->txn->body;
	struct header_facts facts = {.from = str_of(b->from)};
	struct tenant_verdict verdict;

	memcpy(facts.count, b->singletons, sizeof(facts.count));
	tenant_judge(tenant, &facts, &verdict);
	if (verdict.action == CHECK_OFF)
		return ANSWER_NONE;
	log_info("tenant %s: %s: %s", tenant->name,
	    verdict.action == CHECK_REFUSE	 ? "refused"
	    : verdict.action == CHECK_QUARANTINE ? "set aside"
						 : "tagged",
	    verdict.why);
	*hold = verdict.action == CHECK_QUARANTINE;
	if (verdict.action != CHECK_REFUSE)
		str_copy(s->txn->check, sizeof(s->txn->check), str_of(verdict.why));
	return verdict.action == CHECK_REFUSE ? ANSWER_TENANT_CHECK : ANSWER_NONE;
}

/* The header is known: whose mail it is and its virtual MTA, or why the message is refused. */
static enum answer put_envelope(struct session *s, struct buf *out)
{
	const struct body *b = &s->txn->body;
	struct txn_origin from = {.client = s->client, .helo = s->helo, .tenant = ""};
	const struct tenant *tenant = NULL;
	enum answer a = choose_tenant(s, &tenant);

	if (a == ANSWER_NONE)
		a = policy_vmta(
		    s->settings, s->listener, tenant, b->vmta, b->vmta_count, &from.vmta);
	if (a == ANSWER_NONE && tenant) {
		from.tenant = tenant->name;
		a = judge(s, tenant, &from.hold);
	}
	if (a == ANSWER_NONE && tenant)
		a = session_tenant_rate(s, tenant, 1, s->txn->rcpt_count);
	s->txn->tenant = tenant;
	if (a == ANSWER_NONE)
		txn_put_envelope(s->txn, &from, out);
	return a;
}

static void take_rates(struct session *s)
{
	const struct txn *t = s->txn;

	if (t->tenant)
		rates_take(s->server->rates, settings_tenant(s->server->settings, t->tenant),
		    t->rcpt_count, t->body.bytes, loop_now_ms(s->server->loop));
}

/* --- a message in memory -----------------------------------------------------------------------
 */

/* false: no credit now. */
static bool commit(struct session *s)
{
	struct buf envelope, headers;
	int64_t wall_ms = clock_wall_ms();
	enum answer a;
	uint64_t id;

	buf_init(&envelope, ENVELOPE_MAX);
	a = put_envelope(s, &envelope);
	if (a != ANSWER_NONE) {
		end_refused(s, a);
		return true;
	}
	id = segwriter_begin(s->server->writer);
	if (id == 0) {
		buf_fini(&envelope);
		return false;
	}
	take_rates(s);
	buf_init(&headers, INPUT_BYTES);
	put_headers(s, id, wall_ms, &headers);
	log_message(s, id, wall_ms);
	s->committing = true;
	s->mode = MODE_COMMIT;
	session_wait(s, -1);
	count_content(s);
	segwriter_submit(
	    s->server->writer, id, wall_ms, &envelope, &headers, &s->txn->content, on_committed, s);
	return true;
}

static void park(struct session *s)
{
	struct session **at = &s->server->parked;

	while (*at)
		at = &(*at)->parked_next;
	s->parked_at = at;
	s->parked_next = NULL;
	*at = s;
	s->mode = MODE_PARKED;
	session_wait(s, PARK_MS);
}

static void unpark(struct session *s)
{
	if (!s->parked_at)
		return;
	*s->parked_at = s->parked_next;
	if (s->parked_next)
		s->parked_next->parked_at = s->parked_at;
	s->parked_at = NULL;
	s->parked_next = NULL;
}

void session_credit(struct session *s)
{
	unpark(s);
	if (!commit(s))
		park(s); /* somebody before us took it */
	session_resume(s);
}

/* --- a message that streams --------------------------------------------------------------------
 */

static void on_drained(void *arg)
{
	struct session *s = arg;

	count_content(s);
	if (!s->paused || segstream_waiting(s->txn->stream) > STREAM_WAITING_MAX / 2)
		return;
	s->paused = false;
	if (s->mode == MODE_DATA || s->mode == MODE_CHUNK)
		content_wait(s);
	else
		session_wait_command(s); /* between chunks; a session that closes only lingers */
	session_resume(s);
}

static void stream_content(struct session *s, size_t at_least)
{
	struct txn *t = s->txn;

	if (!t->stream || t->content.n < at_least || t->body.refused != ANSWER_NONE)
		return;
	segstream_append(t->stream, &t->content);
	count_content(s);
	s->paused = segstream_waiting(t->stream) > STREAM_WAITING_MAX;
}

static void begin_stream(struct session *s, struct segstream *stream)
{
	struct txn *t = s->txn;
	struct buf envelope, headers;
	int64_t wall_ms = clock_wall_ms();
	enum answer a;

	t->stream = stream;
	buf_init(&envelope, ENVELOPE_MAX);
	buf_init(&headers, INPUT_BYTES);
	a = put_envelope(s, &envelope);
	if (a != ANSWER_NONE) {
		segstream_abandon(&t->stream);
		t->body.refused = a;
		return;
	}
	put_headers(s, segstream_id(stream), wall_ms, &headers);
	log_message(s, segstream_id(stream), wall_ms);
	t->envelope_bytes = (uint32_t)envelope.n;
	t->headers_bytes = (uint32_t)headers.n;
	segstream_on_drained(stream, on_drained, s);
	segstream_append(stream, &envelope);
	segstream_append(stream, &headers);
	stream_content(s, 0);
}

/* What is left of a refused message is read and dropped. */
static void refuse_rest(struct session *s, enum answer a)
{
	s->txn->body.refused = a;
	buf_fini(&s->txn->content);
	count_content(s);
	segstream_abandon(&s->txn->stream);
}

static void apply_stream(struct session *s, struct segstream *stream, enum refuse why)
{
	if (stream)
		begin_stream(s, stream);
	else
		s->txn->body.refused = policy_refuse(why);
	if (s->txn->body.refused != ANSWER_NONE)
		refuse_rest(s, s->txn->body.refused);
	s->mode = s->txn->body.chunked ? MODE_CHUNK : MODE_DATA;
	content_wait(s);
}

static void on_stream(void *arg, struct segstream *stream, enum refuse why)
{
	struct session *s = arg;

	apply_stream(s, stream, why);
	session_resume(s);
}

/* The addresses that one client has: for IPv6 a network of 64 bits. */
static bool same_client(const struct session *a, const struct session *b)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	bool ipv4 = memcmp(a->address, mapped, sizeof(mapped)) == 0;

	return memcmp(a->address, b->address, ipv4 ? 16 : 8) == 0;
}

/* The writer's streams are few: half of them one client may have, of the rest a quarter each. */
static bool may_stream(const struct session *s)
{
	unsigned all = 0, its = 0;

	for (const struct session *c = s->server->sessions; c; c = c->next) {
		if (c == s || (c->mode != MODE_STREAM && !(c->txn && c->txn->stream)))
			continue;
		all++;
		its += same_client(s, c);
	}
	return all < STREAMS_FREE || its < STREAMS_OF_CLIENT;
}

static void want_stream(struct session *s)
{
	if (!may_stream(s)) {
		apply_stream(s, NULL, REFUSE_MEMORY);
		return;
	}
	uint64_t size = s->txn->size > 0 ? s->txn->size : STREAM_SIZE_UNKNOWN;

	s->mode = MODE_STREAM;
	session_wait(s, STREAM_OPEN_MS);
	segstream_open(s->server->writer, size, on_stream, s);
}

/* Others of the tenant's may have come while it did: its limits are asked once more, and only now
 * is something taken, so that what ends early costs nothing. */
static void close_stream(struct session *s)
{
	struct txn *t = s->txn;
	struct segstream *stream = t->stream;
	enum answer a =
	    t->tenant ? session_tenant_rate(s, t->tenant, 1, t->rcpt_count) : ANSWER_NONE;

	if (a != ANSWER_NONE) {
		end_refused(s, a);
		return;
	}
	take_rates(s);
	stream_content(s, 1);
	struct record lengths = {.envelope_bytes = t->envelope_bytes,
	    .headers_bytes = t->headers_bytes,
	    .content_bytes = t->body.bytes,
	    .arrived_ms = (uint64_t)clock_wall_ms()};
	t->stream = NULL; /* from here on the writer's */
	s->paused = false;
	s->committing = true;
	s->mode = MODE_COMMIT;
	session_wait(s, -1);
	segstream_close(stream, &lengths, on_committed, s);
}

/* --- receiving ---------------------------------------------------------------------------------
 */

void content_begin(struct session *s, bool chunked)
{
	struct body_limits limits = {.content_max = s->settings->max_message,
	    .header_max = s->listener->max_header,
	    .hops_max = s->listener->max_hops,
	    .tenants = tenants_count(s->settings->tenants) ? s->settings->tenants : NULL};

	txn_receive(s->txn, &limits, chunked);
	s->chunk_refused = false;
	content_wait(s);
}

void content_wait(struct session *s)
{
	s->data_deadline_ms = loop_now_ms(s->server->loop) + session_timeout_ms(s);
	session_wait(s, session_timeout_ms(s));
}

static void finish(struct session *s)
{
	enum answer a = body_end(&s->txn->body);

	if (a != ANSWER_NONE)
		end_refused(s, a);
	else if (s->txn->stream)
		close_stream(s);
	else if (!commit(s))
		park(s);
}

/* Bytes buy time, up to the command timeout: a rate over a while, not a gap between two reads. */
static void extend_deadline(struct session *s, size_t bytes)
{
	int64_t now_ms = loop_now_ms(s->server->loop), most_ms = now_ms + session_timeout_ms(s);
	unsigned rate = s->listener->min_data_rate;

	if (rate == 0)
		s->data_deadline_ms = most_ms;
	else
		s->data_deadline_ms += (int64_t)(bytes * 1000 / rate);
	if (s->data_deadline_ms > most_ms)
		s->data_deadline_ms = most_ms;
	session_wait(s, s->data_deadline_ms - now_ms);
}

static void check_room(struct session *s)
{
	struct txn *t = s->txn;

	count_content(s);
	if (t->body.refused != ANSWER_NONE) {
		refuse_rest(s, t->body.refused);
		return;
	}
	if (!policy_content_fits(s->server->content_bytes)) {
		refuse_rest(s, ANSWER_NO_MEMORY);
		return;
	}
	stream_content(s, STREAM_PIECE);
}

static bool needs_stream(const struct txn *t)
{
	return !t->stream && t->body.header_done && t->content.n > STREAM_FROM &&
	       t->body.refused == ANSWER_NONE;
}

static void end_chunk(struct session *s)
{
	enum answer refused = s->chunk_refused ? ANSWER_NO_MAIL : s->txn->body.refused;

	s->mode = MODE_COMMAND;
	session_wait_command(s);
	if (s->chunk_refused) {
		enum answer a = session_phase(s) == PHASE_SENDER ? ANSWER_NO_RCPT : ANSWER_NO_MAIL;
		session_answer(s, s->helo[0] ? a : ANSWER_NO_HELO);
	} else if (refused != ANSWER_NONE) {
		end_refused(
		    s, refused); /* RFC 3030 4.2: the chunks that follow find no transaction */
	} else if (s->chunk_last) {
		finish(s);
	} else {
		session_answer(s, ANSWER_CHUNK_OK);
	}
}

static void take_chunk(struct session *s, struct str *in)
{
	size_t n = in->n < s->chunk_left ? in->n : (size_t)s->chunk_left;

	if (!s->chunk_refused)
		body_take_chunk(&s->txn->body, (struct str){in->p, n});
	in->p += n;
	in->n -= n;
	s->chunk_left -= n;
}

/* Eats; also called without bytes, for a BDAT of none. */
void content_take(struct session *s, struct str *in)
{
	size_t before = in->n;
	bool chunk = s->mode == MODE_CHUNK, end = false;

	if (chunk)
		take_chunk(s, in);
	else
		end = body_take_data(&s->txn->body, in);
	s->server->counters.bytes_in += before - in->n;
	if (!s->chunk_refused)
		check_room(s);
	if (chunk)
		end = s->chunk_left == 0 && (s->chunk_last || s->chunk_refused);
	if (!end && !s->chunk_refused && needs_stream(s->txn))
		want_stream(s);
	else if (chunk && s->chunk_left == 0)
		end_chunk(s);
	else if (end)
		finish(s);
	else
		extend_deadline(s, before - in->n);
}

/* --- ends that are not the client's ------------------------------------------------------------
 */

void content_timeout(struct session *s)
{
	if (s->mode == MODE_PARKED) {
		unpark(s);
		end_refused(s, ANSWER_NO_MEMORY);
	} else if (s->mode == MODE_STREAM) {
		segstream_cancel(s->server->writer, s);
		apply_stream(s, NULL, REFUSE_BUSY);
	}
}

void content_forget(struct session *s)
{
	unpark(s);
	/* Whatever the mode says: it is MODE_DEAD by now, and was MODE_STREAM a moment ago. */
	segstream_cancel(s->server->writer, s);
}

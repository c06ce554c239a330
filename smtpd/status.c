/* SPDX-License-Identifier: ISC */
/*
 * posternctl smtpd status | sessions. Looking changes nothing. The list of sessions streams: it
 * remembers the number of the last session it printed, not the session, which may be gone when the
 * reader has room again.
 */
#include "smtpd/status.h"

#include "smtpd/policy.h"
#include "smtpd/session.h"

#include <stdlib.h>
#include <sysexits.h>

enum { ROWS_A_TURN = 100 }; /* of `sessions`: bounds the time of one callback */

static const char *const mode_names[] = {
    [MODE_COMMAND] = "command",
    [MODE_DATA] = "data",
    [MODE_CHUNK] = "bdat",
    [MODE_STREAM] = "segment",
    [MODE_PARKED] = "credit",
    [MODE_COMMIT] = "commit",
    [MODE_CLOSING] = "closing",
    [MODE_DEAD] = "gone",
};

static void put(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

static void verb_status(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct server *s = *(struct server **)ctx;
	const struct server_counters *c = &s->counters;
	struct segwriter_stats w;
	json_t *row = json_object();
	enum answer refuse = policy_refuse(segwriter_state(s->writer));

	(void)args;
	(void)options;
	segwriter_stats(s->writer, &w);
	put(row, "connections", s->session_count);
	put(row, "connections_max", s->connections_max);
	json_object_set_new(row, "stress", json_boolean(s->stress));
	json_object_set_new(row, "accepting", json_boolean(!s->accept_paused && !s->stopping));
	struct str text = refuse != ANSWER_NONE ? answer_text(refuse) : STR("");
	json_object_set_new(row, "refusing_mail", json_stringn(text.p, text.n));
	put(row, "connections_accepted", c->accepted);
	put(row, "connections_refused", c->refused_full);
	put(row, "relay_refused", c->refused_relay);
	put(row, "messages", c->messages);
	put(row, "messages_rejected", c->rejected);
	put(row, "messages_deferred", c->deferred);
	put(row, "tenant_message_rate_refused", c->over_rate[IN_MSG]);
	put(row, "tenant_recipient_rate_refused", c->over_rate[IN_RCPT]);
	put(row, "tenant_data_rate_refused", c->over_rate[IN_DATA]);
	put(row, "tenants_below_full_rate", rates_count(s->rates));
	put(row, "content_bytes", c->bytes_in);
	put(row, "content_in_memory", s->content_bytes);
	put(row, "connections_lost", c->lost);
	put(row, "timeouts", c->timeouts);
	put(row, "starttls", c->starttls);
	put(row, "sync_batches", w.batches);
	put(row, "sync_failures", w.failures);
	json_object_set_new(row, "messages_per_batch",
	    json_real(w.batches ? (double)w.messages / (double)w.batches : 0.0));
	put(row, "segment_bytes", w.bytes);
	put(row, "uptime_s", (uint64_t)(loop_now_ms(s->loop) - s->started_ms) / 1000);
	control_row(r, row);
	control_end(r, EX_OK, "%s", "");
}

struct listing {
	struct server *server;
	uint64_t below; /* the list runs from the newest to the oldest */
};

static json_t *session_row(const struct session *s)
{
	json_t *row = json_object();

	put(row, "number", s->number);
	json_object_set_new(row, "client", json_string(s->client));
	json_object_set_new(row, "helo", json_string(s->helo));
	json_object_set_new(row, "state", json_string(mode_names[s->mode]));
	json_object_set_new(
	    row, "last_command", json_string(s->last_verb ? verb_name(s->last_verb) : ""));
	json_object_set_new(row, "tls", json_boolean(s->tls != NULL));
	put(row, "age_s", (uint64_t)(loop_now_ms(s->server->loop) - s->began_ms) / 1000);
	put(row, "errors", s->errors);
	json_object_set_new(row, "sender", json_string(s->txn ? s->txn->sender : ""));
	put(row, "recipients", s->txn ? s->txn->rcpt_count : 0);
	put(row, "bytes", s->txn && s->txn->receiving ? s->txn->body.bytes : 0);
	return row;
}

static bool next_sessions(void *state, struct control_reply *r)
{
	struct listing *l = state;
	int rows = 0;

	for (const struct session *s = l->server->sessions; s; s = s->next) {
		if (s->number >= l->below)
			continue;
		if (rows++ == ROWS_A_TURN)
			return true;
		l->below = s->number;
		control_row(r, session_row(s));
	}
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void verb_sessions(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct listing *l = xcalloc(1, sizeof(*l));

	(void)args;
	(void)options;
	*l = (struct listing){.server = *(struct server **)ctx, .below = UINT64_MAX};
	control_stream(r, next_sessions, free, l);
}

const struct control_verb smtpd_verbs[] = {
    {"status", "status", "Connections, messages, commits, and why mail is refused, if it is.", 0, 0,
	verb_status},
    {"sessions", "sessions", "The clients that are connected, and what each is doing.", 0, 0,
	verb_sessions},
};
const size_t smtpd_verb_count = COUNT_OF(smtpd_verbs);

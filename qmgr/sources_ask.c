/* SPDX-License-Identifier: ISC */
/*
 * Operators' commands about source addresses, which come through smtp-out: disable, enable, and a
 * report for which all are checked anew.
 *
 * A disabled source is the core's: it keeps it over restarts and tells of it as an event. Who asks
 * for a report waits for the round that the question starts, at most LATE_MS, less than smtp-out
 * waits for us; then what is known by then is told. Questions are not kept: with the process that
 * asked they are forgotten.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	LATE_MS = 8000,
	ASKS_MAX = 100, /* that wait at once */
	HOLDS_A_CALL = 64,
	HOLDS_MAX = 100000, /* looked at for one report */
	TOLD_MAX = 1048576, /* of SOURCE_TOLD's text */
};

#define FOREVER_MS (UINT64_C(100) * 366 * 86400 * 1000) /* stops an overflow, and means always */

struct source_ask {
	struct source_ask *next;
	uint32_t ticket;
	uint16_t instance;
	uint32_t generation; /* of the smtp-out that asked */
	int64_t late_ms;
	char address[65]; /* empty: all */
};

static void answer(struct chan *chan, uint32_t ticket, bool ok, const char *text)
{
	chan_send_source_told(
	    chan, &(struct msg_source_told){.ticket = ticket, .ok = ok, .text = str_of(text)});
}

static void answer_rows(struct chan *chan, uint32_t ticket, json_t *rows)
{
	char *text = json_dumps(rows, JSON_COMPACT);
	if (text == NULL || strlen(text) > TOLD_MAX)
		answer(chan, ticket, false, "there is too much to say: name an address");
	else
		answer(chan, ticket, true, text);
	free(text);
	json_decref(rows);
}

static json_t *text(const char *s)
{
	return s[0] != '\0' ? json_string(s) : json_null();
}

static json_t *view(struct str s)
{
	char clean[1024];
	return text(log_clean(clean, sizeof(clean), s));
}

static json_t *time_of(const struct qmgr *q, int64_t steady_ms)
{
	time_t s = (time_t)((steady_ms - q->now_ms + clock_wall_ms()) / 1000);
	struct tm tm;
	char out[40];
	if (steady_ms <= 0 || gmtime_r(&s, &tm) == NULL ||
	    strftime(out, sizeof(out), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		return json_null();
	return json_string(out);
}

/* --- the report ----------------------------------------------------------------------------------
 */

static json_t *disabled_row(const struct qmgr *q, const struct hold_view *h)
{
	json_t *row = json_object();
	json_object_set_new(row, "where", h->at.n > 0 ? view(h->at) : json_string("everywhere"));
	json_object_set_new(row, "until", time_of(q, h->until_ms));
	json_object_set_new(row, "who", view(h->who));
	json_object_set_new(row, "rule", view(h->rule));
	json_object_set_new(row, "because", view(h->text));
	return row;
}

/* address → rows of where it is disabled */
static json_t *all_disabled(const struct qmgr *q)
{
	struct core_cursor cursor = {0};
	struct hold_view holds[HOLDS_A_CALL];
	json_t *by_address = json_object();
	size_t n, seen = 0;
	while (seen < HOLDS_MAX && (n = core_holds(q->core, &cursor, holds, COUNT_OF(holds))) > 0) {
		seen += n;
		for (size_t i = 0; i < n; i++) {
			char address[65];
			if (holds[i].scope != CORE_SOURCE)
				continue;
			str_copy(address, sizeof(address), holds[i].name);
			json_t *rows = json_object_get(by_address, address);
			if (rows == NULL) {
				rows = json_array();
				json_object_set_new(by_address, address, rows);
			}
			json_array_append_new(rows, disabled_row(q, &holds[i]));
		}
	}
	return by_address;
}

static json_t *source_row(const struct source *s, json_t *disabled)
{
	json_t *where = json_object_get(disabled, s->address);
	json_t *row = json_object();
	json_object_set_new(row, "address", json_string(s->address));
	json_object_set_new(row, "vmta", json_string(s->vmta));
	json_object_set_new(row, "ehlo", json_string(s->ehlo));
	json_object_set_new(
	    row, "bindable", s->bind_known ? json_boolean(!s->missing) : json_null());
	json_object_set_new(row, "why", text(s->why));
	json_object_set_new(row, "ptr", text(s->name));
	json_object_set_new(
	    row, "confirmed", s->names_known ? json_boolean(s->confirmed) : json_null());
	json_object_set_new(
	    row, "ehlo_matches", s->names_known ? json_boolean(s->ehlo_matches) : json_null());
	json_object_set_new(row, "listed", text(s->listed));
	json_object_set_new(row, "disabled", where != NULL ? json_incref(where) : json_array());
	return row;
}

static void tell(struct qmgr *q, const struct source_ask *a)
{
	struct peer *peer = peers_find(q, PROC_smtp_out, a->instance);
	if (peer == NULL || peer->generation != a->generation)
		return; /* its question went with it */
	json_t *rows = json_array(), *disabled = all_disabled(q);
	for (size_t i = 0; i < q->sources.count; i++) {
		const struct source *s = q->sources.list[i];
		if (a->address[0] == '\0' || strcmp(a->address, s->address) == 0)
			json_array_append_new(rows, source_row(s, disabled));
	}
	json_decref(disabled);
	answer_rows(peer->chan, a->ticket, rows);
	loop_again(q->loop); /* a held channel moves at the turn's end */
}

static void on_late(void *arg)
{
	struct qmgr *q = arg;
	q->now_ms = clock_steady_ms();
	sources_tell(q, true);
}

void sources_tell(struct qmgr *q, bool late)
{
	struct source_ask **at = &q->sources.asks;
	bool over = sources_round_is_over(q);
	while (*at != NULL) {
		struct source_ask *a = *at;
		if (!over && !(late && a->late_ms <= q->now_ms)) {
			at = &a->next;
			continue;
		}
		*at = a->next;
		tell(q, a);
		free(a);
	}
	if (q->sources.asks == NULL)
		loop_timer_cancel(q->loop, &q->sources.late);
	else if (late) /* the oldest is the last of the list */
		loop_timer_after(q->loop, &q->sources.late, 1000, on_late, q);
}

static void ask_report(struct qmgr *q, const struct peer *peer, const struct msg_source_ask *m)
{
	size_t n = 0;
	for (struct source_ask *a = q->sources.asks; a != NULL; a = a->next)
		n++;
	if (n >= ASKS_MAX) {
		answer(peer->chan, m->ticket, false, "too many ask at once");
		return;
	}
	struct source_ask *a = xcalloc(1, sizeof(*a));
	*a = (struct source_ask){.next = q->sources.asks,
	    .ticket = m->ticket,
	    .instance = peer->instance,
	    .generation = peer->generation,
	    .late_ms = q->now_ms + LATE_MS};
	str_copy(a->address, sizeof(a->address), m->address);
	q->sources.asks = a;
	if (!wheel_armed(&q->sources.late.node))
		loop_timer_after(q->loop, &q->sources.late, LATE_MS, on_late, q);
	if (n == 0)
		sources_round(q); /* those who came before wait for the round that goes on */
}

void sources_asks_fini(struct qmgr *q)
{
	loop_timer_cancel(q->loop, &q->sources.late);
	while (q->sources.asks != NULL) {
		struct source_ask *a = q->sources.asks;
		q->sources.asks = a->next;
		free(a);
	}
}

/* --- disable and enable --------------------------------------------------------------------------
 */

static void disable(struct qmgr *q, struct chan *chan, const struct msg_source_ask *m)
{
	int64_t until_ms = 0;
	if (m->for_ms > 0)
		until_ms = q->now_ms + (int64_t)(m->for_ms < FOREVER_MS ? m->for_ms : FOREVER_MS);
	int rc = core_disable_source(q->core, m->address, m->queue, until_ms, m->who, q->now_ms);
	decisions_drain(q, NULL);
	if (rc != 0) {
		char why[800];
		snprintf(why, sizeof(why), "%.*s%s%.*s: %s", STR_ARG(m->address),
		    m->queue.n > 0 ? " for " : "", STR_ARG(m->queue),
		    rc == -ENOENT ? "no such source address or queue" : strerror(-rc));
		answer(chan, m->ticket, false, why);
		return;
	}
	json_t *row = json_object(), *rows = json_array();
	json_object_set_new(row, "address", view(m->address));
	json_object_set_new(
	    row, "where", m->queue.n > 0 ? view(m->queue) : json_string("everywhere"));
	json_object_set_new(row, "state", json_string("disabled"));
	json_object_set_new(row, "until", time_of(q, until_ms));
	json_array_append_new(rows, row);
	answer_rows(chan, m->ticket, rows);
}

static void enable(struct qmgr *q, struct chan *chan, const struct msg_source_ask *m)
{
	size_t n = core_enable_source(q->core, m->address, m->queue, m->who, q->now_ms);
	decisions_drain(q, NULL);
	if (n == 0) {
		answer(chan, m->ticket, false, "it is not disabled there");
		return;
	}
	json_t *row = json_object(), *rows = json_array();
	json_object_set_new(row, "address", view(m->address));
	json_object_set_new(
	    row, "where", m->queue.n > 0 ? view(m->queue) : json_string("everywhere"));
	json_object_set_new(row, "state", json_string("enabled"));
	json_object_set_new(row, "count", json_integer((json_int_t)n));
	json_array_append_new(rows, row);
	answer_rows(chan, m->ticket, rows);
}

void on_source_ask(void *ctx, struct chan *from_chan, struct msg_source_ask *m)
{
	struct qmgr *q = ctx;
	q->now_ms = clock_steady_ms();
	if (!q->started || q->stopping)
		answer(from_chan, m->ticket, false, "qmgr is starting or stopping");
	else if (m->verb == SOURCE_DISABLE)
		disable(q, from_chan, m);
	else if (m->verb == SOURCE_ENABLE)
		enable(q, from_chan, m);
	else if (m->verb == SOURCE_REPORT)
		ask_report(q, chan_data(from_chan), m);
	else
		answer(from_chan, m->ticket, false, "not a verb of this build");
}

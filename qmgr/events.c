/* SPDX-License-Identifier: ISC */
/*
 * What people should know: changes of modes, rules that fired, pauses, sources, reroutes, errors.
 *
 * Each event is a record of the journal, in the turn in which the core decided it. The delivery log
 * writes it in its place among the outcomes (logger.c); the last ones are kept here, as the bytes
 * of that record, for `events` and those who follow; and where the event names mail addresses, the
 * record names the ticket of an alert mail, which is owed like a report (bounces.c): asked of the
 * bouncer, settled by the record of the mail itself or by the word that there is none. So after a
 * crash before the record is on file neither the event nor what caused it has happened, and after
 * one behind it the alert is owed, once.
 *
 * Alerts are for things that go wrong in numbers: at most ALERTS_OWED_MAX wait for the bouncer;
 * those beyond are told by the log alone.
 */
#include "common/log.h"
#include "qmgr/logger_lines.h"
#include "qmgr/shell.h"
#include <stdlib.h>

enum { EVENT_BYTES_MAX = 65536 };

static struct j_event decoded(const struct events *es, uint64_t seq)
{
	struct j_event e;
	const unsigned char *p = es->ring[seq % EVENTS_KEPT].bytes;
	struct str payload = {(const char *)p, es->ring[seq % EVENTS_KEPT].n};
	must(j_event_decode(payload, &e) == 0); /* it was, when it came */
	return e;
}

static void tell(struct events *es, uint64_t seq)
{
	struct event_view v = {.seq = seq, .e = decoded(es, seq)};
	for (struct event_follower *f = es->followers, *next; f != NULL; f = next) {
		next = f->next;
		f->told(f->ctx, &v);
	}
}

static void keep(struct events *es, struct str payload)
{
	uint64_t seq = ++es->last;
	size_t slot = seq % EVENTS_KEPT;
	free(es->ring[slot].bytes);
	es->ring[slot].bytes = xmalloc(payload.n + 1);
	memcpy(es->ring[slot].bytes, payload.p, payload.n);
	es->ring[slot].n = payload.n;
	tell(es, seq);
}

/* The same for the event as it happens and for its record after a crash. */
static void owe_alert(struct qmgr *q, const struct j_event *e)
{
	struct buf line, text, bytes;
	struct alert alert = {.to = e->notify};
	buf_init(&line, ALERT_TEXT_MAX);
	buf_init(&text, ALERT_TEXT_MAX);
	buf_init(&bytes, ALERT_TO_MAX + ALERT_SUBJECT_MAX + ALERT_TEXT_MAX + 64);
	event_subject(&line, e);
	event_letter(&text, e);
	alert.subject = (struct str){(const char *)line.p, line.n};
	alert.text = (struct str){(const char *)text.p, text.n};
	alert_put(&bytes, &alert);
	bounces_add(q,
	    &(struct row_bounce){.ticket = e->ticket,
		.kind = DSN_ALERT,
		.arrived_ms = (int64_t)e->wall_ms,
		.results = {(const char *)bytes.p, bytes.n}},
	    false);
	buf_fini(&line);
	buf_fini(&text);
	buf_fini(&bytes);
}

static uint64_t alert_ticket(struct qmgr *q, const struct core_event *event)
{
	if (event->notify.n == 0)
		return 0;
	if (q->bounces.alerts < ALERTS_OWED_MAX)
		return bounces_ticket(q);
	if (q->events.alerts_dropped++ == 0)
		log_warn("%d alert mails wait for the bouncer; those beyond are not sent, but "
			 "logged",
		    ALERTS_OWED_MAX);
	return 0;
}

void events_put(struct qmgr *q, const struct core_event *event)
{
	int64_t wall_ms = clock_wall_ms();
	struct j_event e = {.wall_ms = (uint64_t)wall_ms,
	    .ticket = alert_ticket(q, event),
	    .until_wall_ms =
		event->until_ms > 0 ? (uint64_t)(event->until_ms - q->now_ms + wall_ms) : 0,
	    .kind = (uint8_t)event->kind,
	    .scope = event->scope,
	    .from = event->from,
	    .to = event->to,
	    .text = event->text,
	    .rule = event->rule,
	    .who = event->who,
	    .notify = event->notify};
	struct buf *b = journal_buf(q->journal);
	size_t at = b->n;
	j_event_encode(b, &e);
	struct str bytes = {(const char *)b->p + at, b->n - at};
	uint64_t pos = 0;
	struct journal_record rec;
	journal_record_seal(b->p + at, b->n - at, pos); /* it is sealed again where it will stand */
	must(journal_record_take(&bytes, &pos, &rec) == 1);
	keep(&q->events, rec.payload);
	if (e.ticket != 0)
		owe_alert(q, &e);
}

void events_redo(struct qmgr *q, struct str payload)
{
	struct j_event e;
	if (payload.n > EVENT_BYTES_MAX || j_event_decode(payload, &e) != 0)
		return;
	keep(&q->events, payload);
	if (e.ticket != 0)
		owe_alert(q, &e);
}

size_t events_since(const struct qmgr *q, uint64_t seq, struct event_view *out, size_t n)
{
	const struct events *es = &q->events;
	size_t got = 0;
	if (es->last > EVENTS_KEPT && seq < es->last - EVENTS_KEPT)
		seq = es->last - EVENTS_KEPT;
	for (; got < n && seq < es->last; got++) {
		seq++;
		out[got] = (struct event_view){.seq = seq, .e = decoded(es, seq)};
	}
	return got;
}

void events_follow(struct qmgr *q, struct event_follower *f)
{
	f->next = q->events.followers;
	q->events.followers = f;
}

void events_unfollow(struct qmgr *q, struct event_follower *f)
{
	struct event_follower **at = &q->events.followers;
	while (*at != NULL && *at != f)
		at = &(*at)->next;
	if (*at != NULL)
		*at = f->next;
}

void events_fini(struct qmgr *q)
{
	for (size_t i = 0; i < EVENTS_KEPT; i++)
		free(q->events.ring[i].bytes);
}

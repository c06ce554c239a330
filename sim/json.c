/* SPDX-License-Identifier: ISC */
/*
 * The report for programs: one object, described in posternctl(8). Times are seconds from the
 * beginning, spans are seconds. Members are only ever added.
 */
#include "sim/impl.h"
#include <stdlib.h>

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static json_t *at(int64_t at_ms)
{
	return json_real((double)(at_ms - SIM_START) / 1000);
}

static json_t *span(int64_t ms)
{
	return ms < 0 ? json_null() : json_real((double)ms / 1000);
}

static json_t *text(const char *s)
{
	json_t *v = json_string(s);

	return v ? v : json_string("?"); /* no UTF-8 */
}

static json_t *series(const uint64_t *values, size_t n)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, number(values[i]));
	return a;
}

static json_t *queue(const struct queue_row *q)
{
	json_t *o = json_object(), *causes = json_array();

	json_object_set_new(o, "queue", text(q->name));
	json_object_set_new(o, "drained", q->in_queue ? json_null() : at(q->last_ms));
	json_object_set_new(o, "left", number(q->in_queue));
	json_object_set_new(o, "peak", number(q->peak));
	json_object_set_new(o, "peak_at", q->peak ? at(q->peak_ms) : json_null());
	json_object_set_new(o, "longest", span(q->oldest_ms));
	json_object_set_new(o, "delivered", number(q->delivered));
	json_object_set_new(o, "bounced", number(q->bounced));
	json_object_set_new(o, "deferrals", number(q->deferrals));
	json_object_set_new(o, "connections_peak", number(q->connections_peak));
	json_object_set_new(o, "backoff", span(q->mode_ms[1]));
	json_object_set_new(o, "recovery", span(q->mode_ms[2]));
	for (size_t i = 0; i < q->cause_count; i++)
		json_array_append_new(
		    causes, json_pack("{s:o, s:o, s:o, s:o}", "by", text(q->causes[i].text), "for",
				span(q->causes[i].ms), "first", at(q->causes[i].first_ms), "last",
				at(q->causes[i].last_ms)));
	json_object_set_new(o, "held", causes);
	return o;
}

static json_t *queues(const struct sim *s)
{
	json_t *a = json_array();
	size_t n;
	struct queue_row **all = tally_queues(s, &n);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, queue(all[i]));
	if (s->more_queues->delivered + s->more_queues->bounced)
		json_array_append_new(a, queue(s->more_queues));
	free(all);
	return a;
}

static json_t *replies(const struct receiver *r)
{
	json_t *a = json_array();

	for (size_t i = 0; i < REPLY_ANSWERS + r->answer_count; i++)
		if (r->replies[i].given)
			json_array_append_new(
			    a, json_pack("{s:o, s:o}", "reply", text(r->replies[i].text), "count",
				   number(r->replies[i].given)));
	return a;
}

static json_t *receiver(const struct sim *s, const struct receiver *r)
{
	json_t *o = json_object();

	json_object_set_new(o, "receiver", text(r->name));
	json_object_set_new(o, "connections", number(r->connections));
	json_object_set_new(o, "refused", number(r->refused));
	json_object_set_new(o, "connections_peak", number(r->open_peak));
	json_object_set_new(
	    o, "connections_peak_at", r->open_peak ? at(r->open_peak_ms) : json_null());
	json_object_set_new(o, "source_connections_peak", number(r->peer_peak));
	json_object_set_new(o, "transactions", number(r->transactions));
	json_object_set_new(o, "recipients", number(r->attempted));
	json_object_set_new(o, "minute_peak", number(r->minute_peak));
	json_object_set_new(
	    o, "minute_peak_at", r->minute_peak ? at(r->minute_peak_ms) : json_null());
	json_object_set_new(o, "accepted", number(r->in));
	json_object_set_new(o, "delivered", number(r->delivered));
	json_object_set_new(o, "bounced", number(r->bounced));
	json_object_set_new(o, "deferrals", number(r->deferrals));
	json_object_set_new(o, "left", number(r->backlog));
	json_object_set_new(o, "backlog_peak", number(r->backlog_peak));
	json_object_set_new(
	    o, "backlog_peak_at", r->backlog_peak ? at(r->backlog_peak_ms) : json_null());
	json_object_set_new(o, "replies", replies(r));
	json_object_set_new(o, "backlog", series(r->series_backlog, s->points));
	json_object_set_new(o, "taken", series(r->series_taken, s->points));
	return o;
}

static json_t *receivers(const struct sim *s)
{
	json_t *a = json_array();

	for (size_t i = 0; i < s->receiver_count; i++)
		if (s->receivers[i].connections + s->receivers[i].in)
			json_array_append_new(a, receiver(s, &s->receivers[i]));
	return a;
}

static json_t *tenants(const struct sim *s)
{
	json_t *a = json_array();
	size_t n;
	struct tenant_row **all = tally_tenants(s, &n);

	for (size_t i = 0; i < n; i++) {
		const struct tenant_row *t = all[i];
		json_t *o = json_object();

		json_object_set_new(o, "tenant", text(t->name));
		json_object_set_new(o, "accepted", number(t->in));
		json_object_set_new(o, "delivered", number(t->delivered));
		json_object_set_new(o, "bounced", number(t->bounced));
		json_object_set_new(o, "deferrals", number(t->deferrals));
		json_object_set_new(o, "delay_p50", span(tally_delay(t->delays, 0.5)));
		json_object_set_new(o, "delay_p99", span(tally_delay(t->delays, 0.99)));
		json_object_set_new(o, "delay_max", span(t->delivered ? t->delay_max_ms : -1));
		json_array_append_new(a, o);
	}
	free(all);
	return a;
}

static json_t *rules(const struct sim *s)
{
	json_t *a = json_array();
	size_t n;
	struct rule_row **all = tally_rules(s, &n);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(
		    a, json_pack("{s:o, s:o, s:o, s:o}", "rule", text(all[i]->name), "fired",
			   number(all[i]->fired), "first", at(all[i]->first_ms), "last",
			   at(all[i]->last_ms)));
	free(all);
	return a;
}

static json_t *events(const struct sim *s)
{
	json_t *a = json_array();

	for (size_t i = 0; i < s->event_count; i++) {
		const struct event_row *e = &s->events[i];
		json_t *o = json_object();

		json_object_set_new(o, "at", at(e->at_ms));
		json_object_set_new(o, "times", number(e->times));
		json_object_set_new(o, "last", at(e->last_ms));
		json_object_set_new(o, "kind", text(core_event_name(e->kind)));
		json_object_set_new(o, "scope", text(e->scope));
		json_object_set_new(o, "from", text(e->from));
		json_object_set_new(o, "to", text(e->to));
		json_object_set_new(o, "text", text(e->text));
		json_object_set_new(o, "rule", text(e->rule));
		json_object_set_new(o, "until", e->until_ms ? at(e->until_ms) : json_null());
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *event_counts(const struct sim *s)
{
	json_t *o = json_object();

	for (size_t i = 0; i < EVENT_KINDS; i++)
		json_object_set_new(
		    o, core_event_name((enum core_event_kind)i), number(s->event_counts[i]));
	return o;
}

json_t *sim_json(const struct sim *s)
{
	json_t *o = json_object();

	json_object_set_new(o, "simulated", at(s->now));
	json_object_set_new(o, "messages", number(s->messages));
	json_object_set_new(o, "accepted", number(s->in));
	json_object_set_new(o, "delivered", number(s->delivered));
	json_object_set_new(o, "bounced", number(s->bounced));
	json_object_set_new(o, "expired", number(s->expired));
	json_object_set_new(o, "left", number(s->left));
	json_object_set_new(o, "oldest_left", span(s->left ? s->left_oldest_ms : -1));
	json_object_set_new(o, "deferrals", number(s->deferrals));
	json_object_set_new(o, "connections", number(s->grants));
	json_object_set_new(o, "transactions", number(s->sends));
	json_object_set_new(o, "delay_p50", span(tally_delay(s->delays, 0.5)));
	json_object_set_new(o, "delay_p99", span(tally_delay(s->delays, 0.99)));
	json_object_set_new(o, "queues", queues(s));
	json_object_set_new(o, "receivers", receivers(s));
	json_object_set_new(o, "tenants", tenants(s));
	json_object_set_new(o, "rules", rules(s));
	json_object_set_new(o, "event_counts", event_counts(s));
	json_object_set_new(o, "events", events(s));
	json_object_set_new(o, "sample", span(s->sample_ms));
	json_object_set_new(o, "backlog", series(s->series_backlog, s->points));
	json_object_set_new(o, "delivered_series", series(s->series_delivered, s->points));
	return o;
}

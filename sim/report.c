/* SPDX-License-Identifier: ISC */
/*
 * The report for people: what came in and went out, queues, receivers, tenants, rules, and events
 * in order. Long lists are cut, with a line that says so; the report for programs has all.
 */
#include "sim/impl.h"
#include "sim/span.h"
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 20, CAUSES = 3, EVENT_LINES = 100, LINE = 150 };

void sim_span(char out[32], int64_t ms)
{
	int64_t s = ms / 1000;

	if (ms < 0)
		snprintf(out, 32, "-");
	else if (ms < 10000)
		snprintf(out, 32, "%.3gs", (double)ms / 1000);
	else if (s < 3600)
		snprintf(out, 32, "%lldm%02llds", (long long)(s / 60), (long long)(s % 60));
	else
		snprintf(out, 32, "%lldh%02lldm", (long long)(s / 3600), (long long)(s / 60 % 60));
}

void sim_clock(char out[32], int64_t at_ms)
{
	int64_t s = (at_ms - SIM_START) / 1000, day = s / 86400;

	if (day)
		snprintf(out, 32, "%lldd+%02d:%02d:%02d", (long long)day, (int)(s / 3600 % 24),
		    (int)(s / 60 % 60), (int)(s % 60));
	else
		snprintf(out, 32, "%02d:%02d:%02d", (int)(s / 3600 % 24), (int)(s / 60 % 60),
		    (int)(s % 60));
}

static const char *number(char out[32], uint64_t n)
{
	char digits[24];
	int length = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n), at = 0;

	for (int i = 0; i < length; i++) {
		if (i && (length - i) % 3 == 0)
			out[at++] = ',';
		out[at++] = digits[i];
	}
	out[at] = 0;
	return out;
}

static void print_totals(const struct sim *s, struct buf *out)
{
	char a[32], b[32], c[32], d[32];
	int64_t p50 = tally_delay(s->delays, 0.5), p99 = tally_delay(s->delays, 0.99);

	sim_clock(a, s->now);
	buf_printf(out, "Simulated %s: %s messages,", a, number(b, s->messages));
	buf_printf(out, " %s recipients\n", number(a, s->in));
	buf_printf(out, "  delivered %s, bounced %s, expired %s, still queued %s\n",
	    number(a, s->delivered), number(b, s->bounced), number(c, s->expired),
	    number(d, s->left));
	buf_printf(out, "  deferrals %s, connections %s, transactions %s\n",
	    number(a, s->deferrals), number(b, s->grants), number(c, s->sends));
	sim_span(a, p50);
	sim_span(b, p99);
	buf_printf(out, "  from acceptance to delivery: half within %s, 99 %% within %s\n", a, b);
}

/* ---- queues ---- */

static int by_ms(const void *a, const void *b)
{
	const struct cause *x = a, *y = b;

	return x->ms != y->ms ? (x->ms > y->ms ? -1 : 1) : strcmp(x->text, y->text);
}

static void print_causes(const struct queue_row *q, struct buf *out)
{
	struct cause sorted[SIM_CAUSES + 1];

	memcpy(sorted, q->causes, sizeof(sorted));
	qsort(sorted, q->cause_count, sizeof(sorted[0]), by_ms);
	for (size_t i = 0; i < q->cause_count && i < CAUSES; i++) {
		char span[32], first[32], last[32];

		sim_span(span, sorted[i].ms);
		sim_clock(first, sorted[i].first_ms);
		sim_clock(last, sorted[i].last_ms);
		buf_printf(
		    out, "      held %-8s by %s (%s to %s)\n", span, sorted[i].text, first, last);
	}
}

static void print_queue(const struct queue_row *q, struct buf *out)
{
	char peak[32], at[32], done[32], oldest[32], drained[48], backoff[32];

	sim_clock(at, q->peak_ms);
	sim_span(oldest, q->oldest_ms);
	if (q->in_queue)
		snprintf(drained, sizeof(drained), "%s left", number(done, q->in_queue));
	else
		sim_clock(drained, q->last_ms);
	buf_printf(
	    out, "  %-30s %12s %12s %12s %9s", q->name, drained, number(peak, q->peak), at, oldest);
	buf_printf(out, " %12s", number(done, q->delivered));
	buf_printf(out, " %10s", number(done, q->bounced));
	buf_printf(out, " %10s\n", number(done, q->deferrals));
	print_causes(q, out);
	if (q->mode_ms[1] + q->mode_ms[2]) {
		sim_span(backoff, q->mode_ms[1]);
		sim_span(at, q->mode_ms[2]);
		buf_printf(out, "      in mode backoff %s, recovery %s\n", backoff, at);
	}
}

static void cut(struct buf *out, size_t n)
{
	if (n > ROWS)
		buf_printf(out, "  and %zu more: see --json\n", n - ROWS);
}

static void print_queues(const struct sim *s, struct buf *out)
{
	size_t n;
	struct queue_row **all = tally_queues(s, &n);

	buf_printf(out, "\nQueues, the largest first\n  %-30s %12s %12s %12s %9s %12s %10s %10s\n",
	    "queue", "drained", "peak", "at", "longest", "delivered", "bounced", "deferrals");
	for (size_t i = 0; i < n && i < ROWS; i++)
		print_queue(all[i], out);
	cut(out, n);
	if (s->more_queues->delivered + s->more_queues->bounced)
		print_queue(s->more_queues, out);
	free(all);
}

/* ---- receivers ---- */

static void print_receiver(const struct receiver *r, struct buf *out)
{
	char a[32], b[32], c[32], at[32];

	buf_printf(out, "  %s\n", r->name);
	sim_clock(at, r->open_peak_ms);
	buf_printf(out, "      connections %s (refused %s), at once %u (%s), from one address %u\n",
	    number(a, r->connections), number(b, r->refused), r->open_peak, at, r->peer_peak);
	sim_clock(at, r->minute_peak_ms);
	buf_printf(out, "      transactions %s, recipients %s; in the worst minute %s",
	    number(a, r->transactions), number(b, r->attempted), number(c, r->minute_peak));
	buf_printf(out, " (%s)\n", at);
	sim_clock(at, r->backlog_peak_ms);
	buf_printf(out, "      waiting for it at most %s (%s), now %s\n",
	    number(a, r->backlog_peak), at, number(b, r->backlog));
	for (size_t i = 0; i < REPLY_ANSWERS + r->answer_count; i++)
		if (r->replies[i].given)
			buf_printf(out, "      %14s  %s\n", number(a, r->replies[i].given),
			    r->replies[i].text);
}

static void print_receivers(const struct sim *s, struct buf *out)
{
	size_t told = 0;

	buf_cstr(out, "\nReceivers: what they saw\n");
	for (size_t i = 0; i < s->receiver_count; i++)
		if (s->receivers[i].connections + s->receivers[i].in && told++ < ROWS)
			print_receiver(&s->receivers[i], out);
	cut(out, told);
}

/* ---- tenants ---- */

static void print_tenant(const struct sim *s, const struct tenant_row *t, struct buf *out)
{
	char a[32], p50[32], p99[32], most[32];

	sim_span(p50, tally_delay(t->delays, 0.5));
	sim_span(p99, tally_delay(t->delays, 0.99));
	sim_span(most, t->delivered ? t->delay_max_ms : -1);
	buf_printf(out, "  %-24s %12s", t->name[0] ? t->name : "(none)", number(a, t->in));
	buf_printf(out, " %12s", number(a, t->delivered));
	buf_printf(out, " %6.1f%%",
	    s->delivered ? 100.0 * (double)t->delivered / (double)s->delivered : 0);
	buf_printf(out, " %10s", number(a, t->bounced));
	buf_printf(out, " %10s %9s %9s %9s\n", number(a, t->deferrals), p50, p99, most);
}

static void print_tenants(const struct sim *s, struct buf *out)
{
	size_t n;
	struct tenant_row **all = tally_tenants(s, &n);

	buf_printf(out,
	    "\nTenants: recipients, and time to delivery\n"
	    "  %-24s %12s %12s %7s %10s %10s %9s %9s %9s\n",
	    "tenant", "accepted", "delivered", "share", "bounced", "deferrals", "half", "99%",
	    "longest");
	for (size_t i = 0; i < n && i < ROWS; i++)
		print_tenant(s, all[i], out);
	cut(out, n);
	free(all);
}

/* ---- rules and events ---- */

static void print_rules(const struct sim *s, struct buf *out)
{
	size_t n;
	struct rule_row **all = tally_rules(s, &n);

	if (n)
		buf_cstr(out, "\nRules that fired\n");
	for (size_t i = 0; i < n && i < ROWS; i++) {
		char a[32], first[32], last[32];

		sim_clock(first, all[i]->first_ms);
		sim_clock(last, all[i]->last_ms);
		buf_printf(out, "  %12s  %s, %s to %s\n", number(a, all[i]->fired), all[i]->name,
		    first, last);
	}
	cut(out, n);
	free(all);
}

static void print_event(const struct event_row *e, struct buf *out)
{
	char at[32], until[40] = "";
	size_t begin = out->n;

	sim_clock(at, e->at_ms);
	if (e->until_ms) {
		memcpy(until, " until ", 8);
		sim_clock(until + 7, e->until_ms);
	}
	buf_printf(out, "  %s %-8s %s", at, core_event_name(e->kind), e->scope);
	if (e->from[0] || e->to[0])
		buf_printf(out, " %s > %s", e->from, e->to);
	if (e->times > 1) {
		sim_clock(at, e->last_ms);
		buf_printf(out, ", %llu times, the last at %s", (unsigned long long)e->times, at);
	}
	buf_printf(out, "%s%s%s", until, e->text[0] ? ": " : "", e->text);
	if (out->n > begin + LINE)
		out->n = begin + LINE;
	buf_u8(out, '\n');
}

static void print_events(const struct sim *s, struct buf *out)
{
	uint64_t all = 0;

	buf_cstr(out, "\nEvents");
	for (size_t i = 0; i < EVENT_KINDS; i++) {
		if (s->event_counts[i])
			buf_printf(out, "%s%llu %s", all ? ", " : ": ",
			    (unsigned long long)s->event_counts[i],
			    core_event_name((enum core_event_kind)i));
		all += s->event_counts[i];
	}
	buf_cstr(out, all ? "\n" : ": none\n");
	for (size_t i = 0; i < s->event_count && i < EVENT_LINES; i++)
		print_event(&s->events[i], out);
	if (s->event_count > EVENT_LINES)
		buf_printf(out, "  and %zu more: see --json\n", s->event_count - EVENT_LINES);
}

void sim_print(const struct sim *s, struct buf *out)
{
	print_totals(s, out);
	print_queues(s, out);
	print_receivers(s, out);
	print_tenants(s, out);
	print_rules(s, out);
	print_events(s, out);
}

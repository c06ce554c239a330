/* SPDX-License-Identifier: ISC */
/* The core's rules of retry, age and outcome, one by one, in a small world. */
#include "tests/unit/qmgr/sim.h"

static const char plain[] =
    "domains = ( { name = \"*\"; retry-after = \"5m,10m,1h\"; retry-recipients-after = \"7m\"; "
    "bounce-after = \"1d\"; } );\n";

/* One domain, one host, one message; started. */
static struct sim *one(const char *conf, enum sim_mode mode)
{
	struct sim *s = sim_new(7, 1, conf);
	size_t mx = sim_host(s, "mx1.example.net", mode);

	sim_mx(sim_domain(s, "example.net"), 10, mx);
	sim_start(s);
	return s;
}

static struct core_decision seen[64];
static char seen_text[64][200];
static size_t seen_count;

static void watch_done(struct sim *s, const struct core_decision *d)
{
	(void)s;
	if (d->kind != DECIDE_DONE || seen_count == COUNT_OF(seen))
		return;
	str_copy(seen_text[seen_count], sizeof(seen_text[0]), d->text);
	seen[seen_count++] = *d;
}

static void delivers(void **state)
{
	struct sim *s = sim_new(1, 1, plain);
	size_t mx = sim_host(s, "mx1.example.net", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "example.net"), 10, mx);
	sim_mail(s, 0);
	sim_drain(s);
	assert_int_equal(s->decisions, 0); /* nothing before the start */
	sim_start(s);
	sim_run(s, 0);
	assert_int_equal(s->job[0].outcome, OUTCOME_DELIVERED);
	assert_int_equal(s->grants, 1);
	assert_int_equal(s->sends, 1);
	sim_run(s, s->now + 6 * SECOND);
	assert_int_equal(s->closes, 1); /* connection-idle-timeout */
	assert_int_equal(s->conns.count, 0);
	sim_free(s);
}

/* Each deferral waits for max(step, retry-recipients-after), never less, at most a tenth more. */
static void retry_list(void **state)
{
	static const int64_t wait[] = {7 * MINUTE, 10 * MINUTE, HOUR, HOUR};
	struct sim *s = one(plain, HOST_OK);
	size_t j = sim_mail(s, 0);

	(void)state;
	s->host[0].defer = 100;
	sim_run(s, s->now + SECOND);
	for (size_t k = 0; k < COUNT_OF(wait); k++) {
		int64_t from = s->job[j].deferred_ms, due = s->job[j].not_before_ms;

		assert_int_equal(s->job[j].attempts, k + 1);
		assert_in_range(due - from, wait[k], wait[k] + wait[k] / 10);
		sim_run(s, due - 1);
		assert_int_equal(s->job[j].attempts, k + 1); /* not early */
		sim_run(s, due + 2 * SECOND);
		assert_int_equal(s->job[j].attempts, k + 2); /* due to the second */
		assert_in_range(s->job[j].sent_ms - due, 0, 1200);
	}
	sim_free(s);
}

/* Retries of a second come within the next second. */
static void retry_in_a_second(void **state)
{
	struct sim *s = one("domains = ( { name = \"*\"; retry-after = \"1s\"; "
			    "retry-recipients-after = \"1s\"; } );",
	    HOST_OK);
	size_t j = sim_mail(s, 0);

	(void)state;
	s->host[0].defer = 100;
	sim_run(s, s->now + 30 * SECOND);
	assert_in_range(s->job[j].attempts, 14, 29);
	sim_free(s);
}

static void spread_keeps_together(void **state)
{
	struct sim *s = one(plain, HOST_OK);
	uint64_t id = sim_message(s);

	(void)state;
	for (int i = 0; i < 8; i++)
		sim_rcpt(s, id, (struct sim_mail){0});
	s->host[0].defer = 100;
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->sends, 1);
	for (int i = 1; i < 8; i++)
		assert_true(s->job[i].not_before_ms == s->job[0].not_before_ms);
	sim_run(s, s->now + 8 * MINUTE);
	assert_int_equal(s->sends, 2); /* and went together again */
	sim_free(s);
}

static void expires_after_deferral(void **state)
{
	struct sim *s = one(plain, HOST_OK);
	size_t j = sim_mail(s, 0);

	(void)state;
	seen_count = 0;
	s->on_decision = watch_done;
	s->host[0].defer = 100;
	sim_run(s, 0);
	assert_int_equal(s->job[j].outcome, OUTCOME_EXPIRED);
	assert_in_range(s->job[j].ended_ms - s->job[j].arrived_ms, DAY, DAY + 2 * SECOND);
	assert_int_equal(seen[seen_count - 1].report, 1);
	assert_string_equal(s->job[j].status, "4.4.7");
	assert_string_equal(
	    seen_text[seen_count - 1], "delivery time expired: it could not be delivered so far");
	sim_free(s);
}

/* Jobs that never had a chance: the queue is held by its clock, or the domain is not routed. */
static void expires_while_held(void **state)
{
	struct sim *s = one(plain, HOST_REFUSES);
	struct sim_domain *d = sim_domain(s, "lame.example");
	size_t a = sim_mail(s, 0), b;
	uint64_t id = sim_message(s);

	(void)state;
	d->class = ROUTE_TEMPORARY;
	sim_rcpt(s, id, (struct sim_mail){.domain = 1, .flags = JOB_NULL_SENDER});
	b = s->job_count - 1;
	seen_count = 0;
	s->on_decision = watch_done;
	sim_run(s, 0);
	for (size_t j = a; j <= b; j++) {
		assert_int_equal(s->job[j].outcome, OUTCOME_EXPIRED);
		assert_int_equal(s->job[j].attempts, 0); /* no attempt was counted */
		assert_in_range(
		    s->job[j].ended_ms - s->job[j].arrived_ms, DAY, DAY + MINUTE + SECOND);
	}
	assert_int_equal(seen_count, 2);
	for (size_t i = 0; i < 2; i++) {
		bool lame = strstr(seen_text[i], "resolver says no");

		assert_int_equal(seen[i].report, !lame); /* never for a null sender */
		assert_true(lame || strstr(seen_text[i], "connection refused"));
	}
	assert_in_range(d->asked, 20, 40); /* retry-after-dns-error: 1m,5m,15m, then 1h */
	sim_free(s);
}

/* The reply that one customer's recipient got, and its status, are nobody else's: not those of mail
 * that expires or is late behind it. Nor is a failure that is over. */
static char said[4][200], said_status[4][12];
static size_t said_count;
static void watch_reports(struct sim *s, const struct core_decision *d)
{
	(void)s;
	if (d->kind != DECIDE_DELAYED && (d->kind != DECIDE_DONE || !d->report))
		return;
	assert_true(said_count < COUNT_OF(said));
	str_copy(said_status[said_count], sizeof(said_status[0]), d->status);
	str_copy(said[said_count++], sizeof(said[0]), d->text);
}
static void no_reports_of_anothers_reply(void **state)
{
	const struct core_failure refused = {.cause = CONN_REFUSED, .text = STR("refused")};
	const struct core_failure dropped = {
	    .cause = CONN_REPLY, .was_ready = true, .text = STR("421 <secret@example.net>")};
	const struct {
		const struct core_failure *failure;
		bool routed;
		const char *status, *text;
	} cases[] = {
	    {&refused, true, "4.4.1", "refused"},
	    {&dropped, true, "4.0.0", "it could not be delivered so far"},
	    {NULL, true, "4.0.0", "it could not be delivered so far"},
	    {NULL, false, "4.4.3", "the resolver says no"},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct sim *s = one("domains = ( { name = \"*\"; bounce-after = \"4h\"; "
				    "notify-of-delay-every = \"3h\"; } );",
		    HOST_HANGS);
		char expired[200];
		struct queue *q;

		if (!cases[i].routed)
			s->domain[0].class = ROUTE_TEMPORARY;
		sim_mail(s, 0);
		sim_run(s, s->now + 2 * SECOND);
		q = s->core->queue_at[s->core->lane_at[core_at(s->core, s->job[0].ref)->lane]
					  ->share->queue->slot];
		s->quiet = true;
		s->event_count = 0; /* nothing else happens to it */
		if (cases[i].failure)
			grant_failed(
			    s->core, OWNER(q->conns.next, struct conn, in_queue), cases[i].failure);
		else if (cases[i].routed)
			queue_error(s->core, q, STR("450 <secret@example.net> later"), ERROR_OTHER);
		said_count = 0;
		s->on_decision = watch_reports;
		sim_run(s, s->now + 3 * HOUR + MINUTE);
		sim_run(s, s->now + HOUR + MINUTE);
		assert_int_equal(said_count, 2);
		assert_string_equal(said_status[0], cases[i].status);
		assert_string_equal(said[0], cases[i].text);
		assert_string_equal(said_status[1], "4.4.7");
		snprintf(expired, sizeof(expired), "delivery time expired: %s", cases[i].text);
		assert_string_equal(said[1], expired);
		sim_free(s);
	}
}

/* What a report of delay says of the end is what ends it, however it is configured. */
static void says_when_it_expires(void **state)
{
	static const struct {
		const char *vmta;
		uint32_t domain;
		int64_t after;
	} cases[] = {
	    {"v", 0, 3 * HOUR}, {"w", 0, 2 * HOUR}, {"v", 1, 5 * HOUR}, {"w", 1, 4 * HOUR}};
	struct sim *s = one("virtual-mtas = ( { name = \"v\"; domains = ( { name = \"*\"; "
			    "bounce-after = \"5h\"; }, { name = \"example.net\"; bounce-after = "
			    "\"3h\"; } ); }, { name = \"w\"; } );\n"
			    "domains = ( { name = \"*\"; bounce-after = \"4h\"; }, { name = "
			    "\"example.net\"; bounce-after = \"2h\"; } );\n",
	    HOST_REFUSES);

	(void)state;
	sim_mx(sim_domain(s, "else.test"), 10, 0);
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.vmta = cases[i].vmta, .domain = cases[i].domain});
	sim_run(s, s->now + MINUTE);
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		assert_int_equal(
		    core_expires_ms(s->core, s->job[i].ref) - s->job[i].arrived_ms, cases[i].after);
	sim_run(s, 0);
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		assert_in_range(s->job[i].ended_ms - s->job[i].arrived_ms, cases[i].after,
		    cases[i].after + 2 * MINUTE);
	assert_int_equal(core_expires_ms(s->core, s->job[0].ref), 0);
	sim_free(s);
}

struct notice_case {
	const char *every;
	uint8_t flags;
	enum sim_mode mode;
	unsigned expected;
};
static void delay_notices(void **state)
{
	static const struct notice_case cases[] = {
	    {"never", 0, HOST_OK, 0}, {"never", JOB_DELAY_ASKED, HOST_OK, 1},
	    {"never", JOB_DELAY_ASKED | JOB_NULL_SENDER, HOST_OK, 0},
	    {"never", JOB_DELAY_ASKED | JOB_DELAY_TOLD, HOST_OK, 0}, {"6h", 0, HOST_OK, 3},
	    {"6h", 0, HOST_REFUSES, 3}, /* also where the queue is held */
	    {"6h", JOB_NULL_SENDER, HOST_OK, 0}, {"30s", 0, HOST_OK, 255}, /* counted in a byte */
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		char conf[300];
		struct sim *s;
		struct job_view v;

		if (strcmp(cases[i].every, "30s") == 0)
			continue; /* below the option's least value */
		snprintf(conf, sizeof(conf),
		    "domains = ( { name = \"*\"; bounce-after = \"1d\"; "
		    "notify-of-delay-every = \"%s\"; } );",
		    cases[i].every);
		s = one(conf, cases[i].mode);
		s->host[0].defer = 100;
		sim_rcpt(s, sim_message(s), (struct sim_mail){.flags = cases[i].flags});
		sim_run(s, s->now + 4 * HOUR - MINUTE);
		assert_int_equal(s->job[0].delays, 0);
		sim_run(s, s->now + 19 * HOUR + 50 * MINUTE);
		assert_int_equal(s->job[0].delays, cases[i].expected);
		assert_true(core_job(s->core, s->job[0].ref, &v));
		if (cases[i].expected)
			assert_true(v.flags & JOB_DELAY_TOLD);
		sim_free(s);
	}
}

/* "452 too many recipients": nothing is counted, and the connection learns what it takes. */
static void too_many_recipients(void **state)
{
	struct sim *s = one(plain, HOST_OK);
	uint64_t id = sim_message(s);

	(void)state;
	for (int i = 0; i < 90; i++)
		sim_rcpt(s, id, (struct sim_mail){0});
	s->host[0].rcpt_max = 10;
	sim_run(s, 0);
	for (int i = 0; i < 90; i++) {
		assert_int_equal(s->job[i].outcome, OUTCOME_DELIVERED);
		assert_int_equal(s->job[i].attempts, 0);
	}
	assert_in_range(s->sends, 9, 16);
	sim_free(s);
}

/* A line that always breaks: three tries without an attempt, then it counts. */
static void retry_now_is_bounded(void **state)
{
	struct sim *s = one("domains = ( { name = \"*\"; retry-after = \"1m\"; "
			    "retry-recipients-after = \"10m\"; bounce-after = \"1d\"; } );",
	    HOST_DROPS);
	size_t j = sim_mail(s, 0);

	(void)state;
	sim_run(s, s->now + 6 * MINUTE);
	assert_int_equal(s->sends, 4);
	assert_int_equal(s->job[j].attempts, 1);
	sim_free(s);
}

static void missing_results_are_retried(void **state)
{
	struct sim *s = one(plain, HOST_OK);
	uint64_t id = sim_message(s);
	struct core_decision d;
	struct rcpt_result r = {.ordinal = 1, .verdict = VERDICT_DELIVERED, .code = 250};

	(void)state;
	for (int i = 0; i < 3; i++)
		sim_rcpt(s, id, (struct sim_mail){0});
	while (core_next(s->core, &d)) {
		if (d.kind == DECIDE_RESOLVE)
			sim_route(s, 0);
		else if (d.kind == DECIDE_GRANT)
			core_conn_ready(s->core, d.conn, 0, 0, s->now);
		else
			break;
	}
	assert_int_equal(d.kind, DECIDE_SEND);
	assert_int_equal(d.job_count, 3);
	s->job[1].accepted = 1;
	assert_int_equal(core_result(s->core, d.transaction + 1000, &r, 1, s->now), 0);
	assert_int_equal(core_result(s->core, d.transaction, &r, 1, s->now), 1);
	assert_int_equal(core_result(s->core, d.transaction, &r, 1, s->now), 0);
	for (int i = 0, retried = 0; i < 3; i++) {
		assert_true(core_next(s->core, &d));
		assert_int_equal(d.kind, DECIDE_DONE);
		retried += d.outcome == OUTCOME_RETRY;
		assert_true(d.outcome == OUTCOME_RETRY || d.outcome == OUTCOME_DELIVERED);
		assert_int_equal(i == 2 ? retried : 2, 2);
	}
	assert_true(core_next(s->core, &d));
	assert_int_equal(d.kind, DECIDE_SEND);
	assert_int_equal(d.job_count, 2);
	sim_free(s);
}

static void delete_hold_release(void **state)
{
	struct sim *s = one(plain, HOST_OK);
	size_t a = sim_mail(s, 0), b = sim_mail(s, 0), c;
	struct job_view v;

	(void)state;
	core_hold(s->core, s->job[a].ref, s->now);
	core_delete(s->core, s->job[b].ref, s->now);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->job[b].outcome, OUTCOME_DELETED);
	assert_int_equal(s->job[a].state, SIM_QUEUED);
	assert_true(core_job(s->core, s->job[a].ref, &v));
	assert_int_equal(v.state, JOB_SET_ASIDE);
	assert_true(v.flags & JOB_HELD);
	core_release(s->core, s->job[a].ref, s->now);
	sim_run(s, 0);
	assert_int_equal(s->job[a].outcome, OUTCOME_DELIVERED);
	/* in flight: at its result */
	s->host[0].defer = 100;
	c = sim_mail(s, 0);
	while (s->job[c].state != SIM_IN_FLIGHT)
		sim_run(s, s->now + 1);
	core_delete(s->core, s->job[c].ref, s->now);
	assert_int_equal(s->job[c].state, SIM_IN_FLIGHT);
	sim_run(s, 0);
	assert_int_equal(s->job[c].outcome, OUTCOME_DELETED);
	sim_free(s);
}

static job_ref order[64];
static size_t order_count;
static void watch_order(struct sim *s, const struct core_decision *d)
{
	(void)s;
	if (d->kind == DECIDE_SEND && order_count < COUNT_OF(order))
		order[order_count++] = d->jobs[0];
}

/* A worker dies: what it had in flight is uncertain, and goes behind the other mail of its lane. */
static void uncertain_is_last(void **state)
{
	struct sim *s = one("domains = ( { name = \"*\"; max-smtp-out = 1; } );", HOST_OK);
	struct core_decision d;
	struct job_view v;
	job_ref in_flight = 0;

	(void)state;
	s->queue_max = 1;
	s->host[0].latency_ms = 5000;
	for (int i = 0; i < 5; i++)
		sim_mail(s, 0);
	while (s->sends == 0)
		sim_run(s, s->now + 1);
	for (int i = 0; i < 5; i++)
		if (s->job[i].state == SIM_IN_FLIGHT && !in_flight)
			in_flight = s->job[i].ref;
	sim_kill_worker(s, 0);
	core_worker_down(s->core, 0, s->now);
	assert_true(core_job(s->core, in_flight, &v));
	assert_true(v.flags & JOB_UNCERTAIN);
	assert_int_equal(v.state, JOB_READY);
	assert_true(core_next(s->core, &d));
	assert_int_equal(d.kind, DECIDE_CHANGED);
	sim_decide(s, &d);
	sim_drain(s);
	assert_int_equal(s->grants, 1); /* no worker, no grant */
	s->up[0] = true;
	order_count = 0;
	s->on_decision = watch_order;
	core_worker_up(s->core, 0, s->now);
	sim_run(s, 0);
	assert_int_equal(order_count, 5);
	assert_int_not_equal(order[0], in_flight);
	assert_true(order[4] == in_flight || order[3] == in_flight);
	sim_free(s);
}

static void in_doubt_at_start(void **state)
{
	struct sim *s = sim_new(3, 1, plain);
	struct core_decision d;
	struct job_view v;

	(void)state;
	sim_mx(sim_domain(s, "example.net"), 10, sim_host(s, "mx1.example.net", HOST_OK));
	sim_rcpt(s, sim_message(s), (struct sim_mail){.flags = JOB_IN_DOUBT});
	sim_start(s);
	assert_true(core_next(s->core, &d));
	assert_int_equal(d.kind, DECIDE_CHANGED);
	assert_true(core_job(s->core, d.job, &v));
	assert_int_equal(v.flags, JOB_UNCERTAIN);
	sim_run(s, 0);
	assert_int_equal(s->job[0].outcome, OUTCOME_DELIVERED);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(delivers),
	    cmocka_unit_test(retry_list),
	    cmocka_unit_test(retry_in_a_second),
	    cmocka_unit_test(spread_keeps_together),
	    cmocka_unit_test(expires_after_deferral),
	    cmocka_unit_test(expires_while_held),
	    cmocka_unit_test(no_reports_of_anothers_reply),
	    cmocka_unit_test(says_when_it_expires),
	    cmocka_unit_test(delay_notices),
	    cmocka_unit_test(too_many_recipients),
	    cmocka_unit_test(retry_now_is_bounded),
	    cmocka_unit_test(missing_results_are_retried),
	    cmocka_unit_test(delete_hold_release),
	    cmocka_unit_test(uncertain_is_last),
	    cmocka_unit_test(in_doubt_at_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/* Warm-up: never more than the plan, most of it used, the rest to the overflow; its steps. */
#include "tests/unit/qmgr/sim.h"

static const char plan[] =
    "virtual-mtas = ( { name = \"new\"; sources = ( { address = \"192.0.2.1\"; warmup = { plan = "
    "\"50,200,500\"; %s }; } ); },\n"
    "  { name = \"old\"; sources = ( { address = \"192.0.2.2\"; } ); } );\n"
    "domains = ( { name = \"*\"; retry-after = \"1h\"; retry-recipients-after = \"1h\"; "
    "bounce-after = \"30d\"; } );\n";

static uint64_t sent, by_old, steps; /* recipients from the new source, the old one */

static void watch(struct sim *s, const struct core_decision *d)
{
	(void)s;
	if (d->kind == DECIDE_EVENT && d->event.kind == EVENT_WARMUP)
		steps++;
	if (d->kind == DECIDE_SEND) {
		struct core_conn_view v;

		assert_true(core_conn(s->core, d->conn, &v));
		if (str_eq(v.source, STR("192.0.2.1")))
			sent += d->job_count;
		else
			by_old += d->job_count;
	}
}

static struct sim *world(const char *overflow)
{
	char conf[2000];
	struct sim *s;

	snprintf(conf, sizeof(conf), plan, overflow);
	s = sim_new(20261123, 1, conf);
	sent = by_old = steps = 0;
	s->on_decision = watch;
	s->msg_max = 100;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.test", HOST_OK));
	return s;
}

static void mail(struct sim *s, int n)
{
	for (int i = 0; i < n; i++)
		sim_rcpt(s, sim_message(s), (struct sim_mail){.domain = 0, .vmta = "new"});
}

/* Each day by hours: spread, within the plan, and no less than 95 % of it. */
static uint64_t a_day(struct sim *s, uint64_t most, bool even)
{
	uint64_t before = sent;
	int64_t day = (s->now / DAY + 1) * DAY;

	for (int hour = 1; s->now < day; hour++) {
		uint64_t at = sent;

		sim_run(s, s->now + HOUR < day ? s->now + HOUR : day);
		if (even && most >= 200)
			assert_true(sent - at <= most / 24 + 3);
	}
	assert_true(sent - before <= most);
	return sent - before;
}

static void a_day_at_a_time(void **state)
{
	static const uint64_t want[] = {50, 200, 500, 500};
	struct sim *s = world("");

	(void)state;
	a_day(s, 0, false); /* to midnight */
	mail(s, 2000);
	for (size_t i = 0; i < COUNT_OF(want); i++) {
		uint64_t n = a_day(s, want[i], i > 0);

		print_message("day %zu: %llu\n", i + 1, (unsigned long long)n);
		assert_true(n * 100 >= want[i] * (i ? 95 : 92)); /* of 50 the burst is 2 % */
	}
	assert_int_equal(steps, 2);
	sim_free(s);
}

static void what_is_above_overflows(void **state)
{
	struct sim *s = world("overflow = \"old\";");

	(void)state;
	a_day(s, 0, false); /* to midnight */
	mail(s, 500);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(sent, 1); /* the burst */
	assert_int_equal(by_old, 499);
	for (int i = 0; i < 100; i++) {
		sim_run(s, s->now + 10 * MINUTE);
		mail(s, 1);
	}
	sim_run(s, s->now + MINUTE);
	assert_int_equal(sent + by_old, 600);
	assert_in_range(sent, 20, 50);
	sim_free(s);
}

/* So many percent of the day's attempts are deferred. */
static void a_bad_day(struct sim *s, int percent)
{
	s->host[0].defer = 100;
	sim_run(s, s->now + DAY / 100 * percent);
	s->host[0].defer = 0;
	a_day(s, 500, false);
}

/* Deferrals hold the plan; twice as many, or a block, take it back. */
static void bad_days(void **state)
{
	struct sim *s = world("");
	const struct str key = STR("warmup [mx.test] 192.0.2.1");
	struct core_warmup v;

	(void)state;
	a_day(s, 0, false);
	mail(s, 4000);
	a_day(s, 50, false);
	a_day(s, 200, false); /* the second step */
	assert_true(core_warmup(s->core, key, &v));
	assert_int_equal(v.step, 2);
	assert_int_equal(v.a_day, 200);
	assert_int_equal(v.steps, 3);
	assert_false(core_warmup(s->core, STR("warmup [mx.test] 192.0.2.99"), &v));
	assert_false(core_warmup(s->core, STR("warmup"), &v));
	assert_false(core_warmup(s->core, STR("queue [mx.test] 192.0.2.1"), &v));
	a_bad_day(s, 7); /* freeze-above 5: between it and twice as many */
	assert_int_equal(steps, 2);
	sim_run(s, s->now + HOUR);
	assert_int_equal(steps, 2);
	a_bad_day(s, 40);
	sim_run(s, s->now + HOUR);
	assert_true(core_warmup(s->core, key, &v));
	assert_int_equal(v.step, 2);
	warmup_blocked(s->core, queue_find(s->core, STR("[mx.test]/new"))->dest,
	    vmta_find(s->core, STR("new"))->sources[0].address);
	assert_true(core_warmup(s->core, key, &v));
	assert_int_equal(v.step, 1);
	sim_free(s);
}

/* Restarts, clean or not, at any time: never more than the plan, and the step is kept. */
static void restarts(void **state)
{
	struct sim *s = world("");

	(void)state;
	a_day(s, 0, false);
	mail(s, 2000);
	for (int day = 0; day < 3; day++) {
		static const uint64_t most[] = {50, 200, 500};
		uint64_t before = sent;
		int64_t end = (s->now / DAY + 1) * DAY;

		while (s->now < end) {
			int64_t at = s->now + (int64_t)(sim_random(s) % (uint64_t)(2 * HOUR));

			sim_run(s, at < end ? at : end);
			sim_restart(s);
		}
		assert_true(sent - before <= most[day]);
		assert_true(sent - before >= most[day] * 6 / 10);
	}
	sim_free(s);
}

/* Another source of the virtual MTA takes what the new one may not. */
static void other_sources_help(void **state)
{
	struct sim *s = sim_new(5, 1,
	    "virtual-mtas = ( { name = \"new\"; sources = ( { address = \"192.0.2.1\"; warmup = { "
	    "plan "
	    "= \"50\"; }; }, { address = \"192.0.2.2\"; } ); } );");

	(void)state;
	sent = by_old = 0;
	s->on_decision = watch;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.test", HOST_OK));
	mail(s, 500);
	sim_run(s, s->now + 10 * MINUTE);
	assert_int_equal(sent + by_old, 500);
	assert_true(sent <= 2);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_day_at_a_time),
	    cmocka_unit_test(what_is_above_overflows),
	    cmocka_unit_test(bad_days),
	    cmocka_unit_test(restarts),
	    cmocka_unit_test(other_sources_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

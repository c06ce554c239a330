/* SPDX-License-Identifier: ISC */
/* Routes, sites, MX order, connection failures and their clock, TLS, sources. */
#include "tests/unit/qmgr/sim.h"

static const char plain[] =
    "domains = ( { name = \"*\"; retry-after = \"5m,10m,1h\"; retry-recipients-after = \"5m\"; "
    "retry-after-dns-error = \"1m,5m\"; bounce-after = \"1d\"; "
    "smtp-421-means-mx-unavailable = true; }, { name = \"named.test\"; } );\n";

static struct sim *world(const char *conf, uint64_t seed)
{
	struct sim *s = sim_new(seed, 2, conf);

	sim_start(s);
	return s;
}

/* ---- what the resolver says ---- */

static void route_classes(void **state)
{
	static const struct {
		enum route_class class;
		const char *status;
	} cases[] = {
	    {ROUTE_NO_DOMAIN, "5.1.2"},
	    {ROUTE_NULL_MX, "5.1.10"},
	    {ROUTE_NO_HOST, "5.4.4"},
	    {ROUTE_BAD_NAME, "5.1.2"},
	    {ROUTE_SELF, "5.4.6"},
	    {ROUTE_TEMPORARY, NULL},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct sim *s = world(plain, 5);

		sim_domain(s, i % 2 ? "named.test" : "example.net")->class = cases[i].class;
		sim_mail(s, 0);
		sim_run(s, s->now + MINUTE / 2);
		assert_int_equal(s->grants, 0);
		if (cases[i].status) {
			assert_int_equal(s->job[0].state, SIM_ENDED);
			assert_int_equal(s->job[0].outcome, OUTCOME_BOUNCED);
			assert_string_equal(s->job[0].status, cases[i].status);
		} else {
			assert_int_equal(s->job[0].state, SIM_QUEUED);
			assert_int_equal(s->resolves, 1);
			sim_run(s, s->now + 2 * MINUTE);
			assert_int_equal(s->resolves, 2); /* retry-after-dns-error */
			sim_run(s, s->now + 3 * MINUTE);
			assert_int_equal(s->resolves, 2);
		}
		sim_free(s);
	}
}

static void site_names(void **state)
{
	struct sim *s = world(plain, 5);
	size_t a = sim_host(s, "mx-a.test", HOST_OK), b = sim_host(s, "mx-b.test", HOST_OK),
	       c = sim_host(s, "mx-c.test", HOST_OK);
	const char *const names[] = {
	    "one.test", "two.test", "three.test", "named.test", "four.test"};
	struct str d[5];

	(void)state;
	for (uint32_t i = 0; i < COUNT_OF(names); i++)
		sim_domain(s, names[i]);
	sim_mx(&s->domain[0], 10, b); /* one: {b, a} */
	sim_mx(&s->domain[0], 10, a);
	sim_mx(
	    &s->domain[1], 5, a); /* two: the same set in another order, and another host below */
	sim_mx(&s->domain[1], 5, b);
	sim_mx(&s->domain[1], 9, c);
	sim_mx(&s->domain[2], 10, b); /* three: {b} */
	sim_mx(&s->domain[3], 10, a); /* named in `domains` */
	sim_mx(&s->domain[4], 10, a); /* four: {a}, which is another set that has a as its lowest */
	assert_int_equal(core_destination(s->core, STR("one.test")).n, 0);
	for (uint32_t i = 0; i < COUNT_OF(names); i++)
		sim_mail(s, i);
	sim_run(s, 0);
	for (uint32_t i = 0; i < COUNT_OF(names); i++)
		d[i] = core_destination(s->core, str_of(names[i]));
	assert_true(str_eq(d[0], d[1]));
	assert_true(d[0].n >= 11 && memcmp(d[0].p, "[mx-a.test", 10) == 0);
	assert_true(str_eq(d[2], STR("[mx-b.test]")));
	assert_true(str_eq(d[3], STR("named.test")));
	assert_true(memcmp(d[4].p, "[mx-a.test", 10) == 0 && !str_eq(d[4], d[0]));
	sim_free(s);
}

static void moves_with_its_mx(void **state)
{
	struct sim *s = world(plain, 5);
	size_t dead = sim_host(s, "dead.test", HOST_REFUSES),
	       good = sim_host(s, "good.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "moves.test"), 10, dead);
	sim_mx(sim_domain(s, "stays.test"), 10, dead);
	s->domain[0].ttl_s = s->domain[1].ttl_s = 60;
	for (uint32_t i = 0; i < 5000; i++)
		sim_mail(s, i % 2);
	sim_run(s, s->now + MINUTE / 2);
	s->moving = true;
	s->domain[0].host[0] = good;
	sim_run(s, s->now + 25 * MINUTE); /* the next round asks anew */
	for (size_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].state, i % 2 ? SIM_QUEUED : SIM_ENDED);
	sim_free(s);
}

/* The old route serves while the name servers fail. */
static void stale_routes_serve(void **state)
{
	struct sim *s = world(plain, 5);
	size_t mx = sim_host(s, "mx.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	s->domain[0].ttl_s = 60;
	sim_mail(s, 0);
	sim_run(s, s->now + 2 * MINUTE);
	s->domain[0].class = ROUTE_TEMPORARY;
	for (int i = 0; i < 10; i++) {
		sim_mail(s, 0);
		sim_run(s, s->now + 5 * SECOND);
		assert_int_equal(s->job[s->job_count - 1].outcome, OUTCOME_DELIVERED);
		assert_int_equal(s->job[s->job_count - 1].state, SIM_ENDED);
	}
	assert_int_equal(s->domain[0].asked, 2);
	sim_free(s);
}

static void reload_names_a_domain(void **state)
{
	struct sim *s = world(plain, 5);
	struct conf *other = sim_conf("domains = ( { name = \"slow.test\"; max-smtp-out = 3; } );");
	struct core_cursor cursor = {0, 0};
	struct queue_view v[4];
	size_t mx = sim_host(s, "mx.test", HOST_OK);

	(void)state;
	s->host[mx].latency_ms = 20000;
	sim_mx(sim_domain(s, "slow.test"), 10, mx);
	for (int i = 0; i < 100; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 60 * SECOND);
	core_configure(s->core, other, s->now);
	sim_run(s, s->now + SECOND);
	assert_int_equal(core_queues(s->core, STR("slow.test"), &cursor, v, 4), 1);
	assert_true(str_eq(v[0].name, STR("slow.test/default")));
	assert_true(v[0].ready + v[0].in_flight > 50);
	assert_true(v[0].connections_max <= 3);
	sim_run(s, 0);
	conf_free(&other);
	sim_free(s);
}

/* ---- hosts and addresses ---- */

/* Equal preferences are chosen evenly: with 3000 draws, each of three within 5 sigma. */
static void equal_hosts_are_drawn_evenly(void **state)
{
	struct sim *s = world("domains = ( { name = \"*\"; max-msg-per-connection = 1; "
			      "connection-idle-timeout = \"0s\"; } );",
	    20261122);
	size_t worse;
	double chi = 0;

	(void)state;
	print_message("seed 20261122\n");
	s->msg_max = 1;
	sim_domain(s, "even.test");
	for (int i = 0; i < 3; i++) {
		char name[20];

		snprintf(name, sizeof(name), "mx%d.test", i);
		sim_mx(&s->domain[0], 10, sim_host(s, name, HOST_OK));
		s->host[i].addresses = 1 + i; /* more addresses are no more weight */
	}
	worse = sim_host(s, "worse.test", HOST_OK);
	sim_mx(&s->domain[0], 20, worse);
	for (int i = 0; i < 3000; i++)
		sim_mail(s, 0);
	sim_run(s, 0);
	for (int i = 0; i < 3; i++) {
		double off = (double)s->host[i].connects - 1000;

		chi += off * off / 1000;
	}
	assert_true(chi < 18.4); /* 2 degrees of freedom: one in 10,000 */
	assert_int_equal(s->host[worse].connects, 0);
	sim_free(s);
}

/* The first refuses, the second hangs, the third serves. */
static void three_hosts(void **state)
{
	struct sim *s = world(plain, 5);

	(void)state;
	sim_domain(s, "three.test");
	sim_mx(&s->domain[0], 10, sim_host(s, "mx1.test", HOST_REFUSES));
	sim_mx(&s->domain[0], 20, sim_host(s, "mx2.test", HOST_HANGS));
	sim_mx(&s->domain[0], 30, sim_host(s, "mx3.test", HOST_OK));
	sim_mail(s, 0);
	sim_run(s, s->now + 32 * SECOND);
	assert_int_equal(s->job[0].outcome, OUTCOME_DELIVERED);
	assert_int_equal(s->job[0].state, SIM_ENDED);
	assert_int_equal(s->host[0].connects, 1);
	assert_int_equal(s->host[1].connects, 1);
	/* and the mail that follows does not wait for them again */
	for (int i = 0; i < 2000; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 45 * SECOND);
	for (size_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].state, SIM_ENDED);
	assert_true(s->host[0].connects + s->host[1].connects <= 2);
	/* dead ones are probed, one connection at a time, and taken again once they serve */
	s->host[0].mode = HOST_OK;
	sim_run(s, s->now + 16 * MINUTE);
	for (int i = 0; i < 50; i++)
		sim_mail(s, 0);
	sim_run(s, 0);
	assert_true(s->host[0].delivered >= 1);
	sim_free(s);
}

struct clock_case {
	enum sim_mode mode;
	const char *error;
};
/* All fail: the queue is held for the step of its failures; no attempt; a delivery resets it. */
static void clock_of_failures(void **state)
{
	static const struct clock_case cases[] = {
	    {HOST_REFUSES, "connection refused"},
	    {HOST_421, "421 4.3.2 too busy"},
	    {HOST_554, "554 go away"},
	    {HOST_HANGS, "connection timed out"},
	};
	static const int64_t steps[] = {5 * MINUTE, 10 * MINUTE, HOUR, HOUR};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct sim *s = world(plain, 5);
		struct queue_view v;
		int64_t held = s->now;

		sim_domain(s, "named.test");
		sim_mx(&s->domain[0], 10, sim_host(s, "mx1.test", cases[i].mode));
		sim_mx(&s->domain[0], 20, sim_host(s, "mx2.test", cases[i].mode));
		s->host[0].addresses = 2;
		sim_mail(s, 0);
		sim_run(s, s->now + 2 * MINUTE);
		for (uint32_t k = 0; k < COUNT_OF(steps); k++) {
			struct core_cursor cursor = {0, 0};

			assert_int_equal(core_queues(s->core, STR("*"), &cursor, &v, 1), 1);
			assert_int_equal(v.failures, k + 1);
			assert_true(str_eq(v.last_error, str_of(cases[i].error)));
			assert_int_equal(s->host[0].connects, 2 * (k + 1)); /* each address once */
			assert_int_equal(s->host[1].connects, k + 1);
			assert_in_range(v.next_retry_ms - held, steps[k],
			    steps[k] + steps[k] / 10 + 3 * 31 * SECOND);
			held = v.next_retry_ms;
			sim_run(s, held - 1);
			assert_int_equal(s->host[1].connects, k + 1);
			if (k + 1 == COUNT_OF(steps))
				s->host[0].mode = HOST_OK;
			sim_run(s, held + 100 * SECOND);
		}
		assert_int_equal(s->job[0].outcome, OUTCOME_DELIVERED);
		assert_int_equal(s->job[0].attempts, 0);
		sim_mail(s, 0);
		sim_run(s, 0);
		assert_true(core_queues(s->core, STR("*"), &(struct core_cursor){0, 0}, &v, 1));
		assert_int_equal(v.failures, 0);
		sim_free(s);
	}
}

static void flush_forgets_the_clock(void **state)
{
	struct sim *s = world(plain, 5);
	struct core_cursor cursor = {0, 0};

	(void)state;
	sim_domain(s, "a.test");
	sim_mx(&s->domain[0], 10, sim_host(s, "mx.test", HOST_REFUSES));
	sim_mail(s, 0);
	sim_run(s, s->now + MINUTE);
	s->host[0].mode = HOST_OK;
	while (core_flush(s->core, STR("b.test"), &cursor, 1, s->now))
		;
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->job[0].state, SIM_QUEUED);
	cursor = (struct core_cursor){0, 0};
	while (core_flush(s->core, STR("A.test"), &cursor, 1, s->now))
		;
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->job[0].state, SIM_ENDED);
	sim_free(s);
}

/* Two domains of one site: the best host is dead, one of them has a worse one that lives. */
static void worse_hosts_of_one_domain(void **state)
{
	struct sim *s = world(plain, 5);
	size_t best = sim_host(s, "best.test", HOST_REFUSES),
	       worse = sim_host(s, "worse.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "poor.test"), 10, best);
	sim_mx(sim_domain(s, "rich.test"), 10, best);
	sim_mx(&s->domain[1], 20, worse);
	for (int i = 0; i < 300; i++)
		sim_mail(s, 0);
	for (int i = 0; i < 300; i++)
		sim_mail(s, 1);
	sim_run(s, s->now + 4 * MINUTE);
	for (size_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].state, i < 300 ? SIM_QUEUED : SIM_ENDED);
	s->host[best].mode = HOST_OK;
	sim_run(s, s->now + 20 * MINUTE);
	for (size_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].outcome, OUTCOME_DELIVERED);
	sim_free(s);
}

static void broken_tls(void **state)
{
	struct sim *s = world(plain, 5);

	(void)state;
	sim_domain(s, "a.test");
	sim_mx(&s->domain[0], 10, sim_host(s, "mx.test", HOST_BREAKS_TLS));
	for (int i = 0; i < 20; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 10 * SECOND); /* at once, not after a step */
	assert_int_equal(s->job[19].state, SIM_ENDED);
	assert_in_range(s->grants, 2, 13);
	sim_run(s, s->now + 2 * DAY);
	s->grants = 0;
	sim_mail(s, 0);
	sim_run(s, 0);
	assert_int_equal(s->grants, 1); /* remembered */
	sim_run(s, s->now + 2 * DAY);
	s->grants = 0;
	sim_mail(s, 0);
	sim_run(s, 0);
	assert_int_equal(s->grants, 2); /* forgotten after three days */
	sim_free(s);
}

/* ---- sources ---- */

static unsigned used[4];
static void watch_source(struct sim *s, const struct core_decision *d)
{
	static const char *const sources[] = {"", "192.0.2.1", "192.0.2.2", "2001:db8::1"};

	(void)s;
	for (unsigned i = 0; d->kind == DECIDE_GRANT && i < COUNT_OF(sources); i++) {
		if (!str_eq(d->grant.source, str_of(sources[i])))
			continue;
		used[i]++;
		if (d->grant.address.family == 6)
			assert_true(i == 0 || i == 3);
		else
			assert_int_not_equal(i, 3);
	}
}

static void sources_in_turn(void **state)
{
	struct sim *s =
	    world("virtual-mtas = ( { name = \"v\"; sources = ( "
		  "{ address = \"192.0.2.1\"; host-name = \"o1.test\"; }, "
		  "{ address = \"2001:db8::1\"; }, { address = \"192.0.2.2\"; } ); } );\n"
		  "domains = ( { name = \"*\"; max-msg-per-connection = 1; } );",
		5);

	(void)state;
	s->msg_max = 1;
	memset(used, 0, sizeof(used));
	s->on_decision = watch_source;
	sim_mx(sim_domain(s, "four.test"), 10, sim_host(s, "mx4.test", HOST_OK));
	sim_mx(sim_domain(s, "six.test"), 10, sim_host(s, "mx6.test", HOST_OK));
	s->host[1].ipv6 = true;
	for (int i = 0; i < 40; i++)
		sim_mail(s, 0);
	sim_run(s, 0);
	assert_int_equal(used[0] + used[3], 0);
	assert_in_range(used[1], 18, 24);
	assert_in_range(used[2], 18, 24);
	sim_mail(s, 1);
	sim_run(s, 0);
	assert_int_equal(used[3], 1);
	sim_free(s);
}

static void no_source_takes_ipv6_only_alone(void **state)
{
	struct sim *s = world(plain, 5);

	(void)state;
	memset(used, 0, sizeof(used));
	s->on_decision = watch_source;
	sim_domain(s, "a.test");
	sim_mx(&s->domain[0], 10, sim_host(s, "mx6.test", HOST_OK));
	sim_mx(&s->domain[0], 10, sim_host(s, "mx4.test", HOST_REFUSES));
	s->host[0].ipv6 = true;
	sim_mail(s, 0);
	sim_run(s, 0);
	assert_int_equal(s->host[1].connects, 1); /* IPv4 first */
	assert_int_equal(s->host[0].connects, 1);
	assert_int_equal(used[0], 2);
	sim_free(s);
}

static void unusable_source(void **state)
{
	struct sim *s = world("virtual-mtas = ( { name = \"v\"; sources = ( "
			      "{ address = \"192.0.2.1\"; } ); } );",
	    5);

	(void)state;
	sim_domain(s, "a.test");
	sim_mx(&s->domain[0], 10, sim_host(s, "mx.test", HOST_NO_SOURCE));
	sim_mail(s, 0);
	sim_run(s, s->now + 25 * SECOND);
	assert_in_range(s->grants, 1, 2);
	s->host[0].mode = HOST_OK;
	sim_run(s, s->now + 10 * SECOND);
	assert_int_equal(s->job[0].state, SIM_ENDED);
	sim_free(s);
}

static void removed_vmta_falls_back(void **state)
{
	struct sim *s = world("virtual-mtas = ( { name = \"v\"; sources = ( { address = "
			      "\"192.0.2.1\"; } ); } );",
	    5);
	struct queue_view v;

	(void)state;
	memset(used, 0, sizeof(used));
	s->on_decision = watch_source;
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.test", HOST_OK));
	sim_rcpt(s, sim_message(s), (struct sim_mail){.vmta = "gone"});
	sim_run(s, 0);
	assert_int_equal(used[1], 1);
	assert_true(core_queues(s->core, STR("*]/gone"), &(struct core_cursor){0, 0}, &v, 1));
	assert_true(v.last_error.n > 0);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(route_classes),
	    cmocka_unit_test(site_names),
	    cmocka_unit_test(moves_with_its_mx),
	    cmocka_unit_test(stale_routes_serve),
	    cmocka_unit_test(reload_names_a_domain),
	    cmocka_unit_test(equal_hosts_are_drawn_evenly),
	    cmocka_unit_test(three_hosts),
	    cmocka_unit_test(clock_of_failures),
	    cmocka_unit_test(flush_forgets_the_clock),
	    cmocka_unit_test(worse_hosts_of_one_domain),
	    cmocka_unit_test(broken_tls),
	    cmocka_unit_test(sources_in_turn),
	    cmocka_unit_test(no_source_takes_ipv6_only_alone),
	    cmocka_unit_test(unusable_source),
	    cmocka_unit_test(removed_vmta_falls_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

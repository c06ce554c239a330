/* SPDX-License-Identifier: ISC */
/*
 * A long random life of the core: 200,000 messages to forty domains behind hosts of every kind,
 * while workers die and the core itself is restarted. What sim.h checks at every decision holds
 * throughout; at the end every job has ended once, and everything that was made has been freed.
 */
#include "tests/unit/qmgr/sim.h"
#include <time.h>

enum { MESSAGES = 200000, DOMAINS = 40, HOSTS = 30 };
static const char storm[] =
    "total-max-smtp-out = 60;\n"
    "virtual-mtas = (\n"
    "  { name = \"a\"; sources = ( { address = \"192.0.2.1\"; }, { address = \"192.0.2.2\"; } ); "
    "},\n"
    "  { name = \"b\"; sources = ( { address = \"192.0.2.3\"; } );\n"
    "    domains = ( { name = \"*\"; max-smtp-out = 3; } ); },\n"
    "  { name = \"c\"; } );\n"
    "domains = ( { name = \"*\"; max-smtp-out = 8; max-msg-per-connection = 25; "
    "max-rcpt-per-message = 10; retry-after = \"1m,2m,5m,10m\"; retry-recipients-after = \"30s\"; "
    "retry-after-dns-error = \"30s,2m\"; bounce-after = \"2h\"; notify-of-delay-every = \"1h\"; }, "
    "{ name = \"d3.test\"; bounce-after = \"1h\"; retry-after = \"45s\"; } );\n";

static uint32_t left;

static void make_hosts(struct sim *s)
{
	for (int i = 0; i < HOSTS; i++) {
		char name[32];
		size_t h;

		snprintf(name, sizeof(name), "mx%d.test", i);
		h = sim_host(s, name, HOST_OK);
		s->host[h].latency_ms = 1 + (int64_t)(sim_random(s) % 400);
		s->host[h].defer = (unsigned)(sim_random(s) % 20);
		s->host[h].bounce = (unsigned)(sim_random(s) % 10);
		s->host[h].refuse = i % 4 ? 0 : (unsigned)(sim_random(s) % 60);
		s->host[h].drop = i % 3 ? 0 : (unsigned)(sim_random(s) % 8);
		s->host[h].addresses = 1 + i % 3;
		s->host[h].bad = i % 5 ? 0 : 1;
		s->host[h].rcpt_max = i % 6 ? 0 : 4;
		s->host[h].mail_max = i % 7 ? 0 : 6;
		if (i >= 20)
			s->host[h].mode = (enum sim_mode)(1 + i % 7);
	}
}

static void make_domains(struct sim *s)
{
	for (int i = 0; i < DOMAINS; i++) {
		char name[32];
		struct sim_domain *d;
		size_t first = sim_random(s) % 12;

		snprintf(name, sizeof(name), "d%d.test", i);
		d = sim_domain(s, name);
		d->ttl_s = 60 + (uint32_t)(sim_random(s) % 600);
		if (i >= 36)
			d->class = (enum route_class)(1 + (i - 36) * 2 % 6);
		sim_mx(d, 10, first);
		if (i % 3 == 0)
			sim_mx(d, 10, first + 1);
		if (i % 4 == 0)
			sim_mx(d, 20, 12 + sim_random(s) % 18);
		if (i % 10 == 9) { /* only dead hosts */
			d->host_count = 0;
			sim_mx(d, 10, 20 + sim_random(s) % 4);
		}
	}
}

static void pour(void *ctx)
{
	static const char *const vmtas[] = {"a", "b", "c", ""}, *const tenants[] = {"", "t1", "t2"},
				 *const campaigns[] = {"", "x"};
	struct sim *s = ctx;

	for (int i = 0; i < 200 && left; i++, left--) {
		uint64_t r = sim_random(s), id = sim_message(s);
		unsigned rcpts = r % 16 ? 1 : 1 + (unsigned)(r / 16 % 30);
		struct sim_mail m = {.domain = (uint32_t)(r >> 20) % DOMAINS,
		    .vmta = vmtas[r >> 30 & 3],
		    .tenant = tenants[(r >> 33) % 3],
		    .campaign = campaigns[r >> 36 & 1],
		    .flags = r >> 40 & 7 ? 0 : JOB_NULL_SENDER};

		while (rcpts--) {
			sim_rcpt(s, id, m);
			if (sim_chance(s, 30))
				m.domain = (uint32_t)sim_random(s) % DOMAINS;
		}
	}
	if (left)
		sim_call_at(s, s->now + 200, pour);
}

static void on_died(void *ctx)
{
	struct sim *s = ctx;
	unsigned worker = (unsigned)(sim_random(s) % s->workers);

	sim_kill_worker(s, worker);
	core_worker_down(s->core, worker, s->now);
	sim_drain(s);
	s->up[worker] = true;
	core_worker_up(s->core, worker, s->now);
	sim_call_at(s, s->now + 1000 + (int64_t)(sim_random(s) % 60000), on_died);
}

/* The core dies, and now and then a worker with it: that one's jobs stay in doubt. */
static void on_restart(void *ctx)
{
	struct sim *s = ctx;

	sim_drain(s);
	if (sim_chance(s, 50)) {
		sim_kill_worker(s, 0);
		s->up[0] = true;
	}
	sim_restart(s);
	if (left || s->now - SIM_START < 2 * HOUR)
		sim_call_at(s, s->now + 20000 + (int64_t)(sim_random(s) % 200000), on_restart);
}

/* Domains change their hosts, and name servers fail for a while. */
static void on_dns(void *ctx)
{
	struct sim *s = ctx;
	struct sim_domain *d = &s->domain[sim_random(s) % 30];

	if (d->class == ROUTE_TEMPORARY)
		d->class = ROUTE_OK;
	else if (sim_chance(s, 30))
		d->class = ROUTE_TEMPORARY;
	if (s->now - SIM_START < 2 * HOUR)
		sim_call_at(s, s->now + 5000, on_dns);
}

static void steer(void *ctx)
{
	struct sim *s = ctx;
	struct core_cursor cursor = {0, 0};
	struct sim_job *j = &s->job[sim_random(s) % s->job_count];

	if (j->state != SIM_ENDED && sim_chance(s, 20))
		core_delete(s->core, j->ref, s->now);
	if (sim_chance(s, 5)) {
		s->flushed_ms = s->now;
		while (core_flush(s->core, STR("*mx1*"), &cursor, 500, s->now))
			;
	}
	if (s->now - SIM_START < 2 * HOUR)
		sim_call_at(s, s->now + 700, steer);
}

static void check_jobs(struct sim *s)
{
	uint64_t delivered = 0, bounced = 0, expired = 0, deleted = 0;

	for (size_t i = 0; i < s->job_count; i++) {
		const struct sim_job *j = &s->job[i];
		int64_t most = j->domain == 3 ? HOUR : 2 * HOUR, age = j->ended_ms - j->arrived_ms;

		assert_int_equal(j->state, SIM_ENDED);
		delivered += j->outcome == OUTCOME_DELIVERED;
		bounced += j->outcome == OUTCOME_BOUNCED;
		expired += j->outcome == OUTCOME_EXPIRED;
		deleted += j->outcome == OUTCOME_DELETED;
		if (j->outcome == OUTCOME_EXPIRED) {
			assert_true(age >= HOUR);
			/* a sweep's pause, and an attempt that was under way */
			assert_true(age <= 2 * HOUR + 3 * MINUTE);
		}
		if (age > most + 3 * MINUTE && age > 2 * HOUR + 3 * MINUTE)
			fail_msg("message %llu lived %lld s", (unsigned long long)j->id,
			    (long long)age / 1000);
	}
	print_message("%zu jobs: %llu delivered, %llu bounced, %llu expired, %llu deleted; "
		      "%llu grants, %llu sends, %llu duplicates\n",
	    s->job_count, (unsigned long long)delivered, (unsigned long long)bounced,
	    (unsigned long long)expired, (unsigned long long)deleted, (unsigned long long)s->grants,
	    (unsigned long long)s->sends, (unsigned long long)s->duplicates);
	assert_true(delivered > s->job_count / 2);
	assert_true(expired > 100 && bounced > 100);
}

static void check_empty(struct sim *s)
{
	struct core_totals t;

	core_totals(s->core, &t);
	assert_int_equal(t.recipients + t.messages + t.queues + t.lanes + t.connections, 0);
	assert_int_equal(s->core->domains.count, 0);
	assert_int_equal(s->core->dests.count, 0);
	assert_int_equal(s->core->txs.count, 0);
	/* sources, EHLO name and virtual MTAs of the configuration, and hosts with broken TLS */
	assert_true(s->core->names.count <= 12 + s->core->tls.count);
}

static void a_storm(void **state)
{
	uint64_t seed = getenv("SIM_SEED") ? strtoull(getenv("SIM_SEED"), NULL, 0) : 20261122;
	struct sim *s = sim_new(seed, 3, storm);

	(void)state;
	print_message("SIM_SEED=%llu\n", (unsigned long long)seed);
	s->total_max = 60;
	s->queue_max = 8;
	s->msg_max = 25;
	s->rcpt_max = 10;
	left = MESSAGES;
	make_hosts(s);
	make_domains(s);
	sim_start(s);
	sim_call_at(s, s->now + 1, pour);
	sim_call_at(s, s->now + 5000, on_died);
	sim_call_at(s, s->now + 30000, on_restart);
	sim_call_at(s, s->now + 30000, on_dns);
	sim_call_at(s, s->now + 3000, steer);
	sim_run(s, s->now + 3 * HOUR);
	check_jobs(s);
	sim_run(s, s->now + 3 * HOUR);
	check_empty(s);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_storm)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

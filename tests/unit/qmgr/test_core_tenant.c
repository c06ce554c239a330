/* SPDX-License-Identifier: ISC */
/*
 * Tenants and campaigns: their parts by weight and class, their counts against a walk over all
 * jobs, the bound on campaigns, and what pausing one of ten thousand costs.
 */
#include "tests/unit/qmgr/sim.h"
#include <time.h>

static const char conf[] =
    "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; } );\n"
    "domains = ( { name = \"*\"; max-smtp-out = 4; retry-after = \"5m\"; } );\n";

static struct sim *world(uint64_t seed, unsigned domains)
{
	struct sim *s = sim_new(seed, 1, conf);

	for (unsigned i = 0; i < domains; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%u.test", i);
		sim_domain(s, name);
		snprintf(name, sizeof(name), "mx%u.test", i);
		sim_mx(&s->domain[i], 10, sim_host(s, name, HOST_OK));
	}
	sim_start(s);
	return s;
}

static void put(struct sim *s, uint32_t domain, const char *tenant, const char *campaign)
{
	sim_rcpt(s, sim_message(s),
	    (struct sim_mail){
		.domain = domain, .vmta = "a", .tenant = tenant, .campaign = campaign});
}

static uint64_t delivered(const struct sim *s, const char *tenant, const char *campaign)
{
	const struct tenant *t = tenant_find(s->core, str_of(tenant));
	const struct name *name = name_find(s->core, str_of(campaign));
	const struct campaign *c = t && name ? campaign_find(s->core, t, name) : NULL;

	return c ? c->tally.delivered : 0;
}

/* ---- weights and classes ---- */

static void parts_by_weight(void **state)
{
	struct sim *s = world(1, 1);
	uint64_t sum = 0, got[10];

	(void)state;
	for (int t = 0; t < 10; t++) {
		char name[16];

		snprintf(name, sizeof(name), "t%d", t);
		for (int i = 0; i < 4000; i++)
			put(s, 0, name, "");
		tenant_find(s->core, str_of(name))->weight = (uint32_t)t + 1;
	}
	while (sum < 5500) {
		sim_run(s, s->now + 1000);
		sum = 0;
		for (int t = 0; t < 10; t++) {
			char name[16];

			snprintf(name, sizeof(name), "t%d", t);
			sum += got[t] = delivered(s, name, "");
		}
	}
	for (int t = 0; t < 10; t++) {
		double part = (double)got[t] * 55 / (double)sum / (t + 1);

		assert_true(part > 0.95 && part < 1.05);
	}
	sim_free(s);
}

static void parts_of_campaigns(void **state)
{
	struct sim *s = world(2, 1);
	uint64_t one, three;

	(void)state;
	for (int i = 0; i < 6000; i++) {
		put(s, 0, "t", "one");
		put(s, 0, "t", "three");
	}
	campaign_find(s->core, tenant_find(s->core, STR("t")), name_find(s->core, STR("three")))
	    ->weight = 3;
	do {
		sim_run(s, s->now + 1000);
		one = delivered(s, "t", "one");
		three = delivered(s, "t", "three");
	} while (three < 3000);
	assert_in_range(one * 300 / three, 95, 105);
	sim_free(s);
}

static void transactional_goes_first(void **state)
{
	struct sim *s = world(3, 1);
	uint64_t fast, slow;

	(void)state;
	put(s, 0, "t", "fast"); /* made before it has anything ready */
	campaign_find(s->core, tenant_find(s->core, STR("t")), name_find(s->core, STR("fast")))
	    ->class
	    = CLASS_TRANSACTIONAL;
	sim_run(s, s->now + MINUTE);
	for (int i = 0; i < 5000; i++) {
		put(s, 0, "t", "slow");
		put(s, 0, "t", "fast");
	}
	do {
		sim_run(s, s->now + 1000);
		fast = delivered(s, "t", "fast");
		slow = delivered(s, "t", "slow");
	} while (fast < 3000);
	assert_in_range(slow * 900 / fast, 95, 105); /* nine of ten, and one is the others' */
	sim_free(s);
}

static void configuration_says_it(void **state)
{
	static const char more[] =
	    "virtual-mtas = ( { name = \"a\"; } );\n"
	    "tenants = ( { name = \"t\"; weight = 7; campaigns = ( { name = \"c\"; weight = 3; }, "
	    "{ name = \"d\"; class = \"transactional\"; } ); },\n"
	    "  { name = \"u\"; class = \"transactional\"; campaigns = ( { name = \"c\"; class = "
	    "\"bulk\"; } ); } );\n";
	struct sim *s = world(7, 1);

	(void)state;
	put(s, 0, "t", "c");
	put(s, 0, "u", "");
	for (int round = 0; round < 2; round++) { /* made before it, and after */
		const struct tenant *t, *u;

		sim_configure(s, more);
		put(s, 0, "t", "d");
		put(s, 0, "u", "c");
		t = tenant_find(s->core, STR("t"));
		u = tenant_find(s->core, STR("u"));
		assert_int_equal(t->weight, 7);
		assert_int_equal(u->weight, 1);
		assert_int_equal(
		    campaign_find(s->core, t, name_find(s->core, STR("c")))->weight, 3);
		assert_int_equal(campaign_find(s->core, t, name_find(s->core, STR("d")))->class,
		    CLASS_TRANSACTIONAL);
		assert_int_equal(campaign_find(s->core, u, name_find(s->core, STR("")))->class,
		    CLASS_TRANSACTIONAL);
		assert_int_equal(
		    campaign_find(s->core, u, name_find(s->core, STR("c")))->class, CLASS_BULK);
		if (round == 0) {
			sim_configure(s, conf);
			assert_int_equal(t->weight, 1);
			assert_int_equal(
			    campaign_find(s->core, u, name_find(s->core, STR("")))->class,
			    CLASS_BULK);
		}
	}
	sim_run(s, s->now + HOUR);
	assert_int_equal(s->core->jobs.live, 0);
	sim_free(s);
}

/* ---- counts ---- */

static void check_counts(const struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct tenant_view v[4];
	size_t n;

	while ((n = core_tenants(s->core, STR("*"), &cursor, v, COUNT_OF(v))))
		for (size_t k = 0; k < n; k++) {
			uint64_t ready = 0, waiting = 0, flight = 0, aside = 0;

			for (job_ref ref = 1; ref < s->core->jobs.used; ref++) {
				const struct job *j = job_valid(s->core, ref);

				if (!j ||
				    !str_eq(name_str(s->core->lane_at[j->lane]->share->tenant),
					v[k].tenant))
					continue;
				ready += j->state == JOB_READY;
				waiting += j->state == JOB_WAITING;
				flight += j->state == JOB_IN_FLIGHT;
				aside += j->state == JOB_SET_ASIDE;
			}
			assert_int_equal(v[k].ready, ready);
			assert_int_equal(v[k].waiting, waiting);
			assert_int_equal(v[k].in_flight, flight);
			assert_int_equal(v[k].held, aside);
		}
}

static void counts_are_true(void **state)
{
	static const char *const tenants[] = {"", "t1", "t2", "t3"}, *const campaigns[] = {"", "x"};
	struct sim *s = world(4, 3);
	uint64_t sum = 0;

	(void)state;
	s->host[0].defer = 40;
	s->host[1].bounce = 30;
	s->host[2].drop = 5;
	for (int round = 0; round < 200; round++) {
		for (uint64_t i = 0, r = sim_random(s); i < r % 30; i++)
			put(s, (uint32_t)(sim_random(s) % 3), tenants[sim_random(s) % 4],
			    campaigns[sim_random(s) & 1]);
		if (sim_chance(s, 20) && s->job_count) {
			const struct sim_job *j = &s->job[sim_random(s) % s->job_count];

			if (j->state == SIM_QUEUED)
				core_hold(s->core, j->ref, s->now);
		}
		if (round % 50 == 49)
			sim_restart(s);
		sim_run(s, s->now + (int64_t)(sim_random(s) % 30000));
		check_counts(s);
	}
	s->flushed_ms = s->now; /* released ones are due at once */
	for (uint32_t i = 0; i < s->job_count; i++)
		if (s->job[i].state == SIM_QUEUED)
			core_release(s->core, s->job[i].ref, s->now);
	sim_run(s, 0);
	sim_drain(s);
	for (uint32_t i = 1; i <= s->core->tenant_slots.count; i++) {
		const struct tenant *t = s->core->tenant_slots.at[i];

		for (int k = 0; t && k < 8; k++)
			sum += t->tally.n[k];
	}
	assert_int_equal(sum, 0);
	sim_run(s, s->now + HOUR); /* unused, they go */
	assert_int_equal(s->core->tenants.count + s->core->campaigns.count, 0);
	sim_free(s);
}

static void campaigns_have_a_bound(void **state)
{
	struct sim *s = world(5, 1);
	struct tenant_view v;
	struct core_cursor cursor = {0, 0};

	(void)state;
	assert_int_equal(
	    core_pause(s->core, CORE_TENANT, STR("t"), STR(""), 0, STR("op"), s->now), 0);
	for (int i = 0; i < 3000; i++) {
		char name[16];

		snprintf(name, sizeof(name), "c%d", i);
		put(s, 0, "t", name);
	}
	sim_run(s, s->now + SECOND);
	assert_int_equal(core_tenants(s->core, STR("t"), &cursor, &v, 1), 1);
	assert_int_equal(v.campaigns, CORE_CAMPAIGNS);
	assert_int_equal(v.recipients, 3000);
	assert_true(v.paused);
	assert_int_equal(tenant_find(s->core, STR("t"))->tally.n[JOB_READY], 3000);
	assert_int_equal(
	    core_resume(s->core, CORE_TENANT, STR("t"), STR(""), STR("op"), s->now), 1);
	sim_run(s, s->now + DAY);
	for (uint32_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].outcome, OUTCOME_DELIVERED);
	sim_free(s);
}

/* ---- ten thousand tenants ---- */

/* Pausing one of them, and listing what is his, costs his own and nothing else: told by the
 * processor's time, which a walk over all would make thousands of times longer. */
static void one_of_ten_thousand(void **state)
{
	enum { TENANTS = 10000, DOMAINS = 100 };
	struct sim *s = world(6, DOMAINS);
	struct core_filter filter = {.tenant = STR("t77")};
	struct core_cursor cursor = {0, 0};
	job_ref ref[200];
	bool more;
	clock_t before;
	double pause, choose;

	(void)state;
	s->quiet = true;
	for (int t = 0; t < TENANTS; t++)
		for (uint32_t d = 0; d < DOMAINS / 10; d++) {
			char name[16];

			snprintf(name, sizeof(name), "t%d", t);
			put(s, (d * 10 + (uint32_t)t) % DOMAINS, name, "");
		}
	assert_int_equal(s->core->tenants.count, TENANTS);
	before = clock();
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(
		    core_pause(s->core, CORE_TENANT, STR("t77"), STR(""), 0, STR("op"), s->now), 0);
		core_resume(s->core, CORE_TENANT, STR("t77"), STR(""), STR("op"), s->now);
	}
	pause = (double)(clock() - before) / CLOCKS_PER_SEC / 1000;
	before = clock();
	for (int i = 0; i < 1000; i++) {
		cursor = (struct core_cursor){0, 0};
		assert_int_equal(
		    core_select(s->core, &filter, &cursor, ref, COUNT_OF(ref), 1000, &more), 10);
		assert_false(more);
	}
	choose = (double)(clock() - before) / CLOCKS_PER_SEC / 1000;
	print_message(
	    "a pause and a release: %.1f us; a selection: %.1f us\n", pause * 1e6, choose * 1e6);
	assert_true(pause < 500e-6);
	assert_true(choose < 500e-6);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(parts_by_weight),
	    cmocka_unit_test(parts_of_campaigns),
	    cmocka_unit_test(transactional_goes_first),
	    cmocka_unit_test(configuration_says_it),
	    cmocka_unit_test(counts_are_true),
	    cmocka_unit_test(campaigns_have_a_bound),
	    cmocka_unit_test(one_of_ten_thousand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

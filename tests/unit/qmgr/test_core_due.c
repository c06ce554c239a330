/* SPDX-License-Identifier: ISC */
/*
 * Waiting jobs in batches, and walking them: a lane's walk equals a look at all jobs, at any time;
 * selections while jobs come and go; visits to all jobs of a queue; memory with few jobs a lane.
 */
#include "tests/unit/qmgr/sim.h"

static const char conf[] =
    "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; } );\n"
    "domains = ( { name = \"*\"; max-smtp-out = 2; retry-after = \"1m,9m,2h\"; } );\n";

static const char *const vmtas[] = {"a", "b"}, *const tenants[] = {"", "t1", "t2"},
			 *const campaigns[] = {"", "x", "y"};
enum { DOMAINS = 4 };

static struct sim *world(uint64_t seed)
{
	struct sim *s = sim_new(seed, 1, conf);

	for (int i = 0; i < DOMAINS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%d.test", i);
		sim_domain(s, name);
		snprintf(name, sizeof(name), "mx%d.test", i / 2);
		if (i % 2 == 0)
			s->host[sim_host(s, name, HOST_OK)].defer = 50;
		sim_mx(&s->domain[i], 10, (size_t)i / 2);
	}
	sim_start(s);
	return s;
}

static job_ref put(struct sim *s, int64_t due_ms)
{
	uint64_t r = sim_random(s);
	struct sim_job *j;

	sim_message(s);
	j = sim_rcpt(s, s->message_count,
	    (struct sim_mail){.domain = (uint32_t)(r % DOMAINS),
		.vmta = vmtas[r >> 8 & 1],
		.tenant = tenants[(r >> 16) % 3],
		.campaign = campaigns[(r >> 24) % 3]});
	if (due_ms) {
		struct job *job = core_at(s->core, j->ref);

		outcome_loosen(s->core, j->ref);
		job->due_ms = (uint64_t)due_ms & ((UINT64_C(1) << 44) - 1);
		outcome_wait(s->core, j->ref);
	}
	return j->ref;
}

/* ---- selections ---- */

static bool part_fits(struct str want, struct str have)
{
	return !want.n || str_eq(want, have);
}

/* The model: DESTINATION/VMTA[/TENANT[/CAMPAIGN]] taken apart anew, jobs looked at one by one. */
static bool fits(const struct sim *s, const struct core_filter *f, job_ref ref)
{
	struct job_view v;
	char queue[200], *tenant, *campaign = NULL;

	if (!core_job(s->core, ref, &v) || v.state == JOB_FREE)
		return false;
	str_copy(queue, sizeof(queue), f->queue);
	tenant = strchr(queue, '/');
	tenant = tenant ? strchr(tenant + 1, '/') : NULL;
	if (tenant) {
		*tenant++ = 0;
		campaign = strchr(tenant, '/');
	}
	if (campaign)
		*campaign++ = 0;
	return (!*queue || core_glob(str_of(queue), v.queue)) &&
	       part_fits(str_of(tenant ? tenant : ""), v.tenant) &&
	       part_fits(str_of(campaign ? campaign : ""), v.campaign) &&
	       part_fits(f->tenant, v.tenant) && part_fits(f->campaign, v.campaign) &&
	       part_fits(f->vmta, v.vmta) && part_fits(f->domain, v.domain);
}

static const struct core_filter filters[] = {
    {.tenant = {"t1", 2}},
    {.tenant = {"t2", 2}, .campaign = {"x", 1}},
    {.queue = {"[mx0.test]/a", 12}},
    {.queue = {"[mx0.test]/b/t1", 15}},
    {.queue = {"[mx1.test]/b/t2/y", 17}},
    {.queue = {"*/b", 3}},
    {.queue = {"[mx1.test]/*", 12}, .tenant = {"t1", 2}},
    {.vmta = {"a", 1}},
    {.campaign = {"y", 1}},
    {.domain = {"d3.test", 7}},
    {.queue = {"[mx0.test]/a", 12}, .domain = {"d1.test", 7}},
    {.queue = {"", 0}},
    {.tenant = {"nobody", 6}},
    {.queue = {"[mx9.test]/a", 12}},
};

static void select_all(struct sim *s, const struct core_filter *f)
{
	struct core_cursor cursor = {0, 0};
	uint8_t *seen = xcalloc(s->core->jobs.used, 1);
	bool more = true;
	job_ref ref[16];
	unsigned calls = 0;

	while (more) {
		size_t n = core_select(s->core, f, &cursor, ref, 1 + sim_random(s) % COUNT_OF(ref),
		    1 + (unsigned)(sim_random(s) % 40), &more);

		for (size_t i = 0; i < n; i++)
			assert_int_equal(seen[ref[i]]++, 0);
		assert_true(++calls < 1000000);
	}
	for (job_ref i = 1; i < s->core->jobs.used; i++)
		if (seen[i] != fits(s, f, i))
			fail_msg("filter %d, job %u: %d", (int)(f - filters), i, seen[i]);
	free(seen);
}

static void selection_is_what_fits(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct sim *s = world(seed);

		for (int round = 0; round < 40; round++) {
			for (int i = 0; i < 40; i++)
				put(s, sim_chance(s, 50)
					   ? s->now + 1000 +
						 (int64_t)(sim_random(s) % (uint64_t)(20 * HOUR))
					   : 0);
			if (sim_chance(s, 30))
				core_hold(s->core, s->job[s->job_count - 1].ref, s->now);
			sim_run(s, s->now + (int64_t)(sim_random(s) % 400000));
			for (size_t f = 0; f < COUNT_OF(filters); f++)
				select_all(s, &filters[f]);
		}
		sim_free(s);
	}
}

/* While mail flows between the calls: what stands still comes once. */
static void selection_amid_traffic(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *s = world(seed);
		struct core_cursor cursor = {0, 0};
		struct core_filter f = {.tenant = STR("t1")};
		uint8_t *seen;
		bool more = true;
		size_t stands = 3000;

		for (size_t i = 0; i < stands; i++) { /* due far away: nothing happens to them */
			put(s, s->now + HOUR + (int64_t)(sim_random(s) % (uint64_t)DAY));
			if (i % 3 == 0)
				put(s, s->now + (int64_t)(sim_random(s) % 20000));
		}
		stands = s->job_count;
		sim_run(s, s->now + (int64_t)(sim_random(s) % 300000));
		seen = xcalloc(2 * stands, 1);
		while (more) {
			job_ref ref[64];
			size_t n =
			    core_select(s->core, &f, &cursor, ref, COUNT_OF(ref), 200, &more);

			for (size_t i = 0; i < n; i++) {
				uint32_t j = sim_job_of(s, ref[i]);

				seen[j] = (uint8_t)(seen[j] + (j < stands));
				if (sim_chance(s, 5))
					core_delete(s->core, ref[i], s->now);
			}
			if (sim_chance(s, 50))
				put(s, 0);
			sim_run(s, s->now + (int64_t)(sim_random(s) % 300));
		}
		for (uint32_t j = 0; j < stands; j++) {
			struct job_view v;

			if (s->job[j].state != SIM_QUEUED || s->job[j].attempts ||
			    !core_job(s->core, s->job[j].ref, &v) || v.state != JOB_WAITING ||
			    v.due_ms < s->now + 30 * MINUTE)
				continue;
			assert_int_equal(seen[j], str_eq(v.tenant, STR("t1")));
		}
		free(seen);
		sim_free(s);
	}
}

static void deleting_what_is_selected(void **state)
{
	struct sim *s = world(3);
	struct core_cursor cursor = {0, 0};
	struct core_filter f = {.queue = STR("[mx0.test]/a")};
	bool more = true;

	(void)state;
	for (int i = 0; i < 5000; i++)
		put(s, s->now + 1000 + (int64_t)(sim_random(s) % 900000));
	sim_run(s, s->now + MINUTE);
	while (more) {
		job_ref ref[10];
		size_t n = core_select(s->core, &f, &cursor, ref, COUNT_OF(ref), 30, &more);

		for (size_t i = 0; i < n; i++)
			core_bounce(s->core, ref[i], STR("gone"), s->now);
		sim_run(s, s->now + 10);
	}
	sim_drain(s);
	for (job_ref i = 1; i < s->core->jobs.used; i++)
		assert_true(!fits(s, &f, i) || core_at(s->core, i)->state == JOB_IN_FLIGHT ||
			    core_at(s->core, i)->attempts || !core_at(s->core, i)->due_ms);
	assert_true(s->core->queue_count > 1 && s->core->jobs.live > 1000);
	sim_free(s);
}

/* ---- visits ---- */

static void visits_reach_all(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct sim *s = world(seed);
		struct queue *q;
		struct lane *lane;
		struct share *share;
		uint64_t jobs;

		for (int i = 0; i < 6000; i++)
			put(s, sim_chance(s, 70)
				   ? s->now + MINUTE + (int64_t)(sim_random(s) % (uint64_t)DAY)
				   : 0);
		sim_run(s, s->now + 3 * SECOND);
		s->quiet = true; /* what is in flight stays there */
		q = queue_find(s->core, STR("[mx0.test]/a"));
		lane = OWNER(q->lanes.next, struct lane, in_queue);
		lane_visit(s->core, lane, VISIT_BOUNCE, STR("the lane goes"));
		share = lane->share;
		while (core_next_ms(s->core) <= s->now)
			core_tick(s->core, s->now), sim_drain(s);
		assert_int_equal(lane->list[LANE_READY].head | lane->list[LANE_UNCERTAIN].head, 0);
		assert_true(link_alone(&lane->waiting));
		share_visit(s->core, share, VISIT_BOUNCE, STR("the share goes"));
		while (core_next_ms(s->core) <= s->now)
			core_tick(s->core, s->now), sim_drain(s);
		for (struct link *l = share->lanes.next; l != &share->lanes; l = l->next) {
			assert_int_equal(OWNER(l, struct lane, in_owner)->ready, 0);
			assert_true(link_alone(&OWNER(l, struct lane, in_owner)->waiting));
		}
		assert_true(q->n[JOB_WAITING] > 0);
		jobs = q->n[JOB_WAITING] + q->n[JOB_READY];
		queue_visit(s->core, q, VISIT_REPLACE, STR("")); /* changes nothing */
		sweep_retime(s->core, q);
		while (core_next_ms(s->core) <= s->now)
			core_tick(s->core, s->now), sim_drain(s);
		assert_int_equal(q->n[JOB_WAITING] + q->n[JOB_READY], jobs);
		queue_visit(s->core, q, VISIT_BOUNCE, STR("all goes"));
		while (core_next_ms(s->core) <= s->now)
			core_tick(s->core, s->now), sim_drain(s);
		assert_int_equal(q->n[JOB_WAITING] + q->n[JOB_READY], 0);
		s->quiet = false;
		sim_free(s);
	}
}

/* ---- memory ---- */

/* A lane for each job, all due within minutes: the worst case. */
static void memory_of_sparse_lanes(void **state)
{
	enum { LANES = 100000 };
	struct core *core = core_new(1, SIM_START);
	struct core_totals t;

	(void)state;
	core_start(core, SIM_START);
	for (uint64_t i = 1; i <= LANES; i++) {
		char tenant[32];
		struct core_add a = {.id = i,
		    .segment = 1,
		    .arrived_ms = SIM_START,
		    .due_ms = SIM_START + 1000 + (int64_t)(i * 7919 % 400000),
		    .domain = STR("d.test")};

		a.tenant = (struct str){tenant,
		    (size_t)snprintf(tenant, sizeof(tenant), "t%llu", (unsigned long long)i)};
		core_add(core, &a, SIM_START);
	}
	core_totals(core, &t);
	print_message("%.1f bytes a job and its batch\n", (double)t.bytes_of_memory / LANES);
	assert_true(t.bytes_of_memory <= (72u + 80u) * (uint64_t)LANES);
	core_free(&core);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(selection_is_what_fits),
	    cmocka_unit_test(selection_amid_traffic),
	    cmocka_unit_test(deleting_what_is_selected),
	    cmocka_unit_test(visits_reach_all),
	    cmocka_unit_test(memory_of_sparse_lanes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

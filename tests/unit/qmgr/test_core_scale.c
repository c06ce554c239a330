/* SPDX-License-Identifier: ISC */
/*
 * Containers and growth: the hash table, the message index, the due wheel and the slabs at sizes
 * where mistakes show; memory a recipient; time a message and the longest single step (printed; a
 * bound that a busy machine can hold is asserted).
 */
#include "tests/unit/qmgr/sim.h"
#include <time.h>

static int64_t ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

#ifdef POSTERN_SANITIZED
enum { SLOW = 20, MANY = 300000 };
#else
enum { SLOW = 1, MANY = 1000000 };
#endif

/* ---- the table ---- */

struct thing {
	struct node node;
	uint64_t key;
};

static struct thing *find_thing(struct table *t, uint64_t key)
{
	for (struct node *n = table_first(t, hash_mix(key, 5) & 0xffff); n; n = table_next(n))
		if (OWNER(n, struct thing, node)->key == key)
			return OWNER(n, struct thing, node);
	return NULL;
}

/* Against a plain array, growing and shrinking; 16 bits of hash, so that hashes collide too. */
static void table_against_array(void **state)
{
	enum { THINGS = 20000 };
	struct thing *all = xcalloc(THINGS, sizeof(*all));
	bool *in = xcalloc(THINGS, sizeof(*in));
	uint64_t r = 88172645463325252u;
	struct table t;

	(void)state;
	table_init(&t);
	for (int round = 0; round < 400000; round++) {
		size_t i;
		bool grow = round / 50000 % 2 == 0;

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		i = r % THINGS;
		assert_true((find_thing(&t, i) != NULL) == in[i]);
		if (!in[i] && (grow || r >> 40 & 1)) {
			all[i].key = i;
			table_add(&t, &all[i].node, hash_mix(i, 5) & 0xffff);
			in[i] = true;
		} else if (in[i] && (!grow || r >> 41 & 1)) {
			table_remove(&t, &all[i].node);
			in[i] = false;
		}
	}
	for (size_t i = 0; i < THINGS; i++)
		if (in[i])
			table_remove(&t, &all[i].node);
	assert_int_equal(t.count, 0);
	assert_null(table_any(&t));
	table_fini(&t);
	free(all);
	free(in);
}

/* ---- jobs ---- */

static struct core *started(void)
{
	struct conf *conf = sim_conf("domains = ( { name = \"*\"; bounce-after = \"300d\"; } );");
	struct core *core = core_new(1, SIM_START);

	core_configure(core, conf, SIM_START);
	conf_free(&conf);
	core_start(core, SIM_START);
	return core;
}

static job_ref add(struct core *core, uint64_t id, uint16_t rcpt, int64_t due)
{
	char domain[32];
	struct core_add a = {
	    .id = id, .segment = 1, .rcpt = rcpt, .arrived_ms = SIM_START, .due_ms = due};

	a.domain = (struct str){domain, (size_t)snprintf(domain, sizeof(domain), "d%llu.test",
					    (unsigned long long)(id % 1000))};
	return core_add(core, &a, core->now);
}

static void index_finds_all(void **state)
{
	struct core *core = started();
	uint64_t r = 42;
	struct core_decision d;

	(void)state;
	for (uint64_t id = 1; id <= 50000; id++)
		for (uint16_t k = 0; k < 1 + id % 4; k++)
			add(core, id << 3, k, 0);
	for (int i = 0; i < 120000; i++) {
		uint64_t id;
		job_ref ref;

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		id = (r % 50000 + 1) << 3;
		ref = core_find(core, id);
		for (uint64_t k = r >> 50 & 3; ref && k && core_sibling(core, ref); k--)
			ref = core_sibling(core, ref);
		if (ref)
			core_delete(core, ref, core->now);
		while (i % 64 == 0 && core_next(core, &d))
			;
	}
	while (core_next(core, &d))
		;
	for (uint64_t id = 1; id <= 50000; id++) {
		struct job_view v;

		for (job_ref ref = core_find(core, id << 3); ref; ref = core_sibling(core, ref)) {
			assert_true(core_job(core, ref, &v));
			assert_true(v.id == id << 3);
			core_delete(core, ref, core->now);
		}
	}
	while (core_next(core, &d))
		;
	assert_int_equal(core->jobs.live, 0);
	assert_int_equal(core->jobs.messages, 0);
	core_free(&core);
}

/* Every job comes at its second: never early, less than a second late, over all levels of the
 * wheel. */
static void due_to_the_second(void **state)
{
	enum { JOBS = 60000 };
	struct core *core = started();
	uint64_t r = 7;
	size_t ready = 0;

	(void)state;
	for (uint64_t id = 1; id <= JOBS; id++) {
		static const int64_t spans[] = {2000, 300000, 86400000, 86400000 * INT64_C(290)};

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		add(core, id, 0, SIM_START + 1 + (int64_t)((r >> 3) % (uint64_t)spans[r & 3]));
	}
	while (ready < JOBS) {
		int64_t next = core_next_ms(core), before = core->now;

		assert_true(next != INT64_MAX);
		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		core_tick(core, next > before ? next + (int64_t)(r % 100) : before);
		/* what just became ready stands at the end of its lane: look at the lanes' ends */
		for (uint32_t i = 1; i <= core->lane_count; i++) {
			job_ref ref = core->lane_at[i] ? core->lane_at[i]->list[0].head : 0;

			while (ref) {
				struct job *j = core_at(core, ref);

				assert_true((int64_t)j->due_ms <= core->now);
				assert_true(core->now - (int64_t)j->due_ms < 1100 || core->more ||
					    before >= (int64_t)j->due_ms);
				lane_take(core, ref);
				job_state(core, ref, JOB_SET_ASIDE);
				ready++;
				ref = core->lane_at[i]->list[0].head;
			}
		}
	}
	assert_int_equal(core->n[JOB_WAITING], 0);
	core_free(&core);
}

static void memory_and_time(void **state)
{
	struct core *core = started();
	struct core_totals few, many;
	int64_t t0 = ns(), longest = 0, add_ns, tick_ns, before;
	unsigned ticks = 0;

	(void)state;
	for (uint64_t id = 1; id <= MANY; id++) {
		before = ns();
		add(core, id, 0, SIM_START + HOUR + (int64_t)(id * 7919 % (uint64_t)HOUR));
		before = ns() - before;
		longest = before > longest ? before : longest;
		if (id == 100000)
			core_totals(core, &few);
	}
	add_ns = (ns() - t0) / MANY;
	core_totals(core, &many);
	t0 = ns();
	tick_ns = 0;
	while (core->n[JOB_WAITING]) {
		int64_t next = core_next_ms(core);

		before = ns();
		core_tick(core, next > core->now ? next : core->now);
		before = ns() - before;
		tick_ns = before > tick_ns ? before : tick_ns;
		ticks++;
	}
	print_message("%d jobs: %.1f bytes each; add %lld ns, longest %lld us; fire %lld ns in %u "
		      "ticks, longest %lld us\n",
	    MANY, (double)(many.bytes_of_memory - few.bytes_of_memory) / (MANY - 100000),
	    (long long)add_ns, (long long)longest / 1000, (long long)((ns() - t0) / MANY), ticks,
	    (long long)tick_ns / 1000);
	assert_true(many.bytes_of_memory - few.bytes_of_memory <= 100u * (MANY - 100000));
	assert_true(many.bytes_of_memory <= 100u * MANY);
	assert_true(add_ns < 10000 * SLOW);
	assert_true(tick_ns < 50000000 * SLOW);
	core_free(&core);
}

/* 10,000 domains come and go: nothing stays. */
static void domains_come_and_go(void **state)
{
	struct core *core = started();
	struct core_decision d;
	uint64_t id = 0;

	(void)state;
	for (int day = 0; day < 5; day++) {
		for (int i = 0; i < 10000; i++) {
			char domain[32];
			struct core_add a = {.id = ++id, .arrived_ms = core->now};

			a.domain = (struct str){domain,
			    (size_t)snprintf(domain, sizeof(domain), "x%d-%d.test", day, i)};
			core_add(core, &a, core->now);
		}
		for (int round = 0; round < 20; round++) {
			while (core_next(core, &d)) {
				char name[256];

				if (d.kind != DECIDE_RESOLVE)
					continue;
				str_copy(name, sizeof(name), d.domain);
				core_route(core,
				    &(struct core_answer){.domain = str_of(name),
					.class = ROUTE_NO_DOMAIN,
					.ttl_s = 60,
					.text = STR("gone")},
				    core->now);
			}
			for (int i = 0; i < 20; i++)
				core_tick(core, core->now);
		}
		assert_int_equal(core->jobs.live, 0);
		for (int i = 0; i < 4; i++)
			core_tick(core, core->now + 11 * MINUTE);
		assert_int_equal(core->domains.count + core->dests.count + core->queues.count, 0);
	}
	assert_true(core->domain_count <= 10001 && core->queue_count <= 10001);
	core_free(&core);
}

/* Campaigns come and go in a queue that lives on. */
static void lanes_come_and_go(void **state)
{
	struct core *core = started();
	struct core_decision d;
	job_ref stays = add(core, 1, 0, SIM_START + 100 * DAY);

	(void)state;
	for (uint64_t id = 2; id < 500; id++) {
		char name[32];
		struct core_add a = {.id = id, .arrived_ms = core->now, .domain = STR("d1.test")};

		a.campaign = (struct str){
		    name, (size_t)snprintf(name, sizeof(name), "c%llu", (unsigned long long)id)};
		core_delete(core, core_add(core, &a, core->now), core->now);
		while (core_next(core, &d))
			;
		core_tick(core, core->now + MINUTE);
	}
	assert_true(core->lanes.count <= 25);
	assert_true(core->names.count <= 32);
	core_delete(core, stays, core->now);
	core_free(&core);
}

/* The whole way of a message: add, send, result, done. */
static void time_a_message(void **state)
{
	struct core *core = started();
	struct route_host host = {.preference = 10,
	    .name = "mx.test",
	    .address_count = 1,
	    .address = {{.family = 4, .bytes = {10, 0, 0, 1}}}};
	struct rcpt_result ok = {.code = 250, .status = STR("2.0.0"), .text = STR("250 2.0.0 ok")};
	struct core_decision d;
	uint64_t id = 0, done = 0;
	int64_t t0;

	(void)state;
	core_worker_up(core, 0, core->now);
	t0 = ns();
	while (done < MANY / 2) {
		for (int i = 0; i < 100; i++)
			add(core, ++id, 0, 0);
		while (core_next(core, &d)) {
			char name[64];

			str_copy(name, sizeof(name), d.domain);
			if (d.kind == DECIDE_RESOLVE)
				core_route(core,
				    &(struct core_answer){.domain = str_of(name),
					.class = ROUTE_OK,
					.ttl_s = 3600,
					.hosts = &host,
					.host_count = 1},
				    core->now);
			else if (d.kind == DECIDE_GRANT)
				core_conn_ready(core, d.conn, 0, 0, core->now);
			else if (d.kind == DECIDE_SEND)
				core_result(core, d.transaction, &ok, 1, core->now);
			else if (d.kind == DECIDE_CLOSE)
				core_conn_closed(core, d.conn,
				    &(struct core_failure){.cause = CONN_DONE, .was_ready = true},
				    core->now);
			else if (d.kind == DECIDE_DONE)
				done++;
		}
		core_tick(core, core->now + 5);
	}
	t0 = (ns() - t0) / (int64_t)done;
	print_message("%lld ns a message\n", (long long)t0);
	assert_true(t0 < 15000 * SLOW);
	core_free(&core);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(table_against_array),
	    cmocka_unit_test(index_finds_all),
	    cmocka_unit_test(due_to_the_second),
	    cmocka_unit_test(memory_and_time),
	    cmocka_unit_test(domains_come_and_go),
	    cmocka_unit_test(lanes_come_and_go),
	    cmocka_unit_test(time_a_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

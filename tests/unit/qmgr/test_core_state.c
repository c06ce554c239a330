/* SPDX-License-Identifier: ISC */
/* What of the core survives a restart, and how it is given out. */
#include "tests/unit/qmgr/sim.h"

static const char *const conf = "domains = ( { name = \"*\"; retry-after = \"10m,20m,1h\"; } );";

static struct queue *only_queue(struct sim *s)
{
	struct queue *found = NULL;

	for (uint32_t i = 1; i <= s->core->queue_count; i++)
		if (s->core->queue_at[i] && s->core->queue_at[i]->n[JOB_READY])
			found = s->core->queue_at[i];
	assert_non_null(found);
	return found;
}

static struct sim *world(enum sim_mode mode)
{
	struct sim *s = sim_new(7, 1, conf);
	size_t h = sim_host(s, "mx.a.example", mode);

	sim_mx(sim_domain(s, "a.example"), 10, h);
	sim_start(s);
	sim_mail(s, 0);
	return s;
}

static void test_clock_goes_on(void **state)
{
	struct sim *s = world(HOST_REFUSES);
	uint64_t connects;
	int64_t hold;

	(void)state;
	sim_run(s, s->now + 15 * MINUTE); /* two rounds */
	assert_int_equal(only_queue(s)->failures, 2);
	hold = only_queue(s)->hold_ms;
	connects = s->host[0].connects;
	sim_restart(s);
	sim_run(s, s->now + SECOND); /* the route is known again */
	assert_int_equal(only_queue(s)->failures, 2);
	assert_true(only_queue(s)->hold_ms == hold);
	sim_run(s, hold - 1);
	assert_int_equal(s->host[0].connects, connects); /* held as before */
	sim_run(s, hold + MINUTE);
	assert_true(s->host[0].connects > connects);
	assert_int_equal(only_queue(s)->failures, 3);
	sim_free(s);
}

static void test_delivery_forgets_the_clock(void **state)
{
	struct sim *s = world(HOST_REFUSES);

	(void)state;
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->kept_count, 1);
	s->host[0].mode = HOST_OK;
	sim_run(s, 0);
	assert_int_equal(s->kept_count, 0);
	sim_free(s);
}

static void test_idle_clock_is_forgotten(void **state)
{
	struct sim *s = world(HOST_REFUSES);

	(void)state;
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->kept_count, 1);
	core_delete(s->core, s->job[0].ref, s->now);
	sim_run(s, s->now + 3 * HOUR);
	assert_int_equal(s->kept_count, 0);
	assert_int_equal(s->core->queues.count, 0);
	sim_free(s);
}

static void test_damage_is_refused(void **state)
{
	struct core *core = core_new(1, SIM_START);
	struct conf *c = sim_conf(conf);

	(void)state;
	core_configure(core, c, SIM_START);
	assert_int_equal(core_restore(core, STR("clock"), STR(""), SIM_START), -EBADMSG);
	assert_int_equal(core_restore(core, STR("nothing a/b"), STR(""), SIM_START), -EBADMSG);
	assert_int_equal(core_restore(core, STR("clock a/b"), STR("xyz"), SIM_START), -EBADMSG);
	assert_int_equal(core_restore(core, STR("clock ab"),
			     (struct str){"\0\0\0\1\0\0\0\0\0\0\0\0", 12}, SIM_START),
	    -EBADMSG);
	assert_int_equal(core_restore(core, STR("clock a/b"),
			     (struct str){"\0\0\0\1\0\0\0\0\0\0\0\0", 12}, SIM_START),
	    0);
	core_free(&core);
	conf_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_clock_goes_on),
	    cmocka_unit_test(test_delivery_forgets_the_clock),
	    cmocka_unit_test(test_idle_clock_is_forgotten),
	    cmocka_unit_test(test_damage_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

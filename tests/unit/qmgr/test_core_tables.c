/* SPDX-License-Identifier: ISC */
/* The core's rules, one by one, in a small world. */
#include "tests/unit/qmgr/sim.h"

static const char plain[] =
    "domains = ( { name = \"*\"; retry-after = \"5m,10m,1h\"; retry-recipients-after = \"5m\"; "
    "bounce-after = \"1d\"; } );\n";

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
	assert_string_equal(s->core->queue_at[2]->name, "[mx1.example.net]/default");
	sim_run(s, s->now + 6 * SECOND);
	assert_int_equal(s->closes, 1); /* connection-idle-timeout */
	assert_int_equal(s->conns.count, 0);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(delivers)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

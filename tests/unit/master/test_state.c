/* SPDX-License-Identifier: ISC */
#include "common/check.h"
#include "master/state.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the four above, which it needs. */
#include <cmocka.h>

/* Every cell of the table keeps these, whatever else it says. */
static void every_cell_is_sane(void **unused)
{
	(void)unused;
	for (enum worker_state s = 0; s < WORKER_STATE_COUNT; s++)
		for (enum worker_event e = 0; e < WORKER_EVENT_COUNT; e++) {
			struct worker_step step = state_step(s, e);
			bool lives = state_has_process(s);
			assert_true(step.next < WORKER_STATE_COUNT);
			if (step.action == ACTION_LATE)
				assert_int_equal(step.next, s);
			if (step.action == ACTION_SPAWN)
				assert_false(lives); /* never two processes in a slot */
			if (step.action == ACTION_KILL || step.action == ACTION_STOP ||
			    step.action == ACTION_CLOSE)
				assert_true(lives && state_has_process(step.next));
			if (e == EVENT_DIED)
				assert_false(state_has_process(
				    step.next)); /* a death always empties the slot */
			else if (lives)
				assert_true(
				    state_has_process(step.next)); /* and nothing else does */
			if (e == EVENT_OVERDUE && lives && s != WORKER_KILLED)
				assert_int_equal(step.action, ACTION_KILL);
		}
}

/* One letter an event: due, ready, stop, stopped (t), closed (x), overdue, Died. */
static enum worker_state walk(const char *events)
{
	enum worker_state s = WORKER_DOWN;
	for (; *events; events++) {
		enum worker_event e = *events == 'd'   ? EVENT_DUE
				      : *events == 'r' ? EVENT_READY
				      : *events == 's' ? EVENT_STOP
				      : *events == 't' ? EVENT_STOPPED
				      : *events == 'x' ? EVENT_CLOSED
				      : *events == 'o' ? EVENT_OVERDUE
						       : EVENT_DIED;
		s = state_step(s, e).next;
	}
	return s;
}

static void lives_of_workers(void **unused)
{
	static const struct {
		const char *name, *events;
		enum worker_state end;
	} cases[] = {
	    {"starts", "dr", WORKER_READY},
	    {"dies before it is ready", "dD", WORKER_DOWN},
	    {"dies ready", "drD", WORKER_DOWN},
	    {"is killed for its silence and comes back", "droD", WORKER_DOWN},
	    {"closes its channel, is killed, comes back", "drxD", WORKER_DOWN},
	    {"says stopped unasked, is killed, comes back", "drtD", WORKER_DOWN},
	    {"stops in order", "drst", WORKER_ENDING},
	    {"stops in order and is gone", "drstD", WORKER_GONE},
	    {"is stopped while it starts", "dst", WORKER_ENDING},
	    {"ready crosses stop", "dsr", WORKER_STOPPING},
	    {"does not stop", "drso", WORKER_KILLED},
	    {"does not exit", "drsto", WORKER_KILLED},
	    {"is killed twice", "drsoo", WORKER_KILLED},
	    {"dies while it stops", "drsD", WORKER_GONE},
	    {"is not wanted while it is down", "s", WORKER_GONE},
	    {"is not started once gone", "sd", WORKER_GONE},
	};
	(void)unused;
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		if (walk(cases[i].events) != cases[i].end)
			fail_msg("%s: ends %s", cases[i].name, state_name(walk(cases[i].events)));
}

static void delay_doubles_up_to_a_minute_and_is_forgotten(void **unused)
{
	int64_t delay = 0, expected = RESTART_FIRST_MS;
	(void)unused;
	for (int i = 0; i < 20; i++) {
		restart_plan(&delay, -1, 1000);
		assert_int_equal(delay, expected);
		expected = expected * 2 > RESTART_MAX_MS ? RESTART_MAX_MS : expected * 2;
	}
	assert_int_equal(delay, RESTART_MAX_MS);
	restart_plan(&delay, 5000, 5999); /* ready, but for less than a second */
	assert_int_equal(delay, RESTART_MAX_MS);
	restart_plan(&delay, 5000, 6000);
	assert_int_equal(delay, 0);
	restart_plan(&delay, 5000, 5500);
	assert_int_equal(delay, RESTART_FIRST_MS);
}

static void heartbeats(void **unused)
{
	struct heartbeat h = {.answered_ms = 1000};
	(void)unused;
	assert_false(heartbeat_overdue(&h, 61000, 60000, false));
	assert_true(heartbeat_overdue(&h, 61001, 60000, false));
	assert_false(heartbeat_overdue(&h, 601000, 60000, true));
	assert_true(heartbeat_overdue(&h, 601001, 60000, true));
	/* a tick in time, one within the slack, one after master stood still for a minute */
	assert_int_equal(heartbeat_lateness(0, 5000, 5000), 0);
	assert_int_equal(heartbeat_lateness(0, 7000, 5000), 0);
	assert_int_equal(heartbeat_lateness(0, 65000, 5000), 60000);
}

static void whose_deaths_count(void **unused)
{
	(void)unused;
	static const int own[] = {SIGSEGV, SIGABRT, SIGBUS, SIGSYS, SIGILL, SIGFPE};
	static const int foreign[] = {0, SIGTERM, SIGKILL, SIGINT, SIGHUP, SIGPIPE, SIGXCPU};
	for (size_t i = 0; i < COUNT_OF(own); i++)
		assert_true(death_is_own(own[i], false));
	for (size_t i = 0; i < COUNT_OF(foreign); i++)
		assert_false(death_is_own(foreign[i], false));
	assert_true(death_is_own(SIGKILL, true));
	assert_false(death_is_own(0, true)); /* it exited before our signal came */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_cell_is_sane),
	    cmocka_unit_test(lives_of_workers),
	    cmocka_unit_test(delay_doubles_up_to_a_minute_and_is_forgotten),
	    cmocka_unit_test(heartbeats),
	    cmocka_unit_test(whose_deaths_count),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

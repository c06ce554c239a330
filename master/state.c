/* SPDX-License-Identifier: ISC */
#include "master/state.h"
#include "common/check.h"
#include <signal.h>
/*
 * The life of one worker as a table of state and event, and the small decisions beside it. Pure: no
 * loop, process or clock, so that the unit test walks every cell.
 *
 * Reading the table: a row is a state, each cell says { next state, action }. A cell with
 * ACTION_LATE is an event that crossed another on its way (READY of a worker that was told to
 * stop). What cannot happen at all (a death without a process) is LATE, too: master must not die of
 * a surprise.
 *
 * A worker that is killed although it is wanted stays in its state until it is reaped: then it is
 * restarted like any other. KILLED is for those that are not wanted any more.
 */
#define STAY(state)                                                                                \
	{                                                                                          \
		WORKER_##state, ACTION_LATE                                                        \
	}

static const struct worker_step steps[WORKER_STATE_COUNT][WORKER_EVENT_COUNT] =
    {
	[WORKER_DOWN] =
	    {
		[EVENT_DUE] = {WORKER_STARTING, ACTION_SPAWN},
		[EVENT_READY] = STAY(DOWN),
		[EVENT_STOP] = {WORKER_GONE, ACTION_NONE},
		[EVENT_STOPPED] = STAY(DOWN),
		[EVENT_CLOSED] = STAY(DOWN),
		[EVENT_OVERDUE] = STAY(DOWN),
		[EVENT_DIED] = STAY(DOWN),
	    },
	[WORKER_STARTING] =
	    {
		[EVENT_DUE] = STAY(STARTING),
		[EVENT_READY] = {WORKER_READY, ACTION_WELCOME},
		[EVENT_STOP] = {WORKER_STOPPING, ACTION_STOP},
		[EVENT_STOPPED] = {WORKER_STARTING, ACTION_KILL}, /* nobody asked */
		[EVENT_CLOSED] = {WORKER_STARTING, ACTION_KILL},
		[EVENT_OVERDUE] = {WORKER_STARTING, ACTION_KILL},
		[EVENT_DIED] = {WORKER_DOWN, ACTION_RESTART},
	    },
	[WORKER_READY] =
	    {
		[EVENT_DUE] = STAY(READY),
		[EVENT_READY] = STAY(READY),
		[EVENT_STOP] = {WORKER_STOPPING, ACTION_STOP},
		[EVENT_STOPPED] = {WORKER_READY, ACTION_KILL},
		[EVENT_CLOSED] = {WORKER_READY, ACTION_KILL},
		[EVENT_OVERDUE] = {WORKER_READY, ACTION_KILL},
		[EVENT_DIED] = {WORKER_DOWN, ACTION_RESTART},
	    },
	[WORKER_STOPPING] =
	    {
		[EVENT_DUE] = STAY(STOPPING),
		[EVENT_READY] = STAY(STOPPING), /* STOP overtook it */
		[EVENT_STOP] = STAY(STOPPING),
		[EVENT_STOPPED] = {WORKER_ENDING, ACTION_CLOSE},
		[EVENT_CLOSED] = {WORKER_KILLED, ACTION_KILL},
		[EVENT_OVERDUE] = {WORKER_KILLED, ACTION_KILL},
		[EVENT_DIED] = {WORKER_GONE, ACTION_FORGET},
	    },
	[WORKER_ENDING] =
	    {
		[EVENT_DUE] = STAY(ENDING),
		[EVENT_READY] = STAY(ENDING),
		[EVENT_STOP] = STAY(ENDING),
		[EVENT_STOPPED] = STAY(ENDING),
		[EVENT_CLOSED] = STAY(ENDING),
		[EVENT_OVERDUE] = {WORKER_KILLED, ACTION_KILL},
		[EVENT_DIED] = {WORKER_GONE, ACTION_FORGET},
	    },
	[WORKER_KILLED] =
	    {
		[EVENT_DUE] = STAY(KILLED),
		[EVENT_READY] = STAY(KILLED),
		[EVENT_STOP] = STAY(KILLED),
		[EVENT_STOPPED] = STAY(KILLED),
		[EVENT_CLOSED] = STAY(KILLED),
		[EVENT_OVERDUE] = STAY(KILLED),
		[EVENT_DIED] = {WORKER_GONE, ACTION_FORGET},
	    },
	[WORKER_GONE] =
	    {
		[EVENT_DUE] = STAY(GONE),
		[EVENT_READY] = STAY(GONE),
		[EVENT_STOP] = STAY(GONE),
		[EVENT_STOPPED] = STAY(GONE),
		[EVENT_CLOSED] = STAY(GONE),
		[EVENT_OVERDUE] = STAY(GONE),
		[EVENT_DIED] = STAY(GONE),
	    },
};

struct worker_step state_step(enum worker_state state, enum worker_event event)
{
	must(state < WORKER_STATE_COUNT && event < WORKER_EVENT_COUNT);
	return steps[state][event];
}

const char *state_name(enum worker_state state)
{
	static const char *const names[WORKER_STATE_COUNT] = {
	    "down", "starting", "ready", "stopping", "ending", "killed", "gone"};
	return state < WORKER_STATE_COUNT ? names[state] : "?";
}

bool state_has_process(enum worker_state state)
{
	return state != WORKER_DOWN && state != WORKER_GONE;
}

void restart_plan(int64_t *delay_ms, int64_t ready_ms, int64_t died_ms)
{
	bool healthy = ready_ms >= 0 && died_ms - ready_ms >= RESTART_HEALTHY_MS;
	if (healthy)
		*delay_ms = 0;
	else if (*delay_ms == 0)
		*delay_ms = RESTART_FIRST_MS;
	else
		*delay_ms = *delay_ms >= RESTART_MAX_MS / 2 ? RESTART_MAX_MS : *delay_ms * 2;
}

bool heartbeat_overdue(const struct heartbeat *h, int64_t now_ms, int64_t limit_ms, bool starting)
{
	return now_ms - h->answered_ms > limit_ms * (starting ? HEARTBEAT_START_FACTOR : 1);
}

int64_t heartbeat_lateness(int64_t last_tick_ms, int64_t now_ms, int64_t interval_ms)
{
	int64_t late = now_ms - last_tick_ms - interval_ms;
	return late > interval_ms / 2 ? late : 0;
}

bool death_is_own(int signo, bool killed_overdue)
{
	switch (signo) {
	case SIGSEGV:
	case SIGABRT:
	case SIGBUS:
	case SIGSYS:
	case SIGILL:
	case SIGFPE:
		return true;
	case SIGKILL: /* ours only: an operator's, or the kernel's for want of memory, says nothing
		       */
		return killed_overdue;
	default:
		return false;
	}
}

/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdbool.h>
#include <stdint.h>
/*
 * The decisions about one worker, pure: which state an event leads to and what is to be done; how
 * long to wait before the next start; whether its heartbeat is overdue.
 */
enum worker_state {
	WORKER_DOWN,	 /* no process; a start is due at once or after a delay */
	WORKER_STARTING, /* started and handed everything; has not said READY */
	WORKER_READY,
	WORKER_STOPPING, /* STOP was sent; it finishes or hands back */
	WORKER_ENDING,	 /* STOPPED came and its channel is closed; it exits by itself */
	WORKER_KILLED,	 /* SIGKILL was sent; waits for its death */
	WORKER_GONE,	 /* no process, and none is wanted any more */
	WORKER_STATE_COUNT
};
enum worker_event {
	EVENT_DUE,     /* the time for a start has come */
	EVENT_READY,   /* it said READY */
	EVENT_STOP,    /* it is not wanted any more */
	EVENT_STOPPED, /* it said STOPPED */
	EVENT_CLOSED,  /* its channel closed: end of file or a lie */
	EVENT_OVERDUE, /* no answer to heartbeats, or not stopped in time */
	EVENT_DIED,    /* reaped */
	WORKER_EVENT_COUNT
};
enum worker_action {
	ACTION_NONE,
	ACTION_SPAWN,	/* start a process */
	ACTION_WELCOME, /* it is ready: tell systemd, forget the delay later */
	ACTION_STOP,	/* send STOP */
	ACTION_CLOSE,	/* close its channel, so that it exits */
	ACTION_KILL,	/* SIGKILL */
	ACTION_RESTART, /* it died unasked: log, blame, plan the next start */
	ACTION_FORGET,	/* it died as wanted */
	ACTION_LATE	/* the event means nothing here (any more) */
};
struct worker_step {
	enum worker_state next;
	enum worker_action action;
};
struct worker_step state_step(enum worker_state state, enum worker_event event);
const char *state_name(enum worker_state state);
bool state_has_process(enum worker_state state);

/* The wait before a generation that follows one of the given life. ready_ms < 0: it never was.
 * Times are monotonic. *delay_ms is the wait used last, 0 after a healthy life. */
enum { RESTART_FIRST_MS = 100, RESTART_MAX_MS = 60000, RESTART_HEALTHY_MS = 1000 };
void restart_plan(int64_t *delay_ms, int64_t ready_ms, int64_t died_ms);

/* Heartbeats of one worker. Only time in which master itself ran counts: heartbeat_shift() moves
 * the deadline by what master was late. A starting worker has longer (recovery of a large spool).
 */
enum { HEARTBEAT_START_FACTOR = 10 };
struct heartbeat {
	int64_t answered_ms; /* when it last answered, or was started */
};
bool heartbeat_overdue(const struct heartbeat *h, int64_t now_ms, int64_t limit_ms, bool starting);
/* How late master is at a tick that was due interval_ms after the last one: 0 when within the
 * slack. */
int64_t heartbeat_lateness(int64_t last_tick_ms, int64_t now_ms, int64_t interval_ms);

/* A death that says something about the message in hand. killed_overdue: by us for its silence. */
bool death_is_own(int signo, bool killed_overdue);

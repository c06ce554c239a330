/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "master/master.h"
#include <stdio.h>
/*
 * Who is alive. master sends each worker a PING every heartbeat-interval; one that has not answered
 * for heartbeat-timeout is killed, and what it had in hand is blamed. Time in which master itself
 * did not run (a suspended machine, a stopped process, a stalled disk under its log) is not counted
 * against anybody.
 *
 * systemd is told: READY once all workers have been ready; EXTEND_TIMEOUT_USEC while a recovery
 * takes long; the watchdog at half its time as long as no worker is overdue. An overdue worker is
 * killed by us first; only one that does not even die, or a master that does not run, lets the
 * watchdog bite.
 */
enum {
	STATUS_DELAY_MS = 500, /* gathers changes: one STATUS datagram, not one a summary */
	EXTEND_MS = 30000,     /* beyond the next heartbeat */
	STATUS_MAX = 700,
};

static int64_t interval_ms(const struct master *m)
{
	return conf_num(m->generation->conf->root, CO_GLOBAL_heartbeat_interval);
}

/* Never less than two intervals, or the answer to a PING would come too late by itself. */
static int64_t limit_ms(const struct master *m)
{
	int64_t limit = conf_num(m->generation->conf->root, CO_GLOBAL_heartbeat_timeout);
	return limit > 2 * interval_ms(m) ? limit : 2 * interval_ms(m);
}

static bool is_overdue(const struct slot *s, int64_t now)
{
	if (!state_has_process(s->state) || s->state == WORKER_ENDING)
		return false; /* an ending one has no channel; its own timer watches it */
	return heartbeat_overdue(
	    &s->heartbeat, now, limit_ms(s->master), s->state == WORKER_STARTING);
}

static void beat(struct slot *s, int64_t now)
{
	struct master *m = s->master;
	if (is_overdue(s, now) && !s->killed_overdue) {
		s->killed_overdue = true;
		s->why_killed = "it does not answer heartbeats";
		supervise_event(s, EVENT_OVERDUE);
	} else if (s->chan) {
		chan_send_ping(s->chan, &(struct msg_ping){.sequence = m->ping_sequence});
	}
}

static void on_tick(void *arg)
{
	struct master *m = arg;
	int64_t now = clock_mono_ms();
	int64_t late = heartbeat_lateness(m->last_tick_ms, now, interval_ms(m));
	m->last_tick_ms = now;
	m->ping_sequence++;
	for (size_t i = 0; i < m->slot_count; i++) {
		m->slots[i]->heartbeat.answered_ms += late;
		beat(m->slots[i], now);
	}
	if (!m->announced && !m->stopping.active)
		notify_send(&m->notify, "EXTEND_TIMEOUT_USEC=%lld",
		    (long long)(interval_ms(m) + EXTEND_MS) * 1000);
	loop_timer_after(m->loop, &m->heartbeat, interval_ms(m), on_tick, m);
}

void beat_answered(struct slot *s)
{
	s->heartbeat.answered_ms = clock_mono_ms();
}

static void on_watchdog(void *arg)
{
	struct master *m = arg;
	int64_t now = clock_mono_ms();
	int64_t late =
	    heartbeat_lateness(m->last_tick_ms, now, interval_ms(m)); /* counted at the next tick */
	bool healthy = true;
	for (size_t i = 0; i < m->slot_count; i++)
		healthy = healthy && !is_overdue(m->slots[i], now - late);
	if (healthy)
		notify_send(&m->notify, "WATCHDOG=1");
	loop_timer_after(m->loop, &m->watchdog, m->notify.watchdog_ms / 2, on_watchdog, m);
}

/* --- the status line
 * ------------------------------------------------------------------------------ */

static size_t count_ready(const struct master *m, size_t *all)
{
	size_t ready = 0;
	*all = 0;
	for (size_t i = 0; i < m->slot_count; i++) {
		ready += m->slots[i]->state == WORKER_READY;
		*all += m->slots[i]->state != WORKER_GONE;
	}
	return ready;
}

static void send_status(struct master *m)
{
	char text[STATUS_MAX];
	size_t all, ready = count_ready(m, &all);
	int n = snprintf(text, sizeof(text), "%s%zu of %zu workers ready",
	    m->stopping.active ? "stopping, " : "", ready, all);
	for (size_t i = 0; i < m->slot_count && n > 0 && (size_t)n < sizeof(text); i++)
		if (m->slots[i]->summary[0] && m->slots[i]->process == PROC_qmgr)
			n += snprintf(
			    text + n, sizeof(text) - (size_t)n, "; %s", m->slots[i]->summary);
	notify_send(&m->notify, "STATUS=%s", text);
}

static void on_status(void *arg)
{
	struct master *m = arg;
	m->status_changed = false;
	send_status(m);
}

void beat_status(struct master *m)
{
	size_t all, ready = count_ready(m, &all);
	if (!m->announced && !m->stopping.active && all > 0 && ready == all) {
		m->announced = true;
		log_echo(false);
		log_info("ready: %zu workers, %zu listeners", all, m->generation->listener_count);
		notify_send(&m->notify, "READY=1");
	}
	if (m->status_changed)
		return;
	m->status_changed = true;
	loop_timer_after(m->loop, &m->status, STATUS_DELAY_MS, on_status, m);
}

void beat_start(struct master *m)
{
	m->last_tick_ms = clock_mono_ms();
	loop_timer_after(m->loop, &m->heartbeat, interval_ms(m), on_tick, m);
	if (m->notify.watchdog_ms > 0)
		loop_timer_after(m->loop, &m->watchdog, m->notify.watchdog_ms / 2, on_watchdog, m);
}

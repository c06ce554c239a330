/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "master/master.h"
#include <stdio.h>
#include <sysexits.h>
/*
 * The ordered end, within 30 s. First those who speak with the outside finish what is on the wire
 * or hand it back (smtpd, smtp-out); then those who help (bouncer, resolver); qmgr last, since all
 * the others tell it what became of their work. A phase begins when the last process of the one
 * before is gone: so qmgr has read to the end of every channel and sealed every segment before its
 * own STOP.
 *
 * Each phase has a time by which it is over; what is left then is killed, which is as safe as a
 * kill at any other moment. A second signal means now. The spool is marked clean only when qmgr has
 * said STOPPED and exited with 0.
 */
static const struct {
	unsigned processes;
	int64_t until_ms; /* from the beginning of the stop */
} phases[] = {
    {1U << PROC_smtpd | 1U << PROC_smtp_out, 22000},
    {1U << PROC_bouncer | 1U << PROC_resolver, 25000},
    {1U << PROC_qmgr, 29000},
};
enum {
	TO_EXIT_MS = 500,    /* of each phase: from STOPPED to the exit */
	LAST_WAIT_MS = 1000, /* for killed processes that do not die (a stalled disk) */
};

static bool in_phase(const struct slot *s, unsigned phase)
{
	return phase < COUNT_OF(phases) && (phases[phase].processes >> s->process & 1U) != 0;
}

static bool phase_is_over(const struct master *m)
{
	for (size_t i = 0; i < m->slot_count; i++)
		if (in_phase(m->slots[i], m->stopping.phase) && m->slots[i]->pid > 0)
			return false;
	return true;
}

static void finish(struct master *m)
{
	if (m->qmgr_clean)
		boot_end(&m->dirs);
	log_info("stopped%s",
	    m->qmgr_clean ? "" : ", but qmgr did not end in order: the next start recovers");
	loop_stop(m->loop);
}

static void on_last_wait_over(void *arg)
{
	struct master *m = arg;
	log_error("a killed worker does not die: leaving without it");
	m->exit_status = EX_TEMPFAIL;
	finish(m);
}

static void kill_all(struct master *m, const char *why)
{
	for (size_t i = 0; i < m->slot_count; i++)
		supervise_kill(m->slots[i], why);
	loop_timer_after(m->loop, &m->stopping.timer, LAST_WAIT_MS, on_last_wait_over, m);
}

static void on_phase_over(void *arg)
{
	struct master *m = arg;
	for (size_t i = 0; i < m->slot_count; i++)
		if (in_phase(m->slots[i], m->stopping.phase))
			supervise_kill(m->slots[i], "it did not stop in time");
	if (m->stopping.phase + 1 == COUNT_OF(phases))
		loop_timer_after(m->loop, &m->stopping.timer, LAST_WAIT_MS, on_last_wait_over, m);
	else
		loop_timer_at(m->loop, &m->stopping.timer,
		    m->stopping.began_ms + phases[COUNT_OF(phases) - 1].until_ms, on_last_wait_over,
		    m);
}

static void begin_phase(struct master *m)
{
	int64_t left = m->stopping.began_ms + phases[m->stopping.phase].until_ms - clock_mono_ms();
	int64_t within = left > 2 * TO_EXIT_MS ? left - TO_EXIT_MS : TO_EXIT_MS;
	for (size_t i = 0; i < m->slot_count; i++)
		if (in_phase(m->slots[i], m->stopping.phase))
			supervise_stop(m->slots[i], within);
	loop_timer_after(m->loop, &m->stopping.timer, left > 0 ? left : 0, on_phase_over, m);
}

void stop_progress(struct master *m)
{
	if (!m->stopping.active)
		return;
	while (m->stopping.phase < COUNT_OF(phases) && phase_is_over(m)) {
		m->stopping.phase++;
		if (m->stopping.phase == COUNT_OF(phases)) {
			loop_timer_cancel(m->loop, &m->stopping.timer);
			finish(m);
			return;
		}
		begin_phase(m);
	}
}

void stop_begin(void *arg)
{
	struct master *m = arg;
	if (m->stopping.active) {
		log_warn("asked again to stop: killing what is left");
		kill_all(m, "the stop is to be at once");
		return;
	}
	log_info("stopping");
	m->stopping.active = true;
	m->stopping.began_ms = clock_mono_ms();
	reload_abandon(m);
	notify_send(&m->notify, "STOPPING=1");
	begin_phase(m);
	stop_progress(m);
}

/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "common/record.h"
#include "master/master.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * The slots of the workers: what each event does to one. state.c decides, this file acts. A slot is
 * a place, process × instance; generations of processes come and go in it, its control socket
 * stays.
 *
 * Starting is done in two steps for all that are due together: first every process, then the
 * handing over, so that a START is never read before the channels to all colleagues that live
 * already.
 *
 * While a reload waits for answers nothing is started: a new process would get a configuration that
 * may change under it. That is five seconds at most.
 */
enum {
	DRAIN_MS =
	    300000,	/* a worker that is one too many after a reload may finish what it does */
	END_MS = 5000,	/* from the end of its channel to its exit */
	CORES_MAX = 64, /* the options' bound */
};

enum { ONE, PER_CORE };
static const struct {
	const char *file;
	int instances;
} processes[PROC_COUNT] = {
#define PROC(id, file, user, instances, root) [PROC_##id] = {file, instances},
#include "common/procs.def"
#undef PROC
};

const char *slot_name(const struct slot *s, char out[32])
{
	snprintf(out, 32, "%s.%u", proc_name(s->process), s->instance);
	return out;
}

static size_t wanted_instances(const struct master *m, enum proc_id process)
{
	const struct conf_node *root = m->generation->conf->root;
	int64_t n = 0;
	if (processes[process].instances == ONE)
		return 1;
	if (process == PROC_smtpd)
		n = conf_num(root, CO_GLOBAL_smtpd_processes);
	else if (process == PROC_smtp_out)
		n = conf_num(root, CO_GLOBAL_smtp_out_processes);
	if (n <= 0)
		n = sysconf(_SC_NPROCESSORS_ONLN);
	return n < 1 ? 1 : n > CORES_MAX ? CORES_MAX : (size_t)n;
}

static bool is_wanted(const struct slot *s)
{
	return !s->master->stopping.active && s->instance < wanted_instances(s->master, s->process);
}

/* --- starting
 * ------------------------------------------------------------------------------------- */

static void plan_start(struct slot *s, int64_t delay_ms)
{
	s->due_ms = loop_now_ms(s->master->loop) + delay_ms;
	loop_timer_at(s->master->loop, &s->timer, s->due_ms, supervise_run, s->master);
}

static void start_process(struct slot *s)
{
	char name[32];
	s->generation++;
	s->started_ms = s->heartbeat.answered_ms = clock_mono_ms();
	s->ready_ms = -1;
	s->killed_overdue = s->said_stopped = s->asked_config = false;
	s->why_killed = NULL;
	s->summary[0] = '\0';
	int rc = spawn_worker(s);
	if (rc == 0) {
		s->fresh = true;
		return;
	}
	s->state = WORKER_DOWN;
	restart_plan(&s->delay_ms, -1, s->started_ms);
	log_error("cannot start %s: %s; next try in %.1f s", slot_name(s, name),
	    strerrordesc_np(-rc), (double)s->delay_ms / 1000);
	plan_start(s, s->delay_ms);
}

/* Links each fresh slot with all that live; two fresh ones only once. */
static void link_fresh(struct master *m, size_t i)
{
	for (size_t j = 0; j < m->slot_count; j++)
		if (j != i && (!m->slots[j]->fresh || j > i))
			handover_link(m->slots[i], m->slots[j]);
}

static void hand_over(struct master *m)
{
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->fresh)
			handover_begin(m->slots[i]);
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->fresh)
			link_fresh(m, i);
	for (size_t i = 0; i < m->slot_count; i++) {
		if (m->slots[i]->fresh)
			handover_start(m->slots[i]);
		m->slots[i]->fresh = false;
	}
}

void supervise_run(void *master)
{
	struct master *m = master;
	if (m->reload.next || m->stopping.active)
		return;
	int64_t now = loop_now_ms(m->loop);
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->state == WORKER_DOWN && m->slots[i]->due_ms <= now)
			supervise_event(m->slots[i], EVENT_DUE);
	hand_over(m);
	beat_status(m);
}

/* --- stopping
 * ----------------------------------------------------------------------------------------- */

static void on_patience_over(void *arg)
{
	struct slot *s = arg;
	s->why_killed = "it did not stop in time";
	supervise_event(s, EVENT_OVERDUE);
}

void supervise_stop(struct slot *s, int64_t within_ms)
{
	enum worker_state before = s->state;
	supervise_event(s, EVENT_STOP);
	if (s->state != WORKER_STOPPING)
		return;
	if (s->chan)
		chan_send_stop(s->chan, &(struct msg_stop){.deadline_ms = (uint32_t)within_ms});
	else if (before != WORKER_STOPPING) /* already dying */
		supervise_event(s, EVENT_CLOSED);
	loop_timer_after(s->master->loop, &s->timer, within_ms, on_patience_over, s);
}

static void close_channel(struct slot *s)
{
	chan_free(&s->chan);
	loop_timer_after(s->master->loop, &s->timer, END_MS, on_patience_over, s);
}

void supervise_kill(struct slot *s, const char *why)
{
	char name[32];
	if (s->pid <= 0)
		return;
	if (!s->why_killed)
		s->why_killed = why;
	if (!s->why_killed) /* its channel's end is what its death looks like first: say nothing yet
			     */
		s->why_killed = "";
	else if (s->why_killed[0])
		log_error("killing %s (pid %d): %s", slot_name(s, name), s->pid, s->why_killed);
	kill(s->pid, SIGKILL);
}

/* --- the life of one slot
 * ------------------------------------------------------------------------------- */

static void forget(struct slot *s)
{
	char path[PATH_MAX];
	loop_timer_cancel(s->master->loop, &s->timer);
	if (is_wanted(s)) { /* another reload wants it again */
		s->state = WORKER_DOWN;
		s->delay_ms = 0;
		plan_start(s, 0);
		return;
	}
	if (s->control_fd >= 0)
		close(s->control_fd);
	s->control_fd = -1;
	snprintf(path, sizeof(path), "%s/%s.%u.sock", s->master->dirs.run,
	    processes[s->process].file, s->instance);
	unlink(path);
}

static void plan_restart(struct slot *s)
{
	int64_t now = loop_now_ms(s->master->loop);
	s->deaths++;
	restart_plan(&s->delay_ms, s->ready_ms, now);
	plan_start(s, s->delay_ms);
}

static void welcome(struct slot *s)
{
	struct master *m = s->master;
	s->ready_ms = clock_mono_ms();
	if (s->process == PROC_qmgr && m->unclean) {
		m->unclean = false;
		boot_recovered(&m->dirs);
	}
	if (s->process == PROC_qmgr)
		m->rebuild = false; /* done: a later generation must not do it again */
	beat_status(m);
}

void supervise_event(struct slot *s, enum worker_event event)
{
	struct worker_step step = state_step(s->state, event);
	s->state = step.next;
	switch (step.action) {
	case ACTION_SPAWN:
		start_process(s);
		break;
	case ACTION_WELCOME:
		welcome(s);
		break;
	case ACTION_CLOSE:
		close_channel(s);
		break;
	case ACTION_KILL:
		supervise_kill(s, NULL);
		break;
	case ACTION_RESTART:
		plan_restart(s);
		break;
	case ACTION_FORGET:
		forget(s);
		break;
	case ACTION_NONE: /* it was down and is not wanted any more */
		forget(s);
		break;
	case ACTION_STOP: /* supervise_stop() says by when */
	case ACTION_LATE:
		break;
	}
	beat_status(s->master);
}

/* --- deaths
 * ------------------------------------------------------------------------------------------------
 */

static void describe_death(const struct slot *s, int status, char *out, size_t size)
{
	const char *why = s->why_killed && s->why_killed[0] ? s->why_killed : NULL;
	if (!WIFSIGNALED(status))
		snprintf(out, size, "exited with status %d", WEXITSTATUS(status));
	else if (WTERMSIG(status) == SIGSYS)
		snprintf(
		    out, size, "made a system call that its filter forbids (signal %d)", SIGSYS);
	else
		snprintf(out, size, "was killed by signal %d (%s)%s%s", WTERMSIG(status),
		    sigdescr_np(WTERMSIG(status)), why ? ": " : "", why ? why : "");
}

static void blame(struct slot *s, uint64_t id)
{
	struct master *m = s->master;
	char name[32], text[RECORD_ID_TEXT];
	uint8_t deaths = blame_add(&m->blame, id);
	blame_save(&m->blame, &m->dirs);
	record_id_print(text, id);
	if (deaths >= BLAME_DEATHS_MAX)
		log_error("message %s was in the hands of %s at its death, as at %u before: it is "
			  "set aside",
		    text, slot_name(s, name), deaths - 1u);
	else
		log_warn("message %s was in the hands of %s at its death (%u of %d)", text,
		    slot_name(s, name), deaths, BLAME_DEATHS_MAX);
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i] != s)
			handover_poison(m->slots[i], &(struct blame_entry){id, deaths});
}

static void log_death(const struct slot *s, pid_t pid, int status, bool asked)
{
	char name[32], how[200];
	describe_death(s, status, how, sizeof(how));
	slot_name(s, name);
	if (asked && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (asked)
		log_warn("%s (pid %d) %s", name, pid, how);
	else if (s->delay_ms == 0)
		log_error("%s (pid %d) %s; starting it again", name, pid, how);
	else
		log_error("%s (pid %d) %s; starting it again in %.1f s", name, pid, how,
		    (double)s->delay_ms / 1000);
}

static void died(struct slot *s, int status)
{
	struct master *m = s->master;
	pid_t pid = s->pid;
	int signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	uint64_t id = death_is_own(signo, s->killed_overdue) ? blame_read(s->blame_fd) : 0;
	bool asked =
	    s->state == WORKER_STOPPING || s->state == WORKER_ENDING || s->state == WORKER_KILLED;
	if (s->blame_fd >= 0)
		close(s->blame_fd);
	s->blame_fd = -1;
	s->pid = 0;
	s->fresh = false;
	chan_free(&s->chan);
	if (s->process == PROC_qmgr)
		m->qmgr_clean = s->said_stopped && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	supervise_event(s, EVENT_DIED);
	log_death(s, pid, status, asked);
	if (id != 0)
		blame(s, id);
	reload_died(s);
	stop_progress(m);
}

static struct slot *slot_of(struct master *m, pid_t pid)
{
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->pid == pid)
			return m->slots[i];
	return NULL;
}

void supervise_reap(void *master)
{
	struct master *m = master;
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
		struct slot *s = slot_of(m, pid);
		if (s)
			died(s, status);
	}
	supervise_run(m);
}

/* --- slots
 * ----------------------------------------------------------------------------------------------------
 */

static struct slot *find_slot(struct master *m, enum proc_id process, size_t instance)
{
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->process == process && m->slots[i]->instance == instance)
			return m->slots[i];
	return NULL;
}

static struct slot *new_slot(struct master *m, enum proc_id process, size_t instance)
{
	must(m->slot_count < SLOTS_MAX);
	struct slot *s = xcalloc(1, sizeof(*s));
	s->master = m;
	s->process = process;
	s->instance = (uint16_t)instance;
	s->state = WORKER_GONE;
	s->blame_fd = s->control_fd = -1;
	m->slots[m->slot_count++] = s;
	return s;
}

static void open_control(struct slot *s)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s.%u.sock", s->master->dirs.run,
	    processes[s->process].file, s->instance);
	int rc = listen_control(path, &s->control_fd);
	if (rc != 0)
		log_error("cannot make control socket %s: %s", path, strerrordesc_np(-rc));
}

void supervise_fit(struct master *m)
{
	for (unsigned p = 1; p < PROC_COUNT; p++)
		for (size_t i = 0; i < wanted_instances(m, p); i++) {
			struct slot *s = find_slot(m, p, i);
			if (!s)
				s = new_slot(m, p, i);
			if (s->state != WORKER_GONE)
				continue;
			open_control(s);
			s->state = WORKER_DOWN;
			s->delay_ms = 0;
			plan_start(s, 0);
		}
	for (size_t i = 0; i < m->slot_count; i++)
		if (!is_wanted(m->slots[i]) && m->slots[i]->state <= WORKER_READY)
			supervise_stop(m->slots[i], DRAIN_MS);
}

/* --- what workers say; ctx is the slot
 * ------------------------------------------------------------------------- */

static void on_channel_hello(void *ctx, struct chan *chan, const struct msg_hello *hello)
{
	const struct slot *s = ctx;
	if (hello->process != s->process || hello->instance != s->instance ||
	    hello->generation != s->generation)
		chan_close(chan, "it says it is somebody else");
}

static void on_channel_close(void *ctx, struct chan *chan, const char *why)
{
	struct slot *s = ctx;
	char name[32];
	s->chan = NULL;
	if (!chan_peer_gone(chan) && s->state != WORKER_ENDING) {
		log_error("the channel of %s (pid %d) closes: %s", slot_name(s, name), s->pid, why);
		s->why_killed = "its channel closed";
	}
	supervise_event(s, EVENT_CLOSED);
}

static msg_dispatch_fn *const dispatch[] = {msg_to_master, NULL};
const struct chan_spec supervise_chan = {.peer_roles = ROLE_worker,
    .dispatch = dispatch,
    .on_close = on_channel_close,
    .on_hello = on_channel_hello};

void on_config_ready(void *ctx, struct chan *from_chan, struct msg_config_ready *m)
{
	(void)from_chan;
	reload_answered(ctx, m->config, m->ok != 0, m->why);
}

void on_ready(void *ctx, struct chan *from_chan, struct msg_ready *m)
{
	(void)from_chan;
	(void)m;
	supervise_event(ctx, EVENT_READY);
}

void on_pong(void *ctx, struct chan *from_chan, struct msg_pong *m)
{
	(void)from_chan;
	(void)m;
	beat_answered(ctx);
}

/* qmgr has closed the channel of a worker that lied, or that it does not understand. Both know less
 * of each other than they must, so that one begins anew; whatever message it had is not to blame.
 */
void on_fault(void *ctx, struct chan *from_chan, struct msg_fault *m)
{
	const struct slot *from = ctx;
	char name[32], why[201];
	if (from->process != PROC_qmgr || m->process == PROC_qmgr || m->process >= PROC_COUNT) {
		chan_close(from_chan, "it may not accuse that process");
		return;
	}
	struct slot *s = find_slot(from->master, m->process, m->instance);
	if (!s || s->generation != m->generation || s->pid <= 0)
		return; /* gone meanwhile */
	log_clean(why, sizeof(why), m->why);
	log_error("qmgr says that %s broke the protocol: %s", slot_name(s, name), why);
	if (!s->why_killed)
		s->why_killed = "it broke the protocol";
	supervise_event(s, EVENT_OVERDUE);
}

void on_summary(void *ctx, struct chan *from_chan, struct msg_summary *m)
{
	struct slot *s = ctx;
	(void)from_chan;
	log_clean(s->summary, sizeof(s->summary), m->text);
	beat_status(s->master);
}

void on_stopped(void *ctx, struct chan *from_chan, struct msg_stopped *m)
{
	struct slot *s = ctx;
	(void)from_chan;
	(void)m;
	s->said_stopped = s->state == WORKER_STOPPING;
	supervise_event(s, EVENT_STOPPED);
}

/* SPDX-License-Identifier: ISC */
#include "common/log.h"
#include "master/master.h"
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * A new configuration while mail flows, by SIGHUP or `posternctl master reload`:
 *
 *   load and open everything → offer it to every worker → all have prepared it → switch
 *
 * Up to the switch nothing has changed anywhere (new sockets do not even listen), so any problem
 * (an error in a file, a port in use, a worker that refuses, dies or says nothing for ANSWER_MS)
 * drops the new generation and the old one goes on. The switch is one frame to each worker behind
 * which come the files opened anew. Running connections stay.
 *
 * What cannot change under running workers is refused: the spool and the run directory, and the
 * numeric users.
 */
enum {
	ANSWER_MS = 5000,
	ERRORS_MAX =
	    1048576, /* of text about a configuration: stops a large wrong file from filling us */
};

static const enum conf_opt fixed[] = {
    CO_GLOBAL_spool_directory, CO_GLOBAL_run_directory, CO_GLOBAL_worker_uid_base};

static void refuse_fixed(const struct master *m, const struct conf *next, struct buf *errors)
{
	const struct conf *now = m->generation->conf;
	for (size_t i = 0; i < COUNT_OF(fixed); i++) {
		char origin[512];
		if (strcmp(conf_text(now->root, fixed[i]), conf_text(next->root, fixed[i])) == 0 &&
		    conf_num(now->root, fixed[i]) == conf_num(next->root, fixed[i]))
			continue;
		conf_origin(next, conf_get(next->root, fixed[i]), origin);
		buf_printf(errors, "%s: %s cannot change while running: stop and start\n", origin,
		    conf_opt_key(fixed[i]));
	}
}

/* The end of a reload, good or bad: says so to the log and to whoever asked. */
static void conclude(struct master *m, int status, const struct buf *errors)
{
	struct control_reply *reply = m->reload.reply;
	struct str left = {(const char *)errors->p, errors->n};
	loop_timer_cancel(m->loop, &m->reload.timer);
	m->reload.reply = NULL;
	for (size_t i = 0; i < m->slot_count; i++)
		m->slots[i]->asked_config = false;
	while (left.n > 0) {
		struct str line = str_cut(&left, '\n');
		char text[1024];
		log_clean(text, sizeof(text), line);
		log_error("reload: %s", text);
		if (reply)
			control_row(reply, json_pack("{s:s}", "error", text));
	}
	if (status != 0)
		log_error("reload failed: configuration %u stays in use", m->generation->number);
	else
		log_info("configuration %u is in use", m->generation->number);
	if (reply && status != 0)
		control_end(reply, status, "reload failed: nothing has changed");
	else if (reply)
		control_end(reply, 0, "%s", "");
	if (m->reload.again) {
		m->reload.again = false;
		reload_by_signal(m);
		return;
	}
	supervise_run(m);
}

static void abort_reload(struct master *m, const char *who, const char *why)
{
	struct buf errors;
	buf_init(&errors, ERRORS_MAX);
	buf_printf(&errors, "%s: %s\n", who, why);
	generation_free(&m->reload.next);
	conclude(m, EX_CONFIG, &errors);
	buf_fini(&errors);
}

void reload_abandon(struct master *m)
{
	if (m->reload.next)
		abort_reload(m, "postern-master", "the suite is stopping");
}

static void take_over(struct slot *s, const struct generation *g)
{
	if (!s->chan)
		return;
	handover_log(s, g);
	if (s->state > WORKER_READY)
		return; /* it ends with the configuration that it has */
	handover_listeners(s, g);
	chan_send_config_switch(s->chan, &(struct msg_config_switch){.config = g->number});
	handover_accounting(s, g);
}

static void switch_over(struct master *m)
{
	struct generation *old = m->generation;
	struct buf errors;
	buf_init(&errors, ERRORS_MAX);
	if (generation_listen(m->reload.next, &errors) != 0) {
		generation_free(&m->reload.next);
		conclude(m, EX_CONFIG, &errors);
		buf_fini(&errors);
		return;
	}
	m->generation = m->reload.next;
	m->reload.next = NULL;
	for (size_t i = 0; i < m->slot_count; i++)
		take_over(m->slots[i], m->generation);
	log_open("master", m->generation->log_fd >= 0 ? m->generation->log_fd : STDERR_FILENO,
	    m->generation->log_fd >= 0);
	generation_free(&old);
	rotate_begin(m);
	supervise_fit(m);
	conclude(m, 0, &errors);
	buf_fini(&errors);
}

static struct slot *who_is_missing(struct master *m)
{
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->asked_config)
			return m->slots[i];
	return NULL;
}

static void on_too_late(void *arg)
{
	struct master *m = arg;
	char name[32];
	struct slot *s = who_is_missing(m);
	abort_reload(m, s ? slot_name(s, name) : "?", "did not answer within 5 s");
}

static void offer(struct master *m)
{
	for (size_t i = 0; i < m->slot_count; i++) {
		struct slot *s = m->slots[i];
		if (!s->chan || (s->state != WORKER_STARTING && s->state != WORKER_READY))
			continue;
		s->asked_config = true;
		handover_secrets(s, m->reload.next, true);
		handover_config(s, m->reload.next);
	}
	loop_timer_after(m->loop, &m->reload.timer, ANSWER_MS, on_too_late, m);
	if (!who_is_missing(m))
		switch_over(m);
}

static void begin(struct master *m)
{
	struct buf errors;
	buf_init(&errors, ERRORS_MAX);
	struct conf *conf = conf_load(m->conf_path, &errors);
	if (conf) {
		conf_fill_defaults(conf);
		refuse_fixed(m, conf, &errors);
	}
	if (conf && errors.n == 0)
		m->reload.next = generation_open(conf, ++m->last_number, m->generation, &errors);
	else
		conf_free(&conf);
	if (m->reload.next)
		offer(m);
	else
		conclude(m, EX_CONFIG, &errors);
	buf_fini(&errors);
}

void reload_by_signal(void *arg)
{
	struct master *m = arg;
	if (m->stopping.active)
		return;
	if (m->reload.next)
		m->reload.again = true;
	else
		begin(m);
}

static void on_asker_gone(void *arg)
{
	struct master *m = arg;
	m->reload.reply = NULL;
}

void reload_by_control(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct master *m = ctx;
	(void)args;
	(void)options;
	if (m->reload.next || m->stopping.active) {
		control_end(reply, EX_TEMPFAIL, "%s",
		    m->stopping.active ? "the suite is stopping"
				       : "a reload is going on: try again");
		return;
	}
	m->reload.reply = reply;
	control_later(reply, on_asker_gone, m);
	begin(m);
}

/* A refusal of the very first configuration is a bad start: the operator sees it, and nothing
 * restarts in circles. Later, it can only come from a worker that was just restarted; it waits its
 * delay. */
static void first_refused(struct slot *s, const char *why)
{
	struct master *m = s->master;
	char name[32];
	log_error("%s refuses the configuration: %s", slot_name(s, name), why);
	if (m->announced || m->stopping.active) {
		supervise_kill(s, "it refuses the configuration");
		return;
	}
	m->exit_status = EX_CONFIG;
	stop_begin(m);
}

void reload_answered(struct slot *s, uint32_t config, bool ok, struct str why)
{
	struct master *m = s->master;
	char text[512], name[32];
	log_clean(text, sizeof(text), why);
	if (config == m->generation->number && !ok)
		first_refused(s, text);
	if (!m->reload.next || config != m->reload.next->number || !s->asked_config)
		return;
	s->asked_config = false;
	if (!ok)
		abort_reload(m, slot_name(s, name), text);
	else if (!who_is_missing(m))
		switch_over(m);
}

void reload_died(struct slot *s)
{
	char name[32];
	if (!s->asked_config || !s->master->reload.next)
		return;
	s->asked_config = false;
	abort_reload(s->master, slot_name(s, name), "died while it looked at the configuration");
}

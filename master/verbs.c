/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "master/master.h"
#include <unistd.h>
/*
 * master's control verbs: status, reload, rotate, stop, config. Reading changes nothing.
 */
static const char *suite_state(const struct master *m)
{
	return m->stopping.active ? "stopping" : m->announced ? "ready" : "starting";
}

static void add_worker(struct control_reply *reply, const struct slot *s, int64_t now)
{
	bool lives = state_has_process(s->state);
	json_t *row =
	    json_pack("{s:s, s:i, s:s, s:i, s:I, s:I, s:I, s:s}", "service", proc_name(s->process),
		"instance", (int)s->instance, "state", state_name(s->state), "pid", (int)s->pid,
		"generation", (json_int_t)s->generation, "deaths", (json_int_t)s->deaths, "uptime",
		(json_int_t)(lives ? (now - s->started_ms) / 1000 : 0), "summary", s->summary);
	control_row(reply, row);
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct master *m = ctx;
	int64_t now = clock_mono_ms();
	(void)args;
	(void)options;
	control_row(reply,
	    json_pack("{s:s, s:i, s:s, s:i, s:I, s:I, s:I, s:s}", "service", "master", "instance",
		0, "state", suite_state(m), "pid", (int)getpid(), "generation",
		(json_int_t)m->generation->number, "deaths", (json_int_t)0, "uptime",
		(json_int_t)((now - m->started_ms) / 1000), "summary", "version " POSTERN_VERSION));
	for (size_t i = 0; i < m->slot_count; i++)
		if (m->slots[i]->state != WORKER_GONE)
			add_worker(reply, m->slots[i], now);
	control_end(reply, 0, "%s", "");
}

static void verb_stop(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct master *m = ctx;
	(void)args;
	(void)options;
	control_row(reply, json_pack("{s:s}", "state", "stopping"));
	control_end(reply, 0, "%s", "");
	if (!m->stopping.active)
		stop_begin(m);
}

static void verb_config(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct master *m = ctx;
	struct buf text;
	(void)args;
	(void)options;
	buf_init(&text, CONF_ENCODED_MAX);
	conf_print(m->generation->conf, &text);
	control_row(reply, json_pack("{s:I, s:s%}", "config", (json_int_t)m->generation->number,
			       "text", (const char *)text.p, text.n));
	control_end(reply, 0, "%s", "");
	buf_fini(&text);
}

const struct control_verb master_verbs[] = {
    {"status", "status", "Workers: state, process, restarts, and what each says of itself.", 0, 0,
	verb_status},
    {"reload", "reload", "Read the configuration again; an error changes nothing.", 0, 0,
	reload_by_control},
    {"rotate", "rotate", "Rename the accounting files and begin new ones.", 0, 0,
	rotate_by_control},
    {"stop", "stop", "End the suite in order, within 30 s.", 0, 0, verb_stop},
    {"config", "config", "The configuration in use, in a form that parses to the same.", 0, 0,
	verb_config},
};
const size_t master_verb_count = COUNT_OF(master_verbs);

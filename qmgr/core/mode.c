/* SPDX-License-Identifier: ISC */
/*
 * A queue's mode: normal, backoff, recovery.
 *
 *   normal ──rule, command, no source──▶ backoff ──time, delivery, rule, command──▶ recovery
 *     ▲                                     ▲                                         │   │
 *     │                                     └──────────a match of a backoff rule──────┘   │
 *     └───────────────────────────────────────────────────its steps are over──────────────┘
 *
 * Recovery begins with a probe: one transaction on one connection, at backoff's rates. A delivery
 * begins the first step; a deferral means another probe after the queue's retry step; a refused
 * recipient says nothing of the provider, and the next one is the probe. Each step is a share of
 * the normal limits, at least one connection and backoff's rates. What has no limit in normal mode
 * has none in a step: there the connections bind. `backoff-recovery = "off"` leaves recovery out.
 *
 * Only transactions that were sent in a mode say anything of it: what was in flight when backoff
 * began does not end it.
 *
 * A change acts at once: on limits and retry list (q->e), on connections that are open already
 * (idle ones go, busy ones after their transaction), on waiting jobs (in slices). People are told
 * of the way from normal to backoff, and of the way back when normal is reached: an episode is two
 * mails, however often a probe or a step fell back. A restart tells nothing again: what was given
 * out as state comes back silently, and what ended meanwhile ends at once.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	MODE_SAVE_SHARE = 64, /* an extension is given out when it adds that part of the rest */
};
/* A queue without mail cannot be probed: so long it is watched, then it is normal. */
#define MODE_PROBE_LINGER DAY

static const char *const names[] = {"normal", "backoff", "recovery"};

struct str mode_name(const struct queue *q)
{
	return str_of(names[q->mode ? q->mode->kind : MODE_NORMAL]);
}

bool mode_is_backoff(const struct queue *q)
{
	return q->mode && q->mode->kind == MODE_BACKOFF;
}

const char *mode_reroute(const struct queue *q)
{
	if (q->mode && q->mode->reroute)
		return q->mode->reroute;
	return mode_is_backoff(q) ? q->v.backoff_reroute : "";
}

/* ---- what a mode makes of the values ---- */

static bool is_slower(const struct rate *a, const struct rate *b)
{
	return (double)a->n * (double)b->per_ms < (double)b->n * (double)a->per_ms;
}

/* That part of a rate, but not less than `least`. */
static struct rate rate_part(const struct rate *r, int64_t percent, const struct rate *least)
{
	struct rate part = *r;

	if (r->n == 0)
		return part;
	part.per_ms = r->per_ms * 100 / percent;
	part.burst = (r->burst * (uint64_t)percent + 99) / 100;
	if (least && least->n && is_slower(&part, least))
		return *least;
	return part;
}

static int64_t step_percent(const struct queue *q, uint32_t step)
{
	const struct conf_value *r = q->v.recovery;

	return step >= 1 && step <= r->count ? r->nums[step - 1] : 100;
}

static void apply_backoff(struct effective *e, const struct values *v)
{
	e->max_smtp_out = v->backoff_max_smtp_out;
	e->max_msg = v->backoff_max_msg;
	e->connect = v->backoff_connect;
	e->msg = v->backoff_msg;
	e->retry = v->backoff_retry;
	e->retry_count = v->backoff_retry_count;
}

static void apply_recovery(struct effective *e, const struct queue *q, uint32_t step)
{
	const struct values *v = &q->v;
	int64_t percent = step_percent(q, step);
	uint64_t part = (uint64_t)v->max_smtp_out * (uint64_t)percent / 100;

	if (step == 0) {
		e->probe = true;
		e->max_smtp_out = e->max_msg = 1;
		e->connect = v->backoff_connect;
		e->msg = v->backoff_msg;
		return;
	}
	e->max_smtp_out = part ? (uint32_t)part : 1;
	e->connect = rate_part(&v->connect, percent, &v->backoff_connect);
	e->msg = rate_part(&v->msg, percent, &v->backoff_msg);
	e->bytes = rate_part(&v->bytes, percent, NULL);
}

void mode_apply(struct core *core, struct queue *q)
{
	const struct values *v = &q->v;
	const struct mode *m = q->mode;

	q->e = (struct effective){.max_smtp_out = v->max_smtp_out,
	    .max_msg = v->max_msg,
	    .connect = v->connect,
	    .msg = v->msg,
	    .bytes = v->bytes,
	    .retry = v->retry,
	    .retry_count = v->retry_count,
	    .tls_required = setting_tls(q)};
	if (m && m->kind == MODE_BACKOFF)
		apply_backoff(&q->e, v);
	else if (m && m->kind == MODE_RECOVERY)
		apply_recovery(&q->e, q, m->step);
	limit_queue(core, q);
}

void mode_effect(struct core *core, struct queue *q)
{
	struct link *next;

	for (struct link *l = q->conns.next; l != &q->conns; l = next) {
		struct conn *c = OWNER(l, struct conn, in_queue);

		next = l->next;
		if (c->state == CONN_READY)
			conn_settle(core, c);
	}
	queue_dirty(core, q);
}

/* ---- its life ---- */

struct mode *mode_get(struct core *core, struct queue *q)
{
	struct mode *m = q->mode;

	if (m)
		return m;
	m = q->mode = xcalloc(1, sizeof(*m));
	m->queue = q;
	m->timer.kind = TIMER_MODE;
	link_append(&core->modes, &m->in_all);
	return m;
}

static void forget_cause(struct mode *m)
{
	free(m->cause);
	free(m->rule);
	free(m->who);
	m->cause = m->rule = m->who = NULL;
}

void mode_free(struct core *core, struct queue *q)
{
	struct mode *m = q->mode;

	if (!m)
		return;
	wheel_cancel(core->wheel, &m->timer.node);
	link_remove(&m->in_all);
	setting_clear(core, m);
	forget_cause(m);
	free(m);
	q->mode = NULL;
}

void mode_arm(struct core *core, struct mode *m)
{
	int64_t at = setting_next_ms(m);

	if (m->kind == MODE_NORMAL && m->set_count == 0 && !m->reroute) {
		mode_free(core, m->queue);
		return;
	}
	if (m->kind != MODE_NORMAL && m->until_ms < at)
		at = m->until_ms;
	if (at == NEVER)
		wheel_cancel(core->wheel, &m->timer.node);
	else
		wheel_add(core->wheel, &m->timer.node, at);
}

/* ---- changes ---- */

static void save(struct core *core, struct queue *q)
{
	if (q->mode)
		q->mode->saved_ms = q->mode->until_ms;
	state_changed(core, STR("mode"), str_of(q->name));
}

static void addresses(const struct conf_value *list, struct buf *out)
{
	buf_init(out, SIZE_MAX);
	for (size_t i = 0; list && i < list->count; i++)
		buf_printf(out, "%s%s", i ? "," : "", list->texts[i]);
}

/* Tells people who are in the list, if it is the way into an episode of backoff or out of it. */
static void tell(struct core *core, struct queue *q, enum mode_kind from, enum mode_kind to,
    const struct why *why, int64_t until_ms)
{
	struct core_event e = {.kind = EVENT_MODE,
	    .scope = str_of(q->name),
	    .from = str_of(names[from]),
	    .to = str_of(names[to]),
	    .text = why->text,
	    .rule = why->rule,
	    .who = why->who,
	    .until_ms = until_ms};
	struct buf to_whom;

	addresses(q->v.backoff_notify, &to_whom);
	if (q->mode->told ? to == MODE_NORMAL : to == MODE_BACKOFF) {
		q->mode->told = to == MODE_BACKOFF;
		e.notify = (struct str){(const char *)to_whom.p, to_whom.n};
	}
	event_push(core, &e);
	buf_fini(&to_whom);
}

static void note(struct core *core, struct queue *q, const struct why *why)
{
	char text[NOTE_MAX];
	int n;

	n = snprintf(text, sizeof(text), "%.*s: %.*s%s%.*s%s%.*s", STR_ARG(mode_name(q)),
	    STR_ARG(why->text), why->rule.n ? ", rule " : "", STR_ARG(why->rule),
	    why->who.n ? ", by " : "", STR_ARG(why->who));
	note_add(core, q, NOTE_MODE,
	    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1});
}

/* A clock that was set by a longer list than now holds does not hold any longer than this one. */
static void shorten_hold(struct core *core, struct queue *q)
{
	int64_t step = value_step(q->e.retry, q->e.retry_count, q->failures);
	int64_t latest = core->now + step + step / 10;

	if (q->failures && q->hold_ms > latest)
		queue_hold(core, q, latest);
}

static void change(
    struct core *core, struct queue *q, enum mode_kind to, int64_t until_ms, const struct why *why)
{
	struct mode *m = mode_get(core, q);
	enum mode_kind from = m->kind;

	m->kind = to;
	m->step = m->probes = 0;
	m->first_tx = core->next_id;
	m->since_ms = core->now;
	m->until_ms = until_ms;
	if (to != MODE_RECOVERY || from == MODE_NORMAL) {
		forget_cause(m);
		m->cause = str_dup(why->text);
		m->rule = str_dup(why->rule);
		m->who = str_dup(why->who);
	}
	if (to != MODE_BACKOFF)
		q->ceiling = CORE_START_CONNS; /* one more for each accepted transaction */
	mode_apply(core, q);
	shorten_hold(core, q);
	if ((from == MODE_BACKOFF) != (to == MODE_BACKOFF))
		sweep_retime(core, q);
	queue_rerouted(core, q);
	tell(core, q, from, to, why, to == MODE_BACKOFF ? until_ms : 0);
	save(core, q);
	note(core, q, why);
	mode_arm(core, m);
	mode_effect(core, q);
}

/* The end moves on with each match; what that adds is not given out every time. */
static void extend(struct core *core, struct queue *q, int64_t until_ms)
{
	struct mode *m = q->mode;

	if (until_ms <= m->until_ms)
		return;
	m->until_ms = until_ms;
	mode_arm(core, m);
	if (until_ms - m->saved_ms >= SECOND + (until_ms - core->now) / MODE_SAVE_SHARE)
		save(core, q);
}

void mode_backoff(struct core *core, struct queue *q, const struct why *why, int64_t for_ms)
{
	int64_t until = core->now + (for_ms > 0 ? for_ms : q->v.backoff_ms);

	if (mode_is_backoff(q))
		extend(core, q, until);
	else
		change(core, q, MODE_BACKOFF, until, why);
}

void mode_normal(struct core *core, struct queue *q, const struct why *why, bool at_once)
{
	if (!q->mode || q->mode->kind == MODE_NORMAL)
		return;
	if (!at_once && q->mode->kind == MODE_BACKOFF && q->v.recovery && q->v.recovery->count)
		change(core, q, MODE_RECOVERY, core->now + MODE_PROBE_LINGER, why);
	else if (at_once || q->mode->kind == MODE_BACKOFF)
		change(core, q, MODE_NORMAL, 0, why);
}

/* After a suspension nobody knows what the remote takes: as at the end of a backoff. */
void mode_recover(struct core *core, struct queue *q)
{
	if ((!q->mode || q->mode->kind == MODE_NORMAL) && q->v.recovery && q->v.recovery->count)
		change(core, q, MODE_RECOVERY, core->now + MODE_PROBE_LINGER,
		    &(struct why){.text = STR("a suspension is over")});
}

/* ---- recovery ---- */

static void next_step(struct core *core, struct queue *q)
{
	struct mode *m = q->mode;
	char text[80];
	int n;

	if (m->step >= q->v.recovery->count) {
		change(core, q, MODE_NORMAL, 0, &(struct why){.text = STR("recovered")});
		return;
	}
	m->step++;
	m->until_ms = core->now + q->v.recovery->num;
	mode_apply(core, q);
	save(core, q);
	n = snprintf(text, sizeof(text), "step %u of %zu: %lld %% of the normal limits", m->step,
	    q->v.recovery->count, (long long)step_percent(q, m->step));
	note(core, q, &(struct why){.text = {text, (size_t)n}});
	mode_arm(core, m);
	mode_effect(core, q);
}

void mode_answer(
    struct core *core, struct queue *q, uint64_t tx, uint32_t delivered, uint32_t deferred)
{
	struct mode *m = q->mode;

	if (!m || tx < m->first_tx)
		return;
	if (m->kind == MODE_BACKOFF && delivered && q->v.backoff_delivery) {
		mode_normal(core, q, &(struct why){.text = STR("a delivery")}, false);
	} else if (m->kind == MODE_RECOVERY && m->step == 0 && delivered) {
		next_step(core, q);
	} else if (m->kind == MODE_RECOVERY && m->step == 0 && deferred) {
		int64_t step = value_step(q->e.retry, q->e.retry_count, ++m->probes);

		queue_hold(core, q, core->now + core_jitter(core, step));
		save(core, q);
	}
}

static bool is_empty(const struct queue *q)
{
	for (size_t i = 0; i < COUNT_OF(q->n); i++)
		if (q->n[i])
			return false;
	return true;
}

static void on_end(struct core *core, struct queue *q)
{
	struct mode *m = q->mode;

	if (m->kind == MODE_BACKOFF) {
		mode_normal(core, q, &(struct why){.text = STR("its time is over")}, false);
	} else if (m->step) {
		next_step(core, q);
	} else if (is_empty(q)) {
		change(core, q, MODE_NORMAL, 0,
		    &(struct why){.text = STR("there was no mail to probe with")});
	} else {
		m->until_ms = core->now + MODE_PROBE_LINGER;
		mode_arm(core, m);
	}
}

void mode_timer(struct core *core, struct timer *t)
{
	struct queue *q = OWNER(t, struct mode, timer)->queue;

	if (q->mode->kind != MODE_NORMAL && q->mode->until_ms <= core->now)
		on_end(core, q);
	if (q->mode)
		setting_expire(core, q->mode);
}

/* ---- over a restart ---- */

/* Where its mail goes is as it was: nobody is told. */
void mode_restored(struct core *core, struct queue *q)
{
	const char *to = mode_reroute(q);

	name_drop(core, q->rerouted);
	q->rerouted = *to ? name_get(core, str_of(to)) : NULL;
}

bool mode_encode(struct core *core, struct str name, struct buf *out)
{
	const struct queue *q = queue_find(core, name);
	const struct mode *m = q ? q->mode : NULL;

	if (!m || m->kind == MODE_NORMAL)
		return false;
	buf_u8(out, (uint8_t)m->kind);
	buf_u8(out, m->told);
	buf_u32(out, m->step);
	buf_u32(out, m->probes);
	buf_u64(out, (uint64_t)m->since_ms);
	buf_u64(out, (uint64_t)m->until_ms);
	buf_u64(out, (uint64_t)(m->step == 0 && m->probes ? q->hold_ms : 0));
	buf_str16(out, str_of(m->cause));
	buf_str16(out, str_of(m->rule));
	buf_str16(out, str_of(m->who));
	return true;
}

int mode_restore(struct core *core, struct str name, struct rd *value)
{
	uint8_t kind = rd_u8(value), told = rd_u8(value);
	uint32_t step = rd_u32(value), probes = rd_u32(value);
	int64_t since_ms = (int64_t)rd_u64(value), until_ms = (int64_t)rd_u64(value);
	int64_t hold_ms = (int64_t)rd_u64(value);
	struct rd texts = *value;
	struct queue *q;
	struct mode *m;
	int rc;

	for (int i = 0; i < 3; i++)
		rd_str16(value);
	if (value->bad || value->n || (kind != MODE_BACKOFF && kind != MODE_RECOVERY) ||
	    since_ms < 0 || until_ms < 0)
		return -EBADMSG;
	rc = state_queue(core, name, &q);
	if (rc)
		return rc;
	m = mode_get(core, q);
	m->kind = kind;
	m->told = told != 0;
	m->step = step;
	m->probes = probes;
	m->first_tx = core->next_id;
	m->since_ms = since_ms;
	m->until_ms = m->saved_ms = until_ms;
	forget_cause(m);
	m->cause = state_text(&texts);
	m->rule = state_text(&texts);
	m->who = state_text(&texts);
	mode_apply(core, q);
	mode_restored(core, q);
	if (hold_ms > core->now)
		queue_hold(core, q, hold_ms);
	mode_arm(core, m);
	return 0;
}

/* ---- the operator ---- */

/* By the domain whose mail goes there now, or by its name. */
static struct queue *queue_asked(const struct core *core, struct str name)
{
	struct queue *q = NULL;
	struct str dest;
	size_t slash = name.n;
	char full[1024];
	int n;

	while (slash && name.p[slash - 1] != '/')
		slash--;
	if (slash < 2)
		return NULL;
	dest = core_destination(core, (struct str){name.p, slash - 1});
	n = snprintf(
	    full, sizeof(full), "%.*s/%.*s", STR_ARG(dest), (int)(name.n - slash), name.p + slash);
	if (dest.n && n > 0 && (size_t)n < sizeof(full))
		q = queue_find(core, (struct str){full, (size_t)n});
	return q ? q : queue_find(core, name);
}

int core_set_mode(struct core *core, struct str queue, struct str mode, int64_t until_ms,
    struct str who, int64_t now_ms)
{
	const struct why why = {.text = STR("command"), .who = who};
	struct queue *q;

	core_clock(core, now_ms);
	q = queue_asked(core, queue);
	if (!q)
		return -ENOENT;
	if (str_eq(mode, STR("normal"))) {
		mode_normal(core, q, &why, q->mode && q->mode->kind == MODE_RECOVERY);
		return 0;
	}
	if (!str_eq(mode, STR("backoff")) || (until_ms && until_ms <= core->now))
		return -EINVAL;
	mode_backoff(core, q, &why, until_ms ? until_ms - core->now : 0);
	if (until_ms && q->mode->until_ms != until_ms) { /* his word, even if it is sooner */
		q->mode->until_ms = until_ms;
		mode_arm(core, q->mode);
		save(core, q);
	}
	return 0;
}

int core_reset(struct core *core, struct str queue, struct str who, int64_t now_ms)
{
	struct queue *q;

	core_clock(core, now_ms);
	q = queue_asked(core, queue);
	if (!q)
		return -ENOENT;
	mode_normal(core, q, &(struct why){.text = STR("reset"), .who = who}, true);
	if (q->mode) {
		setting_clear(core, q->mode);
		mode_arm(core, q->mode);
		state_changed(core, STR("set"), str_of(q->name));
		queue_values(core, q);
		queue_rerouted(core, q);
		mode_effect(core, q);
	}
	core_enable_source(core, STR(""), str_of(q->name), who, now_ms);
	queue_unhold(core, q);
	free(q->error);
	q->error = NULL;
	q->error_of = ERROR_OTHER;
	return 0;
}

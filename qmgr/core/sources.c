/* SPDX-License-Identifier: ISC */
/*
 * Source addresses that may not be used: for one queue or everywhere, by a rule or an operator, for
 * a time or without end; or because this host cannot bind them at present.
 *
 * When the time of one is over it is not simply enabled: it is on probation, one connection with
 * one transaction. A delivery enables it; anything else disables it for a retry step more, and then
 * there is another probe. Where the queue is gone meanwhile there is nothing to probe with, and
 * nothing to remember. What cannot be bound is enabled by nothing but core_source_bindable().
 *
 * A queue whose every source is disabled waits in core->sourceless without a timer, until one is
 * enabled or on probation; or it goes into backoff mode, if backoff-upon-all-sources-disabled says
 * so. That is found out when the queue wants a connection, so nothing walks all queues when an
 * address goes.
 *
 * Over a restart: each entry is a state, but for those that cannot be bound, which the shell checks
 * anew.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	DISABLED_MAX = 65536, /* entries: sources times queues that rules named */
};

struct disabled {
	struct node node;
	struct link in_all;
	struct timer timer;
	struct name *address;
	char *queue; /* owned; "": everywhere */
	bool unbindable;
	bool probation;
	uint64_t probe;		    /* the connection that is its probe; 0: none */
	uint32_t probes;	    /* that failed in a row */
	int64_t since_ms, until_ms; /* until 0: without end */
	char *text, *rule, *who;    /* owned */
};

static uint64_t entry_hash(const struct core *core, const struct name *address, struct str queue)
{
	return hash_mix(hash_bytes(core->seed, queue), (uintptr_t)address);
}

static struct disabled *find(
    const struct core *core, const struct name *address, struct str queue, bool unbindable)
{
	for (struct node *i = table_first(&core->disabled, entry_hash(core, address, queue)); i;
	     i = table_next(i)) {
		struct disabled *d = OWNER(i, struct disabled, node);

		if (d->address == address && d->unbindable == unbindable &&
		    str_eq(str_of(d->queue), queue))
			return d;
	}
	return NULL;
}

static bool is_shut(const struct disabled *d)
{
	return d && (!d->probation || d->probe);
}

bool source_disabled(const struct core *core, const struct queue *q, const struct name *address)
{
	if (core->disabled.count == 0 || address->n == 0)
		return false;
	return is_shut(find(core, address, STR(""), true)) ||
	       is_shut(find(core, address, STR(""), false)) ||
	       (q && is_shut(find(core, address, str_of(q->name), false)));
}

bool source_all_disabled(const struct core *core, struct queue *q)
{
	const struct vmta *v = vmta_acting(core, q->vmta);

	if (core->disabled.count == 0 || v->source_count == 0)
		return false;
	for (size_t i = 0; i < v->source_count; i++)
		if (!source_disabled(core, q, v->sources[i].address))
			return false;
	return true;
}

bool source_wait(struct core *core, struct queue *q)
{
	if (!source_all_disabled(core, q))
		return false;
	link_append(&core->sourceless, &q->in_sourceless);
	place_lost(core, q);
	queue_error(core, q, STR("every source address is disabled"), ERROR_OTHER);
	if (q->v.backoff_sources && !mode_is_backoff(q))
		mode_backoff(
		    core, q, &(struct why){.text = STR("every source address is disabled")}, 0);
	return true;
}

static void wake_sourceless(struct core *core)
{
	while (!link_alone(&core->sourceless)) {
		struct queue *q = OWNER(core->sourceless.next, struct queue, in_sourceless);

		link_remove(&q->in_sourceless);
		queue_dirty(core, q);
	}
}

/* ---- an entry's life ---- */

static struct str state_name(const struct disabled *d, char *to, size_t size)
{
	int n = snprintf(
	    to, size, "%.*s%s%s", STR_ARG(name_str(d->address)), *d->queue ? " " : "", d->queue);

	return (struct str){to, (size_t)n < size ? (size_t)n : size - 1};
}

static void save(struct core *core, const struct disabled *d)
{
	char name[1024];

	if (!d->unbindable)
		state_changed(core, STR("source"), state_name(d, name, sizeof(name)));
}

static struct disabled *entry_new(
    struct core *core, struct str address, struct str queue, bool unbindable)
{
	struct disabled *d = xcalloc(1, sizeof(*d));

	d->address = name_get(core, address);
	d->queue = str_dup(queue);
	d->unbindable = unbindable;
	d->since_ms = core->now;
	d->timer.kind = TIMER_SOURCE;
	table_add(&core->disabled, &d->node, entry_hash(core, d->address, queue));
	link_append(&core->disabled_all, &d->in_all);
	return d;
}

static void forget_why(struct disabled *d)
{
	free(d->text);
	free(d->rule);
	free(d->who);
	d->text = d->rule = d->who = NULL;
}

static void entry_free(struct core *core, struct disabled *d)
{
	table_remove(&core->disabled, &d->node);
	link_remove(&d->in_all);
	wheel_cancel(core->wheel, &d->timer.node);
	name_drop(core, d->address);
	forget_why(d);
	free(d->queue);
	free(d);
}

void source_fini(struct core *core)
{
	while (!link_alone(&core->disabled_all))
		entry_free(core, OWNER(core->disabled_all.next, struct disabled, in_all));
}

static void arm(struct core *core, struct disabled *d)
{
	if (d->until_ms && !d->probation)
		wheel_add(core->wheel, &d->timer.node, d->until_ms);
	else
		wheel_cancel(core->wheel, &d->timer.node);
}

/* ---- people ---- */

static void tell(struct core *core, const struct disabled *d, const char *to, const struct why *why)
{
	struct queue *q = *d->queue ? queue_find(core, str_of(d->queue)) : NULL;
	struct values everywhere = {0};
	const struct conf_value *list;
	struct core_event e = {.kind = EVENT_SOURCE,
	    .scope = name_str(d->address),
	    .from = str_of(d->queue),
	    .to = str_of(to),
	    .text = why->text,
	    .rule = why->rule,
	    .who = why->who,
	    .until_ms = d->until_ms};
	struct buf notify;

	if (!q)
		value_resolve(core, &(struct value_of){STR(""), STR("")}, NULL, &everywhere);
	list = q ? q->v.source_notify : everywhere.source_notify;
	buf_init(&notify, SIZE_MAX);
	for (size_t i = 0; list && i < list->count; i++)
		buf_printf(&notify, "%s%s", i ? "," : "", list->texts[i]);
	e.notify = (struct str){(const char *)notify.p, notify.n};
	event_push(core, &e);
	buf_fini(&notify);
	if (q) {
		char text[NOTE_MAX];
		int n = snprintf(text, sizeof(text), "source %.*s %s: %.*s",
		    STR_ARG(name_str(d->address)), to, STR_ARG(why->text));

		note_add(core, q, NOTE_EVENT,
		    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1});
	}
}

/* Its connections go: the idle ones now, the others after what they have. */
static void shut(struct core *core, const struct disabled *d)
{
	struct node **all;

	if (*d->queue) {
		struct queue *q = queue_find(core, str_of(d->queue));

		if (q)
			mode_effect(core, q);
		return;
	}
	all = table_list(&core->conns);
	for (size_t i = 0; all[i]; i++) {
		struct conn *c = OWNER(all[i], struct conn, node);

		if (c->path->source == d->address && c->state == CONN_READY)
			conn_settle(core, c);
	}
	free(all);
}

static void disable(struct core *core, struct disabled *d, int64_t until_ms, const struct why *why)
{
	bool was_shut = d->text && !d->probation;

	/* Of what says it while it lasts, the longer time holds; each match is not given out. */
	if (was_shut && d->until_ms && (!until_ms || until_ms > d->until_ms)) {
		bool far = !until_ms || until_ms - d->until_ms >= SECOND;

		d->until_ms = until_ms;
		arm(core, d);
		if (far)
			save(core, d);
	}
	if (was_shut)
		return;
	forget_why(d);
	d->text = str_dup(why->text);
	d->rule = str_dup(why->rule);
	d->who = str_dup(why->who);
	d->since_ms = core->now;
	d->until_ms = until_ms;
	d->probation = false;
	arm(core, d);
	save(core, d);
	tell(core, d, "disabled", why);
	shut(core, d);
}

static void enable(struct core *core, struct disabled *d, const struct why *why)
{
	d->until_ms = 0;
	tell(core, d, "enabled", why);
	save(core, d); /* it is gone when that is given out */
	entry_free(core, d);
	wake_sourceless(core);
}

void source_disable(
    struct core *core, struct str address, struct queue *q, int64_t until_ms, const struct why *why)
{
	struct name *name = name_get(core, address);
	struct str queue = q ? str_of(q->name) : STR("");
	struct disabled *d = find(core, name, queue, false);

	name_drop(core, name);
	if (!d && core->disabled.count >= DISABLED_MAX) {
		event_push(core, &(struct core_event){.kind = EVENT_ERROR,
				     .scope = address,
				     .text = STR("too many disabled source addresses")});
		return;
	}
	if (!d)
		d = entry_new(core, address, queue, false);
	disable(core, d, until_ms, why);
}

/* ---- probation ---- */

void source_timer(struct core *core, struct timer *t)
{
	struct disabled *d = OWNER(t, struct disabled, timer);

	if (*d->queue && !queue_find(core, str_of(d->queue))) {
		enable(
		    core, d, &(struct why){.text = STR("its time is over; nothing waits there")});
		return;
	}
	d->probation = true;
	wake_sourceless(core);
}

static void opened(struct disabled *d, struct conn *c)
{
	if (!d || !d->probation || d->probe)
		return;
	d->probe = c->id;
	c->single = true;
}

void source_opened(struct core *core, struct conn *c)
{
	const struct name *address = c->path->source;

	if (core->disabled.count == 0 || address->n == 0)
		return;
	opened(find(core, address, STR(""), false), c);
	opened(find(core, address, str_of(c->queue->name), false), c);
}

static void failed(struct core *core, struct disabled *d, const struct conn *c)
{
	const struct effective *e = &c->queue->e;

	if (!d || d->probe != c->id)
		return;
	d->probe = 0;
	if (d->probation) {
		d->probation = false;
		d->until_ms = core->now +
			      core_jitter(core, value_step(e->retry, e->retry_count, ++d->probes));
		arm(core, d);
		save(core, d);
	}
	wake_sourceless(core);
}

void source_closed(struct core *core, struct conn *c)
{
	const struct name *address = c->path->source;

	if (!c->single)
		return;
	failed(core, find(core, address, STR(""), false), c);
	failed(core, find(core, address, str_of(c->queue->name), false), c);
}

static void works(struct core *core, struct disabled *d, const struct conn *c)
{
	if (d && d->probation && d->probe == c->id)
		enable(core, d, &(struct why){.text = STR("a probe was delivered")});
}

void source_works(struct core *core, struct conn *c)
{
	const struct name *address = c->path->source;

	if (!c->single)
		return;
	works(core, find(core, address, STR(""), false), c);
	works(core, find(core, address, str_of(c->queue->name), false), c);
	c->single = find(core, address, STR(""), false) ||
		    find(core, address, str_of(c->queue->name), false);
}

/* ---- over a restart ---- */

static bool is_configured(const struct core *core, struct str address)
{
	struct node **all = table_list(&core->vmtas);
	bool found = false;

	for (size_t i = 0; all[i] && !found; i++) {
		const struct vmta *v = OWNER(all[i], struct vmta, node);

		for (size_t k = 0; k < v->source_count && !found; k++)
			found = str_eq(name_str(v->sources[k].address), address);
	}
	free(all);
	return found;
}

/* "ADDRESS" or "ADDRESS QUEUE". */
static struct disabled *find_state(struct core *core, struct str name)
{
	struct str queue = name, address = str_cut(&queue, ' ');

	struct name *n = name_get(core, address);
	struct disabled *d = find(core, n, queue, false);

	name_drop(core, n);
	return d;
}

bool source_encode(struct core *core, struct str name, struct buf *out)
{
	const struct disabled *d = find_state(core, name);

	if (!d)
		return false;
	buf_u64(out, (uint64_t)d->since_ms);
	buf_u64(out, (uint64_t)d->until_ms);
	buf_u32(out, d->probes);
	buf_str16(out, str_of(d->text));
	buf_str16(out, str_of(d->rule));
	buf_str16(out, str_of(d->who));
	return true;
}

int source_restore(struct core *core, struct str name, struct rd *value)
{
	struct str queue = name, address = str_cut(&queue, ' ');
	int64_t since_ms = (int64_t)rd_u64(value), until_ms = (int64_t)rd_u64(value);
	uint32_t probes = rd_u32(value);
	struct rd texts = *value;
	struct disabled *d;

	for (int i = 0; i < 3; i++)
		rd_str16(value);
	if (value->bad || value->n || since_ms < 0 || until_ms < 0 || address.n == 0)
		return -EBADMSG;
	if (!is_configured(core, address))
		return -EAGAIN;
	if (find_state(core, name) || core->disabled.count >= DISABLED_MAX)
		return 0;
	d = entry_new(core, address, queue, false);
	d->since_ms = since_ms;
	d->until_ms = until_ms;
	d->probes = probes;
	d->text = str_dup(rd_str16(&texts));
	d->rule = state_text(&texts);
	d->who = state_text(&texts);
	arm(core, d);
	return 0;
}

/* ---- the operator and the host ---- */

int core_disable_source(struct core *core, struct str address, struct str queue, int64_t until_ms,
    struct str who, int64_t now_ms)
{
	const struct why why = {.text = STR("command"), .who = who};
	struct queue *q = NULL;

	core_clock(core, now_ms);
	if (!is_configured(core, address))
		return -ENOENT;
	if (queue.n && !(q = queue_find(core, queue)))
		return -ENOENT;
	if (until_ms && until_ms <= core->now)
		return -EINVAL;
	source_disable(core, address, q, until_ms, &why);
	return 0;
}

size_t core_enable_source(
    struct core *core, struct str address, struct str queue, struct str who, int64_t now_ms)
{
	size_t found = 0;
	struct link *next;

	core_clock(core, now_ms);
	for (struct link *l = core->disabled_all.next; l != &core->disabled_all; l = next) {
		struct disabled *d = OWNER(l, struct disabled, in_all);

		next = l->next;
		if (d->unbindable || (address.n && !str_eq(name_str(d->address), address)) ||
		    (queue.n && !str_eq(str_of(d->queue), queue)))
			continue;
		enable(core, d, &(struct why){.text = STR("command"), .who = who});
		found++;
	}
	return found;
}

void core_source_bindable(struct core *core, struct str address, bool ok, int64_t now_ms)
{
	struct name *name = name_get(core, address);
	struct disabled *d = find(core, name, STR(""), true);

	core_clock(core, now_ms);
	name_drop(core, name);
	if (ok && d)
		enable(core, d, &(struct why){.text = STR("it can be bound again")});
	else if (!ok && !d)
		disable(core, entry_new(core, address, STR(""), true), 0,
		    &(struct why){.text = STR("it cannot be bound on this host")});
}

size_t source_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n)
{
	struct link *l = core->disabled_all.next;
	size_t found = 0;

	for (uint64_t skip = *from; skip && l != &core->disabled_all; skip--)
		l = l->next;
	for (; l != &core->disabled_all && found < n; l = l->next) {
		const struct disabled *d = OWNER(l, struct disabled, in_all);

		out[found++] = (struct hold_view){.scope = CORE_SOURCE,
		    .kind = STR("disable-source"),
		    .name = name_str(d->address),
		    .at = str_of(d->queue),
		    .who = str_of(d->who),
		    .rule = str_of(d->rule),
		    .text = d->probation ? STR("on probation: one transaction as a probe")
					 : str_of(d->text),
		    .since_ms = d->since_ms,
		    .until_ms = d->until_ms};
	}
	*from += found;
	return found;
}

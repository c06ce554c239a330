/* SPDX-License-Identifier: ISC */
/*
 * Warm-up of source addresses: per destination and source, so many recipients a day as the plan
 * says, spread over the day; the rest goes to the overflow, or waits.
 *
 * Each has a budget of its own whose bucket fills at the plan's rate. Its burst is taken off that
 * rate, so that no 24 hours see more than the plan, however they lie; and since buckets count as
 * empty after an unclean stop, a crash never allows more either. Who waits for it stands in its
 * line like for any limit, and it is shown among them.
 *
 * A day is one of UTC. The plan goes one step on with each day on which something was sent and that
 * did not end badly: with a share of deferrals above freeze-above it stays, above twice that it
 * goes a step back, and so it does at once when a reply speaks of a block. Days are turned when
 * something is wanted, so an address that rests keeps its step. What it has learned is a state,
 * given out once a minute at most; a crash loses that much of the counts.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	WARMUP_BURST_PART = 500, /* of the plan may go at once, and one more */
	WARMUP_JUDGED = 10,	 /* attempts of a day that say something */
	WARMUP_NAME_MAX = 400,
};
#define WARMUP_FORGET (60 * DAY) /* a destination that was not used for so long begins anew */

struct warm_source { /* a source that has a plan */
	struct node node;
	struct name *address;
	const struct conf_node *conf;
};

/* ---- sources with a plan ---- */

static const struct conf_node *plan_of(const struct core *core, const struct name *source)
{
	uint64_t hash = hash_mix(core->seed, (uintptr_t)source);

	for (struct node *i = table_first(&core->warm_sources, hash); i; i = table_next(i))
		if (OWNER(i, struct warm_source, node)->address == source)
			return OWNER(i, struct warm_source, node)->conf;
	return NULL;
}

static void learn(struct core *core, const struct conf_node *source)
{
	const struct conf_node *conf = conf_next(source, CONF_WARMUP, NULL);
	struct name *address = name_get(core, str_of(conf_text(source, CO_SOURCE_address)));
	struct warm_source *s;

	if (!conf || conf_get(conf, CO_WARMUP_plan)->count == 0 || plan_of(core, address)) {
		name_drop(core, address);
		return;
	}
	s = xcalloc(1, sizeof(*s));
	s->address = address;
	s->conf = conf;
	table_add(&core->warm_sources, &s->node, hash_mix(core->seed, (uintptr_t)address));
}

/* ---- one of them at one destination ---- */

static struct str name_of(const struct warmup *w, char out[WARMUP_NAME_MAX])
{
	int n = snprintf(out, WARMUP_NAME_MAX, "%.*s %.*s", STR_ARG(name_str(w->dest)),
	    STR_ARG(name_str(w->source)));

	return (struct str){out, (size_t)n < WARMUP_NAME_MAX ? (size_t)n : WARMUP_NAME_MAX - 1};
}

static uint64_t warm_hash(
    const struct core *core, const struct name *dest, const struct name *source)
{
	return hash_mix(hash_mix(core->seed, (uintptr_t)dest), (uintptr_t)source);
}

static struct warmup *find(
    const struct core *core, const struct name *dest, const struct name *source)
{
	uint64_t hash = warm_hash(core, dest, source);

	for (struct node *i = table_first(&core->warmups, hash); i; i = table_next(i)) {
		struct warmup *w = OWNER(i, struct warmup, node);

		if (w->dest == dest && w->source == source)
			return w;
	}
	return NULL;
}

static void changed(struct core *core, const struct warmup *w)
{
	char name[WARMUP_NAME_MAX];

	state_changed(core, STR("warmup"), name_of(w, name));
}

static void warmup_free(struct core *core, struct warmup *w)
{
	table_remove(&core->warmups, &w->node);
	budget_close(core, &w->budget);
	name_drop(core, w->dest);
	name_drop(core, w->source);
	free(w);
}

/* Once a day: what nobody has used for long. */
static void forget_old(struct core *core)
{
	struct node **all;

	if (core->now / DAY == core->warm_swept)
		return;
	core->warm_swept = core->now / DAY;
	all = table_list(&core->warmups);
	for (size_t i = 0; all[i]; i++) {
		struct warmup *w = OWNER(all[i], struct warmup, node);

		if (w->paths || core->now - w->day * DAY < WARMUP_FORGET)
			continue;
		w->forgotten = true;
		changed(core, w);
	}
	free(all);
}

static struct warmup *make(struct core *core, struct name *dest, struct name *source)
{
	struct warmup *w = xcalloc(1, sizeof(*w));
	char name[WARMUP_NAME_MAX];

	w->dest = name_keep(dest);
	w->source = name_keep(source);
	w->day = core->now / DAY;
	w->budget = budget_open(core, SCOPE_WARMUP, name_of(w, name), NULL);
	table_add(&core->warmups, &w->node, warm_hash(core, dest, source));
	return w;
}

static int64_t plan_at(const struct conf_value *plan, uint32_t step)
{
	return plan->nums[step < plan->count ? step : plan->count - 1];
}

static void set_rate(struct core *core, struct warmup *w)
{
	const struct rate none = {0, 0, 0};
	const struct conf_value *plan = w->conf ? conf_get(w->conf, CO_WARMUP_plan) : NULL;
	struct rate rate;

	if (!plan) {
		budget_rate(core, w->budget, LIMIT_MSGS, &none, NULL);
		return;
	}
	if (w->step >= plan->count)
		w->step = (uint32_t)plan->count - 1;
	rate.n = (uint64_t)plan_at(plan, w->step);
	rate.per_ms = rate.n > 1 ? DAY : 2 * DAY;
	rate.burst = 1 + rate.n / WARMUP_BURST_PART;
	if (rate.n > 1)
		rate.n -= rate.burst;
	budget_rate(core, w->budget, LIMIT_MSGS, &rate, plan);
}

static void step_to(struct core *core, struct warmup *w, uint32_t step, const char *why)
{
	const struct conf_value *plan = conf_get(w->conf, CO_WARMUP_plan);
	char name[WARMUP_NAME_MAX], text[200], from[24], to[24];
	struct core_event e = {.kind = EVENT_WARMUP, .scope = name_of(w, name)};
	int n = snprintf(text, sizeof(text), "%s: step %u of %zu, %lld recipients a day", why,
	    step + 1, plan->count, (long long)plan_at(plan, step));

	e.text = (struct str){text, (size_t)n};
	e.from = (struct str){from, (size_t)snprintf(from, sizeof(from), "%u", w->step + 1)};
	e.to = (struct str){to, (size_t)snprintf(to, sizeof(to), "%u", step + 1)};
	w->step = step;
	set_rate(core, w);
	changed(core, w);
	event_push(core, &e);
}

/* A day is over. */
static void turn(struct core *core, struct warmup *w)
{
	const struct conf_value *plan = conf_get(w->conf, CO_WARMUP_plan);
	uint64_t most = (uint64_t)conf_num(w->conf, CO_WARMUP_freeze_above);
	uint64_t bad = w->attempts >= WARMUP_JUDGED ? 100 * w->deferred : 0;
	bool used = w->attempts > 0, blocked = w->blocked;

	if (core->now / DAY == w->day)
		return;
	w->day = core->now / DAY;
	if (bad > 2 * most * w->attempts && w->step > 0 && !blocked)
		step_to(core, w, w->step - 1, "far too many deferrals");
	else if (used && !blocked && bad <= most * w->attempts && w->step + 1 < plan->count)
		step_to(core, w, w->step + 1, "the day went well");
	w->attempts = w->deferred = 0;
	w->blocked = false;
	changed(core, w);
}

static void adopt(struct core *core, struct warmup *w)
{
	w->conf = plan_of(core, w->source);
	set_rate(core, w);
}

struct warmup *warmup_of(struct core *core, const struct dest *dest, struct name *source)
{
	struct warmup *w;

	if (core->warm_sources.count == 0 || !plan_of(core, source))
		return NULL;
	forget_old(core);
	w = find(core, dest->name, source);
	if (!w) {
		w = make(core, dest->name, source);
		adopt(core, w);
		changed(core, w);
	}
	w->forgotten = false;
	turn(core, w);
	return w;
}

bool warmup_is_configured(const struct core *core, const struct name *source)
{
	return core->warm_sources.count && plan_of(core, source);
}

void warmup_take(struct core *core, struct warmup *w, uint32_t rcpts)
{
	if (!w->conf)
		return;
	turn(core, w);
	w->attempts += rcpts;
	changed(core, w);
}

void warmup_result(struct core *core, struct warmup *w, uint32_t deferred)
{
	if (!w->conf || deferred == 0)
		return;
	w->deferred += deferred;
	changed(core, w);
}

void warmup_blocked(struct core *core, const struct dest *dest, struct name *source)
{
	struct warmup *w = warmup_of(core, dest, source);

	if (!w || w->blocked)
		return;
	w->blocked = true;
	changed(core, w);
	if (w->step > 0)
		step_to(core, w, w->step - 1, "a reply speaks of a block");
}

const char *warmup_overflow(struct core *core, const struct queue *q)
{
	const struct vmta *v;
	const char *to = "";

	if (core->warm_sources.count == 0)
		return "";
	v = vmta_acting(core, q->vmta);
	for (size_t i = 0; i < v->source_count; i++) {
		struct name *source = v->sources[i].address;
		const struct warmup *w;

		if (source_disabled(core, q, source))
			continue;
		w = warmup_of(core, q->dest, source);
		if (!w || bucket_tokens(&w->budget->of[LIMIT_MSGS]->bucket, core->now) > 0)
			return "";
		if (!*to)
			to = conf_text(w->conf, CO_WARMUP_overflow);
	}
	return to;
}

bool core_warmup(const struct core *core, struct str key, struct core_warmup *out)
{
	struct str dest = key, source, kind = str_cut(&dest, ' ');
	const struct conf_value *plan;
	const struct warmup *w;
	size_t at = dest.n;

	while (at > 0 && dest.p[at - 1] != ' ')
		at--;
	if (at == 0 || !str_eq(kind, STR("warmup")))
		return false;
	source = (struct str){dest.p + at, dest.n - at};
	dest.n = at - 1;
	w = find(core, name_find(core, dest), name_find(core, source));
	if (!w || !w->conf)
		return false;
	plan = conf_get(w->conf, CO_WARMUP_plan);
	*out = (struct core_warmup){.step = w->step + 1,
	    .steps = (uint32_t)plan->count,
	    .a_day = plan_at(plan, w->step),
	    .attempts = w->attempts,
	    .deferred = w->deferred};
	return true;
}

/* ---- configuration and states ---- */

static void refresh_paths(struct core *core, const struct dest *dest)
{
	for (struct link *l = dest->paths.next; l != &dest->paths; l = l->next)
		warmup_path(core, dest, OWNER(l, struct path, in_dest));
}

void warmup_path(struct core *core, const struct dest *dest, struct path *p)
{
	struct warmup *w = warmup_of(core, dest, p->source);

	if (w == p->warm)
		return;
	if (p->warm)
		p->warm->paths--;
	if (w)
		w->paths++;
	p->warm = w;
}

void warmup_forget(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->warm_sources))) {
		struct warm_source *s = OWNER(n, struct warm_source, node);

		table_remove(&core->warm_sources, n);
		name_drop(core, s->address);
		free(s);
	}
}

void warmup_configure(struct core *core)
{
	const struct conf_node *vmta = NULL, *source;
	struct node **all;

	while ((vmta = conf_next(core->conf->root, CONF_VMTA, vmta))) {
		source = NULL;
		while ((source = conf_next(vmta, CONF_SOURCE, source)))
			learn(core, source);
	}
	all = table_list(&core->warmups);
	for (size_t i = 0; all[i]; i++)
		adopt(core, OWNER(all[i], struct warmup, node));
	free(all);
	all = table_list(&core->dests);
	for (size_t i = 0; all[i]; i++)
		refresh_paths(core, OWNER(all[i], struct dest, node));
	free(all);
}

void warmup_fini(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->warmups)))
		warmup_free(core, OWNER(n, struct warmup, node));
}

/* "DESTINATION SOURCE" */
static struct warmup *named(struct core *core, struct str text, bool made)
{
	size_t at = text.n;
	struct name *dest, *source;
	struct warmup *w;

	while (at && text.p[at - 1] != ' ')
		at--;
	if (at < 2)
		return NULL;
	dest = name_get(core, (struct str){text.p, at - 1});
	source = name_get(core, (struct str){text.p + at, text.n - at});
	w = find(core, dest, source);
	if (!w && made)
		w = make(core, dest, source);
	name_drop(core, dest);
	name_drop(core, source);
	return w;
}

bool warmup_encode(struct core *core, struct str name, struct buf *out)
{
	struct warmup *w = named(core, name, false);

	if (!w)
		return false;
	if (w->forgotten && !w->paths) {
		warmup_free(core, w);
		return false;
	}
	buf_u32(out, w->step);
	buf_u64(out, (uint64_t)w->day);
	buf_u64(out, w->attempts);
	buf_u64(out, w->deferred);
	buf_u8(out, w->blocked);
	return true;
}

int warmup_restore(struct core *core, struct str name, struct rd *value)
{
	uint32_t step = rd_u32(value);
	uint64_t day = rd_u64(value), attempts = rd_u64(value), deferred = rd_u64(value);
	uint8_t blocked = rd_u8(value);
	struct warmup *w;

	if (value->bad || value->n || blocked > 1 || day > (uint64_t)(INT64_MAX / DAY) ||
	    deferred > UINT64_MAX / 200 || attempts > UINT64_MAX / 200)
		return -EBADMSG;
	w = named(core, name, true);
	if (!w)
		return -EBADMSG;
	w->step = step;
	w->day = (int64_t)day;
	w->attempts = attempts;
	w->deferred = deferred;
	w->blocked = blocked != 0;
	adopt(core, w);
	return 0;
}

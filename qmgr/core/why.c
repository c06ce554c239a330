/* SPDX-License-Identifier: ISC */
/*
 * What waits for what, for people: the limits with their use, and the one cause that holds a queue,
 * a lane or a job now. Reads only; a queue's cause is where it stands (its waiters' lines), so that
 * the answer is what the scheduler itself acts by.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- texts that live until the next call ---- */

static void texts_begin(const struct core *core)
{
	buf_reset(core->keys);
}

static struct str text_of(const struct core *core, const char *a, const char *b, struct str c)
{
	size_t at = core->keys->n;

	if (at + strlen(a) + strlen(b) + c.n > CORE_TEXTS)
		return STR("");
	buf_cstr(core->keys, a);
	buf_cstr(core->keys, b);
	buf_str(core->keys, c);
	return (struct str){(const char *)core->keys->p + at, core->keys->n - at};
}

/* ---- limits ---- */

static const struct conf_value *origin_of(
    const struct core *core, const struct queue *q, enum conf_opt opt)
{
	const struct value_of of = {
	    q->dest->own ? name_str(q->dest->name) : STR(""), name_str(q->provider)};
	const struct conf_node *layers[VALUE_LAYERS];
	const struct conf_value *v;

	value_layers(core, &of, q->vmta, layers);
	return value_pick(layers, opt, &v) < VALUE_LAYERS ? v : NULL;
}

static const struct conf_value *origin_of_own(
    const struct core *core, const struct queue *q, enum limit_kind kind)
{
	static const enum conf_opt opts[LIMIT_KINDS] = {[LIMIT_CONNS] = CO_DOMAIN_max_smtp_out,
	    [LIMIT_CONNECTS] = CO_DOMAIN_max_connect_rate,
	    [LIMIT_RAMPUP] = CO_DOMAIN_smtp_out_rampup_interval,
	    [LIMIT_MSGS] = CO_DOMAIN_max_msg_rate,
	    [LIMIT_BYTES] = CO_DOMAIN_max_data_volume_rate};

	return origin_of(core, q, opts[kind]);
}

/* Those of a queue and of its paths are read from its domain's options. */
static const struct conf_value *origin_of_limiter(
    const struct core *core, const struct queue *q, const struct limiter *l)
{
	static const enum conf_opt of_path[LIMIT_KINDS] = {
	    [LIMIT_CONNS] = CO_DOMAIN_source_ip_max_smtp_out,
	    [LIMIT_CONNECTS] = CO_DOMAIN_source_ip_max_connect_rate,
	    [LIMIT_MSGS] = CO_DOMAIN_source_ip_max_msg_rate};

	if (l->budget == q->own)
		return origin_of_own(core, q, l->kind);
	return l->budget->scope == SCOPE_PATH ? origin_of(core, q, of_path[l->kind]) : l->origin;
}

static void view_limiter(
    const struct core *core, const struct limiter *l, struct core_limit_view *v)
{
	enum limit_line line =
	    l->kind == LIMIT_MSGS || l->kind == LIMIT_BYTES ? LINE_SEND : LINE_OPEN;
	int64_t frees = limiter_frees_ms(core, l, line);

	*v = (struct core_limit_view){.name = str_of(limit_name(l)),
	    .key = str_of(l->budget->key),
	    .frees_ms = frees <= core->now ? 0 : frees,
	    .origin = l->origin};
	if (l->kind == LIMIT_CONNS) {
		v->limit = l->max;
		v->used = l->budget->used;
		return;
	}
	v->limit = l->bucket.rate.n;
	v->per_ms = l->bucket.rate.per_ms;
	v->burst = l->bucket.rate.burst ? l->bucket.rate.burst : 1;
	v->used = v->burst - bucket_tokens(&l->bucket, core->now);
}

static void view_conns(const struct core *core, const struct queue *q, struct core_limit_view *v)
{
	*v = (struct core_limit_view){.name = STR("max-smtp-out"),
	    .key = text_of(core, "queue ", "", str_of(q->name)),
	    .limit = q->limit.max,
	    .used = q->limit.used,
	    .frees_ms = q->limit.used < q->limit.max ? 0 : NEVER,
	    .origin = origin_of_own(core, q, LIMIT_CONNS),
	    .binding = q->limit.used >= q->limit.max && queue_ready(q) > 0};
}

static bool key_matches(struct str pattern, const char *key)
{
	const char *space = strchr(key, ' ');

	return core_glob(pattern, str_of(key)) || (space && core_glob(pattern, str_of(space + 1)));
}

static size_t limits_of_budgets(const struct core *core, struct str pattern,
    struct core_cursor *cursor, struct core_limit_view *out, size_t n)
{
	size_t found = 0;

	for (; cursor->a < core->budget_count; cursor->a++, cursor->b = 0) {
		const struct budget *b = core->budget_at[cursor->a + 1];

		if (!b || !key_matches(pattern, b->key))
			continue;
		for (; cursor->b < LIMIT_KINDS; cursor->b++) {
			if (!b->of[cursor->b])
				continue;
			if (found == n)
				return n;
			view_limiter(core, b->of[cursor->b], &out[found]);
			out[found].binding = b->of[cursor->b]->line[LINE_OPEN].n ||
					     b->of[cursor->b]->line[LINE_SEND].n;
			found++;
		}
	}
	return found;
}

/* First those of budgets, then each queue's connections. */
#define CURSOR_QUEUES (UINT64_C(1) << 32)

size_t core_limits(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct core_limit_view *out, size_t n)
{
	size_t found = 0;

	texts_begin(core);
	if (cursor->a < CURSOR_QUEUES) {
		found = limits_of_budgets(core, pattern, cursor, out, n);
		if (found == n)
			return n;
		*cursor = (struct core_cursor){CURSOR_QUEUES, 0};
	}
	while (found < n && cursor->a - CURSOR_QUEUES < core->queue_count) {
		const struct queue *q = core->queue_at[++cursor->a - CURSOR_QUEUES];

		if (q && (core_glob(pattern, str_of(q->name)) ||
			     core_glob(pattern, name_str(q->dest->name))))
			view_conns(core, q, &out[found++]);
	}
	return found;
}

struct views {
	struct core_limit_view *out;
	size_t n, max;
};

static void add_budget(const struct core *core, const struct budget *b, const struct queue *q,
    const struct limiter *binding, struct views *views)
{
	for (int kind = 0; b && kind < LIMIT_KINDS && views->n < views->max; kind++) {
		struct core_limit_view *v = &views->out[views->n];

		if (!b->of[kind])
			continue;
		view_limiter(core, b->of[kind], v);
		v->binding = b->of[kind] == binding;
		v->origin = origin_of_limiter(core, q, b->of[kind]);
		views->n++;
	}
}

static void add_sources(const struct core *core, const struct queue *q,
    const struct limiter *binding, struct views *views)
{
	const struct vmta *v = vmta_acting(core, q->vmta);

	for (size_t i = 0; i < v->source_count; i++) {
		const struct path *p = dest_path_find(q->dest, v->sources[i].address);

		if (p)
			add_budget(core, p->own, q, binding, views);
		add_budget(core, budget_find(core, SCOPE_SOURCE, name_str(v->sources[i].address)),
		    q, binding, views);
	}
}

/* Hosts and addresses that it has connections to, or waits for. */
static void add_peers(const struct core *core, const struct queue *q, const struct limiter *binding,
    struct views *views)
{
	const struct budget *last = NULL;

	for (const struct link *l = q->conns.next; l != &q->conns; l = l->next) {
		const struct conn *c = OWNER((struct link *)(uintptr_t)l, struct conn, in_queue);

		for (uint32_t i = 0; i < c->seat_count; i++) {
			const struct budget *b = c->seats[i].budget;

			if ((b->scope != SCOPE_MX && b->scope != SCOPE_ADDRESS) || b == last)
				continue;
			add_budget(core, b, q, binding, views);
			last = b;
		}
	}
}

static void add_queue(const struct core *core, const struct queue *q, const struct lane *lane,
    const struct limiter *binding, struct views *views)
{
	if (views->n < views->max) {
		view_conns(core, q, &views->out[views->n]);
		views->out[views->n++].binding &= !binding; /* one cause is told */
	}
	add_budget(core, q->own, q, binding, views);
	for (uint32_t i = 0; i < q->shared_count; i++)
		add_budget(core, q->shared[i], q, binding, views);
	add_sources(core, q, binding, views);
	add_peers(core, q, binding, views);
	if (lane) {
		struct budget *of[LANE_BUDGETS];

		for (unsigned count = party_budgets(lane, of), i = 0; i < count; i++)
			add_budget(core, of[i], q, binding, views);
	}
	add_budget(core, core->total, q, binding, views);
}

/* ---- the cause ---- */

static void say_limit(const struct core *core, const struct queue *q, const struct limiter *l,
    enum limit_line line, struct core_why *why)
{
	int64_t frees = limiter_frees_ms(core, l, line);

	why->state = STR("limit");
	why->binding = text_of(core, limit_name(l), " of ", str_of(l->budget->key));
	why->until_ms = frees == NEVER || frees <= core->now ? 0 : frees;
	why->origin = origin_of_limiter(core, q, l);
	if (l->budget->scope == SCOPE_PARTY)
		party_why(core, l->budget, why);
}

static bool sources_unusable(const struct core *core, const struct queue *q)
{
	const struct vmta *v = vmta_acting(core, q->vmta);

	for (size_t i = 0; i < v->source_count; i++) {
		const struct path *p = dest_path_find(q->dest, v->sources[i].address);

		if (!source_disabled(core, q, v->sources[i].address) &&
		    (!p || p->blocked_ms <= core->now))
			return false;
	}
	return v->source_count > 0;
}

static void say(struct core_why *why, struct str state, struct str binding, int64_t until_ms)
{
	why->state = state;
	why->binding = binding;
	why->until_ms = until_ms;
}

/* Of mail that is ready; false: nothing holds it. */
static bool why_ready(const struct core *core, const struct queue *q, struct core_why *why)
{
	if (!q->routed)
		say(why, STR("route"), STR("no answer of the name servers yet"), 0);
	else if (q->send.at)
		say_limit(core, q, q->send.at, LINE_SEND, why);
	else if (q->grant.at)
		say_limit(core, q, q->grant.at, LINE_OPEN, why);
	else if (sources_unusable(core, q))
		say(why, STR("source"), STR("no source address is usable"),
		    q->hold_ms > core->now ? q->hold_ms : 0);
	else if (q->hold_ms > core->now)
		say(why, STR("retry"), STR("failed connections"), q->hold_ms);
	else if (!link_alone(&q->in_unserved))
		say(why, STR("connecting"), STR("no smtp-out process"), 0);
	else
		return false;
	return true;
}

static void why_flow(const struct core *core, const struct queue *q, struct core_why *why)
{
	if (q->n[JOB_IN_FLIGHT])
		say(why, STR("sending"), STR(""), 0);
	else if (q->opening)
		say(why, STR("connecting"), STR(""), 0);
	else if (queue_ready(q))
		say(why, STR("ready"), STR(""), 0);
	else if (q->n[JOB_WAITING] + q->n[JOB_DOUBT])
		say(why, STR("retry"), STR("retry-after"), q->next_due_ms);
	else if (q->n[JOB_SET_ASIDE])
		say(why, STR("held"), STR("set aside"), 0);
	else
		say(why, STR("empty"), STR(""), 0);
	if (queue_ready(q) && q->limit.used >= q->limit.max) {
		why->binding = text_of(core, "max-smtp-out of queue ", "", str_of(q->name));
		why->origin = origin_of_own(core, q, LIMIT_CONNS);
	}
}

/* The first of its lanes that is out of the turn. */
static const struct lane *parked_lane(const struct queue *q)
{
	for (struct link *l = q->lanes.next; l != &q->lanes; l = l->next) {
		const struct lane *lane = OWNER(l, struct lane, in_queue);

		if (lane->ready && lane_parked(lane))
			return lane;
	}
	return NULL;
}

static void why_parked(const struct core *core, const struct lane *lane, struct core_why *why)
{
	if (lane->wait.at)
		say_limit(core, lane->share->queue, lane->wait.at, LINE_SEND, why);
	else if (!hold_why(core, lane->share->queue, lane, why)) /* its turn to be released comes */
		say(why, STR("suspended"), name_str(lane->share->tenant), 0);
}

static void why_queue(const struct core *core, const struct queue *q, struct core_why *why)
{
	why->text = str_of(q->error);
	if (hold_why(core, q, NULL, why))
		return;
	if (queue_ready(q) && why_ready(core, q, why))
		return;
	else if (q->n[JOB_READY] && !queue_ready(q) && !q->n[JOB_IN_FLIGHT] && parked_lane(q))
		why_parked(core, parked_lane(q), why);
	else
		why_flow(core, q, why);
}

static const struct limiter *binding_of(const struct queue *q, const struct lane *lane)
{
	if (lane && lane->wait.at)
		return lane->wait.at;
	return q->send.at ? q->send.at : q->grant.at;
}

/* Nothing of it is ready. */
static void why_idle_lane(const struct core *core, const struct lane *lane, struct core_why *why)
{
	const struct queue *q = lane->share->queue;

	if (hold_why(core, q, lane, why))
		return;
	why->text = str_of(q->error);
	if (lane->list[LANE_FLIGHT].head)
		say(why, STR("sending"), STR(""), 0);
	else if (!link_alone(&lane->waiting))
		say(why, STR("retry"), STR("retry-after"), 0);
	else
		say(why, STR("held"), STR("set aside"), 0);
}

static void answer(const struct core *core, const struct queue *q, const struct lane *lane,
    struct core_why *why, struct core_limit_view *limits, size_t *n)
{
	struct views views = {limits, 0, *n};

	texts_begin(core);
	*why = (struct core_why){.target = str_of(q->name)};
	if (lane && lane->ready && lane_parked(lane))
		why_parked(core, lane, why);
	else if (lane && !lane->ready && lane->jobs)
		why_idle_lane(core, lane, why);
	else
		why_queue(core, q, why);
	add_queue(core, q, lane, binding_of(q, lane), &views);
	*n = views.n;
}

/* ---- targets ---- */

static size_t nth_slash(struct str s, int nth)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == '/' && --nth == 0)
			return i;
	return s.n;
}

static const struct lane *lane_named(const struct core *core, struct str name)
{
	size_t queue_n = nth_slash(name, 2), tenant_n = nth_slash(name, 3);
	const struct queue *q = queue_find(core, (struct str){name.p, queue_n});
	struct str campaign = STR("");
	const struct name *t, *c;
	const struct share *s;

	if (!q || queue_n == name.n)
		return NULL;
	if (tenant_n < name.n)
		campaign = (struct str){name.p + tenant_n + 1, name.n - tenant_n - 1};
	t = name_find(core, (struct str){name.p + queue_n + 1, tenant_n - queue_n - 1});
	c = name_find(core, campaign);
	s = t && c ? share_find(core, q, t) : NULL;
	for (struct link *l = s ? s->lanes.next : NULL; l && l != &s->lanes; l = l->next)
		if (OWNER(l, struct lane, in_owner)->campaign == c)
			return OWNER(l, struct lane, in_owner);
	return NULL;
}

/* What stands still says more of a tenant than what flows; then what has most that is ready. */
static bool tells_more(const struct lane *a, const struct lane *b)
{
	bool still = a->ready && lane_parked(a);

	if (!b || still != (b->ready && lane_parked(b)))
		return !b || still;
	return a->ready > b->ready;
}

/* Of a tenant's lanes, or the queues of a place or virtual MTA, the one with most that is ready. */
static const struct lane *lane_of_tenant(const struct core *core, struct str name)
{
	const struct tenant *t = tenant_find(core, name);
	const struct lane *best = NULL;

	for (struct link *l = t ? t->lanes.next : NULL; l && l != &t->lanes; l = l->next) {
		const struct lane *lane = OWNER(l, struct lane, in_tenant);

		if (tells_more(lane, best))
			best = lane;
	}
	return best;
}

/* TENANT/CAMPAIGN. */
static const struct lane *lane_of_campaign(const struct core *core, struct str name)
{
	size_t slash = nth_slash(name, 1);
	const struct tenant *t = tenant_find(core, (struct str){name.p, slash});
	const struct name *campaign =
	    slash < name.n ? name_find(core, (struct str){name.p + slash + 1, name.n - slash - 1})
			   : NULL;
	const struct campaign *c = t && campaign ? campaign_find(core, t, campaign) : NULL;
	const struct lane *best = NULL;

	for (struct link *l = c ? c->lanes.next : NULL; l && l != &c->lanes; l = l->next) {
		const struct lane *lane = OWNER(l, struct lane, in_campaign);

		if (tells_more(lane, best))
			best = lane;
	}
	return best;
}

static uint64_t waiting(const struct queue *q)
{
	uint64_t n = 0;

	for (size_t i = 0; i < COUNT_OF(q->n); i++)
		n += q->n[i];
	return n;
}

static const struct queue *busier(const struct queue *best, const struct queue *q)
{
	if (!best || q->n[JOB_READY] > best->n[JOB_READY] ||
	    (q->n[JOB_READY] == best->n[JOB_READY] && waiting(q) > waiting(best)))
		return q;
	return best;
}

static const struct queue *busiest_there(const struct core *core, struct str name)
{
	const struct dest *dests[DESTS_NAMED];
	size_t n = dests_named(core, name, dests);
	const struct queue *best = NULL;

	for (size_t i = 0; i < n; i++)
		for (struct link *l = dests[i]->queues.next; l != &dests[i]->queues; l = l->next)
			best = busier(best, OWNER(l, struct queue, in_dest));
	return best;
}

/* The one walk over all queues, and only for the name of a virtual MTA. */
static const struct queue *busiest_of_vmta(const struct core *core, struct str name)
{
	const struct vmta *vmta = vmta_find(core, name);
	const struct queue *best = NULL;

	for (uint32_t i = 1; vmta && vmta->queues && i <= core->queue_count; i++)
		if (core->queue_at[i] && core->queue_at[i]->vmta == vmta)
			best = busier(best, core->queue_at[i]);
	return best;
}

int core_why_queue(const struct core *core, struct str target, struct core_why *why,
    struct core_limit_view *limits, size_t *n)
{
	const struct queue *q = queue_find(core, target);
	const struct lane *lane = q ? NULL : lane_named(core, target);

	if (!q && !lane)
		q = busiest_there(core, target);
	if (!q && !lane)
		q = busiest_of_vmta(core, target);
	if (!q && !lane)
		lane = lane_of_tenant(core, target);
	if (!q && !lane)
		lane = lane_of_campaign(core, target);
	if (lane)
		q = lane->share->queue;
	if (!q)
		return -ENOENT;
	answer(core, q, lane, why, limits, n);
	return 0;
}

int core_why_job(const struct core *core, job_ref ref, struct core_why *why,
    struct core_limit_view *limits, size_t *n)
{
	const struct job *j = job_valid(core, ref);
	const struct lane *lane;

	if (!j || j->state == JOB_ENDED)
		return -ENOENT;
	lane = core->lane_at[j->lane];
	answer(core, lane->share->queue, lane, why, limits, n);
	if (j->state == JOB_IN_FLIGHT)
		say(why, STR("in flight"), STR(""), 0);
	else if (j->state == JOB_SET_ASIDE)
		say(why, STR("held"), STR("set aside"), 0);
	else if (j->state == JOB_WAITING)
		say(why, STR("retry"), STR("retry-after"), (int64_t)j->due_ms);
	return 0;
}

/* ---- arithmetic ---- */

static double per_hour(const struct rate *r)
{
	return r->n ? (double)r->n * (double)HOUR / (double)r->per_ms : 0;
}

static void tighter(struct core_arithmetic *a, double by, const char *option)
{
	if (by <= 0 || (a->binds && by >= a->per_hour))
		return;
	a->per_hour = by;
	a->binds = option;
}

/* One recipient a transaction. */
static void reckon(struct core_arithmetic *a, const struct effective *e, int64_t rampup_ms)
{
	struct rate ramp = {rampup_ms > 0, 1, rampup_ms};
	double connects = per_hour(&e->connect), ramps = per_hour(&ramp);
	const char *option = "max-connect-rate";

	if (ramps > 0 && (connects <= 0 || ramps < connects)) {
		connects = ramps;
		option = "smtp-out-rampup-interval";
	}
	a->by_connections = e->max_smtp_out * 3600.0 / a->seconds_per_message;
	a->by_connects = connects * e->max_msg;
	a->by_messages = per_hour(&e->msg);
	tighter(a, a->by_connections, "max-smtp-out");
	tighter(a, a->by_connects, option);
	tighter(a, a->by_messages, "max-msg-rate");
}

void core_arithmetic(
    const struct core *core, struct str domain, struct str vmta, struct core_arithmetic *out)
{
	struct vmta *v = vmta_find(core, vmta.n ? vmta : core_default_vmta(core));
	struct str place = core_destination(core, domain);
	const struct dest *dest = dest_find(core, place.n ? place : domain);
	const struct queue *q = dest && v ? queue_at(core, dest, v) : NULL;

	*out = (struct core_arithmetic){.seconds_per_message = 1};
	if (q) {
		if (q->message_us)
			/* The clock counts milliseconds: less than one is not known. */
			out->seconds_per_message =
			    q->message_us < 1000 ? 0.001 : q->message_us / 1e6;
		reckon(out, &q->e, q->v.rampup_ms);
	} else {
		const struct value_of of = {
		    value_literal(core, domain) ? domain : STR(""), STR("")};
		struct values values;

		value_resolve(core, &of, v, &values);
		reckon(out,
		    &(struct effective){.max_smtp_out = values.max_smtp_out,
			.max_msg = values.max_msg,
			.connect = values.connect,
			.msg = values.msg},
		    values.rampup_ms);
	}
}

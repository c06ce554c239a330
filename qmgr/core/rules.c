/* SPDX-License-Identifier: ISC */
/*
 * Rules on replies: what follows of the matches that smtp-out reports. core_hits() brings them, the
 * core_result() or core_conn_closed() behind it says what they are about; they are acted upon
 * before its results are, so that a deferral already waits by the schedule of the mode it caused.
 *
 * A rule counts once for each reply it matched. Its trigger is counted for the rule's scope, or for
 * what a group of its pattern named; of a share, attempts are transactions and failed connections,
 * at most one match each. A trigger goes on firing with each match while its condition holds: that
 * is how a backoff lasts until the matches stop. In recovery, a match of a rule that would set
 * backoff is enough, whatever its trigger.
 *
 * Of the actions of one reply that exclude each other the first in order of the lists holds. The
 * recipients that a reply was about keep their outcome unless an action says otherwise: bounce-*
 * returns them, defer-* keeps them, skip-mx sends them on at once where there is another MX host.
 * What was delivered stays delivered.
 *
 * Mode, settings, deferral and bounce of a queue are done on every queue of the rule's scope. Those
 * of a provider or virtual MTA are found by a look at all queues (a millisecond for a hundred
 * thousand), once in RULE_WIDE_PAUSE; one that is made later is reached by the next firing. Holds
 * are hold.c's.
 */
#include "qmgr/core/rules.h"
#include "common/addr.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the rules of the configuration ---- */

void rules_init(struct core *core)
{
	struct rules *r = core->rules = xcalloc(1, sizeof(*r));

	table_init(&r->by_id);
	table_init(&r->windows);
	link_init(&r->age);
	buf_init(&r->objects, SIZE_MAX);
}

static void forget_rules(struct core *core)
{
	struct rules *r = core->rules;
	struct node *n;

	while ((n = table_any(&r->by_id))) {
		table_remove(&r->by_id, n);
		free(OWNER(n, struct known, node));
	}
	rule_lists_free(&r->lists, r->list_count);
	r->list_count = 0;
	r->hit_count = r->decided_count = 0;
}

void rules_fini(struct core *core)
{
	struct rules *r = core->rules;

	while (!link_alone(&r->age))
		window_free(core, OWNER(r->age.next, struct window, in_age));
	forget_rules(core);
	table_fini(&r->by_id);
	table_fini(&r->windows);
	buf_fini(&r->objects);
	free(r->hits);
	free(r->decided);
	free(r);
}

struct known *rules_find(const struct core *core, uint64_t id)
{
	for (struct node *i = table_first(&core->rules->by_id, hash_mix(core->seed, id)); i;
	     i = table_next(i))
		if (OWNER(i, struct known, node)->rule->id == id)
			return OWNER(i, struct known, node);
	return NULL;
}

static void learn(struct core *core, const struct rule_list *list, const struct rule *rule)
{
	struct known *k;

	if (rules_find(core, rule->id))
		return;
	k = xcalloc(1, sizeof(*k));
	k->rule = rule;
	k->list = list;
	for (size_t i = 0; i < rule->action_count; i++)
		k->backoff |= rule->actions[i].kind == ACTION_MODE_BACKOFF;
	table_add(&core->rules->by_id, &k->node, hash_mix(core->seed, rule->id));
}

/* Windows of rules that are no more go; their states with them. */
static void forget_windows(struct core *core)
{
	struct link *next;

	for (struct link *l = core->rules->age.next; l != &core->rules->age; l = next) {
		struct window *w = OWNER(l, struct window, in_age);

		next = l->next;
		if (!rules_find(core, w->rule))
			window_free(core, w);
	}
}

void rules_configured(struct core *core)
{
	struct rules *r = core->rules;

	forget_rules(core);
	r->lists = rule_lists(core->conf, &r->list_count);
	for (size_t i = 0; i < r->list_count; i++)
		for (size_t k = 0; k < r->lists[i].count; k++)
			learn(core, &r->lists[i], &r->lists[i].rules[k]);
	forget_windows(core);
}

static const struct rule_list *find_list(const struct core *core, const char *name)
{
	for (size_t i = 0; i < core->rules->list_count; i++)
		if (strcmp(core->rules->lists[i].name, name) == 0)
			return &core->rules->lists[i];
	return NULL;
}

static bool is_of_tenant(const struct rule *rule)
{
	return rule->scope == RULE_TENANT || rule->scope == RULE_CAMPAIGN ||
	       rule->scope == RULE_SENDER_DOMAIN;
}

static bool acts_on_tenant(const struct rule *rule)
{
	for (size_t i = 0; i < rule->action_count; i++)
		switch (rule->actions[i].kind) {
		case ACTION_SUSPEND_TENANT:
		case ACTION_SUSPEND_CAMPAIGN:
		case ACTION_BOUNCE_TENANT:
		case ACTION_BOUNCE_CAMPAIGN:
			return true;
		default:
			if (is_of_tenant(rule))
				return true;
		}
	return false;
}

bool rules_have_tenants(const struct core *core, const struct conf_value *lists)
{
	for (size_t i = 0; lists && i < lists->count; i++) {
		const struct rule_list *list = find_list(core, lists->texts[i]);

		for (size_t k = 0; list && k < list->count; k++)
			if (acts_on_tenant(&list->rules[k]))
				return true;
	}
	return false;
}

static bool has_share(const struct rule_list *list)
{
	for (size_t i = 0; list && i < list->count; i++)
		if (list->rules[i].trigger.kind == TRIGGER_SHARE)
			return true;
	return false;
}

bool rules_have_shares(const struct core *core, const struct conf_value *lists)
{
	for (size_t i = 0; lists && i < lists->count; i++)
		if (has_share(find_list(core, lists->texts[i])))
			return true;
	return false;
}

static struct str place_of(const struct core *core, const struct known *k, char *to, size_t size)
{
	const struct conf_node *n = k->rule->node;
	int len = snprintf(to, size, "%s:%zu (%s:%u)", k->list->name, k->rule->index,
	    n->file < core->conf->file_count ? core->conf->files[n->file] : "?", n->line);

	return (struct str){to, (size_t)len < size ? (size_t)len : size - 1};
}

/* ---- hits come in ---- */

void core_hits(struct core *core, const struct rule_hit *hits, size_t n)
{
	struct rules *r = core->rules;
	size_t bytes = 0, at = 0;

	for (size_t i = 0; i < n; i++)
		bytes += hits[i].object.n;
	if (n > r->hit_cap) {
		r->hits = xrealloc(r->hits, n * sizeof(*hits));
		r->hit_cap = n;
	}
	buf_reset(&r->objects);
	must(buf_reserve(&r->objects, bytes + 1) != NULL); /* it must not move under the views */
	for (size_t i = 0; i < n; i++) {
		r->hits[i] = hits[i];
		buf_str(&r->objects, hits[i].object);
		r->hits[i].object.p = (const char *)r->objects.p + at;
		at += hits[i].object.n;
	}
	r->hit_count = n;
}

/* The tenant that a match is about: who sends for the domain that the reply names, if that is
 * anybody; else whose mail it was. "": nobody. */
static struct str whose(
    const struct core *core, const struct rule_reply *r, const struct rule_hit *hit)
{
	struct str tenant = STR("");

	if (hit && hit->object_kind == HIT_DOMAIN)
		tenant = tenant_of_domain(core, hit->object);
	return tenant.n || !r->lane ? tenant : name_str(r->lane->share->tenant);
}

/* Its campaign: the mail's, if the mail is that tenant's. */
static struct str which(const struct rule_reply *r, struct str tenant)
{
	return r->lane && str_eq(name_str(r->lane->share->tenant), tenant)
		   ? name_str(r->lane->campaign)
		   : STR("");
}

/* Its whole name. */
static int object_name(const struct core *core, const struct rule_reply *r, const struct rule *rule,
    const struct rule_hit *hit, char to[RULE_OBJECT_FULL])
{
	static const char *const kinds[] = {"", "ip", "netblock", "domain"};
	const struct queue *q = r->queue;
	struct str dest = name_str(q->dest->name), source = STR("");
	struct str tenant = whose(core, r, hit);
	int n;

	if (r->conn)
		source = name_str(r->conn->path->source);
	if (hit && hit->object_kind != HIT_NOTHING && hit->object_kind < HIT_OBJECT_COUNT &&
	    rule->trigger.kind != TRIGGER_SHARE)
		n = snprintf(to, RULE_OBJECT_FULL, "%s %.*s%s%.*s", kinds[hit->object_kind],
		    STR_ARG(hit->object), is_of_tenant(rule) ? " at " : "",
		    STR_ARG(is_of_tenant(rule) ? dest : STR("")));
	else if (rule->scope == RULE_PATH)
		n = snprintf(
		    to, RULE_OBJECT_FULL, "path %.*s from %.*s", STR_ARG(dest), STR_ARG(source));
	else if (rule->scope == RULE_SOURCE)
		n = snprintf(to, RULE_OBJECT_FULL, "source %.*s", STR_ARG(source));
	else if (rule->scope == RULE_VMTA)
		n = snprintf(
		    to, RULE_OBJECT_FULL, "virtual-mta %.*s", STR_ARG(name_str(q->vmta->name)));
	else if (rule->scope == RULE_PROVIDER)
		n = snprintf(to, RULE_OBJECT_FULL, "provider %.*s",
		    STR_ARG(q->provider ? name_str(q->provider) : dest));
	else if (rule->scope == RULE_CAMPAIGN)
		n = snprintf(to, RULE_OBJECT_FULL, "campaign %.*s/%.*s at %.*s", STR_ARG(tenant),
		    STR_ARG(which(r, tenant)), STR_ARG(dest));
	else if (rule->scope == RULE_TENANT || rule->scope == RULE_SENDER_DOMAIN)
		n = snprintf(
		    to, RULE_OBJECT_FULL, "tenant %.*s at %.*s", STR_ARG(tenant), STR_ARG(dest));
	else
		n = snprintf(to, RULE_OBJECT_FULL, "queue %s", q->name);
	return n;
}

/* What a trigger is counted for, and a firing is about. A long name ends in a hash of the whole. */
static struct str object_of(const struct core *core, const struct rule_reply *r,
    const struct rule *rule, const struct rule_hit *hit, char to[RULE_OBJECT_MAX])
{
	char full[RULE_OBJECT_FULL];
	int n = object_name(core, r, rule, hit, full);

	if (n >= RULE_OBJECT_FULL)
		n = RULE_OBJECT_FULL - 1;
	if (n < RULE_OBJECT_MAX)
		memcpy(to, full, (size_t)n);
	else
		n = snprintf(to, RULE_OBJECT_MAX, "%.*s~%016llx", RULE_OBJECT_MAX - 20, full,
		    (unsigned long long)hash_bytes(0, (struct str){full, (size_t)n}));
	return (struct str){to, (size_t)n};
}

static bool has_hit(const struct rules *r, uint64_t rule)
{
	for (size_t i = 0; i < r->hit_count; i++)
		if (r->hits[i].rule == rule)
			return true;
	return false;
}

/* One more attempt for each rule on shares of the queue's lists. */
static void count_attempt(struct core *core, const struct rule_reply *r)
{
	const struct conf_value *names = r->queue->v.patterns;
	char object[RULE_OBJECT_MAX];

	for (size_t i = 0; i < names->count; i++) {
		const struct rule_list *list = find_list(core, names->texts[i]);

		for (size_t k = 0; list && k < list->count; k++) {
			const struct rule *rule = &list->rules[k];
			const struct known *known = rules_find(core, rule->id);

			if (rule->trigger.kind != TRIGGER_SHARE || !known)
				continue;
			window_add(core,
			    window_get(core, known, object_of(core, r, rule, NULL, object)),
			    &rule->trigger, 1, has_hit(core->rules, rule->id));
		}
	}
}

/* ---- recipients ---- */

static void decide(
    struct core *core, uint16_t ordinal, enum rule_action_kind action, const struct known *k)
{
	struct rules *r = core->rules;

	if (r->decided_count == r->decided_cap) {
		r->decided_cap = r->decided_cap ? 2 * r->decided_cap : 16;
		r->decided = xrealloc(r->decided, r->decided_cap * sizeof(*r->decided));
	}
	r->decided[r->decided_count] =
	    (struct decided){.ordinal = ordinal, .action = action, .known = k};
	r->decided[r->decided_count].order = (uint32_t)r->decided_count;
	r->decided_count++;
}

static int by_ordinal(const void *a, const void *b)
{
	const struct decided *x = a, *y = b;

	if (x->ordinal != y->ordinal)
		return x->ordinal < y->ordinal ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* The first that was decided for exactly that ordinal. */
static const struct decided *decided_for(const struct rules *r, uint16_t ordinal)
{
	size_t low = 0, high = r->decided_count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (r->decided[mid].ordinal < ordinal)
			low = mid + 1;
		else
			high = mid;
	}
	return low < r->decided_count && r->decided[low].ordinal == ordinal ? &r->decided[low]
									    : NULL;
}

bool rules_verdict(struct core *core, uint16_t ordinal, struct rule_verdict *v)
{
	const struct rules *r = core->rules;
	const struct decided *own, *all;

	if (r->decided_count == 0)
		return false;
	own = decided_for(r, ordinal);
	all = decided_for(r, HIT_ALL);
	if (!own || (all && all->order < own->order))
		own = all;
	if (!own)
		return false;
	v->action = own->action;
	place_of(core, own->known, v->rule, sizeof(v->rule));
	return true;
}

/* ---- actions ---- */

struct firing {
	const struct rule_reply *reply;
	struct known *known;
	const struct rule_hit *hit;
	struct window *window; /* NULL: none was needed */
	struct str object;
	struct why why;
	int64_t until_ms; /* 0: not said, or without end */
};

static int64_t waits(const struct queue *q)
{
	return value_step(q->e.retry, q->e.retry_count, q->failures);
}

static void act_on_queue(
    struct core *core, const struct firing *f, const struct rule_action *a, struct queue *q)
{
	switch (a->kind) {
	case ACTION_MODE_BACKOFF:
		mode_backoff(core, q, &f->why, f->known->rule->for_ms);
		break;
	case ACTION_MODE_NORMAL:
		mode_normal(core, q, &f->why, false);
		break;
	case ACTION_BOUNCE_QUEUE:
		queue_visit(core, q, VISIT_BOUNCE, f->why.text);
		break;
	case ACTION_DEFER_QUEUE:
		if (q->hold_ms <= core->now) { /* replies side by side are one */
			q->failures++;
			queue_defer(core, q, core->now + core_jitter(core, waits(q)));
		}
		break;
	case ACTION_REROUTE:
		setting_reroute(core, q, str_of(a->name), f->until_ms);
		break;
	default:
		setting_add(core, q, a, f->until_ms, &f->why);
	}
}

static bool covers(enum rule_scope scope, const struct queue *q, const struct queue *other)
{
	if (scope == RULE_VMTA)
		return other->vmta == q->vmta;
	return other->dest == q->dest || (q->provider && other->provider == q->provider);
}

static void act_on_scope(struct core *core, const struct firing *f, const struct rule_action *a)
{
	struct queue *q = f->reply->queue;
	enum rule_scope scope = f->known->rule->scope;

	act_on_queue(core, f, a, q);
	if ((scope != RULE_VMTA && scope != RULE_PROVIDER) ||
	    (f->window->wide_ms && core->now - f->window->wide_ms < RULE_WIDE_PAUSE))
		return;
	for (uint32_t i = 1; i <= core->queue_count; i++) {
		struct queue *other = core->queue_at[i];

		if (other && other != q && covers(scope, q, other))
			act_on_queue(core, f, a, other);
	}
}

/* Those that the pattern named, if they are the virtual MTA's; else the connection's. */
static void disable_sources(struct core *core, const struct firing *f)
{
	struct queue *q = f->reply->queue, *where = q;
	const struct vmta *v = vmta_acting(core, q->vmta);
	int64_t until = f->until_ms;
	bool any = false;
	struct network net, address;

	if (f->known->rule->scope == RULE_SOURCE)
		where = NULL;
	if (!until && q->v.reenable_ms > 0)
		until = core->now + q->v.reenable_ms;
	if ((f->hit->object_kind == HIT_IP || f->hit->object_kind == HIT_NETBLOCK) &&
	    network_parse(&net, f->hit->object) == 0) {
		for (size_t i = 0; i < v->source_count; i++) {
			if (network_parse(&address, name_str(v->sources[i].address)) ||
			    !network_has(&net, address.bytes))
				continue;
			any = true;
			source_disable(
			    core, name_str(v->sources[i].address), where, until, &f->why);
		}
	}
	if (!any && f->reply->conn && f->reply->conn->path->source->n)
		source_disable(core, name_str(f->reply->conn->path->source), where, until, &f->why);
}

static void cannot(struct core *core, const struct firing *f, const char *what)
{
	event_push(core, &(struct core_event){.kind = EVENT_ERROR,
			     .scope = f->object,
			     .text = str_of(what),
			     .rule = f->why.rule});
}

static void suspend(struct core *core, const struct firing *f, enum rule_action_kind kind)
{
	const struct queue *q = f->reply->queue;
	struct str tenant = whose(core, f->reply, f->hit);
	struct hold_request h = {.scope = CORE_QUEUE,
	    .name = str_of(q->name),
	    .rule = f->why.rule,
	    .text = f->why.text,
	    .until_ms = f->until_ms};
	char name[RULE_OBJECT_MAX];
	int n;

	if (kind == ACTION_SUSPEND_QUEUE && f->known->rule->scope == RULE_VMTA) {
		h.scope = CORE_VMTA;
		h.name = name_str(q->vmta->name);
	} else if (kind == ACTION_SUSPEND_QUEUE && f->known->rule->scope == RULE_PROVIDER) {
		h.scope = CORE_PROVIDER;
		h.name = name_str(q->provider ? q->provider : q->dest->name);
	} else if (kind != ACTION_SUSPEND_QUEUE) {
		if (tenant.n == 0) {
			cannot(core, f, "the mail has no tenant: nothing is suspended");
			return;
		}
		h.at = name_str(q->dest->name);
		h.scope = kind == ACTION_SUSPEND_TENANT ? CORE_TENANT : CORE_CAMPAIGN;
		n = snprintf(name, sizeof(name), "%.*s%s%.*s", STR_ARG(tenant),
		    h.scope == CORE_TENANT ? "" : "/",
		    STR_ARG(h.scope == CORE_TENANT ? STR("") : which(f->reply, tenant)));
		h.name =
		    (struct str){name, (size_t)n < sizeof(name) ? (size_t)n : sizeof(name) - 1};
	}
	if (hold_add(core, &h))
		cannot(core, f, "what was to be suspended is not known");
}

static void bounce_lanes(struct core *core, const struct firing *f, bool campaign)
{
	struct queue *own = f->reply->queue;
	struct str tenant = whose(core, f->reply, f->hit);
	const struct name *name = name_find(core, tenant);
	const struct lane *lane = f->reply->lane;

	for (struct link *l = own->dest->queues.next; name && l != &own->dest->queues;
	     l = l->next) {
		struct share *s = share_find(core, OWNER(l, struct queue, in_dest), name);

		if (s && !campaign)
			share_visit(core, s, VISIT_BOUNCE, f->why.text);
		for (struct link *k = s ? s->lanes.next : NULL; campaign && k && k != &s->lanes;
		     k = k->next)
			if (lane && OWNER(k, struct lane, in_owner)->campaign == lane->campaign)
				lane_visit(core, OWNER(k, struct lane, in_owner), VISIT_BOUNCE,
				    f->why.text);
	}
}

/* For a tenant, campaign or sender's domain: what others have in this queue is not touched. */
static void set_party(struct core *core, const struct firing *f, const struct rule_action *a)
{
	struct str tenant = whose(core, f->reply, f->hit);
	bool campaign = f->known->rule->scope == RULE_CAMPAIGN;
	struct party_request r = {.tenant = tenant,
	    .campaign = campaign ? which(f->reply, tenant) : STR(""),
	    .at = name_str(f->reply->queue->dest->name),
	    .action = a,
	    .until_ms = f->until_ms,
	    .why = &f->why};
	int rc;

	if (tenant.n == 0 || (campaign && r.campaign.n == 0)) {
		cannot(core, f,
		    campaign ? "the mail has no campaign: nothing is set"
			     : "the mail has no tenant: nothing is set");
		return;
	}
	rc = party_set(core, &r);
	if (rc == -ENOTSUP)
		cannot(core, f, "this option is not a tenant's or campaign's: nothing is set");
	else if (rc == -ENODATA)
		cannot(core, f, "there is no limit that this could be a part of: nothing is set");
	else if (rc)
		cannot(core, f, "too much is set already: nothing is set");
}

static bool may_alert(const struct core *core, struct known *k)
{
	if (k->alerts_ms == 0 || core->now - k->alerts_ms >= RULE_ALERT_PAUSE) {
		k->alerts_ms = core->now;
		k->alerts = 0;
	}
	return k->alerts++ < RULE_ALERTS;
}

static void alert(struct core *core, const struct firing *f, const char *to)
{
	struct window *w = f->window;

	if ((w->alert_ms && core->now - w->alert_ms < RULE_ALERT_PAUSE) ||
	    !may_alert(core, f->known))
		return;
	w->alert_ms = core->now;
	event_push(core, &(struct core_event){.kind = EVENT_ALERT,
			     .scope = str_of(f->reply->queue->name),
			     .from = f->object,
			     .text = f->why.text,
			     .rule = f->why.rule,
			     .notify = str_of(to)});
}

static void stop_sources(struct core *core, const struct firing *f)
{
	if (f->reply->conn && f->reply->conn->path->source->n)
		source_disable(core, name_str(f->reply->conn->path->source),
		    f->known->rule->scope == RULE_SOURCE ? NULL : f->reply->queue, f->until_ms,
		    &f->why);
	else
		cannot(core, f, "the kernel chose the source address: nothing is suspended");
}

static bool stops_a_source(const struct rule *rule)
{
	return rule->scope == RULE_PATH || rule->scope == RULE_SOURCE;
}

static void act(struct core *core, const struct firing *f, const struct rule_action *a)
{
	uint16_t ordinal = f->hit->ordinal;

	switch (a->kind) {
	case ACTION_SKIP_MX:
		decide(core, ordinal,
		    f->reply->conn && grant_skip(core, f->reply->conn) ? ACTION_SKIP_MX
								       : ACTION_DEFER_RECIPIENT,
		    f->known);
		break;
	case ACTION_BOUNCE_RECIPIENT:
	case ACTION_DEFER_RECIPIENT:
		decide(core, ordinal, a->kind, f->known);
		break;
	case ACTION_BOUNCE_QUEUE:
		decide(core, HIT_ALL, ACTION_BOUNCE_RECIPIENT, f->known);
		act_on_scope(core, f, a);
		break;
	case ACTION_DEFER_QUEUE:
		decide(core, ordinal, ACTION_DEFER_RECIPIENT, f->known);
		act_on_scope(core, f, a);
		break;
	case ACTION_DISABLE_SOURCE_IP:
		disable_sources(core, f);
		break;
	case ACTION_SUSPEND_QUEUE:
		if (stops_a_source(f->known->rule))
			stop_sources(core, f);
		else
			suspend(core, f, a->kind);
		break;
	case ACTION_SUSPEND_TENANT:
	case ACTION_SUSPEND_CAMPAIGN:
		suspend(core, f, a->kind);
		break;
	case ACTION_BOUNCE_TENANT:
	case ACTION_BOUNCE_CAMPAIGN:
		decide(core, HIT_ALL, ACTION_BOUNCE_RECIPIENT, f->known);
		bounce_lanes(core, f, a->kind == ACTION_BOUNCE_CAMPAIGN);
		break;
	case ACTION_ALERT:
		alert(core, f, a->name);
		break;
	case ACTION_SET:
		if (is_of_tenant(f->known->rule))
			set_party(core, f, a);
		else
			act_on_scope(core, f, a);
		break;
	default:
		act_on_scope(core, f, a);
	}
}

/* ---- firing ---- */

static struct str text_of(const struct rule_reply *r, const struct rule_hit *hit)
{
	for (size_t i = 0; i < r->count; i++)
		if (hit->ordinal == HIT_ALL ? r->results[i].verdict != VERDICT_DELIVERED
					    : r->results[i].ordinal == hit->ordinal)
			return r->results[i].text;
	return r->text;
}

static void tell(struct core *core, const struct firing *f, const struct buf *did)
{
	char text[2 * NOTE_MAX];
	struct str what = {(const char *)did->p, did->n};
	int n = snprintf(text, sizeof(text), "%.*s: %.*s", STR_ARG(f->why.rule), STR_ARG(what));

	event_push(core, &(struct core_event){.kind = EVENT_RULE,
			     .scope = str_of(f->reply->queue->name),
			     .from = f->object,
			     .to = what,
			     .text = f->why.text,
			     .rule = f->why.rule,
			     .until_ms = f->until_ms});
	note_add(core, f->reply->queue, NOTE_EVENT,
	    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1});
}

/* A source that warms up has gone too far. */
static bool speaks_of_block(enum rule_action_kind kind)
{
	return kind == ACTION_DISABLE_SOURCE_IP || kind == ACTION_MODE_BACKOFF;
}

static void fire(struct core *core, const struct firing *f, unsigned *taken)
{
	const struct rule *rule = f->known->rule;
	struct buf did;

	buf_init(&did, 2000);
	for (size_t i = 0; i < rule->action_count; i++) {
		const struct rule_action *a = &rule->actions[i];

		if (rule_action_groups(a->kind) & *taken)
			continue;
		*taken |= rule_action_groups(a->kind);
		act(core, f, a);
		if (speaks_of_block(a->kind) && f->reply->conn)
			warmup_blocked(
			    core, f->reply->conn->queue->dest, f->reply->conn->path->source);
		if (did.n)
			buf_cstr(&did, ", ");
		rule_action_print(&did, a);
	}
	if (f->window)
		f->window->wide_ms = core->now;
	if (did.failed)
		did.n = 0;
	tell(core, f, &did);
	buf_fini(&did);
}

static bool needs_window(const struct rule *rule)
{
	for (size_t i = 0; i < rule->action_count; i++)
		if (rule->actions[i].kind == ACTION_ALERT)
			return true;
	return rule->scope == RULE_VMTA || rule->scope == RULE_PROVIDER ||
	       rule->trigger.kind != TRIGGER_IMMEDIATE;
}

static void on_hit(
    struct core *core, const struct rule_reply *r, const struct rule_hit *hit, unsigned *taken)
{
	struct known *k = rules_find(core, hit->rule);
	char object[RULE_OBJECT_MAX], place[300];
	struct firing f = {.reply = r, .hit = hit, .known = k};
	const struct rule_trigger *t;

	if (!k || k->rule->action_count == 0)
		return; /* its list was changed since; it is switched off */
	t = &k->rule->trigger;
	k->matches++;
	f.object = object_of(core, r, k->rule, hit, object);
	f.why =
	    (struct why){.text = text_of(r, hit), .rule = place_of(core, k, place, sizeof(place))};
	f.until_ms = k->rule->for_ms > 0 ? core->now + k->rule->for_ms : 0;
	if (needs_window(k->rule))
		f.window = window_get(core, k, f.object);
	if (t->kind == TRIGGER_COUNT)
		window_add(core, f.window, t, 0, 1);
	if (t->kind == TRIGGER_IMMEDIATE || window_fires(f.window, t)) {
		k->firings++;
		fire(core, &f, taken);
	} else if (k->backoff && r->queue->mode && r->queue->mode->kind == MODE_RECOVERY) {
		mode_backoff(core, r->queue, &f.why, k->rule->for_ms);
	}
}

void rules_reply(struct core *core, const struct rule_reply *reply)
{
	struct rules *r = core->rules;
	unsigned taken = 0;

	r->decided_count = 0;
	if (reply->queue->rated)
		count_attempt(core, reply);
	for (size_t i = 0; i < r->hit_count; i++) {
		const struct rule_hit *hit = &r->hits[i];

		if (i && (hit->ordinal != hit[-1].ordinal || hit->stage != hit[-1].stage))
			taken = 0;
		on_hit(core, reply, hit, &taken);
	}
	r->hit_count = 0;
	if (r->decided_count > 1)
		qsort(r->decided, r->decided_count, sizeof(*r->decided), by_ordinal);
}

void rules_forget(struct core *core)
{
	core->rules->hit_count = core->rules->decided_count = 0;
}

bool core_rule(const struct core *core, uint64_t id, uint64_t *matches, uint64_t *firings)
{
	const struct known *k = rules_find(core, id);

	if (!k)
		return false;
	*matches = k->matches;
	*firings = k->firings;
	return true;
}

/* SPDX-License-Identifier: ISC */
/*
 * Budgets: what limiters hang on, one for each thing that has limits, found by its key ("provider
 * google", "queue google/mta1", "mx mx1.example"), however many queues share it. A budget lives as
 * long as somebody holds it: the configuration, a queue, a path, a connection's seat, a waiter. Its
 * limiters are made where there is a limit, so that an unlimited one costs a hundred bytes.
 *
 * At a reload budgets stay, with who counts in them and who waits; only their limits change.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const prefixes[SCOPE_COUNT] = {[SCOPE_TOTAL] = "total",
    [SCOPE_PROVIDER] = "provider",
    [SCOPE_DOMAIN] = "domain",
    [SCOPE_MX] = "mx",
    [SCOPE_ADDRESS] = "ip",
    [SCOPE_SOURCE] = "source",
    [SCOPE_VMTA] = "vmta",
    [SCOPE_POOL] = "pool",
    [SCOPE_TENANT] = "tenant",
    [SCOPE_TENANT_AT] = "tenant",
    [SCOPE_CAMPAIGN] = "campaign",
    [SCOPE_QUEUE] = "queue",
    [SCOPE_PATH] = "path",
    [SCOPE_WARMUP] = "warmup",
    [SCOPE_PARTY] = "set"};

const char *limit_name(const struct limiter *l)
{
	static const char *const names[LIMIT_KINDS] = {[LIMIT_CONNS] = "max-smtp-out",
	    [LIMIT_CONNECTS] = "max-connect-rate",
	    [LIMIT_RAMPUP] = "smtp-out-rampup-interval",
	    [LIMIT_MSGS] = "max-msg-rate",
	    [LIMIT_BYTES] = "max-data-volume-rate"};
	static const char *const of_source[LIMIT_KINDS] = {[LIMIT_CONNS] = "source-ip-max-smtp-out",
	    [LIMIT_CONNECTS] = "source-ip-max-connect-rate",
	    [LIMIT_MSGS] = "source-ip-max-msg-rate"};

	switch (l->budget->scope) {
	case SCOPE_TOTAL:
		return "total-max-smtp-out";
	case SCOPE_MX:
		return "mx-connection-limit";
	case SCOPE_ADDRESS:
		return "ip-connection-limit";
	case SCOPE_PATH:
		return of_source[l->kind];
	case SCOPE_WARMUP:
		return "warmup";
	default:
		return names[l->kind];
	}
}

/* ---- the table ---- */

struct budget *budget_of_key(const struct core *core, struct str key)
{
	for (struct node *i = table_first(&core->budgets, hash_bytes(core->seed, key)); i;
	     i = table_next(i))
		if (str_eq(str_of(OWNER(i, struct budget, node)->key), key))
			return OWNER(i, struct budget, node);
	return NULL;
}

static struct str key_for(char *out, size_t n, enum budget_scope scope, struct str name)
{
	int used = snprintf(out, n, "%s%s%.*s", prefixes[scope], name.n ? " " : "", STR_ARG(name));

	return (struct str){out, (size_t)used < n ? (size_t)used : n - 1};
}

struct budget *budget_find(const struct core *core, enum budget_scope scope, struct str name)
{
	char key[BUDGET_KEY_MAX];

	return budget_of_key(core, key_for(key, sizeof(key), scope, name));
}

static uint32_t budget_number(struct core *core, struct budget *b)
{
	uint32_t i;

	if (core->budget_frees) {
		i = core->budget_free[--core->budget_frees];
	} else {
		i = ++core->budget_count;
		if ((i & (i - 1)) == 0) {
			core->budget_at =
			    xrealloc(core->budget_at, 2 * i * sizeof(struct budget *));
			core->budget_free = xrealloc(core->budget_free, 2 * i * sizeof(uint32_t));
		}
	}
	core->budget_at[i] = b;
	return i;
}

static struct budget *budget_new(struct core *core, enum budget_scope scope, struct str key)
{
	struct budget *b = xcalloc(1, sizeof(*b));

	b->scope = scope;
	b->key = str_dup(key);
	b->slot = budget_number(core, b);
	link_init(&b->idle);
	table_add(&core->budgets, &b->node, hash_bytes(core->seed, key));
	return b;
}

struct budget *budget_keep(struct budget *b)
{
	b->refs++;
	return b;
}

static void drop_limiter(struct core *core, struct limiter **l)
{
	if (!*l)
		return;
	level_park(core, *l);
	limiter_free(core, l);
}

void budget_release(struct core *core, struct budget *b)
{
	must(b->refs > 0);
	if (--b->refs)
		return;
	must(b->used == 0);
	for (int kind = 0; kind < LIMIT_KINDS; kind++)
		drop_limiter(core, &b->of[kind]);
	table_remove(&core->budgets, &b->node);
	core->budget_at[b->slot] = NULL;
	core->budget_free[core->budget_frees++] = b->slot;
	free(b->key);
	free(b);
}

void budget_close(struct core *core, struct budget **b)
{
	if (*b)
		budget_release(core, *b);
	*b = NULL;
}

/* ---- limits ---- */

void budget_rate(struct core *core, struct budget *b, enum limit_kind kind, const struct rate *rate,
    const struct conf_value *origin)
{
	struct limiter *l = b->of[kind];

	if (rate->n == 0) {
		drop_limiter(core, &b->of[kind]);
		return;
	}
	if (!l) {
		l = limiter_new(core, b, kind);
		level_unpark(core, l, rate);
	} else if (memcmp(&l->bucket.rate, rate, sizeof(*rate)) != 0) {
		bucket_change(&l->bucket, rate, core->now);
		limiter_wake(core, l);
	}
	l->origin = origin;
}

void budget_conns(
    struct core *core, struct budget *b, uint32_t max, const struct conf_value *origin)
{
	struct limiter *l = b->of[LIMIT_CONNS];

	if (max == 0) {
		drop_limiter(core, &b->of[LIMIT_CONNS]);
		return;
	}
	if (!l)
		l = limiter_new(core, b, LIMIT_CONNS);
	l->max = max;
	l->origin = origin;
	limiter_wake(core, l);
}

struct options { /* the four of a budget, in the section that carries them */
	enum conf_opt conns, connects, msgs, bytes;
};

/* Of two sections that speak of one budget (a source in two virtual MTAs) the tighter one holds. */
static void read_rate(struct core *core, struct budget *b, enum limit_kind kind,
    const struct conf_node *node, enum conf_opt opt, bool again)
{
	const struct conf_value *v = conf_get(node, opt);
	struct rate rate = rate_read(v);
	const struct limiter *l = b->of[kind];

	if (again && l && (rate.n == 0 || !rate_slower(&rate, &l->bucket.rate)))
		return;
	budget_rate(core, b, kind, &rate, v);
}

static void read_limits(struct core *core, struct budget *b, const struct conf_node *node,
    const struct options *o, bool again)
{
	const struct conf_value *v = conf_get(node, o->conns);
	const struct limiter *l = b->of[LIMIT_CONNS];

	if (!again || !l || (v->num > 0 && (uint32_t)v->num < l->max))
		budget_conns(core, b, v->num > 0 ? (uint32_t)v->num : 0, v);
	read_rate(core, b, LIMIT_CONNECTS, node, o->connects, again);
	read_rate(core, b, LIMIT_MSGS, node, o->msgs, again);
	read_rate(core, b, LIMIT_BYTES, node, o->bytes, again);
}

static void clear_limits(struct core *core, struct budget *b)
{
	budget_keep(b);
	for (int kind = 0; kind < LIMIT_KINDS; kind++)
		drop_limiter(core, &b->of[kind]);
	budget_release(core, b);
}

#define OPTIONS(section)                                                                           \
	{                                                                                          \
		CO_##section##_max_smtp_out, CO_##section##_max_connect_rate,                      \
		    CO_##section##_max_msg_rate, CO_##section##_max_data_volume_rate               \
	}

static const struct options at_options = OPTIONS(TENANT_AT), campaign_options = OPTIONS(CAMPAIGN);

static bool limits_anything(const struct conf_node *node, const struct options *o)
{
	const enum conf_opt rates[] = {o->connects, o->msgs, o->bytes};

	for (size_t i = 0; i < COUNT_OF(rates); i++)
		if (rate_read(conf_get(node, rates[i])).n)
			return true;
	return conf_get(node, o->conns)->num > 0;
}

bool budget_holds(const struct conf_node *holder)
{
	if (holder && holder->type == CONF_TENANT_AT)
		return limits_anything(holder, &at_options);
	if (holder && holder->type == CONF_CAMPAIGN)
		return limits_anything(holder, &campaign_options);
	return holder && conf_next(holder, CONF_BUDGET, NULL);
}

static void take_holder(struct core *core, struct budget *b, const struct conf_node *holder)
{
	static const struct options group = OPTIONS(BUDGET);
	bool again = b->generation == core->generation;

	if (holder && holder->type == CONF_TENANT_AT)
		read_limits(core, b, holder, &at_options, again);
	else if (holder && holder->type == CONF_CAMPAIGN)
		read_limits(core, b, holder, &campaign_options, again);
	else if (holder && conf_next(holder, CONF_BUDGET, NULL))
		read_limits(core, b, conf_next(holder, CONF_BUDGET, NULL), &group, again);
	else if (!again)
		clear_limits(core, b);
	b->generation = core->generation;
}

struct budget *budget_open(
    struct core *core, enum budget_scope scope, struct str name, const struct conf_node *holder)
{
	char text[BUDGET_KEY_MAX];
	struct str key = key_for(text, sizeof(text), scope, name);
	struct budget *b = budget_of_key(core, key);

	if (!b)
		b = budget_new(core, scope, key);
	budget_keep(b);
	if (scope != SCOPE_TOTAL && scope != SCOPE_QUEUE && scope != SCOPE_PATH &&
	    scope != SCOPE_MX && scope != SCOPE_ADDRESS && scope != SCOPE_WARMUP &&
	    scope != SCOPE_PARTY)
		take_holder(core, b, holder);
	return b;
}

/* ---- the configuration ---- */

static void configure(struct core *core, enum budget_scope scope, const struct conf_node *holder,
    const char *name, const char *of)
{
	char text[BUDGET_KEY_MAX];
	int n;

	if (!conf_next(holder, CONF_BUDGET, NULL))
		return;
	n = snprintf(text, sizeof(text), "%s%s%s", name, *of ? " of " : "", of);
	core->configured =
	    xrealloc(core->configured, (core->configured_count + 1) * sizeof(struct budget *));
	core->configured[core->configured_count++] = budget_open(core, scope,
	    (struct str){text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1}, holder);
}

/* Of a provider or domain: everybody's, or what one virtual MTA or pool may send there. */
static void configure_places(struct core *core, const struct conf_node *parent, const char *of)
{
	const struct conf_node *n = NULL;

	while ((n = conf_next(parent, CONF_PROVIDER, n)))
		configure(core, SCOPE_PROVIDER, n, conf_text(n, CO_PROVIDER_name), of);
	n = NULL;
	while ((n = conf_next(parent, CONF_DOMAIN, n)))
		configure(core, SCOPE_DOMAIN, n, conf_text(n, CO_DOMAIN_name), of);
}

static void configure_senders(struct core *core, const struct conf_node *root)
{
	const struct conf_node *n = NULL, *s = NULL;

	while ((n = conf_next(root, CONF_VMTA, n))) {
		const char *name = conf_text(n, CO_VMTA_name);

		configure(core, SCOPE_VMTA, n, name, "");
		configure_places(core, n, name);
		s = NULL;
		while ((s = conf_next(n, CONF_SOURCE, s)))
			configure(core, SCOPE_SOURCE, s, conf_text(s, CO_SOURCE_address), "");
	}
	n = NULL;
	while ((n = conf_next(root, CONF_POOL, n))) {
		configure(core, SCOPE_POOL, n, conf_text(n, CO_POOL_name), "");
		configure_places(core, n, conf_text(n, CO_POOL_name));
	}
}

static bool is_configured(enum budget_scope scope)
{
	return scope == SCOPE_PROVIDER || scope == SCOPE_DOMAIN || scope == SCOPE_VMTA ||
	       scope == SCOPE_POOL || scope == SCOPE_SOURCE;
}

/* Before queues read theirs. What the old configuration said of a budget must not be looked at any
 * more; what it limited and nobody limits now is free. */
void budget_configure(struct core *core)
{
	const struct conf_node *root = core->conf->root;
	struct budget **old = core->configured;
	size_t old_count = core->configured_count;

	core->generation++;
	core->configured = NULL;
	core->configured_count = 0;
	for (uint32_t i = 1; i <= core->budget_count; i++)
		for (int kind = 0; core->budget_at[i] && kind < LIMIT_KINDS; kind++)
			if (core->budget_at[i]->of[kind])
				core->budget_at[i]->of[kind]->origin = NULL;
	budget_conns(core, core->total, (uint32_t)conf_num(root, CO_GLOBAL_total_max_smtp_out),
	    conf_get(root, CO_GLOBAL_total_max_smtp_out));
	configure_places(core, root, "");
	configure_senders(core, root);
	peer_configure(core);
	for (size_t i = 0; i < old_count; i++) {
		if (old[i]->generation != core->generation && is_configured(old[i]->scope))
			clear_limits(core, old[i]);
		budget_release(core, old[i]);
	}
	free(old);
}

void budget_init(struct core *core)
{
	table_init(&core->budgets);
	table_init(&core->levels);
	core->keys = xcalloc(1, sizeof(*core->keys));
	buf_init(core->keys, CORE_TEXTS);
	must(buf_reserve(core->keys, CORE_TEXTS)); /* it never moves */
	core->empty_ms = NEVER;
	core->total = budget_open(core, SCOPE_TOTAL, STR(""), NULL);
	budget_conns(core, core->total, CORE_TOTAL, NULL);
}

void budget_fini(struct core *core)
{
	for (size_t i = 0; i < core->configured_count; i++)
		budget_release(core, core->configured[i]);
	free(core->configured);
	budget_close(core, &core->total);
	peer_fini(core);
	level_fini(core);
	must(core->budgets.count == 0);
	table_fini(&core->budgets);
	table_fini(&core->levels);
	buf_fini(core->keys);
	free(core->keys);
	free(core->budget_at);
	free(core->budget_free);
}

/* SPDX-License-Identifier: ISC */
/*
 * From the configuration to what holds for a queue: values by specificity. The destination's
 * specificity goes first, the sender's second: a word on this very domain, then one on its
 * provider, then one on "*"; and of each the virtual MTA's own, its pool's, everybody's. That makes
 * nine layers, then the default. Each option finds its own value, so that a virtual MTA's "*" loses
 * to everybody's word on a provider; a sender's ceiling belongs into its budget.
 *
 * DOMAIN and PROVIDER have the same options in the same order: a layer may be a node of either.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

enum { PROVIDER_SHIFT = (int)CO_PROVIDER_max_smtp_out - (int)CO_DOMAIN_max_smtp_out };

#define QOPT(id, ...)                                                                              \
	_Static_assert(                                                                            \
	    (int)CO_PROVIDER_##id - (int)CO_DOMAIN_##id == PROVIDER_SHIFT, "one order for both");
#include "common/config_queue.def"
#undef QOPT

/* One entry of `domains` or `providers`; found by name, since there may be thousands and a queue
 * asks nine times. */
struct named {
	struct node node;
	const struct conf_node *parent, *conf;
};

static enum conf_opt name_opt(enum conf_section_type type)
{
	return type == CONF_DOMAIN ? CO_DOMAIN_name : CO_PROVIDER_name;
}

static const struct conf_node *find_named(const struct core *core, enum conf_section_type type,
    const struct conf_node *parent, struct str name)
{
	uint64_t hash = hash_mix(hash_bytes(core->seed, name), (uint64_t)type);

	if (name.n == 0)
		return NULL;
	for (struct node *i = table_first(&core->named, hash); i; i = table_next(i)) {
		struct named *n = OWNER(i, struct named, node);

		if ((!parent || n->parent == parent) && n->conf->type == type &&
		    str_eq(str_of(conf_text(n->conf, name_opt(type))), name))
			return n->conf;
	}
	return NULL;
}

bool value_literal(const struct core *core, struct str domain)
{
	return !str_eq(domain, STR("*")) && find_named(core, CONF_DOMAIN, NULL, domain);
}

/* ---- layers ---- */

static const char *const layer_names[VALUE_LAYERS] = {"domain, virtual MTA", "domain, pool",
    "domain", "provider, virtual MTA", "provider, pool", "provider", "*, virtual MTA", "*, pool",
    "*"};

const char *value_layer_name(int layer)
{
	return layer >= 0 && layer < VALUE_LAYERS ? layer_names[layer] : "default";
}

void value_layers(const struct core *core, const struct value_of *of, struct vmta *vmta,
    const struct conf_node *layers[VALUE_LAYERS])
{
	struct vmta *sender = vmta ? vmta_acting(core, vmta) : NULL;
	const struct conf_node *parents[] = {sender ? sender->conf : NULL,
	    sender ? sender->pool : NULL, core->conf ? core->conf->root : NULL};

	for (size_t i = 0; i < COUNT_OF(parents); i++) {
		const struct conf_node *p = parents[i];

		layers[i] = p ? find_named(core, CONF_DOMAIN, p, of->domain) : NULL;
		layers[3 + i] = p ? find_named(core, CONF_PROVIDER, p, of->provider) : NULL;
		layers[6 + i] = p ? find_named(core, CONF_DOMAIN, p, STR("*")) : NULL;
	}
}

const struct conf_value *value_at(const struct conf_node *layer, enum conf_opt opt)
{
	return conf_get(
	    layer, layer->type == CONF_PROVIDER ? (enum conf_opt)((int)opt + PROVIDER_SHIFT) : opt);
}

/* Without any section there is no node to ask: one of our own holds the defaults. */
static const struct conf_value *default_of(enum conf_opt opt)
{
	static struct conf_value none[CONF_OPT_COUNT];
	static const struct conf_node node = {.type = CONF_DOMAIN, .values = none};

	return conf_get(&node, opt);
}

int value_pick(
    const struct conf_node *const *layers, enum conf_opt opt, const struct conf_value **value)
{
	for (int i = 0; i < VALUE_LAYERS; i++) {
		const struct conf_value *v = layers[i] ? value_at(layers[i], opt) : NULL;

		if (!v || !v->set)
			continue;
		*value = v;
		return i;
	}
	*value = default_of(opt);
	return VALUE_LAYERS;
}

static const struct conf_value *pick(const struct conf_node *const *layers, enum conf_opt opt)
{
	const struct conf_value *v;

	value_pick(layers, opt, &v);
	return v;
}

static int64_t number(const struct conf_node *const *layers, enum conf_opt opt)
{
	return pick(layers, opt)->num;
}

static const char *text(const struct conf_node *const *layers, enum conf_opt opt)
{
	const char *s = pick(layers, opt)->text;

	return s ? s : "";
}

/* An option with two names: the more specific of them, whichever it is. */
static const char *text_of_two(
    const struct conf_node *const *layers, enum conf_opt a, enum conf_opt b)
{
	const struct conf_value *va, *vb;
	int at = value_pick(layers, a, &va), bt = value_pick(layers, b, &vb);
	const char *s = bt < at ? vb->text : va->text;

	return s ? s : "";
}

static struct rate rate_from(const struct conf_value *v)
{
	if (v->num <= 0 || v->count < 2)
		return (struct rate){0, 0, 0};
	return (struct rate){(uint64_t)v->num, (uint64_t)v->nums[1], v->nums[0]};
}

static struct rate rate_of(const struct conf_node *const *layers, enum conf_opt opt)
{
	return rate_from(pick(layers, opt));
}

static bool is_slower(const struct rate *a, const struct rate *b)
{
	return (double)a->n / (double)a->per_ms < (double)b->n / (double)b->per_ms;
}

/* "auto" is a tenth of the normal rate, 10/m where there is none; it never exceeds the normal one.
 */
static struct rate backoff_rate(const struct conf_value *v, const struct rate *normal)
{
	struct rate r = rate_from(v);

	if (v->num == -2 && normal->n)
		return (struct rate){normal->n, (normal->burst + 9) / 10, normal->per_ms * 10};
	if (v->num == -2)
		return (struct rate){10, 1, MINUTE};
	if (normal->n && (!r.n || is_slower(normal, &r)))
		return *normal;
	return r;
}

void value_resolve(
    const struct core *core, const struct value_of *of, struct vmta *vmta, struct values *v)
{
	const struct conf_node *layers[VALUE_LAYERS];
	const struct conf_value *list;

	value_layers(core, of, vmta, layers);
#define U32(opt) (uint32_t) number(layers, CO_DOMAIN_##opt)
	v->max_smtp_out = U32(max_smtp_out);
	v->max_msg = U32(max_msg_per_connection);
	v->max_rcpt = U32(max_rcpt_per_message);
	v->idle_ms = number(layers, CO_DOMAIN_connection_idle_timeout);
	v->bounce_ms = number(layers, CO_DOMAIN_bounce_after);
	v->retry_rcpt_ms = number(layers, CO_DOMAIN_retry_recipients_after);
	v->notify_ms = number(layers, CO_DOMAIN_notify_of_delay_every);
	v->connect_ms = number(layers, CO_DOMAIN_connect_timeout);
	v->greeting_ms = number(layers, CO_DOMAIN_smtp_greeting_timeout);
	v->command_ms = number(layers, CO_DOMAIN_smtp_command_timeout);
	v->data_ms = number(layers, CO_DOMAIN_data_send_timeout);
	v->dot_ms = number(layers, CO_DOMAIN_smtp_data_termination_timeout);
	v->ignore_8bitmime = number(layers, CO_DOMAIN_ignore_8bitmime) != 0;
	v->starttls = number(layers, CO_DOMAIN_use_starttls) != 0;
	v->source_max_smtp_out = U32(source_ip_max_smtp_out);
	v->backoff_max_smtp_out = U32(backoff_max_smtp_out);
	v->backoff_max_msg = U32(backoff_max_msg_per_connection);
	v->priority = U32(queue_priority);
#undef U32
	v->connect = rate_of(layers, CO_DOMAIN_max_connect_rate);
	v->msg = rate_of(layers, CO_DOMAIN_max_msg_rate);
	v->bytes = rate_of(layers, CO_DOMAIN_max_data_volume_rate);
	v->source_connect = rate_of(layers, CO_DOMAIN_source_ip_max_connect_rate);
	v->source_msg = rate_of(layers, CO_DOMAIN_source_ip_max_msg_rate);
	v->backoff_connect =
	    backoff_rate(pick(layers, CO_DOMAIN_backoff_max_connect_rate), &v->connect);
	v->backoff_msg = backoff_rate(pick(layers, CO_DOMAIN_backoff_max_msg_rate), &v->msg);
	if (v->backoff_max_smtp_out > v->max_smtp_out)
		v->backoff_max_smtp_out = v->max_smtp_out;
	if (v->backoff_max_msg == 0 || v->backoff_max_msg > v->max_msg)
		v->backoff_max_msg = v->max_msg;
	v->rampup_ms = number(layers, CO_DOMAIN_smtp_out_rampup_interval);
	v->backoff_ms = number(layers, CO_DOMAIN_backoff_to_normal_after);
	v->reenable_ms = number(layers, CO_DOMAIN_reenable_source_ip_after);
	v->no_mx_ms = number(layers, CO_DOMAIN_bounce_upon_no_mx);
	v->backoff_delivery = number(layers, CO_DOMAIN_backoff_to_normal_after_delivery) != 0;
	v->backoff_sources = number(layers, CO_DOMAIN_backoff_upon_all_sources_disabled) != 0;
	v->mx_421 = number(layers, CO_DOMAIN_smtp_421_means_mx_unavailable) != 0;
	v->bounce_5xx_greeting = number(layers, CO_DOMAIN_bounce_upon_5xx_greeting) != 0;
	v->no_rollup = number(layers, CO_DOMAIN_disable_mx_rollup) != 0;
	v->discard = number(layers, CO_DOMAIN_type) != 0;
	v->recovery = pick(layers, CO_DOMAIN_backoff_recovery);
	v->backoff_notify = pick(layers, CO_DOMAIN_backoff_notify);
	v->source_notify = pick(layers, CO_DOMAIN_disabled_source_ip_notify);
	v->patterns = pick(layers, CO_DOMAIN_smtp_pattern_list);
	v->reroute = text(layers, CO_DOMAIN_reroute_to_virtual_mta);
	v->backoff_reroute = text_of_two(
	    layers, CO_DOMAIN_backoff_reroute_to_virtual_mta, CO_DOMAIN_backoff_reroute_to_vmta);
	v->smtp_hosts = text(layers, CO_DOMAIN_smtp_hosts);
	v->queue_to = text(layers, CO_DOMAIN_queue_to);
	list = pick(layers, CO_DOMAIN_backoff_retry_after);
	v->backoff_retry = list->nums;
	v->backoff_retry_count = list->count;
	list = pick(layers, CO_DOMAIN_retry_after);
	v->retry = list->nums;
	v->retry_count = list->count;
	list = pick(layers, CO_DOMAIN_retry_after_dns_error);
	v->retry_dns = list->nums;
	v->retry_dns_count = list->count;
}

int64_t value_step(const int64_t *list, size_t n, uint32_t failures)
{
	if (n == 0 || failures == 0)
		return 0;
	return list[failures > n ? n - 1 : failures - 1];
}

/* ---- the configuration ---- */

static void forget_conf(struct core *core)
{
	struct node *n;

	pool_forget(core);
	provider_forget(core);
	warmup_forget(core);
	while ((n = table_any(&core->named))) {
		table_remove(&core->named, n);
		free(OWNER(n, struct named, node));
	}
	name_drop(core, core->default_vmta);
	name_drop(core, core->host_name);
	core->default_vmta = core->host_name = NULL;
	conf_free(&core->conf_before);
	core->conf_before = core->conf;
	core->conf = NULL;
}

/* Does it say where mail goes, and not only how? */
static bool places(const struct conf_node *n)
{
	static const enum conf_opt opts[] = {
	    CO_DOMAIN_smtp_hosts, CO_DOMAIN_queue_to, CO_DOMAIN_disable_mx_rollup, CO_DOMAIN_type};

	for (size_t i = 0; i < COUNT_OF(opts); i++)
		if (value_at(n, opts[i])->set)
			return true;
	return false;
}

static void learn(struct core *core, const struct conf_node *parent, enum conf_section_type type)
{
	const struct conf_node *d = NULL;

	while ((d = conf_next(parent, type, d))) {
		struct named *n = xcalloc(1, sizeof(*n));
		struct str name = str_of(conf_text(d, name_opt(type)));

		n->parent = parent;
		n->conf = d;
		table_add(
		    &core->named, &n->node, hash_mix(hash_bytes(core->seed, name), (uint64_t)type));
		if (!places(d))
			continue;
		core->places = true;
		core->provider_places |= type == CONF_PROVIDER;
	}
}

void value_learn(struct core *core, const struct conf_node *parent)
{
	learn(core, parent, CONF_DOMAIN);
	learn(core, parent, CONF_PROVIDER);
}

const struct conf_node *value_domain(const struct core *core, struct str domain)
{
	return find_named(core, CONF_DOMAIN, core->conf ? core->conf->root : NULL, domain);
}

void value_configure(struct core *core, struct conf *conf)
{
	const struct conf_node *root = conf->root;

	forget_conf(core);
	core->conf = conf;
	core->places = core->provider_places = false;
	core->host_name = name_get(core, str_of(conf_text(root, CO_GLOBAL_host_name)));
	core->default_port = (uint16_t)conf_num(root, CO_GLOBAL_default_smtp_port);
	value_learn(core, root);
	provider_configure(core, root);
	pool_configure(core, root);
	warmup_configure(core);
}

void value_fini(struct core *core)
{
	forget_conf(core);
	value_configured(core);
}

/* Every queue has its values of the new configuration: nothing points into the old one. */
void value_configured(struct core *core)
{
	conf_free(&core->conf_before);
}

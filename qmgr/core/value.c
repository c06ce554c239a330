/* SPDX-License-Identifier: ISC */
/*
 * From the configuration to what holds for a queue: values by specificity, virtual MTAs and their
 * sources. The destination's specificity goes first, the sender's second: a virtual MTA's word on
 * this destination, everybody's word on it, the virtual MTA's word on "*", everybody's word on "*",
 * the default. Each option finds its own.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

enum { VALUE_LAYERS = 4 };

/* One `domains` entry; found by name, since there may be thousands and a queue asks four times. */
struct named {
	struct node node;
	const struct conf_node *parent, *domain;
};

static struct named *find_named(
    const struct core *core, const struct conf_node *parent, struct str name)
{
	uint64_t hash = hash_bytes(core->seed, name);

	for (struct node *i = table_first(&core->named, hash); i; i = table_next(i)) {
		struct named *n = OWNER(i, struct named, node);

		if ((!parent || n->parent == parent) &&
		    str_eq(str_of(conf_text(n->domain, CO_DOMAIN_name)), name))
			return n;
	}
	return NULL;
}

static const struct conf_node *find_domain(
    const struct core *core, const struct conf_node *parent, struct str name)
{
	const struct named *n = parent ? find_named(core, parent, name) : NULL;

	return n ? n->domain : NULL;
}

bool value_literal(const struct core *core, struct str domain)
{
	return !str_eq(domain, STR("*")) && find_named(core, NULL, domain);
}

static const struct conf_value *pick(const struct conf_node *const *layers, enum conf_opt opt)
{
	static const struct conf_value none;

	for (int i = 0; i < VALUE_LAYERS; i++)
		if (layers[i] && conf_get(layers[i], opt)->set)
			return conf_get(layers[i], opt);
	for (int i = 0; i < VALUE_LAYERS; i++)
		if (layers[i])
			return conf_get(layers[i], opt);
	return &none;
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

/* Without any `domains` section there is no node to ask: one of our own holds the defaults. */
static const struct conf_node *defaults(void)
{
	static struct conf_value none[CONF_OPT_COUNT];
	static const struct conf_node node = {.type = CONF_DOMAIN, .values = none};

	return &node;
}

void value_resolve(
    const struct core *core, struct str destination, struct vmta *vmta, struct values *v)
{
	const struct conf_node *root = core->conf ? core->conf->root : NULL;
	const struct conf_node *sender = vmta ? vmta_acting(core, vmta)->conf : NULL;
	const struct conf_node *layers[VALUE_LAYERS] = {find_domain(core, sender, destination),
	    find_domain(core, root, destination), find_domain(core, sender, STR("*")),
	    find_domain(core, root, STR("*"))};
	const struct conf_value *list;

	if (!layers[3])
		layers[3] = defaults();
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
	v->backoff_reroute = text(layers, CO_DOMAIN_backoff_reroute_to_virtual_mta);
	if (!*v->backoff_reroute)
		v->backoff_reroute = text(layers, CO_DOMAIN_backoff_reroute_to_vmta);
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

/* ---- virtual MTAs ---- */

struct vmta *vmta_find(const struct core *core, struct str name)
{
	uint64_t hash = hash_bytes(core->seed, name);

	for (struct node *i = table_first(&core->vmtas, hash); i; i = table_next(i))
		if (str_eq(name_str(OWNER(i, struct vmta, node)->name), name))
			return OWNER(i, struct vmta, node);
	return NULL;
}

static void forget_sources(struct core *core, struct vmta *v)
{
	for (size_t i = 0; i < v->source_count; i++) {
		name_drop(core, v->sources[i].address);
		name_drop(core, v->sources[i].ehlo);
	}
	free(v->sources);
	v->sources = NULL;
	v->source_count = v->turn = 0;
}

static void read_sources(struct core *core, struct vmta *v)
{
	const struct conf_node *n = NULL;

	while ((n = conf_next(v->conf, CONF_SOURCE, n))) {
		const char *address = conf_text(n, CO_SOURCE_address);
		const char *ehlo = conf_text(n, CO_SOURCE_host_name);
		struct source *s;

		v->sources = xrealloc(v->sources, (v->source_count + 1) * sizeof(*v->sources));
		s = &v->sources[v->source_count++];
		s->address = name_get(core, str_of(address));
		s->ehlo = *ehlo ? name_get(core, str_of(ehlo)) : name_keep(core->host_name);
		s->family = strchr(address, ':') ? 6 : 4;
	}
}

static struct vmta *vmta_new(struct core *core, struct str name)
{
	struct vmta *v = xcalloc(1, sizeof(*v));

	v->name = name_get(core, name);
	table_add(&core->vmtas, &v->node, hash_bytes(core->seed, name));
	return v;
}

struct vmta *vmta_get(struct core *core, struct str name)
{
	struct vmta *v = vmta_find(core, name.n ? name : name_str(core->default_vmta));

	return v ? v : vmta_new(core, name.n ? name : name_str(core->default_vmta));
}

void vmta_drop(struct core *core, struct vmta *v)
{
	if (v->queues || v->conf)
		return;
	forget_sources(core, v);
	table_remove(&core->vmtas, &v->node);
	name_drop(core, v->name);
	free(v);
}

struct vmta *vmta_acting(const struct core *core, struct vmta *v)
{
	struct vmta *d = v->conf ? v : vmta_find(core, name_str(core->default_vmta));

	return d ? d : v;
}

struct str core_default_vmta(const struct core *core)
{
	return name_str(core->default_vmta);
}

static const char *default_vmta_name(const struct conf_node *root)
{
	const struct conf_node *first = conf_next(root, CONF_VMTA, NULL);
	const char *name = conf_text(root, CO_GLOBAL_default_virtual_mta);

	if (*name)
		return name;
	return first ? conf_text(first, CO_VMTA_name) : "default";
}

static void forget_conf(struct core *core)
{
	struct node **all = table_list(&core->vmtas), *n;

	for (size_t i = 0; all[i]; i++) {
		struct vmta *v = OWNER(all[i], struct vmta, node);

		forget_sources(core, v);
		v->conf = NULL;
		vmta_drop(core, v);
	}
	free(all);
	while ((n = table_any(&core->named))) {
		table_remove(&core->named, n);
		free(OWNER(n, struct named, node));
	}
	name_drop(core, core->default_vmta);
	name_drop(core, core->host_name);
	core->default_vmta = core->host_name = NULL;
	conf_free(&core->conf);
}

static void learn_domains(struct core *core, const struct conf_node *parent)
{
	const struct conf_node *d = NULL;

	while ((d = conf_next(parent, CONF_DOMAIN, d))) {
		struct named *n = xcalloc(1, sizeof(*n));

		n->parent = parent;
		n->domain = d;
		table_add(&core->named, &n->node,
		    hash_bytes(core->seed, str_of(conf_text(d, CO_DOMAIN_name))));
	}
}

void value_configure(struct core *core, struct conf *conf)
{
	const struct conf_node *root = conf->root, *n = NULL;

	forget_conf(core);
	core->conf = conf;
	core->default_vmta = name_get(core, str_of(default_vmta_name(root)));
	core->host_name = name_get(core, str_of(conf_text(root, CO_GLOBAL_host_name)));
	core->default_port = (uint16_t)conf_num(root, CO_GLOBAL_default_smtp_port);
	learn_domains(core, root);
	while ((n = conf_next(root, CONF_VMTA, n))) {
		struct vmta *v = vmta_get(core, str_of(conf_text(n, CO_VMTA_name)));

		v->conf = n;
		read_sources(core, v);
		learn_domains(core, n);
	}
}

void value_fini(struct core *core)
{
	forget_conf(core);
}

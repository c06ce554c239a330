/* SPDX-License-Identifier: ISC */
/*
 * Why a value holds: every option of a queue's destination, the layer it comes from, and what it
 * won against. It asks the same layers as value_resolve(), so it cannot say anything else than what
 * is done; what a mode or a rule makes of a value for a time is said elsewhere.
 */
#include "qmgr/core/internal.h"

static const enum conf_opt options[] = {
#define QOPT(id, ...) CO_DOMAIN_##id,
#include "common/config_queue.def"
#undef QOPT
};

/* A destination's name or a domain whose mail goes to one. */
static struct value_of of_named(const struct core *core, struct str name, struct vmta *vmta)
{
	const struct dest *dest = dest_find_provider(core, name);
	struct domain *d = domain_find(core, name);
	struct place p;

	if (dest || (!d && provider_named(core, name)))
		return (struct value_of){STR(""), name};
	if (name.n && name.p[0] == '[')
		return (struct value_of){STR(""), STR("")};
	if (!d || !place_look(core, d, vmta, &p) || !p.routed)
		return (struct value_of){value_literal(core, name) ? name : STR(""), STR("")};
	if (p.dest->rollup)
		return (struct value_of){STR(""), name_str(p.dest->name)};
	return (struct value_of){p.dest->own ? name_str(p.dest->name) : STR(""),
	    p.dest->own ? name_str(p.route->provider) : STR("")};
}

static void explain(
    const struct conf_node *const *layers, enum conf_opt opt, struct core_explain *e)
{
	int layer = value_pick(layers, opt, &e->value);

	e->opt = opt;
	e->layer = value_layer_name(layer);
	e->over_count = 0;
	for (int i = layer + 1; i < VALUE_LAYERS && e->over_count < COUNT_OF(e->over); i++) {
		const struct conf_value *v = layers[i] ? value_at(layers[i], opt) : NULL;

		if (v && v->set)
			e->over[e->over_count++] = v;
	}
}

size_t core_explain(
    const struct core *core, struct str domain, struct str vmta, struct core_explain *out, size_t n)
{
	struct vmta *sender = vmta.n ? vmta_find(core, vmta) : vmta_default(core);
	struct value_of of = of_named(core, domain, sender);
	const struct conf_node *layers[VALUE_LAYERS];
	size_t count = 0;

	value_layers(core, &of, sender, layers);
	for (; count < COUNT_OF(options) && count < n; count++)
		explain(layers, options[count], &out[count]);
	return count;
}

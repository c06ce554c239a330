/* SPDX-License-Identifier: ISC */
/*
 * explain DOMAIN[/VMTA]: every effective value with its place in the files, what it won against,
 * and what the numbers come to together.
 */
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

static json_t *overrides(const struct qmgr *q, const struct core_explain *e)
{
	json_t *list = json_array();
	for (size_t i = 0; i < e->over_count; i++)
		json_array_append_new(
		    list, json_pack("{s:o, s:o}", "value", say_value(e->opt, e->over[i]), "origin",
			      say_origin(q, e->over[i])));
	return list;
}

static json_t *values(const struct qmgr *q, struct str domain, struct str vmta)
{
	struct core_explain e[CONF_OPT_COUNT];
	json_t *list = json_array();
	size_t n = core_explain(q->core, domain, vmta, e, CONF_OPT_COUNT);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
		    list, json_pack("{s:s, s:o, s:o, s:s, s:o}", "option", conf_opt_key(e[i].opt),
			      "value", say_value(e[i].opt, e[i].value), "origin",
			      say_origin(q, e[i].value), "layer", e[i].layer, "overrides",
			      overrides(q, &e[i])));
	return list;
}

static json_t *number_or_null(double x)
{
	return x > 0 ? json_real(x) : json_null();
}

static json_t *arithmetic(const struct qmgr *q, struct str domain, struct str vmta)
{
	struct core_arithmetic a;
	core_arithmetic(q->core, domain, vmta, &a);
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "per_hour", number_or_null(a.per_hour),
	    "binds", a.binds != NULL ? json_string(a.binds) : json_null(), "by_connections",
	    number_or_null(a.by_connections), "by_connects", number_or_null(a.by_connects),
	    "by_messages", number_or_null(a.by_messages), "seconds_per_message",
	    number_or_null(a.seconds_per_message));
}

void verb_explain(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct str vmta = said_arg(args, 0), domain = str_cut(&vmta, '/');
	(void)options;
	if (!control_is_serving(q, reply))
		return;
	if (domain.n == 0) {
		control_end(reply, EX_USAGE, "explain DOMAIN or DOMAIN/VMTA");
		return;
	}
	char *name = str_dup(vmta.n > 0 ? vmta : core_default_vmta(q->core));
	char *where = str_dup(domain);
	if (vmta.n > 0 && conf_find(q->conf->root, CONF_VMTA, CO_VMTA_name, name) == NULL &&
	    !str_eq_nocase(core_default_vmta(q->core), vmta)) {
		control_end(reply, EX_UNAVAILABLE, "no virtual MTA %.100s", name);
	} else {
		struct str destination = core_destination(q->core, domain);
		json_t *row = json_pack("{s:o, s:o, s:o}", "domain", say_text(domain), "vmta",
		    say_text(str_of(name)), "destination", say_text_or_null(destination));
		json_object_set_new(row, "values", values(q, str_of(where), str_of(name)));
		json_object_set_new(row, "arithmetic", arithmetic(q, str_of(where), str_of(name)));
		control_row(reply, row);
		control_end(reply, EX_OK, "%s", "");
	}
	free(name);
	free(where);
}

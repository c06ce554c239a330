/* SPDX-License-Identifier: ISC */
/*
 * explain DOMAIN[/VMTA]: every effective value with its place in the files, what it won against,
 * and what the numbers come to together.
 */
#include "qmgr/control.h"
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

enum { BINDS_BYTES = 400 /* an option and whose it is */ };

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

static void tighter(struct core_arithmetic *a, double per_hour, char binds[BINDS_BYTES],
    const struct core_limit_view *v)
{
	if (per_hour <= 0 || (a->per_hour > 0 && per_hour >= a->per_hour))
		return;
	a->per_hour = per_hour;
	snprintf(binds, BINDS_BYTES, "%.*s of %.*s", STR_ARG(v->name), STR_ARG(v->key));
	a->binds = binds;
}

/* What the budget allows in an hour, where its number says so by itself; else 0. */
static double budget_per_hour(const struct core_arithmetic *a, const struct core_limit_view *v)
{
	if (str_eq(v->name, STR("max-msg-rate")) && v->per_ms > 0)
		return (double)v->limit * 3600000 / (double)v->per_ms;
	if (v->per_ms == 0 && a->seconds_per_message > 0)
		return (double)v->limit * 3600 / a->seconds_per_message;
	return 0;
}

/* Budgets and other shared limits hold beside the queue's own values: the tightest of all binds. */
static json_t *budgets(
    struct qmgr *q, struct str queue, struct core_arithmetic *a, char binds[BINDS_BYTES])
{
	struct core_why why;
	struct core_limit_view limits[WHY_LIMITS];
	size_t n = WHY_LIMITS;
	json_t *list = json_array();
	if (core_why_queue(q->core, queue, &why, limits, &n) != 0)
		return list;
	for (size_t i = 0; i < n; i++) {
		if (str_starts_nocase(limits[i].key, STR("queue ")))
			continue;
		tighter(a, budget_per_hour(a, &limits[i]), binds, &limits[i]);
		json_array_append_new(list, control_limit_row(q, &limits[i]));
	}
	return list;
}

static void set_arithmetic(
    struct qmgr *q, json_t *row, struct str domain, struct str vmta, struct str queue)
{
	struct core_arithmetic a;
	char binds[BINDS_BYTES];
	core_arithmetic(q->core, domain, vmta, &a);
	json_object_set_new(row, "budgets", budgets(q, queue, &a, binds));
	json_object_set_new(row, "arithmetic",
	    json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "per_hour", number_or_null(a.per_hour),
		"binds", a.binds != NULL ? say_text(str_of(a.binds)) : json_null(),
		"by_connections", number_or_null(a.by_connections), "by_connects",
		number_or_null(a.by_connects), "by_messages", number_or_null(a.by_messages),
		"seconds_per_message", number_or_null(a.seconds_per_message)));
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
	char whole[700]; /* a domain, a slash, a virtual MTA's name */
	snprintf(whole, sizeof(whole), "%s/%s", where, name);
	char *queue = filter_queue_named(q, str_of(whole), NULL);
	if (vmta.n > 0 && conf_find(q->conf->root, CONF_VMTA, CO_VMTA_name, name) == NULL &&
	    !str_eq_nocase(core_default_vmta(q->core), vmta)) {
		control_end(reply, EX_UNAVAILABLE, "no virtual MTA %.100s", name);
	} else {
		struct str destination = core_destination(q->core, domain);
		json_t *row = json_pack("{s:o, s:o, s:o}", "domain", say_text(domain), "vmta",
		    say_text(str_of(name)), "destination", say_text_or_null(destination));
		json_object_set_new(row, "values", values(q, str_of(where), str_of(name)));
		set_arithmetic(q, row, str_of(where), str_of(name), str_of(queue));
		control_row(reply, row);
		control_end(reply, EX_OK, "%s", "");
	}
	free(name);
	free(where);
	free(queue);
}

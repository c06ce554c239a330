/* SPDX-License-Identifier: ISC */
/*
 * tenants: who has mail here, how much, with which weight, and where it stands still. A pattern
 * with a slash lists campaigns. Tenants that begin with @ are senders' domains that belong to no
 * configured tenant.
 */
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

enum { TENANTS_A_CALL = 64 };

static json_t *tenant_row(const struct tenant_view *v)
{
	json_t *row = json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "tenant",
	    say_text(v->tenant), "campaign", say_text_or_null(v->campaign), "recipients",
	    say_num(v->recipients), "ready", say_num(v->ready), "waiting", say_num(v->waiting),
	    "in_flight", say_num(v->in_flight), "held", say_num(v->held));
	json_object_update_new(
	    row, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "delivered",
		     say_num(v->delivered), "deferred", say_num(v->deferred), "bounced",
		     say_num(v->bounced), "weight", say_num(v->weight), "campaigns",
		     say_num(v->campaigns), "queues", say_num(v->queues), "queues_paused",
		     say_num(v->queues_paused), "paused", v->paused));
	return row;
}

struct tenants_state {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
};

static bool next_tenants(void *state, struct control_reply *r)
{
	struct tenants_state *s = state;
	struct tenant_view views[TENANTS_A_CALL];
	size_t n = core_tenants(s->q->core, str_of(s->pattern), &s->cursor, views, TENANTS_A_CALL);
	for (size_t i = 0; i < n; i++)
		control_row(r, tenant_row(&views[i]));
	if (n > 0)
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_tenants(void *state)
{
	struct tenants_state *s = state;
	free(s->pattern);
	free(s);
}

void verb_tenants(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct tenants_state *s;
	struct str pattern = said_arg(args, 0);
	(void)options;
	if (!control_is_serving(ctx, reply))
		return;
	s = xcalloc(1, sizeof(*s));
	s->q = ctx;
	s->pattern = pattern.n > 0 ? str_dup(pattern) : xstrdup("*");
	control_stream(reply, next_tenants, drop_tenants, s);
}

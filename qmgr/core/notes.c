/* SPDX-License-Identifier: ISC */
/*
 * What is told to people: events, which go out in order with the other decisions.
 */
#include "qmgr/core/internal.h"

const char *core_event_name(enum core_event_kind kind)
{
	static const char *const names[EVENT_KINDS] = {[EVENT_MODE] = "mode",
	    [EVENT_RULE] = "rule",
	    [EVENT_HOLD] = "hold",
	    [EVENT_RELEASE] = "release",
	    [EVENT_SOURCE] = "source",
	    [EVENT_REROUTE] = "reroute",
	    [EVENT_WARMUP] = "warmup",
	    [EVENT_ALERT] = "alert",
	    [EVENT_ERROR] = "error"};

	return names[kind];
}

void event_push(struct core *core, const struct core_event *e)
{
	const struct str text[] = {e->scope, e->from, e->to, e->text, e->rule, e->who, e->notify};
	struct buf all;

	buf_init(&all, SIZE_MAX);
	for (size_t i = 0; i < COUNT_OF(text); i++)
		buf_str(&all, text[i]);
	core_push(core, &(struct pending){.kind = DECIDE_EVENT, .result = -1, .event = *e},
	    (struct str){(const char *)all.p, all.n}, STR(""));
	buf_fini(&all);
}

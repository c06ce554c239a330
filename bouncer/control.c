/* SPDX-License-Identifier: ISC */
/* posternctl bouncer. */
#include "bouncer/bouncer.h"
#include <sysexits.h>

static void set_number(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct bouncer *b = ctx;
	json_t *row = json_object();
	(void)args;
	(void)options;
	set_number(row, "requests", b->stats.asked);
	set_number(row, "waiting", b->waiting.count);
	set_number(row, "waiting_bytes", b->waiting.bytes);
	set_number(row, "writing", b->writing);
	set_number(row, "failed", b->stats.reports[DSN_FAILED]);
	set_number(row, "delayed", b->stats.reports[DSN_DELAYED]);
	set_number(row, "success", b->stats.reports[DSN_SUCCESS]);
	set_number(row, "none", b->stats.none);
	set_number(row, "write_refused", b->stats.refused);
	set_number(row, "unreadable", b->stats.unreadable);
	json_object_set_new(row, "qmgr", json_boolean(b->qmgr != NULL));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

const struct control_verb bouncer_verbs[] = {
    {"status", "status", "requests for reports and what became of them", 0, 0, verb_status},
};
const size_t bouncer_verb_count = COUNT_OF(bouncer_verbs);

/* SPDX-License-Identifier: ISC */
/*
 * The verbs of `posternctl qmgr`: their table, and `status`. What they do stands in control_*.c.
 */
#include "qmgr/control.h"
#include <sysexits.h>

static json_t *spool_status(struct qmgr *q)
{
	const struct commit *c = &q->commit;
	uint64_t live = 0;
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		live += s->live_bytes;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I}", "segments",
	    say_num(q->segments.map.n), "live_bytes", say_num(live), "free_bytes",
	    say_num(q->admission.free_bytes), "index_pages", say_num(c->room.used_pages),
	    "index_pages_max", say_num(c->room.map_pages), "refuse",
	    refuse_name(admission_state(q)), "commits", say_num(c->number), "journal_file",
	    say_num(JOURNAL_POS_NUMBER(journal_pos(q->journal))), "not_logged_bytes",
	    say_num(journal_pos(q->journal) - logger_pos(q->logger)), "set_aside",
	    say_num(q->asides.n));
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct core_totals t;
	const struct counters *c = &q->counters;
	(void)args, (void)options;
	if (q->journal == NULL || q->core == NULL) {
		control_end(reply, EX_TEMPFAIL, "qmgr is starting");
		return;
	}
	core_totals(q->core, &t);
	json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
	    q->stopping	 ? "stopping"
	    : q->started ? "running"
			 : "recovering",
	    "recipients", say_num(t.recipients), "messages", say_num(t.messages), "queues",
	    say_num(t.queues), "ready", say_num(t.ready), "waiting", say_num(t.waiting),
	    "in_flight", say_num(t.in_flight), "unrouted", say_num(t.unrouted), "held",
	    say_num(t.held), "connections", say_num(t.connections));
	json_object_set_new(row, "since_start",
	    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "received",
		say_num(c->received), "received_bytes", say_num(c->received_bytes), "delivered",
		say_num(c->delivered), "deferred", say_num(c->deferred), "bounced",
		say_num(c->bounced), "expired", say_num(c->expired), "deleted", say_num(c->deleted),
		"uncertain", say_num(c->uncertain), "damaged", say_num(c->damaged),
		"dropped_reports", say_num(c->dropped_reports)));
	json_object_set_new(row, "reports_owed", json_integer(say_num(q->bounces.tickets.n)));
	json_object_set_new(row, "memory_bytes", json_integer(say_num(t.bytes_of_memory)));
	json_object_set_new(row, "spool", spool_status(q));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

#define FILTERS                                                                                    \
	"[--queue=P] [--tenant=P] [--campaign=P] [--sender=P] [--recipient=P] [--domain=P] "       \
	"[--older-than=TIME] [--held]"
#define WHICH "[ID|QUEUE|DOMAIN] " FILTERS " [--all] [--dry-run]"

const struct control_verb qmgr_verbs[] = {
    {"status", "status", "totals, spool, index, what is refused", 0, 0, verb_status},
    {"queues", "queues [PATTERN] [--mode=MODE] [--paused] [--connected] [--largest=N]",
	"queues with their counts, connections, mode and last error", 0, 1, verb_queues},
    {"queue", "queue NAME", "one queue: counts, limits, holds, errors, events", 1, 1, verb_queue},
    {"messages", "messages " FILTERS " [--limit=N]", "recipients that wait, one a line", 0, 0,
	verb_messages},
    {"message", "message ID", "one message with all its waiting recipients", 1, 1, verb_message},
    {"why", "why QUEUE|LANE|DOMAIN|VMTA|TENANT[/CAMPAIGN]|ID[/ADDRESS]",
	"what it waits for, the limit that binds, when that frees", 1, 1, verb_why},
    {"explain", "explain DOMAIN[/VMTA]",
	"every value that holds there, who set it, and what the numbers come to", 1, 1,
	verb_explain},
    {"limits", "limits [PATTERN]", "limits and budgets with their use", 0, 1, verb_limits},
    {"tenants", "tenants [TENANT|TENANT/CAMPAIGN]",
	"tenants (with a slash: campaigns) that have mail: counts, weight, where they are paused", 0,
	1, verb_tenants},
    {"rules", "rules [LIST]", "rules on replies, with their hits since start", 0, 1, verb_rules},
    {"mode", "mode QUEUE normal|backoff [--for=TIME]", "changes a queue's mode", 2, 2, verb_mode},
    {"pause", "pause queue|tenant|campaign|vmta|provider NAME [--for=TIME] [--at=DESTINATION]",
	"stops its mail; new mail is taken and waits", 2, 2, verb_pause},
    {"resume", "resume queue|tenant|campaign|vmta|provider NAME [--at=DESTINATION]",
	"ends a pause or a rule's suspension", 2, 2, verb_resume},
    {"suspensions", "suspensions", "what stands still or was changed: who, when, until when", 0, 0,
	verb_suspensions},
    {"flush", "flush " WHICH, "makes it due now; an ID also releases what was set aside", 0, 1,
	verb_flush},
    {"release", "release " WHICH, "lets go what was set aside", 0, 1, verb_release},
    {"delete", "delete " WHICH, "removes it without a report", 0, 1, verb_delete},
    {"bounce", "bounce " WHICH " [--text=WHY]", "returns it to its senders", 0, 1, verb_bounce},
    {"reroute", "reroute QUEUE VMTA", "moves what is in the queue now to a virtual MTA or pool", 2,
	2, verb_reroute},
    {"reset", "reset QUEUE", "mode, retry clock, disabled sources and last error, anew", 1, 1,
	verb_reset},
    {"events", "events [PATTERN] [--kind=KIND] [--follow]",
	"what happened: modes, rules, holds, sources, reroutes, errors", 0, 1, verb_events},
};
const size_t qmgr_verb_count = COUNT_OF(qmgr_verbs);

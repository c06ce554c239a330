/* SPDX-License-Identifier: ISC */
/*
 * Failures that belong to no message: a connection that never became ready, name servers that
 * fail. The core judges them; here they become records of the journal, so that log and accounting
 * tell them in order and after a crash, as they do outcomes. Nothing else reads these records.
 *
 * Many connections to one dead host fail side by side, with one text: it is told once a second.
 */
#include "qmgr/shell.h"

enum {
	TELL_AGAIN_MS = 1000,
	QUEUES_MAX = 16, /* of one domain, one a virtual MTA: told of one failure of name servers */
};

static bool is_told(struct qmgr *q, struct str queue, struct str text)
{
	uint32_t of_queue = crc32c(0, queue.p, queue.n);
	uint32_t of_both = crc32c(of_queue, text.p, text.n);
	uint64_t key = (uint64_t)of_queue << 32 | of_both;
	size_t slot = of_both % COUNT_OF(q->failures.told);
	if (q->failures.told[slot].key == key && q->now_ms < q->failures.told[slot].until_ms)
		return true;
	q->failures.told[slot].key = key;
	q->failures.told[slot].until_ms = q->now_ms + TELL_AGAIN_MS;
	return false;
}

/* Ready ones that end have told of it with the results of what they carried. */
void failures_conn(struct qmgr *q, const struct msg_conn_closed *m)
{
	struct core_conn_view v;
	if (m->cause == CONN_DONE || m->was_ready || !core_conn(q->core, m->conn, &v) ||
	    is_told(q, v.queue, m->text))
		return;
	j_queue_encode(
	    journal_buf(q->journal), &(struct j_queue){.wall_ms = (uint64_t)clock_wall_ms(),
					 .code = m->code,
					 .stage = m->stage,
					 .queue = v.queue,
					 .vmta = v.vmta,
					 .domain = v.domain,
					 .relay = m->relay,
					 .source = v.source,
					 .text = m->text});
}

void failures_route(struct qmgr *q, struct str domain, struct str text)
{
	struct core_conn_view v;
	for (size_t i = 0; i < QUEUES_MAX && core_unrouted_queue(q->core, domain, i, &v); i++)
		if (!is_told(q, v.queue, text))
			j_queue_encode(journal_buf(q->journal),
			    &(struct j_queue){.wall_ms = (uint64_t)clock_wall_ms(),
				.stage = STAGE_CONNECT,
				.queue = v.queue,
				.vmta = v.vmta,
				.domain = domain,
				.text = text});
}

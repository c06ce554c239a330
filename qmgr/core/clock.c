/* SPDX-License-Identifier: ISC */
/*
 * The clock of connection failures survives a restart: how many rounds have failed in a row and
 * until when the queue is held (grant.c runs it). Without this, every restart would knock at all
 * dead hosts at once and begin their lists of retries anew.
 */
#include "qmgr/core/internal.h"
#include <errno.h>

void clock_changed(struct core *core, const struct queue *q)
{
	state_changed(core, STR("clock"), str_of(q->name));
}

bool clock_encode(struct core *core, struct str name, struct buf *out)
{
	const struct queue *q = queue_find(core, name);

	if (!q || q->failures == 0)
		return false;
	buf_u32(out, q->failures);
	buf_u64(out, (uint64_t)q->hold_ms);
	return true;
}

int clock_restore(struct core *core, struct str name, struct rd *value)
{
	uint32_t failures = rd_u32(value);
	int64_t hold_ms = (int64_t)rd_u64(value);
	struct queue *q;
	int rc;

	if (value->bad || value->n || failures == 0 || hold_ms < 0)
		return -EBADMSG;
	rc = state_queue(core, name, &q);
	if (rc)
		return rc;
	q->failures = failures;
	if (hold_ms > core->now) {
		q->hold_ms = hold_ms;
		wheel_add(core->wheel, &q->wake.node, hold_ms);
	}
	return 0;
}

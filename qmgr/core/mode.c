/* SPDX-License-Identifier: ISC */
/*
 * A queue's mode, and what follows from it.
 */
#include "qmgr/core/internal.h"

const char *mode_reroute(const struct queue *q)
{
	(void)q;
	return "";
}

void mode_apply(struct core *core, struct queue *q)
{
	const struct values *v = &q->v;

	q->e = (struct effective){.max_smtp_out = v->max_smtp_out,
	    .max_msg = v->max_msg,
	    .connect = v->connect,
	    .msg = v->msg,
	    .bytes = v->bytes,
	    .retry = v->retry,
	    .retry_count = v->retry_count};
	limit_queue(core, q);
}

bool source_disabled(const struct core *core, const struct queue *q, const struct name *address)
{
	(void)core;
	(void)q;
	(void)address;
	return false;
}

/* SPDX-License-Identifier: ISC */
/*
 * Pauses and suspensions.
 */
#include "qmgr/core/internal.h"

bool hold_queue(const struct queue *q)
{
	(void)q;
	return false;
}

int hold_add(struct core *core, const struct hold_request *request)
{
	(void)core;
	(void)request;
	return 0;
}

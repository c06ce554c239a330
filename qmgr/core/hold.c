/* SPDX-License-Identifier: ISC */
/*
 * Pauses and suspensions.
 */
#include "qmgr/core/internal.h"

bool hold_vmta(const struct core *core, const struct vmta *v)
{
	(void)core;
	(void)v;
	return false;
}

bool hold_queue(const struct queue *q)
{
	(void)q;
	return false;
}

void hold_new_share(struct core *core, struct share *s)
{
	(void)core;
	(void)s;
}

void hold_new_lane(struct core *core, struct lane *lane)
{
	(void)core;
	(void)lane;
}

int hold_add(struct core *core, const struct hold_request *request)
{
	(void)core;
	(void)request;
	return 0;
}

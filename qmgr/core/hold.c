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

/* SPDX-License-Identifier: ISC */
/*
 * Source addresses: whether they can be bound, and operators' commands about them, which qmgr
 * answers.
 */
#include "smtp-out/session.h"

void on_source_check(void *ctx, struct chan *from_chan, struct msg_source_check *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

void on_source_told(void *ctx, struct chan *from_chan, struct msg_source_told *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

/* SPDX-License-Identifier: ISC */
/*
 * Source addresses: what smtp-out and resolver say of them, and operators' commands about them.
 */
#include "qmgr/shell.h"

void on_source_checked(void *ctx, struct chan *from_chan, struct msg_source_checked *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

void on_source_ask(void *ctx, struct chan *from_chan, struct msg_source_ask *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

void on_names_told(void *ctx, struct chan *from_chan, struct msg_names_told *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

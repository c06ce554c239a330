/* SPDX-License-Identifier: ISC */
/*
 * What the DNS says of our own source addresses: reverse name, whether it leads back, blocklists.
 */
#include "common/chan.h"
#include "common/msg.h"

void on_names_ask(void *ctx, struct chan *from_chan, struct msg_names_ask *m)
{
	(void)ctx;
	(void)from_chan;
	(void)m;
}

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "common/msg.h"
/*
 * A framed, non-blocking UNIX stream socket between two processes, with descriptors beside frames.
 * Sending appends to a buffer that the loop's end-of-turn hook flushes: many messages travel in one
 * write. A bad frame, an unknown type, a row the peer may not send, or a missing HELLO closes the
 * channel (on_close) and nothing else; it never ends the process.
 */
struct chan;
struct chan_spec {
	unsigned peer_roles;              /* what the peer may send as (msg_sender_roles is checked) */
	msg_dispatch_fn *const *dispatch; /* NULL-terminated: tried in order until one knows the row */
	void (*on_close)(void *ctx, struct chan *chan, const char *why); /* chan is freed afterwards */
	void (*on_hello)(void *ctx, struct chan *chan, const struct msg_hello *hello); /* may be NULL */
	void *ctx;
};
/* Takes fd. Sends our HELLO at once. The spec is copied. */
struct chan *chan_new(struct loop *loop, int fd, const struct chan_spec *spec);
void chan_free(struct chan **chan); /* closes the socket, without on_close */
void chan_close(struct chan *chan, const char *why); /* later, from the loop: on_close, then freed */
int chan_fd(const struct chan *chan);
void *chan_data(const struct chan *chan); /* for the owner's use */
void chan_set_data(struct chan *chan, void *data);
/* Appends; fd (or -1) is duplicated by the kernel on sending: the caller keeps its own. The channel
 * keeps a dup until it is sent. */
#define MSG(ID, name, from, to) void chan_send_##name(struct chan *chan, const struct msg_##name *m);
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max)
#define F_BYTES(f, max)
#define F_FD(f)
#define END(name)
#include "common/msg.def"
#include "common/msg_undef.h"

size_t chan_backlog(const struct chan *chan); /* bytes not yet written */
/* While held, what is sent stays in the buffer; chan_release() lets everything up to the last
 * chan_mark() go. qmgr uses it: no JOB leaves before its intent is in the journal. */
void chan_hold(struct chan *chan);
void chan_mark(struct chan *chan);
void chan_release(struct chan *chan);
/* Who this process says it is in HELLO; call once before the first chan_new. */
void chan_identify(uint8_t process, uint16_t instance, uint32_t generation);

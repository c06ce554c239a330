/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "common/msg.h"
/*
 * A framed, non-blocking UNIX stream socket between two processes, with descriptors beside frames.
 * Sending appends to a buffer that the loop's end-of-turn hook flushes: many messages travel in one
 * write. A bad frame, an unknown type, a row the peer may not send, or a missing HELLO closes the
 * channel (on_close) and nothing else; it never ends the process.
 *
 * When the peer is gone, everything it sent before is still delivered, then on_close follows.
 */
struct chan;
struct chan_spec {
	unsigned peer_roles; /* what the peer may send as (msg_sender_roles is checked) */
	msg_dispatch_fn *const
	    *dispatch; /* NULL-terminated: tried in order until one knows the row */
	void (*on_close)(
	    void *ctx, struct chan *chan, const char *why); /* chan is freed afterwards */
	void (*on_hello)(
	    void *ctx, struct chan *chan, const struct msg_hello *hello); /* may be NULL */
	void *ctx;
};
/* Takes fd. Sends our HELLO at once. The spec is copied. */
struct chan *chan_new(struct loop *loop, int fd, const struct chan_spec *spec);
/* Closes the socket, without on_close. Both may be called anywhere, from a handler of this same
 * channel too: what the handler was given stays readable until it returns, and no further frame
 * follows. */
void chan_free(struct chan **chan);
/* At the end of the turn: a last flush, on_close, then freed. `why` is copied. */
void chan_close(struct chan *chan, const char *why);
/* In on_close: it was the peer that ended (end of file, a reset); false: what it sent, or a lack of
 * ours, made the channel unusable while the peer may live on. */
bool chan_peer_gone(const struct chan *chan);
int chan_fd(const struct chan *chan);
void *chan_data(const struct chan *chan); /* for the owner's use */
void chan_set_data(struct chan *chan, void *data);
/* Appends. The caller keeps its descriptor: the channel sends and then closes a duplicate
 * (F_DUPFD_CLOEXEC); when none can be made, the channel closes. On a closing channel nothing
 * happens. */
#define MSG(ID, name, from, to)                                                                    \
	void chan_send_##name(struct chan *chan, const struct msg_##name *m);
#include "common/msg_ignore_fields.h"
#include "common/msg.def"
#include "common/msg_undef.h"

/* Bytes not yet written, those held included. The channel sets no bound: the sender knows what flow
 * its messages belong to, and stops producing, or closes. */
size_t chan_backlog(const struct chan *chan);
/* A hold lasts as long as the channel; what was sent before it may go. While held, what is sent
 * stays in the buffer; chan_release() lets everything up to the last chan_mark() go. qmgr uses it:
 * no JOB leaves before its intent is in the journal. */
void chan_hold(struct chan *chan);
void chan_mark(struct chan *chan); /* the end of what was sent so far */
void chan_release(struct chan *chan);
/* Who this process says it is in HELLO; call once before the first chan_new. */
void chan_identify(uint8_t process, uint16_t instance, uint32_t generation);

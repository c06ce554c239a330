/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/envelope.h"
#include "common/iothread.h"
#include "common/record.h"
#include "common/types.h"
/*
 * The writing end of the spool, for smtpd and bouncer: asks qmgr for segments, gathers the messages
 * that finish in a turn of the loop, writes them with one writev() and syncs once in the helper
 * thread, then calls each owner back and tells qmgr, in file order. At most one sync in flight per
 * segment. After a short write or a failed sync it never appends to that segment again: every
 * message of that batch is refused, SEGMENT_DONE says how far the file is good.
 */
struct segwriter;
struct segwriter *segwriter_new(struct loop *loop);
void segwriter_free(struct segwriter **w);
/* The channel to qmgr is there / is gone; with a new one, what is held is reported first. */
void segwriter_attach(struct segwriter *w, struct chan *qmgr);
void segwriter_detach(struct segwriter *w);
/* The owner's handlers of qmgr's rows hand them on: on_segment_give(), on_segment_none(),
 * on_credit(). */
void segwriter_give(struct segwriter *w, struct msg_segment_give *m); /* takes the descriptor */
void segwriter_none(struct segwriter *w, const struct msg_segment_none *m);
void segwriter_credit(struct segwriter *w, const struct msg_credit *m);
/* REFUSE_NONE when a message can be taken now; smtpd asks at MAIL. */
enum refuse segwriter_state(const struct segwriter *w);
/* Nothing gathered, nothing in flight, no stream open. */
bool segwriter_idle(const struct segwriter *w);
struct segwriter_stats {
	uint64_t batches, messages, bytes, failures;
};
void segwriter_stats(const struct segwriter *w, struct segwriter_stats *out);

/* ok: synced, and id is its message id. Not ok: answer 4xx with `why`; nothing of it will be read.
 */
typedef void segwriter_done_fn(void *arg, bool ok, enum refuse why, uint64_t id);

/* Each message takes an id first (it stands in Received). 0 when there is no segment or credit.
 * Take it just before submit: a segment stays open while an id of it is neither submitted nor
 * abandoned, for a message is always written to the segment that its id names. */
uint64_t segwriter_begin(struct segwriter *w);
void segwriter_abandon(
    struct segwriter *w, uint64_t id); /* the message was given up before submit */
/* Takes over the three buffers' bytes (the bufs are left empty). done runs from the loop, later. */
void segwriter_submit(struct segwriter *w, uint64_t id, int64_t arrived_ms, struct buf *envelope,
    struct buf *headers, struct buf *content, segwriter_done_fn *done, void *arg);

/* A message too large for memory: a segment of its own. Ask, wait for ready(), then append. */
struct segstream;
typedef void segstream_ready_fn(
    void *arg, struct segstream *s, enum refuse why); /* s NULL: refused */
void segstream_open(struct segwriter *w, uint64_t size, segstream_ready_fn *ready, void *arg);
uint64_t segstream_id(const struct segstream *s);
/* The order is envelope (one append, whole), headers, content; written in a helper thread of the
 * streams. Takes the bytes over (the buf is left empty). `waiting` bytes are not yet on file: the
 * session stops reading from its client above a bound; drained() is called from the loop each time
 * some more is on file. */
void segstream_append(struct segstream *s, struct buf *bytes);
size_t segstream_waiting(const struct segstream *s);
typedef void segstream_drained_fn(void *arg);
void segstream_on_drained(struct segstream *s, segstream_drained_fn *fn, void *arg);
/* Writes the closing head and syncs; `lengths` gives arrived_ms and the three lengths, which must
 * add up to what was appended. The stream is gone for the caller; done comes later. */
void segstream_close(
    struct segstream *s, const struct record *lengths, segwriter_done_fn *done, void *arg);
void segstream_abandon(struct segstream **s);
/* A stream that was asked for and is not ready yet: ready() will not be called. */
void segstream_cancel(struct segwriter *w, void *arg);

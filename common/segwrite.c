/* SPDX-License-Identifier: ISC */
/*
 * Group commit. Messages that are submitted gather in a list; while a batch of them is with the
 * helper thread (one writev, one fdatasync) the next one gathers; when a batch is done the next one
 * starts before its owners are called, so that the disk never waits for the loop.
 *
 * What this file alone knows: where the next record of a segment stands, which ids are out, how far
 * each segment is synced, and what a qmgr has been told.
 *
 * Invariants
 * - A record is written to the segment that its id names. Ids rise within a segment in the order of
 *   segwriter_begin(), records stand in the order of segwriter_submit(): ordinals need not rise in
 * the file, and given-up ids leave holes. What qmgr marks is a file offset, never an ordinal.
 * - One batch is in flight at a time, for one segment: one writer, one sync at a time, and `end` is
 *   exactly where O_APPEND will put the next byte.
 * - After a short write or a failed sync the segment is `bad`: no byte is appended any more (a
 * second sync may succeed with the data gone). Everything gathered for it is refused.
 * - An owner hears `ok` only after the sync. ACCEPTED goes out in file order, only for what was
 * synced, and before the owner is called in the same turn.
 *
 * A new qmgr. What was synced before segwriter_attach() is covered by SEGMENT_HELD.synced, and qmgr
 * reads it from the file; what is synced afterwards goes out as ACCEPTED. Both happen in the loop's
 * thread and travel in one channel, so each message is in exactly one of the two. Segments that
 * ended while nobody listened are HELD and DONE then; those that failed are FAILED, which asks
 * nothing of a qmgr that knows it already (it may have sealed or deleted them).
 *
 * What a crash of this process leaves, line by line:
 * - before writev: nothing; the client has no answer.
 * - in or after writev, before fdatasync: perhaps a torn record behind the last valid one (its sum
 * fails: qmgr stops there), perhaps whole records. The client has no answer, so it repeats the
 * message: SMTP's own window for a duplicate.
 * - after fdatasync, before ACCEPTED or the 250: qmgr reads it when the channel closes.
 * - after a failed sync, before SEGMENT_DONE came through: qmgr reads what the page cache shows. A
 * message refused with 4xx may then be delivered beside its repetition; nothing is lost.
 */
#include "common/segwrite_private.h"

#include "common/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct item {
	struct item *next;
	struct seg *seg; /* borrowed: its open_ids counts us */
	struct record record;
	unsigned char head[RECORD_HEAD];
	struct buf envelope, headers, content; /* owned */
	segwriter_done_fn *done;
	void *arg;
};

struct batch { /* the helper thread's, while it is in flight */
	struct segwriter *w;
	struct seg *seg;
	struct item *items[BATCH_MESSAGES];
	size_t count;
	uint64_t bytes;
	int error; /* 0 or errno */
};

static const unsigned char zeros[RECORD_ALIGN];

/* --- segments --------------------------------------------------------------------------------- */

static void seg_unlink(struct segwriter *w, struct seg *seg)
{
	struct seg **at = &w->segs;

	while (*at != seg)
		at = &(*at)->next;
	*at = seg->next;
}

static void seg_free(struct segwriter *w, struct seg *seg)
{
	seg_unlink(w, seg);
	close(seg->fd);
	free(seg);
}

struct seg *seg_new(struct segwriter *w, struct msg_segment_give *m, bool stream)
{
	struct seg *seg = xcalloc(1, sizeof(*seg)), **at = &w->segs;

	*seg = (struct seg){.fd = msg_take_fd(&m->fd),
	    .number = m->segment,
	    .nonce_high = m->nonce_high,
	    .nonce_low = m->nonce_low,
	    .limit = m->limit,
	    .next_ordinal = 1,
	    .stream = stream};
	while (*at)
		at = &(*at)->next;
	*at = seg;
	return seg;
}

static void send_done(struct segwriter *w, uint64_t number, uint64_t good)
{
	struct msg_segment_done m = {.segment = number, .good = good};

	if (w->qmgr)
		chan_send_segment_done(w->qmgr, &m);
}

static void send_held(struct segwriter *w, uint64_t number, uint64_t synced, uint32_t next_ordinal)
{
	struct msg_segment_held m = {
	    .segment = number, .synced = synced, .next_ordinal = next_ordinal};

	chan_send_segment_held(w->qmgr, &m);
}

/* Ends a segment that nobody will write to again. Without a qmgr it stays, to be reported. */
static void seg_try_end(struct segwriter *w, struct seg *seg)
{
	if (!seg->retired || seg->open_ids > 0 || (!w->qmgr && !seg->bad))
		return;
	if (!seg->bad) /* a bad one was reported when it failed */
		send_done(w, seg->number, seg->synced);
	seg_free(w, seg);
}

void seg_retire(struct segwriter *w, struct seg *seg)
{
	if (w->current == seg)
		w->current = NULL;
	if (w->reserve == seg)
		w->reserve = NULL;
	seg->retired = true;
	seg_try_end(w, seg);
}

void seg_release_id(struct segwriter *w, struct seg *seg)
{
	must(seg->open_ids > 0);
	seg->open_ids--;
	seg_try_end(w, seg);
}

void seg_fail(struct segwriter *w, struct seg *seg, bool remember)
{
	seg->bad = true;
	if (remember)
		w->failed[w->failed_count++ % FAILED_KEPT] = (struct failed_segment){
		    seg->number, seg->synced, w->qmgr ? loop_now_ms(w->loop) : 0};
	send_done(w, seg->number, seg->synced);
	seg_retire(w, seg);
}

uint32_t segwriter_ticket(struct segwriter *w)
{
	if (++w->last_ticket == 0)
		w->last_ticket = 1;
	return w->last_ticket;
}

static void want_segment(void *arg)
{
	struct segwriter *w = arg;
	bool need = !w->current || (!w->reserve && w->current->planned >= w->current->limit / 2);

	if (!w->qmgr || !need || w->want_ticket != 0 || wheel_armed(&w->want_again.node))
		return;
	w->want_ticket = segwriter_ticket(w);
	struct msg_segment_want m = {.ticket = w->want_ticket};
	chan_send_segment_want(w->qmgr, &m);
}

/* The limit is where the next segment must be asked for, at the latest; we ask at half of it. When
 * the answer is slow we go on, to twice the limit; when it was no, what was preallocated is all we
 * use. */
static bool seg_has_room(const struct segwriter *w, const struct seg *seg)
{
	uint64_t end = w->none_reason != REFUSE_NONE ? seg->limit : 2 * seg->limit;

	return seg->planned < end && seg->next_ordinal < RECORD_ORDINAL_MAX;
}

static bool has_room(const struct segwriter *w)
{
	return w->reserve || (w->current && seg_has_room(w, w->current));
}

static void choose_segment(struct segwriter *w)
{
	struct seg *old = w->current;
	bool full = old && (old->planned >= old->limit || old->next_ordinal == RECORD_ORDINAL_MAX);

	if (!w->reserve || (old && !full))
		return;
	w->current = w->reserve;
	w->reserve = NULL;
	if (old)
		seg_retire(w, old);
}

/* --- batches: the helper thread's part -------------------------------------------------------- */

static void piece_put(struct iovec *iov, int *n, const void *p, size_t bytes)
{
	if (bytes == 0)
		return;
	iov[*n].iov_base = (void *)(uintptr_t)p;
	iov[*n].iov_len = bytes;
	++*n;
}

static void item_seal(struct item *i)
{
	i->record.envelope_crc = crc32c(0, i->envelope.p, i->envelope.n);
	i->record.content_crc = crc32c(0, i->headers.p, i->headers.n);
	i->record.content_crc = crc32c(i->record.content_crc, i->content.p, i->content.n);
	record_encode(&i->record, i->head);
}

static void batch_write(void *arg)
{
	struct batch *b = arg;
	struct iovec iov[BATCH_MESSAGES * 5];
	size_t bytes = 0;
	int n = 0;

	for (size_t k = 0; k < b->count; k++) {
		struct item *i = b->items[k];
		size_t data = i->envelope.n + i->headers.n + i->content.n;
		item_seal(i);
		piece_put(iov, &n, i->head, RECORD_HEAD);
		piece_put(iov, &n, i->envelope.p, i->envelope.n);
		piece_put(iov, &n, i->headers.p, i->headers.n);
		piece_put(iov, &n, i->content.p, i->content.n);
		piece_put(iov, &n, zeros, (size_t)record_align(data) - data);
		bytes += RECORD_HEAD + (size_t)record_align(data);
	}
	ssize_t written = writev(b->seg->fd, iov, n);
	if (written < 0)
		b->error = errno;
	else if ((size_t)written != bytes)
		b->error = ENOSPC;
	else if (fdatasync(b->seg->fd) != 0)
		b->error = errno;
}

/* --- batches: the loop's part ----------------------------------------------------------------- */

static void item_end(struct segwriter *w, struct item *i, bool ok)
{
	if (ok) {
		struct str envelope = {(const char *)i->envelope.p, i->envelope.n};
		segwriter_report(w, i->seg, &i->record, i->head, envelope);
	} else {
		w->credits++; /* qmgr never hears of it, so it would never give the credit back */
	}
	seg_release_id(w, i->seg);
	i->done(i->arg, ok, ok ? REFUSE_NONE : REFUSE_DISK, i->record.id);
	buf_fini(&i->envelope);
	buf_fini(&i->headers);
	buf_fini(&i->content);
	free(i);
}

static struct item *pending_take(struct segwriter *w)
{
	struct item *i = w->pending;

	w->pending = i->next;
	if (!w->pending)
		w->pending_end = &w->pending;
	return i;
}

static uint64_t item_bytes(const struct item *i)
{
	return RECORD_HEAD + record_align(i->envelope.n + i->headers.n + i->content.n);
}

static void batch_add(struct batch *b, struct item *i)
{
	i->record.offset = b->seg->end;
	i->record.data_offset = b->seg->end + RECORD_HEAD;
	b->seg->end += item_bytes(i);
	b->bytes += item_bytes(i);
	b->items[b->count++] = i;
}

static void batch_done(void *arg);

static void batch_start(void *arg)
{
	struct segwriter *w = arg;
	struct batch *b;

	while (w->pending && w->pending->seg->bad)
		item_end(w, pending_take(w), false);
	if (w->batch || !w->pending)
		return;
	b = xcalloc(1, sizeof(*b));
	b->w = w;
	b->seg = w->pending->seg;
	while (w->pending && w->pending->seg == b->seg && b->count < BATCH_MESSAGES &&
	       (b->count == 0 || b->bytes + item_bytes(w->pending) <= BATCH_BYTES))
		batch_add(b, pending_take(w));
	w->batch = b;
	iothread_do(w->io, batch_write, batch_done, b);
}

static void batch_done(void *arg)
{
	struct batch *b = arg;
	struct segwriter *w = b->w;

	w->batch = NULL;
	if (b->error == 0) {
		b->seg->synced = b->seg->end;
		w->stats.batches++;
		w->stats.messages += b->count;
		w->stats.bytes += b->bytes;
	} else {
		log_error("segment %llu: write failed: %s: good up to byte %llu",
		    (unsigned long long)b->seg->number, strerror(b->error),
		    (unsigned long long)b->seg->synced);
		b->seg->end = b->seg->synced;
		w->stats.failures++;
		seg_fail(w, b->seg, true);
		want_segment(w);
	}
	batch_start(w);
	for (size_t k = 0; k < b->count; k++)
		item_end(w, b->items[k], b->error == 0);
	free(b);
}

void segwriter_report(struct segwriter *w, const struct seg *seg, const struct record *r,
    const unsigned char head[RECORD_HEAD], struct str envelope)
{
	if (!w->qmgr)
		return;
	struct msg_accepted m = {.segment = seg->number,
	    .offset = r->offset,
	    .end = record_end(r),
	    .head = {(const char *)head, RECORD_HEAD},
	    .envelope = envelope};
	chan_send_accepted(w->qmgr, &m);
}

/* --- the owner's calls ------------------------------------------------------------------------ */

uint64_t segwriter_begin(struct segwriter *w)
{
	if (w->credits == 0 || w->refuse != REFUSE_NONE || !has_room(w))
		return 0;
	choose_segment(w);
	w->credits--;
	w->current->open_ids++;
	return RECORD_ID(w->current->number, w->current->next_ordinal++);
}

static struct seg *seg_get(struct segwriter *w, uint64_t id)
{
	struct seg *seg = w->segs;

	while (seg && seg->number != RECORD_ID_SEGMENT(id))
		seg = seg->next;
	must(seg);
	return seg;
}

void segwriter_abandon(struct segwriter *w, uint64_t id)
{
	w->credits++;
	seg_release_id(w, seg_get(w, id));
}

static void buf_move(struct buf *to, struct buf *from)
{
	*to = *from;
	buf_init(from, from->max);
}

void segwriter_submit(struct segwriter *w, uint64_t id, int64_t arrived_ms, struct buf *envelope,
    struct buf *headers, struct buf *content, segwriter_done_fn *done, void *arg)
{
	struct item *i = xcalloc(1, sizeof(*i));
	struct seg *seg = seg_get(w, id);

	must(!envelope->failed && !headers->failed && !content->failed);
	must(envelope->n <= ENVELOPE_MAX);
	i->seg = seg;
	i->done = done;
	i->arg = arg;
	buf_move(&i->envelope, envelope);
	buf_move(&i->headers, headers);
	buf_move(&i->content, content);
	i->record = (struct record){.kind = RECORD_MESSAGE,
	    .nonce_high = seg->nonce_high,
	    .nonce_low = seg->nonce_low,
	    .id = id,
	    .envelope_bytes = (uint32_t)i->envelope.n,
	    .headers_bytes = (uint32_t)i->headers.n,
	    .content_bytes = i->content.n,
	    .arrived_ms = (uint64_t)arrived_ms};
	seg->planned += item_bytes(i);
	*w->pending_end = i;
	w->pending_end = &i->next;
	want_segment(w);
}

enum refuse segwriter_state(const struct segwriter *w)
{
	if (!w->qmgr)
		return REFUSE_BUSY;
	if (w->refuse != REFUSE_NONE)
		return w->refuse;
	if (!has_room(w))
		return w->none_reason != REFUSE_NONE ? w->none_reason : REFUSE_BUSY;
	return w->credits == 0 ? REFUSE_MEMORY : REFUSE_NONE;
}

bool segwriter_idle(const struct segwriter *w)
{
	return !w->pending && !w->batch && !w->streams && !w->requests;
}

void segwriter_stats(const struct segwriter *w, struct segwriter_stats *out)
{
	*out = w->stats;
}

/* --- qmgr ------------------------------------------------------------------------------------- */

static void report_failed(struct segwriter *w)
{
	size_t kept = w->failed_count < FAILED_KEPT ? w->failed_count : FAILED_KEPT;

	for (size_t k = 0; k < kept; k++) {
		struct failed_segment *f = &w->failed[k];
		if (f->told_ms != 0 && w->detached_ms - f->told_ms > TOLD_SETTLED_MS)
			continue;
		f->told_ms = loop_now_ms(w->loop);
		struct msg_segment_failed m = {.segment = f->number, .good = f->good};
		chan_send_segment_failed(w->qmgr, &m);
	}
}

/* Reports all that is held, then ends what had ended before: it goes with SEGMENT_DONE. */
void segwriter_attach(struct segwriter *w, struct chan *qmgr)
{
	struct msg_writer_state_end end = {0};

	w->qmgr = qmgr;
	w->credits = 0;
	w->refuse = REFUSE_NONE;
	w->none_reason = REFUSE_NONE;
	w->want_ticket = 0;
	for (const struct seg *seg = w->segs; seg; seg = seg->next)
		if (!seg->bad)
			send_held(w, seg->number, seg->synced, seg->next_ordinal);
	report_failed(w);
	chan_send_writer_state_end(w->qmgr, &end);
	for (struct seg *seg = w->segs, *next; seg; seg = next) {
		next = seg->next;
		seg_try_end(w, seg);
	}
	loop_timer_cancel(w->loop, &w->want_again);
	want_segment(w);
	segstream_want_all(w);
}

void segwriter_detach(struct segwriter *w)
{
	w->qmgr = NULL;
	w->want_ticket = 0;
	w->detached_ms = loop_now_ms(w->loop);
}

static struct stream_request **request_find(struct segwriter *w, uint32_t ticket)
{
	struct stream_request **at = &w->requests;

	while (*at && (*at)->ticket != ticket)
		at = &(*at)->next;
	return at;
}

void segwriter_give(struct segwriter *w, struct msg_segment_give *m)
{
	struct stream_request **request = request_find(w, m->ticket);
	struct seg *seg;

	if (*request) {
		segstream_give(w, request, m);
		return;
	}
	if (m->ticket != w->want_ticket) { /* given up meanwhile; chan closes the descriptor */
		send_done(w, m->segment, 0);
		return;
	}
	w->want_ticket = 0;
	w->none_reason = REFUSE_NONE;
	seg = seg_new(w, m, false);
	if (!w->current)
		w->current = seg;
	else
		w->reserve = seg;
}

void segwriter_none(struct segwriter *w, const struct msg_segment_none *m)
{
	struct stream_request **request = request_find(w, m->ticket);
	enum refuse why =
	    m->reason > REFUSE_NONE && m->reason < REFUSE_COUNT ? m->reason : REFUSE_DISK;

	if (*request) {
		segstream_refuse(request, why);
	} else if (m->ticket == w->want_ticket) {
		w->want_ticket = 0;
		w->none_reason = (uint8_t)why;
		int64_t wait_ms = why == REFUSE_BUSY ? WANT_STARTING_MS : WANT_AGAIN_MS;
		loop_timer_after(w->loop, &w->want_again, wait_ms, want_segment, w);
	}
}

void segwriter_credit(struct segwriter *w, const struct msg_credit *m)
{
	w->credits = m->messages > UINT32_MAX - w->credits ? UINT32_MAX : w->credits + m->messages;
	w->refuse = m->refuse < REFUSE_COUNT ? m->refuse : REFUSE_QUEUE;
}

/* --- life ------------------------------------------------------------------------------------- */

struct segwriter *segwriter_new(struct loop *loop)
{
	struct segwriter *w = xcalloc(1, sizeof(*w));

	w->loop = loop;
	w->pending_end = &w->pending;
	w->io = iothread_new(loop, "commit");
	loop_on_turn_end(loop, batch_start, w);
	return w;
}

static void item_free(struct item *i)
{
	buf_fini(&i->envelope);
	buf_fini(&i->headers);
	buf_fini(&i->content);
	free(i);
}

/* The loop must not turn again afterwards: its hook still names us. */
void segwriter_free(struct segwriter **writer)
{
	struct segwriter *w = *writer;

	if (!w)
		return;
	*writer = NULL;
	iothread_free(&w->io);
	loop_timer_cancel(w->loop, &w->want_again);
	for (size_t k = 0; w->batch && k < w->batch->count; k++)
		item_free(w->batch->items[k]);
	free(w->batch);
	while (w->pending)
		item_free(pending_take(w));
	segstream_free_all(w);
	while (w->segs)
		seg_free(w, w->segs);
	free(w);
}

/* SPDX-License-Identifier: ISC */
/*
 * A message that is too large for memory streams into a segment of its own: an OPEN head at offset
 * 0, the data from 128 on, zero bytes to the next multiple of 64, then a CLOSE head that says where
 * everything lies and carries the sums. Only that head makes the message valid, and it is written
 * and synced last; so a stream that ends anywhere before leaves a segment without a message in it.
 *
 * The writing is done by a helper thread of the streams' own: the sync of a gigabyte must not stand
 * before the next group commit. Pieces are written in the order they were given; what the thread
 * works on (struct stream_file) belongs to it alone until the last piece is done.
 *
 * To qmgr: SEGMENT_HELD.synced of a stream is 0 until its CLOSE head is synced, and the file's end
 * after it (so the CLOSE head stands RECORD_HEAD bytes before). ACCEPTED names the place of the
 * CLOSE head.
 */
#include "common/segwrite_private.h"

#include "common/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stream_file { /* the helper thread's */
	int fd;
	uint64_t end, unsynced;
	uint32_t envelope_crc, content_crc;
	bool envelope_seen;
	int error;
};

struct piece;
struct segstream {
	struct segstream *next;
	struct segwriter *w;
	struct seg *seg;
	struct stream_file file;
	struct buf envelope; /* a copy, for ACCEPTED */
	uint64_t id;
	uint64_t given;				 /* bytes of data appended */
	size_t waiting;				 /* of these, not yet on file */
	size_t pieces;				 /* with the thread */
	struct piece *given_pieces, **given_end; /* those, oldest first */
	bool closing, abandoned;
	segstream_drained_fn *drained;
	void *drained_arg;
	struct record record; /* of the CLOSE head; the thread's from segstream_close() on */
	unsigned char head[RECORD_HEAD]; /* OPEN, encoded before the thread begins; then CLOSE */
	segwriter_done_fn *done;
	void *done_arg;
};

struct piece {		    /* one work of the thread */
	struct piece *next; /* of the same stream */
	struct segstream *s;
	struct buf bytes; /* owned */
};

/* --- the helper thread's part ----------------------------------------------------------------- */

static void file_write(struct stream_file *f, const void *p, size_t n)
{
	const char *at = p;

	while (n > 0 && f->error == 0) {
		ssize_t written = write(f->fd, at, n);
		if (written <= 0) {
			f->error = written < 0 ? errno : ENOSPC;
			return;
		}
		at += written;
		n -= (size_t)written;
		f->end += (uint64_t)written;
		f->unsynced += (uint64_t)written;
	}
}

static void file_sync(struct stream_file *f)
{
	if (f->error == 0 && fdatasync(f->fd) != 0)
		f->error = errno;
	f->unsynced = 0;
}

static void piece_write(void *arg)
{
	struct piece *p = arg;
	struct stream_file *f = &p->s->file;
	uint32_t *crc = f->envelope_seen ? &f->content_crc : &f->envelope_crc;

	*crc = crc32c(*crc, p->bytes.p, p->bytes.n);
	f->envelope_seen = true;
	file_write(f, p->bytes.p, p->bytes.n);
	if (f->unsynced >= STREAM_SYNC_BYTES)
		file_sync(f);
}

/* Nothing but bytes that are ready: what `record` holds may be the loop's already. */
static void head_write(void *arg)
{
	struct segstream *s = arg;

	file_write(&s->file, s->head, sizeof(s->head));
}

static void close_write(void *arg)
{
	struct segstream *s = arg;
	static const unsigned char zeros[RECORD_ALIGN];

	file_write(&s->file, zeros, (size_t)(record_align(s->file.end) - s->file.end));
	s->record.kind = RECORD_CLOSE;
	s->record.offset = s->file.end;
	s->record.data_offset = RECORD_HEAD;
	s->record.envelope_crc = s->file.envelope_crc;
	s->record.content_crc = s->file.content_crc;
	record_encode(&s->record, s->head);
	head_write(s);
	file_sync(&s->file);
}

/* --- the loop's part -------------------------------------------------------------------------- */

/* They come back in the order in which they were given. */
static void piece_free(struct segstream *s)
{
	struct piece *p = s->given_pieces;

	s->given_pieces = p->next;
	if (!s->given_pieces)
		s->given_end = &s->given_pieces;
	buf_fini(&p->bytes);
	free(p);
}

static void stream_free(struct segstream *s)
{
	struct segstream **at = &s->w->streams;

	while (s->given_pieces) /* only at the process' end */
		piece_free(s);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	s->w->stream_count--;
	buf_fini(&s->envelope);
	free(s);
}

/* Given up: nothing in the segment is valid, and qmgr hears that. Without a CLOSE head that could
 * be seen there is nothing that a later qmgr could take for a message. */
static void stream_drop(struct segstream *s)
{
	struct segwriter *w = s->w;
	struct seg *seg = s->seg;
	bool closing = s->closing;

	w->credits++;
	stream_free(s);
	seg_fail(w, seg, closing);
	seg_release_id(w, seg);
}

static void piece_done(void *arg)
{
	struct piece *p = arg;
	struct segstream *s = p->s;

	must(p == s->given_pieces);
	s->pieces--;
	s->waiting -= p->bytes.n;
	piece_free(s);
	if (s->abandoned && s->pieces == 0)
		stream_drop(s);
	else if (!s->abandoned && !s->closing && s->drained)
		s->drained(s->drained_arg);
}

static void head_done(void *arg)
{
	struct segstream *s = arg;

	s->pieces--;
	if (s->abandoned && s->pieces == 0)
		stream_drop(s);
}

static void close_done(void *arg)
{
	struct segstream *s = arg;
	struct segwriter *w = s->w;
	segwriter_done_fn *done = s->done;
	void *done_arg = s->done_arg;
	struct seg *seg = s->seg;
	uint64_t id = s->id;

	if (s->file.error != 0) {
		log_error("segment %llu: stream failed: %s", (unsigned long long)seg->number,
		    strerror(s->file.error));
		w->stats.failures++;
		stream_drop(s);
		done(done_arg, false, REFUSE_DISK, id);
		return;
	}
	seg->synced = s->file.end;
	w->stats.messages++;
	w->stats.bytes += s->file.end;
	segwriter_report(
	    w, seg, &s->record, s->head, (struct str){(const char *)s->envelope.p, s->envelope.n});
	stream_free(s);
	seg->open_ids--;
	seg_retire(w, seg);
	done(done_arg, true, REFUSE_NONE, id);
}

static void request_send(struct segwriter *w, struct stream_request *r)
{
	r->ticket = segwriter_ticket(w);
	struct msg_segment_want m = {.ticket = r->ticket, .size = r->size > 0 ? r->size : 1};
	chan_send_segment_want(w->qmgr, &m);
}

void segstream_open(struct segwriter *w, uint64_t size, segstream_ready_fn *ready, void *arg)
{
	struct stream_request *r = xcalloc(1, sizeof(*r));

	*r = (struct stream_request){.next = w->requests, .size = size, .ready = ready, .arg = arg};
	w->requests = r;
	if (w->qmgr)
		request_send(w, r);
}

void segstream_want_all(struct segwriter *w)
{
	for (struct stream_request *r = w->requests; r; r = r->next)
		request_send(w, r);
}

void segstream_refuse(struct stream_request **at, enum refuse why)
{
	struct stream_request *r = *at;

	*at = r->next;
	r->ready(r->arg, NULL, why);
	free(r);
}

void segstream_cancel(struct segwriter *w, void *arg)
{
	struct stream_request **at = &w->requests;

	while (*at && (*at)->arg != arg)
		at = &(*at)->next;
	if (*at) {
		struct stream_request *r = *at;
		*at = r->next;
		free(r);
	}
}

void segstream_give(struct segwriter *w, struct stream_request **at, struct msg_segment_give *m)
{
	struct stream_request *r = *at;
	struct segstream *s;

	if (w->stream_count >= STREAMS_MAX || w->credits == 0) {
		struct msg_segment_done unused = {.segment = m->segment};
		chan_send_segment_done(w->qmgr, &unused);
		segstream_refuse(at, REFUSE_MEMORY);
		return;
	}
	*at = r->next;
	if (!w->stream_io)
		w->stream_io = iothread_new(w->loop, "stream");
	s = xcalloc(1, sizeof(*s));
	s->w = w;
	s->seg = seg_new(w, m, true);
	s->seg->open_ids = 1;
	s->file.fd = s->seg->fd;
	s->id = RECORD_ID(s->seg->number, s->seg->next_ordinal++);
	s->record = (struct record){.kind = RECORD_OPEN,
	    .nonce_high = s->seg->nonce_high,
	    .nonce_low = s->seg->nonce_low,
	    .id = s->id};
	record_encode(&s->record, s->head);
	buf_init(&s->envelope, ENVELOPE_MAX);
	s->given_end = &s->given_pieces;
	s->next = w->streams;
	w->streams = s;
	w->stream_count++;
	w->credits--;
	s->pieces = 1;
	iothread_do(w->stream_io, head_write, head_done, s);
	r->ready(r->arg, s, REFUSE_NONE);
	free(r);
}

uint64_t segstream_id(const struct segstream *s)
{
	return s->id;
}

void segstream_append(struct segstream *s, struct buf *bytes)
{
	struct piece *p;

	must(!s->closing && !s->abandoned && !bytes->failed);
	if (bytes->n == 0)
		return;
	if (s->given == 0)
		buf_put(&s->envelope, bytes->p, bytes->n);
	p = xcalloc(1, sizeof(*p));
	p->s = s;
	p->bytes = *bytes;
	buf_init(bytes, bytes->max);
	s->given += p->bytes.n;
	s->waiting += p->bytes.n;
	s->pieces++;
	*s->given_end = p;
	s->given_end = &p->next;
	iothread_do(s->w->stream_io, piece_write, piece_done, p);
}

size_t segstream_waiting(const struct segstream *s)
{
	return s->waiting;
}

void segstream_on_drained(struct segstream *s, segstream_drained_fn *fn, void *arg)
{
	s->drained = fn;
	s->drained_arg = arg;
}

void segstream_close(
    struct segstream *s, const struct record *lengths, segwriter_done_fn *done, void *arg)
{
	uint64_t data =
	    (uint64_t)lengths->envelope_bytes + lengths->headers_bytes + lengths->content_bytes;

	must(!s->closing && !s->abandoned && data == s->given);
	must(lengths->envelope_bytes == s->envelope.n);
	s->closing = true;
	s->done = done;
	s->done_arg = arg;
	s->record.envelope_bytes = lengths->envelope_bytes;
	s->record.headers_bytes = lengths->headers_bytes;
	s->record.content_bytes = lengths->content_bytes;
	s->record.arrived_ms = lengths->arrived_ms;
	iothread_do(s->w->stream_io, close_write, close_done, s);
}

void segstream_abandon(struct segstream **stream)
{
	struct segstream *s = *stream;

	if (!s)
		return;
	*stream = NULL;
	must(!s->closing);
	s->abandoned = true;
	s->drained = NULL;
	if (s->pieces == 0)
		stream_drop(s);
}

void segstream_free_all(struct segwriter *w)
{
	iothread_free(&w->stream_io);
	while (w->streams)
		stream_free(w->streams);
	while (w->requests) {
		struct stream_request *r = w->requests;
		w->requests = r->next;
		free(r);
	}
}

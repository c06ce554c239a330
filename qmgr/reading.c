/* SPDX-License-Identifier: ISC */
/*
 * Taking in from a segment's file what its writer did not tell: after a writer's death from the
 * mark to the end, after our own restart from the mark to what the writer says is synced.
 *
 * A record counts when its head decodes, carries the segment's nonce, its own offset and the sums
 * of envelope and content. Behind the last valid one there may be a torn tail. When valid heads
 * follow behind bytes that are none, that is damage: the stretch is named in the log, counted, and
 * stepped over, because what follows was acknowledged too. A head cannot be forged without the
 * nonce, so searching for it is safe.
 *
 * Work is done in slices of a turn, one segment after another in the order given. The segment's
 * state is READING meanwhile; what the same writer says of it waits (reading_finish()).
 */
#include "common/file.h"
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	WINDOW = 1 << 20,	/* bytes read at once */
	SLICE_RECORDS = 500,	/* a turn: some milliseconds */
	SLICE_BYTES = 16 << 20, /* of content summed in a turn */
};

struct reading {
	struct reading *next;
	struct segment *segment;
	uint64_t upto, at, limit;
	void (*done)(struct qmgr *q, struct segment *s, void *arg);
	void *arg;
	int fd;
	uint64_t taken;
	unsigned char *window; /* owned; bytes of the file from window_at on */
	uint64_t window_at;
	size_t window_n;
	struct buf envelope;
};

void reading_start(struct qmgr *q, struct segment *s, uint64_t upto,
    void (*done)(struct qmgr *q, struct segment *s, void *arg), void *arg)
{
	struct reading *r = xcalloc(1, sizeof(*r)), **at = &q->readings;
	if (s->state == SEGMENT_READING)
		reading_finish(q, s);
	*r = (struct reading){
	    .segment = s, .upto = upto, .at = s->row.mark, .done = done, .arg = arg, .fd = -1};
	buf_init(&r->envelope, ENVELOPE_MAX);
	s->state = SEGMENT_READING;
	at = &q->readings;
	while (*at != NULL)
		at = &(*at)->next;
	*at = r;
}

bool reading_is_idle(const struct qmgr *q)
{
	return q->readings == NULL;
}

static void free_reading(struct reading *r)
{
	if (r->fd >= 0)
		close(r->fd);
	free(r->window);
	buf_fini(&r->envelope);
	free(r);
}

void reading_fini(struct qmgr *q)
{
	while (q->readings != NULL) {
		struct reading *r = q->readings;
		q->readings = r->next;
		free_reading(r);
	}
}

/* n <= WINDOW bytes at offset, or NULL: beyond the end, or unreadable. */
static const unsigned char *look(struct reading *r, uint64_t offset, size_t n)
{
	if (offset + n > r->limit)
		return NULL;
	bool inside = offset >= r->window_at && offset + n <= r->window_at + r->window_n;
	if (!inside) {
		ssize_t got = file_read_at(r->fd, r->window, WINDOW, offset);
		r->window_at = offset;
		r->window_n = got > 0 ? (size_t)got : 0;
		if (r->window_n < n)
			return NULL;
	}
	return r->window + (offset - r->window_at);
}

static bool belongs(const struct reading *r, const struct record *rec, uint64_t offset)
{
	const struct row_segment *row = &r->segment->row;
	return rec->nonce_high == row->nonce_high && rec->nonce_low == row->nonce_low &&
	       rec->offset == offset;
}

static bool head_at(struct reading *r, uint64_t offset, struct record *rec)
{
	const unsigned char *head = look(r, offset, RECORD_HEAD);
	return head != NULL && record_decode(rec, head) == 0 && belongs(r, rec, offset);
}

/* The next valid head at or behind offset. */
static bool find_head(struct reading *r, uint64_t offset, struct record *rec)
{
	offset = record_align(offset);
	for (; offset + RECORD_HEAD <= r->limit; offset += RECORD_ALIGN)
		if (head_at(r, offset, rec))
			return true;
	return false;
}

static bool sum_is(struct reading *r, uint64_t offset, uint64_t n, uint32_t want)
{
	uint32_t sum = 0;
	while (n > 0) {
		size_t piece = n < WINDOW ? (size_t)n : WINDOW;
		const unsigned char *p = look(r, offset, piece);
		if (p == NULL)
			return false;
		sum = crc32c(sum, p, piece);
		offset += piece;
		n -= piece;
	}
	return sum == want;
}

/* The whole record: sums right, end within what counts. r->envelope has the envelope then. */
static bool is_whole(struct reading *r, const struct record *rec)
{
	if (record_end(rec) > r->limit &&
	    rec->data_offset + rec->envelope_bytes + rec->headers_bytes + rec->content_bytes >
		r->limit)
		return false;
	const unsigned char *p = look(r, rec->data_offset, rec->envelope_bytes);
	if (p == NULL || crc32c(0, p, rec->envelope_bytes) != rec->envelope_crc)
		return false;
	buf_reset(&r->envelope);
	buf_put(&r->envelope, p, rec->envelope_bytes);
	return sum_is(r, rec->data_offset + rec->envelope_bytes,
	    rec->headers_bytes + rec->content_bytes, rec->content_crc);
}

/* A valid message at or behind r->at: its head, and where its record begins. */
static bool message_at(struct reading *r, uint64_t offset, struct record *rec, uint64_t *begin)
{
	if (!head_at(r, offset, rec))
		return false;
	*begin = offset;
	if (rec->kind == RECORD_OPEN) {
		uint64_t data = offset + RECORD_HEAD;
		if (!find_head(r, data, rec) || rec->kind != RECORD_CLOSE ||
		    rec->data_offset != data)
			return false;
	}
	return rec->kind != RECORD_OPEN && is_whole(r, rec);
}

static bool next_message(struct qmgr *q, struct reading *r, struct record *rec)
{
	uint64_t begin, from = r->at;
	if (message_at(r, r->at, rec, &begin))
		return true;
	while (find_head(r, from + 1, rec)) {
		from = rec->offset;
		if (!message_at(r, from, rec, &begin))
			continue;
		q->counters.damaged++;
		log_error("segment %016" PRIx64 " is damaged from byte %" PRIu64 " to %" PRIu64
			  ": what stood there is lost; going on behind it",
		    r->segment->row.number, r->at, begin);
		return true;
	}
	return false;
}

/* False: nothing to read. */
static bool open_file(struct qmgr *q, struct reading *r)
{
	struct stat st;
	r->fd = segment_open_read(q, r->segment->row.number);
	if (r->fd < 0 || fstat(r->fd, &st) != 0) {
		log_error("cannot read segment %016" PRIx64 ": %s", r->segment->row.number,
		    strerror(r->fd < 0 ? -r->fd : errno));
		return false;
	}
	r->limit = (uint64_t)st.st_size < r->upto ? (uint64_t)st.st_size : r->upto;
	if (r->upto != UINT64_MAX && r->limit < r->upto)
		log_error("segment %016" PRIx64 " ends at byte %" PRIu64
			  ", but its writer has synced %" PRIu64,
		    r->segment->row.number, r->limit, r->upto);
	r->window = xmalloc(WINDOW);
	return true;
}

static void report_tail(const struct reading *r)
{
	if (r->at >= r->limit)
		return;
	const char *what =
	    r->upto == UINT64_MAX ? "was not finished when its writer ended" : "is damaged";
	log_warn("segment %016" PRIx64 ": the stretch from byte %" PRIu64 " to %" PRIu64 " %s",
	    r->segment->row.number, r->at, r->limit, what);
}

/* True: there is more to read. */
static bool slice(struct qmgr *q, struct reading *r, unsigned records, uint64_t bytes)
{
	if (r->fd < 0 && !open_file(q, r))
		return false;
	uint64_t began = r->at;
	for (unsigned i = 0; i < records && r->at - began < bytes; i++) {
		struct record rec;
		if (r->at + RECORD_HEAD > r->limit || !next_message(q, r, &rec)) {
			report_tail(r);
			return false;
		}
		intake(
		    q, r->segment, &rec, (struct str){(const char *)r->envelope.p, r->envelope.n});
		r->at = record_end(&rec);
		r->segment->row.mark = r->at;
		r->taken++;
	}
	return true;
}

static void end_reading(struct qmgr *q, struct reading *r)
{
	struct reading **at = &q->readings;
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	struct segment *s = r->segment;
	if (r->taken > 0)
		log_info("segment %016" PRIx64 ": %" PRIu64 " messages taken in from the file",
		    s->row.number, r->taken);
	if (r->upto != UINT64_MAX && s->row.mark < r->upto)
		s->row.mark =
		    r->upto; /* what stood there cannot be read; what comes next stands behind it */
	segment_changed(q, s);
	s->state = SEGMENT_OPEN;
	r->done(q, s, r->arg);
	free_reading(r);
}

bool reading_turn(struct qmgr *q)
{
	struct reading *r = q->readings;
	if (r != NULL && !slice(q, r, SLICE_RECORDS, SLICE_BYTES))
		end_reading(q, r);
	return q->readings != NULL;
}

void reading_finish(struct qmgr *q, struct segment *s)
{
	struct reading *r = q->readings;
	while (r != NULL && r->segment != s)
		r = r->next;
	if (r == NULL)
		return;
	while (slice(q, r, SLICE_RECORDS, UINT64_MAX))
		continue;
	end_reading(q, r);
}

bool reading_find(
    struct qmgr *q, struct segment *s, uint64_t id, struct record *record, struct buf *envelope)
{
	struct reading r = {.segment = s, .upto = UINT64_MAX, .fd = -1};
	bool found = false;
	buf_init(&r.envelope, ENVELOPE_MAX);
	if (open_file(q, &r))
		while (!found && find_head(&r, r.at, record)) {
			found =
			    record->id == id && record->kind != RECORD_OPEN && is_whole(&r, record);
			r.at = record_end(record);
		}
	if (found)
		buf_put(envelope, r.envelope.p, r.envelope.n);
	if (r.fd >= 0)
		close(r.fd);
	free(r.window);
	buf_fini(&r.envelope);
	return found;
}

int reading_envelope(
    struct qmgr *q, uint64_t segment, uint64_t offset, struct record *record, struct buf *envelope)
{
	struct segment *s = segments_find(q, segment);
	unsigned char head[RECORD_HEAD];
	if (s == NULL)
		return -ENOENT;
	int fd = segment_open_read(q, segment);
	if (fd < 0)
		return fd;
	int rc = 0;
	if (file_read_at(fd, head, sizeof(head), offset) != (ssize_t)sizeof(head) ||
	    record_decode(record, head) != 0 || record->nonce_high != s->row.nonce_high ||
	    record->nonce_low != s->row.nonce_low || record->offset != offset)
		rc = -EBADMSG;
	buf_reset(envelope);
	unsigned char *p = rc == 0 ? buf_reserve(envelope, record->envelope_bytes + 1) : NULL;
	if (rc == 0 && (p == NULL || file_read_at(fd, p, record->envelope_bytes,
					 record->data_offset) != (ssize_t)record->envelope_bytes))
		rc = -EBADMSG;
	if (rc == 0) {
		envelope->n = record->envelope_bytes;
		if (crc32c(0, envelope->p, envelope->n) != record->envelope_crc)
			rc = -EBADMSG;
	}
	close(fd);
	return rc;
}

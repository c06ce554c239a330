/* SPDX-License-Identifier: ISC */
/*
 * Reading messages back from spool segments. This file alone knows how a message is found and
 * checked on the reading side: the head at the place that qmgr named must have the segment's nonce,
 * its own offset and the expected id, so that a stale place, a recycled file or a client's forgery
 * is never sent.
 *
 * A small message costs one pread(): head, envelope and content stand together. A streamed one has
 * its head behind its data (RECORD_CLOSE), which costs a second.
 *
 * A segment's descriptor is counted: qmgr may close the segment, or die, while a message of it is
 * still on its way; the descriptor then lives until that message is done with.
 */
#include "common/segread.h"
#include "common/file.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BUCKETS = 1024, /* power of two; segments are open by the dozen, at most by the thousand */
	WANT_MAX = 1 << 20, /* what a caller may ask to have read ahead */
};

struct segread_file {
	struct segread_file *next; /* in its bucket */
	uint64_t segment, nonce_high, nonce_low;
	int fd; /* owned */
	unsigned references;
};

struct segread {
	struct segread_file *bucket[BUCKETS];
};

struct segread *segread_new(void)
{
	return xcalloc(1, sizeof(struct segread));
}

static void file_release(struct segread_file *f)
{
	if (--f->references > 0)
		return;
	close(f->fd);
	free(f);
}

void segread_clear(struct segread *r)
{
	for (size_t i = 0; i < BUCKETS; i++)
		while (r->bucket[i]) {
			struct segread_file *f = r->bucket[i];
			r->bucket[i] = f->next;
			file_release(f);
		}
}

void segread_free(struct segread **r)
{
	if (!*r)
		return;
	segread_clear(*r);
	free(*r);
	*r = NULL;
}

static struct segread_file **find(struct segread *r, uint64_t segment)
{
	struct segread_file **f = &r->bucket[segment & (BUCKETS - 1)];
	while (*f && (*f)->segment != segment)
		f = &(*f)->next;
	return f;
}

void segread_close(struct segread *r, uint64_t segment)
{
	struct segread_file **at = find(r, segment), *f = *at;
	if (!f)
		return;
	*at = f->next;
	file_release(f);
}

void segread_open(struct segread *r, struct msg_segment_open *m)
{
	segread_close(r, m->segment); /* named again: the later descriptor counts */
	struct segread_file *f = xcalloc(1, sizeof(*f));
	f->segment = m->segment;
	f->nonce_high = m->nonce_high;
	f->nonce_low = m->nonce_low;
	f->fd = msg_take_fd(&m->fd);
	f->references = 1;
	struct segread_file **at = &r->bucket[m->segment & (BUCKETS - 1)];
	f->next = *at;
	*at = f;
}

/* Appends up to n bytes from offset; short only at the end of the file. */
static int read_more(int fd, struct buf *b, size_t n, uint64_t offset)
{
	unsigned char *to = buf_reserve(b, n);
	if (!to)
		return -EBADMSG;
	ssize_t got = file_read_at(fd, to, n, offset);
	if (got < 0)
		return (int)got;
	b->n += (size_t)got;
	return 0;
}

static bool belongs(
    const struct record *r, const struct segread_file *f, uint64_t offset, uint64_t id)
{
	return r->nonce_high == f->nonce_high && r->nonce_low == f->nonce_low &&
	       r->offset == offset && r->id == id && r->envelope_bytes <= ENVELOPE_MAX;
}

/* Where the data stands must be where its kind says; else sums would be taken over something else.
 */
static bool place_is_sound(const struct record *r)
{
	if (r->kind == RECORD_MESSAGE)
		return r->data_offset == r->offset + RECORD_HEAD;
	uint64_t data = (uint64_t)r->envelope_bytes + r->headers_bytes + r->content_bytes;
	return r->kind == RECORD_CLOSE && r->data_offset <= r->offset &&
	       data <= r->offset - r->data_offset;
}

static int read_head(
    struct message *m, const struct segread_file *f, uint64_t offset, uint64_t id, size_t want)
{
	int error = read_more(f->fd, &m->bytes, want, offset);
	if (error)
		return error;
	if (m->bytes.n < RECORD_HEAD || record_decode(&m->record, m->bytes.p) != 0)
		return -EBADMSG;
	return belongs(&m->record, f, offset, id) && place_is_sound(&m->record) ? 0 : -EBADMSG;
}

/* After this, `bytes` holds the whole envelope from *at on, and what came of the content behind it.
 */
static int read_data(struct message *m, int fd, size_t want, size_t *at)
{
	const struct record *r = &m->record;
	size_t need = r->envelope_bytes;
	if (r->kind == RECORD_CLOSE) {
		buf_reset(&m->bytes);
		*at = 0;
		return read_more(fd, &m->bytes, need > want ? need : want, r->data_offset);
	}
	*at = RECORD_HEAD;
	size_t have = m->bytes.n - RECORD_HEAD;
	return have >= need ? 0 : read_more(fd, &m->bytes, need - have, r->data_offset + have);
}

static int check_data(struct message *m, size_t at)
{
	const struct record *r = &m->record;
	if (m->bytes.n - at < r->envelope_bytes ||
	    crc32c(0, m->bytes.p + at, r->envelope_bytes) != r->envelope_crc)
		return -EBADMSG;
	m->content_at = r->data_offset + r->envelope_bytes;
	m->content_bytes = (uint64_t)r->headers_bytes + r->content_bytes;
	size_t behind = m->bytes.n - at - r->envelope_bytes;
	m->content_in = behind < m->content_bytes ? behind : (size_t)m->content_bytes;
	m->content = m->bytes.p + at + r->envelope_bytes;
	if (m->content_in == m->content_bytes &&
	    crc32c(0, m->content, m->content_in) != r->content_crc)
		return -EBADMSG;
	struct str envelope = {(const char *)m->bytes.p + at, r->envelope_bytes};
	return envelope_decode(&m->envelope, envelope);
}

int segread_message(struct segread *r, uint64_t segment, uint64_t offset, uint64_t id, size_t want,
    struct message *m)
{
	struct segread_file *f = *find(r, segment);
	if (!f)
		return -ENOENT;
	memset(m, 0, sizeof(*m));
	want = want < RECORD_HEAD ? RECORD_HEAD : want > WANT_MAX ? WANT_MAX : want;
	buf_init(&m->bytes, RECORD_HEAD + ENVELOPE_MAX + WANT_MAX);
	size_t at = 0;
	int error = read_head(m, f, offset, id, want);
	if (error == 0)
		error = read_data(m, f->fd, want, &at);
	if (error == 0)
		error = check_data(m, at);
	if (error) {
		buf_fini(&m->bytes);
		return error;
	}
	m->file = f;
	m->fd = f->fd;
	f->references++;
	return 0;
}

void message_fini(struct message *m)
{
	if (!m->file)
		return;
	envelope_fini(&m->envelope);
	buf_fini(&m->bytes);
	file_release(m->file);
	m->file = NULL;
	m->fd = -1;
}

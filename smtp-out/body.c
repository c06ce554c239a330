/* SPDX-License-Identifier: ISC */
/*
 * Content from the segment. The pread() that brought head and envelope has usually brought all of a
 * small message; of a larger one the rest goes by sendfile(), or in chunks through TLS. The last
 * few KiB are always read into memory, because the dot travels with them: a peer that has our last
 * byte but not our dot would cost another packet, and its acknowledgement's delay.
 *
 * Content ends with CRLF (smtpd's contract). Should it not, the dot would become part of the last
 * line and both ends would wait for each other: so the end is looked at, and a CRLF added.
 */
#include "smtp-out/body.h"
#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

enum {
	TAIL = 4096,		/* travels with the dot */
	SENDFILE_MAX = 1 << 20, /* a turn's share: other connections wait */
};

void body_init(struct body *b)
{
	*b = (struct body){.fd = -1};
	buf_init(&b->chunk, BODY_CHUNK + 2);
}

void body_fini(struct body *b)
{
	buf_fini(&b->chunk);
}

static int read_exactly(int fd, unsigned char *to, size_t n, uint64_t at)
{
	size_t done = 0;
	while (done < n) {
		ssize_t got = pread(fd, to + done, n - done, (off_t)(at + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		done += (size_t)got;
	}
	return 0;
}

static bool ends_line(const unsigned char *p, size_t n)
{
	return n == 0 || (n >= 2 && p[n - 2] == '\r' && p[n - 1] == '\n');
}

/* The whole message in memory: usually it is sent from where it was read to. */
static void begin_in_memory(struct body *b, const struct message *m)
{
	b->p = m->content;
	b->n = m->content_in;
	if (ends_line(b->p, b->n))
		return;
	b->chunk.max = b->n + 2;
	buf_put(&b->chunk, b->p, b->n);
	buf_put(&b->chunk, "\r\n", 2);
	b->p = b->chunk.p;
	b->n = b->chunk.n;
}

void body_begin(struct body *b, const struct message *m)
{
	buf_reset(&b->chunk);
	b->fd = m->fd;
	b->left = m->content_bytes - m->content_in;
	b->at = m->content_at + m->content_in;
	if (b->left == 0) {
		begin_in_memory(b, m);
		return;
	}
	b->p = m->content;
	b->n = m->content_in;
	if (b->left == 1 && b->n > 0) { /* the last line's end is looked at in one piece */
		b->n--;
		b->at--;
		b->left++;
	}
}

bool body_is_last(const struct body *b)
{
	return b->left == 0;
}

int body_load(struct body *b)
{
	if (b->n > 0 || b->left == 0)
		return 0;
	size_t n = b->left <= BODY_CHUNK ? (size_t)b->left : BODY_CHUNK;
	if (b->left > n && b->left - n < TAIL)
		n = (size_t)(b->left - TAIL); /* the last line's end comes in one piece */
	buf_reset(&b->chunk);
	unsigned char *to = buf_reserve(&b->chunk, n);
	int error = to ? read_exactly(b->fd, to, n, b->at) : -ENOMEM;
	if (error)
		return error;
	b->chunk.n = n;
	b->at += n;
	b->left -= n;
	if (b->left == 0 && !ends_line(b->chunk.p, n))
		buf_put(&b->chunk, "\r\n", 2);
	b->p = b->chunk.p;
	b->n = b->chunk.n;
	return 0;
}

void body_take(struct body *b, size_t n)
{
	must(n <= b->n);
	b->p += n;
	b->n -= n;
}

ssize_t body_sendfile(struct body *b, int socket)
{
	must(b->n == 0);
	if (b->left <= TAIL) {
		int error = body_load(b);
		return error;
	}
	uint64_t want = b->left - TAIL;
	off_t at = (off_t)b->at;
	ssize_t sent =
	    sendfile(socket, b->fd, &at, want < SENDFILE_MAX ? (size_t)want : SENDFILE_MAX);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (sent == 0)
		return -EIO;
	b->at += (uint64_t)sent;
	b->left -= (uint64_t)sent;
	return sent;
}

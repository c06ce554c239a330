/* SPDX-License-Identifier: ISC */
/*
 * Messages read back from a segment: in one read and in two, and every way in which a place can be
 * wrong.
 */
#include "common/segread.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

enum { SEGMENT = 9, AT = 64, WANT = 4096 };

struct place {
	struct segread *r;
	int fd;
	struct record record;
	struct buf envelope, content;
};

static void write_at(int fd, const void *p, size_t n, uint64_t at)
{
	assert_int_equal(pwrite(fd, p, n, (off_t)at), (ssize_t)n);
}

static void write_record(struct place *p)
{
	unsigned char head[RECORD_HEAD];
	record_encode(&p->record, head);
	write_at(p->fd, head, sizeof(head), p->record.offset);
	write_at(p->fd, p->envelope.p, p->envelope.n, p->record.data_offset);
	write_at(p->fd, p->content.p, p->content.n, p->record.data_offset + p->envelope.n);
}

static void open_segment(struct place *p, uint64_t nonce_low)
{
	struct msg_segment_open m = {
	    .segment = SEGMENT, .nonce_high = 1, .nonce_low = nonce_low, .fd = dup(p->fd)};
	segread_open(p->r, &m);
	assert_int_equal(m.fd, -1);
}

static void place_init(struct place *p, size_t content, size_t rcpts, bool stream)
{
	p->r = segread_new();
	p->fd = memfd_create("segment", MFD_CLOEXEC);
	buf_init(&p->envelope, 1 << 21);
	buf_init(&p->content, 1 << 24);
	envelope_put(&p->envelope, ENV_SENDER, STR("a@b.example"));
	for (size_t i = 0; i < rcpts; i++)
		envelope_put(&p->envelope, ENV_RCPT, STR("somebody@somewhere.example"));
	for (size_t i = 0; i < content; i++)
		buf_u8(&p->content, (uint8_t)(i * 31 + i / 200));
	uint64_t data = stream ? 192 : AT + RECORD_HEAD;
	uint64_t offset = stream ? record_align(data + p->envelope.n + p->content.n) : AT;
	p->record = (struct record){.kind = stream ? RECORD_CLOSE : RECORD_MESSAGE,
	    .nonce_high = 1,
	    .nonce_low = 2,
	    .offset = offset,
	    .id = RECORD_ID(SEGMENT, 3),
	    .data_offset = data,
	    .envelope_bytes = (uint32_t)p->envelope.n,
	    .headers_bytes = content > 10 ? 10 : 0,
	    .content_bytes = content > 10 ? content - 10 : content,
	    .arrived_ms = 5,
	    .envelope_crc = crc32c(0, p->envelope.p, p->envelope.n),
	    .content_crc = crc32c(0, p->content.p, p->content.n)};
	write_record(p);
	open_segment(p, 2);
}

static void place_fini(struct place *p)
{
	segread_free(&p->r);
	close(p->fd);
	buf_fini(&p->envelope);
	buf_fini(&p->content);
}

static int read_it(struct place *p, struct message *m)
{
	return segread_message(p->r, SEGMENT, p->record.offset, p->record.id, WANT, m);
}

static void test_sizes(void **state)
{
	(void)state;
	static const size_t contents[] = {0, 1, 11, 500, 3900, 4096, 5000, 100000, 3000000};
	static const size_t rcpts[] = {1, 3, 100, 20000};
	for (size_t i = 0; i < COUNT_OF(contents) * COUNT_OF(rcpts) * 2; i++) {
		size_t content = contents[i / 2 % COUNT_OF(contents)],
		       n = rcpts[i / 2 / COUNT_OF(contents)];
		struct place p;
		struct message m;
		place_init(&p, content, n, i % 2);
		assert_int_equal(read_it(&p, &m), 0);
		assert_int_equal(m.envelope.rcpt_count, n);
		assert_true(str_eq(m.envelope.sender, STR("a@b.example")));
		assert_int_equal(m.content_bytes, content);
		assert_true(m.content_in <= content);
		if (content < 3000 && n == 1)
			assert_int_equal(m.content_in, content);
		assert_memory_equal(m.content, p.content.p, m.content_in);
		unsigned char *rest = malloc(content + 1);
		assert_int_equal(pread(m.fd, rest, content, (off_t)m.content_at), (ssize_t)content);
		assert_memory_equal(rest, p.content.p, content);
		free(rest);
		message_fini(&m);
		place_fini(&p);
	}
}

static void test_wrong_places(void **state)
{
	(void)state;
	for (int stream = 0; stream < 2; stream++) {
		struct place p;
		struct message m;
		place_init(&p, 1000, 2, stream);
		uint64_t at = p.record.offset, id = p.record.id;
		assert_int_equal(segread_message(p.r, SEGMENT + 1, at, id, WANT, &m), -ENOENT);
		assert_int_equal(segread_message(p.r, SEGMENT + 1024, at, id, WANT, &m), -ENOENT);
		assert_int_equal(segread_message(p.r, SEGMENT, at + 64, id, WANT, &m), -EBADMSG);
		assert_int_equal(segread_message(p.r, SEGMENT, 1 << 30, id, WANT, &m), -EBADMSG);
		assert_true(segread_message(p.r, SEGMENT, UINT64_MAX - 5, id, WANT, &m) < 0);
		assert_int_equal(segread_message(p.r, SEGMENT, at, id + 1, WANT, &m), -EBADMSG);
		open_segment(&p, 3); /* another nonce: a file that was used again */
		assert_int_equal(segread_message(p.r, SEGMENT, at, id, WANT, &m), -EBADMSG);
		segread_close(p.r, SEGMENT);
		assert_int_equal(segread_message(p.r, SEGMENT, at, id, WANT, &m), -ENOENT);
		place_fini(&p);
	}
}

static int with_record(const struct record *changed, bool stream)
{
	struct place p;
	struct message m;
	place_init(&p, 1000, 2, stream);
	unsigned char head[RECORD_HEAD];
	record_encode(changed, head);
	write_at(p.fd, head, sizeof(head), p.record.offset);
	int error = segread_message(p.r, SEGMENT, p.record.offset, p.record.id, WANT, &m);
	if (error == 0)
		message_fini(&m);
	place_fini(&p);
	return error;
}

/* Heads with a right sum that lie: another process wrote them. */
static void test_lying_heads(void **state)
{
	(void)state;
	for (int stream = 0; stream < 2; stream++) {
		struct place p;
		place_init(&p, 1000, 2, stream);
		const struct record good = p.record;
		place_fini(&p);
		assert_int_equal(with_record(&good, stream), 0);
		struct record r = good;
		r.kind = RECORD_OPEN;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
		r = good;
		r.offset += 64;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
		r = good;
		r.envelope_bytes = ENVELOPE_MAX + 1;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
		r = good;
		r.envelope_bytes += 7;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
		r = good;
		r.content_bytes = UINT64_MAX - 100;
		assert_true(with_record(&r, stream) < 0);
		r = good;
		r.content_crc++;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
		r = good;
		r.data_offset = stream ? good.offset + 64 : good.data_offset + 64;
		assert_int_equal(with_record(&r, stream), -EBADMSG);
	}
}

/* Each byte of head, envelope and content turned: refused, or (padding) the same. */
static void test_damage(void **state)
{
	(void)state;
	struct place p;
	struct message m;
	place_init(&p, 300, 2, false);
	size_t n = RECORD_HEAD + p.envelope.n + p.content.n;
	for (size_t i = 0; i < n; i++) {
		unsigned char byte;
		assert_int_equal(pread(p.fd, &byte, 1, (off_t)(AT + i)), 1);
		byte ^= 0x10;
		write_at(p.fd, &byte, 1, AT + i);
		assert_int_equal(read_it(&p, &m), -EBADMSG);
		byte ^= 0x10;
		write_at(p.fd, &byte, 1, AT + i);
	}
	assert_int_equal(read_it(&p, &m), 0);
	message_fini(&m);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(ftruncate(p.fd, (off_t)(AT + n - 1 - i)), 0);
		int error = read_it(&p, &m);
		if (error == 0) { /* it came before its content: body.c finds the end of the file */
			assert_true(m.content_in < m.content_bytes);
			message_fini(&m);
		} else {
			assert_int_equal(error, -EBADMSG);
		}
	}
	place_fini(&p);
}

/* qmgr may close the segment, or die, while a message is on its way. */
static void test_outlives_its_segment(void **state)
{
	(void)state;
	struct place p;
	struct message a, b;
	char byte;
	place_init(&p, 100000, 1, false);
	assert_int_equal(read_it(&p, &a), 0);
	assert_int_equal(read_it(&p, &b), 0);
	int fd = a.fd;
	segread_clear(p.r);
	assert_int_equal(read_it(&p, &(struct message){0}), -ENOENT);
	assert_int_equal(pread(a.fd, &byte, 1, 100), 1);
	message_fini(&a);
	assert_int_equal(pread(b.fd, &byte, 1, 100), 1);
	message_fini(&b);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	place_fini(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sizes),
	    cmocka_unit_test(test_wrong_places),
	    cmocka_unit_test(test_lying_heads),
	    cmocka_unit_test(test_damage),
	    cmocka_unit_test(test_outlives_its_segment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

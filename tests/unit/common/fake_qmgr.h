/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * The tests' qmgr, at the other end of a writer's channel and in the same loop: makes segments as
 * files of a directory below /tmp, gives credit, and keeps what it was told. Include after
 * cmocka.h.
 */
#include "common/chan.h"
#include "common/segwrite.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAKE_TOLD_MAX = 20000 };
enum fake_kind { TOLD_WANT, TOLD_HELD, TOLD_DONE, TOLD_FAILED, TOLD_END, TOLD_ACCEPTED };
struct fake_told {
	enum fake_kind kind;
	uint64_t segment, a, b; /* WANT: size, ticket; HELD: synced, next ordinal; DONE, FAILED:
				   good; ACCEPTED: offset, end */
	struct record record;
	char *envelope; /* owned */
	size_t envelope_bytes;
};
struct fake_qmgr {
	struct loop *loop;
	struct segwriter *writer; /* borrowed */
	struct chan *ours, *theirs;
	char dir[64];
	uint64_t next_segment, limit;
	bool silent;	  /* WANT gets no answer */
	uint8_t none;	  /* WANT gets SEGMENT_NONE with this reason */
	bool full_device; /* segments are /dev/full */
	int next_fd;	  /* > 0: the next segment is this, and no file; taken */
	bool keep_credit; /* does not return a credit for each ACCEPTED */
	struct fake_told *told;
	size_t told_count, accepted;
};

static inline struct fake_told *fake_tell(
    struct fake_qmgr *q, enum fake_kind kind, uint64_t segment)
{
	struct fake_told *t = &q->told[q->told_count++];
	assert_true(q->told_count < FAKE_TOLD_MAX);
	*t = (struct fake_told){.kind = kind, .segment = segment};
	return t;
}

static inline void fake_path(const struct fake_qmgr *q, uint64_t segment, char out[128])
{
	snprintf(out, 128, "%s/%llu", q->dir, (unsigned long long)segment);
}

static inline void fake_give(struct fake_qmgr *q, uint32_t ticket)
{
	char path[128];
	fake_path(q, ++q->next_segment, path);
	int fd = q->next_fd;
	q->next_fd = 0;
	if (fd == 0)
		fd = q->full_device
			 ? open("/dev/full", O_WRONLY | O_CLOEXEC)
			 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	chan_send_segment_give(q->ours, &(struct msg_segment_give){.ticket = ticket,
					    .segment = q->next_segment,
					    .nonce_high = 7 * q->next_segment,
					    .nonce_low = 9 * q->next_segment,
					    .limit = q->limit,
					    .fd = fd});
	close(fd);
}

static inline void fake_credit(struct fake_qmgr *q, uint32_t n, uint8_t refuse)
{
	chan_send_credit(q->ours, &(struct msg_credit){.messages = n, .refuse = refuse});
}

static inline void fake_on_accepted(struct fake_qmgr *q, const struct msg_accepted *m)
{
	struct fake_told *t = fake_tell(q, TOLD_ACCEPTED, m->segment);
	t->a = m->offset;
	t->b = m->end;
	assert_int_equal(m->head.n, RECORD_HEAD);
	assert_int_equal(record_decode(&t->record, (const unsigned char *)m->head.p), 0);
	t->envelope = str_dup(m->envelope);
	t->envelope_bytes = m->envelope.n;
	q->accepted++;
	if (!q->keep_credit)
		fake_credit(q, 1, REFUSE_NONE);
}

static inline int fake_dispatch(
    void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd)
{
	struct fake_qmgr *q = ctx;
	struct msg_segment_want want;
	struct msg_segment_held held;
	struct msg_segment_done done;
	struct msg_segment_failed failed;
	struct msg_accepted accepted;
	(void)from;
	(void)fd;
	switch (type) {
	case MSG_SEGMENT_WANT:
		assert_int_equal(msg_decode_segment_want(body, &want), 0);
		fake_tell(q, TOLD_WANT, 0)->a = want.size;
		q->told[q->told_count - 1].b = want.ticket;
		if (q->none)
			chan_send_segment_none(q->ours,
			    &(struct msg_segment_none){.ticket = want.ticket, .reason = q->none});
		else if (!q->silent)
			fake_give(q, want.ticket);
		return 0;
	case MSG_SEGMENT_HELD:
		assert_int_equal(msg_decode_segment_held(body, &held), 0);
		fake_tell(q, TOLD_HELD, held.segment)->a = held.synced;
		q->told[q->told_count - 1].b = held.next_ordinal;
		return 0;
	case MSG_SEGMENT_DONE:
		assert_int_equal(msg_decode_segment_done(body, &done), 0);
		fake_tell(q, TOLD_DONE, done.segment)->a = done.good;
		return 0;
	case MSG_SEGMENT_FAILED:
		assert_int_equal(msg_decode_segment_failed(body, &failed), 0);
		fake_tell(q, TOLD_FAILED, failed.segment)->a = failed.good;
		return 0;
	case MSG_WRITER_STATE_END:
		fake_tell(q, TOLD_END, 0);
		return 0;
	case MSG_ACCEPTED:
		assert_int_equal(msg_decode_accepted(body, &accepted), 0);
		fake_on_accepted(q, &accepted);
		return 0;
	default:
		return -ENOMSG;
	}
}

static inline int fake_writer_dispatch(
    void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd)
{
	struct fake_qmgr *q = ctx;
	struct msg_segment_give give;
	struct msg_segment_none none;
	struct msg_credit credit;
	(void)from;
	switch (type) {
	case MSG_SEGMENT_GIVE:
		assert_int_equal(msg_decode_segment_give(body, &give), 0);
		give.fd = msg_take_fd(fd);
		segwriter_give(q->writer, &give);
		*fd = give.fd; /* the dispatcher closes what was not taken */
		return 0;
	case MSG_SEGMENT_NONE:
		assert_int_equal(msg_decode_segment_none(body, &none), 0);
		segwriter_none(q->writer, &none);
		return 0;
	case MSG_CREDIT:
		assert_int_equal(msg_decode_credit(body, &credit), 0);
		segwriter_credit(q->writer, &credit);
		return 0;
	default:
		return -ENOMSG;
	}
}

/* Forgets what it was told, as a new process would; the segments stay. */
static inline void fake_forget(struct fake_qmgr *q)
{
	for (size_t i = 0; i < q->told_count; i++)
		free(q->told[i].envelope);
	q->told_count = q->accepted = 0;
}

static inline void fake_attach(struct fake_qmgr *q)
{
	static msg_dispatch_fn *const ours[] = {fake_dispatch, NULL};
	static msg_dispatch_fn *const theirs[] = {fake_writer_dispatch, NULL};
	struct chan_spec a = {.peer_roles = ROLE_writer, .dispatch = ours, .ctx = q};
	struct chan_spec b = {.peer_roles = ROLE_qmgr, .dispatch = theirs, .ctx = q};
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	q->ours = chan_new(q->loop, pair[0], &a);
	q->theirs = chan_new(q->loop, pair[1], &b);
	segwriter_attach(q->writer, q->theirs);
}

static inline void fake_detach(struct fake_qmgr *q)
{
	segwriter_detach(q->writer);
	chan_free(&q->theirs);
	chan_free(&q->ours);
}

static inline void fake_init(struct fake_qmgr *q, struct loop *loop, struct segwriter *writer)
{
	*q = (struct fake_qmgr){.loop = loop, .writer = writer, .limit = 1048576};
	q->told = calloc(FAKE_TOLD_MAX, sizeof(*q->told));
	strcpy(q->dir, "/tmp/postern-test-XXXXXX");
	assert_non_null(mkdtemp(q->dir));
}

static inline void fake_fini(struct fake_qmgr *q)
{
	char path[128];
	for (uint64_t n = 1; n <= q->next_segment; n++) {
		fake_path(q, n, path);
		unlink(path);
	}
	rmdir(q->dir);
	fake_forget(q);
	free(q->told);
}

/* What was said of that kind, the k-th; NULL when there is none. */
static inline struct fake_told *fake_find(struct fake_qmgr *q, enum fake_kind kind, size_t k)
{
	for (size_t i = 0; i < q->told_count; i++)
		if (q->told[i].kind == kind && k-- == 0)
			return &q->told[i];
	return NULL;
}

static inline size_t fake_count(struct fake_qmgr *q, enum fake_kind kind)
{
	size_t n = 0;
	while (fake_find(q, kind, n))
		n++;
	return n;
}

/* Reads the record whose head stands at `offset` and checks place and sums. data: all three parts.
 */
static inline void fake_read(
    struct fake_qmgr *q, uint64_t segment, uint64_t offset, struct record *r, struct buf *data)
{
	unsigned char head[RECORD_HEAD];
	char path[128];
	fake_path(q, segment, path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, head, sizeof(head), (off_t)offset), RECORD_HEAD);
	assert_int_equal(record_decode(r, head), 0);
	assert_int_equal(r->offset, offset);
	assert_int_equal(r->nonce_high, 7 * segment);
	assert_int_equal(r->nonce_low, 9 * segment);
	assert_int_equal(RECORD_ID_SEGMENT(r->id), segment);
	size_t n = (size_t)(r->envelope_bytes + r->headers_bytes + r->content_bytes);
	buf_init(data, SIZE_MAX / 2);
	unsigned char *p = buf_reserve(data, n + 1);
	assert_int_equal(pread(fd, p, n, (off_t)r->data_offset), n);
	data->n = n;
	close(fd);
	assert_int_equal(crc32c(0, p, r->envelope_bytes), r->envelope_crc);
	assert_int_equal(crc32c(0, p + r->envelope_bytes, n - r->envelope_bytes), r->content_crc);
}

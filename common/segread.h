/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/envelope.h"
#include "common/msg.h"
#include "common/record.h"
/*
 * The reading end of the spool, for smtp-out and bouncer: the descriptors that SEGMENT_OPEN
 * brought, by segment number. A read checks magic, nonce, offset, id and the envelope's sum.
 */
struct segread;
struct segread *segread_new(void);
void segread_free(struct segread **r);
void segread_open(struct segread *r, struct msg_segment_open *m); /* takes the descriptor */
void segread_close(struct segread *r, uint64_t segment);
void segread_clear(struct segread *r); /* qmgr is gone: a new one names the segments again */

struct segread_file;
struct message { /* one message as read from its place */
	struct record record;
	int fd; /* borrowed from `file`: valid until message_fini, also after segread_close */
	struct segread_file *file; /* a reference */
	uint64_t content_at;	   /* file offset of headers and content, which are contiguous */
	uint64_t content_bytes;	   /* of both */
	struct envelope envelope;
	struct buf bytes;  /* owned: head, envelope and as much of the rest as came with the read */
	size_t content_in; /* how many of content's first bytes stand in `bytes` … */
	const unsigned char *content; /* … here */
};
/* 0, -ENOENT (segment not known here), -EBADMSG, or -errno; then there is nothing to free. Reads
 * about `want` bytes in one go. Content that came whole has had its sum checked too. */
int segread_message(struct segread *r, uint64_t segment, uint64_t offset, uint64_t id, size_t want,
    struct message *m) MUST_USE;
void message_fini(struct message *m);

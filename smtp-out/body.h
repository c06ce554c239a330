/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/segread.h"
#include <sys/types.h>
/*
 * The content of one message on its way to a peer: what is in memory, then what is in the file. It
 * is in wire form already. The caller adds the dot, and sends it with the last of these bytes.
 */
struct body {
	const unsigned char
	    *p; /* in memory and to be sent first: a view into the message or into chunk */
	size_t n;
	int fd;
	uint64_t at, left; /* in the file, behind that */
	struct buf chunk;  /* owned */
};
enum { BODY_CHUNK = 16 * 1024 };
void body_init(struct body *b);
void body_fini(struct body *b);
void body_begin(struct body *b, const struct message *m); /* m outlives the body's use */
/* All that is left is in memory. */
bool body_is_last(const struct body *b);
/* Brings the next bytes of the file into memory when there are none. 0 or -errno. */
int body_load(struct body *b) MUST_USE;
void body_take(struct body *b, size_t n); /* n bytes from memory were used */
/* From the file straight into the socket, as much as the kernel takes now; what is to travel with
 * the dot stays. Only when nothing is in memory. Bytes, 0 (not now), or -errno (-EIO: the file is
 * shorter). */
ssize_t body_sendfile(struct body *b, int socket) MUST_USE;

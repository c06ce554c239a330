/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include <stdint.h>
/*
 * What msg.def yields. Strings in a decoded struct are views into the frame: copy what must outlive
 * the handler. A decoded descriptor belongs to the dispatcher, which closes it after the handler
 * unless the handler took it (msg_take_fd).
 *
 * A frame on the wire: u32 length of what follows, u16 type, fields in order.
 */
enum { MSG_FRAME_MAX = 3 * 1048576 }; /* stops a compromised peer from making us allocate more */

enum msg_type {
	MSG_NONE = 0,
#define MSG(ID, name, from, to) MSG_##ID,
#include "common/msg_ignore_fields.h"
#include "common/msg.def"
#include "common/msg_undef.h"
	MSG_TYPE_COUNT
};

#define MSG(ID, name, from, to) struct msg_##name {
#define F_U8(f) uint8_t f;
#define F_U16(f) uint16_t f;
#define F_U32(f) uint32_t f;
#define F_U64(f) uint64_t f;
#define F_STR(f, max) struct str f;
#define F_BYTES(f, max) struct str f;
#define F_FD(f) int f;
#define END(name)                                                                                  \
	char end_;                                                                                 \
	}                                                                                          \
	;
#include "common/msg.def"
#include "common/msg_undef.h"

/* msg_encode_NAME: appends one frame to b (the descriptor travels beside it, see chan.h), whole or,
 * when b is full, not at all (b->failed). An F_BYTES longer than its bound is our bug. An F_STR may
 * hold text from far away: it is cut to its bound, and NUL, CR and LF become '?', so no text can
 * break a frame. msg_decode_NAME: 0 or -EBADMSG; the body is what follows the type. Never reads
 * past it, never exits. */
#define MSG(ID, name, from, to)                                                                    \
	void msg_encode_##name(struct buf *b, const struct msg_##name *m);                         \
	int msg_decode_##name(struct str body, struct msg_##name *m) MUST_USE;
#include "common/msg_ignore_fields.h"
#include "common/msg.def"
#include "common/msg_undef.h"

/* msg_fd_NAME: where the row keeps its descriptor; NULL for rows without one. */
#define MSG(ID, name, from, to) int *msg_fd_##name(struct msg_##name *m);
#include "common/msg_ignore_fields.h"
#include "common/msg.def"
#include "common/msg_undef.h"

/* Roles as bits: what a peer may send as, and what a process listens as. */
enum msg_role {
	ROLE_master = 1,
	ROLE_worker = 2,
	ROLE_qmgr = 4,
	ROLE_writer = 8,
	ROLE_reader = 16,
	ROLE_smtp_out = 32,
	ROLE_resolver = 64,
	ROLE_bouncer = 128,
	ROLE_any = 255
};

const char *msg_name(enum msg_type type); /* "accepted"; "unknown" outside the table */
bool msg_has_fd(enum msg_type type);
unsigned msg_sender_roles(enum msg_type type);
unsigned msg_receiver_roles(enum msg_type type);
uint64_t msg_fingerprint(void); /* of the table's text: names, order, types, bounds */
int msg_take_fd(int *fd);	/* returns it and leaves -1 behind */

/*
 * Dispatchers, one per receiving role, each in a file of its own (common/msg_to_ROLE.c), so that a
 * program links only those it has handlers for: msg_to_ROLE(ctx, chan, type, body, fd) decodes and
 * calls on_NAME(ctx, chan, &m) for each row addressed to that role. Returns 0, -ENOMSG when the row
 * is not addressed to this role, -EBADMSG when the body does not decode: then *fd is still the
 * caller's. After 0 it is -1. The handler may set m->fd = -1 (msg_take_fd) to keep the descriptor.
 * HELLO, from any to any, is the channel's own: on_hello() exists nowhere.
 */
struct chan;
typedef int msg_dispatch_fn(
    void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd);
msg_dispatch_fn msg_to_worker, msg_to_master, msg_to_qmgr, msg_to_writer, msg_to_reader,
    msg_to_smtp_out, msg_to_resolver, msg_to_bouncer;
#define MSG(ID, name, from, to)                                                                    \
	void on_##name(void *ctx, struct chan *from_chan, struct msg_##name *m);
#include "common/msg_ignore_fields.h"
#include "common/msg.def"
#include "common/msg_undef.h"

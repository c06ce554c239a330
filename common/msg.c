/* SPDX-License-Identifier: ISC */
/*
 * The codec, as the preprocessor makes it from msg.def: for each row a size, an encoder, a decoder,
 * and the facts that the channel asks for. No row has code of its own.
 *
 * On the wire: u32 length of what follows, u16 type, fields. An F_STR is u16 length and bytes, an
 * F_BYTES u32 length and bytes; numbers are big-endian; an F_FD takes no bytes at all.
 *
 * Decoding is strict: a length above the row's bound, a NUL, CR or LF in text, a missing or a
 * trailing byte, and the frame is refused. So a handler sees only what the table promises, whoever
 * sent it.
 */
#include "common/msg.h"
#include <errno.h>

enum { FRAME_LENGTH = 4, FRAME_TYPE = 2 };

/* --- the largest a row can be: known to the compiler, within what a channel takes --- */

#define MSG(ID, name, from, to) _Static_assert((size_t)FRAME_TYPE
#define F_U8(f) +1
#define F_U16(f) +2
#define F_U32(f) +4
#define F_U64(f) +8
#define F_STR(f, max) +2 + (max)
#define F_BYTES(f, max) +4 + (max)
#define F_FD(f)
#define END(name) <= MSG_FRAME_MAX, "row too large: " #name);
#include "common/msg.def"
#include "common/msg_undef.h"

#define MSG(ID, name, from, to)
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max) _Static_assert((max) <= UINT16_MAX, "F_STR too long: " #f);
#define F_BYTES(f, max)
#define F_FD(f)
#define END(name)
#include "common/msg.def"
#include "common/msg_undef.h"

/* --- encoding --- */

static size_t cut(struct str s, size_t max)
{
	return s.n < max ? s.n : max;
}

static size_t checked(struct str s, size_t max)
{
	must(s.n <= max);
	return s.n;
}

static unsigned char *put(unsigned char *to, uint64_t v, size_t bytes)
{
	for (size_t i = bytes; i > 0; i--, v >>= 8)
		to[i - 1] = (unsigned char)v;
	return to + bytes;
}

static bool breaks_text(char c)
{
	return c == '\0' || c == '\r' || c == '\n';
}

static unsigned char *put_text(unsigned char *to, struct str s, size_t max)
{
	size_t n = cut(s, max);
	to = put(to, n, 2);
	for (size_t i = 0; i < n; i++)
		to[i] = (unsigned char)(breaks_text(s.p[i]) ? '?' : s.p[i]);
	return to + n;
}

static unsigned char *put_bytes(unsigned char *to, struct str s)
{
	to = put(to, s.n, 4);
	if (s.n > 0)
		memcpy(to, s.p, s.n);
	return to + s.n;
}

#define MSG(ID, name, from, to)                                                                    \
	static size_t size_of_##name(const struct msg_##name *m)                                   \
	{                                                                                          \
		(void)m;                                                                           \
		return FRAME_TYPE
#define F_U8(f) +1
#define F_U16(f) +2
#define F_U32(f) +4
#define F_U64(f) +8
#define F_STR(f, max) +2 + cut(m->f, (max))
#define F_BYTES(f, max) +4 + checked(m->f, (max))
#define F_FD(f)
#define END(name)                                                                                  \
	;                                                                                          \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

#define MSG(ID, name, from, to)                                                                    \
	void msg_encode_##name(struct buf *b, const struct msg_##name *m)                          \
	{                                                                                          \
		size_t size = size_of_##name(m);                                                   \
		unsigned char *at = buf_reserve(b, FRAME_LENGTH + size);                           \
		if (at == NULL)                                                                    \
			return;                                                                    \
		at = put(at, size, FRAME_LENGTH);                                                  \
		at = put(at, MSG_##ID, FRAME_TYPE);
#define F_U8(f) at = put(at, m->f, 1);
#define F_U16(f) at = put(at, m->f, 2);
#define F_U32(f) at = put(at, m->f, 4);
#define F_U64(f) at = put(at, m->f, 8);
#define F_STR(f, max) at = put_text(at, m->f, (max));
#define F_BYTES(f, max) at = put_bytes(at, m->f);
#define F_FD(f)
#define END(name)                                                                                  \
	b->n = (size_t)(at - b->p);                                                                \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

/* --- decoding --- */

static struct str take_text(struct rd *r, size_t max)
{
	struct str s = rd_str16(r);
	if (s.n > max)
		r->bad = true;
	for (size_t i = 0; i < s.n; i++)
		if (breaks_text(s.p[i]))
			r->bad = true;
	return s;
}

static struct str take_bytes(struct rd *r, size_t max)
{
	struct str s = rd_str32(r);
	if (s.n > max)
		r->bad = true;
	return s;
}

#define MSG(ID, name, from, to)                                                                    \
	int msg_decode_##name(struct str body, struct msg_##name *m)                               \
	{                                                                                          \
		struct rd r = rd_of(body.p, body.n);                                               \
		*m = (struct msg_##name){0};
#define F_U8(f) m->f = rd_u8(&r);
#define F_U16(f) m->f = rd_u16(&r);
#define F_U32(f) m->f = rd_u32(&r);
#define F_U64(f) m->f = rd_u64(&r);
#define F_STR(f, max) m->f = take_text(&r, (max));
#define F_BYTES(f, max) m->f = take_bytes(&r, (max));
#define F_FD(f) m->f = -1;
#define END(name)                                                                                  \
	return r.bad || r.n > 0 ? -EBADMSG : 0;                                                    \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

/* --- facts about rows --- */

#define MSG(ID, name, from, to)                                                                    \
	int *msg_fd_##name(struct msg_##name *m)                                                   \
	{                                                                                          \
		int *fd = NULL;                                                                    \
		(void)m;
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max)
#define F_BYTES(f, max)
#define F_FD(f) fd = &m->f;
#define END(name)                                                                                  \
	return fd;                                                                                 \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

struct row {
	const char *name;
	unsigned sender_roles, receiver_roles;
	bool has_fd;
};

static const struct row rows[MSG_TYPE_COUNT] = {
#define MSG(ID, name, from, to) [MSG_##ID] = {#name, ROLE_##from, ROLE_##to, 0
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max)
#define F_BYTES(f, max)
#define F_FD(f) +1
#define END(name)                                                                                  \
	}                                                                                          \
	,
#include "common/msg.def"
#include "common/msg_undef.h"
};

static const struct row *row(enum msg_type type)
{
	static const struct row none = {.name = "unknown"};
	return (unsigned)type > MSG_NONE && (unsigned)type < MSG_TYPE_COUNT ? &rows[type] : &none;
}

const char *msg_name(enum msg_type type)
{
	return row(type)->name;
}

bool msg_has_fd(enum msg_type type)
{
	return row(type)->has_fd;
}

unsigned msg_sender_roles(enum msg_type type)
{
	return row(type)->sender_roles;
}

unsigned msg_receiver_roles(enum msg_type type)
{
	return row(type)->receiver_roles;
}

int msg_take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

/* The table as text, in order: a change of any name, type, bound or place changes the sum. */
static const char *const table_text[] = {
#define MSG(ID, name, from, to) "MSG " #ID " " #name " " #from " " #to ";",
#define F_U8(f) "u8 " #f ";",
#define F_U16(f) "u16 " #f ";",
#define F_U32(f) "u32 " #f ";",
#define F_U64(f) "u64 " #f ";",
#define F_STR(f, max) "str " #f " " #max ";",
#define F_BYTES(f, max) "bytes " #f " " #max ";",
#define F_FD(f) "fd " #f ";",
#define END(name)
#include "common/msg.def"
#include "common/msg_undef.h"
};

/* FNV-1a, 64 bits: it tells builds apart, it keeps nobody out. */
uint64_t msg_fingerprint(void)
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < COUNT_OF(table_text); i++)
		for (const char *p = table_text[i]; *p != '\0'; p++)
			sum = (sum ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
	return sum;
}

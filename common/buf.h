/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/str.h"
#include <stdint.h>
/*
 * A growing run of bytes with a sticky error. What would pass `max` is not written, and `failed`
 * stays set: write many things, check once. Numbers are big-endian on every wire and disk of ours.
 */
struct buf {
	unsigned char *p; /* owned */
	size_t n;	  /* bytes in use */
	size_t cap;
	size_t max; /* never grows past this */
	bool failed;
};
void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);
void buf_reset(struct buf *b);			     /* empty it, keep the memory, clear failed */
void buf_consume(struct buf *b, size_t n);	     /* drop n bytes from the front */
unsigned char *buf_reserve(struct buf *b, size_t n); /* room for n more, or NULL and failed */
void buf_put(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, struct str s);
void buf_cstr(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_str16(struct buf *b, struct str s); /* u16 length, then bytes; longer than 65535 fails */
void buf_str32(struct buf *b, struct str s);
void buf_set_u32(struct buf *b, size_t at, uint32_t v); /* overwrite */

/* The reading side: a cursor with a sticky error. After `bad`, everything reads as zero or empty.
 */
struct rd {
	const unsigned char *p;
	size_t n; /* left */
	bool bad;
};
static inline struct rd rd_of(const void *p, size_t n)
{
	return (struct rd){p, n, false};
}
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
struct str rd_bytes(struct rd *r, size_t n);
struct str rd_str16(struct rd *r); /* a view into the cursor's bytes */
struct str rd_str32(struct rd *r);

/* SPDX-License-Identifier: ISC */
/*
 * The two ends of every format of ours: a growing run of bytes to write, a cursor to read. Both
 * carry a sticky error, so that a codec is a plain list of fields with one check at its end. The
 * reader never looks past the bytes it was given, whatever lengths stand in them; the writer never
 * grows past `max`.
 */
#include "common/buf.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_FIRST = 256 }; /* the first allocation; afterwards it doubles */

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

void buf_fini(struct buf *b)
{
	free(b->p);
	*b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
	b->n = 0;
	b->failed = false;
}

void buf_consume(struct buf *b, size_t n)
{
	must(n <= b->n);
	b->n -= n;
	if (n > 0 && b->n > 0)
		memmove(b->p, b->p + n, b->n);
}

static void grow(struct buf *b, size_t need)
{
	size_t cap = b->cap ? b->cap : BUF_FIRST;
	while (cap < need)
		cap = cap > b->max / 2 ? b->max : cap * 2;
	if (cap > b->max)
		cap = b->max;
	b->p = xrealloc(b->p, cap);
	b->cap = cap;
}

unsigned char *buf_reserve(struct buf *b, size_t n)
{
	if (b->failed || n > b->max || b->n > b->max - n) {
		b->failed = true;
		return NULL;
	}
	if (b->p == NULL || b->n + n > b->cap)
		grow(b, b->n + n);
	return b->p + b->n;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	unsigned char *to = buf_reserve(b, n);
	if (to == NULL || n == 0)
		return;
	memcpy(to, p, n);
	b->n += n;
}

void buf_str(struct buf *b, struct str s)
{
	buf_put(b, s.p, s.n);
}

void buf_cstr(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	char small[256];
	int n = vsnprintf(small, sizeof(small), fmt, ap);
	must(n >= 0);
	if ((size_t)n < sizeof(small)) {
		buf_put(b, small, (size_t)n);
	} else {
		unsigned char *to = buf_reserve(b, (size_t)n + 1); /* and vsnprintf's NUL */
		if (to != NULL) {
			vsnprintf((char *)to, (size_t)n + 1, fmt, again);
			b->n += (size_t)n;
		}
	}
	va_end(again);
	va_end(ap);
}

static void put_number(struct buf *b, uint64_t v, size_t bytes)
{
	unsigned char *to = buf_reserve(b, bytes);
	if (to == NULL)
		return;
	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)(v >> (8 * (bytes - 1 - i)));
	b->n += bytes;
}

void buf_u8(struct buf *b, uint8_t v)
{
	put_number(b, v, 1);
}

void buf_u16(struct buf *b, uint16_t v)
{
	put_number(b, v, 2);
}

void buf_u32(struct buf *b, uint32_t v)
{
	put_number(b, v, 4);
}

void buf_u64(struct buf *b, uint64_t v)
{
	put_number(b, v, 8);
}

/* Reserves for both first: a string that does not fit leaves no length without its bytes. */
static void put_counted(struct buf *b, struct str s, size_t length_bytes, size_t longest)
{
	if (s.n > longest)
		b->failed = true;
	if (b->failed || buf_reserve(b, length_bytes + s.n) == NULL)
		return;
	put_number(b, s.n, length_bytes);
	buf_put(b, s.p, s.n);
}

void buf_str16(struct buf *b, struct str s)
{
	put_counted(b, s, 2, UINT16_MAX);
}

void buf_str32(struct buf *b, struct str s)
{
	put_counted(b, s, 4, UINT32_MAX - 4);
}

void buf_set_u32(struct buf *b, size_t at, uint32_t v)
{
	must(b->n >= 4 && at <= b->n - 4);
	for (size_t i = 0; i < 4; i++)
		b->p[at + i] = (unsigned char)(v >> (8 * (3 - i)));
}

static uint64_t take_number(struct rd *r, size_t bytes)
{
	if (r->bad || r->n < bytes) {
		r->bad = true;
		return 0;
	}
	uint64_t v = 0;
	for (size_t i = 0; i < bytes; i++)
		v = v << 8 | r->p[i];
	r->p += bytes;
	r->n -= bytes;
	return v;
}

uint8_t rd_u8(struct rd *r)
{
	return (uint8_t)take_number(r, 1);
}

uint16_t rd_u16(struct rd *r)
{
	return (uint16_t)take_number(r, 2);
}

uint32_t rd_u32(struct rd *r)
{
	return (uint32_t)take_number(r, 4);
}

uint64_t rd_u64(struct rd *r)
{
	return take_number(r, 8);
}

struct str rd_bytes(struct rd *r, size_t n)
{
	if (r->bad || r->n < n) {
		r->bad = true;
		return STR("");
	}
	struct str s = {n ? (const char *)r->p : "", n};
	if (n > 0)
		r->p += n;
	r->n -= n;
	return s;
}

struct str rd_str16(struct rd *r)
{
	return rd_bytes(r, rd_u16(r));
}

struct str rd_str32(struct rd *r)
{
	return rd_bytes(r, rd_u32(r));
}

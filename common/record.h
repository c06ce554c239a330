/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include <stdint.h>
/*
 * A record of a spool segment: a head of 128 bytes, 64-byte aligned, and its data: envelope, the
 * headers we add, the content in wire form (CRLF, dot-stuffed, without the final dot line), padded
 * with zero bytes to the next multiple of 64.
 *
 *   RECORD_MESSAGE  head, then data at offset + 128
 *   RECORD_OPEN     the first head of a segment that holds one streamed message: lengths are zero,
 * the data follow; the message is valid only with its RECORD_CLOSE    head after the data, which
 * says where they begin (data_offset); the message's place is the place of this head
 *
 * No client can forge a head inside its content: it does not know the nonce, and a head is only
 * ever looked for where the last record ended. Sums are CRC32C.
 */
enum { RECORD_HEAD = 128, RECORD_ALIGN = 64 };
enum record_kind { RECORD_MESSAGE = 1, RECORD_OPEN = 2, RECORD_CLOSE = 3 };
struct record {
	uint8_t kind;
	uint64_t nonce_high, nonce_low;
	uint64_t offset;      /* of this head in its segment */
	uint64_t id;	      /* segment number of birth << 24 | ordinal: never reused */
	uint64_t data_offset; /* where the envelope begins */
	uint32_t envelope_bytes;
	uint32_t headers_bytes;
	uint64_t content_bytes;
	uint64_t arrived_ms; /* wall clock */
	uint32_t envelope_crc;
	uint32_t content_crc; /* of headers and content */
};
#define RECORD_ID(segment, ordinal) ((uint64_t)(segment) << 24 | (uint64_t)(ordinal))
#define RECORD_ID_SEGMENT(id) ((uint64_t)(id) >> 24)
enum { RECORD_ORDINAL_MAX = (1 << 24) - 1 };

/* Sums and writes. MESSAGE: data_offset is offset + RECORD_HEAD. OPEN: all lengths are 0. CLOSE:
 * the data end at or before offset. */
void record_encode(const struct record *r, unsigned char head[RECORD_HEAD]);
/* 0, or -EBADMSG: bad magic, version, sum, reserved bytes, or lengths that overflow or contradict
 * the kind. Nonce and offset are compared with what is expected by the caller. */
int record_decode(struct record *r, const unsigned char head[RECORD_HEAD]) MUST_USE;
uint64_t record_end(
    const struct record *r); /* where the next head stands; OPEN: its data begin there */
static inline uint64_t record_align(uint64_t n)
{
	return (n + (RECORD_ALIGN - 1)) & ~(uint64_t)(RECORD_ALIGN - 1);
}
uint32_t crc32c_by_table(uint32_t crc, const void *p, size_t n); /* the portable one; same result */
uint32_t crc32c(uint32_t crc, const void *p, size_t n); /* start with 0; hardware where it is */
/* Message ids in log, accounting, control and Received: 16 lower-case hex digits. */
enum { RECORD_ID_TEXT = 17 };
void record_id_print(char out[RECORD_ID_TEXT], uint64_t id);
int record_id_parse(uint64_t *id, struct str s) MUST_USE;

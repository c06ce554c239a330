/* SPDX-License-Identifier: ISC */
/*
 * The head of a spool record and the text form of message ids. A head has one version and no
 * optional parts; whoever changes it changes VERSION, and an older build sets such records aside.
 *
 *    0 magic, version, kind, 2 reserved   40 data_offset      72 envelope_crc
 *    8 nonce (16)                         48 envelope_bytes   76 content_crc
 *   24 offset                             52 headers_bytes    80 reserved (44)
 *   32 id                                 56 content_bytes   124 crc of all before
 *                                         64 arrived_ms
 *
 * Decoding promises that data_offset plus all lengths stays below 2^62: nobody behind it has to
 * think of overflow again.
 */
#include "common/record.h"
#include "common/envelope.h"
#include <errno.h>
#include <string.h>

enum { VERSION = 1, RESERVED_FROM = 80, SUM_AT = RECORD_HEAD - 4 };
static const uint32_t magic = 0x9b50734d;	     /* a first byte that no text has, then "PsM" */
static const uint64_t place_max = UINT64_C(1) << 60; /* a file's offsets end far below */

void record_encode(const struct record *r, unsigned char head[RECORD_HEAD])
{
	struct buf b = {.p = head, .cap = RECORD_HEAD, .max = RECORD_HEAD};
	memset(head, 0, RECORD_HEAD);
	buf_u32(&b, magic);
	buf_u8(&b, VERSION);
	buf_u8(&b, r->kind);
	buf_u16(&b, 0);
	buf_u64(&b, r->nonce_high);
	buf_u64(&b, r->nonce_low);
	buf_u64(&b, r->offset);
	buf_u64(&b, r->id);
	buf_u64(&b, r->data_offset);
	buf_u32(&b, r->envelope_bytes);
	buf_u32(&b, r->headers_bytes);
	buf_u64(&b, r->content_bytes);
	buf_u64(&b, r->arrived_ms);
	buf_u32(&b, r->envelope_crc);
	buf_u32(&b, r->content_crc);
	must(b.n == RESERVED_FROM);
	b.n = SUM_AT;
	buf_u32(&b, crc32c(0, head, SUM_AT));
}

static uint64_t data_bytes(const struct record *r)
{
	return (uint64_t)r->envelope_bytes + r->headers_bytes + r->content_bytes;
}

static bool lengths_fit(const struct record *r)
{
	if (r->offset > place_max || r->data_offset > place_max || r->content_bytes > place_max)
		return false;
	if (r->offset % RECORD_ALIGN != 0 || r->envelope_bytes > ENVELOPE_MAX)
		return false;
	switch (r->kind) {
	case RECORD_MESSAGE:
		return r->data_offset == r->offset + RECORD_HEAD;
	case RECORD_OPEN:
		return data_bytes(r) == 0;
	case RECORD_CLOSE:
		return r->data_offset >= RECORD_HEAD && r->data_offset + data_bytes(r) <= r->offset;
	default:
		return false;
	}
}

static bool all_zero(const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 0)
			return false;
	return true;
}

int record_decode(struct record *r, const unsigned char head[RECORD_HEAD])
{
	struct rd in = rd_of(head, RECORD_HEAD);
	bool known = rd_u32(&in) == magic && rd_u8(&in) == VERSION;
	*r = (struct record){.kind = rd_u8(&in)};
	known = rd_u16(&in) == 0 && known;
	r->nonce_high = rd_u64(&in);
	r->nonce_low = rd_u64(&in);
	r->offset = rd_u64(&in);
	r->id = rd_u64(&in);
	r->data_offset = rd_u64(&in);
	r->envelope_bytes = rd_u32(&in);
	r->headers_bytes = rd_u32(&in);
	r->content_bytes = rd_u64(&in);
	r->arrived_ms = rd_u64(&in);
	r->envelope_crc = rd_u32(&in);
	r->content_crc = rd_u32(&in);
	struct rd sum = rd_of(head + SUM_AT, 4);
	bool whole = rd_u32(&sum) == crc32c(0, head, SUM_AT) &&
		     all_zero(head + RESERVED_FROM, SUM_AT - RESERVED_FROM);
	return known && whole && lengths_fit(r) ? 0 : -EBADMSG;
}

uint64_t record_end(const struct record *r)
{
	if (r->kind != RECORD_MESSAGE)
		return r->offset + RECORD_HEAD;
	return record_align(r->data_offset + data_bytes(r));
}

void record_id_print(char out[RECORD_ID_TEXT], uint64_t id)
{
	static const char digits[] = "0123456789abcdef";
	for (int i = RECORD_ID_TEXT - 2; i >= 0; i--, id >>= 4)
		out[i] = digits[id & 15];
	out[RECORD_ID_TEXT - 1] = '\0';
}

int record_id_parse(uint64_t *id, struct str s)
{
	uint64_t v = 0;
	if (s.n != RECORD_ID_TEXT - 1)
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		unsigned digit = c >= '0' && c <= '9'	? (unsigned)(c - '0')
				 : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
							: 16;
		if (digit > 15)
			return -EINVAL;
		v = v << 4 | digit;
	}
	*id = v;
	return 0;
}

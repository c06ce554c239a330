/* SPDX-License-Identifier: ISC */
/*
 * Codec of the index's rows. A row that does not decode is set aside by recovery; nothing here
 * trusts what it reads.
 */
#include "qmgr/row.h"
#include "common/record.h"
#include <errno.h>

enum { SUM_BYTES = 4 };

static void put_u64(unsigned char *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (unsigned char)(v >> (56 - 8 * i));
}

struct row_key row_key_number(uint64_t number)
{
	struct row_key k = {.n = 8};
	put_u64(k.bytes, number);
	return k;
}

struct row_key row_key_rcpt(uint64_t id, uint16_t rcpt)
{
	struct row_key k = {.n = 10};
	put_u64(k.bytes, id);
	k.bytes[8] = (unsigned char)(rcpt >> 8);
	k.bytes[9] = (unsigned char)rcpt;
	return k;
}

struct row_key row_key_text(const char *name)
{
	struct row_key k = {0};
	k.n = strlen(name);
	must(k.n <= sizeof(k.bytes));
	memcpy(k.bytes, name, k.n);
	return k;
}

int row_key_number_decode(struct str key, uint64_t *number)
{
	struct rd r = rd_of(key.p, key.n);
	*number = rd_u64(&r);
	return r.bad || r.n != 0 ? -EBADMSG : 0;
}

int row_key_rcpt_decode(struct str key, uint64_t *id, uint16_t *rcpt)
{
	struct rd r = rd_of(key.p, key.n);
	*id = rd_u64(&r);
	*rcpt = rd_u16(&r);
	return r.bad || r.n != 0 ? -EBADMSG : 0;
}

/* The sum over the key and what was appended since `begin`. */
static void seal(struct buf *b, size_t begin, const struct row_key *key)
{
	if (b->failed)
		return;
	uint32_t sum = crc32c(0, key->bytes, key->n);
	buf_u32(b, crc32c(sum, b->p + begin, b->n - begin));
}

/* A cursor on the fields behind the version; bad when sum or version are wrong. */
static struct rd unseal(struct str key, struct str value)
{
	struct rd bad = {.bad = true};
	if (value.n < SUM_BYTES + 1)
		return bad;
	size_t n = value.n - SUM_BYTES;
	struct rd sum = rd_of(value.p + n, SUM_BYTES);
	if (rd_u32(&sum) != crc32c(crc32c(0, key.p, key.n), value.p, n))
		return bad;
	struct rd r = rd_of(value.p, n);
	if (rd_u8(&r) != ROW_VERSION)
		return bad;
	return r;
}

static int end(const struct rd *r)
{
	return r->bad || r->n != 0 ? -EBADMSG : 0;
}

enum { BIT_IN_FLIGHT = 1 };

void row_rcpt_encode(struct buf *b, const struct row_rcpt *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_rcpt(r->id, r->rcpt);
	buf_u8(b, ROW_VERSION);
	buf_u8(b, r->flags & ROW_FLAGS);
	buf_u8(b, r->in_flight ? BIT_IN_FLIGHT : 0);
	buf_u16(b, r->attempts);
	buf_u64(b, r->segment);
	buf_u64(b, r->offset);
	buf_u32(b, r->bytes);
	buf_u64(b, (uint64_t)r->arrived_ms);
	buf_u64(b, (uint64_t)r->due_ms);
	buf_str16(b, r->domain);
	buf_str16(b, r->vmta);
	buf_str16(b, r->tenant);
	buf_str16(b, r->campaign);
	seal(b, begin, &key);
}

int row_rcpt_decode(struct str key, struct str value, struct row_rcpt *r)
{
	int rc = row_key_rcpt_decode(key, &r->id, &r->rcpt);
	struct rd rd = unseal(key, value);
	r->flags = rd_u8(&rd) & ROW_FLAGS;
	r->in_flight = (rd_u8(&rd) & BIT_IN_FLIGHT) != 0;
	r->attempts = rd_u16(&rd);
	r->segment = rd_u64(&rd);
	r->offset = rd_u64(&rd);
	r->bytes = rd_u32(&rd);
	r->arrived_ms = (int64_t)rd_u64(&rd);
	r->due_ms = (int64_t)rd_u64(&rd);
	r->domain = rd_str16(&rd);
	r->vmta = rd_str16(&rd);
	r->tenant = rd_str16(&rd);
	r->campaign = rd_str16(&rd);
	return rc < 0 ? rc : end(&rd);
}

void row_segment_encode(struct buf *b, const struct row_segment *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_number(r->number);
	buf_u8(b, ROW_VERSION);
	buf_u8(b, r->kind);
	buf_u8(b, r->sealed);
	buf_u64(b, r->nonce_high);
	buf_u64(b, r->nonce_low);
	buf_u8(b, r->process);
	buf_u16(b, r->instance);
	buf_u32(b, r->generation);
	buf_u64(b, (uint64_t)r->created_ms);
	buf_u64(b, r->mark);
	seal(b, begin, &key);
}

int row_segment_decode(struct str key, struct str value, struct row_segment *r)
{
	int rc = row_key_number_decode(key, &r->number);
	struct rd rd = unseal(key, value);
	r->kind = rd_u8(&rd);
	r->sealed = rd_u8(&rd) != 0;
	r->nonce_high = rd_u64(&rd);
	r->nonce_low = rd_u64(&rd);
	r->process = rd_u8(&rd);
	r->instance = rd_u16(&rd);
	r->generation = rd_u32(&rd);
	r->created_ms = (int64_t)rd_u64(&rd);
	r->mark = rd_u64(&rd);
	if (r->kind > SEGMENT_COMPACT)
		return -EBADMSG;
	return rc < 0 ? rc : end(&rd);
}

void row_bounce_encode(struct buf *b, const struct row_bounce *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_number(r->ticket);
	buf_u8(b, ROW_VERSION);
	buf_u64(b, r->id);
	buf_u64(b, r->segment);
	buf_u64(b, r->offset);
	buf_u32(b, r->bytes);
	buf_u8(b, r->kind);
	buf_u64(b, (uint64_t)r->arrived_ms);
	buf_u64(b, (uint64_t)r->retry_until_ms);
	buf_str32(b, r->results);
	seal(b, begin, &key);
}

int row_bounce_decode(struct str key, struct str value, struct row_bounce *r)
{
	int rc = row_key_number_decode(key, &r->ticket);
	struct rd rd = unseal(key, value);
	r->id = rd_u64(&rd);
	r->segment = rd_u64(&rd);
	r->offset = rd_u64(&rd);
	r->bytes = rd_u32(&rd);
	r->kind = rd_u8(&rd);
	r->arrived_ms = (int64_t)rd_u64(&rd);
	r->retry_until_ms = (int64_t)rd_u64(&rd);
	r->results = rd_str32(&rd);
	if (r->kind >= DSN_KIND_COUNT)
		return -EBADMSG;
	return rc < 0 ? rc : end(&rd);
}

void row_aside_encode(struct buf *b, const struct row_aside *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_number(r->id);
	buf_u8(b, ROW_VERSION);
	buf_u64(b, r->segment);
	buf_u64(b, r->offset);
	buf_u32(b, r->bytes);
	buf_str16(b, r->why);
	seal(b, begin, &key);
}

int row_aside_decode(struct str key, struct str value, struct row_aside *r)
{
	int rc = row_key_number_decode(key, &r->id);
	struct rd rd = unseal(key, value);
	r->segment = rd_u64(&rd);
	r->offset = rd_u64(&rd);
	r->bytes = rd_u32(&rd);
	r->why = rd_str16(&rd);
	return rc < 0 ? rc : end(&rd);
}

void row_meta_encode(struct buf *b, const struct row_meta *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_text(ROW_META_KEY);
	buf_u8(b, ROW_VERSION);
	buf_u64(b, r->journal_pos);
	buf_u64(b, r->log_pos);
	buf_u64(b, r->next_segment);
	buf_u64(b, (uint64_t)r->commit_ms);
	seal(b, begin, &key);
}

int row_meta_decode(struct str value, struct row_meta *r)
{
	struct row_key key = row_key_text(ROW_META_KEY);
	struct rd rd = unseal(row_key_str(&key), value);
	r->journal_pos = rd_u64(&rd);
	r->log_pos = rd_u64(&rd);
	r->next_segment = rd_u64(&rd);
	r->commit_ms = (int64_t)rd_u64(&rd);
	return end(&rd);
}

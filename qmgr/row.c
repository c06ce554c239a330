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

/* --- the name of a state -------------------------------------------------------------------------
 *
 * SipHash-2-4 under two fixed keys: names of queues and tenants come from outside, and two states
 * under one key would overwrite each other.
 */

static uint64_t rotl(uint64_t x, unsigned by)
{
	return x << by | x >> (64 - by);
}

static void sip_rounds(uint64_t v[4], unsigned n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[0] = rotl(v[0], 32);
		v[2] += v[3];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[2] = rotl(v[2], 32);
	}
}

static void sip_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_rounds(v, 2);
	v[0] ^= word;
}

uint64_t row_hash(uint64_t k0, uint64_t k1, struct str s)
{
	uint64_t v[4] = {k0 ^ 0x736f6d6570736575U, k1 ^ 0x646f72616e646f6dU,
	    k0 ^ 0x6c7967656e657261U, k1 ^ 0x7465646279746573U};
	uint64_t word = 0;
	for (size_t i = 0; i < s.n; i++) {
		word |= (uint64_t)(unsigned char)s.p[i] << (8 * (i % 8));
		if (i % 8 == 7) {
			sip_word(v, word);
			word = 0;
		}
	}
	sip_word(v, word | (uint64_t)(s.n & 0xff) << 56);
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct row_key row_key_state(struct str key)
{
	struct row_key k = {.n = 16};
	put_u64(k.bytes, row_hash(0x506f737465726e31U, 0x7374617465206b31U, key));
	put_u64(k.bytes + 8, row_hash(0x506f737465726e32U, 0x7374617465206b32U, key));
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

/* A cursor on the fields behind the version; bad when the sum is wrong or the version newer. */
static struct rd unseal_version(struct str key, struct str value, uint8_t newest, uint8_t *version)
{
	struct rd bad = {.bad = true};
	if (value.n < SUM_BYTES + 1)
		return bad;
	size_t n = value.n - SUM_BYTES;
	struct rd sum = rd_of(value.p + n, SUM_BYTES);
	if (rd_u32(&sum) != crc32c(crc32c(0, key.p, key.n), value.p, n))
		return bad;
	struct rd r = rd_of(value.p, n);
	*version = rd_u8(&r);
	return *version == 0 || *version > newest ? bad : r;
}

static struct rd unseal(struct str key, struct str value)
{
	uint8_t version;
	return unseal_version(key, value, ROW_VERSION, &version);
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
	buf_u8(b, ROW_RCPT_VERSION);
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
	buf_str16(b, r->pool);
	seal(b, begin, &key);
}

int row_rcpt_decode(struct str key, struct str value, struct row_rcpt *r)
{
	int rc = row_key_rcpt_decode(key, &r->id, &r->rcpt);
	uint8_t version = 0;
	struct rd rd = unseal_version(key, value, ROW_RCPT_VERSION, &version);
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
	r->pool = version >= 2 ? rd_str16(&rd) : STR("");
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
	buf_u8(b, r->clean);
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
	r->clean = rd.n > 0 && rd_u8(&rd) != 0; /* the first build's ends before it */
	return end(&rd);
}

void row_state_encode(struct buf *b, const struct row_state *r)
{
	size_t begin = b->n;
	struct row_key key = row_key_state(r->key);
	buf_u8(b, ROW_VERSION);
	buf_str32(b, r->key);
	buf_str32(b, r->value);
	seal(b, begin, &key);
}

int row_state_decode(struct str key, struct str value, struct row_state *r)
{
	struct rd rd = unseal(key, value);
	r->key = rd_str32(&rd);
	r->value = rd_str32(&rd);
	struct row_key own = row_key_state(r->key);
	return str_eq(key, row_key_str(&own)) ? end(&rd) : -EBADMSG;
}

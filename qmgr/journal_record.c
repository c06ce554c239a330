/* SPDX-License-Identifier: ISC */
/*
 * Encoder and decoder of the journal's records. What is read back was written by this program, but
 * possibly half, by another version, or on a failing disk: every decoder survives any bytes.
 */
#include "qmgr/journal_record.h"
#include "common/record.h"
#include <errno.h>

enum {
	SUM_AT = 4, /* of the sum in a record */
	TYPE_AT = 8,
	PAYLOAD_AT = 12, /* of the payload's length */
	ALIGN = 8,
};

static void put_u32(unsigned char *p, uint32_t v)
{
	p[0] = (unsigned char)(v >> 24);
	p[1] = (unsigned char)(v >> 16);
	p[2] = (unsigned char)(v >> 8);
	p[3] = (unsigned char)v;
}

static uint32_t get_u32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

size_t journal_record_begin(struct buf *b, enum journal_type type)
{
	size_t begin = b->n;
	unsigned char head[JOURNAL_RECORD_HEAD] = {0};
	head[TYPE_AT] = (unsigned char)type;
	buf_put(b, head, sizeof(head));
	return begin;
}

void journal_record_end(struct buf *b, size_t begin)
{
	static const unsigned char zero[ALIGN];
	if (b->failed)
		return;
	size_t payload = b->n - begin - JOURNAL_RECORD_HEAD;
	size_t over = (b->n - begin) % ALIGN;
	if (over > 0)
		buf_put(b, zero, ALIGN - over);
	buf_set_u32(b, begin, (uint32_t)(b->n - begin));
	buf_set_u32(b, begin + PAYLOAD_AT, (uint32_t)payload);
}

static uint32_t sum_of(const unsigned char *p, size_t n, uint64_t pos)
{
	unsigned char place[8];
	put_u32(place, (uint32_t)(pos >> 32));
	put_u32(place + 4, (uint32_t)pos);
	uint32_t sum = crc32c(0, place, sizeof(place));
	sum = crc32c(sum, p, SUM_AT);
	return crc32c(sum, p + TYPE_AT, n - TYPE_AT);
}

void journal_record_seal(unsigned char *p, size_t n, uint64_t pos)
{
	while (n > 0) {
		size_t bytes = get_u32(p);
		must(bytes >= JOURNAL_RECORD_HEAD && bytes <= n);
		put_u32(p + SUM_AT, sum_of(p, bytes, pos));
		p += bytes;
		n -= bytes;
		pos += bytes;
	}
}

int journal_record_take(struct str *bytes, uint64_t *pos, struct journal_record *r)
{
	const unsigned char *p = (const unsigned char *)bytes->p;
	if (bytes->n < JOURNAL_RECORD_HEAD)
		return 0;
	size_t all = get_u32(p), payload = get_u32(p + PAYLOAD_AT);
	if (all == 0)
		return 0;
	if (all < JOURNAL_RECORD_HEAD || all > JOURNAL_RECORD_MAX || all > bytes->n ||
	    all % ALIGN != 0)
		return -EBADMSG;
	if (payload > all - JOURNAL_RECORD_HEAD || get_u32(p + SUM_AT) != sum_of(p, all, *pos))
		return -EBADMSG;
	r->type = (enum journal_type)p[TYPE_AT];
	r->pos = *pos;
	r->payload = (struct str){bytes->p + JOURNAL_RECORD_HEAD, payload};
	bytes->p += all;
	bytes->n -= all;
	*pos += all;
	return 1;
}

static struct rd payload_rd(struct str payload)
{
	return rd_of(payload.p, payload.n);
}

static int payload_end(const struct rd *r)
{
	return r->bad ? -EBADMSG : 0; /* more bytes than known: a newer version's fields */
}

void j_start_encode(struct buf *b, const struct j_start *r)
{
	size_t at = journal_record_begin(b, J_START);
	buf_u64(b, r->wall_ms);
	journal_record_end(b, at);
}

int j_start_decode(struct str payload, struct j_start *r)
{
	struct rd rd = payload_rd(payload);
	r->wall_ms = rd_u64(&rd);
	return payload_end(&rd);
}

void j_intent_encode(struct buf *b, const struct j_intent *r)
{
	size_t at = journal_record_begin(b, J_INTENT);
	buf_u64(b, r->transaction);
	buf_u64(b, r->id);
	buf_str32(b, r->ordinals);
	journal_record_end(b, at);
}

int j_intent_decode(struct str payload, struct j_intent *r)
{
	struct rd rd = payload_rd(payload);
	r->transaction = rd_u64(&rd);
	r->id = rd_u64(&rd);
	r->ordinals = rd_str32(&rd);
	return r->ordinals.n % 2 != 0 ? -EBADMSG : payload_end(&rd);
}

void j_changed_encode(struct buf *b, const struct j_changed *r)
{
	size_t at = journal_record_begin(b, J_CHANGED);
	buf_u64(b, r->id);
	buf_u16(b, r->rcpt);
	buf_u16(b, r->attempts);
	buf_u8(b, r->flags);
	buf_u64(b, r->due_ms);
	buf_str16(b, r->vmta);
	buf_str16(b, r->pool);
	journal_record_end(b, at);
}

int j_changed_decode(struct str payload, struct j_changed *r)
{
	struct rd rd = payload_rd(payload);
	r->id = rd_u64(&rd);
	r->rcpt = rd_u16(&rd);
	r->attempts = rd_u16(&rd);
	r->flags = rd_u8(&rd);
	r->due_ms = rd_u64(&rd);
	r->has_place = rd.n > 0; /* older records end here */
	r->vmta = r->pool = STR("");
	if (r->has_place) {
		r->vmta = rd_str16(&rd);
		r->pool = rd_str16(&rd);
	}
	return payload_end(&rd);
}

void j_received_encode(struct buf *b, const struct j_received *r)
{
	size_t at = journal_record_begin(b, J_RECEIVED);
	buf_u64(b, r->id);
	buf_u64(b, r->wall_ms);
	buf_u64(b, r->arrived_ms);
	buf_u64(b, r->segment);
	buf_u64(b, r->offset);
	buf_u64(b, r->bytes);
	buf_u32(b, r->rcpt_count);
	buf_str16(b, r->sender);
	buf_str16(b, r->envid);
	buf_str16(b, r->vmta);
	buf_str16(b, r->tenant);
	buf_str16(b, r->campaign);
	buf_str16(b, r->client);
	buf_str16(b, r->helo);
	buf_str32(b, r->rcpts);
	journal_record_end(b, at);
}

int j_received_decode(struct str payload, struct j_received *r)
{
	struct rd rd = payload_rd(payload);
	r->id = rd_u64(&rd);
	r->wall_ms = rd_u64(&rd);
	r->arrived_ms = rd_u64(&rd);
	r->segment = rd_u64(&rd);
	r->offset = rd_u64(&rd);
	r->bytes = rd_u64(&rd);
	r->rcpt_count = rd_u32(&rd);
	r->sender = rd_str16(&rd);
	r->envid = rd_str16(&rd);
	r->vmta = rd_str16(&rd);
	r->tenant = rd_str16(&rd);
	r->campaign = rd_str16(&rd);
	r->client = rd_str16(&rd);
	r->helo = rd_str16(&rd);
	r->rcpts = rd_str32(&rd);
	return payload_end(&rd);
}

void j_removed_encode(struct buf *b, const struct j_removed *r)
{
	size_t at = journal_record_begin(b, J_REMOVED);
	buf_u64(b, r->id);
	buf_u64(b, r->wall_ms);
	buf_str16(b, r->why);
	journal_record_end(b, at);
}

int j_removed_decode(struct str payload, struct j_removed *r)
{
	struct rd rd = payload_rd(payload);
	r->id = rd_u64(&rd);
	r->wall_ms = rd_u64(&rd);
	r->why = rd_str16(&rd);
	return payload_end(&rd);
}

void j_reported_encode(struct buf *b, const struct j_reported *r)
{
	size_t at = journal_record_begin(b, J_REPORTED);
	buf_u64(b, r->cause_id);
	buf_u64(b, r->id);
	buf_u64(b, r->ticket);
	buf_u64(b, r->wall_ms);
	buf_u8(b, r->kind);
	journal_record_end(b, at);
}

int j_reported_decode(struct str payload, struct j_reported *r)
{
	struct rd rd = payload_rd(payload);
	r->cause_id = rd_u64(&rd);
	r->id = rd_u64(&rd);
	r->ticket = rd_u64(&rd);
	r->wall_ms = rd_u64(&rd);
	r->kind = rd_u8(&rd);
	return payload_end(&rd);
}

void j_settled_encode(struct buf *b, const struct j_settled *r)
{
	size_t at = journal_record_begin(b, J_SETTLED);
	buf_u64(b, r->id);
	buf_u64(b, r->ticket);
	buf_u64(b, r->wall_ms);
	buf_str16(b, r->why);
	journal_record_end(b, at);
}

int j_settled_decode(struct str payload, struct j_settled *r)
{
	struct rd rd = payload_rd(payload);
	r->id = rd_u64(&rd);
	r->ticket = rd_u64(&rd);
	r->wall_ms = rd_u64(&rd);
	r->why = rd_str16(&rd);
	return payload_end(&rd);
}

static void queue_texts(struct j_queue *r, struct str *out[6])
{
	struct str *all[] = {&r->queue, &r->vmta, &r->domain, &r->relay, &r->source, &r->text};
	memcpy(out, all, sizeof(all));
}

void j_queue_encode(struct buf *b, const struct j_queue *r)
{
	struct j_queue copy = *r;
	struct str *texts[6];
	queue_texts(&copy, texts);
	size_t at = journal_record_begin(b, J_QUEUE);
	buf_u64(b, r->wall_ms);
	buf_u16(b, r->code);
	buf_u8(b, r->stage);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		buf_str16(b, *texts[i]);
	journal_record_end(b, at);
}

int j_queue_decode(struct str payload, struct j_queue *r)
{
	struct rd rd = payload_rd(payload);
	struct str *texts[6];
	queue_texts(r, texts);
	r->wall_ms = rd_u64(&rd);
	r->code = rd_u16(&rd);
	r->stage = rd_u8(&rd);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		*texts[i] = rd_str16(&rd);
	return payload_end(&rd);
}

void j_next_encode(struct buf *b)
{
	journal_record_end(b, journal_record_begin(b, J_NEXT));
}

void j_state_encode(struct buf *b, const struct j_state *r)
{
	size_t at = journal_record_begin(b, J_STATE);
	buf_u8(b, r->gone);
	buf_str32(b, r->key);
	buf_str32(b, r->value);
	journal_record_end(b, at);
}

int j_state_decode(struct str payload, struct j_state *r)
{
	struct rd rd = payload_rd(payload);
	r->gone = rd_u8(&rd) != 0;
	r->key = rd_str32(&rd);
	r->value = rd_str32(&rd);
	return payload_end(&rd);
}

static void event_texts(struct j_event *r, struct str *out[7])
{
	struct str *all[] = {&r->scope, &r->from, &r->to, &r->text, &r->rule, &r->who, &r->notify};
	memcpy(out, all, sizeof(all));
}

void j_event_encode(struct buf *b, const struct j_event *r)
{
	struct j_event copy = *r;
	struct str *texts[7];
	event_texts(&copy, texts);
	size_t at = journal_record_begin(b, J_EVENT);
	buf_u64(b, r->wall_ms);
	buf_u64(b, r->ticket);
	buf_u64(b, r->until_wall_ms);
	buf_u8(b, r->kind);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		buf_str32(b, *texts[i]);
	journal_record_end(b, at);
}

int j_event_decode(struct str payload, struct j_event *r)
{
	struct rd rd = payload_rd(payload);
	struct str *texts[7];
	event_texts(r, texts);
	r->wall_ms = rd_u64(&rd);
	r->ticket = rd_u64(&rd);
	r->until_wall_ms = rd_u64(&rd);
	r->kind = rd_u8(&rd);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		*texts[i] = rd_str32(&rd);
	return r->kind >= EVENT_KINDS ? -EBADMSG : payload_end(&rd);
}

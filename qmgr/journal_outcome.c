/* SPDX-License-Identifier: ISC */
/*
 * The journal's record of an outcome, which has a list of recipients in it. What they share (the
 * reply, the place, the rule) is written where it changes, so that a transaction of a thousand
 * recipients with one reply costs little more than their numbers.
 *
 * Fields were added behind the first build's: pool and mode at the record's end, bits for place and
 * rule with a recipient. Its records are read still, with those fields empty.
 */
#include "qmgr/journal_record.h"
#include <errno.h>

enum { RCPTS_MAX = JOURNAL_RECORD_MAX - 65536 /* the common fields fit beside them */ };
enum {
	BIT_PAST_DOT = 1,
	BIT_RELAYED = 2,
	BIT_SAME_TEXT = 4,
	BIT_QUEUE = 8, /* the first build's: only a queue */
	BIT_PLACE = 16,
	BIT_RULE = 32,
};

static void put_place(struct buf *b, const struct j_place *p)
{
	buf_str16(b, p->queue);
	if (p->queue.n == 0)
		return; /* the record's */
	buf_str16(b, p->vmta);
	buf_str16(b, p->pool);
	buf_str16(b, p->mode);
}

static struct j_place take_place(struct rd *rd)
{
	struct j_place p = {.queue = rd_str16(rd)};
	if (p.queue.n == 0)
		return p;
	p.vmta = rd_str16(rd);
	p.pool = rd_str16(rd);
	p.mode = rd_str16(rd);
	return p;
}

static bool place_eq(const struct j_place *a, const struct j_place *b)
{
	return str_eq(a->queue, b->queue) && str_eq(a->vmta, b->vmta) && str_eq(a->pool, b->pool) &&
	       str_eq(a->mode, b->mode);
}

/* Is it that of the recipient before, or for the first one the record's? */
static bool same_place(const struct j_rcpts *r, const struct j_place *place)
{
	struct j_place last = {0};
	if (r->place_n > 0) {
		struct rd rd = rd_of(r->b.p + r->place_at, r->place_n);
		last = take_place(&rd);
	}
	return last.queue.n == 0 ? place->queue.n == 0 : place_eq(&last, place);
}

static bool same_bytes(const struct j_rcpts *r, size_t at, size_t n, struct str s)
{
	return n == s.n && (n == 0 || memcmp(r->b.p + at, s.p, n) == 0);
}

void j_rcpts_init(struct j_rcpts *r)
{
	*r = (struct j_rcpts){0};
	buf_init(&r->b, RCPTS_MAX);
}

void j_rcpts_fini(struct j_rcpts *r)
{
	buf_fini(&r->b);
}

void j_rcpts_reset(struct j_rcpts *r)
{
	buf_reset(&r->b);
	r->count = 0;
	r->text_n = r->place_n = r->rule_n = 0;
}

void j_rcpts_put(struct j_rcpts *r, const struct j_rcpt *rcpt)
{
	const struct rcpt_result *result = &rcpt->result;
	bool same_text = r->text_n > 0 && same_bytes(r, r->text_at, r->text_n, result->text);
	bool moves = !same_place(r, &rcpt->place);
	bool other_rule = !same_bytes(r, r->rule_at, r->rule_n, rcpt->rule);
	buf_u16(&r->b, result->ordinal);
	buf_u8(&r->b, rcpt->outcome);
	buf_u8(&r->b, rcpt->flags);
	buf_u8(&r->b, rcpt->report);
	buf_u16(&r->b, rcpt->attempts);
	buf_u64(&r->b, rcpt->due_ms);
	buf_u16(&r->b, result->code);
	buf_u8(&r->b, result->verdict);
	buf_u8(&r->b, result->stage);
	buf_u8(&r->b, result->notify);
	buf_u8(
	    &r->b, (uint8_t)((result->past_dot ? BIT_PAST_DOT : 0) |
			     (result->relayed ? BIT_RELAYED : 0) | (same_text ? BIT_SAME_TEXT : 0) |
			     (moves ? BIT_PLACE : 0) | (other_rule ? BIT_RULE : 0)));
	buf_str16(&r->b, result->status);
	buf_str16(&r->b, result->said_by);
	buf_str16(&r->b, result->address);
	buf_str16(&r->b, result->orcpt);
	if (!same_text) {
		buf_str16(&r->b, result->text);
		r->text_n = result->text.n;
		r->text_at = r->b.n - r->text_n;
	}
	if (moves) {
		r->place_at = r->b.n;
		put_place(&r->b, &rcpt->place);
		r->place_n = r->b.n - r->place_at;
	}
	if (other_rule) {
		buf_str16(&r->b, rcpt->rule);
		r->rule_n = rcpt->rule.n;
		r->rule_at = r->b.n - r->rule_n;
	}
	r->count++;
}

/* The texts that the first build knew, in their order. */
static void old_texts(struct j_outcome *r, struct str *out[9])
{
	struct str *all[] = {&r->sender, &r->envid, &r->relay, &r->source, &r->esmtp,
	    &r->place.queue, &r->place.vmta, &r->tenant, &r->campaign};
	memcpy(out, all, sizeof(all));
}

void j_outcome_encode(struct buf *b, const struct j_outcome *r, const struct j_rcpts *rcpts)
{
	struct j_outcome copy = *r;
	struct str *texts[9];
	old_texts(&copy, texts);
	size_t at = journal_record_begin(b, J_OUTCOME);
	buf_u64(b, r->id);
	buf_u64(b, r->transaction);
	buf_u64(b, r->wall_ms);
	buf_u64(b, r->arrived_ms);
	buf_u64(b, r->segment);
	buf_u64(b, r->offset);
	buf_u64(b, r->ticket);
	buf_u64(b, r->retry_until_ms);
	buf_u32(b, r->bytes);
	buf_u32(b, r->connect_ms);
	buf_u32(b, r->transmit_ms);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		buf_str16(b, *texts[i]);
	buf_u16(b, rcpts->count);
	buf_str32(b, (struct str){(const char *)rcpts->b.p, rcpts->b.n});
	buf_str16(b, r->place.pool);
	buf_str16(b, r->place.mode);
	journal_record_end(b, at);
}

int j_outcome_decode(struct str payload, struct j_outcome *r)
{
	struct rd rd = rd_of(payload.p, payload.n);
	struct str *texts[9];
	*r = (struct j_outcome){0};
	old_texts(r, texts);
	r->id = rd_u64(&rd);
	r->transaction = rd_u64(&rd);
	r->wall_ms = rd_u64(&rd);
	r->arrived_ms = rd_u64(&rd);
	r->segment = rd_u64(&rd);
	r->offset = rd_u64(&rd);
	r->ticket = rd_u64(&rd);
	r->retry_until_ms = rd_u64(&rd);
	r->bytes = rd_u32(&rd);
	r->connect_ms = rd_u32(&rd);
	r->transmit_ms = rd_u32(&rd);
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		*texts[i] = rd_str16(&rd);
	r->rcpt_count = rd_u16(&rd);
	r->rcpts = rd_str32(&rd);
	r->has_place = rd.n > 0;
	r->place.pool = r->place.mode = STR("");
	if (r->has_place) {
		r->place.pool = rd_str16(&rd);
		r->place.mode = rd_str16(&rd);
	}
	return rd.bad ? -EBADMSG : 0;
}

struct j_rcpt_reader j_rcpt_reader(const struct j_outcome *r)
{
	return (struct j_rcpt_reader){.rd = rd_of(r->rcpts.p, r->rcpts.n),
	    .text = STR(""),
	    .rule = STR(""),
	    .record_place = r->place,
	    .place = r->place};
}

/* What stands behind a recipient's own fields, where it is not as before. */
static void take_shared(struct j_rcpt_reader *reader, uint8_t bits)
{
	struct rd *rd = &reader->rd;
	if ((bits & BIT_SAME_TEXT) == 0)
		reader->text = rd_str16(rd);
	if ((bits & BIT_QUEUE) != 0) {
		reader->place = reader->record_place;
		struct str queue = rd_str16(rd);
		if (queue.n > 0)
			reader->place.queue = queue;
	}
	if ((bits & BIT_PLACE) != 0) {
		reader->place = take_place(rd);
		if (reader->place.queue.n == 0)
			reader->place = reader->record_place;
	}
	if ((bits & BIT_RULE) != 0)
		reader->rule = rd_str16(rd);
}

int j_rcpt_take(struct j_rcpt_reader *reader, struct j_rcpt *out)
{
	struct rd *rd = &reader->rd;
	if (rd->n == 0)
		return 0;
	struct rcpt_result *result = &out->result;
	result->ordinal = rd_u16(rd);
	out->outcome = rd_u8(rd);
	out->flags = rd_u8(rd);
	out->report = rd_u8(rd);
	out->attempts = rd_u16(rd);
	out->due_ms = rd_u64(rd);
	result->code = rd_u16(rd);
	result->verdict = rd_u8(rd);
	result->stage = rd_u8(rd);
	result->notify = rd_u8(rd);
	uint8_t bits = rd_u8(rd);
	result->past_dot = (bits & BIT_PAST_DOT) != 0;
	result->relayed = (bits & BIT_RELAYED) != 0;
	result->status = rd_str16(rd);
	result->said_by = rd_str16(rd);
	result->address = rd_str16(rd);
	result->orcpt = rd_str16(rd);
	take_shared(reader, bits);
	result->text = reader->text;
	out->place = reader->place;
	out->rule = reader->rule;
	return rd->bad ? -EBADMSG : 1;
}

/* SPDX-License-Identifier: ISC */
/*
 * The outcome of recipients, as RESULT and BOUNCE carry it. Replies are remote text: the writer
 * makes one bounded line of them, and the reader, which does not trust the writer, refuses anything
 * else.
 */
#include "common/result.h"
#include "common/envelope.h"
#include <errno.h>

enum { FLAG_PAST_DOT = 1, FLAG_RELAYED = 2, CODE_MAX = 599 };

static bool is_control(char c)
{
	return (unsigned char)c < ' ' || c == 0x7f;
}

static void put_text(struct buf *b, struct str s, size_t max)
{
	size_t n = s.n < max ? s.n : max;
	unsigned char *to = buf_reserve(b, 2 + n);
	if (to == NULL)
		return;
	buf_u16(b, (uint16_t)n);
	for (size_t i = 0; i < n; i++)
		to[2 + i] = (unsigned char)(is_control(s.p[i]) ? '?' : s.p[i]);
	b->n += n;
}

static struct str take_text(struct rd *r, size_t max)
{
	struct str s = rd_str16(r);
	if (s.n > max)
		r->bad = true;
	for (size_t i = 0; i < s.n; i++)
		if (is_control(s.p[i]))
			r->bad = true;
	return s;
}

void result_put(struct buf *b, const struct rcpt_result *r)
{
	buf_u16(b, r->ordinal);
	buf_u8(b, r->verdict);
	buf_u8(b, r->stage);
	buf_u8(b, (uint8_t)((r->past_dot ? FLAG_PAST_DOT : 0) | (r->relayed ? FLAG_RELAYED : 0)));
	buf_u8(b, r->notify);
	buf_u16(b, r->code);
	put_text(b, r->status, RESULT_STATUS_MAX);
	put_text(b, r->text, REPLY_TEXT_MAX);
	put_text(b, r->said_by, RESULT_NAME_MAX);
	put_text(b, r->address, RESULT_ADDRESS_MAX);
	put_text(b, r->orcpt, RESULT_ADDRESS_MAX);
}

int result_take(struct rd *r, struct rcpt_result *out)
{
	if (r->n == 0 && !r->bad)
		return 0;
	*out = (struct rcpt_result){.ordinal = rd_u16(r)};
	out->verdict = rd_u8(r);
	out->stage = rd_u8(r);
	uint8_t flags = rd_u8(r);
	out->past_dot = (flags & FLAG_PAST_DOT) != 0;
	out->relayed = (flags & FLAG_RELAYED) != 0;
	out->notify = rd_u8(r);
	out->code = rd_u16(r);
	out->status = take_text(r, RESULT_STATUS_MAX);
	out->text = take_text(r, REPLY_TEXT_MAX);
	out->said_by = take_text(r, RESULT_NAME_MAX);
	out->address = take_text(r, RESULT_ADDRESS_MAX);
	out->orcpt = take_text(r, RESULT_ADDRESS_MAX);
	const uint8_t notify_all = NOTIFY_NEVER | NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;
	if (out->verdict >= VERDICT_COUNT || out->stage >= STAGE_COUNT || out->code > CODE_MAX ||
	    flags > (FLAG_PAST_DOT | FLAG_RELAYED) || out->notify > notify_all)
		r->bad = true;
	return r->bad ? -EBADMSG : 1;
}

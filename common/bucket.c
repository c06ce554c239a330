/* SPDX-License-Identifier: ISC */
/*
 * Token buckets, exact in integers. A level is counted in parts of a token: one part is what comes
 * in a millisecond divided by the rate's numerator, so that `n` tokens every `per_ms` are `n` parts
 * a millisecond, and a token is `per_ms` parts. Nothing is rounded, whatever the rate and however
 * often it is asked: in any window of k * T at most k * N + B tokens are taken.
 *
 * A level may be below nothing (a data volume is overdrawn by one message); it then takes as much
 * longer. Another rate keeps the tokens and never adds any.
 */
#include "common/bucket.h"
#include <errno.h>

static level_t full_of(const struct rate *r)
{
	return (level_t)(r->burst ? r->burst : 1) * r->per_ms;
}

/* Full; or, with a time since when nothing may be taken for granted, as if it had been empty then.
 */
void bucket_init(struct bucket *b, const struct rate *rate, int64_t empty_ms, int64_t now)
{
	*b = (struct bucket){.rate = *rate, .level = full_of(rate), .at_ms = now};
	if (empty_ms == INT64_MAX)
		return;
	b->level = 0;
	b->at_ms = empty_ms < now ? empty_ms : now;
	bucket_fill(b, now);
}

static level_t level_at(const struct bucket *b, int64_t at)
{
	level_t full = full_of(&b->rate), level = b->level;

	if (at > b->at_ms)
		level += (level_t)(at - b->at_ms) * (level_t)b->rate.n;
	return level < full ? level : full;
}

void bucket_fill(struct bucket *b, int64_t now)
{
	b->level = level_at(b, now);
	if (now > b->at_ms)
		b->at_ms = now;
}

uint64_t bucket_tokens(const struct bucket *b, int64_t at)
{
	level_t level = level_at(b, at);

	return level <= 0 ? 0 : (uint64_t)(level / b->rate.per_ms);
}

void bucket_take(struct bucket *b, uint64_t tokens, int64_t now)
{
	bucket_fill(b, now);
	b->level -= (level_t)tokens * b->rate.per_ms;
}

/* When that many are there, if nobody takes any: not before `now`. */
int64_t bucket_when(const struct bucket *b, uint64_t tokens, int64_t now)
{
	level_t want = (level_t)tokens * b->rate.per_ms, missing = want - level_at(b, now), ms;

	if (missing <= 0)
		return now;
	if (want > full_of(&b->rate))
		return INT64_MAX;
	ms = (missing + (level_t)b->rate.n - 1) / (level_t)b->rate.n;
	return ms < INT64_MAX - now ? now + (int64_t)ms : INT64_MAX;
}

int64_t bucket_full_ms(const struct bucket *b, int64_t now)
{
	return bucket_when(b, b->rate.burst ? b->rate.burst : 1, now);
}

/* The tokens stay, cut to what the new one holds. */
void bucket_change(struct bucket *b, const struct rate *rate, int64_t now)
{
	level_t whole, rest, full = full_of(rate);

	bucket_fill(b, now);
	whole = b->level / b->rate.per_ms;
	rest = b->level % b->rate.per_ms;
	if (rest < 0) { /* towards less */
		rest += b->rate.per_ms;
		whole--;
	}
	b->level = whole * rate->per_ms + rest * rate->per_ms / b->rate.per_ms;
	b->rate = *rate;
	if (b->level > full)
		b->level = full;
}

/* ---- kept over a restart ---- */

void bucket_encode(const struct bucket *b, struct buf *out)
{
	buf_u64(out, b->rate.n);
	buf_u64(out, b->rate.burst);
	buf_u64(out, (uint64_t)b->rate.per_ms);
	buf_u64(out, (uint64_t)b->at_ms);
	buf_u64(out, (uint64_t)(b->level >> 64));
	buf_u64(out, (uint64_t)b->level);
}

int bucket_decode(struct bucket *b, struct rd *in)
{
	uint64_t high;

	b->rate.n = rd_u64(in);
	b->rate.burst = rd_u64(in);
	b->rate.per_ms = (int64_t)rd_u64(in);
	b->at_ms = (int64_t)rd_u64(in);
	high = rd_u64(in);
	b->level = (level_t)((ulevel_t)high << 64 | rd_u64(in));
	if (in->bad || in->n || b->rate.n == 0 || b->rate.n > BUCKET_MOST ||
	    b->rate.burst > BUCKET_MOST || b->rate.per_ms <= 0 ||
	    b->rate.per_ms > (int64_t)BUCKET_MOST || b->at_ms < 0 ||
	    b->at_ms > (int64_t)BUCKET_MOST * 16 || b->level > full_of(&b->rate) ||
	    b->level < -((level_t)BUCKET_MOST * BUCKET_MOST))
		return -EBADMSG;
	return 0;
}

/* ---- rates ---- */

struct rate rate_read(const struct conf_value *v)
{
	if (v->num <= 0 || v->count < 2)
		return (struct rate){0, 0, 0};
	return (struct rate){(uint64_t)v->num, (uint64_t)v->nums[1], v->nums[0]};
}

bool rate_slower(const struct rate *a, const struct rate *b)
{
	ulevel_t left = (ulevel_t)a->n * (uint64_t)b->per_ms,
		 right = (ulevel_t)b->n * (uint64_t)a->per_ms;

	return left != right ? left < right : a->burst < b->burst;
}

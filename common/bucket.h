/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/conf.h"
#include <stdint.h>
/*
 * Token buckets, exact in integers and pure: the time is an argument, in ms of whatever clock the
 * caller keeps to.
 */
struct rate { /* n tokens every per_ms, at most burst at once; n 0: unlimited */
	uint64_t n, burst;
	int64_t per_ms;
};
__extension__ typedef __int128 level_t;
__extension__ typedef unsigned __int128 ulevel_t;
#define BUCKET_MOST (UINT64_C(1) << 44) /* of a number in a kept bucket: products stay exact */
struct bucket {
	struct rate rate;
	level_t level; /* in parts of a token */
	int64_t at_ms;
};
/* Full; or as if it had been empty at empty_ms (INT64_MAX: full). */
void bucket_init(struct bucket *b, const struct rate *rate, int64_t empty_ms, int64_t now);
void bucket_fill(struct bucket *b, int64_t now);
uint64_t bucket_tokens(const struct bucket *b, int64_t at);
void bucket_take(struct bucket *b, uint64_t tokens, int64_t now);
/* When that many are there, if nobody takes any; INT64_MAX: never, it does not hold so many. */
int64_t bucket_when(const struct bucket *b, uint64_t tokens, int64_t now);
int64_t bucket_full_ms(const struct bucket *b, int64_t now);
void bucket_change(struct bucket *b, const struct rate *rate, int64_t now);
void bucket_encode(const struct bucket *b, struct buf *out);
int bucket_decode(struct bucket *b, struct rd *in) MUST_USE;
struct rate rate_read(const struct conf_value *v); /* n 0: unlimited */
bool rate_slower(const struct rate *a, const struct rate *b);

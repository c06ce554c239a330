/* SPDX-License-Identifier: ISC */
#pragma once
#include "smtpd/tenants.h"
/*
 * How much mail a tenant may bring: messages, recipients and bytes by time, each a token bucket of
 * this process. Pure: the time is an argument. A bucket belongs to the tenant's name, so a reload
 * changes its rate and not what was taken; one that is full again is forgotten.
 */
struct rates;
struct rates *rates_new(void);
void rates_free(struct rates **r);
/* What stands against that much now: the limit that is short, or IN_RATES. A message may take more
 * than a bucket ever holds: then a full one is enough, and it is overdrawn. Bytes are taken so
 * always: with a token there the message may come, whatever its size. */
enum in_rate rates_check(
    struct rates *r, const struct tenant *t, uint64_t messages, uint64_t rcpts, int64_t now);
void rates_take(
    struct rates *r, const struct tenant *t, uint64_t rcpts, uint64_t bytes, int64_t now);
size_t rates_count(const struct rates *r); /* tenants with a bucket that is not known to be full */

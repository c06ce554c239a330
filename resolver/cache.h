/* SPDX-License-Identifier: ISC */
#pragma once
#include "resolver/answer.h"
#include "resolver/table.h"
/*
 * Answers by name and type until their time is over; least recently used ones leave first. Time is
 * an argument.
 */
enum {
	CACHE_TTL_FLOOR_S = 5,	    /* TTL 0 must not make a storm of questions */
	CACHE_TTL_CEILING_S = 3600, /* a moved MX is seen within the hour */
	CACHE_NEGATIVE_CEILING_S = 900,
	CACHE_FAILED_S =
	    5, /* SERVFAIL, time-outs: RFC 2308 7 allows 5 minutes, mail wants sooner */
	CACHE_ENTRIES_MAX = 100000,
	CACHE_BYTES_MAX = 64 * 1048576,
};
struct cache;
struct cache *cache_new(size_t entries_max, size_t bytes_max, const uint8_t key[16]);
void cache_free(struct cache **cache);
/* The entry, not yet over at now_ms, and the seconds left of it (at least 1); or NULL. Borrowed. */
struct answer *cache_find(
    struct cache *c, const char *name, uint16_t type, int64_t now_ms, uint32_t *ttl_s);
/* Keeps a reference; replaces what was there. Returns the seconds it is kept. */
uint32_t cache_put(
    struct cache *c, const char *name, uint16_t type, struct answer *a, int64_t now_ms);
uint32_t cache_ttl(const struct answer *a); /* the answer's TTL between floor and ceiling */
/* All types of `name` and of the hosts that its MX entry names; NULL: everything. How many went. */
size_t cache_flush(struct cache *c, const char *name);
size_t cache_count(const struct cache *c);
size_t cache_used_bytes(const struct cache *c);

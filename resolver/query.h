/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "resolver/answer.h"
#include <sys/socket.h>
/*
 * Outstanding questions to the configured name servers: sockets, ids, time-outs, retries, the cache
 * in front. One question is in flight per name and type, whoever asks.
 */
enum {
	SERVERS_MAX = 8,
	QUERIES_IN_FLIGHT_MAX = 400, /* a socket each: within the usual 1,024 descriptors */
	QUERIES_MAX = 50000,	     /* in flight and waiting; more are answered as failed */
};
struct query_server {
	struct sockaddr_storage address;
	socklen_t address_n;
	char text[80]; /* "192.0.2.1@53" */
};
/* "address" or "address@port". 0 or -EINVAL. */
int query_server_parse(struct query_server *s, struct str text) MUST_USE;

struct query_timing {
	uint32_t first_ms; /* time-out of the first round over all servers; doubles with each */
	uint32_t rounds;
	uint32_t deadline_ms; /* of one question, all attempts */
	uint32_t dead_ms;     /* how long a server that timed out twice in a row is asked last */
};
extern const struct query_timing query_timing_default;

struct queries;
struct queries *queries_new(struct loop *loop, const struct query_timing *timing);
void queries_free(struct queries **queries);
/* From the next attempt on. trusted: the AD bit of their answers counts. */
void queries_use(struct queries *q, const struct query_server *servers, size_t n, bool trusted);

struct query;
/* Somebody who waits; embedded, zero-initialised. */
struct query_wait {
	struct query_wait *next;
	struct query *query; /* NULL: not waiting */
	void (*fn)(void *arg, struct query_wait *wait, const struct answer *a, uint32_t ttl_s,
	    bool secure);
	void *arg;
	unsigned slot; /* the owner's */
};
/* From the cache: the answer, its seconds left and whether it is secure (borrowed, valid until the
 * next call). Else NULL: wait->fn comes later, never from inside. */
const struct answer *queries_ask(struct queries *q, const char *name, uint16_t type,
    struct query_wait *wait, uint32_t *ttl_s, bool *secure);
void queries_cancel(struct query_wait *wait);		   /* the question goes on, for the cache */
size_t queries_flush(struct queries *q, const char *name); /* the cache; NULL: all */

struct query_stats {
	uint64_t asked, sent, cached, answered, failed, timeouts, spoofed, malformed, tcp, refused;
	size_t in_flight, waiting, cache_entries, cache_bytes;
};
void queries_stats(const struct queries *q, struct query_stats *out);
struct query_server_view {
	const char *text;
	uint64_t sent, answered, timeouts;
	bool dead;
	double srtt_ms;
};
bool queries_server(const struct queries *q, size_t index, struct query_server_view *out);

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "resolver/mx.h"
#include "resolver/query.h"
/*
 * The domains that are being resolved now: one walk per domain, whoever asks.
 */
enum {
	WALKS_MAX = 2000,     /* at work; the rest wait in the order they came */
	DOMAINS_MAX = 200000, /* at work and waiting; more are answered as temporary failures */
};
struct routes;
struct routes *routes_new(struct loop *loop, struct queries *queries);
void routes_free(struct routes **routes);
void routes_use(struct routes *r, const struct mx_rules *rules); /* borrowed until the next use */

struct run;
/* Somebody who waits; embedded, zero-initialised but for fn and arg. */
struct route_wait {
	struct route_wait *next;
	struct run *run; /* NULL: not waiting */
	void (*fn)(void *arg, const struct mx_route *route);
	void *arg;
};
/* fn is called once, perhaps from inside. `domain`: a name, or an address literal in brackets. */
void routes_ask(struct routes *r, struct str domain, struct route_wait *wait);
/* The addresses of a host, its MX records not asked for, private ones not refused. */
void routes_ask_host(struct routes *r, struct str host, struct route_wait *wait);
void routes_cancel(struct route_wait *wait);
struct routes_stats {
	uint64_t resolved[ROUTE_CLASS_COUNT], deadlines, overloads;
	size_t at_work, waiting;
};
void routes_stats(const struct routes *r, struct routes_stats *out);
const char *route_class_name(enum route_class class); /* "ok", "null-mx", … */

/* SPDX-License-Identifier: ISC */
#pragma once
#include "resolver/routes.h"
/*
 * Routes that the operator fixed (smtp-hosts). One look-up per text, whoever asks; its parts are
 * ordinary questions of routes.c, so their answers come from the same cache.
 */
enum {
	FIXED_MAX = 20000, /* texts at work at once; more are answered as temporary failures */
};
struct fixed_routes;
struct fixed_routes *fixed_new(struct routes *routes);
void fixed_free(struct fixed_routes **fixed);			      /* before its routes */
void fixed_use(struct fixed_routes *f, const struct mx_rules *rules); /* as routes_use() */

struct fixed_run;
/* Somebody who waits; embedded, zero-initialised but for fn and arg. */
struct fixed_wait {
	struct fixed_wait *next;
	struct fixed_run *run; /* NULL: not waiting */
	void (*fn)(void *arg, const struct mx_route *route);
	void *arg;
};
/* fn is called once, perhaps from inside. */
void fixed_ask(struct fixed_routes *f, struct str spec, struct fixed_wait *wait);
void fixed_cancel(struct fixed_wait *wait);

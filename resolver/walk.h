/* SPDX-License-Identifier: ISC */
#pragma once
#include "resolver/answer.h"
#include "resolver/mx.h"
/*
 * The resolution of one domain as a state machine without sockets: it names the questions it has,
 * is told the answers in any order, and says when it knows the route.
 *
 *   MX of the domain
 *     hosts:              A and AAAA of each, WALK_PARALLEL at once, best preference first: route
 *     none:               A and AAAA of the domain (implicit MX): route
 *     null MX, NXDOMAIN, failure: its class
 */
enum {
	WALK_PARALLEL = 10,	  /* questions of one domain at once: 100 MX take their turn */
	WALK_DEADLINE_MS = 40000, /* then what is known is used: stops a domain of 100 dead hosts */
};
struct walk;
struct walk_question {
	unsigned slot; /* 0 … WALK_PARALLEL - 1: given back with the answer */
	const char *name;
	uint16_t type;
};
/* `domain` is one of name_from_text(). */
struct walk *walk_new(const char *domain);
/* The addresses of one host, whatever MX records it has: for fixed routes. */
struct walk *walk_new_host(const char *host);
void walk_free(struct walk **walk);
const char *walk_domain(const struct walk *w);
/* The next question to ask now; false: none (wait for answers, or done). `name` stays valid until
 * its answer. */
bool walk_next(struct walk *w, struct walk_question *q);
/* secure: the AD bit, if it is to be trusted. */
void walk_answer(
    struct walk *w, unsigned slot, const struct answer *a, uint32_t ttl_s, bool secure);
void walk_give_up(struct walk *w); /* what is open counts as timed out */
bool walk_done(const struct walk *w);
/* Only when done. */
void walk_route(const struct walk *w, const struct mx_rules *rules, struct mx_route *out);

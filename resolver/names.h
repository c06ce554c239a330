/* SPDX-License-Identifier: ISC */
#pragma once
#include "resolver/query.h"
/*
 * What the DNS says of our own source addresses: reverse name, whether it leads back, blocklists.
 */
struct settings;
struct names;
struct names *names_new(struct queries *queries);
void names_free(struct names **names);
void names_use(struct names *n, const struct settings *settings); /* borrowed until the next use */
void names_drop(struct names *n);				  /* whoever asked is gone */

struct names_question {
	uint32_t ticket; /* given back */
	struct str address, ehlo;
};
struct names_told { /* views */
	uint32_t ticket;
	const char *address, *name; /* name: "" where there is none */
	bool confirmed, ehlo_matches;
	struct str listed; /* "ZONE CODE CODE; ZONE CODE" */
};
typedef void names_fn(void *arg, const struct names_told *told);
/* fn is called once, perhaps from inside, unless names_drop() comes first. False: too many. */
bool names_ask(struct names *n, const struct names_question *q, names_fn *fn, void *arg) MUST_USE;

/* "4.3.2.1.ZONE", or 32 nibbles for IPv6. */
void names_reverse(char out[NAME_TEXT], const struct route_address *a, const char *zone);
enum names_listing { LISTING_NONE, LISTING_YES, LISTING_REFUSED };
enum names_listing names_listing(const struct route_address *a); /* of a blocklist's answer */

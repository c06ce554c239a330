/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/types.h"
/* The list of hosts inside ROUTE: sorted by preference, equals in the order of their names. */
enum {
	ROUTE_HOSTS_MAX =
	    100, /* more in an answer are dropped: bounds memory (as Postfix 3.9 does) */
	ROUTE_ADDRESSES_MAX = 16, /* per host */
};
struct route_address {
	uint8_t family; /* 4 or 6 */
	uint8_t bytes[16];
};
struct route_host {
	uint16_t preference;
	uint16_t port;	/* 0: default-smtp-port */
	uint8_t secure; /* AD bit of MX and address answers, from a trusted resolver */
	char name[256]; /* lower case, without the final dot */
	uint8_t address_count;
	struct route_address address[ROUTE_ADDRESSES_MAX];
};
void route_put_host(struct buf *b, const struct route_host *h);
/* Calls take() once: 1 = a host was read, 0 = the end, -EBADMSG. */
int route_take_host(struct rd *r, struct route_host *h) MUST_USE;
void route_address_print(char out[64], const struct route_address *a);
int route_address_parse(struct route_address *a, struct str s) MUST_USE;

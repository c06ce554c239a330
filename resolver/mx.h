/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/route.h"
#include "common/types.h"
#include "resolver/name.h"
/*
 * From MX records and the addresses of their hosts to a route: which hosts, in which order, or why
 * there is none. Pure.
 */
enum { ROUTE_TEXT = 400 };
struct mx_host { /* one candidate */
	uint16_t preference;
	bool secure;	/* MX and addresses came with a trusted AD bit */
	bool temporary; /* an address look-up of it failed */
	bool absent;	/* it does not exist (NXDOMAIN) */
	char name[NAME_TEXT];
	size_t address_count;
	struct route_address address[ROUTE_ADDRESSES_MAX];
};
struct mx_endpoint { /* an address of ours where smtpd listens; family 0: any of our addresses */
	struct route_address address;
	uint16_t port;
};
struct mx_rules {
	char host_name[NAME_TEXT]; /* ours; "" when not configured */
	uint16_t port;		   /* where mail is delivered to */
	bool refuse_private;
	struct mx_endpoint *listeners; /* owned by the settings */
	size_t listener_count;
	struct route_address *local; /* this machine's addresses, for listeners on any address */
	size_t local_count;
};
struct mx_route {
	enum route_class class;
	bool implicit; /* there is no MX record; the host is the domain itself */
	uint32_t ttl_s;
	char text[ROUTE_TEXT]; /* for people: what was found, or what is missing */
	size_t host_count;
	struct route_host *hosts; /* owned; by preference, then name */
};
/* `hosts` in any order; `implicit`: the domain itself, without MX records. ttl_s is the caller's.
 */
void mx_route(struct mx_route *out, const struct mx_rules *rules, const char *domain, bool implicit,
    const struct mx_host *hosts, size_t n);
/* "[192.0.2.1]", "[IPv6:2001:db8::1]": 1, a route to it (or ROUTE_BAD_NAME); else 0. */
int mx_literal(struct mx_route *out, const struct mx_rules *rules, struct str domain);
/* Is a listener of ours at that address and port? */
bool mx_is_listener(const struct mx_rules *rules, const struct route_address *a, uint16_t port);
void mx_route_fini(struct mx_route *route);
/* 0.0.0.0/8, ::, multicast, broadcast: never a place to deliver to. */
bool mx_address_unusable(const struct route_address *a);
/* Loopback, private, link-local, carrier NAT, documentation: not on the public internet. */
bool mx_address_private(const struct route_address *a);

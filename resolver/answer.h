/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/route.h"
#include "resolver/name.h"
/*
 * A DNS message to and from our own structs. answer.c alone includes ldns, and only as a codec.
 */
enum rr_type { RR_A = 1, RR_CNAME = 5, RR_SOA = 6, RR_PTR = 12, RR_MX = 15, RR_AAAA = 28 };
enum answer_status {
	ANSWER_OK,	 /* records of the type asked for (perhaps behind aliases) */
	ANSWER_NODATA,	 /* the name exists, without such records */
	ANSWER_NXDOMAIN, /* no such name */
	ANSWER_ALIAS,	 /* the alias chain leaves this message: ask for `alias` */
	ANSWER_FAILED,	 /* the server cannot or will not say */
};
enum {
	ANSWER_UDP_SIZE = 1232,		 /* EDNS: fits an IPv6 packet everywhere */
	ANSWER_MX_MAX = ROUTE_HOSTS_MAX, /* kept of an answer, best first */
	ANSWER_ADDRESSES_MAX = ROUTE_ADDRESSES_MAX,
	ALIAS_MAX = 8,			     /* aliases followed for one question: stops loops */
	QUERY_MAX = 12 + NAME_WIRE + 4 + 11, /* header, question, OPT */
};
struct answer_mx {
	uint16_t preference;
	char *name; /* owned */
};
struct answer {
	unsigned refs;
	enum answer_status status;
	uint8_t rcode;
	bool secure;	  /* AD was set; whether to trust it is query.c's business */
	uint8_t aliases;  /* followed inside this message */
	uint32_t ttl_s;	  /* least of what was used; of a negative answer by its SOA (RFC 2308) */
	char *alias;	  /* owned; ANSWER_ALIAS */
	bool null_mx;	  /* RFC 7505: the only record is "." */
	uint32_t refused; /* records with unusable names or beyond the bounds */
	size_t count;
	struct answer_mx *mx;	       /* owned, sorted; RR_MX, and RR_PTR with preference 0 */
	struct route_address *address; /* owned; RR_A and RR_AAAA */
};
struct answer *answer_new(enum answer_status status);
struct answer *answer_ref(struct answer *a);
void answer_unref(struct answer **a);
size_t answer_bytes(const struct answer *a); /* of memory, for the cache's bound */

/* A query with RD and AD set; `edns` adds the OPT record. Returns its length. */
size_t answer_query(uint8_t out[QUERY_MAX], uint16_t id, const uint8_t *qname, size_t qname_n,
    uint16_t type, bool edns);
/* Is this a reply to that question: id, QR, opcode and question? Cheap: spoofed packets end here.
 */
bool answer_matches(const uint8_t *packet, size_t n, uint16_t id, const uint8_t *qname,
    size_t qname_n, uint16_t type);
bool answer_truncated(const uint8_t *packet); /* TC; the packet matched */
uint8_t answer_rcode(const uint8_t *packet);
/* 0, or -EBADMSG: malformed, or lame (a referral). The packet matched. */
int answer_parse(
    struct answer **out, const uint8_t *packet, size_t n, const char *name, uint16_t type) MUST_USE;

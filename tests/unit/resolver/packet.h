/* SPDX-License-Identifier: ISC */
#pragma once
#include "resolver/answer.h"
#include <string.h>
/* DNS packets made by hand for the tests. Names: text with dots, or raw wire form. */
struct packet {
	uint8_t p[65536];
	size_t n;
};

static inline void pk_u8(struct packet *k, unsigned v)
{
	k->p[k->n++] = (uint8_t)v;
}
static inline void pk_u16(struct packet *k, unsigned v)
{
	pk_u8(k, v >> 8);
	pk_u8(k, v);
}
static inline void pk_u32(struct packet *k, unsigned long v)
{
	pk_u16(k, (unsigned)(v >> 16));
	pk_u16(k, (unsigned)v);
}
static inline void pk_bytes(struct packet *k, const void *p, size_t n)
{
	memcpy(k->p + k->n, p, n);
	k->n += n;
}
static inline void pk_name(struct packet *k, const char *name)
{
	while (*name != '\0') {
		size_t n = strcspn(name, ".");
		pk_u8(k, (unsigned)n);
		pk_bytes(k, name, n);
		name += n + (name[n] == '.');
	}
	pk_u8(k, 0);
}
static inline void pk_set16(struct packet *k, size_t at, unsigned v)
{
	k->p[at] = (uint8_t)(v >> 8);
	k->p[at + 1] = (uint8_t)v;
}
/* A reply to (id 0x1234, name, type) without records. flags: bytes 2 and 3. */
static inline void pk_reply(struct packet *k, unsigned flags, const char *name, uint16_t type)
{
	k->n = 0;
	pk_u16(k, 0x1234);
	pk_u16(k, flags);
	pk_u16(k, 1);
	pk_u16(k, 0);
	pk_u16(k, 0);
	pk_u16(k, 0);
	pk_name(k, name);
	pk_u16(k, type);
	pk_u16(k, 1);
}
enum { AT_ANSWERS = 6, AT_AUTHORITY = 8, AT_ADDITIONAL = 10 };
static inline void pk_count(struct packet *k, size_t section)
{
	pk_set16(k, section, ((unsigned)k->p[section] << 8 | k->p[section + 1]) + 1);
}
/* Head of a record; the rdata follows, and pk_end() sets its length. Returns where it begins. */
static inline size_t pk_rr(
    struct packet *k, size_t section, const char *owner, unsigned type, unsigned long ttl)
{
	pk_count(k, section);
	pk_name(k, owner);
	pk_u16(k, type);
	pk_u16(k, 1);
	pk_u32(k, ttl);
	pk_u16(k, 0);
	return k->n;
}
static inline void pk_end(struct packet *k, size_t begin)
{
	pk_set16(k, begin - 2, (unsigned)(k->n - begin));
}
static inline void pk_mx(
    struct packet *k, const char *owner, unsigned preference, const char *host, unsigned long ttl)
{
	size_t at = pk_rr(k, AT_ANSWERS, owner, RR_MX, ttl);
	pk_u16(k, preference);
	pk_name(k, host);
	pk_end(k, at);
}
static inline void pk_a(struct packet *k, const char *owner, unsigned last, unsigned long ttl)
{
	size_t at = pk_rr(k, AT_ANSWERS, owner, RR_A, ttl);
	pk_u32(k, 0x7f002b00UL | last); /* 127.0.43.last */
	pk_end(k, at);
}
static inline void pk_aaaa(struct packet *k, const char *owner, unsigned last, unsigned long ttl)
{
	static const uint8_t net[15] = {0x20, 0x01, 0x0d, 0xb8};
	size_t at = pk_rr(k, AT_ANSWERS, owner, RR_AAAA, ttl);
	pk_bytes(k, net, 15);
	pk_u8(k, last);
	pk_end(k, at);
}
static inline void pk_cname(
    struct packet *k, const char *owner, const char *target, unsigned long ttl)
{
	size_t at = pk_rr(k, AT_ANSWERS, owner, RR_CNAME, ttl);
	pk_name(k, target);
	pk_end(k, at);
}
static inline void pk_soa(
    struct packet *k, const char *owner, unsigned long ttl, unsigned long minimum)
{
	size_t at = pk_rr(k, AT_AUTHORITY, owner, RR_SOA, ttl);
	pk_name(k, "ns.example");
	pk_name(k, "root.example");
	for (int i = 0; i < 4; i++)
		pk_u32(k, 1);
	pk_u32(k, minimum);
	pk_end(k, at);
}
static inline void pk_opt(struct packet *k, unsigned extended_rcode)
{
	pk_count(k, AT_ADDITIONAL);
	pk_u8(k, 0);
	pk_u16(k, 41);
	pk_u16(k, 1232);
	pk_u32(k, (unsigned long)extended_rcode << 24);
	pk_u16(k, 0);
}

/* SPDX-License-Identifier: ISC */
/*
 * DNS packets: the query that we send (written here byte by byte), the cheap test whether a packet
 * is its reply, and the reading of a reply, by ldns.
 *
 * ldns is a codec here and nothing more: its network code takes any packet for an answer and
 * blocks. Its parser is given only packets that matched a question. What it yields is still
 * hostile: owner names are compared with the chain of aliases that starts at our question, every
 * rdata is checked for its shape, every name for being a host name (name.c), and what is kept is
 * bounded.
 */
#include "resolver/answer.h"
#include <errno.h>
#include <ldns/ldns.h>
#include <stdlib.h>

enum {
	HEADER = 12,
	FLAG_QR = 0x80,	    /* byte 2 */
	FLAG_OPCODE = 0x78, /* byte 2 */
	FLAG_TC = 0x02,	    /* byte 2 */
	FLAG_RD = 0x01,	    /* byte 2 */
	FLAG_AD = 0x20,	    /* byte 3; in a query it asks for the AD bit (RFC 6840 5.7) */
	CLASS_IN = 1,
	TYPE_OPT = 41,
};

struct answer *answer_new(enum answer_status status)
{
	struct answer *a = xcalloc(1, sizeof(*a));
	a->refs = 1;
	a->status = status;
	return a;
}

struct answer *answer_ref(struct answer *a)
{
	a->refs++;
	return a;
}

void answer_unref(struct answer **ref)
{
	struct answer *a = *ref;
	*ref = NULL;
	if (a == NULL || --a->refs > 0)
		return;
	for (size_t i = 0; a->mx != NULL && i < a->count; i++)
		free(a->mx[i].name);
	free(a->mx);
	free(a->address);
	free(a->alias);
	free(a);
}

size_t answer_bytes(const struct answer *a)
{
	size_t bytes = sizeof(*a);
	if (a->address != NULL)
		bytes += a->count * sizeof(*a->address);
	for (size_t i = 0; a->mx != NULL && i < a->count; i++)
		bytes += sizeof(*a->mx) + strlen(a->mx[i].name) + 16;
	return bytes;
}

/* --- the query, and what matches it ------------------------------------------------------ */

static uint8_t *put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

size_t answer_query(uint8_t out[QUERY_MAX], uint16_t id, const uint8_t *qname, size_t qname_n,
    uint16_t type, bool edns)
{
	must(qname_n <= NAME_WIRE);
	memset(out, 0, HEADER);
	put16(out, id);
	out[2] = FLAG_RD;
	out[3] = FLAG_AD;
	put16(out + 4, 1);
	put16(out + 10, edns ? 1 : 0);
	memcpy(out + HEADER, qname, qname_n);
	uint8_t *p = put16(out + HEADER + qname_n, type);
	p = put16(p, CLASS_IN);
	if (edns) {
		*p++ = 0; /* owner: the root */
		p = put16(p, TYPE_OPT);
		p = put16(p, ANSWER_UDP_SIZE);
		memset(p, 0, 6); /* extended rcode, version, flags, no options */
		p += 6;
	}
	return (size_t)(p - out);
}

bool answer_matches(const uint8_t *packet, size_t n, uint16_t id, const uint8_t *qname,
    size_t qname_n, uint16_t type)
{
	if (n < HEADER + qname_n + 4 || get16(packet) != id || !(packet[2] & FLAG_QR) ||
	    (packet[2] & FLAG_OPCODE) != 0 || get16(packet + 4) != 1)
		return false;
	const uint8_t *q = packet + HEADER;
	/* Labels' length bytes are below 'A', so folding them changes nothing. */
	if (!str_eq_nocase(
		(struct str){(const char *)q, qname_n}, (struct str){(const char *)qname, qname_n}))
		return false;
	return get16(q + qname_n) == type && get16(q + qname_n + 2) == CLASS_IN;
}

bool answer_truncated(const uint8_t *packet)
{
	return (packet[2] & FLAG_TC) != 0;
}

uint8_t answer_rcode(const uint8_t *packet)
{
	return packet[3] & 0x0f;
}

/* --- rdata that is as long as it says, before ldns sees it ------------------------------- */

/* Where the name that begins at `at` ends in the packet (its pointer not followed), or 0. */
static size_t skip_name(const uint8_t *packet, size_t n, size_t at)
{
	while (at < n) {
		uint8_t length = packet[at];
		if (length == 0)
			return at + 1;
		if ((length & 0xc0) == 0xc0)
			return at + 2 <= n ? at + 2 : 0;
		if ((length & 0xc0) != 0)
			return 0;
		at += (size_t)length + 1;
	}
	return 0;
}

static bool rdata_is_sound(const uint8_t *packet, size_t at, size_t end, unsigned type)
{
	switch (type) {
	case RR_A:
		return end - at == 4;
	case RR_AAAA:
		return end - at == 16;
	case RR_CNAME:
	case RR_PTR:
		return skip_name(packet, end, at) == end;
	case RR_MX:
		return end - at > 2 && skip_name(packet, end, at + 2) == end;
	default:
		return true;
	}
}

/* ldns reads the fields that a type has and passes over what else stands in the rdata: an A record
 * of five bytes would be one for it. */
static bool records_are_sound(const uint8_t *packet, size_t n)
{
	enum { FIXED = 10 }; /* type, class, TTL, length */
	unsigned count = get16(packet + 6) + get16(packet + 8) + get16(packet + 10);
	size_t at = HEADER;
	for (unsigned i = get16(packet + 4); i > 0; i--) {
		at = skip_name(packet, n, at);
		if (at == 0 || n - at < 4)
			return false;
		at += 4;
	}
	for (; count > 0; count--) {
		at = skip_name(packet, n, at);
		if (at == 0 || n - at < FIXED)
			return false;
		unsigned type = get16(packet + at), length = get16(packet + at + 8);
		at += FIXED;
		if (n - at < length || !rdata_is_sound(packet, at, at + length, type))
			return false;
		at += length;
	}
	return true;
}

/* --- reading ----------------------------------------------------------------------------- */

static int name_of_rdf(char out[NAME_TEXT], const ldns_rdf *rdf)
{
	if (rdf == NULL || ldns_rdf_get_type(rdf) != LDNS_RDF_TYPE_DNAME)
		return -EINVAL;
	return name_from_wire(out, ldns_rdf_data(rdf), ldns_rdf_size(rdf));
}

/* Names on the way from the question to its records. Those of reverse zones may have a slash: small
 * networks are delegated that way (RFC 2317). They stay in this file. */
static int chain_name(char out[NAME_TEXT], const ldns_rdf *rdf, uint16_t type)
{
	if (type != RR_PTR)
		return name_of_rdf(out, rdf);
	if (rdf == NULL || ldns_rdf_get_type(rdf) != LDNS_RDF_TYPE_DNAME)
		return -EINVAL;
	return name_from_wire_reverse(out, ldns_rdf_data(rdf), ldns_rdf_size(rdf));
}

static bool owned_by(const ldns_rr *rr, const char *name, uint16_t type)
{
	char owner[NAME_TEXT];
	return ldns_rr_get_class(rr) == LDNS_RR_CLASS_IN &&
	       chain_name(owner, ldns_rr_owner(rr), type) == 0 && strcmp(owner, name) == 0;
}

/* RFC 2181 8: a TTL with the top bit set counts as zero. */
static uint32_t ttl_of(const ldns_rr *rr)
{
	uint32_t ttl = ldns_rr_ttl(rr);
	return ttl > INT32_MAX ? 0 : ttl;
}

static void lower_ttl(struct answer *a, uint32_t ttl)
{
	if (ttl < a->ttl_s)
		a->ttl_s = ttl;
}

static int mx_order(const void *va, const void *vb)
{
	const struct answer_mx *a = va, *b = vb;
	if (a->preference != b->preference)
		return a->preference < b->preference ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* Returns false when the record is no use. */
static bool take_mx(struct answer_mx *mx, const ldns_rr *rr)
{
	char name[NAME_TEXT];
	const ldns_rdf *preference = ldns_rr_rdf(rr, 0);
	if (ldns_rr_rd_count(rr) != 2 || preference == NULL || ldns_rdf_size(preference) != 2 ||
	    name_of_rdf(name, ldns_rr_rdf(rr, 1)) != 0)
		return false;
	mx->preference = (uint16_t)get16(ldns_rdf_data(preference));
	mx->name = xstrdup(name);
	return true;
}

static bool take_ptr(struct answer_mx *mx, const ldns_rr *rr)
{
	char name[NAME_TEXT];
	if (ldns_rr_rd_count(rr) != 1 || name_of_rdf(name, ldns_rr_rdf(rr, 0)) != 0)
		return false;
	mx->preference = 0;
	mx->name = xstrdup(name);
	return true;
}

static bool take_address(struct route_address *address, const ldns_rr *rr, uint16_t type)
{
	const ldns_rdf *rdf = ldns_rr_rdf(rr, 0);
	size_t want = type == RR_A ? 4 : 16;
	if (ldns_rr_rd_count(rr) != 1 || rdf == NULL || ldns_rdf_size(rdf) != want)
		return false;
	*address = (struct route_address){.family = type == RR_A ? 4 : 6};
	memcpy(address->bytes, ldns_rdf_data(rdf), want);
	return true;
}

/* Sorts, finds the null MX, drops "." beside others and equal records, keeps the best. */
static void settle_mx(struct answer *a, size_t seen)
{
	a->null_mx = seen == 1 && a->count == 1 && a->mx[0].name[0] == '\0';
	if (a->count > 1)
		qsort(a->mx, a->count, sizeof(*a->mx), mx_order);
	size_t kept = 0;
	for (size_t i = 0; i < a->count; i++) {
		bool drop = kept == ANSWER_MX_MAX || (a->mx[i].name[0] == '\0' && !a->null_mx) ||
			    (kept > 0 && mx_order(&a->mx[kept - 1], &a->mx[i]) == 0);
		if (drop) {
			free(a->mx[i].name);
			a->refused++;
		} else {
			a->mx[kept++] = a->mx[i];
		}
	}
	a->count = kept;
}

/* All records of `type` that `name` owns. Returns how many there were, usable or not. */
static size_t take_records(
    struct answer *a, const ldns_rr_list *list, const char *name, uint16_t type)
{
	size_t n = ldns_rr_list_rr_count(list), seen = 0;
	bool names = type == RR_MX || type == RR_PTR;
	for (size_t i = 0; i < n; i++) {
		const ldns_rr *rr = ldns_rr_list_rr(list, i);
		if ((uint16_t)ldns_rr_get_type(rr) != type || !owned_by(rr, name, type))
			continue;
		seen++;
		lower_ttl(a, ttl_of(rr));
		if (names && a->mx == NULL)
			a->mx = xcalloc(n - i, sizeof(*a->mx)); /* at most 65535 / 15 records */
		if (!names && a->address == NULL)
			a->address = xcalloc(ANSWER_ADDRESSES_MAX, sizeof(*a->address));
		bool taken = type == RR_MX    ? take_mx(&a->mx[a->count], rr)
			     : type == RR_PTR ? take_ptr(&a->mx[a->count], rr)
					      : a->count < ANSWER_ADDRESSES_MAX &&
						    take_address(&a->address[a->count], rr, type);
		if (taken)
			a->count++;
		else
			a->refused++;
	}
	if (seen > 0 && names)
		settle_mx(a, seen);
	return seen;
}

/* The target of `name`'s alias, if there is one. -ENOENT: none; -EINVAL: not a host name. */
static int find_alias(struct answer *a, const ldns_rr_list *list, const char *name, uint16_t type,
    char target[NAME_TEXT])
{
	size_t n = ldns_rr_list_rr_count(list);
	for (size_t i = 0; i < n; i++) {
		const ldns_rr *rr = ldns_rr_list_rr(list, i);
		if (ldns_rr_get_type(rr) != LDNS_RR_TYPE_CNAME || !owned_by(rr, name, type))
			continue;
		lower_ttl(a, ttl_of(rr));
		return ldns_rr_rd_count(rr) == 1 ? chain_name(target, ldns_rr_rdf(rr, 0), type)
						 : -EINVAL;
	}
	return -ENOENT;
}

/* How long a negative answer holds: the SOA's TTL or its MINIMUM, the lesser (RFC 2308 5). False:
 * there is no SOA. */
static bool soa_ttl(const ldns_pkt *packet, uint32_t *ttl)
{
	const ldns_rr_list *list = ldns_pkt_authority(packet);
	size_t n = ldns_rr_list_rr_count(list);
	for (size_t i = 0; i < n; i++) {
		const ldns_rr *rr = ldns_rr_list_rr(list, i);
		const ldns_rdf *minimum = ldns_rr_rdf(rr, 6);
		if (ldns_rr_get_type(rr) != LDNS_RR_TYPE_SOA || minimum == NULL ||
		    ldns_rdf_size(minimum) != 4)
			continue;
		uint32_t value = ldns_rdf2native_int32(minimum);
		*ttl = value < ttl_of(rr) ? value : ttl_of(rr);
		return true;
	}
	return false;
}

/* NOERROR with other servers' names instead of an answer: this server does not do our work for us.
 */
static bool is_referral(const ldns_pkt *packet)
{
	const ldns_rr_list *list = ldns_pkt_authority(packet);
	size_t n = ldns_rr_list_rr_count(list);
	if (ldns_pkt_aa(packet) || ldns_rr_list_rr_count(ldns_pkt_answer(packet)) > 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (ldns_rr_get_type(ldns_rr_list_rr(list, i)) == LDNS_RR_TYPE_NS)
			return true;
	}
	return false;
}

static void negative(struct answer *a, const ldns_pkt *packet, enum answer_status status)
{
	uint32_t ttl = 0; /* without an SOA it is not cached but for the floor (RFC 2308 5) */
	(void)soa_ttl(packet, &ttl);
	a->status = status;
	lower_ttl(a, ttl);
}

/* Follows the chain of aliases from the question to records, or to where it ends. */
static void follow(struct answer *a, const ldns_pkt *packet, const char *question, uint16_t type)
{
	const ldns_rr_list *list = ldns_pkt_answer(packet);
	char name[NAME_TEXT], target[NAME_TEXT];
	uint32_t unused;
	str_copy(name, sizeof(name), str_of(question));
	for (;;) {
		if (take_records(a, list, name, type) > 0) {
			a->status = ANSWER_OK;
			return;
		}
		int found = find_alias(a, list, name, type, target);
		if (found == -ENOENT)
			break;
		if (found != 0 ||
		    target[0] == '\0') { /* an alias of no host: there is nothing there */
			negative(a, packet, ANSWER_NODATA);
			return;
		}
		if (++a->aliases > ALIAS_MAX) {
			a->status = ANSWER_FAILED;
			return;
		}
		memcpy(name, target, sizeof(name));
	}
	if (ldns_pkt_get_rcode(packet) == LDNS_RCODE_NXDOMAIN) {
		negative(a, packet, ANSWER_NXDOMAIN);
	} else if (a->aliases > 0 && !soa_ttl(packet, &unused) &&
		   strchr(name, '/') == NULL) { /* such a name leaves this file no further */
		a->status = ANSWER_ALIAS;
		a->alias = xstrdup(name);
	} else {
		negative(a, packet, ANSWER_NODATA);
	}
}

int answer_parse(
    struct answer **out, const uint8_t *bytes, size_t n, const char *name, uint16_t type)
{
	ldns_pkt *packet = NULL;
	if (n < HEADER || !records_are_sound(bytes, n) ||
	    ldns_wire2pkt(&packet, bytes, n) != LDNS_STATUS_OK || packet == NULL)
		return -EBADMSG;
	struct answer *a = answer_new(ANSWER_FAILED);
	a->rcode = (uint8_t)ldns_pkt_get_rcode(packet);
	a->secure = ldns_pkt_ad(packet);
	a->ttl_s = INT32_MAX;
	bool understood = (a->rcode == LDNS_RCODE_NOERROR || a->rcode == LDNS_RCODE_NXDOMAIN) &&
			  ldns_pkt_edns_extended_rcode(packet) == 0;
	bool lame = understood && is_referral(packet);
	if (understood && !lame)
		follow(a, packet, name, type);
	ldns_pkt_free(packet);
	if (a->status == ANSWER_FAILED)
		a->ttl_s = 0;
	if (lame)
		answer_unref(&a);
	*out = a;
	return lame ? -EBADMSG : 0;
}

/* SPDX-License-Identifier: ISC */
/*
 * The list of hosts that travels from resolver to qmgr. Names come from strangers' DNS: the reader
 * lets only visible ASCII through, because they go on into logs, queue names and certificates'
 * checks.
 */
#include "common/route.h"
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum { FAMILY_4 = 4, FAMILY_6 = 6 };

static size_t address_bytes(uint8_t family)
{
	return family == FAMILY_4 ? 4 : family == FAMILY_6 ? 16 : 0;
}

void route_put_host(struct buf *b, const struct route_host *h)
{
	must(h->address_count <= ROUTE_ADDRESSES_MAX);
	buf_u16(b, h->preference);
	buf_u16(b, h->port);
	buf_u8(b, h->secure);
	buf_u8(b, (uint8_t)strnlen(h->name, sizeof(h->name) - 1));
	buf_put(b, h->name, strnlen(h->name, sizeof(h->name) - 1));
	buf_u8(b, h->address_count);
	for (size_t i = 0; i < h->address_count; i++) {
		must(address_bytes(h->address[i].family) > 0);
		buf_u8(b, h->address[i].family);
		buf_put(b, h->address[i].bytes, address_bytes(h->address[i].family));
	}
}

static bool is_visible(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] <= ' ' || s.p[i] > '~')
			return false;
	return s.n > 0;
}

static void take_address(struct rd *r, struct route_address *a)
{
	*a = (struct route_address){.family = rd_u8(r)};
	struct str bytes = rd_bytes(r, address_bytes(a->family));
	if (bytes.n == 0)
		r->bad = true;
	memcpy(a->bytes, bytes.p, bytes.n);
}

int route_take_host(struct rd *r, struct route_host *h)
{
	if (r->n == 0 && !r->bad)
		return 0;
	*h = (struct route_host){.preference = rd_u16(r)};
	h->port = rd_u16(r);
	h->secure = rd_u8(r);
	struct str name = rd_bytes(r, rd_u8(r));
	h->address_count = rd_u8(r);
	if (!is_visible(name) || h->secure > 1 || h->address_count > ROUTE_ADDRESSES_MAX)
		r->bad = true;
	str_copy(h->name, sizeof(h->name), name);
	for (size_t i = 0; i < h->address_count && !r->bad; i++)
		take_address(r, &h->address[i]);
	return r->bad ? -EBADMSG : 1;
}

void route_address_print(char out[64], const struct route_address *a)
{
	int family = a->family == FAMILY_6 ? AF_INET6 : AF_INET;
	must(inet_ntop(family, a->bytes, out, 64) != NULL);
}

int route_address_parse(struct route_address *a, struct str s)
{
	char text[64];
	*a = (struct route_address){0};
	if (s.n >= sizeof(text) || (s.n > 0 && memchr(s.p, '\0', s.n) != NULL))
		return -EINVAL;
	str_copy(text, sizeof(text), s);
	a->family = FAMILY_4;
	if (inet_pton(AF_INET, text, a->bytes) == 1)
		return 0;
	a->family = FAMILY_6;
	return inet_pton(AF_INET6, text, a->bytes) == 1 ? 0 : -EINVAL;
}

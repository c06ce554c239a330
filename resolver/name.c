/* SPDX-License-Identifier: ISC */
/*
 * Domain names between wire and text. Pure. DNS labels are any bytes; mail routing needs host names
 * only, so that is all that comes in (attacks by names with newline, NUL or escaped dot: Jeitner
 * and Shulman, USENIX Security 2021). The underscore is let through: it is not a host name's
 * character, but real MX records have it.
 */
#include "resolver/name.h"
#include <arpa/inet.h>
#include <errno.h>

enum { LABEL_MAX = 63 };

static bool name_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static unsigned char lower(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? (unsigned char)(c + ('a' - 'A')) : c;
}

static int from_wire(char out[NAME_TEXT], const uint8_t *wire, size_t n, bool slash)
{
	if (n == 0 || n > NAME_WIRE)
		return -EINVAL;
	size_t at = 0, used = 0;
	while (at < n && wire[at] != 0) {
		size_t label = wire[at++];
		if (label > LABEL_MAX || at + label >= n)
			return -EINVAL;
		if (used > 0)
			out[used++] = '.';
		for (size_t i = 0; i < label; i++, at++) {
			unsigned char c = lower(wire[at]);
			if (!name_char(c) && !(slash && c == '/'))
				return -EINVAL;
			out[used++] = (char)c;
		}
	}
	out[used] = '\0';
	return at + 1 == n ? 0 : -EINVAL;
}

int name_from_wire(char out[NAME_TEXT], const uint8_t *wire, size_t n)
{
	return from_wire(out, wire, n, false);
}

int name_from_wire_reverse(char out[NAME_TEXT], const uint8_t *wire, size_t n)
{
	return from_wire(out, wire, n, true);
}

int name_to_wire(uint8_t out[NAME_WIRE], const char *name)
{
	size_t used = 0;
	struct str rest = str_of(name);
	while (rest.n > 0) {
		struct str label = str_cut(&rest, '.');
		if (label.n == 0 || label.n > LABEL_MAX || used + label.n + 2 > NAME_WIRE)
			return -EINVAL;
		out[used++] = (uint8_t)label.n;
		for (size_t i = 0; i < label.n; i++) {
			unsigned char c = lower((unsigned char)label.p[i]);
			if (!name_char(c))
				return -EINVAL;
			out[used++] = c;
		}
	}
	out[used++] = 0;
	return (int)used;
}

int name_from_text(char out[NAME_TEXT], struct str text)
{
	if (text.n > 1 && text.p[text.n - 1] == '.')
		text.n--;
	if (text.n == 0 || text.n >= NAME_WIRE - 1 || memchr(text.p, '\0', text.n) != NULL ||
	    text.p[text.n - 1] == '.')
		return -EINVAL;
	char copy[NAME_TEXT];
	uint8_t wire[NAME_WIRE];
	str_copy(copy, sizeof(copy), text);
	int n = name_to_wire(wire, copy);
	return n < 0 ? n : name_from_wire(out, wire, (size_t)n);
}

bool name_is_address(const char *name)
{
	unsigned char bytes[16];
	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

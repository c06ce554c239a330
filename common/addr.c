/* SPDX-License-Identifier: ISC */
/*
 * Mailboxes, domains, networks and xtext: the syntax of everything a client or an operator writes
 * as an address. Pure: no loop, no socket, no state. What passes here is free of control
 * characters, so that no address can add a line to a log, a header or a command (the teaching cases
 * are Exim's CVE-2020-28026 and OpenSMTPD's CVE-2020-8794).
 *
 * The only file that includes libidn2. RFC 5321 4.1.2 and 4.1.3, RFC 6531 3.3, RFC 3461 4, RFC
 * 5891.
 */
#include "common/addr.h"

#include <stdio.h>
#include <arpa/inet.h>
#include <errno.h>
#include <idn2.h>

enum {
	LABEL_MAX = 63,	 /* octets of a label, RFC 1035 2.3.4 */
	NAME_MAX_ = 253, /* octets of a name as text: 255 on the wire of the DNS */
	U_NAME_MAX =
	    1000 /* octets of a name with U-labels before conversion: bounds libidn2's work */
};

static bool is_alnum(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool has_8bit(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] >= 0x80)
			return true;
	return false;
}

/* Length of the well-formed UTF-8 sequence at p, or 0. Table 3-7 of the Unicode standard. */
static size_t utf8_sequence(const unsigned char *p, size_t n)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t more;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		more = 1;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		more = 2;
		low = p[0] == 0xe0 ? 0xa0 : 0x80;
		high = p[0] == 0xed ? 0x9f : 0xbf;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		more = 3;
		low = p[0] == 0xf0 ? 0x90 : 0x80;
		high = p[0] == 0xf4 ? 0x8f : 0xbf;
	} else {
		return 0;
	}
	if (more >= n || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i <= more; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return more + 1;
}

/* U+0080 to U+009F: controls of their own, which a terminal may obey. */
static bool has_c1_control(struct str s)
{
	for (size_t i = 1; i < s.n; i++)
		if ((unsigned char)s.p[i - 1] == 0xc2 && (unsigned char)s.p[i] < 0xa0)
			return true;
	return false;
}

bool utf8_valid(struct str s)
{
	const unsigned char *p = (const unsigned char *)s.p;

	for (size_t i = 0; i < s.n;) {
		size_t n = utf8_sequence(p + i, s.n - i);
		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

/* --- domains ---------------------------------------------------------------------------------- */

/* Lower-cases an ASCII name into out and checks every label. A last label of digits alone is an
 * address without its brackets, not a name. */
static int ascii_name(char out[DOMAIN_MAX + 1], struct str s)
{
	size_t label = 0;
	bool digits = true;

	if (s.n == 0 || s.n > NAME_MAX_)
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c == '.') {
			if (label == 0 || s.p[i - 1] == '-')
				return -EINVAL;
			label = 0;
			digits = true;
		} else if (is_alnum(c) || c == '_' || (c == '-' && label > 0)) {
			if (++label > LABEL_MAX)
				return -EINVAL;
			digits = digits && c >= '0' && c <= '9';
			c = c >= 'A' && c <= 'Z' ? (unsigned char)(c + 'a' - 'A') : c;
		} else {
			return -EINVAL;
		}
		out[i] = (char)c;
	}
	if (label == 0 || digits || s.p[s.n - 1] == '-')
		return -EINVAL;
	out[s.n] = '\0';
	return 0;
}

int domain_normalise(char out[DOMAIN_MAX + 1], struct str s)
{
	char text[U_NAME_MAX + 1], *ascii = NULL;
	int r;

	if (s.n > 1 && s.p[s.n - 1] == '.')
		s.n--;
	if (!has_8bit(s))
		return ascii_name(out, s);
	if (s.n > U_NAME_MAX || !utf8_valid(s) || memchr(s.p, '\0', s.n))
		return -EINVAL;
	str_copy(text, sizeof(text), s);
	if (idn2_to_ascii_8z(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) != IDN2_OK)
		return -EINVAL;
	r = ascii_name(out, str_of(ascii));
	idn2_free(ascii);
	return r;
}

/* [192.0.2.1] or [IPv6:2001:db8::1], kept in one spelling. */
static int literal_normalise(char out[DOMAIN_MAX + 1], struct str s)
{
	char text[INET6_ADDRSTRLEN + 1];
	unsigned char bytes[16];
	struct str inner = {s.p + 1, s.n - 2};
	bool v6;

	if (s.n < 3 || s.p[s.n - 1] != ']')
		return -EINVAL;
	v6 = str_starts_nocase(inner, STR("IPv6:"));
	if (v6) {
		inner.p += 5;
		inner.n -= 5;
	}
	if (inner.n >= sizeof(text) || memchr(inner.p, '\0', inner.n))
		return -EINVAL;
	str_copy(text, sizeof(text), inner);
	if (inet_pton(v6 ? AF_INET6 : AF_INET, text, bytes) != 1)
		return -EINVAL;
	if (!inet_ntop(v6 ? AF_INET6 : AF_INET, bytes, text, sizeof(text)))
		return -EINVAL;
	snprintf(out, DOMAIN_MAX + 1, "[%s%s]", v6 ? "IPv6:" : "", text);
	return 0;
}

bool helo_valid(struct str s)
{
	/* Lenient, as every server is: real clients say their NetBIOS name, an address without
	 * brackets, a trailing dot. What is refused could not stand in Received or in a log line.
	 */
	if (s.n == 0 || s.n > DOMAIN_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (!is_alnum(c) && !memchr(".-_:[]", c, 6))
			return false;
	}
	return true;
}

/* --- mailboxes -------------------------------------------------------------------------------- */

/* atext of RFC 5322 3.2.3, and UTF-8 (RFC 6531 3.3) */
static bool is_atext(unsigned char c)
{
	return is_alnum(c) || c >= 0x80 || (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c));
}

static bool is_dot_string(const char *p, size_t n)
{
	if (n == 0 || p[0] == '.' || p[n - 1] == '.')
		return false;
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '.' ? p[i - 1] == '.' : !is_atext((unsigned char)p[i]))
			return false;
	}
	return true;
}

/* Takes a quoted string off the front of *s; its text without quotes and backslashes goes to out.
 */
static int take_quoted(struct str *s, char *out, size_t size, size_t *n)
{
	size_t i = 1;

	for (*n = 0; i < s->n && s->p[i] != '"'; i++) {
		if (s->p[i] == '\\' && ++i == s->n)
			return -EINVAL;
		if ((unsigned char)s->p[i] < 0x20 || s->p[i] == 0x7f || *n == size)
			return -EINVAL;
		out[(*n)++] = s->p[i];
	}
	if (i >= s->n)
		return -EINVAL;
	s->p += i + 1;
	s->n -= i + 1;
	return 0;
}

static int take_dot_string(struct str *s, char *out, size_t size, size_t *n)
{
	const char *at = memchr(s->p, '@', s->n);

	*n = at ? (size_t)(at - s->p) : s->n;
	if (*n > size || !is_dot_string(s->p, *n))
		return -EINVAL;
	memcpy(out, s->p, *n);
	s->p += *n;
	s->n -= *n;
	return 0;
}

/* Writes the local part in its shortest correct spelling: "joe"@x and joe@x are one mailbox. */
static int put_local(char *out, size_t size, const char *raw, size_t n)
{
	size_t o = 0;

	if (is_dot_string(raw, n)) {
		if (n >= size)
			return -EINVAL;
		memcpy(out, raw, n);
		out[n] = '\0';
		return 0;
	}
	out[o++] = '"';
	for (size_t i = 0; i < n; i++) {
		if (o + 4 > size)
			return -EINVAL;
		if (raw[i] == '"' || raw[i] == '\\')
			out[o++] = '\\';
		out[o++] = raw[i];
	}
	out[o++] = '"';
	out[o] = '\0';
	return 0;
}

/* "@a,@b:user@domain": RFC 5321 C and F.2 let a server drop the route. */
static int drop_route(struct str *s)
{
	const char *colon;

	if (s->n == 0 || s->p[0] != '@')
		return 0;
	colon = memchr(s->p, ':', s->n);
	if (!colon)
		return -EINVAL;
	for (const char *p = s->p; p < colon; p++)
		if (!is_alnum((unsigned char)*p) && !memchr("@,.-_", *p, 5))
			return -EINVAL;
	s->n -= (size_t)(colon + 1 - s->p);
	s->p = colon + 1;
	return 0;
}

int mailbox_parse(struct mailbox *m, struct str s, bool null_ok)
{
	char raw[LOCAL_PART_MAX * 4];
	size_t n;
	int r;

	memset(m, 0, sizeof(*m));
	if (s.n == 0)
		return null_ok ? 0 : -EINVAL;
	if (s.n > 2 * ADDRESS_MAX + U_NAME_MAX || !utf8_valid(s) || has_c1_control(s) ||
	    drop_route(&s) != 0 || s.n == 0)
		return -EINVAL;
	if (s.p[0] == '"')
		r = take_quoted(&s, raw, sizeof(raw), &n);
	else
		r = take_dot_string(&s, raw, sizeof(raw), &n);
	if (r != 0 || put_local(m->local, sizeof(m->local), raw, n) != 0)
		return -EINVAL;
	if (s.n < 2 || s.p[0] != '@' || s.p[s.n - 1] == '.')
		return -EINVAL;
	s.p++;
	s.n--;
	r = s.p[0] == '[' ? literal_normalise(m->domain, s) : domain_normalise(m->domain, s);
	if (r != 0 || strlen(m->local) + 1 + strlen(m->domain) > ADDRESS_MAX)
		return -EINVAL;
	m->utf8 = has_8bit((struct str){raw, n});
	return 0;
}

void mailbox_print(char out[ADDRESS_MAX + 1], const struct mailbox *m)
{
	size_t n = str_copy(out, ADDRESS_MAX + 1, str_of(m->local));

	if (m->domain[0] == '\0')
		return;
	n += str_copy(out + n, ADDRESS_MAX + 1 - n, STR("@"));
	str_copy(out + n, ADDRESS_MAX + 1 - n, str_of(m->domain));
}

/* --- xtext ------------------------------------------------------------------------------------ */

static int hex_upper(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int xtext_decode(char *out, size_t size, struct str s)
{
	size_t o = 0;

	for (size_t i = 0; i < s.n; i++) {
		int c = (unsigned char)s.p[i];
		if (c == '+') {
			int high = i + 2 < s.n ? hex_upper(s.p[i + 1]) : -1;
			int low = i + 2 < s.n ? hex_upper(s.p[i + 2]) : -1;
			if (high < 0 || low < 0)
				return -EINVAL;
			c = high * 16 + low;
			i += 2;
			if (c < 0x20 || c > 0x7e)
				return -EINVAL;
		} else if (c < '!' || c > '~' || c == '=') {
			return -EINVAL;
		}
		if (o + 1 >= size)
			return -E2BIG;
		out[o++] = (char)c;
	}
	if (size == 0)
		return -E2BIG;
	out[o] = '\0';
	return 0;
}

void xtext_encode(struct buf *b, struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c < '!' || c > '~' || c == '+' || c == '=')
			buf_printf(b, "+%02X", c);
		else
			buf_u8(b, c);
	}
}

/* --- networks --------------------------------------------------------------------------------- */

int network_parse(struct network *n, struct str s)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct str address = str_cut(&s, '/');
	unsigned long long bits;
	char text[INET6_ADDRSTRLEN + 1];
	bool slash = s.p && s.p > address.p + address.n, v4;

	memset(n, 0, sizeof(*n));
	if (address.n == 0 || address.n >= sizeof(text) || memchr(address.p, '\0', address.n))
		return -EINVAL;
	str_copy(text, sizeof(text), address);
	v4 = inet_pton(AF_INET, text, n->bytes + 12) == 1;
	if (v4)
		memcpy(n->bytes, mapped, sizeof(mapped));
	else if (inet_pton(AF_INET6, text, n->bytes) != 1)
		return -EINVAL;
	bits = v4 ? 32 : 128;
	if (slash && str_number(s, bits, &bits) != 0)
		return -EINVAL;
	n->bits = (uint8_t)(bits + (v4 ? 96 : 0));
	return 0;
}

bool network_has(const struct network *n, const uint8_t address[16])
{
	size_t whole = n->bits / 8u, rest = n->bits % 8u;

	if (memcmp(n->bytes, address, whole) != 0)
		return false;
	return rest == 0 || ((n->bytes[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

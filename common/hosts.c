/* SPDX-License-Identifier: ISC */
/*
 * Reading of smtp-hosts. What it lets through is safe to look up and to print: names are
 * normalised, addresses are bytes. An address without brackets is refused rather than looked up as
 * a name: it is the mistake that PowerMTA's users make most.
 */
#include "common/hosts.h"
#include "common/addr.h"
#include <errno.h>
#include <stdio.h>

static int refuse(char why[200], struct str s, const char *what)
{
	snprintf(
	    why, 200, "\"%.*s\": %s", (int)(s.n < 80 ? s.n : 80), s.p != NULL ? s.p : "", what);
	return -EINVAL;
}

static struct str trim(struct str s)
{
	while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s.p++, s.n--;
	while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

static int take_port(struct str text, uint16_t *port)
{
	unsigned long long value = 0;
	if (str_number(text, 65535, &value) != 0 || value == 0)
		return -EINVAL;
	*port = (uint16_t)value;
	return 0;
}

/* "[addr]" at the start of s, and what stands behind it. */
static int take_literal(struct str *s, struct hosts_entry *e)
{
	const char *end = memchr(s->p, ']', s->n);
	if (end == NULL)
		return -EINVAL;
	struct str inner = {s->p + 1, (size_t)(end - s->p) - 1};
	bool v6 = str_starts_nocase(inner, STR("IPv6:"));
	struct str text = v6 ? (struct str){inner.p + 5, inner.n - 5} : inner;
	char printed[64];
	if (route_address_parse(&e->address, text) != 0 || (e->address.family == 6) != v6)
		return -EINVAL;
	e->kind = HOSTS_ADDRESS;
	route_address_print(printed, &e->address);
	snprintf(e->name, sizeof e->name, "[%s%s]", v6 ? "IPv6:" : "", printed);
	s->n -= (size_t)(end + 1 - s->p);
	s->p = end + 1;
	return 0;
}

static int take_host(struct str s, struct hosts_entry *e, char why[200])
{
	static const struct str lookup = {"lookup-mx:", 10};
	struct str rest = s;
	struct route_address bare;
	if (rest.n > 0 && rest.p[0] == '[') {
		if (take_literal(&rest, e) != 0)
			return refuse(
			    why, s, "is not [192.0.2.1] or [IPv6:2001:db8::1], perhaps with :port");
		if (rest.n > 0 && (rest.p[0] != ':' || rest.n < 2))
			return refuse(why, s, "only :port may stand behind the bracket");
		if (rest.n > 0)
			rest.p++, rest.n--;
	} else {
		if (str_starts_nocase(rest, lookup)) {
			e->kind = HOSTS_LOOKUP_MX;
			rest.p += lookup.n, rest.n -= lookup.n;
		}
		if (route_address_parse(&bare, rest) == 0)
			return refuse(why, s, "write an address in brackets: [192.0.2.1]");
		struct str name = str_cut(&rest, ':');
		char text[DOMAIN_MAX + 1];
		if (route_address_parse(&bare, name) == 0)
			return refuse(why, s, "write an address in brackets: [192.0.2.1]:25");
		if (domain_normalise(text, name) != 0)
			return refuse(why, s, "is not a host name");
		str_copy(e->name, sizeof e->name, str_of(text));
		if (rest.p == s.p + s.n && s.p[s.n - 1] == ':')
			return refuse(why, s, "a port is missing behind the colon");
	}
	if (rest.n > 0 && take_port(rest, &e->port) != 0)
		return refuse(why, s, "the port is not a number from 1 to 65535");
	return 0;
}

int hosts_parse(struct str spec, struct hosts_entry out[HOSTS_MAX], size_t *n, char why[200])
{
	uint8_t level = 0;
	*n = 0;
	for (;;) {
		struct str hosts = str_cut(&spec, ';');
		bool more = spec.p != NULL && spec.p > hosts.p + hosts.n;
		do {
			bool comma = memchr(hosts.p != NULL ? hosts.p : "", ',', hosts.n) != NULL;
			struct str host = trim(str_cut(&hosts, ','));
			if (host.n == 0 || (comma && hosts.n == 0))
				return refuse(
				    why, host, "a host is missing beside a comma or semicolon");
			if (*n == HOSTS_MAX)
				return refuse(why, host, "more than 50 hosts");
			out[*n] = (struct hosts_entry){.level = level};
			int r = take_host(host, &out[*n], why);
			if (r != 0)
				return r;
			++*n;
		} while (hosts.n > 0);
		if (!more)
			return 0;
		level++;
	}
}

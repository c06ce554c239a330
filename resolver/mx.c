/* SPDX-License-Identifier: ISC */
/*
 * The order of mail exchangers and who is none (RFC 5321 5.1, RFC 7505, RFC 3974).
 *
 * - A target that is an address in text is no host and is ignored.
 * - MX records without one usable host are a failure; the domain's own address is no way around
 * them.
 * - If this host is among the MX, it and all that are worse are dropped, or mail would loop: by
 * name, or because an address and the port we deliver to are a listener of ours. Addresses alone do
 * not count: another server may live on this machine on another port.
 * - Addresses that cannot be delivered to are dropped; private ones too where refuse-private-mx
 * says so, since otherwise anyone who owns a domain can point our connections into our own network.
 * - Where some hosts resolve and others do not, those that do are used; a temporary failure counts
 * only when nothing is left.
 *
 * The random choice among equal preferences is qmgr's, at each attempt.
 */
#include "resolver/mx.h"
#include "common/addr.h"
#include <stdio.h>
#include <stdlib.h>

static const struct {
	const char *text;
	bool unusable;
} networks[] = {
    {"0.0.0.0/8", true}, /* connect() to 0.0.0.0 reaches the machine itself */
    {"224.0.0.0/3", true},
    {"::/128", true},
    {"ff00::/8", true},
    {"10.0.0.0/8", false},
    {"100.64.0.0/10", false},
    {"127.0.0.0/8", false},
    {"169.254.0.0/16", false},
    {"172.16.0.0/12", false},
    {"192.0.0.0/24", false},
    {"192.0.2.0/24", false},
    {"192.168.0.0/16", false},
    {"198.18.0.0/15", false},
    {"198.51.100.0/24", false},
    {"203.0.113.0/24", false},
    {"::1/128", false},
    {"64:ff9b:1::/48", false},
    {"2001:db8::/32", false},
    {"fc00::/7", false},
    {"fe80::/10", false},
};

static bool in_networks(const struct route_address *a, bool unusable)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	uint8_t bytes[16];
	if (a->family == 4) {
		memcpy(bytes, mapped, sizeof(mapped));
		memcpy(bytes + 12, a->bytes, 4);
	} else {
		memcpy(bytes, a->bytes, 16);
	}
	for (size_t i = 0; i < COUNT_OF(networks); i++) {
		struct network n;
		must(network_parse(&n, str_of(networks[i].text)) == 0);
		if (networks[i].unusable == unusable && network_has(&n, bytes))
			return true;
	}
	return false;
}

bool mx_address_unusable(const struct route_address *a)
{
	return in_networks(a, true);
}

bool mx_address_private(const struct route_address *a)
{
	return in_networks(a, false);
}

static bool address_eq(const struct route_address *a, const struct route_address *b)
{
	return a->family == b->family && memcmp(a->bytes, b->bytes, a->family == 4 ? 4 : 16) == 0;
}

static bool is_local(const struct mx_rules *rules, const struct route_address *a)
{
	if (a->family == 4 && a->bytes[0] == 127)
		return true;
	for (size_t i = 0; i < rules->local_count; i++) {
		if (address_eq(&rules->local[i], a))
			return true;
	}
	return false;
}

bool mx_is_listener(const struct mx_rules *rules, const struct route_address *a, uint16_t port)
{
	for (size_t i = 0; i < rules->listener_count; i++) {
		const struct mx_endpoint *l = &rules->listeners[i];
		if (l->port == port &&
		    (l->address.family == 0 ? is_local(rules, a) : address_eq(&l->address, a)))
			return true;
	}
	return false;
}

static bool is_self(const struct mx_rules *rules, const struct mx_host *host)
{
	if (rules->host_name[0] != '\0' && strcmp(rules->host_name, host->name) == 0)
		return true;
	for (size_t i = 0; i < host->address_count; i++) {
		if (mx_is_listener(rules, &host->address[i], rules->port))
			return true;
	}
	return false;
}

static bool address_allowed(const struct mx_rules *rules, const struct route_address *a)
{
	return !mx_address_unusable(a) && !(rules->refuse_private && mx_address_private(a));
}

struct tally { /* why a route is not, counted over the candidates */
	bool self, temporary, refused;
	bool absent; /* all candidates are */
};

static void take_host(
    struct mx_route *out, const struct mx_rules *rules, const struct mx_host *host, struct tally *t)
{
	struct route_host *r = &out->hosts[out->host_count];
	*r = (struct route_host){.preference = host->preference, .secure = host->secure};
	for (size_t i = 0; i < host->address_count; i++) {
		bool again = false;
		for (size_t k = 0; k < r->address_count; k++)
			again |= address_eq(&r->address[k], &host->address[i]);
		if (!address_allowed(rules, &host->address[i]))
			t->refused = true;
		else if (!again)
			r->address[r->address_count++] = host->address[i];
	}
	t->temporary |= host->temporary;
	t->absent &= host->absent;
	if (r->address_count == 0)
		return;
	str_copy(r->name, sizeof(r->name), str_of(host->name));
	out->host_count++;
}

static int host_order(const void *va, const void *vb)
{
	const struct route_host *a = va, *b = vb;
	if (a->preference != b->preference)
		return a->preference < b->preference ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* The preference at which our own name or listener stands, or one more than the worst. */
static unsigned self_preference(const struct mx_rules *rules, const struct mx_host *hosts, size_t n)
{
	unsigned least = UINT16_MAX + 1U;
	for (size_t i = 0; i < n; i++) {
		if (is_self(rules, &hosts[i]) && hosts[i].preference < least)
			least = hosts[i].preference;
	}
	return least;
}

/* No host is left: the kind of failure, the one that may pass first. */
static void judge_empty(
    struct mx_route *out, const char *domain, bool implicit, const struct tally *t)
{
	const char *text;
	if (t->temporary) {
		out->class = ROUTE_TEMPORARY;
		text = "name servers fail for the addresses of its mail hosts";
	} else if (t->self) {
		out->class = ROUTE_SELF;
		text = "its mail loops back to this host";
	} else if (t->refused) {
		out->class = ROUTE_NO_HOST;
		text = "its mail hosts have only addresses that are not delivered to";
	} else if (implicit && t->absent) {
		out->class = ROUTE_NO_DOMAIN;
		text = "no such domain";
	} else {
		out->class = ROUTE_NO_HOST;
		text = implicit ? "it has neither an MX record nor an address"
				: "none of its mail hosts has an address";
	}
	snprintf(out->text, sizeof(out->text), "%s: %s", domain, text);
}

void mx_route(struct mx_route *out, const struct mx_rules *rules, const char *domain, bool implicit,
    const struct mx_host *hosts, size_t n)
{
	struct tally tally = {.absent = true};
	unsigned self = self_preference(rules, hosts, n);
	*out =
	    (struct mx_route){.implicit = implicit, .hosts = xcalloc(n + 1, sizeof(*out->hosts))};
	for (size_t i = 0; i < n && out->host_count < ROUTE_HOSTS_MAX; i++) {
		if (hosts[i].preference >= self)
			tally.self = true;
		else if (name_is_address(hosts[i].name))
			tally.absent = false;
		else
			take_host(out, rules, &hosts[i], &tally);
	}
	if (out->host_count == 0) {
		judge_empty(out, domain, implicit, &tally);
		return;
	}
	qsort(out->hosts, out->host_count, sizeof(*out->hosts), host_order);
	out->class = ROUTE_OK;
	snprintf(
	    out->text, sizeof(out->text), "%s", implicit ? "no MX record: the domain itself" : "");
}

int mx_literal(struct mx_route *out, const struct mx_rules *rules, struct str domain)
{
	if (domain.n < 2 || domain.p[0] != '[' || domain.p[domain.n - 1] != ']')
		return 0;
	struct str inner = {domain.p + 1, domain.n - 2};
	struct mx_host host = {.address_count = 1};
	bool v6 = str_starts_nocase(inner, STR("IPv6:"));
	struct str text = v6 ? (struct str){inner.p + 5, inner.n - 5} : inner;
	if (route_address_parse(&host.address[0], text) != 0 ||
	    (host.address[0].family == 6) != v6) {
		*out = (struct mx_route){.class = ROUTE_BAD_NAME};
		snprintf(out->text, sizeof(out->text), "malformed address literal");
		return 1;
	}
	str_copy(host.name, sizeof(host.name), domain);
	mx_route(out, rules, host.name, false, &host, 1);
	return 1;
}

void mx_route_fini(struct mx_route *route)
{
	free(route->hosts);
	*route = (struct mx_route){0};
}

/* SPDX-License-Identifier: ISC */
/*
 * mx-connection-limit and ip-connection-limit: which of their entries speaks of a host or address.
 * A host name goes before a pattern, a longer pattern and a longer prefix before a shorter one.
 * Each host or address that matches has a counter of its own, or one for each source address.
 */
#include "qmgr/core/internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct peer_limit *add(struct peer_limit **list, size_t *n)
{
	*list = xrealloc(*list, (*n + 1) * sizeof(**list));
	(*list)[*n] = (struct peer_limit){0};
	return &(*list)[(*n)++];
}

void peer_configure(struct core *core)
{
	const struct conf_node *root = core->conf->root, *n = NULL;

	peer_fini(core);
	while ((n = conf_next(root, CONF_MX_LIMIT, n))) {
		struct peer_limit *p = add(&core->mx_limits, &core->mx_limit_count);

		p->text = conf_text(n, CO_MX_LIMIT_mx);
		p->limit = (uint32_t)conf_num(n, CO_MX_LIMIT_limit);
		p->per_source = conf_num(n, CO_MX_LIMIT_per) != 0;
		p->origin = conf_get(n, CO_MX_LIMIT_limit);
	}
	n = NULL;
	while ((n = conf_next(root, CONF_IP_LIMIT, n))) {
		struct peer_limit *p = add(&core->ip_limits, &core->ip_limit_count);

		p->text = conf_text(n, CO_IP_LIMIT_ip);
		p->limit = (uint32_t)conf_num(n, CO_IP_LIMIT_limit);
		p->per_source = conf_num(n, CO_IP_LIMIT_per) != 0;
		p->origin = conf_get(n, CO_IP_LIMIT_limit);
		if (network_parse(&p->network, str_of(p->text)) != 0)
			core->ip_limit_count--; /* conf_check() has refused it */
	}
}

void peer_fini(struct core *core)
{
	free(core->mx_limits);
	free(core->ip_limits);
	core->mx_limits = core->ip_limits = NULL;
	core->mx_limit_count = core->ip_limit_count = 0;
}

/* How well: 0, not at all; more is better. */
static size_t match(struct str pattern, struct str host)
{
	if (pattern.n == 0 || pattern.p[0] != '*')
		return str_eq_nocase(pattern, host) ? SIZE_MAX : 0;
	pattern.p++;
	pattern.n--;
	if (host.n <= pattern.n ||
	    !str_eq_nocase((struct str){host.p + host.n - pattern.n, pattern.n}, pattern))
		return 0;
	return pattern.n + 1;
}

const struct peer_limit *peer_limit_mx(const struct core *core, const struct name *host)
{
	const struct peer_limit *best = NULL;
	size_t most = 0;

	for (size_t i = 0; i < core->mx_limit_count; i++) {
		size_t m = match(str_of(core->mx_limits[i].text), name_str(host));

		if (m <= most)
			continue;
		most = m;
		best = &core->mx_limits[i];
	}
	return best;
}

static void widen(uint8_t out[16], const struct route_address *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (a->family != 4) {
		memcpy(out, a->bytes, 16);
		return;
	}
	memcpy(out, mapped, sizeof(mapped));
	memcpy(out + 12, a->bytes, 4);
}

const struct peer_limit *peer_limit_ip(const struct core *core, const struct route_address *a)
{
	const struct peer_limit *best = NULL;
	uint8_t wide[16];

	widen(wide, a);
	for (size_t i = 0; i < core->ip_limit_count; i++) {
		const struct peer_limit *p = &core->ip_limits[i];

		if (network_has(&p->network, wide) &&
		    (!best || p->network.bits > best->network.bits))
			best = p;
	}
	return best;
}

static struct str name_of(
    char out[PEER_NAME_MAX], const struct peer_limit *p, struct str peer, const struct name *source)
{
	int n;

	if (p->per_source)
		n = snprintf(out, PEER_NAME_MAX, "%.*s from %.*s", STR_ARG(peer),
		    STR_ARG(source->n ? name_str(source) : STR("any address")));
	else
		n = snprintf(out, PEER_NAME_MAX, "%.*s", STR_ARG(peer));
	return (struct str){out, (size_t)n < PEER_NAME_MAX ? (size_t)n : PEER_NAME_MAX - 1};
}

struct str peer_mx_name(char out[PEER_NAME_MAX], const struct peer_limit *p,
    const struct name *host, const struct name *source)
{
	return name_of(out, p, name_str(host), source);
}

struct str peer_ip_name(char out[PEER_NAME_MAX], const struct peer_limit *p,
    const struct route_address *address, const struct name *source)
{
	char text[64];

	route_address_print(text, address);
	return name_of(out, p, str_of(text), source);
}

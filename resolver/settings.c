/* SPDX-License-Identifier: ISC */
/*
 * Name servers and the facts that a route is judged by. The AD bit is trusted from name servers on
 * a loopback address only, or where trust-ad says that the path to them is safe: anyone on the path
 * could set it.
 */
#include "resolver/settings.h"
#include "common/log.h"
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_loopback(const struct query_server *s)
{
	if (s->address.ss_family == AF_INET6) {
		struct sockaddr_in6 in;
		memcpy(&in, &s->address, sizeof(in));
		return IN6_IS_ADDR_LOOPBACK(&in.sin6_addr);
	}
	struct sockaddr_in in;
	memcpy(&in, &s->address, sizeof(in));
	return ntohl(in.sin_addr.s_addr) >> 24 == 127;
}

static int take_servers(struct settings *s, const struct conf_node *root, char why[500])
{
	const struct conf_value *list = conf_get(root, CO_GLOBAL_nameservers);
	s->trusted = true;
	if (list->count > SERVERS_MAX)
		log_warn(
		    "only the first %d of %zu name servers are used", SERVERS_MAX, list->count);
	for (size_t i = 0; i < list->count && i < SERVERS_MAX; i++) {
		if (query_server_parse(&s->servers[i], str_of(list->texts[i])) != 0) {
			snprintf(why, 500, "nameservers: '%.200s' is no address or address@port",
			    list->texts[i]);
			return -1;
		}
		s->trusted &= is_loopback(&s->servers[i]);
		s->server_count++;
	}
	if (s->server_count == 0) { /* as resolv.conf(5) has it */
		must(query_server_parse(&s->servers[0], STR("127.0.0.1")) == 0);
		s->server_count = 1;
	}
	if (conf_num(root, CO_GLOBAL_trust_ad) != 0)
		s->trusted = true;
	return 0;
}

static bool is_any(const struct route_address *a)
{
	static const uint8_t zero[16];
	return memcmp(a->bytes, zero, sizeof(zero)) == 0;
}

static void take_listeners(struct mx_rules *rules, const struct conf_node *root)
{
	size_t n = 0;
	const struct conf_node *l = NULL;
	while ((l = conf_next(root, CONF_LISTENER, l)) != NULL)
		n++;
	rules->listeners = xcalloc(n + 1, sizeof(*rules->listeners));
	while ((l = conf_next(root, CONF_LISTENER, l)) != NULL) {
		struct mx_endpoint *e = &rules->listeners[rules->listener_count];
		if (route_address_parse(&e->address, str_of(conf_text(l, CO_LISTENER_address))) !=
		    0)
			continue;
		if (is_any(&e->address))
			e->address.family = 0;
		e->port = (uint16_t)conf_num(l, CO_LISTENER_port);
		rules->listener_count++;
	}
}

static void take_zones(struct settings *s, const struct conf_node *root)
{
	const struct conf_value *list = conf_get(root, CO_GLOBAL_dns_blocklists);
	s->zones = xcalloc(ZONES_MAX, sizeof(*s->zones));
	if (list->count > ZONES_MAX)
		log_warn(
		    "only the first %d of %zu dns-blocklists are asked", ZONES_MAX, list->count);
	for (size_t i = 0; i < list->count && s->zone_count < ZONES_MAX; i++)
		if (name_from_text(s->zones[s->zone_count], str_of(list->texts[i])) == 0)
			s->zone_count++;
}

struct settings *settings_new(
    const struct conf *conf, struct route_address *local, size_t local_count, char why[500])
{
	struct settings *s = xcalloc(1, sizeof(*s));
	if (take_servers(s, conf->root, why) != 0) {
		settings_free(&s);
		return NULL;
	}
	str_copy(s->rules.host_name, sizeof(s->rules.host_name),
	    str_of(conf_text(conf->root, CO_GLOBAL_host_name)));
	s->rules.port = (uint16_t)conf_num(conf->root, CO_GLOBAL_default_smtp_port);
	s->rules.refuse_private = conf_num(conf->root, CO_GLOBAL_refuse_private_mx) != 0;
	s->rules.local = local;
	s->rules.local_count = local_count;
	take_listeners(&s->rules, conf->root);
	take_zones(s, conf->root);
	return s;
}

void settings_free(struct settings **settings)
{
	struct settings *s = *settings;
	*settings = NULL;
	if (s == NULL)
		return;
	free(s->rules.listeners);
	free(s->zones);
	free(s);
}

/* SPDX-License-Identifier: ISC */
/*
 * posternctl resolver: status, resolve, flush. `resolve` goes the way that qmgr's questions go,
 * cache included, and answers when the route is there.
 */
#include "common/addr.h"
#include "common/control.h"
#include "resolver/resolver.h"
#include "resolver/settings.h"
#include <stdlib.h>
#include <sysexits.h>

static json_t *server_row(const struct query_server_view *s)
{
	return json_pack("{s:s, s:b, s:I, s:I, s:I, s:f}", "server", s->text, "dead", s->dead,
	    "sent", (json_int_t)s->sent, "answered", (json_int_t)s->answered, "timeouts",
	    (json_int_t)s->timeouts, "srtt_ms", s->srtt_ms);
}

static void set_number(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

static json_t *query_row(const struct resolver *r)
{
	struct query_stats q;
	json_t *row = json_object();
	queries_stats(r->queries, &q);
	set_number(row, "questions", q.asked);
	set_number(row, "from_cache", q.cached);
	set_number(row, "packets_sent", q.sent);
	set_number(row, "answered", q.answered);
	set_number(row, "failed", q.failed);
	set_number(row, "timeouts", q.timeouts);
	set_number(row, "server_failures", q.refused);
	set_number(row, "malformed", q.malformed);
	set_number(row, "spoofed", q.spoofed);
	set_number(row, "tcp", q.tcp);
	set_number(row, "in_flight", q.in_flight);
	set_number(row, "waiting", q.waiting);
	set_number(row, "cache_entries", q.cache_entries);
	set_number(row, "cache_bytes", q.cache_bytes);
	return row;
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct resolver *r = ctx;
	struct routes_stats routes;
	struct query_server_view server;
	(void)args;
	(void)options;
	routes_stats(r->routes, &routes);
	json_t *row = query_row(r);
	set_number(row, "domains_at_work", routes.at_work);
	set_number(row, "domains_waiting", routes.waiting);
	set_number(row, "deadlines", routes.deadlines);
	set_number(row, "overloads", routes.overloads);
	json_t *routed = json_object();
	for (unsigned c = 0; c < ROUTE_CLASS_COUNT; c++)
		set_number(routed, route_class_name(c), routes.resolved[c]);
	json_object_set_new(row, "routes", routed);
	json_t *servers = json_array();
	for (size_t i = 0; queries_server(r->queries, i, &server); i++)
		json_array_append_new(servers, server_row(&server));
	json_object_set_new(row, "servers", servers);
	json_object_set_new(row, "trust_ad", json_boolean(r->used != NULL && r->used->trusted));
	json_object_set_new(row, "qmgr", json_boolean(r->qmgr != NULL));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

/* --- resolve ----------------------------------------------------------------------------- */

struct look {
	struct route_wait wait; /* one of the two waits */
	struct fixed_wait fixed;
	struct control_reply *reply;
	char domain[DOMAIN_MAX + 1];
};

static json_t *host_row(
    const char *domain, const struct mx_route *route, const struct route_host *h)
{
	json_t *addresses = json_array();
	for (unsigned i = 0; i < h->address_count; i++) {
		char text[64];
		route_address_print(text, &h->address[i]);
		json_array_append_new(addresses, json_string(text));
	}
	json_t *row = json_pack("{s:s, s:s, s:i, s:s, s:o, s:I, s:b}", "domain", domain, "class",
	    route_class_name(route->class), "preference", (int)h->preference, "host", h->name,
	    "addresses", addresses, "ttl", (json_int_t)route->ttl_s, "secure", h->secure != 0);
	if (h->port != 0)
		json_object_set_new(row, "port", json_integer(h->port));
	if (route->implicit)
		json_object_set_new(row, "implicit", json_true());
	return row;
}

static void on_look_done(void *arg, const struct mx_route *route)
{
	struct look *look = arg;
	for (size_t i = 0; i < route->host_count; i++)
		control_row(look->reply, host_row(look->domain, route, &route->hosts[i]));
	if (route->class == ROUTE_OK) {
		control_end(look->reply, EX_OK, "%s", "");
	} else {
		control_row(look->reply, json_pack("{s:s, s:s, s:I, s:s}", "domain", look->domain,
					     "class", route_class_name(route->class), "ttl",
					     (json_int_t)route->ttl_s, "text", route->text));
		control_end(look->reply,
		    route->class == ROUTE_TEMPORARY ? EX_TEMPFAIL : EX_UNAVAILABLE, "%s",
		    route->text);
	}
	free(look);
}

static void on_look_gone(void *arg)
{
	struct look *look = arg;
	routes_cancel(&look->wait);
	fixed_cancel(&look->fixed);
	free(look);
}

static void verb_resolve(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct resolver *r = ctx;
	struct str domain = str_of(json_string_value(json_array_get(args, 0)));
	struct look *look = xcalloc(1, sizeof(*look));
	const char *hosts = control_option(options, "hosts");
	look->reply = reply;
	look->wait = (struct route_wait){.fn = on_look_done, .arg = look};
	/* What cannot be normalised goes on as it is: the answer says that it is no host name. */
	if (domain.n == 0 || domain.p[0] == '[' || domain_normalise(look->domain, domain) != 0)
		str_copy(look->domain, sizeof(look->domain), domain);
	control_later(reply, on_look_gone, look);
	look->fixed = (struct fixed_wait){.fn = on_look_done, .arg = look};
	if (hosts != NULL)
		fixed_ask(r->fixed, str_of(hosts), &look->fixed);
	else
		routes_ask(r->routes, str_of(look->domain), &look->wait);
}

static void verb_flush(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct resolver *r = ctx;
	char name[NAME_TEXT];
	const char *text = json_string_value(json_array_get(args, 0));
	(void)options;
	if (text != NULL && name_from_text(name, str_of(text)) != 0) {
		control_end(reply, EX_USAGE, "not a host name");
		return;
	}
	size_t n = queries_flush(r->queries, text != NULL ? name : NULL);
	control_row(reply, json_pack("{s:I}", "flushed", (json_int_t)n));
	control_end(reply, EX_OK, "%s", "");
}

const struct control_verb resolver_verbs[] = {
    {"status", "status", "counters, cache and name servers", 0, 0, verb_status},
    {"resolve", "resolve DOMAIN [--hosts=SMTP-HOSTS]",
	"where mail for DOMAIN goes, as qmgr would be told; with --hosts: by that fixed route", 1,
	1, verb_resolve},
    {"flush", "flush [DOMAIN]", "forget what is cached of DOMAIN and its mail hosts, or everything",
	0, 1, verb_flush},
};
const size_t resolver_verb_count = COUNT_OF(resolver_verbs);

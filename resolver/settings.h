/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "resolver/mx.h"
#include "resolver/query.h"
/* What the resolver takes from the configuration, whole: made at reload beside the one in use. */
enum { ZONES_MAX = 16 /* of blocklists: bounds the questions about one address */ };
struct settings {
	char (*zones)[NAME_TEXT]; /* owned */
	size_t zone_count;
	struct query_server servers[SERVERS_MAX];
	size_t server_count;
	bool trusted; /* the AD bit counts */
	struct mx_rules rules;
};
/* NULL, with `why`, when it cannot be used. `local` is borrowed. */
struct settings *settings_new(
    const struct conf *conf, struct route_address *local, size_t local_count, char why[500]);
void settings_free(struct settings **settings);

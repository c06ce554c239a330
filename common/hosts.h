/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/route.h"
#include "common/str.h"
/*
 * The text of smtp-hosts: hosts of one level with commas between, levels with semicolons. Read
 * alike by the check of the configuration and by the resolver.
 *
 *   host.example.com          its addresses
 *   [192.0.2.1] [IPv6:2001:db8::1]
 *   lookup-mx:example.com     the MX hosts of that name stand for this host
 *   … :2525                   behind each of them: the port
 */
enum hosts_kind { HOSTS_NAME, HOSTS_ADDRESS, HOSTS_LOOKUP_MX };
enum { HOSTS_MAX = 50 /* of one route: bounds the questions that one destination can cause */ };
struct hosts_entry {
	enum hosts_kind kind;
	uint8_t level;	/* from 0, the one tried first */
	uint16_t port;	/* 0: default-smtp-port */
	char name[256]; /* NAME, LOOKUP_MX; of ADDRESS its text in brackets */
	struct route_address address;
};
/* 0, or -EINVAL with `why`. *n entries, in the order of the text: at least one. */
int hosts_parse(
    struct str spec, struct hosts_entry out[HOSTS_MAX], size_t *n, char why[200]) MUST_USE;

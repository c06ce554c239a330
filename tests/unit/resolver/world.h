/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/loop.h"
#include "resolver/query.h"
#include "tests/unit/resolver/packet.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
/*
 * A name server with a table of facts, in the same loop as what is tested. What it does not name
 * does not exist; "fail" answers SERVFAIL.
 */
struct world_fact {
	const char *name;
	uint16_t type;
	const char *value; /* addresses, names or "PREF NAME", with commas between */
};
static struct {
	const struct world_fact *facts;
	struct loop *loop;
	struct queries *queries;
	struct loop_fd io;
	int fd;
	unsigned asked;
} world;

static inline size_t world_question(const uint8_t *p, char name[256])
{
	size_t at = 12, used = 0;
	while (p[at] != 0) {
		if (used > 0)
			name[used++] = '.';
		memcpy(name + used, p + at + 1, p[at]);
		used += p[at];
		at += (size_t)p[at] + 1;
	}
	name[used] = 0;
	return at + 1;
}

static inline void world_record(
    struct packet *k, const char *owner, uint16_t type, struct str value)
{
	struct route_address a;
	unsigned long long preference = 0;
	char name[256];
	size_t at = pk_rr(k, AT_ANSWERS, owner, type, 60);
	if (type == RR_A || type == RR_AAAA) {
		assert_int_equal(route_address_parse(&a, value), 0);
		pk_bytes(k, a.bytes, a.family == 4 ? 4 : 16);
	} else {
		if (type == RR_MX) {
			assert_int_equal(str_number(str_cut(&value, ' '), 65535, &preference), 0);
			pk_u16(k, (unsigned)preference);
		}
		str_copy(name, sizeof name, value);
		pk_name(k, name);
	}
	pk_end(k, at);
}

/* Follows CNAME facts of the same world, as a recursive server does. */
static inline void world_answer(struct packet *k, const char *name, uint16_t type)
{
	bool exists = false;
	for (const struct world_fact *f = world.facts; f->name != NULL; f++) {
		if (strcmp(f->name, name) != 0)
			continue;
		exists = true;
		if (strcmp(f->value, "fail") == 0) {
			pk_set16(k, 2, 0x8182);
			return;
		}
		if (f->type == RR_CNAME && type != RR_CNAME) {
			world_record(k, name, RR_CNAME, str_of(f->value));
			world_answer(k, f->value, type);
			return;
		}
		struct str values = str_of(f->value);
		while (f->type == type && values.n > 0)
			world_record(k, name, type, str_cut(&values, ','));
	}
	if (!exists)
		pk_set16(k, 2, 0x8183);
}

static inline void world_on_query(void *arg, uint32_t events)
{
	static struct packet k;
	uint8_t query[600];
	char name[256];
	struct sockaddr_in from;
	socklen_t from_n = sizeof from;
	(void)arg;
	(void)events;
	ssize_t n =
	    recvfrom(world.fd, query, sizeof query, 0, (struct sockaddr *)(void *)&from, &from_n);
	if (n < 17)
		return;
	world.asked++;
	size_t end = world_question(query, name);
	k.n = 0;
	pk_bytes(&k, query, end + 4);
	pk_set16(&k, 2, 0x8180);
	pk_set16(&k, 10, 0);
	world_answer(&k, name, (uint16_t)(query[end] << 8 | query[end + 1]));
	sendto(world.fd, k.p, k.n, 0, (struct sockaddr *)(void *)&from, from_n);
}

static inline void world_open(const struct world_fact *facts)
{
	static const struct query_timing quick = {
	    .first_ms = 1000, .rounds = 2, .deadline_ms = 5000, .dead_ms = 100};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000001)}};
	socklen_t n = sizeof in;
	char text[64];
	struct query_server server;
	world.facts = facts;
	world.asked = 0;
	world.loop = loop_new();
	world.queries = queries_new(world.loop, &quick);
	world.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(world.fd, (struct sockaddr *)(void *)&in, n), 0);
	assert_int_equal(getsockname(world.fd, (struct sockaddr *)(void *)&in, &n), 0);
	assert_int_equal(
	    loop_add(world.loop, &world.io, world.fd, EPOLLIN, world_on_query, NULL), 0);
	snprintf(text, sizeof text, "127.0.0.1@%u", ntohs(in.sin_port));
	assert_int_equal(query_server_parse(&server, str_of(text)), 0);
	queries_use(world.queries, &server, 1, true);
}

static inline void world_close(void)
{
	queries_free(&world.queries);
	loop_del(&world.io);
	close(world.fd);
	loop_free(&world.loop);
}

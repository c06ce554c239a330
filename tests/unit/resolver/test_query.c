/* SPDX-License-Identifier: ISC */
/*
 * The exchange with real sockets against a server of our own in a thread. The first label of a
 * question says how it behaves.
 */
#include "common/check.h"
#include "resolver/query.h"
#include "tests/unit/resolver/packet.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { PORT = 5343, SPOOFS = 100000 };
static const struct query_timing quick = {
    .first_ms = 150, .rounds = 2, .deadline_ms = 5000, .dead_ms = 2000};

/* --- the server -------------------------------------------------------------------------- */

struct server {
	pthread_t thread;
	int udp, other, tcp; /* other: the same address, another port; tcp -1: refused */
	const char *always;  /* behaviour whatever the question says, or NULL */
	atomic_bool stop;
	atomic_uint asked;
};

static void reply_to(struct packet *k, const uint8_t *query, size_t n, unsigned flags)
{
	size_t question = 12;
	while (question < n && query[question] != 0)
		question += (size_t)query[question] + 1;
	k->n = 0;
	pk_bytes(k, query, question + 5);
	pk_set16(k, 2, flags);
	pk_set16(k, 10, 0);
}

static void add_a(struct packet *k, unsigned last)
{
	pk_count(k, AT_ANSWERS);
	pk_u16(k, 0xc00c);
	pk_u16(k, RR_A);
	pk_u16(k, 1);
	pk_u32(k, 60);
	pk_u16(k, 4);
	pk_u32(k, 0x08080800UL | last);
}

static bool is(const struct server *s, const uint8_t *query, const char *label)
{
	if (s->always != NULL)
		return strcmp(s->always, label) == 0;
	return query[12] == strlen(label) && memcmp(query + 13, label, strlen(label)) == 0;
}

static void on_query(
    struct server *s, const uint8_t *query, size_t n, const struct sockaddr_in *from)
{
	static struct packet k;
	const struct sockaddr *to = (const struct sockaddr *)from;
	socklen_t to_n = sizeof(*from);
	unsigned flags = 0x8180;
	bool answer = true;
	atomic_fetch_add(&s->asked, 1);
	if (is(s, query, "silent"))
		return;
	if (is(s, query, "servfail"))
		flags = 0x8182, answer = false;
	else if (is(s, query, "refused"))
		flags = 0x8185, answer = false;
	else if (is(s, query, "ad"))
		flags = 0x81a0;
	else if (is(s, query, "nxdomain"))
		flags = 0x8183, answer = false;
	else if (is(s, query, "tc") || is(s, query, "tcrefused") || is(s, query, "tchalf") ||
		 is(s, query, "tcshort") || is(s, query, "tcwrong"))
		flags = 0x8380, answer = false;
	else if (is(s, query, "oldserver") && query[11] != 0)
		flags = 0x8181, answer = false;
	reply_to(&k, query, n, flags);
	if (is(s, query, "wrongid")) { /* a false one before the true one */
		add_a(&k, 66);
		k.p[0] ^= 1;
		sendto(s->udp, k.p, k.n, 0, to, to_n);
		reply_to(&k, query, n, flags);
	} else if (is(s, query, "wrongquestion")) {
		add_a(&k, 66);
		k.p[13] ^= 1;
		sendto(s->udp, k.p, k.n, 0, to, to_n);
		reply_to(&k, query, n, flags);
	} else if (is(s, query, "wrongport")) {
		add_a(&k, 66);
		sendto(s->other, k.p, k.n, 0, to, to_n);
		reply_to(&k, query, n, flags);
	} else if (is(s, query, "othercase")) {
		k.p[13] = 'O';
	} else if (is(s, query, "garbage")) {
		add_a(&k, 66);
		k.n -= 2;
		sendto(s->udp, k.p, k.n, 0, to, to_n);
		return;
	} else if (is(s, query,
		       "flood")) { /* all wrong: the right answer is to be had by TCP only */
		add_a(&k, 66);
		uint16_t right = (uint16_t)((unsigned)k.p[0] << 8 | k.p[1]);
		for (unsigned i = 0; i < SPOOFS; i++) {
			if ((i & 0xffff) == right)
				continue;
			pk_set16(&k, 0, i);
			sendto(s->udp, k.p, k.n, 0, to, to_n);
		}
		return;
	}
	if (answer)
		add_a(&k, 1);
	sendto(s->udp, k.p, k.n, 0, to, to_n);
}

static void on_stream(struct server *s, int fd)
{
	static struct packet k;
	uint8_t query[600], length[2];
	ssize_t n = recv(fd, length, 2, MSG_WAITALL);
	if (n == 2)
		n = recv(fd, query, (size_t)length[0] << 8 | length[1], MSG_WAITALL);
	if (n < 17)
		return;
	reply_to(&k, query, (size_t)n, 0x8180);
	add_a(&k, 2);
	if (is(s, query, "tcwrong"))
		k.p[0] ^= 1;
	length[0] = (uint8_t)(k.n >> 8);
	length[1] = (uint8_t)k.n;
	if (is(s, query, "tcshort"))
		length[1] = 3;
	send(fd, length, 1, MSG_NOSIGNAL); /* in pieces, as TCP may */
	send(fd, length + 1, 1, MSG_NOSIGNAL);
	send(fd, k.p, is(s, query, "tchalf") ? k.n / 2 : k.n, MSG_NOSIGNAL);
}

static void *serve(void *arg)
{
	struct server *s = arg;
	while (!atomic_load(&s->stop)) {
		struct pollfd fds[2] = {{s->udp, POLLIN, 0}, {s->tcp, POLLIN, 0}};
		poll(fds, 2, 20);
		if (fds[0].revents & POLLIN) {
			uint8_t query[600];
			struct sockaddr_in from;
			socklen_t from_n = sizeof(from);
			ssize_t n = recvfrom(
			    s->udp, query, sizeof(query), 0, (struct sockaddr *)&from, &from_n);
			if (n >= 17)
				on_query(s, query, (size_t)n, &from);
		}
		if (fds[1].revents & POLLIN) {
			int fd = accept(s->tcp, NULL, NULL);
			on_stream(s, fd);
			close(fd);
		}
	}
	return NULL;
}

static int bound(int type, const char *address, uint16_t port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	inet_pton(AF_INET, address, &in.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, 10), 0);
	return fd;
}

static void server_start(struct server *s, const char *address, const char *always, bool tcp)
{
	*s = (struct server){.always = always, .tcp = -1};
	s->udp = bound(SOCK_DGRAM, address, PORT);
	s->other = bound(SOCK_DGRAM, address, PORT + 1);
	if (tcp)
		s->tcp = bound(SOCK_STREAM, address, PORT);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	close(s->udp);
	close(s->other);
	if (s->tcp >= 0)
		close(s->tcp);
}

/* --- the client -------------------------------------------------------------------------- */

static struct loop *loop;
static struct queries *queries;

struct outcome {
	bool told;
	enum answer_status status;
	unsigned last; /* octet of the first address */
	bool secure;
};

static void on_answer(
    void *arg, struct query_wait *w, const struct answer *a, uint32_t ttl, bool secure)
{
	struct outcome *o = arg;
	(void)w;
	(void)ttl;
	assert_false(o->told);
	*o = (struct outcome){true, a->status, a->count > 0 ? a->address[0].bytes[3] : 0, secure};
}

static struct outcome ask(const char *name)
{
	struct outcome o = {0};
	struct query_wait wait = {.fn = on_answer, .arg = &o};
	uint32_t ttl;
	bool secure;
	const struct answer *a = queries_ask(queries, name, RR_A, &wait, &ttl, &secure);
	if (a != NULL)
		on_answer(&o, &wait, a, ttl, secure);
	while (!o.told)
		loop_turn(loop);
	return o;
}

static void open_queries(const char *const *servers, size_t n)
{
	struct query_server list[SERVERS_MAX];
	loop = loop_new();
	queries = queries_new(loop, &quick);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(query_server_parse(&list[i], str_of(servers[i])), 0);
	queries_use(queries, list, n, true);
}

static void close_queries(void)
{
	queries_free(&queries);
	loop_free(&loop);
}

static void one_server(void **state)
{
	static const struct {
		const char *name;
		enum answer_status status;
		unsigned last;
	} cases[] = {
	    {"plain.example", ANSWER_OK, 1},
	    {"othercase.example", ANSWER_OK, 1},
	    {"wrongid.example", ANSWER_OK, 1},
	    {"wrongquestion.example", ANSWER_OK, 1},
	    {"wrongport.example", ANSWER_OK, 1},
	    {"servfail.example", ANSWER_FAILED, 0},
	    {"refused.example", ANSWER_FAILED, 0},
	    {"nxdomain.example", ANSWER_NXDOMAIN, 0},
	    {"garbage.example", ANSWER_FAILED, 0},
	    {"oldserver.example", ANSWER_OK, 1},
	    {"tc.example", ANSWER_OK, 2},
	    {"tchalf.example", ANSWER_FAILED, 0},
	    {"tcshort.example", ANSWER_FAILED, 0},
	    {"tcwrong.example", ANSWER_FAILED, 0},
	    {"flood.example", ANSWER_OK, 2},
	    {"silent.example", ANSWER_FAILED, 0},
	};
	struct server server;
	struct query_stats stats;
	(void)state;
	server_start(&server, "127.0.43.1", NULL, true);
	open_queries((const char *[]){"127.0.43.1@5343"}, 1);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct outcome o = ask(cases[i].name);
		if (o.status != cases[i].status || o.last != cases[i].last)
			fail_msg("%s: status %d, address %u", cases[i].name, o.status, o.last);
	}
	queries_stats(queries, &stats);
	assert_true(stats.spoofed >= 3);
	assert_int_equal(stats.in_flight, 0);
	unsigned asked = atomic_load(&server.asked);
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		(void)ask(cases[i].name); /* all from the cache, failures too */
	assert_int_equal(atomic_load(&server.asked), asked);
	close_queries();
	server_stop(&server);
}

static void tcp_refused(void **state)
{
	struct server server;
	(void)state;
	server_start(&server, "127.0.43.2", NULL, false);
	open_queries((const char *[]){"127.0.43.2@5343"}, 1);
	assert_int_equal(ask("tcrefused.example").status, ANSWER_FAILED);
	close_queries();
	server_stop(&server);
}

/* Whatever is wrong with the first, the second answers; nobody listens on .9. */
static void the_next_server(void **state)
{
	static const char *const wrong[] = {
	    "servfail", "refused", "garbage", "silent", "tcrefused"};
	struct server good;
	(void)state;
	server_start(&good, "127.0.43.3", "plain", true);
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		struct server bad;
		server_start(&bad, "127.0.43.4", wrong[i], false);
		open_queries((const char *[]){"127.0.43.4@5343", "127.0.43.3@5343"}, 2);
		if (ask("a.example").status != ANSWER_OK || ask("b.example").status != ANSWER_OK)
			fail_msg("%s", wrong[i]);
		close_queries();
		server_stop(&bad);
	}
	open_queries((const char *[]){"127.0.43.9@5343", "127.0.43.3@5343"}, 2);
	assert_int_equal(ask("a.example").status, ANSWER_OK);
	close_queries();
	server_stop(&good);
}

static void a_dead_server_is_asked_last(void **state)
{
	struct server good, dead;
	char name[32];
	(void)state;
	server_start(&good, "127.0.43.5", "plain", true);
	server_start(&dead, "127.0.43.6", "silent", false);
	open_queries((const char *[]){"127.0.43.6@5343", "127.0.43.5@5343"}, 2);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "n%d.example", i);
		assert_int_equal(ask(name).status, ANSWER_OK);
	}
	assert_int_equal(atomic_load(&dead.asked), 2); /* twice silent: no more for a while */
	close_queries();
	server_stop(&good);
	server_stop(&dead);
}

/* The same question from many, and more different ones than may fly at once: each is told once. */
static void many_at_once(void **state)
{
	enum { N = 3000, SAME = 50 };
	struct outcome *outcomes = calloc(N, sizeof(*outcomes));
	struct query_wait *waits = calloc(N, sizeof(*waits));
	struct server server;
	uint32_t ttl;
	bool secure;
	(void)state;
	server_start(&server, "127.0.43.7", "plain", true);
	open_queries((const char *[]){"127.0.43.7@5343"}, 1);
	for (int i = 0; i < N; i++) {
		char name[32];
		snprintf(name, sizeof(name), "n%d.example", i < SAME ? 0 : i);
		waits[i] = (struct query_wait){.fn = on_answer, .arg = &outcomes[i]};
		assert_null(queries_ask(queries, name, RR_A, &waits[i], &ttl, &secure));
	}
	queries_cancel(&waits[1]);
	queries_cancel(&waits[N - 1]);
	for (int i = 0; i < N; i++) {
		while (i != 1 && i != N - 1 && !outcomes[i].told)
			loop_turn(loop);
		if (i != 1 && i != N - 1)
			assert_int_equal(outcomes[i].status, ANSWER_OK);
	}
	assert_false(outcomes[1].told);
	close_queries();
	server_stop(&server);
	free(outcomes);
	free(waits);
}

static void without_servers_it_fails(void **state)
{
	(void)state;
	open_queries(NULL, 0);
	assert_int_equal(ask("a.example").status, ANSWER_FAILED);
	close_queries();
}

/* AD counts only where the server is trusted, also from the cache. */
static void the_ad_bit(void **state)
{
	struct server server;
	(void)state;
	server_start(&server, "127.0.43.8", NULL, false);
	for (int trusted = 0; trusted < 2; trusted++) {
		struct query_server at;
		open_queries(NULL, 0);
		assert_int_equal(query_server_parse(&at, STR("127.0.43.8@5343")), 0);
		queries_use(queries, &at, 1, trusted);
		for (int cached = 0; cached < 2; cached++) {
			assert_int_equal(ask("ad.example").secure, trusted);
			assert_false(ask("plain.example").secure);
		}
		close_queries();
	}
	server_stop(&server);
}

static void server_texts(void **state)
{
	struct query_server s;
	(void)state;
	assert_int_equal(query_server_parse(&s, STR("192.0.2.1")), 0);
	assert_string_equal(s.text, "192.0.2.1@53");
	assert_int_equal(query_server_parse(&s, STR("::1@5353")), 0);
	assert_string_equal(s.text, "::1@5353");
	assert_int_equal(query_server_parse(&s, STR("ns.example")), -EINVAL);
	assert_int_equal(query_server_parse(&s, STR("192.0.2.1@0")), -EINVAL);
	assert_int_equal(query_server_parse(&s, STR("192.0.2.1@65536")), -EINVAL);
	assert_int_equal(query_server_parse(&s, STR("")), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_server),
	    cmocka_unit_test(tcp_refused),
	    cmocka_unit_test(the_next_server),
	    cmocka_unit_test(a_dead_server_is_asked_last),
	    cmocka_unit_test(many_at_once),
	    cmocka_unit_test(without_servers_it_fails),
	    cmocka_unit_test(the_ad_bit),
	    cmocka_unit_test(server_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * Both ends of TLS in memory: handshake, data, resumption in both versions, bytes one at a time,
 * garbage, truncation, bounds. The version is chosen by OpenSSL's configuration file, which
 * tls_init() reads.
 */
#include "common/tls.h"
#include "tests/unit/common/test_cert.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const char *version = "TLSv1.3";

struct pair {
	struct tls *client, *server;
	struct buf to_client, to_server;       /* ciphertext under way */
	struct buf client_plain, server_plain; /* decrypted */
};

static struct tls_context *server_context(void)
{
	char err[256];
	struct tls_context *c =
	    tls_server_context(str_of(test_cert_pem), str_of(test_key_pem), err);
	assert_non_null(c);
	return c;
}

static struct tls_context *client_context(const char *ca)
{
	char err[256];
	struct tls_context *c = tls_client_context(str_of(ca), err);
	assert_non_null(c);
	return c;
}

static void pair_init(
    struct pair *p, struct tls_context *client, struct tls_context *server, const char *key)
{
	memset(p, 0, sizeof(*p));
	p->client = tls_connect(client, STR("mx.test.example"), str_of(key));
	p->server = tls_accept(server);
	buf_init(&p->to_client, 1 << 22);
	buf_init(&p->to_server, 1 << 22);
	buf_init(&p->client_plain, 1 << 22);
	buf_init(&p->server_plain, 1 << 22);
}

static void pair_fini(struct pair *p)
{
	tls_free(&p->client);
	tls_free(&p->server);
	buf_fini(&p->to_client);
	buf_fini(&p->to_server);
	buf_fini(&p->client_plain);
	buf_fini(&p->server_plain);
}

/* Moves bytes both ways, `step` at a time, until both are silent. */
static void pump(struct pair *p, size_t step)
{
	struct buf empty;
	buf_init(&empty, 1);
	tls_feed(p->client, &empty, &p->client_plain, &p->to_server);
	while (p->to_client.n > 0 || p->to_server.n > 0) {
		struct buf some;
		buf_init(&some, 1 << 22);
		size_t n = p->to_server.n < step ? p->to_server.n : step;
		buf_put(&some, p->to_server.p, n);
		buf_consume(&p->to_server, n);
		tls_feed(p->server, &some, &p->server_plain, &p->to_client);
		assert_int_equal(some.n, 0);
		n = p->to_client.n < step ? p->to_client.n : step;
		buf_put(&some, p->to_client.p, n);
		buf_consume(&p->to_client, n);
		tls_feed(p->client, &some, &p->client_plain, &p->to_server);
		buf_fini(&some);
	}
}

static void say(struct pair *p, const char *text)
{
	assert_int_equal(tls_write(p->client, text, strlen(text), &p->to_server), 0);
	pump(p, 1 << 20);
	assert_int_equal(p->server_plain.n, strlen(text));
	assert_memory_equal(p->server_plain.p, text, strlen(text));
	buf_reset(&p->server_plain);
	assert_int_equal(tls_write(p->server, text, strlen(text), &p->to_client), 0);
	pump(p, 1 << 20);
	assert_int_equal(p->client_plain.n, strlen(text));
	buf_reset(&p->client_plain);
}

static void test_talk(void **state)
{
	(void)state;
	static const size_t steps[] = {1, 7, 1000, 1 << 20};
	struct tls_context *c = client_context(""), *s = server_context();
	for (size_t i = 0; i < COUNT_OF(steps); i++) {
		struct pair p;
		pair_init(&p, c, s, "");
		assert_int_equal(tls_write(p.client, "x", 1, &p.to_server), -EPROTO);
		pump(&p, steps[i]);
		assert_int_equal(tls_state(p.client), TLS_OPEN);
		assert_int_equal(tls_state(p.server), TLS_OPEN);
		say(&p, "EHLO out.example\r\n");
		tls_shutdown(p.client, &p.to_server);
		pump(&p, steps[i]);
		assert_int_equal(tls_state(p.server), TLS_CLOSED);
		pair_fini(&p);
	}
	tls_context_free(&c);
	tls_context_free(&s);
}

/* More plaintext than one record, through a small `plain`: nothing is lost, tls_pending() tells. */
static void test_bounded_plain(void **state)
{
	(void)state;
	enum { BYTES = 300000, ROOM = 1000 };
	struct tls_context *c = client_context(""), *s = server_context();
	struct pair p;
	pair_init(&p, c, s, "");
	pump(&p, 1 << 20);
	unsigned char *bytes = malloc(BYTES);
	for (size_t i = 0; i < BYTES; i++)
		bytes[i] = (unsigned char)(i * 7 + i / 251);
	assert_int_equal(tls_write(p.client, bytes, BYTES, &p.to_server), 0);
	struct buf plain;
	buf_init(&plain, ROOM);
	size_t got = 0;
	while (p.to_server.n > 0 || tls_pending(p.server)) {
		assert_int_equal(tls_feed(p.server, &p.to_server, &plain, &p.to_client), TLS_OPEN);
		assert_true(plain.n <= ROOM && !plain.failed);
		assert_memory_equal(plain.p, bytes + got, plain.n);
		got += plain.n;
		buf_reset(&plain);
	}
	assert_int_equal(got, BYTES);
	buf_fini(&plain);
	free(bytes);
	pair_fini(&p);
	tls_context_free(&c);
	tls_context_free(&s);
}

static void connect_once(
    struct tls_context *c, struct tls_context *s, const char *key, bool resumed)
{
	struct pair p;
	char text[200];
	pair_init(&p, c, s, key);
	pump(&p, 1 << 20);
	assert_int_equal(tls_state(p.client), TLS_OPEN);
	assert_int_equal(tls_resumed(p.client), resumed);
	assert_int_equal(tls_resumed(p.server), resumed);
	tls_describe(p.client, text, sizeof(text));
	assert_int_equal(strstr(text, " resumed") != NULL, resumed);
	assert_non_null(strstr(text, version));
	say(&p, "MAIL\r\n");
	pair_fini(&p);
}

static void test_resumption(void **state)
{
	(void)state;
	struct tls_context *c = client_context(""), *s = server_context();
	connect_once(c, s, "mx|1", false);
	connect_once(c, s, "mx|1", true);
	connect_once(c, s, "mx|1", true);
	connect_once(c, s, "mx|2", false); /* another key: another session */
	connect_once(c, s, "", false);
	tls_context_free(&s);
	s = server_context(); /* restarted: its ticket keys are new */
	connect_once(c, s, "mx|1", false);
	connect_once(c, s, "mx|1", true);
	tls_context_free(&c);
	tls_context_free(&s);
}

/* More hosts than the cache holds: the one that was not used for the longest time has gone. */
static void test_cache_is_bounded(void **state)
{
	(void)state;
	struct tls_context *c = client_context(""), *s = server_context();
	connect_once(c, s, "first", false);
	connect_once(c, s, "second", false);
	for (int i = 0; i < 999; i++) {
		char key[20];
		snprintf(key, sizeof(key), "n|%d", i);
		connect_once(c, s, key, false);
	}
	connect_once(c, s, "second", true);
	connect_once(c, s, "first", false);
	tls_context_free(&c);
	tls_context_free(&s);
}

/* The same in TLS 1.2: this program again, with another configuration of OpenSSL. */
static void test_resumption_in_tls_1_2(void **state)
{
	(void)state;
	if (getenv("POSTERN_VALGRIND") != NULL) /* /proc/self/exe is valgrind */
		skip();
	char path[] = "/tmp/postern-test-tls.XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	dprintf(fd, "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
		    "[c]\nMaxProtocol = TLSv1.2\n");
	close(fd);
	pid_t child = fork();
	if (child == 0) {
		setenv("OPENSSL_CONF", path, 1);
		execl("/proc/self/exe", "test_tls", "TLSv1.2", (char *)NULL);
		_exit(127);
	}
	int status = -1;
	assert_int_equal(waitpid(child, &status, 0), child);
	unlink(path);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_garbage(void **state)
{
	(void)state;
	static const char *const noise[] = {"220 hello\r\n250 I am no TLS server\r\n",
	    "\x16\x03\x01\xff\xff", "\x15\x03\x03\x00\x02\x02\x28", "\x17\x03\x03\x00\x05xxxxx"};
	struct tls_context *c = client_context(""), *s = server_context();
	for (size_t i = 0; i < COUNT_OF(noise); i++) {
		struct pair p;
		char why[200];
		pair_init(&p, c, s, "mx");
		size_t n = i == 1 ? 5 : i == 2 ? 7 : i == 3 ? 10 : strlen(noise[i]);
		buf_put(&p.to_client, noise[i], n);
		buf_put(&p.to_server, noise[i], n);
		enum tls_state client =
		    tls_feed(p.client, &p.to_client, &p.client_plain, &p.to_server);
		enum tls_state server =
		    tls_feed(p.server, &p.to_server, &p.server_plain, &p.to_client);
		assert_true(client == TLS_FAILED || (i == 1 && client == TLS_HANDSHAKE));
		assert_true(server == TLS_FAILED || (i == 1 && server == TLS_HANDSHAKE));
		tls_describe(p.client, why, sizeof(why));
		assert_true(strlen(why) > 0 && !strchr(why, '\n'));
		assert_int_equal(p.client_plain.n + p.server_plain.n, 0);
		pair_fini(&p);
	}
	tls_context_free(&c);
	tls_context_free(&s);
}

/* Each flight cut at each place, and each byte of it turned around: fails or waits, nothing else.
 */
static void test_truncated_and_damaged(void **state)
{
	(void)state;
	struct tls_context *c = client_context(""), *s = server_context();
	struct pair whole;
	pair_init(&whole, c, s, "");
	struct buf empty;
	buf_init(&empty, 1);
	tls_feed(whole.client, &empty, &whole.client_plain, &whole.to_server);
	tls_feed(whole.server, &whole.to_server, &whole.server_plain, &whole.to_client);
	size_t n = whole.to_client.n;
	for (size_t i = 0; i < n; i += 13) {
		struct pair p;
		pair_init(&p, c, s, "");
		tls_feed(p.client, &empty, &p.client_plain, &p.to_server);
		tls_feed(p.server, &p.to_server, &p.server_plain, &p.to_client);
		if (i % 2 == 0)
			p.to_client.n = i < p.to_client.n ? i : p.to_client.n;
		else if (i < p.to_client.n)
			p.to_client.p[i] ^= 0x55;
		enum tls_state got =
		    tls_feed(p.client, &p.to_client, &p.client_plain, &p.to_server);
		assert_true(got == TLS_HANDSHAKE || got == TLS_FAILED || i % 2 == 1);
		assert_int_equal(p.client_plain.n, 0);
		pair_fini(&p);
	}
	pair_fini(&whole);
	tls_context_free(&c);
	tls_context_free(&s);
}

static void test_damage_in_an_open_connection(void **state)
{
	(void)state;
	struct tls_context *c = client_context(""), *s = server_context();
	struct pair p;
	pair_init(&p, c, s, "mx");
	pump(&p, 1 << 20);
	assert_int_equal(tls_write(p.server, "250 ok\r\n", 8, &p.to_client), 0);
	p.to_client.p[p.to_client.n - 1] ^= 1;
	assert_int_equal(
	    tls_feed(p.client, &p.to_client, &p.client_plain, &p.to_server), TLS_FAILED);
	assert_int_equal(p.client_plain.n, 0);
	assert_int_equal(tls_write(p.client, "x", 1, &p.to_server), -EPROTO);
	pair_fini(&p);
	connect_once(c, s, "mx", false); /* its session went with it */
	tls_context_free(&c);
	tls_context_free(&s);
}

static void test_bad_pem(void **state)
{
	(void)state;
	char err[256] = "";
	assert_null(tls_server_context(STR(""), STR(""), err));
	assert_non_null(strstr(err, "certificate"));
	assert_null(tls_server_context(str_of(test_cert_pem), STR("junk"), err));
	assert_non_null(strstr(err, "key"));
	assert_null(tls_server_context(str_of(test_key_pem), str_of(test_cert_pem), err));
	assert_null(tls_client_context(STR("no certificate"), err));
}

static void test_verified(void **state)
{
	(void)state;
	struct tls_context *s = server_context();
	struct tls_context *with = client_context(test_cert_pem), *without = client_context("");
	char text[200];
	struct pair p;
	pair_init(&p, with, s, "");
	pump(&p, 1 << 20);
	tls_describe(p.client, text, sizeof(text));
	assert_non_null(strstr(text, " verified"));
	pair_fini(&p);
	pair_init(&p, without, s, "");
	pump(&p, 1 << 20);
	tls_describe(p.client, text, sizeof(text));
	assert_null(strstr(text, "verified"));
	pair_fini(&p);
	memset(&p, 0, sizeof(p));
	pair_init(&p, with, s, "");
	tls_free(&p.client);
	p.client = tls_connect(with, STR("other.example"), STR(""));
	pump(&p, 1 << 20);
	assert_int_equal(tls_state(p.client), TLS_OPEN); /* told, not enforced */
	tls_describe(p.client, text, sizeof(text));
	assert_non_null(strstr(text, " unverified"));
	pair_fini(&p);
	tls_context_free(&with);
	tls_context_free(&without);
	tls_context_free(&s);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_resumption),
	    cmocka_unit_test(test_talk),
	    cmocka_unit_test(test_damage_in_an_open_connection),
	    cmocka_unit_test(test_resumption_in_tls_1_2),
	    cmocka_unit_test(test_cache_is_bounded),
	    cmocka_unit_test(test_bounded_plain),
	    cmocka_unit_test(test_garbage),
	    cmocka_unit_test(test_truncated_and_damaged),
	    cmocka_unit_test(test_bad_pem),
	    cmocka_unit_test(test_verified),
	};
	if (argc > 1) {
		version = argv[1];
		return _cmocka_run_group_tests("TLS 1.2", tests, 3, NULL, NULL);
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * Whole sessions against a real writer and real files: the dialogue, its order and state, limits,
 * time, overload, stop, and the loss of qmgr.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "tests/unit/common/test_cert.h"
#include "tests/unit/smtpd/harness.h"

static struct harness h;

static int setup(void **state)
{
	(void)state;
	harness_init(&h);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	harness_fini(&h);
	return 0;
}

static void begin_mail(struct client *c)
{
	client_say(c, "MAIL FROM:<a@sender.test>", "250 2.1.0");
	client_say(c, "RCPT TO:<b@rcpt.test>", "250 2.1.5");
}

static void send_mail(struct client *c)
{
	begin_mail(c);
	client_say(c, "DATA", "354");
	client_send(c, "Subject: x\r\n\r\nhello\r\n.\r\n");
	client_expect(c, "250 2.0.0 Ok: queued as 0000000001");
}

static void test_one_message(void **state)
{
	struct client c;
	struct queued m;
	char want[600];
	(void)state;
	client_hello(&c, &h);
	client_say(&c, "MAIL FROM:<A.b@Sender.Test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
	    "250 2.1.0");
	client_say(&c, "RCPT TO:<x@one.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@one.test",
	    "250 2.1.5");
	client_say(&c, "RCPT TO:<y@two.test> NOTIFY=NEVER", "250 2.1.5");
	client_say(&c, "DATA", "354 ");
	client_send(&c,
	    "Message-ID:\r\n <one@sender.test>\r\nX-Job: jobs\r\nSubject: s\r\n\r\n..dot\r\n.\r\n");
	client_expect(&c, "250 2.0.0 Ok: queued as ");
	queued_get(&h, 0, &m);
	assert_str_equal_to(m.envelope.sender, "A.b@sender.test");
	assert_str_equal_to(m.envelope.envid, "a+b");
	assert_str_equal_to(m.envelope.client, "127.0.41.1");
	assert_str_equal_to(m.envelope.helo, "client.test");
	assert_str_equal_to(m.envelope.campaign, "jobs");
	assert_str_equal_to(m.envelope.message_id, "<one@sender.test>");
	assert_int_equal(m.envelope.ret, RET_HDRS);
	assert_int_equal(m.envelope.body, 0); /* what it needs, not what was said */
	assert_int_equal(m.envelope.rcpt_count, 2);
	assert_str_equal_to(m.envelope.rcpt[0].orcpt, "rfc822;x+y@one.test");
	assert_int_equal(m.envelope.rcpt[0].notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
	assert_str_equal_to(m.envelope.rcpt[1].address, "y@two.test");
	assert_int_equal(m.envelope.rcpt[1].notify, NOTIFY_NEVER);
	assert_str_equal_to(
	    m.content, "Message-ID:\r\n <one@sender.test>\r\nSubject: s\r\n\r\n..dot\r\n");
	char id[RECORD_ID_TEXT];
	record_id_print(id, m.record.id);
	int n = snprintf(want, sizeof(want),
	    "Received: from client.test (unknown [127.0.41.1])\r\n\tby mx.test (Postern) with "
	    "ESMTP id %s;\r\n\t",
	    id);
	assert_true(m.headers.n > (size_t)n);
	assert_memory_equal(m.headers.p, want, (size_t)n);
	assert_non_null(memmem(m.headers.p, m.headers.n, "\r\nDate: ", 8));
	assert_null(memmem(m.headers.p, m.headers.n, "Message-ID", 10));
	queued_fini(&m);
	client_say(&c, "QUIT", "221 2.0.0");
	client_expect_closed(&c);
	client_close(&c);
}

static void test_pipelined_in_one_write(void **state)
{
	struct client c;
	(void)state;
	client_hello(&c, &h);
	client_send(&c, "MAIL FROM:<>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\n");
	client_expect(&c, "250 2.1.0");
	client_expect(&c, "250 2.1.5");
	client_expect(&c, "354");
	/* the next transaction comes with the end of this one */
	client_send(
	    &c, "\r\nx\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<bad\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\n");
	client_expect(&c, "250 2.0.0");
	client_expect(&c, "250 2.1.0");
	client_expect(&c, "501 5.5.4");
	client_expect(&c, "250 2.1.5");
	client_expect(&c, "354");
	client_send(&c, ".\r\nQUIT\r\n");
	client_expect(&c, "250 2.0.0");
	client_expect(&c, "221");
	client_expect_closed(&c);
	client_close(&c);
	UNTIL(&h, h.q.accepted == 2);
}

/* Every byte by itself. */
static void test_byte_by_byte(void **state)
{
	const char *text =
	    "EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nA: b\r\n\r\n.."
	    "x\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 5\r\n.x\r\ny"
	    "BDAT 0 LAST\r\nQUIT\r\n";
	struct client c;
	struct queued m;
	(void)state;
	client_open(&c, &h);
	for (const char *p = text; *p; p++) {
		client_send_bytes(&c, p, 1);
		harness_turn(&h, 1);
	}
	static const char *const answers[] = {"250-", "250 2.1.0", "250 2.1.5", "354",
	    "250 2.0.0 Ok: queued", "250 2.1.0", "250 2.1.5", "250 2.0.0 Ok, more",
	    "250 2.0.0 Ok: queued", "221"};
	for (size_t i = 0; i < COUNT_OF(answers); i++)
		client_expect(&c, answers[i]);
	queued_get(&h, 0, &m);
	assert_str_equal_to(m.content, "A: b\r\n\r\n..x\r\n");
	queued_fini(&m);
	queued_get(&h, 1, &m); /* no header: an empty line; stuffed; the last line ended */
	assert_str_equal_to(m.content, "\r\n..x\r\ny\r\n");
	queued_fini(&m);
	client_close(&c);
}

static void test_order_of_commands(void **state)
{
	static const struct {
		const char *line, *answer;
	} steps[] = {
	    {"MAIL FROM:<a@b.test>", "503 5.5.1"},
	    {"RCPT TO:<a@b.test>", "503 5.5.1"},
	    {"DATA", "503 5.5.1"},
	    {"HELO c.test", "250 mx.test"},
	    {"RCPT TO:<a@b.test>", "503 5.5.1"},
	    {"DATA", "503 5.5.1"},
	    {"BDAT 0", "503 5.5.1"},
	    {"MAIL FROM:<a@b.test>", "250"},
	    {"MAIL FROM:<a@b.test>", "503 5.5.1"},
	    {"DATA", "554 5.5.1"},
	    {"BDAT 0 LAST", "554 5.5.1"},
	    {"RCPT TO:<a@b.test>", "250"},
	    {"NOOP", "250"},
	    {"VRFY <a@b.test>", "252"},
	    {"EXPN x", "502"},
	    {"AUTH PLAIN", "502"},
	    {"HELP", "214 2.0.0"},
	    {"XYZZY", "500 5.5.2"},
	    {"", "500 5.5.2"},
	    {"RSET", "250"},
	    {"DATA", "503 5.5.1"},
	    {"STARTTLS", "502 5.5.1"},
	    {"MAIL FROM:<a@b.test>", "250"},
	    {"RCPT TO:<a@b.test>", "250"},
	    {"EHLO c.test", "250-"},
	    {"DATA", "503 5.5.1"},
	    {"MAIL FROM:<a@b.test>", "250"},
	    {"RCPT TO:<a@b.test>", "250"},
	    {"BDAT 0", "250 2.0.0"},
	    {"DATA", "503 5.5.1"},
	    {"MAIL FROM:<a@b.test>", "503 5.5.1"},
	    {"RCPT TO:<a@b.test>", "503 5.5.1"},
	    {"RSET", "250"},
	    {"BDAT 0 LAST", "503 5.5.1"},
	    {"MAIL FROM:<a@b.test>", "250"},
	    {"HELO c.test", "250"},
	    {"RCPT TO:<a@b.test>", "503 5.5.1"},
	};
	struct client c;
	(void)state;
	client_open(&c, &h);
	for (size_t i = 0; i < COUNT_OF(steps); i++)
		client_say(&c, steps[i].line, steps[i].answer);
	client_close(&c);
}

/* The longest name that may be configured; with one more byte it is another. */
#define LONG_VMTA                                                                                  \
	"mta45678901234567890123456789012345678901234567890"                                       \
	"12345678901234567890123456789012345678901234567890"

/* Refused content, however it is refused, leaves no transaction behind. */
static void test_refused_content_drops_the_transaction(void **state)
{
	static const struct {
		const char *content, *answer;
	} cases[] = {
	    {"a\nb\r\n.\r\n", "550 5.6.0"},
	    {"a\rb\r\n.\r\n", "550 5.6.0"},
	    {"a\r\n.\nMAIL FROM:<smuggled@b.test>\r\n.\r\n", "550 5.6.0"},
	    {"X-Virtual-MTA: none\r\n\r\n.\r\n", "550 5.5.0"},
	    {"X-Virtual-MTA: " LONG_VMTA "x\r\n\r\n.\r\n", "550 5.5.0"},
	    {"Received: 1\r\nReceived: 2\r\nReceived: 3\r\nReceived: 4\r\nReceived: 5\r\nReceived: "
	     "6\r\n\r\n.\r\n",
		"554 5.4.6"},
	};
	struct client c;
	(void)state;
	h.listener->process_x_vmta = true;
	free(h.settings->vmtas[0]);
	h.settings->vmtas[0] = xstrdup(LONG_VMTA);
	client_hello(&c, &h);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		begin_mail(&c);
		client_say(&c, "DATA", "354");
		client_send(&c, cases[i].content);
		client_expect(&c, cases[i].answer);
		client_say(&c, "RCPT TO:<a@b.test>", "503 5.5.1");
		client_say(&c, "DATA", "503 5.5.1");
		client_say(&c, "BDAT 0 LAST", "503 5.5.1");
	}
	begin_mail(&c); /* a refused chunk: those behind it are swallowed and refused */
	client_send(&c, "BDAT 4\r\na\nb\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
	client_expect(&c, "550 5.6.0");
	client_expect(&c, "503 5.5.1");
	client_expect(&c, "250 2.0.0 Ok");
	client_close(&c);
	assert_int_equal(h.q.accepted, 0);
	assert_int_equal(h.server->content_bytes, 0);
}

static void test_relay(void **state)
{
	struct client c;
	static const char *const refused[] = {"<a@b.test>", "<@mx.test:a@b.test>",
	    "<a%b.test@mx.test>", "<\"a@b.test\"@mx.test>", "<b.test!a@mx.test>", "<a@[127.0.0.1]>",
	    "<postmaster>"};
	char line[200];
	(void)state;
	client_open_from(&c, &h, 1, 42);
	client_expect(&c, "220");
	client_say(&c, "EHLO x", "250-");
	client_say(&c, "MAIL FROM:<a@b.test>", "250");
	for (size_t i = 0; i < COUNT_OF(refused); i++) {
		snprintf(line, sizeof(line), "RCPT TO:%s", refused[i]);
		client_say(&c, line, "550 5.7.1 Relay access denied");
	}
	client_say(&c, "RCPT TO:<a@b.test.>", "553 5.1.3");
	client_say(&c, "RCPT TO:<a@>", "553 5.1.3");
	client_say(&c, "DATA", "554 5.5.1");
	client_close(&c);
}

static void test_limits_of_recipients_and_errors(void **state)
{
	struct client c;
	(void)state;
	h.listener->max_errors = 3;
	client_hello(&c, &h);
	client_say(&c, "MAIL FROM:<a@b.test>", "250");
	for (int i = 0; i < 10; i++)
		client_say(&c, "RCPT TO:<a@b.test>", "250");
	client_say(&c, "RCPT TO:<a@b.test>", "452 4.5.3"); /* ours, no error of the client's */
	client_say(&c, "X", "500");
	client_say(&c, "X", "500");
	client_say(&c, "X", "500");
	client_expect(&c, "421 4.7.0");
	client_expect_closed(&c);
	client_close(&c);
}

static void test_size(void **state)
{
	struct client c;
	static char big[1 << 20];
	(void)state;
	memset(big, 'x', sizeof(big));
	for (size_t i = 0; i + 100 < sizeof(big); i += 100)
		memcpy(big + i, "\r\n", 2);
	client_hello(&c, &h);
	client_say(&c, "MAIL FROM:<a@b.test> SIZE=4194305", "552 5.3.4");
	client_say(&c, "MAIL FROM:<a@b.test> SIZE=18446744073709551615", "552 5.3.4");
	client_say(&c, "MAIL FROM:<a@b.test> SIZE=18446744073709551616", "501 5.5.4");
	client_say(&c, "MAIL FROM:<a@b.test> SIZE=-1", "501 5.5.4");
	client_say(&c, "MAIL FROM:<a@b.test> SIZE=4194304", "250");
	client_say(&c, "RCPT TO:<a@b.test>", "250");
	client_say(&c, "DATA", "354");
	for (int i = 0; i < 5; i++)
		client_send_bytes(&c, big, sizeof(big));
	client_send(&c, "\r\n.\r\n");
	client_expect(&c, "552 5.3.4");
	client_say(&c, "NOOP", "250");
	client_close(&c);
	assert_int_equal(h.server->content_bytes, 0);
	assert_int_equal(h.q.accepted, 0);
}

static void test_large_message_streams(void **state)
{
	struct client c;
	struct queued m;
	static char piece[100000];
	(void)state;
	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	client_hello(&c, &h);
	for (int chunked = 0; chunked < 2; chunked++) {
		client_say(&c, "MAIL FROM:<a@b.test>", "250");
		client_say(&c, "RCPT TO:<a@b.test>", "250");
		if (!chunked)
			client_say(&c, "DATA", "354");
		for (int i = 0; i < 30; i++) {
			if (chunked)
				client_send(&c, "BDAT 100000\r\n");
			client_send_bytes(&c, piece, sizeof(piece));
			if (chunked)
				client_expect(&c, "250 2.0.0 Ok, more");
			assert_true(h.server->sessions->txn->content.n < 1 << 20);
			assert_true(h.server->content_bytes < STREAM_WAITING_MAX + (1 << 20));
		}
		client_send(&c, chunked ? "BDAT 0 LAST\r\n" : ".\r\n");
		client_expect(&c, "250 2.0.0 Ok: queued");
		queued_get(&h, (size_t)chunked, &m);
		assert_int_equal(m.record.kind, RECORD_CLOSE);
		assert_int_equal(m.content.n, 3000000 + 2);
		for (size_t i = 0; i < 30; i++)
			assert_memory_equal(
			    m.content.p + 2 + i * sizeof(piece), piece, sizeof(piece));
		queued_fini(&m);
	}
	send_mail(&c);
	client_close(&c);
	assert_int_equal(h.server->content_bytes, 0);
}

/* Small chunks that add up stream too. */
static void test_many_small_chunks(void **state)
{
	struct client c;
	struct queued m;
	char chunk[9000 + 20];
	(void)state;
	client_hello(&c, &h);
	begin_mail(&c);
	int n = sprintf(chunk, "BDAT 9000\r\n");
	memset(chunk + n, 'z', 9000);
	memcpy(chunk + n, "\r\n", 2);
	for (int i = 0; i < 100; i++) {
		client_send_bytes(&c, chunk, (size_t)n + 9000);
		client_expect(&c, "250 2.0.0 Ok, more");
		assert_true(h.server->sessions->txn->content.n < 600000);
	}
	client_send(&c, "BDAT 3 LAST\r\nend");
	client_expect(&c, "250 2.0.0 Ok: queued");
	queued_get(&h, 0, &m);
	assert_int_equal(m.content.n, 900005);
	queued_fini(&m);
	client_close(&c);
}

static void test_client_leaves_in_a_stream(void **state)
{
	struct client c;
	static char piece[500000];
	(void)state;
	memset(piece, 'x', sizeof(piece));
	memcpy(piece, "\r\n", 2);
	for (size_t i = 400; i < sizeof(piece); i += 400)
		memcpy(piece + i, "\r\n", 2);
	client_hello(&c, &h);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	client_send_bytes(&c, piece, sizeof(piece));
	client_send_bytes(&c, piece, sizeof(piece));
	client_close(&c);
	UNTIL(&h, h.server->session_count == 0 && segwriter_idle(h.server->writer));
	UNTIL(&h, fake_count(&h.q, TOLD_DONE) == 1);
	assert_int_equal(fake_find(&h.q, TOLD_DONE, 0)->a, 0);
	assert_int_equal(h.q.accepted, 0);
	assert_int_equal(h.server->content_bytes, 0);
}

/* The segment that comes for a session that has gone is given back: nobody is told of it. */
static void test_client_resets_while_it_waits_for_a_segment(void **state)
{
	struct client c;
	static char piece[STREAM_FROM + 1000];
	(void)state;
	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	client_hello(&c, &h);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	fake_forget(&h.q);
	h.q.silent = true;
	client_send_bytes(&c, piece, sizeof(piece));
	UNTIL(&h, fake_count(&h.q, TOLD_WANT) == 1);
	/* without SIZE= not the largest that a message may be is preallocated */
	assert_int_equal(fake_find(&h.q, TOLD_WANT, 0)->a, STREAM_SIZE_UNKNOWN);
	client_close(&c);
	UNTIL(&h, h.server->session_count == 0);
	fake_give(&h.q, (uint32_t)fake_find(&h.q, TOLD_WANT, 0)->b);
	UNTIL(&h, fake_count(&h.q, TOLD_DONE) == 1);
	assert_int_equal(fake_find(&h.q, TOLD_DONE, 0)->segment, h.q.next_segment);
	assert_true(segwriter_idle(h.server->writer));
	assert_int_equal(h.server->content_bytes, 0);
}

/* A message in memory and one that streams: refused at its end, by name, and nothing is kept. */
static void rate_at_the_end(bool early)
{
	static char piece[500000];
	char owner[] = "acme";
	struct tenant tenant = {.name = owner,
	    .vmta = "",
	    .in = {[IN_MSG] = {{1, 2, 3600000}, "1/h burst 2"},
		[IN_DATA] = {{1000, 400000, 1000}, "1000/s burst 400000"}}};
	const struct conf_value none = {.count = 0};
	struct client c;

	tenant.domains = tenant.vmtas = &none;
	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	h.listener->tenant = &tenant;
	h.listener->process_x_tenant = !early;
	client_hello(&c, &h);
	send_mail(&c);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	client_send_bytes(&c, piece, sizeof(piece));
	client_send(&c, ".\r\n");
	client_expect(&c, "250 2.0.0 Ok: queued"); /* overdraws the bytes */
	UNTIL(&h, h.q.accepted == 2);
	if (early) {
		client_say(&c, "MAIL FROM:<a@b.test>",
		    "452 4.3.1 Error: too much mail at once, try again later: tenant acme may "
		    "bring max-msg-in-rate 1/h burst 2\r\n");
	} else {
		begin_mail(&c);
		client_say(&c, "DATA", "354");
		client_send(&c, "Subject: x\r\n\r\nx\r\n.\r\n");
		client_expect(&c,
		    "452 4.3.1 Error: too much mail at once, try again later: tenant acme may "
		    "bring max-msg-in-rate 1/h burst 2\r\n");
		begin_mail(&c);
		client_say(&c, "DATA", "354");
		client_send_bytes(&c, piece, sizeof(piece));
		client_send(&c, ".\r\n");
		client_expect(&c, "452 4.3.1 Error: too much mail at once");
		tenant.in[IN_MSG].rate.n = 0;
		begin_mail(&c);
		client_say(&c, "DATA", "354");
		client_send(&c, "Subject: x\r\n\r\nx\r\n.\r\n");
		client_expect(&c,
		    "452 4.3.1 Error: too much mail at once, try again later: tenant acme may "
		    "bring max-data-in-rate 1000/s burst 400000\r\n");
	}
	assert_int_equal(h.q.accepted, 2);
	assert_int_equal(h.server->counters.over_rate[IN_MSG], early ? 1 : 2);
	assert_int_equal(h.server->counters.over_rate[IN_DATA], !early);
	h.listener->tenant = NULL; /* others are not concerned */
	send_mail(&c);
	client_close(&c);
	UNTIL(&h, h.server->session_count == 0);
	assert_int_equal(h.server->content_bytes, 0);
}

static void test_tenant_rates(void **state)
{
	(void)state;
	rate_at_the_end(false);
}

static void test_tenant_rates_known_early(void **state)
{
	(void)state;
	rate_at_the_end(true);
}

/* Two streams that began together: the second to end is over the limit. */
static void test_tenant_rates_of_streams(void **state)
{
	static char piece[500000];
	char owner[] = "acme";
	struct tenant tenant = {
	    .name = owner, .vmta = "", .in = {[IN_MSG] = {{1, 1, 3600000}, "1/h"}}};
	const struct conf_value none = {.count = 0};
	struct client c[2];

	(void)state;
	tenant.domains = tenant.vmtas = &none;
	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	h.listener->tenant = &tenant;
	for (int i = 0; i < 2; i++) {
		client_hello(&c[i], &h);
		begin_mail(&c[i]);
		client_say(&c[i], "DATA", "354");
		client_send_bytes(&c[i], piece, sizeof(piece));
		UNTIL(&h, h.server->sessions->txn->stream != NULL);
	}
	client_send(&c[1], ".\r\n");
	client_expect(&c[1], "250 2.0.0 Ok: queued");
	client_send(&c[0], ".\r\n");
	client_expect(&c[0], "452 4.3.1 Error: too much mail at once");
	assert_int_equal(h.q.accepted, 1);
	for (int i = 0; i < 2; i++)
		client_close(&c[i]);
	UNTIL(&h, h.server->session_count == 0 && segwriter_idle(h.server->writer));
	assert_int_equal(h.server->content_bytes, 0);
}

/* Slow streams of one client leave room for others; what is refused is 4xx. */
static void test_streams_of_one_client(void **state)
{
	enum { ALL = STREAMS_FREE + 2 };
	static char piece[STREAM_FROM + 1000];
	struct client c[ALL], other;
	(void)state;
	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	for (int i = 0; i < ALL; i++) {
		client_hello(&c[i], &h);
		begin_mail(&c[i]);
		client_say(&c[i], "DATA", "354");
		client_send_bytes(&c[i], piece, sizeof(piece));
		if (i < STREAMS_FREE)
			UNTIL(&h, h.server->sessions->txn->stream != NULL);
	}
	UNTIL(&h, h.server->sessions->txn->body.refused != ANSWER_NONE);
	client_send(&c[ALL - 1], "\r\n.\r\n");
	client_expect(&c[ALL - 1], "452 4.3.2");
	client_open_from(&other, &h, 2, 41);
	client_expect(&other, "220");
	client_say(&other, "EHLO other.test", "250-");
	begin_mail(&other);
	client_say(&other, "DATA", "354");
	client_send_bytes(&other, piece, sizeof(piece));
	client_send(&other, "\r\n.\r\n");
	client_expect(&other, "250 2.0.0");
	client_send(&c[0], "\r\n.\r\n");
	client_expect(&c[0], "250 2.0.0");
	for (int i = 0; i < ALL; i++)
		client_close(&c[i]);
	client_close(&other);
	UNTIL(&h, h.server->session_count == 0);
	assert_int_equal(h.server->content_bytes, 0);
}

/* Until it is on the disk a message is memory of ours. */
static void test_content_counts_until_it_is_written(void **state)
{
	struct client c;
	(void)state;
	client_hello(&c, &h);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	client_send(&c, "\r\nx\r\n.\r\n");
	while (!h.server->sessions->committing)
		harness_turn(&h, 1);
	assert_true(h.server->content_bytes > 0);
	client_expect(&c, "250 2.0.0");
	assert_int_equal(h.server->content_bytes, 0);
	client_close(&c);
}

static void test_client_leaves_while_committing(void **state)
{
	struct client c;
	(void)state;
	client_hello(&c, &h);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	client_send(&c, "\r\nx\r\n.\r\n");
	client_close(&c);
	UNTIL(&h, h.q.accepted == 1 && h.server->session_count == 0);
}

static void test_refusals_of_the_writer(void **state)
{
	static const struct {
		uint8_t refuse;
		const char *answer;
	} cases[] = {{REFUSE_DISK, "452 4.3.1"}, {REFUSE_INDEX, "452 4.3.1"},
	    {REFUSE_QUEUE, "452 4.3.1"}, {REFUSE_MEMORY, "452 4.3.2"}, {REFUSE_BUSY, "451 4.3.2"},
	    {REFUSE_NONE, "250"}};
	struct client c;
	(void)state;
	client_hello(&c, &h);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		fake_credit(&h.q, 0, cases[i].refuse);
		UNTIL(&h, segwriter_state(h.server->writer) == cases[i].refuse);
		client_say(&c, "MAIL FROM:<a@b.test>", cases[i].answer);
	}
	client_close(&c);
}

static void test_failing_disk_is_4xx_and_heals(void **state)
{
	struct rlimit before, limit;
	struct client c;
	(void)state;
	client_hello(&c, &h);
	send_mail(&c);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	getrlimit(RLIMIT_FSIZE, &before);
	signal(SIGXFSZ, SIG_IGN);
	limit = (struct rlimit){600, before.rlim_max};
	setrlimit(RLIMIT_FSIZE, &limit);
	client_send(&c, "\r\nx\r\n.\r\n");
	client_expect(&c, "452 4.3.1");
	setrlimit(RLIMIT_FSIZE, &before);
	client_say(&c, "DATA", "503");
	UNTIL(&h, segwriter_state(h.server->writer) == REFUSE_NONE);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	client_send(&c, "\r\nx\r\n.\r\n");
	client_expect(&c, "250 2.0.0");
	client_close(&c);
}

static void test_qmgr_goes_and_comes(void **state)
{
	struct client c, d;
	(void)state;
	client_hello(&c, &h);
	client_hello(&d, &h);
	begin_mail(&c);
	client_say(&c, "DATA", "354");
	fake_detach(&h.q);
	client_say(&d, "MAIL FROM:<a@b.test>", "451 4.3.2");
	client_send(&c, "\r\nx\r\n.\r\n"); /* under way: it is written, and answered when synced */
	client_expect(&c, "250 2.0.0");
	fake_forget(&h.q);
	fake_attach(&h.q);
	UNTIL(&h, fake_count(&h.q, TOLD_END) == 1);
	assert_true(fake_find(&h.q, TOLD_HELD, 0)->a > 0); /* qmgr finds it there */
	assert_int_equal(h.q.accepted, 0);
	fake_credit(&h.q, 100, REFUSE_NONE);
	UNTIL(&h, segwriter_state(h.server->writer) == REFUSE_NONE);
	begin_mail(&d);
	client_close(&c);
	client_close(&d);
}

static void test_waits_for_credit(void **state)
{
	struct client c[2];
	(void)state;
	h.q.keep_credit = true;
	for (int i = 0; i < 2; i++) {
		client_hello(&c[i], &h);
		begin_mail(&c[i]);
		client_say(&c[i], "DATA", "354");
	}
	uint64_t ids[10000];
	for (int i = 0; i < 10000; i++)
		ids[i] = segwriter_begin(h.server->writer);
	for (int i = 0; i < 2; i++)
		client_send(&c[i], "\r\nx\r\n.\r\n");
	for (int i = 0; i < 10; i++)
		harness_turn(&h, 5);
	client_read(&c[0]);
	assert_int_equal(c[0].got.n, 0);
	fake_credit(&h.q, 2, REFUSE_NONE);
	client_expect(&c[0], "250 2.0.0");
	client_expect(&c[1], "250 2.0.0");
	for (int i = 0; i < 10000; i++)
		segwriter_abandon(h.server->writer, ids[i]);
	client_close(&c[0]);
	client_close(&c[1]);
}

static void test_timeouts(void **state)
{
	struct client c, d, e;
	(void)state;
	h.listener->command_timeout_ms = 200;
	client_hello(&c, &h);
	/* bytes that are no command buy no time */
	int64_t began_ms = clock_mono_ms();
	for (int i = 0; i < 100 && !c.closed; i++) {
		client_send(&c, "x");
		harness_turn(&h, 10);
		client_read(&c);
	}
	assert_true(clock_mono_ms() - began_ms < 900);
	client_expect(&c, "421 4.4.2");
	client_expect_closed(&c);
	/* content below the rate: 500 bytes a second, and we send 100 */
	h.listener->command_timeout_ms = 300;
	client_hello(&d, &h);
	begin_mail(&d);
	client_say(&d, "DATA", "354");
	for (int i = 0; i < 200 && !d.closed; i++) {
		client_send(&d, "x");
		harness_turn(&h, 10);
		client_read(&d);
	}
	client_expect(&d, "421 4.4.2");
	client_expect_closed(&d);
	/* the transaction's own deadline stands above all */
	h.listener->transaction_timeout_ms = 400;
	client_hello(&e, &h);
	client_say(&e, "MAIL FROM:<a@b.test>", "250");
	began_ms = clock_mono_ms();
	while (!e.closed && clock_mono_ms() < began_ms + 2000) {
		client_send(&e, "NOOP\r\n");
		harness_turn(&h, 10);
		client_read(&e);
	}
	assert_true(e.closed && clock_mono_ms() - began_ms < 900);
	client_close(&c);
	client_close(&d);
	client_close(&e);
	UNTIL(&h, h.server->session_count == 0);
}

static void test_too_many_clients_and_stress(void **state)
{
	struct client c[12];
	(void)state;
	h.server->connections_max = 10;
	for (int i = 0; i < 10; i++) {
		client_open(&c[i], &h);
		assert_int_equal(h.server->stress, i >= 8);
	}
	assert_true(
	    h.server->sessions->deadline_ms < loop_now_ms(h.loop) + STRESS_TIMEOUT_MS + 1000);
	for (struct session *s = h.server->sessions; s; s = s->next)
		assert_true(s->deadline_ms < loop_now_ms(h.loop) + STRESS_TIMEOUT_MS + 1000);
	client_open_from(&c[10], &h, 9, 41);
	client_expect(&c[10], "421 4.7.0 Too many connections");
	client_expect_closed(&c[10]);
	client_close(&c[10]);
	for (int i = 0; i < 10; i++)
		client_close(&c[i]);
	UNTIL(&h, h.server->session_count == 0);
	assert_false(h.server->stress);
}

/* A client that never reads: what we keep for it is bounded, and it is dropped in the end. */
static void test_client_that_does_not_read(void **state)
{
	struct client c;
	(void)state;
	h.listener->command_timeout_ms = 300;
	client_hello(&c, &h);
	int64_t began_ms = clock_mono_ms();
	while (h.server->session_count > 0 && clock_mono_ms() < began_ms + 5000) {
		for (int i = 0; i < 100; i++)
			if (send(c.fd, "HELP\r\nHELP\r\n", 12, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
				break;
		harness_turn(&h, 10);
		struct session *s = h.server->sessions;
		if (s)
			assert_true(s->out.n + s->reply.n < OUTPUT_MAX + 1000 && s->in.n < 300000);
	}
	assert_int_equal(h.server->session_count, 0);
	client_close(&c);
}

/* Answers beyond the output limit hold commands back, and all are answered once the client reads.
 */
static void test_long_pipeline(void **state)
{
	enum { N = 900 };
	struct client c;
	(void)state;
	client_hello(&c, &h);
	for (int i = 0; i < N; i++)
		client_send(&c, "HELP\r\n");
	client_send(&c, "QUIT\r\n");
	for (int i = 0; i < N; i++)
		client_expect(&c, "214 2.0.0");
	client_expect(&c, "221");
	client_close(&c);
}

static void test_junk(void **state)
{
	struct client c;
	(void)state;
	client_hello(&c, &h);
	for (int i = 0; i <= JUNK_MAX && !c.closed; i++)
		client_send(&c, "NOOP\r\n");
	for (int i = 1; i < JUNK_MAX; i++)
		client_expect(&c, "250 2.0.0");
	client_expect(&c, "421 4.7.0");
	client_close(&c);
}

/* Chunks of a long message are no junk; empty ones are. */
static void test_many_chunks_are_no_junk(void **state)
{
	enum { CHUNK = 16000, CHUNKS = JUNK_MAX + 250 };
	static char text[CHUNK + 20];
	struct client c;
	struct queued m;
	(void)state;
	h.settings->max_message = 64 << 20;
	client_hello(&c, &h);
	begin_mail(&c);
	int n = sprintf(text, "BDAT %d\r\n", CHUNK);
	for (int i = 0; i < CHUNK; i++)
		text[n + i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'y';
	for (int i = 0; i < CHUNKS; i++) {
		client_send_bytes(&c, text, (size_t)n + CHUNK);
		client_expect(&c, "250 2.0.0 Ok, more");
	}
	client_send(&c, "BDAT 0 LAST\r\n");
	client_expect(&c, "250 2.0.0 Ok: queued");
	queued_get(&h, 0, &m);
	assert_int_equal(m.content.n, CHUNK * CHUNKS + 2); /* the empty line: it has no header */
	queued_fini(&m);
	begin_mail(&c);
	for (int i = 0; i <= JUNK_MAX && !c.closed; i++)
		client_send(&c, "BDAT 0\r\n");
	for (int i = 0; i < JUNK_MAX; i++)
		client_expect(&c, "250 2.0.0 Ok, more");
	client_expect(&c, "421 4.7.0");
	client_close(&c);
}

static void test_lines(void **state)
{
	static char line[200000];
	struct client c;
	(void)state;
	client_hello(&c, &h);
	memset(line, 'a', sizeof(line));
	client_send_bytes(&c, line, sizeof(line)); /* constant memory */
	harness_turn(&h, 5);
	assert_true(h.server->sessions->in.n <= COMMAND_LINE_MAX);
	client_send(&c, "\r\nNOOP\r\n");
	client_expect(&c, "500 5.5.2");
	client_expect(&c, "250 2.0.0");
	client_send(&c, "NOOP\n");
	client_expect(&c, "500 5.5.2 Error: a line must end");
	client_send(&c, "NOOP x\ry\r\n");
	client_expect(&c, "501 5.5.2");
	client_say(&c, "EHLO \xc3\xbc", "501 5.5.2");
	client_say(&c, "MAIL FROM:<a\xc3\xbc@b.test>", "553 5.6.7");
	client_say(&c, "MAIL FROM:<a\xc3\xbc@b.test> SMTPUTF8", "250");
	client_say(&c, "RCPT TO:<\xc3\xbc@\xc3\xbc.test>", "250");
	client_say(&c, "BDAT 4294967297", "501 5.5.4");
	client_expect_closed(&c);
	client_close(&c);
}

static void test_aliens(void **state)
{
	static const char *const first[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	    "POST / HTTP/1.0\r\n", "\x16\x03\x01\x02", "\x03", "\x80\x2e\x01"};
	struct client c;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(first); i++) {
		client_open(&c, &h);
		client_send(&c, first[i]);
		client_expect(&c, "500 5.5.2 This is not SMTP");
		client_expect_closed(&c);
		client_close(&c);
	}
}

static int stopped;
static void on_idle(void *ctx)
{
	(void)ctx;
	stopped++;
}

static void test_stop(void **state)
{
	struct client idle, busy, late, slow;
	(void)state;
	stopped = 0;
	client_hello(&idle, &h);
	client_hello(&busy, &h);
	client_hello(&slow, &h);
	begin_mail(&busy);
	begin_mail(&slow);
	client_say(&busy, "DATA", "354");
	client_say(&slow, "DATA", "354");
	server_stop(h.server, 800, on_idle, NULL);
	client_expect(&idle, "421 4.3.2");
	client_expect_closed(&idle);
	client_open_from(&late, &h, 3, 41);
	client_expect(&late, "421 4.3.2");
	client_send(&busy, "\r\nx\r\n.\r\n");
	client_expect(&busy, "250 2.0.0");
	client_expect(&busy, "421 4.3.2");
	client_expect_closed(&busy);
	assert_int_equal(stopped, 0);
	UNTIL(&h, stopped == 1); /* the slow one is given up in time */
	client_close(&idle);
	client_close(&busy);
	client_close(&late);
	client_close(&slow);
	UNTIL(&h, h.q.accepted == 1);
}

/* --- TLS -------------------------------------------------------------------------------------- */

static void with_tls(void)
{
	char err[256];
	h.listener->tls = tls_server_context(STR(test_cert_pem), STR(test_key_pem), err);
	assert_non_null(h.listener->tls);
}

static void test_plaintext_after_starttls(void **state)
{
	struct client c;
	(void)state;
	with_tls();
	client_hello(&c, &h);
	client_send(&c, "STARTTLS\r\nMAIL FROM:<a@b.test>\r\n");
	client_expect_closed(&c);
	client_close(&c);
}

struct tls_client {
	struct client c;
	struct tls *t;
	struct buf in, out;
};

static void tls_pump(struct tls_client *t)
{
	struct client *c = &t->c;
	struct buf plain;
	buf_init(&plain, 1 << 20);
	client_read(c);
	buf_put(&t->in, c->got.p, c->got.n);
	buf_reset(&c->got);
	tls_feed(t->t, &t->in, &plain, &t->out);
	buf_put(&c->got, plain.p, plain.n);
	buf_fini(&plain);
	if (t->out.n > 0)
		client_send_bytes(c, t->out.p, t->out.n);
	buf_reset(&t->out);
}

static void tls_say(struct tls_client *t, const char *text, const char *answer)
{
	struct buf before;
	assert_int_equal(tls_write(t->t, text, strlen(text), &t->out), 0);
	buf_init(&before, 1 << 20);
	for (int i = 0; i < 400; i++) {
		tls_pump(t);
		buf_put(&before, t->c.got.p, t->c.got.n);
		buf_reset(&t->c.got);
		if (before.n >= strlen(answer))
			break;
		harness_turn(&h, 5);
	}
	if (before.n < strlen(answer) || memcmp(before.p, answer, strlen(answer)) != 0)
		print_error(
		    "wanted '%s', got '%.*s'\n", answer, (int)before.n, (const char *)before.p);
	assert_true(before.n >= strlen(answer));
	assert_memory_equal(before.p, answer, strlen(answer));
	buf_fini(&before);
}

static void test_tls_session(void **state)
{
	struct tls_context *context;
	struct tls_client t = {0};
	struct queued m;
	char err[256];
	(void)state;
	with_tls();
	buf_init(&t.in, 1 << 20);
	buf_init(&t.out, 1 << 20);
	client_hello(&t.c, &h);
	begin_mail(&t.c);
	client_say(&t.c, "STARTTLS", "220 2.0.0");
	context = tls_client_context(STR(""), err);
	assert_non_null(context);
	t.t = tls_connect(context, STR("mx.test"), STR("key"));
	for (int i = 0; i < 400 && tls_state(t.t) == TLS_HANDSHAKE; i++) {
		tls_pump(&t);
		harness_turn(&h, 5);
	}
	assert_int_equal(tls_state(t.t), TLS_OPEN);
	tls_say(&t, "RCPT TO:<a@b.test>\r\n", "503 5.5.1"); /* all is forgotten */
	tls_say(&t, "MAIL FROM:<a@b.test>\r\n", "503 5.5.1");
	tls_say(&t, "EHLO again.test\r\n",
	    "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 4194304\r\n250-ENHANCED");
	tls_say(&t, "STARTTLS\r\n", "503 5.5.1");
	tls_say(&t, "MAIL FROM:<a@b.test>\r\n", "250 2.1.0");
	tls_say(&t, "RCPT TO:<a@b.test>\r\n", "250 2.1.5");
	tls_say(&t, "DATA\r\n", "354");
	tls_say(&t, "a: b\r\n\r\nx\r\n.\r\n", "250 2.0.0 Ok: queued");
	queued_get(&h, 0, &m);
	assert_non_null(memmem(m.headers.p, m.headers.n, "with ESMTPS id", 14));
	assert_non_null(memmem(m.headers.p, m.headers.n, "(using TLSv1.3", 14));
	queued_fini(&m);
	tls_say(&t, "QUIT\r\n", "221");
	client_close(&t.c);
	tls_free(&t.t);
	tls_context_free(&context);
	buf_fini(&t.in);
	buf_fini(&t.out);
	UNTIL(&h, h.server->session_count == 0);
}

static void test_garbage_instead_of_tls(void **state)
{
	struct client c;
	(void)state;
	with_tls();
	client_hello(&c, &h);
	client_say(&c, "STARTTLS", "220 2.0.0");
	client_send(&c, "EHLO x\r\nMAIL FROM:<a@b.test>\r\n");
	UNTIL(&h, h.server->session_count == 0);
	client_close(&c);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_one_message),
	    T(test_pipelined_in_one_write),
	    T(test_byte_by_byte),
	    T(test_order_of_commands),
	    T(test_refused_content_drops_the_transaction),
	    T(test_relay),
	    T(test_limits_of_recipients_and_errors),
	    T(test_size),
	    T(test_large_message_streams),
	    T(test_many_small_chunks),
	    T(test_client_leaves_in_a_stream),
	    T(test_client_resets_while_it_waits_for_a_segment),
	    T(test_streams_of_one_client),
	    T(test_tenant_rates),
	    T(test_tenant_rates_known_early),
	    T(test_tenant_rates_of_streams),
	    T(test_content_counts_until_it_is_written),
	    T(test_client_leaves_while_committing),
	    T(test_refusals_of_the_writer),
	    T(test_failing_disk_is_4xx_and_heals),
	    T(test_qmgr_goes_and_comes),
	    T(test_waits_for_credit),
	    T(test_timeouts),
	    T(test_too_many_clients_and_stress),
	    T(test_client_that_does_not_read),
	    T(test_long_pipeline),
	    T(test_junk),
	    T(test_many_chunks_are_no_junk),
	    T(test_lines),
	    T(test_aliens),
	    T(test_stop),
	    T(test_plaintext_after_starttls),
	    T(test_tls_session),
	    T(test_garbage_instead_of_tls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

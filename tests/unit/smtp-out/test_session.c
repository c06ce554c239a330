/* SPDX-License-Identifier: ISC */
/*
 * A connection's life beside its dialogue: how it ends on the wire, when its slot is free, what
 * outlives a qmgr, stopping, TLS sessions, and what is ours and not the server's.
 */
#include "tests/unit/smtp-out/peer.h"

static struct stage *stage_with(unsigned jobs, unsigned at_ready, size_t bytes)
{
	struct stage *s = stage_new();
	for (unsigned i = 0; i < jobs; i++)
		stage_message(s, i, &(struct content){.rcpts = 1, .bytes = bytes});
	s->jobs_total = jobs;
	s->jobs_at_ready = at_ready;
	s->close_after = jobs;
	s->peer.pipelining = true;
	return s;
}

static void grant_and_run(struct stage *s)
{
	struct msg_grant grant = stage_grant(s);
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
}

/* Turns of the loop until cond, at most a few seconds. */
#define run_until(s, cond)                                                                         \
	for (int64_t end = clock_mono_ms() + GUARD_MS; !(cond);) {                                 \
		assert_true(clock_mono_ms() < end);                                                \
		loop_turn((s)->loop);                                                              \
	}

static void tick(void *arg)
{
	struct stage *s = arg;
	loop_timer_after(s->loop, &s->guard, 10, tick, s);
}

static void test_quit_is_an_orderly_end(void **state)
{
	(void)state;
	static const struct script rules[] = {{"QUIT", "221 bye\r\n"}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->peer.rules = rules;
	int64_t from = clock_mono_ms();
	grant_and_run(s);
	assert_true(
	    s->peer.saw_eof && !s->peer.saw_reset); /* a FIN, no RST: the linger was cleared */
	assert_true(clock_mono_ms() - from < 500);  /* the slot is free when the server closes */
	assert_string_equal(s->closed, "done quit 0");
	stage_free(&s);
}

static void test_slot_of_a_server_that_never_closes(void **state)
{
	(void)state;
	static const struct script rules[] = {{"QUIT", "!silent"}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->out.slot_ms = OUT_SLOT_MS;
	s->peer.rules = rules;
	loop_del(&s->peer.listen_io); /* accept by hand, so that nobody reads our FIN */
	struct msg_grant grant = stage_grant(s);
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->out.counters.grants == 1);
	peer_accept(&s->peer, 0);
	run_until(s, s->peer.silent);
	int64_t quit_at = clock_mono_ms();
	loop_mod(&s->peer.io, 0);
	run_until(s, s->closes == 1);
	int64_t waited =
	    clock_mono_ms() - quit_at; /* a second for the 221, one more after our close */
	assert_true(waited >= 1900 && waited < 3000);
	assert_string_equal(s->closed, "done quit 0");
	stage_free(&s);
}

/* The reset goes out at once; the slot counts as taken for a second more, since a server that waits
 * for something else does not see it. */
static void test_hard_close_resets_at_once_and_keeps_the_slot(void **state)
{
	(void)state;
	static const struct script rules[] = {{"DATA", "!silent"}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->out.slot_ms = OUT_SLOT_MS;
	s->peer.rules = rules;
	struct msg_grant grant = stage_grant(s);
	grant.command_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.silent);
	s->hard = true;
	stage_close(s);
	int64_t from = clock_mono_ms();
	run_until(s, s->peer.closed);
	assert_true(s->peer.saw_reset);
	assert_true(clock_mono_ms() - from < 300);
	assert_string_equal(s->results, "deferred data 0 4.4.2\n"); /* this is said at once, too */
	run_until(s, s->closes == 1);
	assert_true(clock_mono_ms() - from >= 950);
	assert_string_equal(s->results, "deferred data 0 4.4.2\n");
	assert_string_equal(s->closed, "done data 0");
	stage_free(&s);
}

static void test_idle_connection_is_left(void **state)
{
	(void)state;
	struct stage *s = stage_with(0, 0, 0);
	s->close_after = 1; /* never reached */
	struct msg_grant grant = stage_grant(s);
	grant.idle_timeout_ms = 100;
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	assert_string_equal(s->closed, "done quit 0");
	assert_int_equal(s->readies, 1);
	stage_free(&s);
}

static const struct {
	const char *name, *source, *address, *closed;
	bool no_listener;
} grants[] = {
    {"refused", "127.0.42.9", "127.0.42.1", "refused connect 0", true},
    {"no source named", "", "127.0.42.1", "done quit 0", false},
    {"source that is not ours", "192.0.2.77", "127.0.42.1", "local connect 0", false},
    {"source of another family", "::1", "127.0.42.1", "local connect 0", false},
    {"source that is no address", "somewhere", "127.0.42.1", "local connect 0", false},
    {"address that is no address", "", "mx.example", "local connect 0", false},
};

static void test_grants(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(grants); i++) {
		struct stage *s = stage_with(0, 0, 0);
		struct msg_grant grant = stage_grant(s);
		grant.source = str_of(grants[i].source);
		grant.address = str_of(grants[i].address);
		if (grants[i].no_listener)
			grant.port = 1;
		chan_send_grant(s->qmgr, &grant);
		stage_run(s);
		if (strcmp(s->closed, grants[i].closed) != 0)
			fail_msg("%s: %s (%s)", grants[i].name, s->closed, s->closed_text);
		assert_int_equal(s->closes, 1);
		stage_free(&s);
	}
}

static void test_connect_timeout(void **state)
{
	(void)state;
	struct stage *s = stage_with(0, 0, 0);
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t n = sizeof(a);
	inet_pton(AF_INET, "127.0.42.2", &a.sin_addr);
	int full = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), first[3];
	assert_int_equal(bind(full, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(full, 0), 0);
	getsockname(full, (struct sockaddr *)&a, &n);
	for (int i = 0; i < 3; i++) { /* fills the backlog: the next SYN gets no answer */
		first[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)!connect(first[i], (struct sockaddr *)&a, sizeof(a));
	}
	struct msg_grant grant = stage_grant(s);
	grant.connect_timeout_ms = 120;
	grant.address = STR("127.0.42.2");
	grant.port = ntohs(a.sin_port);
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	assert_string_equal(s->closed, "timeout connect 0");
	for (int i = 0; i < 3; i++)
		close(first[i]);
	close(full);
	stage_free(&s);
}

static void test_limits_and_words_of_the_peer(void **state)
{
	(void)state;
	static const struct script rules[] = {
	    {"RCPT", "550-5.1.1 no\r\n550 5.1.1 such user\r\n"}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->peer.caps = "LIMITS RCPTMAX=7 MAILMAX=3|";
	s->peer.rules = rules;
	grant_and_run(s);
	assert_int_equal(s->rcpt_max, 7);
	assert_int_equal(s->mail_max, 3);
	assert_string_equal(s->last_text, "550 5.1.1 no such user");
	assert_string_equal(s->last_said_by, "mx.test.example");
	stage_free(&s);
}

static void test_relayed_to_a_server_without_dsn(void **state)
{
	(void)state;
	static const char *const caps[] = {NULL, "DSN|"};
	static const uint8_t notify[] = {NOTIFY_SUCCESS, NOTIFY_FAILURE};
	for (int i = 0; i < 4; i++) {
		struct stage *s = stage_new();
		stage_message(s, 0, &(struct content){.rcpts = 1, .notify = notify[i % 2]});
		s->jobs_total = s->jobs_at_ready = s->close_after = 1;
		s->peer.caps = caps[i / 2];
		grant_and_run(s);
		assert_int_equal(s->last_relayed, i == 0);
		stage_free(&s);
	}
}

static void test_damaged_and_unknown_messages(void **state)
{
	(void)state;
	struct stage *s = stage_with(4, 4, 0);
	unsigned char byte = 0xff;
	assert_int_equal(pwrite(s->segment_fd, &byte, 1, (off_t)s->offset[1] + RECORD_HEAD + 5), 1);
	s->id[2]++; /* the record there has another id */
	grant_and_run(s);
	assert_string_equal(s->results,
	    "delivered dot 250 2.0.0 past\ndeferred internal 0 4.3.0\n"
	    "deferred internal 0 4.3.0\ndelivered dot 250 2.0.0 past\n");
	assert_int_equal(s->peer.messages, 2);
	stage_free(&s);
}

static void test_unknown_connections(void **state)
{
	(void)state;
	struct stage *s = stage_with(1, 1, 0);
	chan_send_conn_close(s->qmgr, &(struct msg_conn_close){.conn = 5});
	chan_send_job(s->qmgr, &(struct msg_job){.conn = 5, .rcpts = STR("\0\0")});
	chan_send_reports_taken(s->qmgr, &(struct msg_reports_taken){.count = UINT64_MAX});
	grant_and_run(s);
	assert_string_equal(s->results, "delivered dot 250 2.0.0 past\n");
	stage_free(&s);
}

static void test_recipients_that_are_not_there(void **state)
{
	(void)state;
	struct stage *s = stage_with(1, 1, 0);
	s->rcpts = 2; /* the message has one */
	grant_and_run(s);
	assert_string_equal(s->results, "deferred internal 0 4.3.0;deferred internal 0 4.3.0\n");
	stage_free(&s);
}

static void test_tls_sessions_are_resumed(void **state)
{
	(void)state;
	struct stage *s = stage_with(0, 0, 0);
	char err[256];
	s->peer.caps = "STARTTLS|";
	peer_with_tls(&s->peer);
	s->out.tls = tls_client_context(STR(""), err);
	for (unsigned i = 0; i < 4; i++) {
		struct msg_grant grant = stage_grant(s);
		if (i == 2)
			grant.source = STR("127.0.42.8"); /* another source: another session */
		chan_send_grant(s->qmgr, &grant);
		stage_run(s);
		assert_int_equal(s->ready_tls, 1);
	}
	assert_int_equal(s->peer.connections, 4);
	assert_int_equal(s->peer.resumed, 2);
	struct msg_grant grant = stage_grant(s);
	grant.tls = TLS_OFF;
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	assert_int_equal(s->ready_tls, 0);
	stage_free(&s);
}

/* --- without a qmgr
 * ------------------------------------------------------------------------------- */

static void lose_qmgr(struct stage *s)
{
	chan_free(&s->qmgr);
	run_until(s, s->out.qmgr == NULL);
}

/* The transaction goes on while there is no qmgr; the next one hears of it, then gets the RESULT.
 */
static void test_results_outlive_qmgr(void **state)
{
	(void)state;
	static const struct script rules[] = {{".", ""}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 100000);
	s->peer.rules = rules;
	struct msg_grant grant = stage_grant(s);
	grant.dot_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.messages == 1);
	lose_qmgr(s);
	peer_act(&s->peer, "250 2.0.0 ok\r\n");
	run_until(s, s->out.counters.delivered == 1);
	assert_int_equal(s->result_count, 0);
	assert_int_equal(s->state_ends, 1);
	s->close_after = 1;
	stage_qmgr(s);
	run_until(s, s->closes == 1);
	assert_int_equal(s->state_ends, 2);
	assert_int_equal(s->have_conns, 1);
	assert_int_equal(s->have_jobs, 1);
	assert_string_equal(s->results, "delivered dot 250 2.0.0 past\n");
	stage_free(&s);
}

static void test_closes_outlive_qmgr(void **state)
{
	(void)state;
	static const struct script rules[] = {{".", ""}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->peer.rules = rules;
	struct msg_grant grant = stage_grant(s);
	grant.dot_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.messages == 1);
	lose_qmgr(s);
	peer_close(&s->peer, true);
	run_until(s, s->out.sessions == 0);
	stage_qmgr(s);
	run_until(s, s->closes == 1);
	assert_int_equal(s->have_conns, 1);
	assert_int_equal(s->have_jobs, 1);
	assert_string_equal(s->results, "deferred dot 0 4.4.2 past\n");
	assert_string_equal(s->closed, "lost dot 0");
	stage_free(&s);
}

/* The first reports of a process, before its qmgr has confirmed any: they are told again, too. */
static void test_first_reports_outlive_qmgr(void **state)
{
	(void)state;
	struct stage *s = stage_with(1, 1, 0);
	grant_and_run(s);
	assert_string_equal(s->results, "delivered dot 250 2.0.0 past\n");
	assert_false(reports_empty(&s->out.reports));
	lose_qmgr(s);
	s->results[0] = s->closed[0] = '\0';
	s->closes = 0;
	stage_qmgr(s);
	tick(s);
	run_until(s, s->closes == 1);
	assert_int_equal(s->have_conns, 1);
	assert_int_equal(s->have_jobs, 1);
	assert_string_equal(s->results, "delivered dot 250 2.0.0 past\n");
	assert_string_equal(s->closed, "done quit 0");
	chan_send_reports_taken(s->qmgr, &(struct msg_reports_taken){.count = 2});
	run_until(s, reports_empty(&s->out.reports));
	stage_free(&s);
}

/* What qmgr has confirmed is not told to the next; what it has not is, with its connection. */
static void test_only_unconfirmed_reports_are_told_again(void **state)
{
	(void)state;
	struct stage *s = stage_with(3, 1, 0);
	s->close_after = 100;
	struct msg_grant grant = stage_grant(s);
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->result_count == 3);
	assert_false(reports_empty(&s->out.reports));
	chan_send_reports_taken(s->qmgr, &(struct msg_reports_taken){.count = 2});
	for (int i = 0; i < 3; i++)
		loop_turn(s->loop);
	lose_qmgr(s);
	s->results[0] = '\0';
	s->result_count = 0;
	stage_qmgr(s);
	run_until(s, s->result_count == 1);
	assert_int_equal(s->have_jobs, 1);
	chan_send_reports_taken(s->qmgr, &(struct msg_reports_taken){.count = 1});
	run_until(s, reports_empty(&s->out.reports));
	stage_close(s);
	run_until(s, s->closes == 1);
	stage_free(&s);
}

/* A JOB that waited behind another goes on with the message it had read. */
static void test_queued_jobs_outlive_qmgr(void **state)
{
	(void)state;
	static const struct script rules[] = {{".", ""}, {NULL, NULL}};
	struct stage *s = stage_with(2, 2, 100000);
	s->peer.rules = rules;
	s->peer.pipelining = false;
	struct msg_grant grant = stage_grant(s);
	grant.dot_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.messages == 1);
	lose_qmgr(s);
	stage_qmgr(s);
	run_until(s, s->state_ends == 2);
	assert_int_equal(s->have_conns, 1);
	assert_int_equal(s->have_jobs, 2);
	peer_act(&s->peer, "250 2.0.0 ok\r\n");
	run_until(s, s->closes == 1);
	assert_string_equal(
	    s->results, "delivered dot 250 2.0.0 past\ndelivered dot 250 2.0.0 past\n");
	stage_check_message(s, 100000);
	stage_free(&s);
}

/* --- stopping
 * ------------------------------------------------------------------------------------- */

static void test_stop_finishes_what_has_begun(void **state)
{
	(void)state;
	static const struct script rules[] = {{".", ""}, {NULL, NULL}};
	struct stage *s = stage_with(3, 3, 0);
	s->peer.rules = rules;
	s->peer.pipelining = false;
	struct msg_grant grant = stage_grant(s);
	grant.dot_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.messages == 1);
	out_stop(&s->out, 5000);
	assert_false(s->out.stopped);
	peer_act(&s->peer, "250 2.0.0 ok\r\n");
	run_until(s, s->closes == 1);
	assert_true(s->out.stopped);
	assert_string_equal(s->results, "delivered dot 250 2.0.0 past\n"); /* two are handed back */
	assert_string_equal(s->closed, "done quit 0");
	stage_free(&s);
}

static void test_stop_deadline(void **state)
{
	(void)state;
	static const struct script rules[] = {{".", ""}, {NULL, NULL}};
	struct stage *s = stage_with(1, 1, 0);
	s->peer.rules = rules;
	struct msg_grant grant = stage_grant(s);
	grant.dot_timeout_ms = 60000;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.messages == 1);
	out_stop(&s->out, 200);
	run_until(s, s->closes == 1);
	assert_true(s->out.stopped);
	assert_string_equal(s->results, "deferred dot 0 4.4.2 past\n");
	grant.conn = CONN + 1;
	s->closes = 0;
	chan_send_grant(s->qmgr, &grant);
	run_until(s, s->closes == 1);
	assert_string_equal(s->closed, "done connect 0");
	stage_free(&s);
}

/* A peer that takes nothing: the deadline of the content runs from the last progress. */
static void test_peer_that_does_not_read(void **state)
{
	(void)state;
	struct stage *s = stage_with(1, 1, 30000000);
	struct msg_grant grant = stage_grant(s);
	grant.data_timeout_ms = 300;
	chan_send_grant(s->qmgr, &grant);
	tick(s);
	run_until(s, s->peer.in_data);
	loop_mod(&s->peer.io, 0);
	run_until(s, s->closes == 1);
	assert_string_equal(s->results, "deferred data 0 4.4.2\n");
	assert_string_equal(s->closed, "timeout data 0");
	stage_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_quit_is_an_orderly_end),
	    cmocka_unit_test(test_slot_of_a_server_that_never_closes),
	    cmocka_unit_test(test_hard_close_resets_at_once_and_keeps_the_slot),
	    cmocka_unit_test(test_idle_connection_is_left),
	    cmocka_unit_test(test_grants),
	    cmocka_unit_test(test_connect_timeout),
	    cmocka_unit_test(test_limits_and_words_of_the_peer),
	    cmocka_unit_test(test_relayed_to_a_server_without_dsn),
	    cmocka_unit_test(test_damaged_and_unknown_messages),
	    cmocka_unit_test(test_unknown_connections),
	    cmocka_unit_test(test_recipients_that_are_not_there),
	    cmocka_unit_test(test_tls_sessions_are_resumed),
	    cmocka_unit_test(test_results_outlive_qmgr),
	    cmocka_unit_test(test_closes_outlive_qmgr),
	    cmocka_unit_test(test_first_reports_outlive_qmgr),
	    cmocka_unit_test(test_only_unconfirmed_reports_are_told_again),
	    cmocka_unit_test(test_queued_jobs_outlive_qmgr),
	    cmocka_unit_test(test_stop_finishes_what_has_begun),
	    cmocka_unit_test(test_stop_deadline),
	    cmocka_unit_test(test_peer_that_does_not_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

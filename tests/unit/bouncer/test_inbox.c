/* SPDX-License-Identifier: ISC */
/*
 * The whole bouncer but its main() with a qmgr played by the test over a socket pair: real segments
 * in files, real reading, writing and syncing.
 */
#include "bouncer/bouncer.h"
#include "common/envelope.h"
#include "common/log.h"
#include "common/result.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { SOURCE = 5, OURS = 9, HEAD = RECORD_HEAD };
static struct loop *loop;
static unsigned stopped;

/* In place of common/worker.c: there is no master here. */
struct loop *worker_loop(struct worker *w)
{
	(void)w;
	return loop;
}
void worker_blame(struct worker *w, uint64_t id)
{
	(void)w;
	(void)id;
}
void worker_stopped(struct worker *w)
{
	(void)w;
	stopped++;
}

void worker_peer_closed(const struct chan *chan, enum proc_id peer, const char *why)
{
	(void)peer;
	(void)why;
	assert_true(chan_peer_gone(chan));
}

struct world {
	struct bouncer b;
	struct chan *chan; /* qmgr's end */
	int source, ours;  /* files */
	uint64_t source_end;
	unsigned wants, accepted, none;
	char none_why[256];
	uint64_t none_ticket;
	unsigned char envelope_bytes[4096];
	struct envelope envelope; /* of the last report */
	char *text;		  /* its headers and content */
};

static int temp_file(int flags)
{
	char path[] = "/tmp/postern-test-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	int again = open(path, flags | O_CLOEXEC);
	assert_true(again >= 0);
	close(fd);
	unlink(path);
	return again;
}

static void read_report(struct world *w, const struct msg_accepted *m)
{
	struct record r;
	assert_int_equal(record_decode(&r, (const unsigned char *)m->head.p), 0);
	assert_true(m->envelope.n <= sizeof(w->envelope_bytes));
	memcpy(w->envelope_bytes, m->envelope.p, m->envelope.n);
	envelope_fini(&w->envelope);
	assert_int_equal(
	    envelope_decode(&w->envelope, (struct str){(char *)w->envelope_bytes, m->envelope.n}),
	    0);
	size_t n = r.headers_bytes + r.content_bytes;
	free(w->text);
	w->text = calloc(1, n + 1);
	off_t at = (off_t)(m->offset + HEAD + r.envelope_bytes);
	assert_int_equal(pread(w->ours, w->text, n, at), (ssize_t)n);
	assert_int_equal(m->end, record_end(&r));
}

static int as_qmgr(void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd)
{
	struct world *w = ctx;
	struct msg_accepted accepted;
	struct msg_bounce_none none;
	struct msg_segment_want want;
	(void)fd;
	if (type == MSG_SEGMENT_WANT) {
		assert_int_equal(msg_decode_segment_want(body, &want), 0);
		if (w->wants++ == 0) /* one is enough; a reserve never comes */
			chan_send_segment_give(
			    from, &(struct msg_segment_give){.ticket = want.ticket,
				      .segment = OURS,
				      .nonce_high = 1,
				      .nonce_low = 2,
				      .limit = 1 << 30,
				      .fd = w->ours});
	} else if (type == MSG_ACCEPTED) {
		assert_int_equal(msg_decode_accepted(body, &accepted), 0);
		w->accepted++;
		read_report(w, &accepted);
	} else if (type == MSG_BOUNCE_NONE) {
		assert_int_equal(msg_decode_bounce_none(body, &none), 0);
		w->none++;
		w->none_ticket = none.ticket;
		str_copy(w->none_why, sizeof(w->none_why), none.why);
	}
	return 0;
}

static void connect_qmgr(struct world *w)
{
	static msg_dispatch_fn *const dispatch[] = {as_qmgr, NULL};
	int fds[2];
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	w->chan = chan_new(loop, fds[0],
	    &(struct chan_spec){.peer_roles = ROLE_writer | ROLE_reader | ROLE_bouncer,
		.dispatch = dispatch,
		.ctx = w});
	inbox_open(&w->b, fds[1]);
	chan_send_segment_open(
	    w->chan, &(struct msg_segment_open){
			 .segment = SOURCE, .nonce_high = 3, .nonce_low = 4, .fd = w->source});
}

static void credit(struct world *w, uint32_t n)
{
	chan_send_credit(w->chan, &(struct msg_credit){.messages = n});
}

static struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));
	loop = loop_new();
	stopped = 0;
	w->source = temp_file(O_RDWR);
	w->ours = temp_file(O_RDWR | O_APPEND);
	snprintf(w->b.used.host_name, sizeof(w->b.used.host_name), "out.example.com");
	inbox_init(&w->b);
	connect_qmgr(w);
	return w;
}

static void world_free(struct world *w)
{
	chan_free(&w->chan);
	if (w->b.qmgr != NULL)
		chan_free(&w->b.qmgr);
	segwriter_detach(w->b.writer);
	segwriter_free(&w->b.writer);
	segread_free(&w->b.reader);
	loop_free(&loop);
	envelope_fini(&w->envelope);
	free(w->text);
	close(w->source);
	close(w->ours);
	free(w);
}

/* A message in the source segment; returns its offset. Its id is of its place. */
static uint64_t add_message(struct world *w, const char *sender, uint8_t notify, bool is_report)
{
	static const char content[] = "Subject: x\r\n\r\nhello\r\n";
	struct buf e;
	unsigned char head[HEAD];
	uint64_t offset = w->source_end;
	buf_init(&e, 65536);
	envelope_put(&e, ENV_SENDER, str_of(sender));
	envelope_put_u8(&e, ENV_RET, RET_FULL);
	envelope_put(&e, ENV_VMTA, STR("mta7"));
	if (is_report) {
		static const char cause[11] = {[8] = DSN_FAILED};
		envelope_put(&e, ENV_CAUSE, (struct str){cause, sizeof(cause)});
	}
	for (int i = 0; i < 3; i++) {
		char address[32];
		snprintf(address, sizeof(address), "r%d@example.net", i);
		envelope_put(&e, ENV_RCPT, str_of(address));
		if (notify != 0)
			envelope_put_u8(&e, ENV_NOTIFY, notify);
	}
	struct record r = {.kind = RECORD_MESSAGE,
	    .nonce_high = 3,
	    .nonce_low = 4,
	    .offset = offset,
	    .id = RECORD_ID(SOURCE, offset / 64 + 1),
	    .data_offset = offset + HEAD,
	    .envelope_bytes = (uint32_t)e.n,
	    .content_bytes = sizeof(content) - 1,
	    .envelope_crc = crc32c(0, e.p, e.n),
	    .content_crc = crc32c(0, content, sizeof(content) - 1)};
	record_encode(&r, head);
	assert_int_equal(pwrite(w->source, head, HEAD, (off_t)offset), HEAD);
	assert_int_equal(pwrite(w->source, e.p, e.n, (off_t)(offset + HEAD)), (ssize_t)e.n);
	assert_int_equal(
	    pwrite(w->source, content, sizeof(content) - 1, (off_t)(offset + HEAD + e.n)),
	    (ssize_t)sizeof(content) - 1);
	w->source_end = record_end(&r);
	buf_fini(&e);
	return offset;
}

static void bounce_of(struct world *w, uint64_t ticket, uint64_t offset, uint64_t segment,
    enum dsn_kind kind, uint16_t ordinal)
{
	struct buf list;
	buf_init(&list, 65536);
	result_put(&list, &(struct rcpt_result){.ordinal = ordinal,
			      .verdict = VERDICT_FAILED,
			      .stage = STAGE_RCPT,
			      .code = 550,
			      .status = STR("5.1.1"),
			      .text = STR("550 5.1.1 nobody"),
			      .said_by = STR("mx.example.net"),
			      .address = STR("ignored@example.net")});
	chan_send_bounce(w->chan, &(struct msg_bounce){.ticket = ticket,
				      .id = RECORD_ID(SOURCE, offset / 64 + 1),
				      .segment = segment,
				      .offset = offset,
				      .kind = (uint8_t)kind,
				      .arrived_ms = 1795341600000,
				      .rcpts = {(const char *)list.p, list.n}});
	buf_fini(&list);
}

static void until(unsigned *counter, unsigned want)
{
	while (*counter < want)
		loop_turn(loop);
}

static void a_report_with_its_cause(void **state)
{
	struct world *w = world_new();
	(void)state;
	uint64_t at = add_message(w, "alice@example.com", 0, false);
	credit(w, 100);
	bounce_of(w, 77, at, SOURCE, DSN_FAILED, 1);
	until(&w->accepted, 1);
	const struct envelope *e = &w->envelope;
	assert_int_equal(e->sender.n, 0);
	assert_true(e->has_cause);
	assert_true(e->cause_id == RECORD_ID(SOURCE, at / 64 + 1));
	assert_true(e->cause_ticket == 77);
	assert_int_equal(e->cause_kind, DSN_FAILED);
	assert_int_equal(e->cause_ordinals.n, 2);
	assert_memory_equal(e->cause_ordinals.p, "\0\1", 2);
	assert_int_equal(e->rcpt_count, 1);
	assert_true(str_eq(e->rcpt[0].address, STR("alice@example.com")));
	assert_true(str_eq(e->vmta, STR("mta7")));
	assert_non_null(strstr(w->text, "\r\nTo: alice@example.com\r\n"));
	assert_non_null(strstr(w->text, "\r\nFinal-Recipient: rfc822; r1@example.net\r\n"));
	assert_non_null(strstr(w->text, "\r\nhello\r\n"));
	assert_int_equal(w->none, 0);
	world_free(w);
}

static void none_is_owed(void **state)
{
	struct world *w = world_new();
	(void)state;
	credit(w, 100);
	struct {
		const char *what;
		uint64_t offset, segment;
		enum dsn_kind kind;
		uint16_t ordinal;
	} cases[] = {
	    {"null sender", add_message(w, "", 0, false), SOURCE, DSN_FAILED, 0},
	    {"a report", add_message(w, "a@example.com", 0, true), SOURCE, DSN_FAILED, 0},
	    {"NEVER", add_message(w, "a@example.com", NOTIFY_NEVER, false), SOURCE, DSN_FAILED, 0},
	    {"success not asked", add_message(w, "a@example.com", 0, false), SOURCE, DSN_SUCCESS,
		0},
	    {"no such recipient", add_message(w, "a@example.com", 0, false), SOURCE, DSN_FAILED, 3},
	    {"no such segment", add_message(w, "a@example.com", 0, false), 6, DSN_FAILED, 0},
	    {"no such place", add_message(w, "a@example.com", 0, false) + 64, SOURCE, DSN_FAILED,
		0},
	    {"no such kind", add_message(w, "a@example.com", 0, false), SOURCE, 9, 0},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		bounce_of(
		    w, 100 + i, cases[i].offset, cases[i].segment, cases[i].kind, cases[i].ordinal);
		until(&w->none, i + 1);
		assert_true(w->none_ticket == 100 + i);
		assert_true(w->none_why[0] != '\0');
	}
	assert_int_equal(w->accepted, 0);
	world_free(w);
}

static void alert_of(struct world *w, uint64_t ticket, const char *to, const char *text)
{
	struct buf b;
	buf_init(&b, 65536);
	alert_put(&b, &(struct alert){str_of(to), STR("example.net/mta1: backoff"), str_of(text)});
	chan_send_bounce(w->chan, &(struct msg_bounce){.ticket = ticket,
				      .kind = DSN_ALERT,
				      .arrived_ms = 1795341600000,
				      .rcpts = {(const char *)b.p, b.n}});
	buf_fini(&b);
}

/* A mail like any other, from nobody, that settles its ticket. */
static void an_alert_is_mail(void **state)
{
	struct world *w = world_new();
	(void)state;
	snprintf(w->b.used.postmaster, sizeof(w->b.used.postmaster), "pm@example.com");
	credit(w, 100);
	alert_of(w, 78, "ops@example.com, not-an-address,b@x.example", ".dot\n\n421 a\xc3\xa4\n");
	until(&w->accepted, 1);
	const struct envelope *e = &w->envelope;
	assert_int_equal(e->sender.n, 0);
	assert_true(e->has_cause && e->cause_id == 0 && e->cause_ticket == 78);
	assert_int_equal(e->cause_kind, DSN_ALERT);
	assert_int_equal(e->rcpt_count, 2);
	assert_true(str_eq(e->rcpt[0].address, STR("ops@example.com")));
	assert_true(str_eq(e->rcpt[1].address, STR("b@x.example")));
	assert_int_equal(e->body, ENV_8BIT);
	static const char *const has[] = {"\r\nFrom: Mail Delivery System <pm@example.com>\r\n",
	    "\r\nTo: ops@example.com, b@x.example\r\n",
	    "\r\nSubject: example.net/mta1: backoff\r\n", "\r\nAuto-Submitted: auto-generated\r\n",
	    "charset=utf-8\r\n", "\r\n\r\n..dot\r\n\r\n421 a\xc3\xa4\r\n"};
	for (size_t i = 0; i < COUNT_OF(has); i++)
		if (!strstr(w->text, has[i]))
			fail_msg("%s is not in %s", has[i], w->text);
	alert_of(w, 79, "nobody", "x");
	until(&w->none, 1);
	assert_true(w->none_ticket == 79);
	world_free(w);
}

/* Remote text in it ends no header and no message. */
static void an_alert_with_hostile_text(void **state)
{
	struct world *w = world_new();
	(void)state;
	credit(w, 100);
	alert_of(
	    w, 80, "a@x.example\r\nBcc: y@z.example,b@x.example", "a\r\n.\r\nMAIL FROM:<x>\r\n");
	until(&w->accepted, 1);
	assert_int_equal(w->envelope.rcpt_count, 1);
	assert_null(strstr(w->text, "\r\nBcc"));
	assert_null(strstr(w->text, "\r\n.\r\n"));
	assert_non_null(strstr(w->text, "\r\n..?\r\n"));
	world_free(w);
}

static void waits_for_credit(void **state)
{
	struct world *w = world_new();
	(void)state;
	uint64_t at = add_message(w, "alice@example.com", 0, false);
	for (unsigned i = 0; i < 10; i++)
		bounce_of(w, i, at, SOURCE, DSN_FAILED, 0);
	while (w->b.waiting.count < 10)
		loop_turn(loop);
	for (int i = 0; i < 5; i++)
		loop_turn(loop); /* its timer */
	assert_int_equal(w->accepted, 0);
	credit(w, 4);
	until(&w->accepted, 4);
	assert_int_equal(w->b.waiting.count, 6);
	credit(w, 6);
	until(&w->accepted, 10);
	world_free(w);
}

static void many_share_their_syncs(void **state)
{
	enum { N = 2000 };
	struct world *w = world_new();
	(void)state;
	uint64_t at = add_message(w, "alice@example.com", 0, false);
	credit(w, N);
	for (unsigned i = 0; i < N; i++)
		bounce_of(w, i, at, SOURCE, DSN_FAILED, 0);
	until(&w->accepted, N);
	assert_int_equal(w->b.stats.reports[DSN_FAILED] + w->b.writing, N);
	world_free(w);
}

static void a_new_qmgr_asks_anew(void **state)
{
	struct world *w = world_new();
	(void)state;
	uint64_t at = add_message(w, "alice@example.com", 0, false);
	for (unsigned i = 0; i < 10; i++)
		bounce_of(w, i, at, SOURCE, DSN_FAILED, 0);
	while (w->b.waiting.count < 10)
		loop_turn(loop);
	chan_free(&w->chan);
	while (w->b.qmgr != NULL)
		loop_turn(loop);
	assert_int_equal(w->b.waiting.count, 0);
	connect_qmgr(w);
	credit(w, 10);
	bounce_of(w, 55, at, SOURCE, DSN_FAILED, 2);
	until(&w->accepted, 1);
	assert_true(w->envelope.cause_ticket == 55);
	assert_int_equal(w->b.waiting.count, 0);
	world_free(w);
}

static void stops_when_all_is_written(void **state)
{
	struct world *w = world_new();
	(void)state;
	uint64_t at = add_message(w, "alice@example.com", 0, false);
	credit(w, 10);
	bounce_of(w, 1, at, SOURCE, DSN_FAILED, 0);
	while (w->b.writing == 0)
		loop_turn(loop);
	inbox_stop(&w->b);
	assert_int_equal(stopped, 0);
	until(&stopped, 1);
	assert_int_equal(w->b.stats.reports[DSN_FAILED], 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_report_with_its_cause),
	    cmocka_unit_test(none_is_owed),
	    cmocka_unit_test(an_alert_is_mail),
	    cmocka_unit_test(an_alert_with_hostile_text),
	    cmocka_unit_test(waits_for_credit),
	    cmocka_unit_test(many_share_their_syncs),
	    cmocka_unit_test(a_new_qmgr_asks_anew),
	    cmocka_unit_test(stops_when_all_is_written),
	};
	chan_identify(PROC_bouncer, 0, 1);
	log_open("bouncer", open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

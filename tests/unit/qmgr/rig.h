/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * The whole shell of qmgr in one process, with fake peers on its channels that answer as the rig
 * says, to be killed and started again. What is not asked for by a test is unused in it.
 */
#include "common/route.h"
#include "qmgr/shell.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define RIG static __attribute__((unused))

enum fate { DELIVERED, DEFERRED, FAILED, UNANSWERED, FATES };

RIG struct conf *conf; /* of the qmgr that is started next */

/* A configuration of its own, with `more` behind what each needs. */
RIG struct conf *load_conf(const char *path, const char *more)
{
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	fprintf(file,
	    "host-name = \"test.example\"; spool-min-free-space = \"0\"; index-map-size = "
	    "\"64M\";\n"
	    "listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n%s",
	    more);
	fclose(file);
	struct buf errors;
	buf_init(&errors, 65536);
	struct conf *c = conf_load(path, &errors);
	if (c == NULL)
		fail_msg("%.*s", (int)errors.n, errors.p);
	buf_fini(&errors);
	return c;
}

struct rig {
	struct loop *loop;
	struct qmgr *q;
	struct chan *writer, *out, *resolver, *bouncer;
	uint64_t segment, nonce_high, nonce_low, end;
	uint32_t ordinal;
	int fd;		/* of the segment */
	unsigned rcpts; /* of the messages that are appended; 0: one */
	unsigned results, bounces, unanswered, gives, none_reason;
	bool bounce_none;
	uint64_t tickets, taken;
	/* what was heard */
	unsigned alerts, checks, names, told;
	uint64_t alert_ticket;
	char alert_to[200], alert_subject[400], told_text[4000];
	bool told_ok;
	/* what is answered */
	bool refuse;	     /* connections */
	const char *missing; /* a source address that cannot be bound */
	const char *local;   /* of GRANTs: our side fails */
};
RIG struct rig *rig; /* the handlers' */

RIG void on_time(void *arg)
{
	(void)arg;
}

RIG void turn(struct rig *r)
{
	static struct loop_timer timer;
	loop_timer_after(r->loop, &timer, 2, on_time, NULL);
	loop_turn(r->loop);
	loop_timer_cancel(r->loop, &timer);
}

#define turn_until(r, condition)                                                                   \
	do {                                                                                       \
		int64_t deadline_ = clock_mono_ms() + 10000;                                       \
		while (!(condition) && clock_mono_ms() < deadline_)                                \
			turn(r);                                                                   \
		assert_true(condition);                                                            \
	} while (0)

RIG void on_gone(void *ctx, struct chan *chan, const char *why)
{
	struct rig *r = ctx;
	(void)why;
	if (r->writer == chan)
		r->writer = NULL;
	if (r->out == chan)
		r->out = NULL;
	if (r->resolver == chan)
		r->resolver = NULL;
	if (r->bouncer == chan)
		r->bouncer = NULL;
}

RIG struct chan *add_generation(
    struct rig *r, enum proc_id process, uint32_t generation, msg_dispatch_fn *const *dispatch)
{
	int fds[2];
	assert_int_equal(
	    0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	chan_identify((uint8_t)process, 0, generation);
	struct chan *chan = chan_new(r->loop, fds[1],
	    &(struct chan_spec){
		.peer_roles = ROLE_qmgr, .dispatch = dispatch, .on_close = on_gone, .ctx = r});
	chan_identify(PROC_qmgr, 0, 1);
	peers_add(r->q, process, 0, generation, fds[0]);
	return chan;
}

RIG struct chan *add_peer(struct rig *r, enum proc_id process, msg_dispatch_fn *const *dispatch)
{
	return add_generation(r, process, 1, dispatch);
}

RIG void open_rig(struct rig *r, const char *dir, bool unclean, bool rebuild)
{
	*r = (struct rig){.loop = loop_new(), .fd = -1};
	rig = r;
	mkdir(dir, 0700);
	assert_int_equal(0, chdir(dir));
	r->q = xcalloc(1, sizeof(*r->q));
	r->q->spool_fd = r->q->log_fd = -1;
	r->q->admission.memory = 1 << 30;
	chan_identify(PROC_qmgr, 0, 1);
	qmgr_init(r->q, worker_new(), r->loop);
	qmgr_configure(r->q, conf);
	qmgr_open(r->q, open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	r->q->journal_file_bytes = JOURNAL_FILE_BYTES_MIN;
	r->q->segment_bytes = 1 << 20;
	recover_start(r->q, unclean, rebuild);
}

RIG void start_rig(struct rig *r, const char *dir)
{
	open_rig(r, dir, false, false);
	turn_until(r, r->q->started);
}

/* As a kill: nothing more is written but what helper threads already have. */
RIG void kill_rig(struct rig *r)
{
	struct worker *w = r->q->worker;
	chan_free(&r->writer);
	chan_free(&r->out);
	chan_free(&r->resolver);
	chan_free(&r->bouncer);
	qmgr_fini(r->q);
	free(r->q);
	free(w);
	if (r->fd >= 0)
		close(r->fd);
	loop_free(&r->loop);
}

void on_segment_give(void *ctx, struct chan *from_chan, struct msg_segment_give *m)
{
	struct rig *r = ctx;
	(void)from_chan;
	r->fd = msg_take_fd(&m->fd);
	r->segment = m->segment;
	r->nonce_high = m->nonce_high;
	r->nonce_low = m->nonce_low;
	r->end = 0;
	r->ordinal = 1;
	r->gives++;
}

void on_segment_none(void *ctx, struct chan *from_chan, struct msg_segment_none *m)
{
	struct rig *r = ctx;
	(void)from_chan;
	r->none_reason = m->reason;
}

void on_credit(void *ctx, struct chan *from_chan, struct msg_credit *m)
{
	(void)ctx, (void)from_chan, (void)m;
}

void on_segment_open(void *ctx, struct chan *from_chan, struct msg_segment_open *m)
{
	(void)ctx, (void)from_chan, (void)m;
}

void on_segment_close(void *ctx, struct chan *from_chan, struct msg_segment_close *m)
{
	(void)ctx, (void)from_chan, (void)m;
}

void on_resolve(void *ctx, struct chan *from_chan, struct msg_resolve *m)
{
	struct buf hosts;
	struct route_host h = {.preference = 10, .name = "mx.test", .address_count = 1};
	(void)ctx;
	h.address[0] = (struct route_address){.family = 4, .bytes = {127, 0, 0, 1}};
	buf_init(&hosts, 65536);
	route_put_host(&hosts, &h);
	chan_send_route(from_chan, &(struct msg_route){.query = m->query,
				       .domain = m->domain,
				       .route_class = ROUTE_OK,
				       .ttl_s = 300,
				       .text = STR(""),
				       .hosts = {(const char *)hosts.p, hosts.n}});
	buf_fini(&hosts);
}

void on_source_check(void *ctx, struct chan *from_chan, struct msg_source_check *m)
{
	struct rig *r = ctx;
	bool missing = r->missing != NULL && str_eq(m->address, str_of(r->missing));
	r->checks++;
	chan_send_source_checked(
	    from_chan, &(struct msg_source_checked){.ticket = m->ticket,
			   .address = m->address,
			   .why = missing ? STR("Cannot assign requested address") : STR("")});
}

void on_source_told(void *ctx, struct chan *from_chan, struct msg_source_told *m)
{
	struct rig *r = ctx;
	(void)from_chan;
	r->told++;
	r->told_ok = m->ok;
	str_copy(r->told_text, sizeof(r->told_text), m->text);
}

void on_names_ask(void *ctx, struct chan *from_chan, struct msg_names_ask *m)
{
	struct rig *r = ctx;
	r->names++;
	chan_send_names_told(from_chan, &(struct msg_names_told){.ticket = m->ticket,
					    .address = m->address,
					    .name = m->ehlo,
					    .confirmed = 1,
					    .ehlo_matches = 1,
					    .listed = STR("")});
}

void on_grant(void *ctx, struct chan *from_chan, struct msg_grant *m)
{
	struct rig *r = ctx;
	bool local = r->local != NULL && str_eq(m->source, str_of(r->local));
	if (local || r->refuse) {
		chan_send_conn_closed(from_chan, &(struct msg_conn_closed){.conn = m->conn,
						     .cause = local ? CONN_LOCAL : CONN_REFUSED,
						     .stage = STAGE_CONNECT,
						     .text = STR("Connection refused"),
						     .relay = STR("mx.test[127.0.0.1]:25")});
		return;
	}
	chan_send_conn_ready(from_chan, &(struct msg_conn_ready){.conn = m->conn});
}

RIG enum fate fate_of(uint64_t id)
{
	return (enum fate)((id & 0xffffff) % FATES);
}

void on_job(void *ctx, struct chan *from_chan, struct msg_job *m)
{
	static const uint8_t verdicts[] = {VERDICT_DELIVERED, VERDICT_DEFERRED, VERDICT_FAILED};
	struct rig *r = ctx;
	struct rd rd = rd_of(m->rcpts.p, m->rcpts.n);
	struct buf results;
	enum fate fate = fate_of(m->id);
	if (fate == UNANSWERED) {
		r->unanswered++;
		return;
	}
	buf_init(&results, 65536);
	while (rd.n > 0)
		result_put(&results, &(struct rcpt_result){.ordinal = rd_u16(&rd),
					 .verdict = verdicts[fate],
					 .stage = STAGE_RCPT,
					 .code = fate == DELIVERED  ? 250
						 : fate == DEFERRED ? 450
								    : 550,
					 .status = fate == DELIVERED  ? STR("2.0.0")
						   : fate == DEFERRED ? STR("4.2.0")
								      : STR("5.1.1"),
					 .text = STR("said so"),
					 .said_by = STR("mx.test"),
					 .address = STR("b@a.test"),
					 .orcpt = STR("")});
	chan_send_result(from_chan, &(struct msg_result){.conn = m->conn,
					.transaction = m->transaction,
					.id = m->id,
					.size = 10,
					.sender = STR("s@a.test"),
					.envid = STR(""),
					.relay = STR("mx.test[127.0.0.1]:25"),
					.source = STR("127.0.0.1"),
					.esmtp = STR(""),
					.results = {(const char *)results.p, results.n}});
	buf_fini(&results);
	r->results++;
}

void on_reports_taken(void *ctx, struct chan *from_chan, struct msg_reports_taken *m)
{
	struct rig *r = ctx;
	(void)from_chan;
	r->taken = m->count;
}

void on_conn_close(void *ctx, struct chan *from_chan, struct msg_conn_close *m)
{
	(void)ctx;
	chan_send_conn_closed(
	    from_chan, &(struct msg_conn_closed){
			   .conn = m->conn, .text = STR(""), .relay = STR(""), .was_ready = 1});
}

void on_bounce(void *ctx, struct chan *from_chan, struct msg_bounce *m)
{
	struct rig *r = ctx;
	struct alert alert;
	if (m->kind == DSN_ALERT) {
		assert_true(m->id == 0 && m->segment == 0);
		assert_int_equal(0, alert_take(m->rcpts, &alert));
		r->alerts++;
		r->alert_ticket = m->ticket;
		str_copy(r->alert_to, sizeof(r->alert_to), alert.to);
		str_copy(r->alert_subject, sizeof(r->alert_subject), alert.subject);
		return;
	}
	r->bounces++;
	r->tickets += m->ticket;
	if (r->bounce_none)
		chan_send_bounce_none(
		    from_chan, &(struct msg_bounce_none){.ticket = m->ticket, .why = STR("test")});
}

RIG void connect_writer(struct rig *r)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_writer, NULL};
	r->writer = add_peer(r, PROC_smtpd, dispatch);
	chan_send_writer_state_end(r->writer, &(struct msg_writer_state_end){0});
}

RIG void connect_rest(struct rig *r)
{
	static msg_dispatch_fn *const to_out[] = {msg_to_smtp_out, msg_to_reader, NULL};
	static msg_dispatch_fn *const to_resolver[] = {msg_to_resolver, NULL};
	static msg_dispatch_fn *const to_bouncer[] = {
	    msg_to_bouncer, msg_to_reader, msg_to_writer, NULL};
	r->out = add_peer(r, PROC_smtp_out, to_out);
	chan_send_out_state_end(r->out, &(struct msg_out_state_end){0});
	r->resolver = add_peer(r, PROC_resolver, to_resolver);
	r->bouncer = add_peer(r, PROC_bouncer, to_bouncer);
	chan_send_writer_state_end(r->bouncer, &(struct msg_writer_state_end){0});
}

RIG void get_segment(struct rig *r)
{
	unsigned before = r->gives;
	chan_send_segment_want(r->writer, &(struct msg_segment_want){.ticket = 1});
	turn_until(r, r->gives > before);
}

/* Appends one message to the segment; tells qmgr of it when `tell`. */
RIG void append(struct rig *r, const char *domain, bool tell)
{
	struct buf envelope;
	char rcpt[100], content[300];
	unsigned char head[RECORD_HEAD], zero[RECORD_ALIGN] = {0};
	buf_init(&envelope, 4096);
	snprintf(rcpt, sizeof(rcpt), "b@%s", domain);
	envelope_put(&envelope, ENV_SENDER, STR("s@a.test"));
	envelope_put(&envelope, ENV_RCPT, str_of(rcpt));
	for (unsigned i = 1; i < r->rcpts; i++) {
		snprintf(rcpt, sizeof(rcpt), "b%u@%s", i, domain);
		envelope_put(&envelope, ENV_RCPT, str_of(rcpt));
	}
	int n = snprintf(content, sizeof(content), "Subject: %u\r\n\r\nhello\r\n", r->ordinal);
	struct record rec = {.kind = RECORD_MESSAGE,
	    .nonce_high = r->nonce_high,
	    .nonce_low = r->nonce_low,
	    .offset = r->end,
	    .id = RECORD_ID(r->segment, r->ordinal++),
	    .data_offset = r->end + RECORD_HEAD,
	    .envelope_bytes = (uint32_t)envelope.n,
	    .content_bytes = (uint64_t)n,
	    .arrived_ms = (uint64_t)clock_wall_ms(),
	    .envelope_crc = crc32c(0, envelope.p, envelope.n),
	    .content_crc = crc32c(0, content, (size_t)n)};
	record_encode(&rec, head);
	assert_int_equal(sizeof(head), write(r->fd, head, sizeof(head)));
	assert_int_equal(envelope.n, write(r->fd, envelope.p, envelope.n));
	assert_int_equal(n, write(r->fd, content, (size_t)n));
	size_t data = envelope.n + (size_t)n, pad = (size_t)(record_align(data) - data);
	assert_int_equal(pad, write(r->fd, zero, pad));
	r->end = record_end(&rec);
	if (tell)
		chan_send_accepted(
		    r->writer, &(struct msg_accepted){.segment = r->segment,
				   .offset = rec.offset,
				   .end = r->end,
				   .head = {(const char *)head, sizeof(head)},
				   .envelope = {(const char *)envelope.p, envelope.n}});
	buf_fini(&envelope);
}

RIG void copy(const char *from, const char *to)
{
	char command[1200];
	snprintf(command, sizeof(command), "rm -rf %s && cp -a %s %s", to, from, to);
	assert_int_equal(0, system(command));
}

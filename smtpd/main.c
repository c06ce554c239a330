/* SPDX-License-Identifier: ISC */
/*
 * smtpd: bring-up, and the inbox for what master and qmgr say. Everything else happens in server.c
 * (who connects), session.c (one client), content.c (one message).
 *
 * Loss of qmgr: sessions go on. MAIL is answered 451 until a new qmgr is attached; messages under
 * way are written to the segment that this process holds, answered 250 when synced, and found by
 * the new qmgr (see segwrite.c). Loss of master ends the process at once: the client of a message
 * that was not answered repeats it, what was answered is synced.
 */
#include "common/log.h"
#include "common/worker.h"
#include "smtpd/server.h"
#include "smtpd/status.h"

#include <sys/resource.h>
#include <unistd.h>

struct smtpd {
	struct server *server; /* first: the control verbs' ctx is a struct server ** */
	struct worker *worker;
	struct chan *qmgr;	   /* NULL: none now */
	struct settings *prepared; /* waits for the switch */
	struct secrets secrets;
	unsigned processors;
	bool stopping, stopped;
	struct loop_timer summary;
};

enum { SUMMARY_MS = 10000 };

/* --- qmgr ------------------------------------------------------------------------------------- */

void on_segment_give(void *ctx, struct chan *from_chan, struct msg_segment_give *m)
{
	struct smtpd *d = ctx;

	(void)from_chan;
	segwriter_give(d->server->writer, m);
}

void on_segment_none(void *ctx, struct chan *from_chan, struct msg_segment_none *m)
{
	struct smtpd *d = ctx;

	(void)from_chan;
	segwriter_none(d->server->writer, m);
}

void on_credit(void *ctx, struct chan *from_chan, struct msg_credit *m)
{
	struct smtpd *d = ctx;

	(void)from_chan;
	segwriter_credit(d->server->writer, m);
}

static void on_qmgr_close(void *ctx, struct chan *chan, const char *why)
{
	struct smtpd *d = ctx;

	if (chan != d->qmgr)
		return;
	worker_peer_closed(chan, PROC_qmgr, why);
	d->qmgr = NULL;
	segwriter_detach(d->server->writer);
	log_warn("queue manager lost: %s", why);
}

static void take_peer(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_writer, NULL};
	struct smtpd *d = ctx;

	(void)instance;
	(void)generation;
	if (process != PROC_qmgr) {
		close(fd);
		return;
	}
	if (d->qmgr) { /* master says there is a new one before we saw the old one's end */
		segwriter_detach(d->server->writer);
		chan_free(&d->qmgr);
	}
	struct chan_spec spec = {
	    .peer_roles = ROLE_qmgr, .dispatch = dispatch, .on_close = on_qmgr_close, .ctx = d};
	d->qmgr = chan_new(worker_loop(d->worker), fd, &spec);
	segwriter_attach(d->server->writer, d->qmgr);
}

/* --- master ----------------------------------------------------------------------------------- */

static void before_drop(void *ctx)
{
	struct smtpd *d = ctx;
	struct rlimit limit;
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	tls_init();
	d->processors = processors > 0 ? (unsigned)processors : 1;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
			log_warn("cannot raise the limit of descriptors");
	}
}

static void make_server(struct smtpd *d)
{
	if (!d->server)
		d->server = server_new(worker_loop(d->worker));
}

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	struct smtpd *d = ctx;

	make_server(d);
	settings_unref(&d->prepared);
	d->prepared =
	    settings_new(conf, config, &d->secrets, d->processors, worker_instance(d->worker), why);
	secrets_clear(&d->secrets);
	return d->prepared ? 0 : -1;
}

static void use(void *ctx, uint32_t config)
{
	struct smtpd *d = ctx;

	if (!d->prepared || d->prepared->config != config)
		return;
	server_use(d->server, d->prepared);
	d->prepared = NULL;
}

static void take_listener(void *ctx, uint32_t config, uint16_t index, int fd)
{
	struct smtpd *d = ctx;

	make_server(d);
	server_add_listener(d->server, config, index, fd);
}

static void take_secret(void *ctx, enum secret_kind kind, uint16_t index, struct str pem)
{
	struct smtpd *d = ctx;

	secrets_add(&d->secrets, kind, index, pem);
}

static void say_summary(void *arg)
{
	struct smtpd *d = arg;
	const struct server *s = d->server;

	worker_summary(d->worker, "%u connections, %llu messages accepted", s->session_count,
	    (unsigned long long)s->counters.messages);
	loop_timer_after(worker_loop(d->worker), &d->summary, SUMMARY_MS, say_summary, d);
}

static void ready(void *ctx)
{
	struct smtpd *d = ctx;

	worker_ready(d->worker);
}

static void start(void *ctx, bool unclean, bool rebuild)
{
	struct smtpd *d = ctx;

	(void)unclean;
	(void)rebuild;
	make_server(d);
	if (d->prepared && !d->server->settings)
		use(d, d->prepared->config);
	server_start(d->server, ready, d);
	say_summary(d);
}

static void on_idle(void *ctx)
{
	struct smtpd *d = ctx;

	if (d->stopped)
		return;
	d->stopped = true;
	worker_stopped(d->worker);
}

static void stop(void *ctx, uint32_t deadline_ms)
{
	struct smtpd *d = ctx;

	if (d->stopping)
		return;
	d->stopping = true;
	make_server(d);
	server_stop(d->server, deadline_ms, on_idle, d);
}

int main(int argc, char **argv)
{
	static struct smtpd d;
	struct worker_spec spec = {.process = PROC_smtpd,
	    .verbs = smtpd_verbs,
	    .verb_count = smtpd_verb_count,
	    .ctx = &d,
	    .before_drop = before_drop,
	    .prepare = prepare,
	    .use = use,
	    .on_peer = take_peer,
	    .on_listener = take_listener,
	    .on_secret = take_secret,
	    .start = start,
	    .stop = stop};

	d.worker = worker_new();
	return worker_run(d.worker, &spec, argc, argv);
}

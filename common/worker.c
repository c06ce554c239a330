/* SPDX-License-Identifier: ISC */
#include "common/worker.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
/*
 * The worker's side of master's channel, the same for all workers: bring-up, configuration,
 * heartbeats, stop. Only this file knows the order in which master hands things over.
 *
 * Order: everything that needs the file system or a right → sandbox_drop → sandbox_seccomp → the
 * first byte is read. So nothing that comes from outside is ever looked at with rights.
 *
 * Configurations: the pieces of one are gathered, decoded and prepared. The first is used at once;
 * each later one waits for CONFIG_SWITCH, which comes only when every worker has prepared it. Up to
 * two trees live: the one in use and the one prepared.
 *
 * The end of master's channel is the end of the process: a worker never outlives its master, since
 * nobody would restart, configure or stop it. What it was doing is as safe as after a kill.
 */
enum {
	CONFIG_BYTES_MAX = 64 * 1048576, /* stops a broken master from filling our memory */
};

struct worker {
	const struct worker_spec *spec;
	struct loop *loop;
	struct chan *master;
	struct control *control;
	struct blame *blame; /* shared with master */
	uint16_t instance;
	uint32_t generation;
	int log_fd;
	struct buf pieces;	/* of the configuration that is coming in */
	uint32_t pieces_config; /* its number */
	struct conf *used;	/* owned; NULL before the first */
	struct conf *prepared;	/* owned; waits for the switch */
	uint32_t prepared_config;
};

static unsigned long long argument(const char *text, unsigned long long max)
{
	unsigned long long value = 0;
	if (str_number(str_of(text), max, &value) != 0)
		die(EX_USAGE, "bad argument '%s': workers are started by postern-master only",
		    text);
	return value;
}

/* The parts of libc that open files on their first use have it now. */
static void warm_up(void)
{
	time_t now = time(NULL);
	struct tm tm;
	tzset();
	localtime_r(&now, &tm);
}

/* A terminal's interrupt, timeout(1) and a careless unit signal the whole process group; stopping
 * in order is master's decision. kill -9 still works, and is safe. */
static void ignore_signals(void)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT};
	for (size_t i = 0; i < COUNT_OF(ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void map_blame(struct worker *w)
{
	void *page =
	    mmap(NULL, sizeof(*w->blame), PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_BLAME_FD, 0);
	if (page == MAP_FAILED)
		die(EX_OSERR, "cannot map the page shared with postern-master: %s",
		    strerror(errno));
	w->blame = page;
	close(WORKER_BLAME_FD);
}

static void on_master_gone(void *ctx, struct chan *chan, const char *why)
{
	struct worker *w = ctx;
	(void)chan;
	(void)why;
	w->master = NULL;
	loop_stop(w->loop);
}

static void on_master_hello(void *ctx, struct chan *chan, const struct msg_hello *hello)
{
	(void)ctx;
	if (hello->process != PROC_MASTER)
		chan_close(chan, "not master");
}

int worker_run(struct worker *w, const struct worker_spec *spec, int argc, char **argv)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_worker, NULL};
	log_open(proc_name(spec->process), STDERR_FILENO, false);
	if (argc != 6)
		die(EX_USAGE, "%s is started by postern-master only", proc_name(spec->process));
	w->spec = spec;
	w->instance = (uint16_t)argument(argv[1], UINT16_MAX);
	w->generation = (uint32_t)argument(argv[2], UINT32_MAX);
	uid_t uid = (uid_t)argument(argv[3], UINT32_MAX - 1);
	gid_t gid = (gid_t)argument(argv[4], UINT32_MAX - 1);
	ignore_signals();
	warm_up();
	map_blame(w);
	if (spec->before_drop)
		spec->before_drop(spec->ctx);
	sandbox_drop(uid, gid, argv[5]);
	sandbox_seccomp(spec->process);

	w->loop = loop_new();
	w->control = control_new(w->loop, spec->verbs, spec->verb_count, spec->ctx);
	chan_identify((uint8_t)spec->process, w->instance, w->generation);
	w->master = chan_new(w->loop, WORKER_CHANNEL_FD,
	    &(struct chan_spec){.peer_roles = ROLE_master,
		.dispatch = dispatch,
		.on_close = on_master_gone,
		.on_hello = on_master_hello,
		.ctx = w});
	loop_run(w->loop);
	return 0;
}

struct worker *worker_new(void)
{
	struct worker *w = xcalloc(1, sizeof(*w));
	w->log_fd = -1;
	buf_init(&w->pieces, CONFIG_BYTES_MAX);
	return w;
}

struct loop *worker_loop(struct worker *w)
{
	return w->loop;
}

struct control *worker_control(struct worker *w)
{
	return w->control;
}

uint16_t worker_instance(const struct worker *w)
{
	return w->instance;
}

uint32_t worker_generation(const struct worker *w)
{
	return w->generation;
}

/* --- what the worker says --------------------------------------------------------------------- */

void worker_ready(struct worker *w)
{
	if (w->master)
		chan_send_ready(w->master, &(struct msg_ready){0});
}

void worker_stopped(struct worker *w)
{
	if (w->master)
		chan_send_stopped(w->master, &(struct msg_stopped){0});
}

void worker_summary(struct worker *w, const char *fmt, ...)
{
	char raw[301], text[301];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	log_clean(text, sizeof(text), str_of(raw));
	if (w->master)
		chan_send_summary(w->master, &(struct msg_summary){.text = str_of(text)});
}

void worker_file_full(struct worker *w, uint16_t index)
{
	if (w->master)
		chan_send_file_rotate(w->master, &(struct msg_file_rotate){.index = index});
}

void worker_peer_closed(const struct chan *chan, enum proc_id peer, const char *why)
{
	if (!chan_peer_gone(chan))
		die(EX_PROTOCOL, "channel to %s: %s: cannot go on", proc_name(peer), why);
}

void worker_accuse(
    struct worker *w, enum proc_id process, uint16_t instance, uint32_t generation, const char *why)
{
	char text[201];
	log_clean(text, sizeof(text), str_of(why));
	if (w->master)
		chan_send_fault(w->master, &(struct msg_fault){.process = (uint8_t)process,
					       .instance = instance,
					       .generation = generation,
					       .why = str_of(text)});
}

void worker_blame(struct worker *w, uint64_t message_id)
{
	/* A plain store would do for master, which reads after our death; volatile keeps it in
	 * order with the crash for the compiler. */
	if (w->blame)
		*(volatile unsigned long long *)&w->blame->message_id = message_id;
}

/* --- what master says, in the order in which it says it to a new worker -------------------------
 */

void on_file(void *ctx, struct chan *from_chan, struct msg_file *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (m->kind == FILE_LOG) {
		int old = w->log_fd;
		w->log_fd = msg_take_fd(&m->fd);
		log_open(proc_name(w->spec->process), w->log_fd, m->index != 0);
		if (old >= 0)
			close(old);
		int copy = w->spec->on_file ? fcntl(w->log_fd, F_DUPFD_CLOEXEC, 0) : -1;
		if (copy >= 0) /* who writes a log of its own has a descriptor of its own */
			w->spec->on_file(w->spec->ctx, FILE_LOG, m->index, copy);
	} else if (w->spec->on_file) {
		w->spec->on_file(w->spec->ctx, m->kind, m->index, msg_take_fd(&m->fd));
	}
}

void on_secret(void *ctx, struct chan *from_chan, struct msg_secret *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->spec->on_secret)
		w->spec->on_secret(w->spec->ctx, m->kind, m->index, m->pem);
}

static void answer_config(struct worker *w, uint32_t config, bool ok, const char *why)
{
	char text[501];
	log_clean(text, sizeof(text), str_of(why));
	chan_send_config_ready(
	    w->master, &(struct msg_config_ready){.config = config, .ok = ok, .why = str_of(text)});
}

static void use_prepared(struct worker *w)
{
	if (w->spec->use)
		w->spec->use(w->spec->ctx, w->prepared_config);
	conf_free(&w->used);
	w->used = w->prepared;
	w->prepared = NULL;
}

static void prepare_config(struct worker *w, uint32_t config)
{
	char why[500] = "";
	struct conf *conf = w->pieces.failed
				? NULL
				: conf_decode((struct str){(const char *)w->pieces.p, w->pieces.n});
	if (!conf) {
		answer_config(w, config, false, "the configuration from master does not decode");
		return;
	}
	int rc = w->spec->prepare ? w->spec->prepare(w->spec->ctx, conf, config, why) : 0;
	conf_free(&w->prepared); /* one that was prepared and never used */
	if (rc != 0) {
		conf_free(&conf);
		answer_config(w, config, false, why[0] ? why : "refused");
		return;
	}
	w->prepared = conf;
	w->prepared_config = config;
	if (!w->used)
		use_prepared(w);
	answer_config(w, config, true, "");
}

void on_config(void *ctx, struct chan *from_chan, struct msg_config *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (m->config != w->pieces_config)
		buf_reset(&w->pieces);
	w->pieces_config = m->config;
	buf_str(&w->pieces, m->piece);
	if (!m->last)
		return;
	prepare_config(w, m->config);
	buf_fini(&w->pieces);
	buf_init(&w->pieces, CONFIG_BYTES_MAX);
	w->pieces_config = 0;
}

void on_config_switch(void *ctx, struct chan *from_chan, struct msg_config_switch *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->prepared && m->config == w->prepared_config)
		use_prepared(w);
}

void on_listener(void *ctx, struct chan *from_chan, struct msg_listener *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->spec->on_listener)
		w->spec->on_listener(w->spec->ctx, m->config, m->index, msg_take_fd(&m->fd));
}

void on_control(void *ctx, struct chan *from_chan, struct msg_control *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	control_listen(w->control, msg_take_fd(&m->fd));
}

void on_poison(void *ctx, struct chan *from_chan, struct msg_poison *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->spec->on_poison)
		w->spec->on_poison(w->spec->ctx, m->id, m->deaths);
}

void on_peer(void *ctx, struct chan *from_chan, struct msg_peer *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->spec->on_peer && m->process < PROC_COUNT)
		w->spec->on_peer(
		    w->spec->ctx, m->process, m->instance, m->generation, msg_take_fd(&m->fd));
}

void on_start(void *ctx, struct chan *from_chan, struct msg_start *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (!w->used)
		return; /* it was refused; master ends us */
	if (w->spec->start)
		w->spec->start(w->spec->ctx, m->unclean != 0, m->rebuild != 0);
	else
		worker_ready(w);
}

void on_ping(void *ctx, struct chan *from_chan, struct msg_ping *m)
{
	(void)ctx;
	chan_send_pong(from_chan, &(struct msg_pong){.sequence = m->sequence});
}

void on_stop(void *ctx, struct chan *from_chan, struct msg_stop *m)
{
	struct worker *w = ctx;
	(void)from_chan;
	if (w->spec->stop)
		w->spec->stop(w->spec->ctx, m->deadline_ms);
	else
		worker_stopped(w);
}

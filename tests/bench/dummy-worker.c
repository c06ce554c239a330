/* SPDX-License-Identifier: ISC */
#include "common/log.h"
#include "common/worker.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
/*
 * A worker that does no work: linked to the names of all workers, it lets test_master.py see what
 * master does. It is which worker its file's name says. Everything that it is handed it logs as a
 * line "dummy: …", and its control socket has verbs that make it misbehave:
 *
 *   blame ID     has that message in hand from now on        crash SIGNAL   dies by that signal
 *   hang         never reads again                           exit STATUS    exits
 *   violate      makes a system call that no filter allows
 *
 * A configuration with postmaster "refuse@NAME" is refused by the worker of that name, "hang@NAME"
 * is never answered, "die@NAME" ends it. With default-smtp-port 99 it is not ready before its death
 * by signal 9, which comes at once: a start that always fails. A smtpd answers each client with its
 * generation and configuration, and then "bye" when it stops or a second later.
 */
enum { LISTENERS_MAX = 16, CLIENTS_MAX = 64 };
static struct {
	struct worker *worker;
	enum proc_id process;
	uint32_t config, prepared;
	bool fails;
	struct {
		uint32_t config;
		int fd;
		struct loop_fd io;
	} listeners[LISTENERS_MAX];
	int clients[CLIENTS_MAX];
	size_t client_count;
	int peers[64];
	size_t peer_count;
} self;

static const char *const names[PROC_COUNT] = {
#define PROC(id, file, user, instances, root) [PROC_##id] = file,
#include "common/procs.def"
#undef PROC
};

static void hang(void)
{
	for (;;) {
		struct timespec hour = {3600, 0};
		nanosleep(&hour, NULL);
	}
}

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	const char *who = conf_text(conf->root, CO_GLOBAL_postmaster);
	const char *at = strchr(who, '@');
	(void)ctx;
	self.prepared = config;
	if (self.process == PROC_qmgr)
		self.fails = conf_num(conf->root, CO_GLOBAL_default_smtp_port) == 99;
	/* postmaster is the bouncer's and nobody else's: the option that it gets is the test of
	 * that */
	if (self.process != PROC_bouncer || !at)
		return 0;
	if (strncmp(who, "refuse@", 7) == 0) {
		snprintf(why, 500, "the dummy was told to refuse");
		return -1;
	}
	if (strncmp(who, "hang@", 5) == 0)
		hang();
	if (strncmp(who, "die@", 4) == 0)
		raise(SIGKILL);
	return 0;
}

static void greet(void *arg, uint32_t events)
{
	char text[64];
	int fd = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	(void)events;
	if (fd < 0)
		return;
	int n = snprintf(text, sizeof(text), "220 %u.%u config %u\r\n",
	    worker_instance(self.worker), worker_generation(self.worker), self.config);
	if (write(fd, text, (size_t)n) < 0 || self.client_count == CLIENTS_MAX)
		close(fd);
	else
		self.clients[self.client_count++] = fd; /* kept open: a reload must not end it */
}

static void use(void *ctx, uint32_t config)
{
	(void)ctx;
	self.config = config;
	log_info("dummy: use %u", config);
	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		if (self.listeners[i].config == config && self.listeners[i].fd >= 0 &&
		    !self.listeners[i].io.loop)
			must(loop_add(worker_loop(self.worker), &self.listeners[i].io,
				 self.listeners[i].fd, EPOLLIN, greet, &self.listeners[i].fd) == 0);
		if (self.listeners[i].fd < 0 || self.listeners[i].config == config)
			continue;
		loop_del(&self.listeners[i].io);
		close(self.listeners[i].fd);
		self.listeners[i].fd = -1;
	}
}

static void on_a_listener(void *ctx, uint32_t config, uint16_t index, int fd)
{
	(void)ctx;
	log_info("dummy: listener %u of %u", index, config);
	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		if (self.listeners[i].fd >= 0)
			continue;
		self.listeners[i].fd = fd;
		self.listeners[i].config = config;
		if (config == self.config)
			must(loop_add(worker_loop(self.worker), &self.listeners[i].io, fd, EPOLLIN,
				 greet, &self.listeners[i].fd) == 0);
		return;
	}
	close(fd);
}

static void on_a_peer(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	(void)ctx;
	log_info("dummy: peer %s.%u.%u", proc_name(process), instance, generation);
	if (self.peer_count < COUNT_OF(self.peers))
		self.peers[self.peer_count++] = fd;
	else
		close(fd);
}

static void on_a_file(void *ctx, enum file_kind kind, uint16_t index, int fd)
{
	char text[64];
	(void)ctx;
	if (kind == FILE_LOG) {
		close(fd);
		return;
	}
	int n = snprintf(text, sizeof(text), "file %d.%u generation %u\n", (int)kind, index,
	    worker_generation(self.worker));
	if (write(fd, text, (size_t)n) < 0)
		log_error("dummy: cannot write: %s", strerrordesc_np(errno));
	close(fd);
}

static void on_a_secret(void *ctx, enum secret_kind kind, uint16_t index, struct str pem)
{
	(void)ctx;
	log_info("dummy: secret %d.%u of %zu bytes before %u", (int)kind, index, pem.n,
	    self.prepared + 1);
}

static void on_a_poison(void *ctx, uint64_t id, uint8_t deaths)
{
	(void)ctx;
	log_info("dummy: poison %016llx %u", (unsigned long long)id, deaths);
}

static void start(void *ctx, bool unclean, bool rebuild)
{
	(void)ctx;
	log_info("dummy: start unclean=%d rebuild=%d peers=%zu uid=%u", unclean, rebuild,
	    self.peer_count, getuid());
	if (self.fails)
		raise(SIGKILL);
	worker_summary(self.worker, "summary of %s", proc_name(self.process));
	worker_ready(self.worker);
}

static void stop(void *ctx, uint32_t deadline_ms)
{
	(void)ctx;
	log_info("dummy: stop within %u", deadline_ms);
	if (self.fails) /* never: the test of the bound */
		return;
	for (size_t i = 0; i < self.client_count; i++)
		if (write(self.clients[i], "bye\r\n", 5) < 0)
			log_error("dummy: client gone");
	worker_stopped(self.worker);
}

/* --- misbehaviour
 * ------------------------------------------------------------------------------------ */

static unsigned long long number(const json_t *args)
{
	return strtoull(json_string_value(json_array_get(args, 0)), NULL, 0);
}

static void verb_blame(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)options;
	worker_blame(self.worker, number(args));
	control_end(r, 0, "%s", "");
}

static void verb_crash(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)r;
	(void)options;
	signal((int)number(args), SIG_DFL);
	raise((int)number(args));
}

static void verb_hang(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)r;
	(void)args;
	(void)options;
	hang();
}

static void verb_exit(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)r;
	(void)options;
	_exit((int)number(args));
}

static void verb_violate(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)args;
	(void)options;
	int fd = socket(AF_NETLINK, SOCK_RAW, 0);
	control_end(r, 1, "got descriptor %d", fd);
}

static void verb_status(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx;
	(void)args;
	(void)options;
	control_row(r, json_pack("{s:i, s:i}", "generation", (int)worker_generation(self.worker),
			   "config", (int)self.config));
	control_end(r, 0, "%s", "");
}

static const struct control_verb verbs[] = {
    {"status", "status", "State.", 0, 0, verb_status},
    {"blame", "blame ID", "Has that message in hand.", 1, 1, verb_blame},
    {"crash", "crash SIGNAL", "Dies.", 1, 1, verb_crash},
    {"hang", "hang", "Never answers again.", 0, 0, verb_hang},
    {"exit", "exit STATUS", "Exits.", 1, 1, verb_exit},
    {"violate", "violate", "A forbidden system call.", 0, 0, verb_violate},
};

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	for (unsigned p = 1; p < PROC_COUNT; p++)
		if (strcmp(slash ? slash + 1 : argv[0], names[p]) == 0)
			self.process = p;
	if (self.process == PROC_MASTER)
		die(64, "dummy-worker: to be linked to the name of a worker");
	for (size_t i = 0; i < LISTENERS_MAX; i++)
		self.listeners[i].fd = -1;
	struct worker_spec spec = {
	    .process = self.process,
	    .verbs = verbs,
	    .verb_count = COUNT_OF(verbs),
	    .prepare = prepare,
	    .use = use,
	    .on_peer = on_a_peer,
	    .on_listener = on_a_listener,
	    .on_file = on_a_file,
	    .on_secret = on_a_secret,
	    .on_poison = on_a_poison,
	    .start = start,
	    .stop = stop,
	};
	self.worker = worker_new();
	return worker_run(self.worker, &spec, argc, argv);
}

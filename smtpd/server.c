/* SPDX-License-Identifier: ISC */
/*
 * Accepting clients, and what all sessions share.
 *
 * All smtpd processes hold the same listening sockets and wait for them with EPOLLEXCLUSIVE: one is
 * woken for one client. Each accepts one client a turn, so that a burst of connections spreads over
 * the processes (the kernel always wakes the first one that sleeps).
 *
 * When descriptors run out, accepting pauses: the entries leave epoll, for level-triggered
 * readiness would spin otherwise. It goes on when a session ends or after ACCEPT_AGAIN_MS. The
 * number of clients is bounded below the number of descriptors beforehand, so this is for other
 * processes' misuse of the system's table.
 *
 * Stress: above 80 % of this process' share of clients all time-outs shrink to 10 s, back below 70
 * %.
 */
#include "smtpd/server.h"

#include "common/log.h"
#include "smtpd/session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- stress ----------------------------------------------------------------------------------- */

static void check_stress(struct server *s)
{
	bool stress = s->stress ? s->session_count * 10 > s->connections_max * 7
				: s->session_count * 10 > s->connections_max * 8;

	if (stress == s->stress)
		return;
	s->stress = stress;
	log_info("%s: %u of %u connections", stress ? "under stress" : "no longer under stress",
	    s->session_count, s->connections_max);
	for (struct session *c = s->sessions; stress && c; c = c->next)
		session_retime(c);
}

/* --- accepting -------------------------------------------------------------------------------- */

static void resume_accepting(void *arg);

static void stop_watching(struct server *s, int64_t for_ms)
{
	for (struct acceptor *a = s->acceptors; a; a = a->next)
		loop_del(&a->io);
	s->accept_paused = true;
	loop_timer_after(s->loop, &s->accept_again, for_ms, resume_accepting, s);
}

static void pause_accepting(struct server *s)
{
	if (!s->accept_paused)
		log_warn("no descriptors left: accepting pauses");
	stop_watching(s, ACCEPT_AGAIN_MS);
}

static void peer_bytes(uint8_t out[16], const struct sockaddr_storage *sa)
{
	memset(out, 0, 16);
	if (sa->ss_family == AF_INET6) {
		memcpy(out, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
	} else if (sa->ss_family == AF_INET) {
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	}
}

/* Above the limit: the client hears why and goes, at the cost of one write. */
static void turn_away(struct server *s, int fd)
{
	enum answer a = s->stopping ? ANSWER_STOPPING : ANSWER_TOO_MANY;
	struct str text = answer_text(a);

	s->counters.refused_full++;
	(void)!send(fd, text.p, text.n + 2, MSG_NOSIGNAL | MSG_DONTWAIT); /* with its CRLF */
	close(fd);
}

struct session *server_take_client(
    struct server *s, uint16_t listener, int fd, const uint8_t address[16])
{
	struct session *c;

	if (!s->settings || listener >= s->settings->listener_count || s->stopping ||
	    s->session_count >= s->connections_max) {
		turn_away(s, fd);
		return NULL;
	}
	s->counters.accepted++;
	s->session_count++;
	c = session_new(
	    s, settings_ref(s->settings), &s->settings->listeners[listener], fd, address);
	check_stress(s);
	return c;
}

/* One client; false when there is none to be had. */
static bool accept_one(struct acceptor *a)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	uint8_t address[16];
	int fd = accept4(a->fd, (struct sockaddr *)&sa, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		peer_bytes(address, &sa);
		server_take_client(a->server, a->index, fd, address);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		pause_accepting(a->server);
	}
	/* all else: the client has gone, or another process was quicker */
	return fd >= 0;
}

/* Our share of the connections is used, perhaps not our siblings': the kernel wakes whom it likes,
 * so leave the client to them first. Who still waits after that is told 421. */
static void when_full(struct acceptor *a)
{
	struct server *s = a->server;

	if (s->gave_way)
		for (int i = 0; i < TURN_AWAY_MAX && accept_one(a); i++)
			;
	s->gave_way = !s->gave_way;
	if (s->gave_way)
		stop_watching(s, GIVE_WAY_MS);
}

static void on_acceptor(void *arg, uint32_t events)
{
	struct acceptor *a = arg;

	(void)events;
	if (a->server->session_count >= a->server->connections_max)
		when_full(a);
	else
		accept_one(a);
}

static void watch_acceptor(struct server *s, struct acceptor *a)
{
	bool want = a->active && s->started && !s->accept_paused && !s->stopping;

	if (!want)
		loop_del(&a->io);
	else if (!a->io.loop &&
		 loop_add(s->loop, &a->io, a->fd, EPOLLIN | EPOLLEXCLUSIVE, on_acceptor, a) != 0)
		pause_accepting(s);
}

static void watch_acceptors(struct server *s)
{
	for (struct acceptor *a = s->acceptors; a; a = a->next)
		watch_acceptor(s, a);
}

static void resume_accepting(void *arg)
{
	struct server *s = arg;

	loop_timer_cancel(s->loop, &s->accept_again);
	s->accept_paused = false;
	watch_acceptors(s);
}

void server_on_session_end(struct server *s)
{
	s->session_count--;
	s->gave_way = false;
	check_stress(s);
	if (s->accept_paused)
		resume_accepting(s);
	if (s->stopping && s->session_count == 0 && s->on_idle)
		s->on_idle(s->ctx);
}

/* --- listeners and settings --------------------------------------------------------------------
 */

void server_add_listener(struct server *s, uint32_t config, uint16_t index, int fd)
{
	struct acceptor *a = xcalloc(1, sizeof(*a));
	int one = 1;

	/* Inherited by every accepted socket: our answers are small and must not wait for an ACK.
	 */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*a = (struct acceptor){
	    .next = s->acceptors, .server = s, .config = config, .index = index, .fd = fd};
	s->acceptors = a;
	a->active = s->settings && s->settings->config == config;
	watch_acceptor(s, a);
}

static void acceptor_free(struct acceptor **at)
{
	struct acceptor *a = *at;

	*at = a->next;
	loop_del(&a->io);
	close(a->fd);
	free(a);
}

void server_use(struct server *s, struct settings *settings)
{
	struct acceptor **at = &s->acceptors;

	settings_unref(&s->settings);
	s->settings = settings;
	s->connections_max = settings->connections_max;
	if (s->connections_max > s->fds_max)
		s->connections_max = s->fds_max;
	while (*at) {
		(*at)->active = (*at)->config == settings->config;
		/* one of a later configuration waits for its switch */
		if (!(*at)->active && (*at)->config < settings->config)
			acceptor_free(at);
		else
			at = &(*at)->next;
	}
	watch_acceptors(s);
	check_stress(s);
}

static void open_doors(void *arg)
{
	struct server *s = arg;

	if (s->started)
		return;
	s->started = true;
	loop_timer_cancel(s->loop, &s->start_timer);
	watch_acceptors(s);
	if (s->on_open)
		s->on_open(s->open_ctx);
}

void server_start(struct server *s, void (*on_open)(void *ctx), void *ctx)
{
	s->on_open = on_open;
	s->open_ctx = ctx;
	loop_timer_after(s->loop, &s->start_timer, START_WAIT_MS, open_doors, s);
}

/* --- life ------------------------------------------------------------------------------------- */

/* Once a turn: messages that wait for credit, in the order in which they came; and the turn's log
 * lines. */
static void on_turn_end(void *arg)
{
	struct server *s = arg;

	if (wheel_armed(&s->start_timer.node) && segwriter_state(s->writer) == REFUSE_NONE)
		open_doors(s);
	while (s->parked && segwriter_state(s->writer) == REFUSE_NONE)
		session_credit(s->parked);
	log_flush();
	log_hold();
}

static void end_all(void *arg)
{
	struct server *s = arg;

	for (struct session *c = s->sessions, *next; c; c = next) {
		next = c->next;
		session_kill(c);
	}
}

void server_stop(struct server *s, int64_t deadline_ms, void (*on_idle)(void *ctx), void *ctx)
{
	s->stopping = true;
	s->on_idle = on_idle;
	s->ctx = ctx;
	watch_acceptors(s);
	for (struct session *c = s->sessions, *next; c; c = next) {
		next = c->next;
		session_stop(c);
	}
	/* Content that does not end in time is given up: the client has no answer, and repeats it.
	 */
	loop_timer_after(s->loop, &s->stop_timer, deadline_ms * 3 / 4, end_all, s);
	if (s->session_count == 0)
		on_idle(ctx);
}

struct server *server_new(struct loop *loop)
{
	struct server *s = xcalloc(1, sizeof(*s));
	struct rlimit limit = {0};

	s->loop = loop;
	s->started_ms = loop_now_ms(loop);
	getrlimit(RLIMIT_NOFILE, &limit);
	s->fds_max = limit.rlim_cur > FDS_RESERVED + 1000000u ? 1000000u
		     : limit.rlim_cur > 2 * FDS_RESERVED ? (unsigned)limit.rlim_cur - FDS_RESERVED
							 : (unsigned)limit.rlim_cur / 2;
	loop_on_turn_end(
	    loop, on_turn_end, s); /* before the writer's: what it hands in goes this turn */
	s->writer = segwriter_new(loop);
	s->rates = rates_new();
	log_hold();
	return s;
}

/* The process' end, and tests'. Messages under way are given up. */
void server_free(struct server **server)
{
	struct server *s = *server;

	*server = NULL;
	s->on_idle = NULL;
	loop_timer_cancel(s->loop, &s->accept_again);
	loop_timer_cancel(s->loop, &s->stop_timer);
	loop_timer_cancel(s->loop, &s->start_timer);
	while (s->acceptors)
		acceptor_free(&s->acceptors);
	for (struct session *c = s->sessions, *next; c; c = next) {
		next = c->next;
		session_free(&c);
	}
	loop_timer_cancel(s->loop, &s->accept_again);
	segwriter_free(&s->writer);
	rates_free(&s->rates);
	settings_unref(&s->settings);
	log_flush();
	free(s);
}

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "common/segwrite.h"
#include "smtpd/rates.h"
#include "smtpd/settings.h"
#include <stdint.h>
/*
 * What all sessions of this process share: settings, listening sockets, the writer, the sums of
 * what is bounded, counters.
 */
struct session;
struct server;
struct acceptor { /* one listening socket of one configuration */
	struct acceptor *next;
	struct server *server; /* borrowed */
	uint32_t config;
	uint16_t index;
	int fd;	     /* owned */
	bool active; /* of the settings in use: accepts (unless paused) */
	struct loop_fd io;
};
struct server_counters {
	uint64_t accepted, refused_full, refused_relay, messages, rejected, deferred, bytes_in,
	    lost, timeouts, starttls, over_rate[IN_RATES];
};
enum {
	INPUT_BYTES = 65536,   /* one read of one client: also what it can make us do in a turn */
	ACCEPT_AGAIN_MS = 500, /* after descriptors ran out */
	GIVE_WAY_MS = 50,      /* a full process leaves a client to its siblings for so long … */
	TURN_AWAY_MAX = 64,    /* … and then answers so many that nobody took */
	FDS_RESERVED = 200, /* descriptors not for clients: segments, streams, control, channels */
	STRESS_TIMEOUT_MS = 10000,
	START_WAIT_MS = 5000, /* for qmgr's first segment; then clients are told 451 */
};
struct server {
	struct loop *loop;
	struct segwriter *writer;
	struct rates *rates;	    /* owned: what tenants may bring */
	struct settings *settings;  /* in use; NULL before the first */
	struct acceptor *acceptors; /* owned */
	struct session *sessions;   /* all, owned */
	struct session *parked;	    /* finished messages that wait for credit */
	unsigned session_count, connections_max, fds_max;
	uint64_t next_session;
	uint64_t content_bytes; /* content in memory */
	bool started, stopping, accept_paused, gave_way, stress;
	struct loop_timer accept_again, stop_timer, start_timer;
	void (*on_open)(void *ctx); /* started: accepting begins now */
	void *open_ctx;
	void (*on_idle)(void *ctx); /* stopping, and the last session is gone */
	void *ctx;
	struct server_counters counters;
	int64_t started_ms;
	char input[INPUT_BYTES]; /* one read; nothing stays here over a callback */
};
struct server *server_new(struct loop *loop);
void server_free(struct server **s);
void server_add_listener(struct server *s, uint32_t config, uint16_t index, int fd); /* takes fd */
/* Takes the reference: accepts on that configuration's sockets from now on, closes the others'. */
void server_use(struct server *s, struct settings *settings);
/* Accepts as soon as mail can be taken, so that a client's first MAIL after a start is not refused;
 * at the latest after START_WAIT_MS. on_open (may be NULL) is called at that moment. */
void server_start(struct server *s, void (*on_open)(void *ctx), void *ctx);
void server_stop(struct server *s, int64_t deadline_ms, void (*on_idle)(void *ctx), void *ctx);
/* Starts a session on a connected socket; takes fd. Also for tests. NULL when refused. */
struct session *server_take_client(
    struct server *s, uint16_t listener, int fd, const uint8_t address[16]);
/* The session's side */
void server_on_session_end(struct server *s);

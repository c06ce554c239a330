/* SPDX-License-Identifier: ISC */
#pragma once
#include "smtp-out/body.h"
#include "smtp-out/session.h"
/*
 * The inside of a session, for session.c (its life), connect.c (its socket) and wire.c (its bytes).
 */
enum {
	WIRE_MAX = 1 << 20,    /* ciphertext; no more is made above a small part of this */
	PLAIN_MAX = 64 * 1024, /* read and not yet parsed: the parser leaves less than a line */
};
enum session_state {
	SESSION_CONNECTING,
	SESSION_TALKING,   /* the dialogue is on, the TLS handshake included */
	SESSION_PARTING,   /* QUIT was answered: waiting for the peer to close */
	SESSION_LINGERING, /* we have closed; the peer's slot counts as taken for a second more */
};

struct grant {	     /* GRANT's texts live in one block behind each other */
	char *texts; /* owned */
	const char *queue, *domain, *source, *ehlo, *host, *address;
	uint16_t port;
	const char *patterns; /* names of lists, commas between */
	bool tls, tls_required, ignore_8bitmime;
	uint32_t connect_ms, greeting_ms, command_ms, data_ms, dot_ms, idle_ms;
};

struct session {
	struct session *next; /* in its bucket */
	struct out *out;      /* borrowed */
	uint64_t conn;
	struct grant grant;
	enum session_state state;
	int fd; /* owned; -1 when closed */
	struct loop_fd io;
	struct loop_timer timer;
	int64_t deadline_ms; /* the timer may be armed for earlier, and then looks here */
	int64_t started_ms;
	uint32_t setup_ms; /* until ready; 0 once the first RESULT has told it */
	bool abortive;	   /* SO_LINGER {1, 0} is on: close() resets */
	bool peer_closed;
	bool write_failed; /* the peer's last words may still be readable */
	bool was_ready;

	struct dialogue dialogue;
	struct body body;
	struct txn *sending; /* whose content `body` holds */
	struct buf in;	     /* the beginning of a line */
	struct tls *tls;
	struct buf wire;     /* ciphertext to send */
	size_t sealed;	     /* commands inside `wire` */
	struct buf hits;     /* hit_put()'s list: patterns that matched before any mail */
	struct trace *trace; /* who listens; NULL: nobody */
	char relay[400];     /* NAME[IP]:PORT */
	char local[64];	     /* our address */
};

/* connect.c */
/* A non-blocking connect() is under way in s->fd: 0; or fills why and returns the cause. */
enum conn_cause connect_begin(struct session *s, char why[160]);
enum conn_cause connect_end(struct session *s, char why[160]); /* CONN_DONE: connected */
void connect_set_abortive(struct session *s, bool on);

/* wire.c */
void wire_push(struct session *s); /* writes what can be written; sets the events to wait for */
void wire_read(struct session *s); /* reads what has come into the dialogue */
void wire_start_tls(struct session *s);

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/tls.h"
#include "smtpd/parse.h"
#include "smtpd/server.h"
#include "smtpd/txn.h"
/*
 * One client. The phase of the dialogue is not stored: it follows from what exists (helo, txn, its
 * recipients, its body), so it cannot disagree with it.
 */
enum {			   /* bits, for verbs.def */
	PHASE_START = 1,   /* no EHLO or HELO yet */
	PHASE_GREETED = 2, /* no transaction */
	PHASE_SENDER = 4,  /* MAIL, no recipient yet */
	PHASE_RCPTS = 8,
	PHASE_CHUNKS = 16, /* between BDATs */
	PHASE_ANY = 31,
};
enum mode { /* what the next byte of input is, or why none is looked at */
	MODE_COMMAND,
	MODE_DATA,    /* content, up to the final dot */
	MODE_CHUNK,   /* content or refused content of a BDAT: chunk_left octets */
	MODE_STREAM,  /* waits for the segment of a large message */
	MODE_PARKED,  /* a finished message waits for credit */
	MODE_COMMIT,  /* a finished message is being written */
	MODE_CLOSING, /* the last answer is being sent */
	MODE_DEAD,    /* to be freed (when no commit is under way) */
};
enum {
	OUTPUT_MAX =
	    65536, /* answers a client has not read: then we read no more of its commands */
	STREAM_FROM = 262144,	       /* content beyond this is streamed to a segment of its own */
	STREAM_PIECE = 131072,	       /* in pieces of about this */
	STREAM_WAITING_MAX = 1048576,  /* not yet on file: then we stop reading from the client */
	STREAM_SIZE_UNKNOWN = 1048576, /* preallocated without SIZE=; it may grow to any length */
	STREAMS_FREE = 32,	/* streams that anybody may have; beyond, one client has … */
	STREAMS_OF_CLIENT = 16, /* … so many: slow ones of one cannot keep the others out */
	PARK_MS = 10000,	/* how long a finished message waits for credit before 452 */
	STREAM_OPEN_MS = 30000, /* how long a large one waits for its segment */
	LINGER_MS = 10000,	/* how long the last answer may take to leave */
	JUNK_MAX = 1000,	/* commands since the last message; stops NOOP and RSET for ever */
};
struct session {
	struct session *next, **at;		  /* server's list */
	struct session *parked_next, **parked_at; /* server's parked, when MODE_PARKED */
	struct server *server;
	struct settings *settings; /* a reference */
	const struct listener *listener;
	uint64_t number;
	int64_t began_ms;
	int fd;
	struct loop_fd io;
	struct loop_timer timer;
	int64_t deadline_ms, timer_at_ms, data_deadline_ms;
	uint8_t address[16];
	char client[48]; /* the address as text */
	enum mode mode;
	bool ehlo, committing, paused, skip_line, eof;
	bool stalled; /* input was left because the mode, or too much output, forbade to look at it
		       */
	const struct tenant *client_tenant; /* by its address; NULL: none */
	char detail[256];		    /* of the last ANSWER_TENANT_RATE: whose and which */
	char helo[DOMAIN_MAX + 1];	    /* "": none yet */
	struct txn *txn;		    /* owned; NULL: none */
	uint64_t chunk_left;
	bool chunk_last, chunk_refused;
	unsigned errors, junk;
	enum verb last_verb;
	uint32_t count[VERB_COUNT][2]; /* answered well, all */
	struct tls *tls;	       /* owned; NULL: plain */
	struct buf net;		       /* TLS: ciphertext not yet fed */
	struct buf in;		       /* input not yet eaten */
	struct buf reply;	       /* plain answers of this wake-up */
	struct buf out;		       /* bytes for the network */
};
/* Greets. Takes fd and the reference. */
struct session *session_new(struct server *s, struct settings *settings,
    const struct listener *listener, int fd, const uint8_t address[16]);
void session_free(struct session **s); /* at the process' end */
unsigned session_phase(const struct session *s);
void session_retime(struct session *s); /* stress began or ended */
void session_stop(struct session *s); /* the service stops: end it unless a message is under way */
void session_kill(struct session *s); /* at once; may free it */
void session_credit(struct session *s); /* MODE_PARKED: try again; may free it */

/* For verbs.c and content.c: the parts of a session that is running. */
void session_answer(struct session *s, enum answer a);
void session_text(struct session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void session_reject(struct session *s, const char *at, enum answer a, const char *address);
/* This much from this tenant now? ANSWER_NONE, or the refusal; `detail` says which limit. */
enum answer session_tenant_rate(
    struct session *s, const struct tenant *t, uint64_t messages, uint64_t rcpts);
void session_drop_txn(struct session *s);
void session_end(struct session *s);		  /* after what is in `reply` */
void session_wait_command(struct session *s);	  /* a new deadline for the next command */
void session_wait(struct session *s, int64_t ms); /* -1: for ever */
void session_resume(struct session *s);		  /* from a callback: go on with what is buffered */
int64_t session_timeout_ms(const struct session *s);

/* verbs.c */
void verb_run(struct session *s, struct str line);
/* content.c */
void content_begin(struct session *s, bool chunked);
void content_take(struct session *s, struct str *in); /* MODE_DATA, MODE_CHUNK */
void content_wait(struct session *s);		      /* a new deadline for content */
void content_timeout(struct session *s);	      /* MODE_STREAM, MODE_PARKED */
void content_forget(struct session *s);		      /* before the session goes */

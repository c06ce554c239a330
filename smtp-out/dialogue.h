/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/reply.h"
#include "smtp-out/features.h"
#include "smtp-out/txn.h"
/*
 * The SMTP client's side of one connection: bytes of replies in, bytes of commands out, and what
 * became of each transaction. No socket, no clock: session.c moves the bytes (and the content,
 * which never passes through here), keeps the deadlines, and switches TLS on.
 */
enum dialogue_state {
	DIALOGUE_TALKING,
	DIALOGUE_STARTTLS, /* 220 came: do the handshake, then dialogue_secured() */
	DIALOGUE_ENDED,	   /* close the socket: at once, or, if `quit` was answered, in peace */
};
enum dialogue_wait { WAIT_GREETING, WAIT_COMMAND, WAIT_DATA, WAIT_DOT, WAIT_IDLE, WAIT_QUIT };

struct dialogue_end { /* what CONN_CLOSED will say */
	enum conn_cause cause;
	enum smtp_stage stage;
	uint16_t code;
	char *text; /* owned, may be NULL */
};

struct dialogue_failure { /* a reply that is a refusal, or a failure of ours in a reply's place */
	enum smtp_stage stage;
	bool own;	  /* the text is ours, not the peer's */
	const char *text; /* one line */
	struct txn *txn;  /* it was said of; NULL: of the connection */
	int rcpt;	  /* it was said of, in txn; -1: of all of them */
};

struct dialogue_spec {
	const char *ehlo;  /* borrowed, outlives the dialogue */
	bool tls;	   /* use STARTTLS where it is offered */
	bool tls_required; /* and say nothing of mail without it */
	bool ignore_8bitmime;
	void *ctx;
	void (*ready)(void *ctx); /* EHLO is done for good: transactions may come */
	void (*result)(
	    void *ctx, struct txn *t); /* everything in it is decided; freed afterwards */
	/* Once a failed reply, before anything else is made of it; NULL: nobody wants to know. */
	void (*failed)(void *ctx, const struct dialogue_failure *f);
	/* What is said by us ('>') and by the peer ('<'), a line each, content left out; may be
	 * NULL. */
	void (*said)(void *ctx, char who, struct str line);
};

enum {
	PIPELINE_MAX = 100
}; /* commands without an answer: more would only fill both ends' buffers */
struct expected {
	uint8_t step;
	uint16_t rcpt;
};

struct dialogue {
	struct dialogue_spec spec;
	enum dialogue_state state;
	bool started, is_ready, secured, quit_wanted, quit_written, quit_answered, needs_reset;
	bool babbling; /* part of a reply that nobody asked for has come */
	uint8_t next;  /* the greeting's next step to write */
	struct features features;
	struct reply_parser parser;
	struct buf out;	 /* commands to write; behind the content when that is being sent */
	size_t dot_left; /* bytes of `out` up to the end of a final dot in it; 0: none */
	int64_t now_ms, since_ms;	/* set by the session; when the wait that is on began */
	struct txn *active;		/* begun, oldest first; at most two */
	struct txn *writing;		/* the one of them whose commands are being written */
	struct txn *queue, **queue_end; /* not begun */
	struct txn *content;		/* whose content the session has to send now */
	struct expected expected[PIPELINE_MAX];
	unsigned expected_first, expected_count;
	uint64_t begun, delivered; /* transactions; recipients */
	struct dialogue_end end;
};

void dialogue_init(struct dialogue *d, const struct dialogue_spec *spec);
void dialogue_fini(struct dialogue *d);	 /* reports nothing */
void dialogue_start(struct dialogue *d); /* connected: the peer speaks first */
/* Eats whole replies from *in; the rest of a line stays there. */
void dialogue_feed(struct dialogue *d, struct str *in);
void dialogue_add(struct dialogue *d, struct txn *t); /* takes t */
void dialogue_secured(struct dialogue *d);
/* The session has sent, or holds in memory to send with `out`, all of the content: the dot follows.
 */
void dialogue_content_end(struct dialogue *d);
void dialogue_sent(struct dialogue *d,
    size_t n); /* n bytes of `out` went out for sure; they stay the caller's to consume */
void dialogue_sealed(struct dialogue *d);     /* `out` was encrypted: some of it may be out */
void dialogue_quit(struct dialogue *d);	      /* QUIT when what was given is done */
void dialogue_drop_queue(struct dialogue *d); /* hand back what has not begun */
/* It is over: what has begun is judged, what has not is dropped. Harmless when it had ended. From
 * STARTTLS to the first word behind the handshake every cause but our own will is CONN_TLS: an
 * offer of TLS that leads nowhere must never keep mail from being delivered in the clear. */
void dialogue_fail(struct dialogue *d, enum conn_cause cause, const char *what);
enum dialogue_wait dialogue_wait(const struct dialogue *d);
const char *dialogue_step_name(const struct dialogue *d); /* what it waits for */
enum smtp_stage dialogue_stage(const struct dialogue *d);
bool dialogue_idle(const struct dialogue *d);

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include "common/str.h"
#include <jansson.h>
#include <sys/types.h>
/*
 * The control socket of a service: one request and its answer per connection. Request: one line of
 * JSON {"verb": "...", "args": ["..."], "options": {"name": "value"}, "by": "who asks"}. Answer:
 * any number of JSON objects, a line each, the last one {"end": true, "status": N, "error": "..."}
 * (status: sysexits.h). master makes the socket mode 0600 for root and its group option; peer
 * credentials are checked: root, or the user that runs master. A slow reader holds only its own
 * connection: rows are produced when there is room. Bounded: 32 connections, requests of 64 KiB.
 */
struct control;
struct control_reply;
typedef void control_verb_fn(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options);
struct control_verb {
	const char *name;
	/* "queues [PATTERN] [--limit=N]". The options it names are those the verb knows: a request
	 * with another one is refused before fn is called. */
	const char *usage;
	const char *help; /* one line; manual and `posternctl SERVICE help` come from here */
	int min_args, max_args;
	control_verb_fn *fn;
};
/* "help" is built in. The verbs are not copied. */
struct control *control_new(
    struct loop *loop, const struct control_verb *verbs, size_t n, void *ctx);
void control_listen(struct control *c, int fd); /* takes fd */
void control_free(struct control **c);
/* One more user who may ask: the one that runs master. Root and our own (at control_new) always
 * may. */
void control_allow_uid(struct control *c, uid_t uid);

/* What a verb gets: args is an array of strings, options an object of strings; both live as long as
 * the reply. These two answer NULL where nothing was given. */
const char *control_arg(const json_t *args, size_t i);
const char *control_option(const json_t *options, const char *name);

/* Who asks, for what is kept with a change: "alice (uid 0)", or "uid 0" where no name was sent. */
enum { CONTROL_NAME_MAX = 32, CONTROL_WHO_BYTES = 64 };
void control_who(const struct control_reply *r, char who[CONTROL_WHO_BYTES]);

/*
 * The reply lives until the verb's function returned and its answer was ended and sent, or the peer
 * left. A function that returns without ending, streaming or asking for time has ended with status
 * 0. Nothing is written, and no reply freed, inside these calls: that happens from the loop.
 */

void control_row(struct control_reply *r, json_t *row); /* takes the reference; NULL is ignored */
/* The last line; status of sysexits.h. Once. For r that the peer has left, use `gone` or drop(). */
void control_end(struct control_reply *r, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Who keeps a journal: from control_hold() on the last line of an answer leaves only when a
 * control_release() has followed a control_mark() that came after it, so that nobody is told of a
 * change that a crash may still undo. NULL is ignored. */
void control_hold(struct control *c);
void control_mark(struct control *c);
void control_release(struct control *c);
/* For long lists and late answers: next() is called when there is room; it adds rows (returns true
 * for "more to come") or ends. `state` is given to drop() when the reply is over, also when the
 * peer left. */
typedef bool control_next_fn(void *state, struct control_reply *r);
void control_stream(
    struct control_reply *r, control_next_fn *next, void (*drop)(void *), void *state);
/* An answer that comes later (e.g. resolve): keep r; `gone` tells when the peer left first. */
void control_later(struct control_reply *r, void (*gone)(void *arg), void *arg);

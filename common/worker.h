/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/conf.h"
#include "common/control.h"
#include "common/types.h"
/*
 * What every worker's main() is: worker_run() does the bring-up in one order (drop to user and root
 * → seccomp → HELLO → configuration, descriptors → prepare → START → READY → loop), answers
 * heartbeats, follows reloads, and returns 0 when master's socket closes: main() then returns at
 * once.
 *
 * master starts a worker as: FILE INSTANCE GENERATION UID GID ROOT, with its channel on descriptor
 * 3, the spool lock on 4 (kept open, never used), its blame page on 5 (mapped and closed before the
 * filter, so that writers need no shared mappings), and nothing else. UID 0 GID 0 means: not root,
 * keep the ids (then Landlock stands in for the empty root).
 *
 * The current directory is ROOT in both cases: a worker names files relative to it ("segments/…"),
 * so that the same code runs chrooted and not.
 */
enum { WORKER_CHANNEL_FD = 3, WORKER_LOCK_FD = 4, WORKER_BLAME_FD = 5 };
struct worker;
struct worker_spec {
	enum proc_id process;
	const struct control_verb *verbs;
	size_t verb_count;
	void *ctx;			/* given to all of these; NULL functions are skipped */
	void (*before_drop)(void *ctx); /* what needs the file system: OpenSSL's own */
	/* A complete configuration came; check and prepare, do not use yet. 0, or -1 with why
	 * filled. The secrets that belong to it came before (on_secret). conf stays valid until a
	 * later prepare() (if it was never used) or until use() of a later one has returned. A
	 * prepared one may never be used: another worker refused it. */
	int (*prepare)(void *ctx, const struct conf *conf, uint32_t config, char why[500]);
	void (*use)(void *ctx, uint32_t config); /* switch to the prepared one */
	void (*on_peer)(
	    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd);
	/* At start after use(config), at reload before it. What is not of the configuration in use
	 * is closed at the switch. */
	void (*on_listener)(void *ctx, uint32_t config, uint16_t index, int fd);
	/* FILE_LOG comes first of all and at each reload; log.h writes to it already, this one is a
	 * descriptor of one's own. Accounting files come right after use() of their configuration,
	 * all of them, also at a reload that only rotates. */
	void (*on_file)(void *ctx, enum file_kind kind, uint16_t index, int fd);
	/* Before the prepare() of its configuration. Empty pem: this listener has none any more. */
	void (*on_secret)(void *ctx, enum secret_kind kind, uint16_t index, struct str pem);
	void (*on_poison)(void *ctx, uint64_t id, uint8_t deaths);
	void (*start)(
	    void *ctx, bool unclean, bool rebuild);    /* call worker_ready() then or later */
	void (*stop)(void *ctx, uint32_t deadline_ms); /* call worker_stopped() when done */
};
/* Runs the loop until master's socket closes. All descriptors given to the callbacks are theirs. */
int worker_run(struct worker *w, const struct worker_spec *spec, int argc, char **argv);
struct worker *worker_new(void);
struct loop *worker_loop(struct worker *w);	  /* valid in every callback */
struct control *worker_control(struct worker *w); /* NULL: none */
void worker_file_full(struct worker *w, uint16_t index); /* an accounting file */
uint16_t worker_instance(const struct worker *w);
uint32_t worker_generation(const struct worker *w);
void worker_ready(struct worker *w);
void worker_stopped(struct worker *w);
void worker_summary(struct worker *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* In on_close of a channel to another worker. Returns when that worker has died: a new one comes.
 * Anything else (a frame that cannot be, a descriptor that did not travel) ends this process: both
 * sides live, each has lost a part of what the other said, and only master can begin anew. */
void worker_peer_closed(const struct chan *chan, enum proc_id peer, const char *why);
/* qmgr only: that worker broke the protocol and may live on. master kills it. */
void worker_accuse(struct worker *w, enum proc_id process, uint16_t instance, uint32_t generation,
    const char *why);
/* The message being handled, in the page that master reads at our death; 0 when done. */
void worker_blame(struct worker *w, uint64_t message_id);

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/conf.h"
#include "common/control.h"
#include "common/types.h"
/*
 * What every worker's main() is: worker_run() does the bring-up in one order (drop to user and root →
 * seccomp → HELLO → configuration, descriptors → prepare → START → READY → loop), answers
 * heartbeats, follows reloads, and exits when master's socket closes.
 *
 * master starts a worker as: FILE INSTANCE GENERATION UID GID ROOT FLAGS, with its channel on
 * descriptor 3, the spool lock on 4 (kept open, never used), and nothing else. UID 0 GID 0 means: not
 * root, keep the ids (then Landlock stands in for ROOT).
 */
enum { WORKER_CHANNEL_FD = 3, WORKER_LOCK_FD = 4 };
struct worker;
struct worker_spec {
	enum proc_id process;
	const struct control_verb *verbs;
	size_t verb_count;
	void *ctx; /* given to all of these; NULL functions are skipped */
	void (*before_drop)(void *ctx);                      /* what needs the file system: OpenSSL's own */
	/* A complete configuration came; check and prepare, do not use yet. 0, or -1 with why filled. */
	int (*prepare)(void *ctx, const struct conf *conf, uint32_t config, char why[500]);
	void (*use)(void *ctx, uint32_t config);             /* switch to the prepared one */
	void (*on_peer)(void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd);
	void (*on_listener)(void *ctx, uint32_t config, uint16_t index, int fd);
	void (*on_file)(void *ctx, enum file_kind kind, uint16_t index, int fd);
	void (*on_secret)(void *ctx, enum secret_kind kind, uint16_t index, struct str pem);
	void (*on_poison)(void *ctx, uint64_t id, uint8_t deaths);
	void (*start)(void *ctx, bool unclean, bool rebuild); /* call worker_ready() then or later */
	void (*stop)(void *ctx, uint32_t deadline_ms);        /* call worker_stopped() when done */
};
int worker_run(struct worker *w, const struct worker_spec *spec, int argc, char **argv);
struct worker *worker_new(void);
struct loop *worker_loop(struct worker *w);      /* valid in every callback */
uint16_t worker_instance(const struct worker *w);
uint32_t worker_generation(const struct worker *w);
void worker_ready(struct worker *w);
void worker_stopped(struct worker *w);
void worker_summary(struct worker *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The message being handled, in the page that master reads at our death; 0 when done. */
void worker_blame(struct worker *w, uint64_t message_id);

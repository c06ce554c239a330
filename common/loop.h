/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/wheel.h"
#include <stdint.h>
/*
 * One thread's event loop over epoll (level-triggered). A turn: wait, read the clock once, run due
 * timers, run the callbacks of ready descriptors, then the end-of-turn hooks in the order they were
 * registered (group commit), then deferred tasks (flushing of channels). Callbacks may add, change
 * and remove anything, themselves included. Call loop_del() before close(): epoll does not forget a
 * descriptor of which a duplicate lives.
 */
struct loop;
struct loop_fd;
struct loop_timer;
typedef void loop_fd_fn(void *arg, uint32_t events); /* EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR */
typedef void loop_timer_fn(void *arg);
typedef void loop_hook_fn(void *arg);

struct loop_fd { /* embedded in its owner; fd stays owned by the owner */
	int fd;
	uint32_t events;
	loop_fd_fn *fn;
	void *arg;
	struct loop *loop;   /* NULL when not registered */
	uint32_t generation; /* private: guards against events of a removed entry */
	uint32_t slot;	     /* private */
};
struct loop_timer { /* embedded; zero-initialised = not armed */
	struct wheel_node node;
	loop_timer_fn *fn;
	void *arg;
};

struct loop *loop_new(void);
void loop_free(struct loop **loop);
int64_t loop_now_ms(const struct loop *loop); /* monotonic, of this turn */
int loop_add(struct loop *loop, struct loop_fd *entry, int fd, uint32_t events, loop_fd_fn *fn,
    void *arg) MUST_USE;			       /* 0 or -errno */
void loop_mod(struct loop_fd *entry, uint32_t events); /* cheap when unchanged */
void loop_del(struct loop_fd *entry);		       /* harmless when not registered */
void loop_timer_at(
    struct loop *loop, struct loop_timer *t, int64_t at_mono_ms, loop_timer_fn *fn, void *arg);
void loop_timer_after(
    struct loop *loop, struct loop_timer *t, int64_t delay_ms, loop_timer_fn *fn, void *arg);
void loop_timer_cancel(struct loop *loop, struct loop_timer *t);
void loop_on_turn_end(struct loop *loop, loop_hook_fn *fn, void *arg);
/* Runs fn once, after all hooks of this turn: what hooks send still leaves in this turn. Harmless
 * when already waiting; a task deferred by a task runs in the same turn, or in the next one after a
 * few rounds. Also works before loop_run(). */
struct loop_task { /* embedded; zero-initialised = not waiting */
	struct loop_task *next, *prev;
	loop_hook_fn *fn;
	void *arg;
};
void loop_defer(struct loop *loop, struct loop_task *task, loop_hook_fn *fn, void *arg);
void loop_defer_cancel(struct loop_task *task); /* harmless when not waiting */
/* Blocks the signal and calls fn from the loop (signalfd). */
int loop_signal(struct loop *loop, int signo, loop_timer_fn *fn, void *arg) MUST_USE;
void loop_again(struct loop *loop); /* do not wait before the next turn */
void loop_stop(struct loop *loop);
void loop_run(struct loop *loop);  /* until loop_stop(); that turn is finished, hooks included */
void loop_turn(struct loop *loop); /* one turn, which waits if nothing is ready: for tests */

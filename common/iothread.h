/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/loop.h"
#include <stddef.h>
/*
 * One helper thread that does blocking file work, so that the loop of its process never waits for a
 * disk and a stalled disk never looks like a dead worker. Work is done in the order it was given;
 * `done` runs in the loop's thread afterwards. At most one thread per iothread.
 */
struct iothread;
typedef void io_work_fn(void *arg); /* in the helper thread: touches only what arg owns */
typedef void io_done_fn(void *arg); /* in the loop's thread */

struct iothread *iothread_new(struct loop *loop, const char *name);
void iothread_free(struct iothread **t); /* finishes what was given, without calling done */
void iothread_do(struct iothread *t, io_work_fn *work, io_done_fn *done, void *arg);
size_t iothread_waiting(const struct iothread *t); /* given and not yet done */

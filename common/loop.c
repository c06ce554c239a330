/* SPDX-License-Identifier: ISC */
/*
 * The event loop: epoll for descriptors, the wheel for timers, a signalfd for signals.
 *
 * Removal inside callbacks is safe because epoll is never given a pointer, only a slot's number and
 * its generation. loop_del() clears the slot and raises the generation; an event that epoll_wait()
 * had already returned for it finds another generation and is dropped, even when the slot, the
 * descriptor or the owner's memory have been used again since.
 *
 * The clock is read once a turn, after waiting, so that all decisions of a turn agree on the time.
 */
#include "common/loop.h"
#include "common/clock.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
	EVENTS_A_TURN = 256, /* the rest comes in the next turn: epoll rotates its ready list */
	HOOKS_MAX = 32,	     /* registered at start, by us */
	TASK_ROUNDS = 4,     /* a task that defers itself must not hold the turn */
	SIGNALS = 65,
};

struct slot {
	struct loop_fd *entry; /* NULL: free */
	uint32_t generation;
	uint32_t next_free;
};

struct hook {
	loop_hook_fn *fn;
	void *arg;
};

struct loop {
	int epoll_fd;
	int64_t now_ms;
	struct wheel *wheel;
	bool stop, again;
	struct slot *slots;
	uint32_t slot_count, free_slot; /* free_slot == slot_count: none */
	struct hook hooks[HOOKS_MAX];
	size_t hook_count;
	struct loop_task tasks; /* head of a ring */
	struct loop_fd signals;
	int signal_fd;
	sigset_t signal_set;
	struct hook on_signal[SIGNALS];
};

struct loop *loop_new(void)
{
	struct loop *loop = xcalloc(1, sizeof(*loop));
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	must(loop->epoll_fd >= 0);
	loop->now_ms = clock_mono_ms();
	loop->wheel = wheel_new(loop->now_ms);
	loop->signal_fd = -1;
	sigemptyset(&loop->signal_set);
	loop->tasks.next = loop->tasks.prev = &loop->tasks;
	return loop;
}

void loop_free(struct loop **loop)
{
	struct loop *l = *loop;
	if (l == NULL)
		return;
	for (uint32_t i = 0; i < l->slot_count; i++)
		if (l->slots[i].entry != NULL)
			l->slots[i].entry->loop = NULL;
	while (l->tasks.next != &l->tasks)
		loop_defer_cancel(l->tasks.next);
	if (l->signal_fd >= 0)
		close(l->signal_fd);
	close(l->epoll_fd);
	wheel_free(&l->wheel);
	free(l->slots);
	free(l);
	*loop = NULL;
}

int64_t loop_now_ms(const struct loop *loop)
{
	return loop->now_ms;
}

/* --- descriptors --- */

static void grow_slots(struct loop *loop)
{
	uint32_t count = loop->slot_count ? loop->slot_count * 2 : 64;
	loop->slots = xrealloc(loop->slots, count * sizeof(*loop->slots));
	for (uint32_t i = loop->slot_count; i < count; i++)
		loop->slots[i] = (struct slot){.next_free = i + 1};
	loop->slot_count = count;
}

static uint64_t slot_key(const struct loop_fd *entry)
{
	return (uint64_t)entry->generation << 32 | entry->slot;
}

int loop_add(
    struct loop *loop, struct loop_fd *entry, int fd, uint32_t events, loop_fd_fn *fn, void *arg)
{
	if (loop->free_slot == loop->slot_count)
		grow_slots(loop);
	struct slot *slot = &loop->slots[loop->free_slot];
	*entry = (struct loop_fd){.fd = fd,
	    .events = events,
	    .fn = fn,
	    .arg = arg,
	    .generation = slot->generation,
	    .slot = loop->free_slot};
	struct epoll_event event = {.events = events, .data.u64 = slot_key(entry)};
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	loop->free_slot = slot->next_free;
	slot->entry = entry;
	entry->loop = loop;
	return 0;
}

void loop_mod(struct loop_fd *entry, uint32_t events)
{
	if (entry->loop == NULL || entry->events == events)
		return;
	struct epoll_event event = {.events = events, .data.u64 = slot_key(entry)};
	must(epoll_ctl(entry->loop->epoll_fd, EPOLL_CTL_MOD, entry->fd, &event) == 0);
	entry->events = events;
}

void loop_del(struct loop_fd *entry)
{
	struct loop *loop = entry->loop;
	if (loop == NULL)
		return;
	struct slot *slot = &loop->slots[entry->slot];
	must(slot->entry == entry);
	must(epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, entry->fd, NULL) == 0);
	slot->entry = NULL;
	slot->generation++;
	slot->next_free = loop->free_slot;
	loop->free_slot = entry->slot;
	entry->loop = NULL;
}

static void run_events(struct loop *loop, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		const struct slot *slot = &loop->slots[(uint32_t)events[i].data.u64];
		struct loop_fd *entry = slot->entry;
		if (entry == NULL || slot->generation != (uint32_t)(events[i].data.u64 >> 32))
			continue; /* removed earlier in this turn */
		entry->fn(entry->arg, events[i].events);
	}
}

/* --- timers --- */

void loop_timer_at(
    struct loop *loop, struct loop_timer *t, int64_t at_mono_ms, loop_timer_fn *fn, void *arg)
{
	t->fn = fn;
	t->arg = arg;
	wheel_add(loop->wheel, &t->node, at_mono_ms);
}

void loop_timer_after(
    struct loop *loop, struct loop_timer *t, int64_t delay_ms, loop_timer_fn *fn, void *arg)
{
	int64_t most = INT64_MAX - loop->now_ms;
	loop_timer_at(loop, t, loop->now_ms + (delay_ms < most ? delay_ms : most), fn, arg);
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *t)
{
	wheel_cancel(loop->wheel, &t->node);
}

static void on_timer(void *ctx, struct wheel_node *node)
{
	(void)ctx;
	struct loop_timer *t =
	    (struct loop_timer *)((char *)node - offsetof(struct loop_timer, node));
	t->fn(t->arg);
}

/* --- the end of a turn --- */

void loop_on_turn_end(struct loop *loop, loop_hook_fn *fn, void *arg)
{
	must(loop->hook_count < HOOKS_MAX);
	loop->hooks[loop->hook_count++] = (struct hook){fn, arg};
}

void loop_defer(struct loop *loop, struct loop_task *task, loop_hook_fn *fn, void *arg)
{
	if (task->next != NULL)
		return;
	task->fn = fn;
	task->arg = arg;
	task->next = &loop->tasks;
	task->prev = loop->tasks.prev;
	task->prev->next = task;
	loop->tasks.prev = task;
}

void loop_defer_cancel(struct loop_task *task)
{
	if (task->next == NULL)
		return;
	task->prev->next = task->next;
	task->next->prev = task->prev;
	task->next = task->prev = NULL;
}

/* A round is what waits when it begins: the mark says where that ends. */
static void run_tasks(struct loop *loop)
{
	for (int round = 0; round < TASK_ROUNDS && loop->tasks.next != &loop->tasks; round++) {
		struct loop_task mark = {0};
		loop_defer(loop, &mark, NULL, NULL);
		while (loop->tasks.next != &mark) {
			struct loop_task *task = loop->tasks.next;
			loop_defer_cancel(task);
			task->fn(task->arg);
		}
		loop_defer_cancel(&mark);
	}
}

/* --- signals --- */

static void on_signals(void *arg, uint32_t events)
{
	struct loop *loop = arg;
	struct signalfd_siginfo info;
	(void)events;
	while (loop->signal_fd >= 0 && read(loop->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		must(info.ssi_signo < SIGNALS);
		struct hook on = loop->on_signal[info.ssi_signo];
		if (on.fn != NULL)
			on.fn(on.arg);
	}
}

int loop_signal(struct loop *loop, int signo, loop_timer_fn *fn, void *arg)
{
	must(signo > 0 && signo < SIGNALS);
	sigaddset(&loop->signal_set, signo);
	if (sigprocmask(SIG_BLOCK, &loop->signal_set, NULL) < 0)
		return -errno;
	int fd = signalfd(loop->signal_fd, &loop->signal_set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	loop->signal_fd = fd;
	loop->on_signal[signo] = (struct hook){fn, arg};
	if (loop->signals.loop != NULL)
		return 0;
	return loop_add(loop, &loop->signals, fd, EPOLLIN, on_signals, loop);
}

/* --- turns --- */

void loop_again(struct loop *loop)
{
	loop->again = true;
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}

/* Rounded so that a wait never ends before the timer is due: clock_mono_ms() rounds down. */
static int wait_ms(const struct loop *loop)
{
	if (loop->again || loop->stop || loop->tasks.next != &loop->tasks)
		return 0;
	int64_t next_ms = wheel_next_ms(loop->wheel);
	if (next_ms == INT64_MAX)
		return -1;
	int64_t left_ms = next_ms - clock_mono_ms();
	return left_ms <= 0 ? 0 : left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

void loop_turn(struct loop *loop)
{
	struct epoll_event events[EVENTS_A_TURN];
	int timeout_ms = wait_ms(loop);
	loop->again = false;
	int n = epoll_wait(loop->epoll_fd, events, EVENTS_A_TURN, timeout_ms);
	must(n >= 0 || errno == EINTR);
	loop->now_ms = clock_mono_ms();
	wheel_advance(loop->wheel, loop->now_ms, on_timer, NULL);
	run_events(loop, events, n);
	for (size_t i = 0; i < loop->hook_count; i++)
		loop->hooks[i].fn(loop->hooks[i].arg);
	run_tasks(loop);
}

void loop_run(struct loop *loop)
{
	while (!loop->stop)
		loop_turn(loop);
	loop->stop = false;
}

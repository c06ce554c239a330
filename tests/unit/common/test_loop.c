/* SPDX-License-Identifier: ISC */
/*
 * The loop with real descriptors: who is called, in which order, and that removal and re-use of
 * entries inside callbacks never calls the wrong one.
 */
#include "common/loop.h"
#include "common/clock.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

static char trace[256];

static void note(const char *what)
{
	must(strlen(trace) + strlen(what) < sizeof(trace));
	strcat(trace, what);
}

static struct loop *begin(void)
{
	trace[0] = '\0';
	return loop_new();
}

static void note_event(void *arg, uint32_t events)
{
	(void)events;
	note(arg);
}

static void note_arg(void *arg)
{
	note(arg);
}

static void stop_loop(void *arg)
{
	loop_stop(arg);
}

static int ready_fd(void)
{
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	must(fd >= 0);
	return fd;
}

static void a_turn_has_an_order(void **state)
{
	struct loop *loop = begin();
	struct loop_fd io = {0};
	struct loop_timer t = {0};
	struct loop_task task = {0}, other = {0};
	int fd = ready_fd();
	(void)state;
	loop_defer(loop, &task, note_arg, (void *)(uintptr_t) "task ");
	loop_defer(loop, &other, note_arg, (void *)(uintptr_t) "other ");
	loop_defer(loop, &task, note_arg, NULL); /* waits already */
	loop_on_turn_end(loop, note_arg, (void *)(uintptr_t) "hook1 ");
	loop_on_turn_end(loop, note_arg, (void *)(uintptr_t) "hook2 ");
	assert_int_equal(
	    loop_add(loop, &io, fd, EPOLLIN, note_event, (void *)(uintptr_t) "fd "), 0);
	loop_timer_after(loop, &t, 0, note_arg, (void *)(uintptr_t) "timer ");
	loop_turn(loop);
	assert_string_equal(trace, "timer fd hook1 hook2 task other ");
	loop_del(&io);
	loop_del(&io);
	close(fd);
	loop_free(&loop);
	assert_null(loop);
}

/* --- removal inside callbacks --- */

enum { CROWD = 40 };

struct crowd {
	struct loop *loop;
	struct loop_fd io[CROWD];
	int fd[CROWD];
	int calls[CROWD];
	int total;
};

struct member {
	struct crowd *crowd;
	size_t i;
};

static void remove_all_others(void *arg, uint32_t events)
{
	struct member *me = arg;
	(void)events;
	me->crowd->calls[me->i]++;
	me->crowd->total++;
	for (size_t i = 0; i < CROWD; i++)
		loop_del(&me->crowd->io[i]);
}

/* All are ready in one turn; the first one called removes all: no other may be called. */
static void removed_entries_are_not_called(void **state)
{
	struct crowd c = {.loop = begin()};
	struct member members[CROWD];
	(void)state;
	for (size_t i = 0; i < CROWD; i++) {
		members[i] = (struct member){&c, i};
		c.fd[i] = ready_fd();
		assert_int_equal(
		    loop_add(c.loop, &c.io[i], c.fd[i], EPOLLIN, remove_all_others, &members[i]),
		    0);
	}
	loop_turn(c.loop);
	assert_int_equal(c.total, 1);
	for (size_t i = 0; i < CROWD; i++)
		close(c.fd[i]);
	loop_free(&c.loop);
}

static void count_call(void *arg, uint32_t events)
{
	struct member *me = arg;
	(void)events;
	me->crowd->calls[me->i]++;
}

/* Removes everybody and registers fresh, not ready descriptors in the same entries and slots. */
static void replace_all(void *arg, uint32_t events)
{
	struct member *me = arg;
	struct crowd *c = me->crowd;
	(void)events;
	c->total++;
	for (size_t i = 0; i < CROWD; i++) {
		loop_del(&c->io[i]);
		close(c->fd[i]);
		c->fd[i] = eventfd(0, EFD_CLOEXEC);
		must(loop_add(c->loop, &c->io[i], c->fd[i], EPOLLIN, count_call, me - me->i + i) ==
		     0);
	}
}

static void a_reused_slot_gets_no_old_event(void **state)
{
	struct crowd c = {.loop = begin()};
	struct member members[CROWD];
	(void)state;
	for (size_t i = 0; i < CROWD; i++) {
		members[i] = (struct member){&c, i};
		c.fd[i] = ready_fd();
		must(loop_add(c.loop, &c.io[i], c.fd[i], EPOLLIN, replace_all, &members[i]) == 0);
	}
	loop_turn(c.loop);
	assert_int_equal(c.total, 1);
	for (size_t i = 0; i < CROWD; i++)
		assert_int_equal(c.calls[i], 0);
	eventfd_write(c.fd[7], 1);
	loop_turn(c.loop);
	assert_int_equal(c.calls[7], 1);
	for (size_t i = 0; i < CROWD; i++) {
		loop_del(&c.io[i]);
		close(c.fd[i]);
	}
	loop_free(&c.loop);
}

static void grows_beyond_its_first_slots(void **state)
{
	enum { MANY = 500 };
	struct loop *loop = begin();
	struct loop_fd *io = xcalloc(MANY, sizeof(*io));
	int fd = ready_fd(), fds[MANY];
	(void)state;
	for (size_t i = 0; i < MANY; i++) {
		fds[i] = dup(fd);
		must(loop_add(loop, &io[i], fds[i], 0, note_event, NULL) == 0);
	}
	for (size_t i = 0; i < MANY; i += 2)
		loop_del(&io[i]);
	io[301].arg = (void *)(uintptr_t) "it ";
	loop_mod(&io[301], EPOLLIN);
	loop_mod(&io[301], EPOLLIN);
	loop_turn(loop);
	assert_string_equal(trace, "it ");
	loop_free(&loop); /* forgets the entries that are left */
	assert_null(io[301].loop);
	loop_del(&io[301]);
	for (size_t i = 0; i < MANY; i++)
		close(fds[i]);
	close(fd);
	free(io);
}

static void adding_a_file_is_an_error_not_a_bug(void **state)
{
	struct loop *loop = begin();
	struct loop_fd io = {0};
	(void)state;
	assert_true(loop_add(loop, &io, -1, EPOLLIN, note_event, NULL) < 0);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_true(loop_add(loop, &io, fd, EPOLLIN, note_event, NULL) < 0);
	loop_del(&io);
	close(fd);
	loop_free(&loop);
}

/* --- timers --- */

static void timers_fire_in_time_and_not_before(void **state)
{
	struct loop *loop = begin();
	struct loop_timer first = {0}, second = {0}, never = {0}, end = {0};
	int64_t start = loop_now_ms(loop); /* what "after" counts from */
	(void)state;
	loop_timer_after(loop, &second, 30, note_arg, (void *)(uintptr_t) "second ");
	loop_timer_after(loop, &first, 10, note_arg, (void *)(uintptr_t) "first ");
	loop_timer_after(loop, &never, 20, note_arg, (void *)(uintptr_t) "never ");
	loop_timer_after(loop, &end, 50, stop_loop, loop);
	loop_timer_cancel(loop, &never);
	loop_timer_cancel(loop, &never);
	loop_run(loop);
	assert_string_equal(trace, "first second ");
	assert_true(clock_mono_ms() - start >= 50);
	loop_timer_after(loop, &never, INT64_MAX, note_arg, NULL);
	loop_timer_after(loop, &end, 1, stop_loop, loop);
	loop_run(loop);
	loop_free(&loop);
}

static void again_does_not_wait(void **state)
{
	struct loop *loop = begin();
	struct loop_timer far = {0};
	int64_t start = clock_mono_ms();
	(void)state;
	loop_timer_after(loop, &far, 3600000, note_arg, NULL);
	for (int i = 0; i < 5; i++) {
		loop_again(loop);
		loop_turn(loop);
	}
	assert_true(clock_mono_ms() - start < 60000);
	loop_free(&loop);
}

/* --- tasks --- */

struct repeat {
	struct loop *loop;
	struct loop_task task;
	int runs;
};

static void run_again(void *arg)
{
	struct repeat *r = arg;
	r->runs++;
	loop_defer(r->loop, &r->task, run_again, r);
}

static void a_task_that_repeats_itself_does_not_hold_the_turn(void **state)
{
	struct repeat r = {.loop = begin()};
	(void)state;
	run_again(&r);
	loop_turn(r.loop);
	int after_one = r.runs;
	assert_true(after_one > 1 && after_one < 20);
	loop_turn(r.loop); /* and the next turn does not wait */
	assert_true(r.runs > after_one);
	loop_defer_cancel(&r.task);
	loop_defer_cancel(&r.task);
	loop_free(&r.loop);
}

struct pair {
	struct loop_task first, second;
};

static void cancel_second(void *arg)
{
	struct pair *p = arg;
	note("first ");
	loop_defer_cancel(&p->second);
}

static void a_task_may_cancel_another(void **state)
{
	struct loop *loop = begin();
	struct pair p = {0};
	(void)state;
	loop_defer(loop, &p.first, cancel_second, &p);
	loop_defer(loop, &p.second, note_arg, (void *)(uintptr_t) "second ");
	loop_turn(loop);
	assert_string_equal(trace, "first ");
	loop_free(&loop);
}

static void stop_finishes_the_turn(void **state)
{
	struct loop *loop = begin();
	struct loop_task task = {0};
	struct loop_timer t = {0};
	(void)state;
	loop_on_turn_end(loop, note_arg, (void *)(uintptr_t) "hook ");
	loop_defer(loop, &task, note_arg, (void *)(uintptr_t) "task ");
	loop_timer_after(loop, &t, 0, stop_loop, loop);
	loop_run(loop);
	assert_string_equal(trace, "hook task ");
	loop_free(&loop);
}

/* --- signals --- */

static void signals_come_from_the_loop(void **state)
{
	struct loop *loop = begin();
	(void)state;
	assert_int_equal(loop_signal(loop, SIGUSR1, note_arg, (void *)(uintptr_t) "usr1 "), 0);
	assert_int_equal(loop_signal(loop, SIGUSR2, note_arg, (void *)(uintptr_t) "usr2 "), 0);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	assert_string_equal(trace, ""); /* blocked until the loop asks */
	loop_turn(loop);
	assert_string_equal(trace, "usr1 usr2 ");
	loop_free(&loop);
}

static void do_nothing(int signo)
{
	(void)signo;
}

/* A signal that has a handler of its own interrupts epoll_wait(): the turn just ends. */
static void an_interrupted_wait_is_an_empty_turn(void **state)
{
	struct loop *loop = begin();
	struct sigaction action = {.sa_handler = do_nothing};
	(void)state;
	loop_on_turn_end(loop, note_arg, (void *)(uintptr_t) "hook ");
	sigaction(SIGALRM, &action, NULL);
	ualarm(20000, 0);
	loop_turn(loop);
	assert_string_equal(trace, "hook ");
	loop_free(&loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_turn_has_an_order),
	    cmocka_unit_test(removed_entries_are_not_called),
	    cmocka_unit_test(a_reused_slot_gets_no_old_event),
	    cmocka_unit_test(grows_beyond_its_first_slots),
	    cmocka_unit_test(adding_a_file_is_an_error_not_a_bug),
	    cmocka_unit_test(timers_fire_in_time_and_not_before),
	    cmocka_unit_test(again_does_not_wait),
	    cmocka_unit_test(a_task_that_repeats_itself_does_not_hold_the_turn),
	    cmocka_unit_test(a_task_may_cancel_another),
	    cmocka_unit_test(stop_finishes_the_turn),
	    cmocka_unit_test(signals_come_from_the_loop),
	    cmocka_unit_test(an_interrupted_wait_is_an_empty_turn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/* The helper thread: order, which thread runs what, and an end with work still waiting. */
#include "common/iothread.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

enum { PIECES = 1000 };

struct job {
	struct world *world;
	int number;
	bool worked;
	pthread_t worked_in;
};

struct world {
	struct loop *loop;
	struct iothread *thread;
	struct job jobs[PIECES];
	int next_done;
	int free_at; /* done() of this number frees the thread */
};

static void work(void *arg)
{
	struct job *job = arg;
	if (job->number % 100 == 0)
		usleep(1000);
	job->worked_in = pthread_self();
	job->worked = true;
}

static void done(void *arg)
{
	struct job *job = arg;
	struct world *w = job->world;
	assert_true(job->worked);
	assert_false(pthread_equal(job->worked_in, pthread_self()));
	assert_int_equal(job->number, w->next_done);
	w->next_done++;
	if (job->number == w->free_at)
		iothread_free(&w->thread);
	else
		assert_int_equal(iothread_waiting(w->thread), PIECES - w->next_done);
	if (w->next_done == PIECES || job->number == w->free_at)
		loop_stop(w->loop);
}

static struct world *begin(void)
{
	struct world *w = xcalloc(1, sizeof(*w));
	w->loop = loop_new();
	w->thread = iothread_new(w->loop, "a name longer than the kernel's");
	w->free_at = -1;
	for (int i = 0; i < PIECES; i++) {
		w->jobs[i] = (struct job){.world = w, .number = i};
		iothread_do(w->thread, work, done, &w->jobs[i]);
	}
	return w;
}

static void end(struct world *w)
{
	iothread_free(&w->thread);
	iothread_free(&w->thread);
	loop_free(&w->loop);
	free(w);
}

static void works_in_order_and_tells_the_loop(void **state)
{
	struct world *w = begin();
	(void)state;
	loop_run(w->loop);
	assert_int_equal(w->next_done, PIECES);
	assert_int_equal(iothread_waiting(w->thread), 0);
	end(w);
}

static void freeing_finishes_the_work_without_done(void **state)
{
	struct world *w = begin();
	(void)state;
	iothread_free(&w->thread);
	assert_null(w->thread);
	assert_int_equal(w->next_done, 0);
	for (int i = 0; i < PIECES; i++)
		assert_true(w->jobs[i].worked);
	end(w);
}

static void done_may_free_the_thread(void **state)
{
	struct world *w = begin();
	(void)state;
	w->free_at = 10;
	loop_run(w->loop);
	assert_int_equal(w->next_done, 11);
	assert_null(w->thread);
	for (int i = 0; i < PIECES; i++)
		assert_true(w->jobs[i].worked);
	end(w);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

static void done_may_be_missing(void **state)
{
	struct loop *loop = loop_new();
	struct iothread *thread = iothread_new(loop, "t");
	bool worked = false;
	(void)state;
	iothread_do(thread, set_flag, NULL, &worked);
	loop_turn(loop);
	assert_true(worked);
	assert_int_equal(iothread_waiting(thread), 0);
	iothread_free(&thread);
	loop_free(&loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(works_in_order_and_tells_the_loop),
	    cmocka_unit_test(freeing_finishes_the_work_without_done),
	    cmocka_unit_test(done_may_free_the_thread),
	    cmocka_unit_test(done_may_be_missing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * One thread, two queues: what was given, in order, and what is done, in order. The mutex is held
 * only while a link of a queue changes, never over file work. The loop is woken by an eventfd, once
 * for any number of finished pieces.
 *
 * The thread blocks every signal: they belong to the loop's signalfd. It needs these calls of the
 * kernel beyond the work's own: clone or clone3, set_robust_list, rseq, mmap, mprotect, madvise,
 * futex, rt_sigprocmask, prctl(PR_SET_NAME), exit; its owner eventfd2.
 */
#include "common/iothread.h"
#include "common/str.h"
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

struct piece {
	struct piece *next;
	io_work_fn *work;
	io_done_fn *done;
	void *arg;
};

struct queue {
	struct piece *first, **last;
};

struct iothread {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t given_more;
	struct queue given, done; /* under the mutex */
	bool stop;		  /* under the mutex */
	char name[16];		  /* the kernel's limit */
	int wake_fd;
	struct loop_fd wake;
	size_t waiting;	 /* the loop's thread only */
	bool delivering; /* on_wake() runs; iothread_free() inside a done() clears it */
};

static void queue_init(struct queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_add(struct queue *q, struct piece *piece)
{
	piece->next = NULL;
	*q->last = piece;
	q->last = &piece->next;
}

static struct piece *queue_take(struct queue *q)
{
	struct piece *piece = q->first;
	if (piece == NULL)
		return NULL;
	q->first = piece->next;
	if (q->first == NULL)
		q->last = &q->first;
	return piece;
}

static void *thread_main(void *arg)
{
	struct iothread *t = arg;
	prctl(PR_SET_NAME, t->name);
	pthread_mutex_lock(&t->mutex);
	for (;;) {
		struct piece *piece = queue_take(&t->given);
		if (piece == NULL && t->stop)
			break;
		if (piece == NULL) {
			pthread_cond_wait(&t->given_more, &t->mutex);
			continue;
		}
		pthread_mutex_unlock(&t->mutex);
		piece->work(piece->arg);
		pthread_mutex_lock(&t->mutex);
		bool was_empty = t->done.first == NULL;
		queue_add(&t->done, piece);
		if (was_empty)
			must(eventfd_write(t->wake_fd, 1) == 0);
	}
	pthread_mutex_unlock(&t->mutex);
	return NULL;
}

static void destroy(struct iothread *t)
{
	struct piece *piece;
	while ((piece = queue_take(&t->done)) != NULL)
		free(piece);
	loop_del(&t->wake);
	close(t->wake_fd);
	pthread_cond_destroy(&t->given_more);
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

static struct piece *take_done(struct iothread *t)
{
	pthread_mutex_lock(&t->mutex);
	struct piece *piece = queue_take(&t->done);
	pthread_mutex_unlock(&t->mutex);
	return piece;
}

static void on_wake(void *arg, uint32_t events)
{
	struct iothread *t = arg;
	eventfd_t count;
	(void)events;
	if (eventfd_read(t->wake_fd, &count) < 0)
		return; /* nothing since: EAGAIN */
	t->delivering = true;
	struct piece *piece;
	while (t->delivering && (piece = take_done(t)) != NULL) {
		struct piece done = *piece;
		free(piece);
		t->waiting--;
		if (done.done != NULL)
			done.done(done.arg);
	}
	if (t->delivering)
		t->delivering = false;
	else
		destroy(t);
}

static void start_thread(struct iothread *t)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it */
	must(pthread_create(&t->thread, NULL, thread_main, t) == 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

struct iothread *iothread_new(struct loop *loop, const char *name)
{
	struct iothread *t = xcalloc(1, sizeof(*t));
	str_copy(t->name, sizeof(t->name), str_of(name));
	queue_init(&t->given);
	queue_init(&t->done);
	must(pthread_mutex_init(&t->mutex, NULL) == 0);
	must(pthread_cond_init(&t->given_more, NULL) == 0);
	t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	must(t->wake_fd >= 0);
	must(loop_add(loop, &t->wake, t->wake_fd, EPOLLIN, on_wake, t) == 0);
	start_thread(t);
	return t;
}

void iothread_free(struct iothread **thread)
{
	struct iothread *t = *thread;
	if (t == NULL)
		return;
	*thread = NULL;
	pthread_mutex_lock(&t->mutex);
	t->stop = true;
	pthread_cond_signal(&t->given_more);
	pthread_mutex_unlock(&t->mutex);
	must(pthread_join(t->thread, NULL) == 0);
	if (t->delivering)
		t->delivering =
		    false; /* on_wake() is our caller: it destroys when done() returns */
	else
		destroy(t);
}

void iothread_do(struct iothread *t, io_work_fn *work, io_done_fn *done, void *arg)
{
	struct piece *piece = xmalloc(sizeof(*piece));
	*piece = (struct piece){.work = work, .done = done, .arg = arg};
	t->waiting++;
	pthread_mutex_lock(&t->mutex);
	queue_add(&t->given, piece);
	pthread_cond_signal(&t->given_more);
	pthread_mutex_unlock(&t->mutex);
}

size_t iothread_waiting(const struct iothread *t)
{
	return t->waiting;
}

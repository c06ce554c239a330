/* SPDX-License-Identifier: ISC */
/* qmgr's bring-up: what worker.c calls, handed to the shell. */
#include "common/worker.h"
#include "qmgr/shell.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void before_drop(void *ctx)
{
	admission_init(ctx);
}

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	struct qmgr *q = ctx;
	(void)config;
	(void)why;
	q->prepared = conf;
	return 0;
}

static void use(void *ctx, uint32_t config)
{
	struct qmgr *q = ctx;
	(void)config;
	if (q->core == NULL)
		qmgr_init(q, q->worker, worker_loop(q->worker));
	qmgr_configure(q, q->prepared);
}

static void on_worker_peer(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	peers_add(ctx, process, instance, generation, fd);
}

static void on_worker_file(void *ctx, enum file_kind kind, uint16_t index, int fd)
{
	qmgr_file(ctx, kind, index, fd);
}

static void on_worker_poison(void *ctx, uint64_t id, uint8_t deaths)
{
	qmgr_poison(ctx, id, deaths);
}

static void start(void *ctx, bool unclean, bool rebuild)
{
	struct qmgr *q = ctx;
	qmgr_open(q, open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	recover_start(q, unclean, rebuild);
	loop_again(q->loop);
}

static void stop(void *ctx, uint32_t deadline_ms)
{
	qmgr_stop(ctx, deadline_ms);
}

int main(int argc, char **argv)
{
	static struct qmgr q;
	q.worker = worker_new();
	q.spool_fd = q.log_fd = -1;
	struct worker_spec spec = {.process = PROC_qmgr,
	    .verbs = qmgr_verbs,
	    .verb_count = qmgr_verb_count,
	    .ctx = &q,
	    .before_drop = before_drop,
	    .prepare = prepare,
	    .use = use,
	    .on_peer = on_worker_peer,
	    .on_file = on_worker_file,
	    .on_poison = on_worker_poison,
	    .start = start,
	    .stop = stop};
	return worker_run(q.worker, &spec, argc, argv);
}

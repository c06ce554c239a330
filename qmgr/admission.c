/* SPDX-License-Identifier: ISC */
/*
 * May new mail come in, and how much at once. Reasons to refuse: the spool's file system (asked
 * each second), the index (commit.c), the journal, the number of recipients, starting and stopping.
 * Each has a low mark below its high one, so that a state does not flap.
 *
 * Credits: every writer may have CREDIT messages on the way. They come back as messages are taken
 * in, so a qmgr that falls behind slows its clients down instead of growing.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
	CREDIT = 4000, /* messages a writer may have on the way */
	LOOK_MS = 1000,
	BYTES_A_RECIPIENT = 100, /* as spool-max-recipients promises */
};

/* Before the root directory is gone: memory of the machine, or of our group if that is less. */
void admission_init(struct qmgr *q)
{
	uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE);
	unsigned long long limit = 0;
	q->admission.memory = pages * page;
	FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
	if (f != NULL && fscanf(f, "%llu", &limit) == 1 && limit > 0 && limit < q->admission.memory)
		q->admission.memory = limit;
	if (f != NULL)
		fclose(f);
}

const char *refuse_name(uint8_t refuse)
{
	static const char *const names[REFUSE_COUNT] = {
	    "no", "disk", "index", "queue", "memory", "busy"};
	return refuse < REFUSE_COUNT ? names[refuse] : "?";
}

uint64_t admission_auto(const struct qmgr *q)
{
	return q->admission.memory / 2 / BYTES_A_RECIPIENT;
}

static uint64_t between(uint64_t n, uint64_t low, uint64_t high)
{
	return n < low ? low : n > high ? high : n;
}

void admission_sizes(struct qmgr *q)
{
	struct statfs fs;
	if (fstatfs(q->spool_fd, &fs) != 0)
		return;
	uint64_t all = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
	uint64_t journal = between(all / 64, JOURNAL_FILE_BYTES_MIN, JOURNAL_FILE_BYTES_MAX);
	q->journal_file_bytes = (uint32_t)(journal / 4096 * 4096);
	q->segment_bytes = between(all / 64, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / 4096 * 4096;
}

static void look_at_disk(struct qmgr *q)
{
	struct admission *a = &q->admission;
	struct statfs fs;
	if (fstatfs(q->spool_fd, &fs) != 0) {
		log_error("cannot ask the spool's file system for its space: %s", strerror(errno));
		a->disk = REFUSE_DISK;
		return;
	}
	a->free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	uint64_t high = a->min_free + a->min_free / 20;
	bool inodes = fs.f_files == 0 || fs.f_ffree >= 100;
	if (a->free_bytes < a->min_free || !inodes) {
		if (a->disk == REFUSE_NONE)
			log_error("the spool has %llu MiB free, less than spool-min-free-space: "
				  "new mail is refused",
			    (unsigned long long)(a->free_bytes >> 20));
		a->disk = REFUSE_DISK;
	} else if (a->free_bytes >= high && a->disk != REFUSE_NONE) {
		log_info("the spool has %llu MiB free: mail is accepted again",
		    (unsigned long long)(a->free_bytes >> 20));
		a->disk = REFUSE_NONE;
	}
}

static void look_at_queue(struct qmgr *q)
{
	struct admission *a = &q->admission;
	struct core_totals t;
	core_totals(q->core, &t);
	if (t.recipients >= a->max_recipients)
		a->queue = REFUSE_QUEUE;
	else if (t.recipients < a->max_recipients - a->max_recipients / 20)
		a->queue = REFUSE_NONE;
}

static void on_second(void *arg)
{
	struct qmgr *q = arg;
	struct core_totals t;
	look_at_disk(q);
	if (logger_pos(q->logger) != q->commit.meta.log_pos || q->commit.refuse != REFUSE_NONE)
		q->commit.meta_dirty =
		    true; /* an idle system's last lines, or room to be judged again */
	core_totals(q->core, &t);
	worker_summary(q->worker, "%llu recipients in %llu queues, %llu connections",
	    (unsigned long long)t.recipients, (unsigned long long)t.queues,
	    (unsigned long long)t.connections);
	loop_timer_after(q->loop, &q->admission.timer, LOOK_MS, on_second, q);
}

void admission_start(struct qmgr *q)
{
	struct admission *a = &q->admission;
	if (a->max_recipients == 0)
		a->max_recipients = admission_auto(q);
	on_second(q);
}

void admission_fini(struct qmgr *q)
{
	loop_timer_cancel(q->loop, &q->admission.timer);
}

uint8_t admission_state(struct qmgr *q)
{
	struct admission *a = &q->admission;
	if (!q->started || q->stopping)
		return REFUSE_BUSY;
	if (a->disk != REFUSE_NONE)
		return a->disk;
	if (journal_is_stuck(q->journal))
		return REFUSE_DISK;
	return q->commit.refuse != REFUSE_NONE ? q->commit.refuse : a->queue;
}

void admission_turn(struct qmgr *q)
{
	look_at_queue(q);
	uint8_t state = admission_state(q);
	for (struct peer *p = q->peers; p != NULL; p = p->next) {
		bool writer = p->process == PROC_smtpd || p->process == PROC_bouncer;
		if (!writer || p->chan == NULL || !p->told_all)
			continue;
		uint8_t tell = state;
		if (p->process == PROC_bouncer && state == REFUSE_QUEUE)
			tell = REFUSE_NONE; /* reports only make the queue shorter */
		uint32_t more =
		    tell == REFUSE_NONE && p->credit < CREDIT / 2 ? CREDIT - p->credit : 0;
		if (more == 0 && p->refuse == tell)
			continue;
		p->credit += more;
		p->refuse = tell;
		chan_send_credit(p->chan, &(struct msg_credit){.messages = more, .refuse = tell});
	}
}

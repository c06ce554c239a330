/* SPDX-License-Identifier: ISC */
/*
 * The shell's turn, and its life from configuration to stop.
 *
 * A turn's end: timers of the core, slices of long work, then what gathered in this turn goes out:
 * a snapshot for the index if it is time, then one write of the journal. What was sent to readers
 * up to here is marked; it leaves when that write is done. While a write goes on, the next turn's
 * work gathers.
 */
#include "qmgr/shell.h"
#include "common/log.h"
#include <inttypes.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

void qmgr_blame(struct qmgr *q, uint64_t id)
{
	worker_blame(q->worker, id);
}

void qmgr_init(struct qmgr *q, struct worker *worker, struct loop *loop)
{
	q->worker = worker;
	q->loop = loop;
	q->now_ms = clock_steady_ms();
	q->core = core_new(
	    (uint64_t)clock_mono_us() * 0x9e3779b97f4a7c15U ^ (uint64_t)clock_wall_ms(), q->now_ms);
	q->map_bytes = UINT64_C(256) << 30;
	q->max_message_bytes = 50 << 20;
	q->journal_file_bytes = JOURNAL_FILE_BYTES_MAX;
	q->segment_bytes = SEGMENT_BYTES_MAX;
}

static bool wants_received(const struct conf *conf)
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(conf->root, CONF_ACCOUNTING, n)) != NULL) {
		const struct conf_value *v = conf_get(n, CO_ACCOUNTING_records);
		for (size_t i = 0; i < v->count; i++)
			if (strcmp(v->texts[i], "r") == 0)
				return true;
	}
	return false;
}

void qmgr_configure(struct qmgr *q, const struct conf *conf)
{
	conf_free(&q->conf);
	q->conf = conf_clone(conf);
	const struct conf_node *root = q->conf->root;
	q->now_ms = clock_steady_ms();
	core_configure(q->core, q->conf, q->now_ms);
	q->map_bytes = (uint64_t)conf_num(root, CO_GLOBAL_index_map_size);
	q->max_message_bytes = (uint64_t)conf_num(root, CO_GLOBAL_max_message_size);
	q->admission.min_free = (uint64_t)conf_num(root, CO_GLOBAL_spool_min_free_space);
	q->admission.max_recipients = (uint64_t)conf_num(root, CO_GLOBAL_spool_max_recipients);
	if (q->admission.max_recipients == 0)
		q->admission.max_recipients = admission_auto(q);
	q->accounts_received = wants_received(q->conf);
	sources_configure(q);
	if (q->logger != NULL)
		logger_configure(q->logger, q->conf);
}

/* Files may come before the logger is there: they wait. */
void qmgr_file(struct qmgr *q, enum file_kind kind, uint16_t index, int fd)
{
	if (kind == FILE_LOG && q->logger != NULL) {
		logger_log_file(q->logger, fd, index != 0);
	} else if (kind == FILE_ACCOUNTING && q->logger != NULL) {
		logger_accounting_file(q->logger, index, fd);
	} else if (kind == FILE_LOG) {
		if (q->log_fd >= 0)
			close(q->log_fd);
		q->log_fd = fd;
		q->log_is_file = index != 0;
	} else if (kind == FILE_ACCOUNTING && index < ACCOUNTING_FILES_MAX) {
		if (q->accounting_set[index])
			close(q->accounting_fd[index]);
		q->accounting_set[index] = true;
		q->accounting_fd[index] = fd;
	} else {
		close(fd);
	}
}

static void on_full(void *ctx, uint16_t index)
{
	struct qmgr *q = ctx;
	worker_file_full(q->worker, index);
}

void qmgr_logger_ready(struct qmgr *q)
{
	logger_on_full(q->logger, on_full, q);
	if (q->conf != NULL)
		logger_configure(q->logger, q->conf);
	if (q->log_fd >= 0)
		logger_log_file(q->logger, q->log_fd, q->log_is_file);
	q->log_fd = -1;
	for (uint16_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		if (q->accounting_set[i])
			logger_accounting_file(q->logger, i, q->accounting_fd[i]);
	memset(q->accounting_set, 0, sizeof(q->accounting_set));
	logger_begin(q->logger);
}

void qmgr_open(struct qmgr *q, int spool_fd)
{
	if (spool_fd < 0)
		die(EX_IOERR, "the spool directory cannot be opened");
	q->spool_fd = spool_fd;
	q->now_ms = clock_steady_ms();
	admission_sizes(q);
	q->files = iothread_new(q->loop, "files");
	segments_init(q);
	decisions_init(q);
	commit_init(q);
	compact_init(q);
	loop_on_turn_end(q->loop, qmgr_turn, q);
	control_hold(worker_control(q->worker)); /* an answer means that it stands on file */
}

void qmgr_fini(struct qmgr *q)
{
	loop_timer_cancel(q->loop, &q->tick);
	loop_timer_cancel(q->loop, &q->stop_timer);
	admission_fini(q);
	peers_fini(q);
	compact_fini(q);
	reading_fini(q);
	commit_fini(q);
	iothread_free(&q->files);
	journal_free(&q->journal);
	logger_free(&q->logger);
	recover_fini(q);
	bounces_fini(q);
	decisions_fini(q);
	events_fini(q);
	rule_counts_fini(q);
	sources_fini(q);
	routes_fini(q);
	segments_fini(q);
	store_close(&q->store);
	core_free(&q->core);
	conf_free(&q->conf);
	size_t at = 0;
	for (struct aside *a; (a = map_next(&q->asides, &at)) != NULL;)
		free(a);
	map_fini(&q->asides);
	map_fini(&q->poison);
	if (q->spool_fd >= 0)
		close(q->spool_fd);
}

void qmgr_serve(struct qmgr *q)
{
	q->started = true;
	core_start(q->core, q->now_ms);
	decisions_drain(q, NULL);
	admission_start(q);
	sources_round(q);
	worker_ready(q->worker);
}

void qmgr_poison(struct qmgr *q, uint64_t id, uint8_t deaths)
{
	if (deaths == 0)
		return;
	map_set(&q->poison, id, (void *)(uintptr_t)deaths);
	if (!q->started || deaths < POISON_DEATHS)
		return; /* recovery asks the map itself */
	job_ref ref = core_find(q->core, id);
	if (ref != 0)
		log_warn(
		    "%016" PRIx64 ": set aside: it has killed its worker %u times", id, deaths);
	for (job_ref next; ref != 0; ref = next) {
		next = core_sibling(q->core, ref);
		core_hold(q->core, ref, q->now_ms);
	}
	loop_again(q->loop);
}

static void on_tick(void *arg)
{
	(void)arg; /* the turn's end does it */
}

static void run_core(struct qmgr *q)
{
	if (!q->started)
		return;
	if (core_next_ms(q->core) <= q->now_ms)
		core_tick(q->core, q->now_ms);
	decisions_drain(q, NULL);
	int64_t next = core_next_ms(q->core);
	if (next <= q->now_ms)
		loop_again(q->loop);
	else if (next != INT64_MAX)
		loop_timer_after(q->loop, &q->tick, next - q->now_ms, on_tick, q);
}

/* --- stopping
 * ------------------------------------------------------------------------------------- */

static void on_deadline(void *arg)
{
	struct qmgr *q = arg;
	q->deadline_passed = true;
}

void qmgr_stop(struct qmgr *q, uint32_t deadline_ms)
{
	q->stopping = true;
	uint32_t last = deadline_ms / 4; /* for the last commit */
	loop_timer_after(q->loop, &q->stop_timer, deadline_ms - last, on_deadline, q);
	if (!q->started) { /* nothing has begun: the next start recovers the same again */
		q->stopped = true;
		worker_stopped(q->worker);
	}
	loop_again(q->loop);
}

static bool is_quiet(struct qmgr *q)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->chan != NULL && p->conns > 0)
			return false;
	return reading_is_idle(q);
}

/* Results are in, then all is on file, then the last position is committed. */
static void try_stop(struct qmgr *q)
{
	if (!q->stopping || q->stopped || (!is_quiet(q) && !q->deadline_passed))
		return;
	if (!journal_is_idle(q->journal) || (!logger_is_idle(q->logger) && !q->deadline_passed) ||
	    !commit_is_clean(q))
		return;
	if (!q->saved) {
		q->saved = true;
		core_save(q->core, q->now_ms);
		q->commit.meta_dirty = true;
		loop_again(q->loop);
		return;
	}
	if (q->commit.meta.log_pos != logger_pos(q->logger) && !q->last_commit) {
		q->last_commit = true;
		q->commit.meta_dirty = true;
		loop_again(q->loop);
		return;
	}
	q->stopped = true;
	worker_stopped(q->worker);
}

/* --- the turn
 * ------------------------------------------------------------------------------------- */

static void write_journal(struct qmgr *q)
{
	struct control *control = worker_control(q->worker);
	struct core_totals t;
	core_totals(q->core, &t);
	bool writing = journal_is_writing(q->journal);
	if (!writing)
		commit_gather(q);
	switch (journal_turn(q->journal, j_outcome_room(t.in_flight))) {
	case JOURNAL_STARTED:
		peers_mark(q);
		control_mark(control);
		break;
	case JOURNAL_IDLE:
		peers_mark(q);
		peers_release(q);
		control_mark(control);
		control_release(control);
		commit_start(q);
		break;
	case JOURNAL_PARTIAL: /* frames of the intents that stay behind are among what was sent */
		control_mark(control);
		break;
	case JOURNAL_BUSY:
		if (!writing && !journal_is_writing(q->journal))
			commit_start(q);
		break;
	}
}

void qmgr_turn(void *arg)
{
	struct qmgr *q = arg;
	q->now_ms = clock_steady_ms();
	if (q->recover.phase == RECOVER_NOT)
		return;
	if (q->recover.phase != RECOVER_DONE && recover_turn(q))
		loop_again(q->loop);
	if (reading_turn(q))
		loop_again(q->loop);
	run_core(q);
	if (q->started) {
		bounces_ask(q);
		compact_turn(q);
		admission_turn(q);
	}
	segments_turn(q);
	write_journal(q);
	try_stop(q);
}

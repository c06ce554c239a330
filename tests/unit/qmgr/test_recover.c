/* SPDX-License-Identifier: ISC */
/*
 * The whole shell in one process, with fake peers on its channels, killed and started again.
 *
 * Property: whatever is cut off the journal or a segment behind what the index has committed, the
 * next start has exactly the messages that stand whole in the segment, less those whose end stands
 * in the journal; those whose intent stands there without an outcome, and only those, are
 * uncertain; reports that are owed are owed again. Nothing is invented, nothing stops the start.
 */
#include "tests/unit/qmgr/rig.h"
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

void __lsan_disable(void) __attribute__((weak));
enum { MESSAGES = 12, JOBS_MAX = 64 };

static char base[64];

/* --- what a start finds
 * ---------------------------------------------------------------------------- */

struct found {
	size_t jobs, bounces, messages_alive;
	struct job_view job[JOBS_MAX];
	uint64_t damaged, aside;
};

static void look(struct rig *r, struct found *f)
{
	struct core_cursor cursor = {0};
	bool more = true;
	job_ref refs[JOBS_MAX];
	*f = (struct found){.bounces = r->q->bounces.tickets.n,
	    .damaged = r->q->counters.damaged,
	    .aside = r->q->asides.n};
	while (more) {
		size_t n = core_jobs(r->q->core, &cursor, refs, JOBS_MAX, 1000, &more);
		for (size_t i = 0; i < n; i++) {
			assert_true(f->jobs < JOBS_MAX);
			assert_true(core_job(r->q->core, refs[i], &f->job[f->jobs]));
			f->jobs++;
		}
	}
	size_t at = 0;
	for (struct segment *s; (s = map_next(&r->q->segments.map, &at)) != NULL;)
		f->messages_alive += s->messages;
}

static void recover(const char *dir, bool unclean, bool rebuild, struct found *f)
{
	struct rig r;
	open_rig(&r, dir, unclean, rebuild);
	turn_until(&r, r.q->started);
	look(&r, f);
	kill_rig(&r);
	assert_int_equal(0, chdir("/"));
}

static const struct job_view *find(const struct found *f, uint64_t id)
{
	for (size_t i = 0; i < f->jobs; i++)
		if (f->job[i].id == id)
			return &f->job[i];
	return NULL;
}

/* What the journal of a spool says of each message, by reading it alone. */
struct said {
	bool intent[MESSAGES + 2], outcome[MESSAGES + 2], gone[MESSAGES + 2], report[MESSAGES + 2];
};

static void hear(void *ctx, const struct journal_record *rec)
{
	struct said *s = ctx;
	struct j_intent intent;
	struct j_outcome o;
	struct j_rcpt rcpt;
	if (rec->type == J_INTENT && j_intent_decode(rec->payload, &intent) == 0) {
		s->intent[intent.id & 0xff] = true;
		s->outcome[intent.id & 0xff] = false;
	}
	if (rec->type != J_OUTCOME || j_outcome_decode(rec->payload, &o) != 0)
		return;
	struct j_rcpt_reader reader = j_rcpt_reader(&o);
	while (j_rcpt_take(&reader, &rcpt) == 1) {
		size_t i = o.id & 0xff;
		s->outcome[i] = true;
		s->gone[i] = rcpt.outcome != OUTCOME_DEFERRED && rcpt.outcome != OUTCOME_RETRY;
		s->report[i] |= rcpt.report != REPORT_NONE;
	}
}

static void read_journal(const char *dir, struct said *s)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t pos = JOURNAL_POS(1, 0);
	bool more = true;
	*s = (struct said){0};
	while (more)
		assert_int_equal(0, journal_replay(fd, &pos, 1, &more, hear, s));
	close(fd);
}

static void check(const struct found *f, const struct said *said, uint64_t segment, size_t whole)
{
	size_t jobs = 0, bounces = 0, alive = 0;
	for (size_t i = 1; i <= whole; i++) {
		const struct job_view *v = find(f, RECORD_ID(segment, i));
		if (said->gone[i]) {
			assert_null(v);
			bounces += said->report[i];
			alive += said->report[i];
			continue;
		}
		assert_non_null(v);
		assert_int_equal(
		    said->intent[i] && !said->outcome[i], (v->flags & JOB_UNCERTAIN) != 0);
		assert_int_equal(said->outcome[i], v->attempts);
		jobs++;
		alive++;
	}
	assert_int_equal(jobs, f->jobs);
	assert_int_equal(bounces, f->bounces);
	assert_int_equal(alive, f->messages_alive);
}

/* --- the run that all cuts are made of
 * --------------------------------------------------------------- */

static char first[96], last[96], work[96]; /* index before the mail; everything after it; to cut */
static uint64_t the_segment, the_end, ends[MESSAGES + 1];
static struct said all_said;

static int make_run(void **state)
{
	struct rig r;
	char path[160];
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	snprintf(base, sizeof(base), "/tmp/postern-recover-XXXXXX");
	assert_non_null(mkdtemp(base));
	snprintf(first, sizeof(first), "%s/first", base);
	snprintf(last, sizeof(last), "%s/last", base);
	snprintf(work, sizeof(work), "%s/work", base);
	snprintf(path, sizeof(path), "%s/conf", base);
	conf = load_conf(path, "");
	start_rig(&r, last);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	copy(last, first);
	connect_rest(&r);
	for (int i = 1; i <= MESSAGES; i++) {
		append(&r, "a.test", true);
		ends[i] = r.end;
	}
	turn_until(&r,
	    r.results == MESSAGES / FATES * 3 && r.bounces == MESSAGES / FATES && r.unanswered > 0);
	the_segment = r.segment;
	the_end = r.end;
	kill_rig(&r);
	read_journal(last, &all_said);
	return 0;
}

static int drop_run(void **state)
{
	char command[128];
	(void)state;
	conf_free(&conf);
	snprintf(command, sizeof(command), "rm -rf %s", base);
	return chdir("/") || system(command);
}

/* The spool as after the run, with the index as before the mail. */
static void make_work(void)
{
	char from[160], to[160];
	copy(last, work);
	snprintf(from, sizeof(from), "%s/index", first);
	snprintf(to, sizeof(to), "%s/index", work);
	copy(from, to);
}

static void journal_path(char out[160], const char *dir)
{
	snprintf(out, 160, "%s/journal/0000000000000001", dir);
}

static void segment_path(char out[160], const char *dir)
{
	snprintf(out, 160, "%s/segments/%016" PRIx64, dir, the_segment);
}

static void test_after_the_run(void **state)
{
	struct found f;
	(void)state;
	copy(last, work);
	recover(work, false, false, &f); /* with whatever was committed */
	check(&f, &all_said, the_segment, MESSAGES);
	make_work();
	recover(work, false, false, &f); /* with nothing committed */
	check(&f, &all_said, the_segment, MESSAGES);
	recover(work, false, false, &f); /* and what that start left */
	check(&f, &all_said, the_segment, MESSAGES);
}

static void test_journal_cut_anywhere(void **state)
{
	struct found f;
	struct said said;
	char path[160];
	uint64_t end = 0, step = 37; /* a prime: records are multiples of 8 */
	(void)state;
	journal_path(path, last);
	struct buf bytes;
	buf_init(&bytes, 1 << 20);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, buf_reserve(&bytes, 1 << 20), 1 << 20, 0);
	close(fd);
	struct str rest = {(const char *)bytes.p, (size_t)n};
	uint64_t pos = JOURNAL_POS(1, 0);
	struct journal_record rec;
	while (journal_record_take(&rest, &pos, &rec) == 1)
		end = JOURNAL_POS_OFFSET(pos);
	buf_fini(&bytes);
	assert_true(end > 1000);
	for (uint64_t cut = 0; cut <= end + step; cut += step) {
		make_work();
		journal_path(path, work);
		assert_int_equal(0, truncate(path, (off_t)cut));
		read_journal(work, &said);
		recover(work, false, false, &f);
		check(&f, &said, the_segment, MESSAGES);
	}
}

static void test_segment_cut_anywhere(void **state)
{
	struct found f;
	struct said nothing = {0};
	char path[160];
	(void)state;
	for (uint64_t cut = 0; cut <= the_end; cut += 29) {
		make_work();
		journal_path(path, work);
		assert_int_equal(0, unlink(path));
		segment_path(path, work);
		assert_int_equal(0, truncate(path, (off_t)cut));
		size_t whole = 0;
		while (whole < MESSAGES && ends[whole + 1] - RECORD_ALIGN < cut &&
		       ends[whole + 1] <= record_align(cut))
			whole++;
		recover(work, false, false, &f);
		assert_true(
		    f.jobs == whole || f.jobs + 1 == whole); /* the padding need not be there */
		check(&f, &nothing, the_segment, f.jobs);
	}
}

/* A damaged record in the middle is stepped over: what follows was acknowledged, too. */
static void test_damaged_record_is_stepped_over(void **state)
{
	struct found f;
	char path[160];
	(void)state;
	for (size_t bad = 1; bad < MESSAGES; bad++) {
		make_work();
		journal_path(path, work);
		assert_int_equal(0, unlink(path));
		segment_path(path, work);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		unsigned char c;
		off_t at = (off_t)(ends[bad - 1] + 20 + bad * 13); /* in head or data */
		assert_int_equal(1, pread(fd, &c, 1, at));
		c ^= 1;
		assert_int_equal(1, pwrite(fd, &c, 1, at));
		close(fd);
		recover(work, false, false, &f);
		assert_int_equal(MESSAGES - 1, f.jobs);
		assert_null(find(&f, RECORD_ID(the_segment, bad)));
		assert_int_equal(1, f.damaged);
	}
}

static void test_power_loss_makes_due_ones_uncertain(void **state)
{
	struct found f;
	(void)state;
	make_work();
	recover(work, true, false, &f);
	for (size_t i = 0; i < f.jobs;
	     i++) /* deferred ones wait for minutes: nothing was on the way */
		assert_int_equal(
		    fate_of(f.job[i].id) != DEFERRED, (f.job[i].flags & JOB_UNCERTAIN) != 0);
	assert_true(f.jobs > 0);
}

static void test_rebuild_takes_all_in_again(void **state)
{
	struct found f;
	char command[600];
	(void)state;
	copy(last, work);
	snprintf(command, sizeof(command), "rm -rf %s/index", work);
	assert_int_equal(0, system(command));
	recover(work, false, true, &f);
	size_t alive = 0;
	for (size_t i = 1; i <= MESSAGES; i++)
		alive += !all_said.gone[i];
	assert_int_equal(alive, f.jobs); /* the journal was still there: ended ones stay ended */
	for (size_t i = 0; i < f.jobs; i++)
		assert_true(f.job[i].flags & JOB_UNCERTAIN);
	snprintf(command, sizeof(command), "rm -rf %s/index %s/journal", work, work);
	assert_int_equal(0, system(command));
	recover(work, false, true, &f);
	assert_int_equal(MESSAGES, f.jobs);
}

/* Without an index nothing starts by itself. */
static void test_lost_index_refuses(void **state)
{
	char command[600];
	int status;
	(void)state;
	if (getenv("POSTERN_VALGRIND") != NULL) /* it reports the memory of a process that dies */
		skip();
	copy(last, work);
	snprintf(command, sizeof(command), "rm -rf %s/index", work);
	assert_int_equal(0, system(command));
	pid_t pid = fork();
	if (pid == 0) {
		struct rig r;
		if (__lsan_disable != NULL)
			__lsan_disable(); /* it dies as it should, with all its memory */
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(null, STDERR_FILENO);
		open_rig(&r, work, false, false);
		_exit(0);
	}
	assert_int_equal(pid, waitpid(pid, &status, 0));
	assert_true(WIFEXITED(status));
	assert_int_equal(65, WEXITSTATUS(status));
}

static void damage_rows(const char *dir, enum store_table table, unsigned every)
{
	struct store *s;
	struct store_ops ops;
	struct store_room room = {0};
	char why[300], path[160];
	snprintf(path, sizeof(path), "%s/index", dir);
	assert_int_equal(0, store_open(&s, path, 64 << 20, false, why));
	store_ops_init(&ops);
	for (unsigned i = 1; i <= MESSAGES; i++) {
		struct row_key key = table == STORE_RCPT
					 ? row_key_rcpt(RECORD_ID(the_segment, i), 0)
					 : row_key_number(the_segment);
		struct buf value;
		buf_init(&value, 4096);
		if (i % every == 0 && store_get(s, table, &key, &value) == 0) {
			value.p[value.n / 2] ^= 4;
			store_ops_put(
			    &ops, table, &key, (struct str){(const char *)value.p, value.n});
		}
		buf_fini(&value);
	}
	assert_int_equal(0, store_apply(s, &ops, &room));
	store_ops_fini(&ops);
	store_close(&s);
}

/* A row that is damaged is restored from the segment; nothing is lost, and the rest is as it was.
 */
static void test_damaged_rows_are_restored(void **state)
{
	struct found f;
	(void)state;
	make_work();
	recover(work, false, false, &f); /* its commit writes rows for all that is alive */
	size_t alive = f.jobs, bounces = f.bounces;
	recover(work, false, false, &f);
	assert_int_equal(alive, f.jobs);
	damage_rows(work, STORE_RCPT, 3);
	recover(work, false, false, &f);
	assert_int_equal(alive, f.jobs);
	assert_int_equal(bounces, f.bounces);
	damage_rows(work, STORE_SEGMENT, 1);
	recover(work, false, false, &f);
	assert_true(
	    f.jobs >= alive); /* delivered ones may come again, uncertain: better than lost */
	assert_true(f.damaged > 0);
}

/* --- life with peers
 * ---------------------------------------------------------------------------------- */

/* A writer dies with messages that it has synced and not told of. */
static void test_writers_last_words_are_read(void **state)
{
	struct rig r;
	(void)state;
	snprintf(work, sizeof(work), "%s/dead", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	append(&r, "b.test", false);
	append(&r, "b.test", false);
	assert_int_equal(7, write(r.fd, "garbage", 7)); /* torn */
	turn(&r);
	chan_free(&r.writer);
	struct core_totals t = {0};
	turn_until(&r, (core_totals(r.q->core, &t), t.messages == 3));
	struct segment *s = segments_find(r.q, r.segment);
	assert_int_equal(SEGMENT_SEALED, s->state);
	assert_int_equal(r.end, s->end);
	kill_rig(&r);
}

/* Of a megabyte that was preallocated the sealed segment keeps what it uses; its torn end, too. */
static void test_sealed_segment_gives_blocks_back(void **state)
{
	struct rig r;
	struct stat st;
	(void)state;
	snprintf(work, sizeof(work), "%s/blocks", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	assert_int_equal(7, write(r.fd, "garbage", 7));
	assert_int_equal(0, fstat(r.fd, &st));
	if (st.st_blocks * 512 < 1 << 20)
		skip(); /* this file system cannot preallocate */
	chan_free(&r.writer);
	turn_until(&r, (fstat(r.fd, &st), st.st_blocks * 512 <= st.st_size + 65536));
	assert_int_equal(r.end + 7, st.st_size);
	kill_rig(&r);
}

/* The writer of an earlier qmgr, at the next one: its end of the segment moves over. */
static void inherit_writer(struct rig *next, const struct rig *from)
{
	next->fd = from->fd;
	next->segment = from->segment;
	next->nonce_high = from->nonce_high;
	next->nonce_low = from->nonce_low;
	next->end = from->end;
	next->ordinal = from->ordinal;
}

/* What failed behind `good` is never read, and news of what is sealed or gone is none. */
static void test_failed_segment_told_again(void **state)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_writer, NULL};
	struct rig r, next;
	struct core_totals t;
	(void)state;
	snprintf(work, sizeof(work), "%s/failed", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	turn_until(&r, r.q->counters.received == 1);
	struct msg_segment_failed failed = {.segment = r.segment, .good = r.end};
	append(&r, "b.test", false); /* its sync failed: the client was refused */
	kill_rig(&r);

	open_rig(&next, work, false, false);
	next.writer = add_peer(&next, PROC_smtpd, dispatch);
	chan_send_segment_failed(next.writer, &failed);
	chan_send_segment_failed(next.writer, &failed);
	chan_send_segment_failed(
	    next.writer, &(struct msg_segment_failed){.segment = 999, .good = 64});
	chan_send_writer_state_end(next.writer, &(struct msg_writer_state_end){0});
	turn_until(&next, next.q->started);
	core_totals(next.q->core, &t);
	assert_int_equal(1, t.messages);
	assert_int_equal(SEGMENT_SEALED, segments_find(next.q, failed.segment)->state);
	assert_int_equal(failed.good, segments_find(next.q, failed.segment)->end);
	get_segment(&next); /* its channel lives */
	kill_rig(&next);
}

/* Its channel is closed for a fault, but it lives and appends: what it wrote up to its death is
 * read then, when its successor is announced, and the segment is not sealed under it before. */
static void test_faulty_writer_is_read_when_it_has_died(void **state)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_writer, NULL};
	struct rig r, next;
	struct core_totals t;
	(void)state;
	snprintf(work, sizeof(work), "%s/faulty", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	turn_until(&r, r.q->counters.received == 1);
	struct rig writer = r;
	writer.fd = dup(r.fd);
	kill_rig(&r);

	open_rig(&next, work, false, false);
	next.writer = add_peer(&next, PROC_smtpd, dispatch);
	inherit_writer(&next, &writer);
	chan_send_segment_held(next.writer, &(struct msg_segment_held){.segment = 999});
	turn_until(&next, next.q->started);
	assert_null(next.writer);
	append(&next, "b.test", false); /* answered 250 */
	core_totals(next.q->core, &t);
	assert_int_equal(1, t.messages);
	assert_int_equal(SEGMENT_OPEN, segments_find(next.q, writer.segment)->state);
	next.writer = add_generation(&next, PROC_smtpd, 2, dispatch);
	turn_until(&next, (core_totals(next.q->core, &t), t.messages == 2));
	assert_int_equal(SEGMENT_SEALED, segments_find(next.q, writer.segment)->state);
	kill_rig(&next);
}

/* qmgr is killed; the writer lives on and tells the next one. Nothing twice, nothing lost. */
static void test_living_writer_is_believed_up_to_synced(void **state)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_writer, NULL};
	struct rig r, next;
	(void)state;
	snprintf(work, sizeof(work), "%s/held", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	turn_until(&r, r.q->counters.received == 1);
	append(&r, "b.test", false);
	uint64_t synced = r.end;
	struct rig writer = r;
	writer.fd = dup(r.fd);
	kill_rig(&r);

	open_rig(&next, work, false, false);
	next.writer = add_peer(&next, PROC_smtpd, dispatch);
	chan_send_segment_held(next.writer,
	    &(struct msg_segment_held){
		.segment = writer.segment, .synced = synced, .next_ordinal = writer.ordinal});
	chan_send_writer_state_end(next.writer, &(struct msg_writer_state_end){0});
	inherit_writer(&next, &writer);
	append(&next, "b.test", true); /* told before the recovery is through */
	turn_until(&next, next.q->started);
	struct found f;
	look(&next, &f);
	assert_int_equal(3, f.jobs);
	assert_int_equal(3, f.messages_alive);
	assert_int_equal(SEGMENT_OPEN, segments_find(next.q, writer.segment)->state);
	append(&next, "b.test", true);
	turn_until(&next, next.q->counters.received >= 2);
	kill_rig(&next);
}

/* A writer that lies loses its channel, and nothing else happens. */
static void test_lying_writer_is_cut_off(void **state)
{
	struct rig r;
	struct core_totals t;
	(void)state;
	snprintf(work, sizeof(work), "%s/liar", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	append(&r, "b.test", true);
	turn_until(&r, r.q->counters.received == 1);
	r.end += 64; /* a hole: the next offset is not the mark */
	append(&r, "b.test", true);
	turn_until(&r, r.writer == NULL);
	core_totals(r.q->core, &t);
	assert_int_equal(1, t.messages);
	assert_int_equal(SEGMENT_OPEN, segments_find(r.q, r.segment)->state); /* it may live on */
	kill_rig(&r);
}

/* BOUNCE_NONE settles: the message is removed, and stays so after a kill. */
static void test_settled_report_stays_settled(void **state)
{
	struct rig r;
	struct found f;
	(void)state;
	make_work();
	start_rig(&r, work);
	r.bounce_none = true;
	connect_rest(&r);
	turn_until(&r, r.bounces == MESSAGES / FATES && r.q->bounces.tickets.n == 0);
	for (int i = 0; i < 20; i++)
		turn(&r);
	kill_rig(&r);
	recover(work, false, false, &f);
	assert_int_equal(0, f.bounces);
}

/* A bouncer that dies is asked again, with the same ticket. */
static void test_bouncer_is_asked_again(void **state)
{
	static msg_dispatch_fn *const to_bouncer[] = {
	    msg_to_bouncer, msg_to_reader, msg_to_writer, NULL};
	struct rig r;
	(void)state;
	make_work();
	start_rig(&r, work);
	connect_rest(&r);
	turn_until(&r, r.bounces == MESSAGES / FATES);
	uint64_t tickets = r.tickets;
	chan_free(&r.bouncer);
	turn(&r);
	r.bouncer = add_peer(&r, PROC_bouncer, to_bouncer);
	chan_send_writer_state_end(r.bouncer, &(struct msg_writer_state_end){0});
	turn_until(&r, r.bounces == 2 * MESSAGES / FATES);
	assert_int_equal(2 * tickets, r.tickets);
	kill_rig(&r);
}

/* A recipient that is held while in flight may have been delivered: a record of the holding is no
 * answer. */
static void test_held_in_flight_stays_in_doubt(void **state)
{
	struct rig r;
	struct found f;
	char before[96], from[160], to[160];
	(void)state;
	snprintf(work, sizeof(work), "%s/hold", base);
	snprintf(before, sizeof(before), "%s/hold-before", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	turn_until(&r, commit_is_clean(r.q));
	copy(work, before);
	connect_rest(&r);
	for (int i = 1; i <= UNANSWERED; i++)
		append(&r, "a.test", true);
	turn_until(&r, r.unanswered == 1);
	uint64_t id = RECORD_ID(r.segment, UNANSWERED);
	core_hold(r.q->core, core_find(r.q->core, id), r.q->now_ms);
	decisions_drain(r.q, NULL);
	loop_again(r.loop);
	turn(&r);
	turn_until(&r, commit_is_clean(r.q)); /* the journal is written then */
	kill_rig(&r);
	snprintf(from, sizeof(from), "%s/index", before);
	snprintf(to, sizeof(to), "%s/index", work);
	copy(from, to); /* as if no commit had come */
	recover(work, false, false, &f);
	const struct job_view *v = find(&f, id);
	assert_non_null(v);
	assert_true(v->flags & JOB_HELD);
	assert_true(v->flags & JOB_UNCERTAIN);
}

/* Compaction: the messages move, the old segment goes, and a kill at any time leaves one whole
 * copy. */
static void test_compaction_moves_and_survives(void **state)
{
	struct rig r;
	struct found f;
	(void)state;
	make_work();
	recover(work, false, false, &f);
	size_t alive = f.jobs;
	start_rig(&r, work);
	r.bounce_none = true;
	connect_rest(&r);
	turn_until(&r, r.q->bounces.tickets.n == 0);
	chan_free(&r.out); /* what it had in flight waits */
	turn(&r);
	struct segment *s = segments_find(r.q, the_segment);
	assert_non_null(s);
	assert_int_equal(SEGMENT_SEALED, s->state);
	s->end = 100 << 20; /* as if it were large: nearly dead then */
	s->rest_until_ms = 0;
	turn_until(&r, segments_find(r.q, the_segment) == NULL);
	struct found moved;
	look(&r, &moved);
	for (size_t i = 0; i < moved.jobs; i++)
		assert_int_not_equal(the_segment, moved.job[i].segment);
	kill_rig(&r);
	recover(work, false, false, &f);
	assert_true(f.jobs <= alive && f.jobs > 0);
	assert_int_equal(moved.jobs, f.jobs);
	assert_int_equal(0, f.damaged);
}

static void copy_row(
    const char *from, const char *to, enum store_table table, const struct row_key *key)
{
	struct store *a, *b;
	struct store_ops ops;
	struct store_room room = {0};
	struct buf value;
	char why[300], path[160];
	snprintf(path, sizeof(path), "%s/index", from);
	assert_int_equal(0, store_open(&a, path, 64 << 20, false, why));
	snprintf(path, sizeof(path), "%s/index", to);
	assert_int_equal(0, store_open(&b, path, 64 << 20, false, why));
	buf_init(&value, 65536);
	store_ops_init(&ops);
	assert_int_equal(0, store_get(a, table, key, &value));
	store_ops_put(&ops, table, key, (struct str){(const char *)value.p, value.n});
	assert_int_equal(0, store_apply(b, &ops, &room));
	store_ops_fini(&ops);
	buf_fini(&value);
	store_close(&a);
	store_close(&b);
}

static bool moved_from(struct rig *r, uint64_t id, uint64_t segment)
{
	struct job_view v;
	return core_job(r->q->core, core_find(r->q->core, id), &v) && v.segment != segment;
}

/* One message with two recipients, before (`held`) and after (`work`) compaction has moved it. */
static uint64_t move_two(const char *held)
{
	struct rig r;
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	r.rcpts = 2;
	append(&r, "b.test", true);
	turn_until(&r, r.q->counters.received == 1);
	chan_free(&r.writer);
	struct segment *s = segments_find(r.q, r.segment);
	turn_until(&r, s->state == SEGMENT_SEALED && commit_is_clean(r.q));
	copy(work, held);
	s->end = 100 << 20;
	turn_until(&r, moved_from(&r, RECORD_ID(r.segment, 1), r.segment));
	turn_until(&r, segments_find(r.q, r.segment) == NULL && commit_is_clean(r.q));
	uint64_t segment = r.segment;
	kill_rig(&r);
	return segment;
}

/* The commit that takes a move may be torn between two recipients' rows: then they name two places,
 * and each start after that has to find both recipients at one of them. */
static void test_torn_move_loses_no_recipient(void **state)
{
	char held[96], command[600];
	struct found f;
	(void)state;
	for (uint16_t stays = 0; stays < 2; stays++) {
		snprintf(work, sizeof(work), "%s/torn%u", base, stays);
		snprintf(held, sizeof(held), "%s/torn%u-held", base, stays);
		uint64_t segment = move_two(held);
		struct row_key rcpt = row_key_rcpt(RECORD_ID(segment, 1), stays);
		struct row_key number = row_key_number(segment);
		copy_row(held, work, STORE_RCPT, &rcpt);
		copy_row(held, work, STORE_SEGMENT, &number);
		snprintf(command, sizeof(command), "cp %s/segments/%016" PRIx64 " %s/segments/",
		    held, segment, work);
		assert_int_equal(0, system(command));
		for (int start = 0; start < 3; start++) {
			struct rig r;
			open_rig(&r, work, false, false);
			turn_until(&r, r.q->started && commit_is_clean(r.q));
			look(&r, &f);
			assert_int_equal(2, f.jobs);
			assert_int_equal(1, f.messages_alive);
			assert_int_equal(f.job[0].segment, f.job[1].segment);
			assert_int_equal(f.job[0].offset, f.job[1].offset);
			assert_non_null(segments_find(r.q, f.job[0].segment));
			kill_rig(&r);
		}
	}
}

/* A report that was owed after a move, whose rows did not reach the index, keeps the new place
 * alive, and takes the recipients that are left there. */
static void test_report_behind_a_move_keeps_its_message(void **state)
{
	char held[96], command[600];
	struct found f;
	struct rig r;
	struct job_view v;
	(void)state;
	snprintf(work, sizeof(work), "%s/report", base);
	snprintf(held, sizeof(held), "%s/report-held", base);
	uint64_t segment = move_two(held), id = RECORD_ID(segment, 1);
	open_rig(&r, work, false, false);
	turn_until(&r, r.q->started);
	assert_true(core_job(r.q->core, core_find(r.q->core, id), &v));
	struct row_bounce bounce = {.ticket = 1 << 20,
	    .id = id,
	    .segment = v.segment,
	    .offset = v.offset,
	    .bytes = v.bytes,
	    .kind = DSN_FAILED,
	    .results = STR("")};
	bounces_add(r.q, &bounce, false);
	commit_delete_rcpt(r.q, id, 0);
	turn_until(&r, commit_is_clean(r.q));
	kill_rig(&r);
	struct row_key rcpt = row_key_rcpt(id, 1), number = row_key_number(segment);
	copy_row(held, work, STORE_RCPT, &rcpt);
	copy_row(held, work, STORE_SEGMENT, &number);
	snprintf(command, sizeof(command), "cp %s/segments/%016" PRIx64 " %s/segments/", held,
	    segment, work);
	assert_int_equal(0, system(command));
	for (int start = 0; start < 3; start++) {
		open_rig(&r, work, false, false);
		turn_until(&r, r.q->started && commit_is_clean(r.q));
		look(&r, &f);
		assert_int_equal(1, f.jobs);
		assert_int_equal(1, f.bounces);
		assert_int_equal(1, f.messages_alive);
		assert_int_equal(bounce.segment, f.job[0].segment);
		assert_non_null(segments_find(r.q, bounce.segment));
		kill_rig(&r);
	}
}

/* The index refuses: new segments are refused upstream, and it ends by itself. */
static void test_full_index_refuses_upstream(void **state)
{
	struct rig r;
	(void)state;
	snprintf(work, sizeof(work), "%s/full", base);
	start_rig(&r, work);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	r.q->commit.refuse = REFUSE_INDEX;
	chan_send_segment_want(r.writer, &(struct msg_segment_want){.ticket = 2});
	turn_until(&r, r.none_reason == REFUSE_INDEX);
	turn_until(&r, r.q->commit.refuse == REFUSE_NONE); /* judged again within a second or two */
	kill_rig(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_after_the_run),
	    cmocka_unit_test(test_journal_cut_anywhere),
	    cmocka_unit_test(test_segment_cut_anywhere),
	    cmocka_unit_test(test_damaged_record_is_stepped_over),
	    cmocka_unit_test(test_power_loss_makes_due_ones_uncertain),
	    cmocka_unit_test(test_rebuild_takes_all_in_again),
	    cmocka_unit_test(test_lost_index_refuses),
	    cmocka_unit_test(test_damaged_rows_are_restored),
	    cmocka_unit_test(test_settled_report_stays_settled),
	    cmocka_unit_test(test_bouncer_is_asked_again),
	    cmocka_unit_test(test_compaction_moves_and_survives),
	    cmocka_unit_test(test_held_in_flight_stays_in_doubt),
	    cmocka_unit_test(test_torn_move_loses_no_recipient),
	    cmocka_unit_test(test_report_behind_a_move_keeps_its_message),
	    cmocka_unit_test(test_writers_last_words_are_read),
	    cmocka_unit_test(test_sealed_segment_gives_blocks_back),
	    cmocka_unit_test(test_failed_segment_told_again),
	    cmocka_unit_test(test_faulty_writer_is_read_when_it_has_died),
	    cmocka_unit_test(test_living_writer_is_believed_up_to_synced),
	    cmocka_unit_test(test_lying_writer_is_cut_off),
	    cmocka_unit_test(test_full_index_refuses_upstream),
	};
	return cmocka_run_group_tests(tests, make_run, drop_run);
}

/* SPDX-License-Identifier: ISC */
/*
 * The journal. Records against damage; files cut at every byte: what is read back is always a
 * prefix of what was written, and whole while the cut is behind it. Turning over to the next file,
 * room kept for outcomes, positions passed, failing writes.
 */
#include "qmgr/journal.h"
#include "common/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILE_BYTES = 16384, IDS_MAX = 4096 };

static char dir[64];
static int spool_fd;

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/postern-journal-XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	spool_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return spool_fd < 0 ? -1 : 0;
}

static int drop_dir(void **state)
{
	char command[128];
	(void)state;
	close(spool_fd);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

struct rig {
	struct loop *loop;
	struct iothread *files;
	struct journal *journal;
	unsigned parts, written;
	size_t bytes;
};

static void part(void *ctx, uint64_t pos, unsigned char *bytes, size_t n)
{
	struct rig *r = ctx;
	(void)pos;
	r->parts++;
	r->bytes += n;
	free(bytes);
}

static void written(void *ctx)
{
	struct rig *r = ctx;
	r->written++;
}

static void rig_open(struct rig *r, uint64_t first)
{
	*r = (struct rig){.loop = loop_new()};
	r->files = iothread_new(r->loop, "files");
	struct journal_events events = {part, written, r};
	r->journal = journal_new(r->loop, r->files, spool_fd, first, FILE_BYTES, &events);
}

static void rig_close(struct rig *r)
{
	iothread_free(&r->files);
	journal_free(&r->journal);
	loop_free(&r->loop);
}

static void on_time(void *arg)
{
	(void)arg;
}

/* One turn of the loop that does not wait for long. */
static void turn(struct rig *r)
{
	static struct loop_timer timer;
	loop_timer_after(r->loop, &timer, 2, on_time, NULL);
	loop_turn(r->loop);
	loop_timer_cancel(r->loop, &timer);
}

/* Turns until what was gathered is on file. */
static void flush(struct rig *r, uint64_t reserve)
{
	unsigned before = r->written;
	int64_t deadline = clock_mono_ms() + 5000;
	while (r->written == before && clock_mono_ms() < deadline) {
		journal_turn(r->journal, reserve);
		turn(r);
	}
	assert_int_not_equal(before, r->written);
}

struct ids {
	uint64_t id[IDS_MAX];
	size_t n;
};

static void see(void *ctx, const struct journal_record *rec)
{
	struct ids *ids = ctx;
	struct j_removed r;
	if (rec->type == J_REMOVED && ids->n < IDS_MAX && j_removed_decode(rec->payload, &r) == 0)
		ids->id[ids->n++] = r.id;
}

static struct ids *replay(uint64_t from)
{
	static struct ids ids;
	uint64_t pos = from;
	bool more = true;
	ids.n = 0;
	while (more)
		assert_int_equal(0, journal_replay(spool_fd, &pos, 1, &more, see, &ids));
	return &ids;
}

static void put(struct rig *r, uint64_t id, size_t text)
{
	char why[4096];
	memset(why, 'x', sizeof(why));
	j_removed_encode(journal_buf(r->journal),
	    &(struct j_removed){.id = id, .wall_ms = 1, .why = {why, text}});
}

static void assert_counts(const struct ids *ids, size_t n)
{
	assert_int_equal(n, ids->n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(i + 1, ids->id[i]);
}

static void test_records_survive_only_whole(void **state)
{
	(void)state;
	struct buf b;
	struct journal_record r;
	buf_init(&b, 65536);
	j_changed_encode(
	    &b, &(struct j_changed){.id = 5, .rcpt = 2, .attempts = 3, .flags = 1, .due_ms = 99});
	journal_record_seal(b.p, b.n, JOURNAL_POS(3, 128));
	for (size_t i = 0; i < b.n; i++) {
		b.p[i] ^= 0x40;
		struct str bytes = {(const char *)b.p, b.n};
		uint64_t pos = JOURNAL_POS(3, 128);
		assert_int_not_equal(1, journal_record_take(&bytes, &pos, &r));
		b.p[i] ^= 0x40;
	}
	struct str bytes = {(const char *)b.p, b.n};
	uint64_t pos = JOURNAL_POS(4, 128); /* the same bytes left in a file that is used again */
	assert_int_equal(-EBADMSG, journal_record_take(&bytes, &pos, &r));
	pos = JOURNAL_POS(3, 128);
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, bytes.n);
	buf_fini(&b);
}

static void test_outcome_comes_back(void **state)
{
	(void)state;
	struct buf b;
	struct j_rcpts rcpts;
	buf_init(&b, 65536);
	j_rcpts_init(&rcpts);
	for (uint16_t i = 0; i < 3; i++)
		j_rcpts_put(&rcpts, &(struct j_rcpt){.outcome = OUTCOME_BOUNCED,
					.report = REPORT_FAILED,
					.attempts = i,
					.result = {.ordinal = i,
					    .code = 550,
					    .relayed = i == 1,
					    .status = STR("5.1.1"),
					    .text = STR("550 5.1.1 no"),
					    .address = STR("a@b.example")}});
	struct j_outcome o = {.id = 7,
	    .ticket = 9,
	    .sender = STR("s@x"),
	    .place = {STR("q/v"), STR("v"), STR("bulk"), STR("backoff")}};
	j_outcome_encode(&b, &o, &rcpts);
	journal_record_seal(b.p, b.n, 0);
	struct str bytes = {(const char *)b.p, b.n};
	uint64_t pos = 0;
	struct journal_record r;
	struct j_outcome back;
	struct j_rcpt rcpt;
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_outcome_decode(r.payload, &back));
	assert_int_equal(9, back.ticket);
	assert_true(back.has_place && str_eq(back.place.queue, STR("q/v")));
	assert_true(str_eq(back.place.pool, STR("bulk")));
	assert_true(str_eq(back.place.mode, STR("backoff")));
	struct j_rcpt_reader reader = j_rcpt_reader(&back);
	for (uint16_t i = 0; i < 3; i++) {
		assert_int_equal(1, j_rcpt_take(&reader, &rcpt));
		assert_int_equal(i, rcpt.result.ordinal);
		assert_int_equal(i == 1, rcpt.result.relayed);
		assert_true(str_eq(rcpt.result.text, STR("550 5.1.1 no")));
	}
	assert_int_equal(0, j_rcpt_take(&reader, &rcpt));
	j_rcpts_fini(&rcpts);
	buf_fini(&b);
}

static void test_each_recipient_names_its_place_and_rule(void **state)
{
	(void)state;
	const struct j_place none = {.queue = STR("")},
			     other = {STR("b/v"), STR("v"), STR(""), STR("normal")},
			     mode = {STR("b/v"), STR("v"), STR(""), STR("backoff")},
			     last = {STR("c/w"), STR("w"), STR("bulk"), STR("normal")};
	const struct j_place *const put[] = {&none, &other, &other, &none, &last, &mode};
	static const char *const rules[] = {"", "", "l:1 (f:2)", "l:1 (f:2)", "", "l:3 (f:9)"};
	static const char *const want[] = {"a/v", "b/v", "b/v", "a/v", "c/w", "b/v"};
	static const char *const modes[] = {
	    "recovery", "normal", "normal", "recovery", "normal", "backoff"};
	struct buf b;
	struct j_rcpts rcpts;
	buf_init(&b, 65536);
	j_rcpts_init(&rcpts);
	for (uint16_t i = 0; i < COUNT_OF(put); i++)
		j_rcpts_put(&rcpts,
		    &(struct j_rcpt){
			.place = *put[i], .rule = str_of(rules[i]), .result = {.ordinal = i}});
	j_outcome_encode(&b,
	    &(struct j_outcome){
		.id = 7, .place = {STR("a/v"), STR("v"), STR("p"), STR("recovery")}},
	    &rcpts);
	journal_record_seal(b.p, b.n, 0);
	struct str bytes = {(const char *)b.p, b.n};
	uint64_t pos = 0;
	struct journal_record r;
	struct j_outcome back;
	struct j_rcpt rcpt;
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_outcome_decode(r.payload, &back));
	struct j_rcpt_reader reader = j_rcpt_reader(&back);
	for (size_t i = 0; i < COUNT_OF(want); i++) {
		assert_int_equal(1, j_rcpt_take(&reader, &rcpt));
		assert_true(str_eq(rcpt.place.queue, str_of(want[i])));
		assert_true(str_eq(rcpt.place.mode, str_of(modes[i])));
		assert_true(str_eq(rcpt.rule, str_of(rules[i])));
	}
	assert_int_equal(0, j_rcpt_take(&reader, &rcpt));
	j_rcpts_fini(&rcpts);
	buf_fini(&b);
}

/* Byte for byte as the first build wrote it: two recipients, the second in a queue of its own. */
static void put_old_outcome(struct buf *b)
{
	size_t at = journal_record_begin(b, J_OUTCOME);
	for (uint64_t i = 1; i <= 8; i++)
		buf_u64(b, i);
	for (uint32_t i = 1; i <= 3; i++)
		buf_u32(b, i);
	static const char *const texts[] = {
	    "s@x", "env", "r[1.2.3.4]:25", "5.6.7.8", "DSN", "a/v", "v", "tenant", "campaign"};
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		buf_str16(b, str_of(texts[i]));
	struct buf rcpts;
	buf_init(&rcpts, 4096);
	for (uint16_t i = 0; i < 2; i++) {
		buf_u16(&rcpts, i);
		buf_put(&rcpts, (const unsigned char[]){OUTCOME_DEFERRED, 0, 0}, 3);
		buf_u16(&rcpts, 1);
		buf_u64(&rcpts, 99);
		buf_u16(&rcpts, 450);
		buf_put(&rcpts,
		    (const unsigned char[]){VERDICT_DEFERRED, STAGE_RCPT, 0, i ? 4 | 8 : 0}, 4);
		for (size_t k = 0; k < 4; k++)
			buf_str16(&rcpts, STR("x"));
		if (i == 0)
			buf_str16(&rcpts, STR("450 said so"));
		else
			buf_str16(&rcpts, STR("b/v"));
	}
	buf_u16(b, 2);
	buf_str32(b, (struct str){(const char *)rcpts.p, rcpts.n});
	buf_fini(&rcpts);
	journal_record_end(b, at);
}

static void test_records_of_the_first_build_are_read(void **state)
{
	(void)state;
	struct buf b;
	struct j_outcome o;
	struct j_rcpt rcpt;
	struct j_changed c;
	struct journal_record r;
	uint64_t pos = 0;
	buf_init(&b, 65536);
	put_old_outcome(&b);
	size_t at = journal_record_begin(&b, J_CHANGED);
	buf_u64(&b, 5);
	buf_u16(&b, 2);
	buf_u16(&b, 3);
	buf_u8(&b, JOB_HELD);
	buf_u64(&b, 99);
	journal_record_end(&b, at);
	journal_record_seal(b.p, b.n, 0);
	struct str bytes = {(const char *)b.p, b.n};
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_outcome_decode(r.payload, &o));
	assert_false(o.has_place);
	assert_true(o.place.pool.n == 0 && o.place.mode.n == 0);
	struct j_rcpt_reader reader = j_rcpt_reader(&o);
	assert_int_equal(1, j_rcpt_take(&reader, &rcpt));
	assert_true(str_eq(rcpt.place.queue, STR("a/v")) && rcpt.rule.n == 0);
	assert_int_equal(1, j_rcpt_take(&reader, &rcpt));
	assert_true(str_eq(rcpt.place.queue, STR("b/v")));
	assert_true(str_eq(rcpt.result.text, STR("450 said so")));
	assert_int_equal(0, j_rcpt_take(&reader, &rcpt));
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_changed_decode(r.payload, &c));
	assert_true(c.id == 5 && c.due_ms == 99 && !c.has_place);
	buf_fini(&b);
}

static void test_state_and_event_come_back(void **state)
{
	(void)state;
	struct buf b;
	struct journal_record r;
	struct j_state s, state_put = {.key = STR("mode a/v"), .value = {"\0\1\2", 3}};
	struct j_event e, put_event = {.wall_ms = 1,
			      .ticket = 2,
			      .until_wall_ms = 3,
			      .kind = EVENT_MODE,
			      .scope = STR("a/v"),
			      .from = STR("normal"),
			      .to = STR("backoff"),
			      .text = STR("421 no"),
			      .rule = STR("l:1 (f:2)"),
			      .who = STR("me"),
			      .notify = STR("x@y")};
	struct j_changed c;
	uint64_t pos = 0;
	buf_init(&b, 65536);
	j_state_encode(&b, &state_put);
	j_event_encode(&b, &put_event);
	j_changed_encode(&b, &(struct j_changed){.id = 5, .vmta = STR("v"), .pool = STR("p")});
	journal_record_seal(b.p, b.n, 0);
	struct str bytes = {(const char *)b.p, b.n};
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_state_decode(r.payload, &s));
	assert_true(!s.gone && str_eq(s.key, state_put.key) && str_eq(s.value, state_put.value));
	for (size_t n = 0; n < r.payload.n; n++)
		assert_int_equal(-EBADMSG, j_state_decode((struct str){r.payload.p, n}, &s));
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_event_decode(r.payload, &e));
	assert_true(e.wall_ms == 1 && e.ticket == 2 && e.until_wall_ms == 3);
	assert_true(str_eq(e.scope, put_event.scope) && str_eq(e.from, put_event.from));
	assert_true(str_eq(e.to, put_event.to) && str_eq(e.text, put_event.text));
	assert_true(str_eq(e.rule, put_event.rule) && str_eq(e.who, put_event.who));
	assert_true(str_eq(e.notify, put_event.notify));
	for (size_t n = 0; n < r.payload.n; n++)
		assert_int_equal(-EBADMSG, j_event_decode((struct str){r.payload.p, n}, &e));
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(0, j_changed_decode(r.payload, &c));
	assert_true(c.has_place && str_eq(c.vmta, STR("v")) && str_eq(c.pool, STR("p")));
	buf_fini(&b);
}

static void test_queue_failure_comes_back(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 65536);
	struct j_queue back, one = {.wall_ms = 5,
				 .code = 421,
				 .stage = STAGE_GREETING,
				 .queue = STR("q/v"),
				 .vmta = STR("v"),
				 .domain = STR("d.test"),
				 .relay = STR("mx.d.test[127.0.0.1]:25"),
				 .source = STR("127.0.0.2"),
				 .text = STR("421 4.7.0 not now")};
	j_queue_encode(&b, &one);
	journal_record_seal(b.p, b.n, 0);
	struct str bytes = {(const char *)b.p, b.n};
	uint64_t pos = 0;
	struct journal_record r;
	assert_int_equal(1, journal_record_take(&bytes, &pos, &r));
	assert_int_equal(J_QUEUE, r.type);
	assert_int_equal(0, j_queue_decode(r.payload, &back));
	assert_true(back.wall_ms == 5 && back.code == 421 && back.stage == STAGE_GREETING);
	assert_true(str_eq(back.queue, one.queue) && str_eq(back.vmta, one.vmta));
	assert_true(str_eq(back.domain, one.domain) && str_eq(back.relay, one.relay));
	assert_true(str_eq(back.source, one.source) && str_eq(back.text, one.text));
	for (size_t n = 0; n < r.payload.n; n++)
		assert_int_equal(-EBADMSG, j_queue_decode((struct str){r.payload.p, n}, &back));
	buf_fini(&b);
}

static void test_many_files_read_back_in_order(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, 1);
	for (uint64_t id = 1; id <= 500; id++) {
		put(&r, id, (size_t)(id * 37 % 900));
		if (id % 20 == 0)
			flush(&r, 0);
	}
	assert_true(JOURNAL_POS_NUMBER(journal_pos(r.journal)) > 10);
	rig_close(&r);
	assert_counts(replay(JOURNAL_POS(1, 0)), 500);
	uint64_t low, high;
	assert_true(journal_numbers(spool_fd, &low, &high));
	rig_open(&r, high + 1); /* the next process */
	put(&r, 501, 10);
	flush(&r, 0);
	rig_close(&r);
	assert_counts(replay(JOURNAL_POS(1, 0)), 501);
}

/* What a kill or a torn page leaves: any cut of the last file. */
static void test_cut_at_every_byte(void **state)
{
	(void)state;
	struct rig r;
	char path[128];
	uint64_t ends[12];
	rig_open(&r, 1);
	for (uint64_t id = 1; id <= 12; id++) {
		put(&r, id, (size_t)id * 3);
		flush(&r, 0);
		ends[id - 1] = JOURNAL_POS_OFFSET(journal_pos(r.journal));
	}
	rig_close(&r);
	snprintf(path, sizeof(path), "%s/journal/0000000000000001", dir);
	for (uint64_t cut = ends[11] + 64; cut-- > 0;) {
		assert_int_equal(0, truncate(path, (off_t)cut));
		size_t whole = 0;
		while (whole < 12 && ends[whole] <= cut)
			whole++;
		assert_counts(replay(JOURNAL_POS(1, 0)), whole);
	}
}

/* A flipped bit anywhere: never a wrong record, never one behind it as if nothing had been. */
static void test_flipped_bytes(void **state)
{
	(void)state;
	struct rig r;
	char path[128];
	rig_open(&r, 1);
	for (uint64_t id = 1; id <= 5; id++)
		put(&r, id, 20);
	flush(&r, 0);
	size_t end = JOURNAL_POS_OFFSET(journal_pos(r.journal));
	rig_close(&r);
	snprintf(path, sizeof(path), "%s/journal/0000000000000001", dir);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	for (size_t at = 0; at < end; at++) {
		unsigned char c, flipped;
		assert_int_equal(1, pread(fd, &c, 1, (off_t)at));
		flipped = c ^ 0x10;
		assert_int_equal(1, pwrite(fd, &flipped, 1, (off_t)at));
		const struct ids *ids = replay(JOURNAL_POS(1, 0));
		assert_true(ids->n < 5);
		assert_counts(ids, ids->n);
		assert_int_equal(1, pwrite(fd, &c, 1, (off_t)at));
	}
	close(fd);
}

/* Intents wait for room for their outcomes; outcomes do not wait for intents. */
static void test_no_intent_without_room(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, 1);
	put(&r, 1, 0);
	flush(&r, 0);
	j_intent_encode(journal_buf(r.journal), &(struct j_intent){.transaction = 1, .id = 9});
	put(&r, 2, 0);
	assert_int_equal(JOURNAL_PARTIAL, journal_turn(r.journal, UINT64_C(1) << 40));
	unsigned before = r.written;
	while (r.written == before) {
		turn(&r);
	}
	assert_counts(replay(JOURNAL_POS(1, 0)), 2);
	assert_true(journal_buf(r.journal)->n > 0);
	assert_int_equal(JOURNAL_BUSY, journal_turn(r.journal, UINT64_C(1) << 40));
	flush(&r, 0);
	assert_int_equal(0, journal_buf(r.journal)->n);
	rig_close(&r);
}

static void test_passed_files_go(void **state)
{
	(void)state;
	struct rig r;
	uint64_t low, high;
	rig_open(&r, 1);
	for (uint64_t id = 1; id <= 300; id++) {
		put(&r, id, 500);
		if (id % 10 == 0)
			flush(&r, 0);
	}
	uint64_t here = journal_pos(r.journal);
	journal_passed(r.journal, here);
	put(&r, 301, 500);
	flush(&r, 0);
	put(&r, 302, 500);
	flush(&r, 0);
	rig_close(&r);
	assert_true(journal_numbers(spool_fd, &low, &high));
	assert_true(low >= JOURNAL_POS_NUMBER(here));
	const struct ids *ids = replay(JOURNAL_POS(low, 0));
	assert_true(ids->n >= 2);
	assert_int_equal(302, ids->id[ids->n - 1]);
}

/* A disk that says no in the middle: everything still comes, in order, when it says yes again. */
static void test_failing_writes_go_on_in_the_next_file(void **state)
{
	(void)state;
	struct rig r;
	struct rlimit old, small;
	signal(SIGXFSZ, SIG_IGN);
	rig_open(&r, 1);
	put(&r, 1, 100);
	flush(&r, 0);
	for (int i = 0; i < 30; i++) { /* let it get its spare */
		journal_turn(r.journal, 0);
		turn(&r);
	}
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = JOURNAL_POS_OFFSET(journal_pos(r.journal)) + 100;
	setrlimit(RLIMIT_FSIZE, &small);
	put(&r, 2, 50); /* fits below the limit */
	put(&r, 3, 500);
	for (int i = 0; i < 20; i++) {
		journal_turn(r.journal, 0);
		turn(&r);
	}
	assert_true(journal_is_stuck(r.journal));
	setrlimit(RLIMIT_FSIZE, &old);
	int64_t deadline = clock_mono_ms() + 8000;
	while (!journal_is_idle(r.journal) && clock_mono_ms() < deadline) {
		journal_turn(r.journal, 0);
		turn(&r);
	}
	assert_true(journal_is_idle(r.journal));
	rig_close(&r);
	const struct ids *ids = replay(JOURNAL_POS(1, 0));
	uint64_t last = 0;
	bool seen[4] = {false};
	for (size_t i = 0; i < ids->n; i++) { /* a record may stand twice, never out of order */
		seen[ids->id[i]] = true;
		assert_true(ids->id[i] >= last || ids->id[i] == 2);
		last = ids->id[i];
	}
	assert_true(seen[1] && seen[2] && seen[3]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_records_survive_only_whole),
	    cmocka_unit_test(test_outcome_comes_back),
	    cmocka_unit_test(test_each_recipient_names_its_place_and_rule),
	    cmocka_unit_test(test_records_of_the_first_build_are_read),
	    cmocka_unit_test(test_state_and_event_come_back),
	    cmocka_unit_test(test_queue_failure_comes_back),
	    cmocka_unit_test_setup_teardown(test_many_files_read_back_in_order, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_cut_at_every_byte, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_flipped_bytes, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_no_intent_without_room, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_passed_files_go, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(
		test_failing_writes_go_on_in_the_next_file, make_dir, drop_dir),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

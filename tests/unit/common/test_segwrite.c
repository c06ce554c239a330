/* SPDX-License-Identifier: ISC */
/*
 * The writer against a qmgr that the test plays, with real files: order, places, sums, change of
 * segments, failing disks (RLIMIT_FSIZE for short writes, /dev/full), the loss and return of qmgr
 * at each moment.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <cmocka.h>

#include "common/clock.h"
#include "tests/unit/common/fake_qmgr.h"

static struct loop *loop;
static struct segwriter *w;
static struct fake_qmgr q;

struct owner { /* of one message */
	bool called, ok;
	enum refuse why;
	uint64_t id;
	size_t told_before; /* ACCEPTEDs that qmgr had when we were called */
};

static void on_done(void *arg, bool ok, enum refuse why, uint64_t id)
{
	struct owner *o = arg;
	assert_false(o->called);
	*o = (struct owner){.called = true, .ok = ok, .why = why, .id = id};
}

static int setup(void **state)
{
	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	loop = loop_new();
	w = segwriter_new(loop);
	fake_init(&q, loop, w);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	segwriter_free(&w);
	chan_free(&q.theirs);
	chan_free(&q.ours);
	fake_fini(&q);
	loop_free(&loop);
	return 0;
}

static void tick(void *arg)
{
	(void)arg;
}

/* Turns until cond or 5 s have passed. */
#define TURN_UNTIL(cond)                                                                           \
	for (int64_t end_ = clock_mono_ms() + 5000; !(cond);) {                                    \
		struct loop_timer t_ = {0};                                                        \
		loop_timer_after(loop, &t_, 20, tick, NULL);                                       \
		loop_turn(loop);                                                                   \
		loop_timer_cancel(loop, &t_);                                                      \
		assert_true(clock_mono_ms() < end_);                                               \
	}

static void start(uint32_t credits)
{
	fake_attach(&q);
	fake_credit(&q, credits, REFUSE_NONE);
	TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
}

static void submit_id(struct owner *o, uint64_t id, size_t bytes, char c)
{
	struct buf e, h, b;
	buf_init(&e, 1000);
	buf_init(&h, 1000);
	buf_init(&b, 16 << 20);
	envelope_put(&e, ENV_SENDER, STR("a@b.test"));
	envelope_put(&e, ENV_RCPT, STR("c@d.test"));
	buf_cstr(&h, "Received: x\r\n");
	memset(buf_reserve(&b, bytes + 1), c, bytes);
	b.n = bytes;
	memset(o, 0, sizeof(*o));
	segwriter_submit(w, id, 1234, &e, &h, &b, on_done, o);
	assert_int_equal(e.n + h.n + b.n, 0);
	assert_null(b.p);
}

static void submit(struct owner *o, size_t bytes, char c)
{
	uint64_t id = segwriter_begin(w);
	assert_true(id != 0);
	submit_id(o, id, bytes, c);
}

static void check_record(struct fake_told *t, size_t bytes, char c)
{
	struct record r;
	struct buf data;
	fake_read(&q, t->segment, t->a, &r, &data);
	assert_int_equal(r.content_bytes, bytes);
	assert_int_equal(r.arrived_ms, 1234);
	assert_int_equal(r.id, t->record.id);
	assert_int_equal(record_end(&r), t->b);
	assert_memory_equal(data.p, t->envelope, t->envelope_bytes);
	assert_int_equal(r.envelope_bytes, t->envelope_bytes);
	for (size_t i = data.n - bytes; i < data.n; i++)
		assert_int_equal(data.p[i], c);
	buf_fini(&data);
}

static void test_messages_stand_in_order(void **state)
{
	enum { N = 500 };
	static struct owner o[N];
	uint64_t mark = 0;
	(void)state;
	start(1000);
	for (int i = 0; i < N; i++)
		submit(&o[i], (size_t)(i * 7 % 300), (char)('a' + i % 26));
	TURN_UNTIL(q.accepted == N);
	for (int i = 0; i < N; i++) {
		struct fake_told *t = fake_find(&q, TOLD_ACCEPTED, (size_t)i);
		assert_true(o[i].called && o[i].ok);
		assert_int_equal(t->record.id, o[i].id);
		assert_int_equal(t->a, mark); /* no gap: what was taken in is one mark */
		mark = t->b;
		assert_int_equal(mark % RECORD_ALIGN, 0);
		check_record(t, (size_t)(i * 7 % 300), (char)('a' + i % 26));
	}
	struct segwriter_stats s;
	segwriter_stats(w, &s);
	assert_int_equal(s.messages, N);
	assert_true(s.batches <= 4); /* 200 a batch, IOV_MAX */
}

static void test_nothing_without_credit(void **state)
{
	struct owner o;
	(void)state;
	assert_int_equal(segwriter_state(w), REFUSE_BUSY);
	assert_int_equal(segwriter_begin(w), 0);
	start(1);
	submit(&o, 10, 'x');
	assert_int_equal(segwriter_state(w), REFUSE_MEMORY);
	assert_int_equal(segwriter_begin(w), 0);
	TURN_UNTIL(segwriter_state(w) == REFUSE_NONE); /* returned with ACCEPTED */
	fake_credit(&q, 5, REFUSE_QUEUE);
	TURN_UNTIL(segwriter_state(w) == REFUSE_QUEUE);
	fake_credit(&q, 0, REFUSE_NONE);
	TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
}

static void test_abandoned_ids_leave_holes(void **state)
{
	struct owner o[2];
	uint64_t a, b, c;
	(void)state;
	start(3);
	a = segwriter_begin(w);
	b = segwriter_begin(w);
	c = segwriter_begin(w);
	assert_int_equal(segwriter_begin(w), 0);
	segwriter_abandon(w, b);
	submit_id(&o[1], c, 5, 'c'); /* not in the order of the ids */
	submit_id(&o[0], a, 5, 'a');
	TURN_UNTIL(q.accepted == 2);
	assert_int_equal(fake_find(&q, TOLD_ACCEPTED, 0)->record.id, c);
	assert_int_equal(fake_find(&q, TOLD_ACCEPTED, 1)->record.id, a);
	assert_true(segwriter_begin(w) > c);
}

static void test_segments_change_without_waiting(void **state)
{
	enum { N = 200 };
	static struct owner o[N];
	uint64_t marks[100] = {0}, last = 0;
	(void)state;
	q.limit = 32768;
	start(1000);
	for (int i = 0; i < N; i++) {
		submit(&o[i], 2000, 'x');
		if (i % 5 == 4)
			TURN_UNTIL(o[i].called);
	}
	TURN_UNTIL(q.accepted == N);
	for (size_t i = 0; i < N; i++) {
		struct fake_told *t = fake_find(&q, TOLD_ACCEPTED, i);
		assert_true(t->segment >= last && t->segment < 100);
		last = t->segment;
		assert_int_equal(t->a, marks[t->segment]);
		marks[t->segment] = t->b;
		check_record(t, 2000, 'x');
	}
	assert_true(last > 8);
	/* each one that was left is done, at exactly the mark */
	assert_true(fake_count(&q, TOLD_DONE) >= (size_t)last - 1);
	for (size_t i = 0; i < fake_count(&q, TOLD_DONE); i++) {
		struct fake_told *t = fake_find(&q, TOLD_DONE, i);
		assert_int_equal(t->a, marks[t->segment]);
	}
}

static void test_an_open_id_keeps_its_segment(void **state)
{
	struct owner first, o;
	uint64_t id;
	(void)state;
	q.limit = 8192;
	start(1000);
	id = segwriter_begin(w);
	for (int i = 0; i < 20; i++) {
		submit(&o, 2000, 'x');
		TURN_UNTIL(o.called);
	}
	for (size_t i = 0; i < fake_count(&q, TOLD_DONE); i++)
		assert_true(fake_find(&q, TOLD_DONE, i)->segment != RECORD_ID_SEGMENT(id));
	submit_id(&first, id, 10, 'f');
	TURN_UNTIL(first.called && q.accepted == 21);
	assert_int_equal(fake_find(&q, TOLD_ACCEPTED, 20)->segment, RECORD_ID_SEGMENT(id));
	bool done = false;
	TURN_UNTIL(fake_count(&q, TOLD_DONE) > 0);
	for (size_t i = 0; i < fake_count(&q, TOLD_DONE); i++)
		done = done || fake_find(&q, TOLD_DONE, i)->segment == RECORD_ID_SEGMENT(id);
	assert_true(done);
}

static void test_no_segment_is_said_and_asked_again(void **state)
{
	(void)state;
	q.none = REFUSE_DISK;
	fake_attach(&q);
	fake_credit(&q, 10, REFUSE_NONE);
	TURN_UNTIL(segwriter_state(w) == REFUSE_DISK);
	q.none = REFUSE_NONE;
	TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
	assert_int_equal(fake_count(&q, TOLD_WANT), 2);
}

/* A short write: the batch is refused, what was synced stays good, the next segment takes over. */
static void test_short_write(void **state)
{
	struct rlimit before, limit;
	struct owner good, bad[3], after;
	struct stat st;
	char path[128];
	(void)state;
	start(10);
	submit(&good, 1000, 'g');
	TURN_UNTIL(good.called);
	getrlimit(RLIMIT_FSIZE, &before);
	limit = (struct rlimit){3000, before.rlim_max};
	setrlimit(RLIMIT_FSIZE, &limit);
	for (int i = 0; i < 3; i++)
		submit(&bad[i], 1000, 'b');
	TURN_UNTIL(bad[2].called);
	setrlimit(RLIMIT_FSIZE, &before);
	for (int i = 0; i < 3; i++) {
		assert_false(bad[i].ok);
		assert_int_equal(bad[i].why, REFUSE_DISK);
	}
	TURN_UNTIL(fake_count(&q, TOLD_DONE) == 1);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, fake_find(&q, TOLD_ACCEPTED, 0)->b);
	assert_int_equal(q.accepted, 1);
	fake_path(&q, 1, path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 3000); /* it was short, and nothing came behind it */
	TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
	submit(&after, 1000, 'a');
	TURN_UNTIL(after.called);
	assert_true(after.ok);
	assert_int_equal(RECORD_ID_SEGMENT(after.id), 2);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 3000);
	/* the credits of the refused ones were given back: 10 - 1 + 1 for the accepted, none lost
	 */
	TURN_UNTIL(q.accepted == 2);
	for (int i = 0; i < 10; i++)
		TURN_UNTIL(segwriter_begin(w) != 0);
	assert_int_equal(segwriter_begin(w), 0);
}

static void test_full_device(void **state)
{
	struct owner o;
	(void)state;
	q.full_device = true;
	start(10);
	submit(&o, 100, 'x');
	TURN_UNTIL(o.called);
	assert_false(o.ok);
	q.full_device = false;
	TURN_UNTIL(fake_count(&q, TOLD_DONE) == 1 && segwriter_state(w) == REFUSE_NONE);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, 0);
	do { /* the segment asked for meanwhile may be /dev/full still */
		TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
		submit(&o, 100, 'x');
		TURN_UNTIL(o.called);
	} while (!o.ok);
	TURN_UNTIL(q.accepted == 1);
	/* a new qmgr hears of the failed segment again: it may not know */
	fake_detach(&q);
	fake_forget(&q);
	fake_attach(&q);
	TURN_UNTIL(fake_count(&q, TOLD_END) == 1);
	assert_int_equal(fake_find(&q, TOLD_FAILED, 0)->segment, 1);
	assert_int_equal(fake_find(&q, TOLD_FAILED, 0)->a, 0);
	/* … behind what it really holds, and never as held */
	assert_true(fake_find(&q, TOLD_HELD, 0) < fake_find(&q, TOLD_FAILED, 0));
	assert_true(fake_find(&q, TOLD_FAILED, 0) < fake_find(&q, TOLD_END, 0));
	for (size_t i = 0; i < fake_count(&q, TOLD_HELD); i++)
		assert_true(fake_find(&q, TOLD_HELD, i)->segment > 1);
	assert_int_equal(fake_count(&q, TOLD_DONE), 0);
}

/* Each message is either below HELD.synced or comes as ACCEPTED, never both, at whatever moment
 * qmgr goes. */
static void test_qmgr_comes_and_goes(void **state)
{
	enum { N = 400 };
	static struct owner o[N];
	static bool read_in[N], accepted[N];
	(void)state;
	start(100000);
	srandom(7);
	uint64_t taken = 0; /* qmgr's mark, which outlives it */
	int i = 0;
	for (int round = 0; round < 40; round++) {
		for (int k = 0; k < 10; k++, i++)
			submit(&o[i], 500, 'x');
		for (long turns = random() % 4; turns > 0; turns--)
			loop_again(loop), loop_turn(loop);
		for (size_t k = 0; k < fake_count(&q, TOLD_ACCEPTED); k++) {
			struct fake_told *t = fake_find(&q, TOLD_ACCEPTED, k);
			assert_int_equal(t->a, taken);
			taken = t->b;
			uint64_t n = (t->record.id & 0xffffff) - 1;
			assert_false(read_in[n] || accepted[n]);
			accepted[n] = true;
		}
		fake_detach(&q);
		fake_forget(&q);
		if (round % 3 == 0)
			loop_again(loop),
			    loop_turn(loop); /* some batches end while nobody is there */
		fake_attach(&q);
		fake_credit(&q, 1000, REFUSE_NONE);
		TURN_UNTIL(fake_count(&q, TOLD_END) == 1);
		struct fake_told *held = fake_find(&q, TOLD_HELD, 0);
		assert_int_equal(held->segment, 1);
		while (taken < held->a) { /* the new qmgr reads up to there itself */
			struct record r;
			struct buf data;
			fake_read(&q, 1, taken, &r, &data);
			buf_fini(&data);
			taken = record_end(&r);
			uint64_t n = (r.id & 0xffffff) - 1;
			assert_false(read_in[n] || accepted[n]);
			read_in[n] = true;
		}
		assert_int_equal(taken, held->a);
		TURN_UNTIL(segwriter_state(w) == REFUSE_NONE);
	}
	TURN_UNTIL(segwriter_idle(w) && o[N - 1].called);
	TURN_UNTIL(fake_count(&q, TOLD_ACCEPTED) == 0 || fake_find(&q, TOLD_ACCEPTED, 0) != NULL);
	for (int k = 0; k < 3; k++)
		loop_again(loop), loop_turn(loop);
	for (size_t k = 0; k < fake_count(&q, TOLD_ACCEPTED); k++)
		accepted[(fake_find(&q, TOLD_ACCEPTED, k)->record.id & 0xffffff) - 1] = true;
	for (int k = 0; k < N; k++)
		assert_true(o[k].called && o[k].ok && (read_in[k] != accepted[k]));
}

/* A segment that ended while nobody listened is HELD and DONE then, after the end of the state. */
static void test_segment_ends_without_qmgr(void **state)
{
	struct owner o;
	(void)state;
	q.limit = 8192;
	start(100);
	for (int i = 0; i < 3; i++) { /* over the half: the next segment is there */
		submit(&o, 2000, 'x');
		TURN_UNTIL(o.called);
	}
	TURN_UNTIL(q.next_segment == 2);
	loop_again(loop), loop_turn(loop);
	loop_again(loop), loop_turn(loop);
	fake_detach(&q);
	fake_forget(&q);
	for (int i = 0; i < 4; i++) { /* a transaction that was under way may still end */
		submit(&o, 2000, 'x');
		TURN_UNTIL(o.called);
		assert_true(o.ok);
	}
	assert_int_equal(RECORD_ID_SEGMENT(o.id), 2);
	fake_attach(&q);
	TURN_UNTIL(fake_count(&q, TOLD_DONE) == 1);
	assert_int_equal(fake_count(&q, TOLD_HELD), 2);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->segment, 1);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, fake_find(&q, TOLD_HELD, 0)->a);
	assert_int_equal(fake_count(&q, TOLD_ACCEPTED), 0);
}

/* --- streams ---------------------------------------------------------------------------------- */

struct streamer {
	struct segstream *s;
	bool ready;
	enum refuse why;
	int drained;
	struct owner o;
};

static void on_stream_ready(void *arg, struct segstream *s, enum refuse why)
{
	struct streamer *t = arg;
	t->ready = true;
	t->s = s;
	t->why = why;
}

static void on_drained(void *arg)
{
	struct streamer *t = arg;
	t->drained++;
}

static void append(struct streamer *t, size_t n, char c)
{
	struct buf b;
	buf_init(&b, 1 << 20);
	memset(buf_reserve(&b, n), c, n);
	b.n = n;
	segstream_append(t->s, &b);
	assert_null(b.p);
}

static void stream_message(struct streamer *t, size_t pieces)
{
	memset(t, 0, sizeof(*t));
	segstream_open(w, pieces * 1000, on_stream_ready, t);
	TURN_UNTIL(t->ready);
	assert_non_null(t->s);
	segstream_on_drained(t->s, on_drained, t);
	append(t, 20, 'e');
	append(t, 30, 'h');
	for (size_t i = 0; i < pieces; i++)
		append(t, 1000, 'c');
}

static void stream_close(struct streamer *t, size_t pieces)
{
	struct record lengths = {.envelope_bytes = 20,
	    .headers_bytes = 30,
	    .content_bytes = pieces * 1000,
	    .arrived_ms = 1234};
	segstream_close(t->s, &lengths, on_done, &t->o);
}

static void read_head(uint64_t segment, struct record *r)
{
	unsigned char head[RECORD_HEAD];
	char path[128];
	fake_path(&q, segment, path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, head, sizeof(head), 0), RECORD_HEAD);
	close(fd);
	assert_int_equal(record_decode(r, head), 0);
}

static void test_stream(void **state)
{
	struct streamer t;
	struct record r;
	struct buf data;
	(void)state;
	start(10);
	stream_message(&t, 100);
	TURN_UNTIL(segstream_waiting(t.s) == 0);
	assert_true(t.drained > 0);
	uint64_t id = segstream_id(t.s);
	stream_close(&t, 100);
	TURN_UNTIL(t.o.called && q.accepted == 1 && fake_count(&q, TOLD_DONE) == 1);
	assert_true(t.o.ok);
	struct fake_told *a = fake_find(&q, TOLD_ACCEPTED, 0);
	assert_int_equal(a->record.id, id);
	assert_int_equal(a->record.kind, RECORD_CLOSE);
	assert_int_equal(a->b, a->a + RECORD_HEAD);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, a->b);
	assert_int_equal(a->envelope_bytes, 20);
	fake_read(&q, a->segment, a->a, &r, &data);
	assert_int_equal(r.data_offset, RECORD_HEAD);
	assert_int_equal(data.n, 100050);
	assert_int_equal(data.p[19], 'e');
	assert_int_equal(data.p[20], 'h');
	assert_int_equal(data.p[50], 'c');
	buf_fini(&data);
	/* the first head */
	read_head(a->segment, &r);
	assert_int_equal(r.kind, RECORD_OPEN);
	assert_int_equal(r.id, id);
}

/* The thread stands in a write of another stream (a pipe that nobody reads) while this one is
 * opened, filled and closed: its first head was made when it was given. */
static void test_open_head_of_a_slow_thread(void **state)
{
	struct streamer slow, t;
	struct record r;
	int pipe_fds[2];
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	start(10);
	loop_again(loop), loop_turn(loop);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	q.next_fd = pipe_fds[1];
	stream_message(&slow, 200);
	stream_message(&t, 10);
	stream_close(&t, 10);
	close(pipe_fds[0]);
	TURN_UNTIL(t.o.called);
	assert_true(t.o.ok);
	read_head(RECORD_ID_SEGMENT(t.o.id), &r);
	assert_int_equal(r.kind, RECORD_OPEN);
	assert_int_equal(r.arrived_ms, 0);
	assert_int_equal(r.envelope_bytes + r.headers_bytes + r.content_bytes, 0);
	segstream_abandon(&slow.s);
	TURN_UNTIL(segwriter_idle(w));
}

static void test_stream_given_up(void **state)
{
	struct streamer t;
	(void)state;
	start(1);
	stream_message(&t, 3);
	assert_int_equal(segwriter_state(w), REFUSE_MEMORY);
	segstream_abandon(&t.s);
	TURN_UNTIL(fake_count(&q, TOLD_DONE) == 1);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, 0);
	assert_int_equal(segwriter_state(w), REFUSE_NONE);
	TURN_UNTIL(segwriter_idle(w));
	assert_int_equal(q.accepted, 0);
}

static void test_stream_refused_or_cancelled(void **state)
{
	struct streamer t = {0}, u = {0};
	(void)state;
	start(5);
	q.none = REFUSE_DISK;
	segstream_open(w, 5000, on_stream_ready, &t);
	TURN_UNTIL(t.ready);
	assert_null(t.s);
	assert_int_equal(t.why, REFUSE_DISK);
	q.none = REFUSE_NONE;
	size_t before = q.next_segment;
	segstream_open(w, 5000, on_stream_ready, &u);
	segstream_cancel(w, &u);
	TURN_UNTIL(q.next_segment > before && fake_count(&q, TOLD_DONE) == 1);
	assert_false(u.ready);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, 0);
}

static void test_stream_on_full_device(void **state)
{
	struct streamer t;
	(void)state;
	start(5);
	q.full_device = true;
	stream_message(&t, 3);
	stream_close(&t, 3);
	TURN_UNTIL(t.o.called && fake_count(&q, TOLD_DONE) == 1);
	assert_false(t.o.ok);
	assert_int_equal(t.o.why, REFUSE_DISK);
	assert_int_equal(fake_find(&q, TOLD_DONE, 0)->a, 0);
}

static void test_stream_ends_without_qmgr(void **state)
{
	struct streamer t;
	struct record r;
	struct buf data;
	(void)state;
	start(5);
	stream_message(&t, 3);
	fake_detach(&q);
	fake_forget(&q);
	stream_close(&t, 3);
	TURN_UNTIL(t.o.called);
	assert_true(t.o.ok);
	fake_attach(&q);
	TURN_UNTIL(fake_count(&q, TOLD_DONE) == 1);
	struct fake_told *held = fake_find(&q, TOLD_HELD, 1), *done = fake_find(&q, TOLD_DONE, 0);
	assert_int_equal(held->segment, done->segment);
	assert_int_equal(held->a, done->a);
	fake_read(&q, held->segment, held->a - RECORD_HEAD, &r, &data);
	assert_int_equal(r.kind, RECORD_CLOSE);
	buf_fini(&data);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_messages_stand_in_order),
	    T(test_nothing_without_credit),
	    T(test_abandoned_ids_leave_holes),
	    T(test_segments_change_without_waiting),
	    T(test_an_open_id_keeps_its_segment),
	    T(test_no_segment_is_said_and_asked_again),
	    T(test_short_write),
	    T(test_full_device),
	    T(test_qmgr_comes_and_goes),
	    T(test_segment_ends_without_qmgr),
	    T(test_stream),
	    T(test_stream_given_up),
	    T(test_open_head_of_a_slow_thread),
	    T(test_stream_refused_or_cancelled),
	    T(test_stream_on_full_device),
	    T(test_stream_ends_without_qmgr),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

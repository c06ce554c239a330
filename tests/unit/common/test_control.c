/* SPDX-License-Identifier: ISC */
/* The control socket, asked by real clients over a UNIX socket, on the real loop. */
#include "common/buf.h"
#include "common/clock.h"
#include "common/control.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

enum { WAIT_MS = 5000, STREAM_ROWS = 20000 };

struct service {
	struct loop *loop;
	struct control *control;
	struct control_reply *late;
	int gone, dropped;
	int produced;
};
static struct service it;
static struct sockaddr_un address;

static void verb_echo(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	const char *option = control_option(options, "x");
	assert_ptr_equal(ctx, &it);
	control_row(r, json_pack("{s:s, s:s}", "arg", control_arg(args, 0), "x",
			   option != NULL ? option : "-"));
}

static void verb_fail(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx, (void)args, (void)options;
	control_end(r, 69, "no %s here", "fish");
	control_end(r, 0, NULL); /* the second one is not heard */
	control_row(r, json_pack("{s:i}", "after", 1));
}

static bool next_rows(void *state, struct control_reply *r)
{
	int *n = state;
	control_row(r,
	    json_pack("{s:i, s:s}", "n", *n, "filler", "0123456789012345678901234567890123456789"));
	it.produced++;
	return ++*n < STREAM_ROWS;
}

static void drop_state(void *state)
{
	it.dropped++;
	free(state);
}

static void verb_stream(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	(void)ctx, (void)args, (void)options;
	control_stream(r, next_rows, drop_state, calloc(1, sizeof(int)));
}

static void on_gone(void *arg)
{
	struct service *s = arg;
	s->gone++;
	s->late = NULL;
}

static void verb_late(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct service *s = ctx;
	(void)args, (void)options;
	s->late = r;
	control_later(r, on_gone, s);
}

static void verb_huge(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	char *text = malloc(1 << 20);
	(void)ctx, (void)args, (void)options;
	memset(text, 'x', (1 << 20) - 1);
	text[(1 << 20) - 1] = 0;
	for (int i = 0; i < 32; i++)
		control_row(r, json_pack("{s:s}", "text", text));
	free(text);
}

static void verb_who(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	char who[CONTROL_WHO_BYTES];
	(void)ctx, (void)args, (void)options;
	control_who(r, who);
	control_row(r, json_pack("{s:s}", "who", who));
}

static const struct control_verb verbs[] = {
    {"who", "who", "Who asks.", 0, 0, verb_who},
    {"echo", "echo TEXT [--x=V] [--x-long]", "Says it again.", 1, 1, verb_echo},
    {"fail", "fail", "Fails.", 0, 0, verb_fail},
    {"stream", "stream", "Many rows.", 0, 0, verb_stream},
    {"late", "late", "Answers later.", 0, 0, verb_late},
    {"huge", "huge", "Too much.", 0, 0, verb_huge},
};

static int setup(void **state)
{
	(void)state;
	memset(&it, 0, sizeof it);
	memset(&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	snprintf(address.sun_path, sizeof address.sun_path, "/tmp/postern-test-control.%ld",
	    (long)getpid());
	unlink(address.sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 64), 0);
	it.loop = loop_new();
	it.control = control_new(it.loop, verbs, COUNT_OF(verbs), &it);
	control_listen(it.control, fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_free(&it.control);
	loop_free(&it.loop);
	unlink(address.sun_path);
	return 0;
}

static int client(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void turns(int n)
{
	for (int i = 0; i < n; i++) {
		loop_again(it.loop);
		loop_turn(it.loop);
	}
}

/* Turns the loop until the peer closed; everything it said. */
static void hear(int fd, struct buf *b)
{
	int64_t deadline = clock_mono_ms() + (getenv("POSTERN_VALGRIND") ? 20 : 1) * WAIT_MS;
	buf_init(b, 64 << 20);
	for (;;) {
		unsigned char *p = buf_reserve(b, 65536);
		ssize_t n = read(fd, p, 65536);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			break;
		if (n > 0)
			b->n += (size_t)n;
		else
			turns(1);
		assert_true(clock_mono_ms() < deadline);
	}
	buf_put(b, "", 1);
}

static void ask(const char *request, const char *expected)
{
	struct buf b;
	int fd = client();
	say(fd, request);
	hear(fd, &b);
	assert_string_equal((const char *)b.p, expected);
	buf_fini(&b);
	close(fd);
}

/* The name is the client's word, bounded and without what could deceive a reader; the uid is not.
 */
static void test_who_asks(void **state)
{
	static const struct {
		const char *by, *who;
	} cases[] = {
	    {"", "uid %lu"},
	    {",\"by\":7", "uid %lu"},
	    {",\"by\":\"alice\"", "alice (uid %lu)"},
	    {",\"by\":\"a (uid 7)\\n,b\"", "auid7b (uid %lu)"},
	    {",\"by\":\"0123456789012345678901234567890123456789\"",
		"01234567890123456789012345678901 (uid %lu)"},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		char request[200], who[100], answer[300];
		snprintf(request, sizeof request, "{\"verb\":\"who\"%s}\n", cases[i].by);
		const char *uid = strstr(cases[i].who, "%lu");
		snprintf(who, sizeof who, "%.*s%lu%s", (int)(uid - cases[i].who), cases[i].who,
		    (unsigned long)getuid(), uid + 3);
		snprintf(
		    answer, sizeof answer, "{\"who\":\"%s\"}\n{\"end\":true,\"status\":0}\n", who);
		ask(request, answer);
	}
}

static void test_answers(void **state)
{
	static const struct {
		const char *request, *answer;
	} cases[] = {
	    {"{\"verb\":\"echo\",\"args\":[\"a\"]}\n",
		"{\"arg\":\"a\",\"x\":\"-\"}\n{\"end\":true,\"status\":0}\n"},
	    {"{\"verb\":\"echo\",\"args\":[\"\xC3\xA4\"],\"options\":{\"x\":\"y\"}}\ntrailing",
		"{\"arg\":\"\xC3\xA4\",\"x\":\"y\"}\n{\"end\":true,\"status\":0}\n"},
	    {"{\"verb\":\"echo\"}\n",
		"{\"end\":true,\"status\":64,\"error\":\"usage: echo TEXT [--x=V] [--x-long]\"}\n"},
	    {"{\"verb\":\"echo\",\"args\":[\"a\",\"b\"]}\n",
		"{\"end\":true,\"status\":64,\"error\":\"usage: echo TEXT [--x=V] [--x-long]\"}\n"},
	    {"{\"verb\":\"fail\"}\n", "{\"end\":true,\"status\":69,\"error\":\"no fish here\"}\n"},
	    {"{\"verb\":\"echo\",\"args\":[\"a\"],\"options\":{\"x-long\":\"1\"}}\n",
		"{\"arg\":\"a\",\"x\":\"-\"}\n{\"end\":true,\"status\":0}\n"},
	    {"{\"verb\":\"echo\",\"args\":[\"a\"],\"options\":{\"x\":\"1\",\"x-lon\":\"1\"}}\n",
		"{\"end\":true,\"status\":64,\"error\":\"no option --x-lon here; usage: echo TEXT "
		"[--x=V] [--x-long]\"}\n"},
	    {"{\"verb\":\"fail\",\"options\":{\"x\":\"1\"}}\n",
		"{\"end\":true,\"status\":64,\"error\":\"no option --x here; usage: fail\"}\n"},
	    {"{\"verb\":\"help\",\"options\":{\"x\":\"1\"}}\n",
		"{\"end\":true,\"status\":64,\"error\":\"no option --x here; usage: help\"}\n"},
	    {"{\"verb\":\"nonsense\"}\n",
		"{\"end\":true,\"status\":64,\"error\":\"no such verb: nonsense (try help)\"}\n"},
	    {"{\"verb\":\"echo\",\"args\":[1]}\n",
		"{\"end\":true,\"status\":65,\"error\":\"the request is not {\\\"verb\\\": "
		"\\\"...\\\", "
		"\\\"args\\\": [\\\"...\\\"], \\\"options\\\": {}}\"}\n"},
	    {"[]\n", "{\"end\":true,\"status\":65,\"error\":\"the request is not {\\\"verb\\\": "
		     "\\\"...\\\", "
		     "\\\"args\\\": [\\\"...\\\"], \\\"options\\\": {}}\"}\n"},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		ask(cases[i].request, cases[i].answer);
}

static void test_not_json(void **state)
{
	struct buf b;
	(void)state;
	int fd = client();
	say(fd, "GET / HTTP/1.0\n");
	hear(fd, &b);
	assert_non_null(strstr((const char *)b.p, "\"status\":65"));
	buf_fini(&b);
	close(fd);
}

static void test_help(void **state)
{
	struct buf b;
	(void)state;
	int fd = client();
	say(fd, "{\"verb\":");
	turns(3);
	say(fd, "\"help\"}\n"); /* in two pieces */
	hear(fd, &b);
	assert_non_null(
	    strstr((const char *)b.p, "{\"verb\":\"echo\",\"usage\":\"echo TEXT [--x=V] "
				      "[--x-long]\",\"help\":\"Says it again.\"}\n"));
	buf_fini(&b);
	close(fd);
}

static void test_stream_waits_for_its_reader(void **state)
{
	struct buf b;
	size_t rows = 0;
	(void)state;
	int fd = client();
	say(fd, "{\"verb\":\"stream\"}\n");
	turns(200);
	/* The socket's buffer and OUT_LOW are full: far from all rows were made. */
	int made = it.produced;
	assert_in_range(made, 100, STREAM_ROWS / 2);
	turns(50);
	assert_int_equal(it.produced, made);
	hear(fd, &b);
	for (size_t i = 0; i < b.n; i++)
		rows += b.p[i] == '\n';
	assert_int_equal(rows, STREAM_ROWS + 1);
	assert_int_equal(it.dropped, 1);
	buf_fini(&b);
	close(fd);
}

static void test_peer_leaves(void **state)
{
	(void)state;
	int fd = client();
	say(fd, "{\"verb\":\"stream\"}\n");
	turns(20);
	close(fd);
	turns(20);
	assert_int_equal(it.dropped, 1);
	fd = client();
	say(fd, "{\"verb\":\"late\"}\n");
	turns(20);
	assert_non_null(it.late);
	close(fd);
	turns(20);
	assert_int_equal(it.gone, 1);
	assert_null(it.late);
	fd = client();
	say(fd, "{\"verb\"");
	turns(5);
	close(fd);
	turns(5);
	ask("{\"verb\":\"fail\"}\n", "{\"end\":true,\"status\":69,\"error\":\"no fish here\"}\n");
}

static void test_late_answer_after_half_close(void **state)
{
	struct buf b;
	(void)state;
	int fd = client();
	say(fd, "{\"verb\":\"late\"}\n");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	turns(20);
	assert_non_null(it.late);
	control_row(it.late, json_pack("{s:i}", "late", 1));
	control_end(it.late, 0, NULL);
	hear(fd, &b);
	assert_string_equal((const char *)b.p, "{\"late\":1}\n{\"end\":true,\"status\":0}\n");
	assert_int_equal(it.gone, 0);
	buf_fini(&b);
	close(fd);
}

static void test_rows_are_bounded(void **state)
{
	struct buf b;
	(void)state;
	int fd = client();
	say(fd, "{\"verb\":\"huge\"}\n");
	hear(fd, &b);
	assert_true(b.n < (20 << 20));
	const char *end = strstr((const char *)b.p, "{\"end\"");
	assert_non_null(end);
	assert_string_equal(
	    end, "{\"end\":true,\"status\":70,\"error\":\"the answer is too long\"}\n");
	assert_true(end == (const char *)b.p || end[-1] == '\n');
	buf_fini(&b);
	close(fd);
}

static void test_long_request_is_cut(void **state)
{
	static char text[4096];
	struct buf b;
	(void)state;
	int fd = client();
	memset(text, 'x', sizeof text - 1);
	for (int i = 0; i < 20; i++) {
		if (send(fd, text, sizeof text - 1, MSG_NOSIGNAL) < 0)
			break;
		turns(2);
	}
	hear(fd, &b);
	assert_string_equal((const char *)b.p, "");
	buf_fini(&b);
	close(fd);
}

static void test_clients_are_bounded(void **state)
{
	int fds[33];
	struct buf b;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = client();
	turns(20);
	hear(fds[32], &b);
	assert_string_equal((const char *)b.p,
	    "{\"end\":true,\"status\":75,\"error\":\"too many control connections\"}\n");
	buf_fini(&b);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		close(fds[i]);
	turns(40);
	ask("{\"verb\":\"fail\"}\n", "{\"end\":true,\"status\":69,\"error\":\"no fish here\"}\n");
}

/* An answer to a change leaves when what it says is on file: not by a release that began before. */
static void test_answer_waits_for_its_mark(void **state)
{
	char c;
	struct buf b;
	(void)state;
	control_hold(it.control);
	int fd = client();
	turns(5);
	control_mark(it.control);
	say(fd, "{\"verb\":\"fail\"}\n");
	turns(20);
	control_release(it.control); /* of a write that does not hold it */
	turns(20);
	assert_int_equal(-1, read(fd, &c, 1));
	assert_int_equal(EAGAIN, errno);
	control_mark(it.control);
	turns(20);
	assert_int_equal(-1, read(fd, &c, 1));
	control_release(it.control);
	hear(fd, &b);
	assert_string_equal(
	    (const char *)b.p, "{\"end\":true,\"status\":69,\"error\":\"no fish here\"}\n");
	buf_fini(&b);
	close(fd);
	fd = client(); /* one that leaves meanwhile is forgotten */
	say(fd, "{\"verb\":\"fail\"}\n");
	turns(20);
	close(fd);
	turns(20);
	control_mark(it.control);
	control_release(it.control);
	control_hold(NULL);
	control_mark(NULL);
	control_release(NULL);
}

static void test_free_with_open_replies(void **state)
{
	(void)state;
	int fd = client(), other = client();
	say(fd, "{\"verb\":\"stream\"}\n");
	say(other, "{\"verb\":\"late\"}\n");
	turns(20);
	control_free(&it.control);
	assert_int_equal(it.dropped, 1);
	assert_int_equal(it.gone, 1);
	close(fd);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_who_asks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_not_json, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_help, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stream_waits_for_its_reader, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_peer_leaves, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_late_answer_after_half_close, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_rows_are_bounded, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_long_request_is_cut, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_clients_are_bounded, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_answer_waits_for_its_mark, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_free_with_open_replies, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

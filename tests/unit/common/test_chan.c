/* SPDX-License-Identifier: ISC */
/*
 * Two ends of a socket pair in one loop: mostly a channel against raw bytes that this file writes,
 * as a peer that was taken over would. Every test counts the process' descriptors before and after.
 */
#include "common/chan.h"
#include <errno.h>
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

enum { KEPT_MAX = 64 };

struct end { /* what one end of a pair has seen; the ctx of its handlers */
	struct loop *loop;
	struct chan *chan;
	struct end *other;
	int hellos, closes;
	bool peer_gone; /* what on_close was told */
	struct msg_hello hello;
	char why[200];
	uint64_t pings;	    /* how many */
	uint64_t next;	    /* each PING must carry this number */
	uint64_t bytes;	    /* of CONFIG and SECRET */
	int kept[KEPT_MAX]; /* descriptors of FILE and LISTENER */
	size_t kept_count;
	enum { KEEP, DROP } fds;
	enum { STAY, CLOSE_AT, FREE_AT } at_ping; /* what on_ping does with its own channel … */
	uint64_t ping_at;			  /* … at this number */
	bool free_in_on_close;
};

/* --- handlers: this process is a worker here --- */

void on_ping(void *ctx, struct chan *from, struct msg_ping *m)
{
	struct end *end = ctx;
	assert_ptr_equal(from, end->chan);
	assert_int_equal(m->sequence, end->next);
	end->next++;
	end->pings++;
	if (m->sequence != end->ping_at)
		return;
	if (end->at_ping == CLOSE_AT)
		chan_close(end->chan, "as the test wants");
	else if (end->at_ping == FREE_AT)
		chan_free(&end->chan);
}

void on_config(void *ctx, struct chan *from, struct msg_config *m)
{
	struct end *end = ctx;
	(void)from;
	for (size_t i = 0; i < m->piece.n; i++)
		assert_int_equal((unsigned char)m->piece.p[i], (unsigned char)(m->config + i));
	end->bytes += m->piece.n;
}

void on_secret(void *ctx, struct chan *from, struct msg_secret *m)
{
	struct end *end = ctx;
	(void)from;
	end->bytes += m->pem.n;
}

static void take(struct end *end, int *fd)
{
	assert_true(*fd >= 0);
	if (end->fds == DROP)
		return;
	must(end->kept_count < KEPT_MAX);
	end->kept[end->kept_count++] = msg_take_fd(fd);
}

void on_listener(void *ctx, struct chan *from, struct msg_listener *m)
{
	(void)from;
	take(ctx, &m->fd);
}

void on_file(void *ctx, struct chan *from, struct msg_file *m)
{
	(void)from;
	take(ctx, &m->fd);
}

#define UNUSED_HANDLER(name)                                                                       \
	void on_##name(void *ctx, struct chan *from, struct msg_##name *m)                         \
	{                                                                                          \
		(void)ctx, (void)from, (void)m;                                                    \
		fail_msg("nobody sent " #name);                                                    \
	}
UNUSED_HANDLER(config_switch)
UNUSED_HANDLER(peer)
UNUSED_HANDLER(control)
UNUSED_HANDLER(poison)
UNUSED_HANDLER(start)
UNUSED_HANDLER(stop)

/* --- the ends --- */

static void on_close(void *ctx, struct chan *chan, const char *why)
{
	struct end *end = ctx;
	assert_ptr_equal(chan, end->chan);
	end->closes++;
	end->peer_gone = chan_peer_gone(chan);
	snprintf(end->why, sizeof(end->why), "%s", why);
	if (end->free_in_on_close)
		chan_free(&end->chan);
	end->chan = NULL;
}

static void note_hello(void *ctx, struct chan *chan, const struct msg_hello *hello)
{
	struct end *end = ctx;
	assert_ptr_equal(chan, end->chan);
	end->hellos++;
	end->hello = *hello;
}

static void open_end(struct end *end, struct loop *loop, int fd)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_worker, NULL};
	struct chan_spec spec = {.peer_roles = ROLE_master,
	    .dispatch = dispatch,
	    .on_close = on_close,
	    .on_hello = note_hello,
	    .ctx = end};
	*end = (struct end){.loop = loop, .ping_at = UINT64_MAX};
	end->chan = chan_new(loop, fd, &spec);
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

struct world {
	struct loop *loop;
	int fds_before;
	struct end a, b; /* both channels, or a against `raw` */
	int raw;
};

static void do_nothing(void *arg)
{
	(void)arg;
}

/* Turns until nothing is under way; a timer bounds the waiting. */
static void settle(struct world *w)
{
	struct loop_timer bound = {0};
	for (int i = 0; i < 40; i++) {
		loop_timer_after(w->loop, &bound, 1, do_nothing, NULL);
		loop_turn(w->loop);
	}
	loop_timer_cancel(w->loop, &bound);
}

static void begin(struct world *w)
{
	*w = (struct world){.raw = -1};
	w->fds_before = count_fds();
	w->loop = loop_new();
}

static void begin_pair(struct world *w)
{
	int fd[2];
	begin(w);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	open_end(&w->a, w->loop, fd[0]);
	open_end(&w->b, w->loop, fd[1]);
	w->a.other = &w->b;
	w->b.other = &w->a;
}

static void begin_raw(struct world *w)
{
	int fd[2];
	begin(w);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	open_end(&w->a, w->loop, fd[0]);
	w->raw = fd[1];
}

static void close_kept(struct end *end)
{
	while (end->kept_count > 0)
		close(end->kept[--end->kept_count]);
}

static void end_world(struct world *w)
{
	chan_free(&w->a.chan);
	chan_free(&w->b.chan);
	close_kept(&w->a);
	close_kept(&w->b);
	if (w->raw >= 0)
		close(w->raw);
	loop_free(&w->loop);
	assert_int_equal(count_fds(), w->fds_before);
}

static void send_pings(struct chan *chan, uint64_t from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		chan_send_ping(chan, &(struct msg_ping){.sequence = from + i});
}

static int numbered_file(int number)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	must(fd >= 0 && ftruncate(fd, number) == 0);
	return fd;
}

static int number_of(int fd)
{
	struct stat st;
	must(fstat(fd, &st) == 0);
	return (int)st.st_size;
}

/* --- between two channels --- */

static void says_who_it_is(void **state)
{
	struct world w;
	(void)state;
	chan_identify(3, 7, 42);
	begin_pair(&w);
	settle(&w);
	assert_int_equal(w.a.hellos, 1);
	assert_int_equal(w.b.hellos, 1);
	assert_int_equal(w.b.hello.process, 3);
	assert_int_equal(w.b.hello.instance, 7);
	assert_int_equal(w.b.hello.generation, 42);
	end_world(&w);
}

static void keeps_the_order_of_messages_of_all_sizes(void **state)
{
	struct world w;
	uint64_t sent = 0;
	unsigned char piece[65536];
	(void)state;
	begin_pair(&w);
	for (uint32_t i = 0; i < 200; i++) {
		size_t n = i * 331 % 65536;
		for (size_t k = 0; k < n; k++)
			piece[k] = (unsigned char)(i + k);
		send_pings(w.a.chan, i, 1);
		chan_send_config(
		    w.a.chan, &(struct msg_config){.config = i, .piece = {(char *)piece, n}});
		sent += n;
	}
	assert_true(chan_backlog(w.a.chan) > sent);
	for (int i = 0; i < 50 && w.b.pings < 200; i++)
		settle(&w);
	assert_int_equal(w.b.pings, 200);
	assert_int_equal(w.b.bytes, sent);
	assert_int_equal(chan_backlog(w.a.chan), 0);
	end_world(&w);
}

static void takes_a_frame_larger_than_its_buffer(void **state)
{
	struct world w;
	char *pem = xcalloc(1, 1048576);
	(void)state;
	begin_pair(&w);
	for (uint64_t i = 0; i < 3; i++) {
		chan_send_secret(w.a.chan, &(struct msg_secret){.pem = {pem, 1048576}});
		send_pings(w.a.chan, i, 1);
	}
	for (int i = 0; i < 10; i++)
		settle(&w);
	assert_int_equal(w.b.bytes, 3 * 1048576);
	assert_int_equal(w.b.pings, 3);
	free(pem);
	end_world(&w);
}

static void send_numbered_files(struct chan *chan, int n)
{
	for (int i = 0; i < n; i++) {
		int fd = numbered_file(i);
		send_pings(chan, (uint64_t)i, 1);
		chan_send_file(chan, &(struct msg_file){.fd = fd});
		close(fd); /* the channel has its own */
	}
}

static void brings_each_descriptor_to_its_message(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	send_numbered_files(w.a.chan, 50);
	for (int i = 0; i < 10; i++)
		settle(&w);
	assert_int_equal(w.b.pings, 50);
	assert_int_equal(w.b.kept_count, 50);
	for (int i = 0; i < 50; i++)
		assert_int_equal(number_of(w.b.kept[i]), i);
	end_world(&w);
}

static void unsent_descriptors_go_with_the_channel(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	send_numbered_files(w.a.chan, 50);
	end_world(&w); /* counts */
	begin_raw(&w);
	send_numbered_files(w.a.chan, 50);
	close(w.raw);
	w.raw = -1;
	settle(&w);
	assert_int_equal(w.a.closes, 1);
	end_world(&w);
}

static void closes_descriptors_that_the_handler_leaves(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	w.b.fds = DROP;
	int fd = numbered_file(1);
	for (int i = 0; i < 20; i++)
		chan_send_listener(w.a.chan, &(struct msg_listener){.fd = fd});
	close(fd);
	for (int i = 0; i < 5; i++)
		settle(&w);
	assert_int_equal(w.b.closes, 0);
	end_world(&w);
}

static void holds_back_what_is_not_released(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	send_pings(w.a.chan, 0, 2); /* before the hold: may go */
	chan_hold(w.a.chan);
	send_pings(w.a.chan, 2, 3);
	settle(&w);
	assert_int_equal(w.b.pings, 2);
	chan_release(w.a.chan); /* nothing was marked yet */
	settle(&w);
	assert_int_equal(w.b.pings, 2);
	chan_mark(w.a.chan);
	send_pings(w.a.chan, 5, 4); /* behind the mark */
	chan_release(w.a.chan);
	settle(&w);
	assert_int_equal(w.b.pings, 5);
	assert_true(chan_backlog(w.a.chan) > 0);
	chan_hold(w.a.chan); /* again: changes nothing */
	chan_mark(w.a.chan);
	chan_release(w.a.chan);
	settle(&w);
	assert_int_equal(w.b.pings, 9);
	send_pings(w.a.chan, 9, 1); /* the hold goes on */
	settle(&w);
	assert_int_equal(w.b.pings, 9);
	assert_true(chan_backlog(w.a.chan) > 0);
	end_world(&w);
}

static void holds_descriptors_with_their_messages(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	chan_hold(w.a.chan);
	for (int i = 0; i < 4; i++) {
		int fd = numbered_file(i);
		chan_send_file(w.a.chan, &(struct msg_file){.fd = fd});
		close(fd);
		if (i == 1)
			chan_mark(w.a.chan);
	}
	chan_release(w.a.chan);
	settle(&w);
	assert_int_equal(w.b.kept_count, 2);
	chan_mark(w.a.chan);
	chan_release(w.a.chan);
	settle(&w);
	assert_int_equal(w.b.kept_count, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(number_of(w.b.kept[i]), i);
	end_world(&w);
}

static void send_one_ping(void *arg)
{
	struct end *end = arg;
	if (end->next < 3)
		send_pings(end->chan, end->next++, 1);
}

/* What a hook sends leaves in the same turn: three turns bring three pings, none waits for a
 * fourth. */
static void what_hooks_send_leaves_at_once(void **state)
{
	struct world w;
	(void)state;
	begin_raw(&w);
	loop_on_turn_end(w.loop, send_one_ping, &w.a);
	size_t before = 0;
	for (int i = 0; i < 3; i++) {
		unsigned char bytes[256];
		loop_again(w.loop);
		loop_turn(w.loop);
		ssize_t n = recv(w.raw, bytes, sizeof(bytes), MSG_DONTWAIT);
		assert_true(n > 0);
		if (i > 0)
			assert_int_equal(n, 4 + 2 + 8);
		before += (size_t)n;
	}
	assert_true(before > 0);
	end_world(&w);
}

static void a_stalled_peer_gets_all_in_the_end(void **state)
{
	struct world w;
	char *pem = xcalloc(1, 1048576);
	uint64_t got = 0;
	(void)state;
	begin_raw(&w);
	for (int i = 0; i < 5; i++)
		chan_send_secret(w.a.chan, &(struct msg_secret){.pem = {pem, 1048576}});
	settle(&w);
	size_t stalled = chan_backlog(w.a.chan);
	assert_true(stalled > 4 * 1048576);
	for (int i = 0; i < 10000 && got < 5 * 1048576; i++) {
		ssize_t n = recv(w.raw, pem, 1048576, MSG_DONTWAIT);
		got += n > 0 ? (uint64_t)n : 0;
		loop_again(w.loop);
		loop_turn(w.loop);
	}
	assert_int_equal(chan_backlog(w.a.chan), 0);
	assert_true(got >= 5 * 1048576);
	assert_int_equal(w.a.closes, 0);
	free(pem);
	end_world(&w);
}

/* Our own table of descriptors is full: the channel closes, the process lives, nothing leaks. */
static void no_descriptor_left_ends_only_the_channel(void **state)
{
	struct world w;
	struct rlimit before, tight;
	(void)state;
	begin_pair(&w);
	settle(&w);
	must(getrlimit(RLIMIT_NOFILE, &before) == 0);
	tight = before;
	tight.rlim_cur = 3; /* every number below is taken */
	must(setrlimit(RLIMIT_NOFILE, &tight) == 0);
	chan_send_file(w.a.chan, &(struct msg_file){.fd = chan_fd(w.a.chan)});
	assert_int_equal(w.a.closes, 0);
	settle(&w);
	must(setrlimit(RLIMIT_NOFILE, &before) == 0);
	assert_int_equal(w.a.closes, 1);
	assert_string_equal(w.a.why, "no descriptor left to send one");
	end_world(&w);
}

/* The same at the receiving end: the kernel drops the descriptor and says so. */
static void no_room_for_a_descriptor_ends_only_the_channel(void **state)
{
	struct world w;
	struct rlimit before, tight;
	(void)state;
	if (getenv("POSTERN_VALGRIND") != NULL) /* it keeps descriptors of its own beyond the limit */
		skip();
	begin_pair(&w);
	settle(&w);
	chan_send_file(w.a.chan, &(struct msg_file){.fd = chan_fd(w.a.chan)});
	must(getrlimit(RLIMIT_NOFILE, &before) == 0);
	tight = before;
	tight.rlim_cur = 3;
	must(setrlimit(RLIMIT_NOFILE, &tight) == 0);
	settle(&w);
	must(setrlimit(RLIMIT_NOFILE, &before) == 0);
	assert_int_equal(w.b.closes, 1);
	assert_int_equal(w.b.kept_count, 0);
	end_world(&w);
}

/* --- ends --- */

static void a_handler_may_close_or_free_its_channel(void **state)
{
	(void)state;
	for (int how = CLOSE_AT; how <= FREE_AT; how++) {
		struct world w;
		begin_pair(&w);
		w.b.at_ping = how == CLOSE_AT ? CLOSE_AT : FREE_AT;
		w.b.ping_at = 5;
		send_pings(w.a.chan, 0, 100);
		settle(&w);
		assert_int_equal(w.b.pings, 6); /* and no frame after that */
		assert_int_equal(w.b.closes, how == CLOSE_AT ? 1 : 0);
		assert_null(w.b.chan);
		assert_int_equal(w.a.closes, 1); /* the other end sees it */
		end_world(&w);
	}
}

static void on_close_may_free_it(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	w.a.free_in_on_close = true;
	settle(&w);
	chan_close(w.b.chan, "test");
	settle(&w);
	assert_int_equal(w.a.closes, 1);
	assert_string_equal(w.a.why, "end of file");
	assert_true(w.a.peer_gone);
	end_world(&w);
}

static void closing_flushes_what_was_sent(void **state)
{
	struct world w;
	(void)state;
	begin_pair(&w);
	send_pings(w.a.chan, 0, 3);
	chan_close(w.a.chan, "done");
	chan_close(w.a.chan, "twice");
	send_pings(w.a.chan, 3, 3);	 /* too late */
	assert_int_equal(w.a.closes, 0); /* never from inside the call */
	settle(&w);
	assert_int_equal(w.a.closes, 1);
	assert_string_equal(w.a.why, "done");
	assert_int_equal(w.b.pings, 3);
	assert_int_equal(w.b.closes, 1);
	end_world(&w);
}

static void hello_bytes(struct buf *b)
{
	msg_encode_hello(b, &(struct msg_hello){.fingerprint = msg_fingerprint()});
}

static void write_raw(int to, const void *p, size_t n, const int *fds, size_t fd_count)
{
	union {
		struct cmsghdr header;
		unsigned char room[CMSG_SPACE(253 * sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)p, n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd_count > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
	}
	assert_int_equal(sendmsg(to, &msg, MSG_NOSIGNAL), n);
}

/* The peer wrote and died, and our own write to it fails first: its last words still count. */
static void last_words_are_heard_after_a_failed_write(void **state)
{
	struct world w;
	struct buf b;
	(void)state;
	begin_raw(&w);
	settle(&w);
	buf_init(&b, 4096);
	hello_bytes(&b);
	for (uint64_t i = 0; i < 20; i++)
		msg_encode_ping(&b, &(struct msg_ping){.sequence = i});
	write_raw(w.raw, b.p, b.n, NULL, 0);
	close(w.raw);
	w.raw = -1;
	send_pings(w.a.chan, 0, 1);
	settle(&w);
	assert_int_equal(w.a.pings, 20);
	assert_int_equal(w.a.closes, 1);
	buf_fini(&b);
	end_world(&w);
}

/* A peer that only stops reading ends too: nothing may be sent into nowhere for ever. */
static void a_peer_that_stops_reading_is_closed(void **state)
{
	struct world w;
	(void)state;
	begin_raw(&w);
	settle(&w);
	must(shutdown(w.raw, SHUT_RD) == 0);
	send_pings(w.a.chan, 0, 1);
	settle(&w);
	assert_int_equal(w.a.closes, 1);
	end_world(&w);
}

static void takes_bytes_one_at_a_time(void **state)
{
	struct world w;
	struct buf b;
	int fd = numbered_file(9);
	(void)state;
	begin_raw(&w);
	buf_init(&b, 4096);
	hello_bytes(&b);
	for (uint64_t i = 0; i < 3; i++)
		msg_encode_ping(&b, &(struct msg_ping){.sequence = i});
	size_t at = b.n;
	msg_encode_file(&b, &(struct msg_file){.index = 1});
	for (size_t i = 0; i < b.n; i++) {
		write_raw(w.raw, b.p + i, 1, &fd, i == at ? 1 : 0);
		loop_turn(w.loop);
	}
	assert_int_equal(w.a.pings, 3);
	assert_int_equal(w.a.kept_count, 1);
	assert_int_equal(number_of(w.a.kept[0]), 9);
	assert_int_equal(w.a.closes, 0);
	buf_fini(&b);
	end_world(&w);
	close(fd);
}

/* --- peers that lie --- */

static void frame(struct buf *b, unsigned type, const char *body, size_t n)
{
	buf_u32(b, (uint32_t)(2 + n));
	buf_u16(b, (uint16_t)type);
	buf_put(b, body, n);
}

static void put_nothing(struct buf *b)
{
	(void)b;
}

static void put_length_0(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, 0);
}

static void put_length_1(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, 1);
	buf_u8(b, 1);
}

static void put_length_max(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, UINT32_MAX);
}

static void put_length_above(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, MSG_FRAME_MAX + 1);
}

static void put_cut_length(struct buf *b)
{
	hello_bytes(b);
	buf_u16(b, 0);
}

static void put_cut_frame(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, 100);
	buf_u16(b, MSG_PING);
}

static void put_no_hello(struct buf *b)
{
	msg_encode_ping(b, &(struct msg_ping){0});
}

static void put_other_build(struct buf *b)
{
	msg_encode_hello(b, &(struct msg_hello){.fingerprint = msg_fingerprint() + 1});
}

static void put_bad_hello(struct buf *b)
{
	frame(b, MSG_HELLO, "abc", 3);
}

static void put_two_hellos(struct buf *b)
{
	hello_bytes(b);
	hello_bytes(b);
}

static void put_type_0(struct buf *b)
{
	hello_bytes(b);
	frame(b, 0, "", 0);
}

static void put_type_65535(struct buf *b)
{
	hello_bytes(b);
	frame(b, 65535, "", 0);
}

static void put_role_of_others(struct buf *b)
{
	hello_bytes(b);
	msg_encode_credit(b, &(struct msg_credit){0}); /* qmgr's, to a writer */
}

static void put_not_to_us(struct buf *b)
{
	hello_bytes(b);
	msg_encode_ready(b, &(struct msg_ready){0}); /* a worker's, to master */
}

static void put_trailing_byte(struct buf *b)
{
	hello_bytes(b);
	frame(b, MSG_PING, "\0\0\0\0\0\0\0\0x", 9);
}

static void put_short_body(struct buf *b)
{
	hello_bytes(b);
	frame(b, MSG_PING, "\0\0\0\0\0\0\0", 7);
}

static void put_garbage(struct buf *b)
{
	buf_cstr(b, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
}

static void put_ping(struct buf *b)
{
	hello_bytes(b);
	msg_encode_ping(b, &(struct msg_ping){0});
}

static void put_file(struct buf *b)
{
	hello_bytes(b);
	msg_encode_file(b, &(struct msg_file){0});
}

static void put_bad_file(struct buf *b)
{
	hello_bytes(b);
	frame(b, MSG_FILE, "x", 1);
}

static void put_begun_file(struct buf *b)
{
	hello_bytes(b);
	buf_u32(b, 5);
	buf_u16(b, MSG_FILE);
}

static const struct lie {
	const char *name;
	void (*put)(struct buf *b);
	size_t fds;
	const char *why; /* begins so */
	bool more_roles; /* the peer may send what workers send */
} lies[] = {
    {"end of file at once", put_nothing, 0, "end of file", false},
    {"length 0", put_length_0, 0, "impossible frame length", false},
    {"length 1", put_length_1, 0, "impossible frame length", false},
    {"length 2^32-1", put_length_max, 0, "impossible frame length", false},
    {"length above the bound", put_length_above, 0, "impossible frame length", false},
    {"length cut off", put_cut_length, 0, "end of file", false},
    {"frame cut off", put_cut_frame, 0, "end of file", false},
    {"no hello", put_no_hello, 0, "the peer did not say hello", false},
    {"another build", put_other_build, 0, "the peer is of another build", false},
    {"malformed hello", put_bad_hello, 0, "malformed hello", false},
    {"two hellos", put_two_hellos, 0, "a second hello", false},
    {"type 0", put_type_0, 0, "the peer may not send this: unknown (0)", false},
    {"type 65535", put_type_65535, 0, "the peer may not send this: unknown (65535)", false},
    {"a row of another role", put_role_of_others, 0, "the peer may not send this: credit", false},
    {"a row to another role", put_not_to_us, 0, "message not for us: ready", true},
    {"trailing byte", put_trailing_byte, 0, "malformed message: ping", false},
    {"short body", put_short_body, 0, "malformed message: ping", false},
    {"another protocol", put_garbage, 0, "impossible frame length", false},
    {"descriptor without message", put_ping, 1, "a descriptor that no message has", false},
    {"two descriptors without message", put_ping, 2, "a descriptor that no message has", false},
    {"three descriptors", put_file, 3, "more descriptors", false},
    {"253 descriptors", put_file, 253, "more descriptors", false},
    {"two descriptors for one message", put_file, 2, "a descriptor that no message has", false},
    {"no descriptor", put_file, 0, "no descriptor came with: file", false},
    {"malformed with descriptor", put_bad_file, 1, "malformed message: file", false},
    {"descriptor of a message cut off", put_begun_file, 1, "end of file", false},
    {"two descriptors of a message cut off", put_begun_file, 2, "a descriptor that", false},
};

static void tell_lie(const struct lie *lie)
{
	struct world w;
	struct buf b;
	int fds[253];
	begin(&w);
	loop_free(&w.loop);
	int fd = numbered_file(1);
	for (size_t i = 0; i < COUNT_OF(fds); i++)
		fds[i] = fd;
	begin_raw(&w);
	if (lie->more_roles) {
		static msg_dispatch_fn *const dispatch[] = {msg_to_worker, NULL};
		struct chan_spec spec = {.peer_roles = ROLE_master | ROLE_worker,
		    .dispatch = dispatch,
		    .on_close = on_close,
		    .ctx = &w.a};
		int own = dup(chan_fd(w.a.chan));
		chan_free(&w.a.chan);
		w.a.chan = chan_new(w.loop, own, &spec);
	}
	buf_init(&b, 65536);
	lie->put(&b);
	if (b.n > 0)
		write_raw(w.raw, b.p, b.n, fds, lie->fds);
	close(w.raw);
	w.raw = -1;
	settle(&w);
	if (w.a.closes != 1 || strncmp(w.a.why, lie->why, strlen(lie->why)) != 0)
		fail_msg("%s: closed %d times: %s", lie->name, w.a.closes, w.a.why);
	/* a lie is told from a death: the worker that hears one begins anew */
	assert_int_equal(w.a.peer_gone, strcmp(w.a.why, "end of file") == 0);
	assert_int_equal(w.a.kept_count, lie->put == put_file && lie->fds > 0 && lie->fds < 3);
	buf_fini(&b);
	end_world(&w);
	close(fd);
}

static void a_lying_peer_loses_its_channel_and_no_more(void **state)
{
	int before = count_fds();
	(void)state;
	for (size_t i = 0; i < COUNT_OF(lies); i++)
		tell_lie(&lies[i]);
	assert_int_equal(count_fds(), before);
}

/* One frame with a descriptor each, one write each: the honest way, and the buffer never holds two.
 */
static void many_descriptors_in_many_writes(void **state)
{
	struct world w;
	struct buf b;
	(void)state;
	begin_raw(&w);
	buf_init(&b, 4096);
	hello_bytes(&b);
	write_raw(w.raw, b.p, b.n, NULL, 0);
	for (int i = 0; i < 60; i++) {
		int fd = numbered_file(i);
		buf_reset(&b);
		msg_encode_file(&b, &(struct msg_file){0});
		write_raw(w.raw, b.p, b.n, &fd, 1);
		close(fd);
	}
	for (int i = 0; i < 4; i++)
		settle(&w);
	assert_int_equal(w.a.closes, 0);
	assert_int_equal(w.a.kept_count, 60);
	for (int i = 0; i < 60; i++)
		assert_int_equal(number_of(w.a.kept[i]), i);
	buf_fini(&b);
	end_world(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(says_who_it_is),
	    cmocka_unit_test(keeps_the_order_of_messages_of_all_sizes),
	    cmocka_unit_test(takes_a_frame_larger_than_its_buffer),
	    cmocka_unit_test(brings_each_descriptor_to_its_message),
	    cmocka_unit_test(unsent_descriptors_go_with_the_channel),
	    cmocka_unit_test(closes_descriptors_that_the_handler_leaves),
	    cmocka_unit_test(holds_back_what_is_not_released),
	    cmocka_unit_test(holds_descriptors_with_their_messages),
	    cmocka_unit_test(what_hooks_send_leaves_at_once),
	    cmocka_unit_test(a_stalled_peer_gets_all_in_the_end),
	    cmocka_unit_test(no_descriptor_left_ends_only_the_channel),
	    cmocka_unit_test(no_room_for_a_descriptor_ends_only_the_channel),
	    cmocka_unit_test(a_handler_may_close_or_free_its_channel),
	    cmocka_unit_test(on_close_may_free_it),
	    cmocka_unit_test(closing_flushes_what_was_sent),
	    cmocka_unit_test(last_words_are_heard_after_a_failed_write),
	    cmocka_unit_test(a_peer_that_stops_reading_is_closed),
	    cmocka_unit_test(takes_bytes_one_at_a_time),
	    cmocka_unit_test(a_lying_peer_loses_its_channel_and_no_more),
	    cmocka_unit_test(many_descriptors_in_many_writes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

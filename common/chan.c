/* SPDX-License-Identifier: ISC */
/*
 * Frames over a UNIX stream socket. This file alone knows how frames lie in the stream, how
 * descriptors find their frames, and when a peer is no longer to be listened to.
 *
 * Input. One read a turn into a buffer of 256 KiB, frames handled in place; only the incomplete
 * frame at the end moves, to the front, before the next read. The buffer grows for a frame that is
 * larger, up to MSG_FRAME_MAX, and shrinks again.
 *
 * Output. Sending appends to one buffer; a deferred task of the loop writes it at the end of the
 * turn, after all hooks, in one sendmsg(). Positions are counted from the channel's beginning, so
 * that the place of a mark or of a descriptor does not move with the buffer.
 *
 * Descriptors. The sender begins a new sendmsg() at every frame that has one and attaches it to
 * that frame's first byte. The kernel never merges reads over such a boundary, hence the receiver
 * holds at most two descriptors, the one of the frame just completed and the one of the frame begun
 * behind it. Any other number is a peer that lies, and the channel closes with all of them.
 *
 * Ends. chan_close() only marks; the task does the rest, so that on_close never runs inside a send
 * or a handler. While a callback of this channel runs (`busy`), chan_free() leaves the memory to
 * the function that called it. A failed write is not yet the end: the peer's last words may still
 * wait to be read (a dead smtp-out's RESULTs); the channel closes when reading finds nothing more.
 *
 * The socket's own O_NONBLOCK does not matter, so that no worker needs F_SETFL.
 */
#include "common/chan.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HEADER = 4,	       /* u32: length of type and fields */
	TYPE = 2,	       /* u16 */
	IN_FIRST = 256 * 1024, /* what one read takes: a turn's worth of ACCEPTEDs */
	IN_MAX = HEADER + MSG_FRAME_MAX,
	OUT_KEEP = 1024 * 1024, /* an emptied buffer above this goes back to the heap */
	FDS_IN_MAX = 2,		/* see above: stops a peer from filling our table of descriptors */
	RETRY_MS = 20,		/* after an error that EPOLLOUT does not tell the end of */
	WHY_MAX = 160,
};

struct fd_out {
	uint64_t at; /* where its frame begins */
	int fd;
};

struct chan {
	struct loop *loop;
	struct loop_fd io;
	struct loop_task task;
	struct loop_timer retry;
	struct chan_spec spec;
	void *data;
	int fd;

	unsigned char *in;
	size_t in_cap, in_begin, in_end;
	int fds_in[FDS_IN_MAX];
	size_t fds_in_count;

	struct buf out;
	uint64_t out_base;  /* position of out.p[0] */
	uint64_t out_sent;  /* position up to which the kernel took it */
	uint64_t out_limit; /* held: nothing behind this position is written */
	uint64_t out_mark;
	struct fd_out *fds_out; /* in order; from fds_out_first on they are not yet sent */
	size_t fds_out_first, fds_out_count, fds_out_cap;

	bool held, hello_came, broken; /* broken: writing failed */
	bool closing, freed, peer_gone;
	unsigned busy; /* callbacks of ours on the stack */
	char why[WHY_MAX];
};

static struct {
	uint8_t process;
	uint16_t instance;
	uint32_t generation;
} self;

void chan_identify(uint8_t process, uint16_t instance, uint32_t generation)
{
	self.process = process;
	self.instance = instance;
	self.generation = generation;
}

static bool is_ending(const struct chan *chan)
{
	return chan->closing || chan->freed;
}

static bool is_open(const struct chan *chan)
{
	return !is_ending(chan) && !chan->broken;
}

/* --- the end --- */

static void close_descriptors(struct chan *chan)
{
	for (size_t i = 0; i < chan->fds_in_count; i++)
		close(chan->fds_in[i]);
	for (size_t i = chan->fds_out_first; i < chan->fds_out_count; i++)
		close(chan->fds_out[i].fd);
	chan->fds_in_count = chan->fds_out_first = chan->fds_out_count = 0;
}

static void destroy(struct chan *chan)
{
	buf_fini(&chan->out);
	free(chan->fds_out);
	free(chan->in);
	free(chan);
}

void chan_free(struct chan **chan)
{
	struct chan *c = *chan;
	if (c == NULL)
		return;
	*chan = NULL;
	loop_del(&c->io);
	loop_defer_cancel(&c->task);
	loop_timer_cancel(c->loop, &c->retry);
	close_descriptors(c);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->freed = true;
	if (c->busy == 0)
		destroy(c);
}

/* Leaves a callback; false when the channel has gone in it. */
static bool leave(struct chan *chan)
{
	chan->busy--;
	if (!chan->freed)
		return true;
	if (chan->busy == 0)
		destroy(chan);
	return false;
}

static void flush(struct chan *chan);

static void finish(struct chan *chan)
{
	chan->busy++;
	if (chan->spec.on_close != NULL)
		chan->spec.on_close(chan->spec.ctx, chan, chan->why);
	if (leave(chan))
		chan_free(&chan);
}

static void on_task(void *arg)
{
	struct chan *chan = arg;
	flush(chan);
	if (chan->closing)
		finish(chan);
}

void chan_close(struct chan *chan, const char *why)
{
	if (is_ending(chan))
		return;
	chan->closing = true;
	snprintf(chan->why, sizeof(chan->why), "%s", why);
	loop_del(&chan->io);
	loop_defer(chan->loop, &chan->task, on_task, chan);
}

/* --- sending --- */

static uint64_t out_end(const struct chan *chan)
{
	return chan->out_base + chan->out.n;
}

/* One sendmsg() of what lies before `end`, with one descriptor or none. What the kernel took, or
 * -errno. */
static ssize_t write_once(struct chan *chan, uint64_t end, int fd)
{
	union {
		struct cmsghdr header;
		unsigned char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {
	    chan->out.p + (chan->out_sent - chan->out_base), (size_t)(end - chan->out_sent)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.room);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	ssize_t n = sendmsg(chan->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

/* Writes up to the next frame that has a descriptor, or from that frame to the one after. */
static ssize_t write_stretch(struct chan *chan, uint64_t limit)
{
	size_t i = chan->fds_out_first;
	bool attach = i < chan->fds_out_count && chan->fds_out[i].at == chan->out_sent;
	size_t next = attach ? i + 1 : i;
	uint64_t end = limit;
	if (next < chan->fds_out_count && chan->fds_out[next].at < limit)
		end = chan->fds_out[next].at;
	ssize_t n = write_once(chan, end, attach ? chan->fds_out[i].fd : -1);
	if (n > 0 && attach) {
		close(chan->fds_out[i].fd);
		chan->fds_out_first++;
	}
	return n;
}

static void forget_sent(struct chan *chan)
{
	if (chan->fds_out_first == chan->fds_out_count)
		chan->fds_out_first = chan->fds_out_count = 0;
	size_t sent = (size_t)(chan->out_sent - chan->out_base);
	if (sent == chan->out.n) {
		buf_reset(&chan->out);
		if (chan->out.cap > OUT_KEEP)
			buf_fini(&chan->out);
	} else if (sent > chan->out.n / 2) {
		buf_consume(
		    &chan->out, sent); /* moves less than was sent: a byte moves once on average */
	} else {
		return;
	}
	chan->out_base = chan->out_sent;
}

static void break_output(struct chan *chan)
{
	chan->broken = true;
	chan->out_base = chan->out_sent = chan->out_limit = chan->out_mark = out_end(chan);
	buf_fini(&chan->out);
	for (size_t i = chan->fds_out_first; i < chan->fds_out_count; i++)
		close(chan->fds_out[i].fd);
	chan->fds_out_first = chan->fds_out_count = 0;
}

static void want_flush(struct chan *chan);

static void on_retry(void *arg)
{
	want_flush(arg);
}

/* What a failed write means; true when the socket itself will say when to go on. */
static bool waits_for_peer(struct chan *chan, ssize_t error)
{
	switch (error) {
	case -EAGAIN:
	case -EINTR:
		return true;
	case -ETOOMANYREFS: /* descriptors in flight to processes that do not read */
	case -ENOBUFS:
	case -ENOMEM:
		loop_timer_after(chan->loop, &chan->retry, RETRY_MS, on_retry, chan);
		return false;
	default:
		break_output(chan);
		return true;
	}
}

static void flush(struct chan *chan)
{
	uint64_t limit = chan->held ? chan->out_limit : out_end(chan);
	bool waits = true;
	while (!chan->broken && chan->out_sent < limit) {
		ssize_t n = write_stretch(chan, limit);
		if (n < 0) {
			waits = waits_for_peer(chan, n);
			break;
		}
		chan->out_sent += (uint64_t)n;
	}
	/* When writing failed, EPOLLOUT brings on_io() to read what is left, and to close. */
	bool want_out = chan->broken || (waits && chan->out_sent < limit);
	forget_sent(chan);
	loop_mod(&chan->io, EPOLLIN | (want_out ? EPOLLOUT : 0U));
}

static void want_flush(struct chan *chan)
{
	loop_defer(chan->loop, &chan->task, on_task, chan);
}

/* Takes fd, a duplicate of ours. */
static void queue_fd(struct chan *chan, uint64_t at, int fd)
{
	if (chan->fds_out_count == chan->fds_out_cap) {
		chan->fds_out_cap = chan->fds_out_cap ? chan->fds_out_cap * 2 : 16;
		chan->fds_out = xrealloc(chan->fds_out, chan->fds_out_cap * sizeof(*chan->fds_out));
	}
	chan->fds_out[chan->fds_out_count++] = (struct fd_out){at, fd};
}

/* Before a frame with a descriptor: false when it cannot be sent. */
static bool attach_fd(struct chan *chan, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0) {
		must(errno != EBADF);
		chan_close(chan, "no descriptor left to send one");
		return false;
	}
	queue_fd(chan, out_end(chan), copy);
	return true;
}

#define MSG(ID, name, from, to)                                                                    \
	void chan_send_##name(struct chan *chan, const struct msg_##name *m)                       \
	{                                                                                          \
		if (!is_open(chan))                                                                \
			return;
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max)
#define F_BYTES(f, max)
#define F_FD(f)                                                                                    \
	if (!attach_fd(chan, m->f))                                                                \
		return;
#define END(name)                                                                                  \
	msg_encode_##name(&chan->out, m);                                                          \
	want_flush(chan);                                                                          \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

size_t chan_backlog(const struct chan *chan)
{
	return (size_t)(out_end(chan) - chan->out_sent);
}

void chan_hold(struct chan *chan)
{
	if (chan->held)
		return;
	chan->held = true;
	chan->out_limit = chan->out_mark = out_end(chan);
}

void chan_mark(struct chan *chan)
{
	chan->out_mark = out_end(chan);
}

void chan_release(struct chan *chan)
{
	if (!chan->held || chan->out_limit == chan->out_mark)
		return;
	chan->out_limit = chan->out_mark;
	if (is_open(chan))
		want_flush(chan);
}

/* --- receiving --- */

static void take_hello(struct chan *chan, struct str body)
{
	struct msg_hello hello;
	if (chan->hello_came) {
		chan_close(chan, "a second hello");
	} else if (msg_decode_hello(body, &hello) < 0) {
		chan_close(chan, "malformed hello");
	} else if (hello.fingerprint != msg_fingerprint()) {
		chan_close(chan, "the peer is of another build");
	} else {
		chan->hello_came = true;
		if (chan->spec.on_hello != NULL)
			chan->spec.on_hello(chan->spec.ctx, chan, &hello);
	}
}

static void close_for(struct chan *chan, const char *what, enum msg_type type)
{
	char why[WHY_MAX];
	snprintf(why, sizeof(why), "%s: %s (%d)", what, msg_name(type), (int)type);
	chan_close(chan, why);
}

static void dispatch(struct chan *chan, enum msg_type type, struct str body, int *fd)
{
	int rc = -ENOMSG;
	for (msg_dispatch_fn *const *fn = chan->spec.dispatch; fn != NULL && *fn != NULL; fn++) {
		rc = (*fn)(chan->spec.ctx, chan, type, body, fd);
		if (rc != -ENOMSG)
			break;
	}
	if (rc == -ENOMSG)
		close_for(chan, "message not for us", type);
	else if (rc < 0)
		close_for(chan, "malformed message", type);
}

static int pop_fd(struct chan *chan)
{
	if (chan->fds_in_count == 0)
		return -1;
	int fd = chan->fds_in[0];
	chan->fds_in_count--;
	memmove(chan->fds_in, chan->fds_in + 1, chan->fds_in_count * sizeof(chan->fds_in[0]));
	return fd;
}

static void take_frame(struct chan *chan, enum msg_type type, struct str body)
{
	if (!chan->hello_came && type != MSG_HELLO) {
		chan_close(chan, "the peer did not say hello");
		return;
	}
	if (type == MSG_HELLO) {
		take_hello(chan, body);
		return;
	}
	if ((msg_sender_roles(type) & chan->spec.peer_roles) == 0) {
		close_for(chan, "the peer may not send this", type);
		return;
	}
	int fd = msg_has_fd(type) ? pop_fd(chan) : -1;
	if (msg_has_fd(type) && fd < 0) {
		close_for(chan, "no descriptor came with", type);
		return;
	}
	dispatch(chan, type, body, &fd);
	if (fd >= 0)
		close(fd);
}

/* The next whole frame in the buffer; false when there is none, or when it never can be one. */
static bool next_frame(struct chan *chan, struct str *frame)
{
	size_t have = chan->in_end - chan->in_begin;
	if (have < HEADER)
		return false;
	struct rd r = rd_of(chan->in + chan->in_begin, have);
	uint32_t length = rd_u32(&r);
	if (length < TYPE || length > MSG_FRAME_MAX) {
		chan_close(chan, "impossible frame length");
		return false;
	}
	if (r.n < length)
		return false;
	*frame = rd_bytes(&r, length);
	chan->in_begin += HEADER + length;
	return true;
}

static void take_frames(struct chan *chan)
{
	struct str frame;
	while (!is_ending(chan) && next_frame(chan, &frame)) {
		struct rd r = rd_of(frame.p, frame.n);
		enum msg_type type = (enum msg_type)rd_u16(&r);
		take_frame(chan, type, (struct str){(const char *)r.p, r.n});
	}
	if (is_ending(chan))
		return;
	size_t begun = chan->in_end > chan->in_begin ? 1 : 0;
	if (chan->fds_in_count > begun)
		chan_close(chan, "a descriptor that no message has");
}

/* Room for one read, and for the whole of a frame that has begun. */
static void make_room(struct chan *chan)
{
	size_t have = chan->in_end - chan->in_begin, want = IN_FIRST;
	if (have >= HEADER) {
		struct rd r = rd_of(chan->in + chan->in_begin, have);
		size_t frame = HEADER + (size_t)rd_u32(&r); /* next_frame() checked the length */
		want = frame > want ? frame : want;
	}
	if (have > 0 && chan->in_begin > 0)
		memmove(chan->in, chan->in + chan->in_begin, have);
	chan->in_begin = 0;
	chan->in_end = have;
	if (want != chan->in_cap) {
		chan->in = xrealloc(chan->in, want);
		chan->in_cap = want;
	}
}

/* false: descriptors came that no honest peer sends. */
static bool take_control(struct chan *chan, struct msghdr *msg)
{
	bool honest = (msg->msg_flags & MSG_CTRUNC) == 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (chan->fds_in_count < FDS_IN_MAX) {
				chan->fds_in[chan->fds_in_count++] = fd;
			} else {
				close(fd);
				honest = false;
			}
		}
	}
	return honest;
}

static ssize_t read_once(struct chan *chan)
{
	union {
		struct cmsghdr header;
		unsigned char room[CMSG_SPACE(FDS_IN_MAX * sizeof(int))];
	} control;
	make_room(chan);
	struct iovec iov = {chan->in + chan->in_end, chan->in_cap - chan->in_end};
	struct msghdr msg = {.msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = &control,
	    .msg_controllen = sizeof(control.room)};
	ssize_t n = recvmsg(chan->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	chan->in_end += (size_t)n;
	if (!take_control(chan, &msg))
		chan_close(chan, "more descriptors than messages, or than we can hold");
	return n;
}

static void close_gone(struct chan *chan, const char *why)
{
	if (!is_ending(chan))
		chan->peer_gone = true;
	chan_close(chan, why);
}

static void on_io(void *arg, uint32_t events)
{
	struct chan *chan = arg;
	chan->busy++;
	if (events & EPOLLOUT)
		flush(chan);
	ssize_t n = -EINTR;
	if (chan->broken || (events & ~(uint32_t)EPOLLOUT) != 0)
		n = read_once(chan);
	if (n > 0)
		take_frames(chan);
	else if (n == 0)
		close_gone(chan, "end of file");
	else if (n == -EAGAIN && chan->broken)
		close_gone(chan, "the peer does not read any more");
	else if (n == -ECONNRESET) /* it died with frames of ours unread */
		close_gone(chan, strerrordesc_np(ECONNRESET));
	else if (n != -EAGAIN && n != -EINTR)
		chan_close(chan, strerrordesc_np((int)-n));
	leave(chan);
}

/* --- the beginning --- */

struct chan *chan_new(struct loop *loop, int fd, const struct chan_spec *spec)
{
	struct chan *chan = xcalloc(1, sizeof(*chan));
	chan->loop = loop;
	chan->fd = fd;
	chan->spec = *spec;
	buf_init(&chan->out, SIZE_MAX / 4);
	int flags = fcntl(fd, F_GETFL);
	must(flags >= 0);
	if ((flags & O_NONBLOCK) == 0) /* master's are: a segment's writer may not change flags */
		must(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
	must(loop_add(loop, &chan->io, fd, EPOLLIN, on_io, chan) == 0);
	struct msg_hello hello = {.fingerprint = msg_fingerprint(),
	    .process = self.process,
	    .instance = self.instance,
	    .generation = self.generation};
	chan_send_hello(chan, &hello);
	return chan;
}

bool chan_peer_gone(const struct chan *chan)
{
	return chan->peer_gone;
}

int chan_fd(const struct chan *chan)
{
	return chan->fd;
}

void *chan_data(const struct chan *chan)
{
	return chan->data;
}

void chan_set_data(struct chan *chan, void *data)
{
	chan->data = data;
}

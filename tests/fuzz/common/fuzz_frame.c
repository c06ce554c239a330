/* SPDX-License-Identifier: ISC */
/*
 * What a peer that was taken over can write. The first byte chooses:
 *   odd: the rest goes into a real channel behind a good hello, and each frame through the decoder
 * of its type; even: the rest is the body of one message, the second byte its type; what decodes
 * must encode to the very same bytes, because the decoder accepts only what the encoder writes.
 */
#include "common/chan.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode_and_encode(enum msg_type type, struct str body)
{
	struct buf b;
	buf_init(&b, 4 + MSG_FRAME_MAX);
	switch (type) {
#include "common/msg_ignore_fields.h"
#define MSG(ID, name, from, to)                                                                    \
	case MSG_##ID: {                                                                           \
		struct msg_##name m;                                                               \
		if (msg_decode_##name(body, &m) == 0)                                              \
			msg_encode_##name(&b, &m);                                                 \
		break;                                                                             \
	}
#include "common/msg.def"
#include "common/msg_undef.h"
	default:
		break;
	}
	if (b.n > 0)
		must(b.n == 6 + body.n && (body.n == 0 || memcmp(b.p + 6, body.p, body.n) == 0));
	buf_fini(&b);
}

static int dispatch(void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd)
{
	(void)ctx, (void)from, (void)fd;
	decode_and_encode(type, body);
	return body.n % 7 == 6 ? -EBADMSG : body.n % 7 == 5 ? -ENOMSG : 0;
}

static void on_close(void *ctx, struct chan *chan, const char *why)
{
	struct chan **mine = ctx;
	must(chan == *mine && why[0] != '\0');
	*mine = NULL;
}

static void through_a_channel(const uint8_t *data, size_t size)
{
	static msg_dispatch_fn *const dispatchers[] = {dispatch, NULL};
	static struct loop *loop;
	struct chan *chan = NULL;
	struct chan_spec spec = {ROLE_any, dispatchers, on_close, NULL, &chan};
	struct buf b;
	int fd[2];
	if (loop == NULL)
		loop = loop_new();
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0);
	chan = chan_new(loop, fd[0], &spec);
	buf_init(&b, 1048576);
	msg_encode_hello(&b, &(struct msg_hello){.fingerprint = msg_fingerprint()});
	buf_put(&b, data, size);
	ssize_t n = write(fd[1], b.p, b.n);
	close(fd[1]);
	must(n > 0);
	for (int i = 0; i < 100 && chan != NULL; i++)
		loop_turn(loop);
	must(chan == NULL); /* the end of file at the latest */
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	if (data[0] & 1)
		through_a_channel(data + 1, size - 1);
	else
		decode_and_encode(
		    (enum msg_type)data[1], (struct str){(const char *)data + 2, size - 2});
	return 0;
}

/* SPDX-License-Identifier: ISC */
#include "master/master.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>
/*
 * What a worker is handed, and in which order: the log; secrets; its part of the configuration;
 * accounting files; listening sockets; its control socket; the poison list; a channel to each
 * living colleague; START. worker.c is the receiving end. Who gets what stands here and nowhere
 * else:
 *
 *   log            everybody
 *   certificates   smtpd              CA bundle   smtp-out
 *   listeners      smtpd              accounting  qmgr
 *   poison         qmgr
 *
 * Who may talk to whom is not written down a second time: two processes get a channel when msg.def
 * has a row between their roles. master keeps neither end, so that the end of file means death.
 */
enum {
	PIECE = 65536,			/* msg.def's bound of a piece of configuration */
	ENCODED_MAX = CONF_ENCODED_MAX, /* what conf_encode() may yield */
};

/* The roles that each process plays towards the others (msg.def's head). */
static const unsigned roles[PROC_COUNT] = {
    [PROC_smtpd] = ROLE_writer,
    [PROC_qmgr] = ROLE_qmgr,
    [PROC_smtp_out] = ROLE_reader | ROLE_smtp_out,
    [PROC_resolver] = ROLE_resolver,
    [PROC_bouncer] = ROLE_writer | ROLE_reader | ROLE_bouncer,
};

bool handover_linked(enum proc_id a, enum proc_id b)
{
	for (unsigned type = MSG_NONE + 1; type < MSG_TYPE_COUNT; type++) {
		unsigned from = msg_sender_roles(type), to = msg_receiver_roles(type);
		if (from == ROLE_any || from == ROLE_master || to == ROLE_master)
			continue;
		if (((from & roles[a]) && (to & roles[b])) ||
		    ((from & roles[b]) && (to & roles[a])))
			return true;
	}
	return false;
}

void handover_log(struct slot *s, const struct generation *g)
{
	struct msg_file log = {.kind = FILE_LOG,
	    .index = g->log_fd >= 0,
	    .fd = g->log_fd >= 0 ? g->log_fd : STDERR_FILENO};
	chan_send_file(s->chan, &log);
}

void handover_accounting(struct slot *s, const struct generation *g)
{
	for (size_t i = 0; i < g->accounting_count && s->process == PROC_qmgr; i++)
		chan_send_file(s->chan,
		    &(struct msg_file){
			.kind = FILE_ACCOUNTING, .index = (uint16_t)i, .fd = g->accounting[i].fd});
}

static const struct secret *find_secret(
    const struct generation *g, enum secret_kind kind, uint16_t index)
{
	for (size_t i = 0; i < g->secret_count; i++)
		if (g->secrets[i].kind == kind && g->secrets[i].index == index)
			return &g->secrets[i];
	return NULL;
}

static void send_secret(
    struct slot *s, const struct generation *g, enum secret_kind kind, size_t index, bool all)
{
	const struct secret *secret = find_secret(g, kind, (uint16_t)index);
	struct msg_secret m = {.kind = (uint8_t)kind, .index = (uint16_t)index, .pem = STR("")};
	if (secret)
		m.pem = (struct str){secret->pem, secret->bytes};
	if (secret || all)
		chan_send_secret(s->chan, &m);
}

void handover_secrets(struct slot *s, const struct generation *g, bool all)
{
	if (s->process == PROC_smtp_out)
		send_secret(s, g, SECRET_CA_BUNDLE, 0, all);
	for (size_t i = 0; i < g->listener_count && s->process == PROC_smtpd; i++) {
		send_secret(s, g, SECRET_LISTENER_CERT, i, all);
		send_secret(s, g, SECRET_LISTENER_KEY, i, all);
	}
}

void handover_config(struct slot *s, const struct generation *g)
{
	struct buf all;
	buf_init(&all, ENCODED_MAX);
	conf_encode(g->conf, 1U << s->process, &all);
	if (all.failed) { /* an impossible piece: the worker refuses it, and the reload says so */
		buf_reset(&all);
		buf_u8(&all, 0);
	}
	for (size_t at = 0; at < all.n; at += PIECE) {
		size_t n = all.n - at < PIECE ? all.n - at : PIECE;
		chan_send_config(s->chan, &(struct msg_config){.config = g->number,
					      .last = at + n == all.n,
					      .piece = {(const char *)all.p + at, n}});
	}
	buf_fini(&all);
}

void handover_listeners(struct slot *s, const struct generation *g)
{
	for (size_t i = 0; i < g->listener_count && s->process == PROC_smtpd; i++)
		chan_send_listener(s->chan,
		    &(struct msg_listener){
			.config = g->number, .index = (uint16_t)i, .fd = g->listeners[i].fd});
}

void handover_poison(struct slot *s, const struct blame_entry *e)
{
	if (s->process == PROC_qmgr && s->chan)
		chan_send_poison(s->chan, &(struct msg_poison){.id = e->id, .deaths = e->deaths});
}

void handover_begin(struct slot *s)
{
	const struct master *m = s->master;
	handover_log(s, m->generation);
	handover_secrets(s, m->generation, false);
	handover_config(s, m->generation);
	if (s->process == PROC_qmgr)
		rotate_mend(m->generation);
	handover_accounting(s, m->generation);
	handover_listeners(s, m->generation);
	if (s->control_fd >= 0)
		chan_send_control(s->chan, &(struct msg_control){.fd = s->control_fd});
	for (size_t i = 0; i < m->blame.count; i++)
		handover_poison(s, &m->blame.entries[i]);
}

static void announce(struct slot *to, const struct slot *peer, int fd)
{
	chan_send_peer(to->chan, &(struct msg_peer){.process = (uint8_t)peer->process,
				     .instance = peer->instance,
				     .generation = peer->generation,
				     .fd = fd});
}

void handover_link(struct slot *a, struct slot *b)
{
	int pair[2];
	if (!a->chan || !b->chan || !handover_linked(a->process, b->process))
		return;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
		supervise_kill(a, strerrordesc_np(errno)); /* a later generation tries again */
		return;
	}
	announce(a, b, pair[0]);
	announce(b, a, pair[1]);
	close(pair[0]);
	close(pair[1]);
}

void handover_start(struct slot *s)
{
	const struct master *m = s->master;
	if (s->chan)
		chan_send_start(
		    s->chan, &(struct msg_start){.unclean = m->unclean, .rebuild = m->rebuild});
}

/* SPDX-License-Identifier: ISC */
/*
 * Channels to the other processes. master announces each new generation of each instance; this file
 * alone knows which of them live.
 *
 * Order at start: all announced peers only lie here as descriptors. When the rows are loaded the
 * writers are connected (they say what they hold), when their segments are read the others are, so
 * that a smtp-out's report of its jobs meets jobs that exist.
 *
 * Channels to readers are held: nothing sent to smtp-out or bouncer leaves before the journal has
 * what it depends on (journal.c, main.c).
 *
 * A writer that is gone keeps its entry until its segments are read to their ends. A writer whose
 * channel we closed because it broke the protocol may live on and append: its segments are read
 * only when its successor is announced, which means that it has died, or by the next qmgr.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static bool is_writer(const struct peer *p)
{
	return p->process == PROC_smtpd || p->process == PROC_bouncer;
}

static bool is_reader(const struct peer *p)
{
	return p->process == PROC_smtp_out || p->process == PROC_bouncer;
}

unsigned peer_reader_bit(const struct peer *p)
{
	return p->process == PROC_bouncer ? READER_BOUNCER : p->instance % READER_BOUNCER;
}

static void unlink_peer(struct qmgr *q, struct peer *peer)
{
	struct peer **at = &q->peers;
	while (*at != peer)
		at = &(*at)->next;
	*at = peer->next;
}

static void free_peer(struct qmgr *q, struct peer *peer)
{
	unlink_peer(q, peer);
	if (peer->chan != NULL)
		chan_free(&peer->chan);
	if (peer->fd >= 0)
		close(peer->fd);
	free(peer);
}

static void one_read(struct qmgr *q, struct segment *s, void *arg)
{
	struct peer *peer = arg;
	s->owner = NULL;
	segment_seal(q, s, s->row.mark);
	peers_gone(q, peer);
}

static bool owns_any(struct qmgr *q, const struct peer *peer)
{
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->owner == peer)
			return true;
	return false;
}

void peers_gone(struct qmgr *q, struct peer *peer)
{
	if (peer->chan != NULL || owns_any(q, peer))
		return;
	bool bouncer = peer->process == PROC_bouncer;
	free_peer(q, peer);
	if (bouncer) /* what it wrote is taken in: whatever is still owed, the next one is asked for
		      */
		bounces_ask_again(q);
}

/* Its process is dead: what it wrote and did not tell stands in the files. */
static void read_rest(struct qmgr *q, struct peer *peer)
{
	struct segment *owned[SEGMENTS_OF_WRITER_MAX];
	size_t n = 0, at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->owner == peer && n < COUNT_OF(owned))
			owned[n++] = s;
	for (size_t i = 0; i < n; i++)
		reading_start(q, owned[i], UINT64_MAX, one_read, peer);
	peers_gone(q, peer);
}

/* Has recovery come far enough for it? */
static bool may_connect(const struct qmgr *q, const struct peer *peer)
{
	enum recover_phase phase = q->recover.phase;
	return phase >= RECOVER_OUTS || (phase == RECOVER_WRITERS && is_writer(peer));
}

static void connect_peer(struct qmgr *q, struct peer *peer);

static bool is_dead(struct chan *chan)
{
	struct pollfd p = {.fd = chan_fd(chan)};
	return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP) != 0;
}

static void on_peer_closed(void *ctx, struct chan *chan, const char *why)
{
	struct qmgr *q = ctx;
	struct peer *peer = chan_data(chan);
	q->now_ms = clock_steady_ms();
	peer->chan = NULL; /* chan.c frees it after this */
	bool dead = is_dead(chan);
	loop_again(q->loop); /* this runs behind the turn's hook, and recovery may wait for it */
	if (!dead || peer->faulty)
		log_error(
		    "channel to %s %u closed: %s", proc_name(peer->process), peer->instance, why);
	if (is_reader(peer))
		segments_reader_gone(q, peer_reader_bit(peer));
	if (peer->process == PROC_smtp_out) {
		core_worker_down(q->core, peer->instance, q->now_ms);
		decisions_drain(q, NULL);
	}
	enum proc_id process = peer->process;
	uint16_t instance = peer->instance;
	if (!dead)
		worker_accuse(q->worker, process, instance, peer->generation, why);
	peer->faulty = is_writer(peer) && !dead;
	if (!peer->faulty)
		read_rest(q, peer); /* may free it */
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->process == process && p->instance == instance && p->fd >= 0 &&
		    may_connect(q, p)) {
			connect_peer(q, p);
			break;
		}
}

static void on_peer_hello(void *ctx, struct chan *chan, const struct msg_hello *hello)
{
	struct peer *peer = chan_data(chan);
	(void)ctx;
	if (peer != NULL && (hello->process != peer->process || hello->instance != peer->instance ||
				hello->generation != peer->generation))
		chan_close(chan, "not the process that was announced");
}

static unsigned roles_of(enum proc_id process)
{
	switch (process) {
	case PROC_smtpd:
		return ROLE_writer;
	case PROC_smtp_out:
		return ROLE_smtp_out | ROLE_reader;
	case PROC_bouncer:
		return ROLE_writer | ROLE_reader | ROLE_bouncer;
	case PROC_resolver:
		return ROLE_resolver;
	default:
		return 0;
	}
}

static void connect_peer(struct qmgr *q, struct peer *peer)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_qmgr, NULL};
	/* The old generation is dead, but its last words may not be read yet: first its end, then
	 * this. */
	if (peer->fd < 0 || peers_find(q, peer->process, peer->instance) != NULL)
		return;
	peer->chan = chan_new(q->loop, peer->fd,
	    &(struct chan_spec){.peer_roles = roles_of(peer->process),
		.dispatch = dispatch,
		.on_close = on_peer_closed,
		.on_hello = on_peer_hello,
		.ctx = q});
	peer->fd = -1;
	chan_set_data(peer->chan, peer);
	if (is_reader(peer))
		chan_hold(peer->chan);
	if (peer->process == PROC_smtp_out) {
		core_worker_up(q->core, peer->instance, q->now_ms);
		decisions_drain(q, NULL);
		sources_peer_up(q, PROC_smtp_out);
	} else if (peer->process == PROC_resolver) {
		routes_ask_again(q);
		sources_peer_up(q, PROC_resolver);
	}
}

/* The old generation of an instance is dead when the next is announced, whatever its channel said.
 */
static void finish_old(struct qmgr *q, enum proc_id process, uint16_t instance)
{
	for (struct peer *p = q->peers, *next; p != NULL; p = next) {
		next = p->next;
		if (p->process == process && p->instance == instance && p->faulty &&
		    p->chan == NULL) {
			p->faulty = false;
			read_rest(q, p);
			return; /* the list may have changed; there is one at most */
		}
	}
}

void peers_add(struct qmgr *q, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	if (roles_of(process) == 0) {
		close(fd);
		return;
	}
	finish_old(q, process, instance);
	struct peer *peer = xcalloc(1, sizeof(*peer));
	*peer = (struct peer){.next = q->peers,
	    .q = q,
	    .process = process,
	    .instance = instance,
	    .generation = generation,
	    .fd = fd,
	    .refuse = REFUSE_NONE};
	q->peers = peer;
	if (may_connect(q, peer))
		connect_peer(q, peer);
}

void peers_connect_writers(struct qmgr *q)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (is_writer(p))
			connect_peer(q, p);
}

void peers_connect_all(struct qmgr *q)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		connect_peer(q, p);
}

struct peer *peers_find(struct qmgr *q, enum proc_id process, int instance)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->process == process && p->chan != NULL &&
		    (instance < 0 || p->instance == instance))
			return p; /* the newest comes first */
	return NULL;
}

static bool told_all(struct qmgr *q, bool (*kind)(const struct peer *p))
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (kind(p) && p->chan != NULL && !p->told_all)
			return false;
	return true;
}

bool peers_writers_told_all(struct qmgr *q)
{
	return told_all(q, is_writer);
}

static bool is_out(const struct peer *p)
{
	return p->process == PROC_smtp_out;
}

bool peers_outs_told_all(struct qmgr *q)
{
	return told_all(q, is_out);
}

/* What a smtp-out has reported so far is in the write that begins now: it need not keep it any
 * longer once this frame, which waits for that write like all others, gets through. */
static void confirm_reports(struct peer *p)
{
	if (p->reports == p->reports_told)
		return;
	p->reports_told = p->reports;
	chan_send_reports_taken(p->chan, &(struct msg_reports_taken){.count = p->reports});
}

void peers_mark(struct qmgr *q)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->chan != NULL && is_reader(p)) {
			confirm_reports(p);
			chan_mark(p->chan);
		}
}

void peers_release(struct qmgr *q)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->chan != NULL && is_reader(p))
			chan_release(p->chan);
}

void peers_fini(struct qmgr *q)
{
	while (q->peers != NULL)
		free_peer(q, q->peers);
}

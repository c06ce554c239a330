/* SPDX-License-Identifier: ISC */
/*
 * The exchange with the name servers. What this file alone knows: sockets, ids, attempts, servers.
 *
 * Against forged answers (RFC 5452): every attempt has a socket of its own, connected, so that the
 * kernel draws its port and takes packets from that server alone, and an id of its own from
 * getrandom(). A packet that does not repeat id and question is counted and thrown away; the
 * attempt waits on. After SPOOF_MAX such packets the attempt goes on by TCP, which cannot be forged
 * blindly.
 *
 * One question's life: QUEUED until a place in flight is free; then attempts, one server each: UDP,
 * TCP when the answer was cut; SERVFAIL, REFUSED, garbage or a dead port: the next server at once;
 * no answer: the next server after a time-out that doubles with each round. It ends with an answer
 * or, when rounds or the deadline are used up, with ANSWER_FAILED: never with a guess. Those who
 * wait are told from the loop, and the answer goes into the cache.
 *
 * Nothing is on disk: after a crash qmgr asks again.
 */
#include "resolver/query.h"
#include "common/log.h"
#include "resolver/cache.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	SPOOF_MAX = 50, /* wrong packets of one attempt, then TCP: 10^5 guesses do not come in */
	READS_MAX = 64, /* packets read from one socket in a turn: the others' turn comes */
	PACKET_MAX = 65535, /* TCP; a UDP packet longer than EDNS allows is cut and ignored */
	TCP_TIMEOUT_MS = 5000,
	DEAD_AFTER = 2, /* time-outs in a row */
};
const struct query_timing query_timing_default = {
    .first_ms = 2000, .rounds = 3, .deadline_ms = 25000, .dead_ms = 30000};

struct server {
	struct query_server at;
	uint64_t sent, answered, timeouts;
	unsigned timeouts_in_row;
	int64_t dead_until_ms;
	double srtt_ms;
};
enum query_state { QUERY_QUEUED, QUERY_UDP, QUERY_TCP, QUERY_OVER };
struct query {
	struct table_node node; /* first; by name and type, until it is over */
	struct queries *all;
	struct query *next, *prev; /* in the list of its state */
	enum query_state state;
	struct query_wait *waits, **waits_end;
	int64_t deadline_ms; /* from the first attempt */
	int64_t sent_ms;
	unsigned attempts; /* time-outs and failures so far */
	unsigned order;	   /* where the round over the servers began */
	unsigned spoofed;  /* of this attempt */
	size_t server;
	bool no_edns; /* that server answered FORMERR to EDNS */
	uint16_t id;
	uint8_t failed_servers; /* bits: SERVFAIL and the like, not asked again in vain */
	int fd;
	struct loop_fd io;
	struct loop_timer timer;
	struct answer *answer; /* QUERY_OVER: to be told */
	uint32_t ttl_s;
	struct buf out, in; /* TCP */
	int qname_n;
	uint8_t qname[NAME_WIRE];
	char name[NAME_TEXT];
};
struct list {
	struct query *first, *last;
	size_t count;
};
struct queries {
	struct loop *loop;
	struct query_timing timing;
	struct server servers[SERVERS_MAX];
	size_t server_count;
	bool trusted;
	unsigned turn; /* spreads questions over the servers */
	struct table table;
	struct cache *cache;
	struct list queued, flying, over;
	struct loop_timer wake;
	struct query_stats stats;
	uint8_t *packet; /* PACKET_MAX + 1: one read */
};

static void attempt(struct query *q);
static void finish(struct query *q, struct answer *a);
static void wake(struct queries *all);

/* --- lists and random numbers ------------------------------------------------------------ */

static void list_put(struct list *l, struct query *q)
{
	q->next = NULL;
	q->prev = l->last;
	*(l->last != NULL ? &l->last->next : &l->first) = q;
	l->last = q;
	l->count++;
}

static void list_take(struct list *l, struct query *q)
{
	*(q->prev != NULL ? &q->prev->next : &l->first) = q->next;
	*(q->next != NULL ? &q->next->prev : &l->last) = q->prev;
	q->next = q->prev = NULL;
	l->count--;
}

static void random_bytes(void *p, size_t n)
{
	/* Fails only before the kernel's pool is ready, and then it waits: up to 256 bytes come
	 * whole. */
	must(getrandom(p, n, 0) == (ssize_t)n);
}

/* --- servers ----------------------------------------------------------------------------- */

int query_server_parse(struct query_server *s, struct str text)
{
	unsigned long long port = 53;
	struct str address = str_cut(&text, '@');
	if (text.n > 0 && (str_number(text, 65535, &port) != 0 || port == 0))
		return -EINVAL;
	struct route_address a;
	if (route_address_parse(&a, address) != 0)
		return -EINVAL;
	*s = (struct query_server){0};
	if (a.family == 4) {
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
		memcpy(&in.sin_addr, a.bytes, 4);
		memcpy(&s->address, &in, sizeof(in));
		s->address_n = sizeof(in);
	} else {
		struct sockaddr_in6 in = {
		    .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
		memcpy(&in.sin6_addr, a.bytes, 16);
		memcpy(&s->address, &in, sizeof(in));
		s->address_n = sizeof(in);
	}
	char printed[64];
	route_address_print(printed, &a);
	snprintf(s->text, sizeof(s->text), "%s@%llu", printed, port);
	return 0;
}

void queries_use(struct queries *q, const struct query_server *servers, size_t n, bool trusted)
{
	must(n <= SERVERS_MAX);
	for (size_t i = 0; i < n; i++)
		q->servers[i] = (struct server){.at = servers[i]};
	q->server_count = n;
	q->trusted = trusted;
}

static bool is_dead(const struct queries *all, const struct server *s)
{
	return s->timeouts_in_row >= DEAD_AFTER && loop_now_ms(all->loop) < s->dead_until_ms;
}

static void server_silent(struct queries *all, size_t index)
{
	if (index >= all->server_count)
		return;
	struct server *s = &all->servers[index];
	s->timeouts++;
	s->timeouts_in_row++;
	s->dead_until_ms = loop_now_ms(all->loop) + all->timing.dead_ms;
}

static void server_answered(struct query *q)
{
	if (q->server >= q->all->server_count)
		return;
	struct server *s = &q->all->servers[q->server];
	double ms = (double)(loop_now_ms(q->all->loop) - q->sent_ms);
	s->srtt_ms = s->answered == 0 ? ms : s->srtt_ms * 0.875 + ms * 0.125;
	s->answered++;
	s->timeouts_in_row = 0;
}

/* The server of this attempt: in turn, those believed dead last, those that refused this question
 * never. False: all have. */
static bool choose_server(struct query *q)
{
	struct queries *all = q->all;
	for (int dead = 0; dead < 2; dead++) {
		for (size_t i = 0; i < all->server_count; i++) {
			size_t index = (q->order + q->attempts + i) % all->server_count;
			if (is_dead(all, &all->servers[index]) == (dead == 1) &&
			    !(q->failed_servers & 1U << index)) {
				q->server = index;
				return true;
			}
		}
	}
	return false;
}

/* --- attempts ---------------------------------------------------------------------------- */

static void close_socket(struct query *q)
{
	loop_del(&q->io);
	if (q->fd >= 0)
		close(q->fd);
	q->fd = -1;
	buf_reset(&q->in);
	buf_reset(&q->out);
}

/* The attempt failed for good with this server (hard), or by time-out: on to the next. */
static void next_attempt(struct query *q, bool hard)
{
	close_socket(q);
	if (hard)
		q->failed_servers |= (uint8_t)(1U << q->server);
	q->attempts++;
	attempt(q);
}

static void on_timeout(void *arg)
{
	struct query *q = arg;
	q->all->stats.timeouts++;
	server_silent(q->all, q->server);
	next_attempt(q, false);
}

static bool server_failed(uint8_t rcode)
{
	enum { NOERROR = 0, NXDOMAIN = 3 };
	return rcode != NOERROR && rcode != NXDOMAIN;
}

static void start_tcp(struct query *q);

/* A packet that matched. */
static void on_packet(struct query *q, const uint8_t *packet, size_t n)
{
	enum { FORMERR = 1, NOTIMP = 4 };
	uint8_t rcode = answer_rcode(packet);
	struct answer *a = NULL;
	server_answered(q);
	if (answer_truncated(packet) && q->state == QUERY_UDP) {
		start_tcp(q);
		return;
	}
	if ((rcode == FORMERR || rcode == NOTIMP) && !q->no_edns) {
		q->no_edns = true; /* an old server: once more without (RFC 6891 7) */
		close_socket(q);
		attempt(q);
		return;
	}
	if (server_failed(rcode) || answer_truncated(packet)) {
		q->all->stats.refused++;
		next_attempt(q, true);
	} else if (answer_parse(&a, packet, n, q->name, q->node.type) != 0) {
		q->all->stats.malformed++;
		next_attempt(q, true);
	} else {
		q->all->stats.answered++;
		finish(q, a);
	}
}

static bool matches(const struct query *q, const uint8_t *packet, size_t n)
{
	return answer_matches(packet, n, q->id, q->qname, (size_t)q->qname_n, q->node.type);
}

static void on_udp(void *arg, uint32_t events)
{
	struct query *q = arg;
	struct queries *all = q->all;
	(void)events;
	for (int i = 0; i < READS_MAX; i++) {
		ssize_t n = recv(q->fd, all->packet, PACKET_MAX + 1, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) { /* ICMP: nobody listens there */
			server_silent(all, q->server);
			next_attempt(q, false);
			return;
		}
		if (matches(q, all->packet, (size_t)n)) {
			on_packet(q, all->packet, (size_t)n);
			return;
		}
		all->stats.spoofed++;
		if (++q->spoofed >= SPOOF_MAX) {
			start_tcp(q);
			return;
		}
	}
}

static int open_socket(struct query *q, int type)
{
	const struct query_server *s = &q->all->servers[q->server].at;
	q->fd = socket(s->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (q->fd < 0)
		return -errno;
	if (connect(q->fd, (const struct sockaddr *)&s->address, s->address_n) != 0 &&
	    errno != EINPROGRESS)
		return -errno;
	return 0;
}

static size_t new_packet(struct query *q, uint8_t out[QUERY_MAX])
{
	random_bytes(&q->id, sizeof(q->id));
	q->sent_ms = loop_now_ms(q->all->loop);
	q->all->stats.sent++;
	q->all->servers[q->server].sent++;
	return answer_query(out, q->id, q->qname, (size_t)q->qname_n, q->node.type, !q->no_edns);
}

static void start_udp(struct query *q)
{
	uint8_t packet[QUERY_MAX];
	struct queries *all = q->all;
	unsigned round = q->attempts / (unsigned)all->server_count;
	q->state = QUERY_UDP;
	q->spoofed = 0;
	int err = open_socket(q, SOCK_DGRAM);
	if (err == 0)
		err = loop_add(all->loop, &q->io, q->fd, EPOLLIN, on_udp, q);
	size_t n = new_packet(q, packet);
	/* What cannot be sent now waits for the time-out like what was lost. */
	if (err == 0 && send(q->fd, packet, n, 0) < 0 && errno == ECONNREFUSED)
		err = -ECONNREFUSED;
	uint32_t wait_ms = all->timing.first_ms << round;
	if (err != 0)
		wait_ms = all->timing.first_ms / 4; /* no descriptor, no route: soon again */
	loop_timer_after(all->loop, &q->timer, wait_ms, on_timeout, q);
}

/* --- TCP: one question, one answer (RFC 7766) -------------------------------------------- */

static void tcp_failed(struct query *q)
{
	q->all->stats.refused++;
	next_attempt(q, true);
}

static void tcp_read(struct query *q)
{
	for (int i = 0; i < READS_MAX; i++) {
		ssize_t n = recv(q->fd, q->all->packet, PACKET_MAX, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			tcp_failed(q);
			return;
		}
		buf_put(&q->in, q->all->packet, (size_t)n);
		size_t length = q->in.n < 2 ? 0 : (size_t)q->in.p[0] << 8 | q->in.p[1];
		if (q->in.failed || (q->in.n >= 2 && length < 12)) {
			tcp_failed(q);
			return;
		}
		if (q->in.n < 2 || q->in.n < length + 2)
			continue;
		if (!matches(q, q->in.p + 2, length)) {
			q->all->stats.spoofed++;
			tcp_failed(q);
			return;
		}
		struct buf whole = q->in; /* on_packet() may open the next socket */
		buf_init(&q->in, whole.max);
		on_packet(q, whole.p + 2, length);
		buf_fini(&whole);
		return;
	}
}

static void on_tcp(void *arg, uint32_t events)
{
	struct query *q = arg;
	if ((events & EPOLLOUT) && q->out.n > 0) {
		ssize_t n = send(q->fd, q->out.p, q->out.n, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			tcp_failed(q);
			return;
		}
		if (n > 0)
			buf_consume(&q->out, (size_t)n);
		if (q->out.n == 0)
			loop_mod(&q->io, EPOLLIN);
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		tcp_read(q);
}

static void start_tcp(struct query *q)
{
	uint8_t packet[QUERY_MAX];
	close_socket(q);
	q->state = QUERY_TCP;
	q->all->stats.tcp++;
	int err = open_socket(q, SOCK_STREAM);
	size_t n = new_packet(q, packet);
	buf_u16(&q->out, (uint16_t)n);
	buf_put(&q->out, packet, n);
	if (err == 0)
		err = loop_add(q->all->loop, &q->io, q->fd, EPOLLIN | EPOLLOUT, on_tcp, q);
	loop_timer_after(q->all->loop, &q->timer, err == 0 ? TCP_TIMEOUT_MS : 0, on_timeout, q);
}

/* --- a question's life ------------------------------------------------------------------- */

/* The next attempt, or the end when rounds, servers or time are used up. */
static void attempt(struct query *q)
{
	struct queries *all = q->all;
	bool again = all->server_count > 0 &&
		     q->attempts < all->timing.rounds * all->server_count &&
		     loop_now_ms(all->loop) < q->deadline_ms && choose_server(q);
	if (again) {
		start_udp(q);
	} else {
		all->stats.failed++;
		finish(q, answer_new(ANSWER_FAILED));
	}
}

static void query_free(struct query *q)
{
	close_socket(q);
	loop_timer_cancel(q->all->loop, &q->timer);
	while (q->waits != NULL) {
		struct query_wait *w = q->waits;
		q->waits = w->next;
		w->query = NULL;
	}
	buf_fini(&q->in);
	buf_fini(&q->out);
	answer_unref(&q->answer);
	free(q);
}

/* Tells those who wait. They may ask again, cancel others, or free what they are. */
static void tell_all(struct queries *all)
{
	struct query *q;
	while ((q = all->over.first) != NULL) {
		struct query_wait *w = q->waits;
		if (w == NULL) {
			list_take(&all->over, q);
			query_free(q);
			continue;
		}
		q->waits = w->next;
		w->query = NULL;
		w->fn(w->arg, w, q->answer, q->ttl_s, all->trusted && q->answer->secure);
	}
}

/* Takes the reference. */
static void finish(struct query *q, struct answer *a)
{
	struct queries *all = q->all;
	close_socket(q);
	loop_timer_cancel(all->loop, &q->timer);
	table_remove(&all->table, &q->node);
	list_take(q->state == QUERY_QUEUED ? &all->queued : &all->flying, q);
	q->state = QUERY_OVER;
	q->answer = a;
	q->ttl_s = cache_put(all->cache, q->name, q->node.type, a, loop_now_ms(all->loop));
	list_put(&all->over, q);
	wake(all);
}

static void start_queued(struct queries *all)
{
	while (all->queued.first != NULL && all->flying.count < QUERIES_IN_FLIGHT_MAX) {
		struct query *q = all->queued.first;
		list_take(&all->queued, q);
		list_put(&all->flying, q);
		q->state = QUERY_UDP;
		q->deadline_ms = loop_now_ms(all->loop) + all->timing.deadline_ms;
		attempt(q);
	}
}

static void on_wake(void *arg)
{
	tell_all(arg);
	start_queued(arg);
}

/* Telling and starting happen here, never from inside a question's or a caller's function: neither
 * recursion nor surprise. */
static void wake(struct queries *all)
{
	loop_timer_after(all->loop, &all->wake, 0, on_wake, all);
}

static struct query *query_new(struct queries *all, const char *name, uint16_t type)
{
	struct query *q = xcalloc(1, sizeof(*q));
	q->all = all;
	q->fd = -1;
	q->waits_end = &q->waits;
	q->order = all->turn++;
	str_copy(q->name, sizeof(q->name), str_of(name));
	q->node.name = q->name;
	q->node.type = type;
	q->qname_n = name_to_wire(q->qname, q->name);
	must(q->qname_n > 0); /* only names that name.c made come here */
	buf_init(&q->in, PACKET_MAX + 2 + PACKET_MAX);
	buf_init(&q->out, QUERY_MAX + 2);
	table_insert(&all->table, &q->node);
	list_put(&all->queued, q);
	return q;
}

const struct answer *queries_ask(struct queries *all, const char *name, uint16_t type,
    struct query_wait *wait, uint32_t *ttl_s, bool *secure)
{
	static const struct answer overload = {.refs = 1, .status = ANSWER_FAILED};
	int64_t now = loop_now_ms(all->loop);
	struct answer *a = cache_find(all->cache, name, type, now, ttl_s);
	all->stats.asked++;
	if (a != NULL) {
		all->stats.cached++;
		*secure = all->trusted && a->secure;
		return a;
	}
	struct query *q = (struct query *)(void *)table_find(&all->table, name, type);
	if (q == NULL && all->table.count >= QUERIES_MAX) {
		*ttl_s = CACHE_FAILED_S;
		*secure = false;
		return &overload;
	}
	if (q == NULL) {
		q = query_new(all, name, type);
		wake(all);
	}
	wait->next = NULL;
	wait->query = q;
	*q->waits_end = wait;
	q->waits_end = &wait->next;
	return NULL;
}

void queries_cancel(struct query_wait *wait)
{
	struct query *q = wait->query;
	if (q == NULL)
		return;
	struct query_wait **at = &q->waits;
	while (*at != wait)
		at = &(*at)->next;
	*at = wait->next;
	if (q->waits_end == &wait->next)
		q->waits_end = at;
	wait->query = NULL;
}

size_t queries_flush(struct queries *q, const char *name)
{
	return cache_flush(q->cache, name);
}

struct queries *queries_new(struct loop *loop, const struct query_timing *timing)
{
	uint8_t key[16];
	struct queries *q = xcalloc(1, sizeof(*q));
	random_bytes(key, sizeof(key));
	q->loop = loop;
	q->timing = *timing;
	table_init(&q->table, key);
	q->cache = cache_new(CACHE_ENTRIES_MAX, CACHE_BYTES_MAX, key);
	q->packet = xmalloc(PACKET_MAX + 1);
	return q;
}

static void free_list(struct list *l)
{
	struct query *q;
	while ((q = l->first) != NULL) {
		list_take(l, q);
		query_free(q);
	}
}

void queries_free(struct queries **queries)
{
	struct queries *q = *queries;
	*queries = NULL;
	if (q == NULL)
		return;
	loop_timer_cancel(q->loop, &q->wake);
	free_list(&q->queued);
	free_list(&q->flying);
	free_list(&q->over);
	table_fini(&q->table);
	cache_free(&q->cache);
	free(q->packet);
	free(q);
}

void queries_stats(const struct queries *q, struct query_stats *out)
{
	*out = q->stats;
	out->in_flight = q->flying.count;
	out->waiting = q->queued.count;
	out->cache_entries = cache_count(q->cache);
	out->cache_bytes = cache_used_bytes(q->cache);
}

bool queries_server(const struct queries *q, size_t index, struct query_server_view *out)
{
	if (index >= q->server_count)
		return false;
	const struct server *s = &q->servers[index];
	*out = (struct query_server_view){
	    s->at.text, s->sent, s->answered, s->timeouts, is_dead(q, s), s->srtt_ms};
	return true;
}

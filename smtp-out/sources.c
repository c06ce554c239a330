/* SPDX-License-Identifier: ISC */
/*
 * Source addresses: whether they can be bound, which only a process with sockets can find out, and
 * operators' commands about them. These are qmgr's to answer: a disabled source is a state of its
 * queues. A command waits here for qmgr's word, at most ASK_MS, and does not survive it: who asked
 * is told so and asks again.
 */
#include "common/conf.h"
#include "common/log.h"
#include "smtp-out/session.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

enum { ASK_MS = 10 * 1000 };

/* --- can it be bound? ------------------------------------------------------------------------- */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address_parse(union address *a, const char *text)
{
	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, text, &a->v4.sin_addr) == 1) {
		a->v4.sin_family = AF_INET;
		return sizeof(a->v4);
	}
	if (inet_pton(AF_INET6, text, &a->v6.sin6_addr) == 1) {
		a->v6.sin6_family = AF_INET6;
		return sizeof(a->v6);
	}
	return 0;
}

/* 0, or the error. Any port: it is given back at once. */
static int try_bind(const char *text)
{
	union address a;
	socklen_t n = address_parse(&a, text);
	if (n == 0)
		return EAFNOSUPPORT;
	int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return errno;
	int error = bind(fd, &a.any, n) == 0 ? 0 : errno;
	close(fd);
	return error;
}

/* What says nothing of the address: asked again later, it may be another answer. */
static bool is_passing(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM ||
	       error == EADDRINUSE;
}

void on_source_check(void *ctx, struct chan *from_chan, struct msg_source_check *m)
{
	char text[65], why[300] = "";
	(void)ctx;
	str_copy(text, sizeof(text), m->address);
	int error = try_bind(text);
	if (error && is_passing(error))
		log_warn("%s: cannot say whether it can be bound: %s", text, strerror(error));
	else if (error)
		snprintf(why, sizeof(why), "%s", strerror(error));
	chan_send_source_checked(
	    from_chan, &(struct msg_source_checked){
			   .ticket = m->ticket, .address = m->address, .why = str_of(why)});
}

/* --- commands ----------------------------------------------------------------------------------
 */

struct source_ask {
	struct source_ask *next;
	struct out *out;	     /* borrowed */
	struct control_reply *reply; /* borrowed until it ends or its reader leaves */
	uint32_t ticket;
	struct loop_timer timer;
};

static void forget(struct source_ask *a)
{
	struct source_ask **at = &a->out->asks;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	loop_timer_cancel(a->out->loop, &a->timer);
	free(a);
}

static void fail(struct source_ask *a, const char *why)
{
	control_end(a->reply, EX_TEMPFAIL, "%s", why);
	forget(a);
}

static void on_reader_gone(void *arg)
{
	forget(arg);
}

static void on_time(void *arg)
{
	fail(arg, "qmgr has not answered within 10 seconds; whether it will act is not known");
}

void sources_qmgr_gone(struct out *o)
{
	while (o->asks)
		fail(o->asks, "qmgr ended before it answered; ask again");
}

static void ask(struct out *o, struct control_reply *r, struct msg_source_ask *m)
{
	char who[CONTROL_WHO_BYTES];
	if (!o->qmgr) {
		control_end(r, EX_TEMPFAIL, "qmgr is not running now");
		return;
	}
	struct source_ask *a = xcalloc(1, sizeof(*a));
	a->out = o;
	a->reply = r;
	a->ticket = m->ticket = ++o->next_ticket;
	a->next = o->asks;
	o->asks = a;
	control_who(r, who);
	m->who = str_of(who);
	loop_timer_after(o->loop, &a->timer, ASK_MS, on_time, a);
	control_later(r, on_reader_gone, a);
	chan_send_source_ask(o->qmgr, m);
}

/* Address and queue as qmgr knows them; false: the answer was given. */
static bool take_arguments(struct control_reply *r, const json_t *args, const json_t *options,
    struct msg_source_ask *m, char address[INET6_ADDRSTRLEN])
{
	const char *text = control_arg(args, 0), *queue = control_option(options, "queue");
	union address a;
	if (text && address_parse(&a, text) == 0) {
		control_end(r, EX_USAGE, "%.64s is not an IP address", text);
		return false;
	}
	if (queue && (strlen(queue) > 600 || strpbrk(queue, "\r\n"))) {
		control_end(r, EX_USAGE, "--queue: not the name of a queue");
		return false;
	}
	address[0] = '\0';
	if (text)
		inet_ntop(a.any.sa_family,
		    a.any.sa_family == AF_INET ? (const void *)&a.v4.sin_addr
					       : (const void *)&a.v6.sin6_addr,
		    address, INET6_ADDRSTRLEN);
	m->address = str_of(address);
	m->queue = str_of(queue);
	return true;
}

void verb_disable_source(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	const char *text = control_option(options, "for");
	struct msg_source_ask m = {.verb = SOURCE_DISABLE};
	struct conf_value v = {0};
	char address[INET6_ADDRSTRLEN], why[200];
	if (text && (conf_parse_value(CO_RULE_for_, str_of(text), &v, why) != 0 || v.num <= 0)) {
		control_end(r, EX_USAGE, "--for: not a time such as 90s");
		return;
	}
	m.for_ms = (uint64_t)v.num;
	conf_value_fini(&v);
	if (take_arguments(r, args, options, &m, address))
		ask(ctx, r, &m);
}

void verb_enable_source(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct msg_source_ask m = {.verb = SOURCE_ENABLE};
	char address[INET6_ADDRSTRLEN];
	if (take_arguments(r, args, options, &m, address))
		ask(ctx, r, &m);
}

void verb_check_sources(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct msg_source_ask m = {.verb = SOURCE_REPORT};
	char address[INET6_ADDRSTRLEN];
	if (take_arguments(r, args, options, &m, address))
		ask(ctx, r, &m);
}

static void give_rows(struct control_reply *r, struct str text)
{
	json_error_t error;
	json_t *rows = json_loadb(text.n > 0 ? text.p : "[]", text.n > 0 ? text.n : 2, 0, &error);
	if (!json_is_array(rows)) {
		control_end(r, EX_SOFTWARE, "qmgr's answer is not a list: %s", error.text);
	} else {
		json_t *row;
		size_t i;
		json_array_foreach(rows, i, row) control_row(r, json_incref(row));
		control_end(r, EX_OK, "%s", "");
	}
	json_decref(rows);
}

void on_source_told(void *ctx, struct chan *from_chan, struct msg_source_told *m)
{
	struct out *o = ctx;
	(void)from_chan;
	struct source_ask *a = o->asks;
	while (a && a->ticket != m->ticket)
		a = a->next;
	if (!a)
		return; /* it came too late, or its reader has left */
	if (m->ok)
		give_rows(a->reply, m->text);
	else
		control_end(a->reply, EX_UNAVAILABLE, "%.*s",
		    (int)(m->text.n < 500 ? m->text.n : 500), m->text.p);
	forget(a);
}

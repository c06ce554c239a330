/* SPDX-License-Identifier: ISC */
/*
 * posternctl smtp-out: what this process has open, and what each connection is doing. Looking has
 * no side effects. A list is a snapshot of connection ids; each row is made when there is room for
 * it, from what the connection is then.
 */
#include "common/record.h"
#include "smtp-out/session.h"
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static void verb_status(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct out *o = ctx;
	const struct out_counters *c = &o->counters;
	(void)args, (void)options;
	control_row(
	    r, json_pack("{s:s, s:i, s:I, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		   "service", "smtp-out", "instance", o->worker ? worker_instance(o->worker) : 0,
		   "connections", (json_int_t)o->sessions, "qmgr", o->qmgr != NULL, "stopping",
		   o->stopping, "granted", (json_int_t)c->grants, "never_ready",
		   (json_int_t)c->refused, "tls", (json_int_t)c->tls, "transactions",
		   (json_int_t)c->transactions, "delivered", (json_int_t)c->delivered, "deferred",
		   (json_int_t)c->deferred, "failed", (json_int_t)c->failed, "rule_hits",
		   (json_int_t)c->hits));
	control_end(r, EX_OK, "%s", "");
}

/* '*' stands for any run of characters; queue names contain brackets, so this is not fnmatch(). */
bool control_matches(const char *pattern, const char *text)
{
	const char *star = NULL, *back = NULL;
	while (*text) {
		if (*pattern == '*') {
			star = pattern++;
			back = text;
		} else if (*pattern == *text) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star + 1;
			text = ++back;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

struct listing {
	struct out *out;
	char *pattern; /* owned */
	uint64_t *conns;
	size_t count, next;
};

static void listing_free(void *arg)
{
	struct listing *l = arg;
	free(l->pattern);
	free(l->conns);
	free(l);
}

static void note_conn(struct session *s, void *arg)
{
	struct listing *l = arg;
	struct session_view v;
	session_view(s, &v);
	if (control_matches(l->pattern, v.queue) || control_matches(l->pattern, v.domain) ||
	    control_matches(l->pattern, v.host) || control_matches(l->pattern, v.address) ||
	    control_matches(l->pattern, v.source))
		l->conns[l->count++] = v.conn;
}

static json_t *connection_row(const struct session *s)
{
	struct session_view v;
	session_view(s, &v);
	char id[RECORD_ID_TEXT] = "";
	if (v.message_id)
		record_id_print(id, v.message_id);
	return json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:I, s:I}", "conn",
	    (json_int_t)v.conn, "queue", v.queue, "domain", v.domain, "relay", v.relay, "source",
	    v.source, "stage", v.stage, "step", v.step, "ready", v.ready, "tls", v.tls_text,
	    "message", id, "transactions", (json_int_t)v.begun, "age_ms", (json_int_t)v.age_ms);
}

static bool listing_next(void *arg, struct control_reply *r)
{
	struct listing *l = arg;
	while (l->next < l->count) {
		struct session *s = session_find(l->out, l->conns[l->next++]);
		if (!s)
			continue;
		control_row(r, connection_row(s));
		return true;
	}
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void verb_connections(
    void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct out *o = ctx;
	(void)options;
	const char *pattern = json_string_value(json_array_get(args, 0));
	struct listing *l = xcalloc(1, sizeof(*l));
	l->out = o;
	l->pattern = xstrdup(pattern ? pattern : "*");
	l->conns = xcalloc(o->sessions + 1, sizeof(*l->conns));
	session_each(o, note_conn, l);
	control_stream(r, listing_next, listing_free, l);
}

const struct control_verb control_verbs[] = {
    {"status", "status", "counters and state of this process", 0, 0, verb_status},
    {"connections", "connections [PATTERN]",
	"open connections whose queue, domain, host, address or source matches", 0, 1,
	verb_connections},
    {"trace", "trace DOMAIN [--for=TIME]",
	"the dialogue of the next connection for that domain or queue, as it is spoken", 1, 1,
	verb_trace},
    {"disable-source", "disable-source ADDRESS [--queue=QUEUE] [--for=TIME]",
	"send nothing from this address, for a queue or at all", 1, 1, verb_disable_source},
    {"enable-source", "enable-source ADDRESS [--queue=QUEUE]", "undo disable-source", 1, 1,
	verb_enable_source},
    {"check-sources", "check-sources [ADDRESS]",
	"can each source address be bound, is its name confirmed, does a blocklist name it", 0, 1,
	verb_check_sources},
};
const size_t control_verb_count = COUNT_OF(control_verbs);

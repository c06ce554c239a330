/* SPDX-License-Identifier: ISC */
/*
 * One request becomes one report: the message is read from its segment, its envelope says who is
 * owed what (decide.c), dsn.c builds the text, and the record's own envelope is put together here.
 * It carries the cause (message, kind, recipients) and the ticket: qmgr settles the request by
 * them, so that after any crash the report is there once, or is asked for again.
 *
 * A notice to operators (alert.c) goes the same way without a message.
 *
 * What qmgr says of a recipient (reply, status) comes from a remote server and is text to be
 * cleaned; who the recipient is and what it asked for comes from the message's own envelope, by
 * ordinal.
 */
#include "bouncer/alert.h"
#include "bouncer/bouncer.h"
#include "bouncer/decide.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/result.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	READ_BYTES = 128 * 1024,     /* the envelope of a usual message, and what can be returned */
	CAUSE_MAX = (65535 - 9) / 2, /* ordinals that one field of an envelope holds: more are */
	/* reported on once, and after a crash perhaps again */
	REPORT_BYTES_MAX = 3 * DSN_BYTES_MAX, /* its three parts together */
};

struct listed {		       /* the recipients of a request who are owed a report */
	struct dsn_rcpt *rcpt; /* owned */
	uint16_t *ordinal;     /* owned */
	size_t count;
	const char *why_not; /* of one that is not owed */
};

void report_made_init(struct report_made *made)
{
	*made = (struct report_made){0};
	buf_init(&made->envelope, ENVELOPE_MAX);
	buf_init(&made->headers, REPORT_BYTES_MAX);
	buf_init(&made->content, REPORT_BYTES_MAX);
}

void report_made_fini(struct report_made *made)
{
	buf_fini(&made->envelope);
	buf_fini(&made->headers);
	buf_fini(&made->content);
}

static void listed_fini(struct listed *l)
{
	free(l->rcpt);
	free(l->ordinal);
}

static void add_listed(struct listed *l, const struct rcpt_result *r, const struct env_rcpt *rcpt)
{
	l->ordinal[l->count] = r->ordinal;
	l->rcpt[l->count++] = (struct dsn_rcpt){.address = rcpt->address,
	    .orcpt = rcpt->orcpt,
	    .status = r->status,
	    .text = r->text,
	    .said_by = r->said_by,
	    .code = r->code,
	    .stage = r->stage,
	    .relayed = r->relayed != 0};
}

/* 0 or -EBADMSG: the list is malformed, or names recipients that the message does not have. */
static int list_owed(struct listed *l, const struct msg_bounce *m, const struct envelope *e)
{
	struct rd rd = rd_of(m->rcpts.p, m->rcpts.n);
	struct rcpt_result r;
	size_t n = 0;
	int more;
	while ((more = result_take(&rd, &r)) == 1)
		n++;
	if (more != 0 || n == 0)
		return -EBADMSG;
	l->rcpt = xcalloc(n, sizeof(*l->rcpt));
	l->ordinal = xcalloc(n, sizeof(*l->ordinal));
	rd = rd_of(m->rcpts.p, m->rcpts.n);
	while (result_take(&rd, &r) == 1) {
		if (r.ordinal >= e->rcpt_count)
			return -EBADMSG;
		const char *why = decide_rcpt((enum dsn_kind)m->kind, e->rcpt[r.ordinal].notify);
		if (why == NULL)
			add_listed(l, &r, &e->rcpt[r.ordinal]);
		else
			l->why_not = why;
	}
	return 0;
}

static void put_cause(struct buf *b, const struct msg_bounce *m, const struct listed *l)
{
	struct buf cause;
	buf_init(&cause, 65535);
	buf_u64(&cause, m->id);
	buf_u8(&cause, m->kind);
	for (size_t i = 0; i < l->count && i < CAUSE_MAX; i++)
		buf_u16(&cause, l->ordinal[i]);
	envelope_put(b, ENV_CAUSE, (struct str){(const char *)cause.p, cause.n});
	buf_fini(&cause);
}

static void put_envelope(struct report_made *made, const struct bouncer *b,
    const struct msg_bounce *m, const struct envelope *original, const struct listed *l,
    uint8_t body)
{
	struct buf *e = &made->envelope;
	char id[RECORD_ID_TEXT], message_id[HOST_TEXT + 32];
	record_id_print(id, made->id);
	snprintf(message_id, sizeof(message_id), "<%s.dsn@%s>", id, b->used.host_name);
	envelope_put(e, ENV_SENDER, STR(""));
	envelope_put_u8(e, ENV_BODY, body);
	if (original->vmta.n > 0)
		envelope_put(e, ENV_VMTA, original->vmta);
	put_cause(e, m, l);
	envelope_put_u64(e, ENV_TICKET, m->ticket);
	envelope_put(e, ENV_MESSAGE_ID, str_of(message_id));
	envelope_put(e, ENV_RCPT, original->sender);
}

static void build(struct bouncer *b, const struct msg_bounce *m, const struct message *message,
    const struct listed *l, struct report_made *made)
{
	const struct dsn dsn = {.kind = (enum dsn_kind)m->kind,
	    .host_name = b->used.host_name,
	    .postmaster = b->used.postmaster,
	    .id = made->id,
	    .original_id = m->id,
	    .now_ms = clock_wall_ms(),
	    .arrived_ms = (int64_t)m->arrived_ms,
	    .retry_until_ms = (int64_t)m->retry_until_ms,
	    .envelope = &message->envelope,
	    .content = {(const char *)message->content, message->content_in},
	    .content_bytes = message->content_bytes,
	    .rcpt = l->rcpt,
	    .rcpt_count = l->count};
	uint8_t body = dsn_build(&dsn, &made->headers, &made->content);
	put_envelope(made, b, m, &message->envelope, l, body);
}

static enum report_end refuse(struct report_made *made, const char *why)
{
	str_copy(made->why, sizeof(made->why), str_of(why));
	return REPORT_NONE;
}

static enum report_end report_of(struct bouncer *b, const struct msg_bounce *m,
    const struct message *message, struct report_made *made)
{
	struct listed l = {0};
	enum report_end end = REPORT_MADE;
	const char *why = decide_message(&message->envelope);
	if (why != NULL)
		end = refuse(made, why);
	else if (list_owed(&l, m, &message->envelope) != 0)
		end = refuse(made, "the list of recipients does not fit the message");
	else if (l.count == 0)
		end = refuse(made, l.why_not);
	else if (made->id != 0)
		build(b, m, message, &l, made);
	listed_fini(&l);
	return end;
}

/* On no message: what qmgr has to say to operators. */
static enum report_end alert_make(
    struct bouncer *b, const struct msg_bounce *m, struct report_made *made)
{
	char id[RECORD_ID_TEXT], message_id[HOST_TEXT + 32];
	struct buf rcpts, *e = &made->envelope;
	uint8_t body = 0;
	struct alert_mail mail = {.host_name = b->used.host_name,
	    .postmaster = b->used.postmaster,
	    .id = made->id,
	    .now_ms = clock_wall_ms()};
	if (alert_take(m->rcpts, &mail.alert) != 0)
		return refuse(made, "the notice is malformed");
	buf_init(&rcpts, ENVELOPE_MAX);
	size_t n = alert_build(&mail, &rcpts, &made->headers, &made->content, &body);
	record_id_print(id, made->id);
	snprintf(message_id, sizeof(message_id), "<%s.alert@%s>", id, b->used.host_name);
	envelope_put(e, ENV_SENDER, STR(""));
	envelope_put_u8(e, ENV_BODY, body);
	put_cause(e, m, &(struct listed){0});
	envelope_put_u64(e, ENV_TICKET, m->ticket);
	envelope_put(e, ENV_MESSAGE_ID, str_of(message_id));
	buf_put(e, rcpts.p, rcpts.n);
	buf_fini(&rcpts);
	return n > 0 ? REPORT_MADE : refuse(made, "no address to write to");
}

enum report_end report_make(
    struct bouncer *b, const struct msg_bounce *m, uint64_t id, struct report_made *made)
{
	struct message message;
	made->id = id;
	if (m->kind >= DSN_KIND_COUNT)
		return refuse(made, "no such kind of report");
	if (m->kind == DSN_ALERT)
		return alert_make(b, m, made);
	int err = segread_message(b->reader, m->segment, m->offset, m->id, READ_BYTES, &message);
	if (err == -ENOENT || err == -EBADMSG) {
		b->stats.unreadable++;
		return refuse(made, "the message cannot be read from its segment");
	}
	if (err != 0) {
		snprintf(made->why, sizeof(made->why), "%s", strerror(-err));
		return REPORT_LATER;
	}
	enum report_end end = report_of(b, m, &message, made);
	message_fini(&message);
	return end;
}

/* SPDX-License-Identifier: ISC */
/*
 * Lines of the delivery log, in Postfix's shapes: its readers split at ", ", want nothing between
 * relay= and status=, and take what follows the closing parenthesis as harmless. Ours is
 * "uncertain" there.
 */
#include "common/log.h"
#include "common/record.h"
#include "qmgr/logger_lines.h"

enum { TEXT_MAX = 1200 }; /* of a reply in a line: LOG_LINE_MAX less the rest */

static void id_line(struct buf *b, const char *service, uint64_t wall_ms, uint64_t id,
    log_prefix_fn *prefix, void *ctx)
{
	char text[RECORD_ID_TEXT];
	record_id_print(text, id);
	prefix(ctx, b, service, wall_ms);
	buf_cstr(b, text);
	buf_cstr(b, ": ");
}

/* Text from outside; most is plain ASCII and goes as it is. */
static void clean(struct buf *b, struct str s)
{
	char text[TEXT_MAX];
	bool plain = s.n < TEXT_MAX;
	for (size_t i = 0; i < s.n && plain; i++)
		plain = s.p[i] >= 0x20 && s.p[i] < 0x7f;
	if (plain)
		buf_str(b, s);
	else
		buf_cstr(b, log_clean(text, sizeof(text), s));
}

static void number(struct buf *b, uint64_t n)
{
	char digits[20];
	size_t at = sizeof(digits);
	do
		digits[--at] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	buf_put(b, digits + at, sizeof(digits) - at);
}

void log_lines_received(struct buf *b, const struct j_received *r, log_prefix_fn *prefix, void *ctx)
{
	id_line(b, "qmgr", r->wall_ms, r->id, prefix, ctx);
	buf_cstr(b, "from=<");
	clean(b, r->sender);
	buf_cstr(b, ">, size=");
	number(b, r->bytes);
	buf_cstr(b, ", nrcpt=");
	number(b, r->rcpt_count);
	buf_cstr(b, " (queue active)\n");
}

void log_lines_removed(struct buf *b, const struct j_removed *r, log_prefix_fn *prefix, void *ctx)
{
	id_line(b, "qmgr", r->wall_ms, r->id, prefix, ctx);
	buf_cstr(b, "removed");
	if (r->why.n > 0) {
		buf_cstr(b, " (");
		clean(b, r->why);
		buf_cstr(b, ")");
	}
	buf_cstr(b, "\n");
}

void log_lines_reported(struct buf *b, const struct j_reported *r, log_prefix_fn *prefix, void *ctx)
{
	static const char *const words[DSN_KIND_COUNT] = {"sender non-delivery notification",
	    "sender delay notification", "sender delivery status notification", NULL};
	char text[RECORD_ID_TEXT];
	if (r->kind >= DSN_KIND_COUNT)
		return;
	if (r->kind == DSN_ALERT) { /* on no message */
		id_line(b, "bouncer", r->wall_ms, r->id, prefix, ctx);
		buf_cstr(b, "alert to operators\n");
		return;
	}
	record_id_print(text, r->id);
	id_line(b, "bouncer", r->wall_ms, r->cause_id, prefix, ctx);
	buf_printf(b, "%s: %s\n", words[r->kind], text);
}

/* Seconds with two significant digits, as Postfix has them: 0.01 0.12 1.2 12 123. */
static void seconds(struct buf *b, uint64_t ms)
{
	number(b, ms / 1000);
	if (ms < 10 || ms >= 10000)
		return;
	buf_u8(b, '.');
	buf_u8(b, (uint8_t)('0' + ms % 1000 / 100));
	if (ms < 1000)
		buf_u8(b, (uint8_t)('0' + ms % 100 / 10));
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static void delays(struct buf *b, const struct j_outcome *o)
{
	uint64_t all = less(o->wall_ms, o->arrived_ms);
	uint64_t queued = less(all, (uint64_t)o->connect_ms + o->transmit_ms);
	buf_cstr(b, ", delay=");
	seconds(b, all);
	buf_cstr(b, ", delays=0/"); /* a message is with qmgr within the turn that made it safe */
	seconds(b, queued);
	buf_cstr(b, "/");
	seconds(b, o->connect_ms);
	buf_cstr(b, "/");
	seconds(b, o->transmit_ms);
}

static const char *status_of(uint8_t outcome)
{
	switch (outcome) {
	case OUTCOME_DELIVERED:
		return "sent";
	case OUTCOME_DEFERRED:
		return "deferred";
	case OUTCOME_BOUNCED:
		return "bounced";
	case OUTCOME_EXPIRED:
		return "expired";
	default:
		return NULL;
	}
}

static struct str address_of(const struct j_rcpt *rcpt, const struct envelope *e)
{
	if (rcpt->result.address.n == 0 && e != NULL && rcpt->result.ordinal < e->rcpt_count)
		return e->rcpt[rcpt->result.ordinal].address;
	return rcpt->result.address;
}

void log_lines_outcome(struct buf *b, const struct j_outcome *o, const struct j_rcpt *rcpt,
    const struct envelope *e, log_prefix_fn *prefix, void *ctx)
{
	const char *status = status_of(rcpt->outcome);
	if (status == NULL && rcpt->outcome != OUTCOME_DELETED)
		return;
	id_line(b, o->relay.n > 0 ? "smtp-out" : "qmgr", o->wall_ms, o->id, prefix, ctx);
	buf_cstr(b, "to=<");
	clean(b, address_of(rcpt, e));
	if (status == NULL) {
		buf_cstr(b, ">, deleted by an operator\n");
		return;
	}
	buf_cstr(b, ">, relay=");
	clean(b, o->relay.n > 0 ? o->relay : STR("none"));
	delays(b, o);
	buf_cstr(b, ", dsn=");
	clean(b, rcpt->result.status.n > 0 ? rcpt->result.status : STR("2.0.0"));
	buf_cstr(b, ", status=");
	buf_cstr(b, status);
	buf_cstr(b, " (");
	clean(b, rcpt->result.text);
	buf_cstr(b, rcpt->flags & JOB_UNCERTAIN ? ") uncertain\n" : ")\n");
}

/* Postfix's words; readers know them. */
void log_lines_queue(struct buf *b, const struct j_queue *r, log_prefix_fn *prefix, void *ctx)
{
	static const struct str again = {"connect: ", 9};
	struct str text = r->text, host = r->relay;
	for (size_t i = 0; i < host.n; i++)
		if (host.p[i] == ']')
			host.n = i + 1;
	prefix(ctx, b, "smtp-out", r->wall_ms);
	if (r->relay.n == 0) {
		clean(b, r->domain);
		buf_cstr(b, ": name service error: ");
		clean(b, text);
	} else if (r->stage == STAGE_CONNECT) {
		if (str_starts_nocase(text, again))
			text = (struct str){text.p + again.n, text.n - again.n};
		buf_cstr(b, "connect to ");
		clean(b, r->relay);
		buf_cstr(b, ": ");
		clean(b, text);
	} else {
		buf_cstr(b, "host ");
		clean(b, host);
		buf_cstr(b, r->code == 0		 ? " failed: "
			    : r->stage == STAGE_GREETING ? " refused to talk to me: "
							 : " said: ");
		clean(b, text);
		buf_printf(b, " (%s)", stage_name(r->stage));
	}
	buf_cstr(b, "\n");
}

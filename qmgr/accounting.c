/* SPDX-License-Identifier: ISC */
/*
 * Accounting records: PowerMTA's types and field names, then ours, as CSV (RFC 4180) or JSON lines.
 * One table of fields makes the header, the CSV line and the JSON object.
 */
#include "common/classify.h"
#include "common/log.h"
#include "common/record.h"
#include "qmgr/logger_lines.h"
#include <stdio.h>
#include <time.h>

enum {
	TYPE_NAMES = 7,
	VALUE_MAX = 2048, /* bytes of one value that needs cleaning */
};
static const struct {
	const char *name;
	unsigned bit;
} types[TYPE_NAMES] = {{"d", ACCOUNT_DELIVERED}, {"b", ACCOUNT_BOUNCED}, {"t", ACCOUNT_DEFERRED},
    {"tq", ACCOUNT_QUEUE_DEFERRED}, {"r", ACCOUNT_RECEIVED}, {"rb", ACCOUNT_REMOTE_BOUNCE},
    {"f", ACCOUNT_FEEDBACK}};

unsigned account_types_parse(const struct conf_value *records)
{
	unsigned bits = 0;
	for (size_t i = 0; i < records->count; i++)
		for (size_t t = 0; t < TYPE_NAMES; t++)
			if (strcmp(records->texts[i], types[t].name) == 0)
				bits |= types[t].bit;
	return records->count > 0 ? bits : ACCOUNT_DELIVERED | ACCOUNT_BOUNCED;
}

static const char *type_name(unsigned bit)
{
	for (size_t t = 0; t < TYPE_NAMES; t++)
		if (types[t].bit == bit)
			return types[t].name;
	return "";
}

unsigned account_type_of(const struct j_outcome *o, const struct j_rcpt *rcpt)
{
	switch (rcpt->outcome) {
	case OUTCOME_DELIVERED:
		return ACCOUNT_DELIVERED;
	case OUTCOME_BOUNCED:
	case OUTCOME_EXPIRED:
	case OUTCOME_DELETED:
		return ACCOUNT_BOUNCED;
	case OUTCOME_DEFERRED:
		return o->transaction != 0 && rcpt->result.stage >= STAGE_MAIL &&
			       rcpt->result.stage != STAGE_INTERNAL
			   ? ACCOUNT_DEFERRED
			   : ACCOUNT_QUEUE_DEFERRED;
	default:
		return 0;
	}
}

/* All that a line can say; what does not apply stays empty. */
struct fields {
	unsigned type;
	uint64_t logged_ms, queued_ms, size, id;
	struct str orig, rcpt, orcpt, status, diag, mta_name, address, source, esmtp, vmta,
	    campaign, envid, queue, tenant, src_helo, src_client, pool, mode, rule;
	bool has_attempt, has_delivery, discarded, expired;
	uint8_t stage; /* enum smtp_stage: where diag was said */
	unsigned attempt;
	bool uncertain;
};

/* Local time to the second; most lines of a moment share it. The logger's thread only. */
static void put_time(struct buf *b, uint64_t ms)
{
	static time_t last = -1;
	static char text[40];
	time_t t = (time_t)(ms / 1000);
	struct tm tm;
	if (t != last && (localtime_r(&t, &tm) == NULL ||
			     strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S%z", &tm) == 0))
		return;
	last = t;
	buf_cstr(b, text);
}

static void put_number(struct buf *b, uint64_t n)
{
	char digits[20];
	size_t at = sizeof(digits);
	do
		digits[--at] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	buf_put(b, digits + at, sizeof(digits) - at);
}

static void put_pair(struct buf *b, struct str name, struct str address)
{
	if (name.n == 0)
		return;
	buf_str(b, name);
	buf_cstr(b, " (");
	buf_str(b, address);
	buf_u8(b, ')');
}

static const char *action_of(unsigned type)
{
	if (type == ACCOUNT_DELIVERED)
		return "relayed";
	if (type == ACCOUNT_BOUNCED)
		return "failed";
	return type == ACCOUNT_RECEIVED ? "" : "delayed";
}

static void f_type(struct buf *b, const struct fields *f)
{
	buf_cstr(b, type_name(f->type));
}
static void f_logged(struct buf *b, const struct fields *f)
{
	put_time(b, f->logged_ms);
}
static void f_queued(struct buf *b, const struct fields *f)
{
	if (f->queued_ms > 0) /* a connection's failure is no message's */
		put_time(b, f->queued_ms);
}
static void f_orig(struct buf *b, const struct fields *f)
{
	buf_str(b, f->orig);
}
static void f_rcpt(struct buf *b, const struct fields *f)
{
	buf_str(b, f->rcpt);
}
static void f_orcpt(struct buf *b, const struct fields *f)
{
	buf_str(b, f->orcpt);
}
static void f_action(struct buf *b, const struct fields *f)
{
	buf_cstr(b, action_of(f->type));
}
static void f_status(struct buf *b, const struct fields *f)
{
	buf_str(b, f->status);
}
/* The logger's thread only. */
static void f_category(struct buf *b, const struct fields *f)
{
	static struct classifier *classifier;
	if ((f->type & (ACCOUNT_BOUNCED | ACCOUNT_DEFERRED)) == 0)
		return;
	if (classifier == NULL)
		classifier = classifier_new();
	enum bounce_category category = f->expired
					    ? BOUNCE_MESSAGE_EXPIRED
					    : classify(classifier, f->status, f->diag, f->stage);
	buf_cstr(b, bounce_category_name(category));
}
static void f_smtp(struct buf *b, const struct fields *f)
{
	(void)f, buf_cstr(b, "smtp");
}
static void f_source(struct buf *b, const struct fields *f)
{
	buf_str(b, f->source);
}
static void f_address(struct buf *b, const struct fields *f)
{
	buf_str(b, f->address);
}
static void f_esmtp(struct buf *b, const struct fields *f)
{
	buf_str(b, f->esmtp);
}
static void f_size(struct buf *b, const struct fields *f)
{
	if (f->id != 0)
		put_number(b, f->size);
}
static void f_vmta(struct buf *b, const struct fields *f)
{
	buf_str(b, f->vmta);
}
static void f_job(struct buf *b, const struct fields *f)
{
	buf_str(b, f->campaign);
}
static void f_envid(struct buf *b, const struct fields *f)
{
	buf_str(b, f->envid);
}
static void f_queue(struct buf *b, const struct fields *f)
{
	buf_str(b, f->queue);
}
/* A sender's domain is a tenant for fairness' sake only: nobody named it. */
static void f_tenant(struct buf *b, const struct fields *f)
{
	if (f->tenant.n > 0 && f->tenant.p[0] != '@')
		buf_str(b, f->tenant);
}
static void f_mode(struct buf *b, const struct fields *f)
{
	buf_str(b, f->mode);
}
static void f_pool(struct buf *b, const struct fields *f)
{
	buf_str(b, f->pool);
}
static void f_rule(struct buf *b, const struct fields *f)
{
	buf_str(b, f->rule);
}
static void f_uncertain(struct buf *b, const struct fields *f)
{
	buf_cstr(b, f->uncertain ? "1" : "0");
}

static void f_diag(struct buf *b, const struct fields *f)
{
	if (f->diag.n > 0)
		buf_cstr(b, "smtp;");
	buf_str(b, f->diag);
}

static void f_mta(struct buf *b, const struct fields *f)
{
	put_pair(b, f->mta_name, f->address);
}

static void f_src_mta(struct buf *b, const struct fields *f)
{
	put_pair(b, f->src_helo, f->src_client);
}

static void f_dlv_type(struct buf *b, const struct fields *f)
{
	if (f->discarded)
		buf_cstr(b, "discard");
	else if (f->has_delivery)
		buf_cstr(b, "smtp");
}

static void f_attempt(struct buf *b, const struct fields *f)
{
	if (f->has_attempt)
		put_number(b, f->attempt);
}

static void f_id(struct buf *b, const struct fields *f)
{
	char text[RECORD_ID_TEXT];
	if (f->id == 0)
		return;
	record_id_print(text, f->id);
	buf_cstr(b, text);
}

static const struct {
	const char *name;
	void (*put)(struct buf *b, const struct fields *f);
	bool is_number;
} columns[] = {
    {"type", f_type, false},
    {"timeLogged", f_logged, false},
    {"timeQueued", f_queued, false},
    {"orig", f_orig, false},
    {"rcpt", f_rcpt, false},
    {"orcpt", f_orcpt, false},
    {"dsnAction", f_action, false},
    {"dsnStatus", f_status, false},
    {"dsnDiag", f_diag, false},
    {"dsnMta", f_mta, false},
    {"bounceCat", f_category, false},
    {"srcType", f_smtp, false},
    {"srcMta", f_src_mta, false},
    {"dlvType", f_dlv_type, false},
    {"dlvSourceIp", f_source, false},
    {"dlvDestinationIp", f_address, false},
    {"dlvEsmtpAvailable", f_esmtp, false},
    {"dlvSize", f_size, true},
    {"vmta", f_vmta, false},
    {"jobId", f_job, false},
    {"envId", f_envid, false},
    {"queue", f_queue, false},
    {"vmtaPool", f_pool, false},
    {"tenant", f_tenant, false},
    {"attempt", f_attempt, true},
    {"messageId", f_id, false},
    {"mode", f_mode, false},
    {"rule", f_rule, false},
    {"uncertain", f_uncertain, true},
};

void account_header(struct buf *b)
{
	for (size_t i = 0; i < COUNT_OF(columns); i++)
		buf_printf(b, "%s%s", i ? "," : "", columns[i].name);
	buf_cstr(b, "\r\n");
}

/* Everything that came from outside was printed by us or is checked text; still nothing that is not
 * printable gets into a line. False: the value needs the slow way. */
static bool is_plain(struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c < 0x20 || c > 0x7e || c == ',' || c == '"' || c == '\\')
			return false;
	}
	return true;
}

static void csv_value(struct buf *b, struct str s)
{
	buf_u8(b, '"');
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '"')
			buf_u8(b, '"');
		buf_u8(b, (uint8_t)s.p[i]);
	}
	buf_u8(b, '"');
}

static void json_value(struct buf *b, struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '"' || s.p[i] == '\\')
			buf_u8(b, '\\');
		buf_u8(b, (uint8_t)s.p[i]);
	}
}

/* The value that begins at `at`, put again as the format wants it. */
static void requote(struct buf *b, size_t at, enum account_format format)
{
	char raw[VALUE_MAX], text[VALUE_MAX];
	size_t n = b->n - at < sizeof(raw) ? b->n - at : sizeof(raw);
	memcpy(raw, b->p + at, n);
	b->n = at;
	struct str s = str_of(log_clean(text, sizeof(text), (struct str){raw, n}));
	if (format == ACCOUNT_CSV)
		csv_value(b, s);
	else
		json_value(b, s);
}

static void put_column(
    struct buf *b, enum account_format format, size_t column, const struct fields *f)
{
	bool quoted = format == ACCOUNT_JSON && !columns[column].is_number;
	if (format == ACCOUNT_JSON) {
		buf_u8(b, column ? ',' : '{');
		buf_u8(b, '"');
		buf_cstr(b, columns[column].name);
		buf_cstr(b, quoted ? "\":\"" : "\":");
	} else if (column > 0) {
		buf_u8(b, ',');
	}
	size_t at = b->n;
	columns[column].put(b, f);
	if (b->failed)
		return;
	if (!is_plain((struct str){(const char *)b->p + at, b->n - at}))
		requote(b, at, format);
	else if (b->n == at && format == ACCOUNT_JSON && !quoted)
		buf_cstr(b, "null");
	if (quoted)
		buf_u8(b, '"');
}

static void put_line(struct buf *b, enum account_format format, const struct fields *f)
{
	for (size_t i = 0; i < COUNT_OF(columns); i++)
		put_column(b, format, i, f);
	buf_cstr(b, format == ACCOUNT_CSV ? "\r\n" : "}\n");
}

/* "NAME[IP]:PORT" */
static void split_relay(struct fields *f, struct str relay)
{
	struct str rest = relay;
	f->mta_name = str_cut(&rest, '[');
	f->address = str_cut(&rest, ']');
	f->has_delivery = relay.n > 0;
}

void account_outcome(struct buf *b, enum account_format format, const struct j_outcome *o,
    const struct j_rcpt *rcpt, const struct envelope *e)
{
	const struct rcpt_result *r = &rcpt->result;
	struct fields f = {.type = account_type_of(o, rcpt),
	    .logged_ms = o->wall_ms,
	    .queued_ms = o->arrived_ms,
	    .size = o->bytes,
	    .id = o->id,
	    .orig = o->sender,
	    .rcpt = r->address,
	    .orcpt = r->orcpt,
	    .status = r->status,
	    .diag = r->text,
	    .source = o->source,
	    .esmtp = o->esmtp,
	    .vmta = rcpt->place.vmta,
	    .pool = rcpt->place.pool,
	    .mode = rcpt->place.mode.n > 0 ? rcpt->place.mode : STR("normal"), /* old records */
	    .rule = rcpt->rule,
	    .campaign = o->campaign,
	    .envid = o->envid,
	    .queue = rcpt->place.queue,
	    .tenant = o->tenant,
	    .has_attempt = true,
	    .stage = r->stage,
	    .expired = rcpt->outcome == OUTCOME_EXPIRED,
	    .discarded = rcpt->outcome == OUTCOME_DELIVERED && o->transaction == 0,
	    .attempt = rcpt->attempts +
		       (rcpt->outcome != OUTCOME_DEFERRED && o->transaction != 0 ? 1U : 0U),
	    .uncertain = (rcpt->flags & JOB_UNCERTAIN) != 0};
	split_relay(&f, o->relay);
	if (e != NULL) {
		f.orig = e->sender;
		f.envid = e->envid;
		f.src_helo = e->helo;
		f.src_client = e->client;
		if (r->ordinal < e->rcpt_count) {
			f.rcpt = e->rcpt[r->ordinal].address;
			f.orcpt = e->rcpt[r->ordinal].orcpt;
		}
	}
	put_line(b, format, &f);
}

void account_received(struct buf *b, enum account_format format, const struct j_received *r)
{
	struct rd rd = rd_of(r->rcpts.p, r->rcpts.n);
	struct fields f = {.type = ACCOUNT_RECEIVED,
	    .logged_ms = r->wall_ms,
	    .queued_ms = r->arrived_ms,
	    .size = r->bytes,
	    .id = r->id,
	    .orig = r->sender,
	    .vmta = r->vmta,
	    .campaign = r->campaign,
	    .envid = r->envid,
	    .tenant = r->tenant,
	    .src_helo = r->helo,
	    .src_client = r->client};
	while (rd.n > 0 && !rd.bad) {
		f.rcpt = rd_str16(&rd);
		f.orcpt = rd_str16(&rd);
		if (!rd.bad)
			put_line(b, format, &f);
	}
}

/* "x.y.z" behind the reply's code, or empty. */
static struct str reply_status(const struct j_queue *r)
{
	struct str rest = r->text;
	if (r->code == 0)
		return STR("");
	str_cut(&rest, ' ');
	struct str status = str_cut(&rest, ' ');
	bool good = status.n >= 5 && status.n < RESULT_STATUS_MAX && status.p[1] == '.' &&
		    (status.p[0] == '4' || status.p[0] == '5');
	for (size_t i = 0; i < status.n; i++)
		good = good && (status.p[i] == '.' || (status.p[i] >= '0' && status.p[i] <= '9'));
	return good ? status : STR("");
}

void account_queue(struct buf *b, enum account_format format, const struct j_queue *r)
{
	struct str status = reply_status(r);
	struct fields f = {.type = ACCOUNT_QUEUE_DEFERRED,
	    .logged_ms = r->wall_ms,
	    .status = status.n > 0     ? status
		      : r->relay.n > 0 ? STR("4.4.1")
				       : STR("4.4.3"), /* RFC 3463 3.5: host, directory server */
	    .diag = r->text,
	    .source = r->source,
	    .vmta = r->vmta,
	    .queue = r->queue};
	split_relay(&f, r->relay);
	put_line(b, format, &f);
}

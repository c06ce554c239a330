/* SPDX-License-Identifier: ISC */
/*
 * The envelope's one parser. qmgr reads envelopes from smtpd, which talks with strangers, so every
 * value is checked here, once, for all readers: what passes has no line breaks, sane bits and
 * bounded lengths.
 *
 * A walk goes over the list with a small state: the message fields seen (each at most once, all
 * before the first recipient), and the recipient that is open, handed on when the next one begins.
 */
#include "common/envelope.h"
#include "common/types.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct walk {
	struct envelope *e;
	envelope_rcpt_fn *fn;
	void *ctx;
	uint64_t seen; /* a bit a tag: of the message, then of the open recipient */
	bool has_sender;
	bool in_rcpt;
	struct env_rcpt rcpt;
};

static bool is_text(struct str s, size_t max)
{
	if (s.n > max)
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == '\0' || s.p[i] == '\r' || s.p[i] == '\n')
			return false;
	return true;
}

static bool take_text(struct str *to, struct str value, size_t max)
{
	*to = value;
	return is_text(value, max);
}

static bool take_u8(uint8_t *to, struct str value, uint8_t max)
{
	struct rd r = rd_of(value.p, value.n);
	*to = rd_u8(&r);
	return !r.bad && r.n == 0 && *to <= max;
}

static bool take_u64(uint64_t *to, struct str value)
{
	struct rd r = rd_of(value.p, value.n);
	*to = rd_u64(&r);
	return !r.bad && r.n == 0;
}

static bool take_cause(struct envelope *e, struct str value)
{
	struct rd r = rd_of(value.p, value.n);
	e->has_cause = true;
	e->cause_id = rd_u64(&r);
	e->cause_kind = rd_u8(&r);
	e->cause_ordinals = rd_bytes(&r, r.n);
	return !r.bad && e->cause_kind < DSN_KIND_COUNT && e->cause_ordinals.n % 2 == 0;
}

/* RFC 3461 4.1: NEVER stands alone. */
static bool take_notify(uint8_t *to, struct str value)
{
	const uint8_t all = NOTIFY_NEVER | NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;
	return take_u8(to, value, all) && (!(*to & NOTIFY_NEVER) || *to == NOTIFY_NEVER);
}

static bool take_message_field(struct envelope *e, uint8_t tag, struct str value)
{
	switch (tag) {
	case ENV_SENDER:
		return take_text(&e->sender, value, ENV_ADDRESS_MAX);
	case ENV_ENVID:
		return take_text(&e->envid, value, ENV_TEXT_MAX);
	case ENV_RET:
		return take_u8(&e->ret, value, RET_HDRS);
	case ENV_BODY:
		return take_u8(&e->body, value, ENV_8BIT | ENV_UTF8);
	case ENV_CLIENT:
		return take_text(&e->client, value, ENV_TEXT_MAX);
	case ENV_HELO:
		return take_text(&e->helo, value, ENV_TEXT_MAX);
	case ENV_VMTA:
		return take_text(&e->vmta, value, ENV_TEXT_MAX);
	case ENV_TENANT:
		return take_text(&e->tenant, value, ENV_TEXT_MAX);
	case ENV_CAMPAIGN:
		return take_text(&e->campaign, value, ENV_TEXT_MAX);
	case ENV_CAUSE:
		return take_cause(e, value);
	case ENV_TICKET:
		return take_u64(&e->cause_ticket, value);
	case ENV_MESSAGE_ID:
		return take_text(&e->message_id, value, ENV_TEXT_MAX);
	case ENV_HOLD:
		return take_u8(&e->hold, value, 1);
	default:
		return true; /* of a newer build */
	}
}

static bool take_rcpt_field(struct env_rcpt *rcpt, uint8_t tag, struct str value)
{
	switch (tag) {
	case ENV_NOTIFY:
		return take_notify(&rcpt->notify, value);
	case ENV_ORCPT:
		return take_text(&rcpt->orcpt, value, ENV_ORCPT_MAX);
	default:
		return true;
	}
}

static int end_rcpt(struct walk *w)
{
	if (!w->in_rcpt)
		return 0;
	unsigned ordinal = (unsigned)w->e->rcpt_count++;
	return w->fn != NULL ? w->fn(w->ctx, ordinal, &w->rcpt) : 0;
}

static int begin_rcpt(struct walk *w, struct str address)
{
	int rc = end_rcpt(w);
	if (rc != 0)
		return rc;
	w->rcpt = (struct env_rcpt){.orcpt = STR("")};
	w->in_rcpt = true;
	w->seen = 0;
	bool good = w->has_sender && address.n > 0 && w->e->rcpt_count < RCPT_MAX &&
		    take_text(&w->rcpt.address, address, ENV_ADDRESS_MAX);
	return good ? 0 : -EBADMSG;
}

static int step(struct walk *w, uint8_t tag, struct str value)
{
	if (tag == ENV_RCPT)
		return begin_rcpt(w, value);
	bool of_rcpt = tag == ENV_NOTIFY || tag == ENV_ORCPT;
	bool of_message = tag >= ENV_SENDER && tag <= ENV_HOLD;
	if (!of_rcpt && !of_message)
		return 0; /* of a newer build */
	uint64_t bit = UINT64_C(1) << tag;
	if (of_rcpt != w->in_rcpt || (w->seen & bit) != 0)
		return -EBADMSG;
	w->seen |= bit;
	w->has_sender = w->has_sender || tag == ENV_SENDER;
	bool good =
	    of_rcpt ? take_rcpt_field(&w->rcpt, tag, value) : take_message_field(w->e, tag, value);
	return good ? 0 : -EBADMSG;
}

int envelope_walk(struct envelope *e, struct str bytes, envelope_rcpt_fn *fn, void *ctx)
{
	struct walk w = {.e = e, .fn = fn, .ctx = ctx};
	struct rd r = rd_of(bytes.p, bytes.n);
	const struct str none = STR("");
	*e = (struct envelope){
	    none, none, none, none, none, none, none, none, .cause_ordinals = none};
	if (bytes.n > ENVELOPE_MAX)
		return -EBADMSG;
	while (r.n > 0) {
		uint8_t tag = rd_u8(&r);
		struct str value = rd_str16(&r);
		int rc = r.bad ? -EBADMSG : step(&w, tag, value);
		if (rc != 0)
			return rc;
	}
	return w.in_rcpt ? end_rcpt(&w) : -EBADMSG;
}

static int keep_rcpt(void *ctx, unsigned ordinal, const struct env_rcpt *rcpt)
{
	struct env_rcpt *list = ctx;
	list[ordinal] = *rcpt;
	return 0;
}

int envelope_decode(struct envelope *e, struct str bytes)
{
	int rc = envelope_walk(e, bytes, NULL, NULL); /* checks and counts */
	if (rc != 0)
		return rc;
	struct env_rcpt *list = xcalloc(e->rcpt_count, sizeof(*list));
	rc = envelope_walk(e, bytes, keep_rcpt, list);
	must(rc == 0);
	e->rcpt = list;
	return 0;
}

void envelope_fini(struct envelope *e)
{
	free(e->rcpt);
	e->rcpt = NULL;
	e->rcpt_count = 0;
}

void envelope_put(struct buf *b, enum envelope_tag tag, struct str value)
{
	if (value.n > UINT16_MAX)
		b->failed = true;
	if (buf_reserve(b, 1 + 2 + value.n) == NULL)
		return;
	buf_u8(b, (uint8_t)tag);
	buf_str16(b, value);
}

void envelope_put_u8(struct buf *b, enum envelope_tag tag, uint8_t value)
{
	envelope_put(b, tag, (struct str){(const char *)&value, 1});
}

void envelope_put_u64(struct buf *b, enum envelope_tag tag, uint64_t value)
{
	char bytes[8];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(value >> (8 * (7 - i)));
	envelope_put(b, tag, (struct str){bytes, sizeof(bytes)});
}

struct str address_domain(struct str address)
{
	const char *at = address.n ? memrchr(address.p, '@', address.n) : NULL;
	if (at == NULL)
		return STR("");
	return (struct str){at + 1, address.n - (size_t)(at + 1 - address.p)};
}

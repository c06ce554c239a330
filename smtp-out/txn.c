/* SPDX-License-Identifier: ISC */
/*
 * One transaction: the message read from its place, the recipients that qmgr named, and what has
 * become of each. Made whole from a JOB, dropped whole after its RESULT; nothing of it lives
 * anywhere else, so that no state of one transaction can leak into the next.
 */
#include "smtp-out/txn.h"
#include <stdlib.h>
#include <string.h>

enum {
	TEXTS_MAX = 1 << 26, /* all recipients' replies of a transaction */
	ARGUMENT_MAX = 1000, /* an address of an envelope; smtpd refuses longer ones */
};

static bool ordinals_fit(const struct txn *t)
{
	for (unsigned i = 0; i < t->rcpt_count; i++)
		if (t->ordinals[i] >= t->message.envelope.rcpt_count)
			return false;
	return true;
}

/* No command may end early, whatever stands in an envelope: its writer is less trusted than we are.
 */
bool txn_is_clean(struct str s)
{
	if (s.n > ARGUMENT_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
			return false;
	return true;
}

static bool addresses_are_clean(const struct txn *t)
{
	if (!txn_is_clean(t->message.envelope.sender))
		return false;
	for (unsigned i = 0; i < t->rcpt_count; i++)
		if (!txn_is_clean(t->message.envelope.rcpt[t->ordinals[i]].address))
			return false;
	return true;
}

struct txn *txn_new(
    uint64_t transaction, uint64_t id, struct message *m, struct str rcpts, const char *damage)
{
	size_t n = rcpts.n / 2;
	struct txn *t = xcalloc(1, sizeof(*t) + n * (sizeof(struct outcome) + sizeof(uint16_t)));
	t->outcomes = (struct outcome *)(t + 1);
	t->ordinals = (uint16_t *)(t->outcomes + n);
	t->rcpt_count = (unsigned)n;
	t->transaction = transaction;
	t->id = id;
	t->message = *m;
	m->file = NULL;
	buf_init(&t->texts, TEXTS_MAX);
	buf_init(&t->hits, HITS_BYTES_MAX);
	struct rd r = rd_of(rcpts.p, rcpts.n);
	for (size_t i = 0; i < n; i++)
		t->ordinals[i] = rd_u16(&r);
	t->damage = damage;
	if (!damage && !ordinals_fit(t))
		t->damage = "the message has no such recipient";
	else if (!damage && !addresses_are_clean(t))
		t->damage = "an address is too long or contains control characters";
	return t;
}

void txn_free(struct txn **tp)
{
	struct txn *t = *tp;
	if (!t)
		return;
	message_fini(&t->message);
	buf_fini(&t->texts);
	buf_fini(&t->hits);
	free(t);
	*tp = NULL;
}

struct str txn_text(const struct txn *t, const struct outcome *o)
{
	return (struct str){(const char *)t->texts.p + o->text_at, o->text_bytes};
}

/* The same reply for many recipients is kept once. */
static void keep_text(struct txn *t, const char *text)
{
	size_t n = strlen(text);
	if (n == t->last_text_bytes && t->texts.n > 0 &&
	    memcmp(t->texts.p + t->last_text_at, text, n) == 0)
		return;
	t->last_text_at = (uint32_t)t->texts.n;
	buf_put(&t->texts, text, n);
	t->last_text_bytes = t->texts.failed ? 0 : (uint16_t)n;
}

void txn_settle(struct txn *t, unsigned rcpt, const struct judgement *j, enum smtp_stage stage)
{
	struct outcome *o = &t->outcomes[rcpt];
	if (o->decided)
		return;
	keep_text(t, j->text);
	o->decided = true;
	o->verdict = (uint8_t)j->verdict;
	o->stage = (uint8_t)stage;
	o->past_dot = t->past_dot && o->accepted;
	o->by_peer = j->by_peer;
	o->code = j->code;
	memcpy(o->status, j->status, sizeof(o->status));
	o->text_at = t->last_text_at;
	o->text_bytes = t->last_text_bytes;
}

void txn_settle_all(struct txn *t, const struct judgement *j, enum smtp_stage stage)
{
	for (unsigned i = 0; i < t->rcpt_count; i++)
		txn_settle(t, i, j, stage);
}

void txn_settle_unwritten(struct txn *t, const struct judgement *j)
{
	for (unsigned i = t->written; i < t->rcpt_count; i++)
		txn_settle(t, i, j, STAGE_RCPT);
}

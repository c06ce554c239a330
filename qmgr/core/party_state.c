/* SPDX-License-Identifier: ISC */
/*
 * Parties over a restart: the state of kind "party", one for each, by the party's key ("tenant acme
 * at google").
 *
 * Bytes from the store are not believed: a key that is not that of its own names is refused, and so
 * is a setting without a number, with one beyond all bounds, or without an end. An encoding is made
 * when it is asked for, from the party as it is then; a party that is gone has none.
 */
#include "qmgr/core/party.h"
#include <errno.h>

bool party_encode(struct core *core, struct str key, struct buf *out)
{
	const struct party *p = party_find_key(core, key);

	if (!p)
		return false;
	buf_str16(out, name_str(p->tenant));
	buf_str16(out, name_str(p->campaign));
	buf_str16(out, name_str(p->at));
	buf_u8(out, p->recovering);
	buf_u32(out, p->step);
	buf_u32(out, p->probes);
	buf_u64(out, (uint64_t)p->since_ms);
	buf_u64(out, (uint64_t)p->until_ms);
	buf_str16(out, str_of(p->rule));
	buf_str16(out, str_of(p->text));
	for (uint32_t i = 0; i < p->set_count; i++) {
		const struct party_setting *s = &p->set[i];

		buf_u8(out, (uint8_t)s->kind);
		buf_u64(out, s->kind == LIMIT_CONNS ? s->max : s->rate.n);
		buf_u64(out, s->rate.burst);
		buf_u64(out, (uint64_t)s->rate.per_ms);
		buf_u32(out, s->step);
		buf_u64(out, (uint64_t)s->since_ms);
		buf_u64(out, (uint64_t)s->until_ms);
		buf_str16(out, str_of(s->what));
		buf_str16(out, str_of(s->rule));
		buf_str16(out, str_of(s->text));
	}
	return true;
}

static bool is_sound(const struct party_setting *s)
{
	if (s->kind == LIMIT_CONNS)
		return s->max > 0;
	return (s->kind == LIMIT_CONNECTS || s->kind == LIMIT_MSGS || s->kind == LIMIT_BYTES) &&
	       s->rate.n > 0 && s->rate.n <= BUCKET_MOST && s->rate.burst > 0 &&
	       s->rate.burst <= BUCKET_MOST && s->rate.per_ms > 0 &&
	       (uint64_t)s->rate.per_ms <= BUCKET_MOST;
}

static void restore_setting(struct party *p, struct rd *value)
{
	struct party_setting s = {.kind = (enum limit_kind)rd_u8(value)};
	struct str what, rule, text;

	s.rate.n = rd_u64(value);
	s.rate.burst = rd_u64(value);
	s.rate.per_ms = (int64_t)rd_u64(value);
	s.step = rd_u32(value);
	s.since_ms = (int64_t)rd_u64(value);
	s.until_ms = (int64_t)rd_u64(value);
	what = rd_str16(value);
	rule = rd_str16(value);
	text = rd_str16(value);
	if (s.kind == LIMIT_CONNS && s.rate.n <= UINT32_MAX)
		s.max = (uint32_t)s.rate.n;
	if (value->bad || !is_sound(&s) || s.until_ms <= 0 || party_setting_find(p, what))
		return;
	s.what = str_dup(what);
	s.rule = str_dup(party_shorten(rule));
	s.text = str_dup(party_shorten(text));
	party_setting_put(p, &s);
}

int party_restore(struct core *core, struct str key, struct rd *value)
{
	struct str tenant = rd_str16(value), campaign = rd_str16(value), at = rd_str16(value);
	char *text;
	struct party *p;

	if (value->bad || tenant.n == 0 || at.n == 0 || party_find_key(core, key) ||
	    core->parties.count >= PARTY_MOST)
		return -EBADMSG;
	p = party_get(core, tenant, campaign, at);
	if (!p || !str_eq(name_str(p->key), key)) {
		if (p && !p->recovering && p->set_count == 0)
			party_free(core, p);
		return -EBADMSG;
	}
	p->recovering = rd_u8(value) != 0;
	p->step = rd_u32(value);
	p->probes = rd_u32(value);
	p->since_ms = (int64_t)rd_u64(value);
	p->until_ms = (int64_t)rd_u64(value);
	p->first_tx = core->next_id;
	text = state_text(value);
	p->rule = text;
	p->text = state_text(value);
	while (value->n && !value->bad)
		restore_setting(p, value);
	if (p->until_ms <= 0)
		p->recovering = false;
	party_apply(core, p);
	return value->bad ? -EBADMSG : 0;
}

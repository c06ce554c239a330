/* SPDX-License-Identifier: ISC */
/*
 * Envelopes from a writer that was taken over: decode and walk agree; what passes is written again,
 * in the one order envelope_put() users keep, and must decode to the same.
 */
#include "common/envelope.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int count(void *ctx, unsigned ordinal, const struct env_rcpt *rcpt)
{
	size_t *n = ctx;
	must(ordinal == *n && rcpt->address.n > 0);
	(*n)++;
	return 0;
}

static void check_text(struct str s, size_t max)
{
	must(s.n <= max);
	for (size_t i = 0; i < s.n; i++)
		must(s.p[i] != '\0' && s.p[i] != '\r' && s.p[i] != '\n');
}

static void write_again(struct buf *b, const struct envelope *e)
{
	envelope_put(b, ENV_SENDER, e->sender);
	envelope_put(b, ENV_ENVID, e->envid);
	envelope_put_u8(b, ENV_RET, e->ret);
	envelope_put_u8(b, ENV_BODY, e->body);
	envelope_put_u64(b, ENV_TICKET, e->cause_ticket);
	for (size_t i = 0; i < e->rcpt_count; i++) {
		envelope_put(b, ENV_RCPT, e->rcpt[i].address);
		envelope_put_u8(b, ENV_NOTIFY, e->rcpt[i].notify);
		envelope_put(b, ENV_ORCPT, e->rcpt[i].orcpt);
	}
}

static void compare(const struct envelope *a, const struct envelope *b)
{
	must(str_eq(a->sender, b->sender) && str_eq(a->envid, b->envid));
	must(a->ret == b->ret && a->body == b->body && a->cause_ticket == b->cause_ticket);
	must(a->rcpt_count == b->rcpt_count);
	for (size_t i = 0; i < a->rcpt_count; i++) {
		must(str_eq(a->rcpt[i].address, b->rcpt[i].address));
		must(a->rcpt[i].notify == b->rcpt[i].notify);
		must(str_eq(a->rcpt[i].orcpt, b->rcpt[i].orcpt));
		check_text(a->rcpt[i].address, ENV_ADDRESS_MAX);
		check_text(a->rcpt[i].orcpt, ENV_ORCPT_MAX);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = {(const char *)data, size};
	struct envelope e, walked, back;
	size_t walked_rcpts = 0;
	int rc = envelope_decode(&e, bytes);
	must(envelope_walk(&walked, bytes, count, &walked_rcpts) == rc);
	if (rc != 0)
		return 0;
	must(walked_rcpts == e.rcpt_count && walked.rcpt_count == e.rcpt_count && walked_rcpts > 0);
	check_text(e.sender, ENV_ADDRESS_MAX);
	check_text(e.campaign, ENV_TEXT_MAX);
	struct buf b;
	buf_init(&b, 16 * ENVELOPE_MAX);
	write_again(&b, &e);
	if (b.n <= ENVELOPE_MAX) {
		must(envelope_decode(&back, (struct str){(const char *)b.p, b.n}) == 0);
		compare(&e, &back);
		envelope_fini(&back);
	}
	buf_fini(&b);
	envelope_fini(&e);
	return 0;
}

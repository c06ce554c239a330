/* SPDX-License-Identifier: ISC */
/*
 * A server made of the input's bytes against the whole dialogue, without a network. The first bytes
 * choose recipients, transactions and how the bytes are cut; a byte 0xff in the stream is an event
 * of the session's side (content sent, dot out, connection lost, another job, QUIT). Whatever
 * comes: each transaction that has begun is reported once, with each recipient decided; nothing is
 * a delivery unless its dot was out.
 */
#include "smtp-out/dialogue.h"
#include <stdlib.h>
#include <string.h>

enum { TXNS_MAX = 4 };

static struct {
	struct dialogue *d;
	bool content_done; /* the dot of the oldest is written */
	unsigned given, results, readies;
	unsigned char rcpts;
	uint8_t body;
} world;

static void fuzz_ready(void *ctx)
{
	(void)ctx;
	must(++world.readies == 1);
}

static void fuzz_result(void *ctx, struct txn *t)
{
	(void)ctx;
	world.results++;
	must(world.results <= world.given);
	for (unsigned i = 0; i < t->rcpt_count; i++) {
		const struct outcome *o = &t->outcomes[i];
		must(o->decided && o->verdict < VERDICT_COUNT && o->stage < STAGE_COUNT);
		must(o->verdict != VERDICT_DELIVERED || (o->past_dot && o->code / 100 == 2));
		must(txn_text(t, o).n <= REPLY_TEXT_MAX);
	}
}

/* One line, of a transaction that is there, of a recipient that it has. */
static void fuzz_failed(void *ctx, const struct dialogue_failure *f)
{
	(void)ctx;
	must(f->stage < STAGE_COUNT && f->text && !strpbrk(f->text, "\r\n"));
	must(f->rcpt < 0 || (f->txn && (unsigned)f->rcpt < f->txn->rcpt_count));
	must(!f->txn || f->txn == world.d->active || f->txn == world.d->active->next);
}

static void fuzz_said(void *ctx, char who, struct str line)
{
	(void)ctx;
	must((who == '<' || who == '>') && (line.n == 0 || !memchr(line.p, '\n', line.n)));
}

static struct txn *make_txn(void)
{
	struct message m = {.fd = -1, .content_bytes = 1000};
	m.envelope.sender = STR("a@b.example");
	m.envelope.body = world.body;
	m.envelope.rcpt_count = world.rcpts;
	m.envelope.rcpt = xcalloc(world.rcpts, sizeof(*m.envelope.rcpt));
	unsigned char ordinals[2 * 256];
	for (unsigned i = 0; i < world.rcpts; i++) {
		m.envelope.rcpt[i].address = STR("c@d.example");
		ordinals[2 * i] = 0;
		ordinals[2 * i + 1] = (unsigned char)i;
	}
	world.given++;
	struct env_rcpt *owned = m.envelope.rcpt;
	struct txn *t = txn_new(
	    world.given, 7, &m, (struct str){(const char *)ordinals, 2U * world.rcpts}, NULL);
	must(t->message.envelope.rcpt == owned);
	return t;
}

/* message_fini() frees only what segread made: give the recipients back ourselves at the end. */
static struct env_rcpt *kept[TXNS_MAX];

static void add(void)
{
	if (world.given >= TXNS_MAX)
		return;
	struct txn *t = make_txn();
	kept[world.given - 1] = t->message.envelope.rcpt;
	dialogue_add(world.d, t);
}

static void send_all(void)
{
	struct dialogue *d = world.d;
	dialogue_sent(d, d->out.n);
	buf_consume(&d->out, d->out.n);
}

static void event(uint8_t what)
{
	struct dialogue *d = world.d;
	switch (what % 8) {
	case 0:
		if (d->content)
			dialogue_content_end(d);
		break;
	case 1:
		send_all();
		break;
	case 2:
		if (d->dot_left > 0) { /* a part of it */
			dialogue_sent(d, 1);
			buf_consume(&d->out, 1);
		}
		break;
	case 3:
		add();
		break;
	case 4:
		dialogue_quit(d);
		break;
	case 5:
		dialogue_fail(d, (enum conn_cause)(what / 8 % CONN_CAUSE_COUNT), "something");
		break;
	case 6:
		dialogue_secured(d);
		break;
	case 7:
		dialogue_drop_queue(d);
		break;
	}
}

/* Feeds n bytes; what the dialogue leaves is kept in front of the next. */
static void feed(struct buf *in, const uint8_t *p, size_t n)
{
	buf_put(in, p, n);
	struct str all = {(const char *)in->p, in->n};
	if (world.d->state != DIALOGUE_TALKING)
		all.n = 0;
	dialogue_feed(world.d, &all);
	buf_consume(in, in->n - all.n);
	must(world.d->state != DIALOGUE_TALKING || in->n <= REPLY_LINE_MAX);
}

static void play(const uint8_t *data, size_t size, size_t step)
{
	struct buf in;
	buf_init(&in, 1 << 20);
	for (size_t at = 0; at < size;) {
		if (data[at] == 0xff && at + 1 < size) {
			event(data[at + 1]);
			at += 2;
			continue;
		}
		size_t n = 0;
		while (at + n < size && n < step && data[at + n] != 0xff)
			n++;
		if (n == 0)
			break;
		feed(&in, data + at, n);
		at += n;
		/* unless the input says otherwise, the socket takes everything at once */
		if (step % 2)
			send_all();
		if (step % 2 && world.d->content)
			dialogue_content_end(world.d), send_all();
	}
	buf_fini(&in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 4)
		return 0;
	struct dialogue d;
	memset(&world, 0, sizeof(world));
	memset(kept, 0, sizeof(kept));
	world.d = &d;
	world.rcpts = data[0] ? data[0] : 1;
	world.body = data[1] & 3;
	dialogue_init(&d, &(struct dialogue_spec){.ehlo = "fuzz.example",
			      .tls = data[1] & 4,
			      .ignore_8bitmime = data[1] & 8,
			      .tls_required = data[1] & 16,
			      .failed = fuzz_failed,
			      .said = fuzz_said,
			      .ready = fuzz_ready,
			      .result = fuzz_result});
	for (unsigned i = 0; i < data[2] % TXNS_MAX; i++)
		add();
	dialogue_start(&d);
	play(data + 4, size - 4, data[3] ? data[3] : 1);
	dialogue_fail(&d, CONN_LOST, "the end");
	must(d.state == DIALOGUE_ENDED && !d.active && !d.queue);
	dialogue_fini(&d);
	for (size_t i = 0; i < TXNS_MAX; i++)
		free(kept[i]);
	return 0;
}

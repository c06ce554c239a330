/* SPDX-License-Identifier: ISC */
/* Journal records: any bytes at any position, and every decoder on any payload. */
#include "qmgr/logger_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char sink;

static void touch(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		sink ^= (unsigned char)s.p[i];
}

static void decode_all(struct str payload)
{
	struct j_start start;
	struct j_intent intent;
	struct j_changed changed;
	struct j_received received;
	struct j_removed removed;
	struct j_reported reported;
	struct j_settled settled;
	struct j_queue queue;
	struct j_state one;
	struct j_event event;
	struct j_outcome outcome;
	struct j_rcpt rcpt;
	if (j_start_decode(payload, &start) == 0)
		sink ^= (unsigned char)start.wall_ms;
	if (j_intent_decode(payload, &intent) == 0)
		touch(intent.ordinals);
	if (j_changed_decode(payload, &changed) == 0)
		touch(changed.vmta), touch(changed.pool), sink ^= changed.flags;
	if (j_received_decode(payload, &received) == 0)
		touch(received.rcpts);
	if (j_removed_decode(payload, &removed) == 0)
		touch(removed.why);
	if (j_reported_decode(payload, &reported) == 0)
		sink ^= reported.kind;
	if (j_settled_decode(payload, &settled) == 0)
		touch(settled.why);
	if (j_queue_decode(payload, &queue) == 0) {
		touch(queue.relay);
		touch(queue.text);
	}
	if (j_state_decode(payload, &one) == 0) {
		touch(one.key);
		touch(one.value);
	}
	if (j_event_decode(payload, &event) == 0) {
		struct buf b;
		buf_init(&b, 1 << 20);
		event_print(&b, &event);
		event_subject(&b, &event);
		event_letter(&b, &event);
		for (size_t i = 0; i < b.n; i++)
			must(b.p[i] >= 0x20 || b.p[i] == '\n');
		buf_fini(&b);
	}
	if (j_outcome_decode(payload, &outcome) != 0)
		return;
	struct j_rcpt_reader reader = j_rcpt_reader(&outcome);
	while (j_rcpt_take(&reader, &rcpt) == 1) {
		touch(rcpt.result.text);
		touch(rcpt.result.address);
		touch(rcpt.place.queue);
		touch(rcpt.place.mode);
		touch(rcpt.rule);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = {(const char *)data, size};
	uint64_t pos = JOURNAL_POS(1, 0);
	struct journal_record r;
	decode_all(bytes);
	while (journal_record_take(&bytes, &pos, &r) == 1)
		decode_all(r.payload);
	/* The same bytes as a payload of a good record come back as they were. */
	struct buf b;
	buf_init(&b, size + 64);
	size_t begin = journal_record_begin(&b, J_REMOVED);
	buf_put(&b, data, size);
	journal_record_end(&b, begin);
	journal_record_seal(b.p, b.n, 4096);
	bytes = (struct str){(const char *)b.p, b.n};
	pos = 4096;
	must(journal_record_take(&bytes, &pos, &r) == 1);
	must(str_eq(r.payload, (struct str){(const char *)data, size}));
	buf_fini(&b);
	return 0;
}

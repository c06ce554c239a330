/* SPDX-License-Identifier: ISC */
/*
 * Reports that the bouncer owes, each known by a ticket that is never used again.
 *
 * A DSN exactly once: the report stands in the journal with the outcome that asked for it, and then
 * as a row, until the DSN itself is taken in (its record names ticket and cause) or the bouncer
 * says that none is owed. Both leave a record, and the row goes in the commit that has the DSN's
 * own rows. So at any moment of death exactly one of the two is known: the report (it is asked for
 * again) or the DSN.
 *
 * A new bouncer is asked only when what the old one wrote has been read to its end (peers.c): a DSN
 * that it finished is found there, not made again.
 *
 * An alert to operators is a report of kind DSN_ALERT, on no message: its id and segment are 0, its
 * results are alert_put()'s. All else holds for it, too.
 *
 * The message stays alive, and its segment with it, while a report on it is owed. The replies are
 * kept in memory only for the next KEEP reports; the others' are read back from their rows.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <inttypes.h>
#include <stdlib.h>

enum {
	ASKED_MAX = 256, /* reports that the bouncer has at once */
	KEEP = 20000,	 /* reports with their replies in memory: tens of megabytes */
};

void bounces_init(struct qmgr *q, uint64_t first_ticket)
{
	q->bounces.next_ticket = first_ticket;
}

static void free_bounce(struct bounce *b)
{
	free(b->results);
	free(b);
}

void bounces_fini(struct qmgr *q)
{
	size_t at = 0;
	for (struct bounce *b; (b = map_next(&q->bounces.tickets, &at)) != NULL;)
		free_bounce(b);
	map_fini(&q->bounces.tickets);
	map_fini(&q->bounces.by_id);
	free(q->bounces.changed);
	free(q->bounces.settled);
}

uint64_t bounces_ticket(struct qmgr *q)
{
	return q->bounces.next_ticket++;
}

uint8_t bounces_kind(enum j_report report)
{
	return report == REPORT_DELAYED	  ? DSN_DELAYED
	       : report == REPORT_SUCCESS ? DSN_SUCCESS
					  : DSN_FAILED;
}

size_t bounces_of(struct qmgr *q, uint64_t id)
{
	return (size_t)(uintptr_t)map_find(&q->bounces.by_id, id);
}

static void count_for(struct qmgr *q, const struct bounce *b, int by)
{
	uint64_t id = b->id;
	if (b->kind == DSN_ALERT) {
		q->bounces.alerts += by > 0 ? 1 : (size_t)-1;
		return;
	}
	size_t n = bounces_of(q, id);
	n = by > 0 ? n + 1 : n - 1;
	if (n == 0)
		map_take(&q->bounces.by_id, id);
	else
		map_set(&q->bounces.by_id, id, (void *)(uintptr_t)n);
}

static void enqueue(struct bounces *bs, struct bounce *b)
{
	b->queued = true;
	b->prev = bs->last;
	b->next = NULL;
	*(bs->last ? &bs->last->next : &bs->first) = b;
	bs->last = b;
}

static void dequeue(struct bounces *bs, struct bounce *b)
{
	if (!b->queued)
		return;
	*(b->prev ? &b->prev->next : &bs->first) = b->next;
	*(b->next ? &b->next->prev : &bs->last) = b->prev;
	b->queued = false;
}

static void set_results(struct bounce *b, struct str results)
{
	b->results = xmalloc(results.n + 1);
	memcpy(b->results, results.p, results.n);
	b->results_n = (uint32_t)results.n;
}

static void will_write(struct bounces *bs, struct bounce *b)
{
	b->dirty = true;
	if (bs->changed_count == bs->changed_cap) {
		bs->changed_cap = bs->changed_cap ? bs->changed_cap * 2 : 64;
		bs->changed = xrealloc(bs->changed, bs->changed_cap * sizeof(struct bounce *));
	}
	bs->changed[bs->changed_count++] = b;
}

void bounces_add(struct qmgr *q, const struct row_bounce *row, bool stored)
{
	struct bounces *bs = &q->bounces;
	if (map_find(&bs->tickets, row->ticket) != NULL)
		return; /* row and journal say the same */
	struct bounce *b = xcalloc(1, sizeof(*b));
	*b = (struct bounce){.ticket = row->ticket,
	    .id = row->id,
	    .segment = row->segment,
	    .offset = row->offset,
	    .bytes = row->bytes,
	    .kind = row->kind,
	    .stored = stored,
	    .arrived_ms = row->arrived_ms,
	    .retry_until_ms = row->retry_until_ms};
	if (!stored || bs->tickets.n < KEEP)
		set_results(b, row->results);
	map_set(&bs->tickets, b->ticket, b);
	count_for(q, b, 1);
	enqueue(bs, b);
	if (!stored)
		will_write(bs, b);
	if (bs->next_ticket <= b->ticket)
		bs->next_ticket = b->ticket + 1;
}

const struct bounce *bounces_find(const struct qmgr *q, uint64_t ticket)
{
	return map_find(&q->bounces.tickets, ticket);
}

static void will_delete(struct bounces *bs, uint64_t ticket)
{
	if (bs->settled_count == bs->settled_cap) {
		bs->settled_cap = bs->settled_cap ? bs->settled_cap * 2 : 64;
		bs->settled = xrealloc(bs->settled, bs->settled_cap * sizeof(*bs->settled));
	}
	bs->settled[bs->settled_count++] = ticket;
}

static void forget_change(struct bounces *bs, const struct bounce *b)
{
	for (size_t i = bs->changed_count; b->dirty && i-- > 0;)
		if (bs->changed[i] == b) {
			bs->changed[i] = bs->changed[--bs->changed_count];
			return;
		}
}

bool bounces_settle(struct qmgr *q, uint64_t ticket, uint64_t id)
{
	struct bounces *bs = &q->bounces;
	struct bounce *b = map_find(&bs->tickets, ticket);
	if (b == NULL || b->id != id)
		return false;
	map_take(&bs->tickets, ticket);
	dequeue(bs, b);
	forget_change(bs, b);
	if (b->asked)
		bs->asked--;
	if (b->stored)
		will_delete(bs, ticket);
	count_for(q, b, -1);
	if (b->kind != DSN_ALERT && q->recover.phase >= RECOVER_WRITERS &&
	    core_find(q->core, id) == 0 && bounces_of(q, id) == 0)
		message_removed(q, id, segments_find(q, b->segment), b->bytes, STR(""));
	free_bounce(b);
	return true;
}

static void read_back(struct qmgr *q, struct bounce *b)
{
	struct row_key key = row_key_number(b->ticket);
	struct row_bounce row;
	struct buf value;
	buf_init(&value, 4 << 20);
	int rc = store_get(q->store, STORE_BOUNCE, &key, &value);
	if (rc == 0)
		rc = row_bounce_decode(
		    row_key_str(&key), (struct str){(const char *)value.p, value.n}, &row);
	if (rc == 0)
		set_results(b, row.results);
	else
		log_error("report %" PRIu64 " on message %016" PRIx64 " cannot be read back: %s",
		    b->ticket, b->id, strerror(-rc));
	buf_fini(&value);
}

static bool ask(struct qmgr *q, struct peer *bouncer, struct bounce *b)
{
	struct segment *s = segments_find(q, b->segment);
	if (b->results == NULL)
		read_back(q, b);
	if (b->results == NULL)
		return false;
	if (b->kind != DSN_ALERT && (s == NULL || !segment_show(q, s, bouncer)))
		return false;
	chan_send_bounce(bouncer->chan, &(struct msg_bounce){.ticket = b->ticket,
					    .id = b->id,
					    .segment = b->segment,
					    .offset = b->offset,
					    .kind = b->kind,
					    .arrived_ms = (uint64_t)b->arrived_ms,
					    .retry_until_ms = (uint64_t)b->retry_until_ms,
					    .rcpts = {(const char *)b->results, b->results_n}});
	b->asked = true;
	q->bounces.asked++;
	return true;
}

void bounces_ask(struct qmgr *q)
{
	struct bounces *bs = &q->bounces;
	if (bs->first == NULL || bs->asked >= ASKED_MAX || q->stopping)
		return;
	struct peer *bouncer = peers_find(q, PROC_bouncer, -1);
	while (bouncer != NULL && bs->first != NULL && bs->asked < ASKED_MAX) {
		struct bounce *b = bs->first;
		dequeue(bs, b);
		if (!ask(q, bouncer, b))
			log_error("report on message %016" PRIx64
				  " cannot be asked for now; it stays owed",
			    b->id);
	}
}

void bounces_ask_again(struct qmgr *q)
{
	struct bounces *bs = &q->bounces;
	size_t at = 0;
	for (struct bounce *b; (b = map_next(&bs->tickets, &at)) != NULL;)
		if (b->asked) {
			b->asked = false;
			enqueue(bs, b);
		}
	bs->asked = 0;
}

static void put_row(struct store_ops *ops, const struct bounce *b)
{
	struct row_key key = row_key_number(b->ticket);
	struct row_bounce row = {.ticket = b->ticket,
	    .id = b->id,
	    .segment = b->segment,
	    .offset = b->offset,
	    .bytes = b->bytes,
	    .kind = b->kind,
	    .arrived_ms = b->arrived_ms,
	    .retry_until_ms = b->retry_until_ms,
	    .results = {(const char *)b->results, b->results_n}};
	size_t at = store_ops_put_begin(ops, STORE_BOUNCE, &key);
	row_bounce_encode(&ops->b, &row);
	store_ops_put_end(ops, at);
}

void bounces_commit(struct qmgr *q, struct store_ops *ops)
{
	struct bounces *bs = &q->bounces;
	for (size_t i = 0; i < bs->changed_count; i++) {
		struct bounce *b = bs->changed[i];
		put_row(ops, b);
		b->dirty = false;
		b->stored = true;
	}
	bs->changed_count = 0;
	for (size_t i = 0; i < bs->settled_count; i++) {
		struct row_key key = row_key_number(bs->settled[i]);
		store_ops_delete(ops, STORE_BOUNCE, &key);
	}
	bs->settled_count = 0;
}

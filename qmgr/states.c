/* SPDX-License-Identifier: ISC */
/*
 * What the core remembers of things that are no jobs (modes, clocks, pauses, windows, buckets): it
 * gives each out whole as DECIDE_STATE, and takes it back at the next start. Here nobody knows what
 * stands in them.
 *
 * A state is a record of the journal, appended in the turn in which the core said it, so that it is
 * on file before anything leaves that the core decided after it; and a row of the index, by the
 * commit that moves the journal's position past that record. At a start the rows are read, then the
 * journal's records in their order: the last word on each key counts, and it is given back before
 * the recipients are, so that mail of a paused queue never stands as ready.
 *
 * Bad rows and states that the core does not know (any more) are named in the log and left alone:
 * the start goes on without them. A crash before the record is on file leaves the state before it,
 * and nothing that followed from the new one has left.
 */
#include "common/log.h"
#include "qmgr/recover.h"
#include <inttypes.h>
#include <stdlib.h>

enum { RESTORE_A_TURN = 5000 };

struct kept_state {		 /* as the start finds it */
	struct kept_state *next; /* of the same hash */
	bool gone;
	size_t key_n;
	char *value; /* owned */
	size_t value_n;
	char key[];
};

static void put_row(struct qmgr *q, const struct j_state *r)
{
	struct row_key key = row_key_state(r->key);
	struct store_ops *ops = &q->commit.other;
	if (r->gone) {
		store_ops_delete(ops, STORE_STATE, &key);
	} else {
		size_t at = store_ops_put_begin(ops, STORE_STATE, &key);
		row_state_encode(&ops->b, &(struct row_state){.key = r->key, .value = r->value});
		store_ops_put_end(ops, at);
	}
	commit_changed(q);
}

void states_keep(struct qmgr *q, const struct core_decision *d)
{
	struct j_state r = {.gone = d->gone, .key = d->key, .value = d->state};
	j_state_encode(journal_buf(q->journal), &r);
	put_row(q, &r);
}

/* --- the start -----------------------------------------------------------------------------------
 */

static uint64_t hash_of(struct str key)
{
	return row_hash(0, 0, key);
}

static struct kept_state *find(struct redo *redo, struct str key)
{
	struct kept_state *s = map_find(&redo->states, hash_of(key));
	while (s != NULL && !str_eq((struct str){s->key, s->key_n}, key))
		s = s->next;
	return s;
}

static struct kept_state *get(struct redo *redo, struct str key)
{
	struct kept_state *s = find(redo, key);
	if (s != NULL)
		return s;
	s = xcalloc(1, sizeof(*s) + key.n + 1);
	s->key_n = key.n;
	str_copy(s->key, key.n + 1, key);
	s->next = map_find(&redo->states, hash_of(key));
	map_set(&redo->states, hash_of(key), s);
	return s;
}

static void set(struct redo *redo, struct str key, struct str value, bool gone)
{
	struct kept_state *s = get(redo, key);
	free(s->value);
	s->gone = gone;
	s->value_n = value.n;
	s->value = xmalloc(value.n + 1);
	if (value.n > 0)
		memcpy(s->value, value.p, value.n);
}

void states_load(void *ctx, struct str key, struct str value)
{
	struct qmgr *q = ctx;
	struct row_state row;
	if (row_state_decode(key, value, &row) != 0)
		recover_damaged_row(q, "state", key);
	else
		set(q->recover.redo, row.key, row.value, false);
}

void states_redo(struct qmgr *q, struct str payload)
{
	struct j_state r;
	if (j_state_decode(payload, &r) != 0)
		return;
	set(q->recover.redo, r.key, r.value, r.gone);
	put_row(q, &r); /* the position is about to move past the record */
}

static void restore(struct qmgr *q, const struct kept_state *s)
{
	struct str key = {s->key, s->key_n};
	char text[200];
	if (s->gone)
		return;
	if (core_restore(q->core, key, (struct str){s->value, s->value_n}, q->now_ms) == 0)
		return;
	q->counters.damaged++;
	log_error("index: the state \"%s\" cannot be used (damaged, or of another version): it is "
		  "as if it had not been",
	    log_clean(text, sizeof(text), key));
}

bool states_restore(struct qmgr *q)
{
	struct redo *redo = q->recover.redo;
	unsigned n = 0;
	struct kept_state *s = NULL;
	while (n < RESTORE_A_TURN && (s = map_next(&redo->states, &redo->states_at)) != NULL)
		for (; s != NULL; s = s->next, n++)
			restore(q, s);
	return n < RESTORE_A_TURN;
}

void states_free(struct redo *redo)
{
	size_t at = 0;
	for (struct kept_state *s; (s = map_next(&redo->states, &at)) != NULL;)
		while (s != NULL) {
			struct kept_state *next = s->next;
			free(s->value);
			free(s);
			s = next;
		}
	map_fini(&redo->states);
}

/* SPDX-License-Identifier: ISC */
/*
 * Rules on replies, as far as they are this process' affair: each failed reply is run once through
 * the lists that the grant names, and what matched goes to qmgr with the report that the reply
 * belongs to: the transaction's RESULT, or CONN_CLOSED for what was said of the connection. What a
 * match does is decided there.
 *
 * A reply that succeeds never comes here, so that rules cost nothing where all is well.
 */
#include "common/log.h"
#include "common/match.h"
#include "smtp-out/session_impl.h"

enum { HIT_BYTES = 14 }; /* hit_put()'s, without the object */

/* All of a hit or nothing of it. */
static void keep(struct out *o, struct buf *to, const struct rule_hit *hit)
{
	if (to->n + HIT_BYTES + hit->object.n <= to->max) {
		hit_put(to, hit);
		return;
	}
	if (!o->hits_cut)
		log_warn("more rules matched than a report holds: the rest is left out");
	o->hits_cut = true;
}

void patterns_on_failure(void *session, const struct dialogue_failure *f)
{
	struct session *s = session;
	struct out *o = s->out;
	struct rule_hit hits[HITS_MAX];
	if (!o->matcher)
		return;
	size_t n = matcher_run(o->matcher, str_of(s->grant.patterns), str_of(f->text), f->stage,
	    f->own, hits, HITS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (f->txn && f->rcpt >= 0)
			hits[i].ordinal = f->txn->ordinals[f->rcpt];
		keep(o, f->txn ? &f->txn->hits : &s->hits, &hits[i]);
	}
	o->counters.hits += n;
}

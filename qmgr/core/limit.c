/* SPDX-License-Identifier: ISC */
/*
 * Limits: counters that a connection counts against. All that apply are asked here and nowhere
 * else, in the order of enum limit_kind, and are taken and given together, so that a new kind of
 * limit is one more member of the set.
 */
#include "qmgr/core/internal.h"

int limit_admit(const struct limit_set *set)
{
	for (int i = 0; i < LIMIT_KINDS; i++)
		if (set->of[i] && set->of[i]->used >= set->of[i]->max)
			return i;
	return LIMIT_KINDS;
}

void limit_take(struct limit_set *set)
{
	for (int i = 0; i < LIMIT_KINDS; i++)
		if (set->of[i])
			set->of[i]->used++;
}

void limit_give(struct limit_set *set)
{
	for (int i = 0; i < LIMIT_KINDS; i++) {
		if (!set->of[i])
			continue;
		must(set->of[i]->used > 0);
		set->of[i]->used--;
	}
}

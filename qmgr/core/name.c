/* SPDX-License-Identifier: ISC */
/*
 * Interned names: one copy of each text, compared by address, freed with its last reference.
 * Tenants, campaigns, hosts, sources, domains and virtual MTAs are named by them.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

struct name *name_find(const struct core *core, struct str text)
{
	uint64_t hash = hash_bytes(core->seed, text);

	for (struct node *i = table_first(&core->names, hash); i; i = table_next(i))
		if (str_eq(name_str(OWNER(i, struct name, node)), text))
			return OWNER(i, struct name, node);
	return NULL;
}

struct name *name_get(struct core *core, struct str text)
{
	struct name *n;

	if (text.n == 0 && core->no_source) /* tenant and campaign of mail that has none */
		return name_keep(core->no_source);
	if (text.n > UINT16_MAX)
		text.n = UINT16_MAX;
	n = name_find(core, text);
	if (n) {
		n->refs++;
		return n;
	}
	n = xmalloc(sizeof(*n) + text.n);
	n->refs = 1;
	n->n = (uint16_t)text.n;
	if (text.n)
		memcpy(n->p, text.p, text.n);
	table_add(&core->names, &n->node, hash_bytes(core->seed, text));
	return n;
}

struct name *name_keep(struct name *n)
{
	n->refs++;
	return n;
}

void name_drop(struct core *core, struct name *n)
{
	if (!n || --n->refs)
		return;
	table_remove(&core->names, &n->node);
	free(n);
}

/* SPDX-License-Identifier: ISC */
/*
 * Budgets: limits that many queues share.
 */
#include "qmgr/core/internal.h"

struct budget *budget_open(
    struct core *core, enum budget_scope scope, struct str name, const struct conf_node *holder)
{
	(void)core;
	(void)scope;
	(void)name;
	(void)holder;
	return NULL;
}

void budget_close(struct core *core, struct budget **b)
{
	(void)core;
	*b = NULL;
}

void limit_queue(struct core *core, struct queue *q)
{
	(void)core;
	q->limit.max = q->ceiling < q->e.max_smtp_out ? q->ceiling : q->e.max_smtp_out;
}

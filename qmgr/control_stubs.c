/* SPDX-License-Identifier: ISC */
/*
 * Weak bodies of what the core does not do yet, so that the verbs link; each ends when the core's
 * own function comes. Goes away before delivery controls are complete.
 */
#include "qmgr/shell.h"
#include <errno.h>

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define WEAK __attribute__((weak))

WEAK int core_pause(struct core *core, enum core_scope scope, struct str name, struct str at,
    int64_t until_ms, struct str who, int64_t now_ms)
{
	return -ENOENT;
}
WEAK size_t core_resume(struct core *core, enum core_scope scope, struct str name, struct str at,
    struct str who, int64_t now_ms)
{
	return 0;
}
WEAK size_t core_holds(
    const struct core *core, struct core_cursor *cursor, struct hold_view *out, size_t n)
{
	return 0;
}

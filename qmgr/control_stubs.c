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
WEAK int core_set_mode(struct core *core, struct str queue, struct str mode, int64_t until_ms,
    struct str who, int64_t now_ms)
{
	return -ENOENT;
}
WEAK int core_reset(struct core *core, struct str queue, struct str who, int64_t now_ms)
{
	return -ENOENT;
}
WEAK int core_reroute(
    struct core *core, struct str queue, struct str vmta, struct str who, int64_t now_ms)
{
	return -ENOENT;
}
WEAK size_t core_select(const struct core *core, const struct core_filter *filter,
    struct core_cursor *cursor, job_ref *out, size_t n, unsigned budget, bool *more)
{
	return core_jobs(core, cursor, out, n, budget, more);
}
WEAK void core_bounce(struct core *core, job_ref ref, struct str text, int64_t now_ms)
{
}
WEAK size_t core_limits(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct core_limit_view *out, size_t n)
{
	return 0;
}
WEAK int core_why_queue(const struct core *core, struct str target, struct core_why *why,
    struct core_limit_view *limits, size_t *n)
{
	return -ENOENT;
}
WEAK int core_why_job(const struct core *core, job_ref ref, struct core_why *why,
    struct core_limit_view *limits, size_t *n)
{
	return -ENOENT;
}
WEAK size_t core_explain(
    const struct core *core, struct str domain, struct str vmta, struct core_explain *out, size_t n)
{
	return 0;
}
WEAK void core_arithmetic(
    const struct core *core, struct str domain, struct str vmta, struct core_arithmetic *out)
{
	*out = (struct core_arithmetic){0};
}
WEAK size_t core_queue_notes(
    const struct core *core, struct str queue, struct queue_note *out, size_t n)
{
	return 0;
}
WEAK void core_hits(struct core *core, const struct rule_hit *hits, size_t n)
{
}
WEAK void core_source_bindable(struct core *core, struct str address, bool ok, int64_t now_ms)
{
}
WEAK void core_unclean(struct core *core, int64_t now_ms)
{
}
WEAK int core_disable_source(struct core *core, struct str address, struct str queue,
    int64_t until_ms, struct str who, int64_t now_ms)
{
	return -ENOENT;
}
WEAK size_t core_enable_source(
    struct core *core, struct str address, struct str queue, struct str who, int64_t now_ms)
{
	return 0;
}

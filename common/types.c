/* SPDX-License-Identifier: ISC */
/* The names of the small enumerations. Logs, control answers and pattern lists use them as they
 * stand. */
#include "common/types.h"
#include "common/check.h"

static const char *const proc_names[PROC_COUNT] = {
    [PROC_MASTER] = "master",
#define PROC(id, file, user, instances, root) [PROC_##id] = file,
#include "common/procs.def"
#undef PROC
};

static const char *const stage_names[STAGE_COUNT] = {
    [STAGE_CONNECT] = "connect",
    [STAGE_GREETING] = "greeting",
    [STAGE_EHLO] = "ehlo",
    [STAGE_STARTTLS] = "starttls",
    [STAGE_AUTH] = "auth",
    [STAGE_MAIL] = "mail",
    [STAGE_RCPT] = "rcpt",
    [STAGE_DATA] = "data",
    [STAGE_DOT] = "dot",
    [STAGE_QUIT] = "quit",
    [STAGE_INTERNAL] = "internal",
};

const char *proc_name(unsigned id)
{
	return id < COUNT_OF(proc_names) ? proc_names[id] : "?";
}

const char *stage_name(unsigned stage)
{
	return stage < COUNT_OF(stage_names) ? stage_names[stage] : "?";
}

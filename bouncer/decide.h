/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/envelope.h"
#include "common/types.h"
/*
 * Whether a report is owed. Pure. NULL: it is; else the reason why it is not, for BOUNCE_NONE and
 * the log.
 */
const char *decide_message(const struct envelope *e);
const char *decide_rcpt(enum dsn_kind kind, uint8_t notify);

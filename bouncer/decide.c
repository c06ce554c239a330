/* SPDX-License-Identifier: ISC */
/*
 * The rules of RFC 3461 4.1 and 6.1 and RFC 5321 6.1 on who is told what. A message from the null
 * sender, or one that is itself a report, is never reported on: two suites pointed at each other
 * stop after one hop. Without NOTIFY the sender wants to hear of failures and, where qmgr asks for
 * it (notify-of-delay-every), of delays; of success only when NOTIFY said so.
 */
#include "bouncer/decide.h"

const char *decide_message(const struct envelope *e)
{
	if (e->sender.n == 0)
		return "null sender";
	if (e->has_cause)
		return "it is a report itself";
	return NULL;
}

const char *decide_rcpt(enum dsn_kind kind, uint8_t notify)
{
	static const uint8_t bit[DSN_KIND_COUNT] = {
	    [DSN_FAILED] = NOTIFY_FAILURE,
	    [DSN_DELAYED] = NOTIFY_DELAY,
	    [DSN_SUCCESS] = NOTIFY_SUCCESS,
	};
	if (kind >= DSN_KIND_COUNT)
		return "no such kind of report";
	if (notify == NOTIFY_ABSENT)
		return kind == DSN_SUCCESS ? "success was not asked for" : NULL;
	if (notify & NOTIFY_NEVER)
		return "NOTIFY=NEVER";
	return notify & bit[kind] ? NULL : "not among what NOTIFY asked for";
}

/* SPDX-License-Identifier: ISC */
/*
 * Values as control answers have them, and arguments as they came.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <sysexits.h>
#include <time.h>

json_t *say_text(struct str s)
{
	char clean[1024];
	return json_string(log_clean(clean, sizeof(clean), s));
}

json_t *say_time(int64_t wall_ms)
{
	time_t s = (time_t)(wall_ms / 1000);
	struct tm tm;
	char out[40];
	if (wall_ms <= 0 || gmtime_r(&s, &tm) == NULL ||
	    strftime(out, sizeof(out), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		return json_null();
	return json_string(out);
}

/* Steady time of the core to what a clock on the wall shows. */
json_t *say_steady(const struct qmgr *q, int64_t ms)
{
	return ms <= 0 || ms == INT64_MAX ? json_null()
					  : say_time(ms - q->now_ms + clock_wall_ms());
}

json_t *say_id(uint64_t id)
{
	char out[RECORD_ID_TEXT];
	record_id_print(out, id);
	return json_string(out);
}

struct str said_arg(const json_t *args, size_t i)
{
	const json_t *a = json_array_get(args, i);
	return json_is_string(a) ? str_of(json_string_value(a)) : STR("");
}

struct str said_option(const json_t *options, const char *name)
{
	const json_t *o = json_object_get(options, name);
	return json_is_string(o) ? str_of(json_string_value(o)) : STR("");
}

bool control_is_serving(const struct qmgr *q, struct control_reply *reply)
{
	if (q->started && !q->stopping)
		return true;
	control_end(reply, EX_TEMPFAIL, "qmgr is %s", q->stopping ? "stopping" : "starting");
	return false;
}

json_t *say_text_or_null(struct str s)
{
	return s.n > 0 ? say_text(s) : json_null();
}

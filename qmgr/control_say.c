/* SPDX-License-Identifier: ISC */
/*
 * Values as control answers have them, and arguments as they came.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <stdio.h>
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

json_t *say_steady_exact(const struct qmgr *q, int64_t ms)
{
	if (ms <= 0 || ms == INT64_MAX)
		return json_null();
	int64_t wall_ms = ms - q->now_ms + clock_wall_ms();
	time_t s = (time_t)(wall_ms / 1000);
	struct tm tm;
	char out[48], second[32];
	if (gmtime_r(&s, &tm) == NULL ||
	    strftime(second, sizeof(second), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
		return json_null();
	snprintf(out, sizeof(out), "%s.%03dZ", second, (int)(wall_ms % 1000));
	return json_string(out);
}

json_t *say_origin(const struct qmgr *q, const struct conf_value *v)
{
	char origin[512];
	if (v == NULL || q->conf == NULL)
		return json_null();
	conf_origin(q->conf, v, origin);
	return say_text(str_of(origin));
}

json_t *say_value(enum conf_opt opt, const struct conf_value *v)
{
	struct buf b;
	buf_init(&b, 65536);
	conf_print_value(&b, opt, v);
	struct str s = {(const char *)b.p, b.n};
	if (s.n >= 2 && s.p[0] == '"' && memchr(s.p + 1, '"', s.n - 2) == NULL)
		s = (struct str){s.p + 1, s.n - 2};
	json_t *text = say_text(s);
	buf_fini(&b);
	return text;
}

bool said_time(struct control_reply *reply, const json_t *options, const char *name, int64_t *ms)
{
	const char *given = control_option(options, name);
	struct conf_value v;
	char why[200];
	*ms = 0;
	if (given == NULL)
		return true;
	/* Bounds and form are those of a rule's `for`: a second to a year. */
	if (conf_parse_value(CO_RULE_for_, str_of(given), &v, why) != 0 || v.num <= 0) {
		control_end(reply, EX_USAGE,
		    "--%s wants a time from 1s to 365d, such as 90s, 1h30m, 2d", name);
		return false;
	}
	*ms = v.num;
	conf_value_fini(&v);
	return true;
}

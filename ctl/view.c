/* SPDX-License-Identifier: ISC */
/*
 * Which columns of which list people see, and which answers are told in words.
 */
#include "ctl/view.h"
#include <inttypes.h>
#include <string.h>

static void cell_connections(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	(void)now_ms;
	snprintf(out, CELL_MAX, "%" PRId64 "/%" PRId64,
	    (int64_t)json_integer_value(json_object_get(row, key)),
	    (int64_t)json_integer_value(json_object_get(row, "connections_max")));
}

/* Mode, and whether it stands still whatever its mode is. */
static void cell_mode(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	bool paused = json_is_true(json_object_get(row, "paused"));
	bool held = json_integer_value(json_object_get(row, "held")) > 0;
	(void)now_ms;
	snprintf(out, CELL_MAX, "%.100s%s%s", say_text(row, key), paused ? ",paused" : "",
	    held ? ",held" : "");
}

void view_limit_text(char out[CELL_MAX], const json_t *limit)
{
	const json_t *per = json_object_get(limit, "per");
	char n[CELL_MAX];
	cell_number(n, (int64_t)json_integer_value(json_object_get(limit, "limit")));
	snprintf(out, CELL_MAX, json_is_string(per) ? "%.100s/%.100s" : "%.100s", n,
	    json_is_string(per) ? json_string_value(per) : "");
}

static void cell_limit(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	(void)key, (void)now_ms;
	view_limit_text(out, row);
}

/* A warm-up also tells where its plan stands. */
static void cell_limit_of(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const json_t *plan = json_object_get(row, "plan");
	(void)now_ms;
	if (plan == NULL)
		snprintf(out, CELL_MAX, "%.200s", say_text(row, key));
	else
		snprintf(out, CELL_MAX,
		    "%.120s (step %lld of %lld: %lld of %lld today, %lld deferred)",
		    say_text(row, key),
		    (long long)json_integer_value(json_object_get(plan, "step")),
		    (long long)json_integer_value(json_object_get(plan, "steps")),
		    (long long)json_integer_value(json_object_get(plan, "attempts")),
		    (long long)json_integer_value(json_object_get(plan, "a_day")),
		    (long long)json_integer_value(json_object_get(plan, "deferred")));
}

/* Of rates: of the burst. */
static void cell_used(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const json_t *burst = json_object_get(row, "burst");
	char used[CELL_MAX], of[CELL_MAX];
	cell_count(used, row, key, now_ms);
	cell_count(of, row, json_is_integer(burst) ? "burst" : "limit", now_ms);
	snprintf(out, CELL_MAX, "%.100s of %.100s", used, of);
}

static void cell_frees(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	char when[CELL_MAX];
	if (!json_is_true(json_object_get(row, "full")))
		str_copy(when, CELL_MAX, STR("now"));
	else if (cell_time(json_object_get(row, key)) == 0)
		str_copy(when, CELL_MAX, STR("when another ends"));
	else
		cell_when(when, row, key, now_ms);
	snprintf(out, CELL_MAX, "%.200s%s", when,
	    json_is_true(json_object_get(row, "binding")) ? " <- binds" : "");
}

/* Until when; without an end, that is said. */
static void cell_end(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	if (cell_time(json_object_get(row, key)) == 0)
		str_copy(out, CELL_MAX, STR("no end"));
	else
		cell_when(out, row, key, now_ms);
}

/* Who, and if nobody: by which rule and because of what. */
static void cell_because(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const char *who = say_text(row, "who"), *rule = say_text(row, "rule"),
		   *text = say_text(row, "text");
	(void)key, (void)now_ms;
	snprintf(out, CELL_MAX, "%.100s%s%s%.200s%s%.300s", who,
	    who[0] != 0 && rule[0] != 0 ? ", " : "", rule[0] != 0 ? "rule " : "", rule,
	    (who[0] != 0 || rule[0] != 0) && text[0] != 0 ? ": " : "", text);
	if (out[0] == 0)
		str_copy(out, CELL_MAX, STR("-"));
}

static void cell_rule(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	(void)now_ms;
	snprintf(out, CELL_MAX, "%.200s:%" PRId64, say_text(row, key),
	    (int64_t)json_integer_value(json_object_get(row, "index")));
}

static void cell_actions(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const char *lasts = say_text(row, "for");
	char actions[CELL_MAX];
	(void)now_ms;
	cell_print(actions, json_object_get(row, key));
	snprintf(out, CELL_MAX, "%.800s%s%.60s", actions, lasts[0] != 0 ? " for " : "", lasts);
}

static const struct column queues[] = {
    {"QUEUE", "queue", cell_plain, false},
    {"RECIPIENTS", "recipients", cell_count, true},
    {"READY", "ready", cell_count, true},
    {"CONNS", "connections", cell_connections, true},
    {"MODE", "mode", cell_mode, false},
    {"NEXT RETRY", "next_retry", cell_when, false},
    {"LAST ERROR", "last_error", cell_plain, false},
    {0},
};
static const struct column messages[] = {
    {"ID", "id", cell_plain, false},
    {"RECIPIENT", "recipient", cell_plain, false},
    {"SENDER", "sender", cell_plain, false},
    {"QUEUE", "queue", cell_plain, false},
    {"TENANT", "tenant", cell_plain, false},
    {"STATE", "state", cell_plain, false},
    {"TRIES", "attempts", cell_count, true},
    {"BYTES", "size", cell_count, true},
    {"ARRIVED", "arrived", cell_when, false},
    {"DUE", "due", cell_when, false},
    {0},
};
const struct column view_limits[] = {
    {"LIMIT", "name", cell_plain, false},
    {"OF", "key", cell_limit_of, false},
    {"VALUE", "limit", cell_limit, true},
    {"USED", "used", cell_used, true},
    {"ONE MORE FITS", "frees", cell_frees, false},
    {"SET IN", "origin", cell_plain, false},
    {0},
};
const struct column view_holds[] = {
    {"SCOPE", "scope", cell_plain, false},
    {"NAME", "name", cell_plain, false},
    {"AT", "at", cell_plain, false},
    {"KIND", "kind", cell_plain, false},
    {"WHAT", "what", cell_plain, false},
    {"SINCE", "since", cell_when, false},
    {"UNTIL", "until", cell_end, false},
    {"BY", "who", cell_because, false},
    {0},
};
/* Where its mail stands still: everywhere, or in so many of its queues. */
static void cell_paused(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	int64_t n = (int64_t)json_integer_value(json_object_get(row, key));
	(void)now_ms;
	if (json_is_true(json_object_get(row, "paused")))
		str_copy(out, CELL_MAX, STR("everywhere"));
	else if (n == 0)
		str_copy(out, CELL_MAX, STR("-"));
	else
		snprintf(out, CELL_MAX, "%" PRId64 " of %" PRId64 " queues", n,
		    (int64_t)json_integer_value(json_object_get(row, "queues")));
}

static const struct column tenants[] = {
    {"TENANT", "tenant", cell_plain, false},
    {"CAMPAIGN", "campaign", cell_plain, false},
    {"WEIGHT", "weight", cell_count, true},
    {"RECIPIENTS", "recipients", cell_count, true},
    {"READY", "ready", cell_count, true},
    {"WAITING", "waiting", cell_count, true},
    {"IN FLIGHT", "in_flight", cell_count, true},
    {"DELIVERED", "delivered", cell_count, true},
    {"DEFERRED", "deferred", cell_count, true},
    {"BOUNCED", "bounced", cell_count, true},
    {"PAUSED", "queues_paused", cell_paused, false},
    {0},
};
static const struct column rules[] = {
    {"RULE", "list", cell_rule, false},
    {"HITS", "hits", cell_count, true},
    {"LAST HIT", "last_hit", cell_when, false},
    {"TRIGGER", "trigger", cell_plain, false},
    {"SCOPE", "scope", cell_plain, false},
    {"ACTIONS", "actions", cell_actions, false},
    {"REPLY", "reply", cell_plain, false},
    {"SET IN", "origin", cell_plain, false},
    {0},
};

static const struct view views[] = {
    {"qmgr", "queues", queues, NULL},
    {"qmgr", "messages", messages, NULL},
    {"qmgr", "limits", view_limits, NULL},
    {"qmgr", "tenants", tenants, NULL},
    {"qmgr", "suspensions", view_holds, NULL},
    {"qmgr", "rules", rules, NULL},
    {"qmgr", "queue", NULL, say_queue},
    {"qmgr", "why", NULL, say_why},
    {"qmgr", "explain", NULL, say_explain},
    {"qmgr", "flush", NULL, say_flush},
    {"qmgr", "release", NULL, say_release},
    {"qmgr", "delete", NULL, say_delete},
    {"qmgr", "bounce", NULL, say_bounce},
    {"qmgr", "pause", NULL, say_pause},
    {"qmgr", "resume", NULL, say_resume},
    {"qmgr", "mode", NULL, say_mode},
    {"qmgr", "reset", NULL, say_reset},
    {"qmgr", "reroute", NULL, say_reroute},
    {"qmgr", "events", NULL, say_event},
    {"smtp-out", "trace", NULL, say_trace},
    {"bouncer", "match", NULL, say_match},
};

const struct view *view_find(const char *service, const char *verb)
{
	size_t n = strcspn(service, ".");
	for (size_t i = 0; i < COUNT_OF(views); i++)
		if (strlen(views[i].service) == n && strncmp(views[i].service, service, n) == 0 &&
		    strcmp(views[i].verb, verb) == 0)
			return &views[i];
	return NULL;
}

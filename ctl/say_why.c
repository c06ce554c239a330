/* SPDX-License-Identifier: ISC */
/*
 * why, in two or three plain sentences and the table of limits: what waits, for what, by whose
 * word, until when, and how much is behind it.
 */
#include "ctl/view.h"
#include <string.h>

/* The limit that binds, of the row's limits; NULL: none does. */
static const json_t *binding_limit(const json_t *row)
{
	size_t i;
	json_t *limit;
	json_array_foreach(json_object_get(row, "limits"), i,
	    limit) if (json_is_true(json_object_get(limit, "binding"))) return limit;
	return NULL;
}

static void clean(char out[CELL_MAX], const json_t *row, const char *key)
{
	out[0] = 0;
	if (say_text(row, key)[0] != 0)
		cell_print(out, json_object_get(row, key));
}

/* "max-msg-rate 1,000/h of provider google (providers/google.conf:12)" */
static void put_limit(FILE *out, const json_t *limit)
{
	char value[CELL_MAX], name[CELL_MAX], key[CELL_MAX], origin[CELL_MAX];
	view_limit_text(value, limit);
	clean(name, limit, "name");
	clean(key, limit, "key");
	clean(origin, limit, "origin");
	fprintf(out, "%s %s of %s", name, value, key);
	if (origin[0] != 0)
		fprintf(out, " (%s)", origin);
}

/* False: there is no such time. */
static bool until_ms(const json_t *row, int64_t *at_ms)
{
	*at_ms = cell_time(json_object_get(row, "until"));
	return *at_ms != 0;
}

static void put_limited(FILE *out, const json_t *row, const json_t *limit, int64_t now_ms)
{
	bool rate = json_is_string(json_object_get(limit, "per"));
	char when[CELL_MAX];
	int64_t at_ms;
	fputs(" waits: ", out);
	put_limit(out, limit);
	fputs(" is used up", out);
	if (until_ms(row, &at_ms)) {
		cell_when_ms(when, at_ms, now_ms);
		fprintf(out, "; one more may go %s", when);
	} else if (!rate) {
		fputs("; one more may go when another ends", out);
	}
	fputs(".", out);
}

/* A cause that is no limit: its name, and the words behind it. */
static void put_cause(FILE *out, const char *what, const json_t *row, int64_t now_ms)
{
	char binding[CELL_MAX], text[CELL_MAX], when[CELL_MAX], who[CELL_MAX], rule[CELL_MAX];
	int64_t at_ms;
	clean(binding, row, "binding");
	clean(text, row, "text");
	clean(who, row, "who");
	clean(rule, row, "rule");
	fprintf(out, " %s%s%s", what, binding[0] != 0 ? ": " : "", binding);
	fprintf(out, "%s%s%s%s", who[0] != 0 ? ", by " : "", who, rule[0] != 0 ? ", by rule " : "",
	    rule);
	if (until_ms(row, &at_ms)) {
		cell_until(when, at_ms, now_ms);
		fprintf(out, ", until %s", when);
	}
	fprintf(out, ".%s%s%s", text[0] != 0 ? " The last word on it: " : "", text,
	    text[0] != 0 ? "." : "");
}

static const struct {
	const char *state, *words;
} states[] = {
    {"empty", "is empty: nothing waits there"},
    {"sending", "is being sent"},
    {"ready", "is ready, and goes as soon as it is its turn"},
    {"paused", "is paused"},
    {"suspended", "is suspended"},
    {"retry", "waits for its next attempt"},
    {"route", "waits for the name servers"},
    {"source", "waits for a source address"},
    {"held", "is set aside"},
    {"connecting", "waits for a connection that is being opened"},
    {"in flight", "is being delivered right now"},
};

static const char *words_of(const char *state)
{
	for (size_t i = 0; i < COUNT_OF(states); i++)
		if (strcmp(state, states[i].state) == 0)
			return states[i].words;
	return "waits";
}

static void put_counts(FILE *out, const json_t *row)
{
	const json_t *n = json_object_get(row, "recipients"),
		     *c = json_object_get(row, "connections");
	char waiting[CELL_MAX], open[CELL_MAX];
	if (!json_is_integer(n) || !json_is_integer(c))
		return;
	cell_number(waiting, (int64_t)json_integer_value(n));
	cell_number(open, (int64_t)json_integer_value(c));
	fprintf(out, " %s recipient%s; %s connection%s open.", waiting,
	    json_integer_value(n) == 1 ? " waits" : "s wait", open,
	    json_integer_value(c) == 1 ? " is" : "s are");
}

void say_why_sentences(FILE *out, const json_t *row, const char *target, int64_t now_ms)
{
	const json_t *limit = binding_limit(row);
	const char *state = say_text(row, "state");
	fputs(target, out);
	if (limit != NULL && strcmp(state, "limit") == 0)
		put_limited(out, row, limit, now_ms);
	else
		put_cause(out, words_of(state), row, now_ms);
	put_counts(out, row);
	fputs("\n", out);
}

static void cell_binding(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	clean(out, row, key);
	if (out[0] == 0)
		cell_plain(out, row, "state", now_ms);
}

static const struct column rcpts[] = {
    {"RECIPIENT", "recipient", cell_plain, false},
    {"QUEUE", "queue", cell_plain, false},
    {"STATE", "state", cell_plain, false},
    {"TRIES", "attempts", cell_count, true},
    {"WAITS FOR", "binding", cell_binding, false},
    {"UNTIL", "until", cell_when, false},
    {0},
};

void say_why(FILE *out, const json_t *row, int64_t now_ms)
{
	char target[CELL_MAX];
	const json_t *all = json_object_get(row, "recipients_waiting");
	const char *rcpt = say_text(row, "recipient");
	cell_print(target, json_object_get(row, "target"));
	if (json_array_size(all) == 1 && rcpt[0] != 0)
		cell_print(target, json_object_get(row, "recipient"));
	if (json_array_size(all) > 1) {
		say_table(out, target, all, rcpts, now_ms);
		return;
	}
	say_why_sentences(out, row, target, now_ms);
	say_table(out, "", json_object_get(row, "limits"), view_limits, now_ms);
}

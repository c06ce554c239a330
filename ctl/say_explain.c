/* SPDX-License-Identifier: ISC */
/*
 * explain for people: each value with its place and, below it, what it won against; then what the
 * numbers come to, in a sentence.
 */
#include "ctl/view.h"
#include <string.h>

static size_t width_of(const json_t *values, const char *key)
{
	size_t i, width = 0;
	json_t *row;
	char text[CELL_MAX];
	json_array_foreach(values, i, row)
	{
		cell_print(text, json_object_get(row, key));
		if (cell_width(text) > width)
			width = cell_width(text);
	}
	return width < 40 ? width : 40; /* a long list of times does not push all others away */
}

static bool is_default(const json_t *value)
{
	return strcmp(say_text(value, "origin"), "default") == 0 &&
	       json_array_size(json_object_get(value, "overrides")) == 0;
}

static void put_value(FILE *out, const json_t *row, size_t option_width, size_t value_width)
{
	char option[CELL_MAX], value[CELL_MAX], origin[CELL_MAX], layer[CELL_MAX];
	size_t i;
	json_t *over;
	cell_print(option, json_object_get(row, "option"));
	cell_print(value, json_object_get(row, "value"));
	cell_print(origin, json_object_get(row, "origin"));
	cell_print(layer, json_object_get(row, "layer"));
	cell_pad(out, option, option_width, false, false);
	cell_pad(out, value, value_width, false, false);
	if (strcmp(origin, layer) == 0)
		fprintf(out, "%s\n", origin);
	else
		fprintf(out, "%s, %s\n", layer, origin);
	json_array_foreach(json_object_get(row, "overrides"), i, over)
	{
		cell_print(value, json_object_get(over, "value"));
		cell_print(origin, json_object_get(over, "origin"));
		fprintf(out, "%*s  over %s (%s)\n", (int)option_width, "", value, origin);
	}
}

static void put_rate(FILE *out, const char *words, const json_t *a, const char *key)
{
	const json_t *v = json_object_get(a, key);
	char n[CELL_MAX];
	if (!json_is_number(v))
		return;
	cell_number(n, (int64_t)json_number_value(v));
	fprintf(out, "  %s  %s an hour\n", words, n);
}

/* What one message takes, as measured or assumed: what connections allow depends on it. */
static void put_pace(FILE *out, const json_t *seconds)
{
	if (!json_is_number(seconds))
		return;
	if (json_number_value(seconds) < 0.001)
		fputs(" (at less than 1 ms a message)", out);
	else
		fprintf(out, " (at %.3g s a message)", json_number_value(seconds));
}

static void put_arithmetic(FILE *out, const json_t *a)
{
	const json_t *rate = json_object_get(a, "per_hour");
	char n[CELL_MAX], binds[CELL_MAX];
	if (!json_is_number(rate)) {
		fputs("\nNo number here limits how much may go in an hour.\n", out);
		return;
	}
	cell_number(n, (int64_t)json_number_value(rate));
	cell_print(binds, json_object_get(a, "binds"));
	fprintf(out, "\nTogether these allow %s recipient%s an hour; %s binds", n,
	    strcmp(n, "1") == 0 ? "" : "s", binds);
	put_pace(out, json_object_get(a, "seconds_per_message"));
	fputs(". By itself:\n", out);
	put_rate(out, "connections                        ", a, "by_connections");
	put_rate(out, "new connections, each with its share", a, "by_connects");
	put_rate(out, "message rate                       ", a, "by_messages");
}

void say_explain(FILE *out, const json_t *row, int64_t now_ms)
{
	char domain[CELL_MAX], vmta[CELL_MAX], destination[CELL_MAX];
	const json_t *values = json_object_get(row, "values");
	size_t i, option_width = width_of(values, "option"),
		  value_width = width_of(values, "value");
	json_t *value;
	cell_print(domain, json_object_get(row, "domain"));
	cell_print(vmta, json_object_get(row, "vmta"));
	cell_print(destination, json_object_get(row, "destination"));
	if (say_text(row, "destination")[0] != 0)
		fprintf(out, "Mail for %s by %s waits in the queue %s/%s.\n\n", domain, vmta,
		    destination, vmta);
	else
		fprintf(out,
		    "Mail for %s by %s. It has no route yet: what its mail hosts decide may "
		    "differ.\n\n",
		    domain, vmta);
	/* What somebody chose comes first. */
	json_array_foreach(values, i, value) if (!is_default(value))
	    put_value(out, value, option_width, value_width);
	fputs("\n", out);
	json_array_foreach(values, i, value) if (is_default(value))
	    put_value(out, value, option_width, value_width);
	say_table(
	    out, "\nShared with others:", json_object_get(row, "budgets"), view_limits, now_ms);
	put_arithmetic(out, json_object_get(row, "arithmetic"));
}

/* SPDX-License-Identifier: ISC */
/*
 * top: the largest queues, again and again. Each picture is two questions to qmgr, which keeps the
 * N largest itself, so that a hundred thousand queues do not travel. Rates come from the counters
 * of two pictures. Control codes are written only to a terminal; anything else gets one picture.
 */
#include "common/clock.h"
#include "ctl/view.h"
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum {
	TOP_ROWS = 20,
	INTERVAL_MS = 2000,
	ROWS_MAX = 1000, /* qmgr's own bound */
};

struct picture {
	json_t *queues; /* owned: array, largest first */
	json_t *status; /* owned: object */
	int64_t at_ms;
	struct answer answer;
};

static void add_queue(void *ctx, json_t *row)
{
	struct picture *p = ctx;
	json_array_append(p->queues, row);
}

static void set_status(void *ctx, json_t *row)
{
	struct picture *p = ctx;
	json_object_update(p->status, row);
}

static void picture_fini(struct picture *p)
{
	json_decref(p->queues);
	json_decref(p->status);
	*p = (struct picture){0};
}

static void picture_take(struct picture *p, const char *path, int rows)
{
	char request[100];
	*p = (struct picture){
	    .queues = json_array(), .status = json_object(), .at_ms = clock_wall_ms()};
	snprintf(request, sizeof request, "{\"verb\":\"queues\",\"options\":{\"largest\":\"%d\"}}",
	    rows);
	ask(path, request, add_queue, p, &p->answer);
	if (p->answer.status == EX_OK)
		ask(path, "{\"verb\":\"status\"}", set_status, p, &p->answer);
}

/* Recipients delivered a second since the picture before; -1: not known. */
static double rate_of(const json_t *row, const struct picture *before, int64_t at_ms)
{
	size_t i;
	json_t *old;
	if (before->queues == NULL || at_ms <= before->at_ms)
		return -1;
	json_array_foreach(before->queues, i, old)
	{
		if (strcmp(say_text(old, "queue"), say_text(row, "queue")) != 0)
			continue;
		json_int_t more = json_integer_value(json_object_get(row, "delivered")) -
				  json_integer_value(json_object_get(old, "delivered"));
		return more < 0 ? -1 : (double)more * 1000 / (double)(at_ms - before->at_ms);
	}
	return -1;
}

static void add_rates(struct picture *now, const struct picture *before)
{
	size_t i;
	json_t *row;
	json_array_foreach(now->queues, i, row)
	{
		double rate = rate_of(row, before, now->at_ms);
		json_object_set_new(row, "per_second", rate < 0 ? json_null() : json_real(rate));
	}
}

static void cell_rate(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms)
{
	const json_t *v = json_object_get(row, key);
	(void)now_ms;
	if (json_is_number(v))
		snprintf(out, CELL_MAX, "%.1f/s", json_number_value(v));
	else
		str_copy(out, CELL_MAX, STR("-"));
}

static const struct column columns[] = {
    {"QUEUE", "queue", cell_plain, false},
    {"RECIPIENTS", "recipients", cell_count, true},
    {"READY", "ready", cell_count, true},
    {"IN FLIGHT", "in_flight", cell_count, true},
    {"CONNS", "connections", cell_count, true},
    {"DELIVERED", "per_second", cell_rate, true},
    {"MODE", "mode", cell_plain, false},
    {"NEXT RETRY", "next_retry", cell_when, false},
    {0},
};

static void print(const struct picture *p)
{
	char recipients[CELL_MAX], queues[CELL_MAX], connections[CELL_MAX], clock[CELL_MAX];
	cell_count(recipients, p->status, "recipients", 0);
	cell_count(queues, p->status, "queues", 0);
	cell_count(connections, p->status, "connections", 0);
	cell_clock(clock, p->at_ms, p->at_ms);
	char head[CELL_MAX];
	snprintf(head, sizeof head, "%.20s  %.20s recipients in %.20s queues, %.20s connections\n",
	    clock, recipients, queues, connections);
	fputs(json_array_size(p->queues) == 0 ? head : "", stdout);
	say_table(stdout, head, p->queues, columns, p->at_ms);
}

static void print_json(struct picture *p)
{
	json_t *all = json_pack("{s:O, s:O}", "status", p->status, "queues", p->queues);
	json_dumpf(all, stdout, JSON_INDENT(1));
	fputs("\n", stdout);
	json_decref(all);
}

static bool number_option(const struct args *a, const char *name, int max, int *value)
{
	const json_t *given = json_object_get(a->options, name);
	unsigned long long n;
	if (given == NULL)
		return true;
	if (str_number(str_of(json_string_value(given)), (unsigned long long)max, &n) != 0 ||
	    n == 0) {
		fprintf(stderr, "posternctl: --%s wants a number from 1 to %d\n", name, max);
		return false;
	}
	*value = (int)n;
	return true;
}

static bool read_options(const struct args *a, int *rows, int *seconds)
{
	const char *key;
	json_t *value;
	*rows = TOP_ROWS;
	*seconds = INTERVAL_MS / 1000;
	json_object_foreach(
	    a->options, key, value) if (strcmp(key, "rows") != 0 && strcmp(key, "interval") != 0)
	{
		fprintf(stderr, "posternctl: top knows --rows=N and --interval=SECONDS\n");
		return false;
	}
	return number_option(a, "rows", ROWS_MAX, rows) &&
	       number_option(a, "interval", 3600, seconds);
}

static void wait_ms(int64_t ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	(void)nanosleep(&t, NULL);
}

/* One picture, with the rates of the time since the one before. */
static int turn(
    const char *path, const struct args *a, int rows, struct picture *before, bool screen)
{
	struct picture now;
	picture_take(&now, path, rows);
	int status = now.answer.status;
	if (status == EX_OK) {
		add_rates(&now, before);
		if (screen)
			fputs("\033[H\033[2J", stdout); /* home, and an empty screen */
		if (a->json)
			print_json(&now);
		else
			print(&now);
		fflush(stdout);
	} else {
		fprintf(stderr, "posternctl: qmgr: %s\n", now.answer.error);
	}
	picture_fini(before);
	*before = now;
	return status;
}

int top(const struct args *a, const char *path)
{
	struct picture before = {0};
	int rows, seconds, status;
	bool screen = isatty(STDOUT_FILENO) == 1 && !a->json;
	if (!read_options(a, &rows, &seconds))
		return EX_USAGE;
	do {
		status = turn(path, a, rows, &before, screen);
		if (screen)
			wait_ms((int64_t)seconds * 1000);
	} while (screen && (status == EX_OK || status == EX_TEMPFAIL));
	picture_fini(&before);
	return status;
}

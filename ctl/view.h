/* SPDX-License-Identifier: ISC */
#pragma once
#include "ctl/ctl.h"
#include <stdint.h>
/*
 * How people see the answers of certain verbs. Without a view, an answer is shown as it comes: all
 * members of the rows as columns, or "key: value" lines. JSON is never touched by this.
 */
enum { CELL_MAX = 1024 /* bytes of a cell */ };

/* ---- cell.c ---- */
void cell_print(char out[CELL_MAX], const json_t *v); /* "-" for nothing */
size_t cell_width(const char *text);		      /* columns on the screen, not bytes */
void cell_pad(FILE *out, const char *text, size_t width, bool right, bool last);
void cell_number(char out[CELL_MAX], int64_t n); /* 1,204 */
int64_t cell_time(const json_t *v);		 /* wall ms of an ISO text; 0: none */
void cell_span(char out[CELL_MAX], int64_t ms);
void cell_clock(char out[CELL_MAX], int64_t at_ms, int64_t now_ms);
void cell_when_ms(char out[CELL_MAX], int64_t at_ms, int64_t now_ms); /* in 3m 20s (01:02:03) */
void cell_until(char out[CELL_MAX], int64_t at_ms, int64_t now_ms);   /* 01:02:03 (in 3m 20s) */
/* The cell of a row that has the member `key`. */
typedef void cell_fn(char out[CELL_MAX], const json_t *row, const char *key, int64_t now_ms);
cell_fn cell_plain, cell_count, cell_when;

/* ---- view.c ---- */
struct column {
	const char *heading, *key;
	cell_fn *cell;
	bool right;
};
typedef void say_fn(FILE *out, const json_t *row, int64_t now_ms);
struct view {
	const char *service, *verb;
	const struct column *columns; /* until heading NULL; of lists. NULL: none */
	say_fn *say;		      /* a row, or the object, in words. NULL: none */
};
const struct view *view_find(const char *service, const char *verb); /* NULL: none */
extern const struct column view_limits[]; /* of limits, and inside of why and queue */
extern const struct column view_holds[];
void view_limit_text(char out[CELL_MAX], const json_t *limit); /* 1000/h, 20 */

/* ---- say.c: the answers to changes, and events; say_why.c, say_queue.c, say_explain.c ---- */
say_fn say_flush, say_release, say_delete, say_bounce, say_pause, say_resume, say_mode, say_reset,
    say_reroute, say_event, say_trace, say_match;
say_fn say_why, say_queue, say_explain;
/* "google/mta1 waits: …", of an object with why's members. */
void say_why_sentences(FILE *out, const json_t *row, const char *target, int64_t now_ms);
/* A table of objects, below a heading; nothing when there are none. */
void say_table(FILE *out, const char *heading, const json_t *rows, const struct column *columns,
    int64_t now_ms);
const char *say_text(const json_t *row, const char *key); /* "" for nothing */

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/str.h"
#include <jansson.h>
#include <stdio.h>
/*
 * posternctl: asks services over their control sockets and shows the answers.
 */

/* --- args.c: the command line ----------------------------------------------------------------- */
enum { ARGS_MAX = 64, PATH_BYTES = 108 /* sun_path */ };
struct args {
	const char *conf_path;	   /* NULL: the default */
	const char *run_directory; /* NULL: from the configuration */
	bool json, version, help;
	const char *service; /* "qmgr" or, for one instance, "smtpd.0" */
	const char *verb;
	json_t *args;	 /* owned: array of strings */
	json_t *options; /* owned: object of strings */
};
/* 0, or -1 with `why`. Options of ours stand before the service; --json anywhere. */
int args_parse(struct args *a, int argc, char **argv, char why[200]) MUST_USE;
void args_fini(struct args *a);

/* --- find.c: control sockets of a service ------------------------------------------------------
 */
struct instance {
	int number;
	char path[PATH_BYTES];
};
bool find_known(const char *service);
/* Sorted by number; 0 or more. *list is the caller's to free. */
size_t find_instances(const char *run_directory, const char *service, struct instance **list);
/* The run-directory as the configuration says, broken or not; caller frees. */
char *find_run_directory(const char *conf_path);

/* --- ask.c: one request, its answer ------------------------------------------------------------
 */
struct answer {
	int status; /* of sysexits.h; 0 good */
	char error[1100];
};
typedef void ask_row_fn(void *ctx, json_t *row); /* row stays the caller's */
void ask(
    const char *path, const char *request, ask_row_fn *on_row, void *ctx, struct answer *answer);

/* The same, for an answer without an end, however long it is silent. */
void ask_and_follow(
    const char *path, const char *request, ask_row_fn *on_row, void *ctx, struct answer *answer);

/* Asks all of them at once, however long they are silent. Who has the first row to give is heard to
 * its end, the others are left; the answer is that one's, else the last one's. */
void ask_first(const struct instance *list, size_t n, const char *request, ask_row_fn *on_row,
    void *ctx, struct answer *answer);

/* --- show.c: rows for people and for programs --------------------------------------------------
 */
enum shape {
	SHAPE_LIST,   /* rows: a table, or a JSON array, printed as they come */
	SHAPE_OBJECT, /* one thing: "key: value" lines, or one JSON object; several are merged */
	SHAPE_LINES,  /* a list whose member "error" people read a line each */
	SHAPE_TEXT,   /* an object whose member "text" people want as it is */
	SHAPE_STREAM, /* a list without an end: a row is printed when it comes, JSON one a line */
};
enum shape show_shape(const char *service, const char *verb);
struct show;
/* several: rows come from more than one instance. */
struct show *show_new(FILE *out, enum shape shape, bool json, bool several);
struct view;
void show_view(struct show *s, const struct view *view); /* how people see it */
void show_row(struct show *s, int instance, json_t *row);
void show_end(struct show **s);

/* --- merge.c -----------------------------------------------------------------------------------
 */
/* Adds what another instance says to `into`: numbers are summed, members that differ and cannot be
 * summed are dropped. */
void merge_object(json_t *into, json_t *from);

/* --- top.c ------------------------------------------------------------------------------------ */
/* The largest queues of the qmgr behind that socket, until interrupted; the exit status. */
int top(const struct args *a, const char *path);

/* --- simulate.c: asks nobody; a->verb is the file -----------------------------------------------
 */
int simulate(const struct args *a);

/* SPDX-License-Identifier: ISC */
/*
 * posternctl: one verb, asked of every instance of a service, and the answers shown as one. The
 * verbs live in the services: `posternctl SERVICE help` lists them. Exit codes are those of
 * sysexits.h.
 */
#include "common/types.h"
#include "ctl/view.h"
#include <pwd.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

static const char usage[] = "usage: posternctl [-c FILE] [-r DIRECTORY] [--json] SERVICE VERB [ARG "
			    "...] [--OPTION=VALUE ...]\n"
			    "       posternctl SERVICE help\n"
			    "       posternctl top [--rows=N] [--interval=SECONDS]\n"
			    "       posternctl simulate FILE [--plot=FILE] [--force] [--json]\n"
			    "       posternctl version\n";

struct asking {
	struct show *show;
	int instance;
};

static void on_row(void *ctx, json_t *row)
{
	struct asking *a = ctx;
	show_row(a->show, a->instance, row);
}

static int show_version(bool json)
{
	printf(json ? "{\"version\": \"%s\"}\n" : "posternctl %s\n", POSTERN_VERSION);
	return EX_OK;
}

static void print_services(FILE *out)
{
	fputs("services:", out);
	for (unsigned i = 0; i < PROC_COUNT; i++)
		fprintf(out, " %s", proc_name(i));
	fputs("\n", out);
}

static int wrong_usage(const char *why)
{
	fprintf(stderr, "posternctl: %s\n%s", why, usage);
	print_services(stderr);
	return EX_USAGE;
}

static int not_running(const char *service, const char *directory)
{
	fprintf(stderr,
	    "posternctl: no control socket of %s in %s: is postern-master running, and with this "
	    "configuration? "
	    "(see -c and -r)\n",
	    service, directory);
	return EX_UNAVAILABLE;
}

/* Who asks, beside the uid that the service sees: under sudo, the person behind it. */
static const char *operator_name(void)
{
	const char *sudo = getuid() == 0 ? getenv("SUDO_USER") : NULL;
	const struct passwd *user = getpwuid(getuid());
	if (sudo != NULL && sudo[0] != 0)
		return sudo;
	return user != NULL ? user->pw_name : "";
}

static char *make_request(const struct args *a)
{
	json_t *request =
	    json_pack("{s:s, s:O, s:O}", "verb", a->verb, "args", a->args, "options", a->options);
	json_object_set_new(request, "by", json_string(operator_name())); /* no UTF-8: left out */
	char *line = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	return line;
}

/* Every instance has the same verbs; and what is about source addresses is done by qmgr, whichever
 * instance passes it on. */
static bool asks_one(const char *verb)
{
	static const char *const verbs[] = {
	    "help", "disable-source", "enable-source", "check-sources"};
	for (size_t i = 0; i < COUNT_OF(verbs); i++)
		if (strcmp(verb, verbs[i]) == 0)
			return true;
	return false;
}

/* What happens at one of them only, and nobody knows at which. */
static bool asks_first(const char *verb)
{
	return strcmp(verb, "trace") == 0;
}

static int tell_failure(const struct args *a, const struct answer *answer)
{
	if (answer->status == EX_OK)
		return EX_OK;
	fflush(stdout);
	fprintf(stderr, "posternctl: %s: %s\n", a->service,
	    answer->error[0] != 0 ? answer->error : "failed");
	return answer->status;
}

/* Asks all; the first failure decides the exit code, but the others' answers are shown. */
static int ask_all(const struct args *a, const struct instance *list, size_t n)
{
	int status = EX_OK;
	char *request = make_request(a);
	if (request == NULL)
		return wrong_usage("an argument is not UTF-8");
	size_t asked = asks_one(a->verb) ? 1 : n;
	bool follow = json_object_get(a->options, "follow") != NULL;
	enum shape shape = follow ? SHAPE_STREAM : show_shape(a->service, a->verb);
	struct asking asking = {
	    .show = show_new(stdout, shape, a->json, asked > 1 && !asks_first(a->verb))};
	show_view(asking.show, view_find(a->service, a->verb));
	struct answer answer;
	if (asks_first(a->verb)) {
		ask_first(list, n, request, on_row, &asking, &answer);
		status = tell_failure(a, &answer);
		asked = 0;
	}
	for (size_t i = 0; i < asked; i++) {
		asking.instance = list[i].number;
		(follow ? ask_and_follow : ask)(list[i].path, request, on_row, &asking, &answer);
		int failed = tell_failure(a, &answer);
		if (status == EX_OK)
			status = failed;
	}
	show_end(&asking.show);
	free(request);
	if (ferror(stdout) != 0 || fflush(stdout) != 0)
		status = EX_IOERR;
	return status;
}

static int run(const struct args *a)
{
	struct instance *list = NULL;
	if (a->version || (a->service != NULL && strcmp(a->service, "version") == 0))
		return show_version(a->json);
	if (a->help || (a->service != NULL && strcmp(a->service, "help") == 0)) {
		fputs(usage, stdout);
		print_services(stdout);
		return EX_OK;
	}
	if (a->service == NULL)
		return wrong_usage("which service?");
	if (strcmp(a->service, "simulate") == 0)
		return simulate(a);
	bool is_top = strcmp(a->service, "top") == 0;
	if (!is_top && !find_known(a->service))
		return wrong_usage("no such service");
	if (is_top != (a->verb == NULL))
		return wrong_usage(is_top ? "top takes options only" : "which verb?");
	char *directory =
	    a->run_directory != NULL ? xstrdup(a->run_directory) : find_run_directory(a->conf_path);
	const char *service = is_top ? "qmgr" : a->service;
	size_t n = find_instances(directory, service, &list);
	int status = n == 0   ? not_running(service, directory)
		     : is_top ? top(a, list[0].path)
			      : ask_all(a, list, n);
	free(directory);
	free(list);
	return status;
}

int main(int argc, char **argv)
{
	struct args a;
	char why[200] = "";
	int status = args_parse(&a, argc, argv, why) == 0 ? run(&a) : wrong_usage(why);
	args_fini(&a);
	return status;
}

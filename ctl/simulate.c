/* SPDX-License-Identifier: ISC */
/*
 * posternctl simulate FILE: a configuration with a group simulation, played in virtual time (sim/).
 * The only verb of posternctl that asks nobody: it needs no running suite and no rights. Files are
 * this file's: the configuration is read, the plot is written, and only where it was asked for.
 */
#include "ctl/ctl.h"
#include "sim/sim.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
	REPORT_MAX = 1 << 28, /* some hundred thousand rows */
	ERRORS_MAX = 1 << 20,
};

static int complain(int status, const char *what, const char *why)
{
	fflush(stdout);
	fprintf(stderr, "posternctl: simulate: %s%s%s\n", what, why[0] != 0 ? ": " : "", why);
	return status;
}

static const char *option(const struct args *a, const char *name)
{
	return json_string_value(json_object_get(a->options, name));
}

static const char *unknown_option(const struct args *a)
{
	const char *key;
	json_t *value;
	json_object_foreach(a->options, key,
	    value) if (strcmp(key, "plot") != 0 && strcmp(key, "force") != 0) return key;
	return NULL;
}

static int write_all(int fd, const struct buf *b)
{
	for (size_t at = 0; at < b->n;) {
		ssize_t n = write(fd, b->p + at, b->n - at);
		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Opened before the simulation, so that nobody waits a minute to be told that it is there. */
static int open_plot(const struct args *a, const char *path, int *fd)
{
	bool force = option(a, "force") != NULL;
	*fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (force ? O_TRUNC : O_EXCL), 0644);
	if (*fd >= 0)
		return EX_OK;
	if (errno == EEXIST)
		return complain(EX_CANTCREAT, path, "is there already: --force overwrites it");
	return complain(EX_CANTCREAT, path, strerrordesc_np(errno));
}

static int write_plot(const struct sim *s, const char *path, int fd)
{
	struct buf svg;
	buf_init(&svg, REPORT_MAX);
	sim_plot(s, &svg);
	int r = write_all(fd, &svg);
	buf_fini(&svg);
	if (close(fd) != 0 && r == 0)
		r = -errno;
	return r == 0 ? EX_OK : complain(EX_IOERR, path, strerrordesc_np(-r));
}

static int print_report(const struct sim *s, bool json)
{
	if (json) {
		json_t *o = sim_json(s);
		json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
		json_decref(o);
		putchar('\n');
	} else {
		struct buf text;
		buf_init(&text, REPORT_MAX);
		sim_print(s, &text);
		fwrite(text.p, 1, text.n, stdout);
		buf_fini(&text);
	}
	return fflush(stdout) != 0 || ferror(stdout) != 0 ? EX_IOERR : EX_OK;
}

static int play(const struct args *a, const struct conf *conf, const struct conf_node *group)
{
	const char *plot = option(a, "plot");
	int fd = -1, status = EX_OK;
	if (plot == NULL)
		plot = conf_text(group, CO_SIMULATION_plot);
	if (plot[0] != 0)
		status = open_plot(a, plot, &fd);
	if (status != EX_OK)
		return status;
	struct sim *s = sim_new(conf);
	sim_run(s);
	status = print_report(s, a->json);
	if (fd >= 0) {
		int r = write_plot(s, plot, fd);
		status = status != EX_OK ? status : r;
	}
	sim_free(&s);
	return status;
}

int simulate(const struct args *a)
{
	struct buf errors;
	const char *unknown = unknown_option(a);
	if (a->verb == NULL || json_array_size(a->args) > 0)
		return complain(
		    EX_USAGE, "which FILE? one configuration with a group simulation", "");
	if (unknown != NULL)
		return complain(
		    EX_USAGE, unknown, "no such option; there are --plot=FILE and --force");
	buf_init(&errors, ERRORS_MAX);
	struct conf *conf = conf_load(a->verb, &errors);
	if (conf == NULL)
		fwrite(errors.p, 1, errors.n, stderr);
	buf_fini(&errors);
	if (conf == NULL)
		return EX_CONFIG;
	conf_fill_defaults(conf);
	const struct conf_node *group = conf_next(conf->root, CONF_SIMULATION, NULL);
	int status = group != NULL ? play(a, conf, group)
				   : complain(EX_CONFIG, a->verb, "no group simulation in it");
	conf_free(&conf);
	return status;
}

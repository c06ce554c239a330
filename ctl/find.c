/* SPDX-License-Identifier: ISC */
/*
 * Where the control sockets are: RUN-DIRECTORY/master.sock, and RUN-DIRECTORY/SERVICE.INSTANCE.sock
 * of each worker. The directory's entries are the truth about how many instances there are.
 */
#include "common/conf.h"
#include "common/types.h"
#include "ctl/ctl.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define DEFAULT_CONF "/etc/postern/postern.conf"
enum { INSTANCES_MAX = 1000 };

bool find_known(const char *service)
{
	size_t n = strcspn(service, ".");
	for (unsigned i = 0; i < PROC_COUNT; i++)
		if (strlen(proc_name(i)) == n && strncmp(service, proc_name(i), n) == 0)
			return true;
	return false;
}

char *find_run_directory(const char *conf_path)
{
	struct buf errors;
	buf_init(&errors, 1 << 20);
	const char *path = conf_path != NULL ? conf_path : DEFAULT_CONF;
	if (conf_path == NULL && access(path, F_OK) != 0)
		return xstrdup(conf_opt_default(CO_GLOBAL_run_directory));
	struct conf *c = conf_load_anyway(path, &errors);
	char *directory = xstrdup(conf_text(c->root, CO_GLOBAL_run_directory));
	/* Not our business, unless it is why we look in the wrong place. */
	if (errors.n > 0 && !conf_get(c->root, CO_GLOBAL_run_directory)->set)
		fprintf(stderr,
		    "posternctl: %s has errors; looking in %s (see postern-master -n, or use -r)\n",
		    path, directory);
	conf_free(&c);
	buf_fini(&errors);
	return directory;
}

static int by_number(const void *a, const void *b)
{
	const struct instance *x = a, *y = b;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* "smtpd.12.sock" of service "smtpd": 12; else -1. */
static int instance_number(const char *name, struct str service)
{
	struct str s = str_of(name);
	unsigned long long number = 0;
	if (s.n <= service.n + 6 || memcmp(s.p, service.p, service.n) != 0 ||
	    s.p[service.n] != '.' || memcmp(s.p + s.n - 5, ".sock", 5) != 0)
		return -1;
	s.p += service.n + 1;
	s.n -= service.n + 1 + 5;
	return str_number(s, INSTANCES_MAX, &number) == 0 ? (int)number : -1;
}

static void add(
    struct instance **list, size_t *count, const char *directory, const char *file, int number)
{
	*list = xrealloc(*list, (*count + 1) * sizeof **list);
	struct instance *it = &(*list)[*count];
	it->number = number;
	int n = snprintf(it->path, sizeof it->path, "%s/%s", directory, file);
	if (n > 0 && (size_t)n < sizeof it->path)
		(*count)++;
}

size_t find_instances(const char *run_directory, const char *service, struct instance **list)
{
	size_t count = 0;
	struct str whole = str_of(service), name = str_cut(&whole, '.');
	unsigned long long only = 0;
	bool one = name.n < strlen(service);
	*list = NULL;
	if (strcmp(service, "master") == 0) {
		add(list, &count, run_directory, "master.sock", 0);
		return count;
	}
	if (one && str_number(whole, INSTANCES_MAX, &only) != 0)
		return 0;
	DIR *d = opendir(run_directory);
	for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL && count < INSTANCES_MAX;) {
		int number = instance_number(e->d_name, name);
		if (number >= 0 && (!one || number == (int)only))
			add(list, &count, run_directory, e->d_name, number);
	}
	if (d != NULL)
		closedir(d);
	if (count > 0)
		qsort(*list, count, sizeof **list, by_number);
	return count;
}

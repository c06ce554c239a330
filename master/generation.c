/* SPDX-License-Identifier: ISC */
#include "common/log.h"
#include "master/master.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/*
 * One configuration with everything that master opens for it: listening sockets, the log,
 * accounting files, certificates and keys. It is made whole or not at all, and dropped whole: a
 * reload opens the next one beside the one in use, and a problem with anything in it changes
 * nothing.
 *
 * Sockets whose address and port stay are the same sockets (duplicates share the queue of waiting
 * clients), so no client sees a reload.
 */
enum {
	PEM_MAX =
	    1048576, /* msg.def's bound; a certificate chain or a CA bundle is below 300 KiB */
	PATH_TEXT = 4096,
};

static void problem(struct buf *errors, const struct conf *c, const struct conf_value *v,
    const char *what, const char *name, int rc)
{
	char origin[512];
	conf_origin(c, v, origin);
	buf_printf(errors, "%s: %s %s: %s\n", origin, what, name, strerrordesc_np(-rc));
}

/* --- listeners ----------------------------------------------------------------------------------
 */

static const struct listen_socket *find_socket(
    const struct generation *g, const char *address, uint16_t port)
{
	for (size_t i = 0; g && i < g->listener_count; i++)
		if (g->listeners[i].port == port && strcmp(g->listeners[i].address, address) == 0)
			return &g->listeners[i];
	return NULL;
}

static void open_listener(struct generation *g, const struct conf_node *n,
    const struct generation *old, struct buf *errors)
{
	const char *address = conf_text(n, CO_LISTENER_address);
	uint16_t port = (uint16_t)conf_num(n, CO_LISTENER_port);
	struct listen_socket s = {.port = port, .fd = -1};
	char name[80];
	int rc = 0;
	str_copy(s.address, sizeof(s.address), str_of(address));
	const struct listen_socket *kept = find_socket(old, address, port);
	if (find_socket(g, address, port))
		rc = -EADDRINUSE;
	else if (kept)
		rc = (s.fd = fcntl(kept->fd, F_DUPFD_CLOEXEC, 0)) < 0 ? -errno : 0;
	else
		rc = listen_bind(address, port, &s.fd);
	snprintf(name, sizeof(name), "%s port %u", address, port);
	if (rc != 0)
		problem(
		    errors, g->conf, conf_get(n, CO_LISTENER_port), "cannot listen on", name, rc);
	g->listeners = xrealloc(g->listeners, (g->listener_count + 1) * sizeof(s));
	g->listeners[g->listener_count++] = s;
}

/* --- certificates and keys
 * ------------------------------------------------------------------------ */

static int read_pem(const char *path, struct secret *s)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
	if (fd < 0)
		return -errno;
	int rc = 0;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		rc = -EINVAL;
	else if (st.st_size > PEM_MAX)
		rc = -EFBIG;
	if (rc == 0) {
		s->pem = xcalloc(1, PEM_MAX + 1);
		ssize_t n = read(fd, s->pem, PEM_MAX);
		rc = n < 0 ? -errno : 0;
		s->bytes = n > 0 ? (size_t)n : 0;
	}
	if (rc == 0 && s->kind == SECRET_LISTENER_KEY && (st.st_mode & 0077) != 0)
		log_warn("%s can be read by others than its owner: chmod 600 it", path);
	close(fd);
	return rc;
}

static void wipe(struct secret *s)
{
	if (s->pem)
		explicit_bzero(s->pem, s->bytes);
	free(s->pem);
	s->pem = NULL;
}

static void add_secret(struct generation *g, const struct conf_node *n, enum conf_opt opt,
    enum secret_kind kind, uint16_t index, struct buf *errors)
{
	const struct conf_value *v = conf_get(n, opt);
	const char *path = conf_text(n, opt);
	struct secret s = {.kind = kind, .index = index};
	if (!path[0])
		return;
	int rc = read_pem(path, &s);
	/* The bundle only adds a word to the log; a machine without the default one is no error. */
	if (rc != 0 && (kind != SECRET_CA_BUNDLE || v->set))
		problem(errors, g->conf, v, "cannot read", path, rc);
	if (rc != 0) {
		wipe(&s);
		return;
	}
	g->secrets = xrealloc(g->secrets, (g->secret_count + 1) * sizeof(s));
	g->secrets[g->secret_count++] = s;
}

static void read_secrets(struct generation *g, struct buf *errors)
{
	const struct conf_node *root = g->conf->root, *n = NULL;
	uint16_t index = 0;
	add_secret(g, root, CO_GLOBAL_tls_ca_file, SECRET_CA_BUNDLE, 0, errors);
	while ((n = conf_next(root, CONF_LISTENER, n)) != NULL) {
		add_secret(g, n, CO_LISTENER_tls_certificate, SECRET_LISTENER_CERT, index, errors);
		add_secret(g, n, CO_LISTENER_tls_key, SECRET_LISTENER_KEY, index, errors);
		index++;
	}
}

/* --- log and accounting
 * ----------------------------------------------------------------------------- */

int generation_open_append(int dir_fd, const char *name, int *fd)
{
	*fd = openat(dir_fd, name,
	    O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
	return *fd < 0 ? -errno : 0;
}

static int open_append(const char *directory, const char *name, int *fd)
{
	int dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = dir_fd < 0 ? -errno : generation_open_append(dir_fd, name, fd);
	if (dir_fd >= 0)
		close(dir_fd);
	return rc;
}

static void open_files(struct generation *g, struct buf *errors)
{
	const struct conf_node *root = g->conf->root, *n = NULL;
	const char *directory = conf_text(root, CO_GLOBAL_log_directory);
	const char *log = conf_text(root, CO_GLOBAL_log_file);
	int rc = 0;
	if (log[0] || conf_next(root, CONF_ACCOUNTING, NULL))
		rc = dirs_make(directory, 0750);
	if (rc != 0)
		problem(errors, g->conf, conf_get(root, CO_GLOBAL_log_directory), "cannot make",
		    directory, rc);
	if (log[0] && (rc = open_append(directory, log, &g->log_fd)) != 0)
		problem(
		    errors, g->conf, conf_get(root, CO_GLOBAL_log_file), "cannot open", log, rc);
	while ((n = conf_next(root, CONF_ACCOUNTING, n)) != NULL) {
		const char *file = conf_text(n, CO_ACCOUNTING_file);
		int fd = -1;
		if ((rc = open_append(directory, file, &fd)) != 0)
			problem(errors, g->conf, conf_get(n, CO_ACCOUNTING_file), "cannot open",
			    file, rc);
		g->accounting =
		    xrealloc(g->accounting, (g->accounting_count + 1) * sizeof(*g->accounting));
		g->accounting[g->accounting_count++] = (struct accounting){fd, INT64_MAX};
	}
}

/* --- the whole
 * ---------------------------------------------------------------------------------------- */

struct generation *generation_open(
    struct conf *conf, uint32_t number, const struct generation *old, struct buf *errors)
{
	struct generation *g = xcalloc(1, sizeof(*g));
	const struct conf_node *n = NULL;
	size_t before = errors->n;
	g->number = number;
	g->conf = conf;
	g->log_fd = -1;
	while ((n = conf_next(conf->root, CONF_LISTENER, n)) != NULL)
		open_listener(g, n, old, errors);
	read_secrets(g, errors);
	open_files(g, errors);
	if (errors->n > before || errors->failed)
		generation_free(&g);
	return g;
}

int generation_listen(const struct generation *g, struct buf *errors)
{
	size_t i = 0;
	for (const struct conf_node *n = NULL;
	     (n = conf_next(g->conf->root, CONF_LISTENER, n)) != NULL; i++) {
		int rc = listen_begin(g->listeners[i].fd);
		if (rc != 0)
			problem(errors, g->conf, conf_get(n, CO_LISTENER_port), "cannot listen on",
			    g->listeners[i].address, rc);
	}
	return errors->n > 0 ? -EADDRINUSE : 0;
}

void generation_check_secrets(const struct conf *conf, struct buf *errors)
{
	struct generation *g = xcalloc(1, sizeof(*g));
	g->conf = conf_clone(conf);
	g->log_fd = -1;
	read_secrets(g, errors);
	generation_free(&g);
}

void generation_free(struct generation **gp)
{
	struct generation *g = *gp;
	if (!g)
		return;
	for (size_t i = 0; i < g->listener_count; i++)
		if (g->listeners[i].fd >= 0)
			close(g->listeners[i].fd);
	for (size_t i = 0; i < g->secret_count; i++)
		wipe(&g->secrets[i]);
	for (size_t i = 0; i < g->accounting_count; i++)
		if (g->accounting[i].fd >= 0)
			close(g->accounting[i].fd);
	if (g->log_fd >= 0)
		close(g->log_fd);
	free(g->listeners);
	free(g->secrets);
	free(g->accounting);
	conf_free(&g->conf);
	free(g);
	*gp = NULL;
}

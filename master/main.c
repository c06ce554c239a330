/* SPDX-License-Identifier: ISC */
#include "common/clock.h"
#include "common/log.h"
#include "master/master.h"
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * postern-master: arguments, and the order of a start.
 *
 *   configuration (all errors at once) → directories → lock → the mark of the last end → sockets,
 * files, keys → workers → loop
 *
 * Nothing that exists is changed before the lock is ours but the making of missing directories, so
 * a second master started by mistake does no harm. master never reads a byte from the network and
 * never sees content; what it reads from its workers is decoded, bounded, and believed only about
 * themselves.
 */
enum {
	TEXT_MAX = 64 * 1048576, /* a printed configuration */
	ERRORS_MAX = 1048576,
};
static const char default_conf[] = "/etc/postern/postern.conf";

struct options {
	const char *conf_path;
	bool check, print, rebuild;
};

static _Noreturn void usage(void)
{
	die(EX_USAGE, "usage: postern-master [-c FILE] [-n | -p | -V] [--rebuild]");
}

static struct options parse_options(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"rebuild", no_argument, NULL, 'R'}, {NULL, 0, NULL, 0}};
	struct options o = {.conf_path = default_conf};
	for (int c; (c = getopt_long(argc, argv, "c:npV", longs, NULL)) != -1;) {
		switch (c) {
		case 'c':
			o.conf_path = optarg;
			break;
		case 'n':
			o.check = true;
			break;
		case 'p':
			o.print = true;
			break;
		case 'R':
			o.rebuild = true;
			break;
		case 'V':
			puts("postern " POSTERN_VERSION);
			exit(0);
		default:
			usage();
		}
	}
	if (optind != argc)
		usage();
	return o;
}

/* Standard descriptors exist, or a log line would land in a socket. */
static void ensure_standard_descriptors(void)
{
	for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR))
		if (fd > STDERR_FILENO) {
			close(fd);
			return;
		}
}

static void print_lines(const char *before, const struct buf *text)
{
	struct str left = {(const char *)text->p, text->n};
	while (left.n > 0) {
		struct str line = str_cut(&left, '\n');
		fprintf(stderr, "%s%.*s\n", before, STR_ARG(line));
	}
}

/* The configuration, or every error of it on standard error and exit 78. */
static struct conf *load(const struct options *o)
{
	struct buf errors;
	buf_init(&errors, ERRORS_MAX);
	struct conf *conf = conf_load(o->conf_path, &errors);
	if (conf)
		conf_fill_defaults(conf);
	if (conf && o->check)
		generation_check_secrets(conf, &errors);
	if (conf && errors.n == 0) {
		buf_fini(&errors);
		return conf;
	}
	print_lines("postern-master: ", &errors);
	exit(EX_CONFIG);
}

static int check_only(struct conf *conf)
{
	struct buf hints;
	buf_init(&hints, ERRORS_MAX);
	conf_hints(conf, &hints);
	print_lines("postern-master: hint: ", &hints);
	buf_fini(&hints);
	conf_free(&conf);
	return 0;
}

static int print_only(struct conf *conf)
{
	struct buf text;
	buf_init(&text, TEXT_MAX);
	conf_print(conf, &text);
	bool ok =
	    !text.failed && fwrite(text.p, 1, text.n, stdout) == text.n && fflush(stdout) == 0;
	buf_fini(&text);
	conf_free(&conf);
	return ok ? 0 : EX_IOERR;
}

static void open_generation(struct master *m, struct conf *conf)
{
	struct buf errors;
	buf_init(&errors, ERRORS_MAX);
	m->generation = generation_open(conf, ++m->last_number, NULL, &errors);
	bool ok = m->generation && generation_listen(m->generation, &errors) == 0;
	print_lines("postern-master: ", &errors);
	if (!ok)
		die(EX_CONFIG, "cannot start with this configuration");
	buf_fini(&errors);
	log_open("master", m->generation->log_fd >= 0 ? m->generation->log_fd : STDERR_FILENO,
	    m->generation->log_fd >= 0);
	log_echo(true); /* until all are ready */
}

static void open_control(struct master *m)
{
	char path[PATH_MAX];
	int fd;
	snprintf(path, sizeof(path), "%s/master.sock", m->dirs.run);
	int rc = listen_control(path, &fd);
	if (rc != 0)
		die(EX_CANTCREAT, "cannot make %s: %s", path, strerrordesc_np(-rc));
	m->control = control_new(m->loop, master_verbs, master_verb_count, m);
	control_listen(m->control, fd);
}

static void on_signals(struct master *m)
{
	signal(SIGPIPE, SIG_IGN);
	if (loop_signal(m->loop, SIGCHLD, supervise_reap, m) != 0 ||
	    loop_signal(m->loop, SIGTERM, stop_begin, m) != 0 ||
	    loop_signal(m->loop, SIGINT, stop_begin, m) != 0 ||
	    loop_signal(m->loop, SIGHUP, reload_by_signal, m) != 0)
		die(EX_OSERR, "cannot watch for signals");
}

static void start(struct master *m, const struct options *o, struct conf *conf)
{
	m->conf_path = o->conf_path;
	m->rebuild = o->rebuild;
	m->root = geteuid() == 0;
	m->started_ms = clock_mono_ms();
	umask(0027);
	notify_open(&m->notify);
	spawn_find_workers(m);
	spawn_find_users(m, conf);
	uid_t qmgr_uid = m->root ? m->ids[PROC_qmgr].uid : geteuid();
	gid_t qmgr_gid = m->root ? m->ids[PROC_qmgr].gid : getegid();
	dirs_prepare(&m->dirs, conf, qmgr_uid, qmgr_gid);
	dirs_lock(&m->dirs);
	m->unclean = boot_begin(&m->dirs);
	blame_load(&m->blame, &m->dirs);
	open_generation(m, conf);
	spawn_raise_limits();
	m->loop = loop_new();
	chan_identify(PROC_MASTER, 0, 1);
	on_signals(m);
	open_control(m);
	supervise_fit(m);
	rotate_begin(m);
	beat_start(m);
	supervise_run(m);
}

static void tidy(struct master *m)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/master.sock", m->dirs.run);
	unlink(path);
	for (size_t i = 0; i < m->slot_count; i++) {
		snprintf(path, sizeof(path), "%s/%s.%u.sock", m->dirs.run,
		    proc_name(m->slots[i]->process), m->slots[i]->instance);
		if (m->slots[i]->control_fd >= 0)
			unlink(path);
		chan_free(&m->slots[i]->chan);
		free(m->slots[i]);
	}
	control_free(&m->control);
	generation_free(&m->reload.next);
	generation_free(&m->generation);
	loop_free(&m->loop);
	free(m->dirs.spool);
	free(m->dirs.run);
	free(m->dirs.empty);
}

int main(int argc, char **argv)
{
	static struct master m;
	ensure_standard_descriptors();
	log_open("master", STDERR_FILENO, false);
	struct options o = parse_options(argc, argv);
	struct conf *conf = load(&o);
	if (o.check)
		return check_only(conf);
	if (o.print)
		return print_only(conf);
	start(&m, &o, conf);
	loop_run(m.loop);
	tidy(&m);
	return m.exit_status;
}

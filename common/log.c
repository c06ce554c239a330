/* SPDX-License-Identifier: ISC */
/*
 * Log lines. One line is one write(), so that lines of many processes in one file never mix;
 * between log_hold() and log_flush() whole lines are gathered and leave in one write.
 *
 * A log that cannot be written (disk full, reader gone) must not stop mail: the line is dropped.
 * Names of zone and host are read at the first log_open(), before a worker loses the file system;
 * nothing after that opens a file or asks for more than write() and, without the vDSO, the clock.
 */
#include "common/log.h"
#include "common/clock.h"
#include "common/utf8.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { HELD_MAX = 65536, SERVICE_MAX = 32, HOST_MAX = 64 };

static struct {
	int fd;
	bool is_file;
	bool bare; /* a terminal: no "<N>" for journald */
	bool opened;
	long pid;
	char service[SERVICE_MAX];
	char host[HOST_MAX + 1];
	int64_t stamp_s; /* the second that stamp shows */
	char stamp[32];
	bool echo; /* to a file: warnings and errors to standard error, too */
	bool holding;
	size_t held_n;
	char held[HELD_MAX];
} state = {.fd = STDERR_FILENO, .service = "postern", .host = "localhost", .stamp_s = -1};

static void write_all(const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(state.fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return;
		p += w;
		n -= (size_t)w;
	}
}

static void first_open(void)
{
	char host[HOST_MAX + 1] = "";
	tzset();
	if (gethostname(host, sizeof host - 1) == 0 && host[0] != 0)
		/* As syslog: the name up to its first dot. */
		snprintf(state.host, sizeof state.host, "%.*s", (int)strcspn(host, "."), host);
	state.bare = isatty(state.fd) == 1;
	state.opened = true;
}

void log_open(const char *service, int fd, bool is_file)
{
	log_flush();
	state.fd = fd;
	state.is_file = is_file;
	state.pid = (long)getpid();
	snprintf(state.service, sizeof state.service, "%s", service);
	if (!state.opened)
		first_open();
}

static const char *stamp(int64_t wall_ms)
{
	time_t now = (time_t)(wall_ms / 1000);
	if (state.stamp_s != (int64_t)now) {
		struct tm tm;
		/* Not strftime's %b: log readers want English months in every locale. */
		static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul",
		    "Aug", "Sep", "Oct", "Nov", "Dec"};
		if (localtime_r(&now, &tm) == NULL)
			return "Jan  1 00:00:00";
		snprintf(state.stamp, sizeof state.stamp, "%s %2d %02d:%02d:%02d",
		    months[tm.tm_mon], tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
		state.stamp_s = (int64_t)now;
	}
	return state.stamp;
}

static void emit(char *line, size_t n)
{
	if (state.holding && n <= HELD_MAX - state.held_n) {
		memcpy(state.held + state.held_n, line, n);
		state.held_n += n;
		return;
	}
	if (state.held_n > 0) { /* full: what was first leaves first */
		write_all(state.held, state.held_n);
		state.held_n = 0;
	}
	write_all(line, n);
}

static void line_out(int level, const char *service, long pid, int64_t wall_ms, struct str text)
{
	char line[LOG_LINE_MAX];
	int n = 0;
	if (state.is_file)
		n = snprintf(line, sizeof line, "%s %s ", stamp(wall_ms), state.host);
	else if (!state.bare)
		n = snprintf(line, sizeof line, "<%d>", level);
	n += snprintf(line + n, sizeof line - (size_t)n, "postern/%.31s[%ld]: ", service, pid);
	size_t used = (size_t)n, room = sizeof line - used - 1;
	size_t take = text.n < room ? text.n : room;
	for (size_t i = 0; i < take; i++) {
		char c = text.p[i];
		line[used++] = (unsigned char)c < 0x20 || c == 0x7F ? ' ' : c;
	}
	line[used++] = '\n';
	emit(line, used);
}

void log_echo(bool on)
{
	state.echo = on;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	int saved = errno;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	if (state.pid == 0)
		state.pid = (long)getpid();
	size_t length = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
	line_out((int)level, state.service, state.pid, state.is_file ? clock_wall_ms() : 0,
	    (struct str){text, length});
	if (state.echo && state.is_file && level <= LOG_LEVEL_WARN)
		dprintf(STDERR_FILENO, "postern-%s: %s\n", state.service, text);
	errno = saved;
}

void log_as(const char *service, long pid, int64_t wall_ms, struct str text)
{
	line_out(LOG_LEVEL_INFO, service, pid, wall_ms, text);
}

void log_host(char *out, size_t size)
{
	snprintf(out, size, "%s", state.host);
}

bool log_is_bare(void)
{
	return state.bare;
}

void log_hold(void)
{
	state.holding = true;
}

void log_flush(void)
{
	state.holding = false;
	if (state.held_n > 0)
		write_all(state.held, state.held_n);
	state.held_n = 0;
}

char *log_clean(char *out, size_t size, struct str s)
{
	size_t used = 0;
	while (s.n > 0 && used + 1 < size) {
		size_t n = utf8_sequence(s);
		bool good = n > 0 && (unsigned char)s.p[0] >= 0x20 && s.p[0] != 0x7F;
		/* C1 controls, two bytes each, move the cursor of some terminals. */
		if (n == 2 && (unsigned char)s.p[0] == 0xC2 && (unsigned char)s.p[1] < 0xA0)
			good = false;
		if (n == 0)
			n = 1;
		if (good && n >= size - used)
			break;
		if (good)
			memcpy(out + used, s.p, n);
		else
			out[used] = '?';
		used += good ? n : 1;
		s.p += n;
		s.n -= n;
	}
	if (size > 0)
		out[used] = 0;
	return out;
}

void die(int code, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	log_flush();
	log_error("%s", text);
	exit(code);
}

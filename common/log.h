/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/str.h"
#include <stdint.h>
/*
 * Log lines "Mon DD HH:MM:SS host postern/SERVICE[pid]: text" to a file, or "postern/SERVICE[pid]:
 * text" with a "<N>" priority prefix to standard error (journald; none where it is a terminal). One
 * write() a line, at most LOG_LINE_MAX; remote text is always escaped by the caller with
 * log_clean().
 */
enum { LOG_LINE_MAX = 2048 };
enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };
void log_open(const char *service, int fd, bool is_file); /* keeps fd; call again after rotation */
/* Warnings and errors to standard error as well as to a file: master's, until it is ready, for whoever
 * started it looks there. */
void log_echo(bool on);
void log_at(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
/* One line already formatted, for another service and pid (the delivery log, written by qmgr). */
void log_as(const char *service, long pid, int64_t wall_ms, struct str text);
/* From here whole lines are gathered (up to 64 KiB) and leave in one write() at log_flush(), which
 * also ends it. For a turn that logs many deliveries. */
void log_hold(void);
void log_flush(void);
/* For a writer of lines of its own (qmgr's logger): the host name in them; is it a terminal,
 * without "<N>"? */
void log_host(char *out, size_t size);
bool log_is_bare(void);
/* Copies with control characters, non-UTF-8 and DEL replaced by '?', cut to fit. */
char *log_clean(char *out, size_t size, struct str s);
/* A bad start: what, why, what to do; exits with a code of sysexits.h. */
_Noreturn void die(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

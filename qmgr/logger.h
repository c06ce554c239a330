/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "common/loop.h"
#include <stdint.h>
/*
 * Delivery log and accounting, written from the journal's records, in their order, by a thread of
 * its own. A position says how far; after a start it goes on from there, reading the journal's
 * files.
 */
struct logger;
enum { ACCOUNTING_FILES_MAX = 64 };
/* from: the position to go on from. to: the end of what older processes wrote; in between it reads.
 */
struct logger *logger_new(struct loop *loop, int spool_fd, uint64_t from, uint64_t to);
/* on_full: called in the loop when an accounting file has passed its max-size. */
void logger_on_full(struct logger *l, void (*on_full)(void *ctx, uint16_t index), void *ctx);
void logger_begin(struct logger *l); /* the files are set: write what older processes left */
void logger_free(
    struct logger **l); /* waits until all that was given is written, or gives up after a while */
void logger_part(struct logger *l, uint64_t pos, unsigned char *bytes, size_t n); /* takes bytes */
uint64_t logger_pos(const struct logger *l);		      /* all before it is written */
void logger_log_file(struct logger *l, int fd, bool is_file); /* takes fd */
void logger_accounting_file(struct logger *l, uint16_t index, int fd); /* takes fd */
void logger_configure(struct logger *l, const struct conf *conf);
bool logger_is_idle(const struct logger *l);

/* SPDX-License-Identifier: ISC */
#include "common/log.h"
#include "master/master.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
/*
 * Did the last run end by a loss of power? Then what qmgr's journal said last may be lost with the
 * page cache, and every recipient that was due is uncertain. A killed suite alone loses nothing.
 *
 * SPOOL/master/boot has one line, MARK BOOT-ID. MARK is `running` while a suite runs, `clean` after
 * qmgr has stopped in order, and `unclean` from the start after a loss of power until qmgr has
 * recovered from it: a second loss of power, or any number of kills, during recovery must not make
 * it forgotten.
 */
static const char *const marks[] = {[BOOT_NONE] = "",
    [BOOT_RUNNING] = "running",
    [BOOT_CLEAN] = "clean",
    [BOOT_UNCLEAN] = "unclean"};

bool boot_is_unclean(
    enum boot_mark mark, struct str marked_id, struct str current_id, bool new_spool)
{
	switch (mark) {
	case BOOT_CLEAN:
		return false;
	case BOOT_RUNNING:
		return !str_eq(marked_id, current_id);
	case BOOT_UNCLEAN:
		return true;
	default: /* no mark: a spool from elsewhere is not trusted, a new one has nothing to doubt
		  */
		return !new_spool;
	}
}

static struct str current_id(char out[64])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, 63) : 0;
	if (fd >= 0)
		close(fd);
	struct str id = {out, n > 0 ? (size_t)n : 0};
	while (id.n > 0 && id.p[id.n - 1] == '\n')
		id.n--;
	return id;
}

static void write_mark(const struct dirs *d, enum boot_mark mark)
{
	char id[64];
	struct buf line;
	struct str now = current_id(id);
	buf_init(&line, 256);
	buf_printf(&line, "%s %.*s\n", marks[mark], STR_ARG(now));
	int rc = dirs_replace(d, "boot", (struct str){(const char *)line.p, line.n});
	if (rc != 0)
		log_error("cannot write %s/master/boot: %s", d->spool, strerrordesc_np(-rc));
	buf_fini(&line);
}

bool boot_begin(const struct dirs *d)
{
	char id[64];
	struct buf text;
	enum boot_mark mark = BOOT_NONE;
	buf_init(&text, 1048576);
	bool absent = dirs_read(d, "boot", &text) == -ENOENT;
	struct str line = {(const char *)text.p, text.n};
	line = str_cut(&line, '\n');
	struct str word = str_cut(&line, ' ');
	for (enum boot_mark m = BOOT_RUNNING; m <= BOOT_UNCLEAN; m++)
		if (str_eq(word, str_of(marks[m])))
			mark = m;
	bool unclean = boot_is_unclean(mark, line, current_id(id), absent);
	buf_fini(&text);
	write_mark(d, unclean ? BOOT_UNCLEAN : BOOT_RUNNING);
	return unclean;
}

void boot_recovered(const struct dirs *d)
{
	write_mark(d, BOOT_RUNNING);
}

void boot_end(const struct dirs *d)
{
	write_mark(d, BOOT_CLEAN);
}

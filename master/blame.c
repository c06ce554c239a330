/* SPDX-License-Identifier: ISC */
#include "common/log.h"
#include "master/master.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
/*
 * Which message killed whom. Each worker keeps the id of the message in its hands in a page that it
 * shares with master; at a death by the worker's own signal or by silence (death_is_own) that id's
 * count goes up. The third death sets the message aside: qmgr is told, and it alone knows how.
 *
 * The counts stand in SPOOL/master/poison, a line an id, replaced whole and synced at every change,
 * so that a message that takes the whole suite down with it is counted, too. At most BLAME_IDS_MAX
 * ids, the oldest goes first: ids are never used again, and one that was set aside stays so in
 * qmgr's index.
 *
 * The page is a memory file of fixed size (sealed), read with pread(): whatever its worker does to
 * it, master gets a number or nothing. A worker that lies can accuse a message that it never saw;
 * it costs it its life each time, and the message is held with its reason, not lost.
 */
static const char first_line[] = "postern-poison 1\n";

uint8_t blame_add(struct blame_table *t, uint64_t id)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->entries[i].id == id) {
			if (t->entries[i].deaths < UINT8_MAX)
				t->entries[i].deaths++;
			return t->entries[i].deaths;
		}
	if (t->count == BLAME_IDS_MAX) {
		t->count--;
		memmove(t->entries, t->entries + 1, t->count * sizeof(t->entries[0]));
	}
	t->entries[t->count++] = (struct blame_entry){id, 1};
	return 1;
}

void blame_print(const struct blame_table *t, struct buf *out)
{
	buf_cstr(out, first_line);
	for (size_t i = 0; i < t->count; i++)
		buf_printf(out, "%016" PRIx64 " %u\n", t->entries[i].id, t->entries[i].deaths);
}

static int parse_line(struct str line, struct blame_entry *e)
{
	unsigned deaths;
	char text[32];
	int end = 0;
	if (line.n >= sizeof(text))
		return -EBADMSG;
	str_copy(text, sizeof(text), line);
	if (sscanf(text, "%16" SCNx64 " %3u%n", &e->id, &deaths, &end) != 2 ||
	    (size_t)end != line.n || deaths == 0 || deaths > UINT8_MAX || e->id == 0)
		return -EBADMSG;
	e->deaths = (uint8_t)deaths;
	return 0;
}

int blame_parse(struct blame_table *t, struct str text)
{
	t->count = 0;
	if (!str_eq(str_cut(&text, '\n'), (struct str){first_line, sizeof(first_line) - 2}))
		return -EBADMSG;
	while (text.n > 0) {
		if (t->count == BLAME_IDS_MAX ||
		    parse_line(str_cut(&text, '\n'), &t->entries[t->count]) != 0) {
			t->count = 0;
			return -EBADMSG;
		}
		t->count++;
	}
	return 0;
}

void blame_load(struct blame_table *t, const struct dirs *d)
{
	struct buf text;
	buf_init(&text, 1048576);
	int rc = dirs_read(d, "poison", &text);
	if (rc == 0)
		rc = blame_parse(t, (struct str){(const char *)text.p, text.n});
	if (rc != 0 && rc != -ENOENT)
		log_warn("cannot use %s/master/poison (%s): the counts begin anew", d->spool,
		    strerrordesc_np(-rc));
	buf_fini(&text);
}

void blame_save(const struct blame_table *t, const struct dirs *d)
{
	struct buf text;
	buf_init(&text, 1048576);
	blame_print(t, &text);
	int rc = dirs_replace(d, "poison", (struct str){(const char *)text.p, text.n});
	if (rc != 0)
		log_error("cannot write %s/master/poison: %s", d->spool, strerrordesc_np(-rc));
	buf_fini(&text);
}

int blame_page(void)
{
	int fd = memfd_create("postern-blame", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, 4096) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

uint64_t blame_read(int page_fd)
{
	struct blame page = {0};
	if (page_fd < 0 || pread(page_fd, &page, sizeof(page), 0) != (ssize_t)sizeof(page))
		return 0;
	return page.message_id;
}

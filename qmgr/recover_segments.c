/* SPDX-License-Identifier: ISC */
/*
 * Segments at the start: files and rows are compared; those that no living writer holds are read to
 * their ends and sealed; empty ones go; and recipients whose rows are damaged are looked for.
 *
 * A file that the index does not know is set aside unread, never deleted, but when the index is
 * being rebuilt. A row without its file goes only if nothing names it.
 */
#include "common/log.h"
#include "qmgr/recover.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

bool recover_read_nonce(struct qmgr *q, uint64_t number, struct row_segment *row)
{
	unsigned char head[RECORD_HEAD];
	struct record r;
	int fd = segment_open_read(q, number);
	if (fd < 0)
		return false;
	bool good = pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
		    record_decode(&r, head) == 0 && r.offset == 0;
	close(fd);
	*row = (struct row_segment){.number = number,
	    .nonce_high = r.nonce_high,
	    .nonce_low = r.nonce_low,
	    .kind = r.kind == RECORD_OPEN ? SEGMENT_LARGE : SEGMENT_COMMON,
	    .process = PROC_MASTER, /* nobody's */
	    .created_ms = q->now_ms};
	return good;
}

static void unknown_file(struct qmgr *q, uint64_t number)
{
	struct row_segment row;
	if (q->segments.next_number <= number)
		q->segments.next_number = number + 1;
	if (q->recover.rebuild && recover_read_nonce(q, number, &row)) {
		segment_changed(q, segments_add(q, &row));
		return;
	}
	int rc = segment_set_aside(q, number,
	    q->recover.rebuild ? "it does not begin with a record" : "the index has no row for it");
	if (rc != 0)
		log_error("segment %016" PRIx64 " has no row and cannot be set aside: %s", number,
		    strerror(-rc));
}

/* Rows without files: if nothing names them, their deletion was on the way. Else rows stay as they
 * are, for the file may come back; the messages are not there meanwhile. */
void recover_drop_missing(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->missing)
			list[n++] = s;
	for (size_t i = 0; i < n; i++) {
		struct row_key key = row_key_number(list[i]->row.number);
		if (!list[i]->wanted)
			store_ops_delete(&q->commit.other, STORE_SEGMENT, &key);
		map_take(&q->segments.map, list[i]->row.number);
		free(list[i]);
	}
	free(list);
}

/* Files without rows, and rows without files. */
void recover_compare_files(struct qmgr *q)
{
	struct map seen = {0};
	int fd = openat(q->segments.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (dir == NULL)
		die(EX_IOERR, "the spool's segments cannot be listed: %s", strerror(errno));
	for (struct dirent *e; (e = readdir(dir)) != NULL;) {
		char *end;
		uint64_t number = strtoull(e->d_name, &end, 16);
		if (end != e->d_name + 16 || *end != '\0')
			continue;
		if (segments_find(q, number) == NULL)
			unknown_file(q, number);
		map_set(&seen, number, q);
	}
	closedir(dir);
	size_t at = 0;
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		s->missing = map_find(&seen, s->row.number) == NULL;
	map_fini(&seen);
}

bool recover_spool_is_fresh(struct qmgr *q)
{
	uint64_t a, b;
	int fd = openat(q->segments.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool fresh = !journal_numbers(q->spool_fd, &a, &b);
	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
		fresh &= e->d_name[0] == '.';
	if (dir != NULL)
		closedir(dir);
	return fresh;
}

static void rest_read(struct qmgr *q, struct segment *s, void *arg)
{
	(void)arg;
	segment_seal(q, s, s->row.mark);
}

/* A writer that lives and has not told what it holds: its channel was closed for a fault. It may
 * append still. What stands there now is read now, while the journal's word on it is known; the
 * rest when it has died, and peers.c knows when. */
static struct peer *still_writing(struct qmgr *q, const struct segment *s)
{
	for (struct peer *p = q->peers; p != NULL; p = p->next)
		if (p->process == s->row.process && p->instance == s->row.instance &&
		    p->generation == s->row.generation && (p->chan == NULL || !p->told_all))
			return p;
	return NULL;
}

static void read_so_far(struct qmgr *q, struct segment *s, void *arg)
{
	(void)q;
	(void)arg;
	s->state = SEGMENT_OPEN;
}

/* What no living writer holds is read to its end. Compaction's own are never replayed. */
void recover_read_orphans(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->state == SEGMENT_OPEN && s->owner == NULL)
			list[n++] = s;
	for (size_t i = 0; i < n; i++) {
		list[i]->owner = still_writing(q, list[i]);
		if (list[i]->row.kind == SEGMENT_COMPACT)
			segment_seal(q, list[i], list[i]->row.mark);
		else
			reading_start(q, list[i], UINT64_MAX,
			    list[i]->owner != NULL ? read_so_far : rest_read, NULL);
	}
	free(list);
}

/* Sealed ones that nothing is alive in: their deletion was on the way. */
void recover_drop_empty(struct qmgr *q)
{
	size_t at = 0, n = 0;
	struct segment **list = xcalloc(q->segments.map.n + 1, sizeof(*list));
	for (struct segment *s; (s = map_next(&q->segments.map, &at)) != NULL;)
		if (s->state == SEGMENT_SEALED && s->messages == 0)
			list[n++] = s;
	for (size_t i = 0; i < n; i++)
		segment_seal(q, list[i], list[i]->end);
	free(list);
}

static bool take_from(struct qmgr *q, struct segment *s, const struct damaged_row *d)
{
	struct record r;
	struct buf envelope;
	buf_init(&envelope, ENVELOPE_MAX);
	bool found = s != NULL && reading_find(q, s, d->id, &r, &envelope);
	if (found)
		intake_rcpt(q, s, &r, (struct str){(const char *)envelope.p, envelope.n}, d->rcpt);
	buf_fini(&envelope);
	return found;
}

/* A damaged row's message stands in the segment of its birth, or was compacted. Its state is lost:
 * it is tried at once, and uncertain. */
void recover_restore_damaged(struct qmgr *q)
{
	while (q->recover.damaged != NULL) {
		struct damaged_row *d = q->recover.damaged;
		q->recover.damaged = d->next;
		bool found = take_from(q, segments_find(q, RECORD_ID_SEGMENT(d->id)), d);
		size_t at = 0;
		for (struct segment *s; !found && (s = map_next(&q->segments.map, &at)) != NULL;)
			found = s->row.kind == SEGMENT_COMPACT && take_from(q, s, d);
		if (!found) {
			q->recover.lost++;
			log_error("message %016" PRIx64
				  ", recipient %u: its row is damaged and it stands in no "
				  "segment: lost",
			    d->id, d->rcpt);
			commit_delete_rcpt(q, d->id, d->rcpt);
		}
		free(d);
	}
}

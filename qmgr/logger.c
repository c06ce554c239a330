/* SPDX-License-Identifier: ISC */
/*
 * A thread that turns the journal into delivery log and accounting. What this file alone knows: how
 * far that has come, and the files it goes to.
 *
 * It is fed with runs of records after they are on file, in order. When it falls behind (a slow or
 * full log disk) the runs' bytes are not kept: it reads them from the journal's files by position,
 * which stay until it has passed. A write that fails is tried again each second and nothing after
 * it is written before: every outcome is written at least once and in order. Then the journal
 * grows, and when it cannot, deliveries stop rather than go unlogged.
 *
 * After a crash it goes on from the position of the last commit: lines of the last moments come
 * twice.
 *
 * Outcomes without an attempt name no address: the envelope is read from the segment, which is not
 * deleted before the log has passed its last record (segments.c).
 */
#include "qmgr/logger.h"
#include "common/clock.h"
#include "common/iothread.h"
#include "common/log.h"
#include "common/record.h"
#include "qmgr/journal.h"
#include "qmgr/logger_lines.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	KEPT_MAX = 64 << 20, /* bytes of records that wait in memory; more is read from file */
	OUT_MAX = 1 << 20,   /* a write at latest */
	OUT_CAP = 16 << 20,  /* one record's lines: 50000 recipients are written in pieces */
	FULL_AGAIN_MS = 1000,
	RETRY_NS = 1000000000,
	STAMP_MAX = 160,
	READ_FIRST = 4096, /* head and a usual envelope */
};

struct sink {
	int fd; /* -1: none */
	enum account_format format;
	unsigned types;
	struct buf out;
	uint64_t size, size_max; /* on file; 0: without end */
	bool warned;
};

struct logger {			    /* the thread's, but for what is marked */
	struct task *first, **last; /* loop's */
	struct iothread *thread;    /* loop's */
	uint64_t pos;		    /* loop's */
	size_t kept;		    /* loop's: bytes in memory */
	size_t tasks;		    /* loop's */
	uint64_t replay_to;	    /* loop's */
	struct loop *loop;	    /* loop's, and what follows */
	void (*on_full)(void *ctx, uint16_t index);
	void *full_ctx;
	int64_t told_ms[ACCOUNTING_FILES_MAX];
	atomic_bool ending;
	int spool_fd;
	bool is_file, is_bare;
	char host[65];
	char pid_text[24]; /* "[123]: " */
	struct sink log;
	struct sink accounting[ACCOUNTING_FILES_MAX];
	unsigned account_types; /* of all sinks */
	bool stuck;		/* ending while a write failed: nothing more counts */
	int64_t stamp_s;
	char stamp[STAMP_MAX]; /* "Nov 22 21:00:00 host " */
	uint64_t envelope_id;  /* the one in `envelope`, 0: none */
	struct envelope envelope;
	struct buf envelope_bytes;
	uint64_t segment; /* the one that segment_fd is open on, within a task */
	int segment_fd;
};

struct task {
	struct task *next; /* given and not yet back, in order */
	struct logger *logger;
	uint64_t pos, end;
	unsigned char *bytes; /* owned; NULL: read the file */
	size_t n;
	bool done;
	uint64_t full; /* a bit for each accounting file that has passed its size */
};
_Static_assert(ACCOUNTING_FILES_MAX <= 64, "a bit each");

/* --- writing -------------------------------------------------------------------------------------
 */

static void sleep_a_second(void)
{
	struct timespec t = {RETRY_NS / 1000000000, 0};
	nanosleep(&t, NULL);
}

static void flush(struct logger *l, struct sink *s, const char *what)
{
	size_t done = 0;
	while (s->fd >= 0 && done < s->out.n && !l->stuck) {
		ssize_t n = write(s->fd, s->out.p + done, s->out.n - done);
		if (n > 0) {
			done += (size_t)n;
			s->size += (uint64_t)n;
			s->warned = false;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (!s->warned)
			log_error("%s cannot be written: %s; trying again each second", what,
			    strerror(errno));
		s->warned = true;
		if (atomic_load(&l->ending))
			l->stuck = true;
		else
			sleep_a_second();
	}
	buf_reset(&s->out);
}

static void flush_all(struct logger *l)
{
	flush(l, &l->log, "the delivery log");
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		flush(l, &l->accounting[i], "an accounting file");
}

/* --- lines ---------------------------------------------------------------------------------------
 */

static void new_stamp(struct logger *l, uint64_t wall_ms)
{
	static const char months[12][4] = {
	    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;
	if (localtime_r(&t, &tm) == NULL)
		return;
	snprintf(l->stamp, sizeof(l->stamp), "%s %2d %02d:%02d:%02d %s ", months[tm.tm_mon],
	    tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, l->host);
	l->stamp_s = (int64_t)t;
}

static void prefix(void *ctx, struct buf *b, const char *service, uint64_t wall_ms)
{
	struct logger *l = ctx;
	if (l->is_file) {
		if ((int64_t)(wall_ms / 1000) != l->stamp_s)
			new_stamp(l, wall_ms);
		buf_cstr(b, l->stamp);
	} else if (!l->is_bare) {
		buf_cstr(b, "<6>");
	}
	buf_cstr(b, "postern/");
	buf_cstr(b, service);
	buf_cstr(b, l->pid_text);
}

static void forget_envelope(struct logger *l)
{
	if (l->envelope_id != 0)
		envelope_fini(&l->envelope);
	l->envelope_id = 0;
}

static int segment_fd(struct logger *l, uint64_t segment)
{
	char path[48];
	if (l->segment_fd >= 0 && l->segment == segment)
		return l->segment_fd;
	if (l->segment_fd >= 0)
		close(l->segment_fd);
	snprintf(path, sizeof(path), "segments/%016" PRIx64, segment);
	l->segment_fd = openat(l->spool_fd, path, O_RDONLY | O_CLOEXEC);
	l->segment = segment;
	return l->segment_fd;
}

/* The envelope's bytes: mostly they come with the head, in one read. NULL: not there any more. */
static const unsigned char *read_bytes(
    struct logger *l, uint64_t id, int fd, uint64_t offset, struct record *r)
{
	buf_reset(&l->envelope_bytes);
	unsigned char *p = buf_reserve(&l->envelope_bytes, READ_FIRST);
	ssize_t got = pread(fd, p, READ_FIRST, (off_t)offset);
	if (got < RECORD_HEAD || record_decode(r, p) != 0 || r->id != id)
		return NULL;
	if (r->kind == RECORD_MESSAGE && RECORD_HEAD + (size_t)r->envelope_bytes <= (size_t)got)
		return p + RECORD_HEAD;
	p = buf_reserve(&l->envelope_bytes, r->envelope_bytes + 1U);
	if (p == NULL ||
	    pread(fd, p, r->envelope_bytes, (off_t)r->data_offset) != (ssize_t)r->envelope_bytes)
		return NULL;
	return p;
}

/* NULL: it cannot be read any more; the line then says less. */
static const struct envelope *envelope_of(
    struct logger *l, uint64_t id, uint64_t segment, uint64_t offset)
{
	struct record r;
	if (l->envelope_id == id)
		return &l->envelope;
	forget_envelope(l);
	int fd = segment_fd(l, segment);
	const unsigned char *p = fd < 0 ? NULL : read_bytes(l, id, fd, offset, &r);
	if (p == NULL || crc32c(0, p, r.envelope_bytes) != r.envelope_crc ||
	    envelope_decode(&l->envelope, (struct str){(const char *)p, r.envelope_bytes}) != 0)
		return NULL;
	l->envelope_id = id;
	return &l->envelope;
}

static void outcome(struct logger *l, struct str payload)
{
	struct j_outcome o;
	struct j_rcpt rcpt;
	if (j_outcome_decode(payload, &o) != 0)
		return;
	struct j_rcpt_reader reader = j_rcpt_reader(&o);
	while (j_rcpt_take(&reader, &rcpt) == 1) {
		unsigned type = account_type_of(&o, &rcpt);
		const struct envelope *e = NULL;
		if (type != 0 && (rcpt.result.address.n == 0 || (l->account_types & type)))
			e = envelope_of(l, o.id, o.segment, o.offset);
		log_lines_outcome(&l->log.out, &o, &rcpt, e, prefix, l);
		for (size_t i = 0; i < ACCOUNTING_FILES_MAX && (l->account_types & type); i++)
			if (l->accounting[i].types & type)
				account_outcome(
				    &l->accounting[i].out, l->accounting[i].format, &o, &rcpt, e);
		if (l->log.out.n > OUT_MAX)
			flush_all(l);
	}
}

static void received(struct logger *l, struct str payload)
{
	struct j_received r;
	if (j_received_decode(payload, &r) != 0)
		return;
	log_lines_received(&l->log.out, &r, prefix, l);
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX && (l->account_types & ACCOUNT_RECEIVED); i++)
		if (l->accounting[i].types & ACCOUNT_RECEIVED)
			account_received(&l->accounting[i].out, l->accounting[i].format, &r);
}

static void queue_failed(struct logger *l, struct str payload)
{
	struct j_queue r;
	if (j_queue_decode(payload, &r) != 0)
		return;
	log_lines_queue(&l->log.out, &r, prefix, l);
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		if (l->accounting[i].types & ACCOUNT_QUEUE_DEFERRED)
			account_queue(&l->accounting[i].out, l->accounting[i].format, &r);
}

static void record(void *ctx, const struct journal_record *rec)
{
	struct logger *l = ctx;
	struct j_removed removed;
	struct j_reported reported;
	struct j_event event;
	if (rec->type == J_OUTCOME)
		outcome(l, rec->payload);
	else if (rec->type == J_RECEIVED)
		received(l, rec->payload);
	else if (rec->type == J_QUEUE)
		queue_failed(l, rec->payload);
	else if (rec->type == J_REMOVED && j_removed_decode(rec->payload, &removed) == 0)
		log_lines_removed(&l->log.out, &removed, prefix, l);
	else if (rec->type == J_REPORTED && j_reported_decode(rec->payload, &reported) == 0)
		log_lines_reported(&l->log.out, &reported, prefix, l);
	else if (rec->type == J_EVENT && j_event_decode(rec->payload, &event) == 0)
		log_lines_event(&l->log.out, &event, prefix, l);
	if (l->log.out.n > OUT_MAX)
		flush_all(l);
}

/* --- tasks ---------------------------------------------------------------------------------------
 */

static void from_memory(struct logger *l, struct task *t)
{
	struct str bytes = {(const char *)t->bytes, t->n};
	uint64_t pos = t->pos;
	struct journal_record rec;
	while (journal_record_take(&bytes, &pos, &rec) == 1)
		record(l, &rec);
}

struct until {
	struct logger *l;
	uint64_t end;
};

static void record_until(void *ctx, const struct journal_record *rec)
{
	struct until *u = ctx;
	if (rec->pos < u->end)
		record(u->l, rec);
}

static void from_file(struct logger *l, struct task *t)
{
	struct until until = {l, t->end};
	uint64_t pos = t->pos;
	bool more = true;
	while (more && pos < t->end && !l->stuck)
		if (journal_replay(l->spool_fd, &pos, 1, &more, record_until, &until) != 0)
			break;
}

static void work_lines(void *arg)
{
	struct task *t = arg;
	struct logger *l = t->logger;
	if (l->stuck)
		return;
	if (t->bytes != NULL)
		from_memory(l, t);
	else
		from_file(l, t);
	flush_all(l);
	forget_envelope(l);
	if (l->segment_fd >= 0)
		close(l->segment_fd); /* an idle logger must not keep a deleted segment's space */
	l->segment_fd = -1;
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		if (l->accounting[i].size_max > 0 &&
		    l->accounting[i].size >= l->accounting[i].size_max)
			t->full |= UINT64_C(1) << i;
	t->done = !l->stuck;
}

/* Asked again now and then, as long as lines come: master may have been busy. */
static void tell_full(struct logger *l, uint64_t full)
{
	int64_t now = loop_now_ms(l->loop);
	for (uint16_t i = 0; full != 0; i++, full >>= 1) {
		if ((full & 1) == 0 || now - l->told_ms[i] < FULL_AGAIN_MS || l->on_full == NULL)
			continue;
		l->told_ms[i] = now;
		l->on_full(l->full_ctx, i);
	}
}

static void lines_done(void *arg)
{
	struct task *t = arg;
	struct logger *l = t->logger;
	if (t->done)
		l->pos = t->end;
	tell_full(l, t->full);
	l->kept -= t->bytes ? t->n : 0;
	l->tasks--;
	l->first = t->next; /* they come back in the order in which they were given */
	if (l->first == NULL)
		l->last = &l->first;
	free(t->bytes);
	free(t);
}

static void add_task(struct logger *l, uint64_t pos, uint64_t end, unsigned char *bytes, size_t n)
{
	struct task *t = xcalloc(1, sizeof(*t));
	*t = (struct task){.logger = l, .pos = pos, .end = end, .bytes = bytes, .n = n};
	*l->last = t;
	l->last = &t->next;
	l->tasks++;
	l->kept += bytes ? n : 0;
	iothread_do(l->thread, work_lines, lines_done, t);
}

void logger_part(struct logger *l, uint64_t pos, unsigned char *bytes, size_t n)
{
	if (l->kept + n > KEPT_MAX) {
		free(bytes);
		bytes = NULL;
	}
	add_task(l, pos, pos + n, bytes, n);
}

uint64_t logger_pos(const struct logger *l)
{
	return l->pos;
}

bool logger_is_idle(const struct logger *l)
{
	return l->tasks == 0;
}

/* --- life ----------------------------------------------------------------------------------------
 */

struct logger *logger_new(struct loop *loop, int spool_fd, uint64_t from, uint64_t to)
{
	struct logger *l = xcalloc(1, sizeof(*l));
	l->spool_fd = spool_fd;
	l->loop = loop;
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		l->told_ms[i] = INT64_MIN / 2;
	l->last = &l->first;
	l->pos = from;
	snprintf(l->pid_text, sizeof(l->pid_text), "[%ld]: ", (long)getpid());
	l->stamp_s = l->segment_fd = -1;
	l->is_bare = true;
	log_host(l->host, sizeof(l->host));
	l->log.fd = -1;
	buf_init(&l->log.out, OUT_CAP);
	buf_init(&l->envelope_bytes, ENVELOPE_MAX + READ_FIRST);
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++) {
		l->accounting[i].fd = -1;
		buf_init(&l->accounting[i].out, OUT_CAP);
	}
	l->thread = iothread_new(loop, "logger");
	l->replay_to = to;
	return l;
}

void logger_on_full(struct logger *l, void (*on_full)(void *ctx, uint16_t index), void *ctx)
{
	l->on_full = on_full;
	l->full_ctx = ctx;
}

/* The files are there: what older processes left unlogged comes first. */
void logger_begin(struct logger *l)
{
	if (l->pos < l->replay_to)
		add_task(l, l->pos, l->replay_to, NULL, 0);
}

static void free_sink(struct sink *s)
{
	if (s->fd >= 0)
		close(s->fd);
	buf_fini(&s->out);
}

void logger_free(struct logger **logger)
{
	struct logger *l = *logger;
	if (l == NULL)
		return;
	*logger = NULL;
	atomic_store(&l->ending, true);
	iothread_free(&l->thread);
	while (l->first != NULL) {
		struct task *t = l->first;
		l->first = t->next;
		free(t->bytes);
		free(t);
	}
	forget_envelope(l);
	buf_fini(&l->envelope_bytes);
	free_sink(&l->log);
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		free_sink(&l->accounting[i]);
	free(l);
}

struct change {
	struct logger *l;
	int fd;	   /* of `index`; -1 with `formats` */
	int index; /* -1: the log */
	bool is_file;
	bool whole; /* a configuration: files beyond `count` are no more */
	size_t count;
	enum account_format formats[ACCOUNTING_FILES_MAX];
	unsigned types[ACCOUNTING_FILES_MAX];
	uint64_t size_max[ACCOUNTING_FILES_MAX];
};

static void begin_file(struct logger *l, struct sink *s)
{
	struct stat st;
	if (fstat(s->fd, &st) != 0)
		return;
	s->size = (uint64_t)st.st_size;
	if (s->format == ACCOUNT_CSV && st.st_size == 0) {
		account_header(&s->out);
		flush(l, s, "an accounting file");
	}
}

static void set_types(struct logger *l)
{
	l->account_types = 0;
	for (size_t i = 0; i < ACCOUNTING_FILES_MAX; i++)
		if (l->accounting[i].fd >= 0)
			l->account_types |= l->accounting[i].types;
}

/* Between two runs of records, so that no line is torn between an old and a new file. */
static void work_change(void *arg)
{
	struct change *c = arg;
	struct logger *l = c->l;
	for (size_t i = 0; i < c->count; i++) {
		l->accounting[i].format = c->formats[i];
		l->accounting[i].types = c->types[i];
		l->accounting[i].size_max = c->size_max[i];
	}
	for (size_t i = c->count; c->whole && i < ACCOUNTING_FILES_MAX; i++) {
		if (l->accounting[i].fd >= 0)
			close(l->accounting[i].fd);
		l->accounting[i].fd = -1;
		l->accounting[i].types = 0;
		l->accounting[i].size_max = 0;
	}
	if (c->fd >= 0) {
		struct sink *s = c->index < 0 ? &l->log : &l->accounting[c->index];
		if (s->fd >= 0)
			close(s->fd);
		s->fd = c->fd;
		if (c->index < 0)
			l->is_file = c->is_file;
		else
			begin_file(l, s);
	}
	set_types(l);
	free(c);
}

static void give_change(struct logger *l, const struct change *change)
{
	struct change *c = xmalloc(sizeof(*c));
	*c = *change;
	c->l = l;
	iothread_do(l->thread, work_change, NULL, c);
}

void logger_log_file(struct logger *l, int fd, bool is_file)
{
	l->is_bare = log_is_bare();
	give_change(l, &(struct change){.fd = fd, .index = -1, .is_file = is_file});
}

void logger_accounting_file(struct logger *l, uint16_t index, int fd)
{
	if (index >= ACCOUNTING_FILES_MAX)
		close(fd);
	else
		give_change(l, &(struct change){.fd = fd, .index = index});
}

void logger_configure(struct logger *l, const struct conf *conf)
{
	struct change c = {.fd = -1, .whole = true};
	const struct conf_node *n = NULL;
	while ((n = conf_next(conf->root, CONF_ACCOUNTING, n)) != NULL &&
	       c.count < ACCOUNTING_FILES_MAX) {
		c.formats[c.count] =
		    conf_num(n, CO_ACCOUNTING_format) == ACCOUNT_JSON ? ACCOUNT_JSON : ACCOUNT_CSV;
		c.size_max[c.count] = (uint64_t)conf_num(n, CO_ACCOUNTING_max_size);
		c.types[c.count++] = account_types_parse(conf_get(n, CO_ACCOUNTING_records));
	}
	give_change(l, &c);
}

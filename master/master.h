/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/conf.h"
#include "common/control.h"
#include "common/loop.h"
#include "common/types.h"
#include "master/state.h"
#include <limits.h>
#include <sys/types.h>
/*
 * What the files of master share: the one object, the slots of its workers, a configuration with
 * all that is open for it. Each file's functions stand under its name.
 */
enum {
	SLOTS_MAX = 160, /* the options' 64 smtpd, 64 smtp-out, and the single ones */
	SUMMARY_MAX = 301,
	BLAME_IDS_MAX = 4096, /* ids remembered; stops a run of crashes from growing the file */
	BLAME_DEATHS_MAX = 3, /* the third sets the message aside */
};
struct master;

/* --- generation.c: one configuration and everything opened for it -------------------------------
 */
struct listen_socket {
	char address[64];
	uint16_t port;
	int fd; /* owned */
};
struct secret {
	enum secret_kind kind;
	uint16_t index;
	char *pem; /* owned, wiped when freed */
	size_t bytes;
};
struct accounting {
	int fd;		      /* owned */
	int64_t rotate_at_ms; /* by the wall clock; INT64_MAX: never */
};
struct generation {
	uint32_t number;
	struct conf *conf; /* owned */
	struct listen_socket *listeners;
	size_t listener_count;
	struct secret *secrets;
	size_t secret_count;
	int log_fd;		       /* owned; -1: standard error */
	struct accounting *accounting; /* owned; in the order of the configuration */
	size_t accounting_count;
};
/* Takes conf. Sockets of `old` (may be NULL) whose address and port stay are kept. NULL: a line for
 * each problem in errors, and nothing stays open. */
struct generation *generation_open(
    struct conf *conf, uint32_t number, const struct generation *old, struct buf *errors);
/* A log file of ours, made if it is not there: 0 or -errno. */
int generation_open_append(int dir_fd, const char *name, int *fd) MUST_USE;
/* Its sockets take clients from now on: 0, or negative and a line for each problem. */
int generation_listen(const struct generation *g, struct buf *errors) MUST_USE;
void generation_free(struct generation **g);
/* Certificates, keys and the CA bundle alone: what -n looks at beside the configuration. */
void generation_check_secrets(const struct conf *conf, struct buf *errors);

/* --- listen.c -----------------------------------------------------------------------------------
 */
/* 0 or -errno, with *fd a bound socket. */
int listen_bind(const char *address, uint16_t port, int *fd) MUST_USE;
int listen_begin(int fd) MUST_USE;			/* takes clients from now on; 0 or -errno */
int listen_control(const char *path, int *fd) MUST_USE; /* mode 0600; replaces what stands there */

/* --- dirs.c: directories, the lock, what must outlive us
 * ------------------------------------------ */
struct dirs {
	char *spool, *run, *empty; /* owned paths */
	int own_fd;		   /* SPOOL/master */
	int lock_fd;		   /* SPOOL/lock, inherited by every worker */
	int run_fd;		   /* locked: one suite a run directory */
};
void dirs_prepare(struct dirs *d, const struct conf *conf, uid_t qmgr_uid, gid_t qmgr_gid);
int dirs_make(const char *path, mode_t mode) MUST_USE; /* with its parents; 0 or -errno */
/* The spool's lock; waits for workers of a killed master, then exits with EX_TEMPFAIL. */
void dirs_lock(struct dirs *d);
/* A small file in SPOOL/master: read into buf (0 or -errno), or replaced whole and synced. */
int dirs_read(const struct dirs *d, const char *name, struct buf *out) MUST_USE;
int dirs_replace(const struct dirs *d, const char *name, struct str content) MUST_USE;

/* --- boot.c: was the end of the last run a clean one? --------------------------------------------
 */
enum boot_mark { BOOT_NONE, BOOT_RUNNING, BOOT_CLEAN, BOOT_UNCLEAN };
/* Pure: must qmgr take what was due for uncertain? */
bool boot_is_unclean(
    enum boot_mark mark, struct str marked_id, struct str current_id, bool new_spool);
bool boot_begin(const struct dirs *d); /* reads the mark, writes the new one; true: unclean */
void boot_recovered(const struct dirs *d);
void boot_end(const struct dirs *d);

/* --- blame.c
 * -------------------------------------------------------------------------------------- */
struct blame_entry {
	uint64_t id;
	uint8_t deaths;
};
struct blame_table { /* oldest first */
	struct blame_entry entries[BLAME_IDS_MAX];
	size_t count;
};
uint8_t blame_add(struct blame_table *t, uint64_t id); /* its deaths now */
void blame_print(const struct blame_table *t, struct buf *out);
int blame_parse(struct blame_table *t, struct str text) MUST_USE; /* 0 or -EBADMSG: nothing taken */
void blame_load(struct blame_table *t, const struct dirs *d);
void blame_save(const struct blame_table *t, const struct dirs *d);
int blame_page(void);		  /* a new page for a worker: descriptor, or -errno */
uint64_t blame_read(int page_fd); /* what its worker was handling */

/* --- notify.c
 * ------------------------------------------------------------------------------------- */
struct notify {
	int fd;		     /* -1: nobody listens */
	int64_t watchdog_ms; /* 0: none is wanted */
};
void notify_open(struct notify *n); /* from the environment, which it cleans */
void notify_send(const struct notify *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* --- the slots of the workers
 * ---------------------------------------------------------------------- */
struct slot {
	struct master *master;
	enum proc_id process;
	uint16_t instance;
	enum worker_state state;
	uint32_t generation; /* of the process, counts its starts */
	pid_t pid;
	struct chan *chan; /* NULL: closed */
	int blame_fd;	   /* of the living process */
	int control_fd;	   /* kept for the next one */
	struct heartbeat heartbeat;
	struct loop_timer timer;      /* the next start; or the end of our patience with a stop */
	int64_t started_ms, ready_ms; /* ready_ms -1: not yet */
	int64_t delay_ms, due_ms;     /* the wait used last; when the next start may be */
	unsigned deaths;
	bool fresh; /* started, not yet handed anything */
	bool killed_overdue;
	bool said_stopped;
	bool asked_config; /* a reload waits for its CONFIG_READY */
	const char *why_killed;
	char summary[SUMMARY_MAX];
};
struct ids { /* what a worker becomes */
	uid_t uid;
	gid_t gid;
};
struct stopping {
	bool active;
	unsigned phase;
	int64_t began_ms;
	struct loop_timer timer;
};
struct reload {
	struct generation *next;     /* owned; NULL: no reload is going on */
	struct control_reply *reply; /* NULL: by signal */
	struct loop_timer timer;
	bool again; /* a signal came meanwhile */
};
struct master {
	struct loop *loop;
	const char *conf_path;
	char workers_dir[PATH_MAX];
	bool root, rebuild, unclean;
	bool announced; /* all workers have been ready once */
	int exit_status;
	struct ids ids[PROC_COUNT];
	struct dirs dirs;
	struct generation *generation;
	uint32_t last_number;
	struct slot *slots[SLOTS_MAX]; /* owned */
	size_t slot_count;
	struct blame_table blame;
	struct notify notify;
	struct control *control;
	struct reload reload;
	struct stopping stopping;
	struct loop_timer heartbeat, watchdog, status, rotation;
	int64_t last_tick_ms, started_ms;
	uint64_t ping_sequence;
	bool status_changed, qmgr_clean;
};

/* --- supervise.c
 * ------------------------------------------------------------------------------------ */
void supervise_event(struct slot *s, enum worker_event event);
void supervise_stop(
    struct slot *s, int64_t within_ms); /* asks it to end, or again with less time */
/* Makes the slots what the configuration wants: new ones are started, surplus ones told to stop. */
void supervise_fit(struct master *m);
void supervise_run(void *master); /* starts what is due, hands everything over */
void supervise_reap(void *master);
void supervise_kill(struct slot *s, const char *why);
const char *slot_name(const struct slot *s, char out[32]);
extern const struct chan_spec supervise_chan; /* ctx is to be set: the slot */

/* --- beat.c: heartbeats, systemd's watchdog and status line
 * ------------------------------------------ */
void beat_start(struct master *m);
void beat_answered(struct slot *s);
void beat_status(struct master *m); /* something changed: tell systemd soon */

/* --- spawn.c
 * ------------------------------------------------------------------------------------------ */
void spawn_find_workers(struct master *m);
void spawn_find_users(struct master *m, const struct conf *conf);
void spawn_raise_limits(void);
int spawn_worker(struct slot *s) MUST_USE; /* fills pid, chan, blame_fd; 0 or -errno */

/* --- handover.c
 * ----------------------------------------------------------------------------------------- */
void handover_begin(struct slot *s);		      /* all that it gets but peers and START */
void handover_link(struct slot *a, struct slot *b);   /* a channel between them, if they have one */
bool handover_linked(enum proc_id a, enum proc_id b); /* does msg.def have a row between them? */
void handover_start(struct slot *s);
void handover_config(struct slot *s, const struct generation *g);
void handover_listeners(struct slot *s, const struct generation *g);
/* all: say of those that are not there, too, that they are not. */
void handover_secrets(struct slot *s, const struct generation *g, bool all);
void handover_log(struct slot *s, const struct generation *g);
void handover_accounting(struct slot *s, const struct generation *g); /* after its configuration */
void handover_poison(struct slot *s, const struct blame_entry *e);

/* --- reload.c
 * --------------------------------------------------------------------------------------------- */
void reload_by_signal(void *arg);
void reload_by_control(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options);
void reload_answered(struct slot *s, uint32_t config, bool ok, struct str why);
void reload_died(struct slot *s);      /* a worker went while a reload may wait for it */
void reload_abandon(struct master *m); /* the suite stops */

/* --- rotate.c: accounting files that begin anew
 * ------------------------------------------------------------------------------------ */
enum { ROTATE_NAME = 300 }; /* of a renamed file */
/* Is that the name of such a file, renamed? Which of two is older (negative: a)? When is it time,
 * in ms of the wall clock, if local time is so far ahead of UTC? */
bool rotate_is_ours(const char *file, const char *name);
int rotate_order(const char *file, const char *a, const char *b);
int64_t rotate_next_ms(int64_t now_ms, int64_t every_ms, int64_t offset_ms);
void rotate_begin(struct master *m);	      /* the configuration in use is another */
void rotate_mend(const struct generation *g); /* before a new qmgr is given its files */
void rotate_by_control(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options);

/* --- stop.c
 * -------------------------------------------------------------------------------------------------
 */
void stop_begin(void *arg);	      /* arg: the master; again: hurry */
void stop_progress(struct master *m); /* a worker went */

/* --- verbs.c
 * -------------------------------------------------------------------------------------------------
 */
extern const struct control_verb master_verbs[];
extern const size_t master_verb_count;

/* SPDX-License-Identifier: ISC */
#include "common/sandbox.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>
/*
 * How a worker gives up what it was started with: its root directory, its user, its capabilities.
 * The filter of system calls is sandbox_seccomp.c.
 *
 * Invariant: after sandbox_drop() nothing can be got back. It is checked, not assumed: a process
 * that could become root again ends here.
 *
 * A worker that is not started by root cannot chroot. Landlock then takes its place as far as the
 * kernel has it: no rule at all for an empty root, one rule for the spool.
 */
enum { LAST_CAPABILITY = 63 }; /* more than any kernel has; unknown ones answer EINVAL */

/* Rights by Landlock version, as bits: the headers of Debian 12 may know fewer than the kernel. */
static uint64_t landlock_rights(int abi)
{
	uint64_t rights =
	    (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; /* version 1: execute … make_sym */
	if (abi >= 2)
		rights |= 1u << 13; /* link and rename across directories */
	if (abi >= 3)
		rights |= 1u << 14; /* truncate */
	if (abi >= 5)
		rights |= 1u << 15; /* ioctl on devices */
	return rights;
}

int sandbox_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	return abi < 0 ? 0 : (int)abi;
}

static bool is_empty_root(const char *root)
{
	size_t n = strlen(root);
	return n >= 6 && strcmp(root + n - 6, "/empty") == 0;
}

/* Everything below `root` but execution is allowed; nothing else is, and nothing below an empty
 * one. */
static void confine(const char *root)
{
	int abi = sandbox_landlock_abi();
	if (abi == 0)
		return; /* master has warned, once for all */
	struct landlock_ruleset_attr attr = {.handled_access_fs = landlock_rights(abi)};
	int rules =
	    (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
	if (rules < 0)
		die(EX_OSERR, "cannot make a Landlock rule set: %s", strerror(errno));
	if (!is_empty_root(root)) {
		struct landlock_path_beneath_attr beneath = {
		    .allowed_access =
			attr.handled_access_fs & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE,
		    .parent_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC)};
		if (beneath.parent_fd < 0 || syscall(SYS_landlock_add_rule, rules,
						 LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
			die(EX_OSERR, "cannot allow %s: %s", root, strerror(errno));
		close(beneath.parent_fd);
	}
	if (syscall(SYS_landlock_restrict_self, rules, 0) != 0)
		die(EX_OSERR, "cannot confine this process with Landlock: %s", strerror(errno));
	close(rules);
}

/* Also of a process that is not root: systemd may have given master ambient capabilities. */
static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none) != 0)
		die(EX_OSERR, "cannot drop capabilities: %s", strerror(errno));
}

static void change_root(const char *root)
{
	if (chroot(root) != 0 || chdir("/") != 0)
		die(EX_OSERR, "cannot take %s as root directory: %s", root, strerror(errno));
}

static void change_user(uid_t uid, gid_t gid)
{
	for (unsigned long cap = 0; cap <= LAST_CAPABILITY; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 ||
	    setresuid(uid, uid, uid) != 0)
		die(EX_OSERR, "cannot become user %u, group %u: %s", uid, gid, strerror(errno));
	if (setresuid(0, 0, 0) == 0 || getuid() != uid || geteuid() != uid || getgid() != gid ||
	    getegid() != gid)
		die(EX_SOFTWARE, "user %u could become root again", uid);
}

#ifdef POSTERN_SANITIZED
/* LeakSanitizer reads /proc, which an empty root has not: it looks for leaks in processes that kept
 * theirs. */
static int dropped;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return dropped;
}
#endif

void sandbox_drop(uid_t uid, gid_t gid, const char *root)
{
	struct rlimit no_core = {0, 0};
	setrlimit(RLIMIT_CORE, &no_core); /* a core holds mail */
	if (uid != 0) {
		change_root(root);
		change_user(uid, gid);
	} else if (geteuid() == 0) {
		die(EX_SOFTWARE, "a worker does not run as root");
	} else if (chdir(root) != 0) {
		die(EX_OSERR, "cannot enter %s: %s", root, strerror(errno));
	}
	drop_capabilities();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		die(EX_OSERR, "cannot set no_new_privs: %s", strerror(errno));
	if (uid == 0)
		confine(root);
#ifdef POSTERN_SANITIZED
	dropped = 1;
#else
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

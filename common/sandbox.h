/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/types.h"
#include <sys/types.h>
/*
 * What each worker may ask of the kernel. All of these end the process with a clear message when
 * they fail: a worker without its sandbox does not run.
 */
/* chroot and setresuid (uid 0: keep the ids, confine to root with Landlock where the kernel has
 * it). The current directory is `root` afterwards. */
void sandbox_drop(uid_t uid, gid_t gid, const char *root);
void sandbox_seccomp(enum proc_id process); /* allow-list; sanitizer builds: relaxed */
/* Landlock's version here, 0 when the kernel has none: master's warning when it is not root. */
int sandbox_landlock_abi(void);

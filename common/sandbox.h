/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/types.h"
#include <sys/types.h>
/*
 * What each worker may ask of the kernel. All of these end the process with a clear message when they
 * fail: a worker without its sandbox does not run.
 */
void sandbox_drop(uid_t uid, gid_t gid, const char *root); /* chroot and setresuid, or Landlock */
void sandbox_seccomp(enum proc_id process);                /* allow-list; sanitizer builds: relaxed */

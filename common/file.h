/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include <stdint.h>
#include <sys/types.h>
/* Reads n bytes at offset, over short reads and EINTR. How many came (fewer only at the end of the
 * file), or -errno. */
ssize_t file_read_at(int fd, void *to, size_t n, uint64_t offset) MUST_USE;

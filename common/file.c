/* SPDX-License-Identifier: ISC */
/* Reading from a file at a place, whole: once for those who read segments. */
#include "common/file.h"
#include <errno.h>
#include <unistd.h>

ssize_t file_read_at(int fd, void *to, size_t n, uint64_t offset)
{
	size_t done = 0;
	while (done < n) {
		ssize_t got =
		    pread(fd, (unsigned char *)to + done, n - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

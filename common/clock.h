/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdint.h>
/*
 * Two clocks, and names that say which: mono_ms counts from boot and drives timers; wall_ms counts
 * from 1970 and is printed. Decisions that outlive a process use steady_ms.
 */
int64_t clock_mono_ms(void); /* CLOCK_MONOTONIC, milliseconds */
int64_t clock_mono_us(void); /* the same in microseconds, for measuring */
int64_t clock_wall_ms(void); /* CLOCK_REALTIME, milliseconds since 1970 */
/* Wall time at this process' start plus CLOCK_BOOTTIME since: never jumps while the process lives,
 * so that a stepped clock cannot expire a queue. Comparable (within the step) across restarts. */
int64_t clock_steady_ms(void);

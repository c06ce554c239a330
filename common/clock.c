/* SPDX-License-Identifier: ISC */
/*
 * The only file that asks the kernel for the time. Each function is one vDSO call; the steady
 * clock's base is taken once, at its first use, which every process makes while it starts.
 */
#include "common/clock.h"
#include "common/check.h"
#include <pthread.h>
#include <time.h>

static int64_t steady_base_ms; /* wall clock minus CLOCK_BOOTTIME when steady_start() ran */
static pthread_once_t steady_once = PTHREAD_ONCE_INIT;

static int64_t read_us(clockid_t id)
{
	struct timespec t;
	must(clock_gettime(id, &t) == 0);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_mono_ms(void)
{
	return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_mono_us(void)
{
	return read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_ms(void)
{
	return read_us(CLOCK_REALTIME) / 1000;
}

static void steady_start(void)
{
	steady_base_ms = read_us(CLOCK_REALTIME) / 1000 - read_us(CLOCK_BOOTTIME) / 1000;
}

int64_t clock_steady_ms(void)
{
	pthread_once(&steady_once, steady_start);
	return steady_base_ms + read_us(CLOCK_BOOTTIME) / 1000;
}

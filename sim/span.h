/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdint.h>
/* Times in the report and the plot. */
void sim_span(char out[32], int64_t ms);     /* 3m20s, 2h05m; negative: "-" */
void sim_clock(char out[32], int64_t at_ms); /* 14:05:00, 1d+14:05:00 */

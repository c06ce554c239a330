/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdbool.h>
#include <stdint.h>
/*
 * Hierarchical timer wheel, 1 ms ticks: add, cancel O(1); a node sits embedded in its owner. Pure:
 * the time is an argument. Used by the event loop and by qmgr's core.
 */
struct wheel_node {
	struct wheel_node *next, *prev; /* NULL when not armed */
	int64_t at_ms;
};
struct wheel;
typedef void wheel_fn(void *ctx, struct wheel_node *node);

struct wheel *wheel_new(int64_t now_ms);
void wheel_free(struct wheel **w);
void wheel_add(struct wheel *w, struct wheel_node *node, int64_t at_ms); /* re-arms if armed */
void wheel_cancel(struct wheel *w, struct wheel_node *node);		 /* harmless if not armed */
bool wheel_armed(const struct wheel_node *node);
/* Calls fn for each node due at now_ms, in order of time to within a tick; fn may add and cancel.
 */
void wheel_advance(struct wheel *w, int64_t now_ms, wheel_fn *fn, void *ctx);
/* A time not later than the next due node (may be earlier by a cascade); INT64_MAX when empty. */
int64_t wheel_next_ms(const struct wheel *w);

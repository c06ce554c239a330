/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "worker" to its on_NAME(). */
#define DISPATCHER msg_to_worker
#define TO_worker(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "resolver" to its on_NAME(). */
#define DISPATCHER msg_to_resolver
#define TO_resolver(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "writer" to its on_NAME(). */
#define DISPATCHER msg_to_writer
#define TO_writer(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

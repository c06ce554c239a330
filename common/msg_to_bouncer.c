/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "bouncer" to its on_NAME(). */
#define DISPATCHER msg_to_bouncer
#define TO_bouncer(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

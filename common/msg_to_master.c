/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "master" to its on_NAME(). */
#define DISPATCHER msg_to_master
#define TO_master(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

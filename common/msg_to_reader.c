/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "reader" to its on_NAME(). */
#define DISPATCHER msg_to_reader
#define TO_reader(...) __VA_ARGS__
#include "common/msg_dispatch.inc"

/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
/*
 * The only file that includes OpenSSL. A byte transformer without a socket inside: what came from
 * the network goes in, what must go to the network comes out. Never blocks, never aborts on bad
 * input.
 */
struct tls_context; /* server: one per listener; client: one per process */
struct tls;
enum tls_state { TLS_HANDSHAKE, TLS_OPEN, TLS_CLOSED, TLS_FAILED };

/* Before the worker drops its rights: reads OpenSSL's configuration, loads its algorithms and texts
 * and seeds its random numbers, so that nothing needs the file system later. Cheap when repeated.
 */
void tls_init(void);
/* err gets one line. PEM texts as bytes: the worker has no file system. NULL on failure. */
struct tls_context *tls_server_context(struct str cert_pem, struct str key_pem, char err[256]);
struct tls_context *tls_client_context(struct str ca_pem, char err[256]);
void tls_context_free(struct tls_context **c);
struct tls *tls_accept(struct tls_context *c);
/* sni: host name (never an address). session_key names the cache slot for resumption (MX host,
 * address, SNI, policy, source). Sessions are kept on an orderly close: bounded LRU inside the
 * context. */
struct tls *tls_connect(struct tls_context *c, struct str sni, struct str session_key);
void tls_free(
    struct tls **t); /* marks the session as shut down first, or it could not be resumed */
enum tls_state tls_state(const struct tls *t);
/* Eats network bytes from `in`, appends plaintext to `plain` (within its max: the rest stays in
 * `in`), and ciphertext to be sent to `out`. Drives the handshake too (call with in empty to
 * start). */
enum tls_state tls_feed(struct tls *t, struct buf *in, struct buf *plain, struct buf *out);
/* Plaintext is waiting inside (`plain` was full): call tls_feed again, even with `in` empty, once
 * there is room; the network will not wake you for it. */
bool tls_pending(const struct tls *t);
/* Encrypts n bytes, appends to out. 0 or -EPROTO. */
int tls_write(struct tls *t, const void *p, size_t n, struct buf *out) MUST_USE;
void tls_shutdown(struct tls *t, struct buf *out); /* close_notify */
/* "TLSv1.3 TLS_AES_256_GCM_SHA384 resumed"; a client that was given CAs adds "verified" or
 * "unverified" (chain and name); for a failure, why. */
void tls_describe(const struct tls *t, char *out, size_t size);
bool tls_resumed(const struct tls *t);

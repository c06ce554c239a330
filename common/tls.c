/* SPDX-License-Identifier: ISC */
/*
 * TLS, and the only file that knows OpenSSL. A connection is a transformer of bytes: OpenSSL reads
 * from and writes to the caller's buffers through a BIO of our own, so that ciphertext is copied
 * once and nothing in here owns a socket, blocks or waits.
 *
 * Practice (measured, see the manuals of OpenSSL 3.0 for the names): one SSL_CTX per listener or
 * per client process, made before or at start; RELEASE_BUFFERS, since an idle connection costs some
 * 45 KB otherwise; no renegotiation, no compression. TLS 1.2 is the least. A client is
 * opportunistic: any encryption is better than none, so its security level is 0 and a bad
 * certificate is only reported.
 *
 * Resumption saves most of a handshake (TLS 1.2 2.1 → 0.1 ms, TLS 1.3 2.3 → 0.9 ms of both ends).
 * Client sessions live in a bounded LRU inside the context; TLS 1.3 brings them after the
 * handshake, hence the callback. SSL_free() of a connection that was not shut down spoils its
 * session: tls_free() marks it first. A failed connection takes its key's session along, so that a
 * bad one is not tried again.
 */
#include "common/tls.h"
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SESSIONS_MAX = 1000,	/* kept by a client context, some KB each */
	SESSION_BUCKETS = 1024, /* power of two */
	SESSION_KEY_MAX = 1024, /* longer keys are not cached */
	READ_STEP = 16384,	/* a whole TLS record */
	WHY_MAX = 200,
};

struct session {		       /* one slot of the LRU */
	struct session *next;	       /* in its bucket */
	struct session *newer, *older; /* by use */
	SSL_SESSION *ssl;	       /* owned */
	size_t key_bytes;
	char key[];
};

struct tls_context {
	SSL_CTX *ctx;
	bool server, has_ca;
	struct session *bucket[SESSION_BUCKETS];
	struct session *newest, *oldest;
	size_t sessions;
};

struct tls {
	struct tls_context *context; /* borrowed: outlives the connection */
	SSL *ssl;
	enum tls_state state;
	struct buf *in, *out; /* the caller's, only during a call */
	size_t in_at;	      /* how much of `in` was eaten in this call */
	char *session_key;    /* owned; NULL: no resumption */
	size_t session_key_bytes;
	char why[WHY_MAX];
};

/* --- sessions of a client ----------------------------------------------------------------------
 */

static unsigned key_bucket(const char *key, size_t n)
{
	uint32_t h =
	    2166136261u; /* FNV-1a: the keys are host names, not chosen to collide cheaply */
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)key[i]) * 16777619u;
	return h & (SESSION_BUCKETS - 1);
}

static struct session **session_find(struct tls_context *c, const char *key, size_t n)
{
	struct session **s = &c->bucket[key_bucket(key, n)];
	while (*s && ((*s)->key_bytes != n || memcmp((*s)->key, key, n) != 0))
		s = &(*s)->next;
	return s;
}

static void lru_unlink(struct tls_context *c, struct session *s)
{
	*(s->newer ? &s->newer->older : &c->newest) = s->older;
	*(s->older ? &s->older->newer : &c->oldest) = s->newer;
}

static void lru_link(struct tls_context *c, struct session *s)
{
	s->newer = NULL;
	s->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = s;
	c->newest = s;
}

static void session_drop(struct tls_context *c, const char *key, size_t n)
{
	struct session **at = session_find(c, key, n), *s = *at;
	if (!s)
		return;
	*at = s->next;
	lru_unlink(c, s);
	SSL_SESSION_free(s->ssl);
	free(s);
	c->sessions--;
}

static void session_put(struct tls_context *c, const char *key, size_t n, SSL_SESSION *ssl)
{
	session_drop(c, key, n);
	while (c->sessions >= SESSIONS_MAX)
		session_drop(c, c->oldest->key, c->oldest->key_bytes);
	struct session *s = xcalloc(1, sizeof(*s) + n);
	memcpy(s->key, key, n);
	s->key_bytes = n;
	s->ssl = ssl;
	struct session **at = &c->bucket[key_bucket(key, n)];
	s->next = *at;
	*at = s;
	lru_link(c, s);
	c->sessions++;
}

/* OpenSSL's new-session callback: 1 means that we keep the reference. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls *t = SSL_get_app_data(ssl);
	if (!t || !t->session_key || !SSL_SESSION_is_resumable(session))
		return 0;
	session_put(t->context, t->session_key, t->session_key_bytes, session);
	return 1;
}

static void offer_session(struct tls *t)
{
	struct session *s = *session_find(t->context, t->session_key, t->session_key_bytes);
	if (!s)
		return;
	lru_unlink(t->context, s);
	lru_link(t->context, s);
	if (SSL_set_session(t->ssl, s->ssl) != 1)
		ERR_clear_error();
}

/* --- the BIO between OpenSSL and the caller's buffers ------------------------------------------
 */

static BIO_METHOD *bio_method; /* made once, by tls_init() */

static int bio_read(BIO *bio, char *to, int max)
{
	struct tls *t = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	size_t left = t->in ? t->in->n - t->in_at : 0;
	if (left == 0 || max <= 0) {
		BIO_set_retry_read(bio);
		return -1;
	}
	size_t n = left < (size_t)max ? left : (size_t)max;
	memcpy(to, t->in->p + t->in_at, n);
	t->in_at += n;
	return (int)n;
}

static int bio_write(BIO *bio, const char *from, int n)
{
	struct tls *t = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (!t->out || n <= 0)
		return -1;
	buf_put(t->out, from, (size_t)n);
	return t->out->failed ? -1 : n; /* over the caller's bound: the connection fails */
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO *bio_for(struct tls *t)
{
	BIO *bio = BIO_new(bio_method);
	if (bio) {
		BIO_set_data(bio, t);
		BIO_set_init(bio, 1);
	}
	return bio;
}

static BIO_METHOD *make_bio_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "postern");
	must(m && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) &&
	     BIO_meth_set_ctrl(m, bio_ctrl));
	return m;
}

void tls_init(void)
{
	if (bio_method)
		return;
	OPENSSL_init_ssl(OPENSSL_INIT_LOAD_SSL_STRINGS | OPENSSL_INIT_LOAD_CRYPTO_STRINGS |
			     OPENSSL_INIT_ADD_ALL_CIPHERS | OPENSSL_INIT_ADD_ALL_DIGESTS |
			     OPENSSL_INIT_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT,
	    NULL);
	bio_method = make_bio_method();
	unsigned char seed[16];
	(void)RAND_bytes(seed, sizeof(seed));	   /* opens what it needs, while it can */
	SSL_CTX *warm = SSL_CTX_new(TLS_method()); /* fetches the default provider's algorithms */
	SSL_CTX_free(warm);
	ERR_clear_error();
}

/* --- contexts -----------------------------------------------------------------------------------
 */

static void last_error(char *out, size_t size, const char *what)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;
	snprintf(out, size, "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
	ERR_clear_error();
}

static struct tls_context *context_new(const SSL_METHOD *method, char err[256])
{
	tls_init();
	ERR_clear_error();
	struct tls_context *c = xcalloc(1, sizeof(*c));
	c->ctx = SSL_CTX_new(method);
	if (!c->ctx) {
		last_error(err, 256, "cannot make a TLS context");
		free(c);
		return NULL;
	}
	SSL_CTX_set_min_proto_version(c->ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(c->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(c->ctx, SSL_MODE_RELEASE_BUFFERS);
	return c;
}

static int no_passphrase(char *to, int size, int writing, void *arg)
{
	(void)to, (void)size, (void)writing, (void)arg;
	return -1; /* never ask a terminal */
}

static BIO *pem_bio(struct str pem)
{
	return pem.n > 0 && pem.n <= INT_MAX ? BIO_new_mem_buf(pem.p, (int)pem.n) : NULL;
}

static bool load_chain(SSL_CTX *ctx, struct str pem)
{
	BIO *bio = pem_bio(pem);
	X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
	bool ok = cert && SSL_CTX_use_certificate(ctx, cert) == 1;
	X509_free(cert);
	while (ok && (cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
		ok = SSL_CTX_add1_chain_cert(ctx, cert) == 1;
		X509_free(cert);
	}
	if (ok)
		ERR_clear_error(); /* "no start line" is how the end of the file looks */
	BIO_free(bio);
	return ok;
}

static bool load_key(SSL_CTX *ctx, struct str pem)
{
	BIO *bio = pem_bio(pem);
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
	bool ok =
	    key && SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_check_private_key(ctx) == 1;
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok;
}

struct tls_context *tls_server_context(struct str cert_pem, struct str key_pem, char err[256])
{
	struct tls_context *c = context_new(TLS_server_method(), err);
	if (!c)
		return NULL;
	c->server = true;
	static const unsigned char id[] = "postern";
	SSL_CTX_set_session_id_context(c->ctx, id, sizeof(id) - 1);
	SSL_CTX_set_session_cache_mode(c->ctx, SSL_SESS_CACHE_OFF); /* tickets: no memory of ours */
	SSL_CTX_set_num_tickets(c->ctx, 1);
	SSL_CTX_set_dh_auto(c->ctx, 1);
	const char *wrong = !load_chain(c->ctx, cert_pem) ? "certificate"
			    : !load_key(c->ctx, key_pem)  ? "key"
							  : NULL;
	if (wrong) {
		last_error(err, 256, wrong);
		tls_context_free(&c);
	}
	return c;
}

static size_t load_authorities(SSL_CTX *ctx, struct str pem)
{
	BIO *bio = pem_bio(pem);
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	size_t count = 0;
	X509 *cert;
	while (bio && (cert = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL))) {
		count += X509_STORE_add_cert(store, cert) == 1;
		X509_free(cert);
	}
	BIO_free(bio);
	ERR_clear_error();
	return count;
}

struct tls_context *tls_client_context(struct str ca_pem, char err[256])
{
	struct tls_context *c = context_new(TLS_client_method(), err);
	if (!c)
		return NULL;
	SSL_CTX_set_security_level(c->ctx, 0);
	SSL_CTX_set_verify(c->ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_session_cache_mode(c->ctx,
	    SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL | SSL_SESS_CACHE_NO_AUTO_CLEAR);
	SSL_CTX_sess_set_new_cb(c->ctx, on_new_session);
	c->has_ca = load_authorities(c->ctx, ca_pem) > 0;
	if (ca_pem.n > 0 && !c->has_ca) {
		snprintf(err, 256, "no certificate in the bundle of authorities");
		tls_context_free(&c);
	}
	return c;
}

void tls_context_free(struct tls_context **c)
{
	if (!*c)
		return;
	while ((*c)->oldest)
		session_drop(*c, (*c)->oldest->key, (*c)->oldest->key_bytes);
	SSL_CTX_free((*c)->ctx);
	free(*c);
	*c = NULL;
}

/* --- connections --------------------------------------------------------------------------------
 */

static struct tls *connection_new(struct tls_context *c)
{
	struct tls *t = xcalloc(1, sizeof(*t));
	t->context = c;
	t->ssl = SSL_new(c->ctx);
	BIO *bio = t->ssl ? bio_for(t) : NULL;
	must(bio); /* memory is gone */
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_app_data(t->ssl, t);
	return t;
}

struct tls *tls_accept(struct tls_context *c)
{
	must(c->server);
	struct tls *t = connection_new(c);
	SSL_set_accept_state(t->ssl);
	return t;
}

/* RFC 6066 3: literal addresses are not permitted in SNI, and servers do abort on one. */
static bool is_address(const char *name)
{
	return name[0] == '[' || strchr(name, ':') || strspn(name, "0123456789.") == strlen(name);
}

struct tls *tls_connect(struct tls_context *c, struct str sni, struct str session_key)
{
	must(!c->server);
	struct tls *t = connection_new(c);
	SSL_set_connect_state(t->ssl);
	char name[256];
	str_copy(name, sizeof(name), sni);
	if (name[0] && !is_address(name)) {
		SSL_set_tlsext_host_name(t->ssl, name);
		SSL_set1_host(t->ssl, name); /* for tls_describe(): nothing is enforced */
	}
	if (session_key.n > 0 && session_key.n <= SESSION_KEY_MAX) {
		t->session_key = str_dup(session_key);
		t->session_key_bytes = session_key.n;
		offer_session(t);
	}
	ERR_clear_error();
	return t;
}

void tls_free(struct tls **tp)
{
	struct tls *t = *tp;
	if (!t)
		return;
	if (t->state != TLS_FAILED && SSL_is_init_finished(t->ssl))
		SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(t->ssl);
	ERR_clear_error();
	free(t->session_key);
	free(t);
	*tp = NULL;
}

enum tls_state tls_state(const struct tls *t)
{
	return t->state;
}

static void fail(struct tls *t)
{
	const char *what = t->state == TLS_HANDSHAKE ? "TLS handshake failed" : "TLS failed";
	last_error(t->why, sizeof(t->why), what);
	t->state = TLS_FAILED;
	if (t->session_key)
		session_drop(t->context, t->session_key, t->session_key_bytes);
}

/* Every answer of OpenSSL is judged here. True: go on with what you were doing. */
static bool judge(struct tls *t, int result)
{
	if (result > 0)
		return true;
	switch (SSL_get_error(t->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return false;
	case SSL_ERROR_ZERO_RETURN:
		t->state = TLS_CLOSED;
		return false;
	default:
		fail(t);
		return false;
	}
}

static void read_plain(struct tls *t, struct buf *plain)
{
	while (t->state == TLS_OPEN && plain->n < plain->max) {
		size_t room = plain->max - plain->n, got = 0;
		room = room < READ_STEP ? room : READ_STEP;
		unsigned char *to = buf_reserve(plain, room);
		if (!to || !judge(t, SSL_read_ex(t->ssl, to, room, &got)))
			return;
		plain->n += got;
	}
}

enum tls_state tls_feed(struct tls *t, struct buf *in, struct buf *plain, struct buf *out)
{
	ERR_clear_error();
	t->in = in;
	t->in_at = 0;
	t->out = out;
	if (t->state == TLS_HANDSHAKE && judge(t, SSL_do_handshake(t->ssl)))
		t->state = TLS_OPEN;
	read_plain(t, plain);
	buf_consume(in, t->in_at);
	t->in = t->out = NULL;
	return t->state;
}

bool tls_pending(const struct tls *t)
{
	return t->state == TLS_OPEN && SSL_pending(t->ssl) > 0;
}

int tls_write(struct tls *t, const void *p, size_t n, struct buf *out)
{
	if (t->state != TLS_OPEN)
		return -EPROTO;
	if (n == 0)
		return 0;
	size_t written = 0;
	ERR_clear_error();
	t->out = out;
	bool ok = judge(t, SSL_write_ex(t->ssl, p, n, &written)) && written == n;
	t->out = NULL;
	if (!ok && t->state == TLS_OPEN)
		fail(t); /* a BIO that always takes all cannot ask to be called again */
	return ok ? 0 : -EPROTO;
}

void tls_shutdown(struct tls *t, struct buf *out)
{
	if (t->state != TLS_OPEN && t->state != TLS_CLOSED)
		return;
	ERR_clear_error();
	t->out = out;
	(void)SSL_shutdown(t->ssl);
	t->out = NULL;
	t->state = TLS_CLOSED;
	ERR_clear_error();
}

bool tls_resumed(const struct tls *t)
{
	return SSL_session_reused(t->ssl) == 1;
}

static const char *verified_text(const struct tls *t)
{
	if (t->context->server || !t->context->has_ca)
		return "";
	return SSL_get_verify_result(t->ssl) == X509_V_OK ? " verified" : " unverified";
}

void tls_describe(const struct tls *t, char *out, size_t size)
{
	if (t->state == TLS_FAILED)
		snprintf(out, size, "%s", t->why);
	else if (!SSL_is_init_finished(t->ssl))
		snprintf(out, size, "TLS handshake in progress");
	else
		snprintf(out, size, "%s %s%s%s", SSL_get_version(t->ssl),
		    SSL_get_cipher_name(t->ssl), tls_resumed(t) ? " resumed" : "",
		    verified_text(t));
}

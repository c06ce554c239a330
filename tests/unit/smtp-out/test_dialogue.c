/* SPDX-License-Identifier: ISC */
/*
 * Replay of hostile and ordinary servers against the real client, each with PIPELINING and without. A case
 * says what the server does differently from a good one, what must become of each recipient (verdict,
 * stage, code, status, and whether the final dot may have been seen), and what CONN_CLOSED must say.
 */
#include "tests/unit/smtp-out/peer.h"

#define OK "delivered dot 250 2.0.0 past"
struct replay {
	const char *name;
	struct rule rules[RULES_MAX];
	const char *want, *closed;             /* with PIPELINING */
	const char *want_plain, *closed_plain; /* without; NULL: the same */
	const char *caps;
	unsigned rcpts, jobs, at_ready; /* 0: 1 */
	struct content content;
	size_t half_at;
	bool strict_8bit, hard;
	const char *says, *says_not; /* among the commands */
};

static const struct replay replays[] = {
    /* ---- the good ones ---- */
    {.name = "delivered", .want = OK, .closed = "done quit 0", .says = "EHLO out.example\n"},
    {.name = "null text", .rules = {{".", "250\r\n"}}, .want = "delivered dot 250 2.0.0 past",
        .closed = "done quit 0"},
    {.name = "bare LF replies", .rules = {{"CONNECT", "220 hi\n"}, {"MAIL", "250 ok\n"}},
        .want = OK, .closed = "done quit 0"},
    {.name = "multi-line greeting", .rules = {{"CONNECT", "220-a\r\n220-\r\n220 c\r\n"}}, .want = OK,
        .closed = "done quit 0"},
    {.name = "three recipients", .rcpts = 3, .want = OK ";" OK ";" OK, .closed = "done quit 0"},
    {.name = "two hundred recipients", .rcpts = 120, .jobs = 1, .want = "*", .closed = "done quit 0"},
    {.name = "large message", .content = {.bytes = 300000}, .want = OK, .closed = "done quit 0"},
    {.name = "three messages, one by one", .jobs = 3, .want = OK "\n" OK "\n" OK, .closed = "done quit 0"},
    {.name = "three messages at once", .jobs = 3, .at_ready = 3, .want = OK "\n" OK "\n" OK,
        .closed = "done quit 0"},
    {.name = "large messages at once", .jobs = 3, .at_ready = 3, .content = {.bytes = 100000},
        .want = OK "\n" OK "\n" OK, .closed = "done quit 0"},
    /* ---- greeting ---- */
    {.name = "greeting 554", .rules = {{"CONNECT", "554 no\r\n"}}, .want = "",
        .closed = "reply greeting 554", .says = "QUIT"},
    {.name = "greeting 450", .rules = {{"CONNECT", "450 4.3.2 later\r\n"}}, .want = "",
        .closed = "reply greeting 450"},
    {.name = "greeting 421", .rules = {{"CONNECT", "421 busy\r\n"}}, .want = "",
        .closed = "reply greeting 421", .says_not = "QUIT"},
    {.name = "greeting 421 and close", .rules = {{"CONNECT", "421 busy\r\n!close"}}, .want = "",
        .closed = "reply greeting 421"},
    {.name = "greeting close", .rules = {{"CONNECT", "!close"}}, .want = "", .closed = "lost greeting 0"},
    {.name = "greeting RST", .rules = {{"CONNECT", "!rst"}}, .want = "", .closed = "* * 0"},
    {.name = "greeting silence", .rules = {{"CONNECT", "!silent"}}, .want = "",
        .closed = "timeout greeting 0"},
    {.name = "greeting half a line", .rules = {{"CONNECT", "22!silent"}}, .want = "",
        .closed = "timeout greeting 0"},
    {.name = "greeting of HTTP", .rules = {{"CONNECT", "HTTP/1.1 400 Bad Request\r\n\r\n"}}, .want = "",
        .closed = "protocol greeting 0"},
    {.name = "greeting of SSH, no line end", .rules = {{"CONNECT", "SSH-2.0"}}, .want = "",
        .closed = "protocol greeting 0"},
    {.name = "greeting 354", .rules = {{"CONNECT", "354 go\r\n"}}, .want = "",
        .closed = "protocol greeting 0"},
    {.name = "greeting 000", .rules = {{"CONNECT", "000 go\r\n"}}, .want = "",
        .closed = "protocol greeting 0"},
    {.name = "EHLO answered with the greeting", .rules = {{"CONNECT", "220 a\r\n250 b\r\n"}}, .want = "",
        .closed = "protocol greeting 0", .says_not = "EHLO"},
    {.name = "greeting endless line", .rules = {{"CONNECT", "220 !long!silent"}}, .want = "",
        .closed = "protocol greeting 0"},
    /* ---- EHLO ---- */
    {.name = "EHLO 502, HELO", .rules = {{"EHLO", "502 what\r\n"}}, .want = OK, .closed = "done quit 0",
        .says = "HELO out.example\n"},
    {.name = "EHLO 502, HELO 504", .rules = {{"EHLO", "502 what\r\n"}, {"HELO", "504 no\r\n"}},
        .want = "", .closed = "reply ehlo 504"},
    {.name = "EHLO refused with keywords", .caps = "DSN|",
        .rules = {{"EHLO", "550-x\r\n550-PIPELINING\r\n550 SIZE 5\r\n"}}, .want = OK,
        .closed = "done quit 0", .says_not = "SIZE="},
    {.name = "EHLO 421", .rules = {{"EHLO", "421 4.3.2 no\r\n"}}, .want = "", .closed = "reply ehlo 421"},
    {.name = "EHLO 450", .rules = {{"EHLO", "450 no\r\n"}}, .want = "", .closed = "reply ehlo 450"},
    {.name = "EHLO 354", .rules = {{"EHLO", "354 no\r\n"}}, .want = "", .closed = "protocol ehlo 0"},
    {.name = "EHLO close", .rules = {{"EHLO", "!close"}}, .want = "", .closed = "lost ehlo 0"},
    {.name = "EHLO half, close", .rules = {{"EHLO", "250-mx\r\n250-SI!close"}}, .want = "",
        .closed = "lost ehlo 0"},
    {.name = "EHLO RST", .rules = {{"EHLO", "!rst"}}, .want = "", .closed = "lost ehlo 0"},
    {.name = "EHLO silence", .rules = {{"EHLO", "!silent"}}, .want = "", .closed = "timeout ehlo 0"},
    {.name = "EHLO endless lines", .rules = {{"EHLO", "!lines"}}, .want = "",
        .closed = "protocol ehlo 0"},
    {.name = "EHLO endless line", .rules = {{"EHLO", "250-!long"}}, .want = "",
        .closed = "protocol ehlo 0"},
    /* ---- MAIL ---- */
    {.name = "MAIL 450", .rules = {{"MAIL", "450 4.7.1 greylisted\r\n"}},
        .want = "deferred mail 450 4.7.1", .closed = "done quit 0"},
    {.name = "MAIL 550, rest refused",
        .rules = {{"MAIL", "550 5.7.1 no\r\n"}, {"RCPT", "503 5.5.1\r\n"}, {"DATA", "503 5.5.1\r\n"}},
        .rcpts = 1, .want = "failed mail 550 5.7.1", .closed = "done quit 0"},
    {.name = "MAIL 550, the next is delivered", .rules = {{"MAIL", "550 5.7.1 no\r\n"}}, .jobs = 2,
        .want = "failed mail 550 5.7.1\n" OK, .closed = "done quit 0"},
    {.name = "MAIL 421", .rules = {{"MAIL", "421 4.7.0 too many\r\n"}}, .rcpts = 2,
        .want = "deferred mail 421 4.7.0;deferred mail 421 4.7.0", .closed = "reply mail 421"},
    {.name = "MAIL close", .rules = {{"MAIL", "!close"}}, .want = "deferred mail 0 4.4.2",
        .closed = "lost mail 0"},
    {.name = "MAIL RST", .rules = {{"MAIL", "!rst"}}, .want = "deferred mail 0 4.4.2",
        .closed = "lost mail 0"},
    {.name = "MAIL silence", .rules = {{"MAIL", "!silent"}}, .want = "deferred mail 0 4.4.2",
        .closed = "timeout mail 0"},
    {.name = "MAIL 354", .rules = {{"MAIL", "354 go\r\n"}}, .want = "deferred mail 0 4.5.0",
        .closed = "protocol mail 0"},
    {.name = "MAIL no code", .rules = {{"MAIL", "ok\r\n"}}, .want = "deferred mail 0 4.5.0",
        .closed = "protocol mail 0"},
    {.name = "MAIL 421 5.7.32", .rules = {{"MAIL", "421 5.7.32 from header\r\n"}},
        .want = "deferred mail 421 4.7.32", .closed = "reply mail 421"},
    {.name = "MAIL 550 9.9.9", .rules = {{"MAIL", "550 9.9.9 odd\r\n"}}, .want = "failed mail 550 5.0.0",
        .closed = "done quit 0"},
    {.name = "MAIL on a used connection that was closed",
        .rules = {{"MAIL", "250 ok\r\n"}, {"MAIL", "!close"}}, .jobs = 2, .want = OK "\nretry mail 0 4.4.2",
        .closed = "lost mail 0"},
    {.name = "MAIL 421 on a used connection", .rules = {{"MAIL", "250 ok\r\n"}, {"MAIL", "421 4.7.0 n\r\n"}},
        .jobs = 2, .want = OK "\ndeferred mail 421 4.7.0", .closed = "reply mail 421"},
    /* ---- RCPT ---- */
    {.name = "RCPT 550 of two", .rules = {{"RCPT", "550 5.1.1 no such user\r\n"}}, .rcpts = 2,
        .want = "failed rcpt 550 5.1.1;" OK, .closed = "done quit 0"},
    {.name = "RCPT 452 4.5.3 after one", .rcpts = 3,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "!again452 4.5.3 too many\r\n"}},
        .want = OK ";retry rcpt 452 4.5.3;retry rcpt 452 4.5.3", .closed = "done quit 0"},
    {.name = "RCPT 552 after one", .rcpts = 2, .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "552 many\r\n"}},
        .want = OK ";retry rcpt 552 5.0.0", .closed = "done quit 0"},
    {.name = "RCPT 552 5.2.2 after one", .rcpts = 2,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "552 5.2.2 full\r\n"}},
        .want = OK ";failed rcpt 552 5.2.2", .closed = "done quit 0"},
    {.name = "RCPT 452 4.2.2 after one", .rcpts = 2,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "452 4.2.2 full\r\n"}},
        .want = OK ";deferred rcpt 452 4.2.2", .closed = "done quit 0"},
    {.name = "RCPT 452 4.5.3 for the first", .rcpts = 2, .rules = {{"RCPT", "452 4.5.3 many\r\n"}},
        .want = "deferred rcpt 452 4.5.3;" OK, .closed = "done quit 0"},
    {.name = "RCPT all refused, DATA 354", .rcpts = 2,
        .rules = {{"RCPT", "!again550 5.1.1 no\r\n"}, {".", "554 5.5.1 nobody\r\n"}},
        .want = "failed rcpt 550 5.1.1;failed rcpt 550 5.1.1", .closed = "done quit 0"},
    {.name = "RCPT all refused, empty message accepted", .rcpts = 1,
        .rules = {{"RCPT", "!again550 5.1.1 no\r\n"}, {".", "250 fine\r\n"}},
        .want = "failed rcpt 550 5.1.1", .closed = "done quit 0"},
    {.name = "RCPT all refused, DATA 503", .rcpts = 2,
        .rules = {{"RCPT", "!again450 4.2.0 no\r\n"}, {"DATA", "503 5.5.1 no\r\n"}},
        .want = "deferred rcpt 450 4.2.0;deferred rcpt 450 4.2.0", .closed = "done quit 0"},
    {.name = "RCPT all refused, DATA 250", .rules = {{"RCPT", "550 5.1.1 no\r\n"}, {"DATA", "250 ok\r\n"}},
        .want = "failed rcpt 550 5.1.1", .closed = "protocol data 0", .closed_plain = "done quit 0"},
    {.name = "RCPT all refused, RSET, next delivered", .jobs = 2,
        .rules = {{"RCPT", "550 5.1.1 no\r\n"}, {"DATA", "503 no\r\n"}},
        .want = "failed rcpt 550 5.1.1\n" OK, .closed = "done quit 0", .says = "RSET\n",
        .want_plain = "failed rcpt 550 5.1.1\nfailed data 503 5.0.0"},
    {.name = "RSET refused", .jobs = 2,
        .rules = {{"RCPT", "550 5.1.1 no\r\n"}, {"DATA", "503 no\r\n"}, {"RSET", "500 what\r\n"}},
        .want = "failed rcpt 550 5.1.1\n" OK, .closed = "done quit 0",
        .want_plain = "failed rcpt 550 5.1.1\nfailed data 503 5.0.0"},
    {.name = "RCPT 421 for the second", .rcpts = 2,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "421 4.7.0 bye\r\n!close"}},
        .want = "deferred rcpt 421 4.7.0;deferred rcpt 421 4.7.0", .closed = "reply rcpt 421"},
    {.name = "RCPT refused, then 421", .rcpts = 2,
        .rules = {{"RCPT", "550 5.1.1 no\r\n"}, {"RCPT", "421 4.7.0 bye\r\n!close"}},
        .want = "failed rcpt 550 5.1.1;deferred rcpt 421 4.7.0", .closed = "reply rcpt 421"},
    {.name = "RCPT close at the second", .rcpts = 2, .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "!close"}},
        .want = "deferred rcpt 0 4.4.2;deferred rcpt 0 4.4.2", .closed = "lost rcpt 0"},
    {.name = "RCPT RST", .rules = {{"RCPT", "!rst"}}, .want = "deferred * 0 4.4.2", .closed = "lost * 0"},
    {.name = "RCPT silence", .rules = {{"RCPT", "!silent"}}, .want = "deferred rcpt 0 4.4.2",
        .closed = "timeout rcpt 0"},
    {.name = "RCPT answered twice", .rules = {{"RCPT", "250 a\r\n250 b\r\n"}},
        .want = "deferred data 0 4.5.0", .closed = "protocol data 0"},
    {.name = "RCPT not answered", .rules = {{"RCPT", ""}}, .want = "deferred rcpt 0 4.5.0",
        .closed = "protocol rcpt 0", .want_plain = "deferred rcpt 0 4.4.2",
        .closed_plain = "timeout rcpt 0"},
    {.name = "RCPT of two answered once", .rcpts = 2, .rules = {{"RCPT", ""}},
        .want = "deferred rcpt 0 4.5.0;deferred rcpt 0 4.5.0", .closed = "protocol rcpt 0",
        .want_plain = "deferred rcpt 0 4.4.2;deferred rcpt 0 4.4.2", .closed_plain = "timeout rcpt 0"},
    /* ---- DATA ---- */
    {.name = "DATA 250", .rules = {{"DATA", "250 ok\r\n"}}, .want = "deferred data 0 4.5.0",
        .closed = "protocol data 0"},
    {.name = "DATA 451", .rules = {{"DATA", "451 4.3.0 no\r\n"}}, .want = "deferred data 451 4.3.0",
        .closed = "done quit 0"},
    {.name = "DATA 554 of two", .rcpts = 2, .rules = {{"RCPT", "450 4.1.1 no\r\n"}, {"DATA", "554 5.7.1 no\r\n"}},
        .want = "deferred rcpt 450 4.1.1;failed data 554 5.7.1", .closed = "done quit 0"},
    {.name = "DATA 421", .rules = {{"DATA", "421 4.3.2 no\r\n"}}, .want = "deferred data 421 4.3.2",
        .closed = "reply data 421"},
    {.name = "DATA close", .rules = {{"DATA", "!close"}}, .want = "deferred data 0 4.4.2",
        .closed = "lost data 0"},
    {.name = "DATA RST", .rules = {{"DATA", "!rst"}}, .want = "deferred * 0 4.4.2", .closed = "lost * 0"},
    {.name = "DATA silence", .rules = {{"DATA", "!silent"}}, .want = "deferred data 0 4.4.2",
        .closed = "timeout data 0"},
    /* ---- content ---- */
    {.name = "close at half", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "!close"}}, .want = "deferred data 0 4.4.2", .closed = "lost data 0"},
    {.name = "RST at half", .content = {.bytes = 30000000}, .half_at = 100000, .rules = {{"half", "!rst"}},
        .want = "deferred data 0 4.4.2", .closed = "lost data 0"},
    {.name = "552 at half", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "552 5.3.4 too big\r\n"}}, .want = "failed dot 552 5.3.4",
        .closed = "reply dot 552"},
    {.name = "552 at half and close", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "552 5.3.4 too big\r\n!close"}}, .want = "* dot * *", .closed = "* * *"},
    {.name = "421 at half", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "421 4.3.2 going down\r\n"}}, .want = "deferred dot 421 4.3.2",
        .closed = "reply dot 421"},
    {.name = "250 at half", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "250 2.0.0 got it\r\n"}}, .want = "deferred data 0 4.5.0",
        .closed = "protocol data 0"},
    {.name = "354 twice", .content = {.bytes = 3000000}, .rules = {{"DATA", "354 go\r\n354 go\r\n"}},
        .want = "deferred dot 0 4.5.0", .closed = "protocol dot 0"},
    /* ---- dot ---- */
    {.name = "dot 451", .rules = {{".", "451 4.7.0 later\r\n"}}, .want = "deferred dot 451 4.7.0 past",
        .closed = "done quit 0"},
    {.name = "dot 554 of two, next delivered", .rcpts = 2, .jobs = 2,
        .rules = {{"RCPT", "550 5.1.1 no\r\n"}, {".", "554 5.7.1 spam\r\n"}},
        .want = "failed rcpt 550 5.1.1;failed dot 554 5.7.1 past\n" OK ";" OK, .closed = "done quit 0",
        .says_not = "RSET"},
    {.name = "dot 421", .rules = {{".", "421 4.7.0 bye\r\n"}}, .want = "deferred dot 421 4.7.0 past",
        .closed = "reply dot 421"},
    {.name = "dot close", .rules = {{".", "!close"}}, .want = "deferred dot 0 4.4.2 past",
        .closed = "lost dot 0"},
    {.name = "dot RST", .rules = {{".", "!rst"}}, .want = "deferred dot 0 4.4.2 past",
        .closed = "lost dot 0"},
    {.name = "dot silence", .rules = {{".", "!silent"}}, .want = "deferred dot 0 4.4.2 past",
        .closed = "timeout dot 0"},
    {.name = "dot 354", .rules = {{".", "354 more\r\n"}}, .want = "deferred dot 0 4.5.0 past",
        .closed = "protocol dot 0"},
    {.name = "dot 250-550", .rules = {{".", "250-ok\r\n550 no\r\n"}}, .want = "deferred dot 0 4.5.0 past",
        .closed = "protocol dot 0"},
    {.name = "dot half a reply", .rules = {{".", "250 2.0.0 o!close"}}, .want = "deferred dot 0 4.4.2 past",
        .closed = "lost dot 0"},
    {.name = "dot endless lines", .rules = {{".", "!lines"}}, .want = "deferred dot 0 4.5.0 past",
        .closed = "protocol dot 0"},
    {.name = "dot answered twice", .rules = {{".", "250 2.0.0 a\r\n250 b\r\n"}}, .want = OK,
        .closed = "protocol mail 0"},
    {.name = "421 behind the dot's reply", .rules = {{".", "250 2.0.0 a\r\n421 4.4.2 idle\r\n!close"}},
        .want = OK, .closed = "reply mail 421"},
    {.name = "close behind the dot's reply", .rules = {{".", "250 2.0.0 a\r\n!close"}}, .want = OK,
        .closed = "lost * 0"},
    /* ---- one transaction behind the other ---- */
    {.name = "two at once, dot 421", .jobs = 2, .at_ready = 2, .rules = {{".", "421 4.7.0 no\r\n!close"}},
        .want = "deferred dot 421 4.7.0 past\nretry mail 0 4.4.2", .closed = "reply dot 421",
        .want_plain = "deferred dot 421 4.7.0 past"},
    {.name = "two at once, dot close", .jobs = 2, .at_ready = 2, .rules = {{".", "!close"}},
        .want = "deferred dot 0 4.4.2 past\nretry mail 0 4.4.2", .closed = "lost dot 0",
        .want_plain = "deferred dot 0 4.4.2 past"},
    {.name = "two at once, dot silent", .jobs = 2, .at_ready = 2, .rules = {{".", "!silent"}},
        .want = "deferred dot 0 4.4.2 past\ndeferred mail 0 4.4.2", .closed = "timeout dot 0",
        .want_plain = "deferred dot 0 4.4.2 past"},
    {.name = "two at once, second MAIL closes", .jobs = 2, .at_ready = 2,
        .rules = {{"MAIL", "250 ok\r\n"}, {"MAIL", "!close"}}, .want = OK "\nretry mail 0 4.4.2",
        .closed = "lost mail 0"},
    {.name = "two at once, second refused", .jobs = 2, .at_ready = 2,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "550 5.1.1 no\r\n"}},
        .want = OK "\nfailed rcpt 550 5.1.1", .closed = "done quit 0"},
    {.name = "three at once, second refused", .jobs = 3, .at_ready = 3,
        .rules = {{"RCPT", "250 ok\r\n"}, {"RCPT", "550 5.1.1 no\r\n"}},
        .want = OK "\nfailed rcpt 550 5.1.1\n" OK, .closed = "done quit 0"},
    {.name = "three at once, first DATA refused", .jobs = 3, .at_ready = 3,
        .rules = {{"DATA", "451 4.3.0 no\r\n"}}, .want = "deferred data 451 4.3.0\n" OK "\n" OK,
        .closed = "done quit 0", .says = "RSET\n"},
    /* ---- what the server offers ---- */
    {.name = "SIZE too small", .caps = "SIZE 1000|", .content = {.bytes = 5000},
        .want = "failed internal 0 5.3.4", .closed = "done quit 0", .says_not = "MAIL"},
    {.name = "SIZE large enough", .caps = "SIZE 5000|", .content = {.bytes = 5000}, .want = OK,
        .closed = "done quit 0", .says = "MAIL FROM:<sender@from.example> SIZE=5000\n"},
    {.name = "SIZE 1", .caps = "SIZE 1|", .want = "failed internal 0 5.3.4", .closed = "done quit 0"},
    {.name = "SIZE 0", .caps = "SIZE 0|", .want = OK, .closed = "done quit 0", .says = " SIZE=500\n"},
    {.name = "SIZE alone", .caps = "SIZE|", .want = OK, .closed = "done quit 0"},
    {.name = "SIZE 2^64", .caps = "SIZE 18446744073709551616|", .want = OK, .closed = "done quit 0"},
    {.name = "SIZE -1", .caps = "SIZE -1|", .want = OK, .closed = "done quit 0"},
    {.name = "two messages, one too large is not sent", .caps = "SIZE 1|", .jobs = 2, .at_ready = 2,
        .want = "failed internal 0 5.3.4\nfailed internal 0 5.3.4", .closed = "done quit 0"},
    {.name = "8-bit to a 7-bit server", .content = {.body = ENV_8BIT}, .want = OK,
        .closed = "done quit 0", .says_not = "BODY="},
    {.name = "8-bit to a 7-bit server, strict", .content = {.body = ENV_8BIT}, .strict_8bit = true,
        .want = "failed internal 0 5.6.3", .closed = "done quit 0"},
    {.name = "8-bit", .caps = "8BITMIME|", .content = {.body = ENV_8BIT}, .strict_8bit = true, .want = OK,
        .closed = "done quit 0", .says = " BODY=8BITMIME\n"},
    {.name = "UTF-8 to a server without", .caps = "8BITMIME|", .content = {.body = ENV_UTF8},
        .want = "failed internal 0 5.6.7", .closed = "done quit 0"},
    {.name = "UTF-8", .caps = "8BITMIME|SMTPUTF8|", .content = {.body = ENV_UTF8}, .want = OK,
        .closed = "done quit 0", .says = " BODY=8BITMIME SMTPUTF8\n"},
    {.name = "DSN", .caps = "DSN|",
        .content = {.notify = NOTIFY_SUCCESS | NOTIFY_DELAY, .ret = RET_HDRS, .envid = "a=b c"},
        .want = OK, .closed = "done quit 0",
        .says = "MAIL FROM:<sender@from.example> RET=HDRS ENVID=a+3Db+20c\n"
                "RCPT TO:<user0@to.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@to.example\n"},
    {.name = "DSN never", .caps = "DSN|", .content = {.notify = NOTIFY_NEVER}, .want = OK,
        .closed = "done quit 0", .says = "RCPT TO:<user0@to.example> NOTIFY=NEVER ORCPT="},
    {.name = "no DSN", .content = {.notify = NOTIFY_SUCCESS, .envid = "x"}, .want = OK,
        .closed = "done quit 0", .says_not = "NOTIFY"},
    /* ---- STARTTLS ---- */
    {.name = "TLS", .caps = "STARTTLS|", .want = OK, .closed = "done quit 0"},
    {.name = "TLS, large", .caps = "STARTTLS|", .content = {.bytes = 300000}, .want = OK,
        .closed = "done quit 0"},
    {.name = "TLS, three at once", .caps = "STARTTLS|", .content = {.bytes = 30000}, .jobs = 3,
        .at_ready = 3, .want = OK "\n" OK "\n" OK, .closed = "done quit 0"},
    {.name = "STARTTLS 454", .caps = "STARTTLS|", .rules = {{"STARTTLS", "454 4.7.0 no\r\n"}}, .want = OK,
        .closed = "done quit 0"},
    {.name = "STARTTLS 554", .caps = "STARTTLS|", .rules = {{"STARTTLS", "554 5.7.0 no\r\n"}}, .want = OK,
        .closed = "done quit 0"},
    {.name = "STARTTLS 421", .caps = "STARTTLS|", .rules = {{"STARTTLS", "421 4.7.0 no\r\n"}}, .want = "",
        .closed = "reply starttls 421"},
    {.name = "STARTTLS 354", .caps = "STARTTLS|", .rules = {{"STARTTLS", "354 no\r\n"}}, .want = "",
        .closed = "protocol starttls 0"},
    {.name = "bytes behind STARTTLS", .caps = "STARTTLS|",
        .rules = {{"STARTTLS", "220 go\r\n250 injected\r\n"}}, .want = "", .closed = "tls starttls 0"},
    {.name = "half a line behind STARTTLS", .caps = "STARTTLS|",
        .rules = {{"STARTTLS", "220 go\r\n2"}}, .want = "", .closed = "tls starttls 0"},
    {.name = "close behind STARTTLS", .caps = "STARTTLS|", .rules = {{"STARTTLS", "220 go\r\n!close"}},
        .want = "", .closed = "tls starttls 0"},
    {.name = "RST behind STARTTLS", .caps = "STARTTLS|", .rules = {{"STARTTLS", "220 go\r\n!rst"}},
        .want = "", .closed = "* starttls 0"},
    {.name = "silence in the handshake", .caps = "STARTTLS|",
        .rules = {{"STARTTLS", "220 go\r\n!silent"}}, .want = "", .closed = "tls starttls 0"},
    {.name = "noise in the handshake", .caps = "STARTTLS|", .rules = {{"STARTTLS", "220 go\r\n!junk"}},
        .want = "", .closed = "tls starttls 0"},
    {.name = "close behind the handshake", .caps = "STARTTLS|",
        .rules = {{"EHLO", "!default"}, {"EHLO", "!close"}}, .want = "", .closed = "tls ehlo 0"},
    {.name = "silence behind the handshake", .caps = "STARTTLS|",
        .rules = {{"EHLO", "!default"}, {"EHLO", "!silent"}}, .want = "", .closed = "tls ehlo 0"},
    {.name = "TLS, dot close", .caps = "STARTTLS|", .rules = {{".", "!close"}},
        .want = "deferred dot 0 4.4.2 past", .closed = "lost dot 0"},
    {.name = "TLS, 552 at half", .caps = "STARTTLS|", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "552 5.3.4 too big\r\n"}}, .want = "failed dot 552 5.3.4",
        .closed = "reply dot 552"},
    {.name = "TLS, close at half", .caps = "STARTTLS|", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "!close"}}, .want = "deferred data 0 4.4.2", .closed = "lost data 0"},
    {.name = "TLS, 250 at half", .caps = "STARTTLS|", .content = {.bytes = 30000000}, .half_at = 100000,
        .rules = {{"half", "250 ok\r\n"}}, .want = "deferred data 0 4.5.0", .closed = "protocol data 0"},
    /* ---- QUIT ---- */
    {.name = "QUIT close", .rules = {{"QUIT", "!close"}}, .want = OK, .closed = "done quit 0"},
    {.name = "QUIT RST", .rules = {{"QUIT", "!rst"}}, .want = OK, .closed = "done quit 0"},
    {.name = "QUIT 500", .rules = {{"QUIT", "500 what\r\n"}}, .want = OK, .closed = "done quit 0"},
    {.name = "QUIT noise", .rules = {{"QUIT", "JUNK\r\n!close"}}, .want = OK, .closed = "done quit 0"},
    {.name = "QUIT not closed by the server", .rules = {{"QUIT", "221 bye\r\n"}}, .want = OK,
        .closed = "done quit 0"},
};

/* '*' in what is wanted stands for one word, or, alone, for anything. */
static bool is_as_wanted(const char *want, const char *is)
{
	if (strcmp(want, "*") == 0)
		return true;
	while (*want && *is) {
		if (*want == '*') {
			want++;
			is += strcspn(is, " ;\n");
		} else if (*want++ != *is++) {
			return false;
		}
	}
	return *want == '\0' && *is == '\0';
}

static void set_up(struct stage *s, const struct replay *c, bool pipelining)
{
	struct content content = c->content;
	content.rcpts = c->rcpts ? c->rcpts : 1;
	s->jobs_total = s->close_after = c->jobs ? c->jobs : 1;
	s->jobs_at_ready = c->at_ready ? c->at_ready : 1;
	for (unsigned i = 0; i < s->jobs_total; i++)
		stage_message(s, i, &content);
	s->peer.rules = c->rules;
	s->peer.caps = c->caps;
	s->peer.pipelining = pipelining;
	s->peer.half_at = c->half_at;
	if (c->caps && strstr(c->caps, "STARTTLS")) {
		char err[256];
		peer_with_tls(&s->peer);
		s->out.tls = tls_client_context(STR(""), err);
		assert_non_null(s->out.tls);
	}
}

static unsigned failures;

static void failed(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void failed(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vprint_error(fmt, ap);
	va_end(ap);
	failures++;
}

static void check(struct stage *s, const struct replay *c, bool pipelining)
{
	const char *want = !pipelining && c->want_plain ? c->want_plain : c->want;
	const char *closed = !pipelining && c->closed_plain ? c->closed_plain : c->closed;
	char results[sizeof(s->results)];
	snprintf(results, sizeof(results), "%s", s->results);
	if (results[0])
		results[strlen(results) - 1] = '\0';
	buf_u8(&s->peer.all, 0);
	const char *all = (const char *)s->peer.all.p;
	if (!is_as_wanted(want, results) || !is_as_wanted(closed, s->closed))
		failed("%s (%s): results \"%s\", wanted \"%s\"; closed \"%s\" (%s), wanted \"%s\"\n", c->name,
		    pipelining ? "pipelining" : "plain", results, want, s->closed, s->closed_text, closed);
	if (c->says && !strstr(all, c->says))
		failed("%s: \"%s\" was not said in:\n%s", c->name, c->says, all);
	if (c->says_not && strstr(all, c->says_not))
		failed("%s: \"%s\" was said in:\n%s", c->name, c->says_not, all);
	assert_int_equal(s->closes, 1);
	assert_int_equal(s->out.sessions, 0);
	if (strstr(results, "delivered") && s->peer.message.n > 3)
		stage_check_message(s, c->content.bytes);
}

static void run_replay(const struct replay *c, bool pipelining)
{
	struct stage *s = stage_new();
	set_up(s, c, pipelining);
	struct msg_grant grant = stage_grant(s);
	grant.ignore_8bitmime = !c->strict_8bit;
	chan_send_grant(s->qmgr, &grant);
	stage_run(s);
	check(s, c, pipelining);
	stage_free(&s);
}

static void test_replays(void **state)
{
	bool pipelining = *(bool *)*state;
	for (size_t i = 0; i < COUNT_OF(replays); i++) {
		if (getenv("REPLAY") && strcmp(getenv("REPLAY"), replays[i].name) != 0)
			continue;
		int64_t from = clock_mono_ms();
		run_replay(&replays[i], pipelining);
		if (getenv("REPLAY_TRACE"))
			print_message("%s: %d ms\n", replays[i].name, (int)(clock_mono_ms() - from));
	}
	assert_int_equal(failures, 0);
}

int main(void)
{
	static bool with = true, without = false;
	const struct CMUnitTest tests[] = {
	    {"replays with PIPELINING", test_replays, NULL, NULL, &with},
	    {"replays without PIPELINING", test_replays, NULL, NULL, &without},
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: ISC */
/*
 * A notice to operators as a message: plain text from the postmaster, by the null sender, marked as
 * made by a program (RFC 3834), so that nothing answers it. Its words are qmgr's; what remote
 * servers said stands among them, so each line goes the way of a report's (part.c).
 */
#include "bouncer/alert.h"
#include "bouncer/part.h"
#include "common/addr.h"
#include "common/envelope.h"
#include "common/record.h"
#include <stdio.h>

struct letter {
	struct buf to; /* "a@x.example, b@y.example" */
	size_t rcpts;
	bool utf8; /* an address is not ASCII */
};

static void add_rcpts(struct letter *l, struct str list, struct buf *rcpts)
{
	while (list.n > 0 && l->rcpts < ALERT_RCPTS_MAX) {
		struct mailbox m;
		char address[ADDRESS_MAX + 1];
		struct str one = str_cut(&list, ',');
		while (one.n > 0 && one.p[0] == ' ')
			one.p++, one.n--;
		if (mailbox_parse(&m, one, false) != 0)
			continue;
		mailbox_print(address, &m);
		envelope_put(rcpts, ENV_RCPT, str_of(address));
		buf_printf(&l->to, "%s%s", l->rcpts++ > 0 ? ", " : "", address);
		l->utf8 |= m.utf8;
	}
}

static void put_head(const struct alert_mail *a, const struct letter *l, bool ascii, struct buf *b)
{
	char date[40], id[RECORD_ID_TEXT], from[512];
	bool named = a->postmaster[0] != '\0';
	part_date(date, a->now_ms);
	record_id_print(id, a->id);
	snprintf(from, sizeof(from), "Mail Delivery System <%s%s>",
	    named ? a->postmaster : "MAILER-DAEMON@", named ? "" : a->host_name);
	part_printf(b, "Date: %s", date);
	part_field(b, "From", str_of(from), true);
	part_field(b, "To", (struct str){(const char *)l->to.p, l->to.n}, true);
	part_field(b, "Subject", a->alert.subject, false);
	part_printf(b, "Message-ID: <%s.alert@%s>", id, a->host_name);
	part_line(b, STR("Auto-Submitted: auto-generated"));
	part_line(b, STR("MIME-Version: 1.0"));
	part_line(b, ascii ? STR("Content-Type: text/plain; charset=us-ascii")
			   : STR("Content-Type: text/plain; charset=utf-8"));
	if (!ascii)
		part_line(b, STR("Content-Transfer-Encoding: 8bit"));
	part_line(b, STR(""));
}

static void put_lines(struct buf *b, struct str text)
{
	while (text.n > 0)
		part_text(b, "", str_cut(&text, '\n'), true);
}

static bool all_ascii(const struct buf *b)
{
	return part_is_ascii((struct str){(const char *)b->p, b->n});
}

size_t alert_build(const struct alert_mail *a, struct buf *rcpts, struct buf *headers,
    struct buf *content, uint8_t *body)
{
	struct letter l = {0};
	char date[40], id[RECORD_ID_TEXT];
	buf_init(&l.to, ALERT_TO_MAX * 2);
	add_rcpts(&l, a->alert.to, rcpts);
	part_date(date, a->now_ms);
	record_id_print(id, a->id);
	part_printf(headers, "Received: by %s (Postern) id %s;", a->host_name, id);
	part_printf(headers, "    %s", date);
	put_head(a, &l, part_is_ascii(a->alert.text), content);
	put_lines(content, a->alert.text);
	*body = (uint8_t)((all_ascii(content) ? 0 : ENV_8BIT) | (l.utf8 ? ENV_UTF8 : 0));
	buf_fini(&l.to);
	return l.rcpts;
}

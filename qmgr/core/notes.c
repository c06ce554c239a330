/* SPDX-License-Identifier: ISC */
/*
 * What is told to people: events, which go out in order with the other decisions, and the notes of
 * a queue: its last NOTES_EACH errors, changes of mode and events. A note is an allocation of its
 * own, made only when something went wrong; all of them together are bounded by NOTES_ALL, so a
 * hundred thousand failing queues cost some twenty megabytes. An error that repeats is one note
 * with the time of the last. Notes are not kept over a restart: the log has them.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

const char *core_event_name(enum core_event_kind kind)
{
	static const char *const names[EVENT_KINDS] = {[EVENT_MODE] = "mode",
	    [EVENT_RULE] = "rule",
	    [EVENT_HOLD] = "hold",
	    [EVENT_RELEASE] = "release",
	    [EVENT_SOURCE] = "source",
	    [EVENT_REROUTE] = "reroute",
	    [EVENT_WARMUP] = "warmup",
	    [EVENT_ALERT] = "alert",
	    [EVENT_ERROR] = "error"};

	return names[kind];
}

/* It goes as a text, itself and its own texts behind it: events are few, and their size would be
 * every decision's. */
void event_push(struct core *core, const struct core_event *e)
{
	const struct str text[] = {e->scope, e->from, e->to, e->text, e->rule, e->who, e->notify};
	struct buf all;

	buf_init(&all, SIZE_MAX);
	buf_str(&all, (struct str){(const char *)e, sizeof(*e)});
	for (size_t i = 0; i < COUNT_OF(text); i++)
		buf_str(&all, text[i]);
	core_push(core, &(struct pending){.kind = DECIDE_EVENT, .result = -1},
	    (struct str){(const char *)all.p, all.n}, STR(""));
	buf_fini(&all);
}

/* ---- notes ---- */

struct note {
	struct link in_queue, in_age;
	struct queue *queue;
	int64_t at_ms;
	enum note_kind kind;
	size_t n;
	char text[];
};

static void note_free(struct core *core, struct note *note)
{
	link_remove(&note->in_queue);
	link_remove(&note->in_age);
	note->queue->noted[note->kind]--;
	core->note_count--;
	free(note);
}

void notes_free(struct core *core, struct queue *q)
{
	while (!link_alone(&q->notes))
		note_free(core, OWNER(q->notes.next, struct note, in_queue));
}

static struct note *newest(const struct queue *q, enum note_kind kind)
{
	for (struct link *l = q->notes.next; l != &q->notes; l = l->next)
		if (OWNER(l, struct note, in_queue)->kind == kind)
			return OWNER(l, struct note, in_queue);
	return NULL;
}

static struct note *oldest(const struct queue *q, enum note_kind kind)
{
	for (struct link *l = q->notes.prev; l != &q->notes; l = l->prev)
		if (OWNER(l, struct note, in_queue)->kind == kind)
			return OWNER(l, struct note, in_queue);
	return NULL;
}

void note_add(struct core *core, struct queue *q, enum note_kind kind, struct str text)
{
	struct note *note = newest(q, kind);

	if (text.n > NOTE_MAX)
		text.n = NOTE_MAX;
	if (note && kind == NOTE_ERROR && str_eq((struct str){note->text, note->n}, text)) {
		note->at_ms = core->now;
		link_append(&core->notes, &note->in_age);
		link_remove(&note->in_queue);
		link_prepend(&q->notes, &note->in_queue);
		return;
	}
	if (q->noted[kind] == NOTES_EACH)
		note_free(core, oldest(q, kind));
	if (core->note_count == NOTES_ALL)
		note_free(core, OWNER(core->notes.next, struct note, in_age));
	note = xcalloc(1, sizeof(*note) + text.n + 1);
	note->queue = q;
	note->at_ms = core->now;
	note->kind = kind;
	note->n = str_copy(note->text, text.n + 1, text);
	link_prepend(&q->notes, &note->in_queue);
	link_append(&core->notes, &note->in_age);
	q->noted[kind]++;
	core->note_count++;
}

size_t core_queue_notes(const struct core *core, struct str queue, struct queue_note *out, size_t n)
{
	static const char *const kinds[] = {"error", "mode", "event"};
	const struct queue *q = queue_find(core, queue);
	size_t found = 0;

	if (!q)
		return 0;
	for (struct link *l = q->notes.next; l != &q->notes && found < n; l = l->next) {
		const struct note *note = OWNER(l, struct note, in_queue);

		out[found++] = (struct queue_note){.at_ms = note->at_ms,
		    .kind = str_of(kinds[note->kind]),
		    .text = {note->text, note->n}};
	}
	return found;
}

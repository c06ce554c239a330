/* SPDX-License-Identifier: ISC */
/*
 * The plot, in SVG: what waits for each receiver, what it took each minute, and the modes of queues
 * as coloured bands below, all over the same time. The busiest receivers have a line of their own,
 * the others one together. Plain shapes and system fonts: it opens in any browser.
 */
#include "sim/impl.h"
#include "sim/span.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	LINES = 8, /* with a colour of their own */
	BANDS = 16,
	LEFT = 80,
	WIDTH = 900,
	HEIGHT = 220,
	TOP = 60,
	GAP = 60,
	BAND = 16,
	MARGIN = 260, /* for the legend */
};

static const char *const colours[LINES + 1] = {"#1b6ca8", "#d1495b", "#3a8f4d", "#e08e1b",
    "#7a4fa3", "#2aa1a1", "#8c6239", "#d16ba5", "#888888"};

struct line {
	const char *name;
	uint64_t weight;
	double *backlog, *taken; /* owned */
};
struct picture {
	const struct sim *s;
	struct buf *out;
	struct line lines[LINES + 1];
	size_t line_count;
};

/* Text in XML: names are the operator's, replies are not shown. */
static void put_text(struct buf *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '<' || *text == '>' || *text == '&' || *text == '"')
			buf_printf(out, "&#%d;", *text);
		else if ((unsigned char)*text >= ' ')
			buf_u8(out, (uint8_t)*text);
	}
}

/* ---- lines ---- */

static int by_weight(const void *a, const void *b)
{
	const struct receiver *x = *(struct receiver *const *)a, *y = *(struct receiver *const *)b;

	return x->in != y->in ? (x->in > y->in ? -1 : 1) : strcmp(x->name, y->name);
}

static void add_receiver(struct picture *p, struct line *l, const struct receiver *r)
{
	double minutes = (double)p->s->sample_ms / SIM_MINUTE;

	if (!l->backlog) {
		l->backlog = xcalloc(p->s->points + 1, sizeof(*l->backlog));
		l->taken = xcalloc(p->s->points + 1, sizeof(*l->taken));
	}
	for (size_t i = 0; i < p->s->points; i++) {
		l->backlog[i] += (double)r->series_backlog[i];
		l->taken[i] += (double)r->series_taken[i] / minutes;
	}
}

static void gather(struct picture *p)
{
	const struct receiver **sorted =
	    xcalloc(p->s->receiver_count, sizeof(const struct receiver *));
	size_t n = 0;

	for (size_t i = 0; i < p->s->receiver_count; i++)
		if (p->s->receivers[i].in + p->s->receivers[i].connections)
			sorted[n++] = &p->s->receivers[i];
	qsort(sorted, n, sizeof(*sorted), by_weight);
	for (size_t i = 0; i < n; i++) {
		size_t at = i < LINES ? i : LINES;

		p->lines[at].name = i < LINES ? sorted[i]->name : "others";
		add_receiver(p, &p->lines[at], sorted[i]);
		if (at >= p->line_count)
			p->line_count = at + 1;
	}
	free(sorted);
}

/* ---- axes ---- */

static double x_of(const struct picture *p, int64_t at_ms)
{
	double all = (double)(p->s->now - SIM_START);

	return LEFT + WIDTH * (all > 0 ? (double)(at_ms - SIM_START) / all : 0);
}

/* 1, 2 or 5 times a power of ten: about four of them reach `most`. */
static double tick_of(double most)
{
	double power = pow(10, floor(log10(most / 4))), part = most / 4 / power;

	return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static void put_number(struct buf *out, double n)
{
	if (n >= 1e6)
		buf_printf(out, "%gM", n / 1e6);
	else if (n >= 1e3)
		buf_printf(out, "%gk", n / 1e3);
	else
		buf_printf(out, "%g", n);
}

static int64_t time_tick(int64_t all)
{
	static const int64_t ticks[] = {1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800,
	    21600, 43200, 86400, 172800, 604800, 2592000};

	for (size_t i = 0; i < COUNT_OF(ticks); i++)
		if (all / (ticks[i] * 1000) <= 12)
			return ticks[i] * 1000;
	return ticks[COUNT_OF(ticks) - 1] * 1000;
}

static void put_time_axis(struct picture *p, double top, double bottom)
{
	int64_t tick = time_tick(p->s->now - SIM_START);

	for (int64_t at = SIM_START; at <= p->s->now; at += tick) {
		char label[32];
		double x = x_of(p, at);

		sim_clock(label, at);
		buf_printf(p->out,
		    "<line class='g' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>"
		    "<text class='t' x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n",
		    x, top, x, bottom, x, bottom + 15, label);
	}
}

static void put_value_axis(struct picture *p, double top, double most)
{
	double tick = tick_of(most);

	for (double v = 0; v <= most; v += tick) {
		double y = top + HEIGHT - HEIGHT * v / most;

		buf_printf(p->out,
		    "<line class='g' x1='%d' y1='%.1f' x2='%d' y2='%.1f'/>"
		    "<text class='t' x='%d' y='%.1f' text-anchor='end'>",
		    LEFT, y, LEFT + WIDTH, y, LEFT - 6, y + 4);
		put_number(p->out, v);
		buf_cstr(p->out, "</text>\n");
	}
}

/* ---- panels ---- */

static double *values_of(const struct line *l, bool taken)
{
	return taken ? l->taken : l->backlog;
}

static void put_line(struct picture *p, size_t i, bool taken, double top, double most)
{
	const double *v = values_of(&p->lines[i], taken);

	buf_printf(p->out, "<polyline class='l' stroke='%s' points='", colours[i]);
	for (size_t k = 0; k < p->s->points; k++) {
		int64_t at = SIM_START + (int64_t)k * p->s->sample_ms + p->s->sample_ms / 2;

		buf_printf(p->out, "%.1f,%.1f ", x_of(p, at < p->s->now ? at : p->s->now),
		    top + HEIGHT - HEIGHT * v[k] / most);
	}
	buf_cstr(p->out, "'><title>");
	put_text(p->out, p->lines[i].name);
	buf_cstr(p->out, "</title></polyline>\n");
}

static void put_panel(struct picture *p, const char *title, bool taken, double top)
{
	double most = 1;

	for (size_t i = 0; i < p->line_count; i++)
		for (size_t k = 0; k < p->s->points; k++)
			if (values_of(&p->lines[i], taken)[k] > most)
				most = values_of(&p->lines[i], taken)[k];
	most *= 1.05;
	buf_printf(p->out, "<text class='h' x='%d' y='%.1f'>%s</text>\n", LEFT, top - 8, title);
	put_value_axis(p, top, most);
	put_time_axis(p, top, top + HEIGHT);
	for (size_t i = p->line_count; i-- > 0;)
		put_line(p, i, taken, top, most);
}

static void put_legend(struct picture *p)
{
	for (size_t i = 0; i < p->line_count; i++) {
		int y = TOP + 10 + 20 * (int)i, x = LEFT + WIDTH + 20;

		buf_printf(p->out,
		    "<line class='l' stroke='%s' x1='%d' y1='%d' x2='%d' y2='%d'/>"
		    "<text x='%d' y='%d'>",
		    colours[i], x, y, x + 24, y, x + 30, y + 4);
		put_text(p->out, p->lines[i].name);
		buf_cstr(p->out, "</text>\n");
	}
}

/* ---- modes ---- */

static const char *mode_colour(const char *mode)
{
	return strcmp(mode, "backoff") == 0    ? "#d1495b"
	       : strcmp(mode, "recovery") == 0 ? "#e9c46a"
					       : "#9ccc9c";
}

static void put_band(struct picture *p, const char *mode, int64_t from, int64_t until, double y)
{
	buf_printf(p->out, "<rect x='%.1f' y='%.1f' width='%.1f' height='%d' fill='%s'><title>",
	    x_of(p, from), y, x_of(p, until) - x_of(p, from) + 0.1, BAND - 4, mode_colour(mode));
	put_text(p->out, mode);
	buf_cstr(p->out, "</title></rect>\n");
}

static void put_queue_modes(struct picture *p, const char *queue, double y)
{
	const char *mode = "normal";
	int64_t since = SIM_START;

	for (size_t i = 0; i < p->s->mode_count; i++) {
		const struct event_row *e = &p->s->modes[i];

		if (strcmp(e->scope, queue) != 0)
			continue;
		put_band(p, mode, since, e->at_ms, y);
		mode = e->to;
		since = e->at_ms;
	}
	put_band(p, mode, since, p->s->now, y);
	buf_printf(p->out, "<text x='%d' y='%.1f'>", LEFT + WIDTH + 20, y + 10);
	put_text(p->out, queue);
	buf_cstr(p->out, "</text>\n");
}

/* Queues that ever changed their mode, in the order in which they did. */
static size_t band_queues(const struct sim *s, const char *queues[BANDS])
{
	size_t n = 0;

	for (size_t i = 0; i < s->mode_count && n < BANDS; i++) {
		size_t k = 0;

		while (k < n && strcmp(queues[k], s->modes[i].scope) != 0)
			k++;
		if (k == n)
			queues[n++] = s->modes[i].scope;
	}
	return n;
}

static void put_modes(struct picture *p, const char *const *queues, size_t n, double top)
{
	static const char *const modes[] = {"normal", "backoff", "recovery"};

	buf_printf(
	    p->out, "<text class='h' x='%d' y='%.1f'>Modes of queues</text>\n", LEFT, top - 8);
	for (size_t i = 0; i < COUNT_OF(modes); i++)
		buf_printf(p->out,
		    "<rect x='%d' y='%.1f' width='12' height='12' fill='%s'/>"
		    "<text x='%d' y='%.1f'>%s</text>\n",
		    LEFT + 140 + 90 * (int)i, top - 18, mode_colour(modes[i]),
		    LEFT + 156 + 90 * (int)i, top - 8, modes[i]);
	for (size_t i = 0; i < n; i++)
		put_queue_modes(p, queues[i], top + BAND * (double)i);
}

void sim_plot(const struct sim *s, struct buf *out)
{
	struct picture p = {.s = s, .out = out};
	const char *queues[BANDS];
	size_t bands = band_queues(s, queues);
	int height = TOP + 2 * (HEIGHT + GAP) + (bands ? (int)bands * BAND + GAP : 0);

	gather(&p);
	buf_printf(out,
	    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d'>\n"
	    "<style>text{font:12px sans-serif;fill:#333}.t{font-size:10px;fill:#666}"
	    ".h{font-size:14px;font-weight:bold}.g{stroke:#e4e4e4;stroke-width:1}"
	    ".l{fill:none;stroke-width:1.6;stroke-linejoin:round}</style>\n"
	    "<rect width='100%%' height='100%%' fill='#fff'/>\n",
	    LEFT + WIDTH + MARGIN, height, LEFT + WIDTH + MARGIN, height);
	put_panel(&p, "Recipients that wait, by receiver", false, TOP);
	put_panel(&p, "Recipients taken a minute", true, TOP + HEIGHT + GAP);
	put_legend(&p);
	if (bands)
		put_modes(&p, queues, bands, TOP + 2 * (HEIGHT + GAP));
	buf_cstr(out, "</svg>\n");
	for (size_t i = 0; i <= LINES; i++) {
		free(p.lines[i].backlog);
		free(p.lines[i].taken);
	}
}

/* SPDX-License-Identifier: ISC */
/*
 * The group simulation: what posternctl simulate is to play. Its loads have somewhere to go, its
 * replies are replies, and its names are the configuration's. A mistake here stops a reload like
 * any other, so that a file is either right or not.
 */
#include "common/addr.h"
#include "common/conf_check.h"
#include "common/route.h"
#include <fnmatch.h>
#include <stdio.h>

bool conf_reply_code(const char *text, uint16_t *code)
{
	unsigned n = 0;
	for (int i = 0; i < 3; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		n = n * 10 + (unsigned)(text[i] - '0');
	}
	*code = (uint16_t)n;
	return n >= 400 && n <= 599 && (text[3] == 0 || text[3] == ' ' || text[3] == '-');
}

const struct conf_node *conf_receiver(const struct conf_node *simulation, const char *domain)
{
	const struct conf_node *r = NULL;
	while ((r = conf_next(simulation, CONF_RECEIVER, r)) != NULL) {
		const struct conf_value *v = conf_get(r, CO_RECEIVER_domains);
		for (size_t i = 0; i < v->count; i++)
			if (fnmatch(v->texts[i], domain, FNM_CASEFOLD) == 0)
				return r;
	}
	return NULL;
}

bool conf_sim_domain(char out[256], const char *text, int64_t number)
{
	char name[512];
	const char *mark = strchr(text, '#');
	int n = mark == NULL ? snprintf(name, sizeof name, "%s", text)
			     : snprintf(name, sizeof name, "%.*s%lld%s", (int)(mark - text), text,
				   (long long)number, mark + 1);
	return n > 0 && n < (int)sizeof name && domain_normalise(out, str_of(name)) == 0;
}

bool conf_sim_host(char out[256], uint16_t *preference, const char *text)
{
	unsigned long long n = 10;
	struct str s = str_of(text);
	const char *space = strchr(text, ' ');
	if (space != NULL) {
		if (str_number((struct str){text, (size_t)(space - text)}, 65535, &n) != 0)
			return false;
		s = conf_trim(str_of(space));
	}
	*preference = (uint16_t)n;
	return domain_normalise(out, s) == 0;
}

static void check_reply(struct check *k, const struct conf_node *n, enum conf_opt opt)
{
	uint16_t code;
	if (!conf_reply_code(conf_text(n, opt), &code))
		check_value(k, n, opt,
		    "\"%.60s\" is no reply of 4xx or 5xx, such as \"450 4.2.1 Try again later\"",
		    conf_text(n, opt));
}

static void check_answer(struct check *k, const struct conf_node *a)
{
	enum { AT_CONNECT = 1, AT_GREETING = 2 };
	int64_t stage = conf_num(a, CO_ANSWER_stage);
	const char *reply = conf_text(a, CO_ANSWER_reply);
	if (stage == AT_CONNECT && strcmp(reply, "refused") != 0 && strcmp(reply, "timeout") != 0)
		check_value(k, a, CO_ANSWER_reply,
		    "at the stage connect there are only \"refused\" and \"timeout\"");
	if (stage != AT_CONNECT && check_touched(a, CO_ANSWER_reply))
		check_reply(k, a, CO_ANSWER_reply);
	if ((stage == AT_CONNECT || stage == AT_GREETING) &&
	    (conf_text(a, CO_ANSWER_tenant)[0] != 0 || conf_text(a, CO_ANSWER_campaign)[0] != 0))
		check_value(k, a, CO_ANSWER_stage,
		    "a connection is nobody's yet: tenant and campaign do not go with this stage");
}

static void check_receiver(struct check *k, const struct conf_node *r)
{
	static const enum conf_opt replies[] = {CO_RECEIVER_connect_reply,
	    CO_RECEIVER_msg_rate_reply, CO_RECEIVER_defer_reply, CO_RECEIVER_bounce_reply};
	const struct conf_value *v = conf_get(r, CO_RECEIVER_mx);
	const struct conf_node *a = NULL;
	char host[256];
	uint16_t preference;
	struct route_address address;
	for (size_t i = 0; i < COUNT_OF(replies); i++)
		check_reply(k, r, replies[i]);
	for (size_t i = 0; i < v->count; i++)
		if (!conf_sim_host(host, &preference, v->texts[i]))
			check_value(k, r, CO_RECEIVER_mx,
			    "\"%.60s\" is no host name, nor a preference and one", v->texts[i]);
	if (v->count > ROUTE_HOSTS_MAX)
		check_value(k, r, CO_RECEIVER_mx, "more than %d hosts", ROUTE_HOSTS_MAX);
	if (conf_text(r, CO_RECEIVER_first_address)[0] != 0 &&
	    (route_address_parse(&address, str_of(conf_text(r, CO_RECEIVER_first_address))) != 0 ||
		address.family != 4))
		check_value(k, r, CO_RECEIVER_first_address, "%s", "not an IPv4 address");
	if (conf_num(r, CO_RECEIVER_defer) + conf_num(r, CO_RECEIVER_bounce) > 100)
		check_value(k, r, CO_RECEIVER_bounce, "%s", "defer and bounce are more than 100");
	while ((a = conf_next(r, CONF_ANSWER, a)) != NULL)
		check_answer(k, a);
}

static void check_to(struct check *k, const struct conf_node *simulation, const struct conf_node *t)
{
	const char *text = conf_text(t, CO_SIM_TO_domain);
	char domain[256];
	if (text[0] == 0)
		return; /* said already */
	if (!conf_sim_domain(domain, text, conf_num(t, CO_SIM_TO_count)))
		check_value(k, t, CO_SIM_TO_domain, "\"%.60s\" is not a domain name", text);
	else if (strchr(text, '#') == NULL && conf_num(t, CO_SIM_TO_count) > 1)
		check_value(k, t, CO_SIM_TO_count, "%s",
		    "the domain has no # that would make several of it");
	else if (conf_receiver(simulation, domain) == NULL)
		check_value(k, t, CO_SIM_TO_domain, "no receiver takes mail for \"%s\"", domain);
}

static void check_load(
    struct check *k, const struct conf_node *simulation, const struct conf_node *load)
{
	const struct conf_node *root = k->conf->root, *t = NULL;
	const char *vmta = conf_text(load, CO_SIM_LOAD_virtual_mta);
	const char *tenant = conf_text(load, CO_SIM_LOAD_tenant);
	int64_t until = conf_num(load, CO_SIM_LOAD_until);
	const struct conf_value *hours = conf_get(load, CO_SIM_LOAD_hours);
	int64_t sum = hours->count == 0;
	if (check_touched(load, CO_SIM_LOAD_rate) && conf_num(load, CO_SIM_LOAD_rate) <= 0)
		check_value(
		    k, load, CO_SIM_LOAD_rate, "%s", "a load needs a rate, such as \"100/s\"");
	if (vmta[0] != 0 && check_sender(k, vmta) == NULL)
		check_value(k, load, CO_SIM_LOAD_virtual_mta,
		    "no virtual MTA or pool is named \"%s\"", vmta);
	if (tenant[0] != 0 && conf_next(root, CONF_TENANT, NULL) != NULL &&
	    check_find(k, root, CONF_TENANT, tenant) == NULL)
		check_value(k, load, CO_SIM_LOAD_tenant, "no tenant is named \"%s\"", tenant);
	if (until >= 0 && until <= conf_num(load, CO_SIM_LOAD_from))
		check_value(k, load, CO_SIM_LOAD_until, "%s", "it ends before it begins");
	for (size_t i = 0; i < hours->count; i++)
		sum += hours->nums[i];
	if (sum == 0)
		check_value(k, load, CO_SIM_LOAD_hours, "%s", "nothing comes in at any hour");
	if (conf_next(load, CONF_SIM_TO, NULL) == NULL)
		check_node(k, load, "%s",
		    "a load needs recipients: to = ( { domain = \"example.com\"; } );");
	while ((t = conf_next(load, CONF_SIM_TO, t)) != NULL)
		check_to(k, simulation, t);
}

void check_simulation(struct check *k)
{
	const struct conf_node *simulation = conf_next(k->conf->root, CONF_SIMULATION, NULL);
	const struct conf_node *n = NULL;
	if (simulation == NULL)
		return;
	if (conf_next(simulation, CONF_SIM_LOAD, NULL) == NULL)
		check_node(k, simulation, "%s", "a simulation needs loads");
	while ((n = conf_next(simulation, CONF_RECEIVER, n)) != NULL)
		check_receiver(k, n);
	while ((n = conf_next(simulation, CONF_SIM_LOAD, n)) != NULL)
		check_load(k, simulation, n);
}

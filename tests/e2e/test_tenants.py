# SPDX-License-Identifier: ISC
"""Tenants as elements of the queue, counted at the receiving end: a reply about one tenant's mail holds that
tenant's mail at that provider and nobody else's; one tenant's burst does not delay another's mail; weights;
limits of a tenant and campaign over all virtual MTAs."""
import os
import signal
import smtplib
import time
import unittest

from harness import SuiteTest, open_source, wait_for
from scripted import ScriptedSink, worst_window

GMAIL = ("550-5.7.26 Your email has been blocked because the sender is unauthenticated.\r\n"
         "550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.\r\n"
         "550 5.7.26 https://support.google.com/mail/answer/81126 - gsmtp")


class Tenants(SuiteTest):
    NET = 76

    def receiver(self, *lasts, script=None):
        sink = ScriptedSink([self.address(last, 2) for last in lasts], 2525, script)
        self.addCleanup(sink.stop)
        return sink

    def load(self, suite, tenant, domain, count, *options, rate=0):
        limit = ["-r", str(rate)] if rate else []
        return self.started(open_source(
            self.directory, suite.address, suite.port, "-c", "4", "-m", str(count), "-b", "600", "-t", "3600",
            "-d", domain, "-f", "x@%s.sender.test" % tenant, "-H", "X-Tenant: " + tenant, *limit, *options,
            name=tenant + domain))

    def tenant(self, suite, name):
        return next((t for t in suite.ctl("qmgr", "tenants", name)), None)


class OneReply(Tenants):
    CONF = """
virtual-mtas = ( { name = "m1"; sources = ( { address = "%(source)s"; } ); } );
providers = ( { name = "google"; mx = [ "*.google.test" ]; smtp-pattern-list = "google"; } );
domains = ( { name = "*"; max-smtp-out = 8; retry-after = "2s"; retry-recipients-after = "0s";
              backoff-recovery = "25%%,50%%,100%% every 2s"; } );
tenants = ( { name = "a"; }, { name = "b"; } );
smtp-pattern-lists = ( { name = "google"; rules = (
  { reply = "[45]\\\\.7\\\\.26"; actions = [ "suspend-tenant", "alert=ops@ops.test" ]; for = "14s"; } ); } );
"""

    def setUp(self):
        super().setUp()
        self.refusing = False
        self.google, self.other, self.ops = (self.address(n, 2) for n in (11, 12, 13))
        self.sink = self.receiver(11, 12, 13, script=self.script)
        zones = {"google.test": "@ MX 10 mx\nmx A " + self.google, "gmail.test": "@ MX 10 mx.google.test.",
                 "other.test": "@ MX 10 mx\nmx A " + self.other, "ops.test": "@ MX 10 mx\nmx A " + self.ops}
        self.suite_ = self.suite(self.CONF % {"source": self.address(1, 5)}, knot=self.knot(zones))

    def script(self, stage, ask):
        if stage != "dot" or ask.local == self.ops:
            return None
        if self.refusing and ask.local == self.google and ask.sender.endswith("a.sender.test"):
            return GMAIL, 0.05
        return "250 2.0.0 taken", 0.05

    def messages(self, tenant, local, since=0.0):
        return [e for e in self.sink.seen("message", since, local=local)
                if e.sender.endswith("%s.sender.test" % tenant)]

    def check_words(self):
        suite = self.suite_
        with open(suite.conf) as f:
            line = next(i for i, l in enumerate(f, 1) if "suspend-tenant" in l)
        rule = "google:1 (%s:%d)" % (suite.conf, line)
        why = suite.ctl("qmgr", "why", "a")
        why = why[0] if isinstance(why, list) else why
        self.assertEqual("suspended", why["state"])
        self.assertEqual("tenant a at google", why["binding"])
        self.assertEqual(rule, why["rule"])
        self.assertIn("5.7.26", why["text"])
        self.assertIsNotNone(why["until"])
        held = [h for h in suite.ctl("qmgr", "suspensions") if h["kind"] == "suspend"]
        self.assertEqual([("tenant", "a", "google", rule)],
                         [(h["scope"], h["name"], h["at"], h["rule"]) for h in held])
        self.assertIn("5.7.26", held[0]["text"])
        suite.wait_log(r"hold tenant a at google.*google:1 \(%s:%d\)" % (suite.conf, line))
        bounced = [r for r in suite.accounting() if r["type"] == "b" and r["tenant"] == "a"]
        self.assertTrue(bounced)  # only what was refused, each by its own reply
        self.assertTrue(all("5.7.26" in r["dsnDiag"] for r in bounced))
        wait_for("one mail about it", lambda: self.sink.seen("message", local=self.ops), 20)
        return len(bounced)

    def test_one_tenant_is_held_at_one_provider(self):
        suite = self.suite_
        self.load(suite, "a", "gmail.test", 2000)
        self.load(suite, "b", "gmail.test", 6000)
        self.load(suite, "a", "other.test", 6000)
        wait_for("mail flows", lambda: len(self.messages("a", self.google)) > 100 and
                 len(self.messages("b", self.google)) > 100, 40)
        open_now = {e.conn for e in self.sink.seen("open", local=self.google)} - {
            e.conn for e in self.sink.seen("close", local=self.google)}
        self.refusing = True
        began = time.monotonic()
        wait_for("a refusal", lambda: [e for e in self.messages("a", self.google, began) if e.code >= 500], 10, 0.02)
        wait_for("it settles", lambda: time.monotonic() > began + 1.5)
        refused = [e for e in self.messages("a", self.google, began) if e.code >= 500]
        per_conn = {}
        for e in refused:
            per_conn[e.conn] = per_conn.get(e.conn, 0) + 1
        self.assertEqual(1, max(per_conn.values()))  # one reply a connection, on those that were open
        self.assertLessEqual(len(refused), len(open_now))
        quiet = max(e.at for e in refused)
        self.assertLess(quiet - began, 1.2)
        # the others go on: B at the provider, by the same address, at no lower rate; A elsewhere
        wait_for("three seconds", lambda: time.monotonic() > quiet + 3)
        rate = lambda events: len(events) / 3.0
        before = [e for e in self.messages("b", self.google) if began - 2 < e.at < began]
        after = [e for e in self.messages("b", self.google, quiet) if e.at < quiet + 3]
        self.assertGreaterEqual(rate(after), 0.9 * len(before) / 2.0)
        self.assertTrue([e for e in self.messages("a", self.other, quiet)] or
                        len(self.messages("a", self.other)) == 6000)
        count = self.check_words()
        self.assertLessEqual(count, len(refused))
        view = self.tenant(suite, "a")
        self.assertGreater(view["recipients"], 1000)  # held, not bounced
        self.assertLess(view["queues_paused"], view["queues"])
        self.refusing = False
        # kill -9 changes nothing
        os.kill(next(iter(suite.workers("qmgr"))), signal.SIGKILL)
        wait_for("qmgr is back", lambda: suite.ctl("qmgr", "status", check=False, parse=False).returncode == 0 and
                 suite.ctl("qmgr", "status")[0 if isinstance(suite.ctl("qmgr", "status"), list) else "state"], 30)
        self.check_words()
        until = next(h["until"] for h in suite.ctl("qmgr", "suspensions") if h["kind"] == "suspend")
        self.assertTrue(until)
        self.assertEqual([], self.messages("a", self.google, quiet + 0.01))
        # then it goes out, a probe first, then more and more
        wait_for("A's mail flows again", lambda: self.messages("a", self.google, quiet + 0.01), 40, 0.02)
        first = self.messages("a", self.google, quiet + 0.01)[0].at
        self.assertGreater(first - began, 12)
        wait_for("steps", lambda: time.monotonic() > first + 6, 20)
        sent = [e.at - first for e in self.messages("a", self.google, quiet + 0.01)]
        early = sum(1 for t in sent if t < 1.9)
        self.assertLessEqual(early, 2 / 0.05 * 1.9 + 2)  # two of eight at once
        wait_for("all of A's is out", lambda: len([e for e in self.messages("a", self.google) if e.code < 300]) +
                 len(refused) >= 2000, 120, 0.5)
        tries = [r for r in suite.accounting() if r["type"] == "d" and r["tenant"] == "a" and
                 r["rcpt"].endswith("@gmail.test")]
        # nothing was tried twice, but for what was in flight at the kill
        self.assertLess(len([r for r in tries if int(r["attempt"]) > 1]), 30)


class Fair(Tenants):
    def test_one_message_beside_a_burst(self):
        sink = self.receiver(11, script=lambda stage, ask: ("250 2.0.0 taken", 0.2) if stage == "dot" else None)
        zones = {"t.test": "@ MX 10 mx\nmx A " + self.address(11, 2)}
        suite = self.suite("""
domains = ( { name = "*"; max-smtp-out = 5; } );
tenants = ( { name = "a"; }, { name = "b"; } );
""", knot=self.knot(zones))
        burst = self.load(suite, "a", "t.test", 100000 if os.environ.get("LONG") else 20000, "-c", "8")
        wait_for("A's burst is queued", lambda: not burst.alive(), 120, 0.2)
        delays = []
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            for i in range(15):
                began = time.monotonic()
                s.sendmail("b@b.sender.test", ["b%d@t.test" % i], "X-Tenant: b\r\nSubject: x\r\n\r\nhello\r\n")
                mine = lambda: [e for e in sink.seen("message", began) if e.rcpt == "b%d@t.test" % i]
                wait_for("B's message", mine, 20, 0.01)
                delays.append(mine()[0].at - began)
                wait_for("the second is over", lambda: time.monotonic() > began + 1, 5)
        # an answer under way, at most one transaction more of A on that connection, and its own
        self.assertLess(max(delays), 3 * 0.2 + 0.4, delays)
        self.assertGreater(self.tenant(suite, "a")["recipients"], 10000)

    def test_ten_weights(self):
        sink = self.receiver(11, script=lambda stage, ask: ("250 2.0.0 taken", 0.02) if stage == "dot" else None)
        zones = {"t.test": "@ MX 10 mx\nmx A " + self.address(11, 2)}
        names = ["w%d" % n for n in range(1, 11)]
        suite = self.suite("""
domains = ( { name = "*"; max-smtp-out = 4; } );
tenants = ( %s );
""" % ", ".join('{ name = "w%d"; weight = %d; }' % (n, n) for n in range(1, 11)), knot=self.knot(zones))
        suite.ctl("qmgr", "pause", "queue", "*")
        loads = [self.load(suite, name, "t.test", 1500, "-c", "1") for name in names]
        wait_for("all is queued", lambda: all(not l.alive() for l in loads), 120, 0.2)
        suite.ctl("qmgr", "resume", "queue", "*")
        want = 5500
        wait_for("a hundred rounds", lambda: len(sink.seen("message")) >= want, 120, 0.2)
        got = {name: 0 for name in names}
        for e in sink.seen("message")[:want]:
            got[e.sender.split("@")[1].split(".")[0]] += 1
        for n in range(1, 11):
            share = got["w%d" % n] / (want * n / 55.0)
            self.assertLess(abs(share - 1), 0.05, got)


class Limits(Tenants):
    def test_limits_of_a_tenant_and_what_a_rule_sets(self):
        """A tenant's limits hold over its virtual MTAs and destinations; a rule's at one destination."""
        self.limiting = False

        def script(stage, ask):
            if stage == "dot" and self.limiting and ask.sender.endswith("c.sender.test") and ask.messages % 3 == 0:
                return "421 4.7.28 DKIM domain [c.sender.test] is limited", 0.02
            return ("250 2.0.0 taken", 0.05) if stage == "dot" else None
        sink = self.receiver(11, 12, script=script)
        zones = {"one.test": "@ MX 10 mx\nmx A " + self.address(11, 2),
                 "two.test": "@ MX 10 mx\nmx A " + self.address(12, 2)}
        suite = self.suite("""
virtual-mtas = ( { name = "m1"; sources = ( { address = "%s"; } ); }, { name = "m2"; sources = ( { address = "%s"; } ); } );
domains = ( { name = "*"; max-smtp-out = 10; smtp-pattern-list = "l"; retry-after = "2s"; } );
smtp-pattern-lists = ( { name = "l"; rules = (
  { reply = "4\\\\.7\\\\.28 .*domain \\\\[?(?<domain>[^] ]+)"; scope = "sender-domain";
    actions = [ "set max-msg-rate=5/s" ]; for = "8s"; } ); } );
tenants = ( { name = "a"; budget = { max-msg-rate = "30/s burst 3"; }; },
            { name = "b"; budget = { max-smtp-out = 3; }; campaigns = ( { name = "news"; max-smtp-out = 1; } ); },
            { name = "d"; at = ( { domain = "one.test"; max-msg-rate = "10/s burst 1"; } ); } );
""".replace('domains = ( {', 'domains = ( { name = "one.test"; }, {') % (self.address(1, 5), self.address(2, 5)),
                           knot=self.knot(zones), listener="process-x-virtual-mta = true;")
        for vmta in ("m1", "m2"):
            for domain in ("one.test", "two.test"):
                by = ("-H", "X-Virtual-MTA: " + vmta)
                self.load(suite, "a", domain, 1000, *by)
                self.load(suite, "b", domain, 1000, *by)
                self.load(suite, "d", domain, 1000, *by)
        self.started(open_source(self.directory, suite.address, suite.port, "-c", "2", "-m", "2000", "-b", "600",
                                 "-t", "3600", "-d", "one.test", "-f", "x@c.sender.test", "-r", "40", name="c"))
        of = lambda name, **f: [e for e in sink.seen("rcpt", **f) if e.sender.endswith(name + ".sender.test")]
        wait_for("all flow", lambda: all(of(n) for n in "abcd"), 30)
        began = time.monotonic() + 1
        wait_for("ten seconds", lambda: time.monotonic() > began + 10, 20)
        times = [e.at for e in of("a") if e.at >= began]
        self.assertLessEqual(worst_window(times, [1] * len(times), 3), 30 * 3.3 + 3)
        self.assertGreaterEqual(len([t for t in times if t < began + 10]), 0.9 * 300)
        here = [e.at for e in of("d", local=self.address(11, 2)) if e.at >= began]
        self.assertLessEqual(worst_window(here, [1] * len(here), 3), 10 * 3.3 + 1)
        self.assertGreaterEqual(len([t for t in here if t < began + 10]), 0.9 * 100)
        self.assertLessEqual(self.most_in_progress(sink, "b"), 3)
        names = {(l["name"], l["key"]) for l in suite.ctl("qmgr", "limits", "tenant*")}
        self.assertIn(("max-msg-rate", "tenant a"), names)
        self.assertIn(("max-smtp-out", "tenant b"), names)
        self.assertIn(("max-msg-rate", "tenant d at one.test"), names)
        # nobody's mail: its sender's domain is held to what the rule sets
        self.limiting = True
        wait_for("the rule", lambda: [h for h in suite.ctl("qmgr", "suspensions") if h["kind"] == "set"], 20)
        hold = [h for h in suite.ctl("qmgr", "suspensions") if h["kind"] == "set"][0]
        self.assertEqual(("tenant", "@c.sender.test", "one.test", "max-msg-rate=5/s"),
                         (hold["scope"], hold["name"], hold["at"], hold["what"]))
        self.limiting = False
        since = time.monotonic() + 0.5
        wait_for("five seconds", lambda: time.monotonic() > since + 5, 20)
        times = [e.at for e in of("c") if since <= e.at <= since + 5]
        self.assertLessEqual(worst_window(times, [1] * len(times), 3), 5 * 3.3 + 5)
        why = suite.ctl("qmgr", "why", "@c.sender.test")
        self.assertIn("set @c.sender.test at one.test", str(why))
        self.assertTrue(all(r["tenant"] == "" for r in suite.accounting() if r["orig"] == "x@c.sender.test"))

    @staticmethod
    def most_in_progress(sink, tenant):
        """Messages of it between MAIL and the answer, at once."""
        busy, most = set(), 0
        for e in list(sink.events):
            if e.kind == "mail" and e.sender.endswith(tenant + ".sender.test"):
                busy.add(e.conn)
                most = max(most, len(busy))
            elif e.kind in ("message", "close"):
                busy.discard(e.conn)
        return most


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: ISC
"""Delivery controls, counted at the receiving end by a receiver that remembers every event: many limits at
once under load; a provider that begins to answer 421; two hundred domains at one provider.

RUN_S is how long the run with many limits lasts: 25 s, 180 with LONG=1.
"""
import os
import signal
import time
import unittest

from harness import SuiteTest, open_source, wait_for
from scripted import ScriptedSink, worst_window

RUN_S = 180 if os.environ.get("LONG") else 25
JITTER_S = 0.3  # between the token and MAIL at the receiver: two cores, three busy programs


class Controls(SuiteTest):
    NET = 63

    def receiver(self, *lasts, script=None, third=2):
        sink = ScriptedSink([self.address(last, third) for last in lasts], 2525, script)
        self.addCleanup(sink.stop)
        return sink

    def load(self, suite, domain, count, *options, rate=0, name="load"):
        limit = ["-r", str(rate)] if rate else []
        return self.started(open_source(self.directory, suite.address, suite.port, "-c", "4", "-m", str(count),
                                        "-b", "1024", "-t", "3600", "-d", domain, *limit, *options,
                                        name=name + domain))

    def queue(self, suite, name):
        found = [q for q in suite.ctl("qmgr", "queues", "*") if q["queue"] == name]
        return found[0] if found else None


class ManyLimits(Controls):
    """Each domain has an address of its own at the receiver, each virtual MTA sources of its own."""
    ADDRESS = {"q": 11, "c": 12, "v": 13, "s": 14, "r": 15, "mxl": 16, "ip": 17, "prov": 18, "free": 19}

    def setUp(self):
        super().setUp()
        at = lambda name: self.address(self.ADDRESS[name], 2)
        records = []
        for name in self.ADDRESS:
            records += ["%s MX 10 mx.%s" % (name, name), "mx.%s A %s" % (name, at(name))]
        records += ["prov%d MX 10 mx%d.prov" % (i, i % 3) for i in range(20)]
        records += ["mx%d.prov A %s" % (i, at("prov")) for i in range(3)]
        records += ["ip%d MX 10 mx.ip%d\nmx.ip%d A %s" % (i, i, i, at("ip")) for i in range(10)]
        self.zone = {"t.test": "\n".join(records)}
        self.sources = {"m1": [self.address(1, 5), self.address(2, 5)], "m2": [self.address(3, 5)],
                        "m3": [self.address(4, 5)]}

    def configuration(self):
        return """
total-max-smtp-out = 55;
virtual-mtas = (
  { name = "m1"; sources = ( { address = "%s"; }, { address = "%s"; } ); },
  { name = "m2"; sources = ( { address = "%s"; } ); budget = { max-smtp-out = 12; }; },
  { name = "m3"; sources = ( { address = "%s"; budget = { max-msg-rate = "40/s burst 4"; }; } ); } );
providers = ( { name = "prov"; mx = [ "*.prov.t.test" ]; max-msg-per-connection = 10; max-smtp-out = 6;
                budget = { max-smtp-out = 8; max-msg-rate = "60/s burst 5"; max-connect-rate = "10/s burst 1"; }; } );
mx-connection-limit = ( { mx = "mx.mxl.t.test"; limit = 3; } );
ip-connection-limit = ( { ip = "%s"; limit = 4; } );
domains = (
  { name = "*"; max-smtp-out = 20; retry-after = "2s"; retry-recipients-after = "0s"; },
  { name = "q.t.test"; max-msg-rate = "20/s"; },
  { name = "c.t.test"; max-smtp-out = 3; max-connect-rate = "5/s burst 1"; max-msg-per-connection = 1; },
  { name = "v.t.test"; max-data-volume-rate = "50K/s"; },
  { name = "s.t.test"; source-ip-max-smtp-out = 2; source-ip-max-msg-rate = "15/s burst 1"; },
  { name = "r.t.test"; smtp-out-rampup-interval = "2s"; } );
""" % (*self.sources["m1"], *self.sources["m2"], *self.sources["m3"],
            self.address(self.ADDRESS["ip"], 2))

    def rate(self, events, limit, per, burst, since, until, used=True, weigh=lambda e: 1):
        """At most k*N+B in any k*T, and at least 95 % of it used."""
        events = [e for e in events if since <= e.at <= until]
        times, weights = [e.at for e in events], [weigh(e) for e in events]
        for k in (1, 3, 10):
            most = worst_window(times, weights, k * per)
            self.assertLessEqual(most, limit * (k + JITTER_S / per) + burst + max(weights, default=1) - 1,
                                 "in %d * %g s" % (k, per))
        if used:
            self.assertGreaterEqual(sum(weights), 0.95 * limit * (until - since) / per)

    def test_many_limits_at_once(self):
        slow = lambda stage, ask: ("250 2.0.0 taken", 0.05) if stage == "dot" else None
        sink = self.receiver(*self.ADDRESS.values(), script=slow)
        suite = self.suite(self.configuration(), knot=self.knot(self.zone),
                           listener="process-x-virtual-mta = true;")
        need = lambda rate: int(rate * RUN_S * 1.5) + 200
        wants = [("q", 20, "m1"), ("q", 20, "m2"), ("c", 5, "m1"), ("v", 50, "m1"), ("s", 30, "m1"),
                 ("r", 100, "m1"), ("mxl", 60, "m2"), ("mxl", 60, "m3"), ("ip", 80, "m1")]
        begin = time.monotonic()
        for name, rate, vmta in wants:
            self.load(suite, name + ".t.test", need(rate), "-H", "X-Virtual-MTA: " + vmta, name=vmta)
        for i in range(20):  # 20 domains of one provider, by three virtual MTAs
            self.load(suite, "prov%d.t.test" % i, need(60) // 20, "-H",
                      "X-Virtual-MTA: m%d" % (i % 3 + 1), name="prov")
        for i in range(3):
            self.load(suite, "ip%d.t.test" % i, need(20), "-H", "X-Virtual-MTA: m1", name="ip")
        at = {name: self.address(last, 2) for name, last in self.ADDRESS.items()}
        wait_for("mail flows everywhere", lambda: all(
            sink.seen("message", local=at[name]) for name in at if name != "free"), 30)
        since = time.monotonic() + 3
        wait_for("the time is over", lambda: time.monotonic() > since + RUN_S, RUN_S + 30, 0.2)
        until = since + RUN_S
        mails = lambda name, **f: sink.seen("rcpt", local=at[name], **f)
        opens = lambda name, **f: sink.seen("open", local=at[name], **f)
        of = {address: vmta for vmta, all_ in self.sources.items() for address in all_}
        # the values of queues
        for vmta in ("m1", "m2"):
            self.rate([e for e in mails("q") if of[e.client] == vmta], 20, 1, 20, since, until)
        self.rate(opens("c"), 5, 1, 1, since, until)
        self.rate([e for e in sink.seen("bytes", local=at["v"])], 51200, 1, 51200, since, until,
                  weigh=lambda e: e.n)
        by_second = [e.at for e in opens("r")]
        for a, b in zip(by_second, by_second[1:]):
            self.assertGreaterEqual(b - a, 2 - JITTER_S)
        for client in self.sources["m1"]:
            self.rate(mails("s", client=client), 15, 1, 1, since, until)
        # budgets
        self.rate(mails("prov"), 60, 1, 5, since, until)
        self.rate(opens("prov"), 10, 1, 1, since, until, used=False)
        self.rate([e for e in sink.seen("rcpt") if of[e.client] == "m3"], 40, 1, 4, since, until, used=False)
        # connections at once
        place = sink.peak(lambda e: e.local)
        self.assertLessEqual(place[at["c"]], 3)
        self.assertEqual(8, place[at["prov"]])
        self.assertEqual(3, place[at["mxl"]])
        self.assertEqual(4, place[at["ip"]])
        for (local, client), most in sink.peak(lambda e: (e.local, e.client)).items():
            if local == at["s"]:
                self.assertLessEqual(most, 2)
        self.assertLessEqual(sink.peak(lambda e: of[e.client])["m2"], 12)
        self.assertLessEqual(sink.peak()[""], 55)
        for name, limit in (("mxl", 3), ("ip", 4)):
            self.assertGreaterEqual(sink.mean_open(since, until, lambda e: e.local == at[name]), 0.95 * limit)
        for e in opens("prov"):
            self.assertLessEqual(len(sink.seen("mail", conn=e.conn)), 10)
        self.assertGreater(until - begin, RUN_S)


PROVIDER = """
virtual-mtas = ( { name = "m1"; sources = ( { address = "%(m1)s"; } ); },
                 { name = "m2"; sources = ( { address = "%(m2)s"; } ); } );
providers = ( { name = "prov"; mx = [ "*.prov.test" ]; max-smtp-out = 10; max-msg-rate = "100/s";
                max-connect-rate = "20/s"; smtp-pattern-list = "prov"; retry-after = "1s";
                retry-recipients-after = "0s"; backoff-retry-after = "2s"; backoff-max-smtp-out = 1;
                backoff-max-connect-rate = "1/s burst 1"; backoff-max-msg-rate = "2/s burst 1";
                backoff-to-normal-after = "6s"; backoff-recovery = "20%%,50%%,100%% every 4s";
                backoff-notify = [ "ops@alert.test" ]; %(extra)s } );
smtp-pattern-lists = ( { name = "prov"; rules = (
    { reply = "4\\\\.7\\\\.28 .*unusual rate"; actions = [ "mode=backoff" ]; } ); } );
"""
RATE_LIMITED = "421 4.7.28 our system has detected an unusual rate of mail"


class Backoff(Controls):
    NET = 64

    def start(self, extra=""):
        self.m1, self.m2 = self.address(1, 5), self.address(2, 5)
        knot = self.knot({"prov.test": "@ MX 10 mx\nmx A %s" % self.address(1, 2),
                          "alert.test": "@ MX 10 mx\nmx A %s" % self.address(9, 2)})
        self.limited = False
        self.sink = self.receiver(1, script=lambda stage, ask: RATE_LIMITED if self.is_limited(stage, ask)
                                  else None)
        self.alerts = self.receiver(9)
        self.suite_ = self.suite(PROVIDER % dict(m1=self.m1, m2=self.m2, extra=extra), knot=knot)
        self.load(self.suite_, "prov.test", 100000, rate=150)
        wait_for("mail flows at its rate", lambda: self.sink.taken() > 300, 30)

    def is_limited(self, stage, ask):
        return self.limited and stage == "mail" and ask.client == self.m1

    def refuse(self):
        self.limited = True
        wait_for("the first 421", lambda: [e for e in self.sink.seen("mail") if e.code == 421])
        return [e for e in self.sink.seen("mail") if e.code == 421][0].at

    def mode(self, name="prov/m1"):
        queue = self.queue(self.suite_, name)
        return queue["mode"] if queue else None

    def check_backoff(self, first, until):
        """From one second after the first match: the backoff values hold."""
        since = first + 1
        self.assertLessEqual(self.sink.peak(since=since)[""], 1 if self.sink.seen("open", since) else 99)
        opens = [e.at for e in self.sink.seen("open", since) if e.at < until]
        for k in (1, 3):
            self.assertLessEqual(worst_window(opens, [1] * len(opens), k), k + 1)
        mails = [e.at for e in self.sink.seen("mail", since) if e.at < until]
        self.assertLessEqual(worst_window(mails, [1] * len(mails), 3), 3 * 2 + 1)
        self.assertTrue(mails)  # backoff is not a pause

    def alert_count(self):
        return self.alerts.taken()

    def check_recovery(self):
        self.limited = False
        wait_for("recovery", lambda: self.mode() == "recovery", 40, 0.1)
        began = time.monotonic()
        wait_for("normal again", lambda: self.mode() == "normal", 60, 0.1)
        over = time.monotonic()
        self.assertGreater(over - began, 7)  # two steps of four seconds at least
        early = [e.at for e in self.sink.seen("rcpt", began) if e.at < began + 3]
        self.assertLessEqual(len(early), 3 * 20 + 20)  # 20 % of 100/s
        before = self.sink.taken()
        wait_for("the full rate", lambda: self.sink.taken() > before + 300, 20)

    def run_of_421(self, kill):
        self.start()
        first = self.refuse()
        wait_for("backoff", lambda: self.mode() == "backoff", 3, 0.05)
        if kill:
            wait_for("a second has gone", lambda: time.monotonic() > first + 2.5)
            os.kill(next(iter(self.suite_.workers("qmgr"))), signal.SIGKILL)
            wait_for("qmgr is back", lambda: self.suite_.ctl("qmgr", "status", check=False, parse=False)
                     .returncode == 0 and self.mode() == "backoff", 20, 0.1)
        wait_for("eight seconds of it", lambda: time.monotonic() > first + 8, 20)
        self.check_backoff(first, first + 8)
        wait_for("the alert", lambda: self.alert_count() == 1, 20)
        self.check_recovery()
        wait_for("the second alert: it is over", lambda: self.alert_count() == 2, 20)
        queue = self.suite_.ctl("qmgr", "queue", "prov/m1")
        self.assertIn("unusual rate", str(queue))
        self.suite_.wait_log(r"mode prov/m1: .*prov:1 .*postern.conf:\d+")

    def test_421_in_mid_run(self):
        self.run_of_421(kill=False)

    def test_421_in_mid_run_and_a_kill(self):
        self.run_of_421(kill=True)

    def run_of_reroute(self, kill):
        self.start('backoff-reroute-to-virtual-mta = "m2";')
        self.assertFalse(self.sink.seen("message", client=self.m2))
        first = self.refuse()
        wait_for("the other source address", lambda: len(self.sink.seen("message", client=self.m2)) > 50, 10)
        if kill:
            os.kill(next(iter(self.suite_.workers("qmgr"))), signal.SIGKILL)
            now = time.monotonic()
            wait_for("it goes on", lambda: len(self.sink.seen("message", now, client=self.m2)) > 50, 20)
        self.assertLessEqual(len(self.sink.seen("open", first + 1, client=self.m1)), 8)
        # new mail, too, goes by the other one while backoff lasts
        now = time.monotonic()
        wait_for("the other's rate", lambda: len(self.sink.seen("message", now, client=self.m2)) > 100, 20)

    def test_reroute_while_in_backoff(self):
        self.run_of_reroute(kill=False)

    def test_reroute_while_in_backoff_and_a_kill(self):
        self.run_of_reroute(kill=True)


class Rollup(Controls):
    NET = 65
    DOMAINS = 200

    def records(self, moved=()):
        lines = ["d%d 1 MX 10 mx%d.%s.test." % (i, i % 4, "other" if i in moved else "big")
                 for i in range(self.DOMAINS)]
        return {"many.test": "\n".join(lines),
                "big.test": "\n".join("mx%d A %s" % (i, self.address(1, 2)) for i in range(4)),
                "other.test": "\n".join("mx%d A %s" % (i, self.address(2, 2)) for i in range(4))}

    def test_two_hundred_domains_at_one_provider(self):
        knot = self.knot(self.records())
        sink, other = self.receiver(1), self.receiver(2)
        suite = self.suite("""
providers = ( { name = "big"; mx = [ "*.big.test" ]; max-smtp-out = 4; max-msg-per-connection = 1000;
                retry-after = "2s"; retry-recipients-after = "0s"; },
              { name = "other"; mx = [ "*.other.test" ]; } );
""", knot=knot)
        suite.ctl("qmgr", "pause", "queue", "big/*")
        self.load(suite, "many.test", 2000, "-D", str(self.DOMAINS)).popen.wait(60)
        wait_for("all in one queue", lambda: (self.queue(suite, "big/default") or
                                              {"recipients": 0})["recipients"] == 2000, 30)
        self.assertEqual(["big/default"], [q["queue"] for q in suite.ctl("qmgr", "queues", "*")
                                           if q["recipients"]])
        suite.ctl("qmgr", "resume", "queue", "big/*")
        suite.wait_empty()
        wait_for("all counted", lambda: sink.taken() == 2000)
        self.assertLessEqual(sink.peak()[""], 4)
        self.assertLessEqual(len(sink.seen("open")), 20)
        domains = {}
        for e in sink.seen("message"):
            domains.setdefault(e.conn, set()).add(e.rcpt.split("@")[1])
            self.assertEqual(1, len({r.split("@")[1] for r in e.rcpt.split(",")}))
        self.assertGreater(max(map(len, domains.values())), 40)  # shared, though each host serves a quarter
        # one of them moves, and its mail follows
        not_yet = lambda stage, ask: "451 4.3.0 later" if stage == "rcpt" and "@d7." in ask.rcpt else None
        sink.script, before = not_yet, sink.taken()
        self.load(suite, "d7.many.test", 50, name="before").popen.wait(30)
        wait_for("all were tried", lambda: len([e for e in sink.seen("rcpt") if e.code == 451]) >= 50)
        knot.reload(self.records(moved={7}))
        suite.ctl("resolver", "flush", "d7.many.test")
        self.load(suite, "d7.many.test", 50, rate=10, name="after").popen.wait(30)
        wait_for("its mail goes to the other provider", lambda: other.taken() == 100, 60)
        suite.wait_empty()
        self.assertEqual(before, sink.taken())


if __name__ == "__main__":
    unittest.main()

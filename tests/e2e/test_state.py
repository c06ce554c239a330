# SPDX-License-Identifier: ISC
"""What operators and rules have changed survives kill -9 of qmgr and of everything: modes, pauses, disabled
sources; and what qmgr tells of it: log, events, alert mail (sent once), accounting, the report on sources."""
import os
import signal
import smtplib
import time
import unittest

from harness import SuiteTest, wait_for
from scripted import ScriptedSink



class State(SuiteTest):
    NET = 48

    def setUp(self):
        super().setUp()
        self.sink = ScriptedSink([self.address(2), self.address(3)], 2525, self.script)
        self.addCleanup(self.sink.stop)
        self.deferring = True
        self.zone = {"t.test": "@ MX 10 mx\nmx A %s\nops MX 10 mx.ops\nmx.ops A %s"
                     % (self.address(2), self.address(3))}
        self.source = self.address(9)

    def script(self, stage, ask):
        if stage == "rcpt" and ask.rcpt == "a@t.test" and self.deferring:
            return "421 4.7.28 too much from your IP address"
        return None

    def configuration(self, extra=""):
        return """
virtual-mtas = ( { name = "m"; sources = ( { address = "%s"; host-name = "o1.t.test"; } ); } );
smtp-pattern-lists = ( { name = "p"; rules = (
  { reply = "4\\\\.7\\\\.28 .*IP address"; actions = [ "mode=backoff" ]; for = "1h"; } ); } );
domains = ( { name = "*"; retry-after = "1h"; retry-recipients-after = "1h"; },
            { name = "t.test"; smtp-pattern-list = "p"; backoff-retry-after = "1h";
              backoff-notify = [ "ops@ops.t.test" ]; retry-after = "1h"; } );
%s""" % (self.source, extra)

    def send(self, suite, rcpt="a@t.test"):
        with smtplib.SMTP(suite.address, suite.port, timeout=10) as s:
            s.sendmail("s@from.test", [rcpt], "Subject: x\r\n\r\nhello\r\n")

    def queue(self, suite, name):
        try:
            return next((q for q in suite.ctl("qmgr", "queues", "*") if q["queue"] == name), None)
        except AssertionError:  # it is starting
            return None

    def kill_qmgr(self, suite):
        old = set(suite.workers("qmgr"))
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_for("another qmgr", lambda: set(suite.workers("qmgr")) - old)
        suite.wait_up()

    def kill_everything(self, suite):
        suite.process.kill_all()
        suite.start()

    def kills(self, suite):
        """Each way to die; the test looks again after it."""
        yield "nothing"
        self.kill_qmgr(suite)
        yield "qmgr"
        self.kill_everything(suite)
        yield "everything"
        self.assertEqual(0, suite.stop())
        suite.start()
        yield "a clean stop"

    def mode(self, suite, name="t.test/m"):
        q = self.queue(suite, name)
        return q and q["mode"]

    def test_backoff_by_a_rule_survives_and_its_alert_comes_once(self):
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        self.send(suite)
        wait_for("backoff", lambda: self.mode(suite) == "backoff")
        wait_for("the alert", lambda: self.sink.seen("message", local=self.address(3)))
        event = next(e for e in suite.ctl("qmgr", "events") if e["kind"] == "mode")
        self.assertIn("t.test/m", str(event))
        for how in self.kills(suite):
            wait_for("backoff after a kill of " + how, lambda: self.mode(suite) == "backoff")
        line = suite.wait_log(r"postern/qmgr\[\d+\]: mode t\.test/m: normal -> backoff until \S+: "
                              r"rule p:1 \([^)]*postern.conf:\d+\): 421 4\.7\.28")
        # once, or again in the same words when a kill came before the log's position was committed
        self.assertEqual(1, len({m.group(0).partition(": ")[2] for m in line}))
        time.sleep(1)  # nothing more may come: there is no event to wait for
        self.assertEqual(1, len(self.sink.seen("message", local=self.address(3), rcpt="ops@ops.t.test")))
        deferred = [r for r in suite.accounting() if r["type"] in ("t", "tq") and r["rcpt"] == "a@t.test"]
        self.assertTrue(deferred)
        self.assertEqual("backoff", suite.ctl("qmgr", "queue", "t.test/m")["mode"])

    def test_killed_between_event_and_alert(self):
        """The bouncer stands still, so the alert is owed when qmgr dies; then when everything does."""
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        stopped = list(suite.workers("bouncer"))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        self.send(suite)
        wait_for("backoff", lambda: self.mode(suite) == "backoff")
        old = set(suite.workers("qmgr"))
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_for("another qmgr", lambda: set(suite.workers("qmgr")) - old)
        self.kill_everything(suite)
        wait_for("the alert", lambda: self.sink.seen("message", local=self.address(3)), 30)
        wait_for("backoff", lambda: self.mode(suite) == "backoff")
        self.kill_qmgr(suite)
        time.sleep(1)
        self.assertEqual(1, len(self.sink.seen("message", local=self.address(3))))

    def test_alert_goes_while_its_own_queue_is_in_backoff(self):
        """Operators at the provider that the alert is about: their queue is another one."""
        extra = self.configuration().replace("ops@ops.t.test", "ops@t.test")
        suite = self.suite(extra, knot=self.knot(self.zone))
        self.send(suite)
        wait_for("backoff", lambda: self.mode(suite) == "backoff")
        suite.ctl("qmgr", "pause", "queue", "t.test/m")
        self.deferring = False
        wait_for("the alert", lambda: self.sink.seen("message", rcpt="ops@t.test"), 30)
        self.assertFalse(self.sink.seen("message", rcpt="a@t.test"))

    def test_pause_survives(self):
        self.deferring = False
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        self.send(suite)
        wait_for("the first mail", lambda: self.sink.taken() == 1)
        suite.ctl("qmgr", "pause", "queue", "t.test/m", "--for=2h")
        self.send(suite)
        for how in self.kills(suite):
            q = wait_for("the paused queue after a kill of " + how,
                         lambda: (self.queue(suite, "t.test/m") or {}).get("recipients") and
                         self.queue(suite, "t.test/m"))
            self.assertTrue(q["paused"], how)
            held = suite.ctl("qmgr", "suspensions")
            self.assertTrue(any("t.test/m" in str(h) for h in held), held)
            self.assertEqual(1, self.sink.taken())
        suite.ctl("qmgr", "resume", "queue", "t.test/m")
        wait_for("the second mail", lambda: self.sink.taken() == 2)

    def test_change_survives_a_kill_right_after_its_answer(self):
        """posternctl is answered when the change is on file."""
        self.deferring = False
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        self.send(suite)
        wait_for("the first mail", lambda: self.sink.taken() == 1)
        for i in range(4):
            verb = "resume" if i % 2 else "pause"
            suite.ctl("qmgr", verb, "queue", "t.test/m")
            self.kill_qmgr(suite)
            held = [h for h in suite.ctl("qmgr", "suspensions") if "t.test/m" in str(h)]
            self.assertEqual(i % 2 == 0, bool(held), (i, held))

    def test_reroute_survives(self):
        """Mail that was moved to another virtual MTA leaves by its source, whatever was killed meanwhile."""
        self.deferring = False
        other = self.address(10)
        conf = self.configuration().replace(
            'virtual-mtas = (', 'virtual-mtas = ( { name = "n"; sources = ( { address = "%s"; } ); },' % other)
        suite = self.suite('default-virtual-mta = "m";\n' + conf, knot=self.knot(self.zone))
        self.send(suite)
        wait_for("the first mail", lambda: self.sink.taken() == 1)
        suite.ctl("qmgr", "pause", "vmta", "m")
        suite.ctl("qmgr", "pause", "vmta", "n")
        for _ in range(20):
            self.send(suite)
        suite.ctl("qmgr", "reroute", "t.test/m", "n")
        wait_for("moved", lambda: (self.queue(suite, "t.test/n") or {}).get("recipients") == 20)
        for how in self.kills(suite):
            self.assertEqual(20, self.queue(suite, "t.test/n")["recipients"], how)
        suite.ctl("qmgr", "resume", "vmta", "n")
        wait_for("the mail", lambda: self.sink.taken() == 21)
        self.assertEqual({other}, {e.client for e in self.sink.seen("message")[1:]})
        self.assertEqual({"n"}, {r["vmta"] for r in suite.accounting() if r["type"] == "d"} - {"m"})

    def test_disabled_source_survives(self):
        self.deferring = False
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        suite.ctl("smtp-out", "disable-source", self.source, "--for=2h")
        self.send(suite)
        for how in self.kills(suite):
            rows = wait_for("sources", lambda: suite.ctl("smtp-out", "check-sources"))
            row = next(r for r in rows if r["address"] == self.source)
            self.assertEqual(["everywhere"], [d["where"] for d in row["disabled"]], how)
            self.assertTrue(row["bindable"])
            self.assertEqual("o1.t.test", row["ehlo"])
        self.assertEqual(0, self.sink.taken())
        suite.ctl("smtp-out", "enable-source", self.source)
        wait_for("the mail", lambda: self.sink.taken() == 1)
        self.assertEqual(self.source, self.sink.seen("message")[0].client)

    def test_missing_source_is_said_and_mail_waits(self):
        self.source = "192.0.2.77"  # not of this host
        self.deferring = False
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        suite.wait_log(r"source 192\.0\.2\.77 cannot be used on this host: Cannot assign requested address")
        self.send(suite)
        row = next(r for r in suite.ctl("smtp-out", "check-sources") if r["address"] == self.source)
        self.assertFalse(row["bindable"])
        self.assertIn("Cannot assign", row["why"])
        self.assertEqual(1, suite.recipients())
        self.assertEqual(0, self.sink.number)

    def test_accounting_names_mode_rule_and_virtual_mta(self):
        suite = self.suite(self.configuration(), knot=self.knot(self.zone))
        self.send(suite)
        wait_for("backoff", lambda: self.mode(suite) == "backoff")
        self.deferring = False
        suite.ctl("qmgr", "flush", "t.test/m")
        wait_for("the mail", lambda: self.sink.seen("message", rcpt="a@t.test"), 30)
        rows = wait_for("delivered", lambda: [r for r in suite.accounting() if r["type"] == "d" and
                                              r["rcpt"] == "a@t.test"])
        self.assertEqual("m", rows[0]["vmta"])
        self.assertEqual("t.test/m", rows[0]["queue"])
        self.assertIn(rows[0]["mode"], ("backoff", "recovery"))
        self.assertEqual("smtp", rows[0]["dlvType"])

    def test_discarded_mail_is_told_as_such(self):
        suite = self.suite('domains = ( { name = "t.test"; type = "discard"; } );\n', knot=self.knot(self.zone))
        self.send(suite)
        suite.wait_log(r"postern/qmgr\[\d+\]: \w+: to=<a@t\.test>, relay=none, delay=\S+, delays=\S+, "
                       r"dsn=2\.0\.0, status=sent \(discarded\)")
        row = wait_for("accounted", lambda: [r for r in suite.accounting() if r["type"] == "d"])[0]
        self.assertEqual(("discard", "a@t.test", "", "normal"),
                         (row["dlvType"], row["rcpt"], row["dlvDestinationIp"], row["mode"]))
        suite.wait_log(r": removed")
        self.assertEqual(0, self.sink.number)


if __name__ == "__main__":
    unittest.main()

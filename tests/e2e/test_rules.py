# SPDX-License-Identifier: ISC
"""Rules on replies, end to end: what a receiver answers, what becomes of the mail, and what is written about
it. The receiver obeys a script; each domain has its own list of rules, so that one suite serves all."""
import os
import smtplib
import subprocess
import time
import unittest

from harness import BIN, SuiteTest, wait_for
from scripted import ScriptedSink

CONF = """
virtual-mtas = ( { name = "mta1"; sources = ( { address = "%(s1)s"; }, { address = "%(s2)s"; } ); } );
domains = (
  { name = "*"; retry-after = "1s"; retry-recipients-after = "0s"; connection-idle-timeout = "0s";
    backoff-retry-after = "1s"; backoff-max-msg-rate = "1000/s"; backoff-max-connect-rate = "1000/s"; },
  { name = "full.test"; smtp-pattern-list = "full"; },
  { name = "rate.test"; smtp-pattern-list = "rate"; },
  { name = "skip.test"; smtp-pattern-list = "skip"; },
  { name = "block.test"; smtp-pattern-list = "block"; disabled-source-ip-notify = [ "ops@ops.test" ]; },
  { name = "closed.test"; smtp-pattern-list = "closed"; },
  { name = "tls.test"; smtp-pattern-list = "tls"; } );
smtp-pattern-lists = (
  { name = "full"; rules = (
      { reply = "4\\\\.2\\\\.2 .*over quota"; actions = [ "bounce-recipient" ]; },
      { reply = "4\\\\.2\\\\.2"; actions = [ "defer-recipient", "alert=ops@ops.test" ]; } ); },
  { name = "rate"; rules = ( { reply = "^550 .*frequency limited"; actions = [ "defer-recipient" ]; } ); },
  { name = "skip"; rules = ( { reply = "ask another"; stage = [ "rcpt" ]; actions = [ "skip-mx" ]; } ); },
  { name = "block"; rules = (
      { reply = "\\\\[(?<ip>[0-9.]+)\\\\] is blocked"; actions = [ "disable-source-ip", "defer-recipient" ];
        for = "1h"; } ); },
  { name = "closed"; rules = (
      { reply = "refused"; stage = [ "connect" ]; trigger = "2/10m"; actions = [ "mode=backoff" ]; } ); },
  { name = "tls"; rules = (
      { reply = "4\\\\.7\\\\.0 .*TLS required"; actions = [ "require-tls" ]; for = "1h"; } ); } );
"""


class Rules(SuiteTest):
    NET = 67

    def start(self):
        names = ["full", "rate", "skip", "block", "closed", "tls", "ops"]
        self.at = {name: self.address(10 + i, 2) for i, name in enumerate(names)}
        second = self.address(30, 2)
        zones = {name + ".test": "@ MX 10 mx\nmx A %s" % self.at[name] for name in names}
        zones["skip.test"] += "\n@ MX 20 second\nsecond A " + second
        self.s1, self.s2 = self.address(1, 5), self.address(2, 5)
        self.sink = ScriptedSink([a for n, a in self.at.items() if n != "closed"] + [second], 2525,
                                 self.script)
        self.addCleanup(self.sink.stop)
        self.second = second
        self.suite_ = self.suite(CONF % {"s1": self.s1, "s2": self.s2}, knot=self.knot(zones))
        return self.suite_

    def script(self, stage, ask):
        """Each receiver's temper, by its address."""
        name = next((n for n, a in self.at.items() if a == ask.local), "")
        if name == "full" and stage == "rcpt" and ask.rcpt.startswith("full"):
            return "452-4.2.2 This mailbox is\r\n452 4.2.2 over quota"
        if name == "full" and stage == "rcpt" and ask.rcpt.startswith("later") and self.refuses("later"):
            return "452 4.2.2 This mailbox is locked"
        if name == "rate" and stage == "dot" and self.refuses("rate"):
            return "550 Ip frequency limited"
        if name == "skip" and stage == "rcpt":
            return "450 4.7.1 ask another host"
        if name == "block" and stage == "mail" and ask.client == self.s1:
            return "550 5.7.1 your address [%s] is blocked" % ask.client
        if name == "tls" and stage == "mail":
            return "421 4.7.0 TLS required for you"
        return None

    refused = None

    def refuses(self, what):
        """The first time only."""
        self.refused = self.refused or set()
        first = what not in self.refused
        self.refused.add(what)
        return first

    def send(self, *rcpts):
        with smtplib.SMTP(self.suite_.address, self.suite_.port, timeout=20) as s:
            s.sendmail("a@sender.test", list(rcpts), "Subject: x\r\n\r\nhello\r\n")

    def record(self, kind, rcpt):
        """The accounting record of that type for that recipient."""
        found = []

        def look():
            found[:] = [r for r in self.suite_.accounting() if r["type"] == kind and r.get("rcpt") == rcpt]
            return found
        wait_for("a record %s of %s" % (kind, rcpt), look, 30)
        return found[0]

    def place(self, text):
        """FILE:LINE where the configuration has that text."""
        with open(self.suite_.conf) as f:
            line = next(i for i, l in enumerate(f, 1) if text in l)
        return "%s:%d" % (self.suite_.conf, line)

    def test_what_replies_do(self):
        suite = self.start()

        # a 4xx that bounces, and its neighbour in the same transaction that does not
        self.send("full@full.test", "fine@full.test", "later@full.test")
        row = self.record("b", "full@full.test")
        self.assertEqual("full:1 (%s)" % self.place("over quota"), row["rule"])
        self.assertEqual("5.2.2", row["dsnStatus"])  # it is permanent now
        self.assertEqual("quota-issues", row["bounceCat"])
        self.assertIn("452 4.2.2 This mailbox is over quota", row["dsnDiag"])
        self.record("d", "fine@full.test")
        self.assertIn("full:2", self.record("t", "later@full.test")["rule"])
        self.record("d", "later@full.test")
        suite.wait_log(r"rule full\.test/mta1.*full:1 \(%s\)" % self.place("over quota"))
        # the notice that the second rule asked for
        wait_for("a notice to operators", lambda: [
            e for e in self.sink.seen("message", local=self.at["ops"]) if "ops@ops.test" in e.rcpt], 30)

        # a 5xx that does not bounce
        self.send("x@rate.test")
        row = self.record("t", "x@rate.test")
        self.assertIn("rate:1", row["rule"])
        self.record("d", "x@rate.test")
        self.assertEqual([], [r for r in suite.accounting() if r["type"] == "b" and "rate" in r["rcpt"]])

        # skip-mx: the second host has it at once
        begin = time.monotonic()
        self.send("x@skip.test")
        self.record("d", "x@skip.test")
        self.assertEqual(1, self.sink.taken(local=self.second))
        self.assertEqual(0, self.sink.taken(local=self.at["skip"]))
        self.assertLess(time.monotonic() - begin, 20)

        # disable-source-ip: from then on only the other one is seen
        for i in range(10):
            self.send("x%d@block.test" % i)
            self.record("d", "x%d@block.test" % i)
        refused = self.sink.seen("mail", local=self.at["block"], client=self.s1)
        self.assertLessEqual(len(refused), 2)  # two connections may have begun together
        self.assertEqual(10, self.sink.taken(local=self.at["block"], client=self.s2))
        if refused:
            suite.wait_log(r"source .*%s" % self.s1.replace(".", r"\."))

        # a connection error, counted
        self.send("x@closed.test")

        def in_backoff():
            return [q for q in suite.ctl("qmgr", "queues", "closed.test*") if q["mode"] == "backoff"]
        wait_for("backoff after two refused connections", in_backoff, 30)
        suite.wait_log(r"closed:1 \(")

        # require-tls, at a server that has none: never again in the clear
        self.send("x@tls.test")
        wait_for("the first try", lambda: self.sink.seen("mail", local=self.at["tls"]), 20)
        suite.wait_log(r"4\.7\.4 TLS is required")
        self.assertEqual(1, len(self.sink.seen("mail", local=self.at["tls"])))

    def test_rules_change_with_a_reload(self):
        suite = self.start()
        self.send("full1@full.test")
        self.assertIn("full:1", self.record("b", "full1@full.test")["rule"])
        with open(suite.conf) as f:
            text = f.read()
        with open(suite.conf, "w") as f:  # the second rule alone is left, which defers
            f.write(text.replace('{ reply = "4\\\\.2\\\\.2 .*over quota"; actions = [ "bounce-recipient" ]; },', ""))
        suite.ctl("master", "reload", parse=False)
        self.send("full2@full.test")
        self.assertIn("full:1", self.record("t", "full2@full.test")["rule"])
        self.assertEqual([], [r for r in suite.accounting() if r["type"] == "b" and "full2" in r["rcpt"]])
        with open(suite.conf, "w") as f:
            f.write(text.replace("frequency limited", "frequency (limited"))
        wrong = suite.ctl("master", "reload", check=False, parse=False)
        self.assertNotEqual(0, wrong.returncode)
        self.assertIn("regular expression", (wrong.stdout + wrong.stderr).decode())

    def test_what_is_told_of_rules(self):
        suite = self.start()
        rows = suite.ctl("bouncer", "match", "full", "452-4.2.2 This is\r\n452 4.2.2 over quota")
        self.assertEqual(["full:1 (%s)" % self.place("over quota"), "full:2"],
                         [rows[0]["rule"], rows[1]["rule"].split(" ")[0]])
        self.assertEqual([True], [a["acts"] for a in rows[0]["actions"]])
        self.assertEqual([False, True], [a["acts"] for a in rows[1]["actions"]])
        rows = suite.ctl("bouncer", "match", "block", "550 [192.0.2.7] is blocked")
        self.assertEqual("ip 192.0.2.7", rows[0]["object"])
        self.assertEqual("1h", rows[0]["for"])
        self.assertEqual([], suite.ctl("bouncer", "match", "closed", "connect: Connection refused"))
        rows = suite.ctl("bouncer", "match", "closed", "connect: Connection refused", "--stage=connect")
        self.assertEqual("2/10m", rows[0]["trigger"])
        self.assertEqual([], suite.ctl("bouncer", "match", "skip", "450 ask another", "--stage=dot"))
        for args in (["match", "nothing", "x"], ["match", "full", "x", "--stage=never"]):
            self.assertEqual(64, suite.ctl("bouncer", *args, check=False, parse=False).returncode)
        self.assertEqual("bad-mailbox", suite.ctl("bouncer", "classify", "550 5.1.1 unknown user")["category"])
        self.assertEqual("invalid-sender",
                         suite.ctl("bouncer", "classify", "550 5.1.1 sender unknown")["category"])

        # a connection watched
        watcher = subprocess.Popen(
            [os.path.join(BIN, "posternctl"), "-c", suite.conf, "smtp-out", "trace", "rate.test", "--for=20s"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(watcher.stdout.close)
        time.sleep(0.5)  # until it listens there is nothing to see
        self.send("x@rate.test")
        text = watcher.communicate(timeout=60)[0].decode()
        for wanted in ("220 scripted ESMTP", "MAIL FROM:<a@sender.test>", "RCPT TO:<x@rate.test>",
                       "550 Ip frequency limited"):
            self.assertIn(wanted, text)
        self.assertNotIn("hello", text)

        # nobody comes: it ends by itself, at every instance
        nobody = suite.ctl("smtp-out", "trace", "nobody.test", "--for=1s", check=False, parse=False)
        self.assertEqual(69, nobody.returncode)

        # sources by command
        suite.ctl("smtp-out", "disable-source", self.s1, "--for=1h", parse=False)
        for i in range(6):
            self.send("y%d@full.test" % i)
            self.record("d", "y%d@full.test" % i)
        self.assertEqual(0, self.sink.taken(local=self.at["full"], client=self.s1))
        suite.ctl("smtp-out", "enable-source", self.s1, parse=False)
        checked = suite.ctl("smtp-out", "check-sources")
        self.assertEqual({self.s1, self.s2}, {row["address"] for row in checked})
        wrong = suite.ctl("smtp-out", "disable-source", "nonsense", check=False, parse=False)
        self.assertEqual(64, wrong.returncode)


if __name__ == "__main__":
    unittest.main()

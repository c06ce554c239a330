# SPDX-License-Identifier: ISC
"""Mail goes through the whole suite: accepted by SMTP, routed by a real name server, delivered,
deferred, bounced, and each of it told in log, accounting and by posternctl."""
import csv
import os
import smtplib
import unittest

from harness import SuiteTest, wait_for

FAST_RETRY = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; connection-idle-timeout = "1s";
              retry-after-dns-error = "1s"; connect-timeout = "2s"; smtp-greeting-timeout = "2s"; %s } );
"""


def message(text="hello", **headers):
    lines = ["%s: %s" % (k.replace("_", "-"), v) for k, v in headers.items()]
    return "\r\n".join(["Subject: test"] + lines + ["", text, ""])


class Delivery(SuiteTest):
    NET = 60

    def send(self, suite, sender, rcpts, text, **options):
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            return s.sendmail(sender, rcpts, text, **options)

    def zones(self):
        a = self.address
        return {
            "good.test": "@ MX 10 mx\nmx A %s" % a(2),
            "implicit.test": "@ A %s" % a(2),
            "null.test": "@ MX 0 .",
            "three.test": "@ MX 10 refuses\n@ MX 20 hangs\n@ MX 30 takes\n"
                          "refuses A %s\nhangs A %s\ntakes A %s" % (a(8), a(9), a(2)),
            "nohost.test": "@ MX 10 nothing",
            "alias.test": "@ MX 10 mx\nmx CNAME mx.good.test.",
        }

    def test_message_arrives_and_is_told(self):
        knot, sink = self.knot(self.zones()), self.sink(2)
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "a@sender.test", ["b@good.test"], message(X_Ledger="one"))
        wait_for("arrival", lambda: sink.count() == 1)
        self.assertEqual("one", sink.ledger()[0][0])
        suite.wait_empty()
        line = suite.wait_log(r"postern/smtp-out\[\d+\]: ([0-9a-f]{16}): to=<b@good.test>, "
                              r"relay=mx\.good\.test\[%s\]:2525, delay=[\d.]+, delays=[\d./]+, "
                              r"dsn=2\.0\.0, status=sent \(250 2\.0\.0 taken\)" % self.address(2))[0]
        ident = line.group(1)
        suite.wait_log(r"%s: from=<a@sender.test>, size=\d+, nrcpt=1 \(queue active\)" % ident)
        suite.wait_log(r"%s: removed" % ident)
        rows = wait_for("accounting", lambda: [r for r in suite.accounting() if r["type"] == "d"])
        self.assertEqual("b@good.test", rows[0]["rcpt"])
        self.assertEqual("a@sender.test", rows[0]["orig"])
        self.assertEqual("2.0.0", rows[0]["dsnStatus"].split()[0])
        with open(os.path.join(suite.directory, "log", "acct.csv"), newline="") as f:
            table = list(csv.DictReader(f))
        self.assertEqual(["r", "d"], [r["type"] for r in table])
        self.assertEqual(ident, table[1]["messageId"])
        self.assertEqual(0, suite.stop())

    def test_implicit_mx_and_cname(self):
        knot, sink = self.knot(self.zones()), self.sink(2)
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "a@sender.test", ["b@implicit.test", "c@alias.test"], message())
        wait_for("both arrive", lambda: sink.count() == 2)
        suite.wait_empty()

    def test_three_mx_first_refuses_second_hangs(self):
        import socket
        knot, sink = self.knot(self.zones()), self.sink(2)
        hangs = socket.create_server((self.address(9), 2525))  # accepts, never greets
        self.addCleanup(hangs.close)
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "a@sender.test", ["b@three.test"], message())
        wait_for("arrival at the third", lambda: sink.count() == 1, 30)
        suite.wait_empty()

    def test_null_mx_and_unknown_domain_bounce(self):
        zones = self.zones()
        zones["sender.test"] = "@ MX 10 mx\nmx A %s" % self.address(2)
        knot, sink = self.knot(zones), self.sink(2)
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "a@sender.test", ["b@null.test"], message())
        suite.wait_log(r"to=<b@null.test>, relay=none, .*dsn=5\.1\.10, status=bounced")
        self.send(suite, "a@sender.test", ["b@missing.good.test"], message())
        suite.wait_log(r"to=<b@missing.good.test>, relay=none, .*dsn=5\.1\.2, status=bounced")
        suite.wait_log(r"sender non-delivery notification: [0-9a-f]{16}", 2)
        wait_for("two reports arrive", lambda: sink.count() == 2)
        suite.wait_empty()

    def test_rejected_recipient_bounces_with_the_reply(self):
        zones = self.zones()
        zones["sender.test"] = "@ MX 10 mx\nmx A %s" % self.address(3)
        knot, sink = self.knot(zones), self.sink(2)
        reports = self.sink(3, name="reports")
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "a@sender.test", ["fail-b@good.test", "c@good.test"], message())
        suite.wait_log(r"to=<fail-b@good.test>, relay=mx.good.test\[.*dsn=5\.1\.1, status=bounced "
                       r"\(.*550 5\.1\.1 no such user")
        wait_for("the other arrives", lambda: sink.count() == 1)
        wait_for("the report arrives", lambda: reports.count() == 1)
        suite.wait_empty()

    def test_no_bounce_of_a_bounce(self):
        knot = self.knot(self.zones())
        self.sink(2)
        suite = self.suite(FAST_RETRY % "", knot=knot)
        self.send(suite, "", ["fail-b@good.test"], message())
        suite.wait_log(r"to=<fail-b@good.test>, .*status=bounced")
        suite.wait_empty()
        self.assertNotIn("non-delivery notification: ", suite.log())

    def test_deferred_is_retried_and_expires(self):
        zones = self.zones()
        zones["sender.test"] = "@ MX 10 mx\nmx A %s" % self.address(3)
        knot = self.knot(zones)
        self.sink(2)
        reports = self.sink(3, name="reports")
        suite = self.suite(FAST_RETRY % 'bounce-after = "4s";', knot=knot)
        self.send(suite, "a@sender.test", ["defer-b@good.test"], message())
        suite.wait_log(r"to=<defer-b@good.test>, .*dsn=4\.7\.1, status=deferred \(.*451 4\.7\.1 not now", 2)
        suite.wait_log(r"to=<defer-b@good.test>, .*status=expired")
        wait_for("the report arrives", lambda: reports.count() == 1)
        suite.wait_empty()

    def test_queue_is_shown_and_survives_stop_and_start(self):
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot)  # nobody listens at the MX
        self.send(suite, "a@sender.test", ["b@good.test", "c@good.test"], message(X_Ledger="kept"))
        queues = wait_for("a queue with an error", lambda: [
            q for q in suite.ctl("qmgr", "queues") if q["recipients"] == 2 and q["last_error"]])
        for key in ("queue", "recipients", "connections", "mode", "paused", "next_retry", "last_error"):
            self.assertIn(key, queues[0])
        self.assertIn("/default", queues[0]["queue"])
        rows = suite.ctl("qmgr", "messages")
        self.assertEqual({"b@good.test", "c@good.test"}, {r["recipient"] for r in rows})
        one = suite.ctl("qmgr", "message", rows[0]["id"])
        self.assertIn("a@sender.test", str(one))
        self.assertEqual(0, suite.stop())
        suite.start()
        self.assertEqual(2, suite.recipients())
        sink = self.sink(2)
        suite.ctl("qmgr", "flush", "*")
        wait_for("it arrives after the restart", lambda: sink.count() == 1)
        self.assertEqual("kept", sink.ledger()[0][0])
        suite.wait_empty()

    def test_delete(self):
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot)
        for _ in range(3):
            self.send(suite, "a@sender.test", ["b@good.test"], message())
        wait_for("three queued", lambda: suite.recipients() == 3)
        rows = suite.ctl("qmgr", "messages")
        suite.ctl("qmgr", "delete", rows[0]["id"])
        wait_for("two left", lambda: suite.recipients() == 2)
        suite.ctl("qmgr", "delete", "--recipient=b@good.test", "*")
        suite.wait_empty()
        self.assertEqual(0, suite.stop())
        suite.start()
        self.assertEqual(0, suite.recipients())

    def test_unknown_option_deletes_nothing(self):
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot)  # nobody listens at the MX
        self.send(suite, "a@sender.test", ["b@good.test"], message())
        wait_for("queued", lambda: suite.recipients() == 1)
        for words, status, why in (
                (("delete", "good.test", "--sendr=x@y"), 64, b"--sendr"),
                (("delete", "good.test", "--limit=1"), 64, b"--limit"),
                (("flush", "good.test", "--limit=1"), 64, b"--limit"),
                (("status", "--verbose"), 64, b"--verbose"),
                (("delete", "good.test", "--domain=null.test"), 64, b"two domains"),
                (("delete", "", "--sender=a@sender.test"), 64, b"empty"),
                (("delete", "good.test", "--sender="), 0, b""),
                (("flush", "other.test"), 65, b"no mail waits for other.test"),
                (("flush", "good.test/other"), 65, b"good.test")):
            done = suite.ctl("qmgr", *words, check=False, parse=False)
            self.assertEqual(status, done.returncode, (words, done))
            self.assertIn(why, done.stderr, words)
        self.assertEqual(1, suite.recipients())

    def test_domain_and_vmta_name_a_site_queue(self):
        """Two domains share a site's queue: DOMAIN/VMTA is that queue, and of it the domain's mail."""
        zones = self.zones()
        zones["twin.test"] = "@ MX 10 mx.good.test."
        suite = self.suite(FAST_RETRY % "", knot=self.knot(zones))  # nobody listens at the MX
        for domain in ("good.test", "twin.test"):
            self.send(suite, "a@sender.test", ["b@" + domain], message())
        site = wait_for("both in one queue", lambda: [
            q for q in suite.ctl("qmgr", "queues") if q["recipients"] == 2 and q["last_error"]])[0]["queue"]
        self.assertTrue(site.endswith("]/default"), site)
        self.assertEqual(site, suite.ctl("qmgr", "queue", "twin.test/default")["queue"])
        rows = suite.ctl("qmgr", "messages", "--queue=twin.test/default")
        self.assertEqual(["b@twin.test"], [r["recipient"] for r in rows])
        self.assertEqual(2, len(suite.ctl("qmgr", "messages", "--queue=" + site)))
        for what, n in (("twin.test/default", 1), ("twin.test", 1), (site, 2), ("ALL", 2)):
            wait_for("flush of " + what, lambda: suite.ctl("qmgr", "flush", what) == {"recipients": n})
        self.assertEqual({"recipients": 1}, suite.ctl("qmgr", "delete", "twin.test/default"))
        wait_for("one left", lambda: [r["domain"] for r in suite.ctl("qmgr", "messages")] == ["good.test"])
        self.assertEqual({"recipients": 1}, suite.ctl("qmgr", "delete", site))
        suite.wait_empty()

    def test_poison_is_set_aside_and_can_be_released(self):
        """A message that master counted three deaths for is held after the restart; others go on."""
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot)  # nobody listens at the MX yet
        self.send(suite, "a@sender.test", ["b@good.test"], message(X_Ledger="poison"))
        self.send(suite, "a@sender.test", ["b@good.test"], message(X_Ledger="harmless"))
        rows = wait_for("both queued", lambda: (lambda r: r if len(r) == 2 else None)(
            suite.ctl("qmgr", "messages")))
        poison = min(r["id"] for r in rows)
        suite.stop()
        with open(os.path.join(suite.directory, "spool", "master", "poison"), "w") as f:
            f.write("postern-poison 1\n%s 3\n" % poison)
        suite.start()
        sink = self.sink(2)
        suite.ctl("qmgr", "flush", "good.test")
        wait_for("the other one arrives", lambda: sink.count() == 1)
        self.assertEqual(["held"], [r["state"] for r in suite.ctl("qmgr", "messages")])
        suite.ctl("qmgr", "flush", poison)
        wait_for("the released one arrives", lambda: sink.count() == 2)
        suite.wait_empty()

    def test_resolve_and_status(self):
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot)
        answer = suite.ctl("resolver", "resolve", "three.test")
        self.assertIn("refuses.three.test", str(answer))
        for service in ("master", "smtpd", "qmgr", "smtp-out", "resolver", "bouncer"):
            self.assertTrue(suite.ctl(service, "status"), service)

    def test_relay_refused_from_elsewhere(self):
        knot = self.knot(self.zones())
        suite = self.suite(FAST_RETRY % "", knot=knot, start=False)
        with open(suite.conf) as f:
            text = f.read().replace('"127.0.0.0/8"', '"127.99.0.0/16"')
        with open(suite.conf, "w") as f:
            f.write(text)
        suite.start()
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.ehlo()
            s.mail("a@sender.test")
            code, text = s.rcpt("b@good.test")
        self.assertEqual(550, code)
        self.assertIn(b"5.7.1", text)
        suite.wait_log(r"NOQUEUE: reject: RCPT from unknown\[127\.0\.0\.1\]: 550 5\.7\.1")


if __name__ == "__main__":
    unittest.main()

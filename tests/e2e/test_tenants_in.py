# SPDX-License-Identifier: ISC
"""What a tenant may bring: messages, recipients and bytes by time, refused by name; others do not notice.
And mail that was set aside because of its header: seen, released, returned."""
import smtplib
import threading
import time
import unittest

from harness import SuiteTest, wait_for

TENANTS = """
tenants = ( { name = "acme"; max-msg-in-rate = "%s"; }, { name = "beta"; },
            { name = "gamma"; max-rcpt-in-rate = "1/h burst 5"; clients = [ "127.75.0.9" ]; },
            { name = "delta"; max-data-in-rate = "1K/h burst 10K"; },
            { name = "careful"; check-from = "quarantine"; sender-domains = [ "careful.test" ]; } );
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; retry-after-dns-error = "1s"; } );
"""
REFUSED = "452 4.3.1 Error: too much mail at once, try again later: tenant %s may bring %s"


class TenantsIn(SuiteTest):
    NET = 75

    def client(self, suite, source=None):
        s = smtplib.SMTP(suite.address, suite.port, timeout=20, local_hostname="c.test",
                         source_address=(source, 0) if source else None)
        self.addCleanup(s.close)
        s.ehlo()
        return s

    def send(self, s, tenant, rcpts=("x@one.test",), body="hello", sender="a@b.test", headers=""):
        """The answer to the end of DATA, or to the first command that was refused."""
        answers = [s.mail(sender)] + [s.rcpt(r) for r in rcpts]
        bad = [a for a in answers if a[0] >= 400]
        if bad:
            s.rset()
            return "%d %s" % (bad[0][0], bad[0][1].decode())
        head = "X-Tenant: %s\r\n" % tenant if tenant else ""
        code, text = s.data("%s%sSubject: t\r\n\r\n%s\r\n" % (head, headers, body))
        return "%d %s" % (code, text.decode())

    def flood(self, suite, tenant, seconds, taken, refused):
        s = self.client(suite)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = time.monotonic()
            answer = self.send(s, tenant)
            if answer.startswith("250"):
                taken.append((before, time.monotonic()))
            else:
                refused.append(answer)
                time.sleep(0.002)

    def check_rate(self, processes, seconds=3.0, n=50, burst=20):
        suite = self.suite(TENANTS % ("%d/s burst %d" % (n, burst)), processes=processes)
        began, lists = time.monotonic(), {"acme": ([], []), "beta": ([], [])}
        threads = [threading.Thread(target=self.flood, args=(suite, t, seconds, *lists[t]))
                   for t in ("acme", "acme", "acme", "acme", "beta")]
        for t in threads:
            t.start()
        time.sleep(seconds / 2)
        suite.ctl("master", "reload")  # empties and fills nothing
        for t in threads:
            t.join()
        taken, refused = lists["acme"]
        taken.sort()
        # any window: it was taken between `before` and `after`, so that is how short it may have been;
        # smtpd's clock ticks in milliseconds
        for i in range(len(taken)):
            for j in range(i, len(taken)):
                self.assertLessEqual(j - i + 1, burst + n * (taken[j][1] - taken[i][0] + 0.002))
        print("%d processes: acme %d taken of at most %d, %d refused; beta %d taken" % (
            processes, len(taken), burst + n * (time.monotonic() - began), len(refused),
            len(lists["beta"][0])), flush=True)
        self.assertEqual({REFUSED % ("acme", "max-msg-in-rate %d/s burst %d" % (n, burst))}, set(refused))
        self.assertEqual([], lists["beta"][1])
        self.assertGreater(len(lists["beta"][0]), len(taken))
        status = suite.ctl("smtpd", "status")
        self.assertEqual(len(refused), status["tenant_message_rate_refused"])
        self.assertEqual(len(taken) + len(lists["beta"][0]), suite.recipients())
        self.assertIn("tenant acme may bring max-msg-in-rate", suite.log())
        self.assertEqual(0, suite.stop())
        return len(taken), burst + n * seconds

    def test_messages(self):
        taken, most = self.check_rate(1)
        self.assertGreater(taken, 0.9 * most)

    def test_messages_by_two_processes(self):
        self.check_rate(2)

    def test_recipients_and_bytes(self):
        suite = self.suite(TENANTS % "unlimited", processes=1,
                           listener="process-x-tenant = false;")
        s = self.client(suite, "127.75.0.9")
        many = ["r%d@one.test" % i for i in range(4)]
        self.assertTrue(self.send(s, "", many).startswith("250"))
        wait = REFUSED % ("gamma", "max-rcpt-in-rate 1/h burst 5")
        # nobody else's it can be: refused before its content, and the first recipient still fits
        self.assertEqual(wait, self.send(s, "", many))
        self.assertTrue(self.send(s, "", many[:1]).startswith("250"))
        self.assertEqual((452, wait[4:].encode()), s.mail("a@b.test"))
        self.assertEqual(5, suite.recipients())
        self.assertTrue(self.send(self.client(suite), "", many).startswith("250"))
        suite.stop()
        suite.configure(TENANTS % "unlimited", listener="")
        suite.start()
        s = self.client(suite)
        body = "\r\n".join(["x" * 70] * 200)
        self.assertTrue(self.send(s, "delta", body=body).startswith("250"))  # overdraws
        self.assertEqual(REFUSED % ("delta", "max-data-in-rate 1K/h burst 10K"), self.send(s, "delta"))
        big = "\r\n".join(["x" * 70] * 20000)  # would be streamed
        self.assertEqual(REFUSED % ("delta", "max-data-in-rate 1K/h burst 10K"),
                         self.send(s, "delta", body=big))
        self.assertTrue(self.send(s, "beta", body=big).startswith("250"))
        self.assertEqual(0, suite.stop())

    def test_quarantine_is_seen_released_and_returned(self):
        knot = self.knot({"one.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        sink = self.sink(2)
        suite = self.suite(TENANTS % "unlimited", knot=knot, processes=1)
        s = self.client(suite)
        for i in range(3):
            self.assertTrue(self.send(s, "careful", ["q%d@one.test" % i],
                                      headers="From: x@evil.test\r\n").startswith("250"))
        self.assertTrue(self.send(s, "careful", ["good@one.test"],
                                  headers="From: x@careful.test\r\n").startswith("250"))
        wait_for("the good one", lambda: sink.count() == 1)
        held = suite.ctl("qmgr", "messages", "--held")
        self.assertEqual({"held"}, {m["state"] for m in held})
        self.assertEqual({"q0@one.test", "q1@one.test", "q2@one.test"}, {m["recipient"] for m in held})
        refused = suite.ctl("qmgr", "release", check=False, parse=False)
        self.assertEqual(64, refused.returncode)
        self.assertEqual({"recipients": 3, "dry_run": True},
                         suite.ctl("qmgr", "release", "--tenant=careful", "--dry-run"))
        self.assertEqual({"recipients": 1}, suite.ctl("qmgr", "release", held[0]["id"]))
        wait_for("the released one", lambda: sink.count() == 2)
        self.assertIn("1 recipient", suite.ctl_text("qmgr", "release", "--recipient=%s" % held[1]["recipient"]))
        wait_for("the released one", lambda: sink.count() == 3)
        self.assertEqual({"recipients": 1}, suite.ctl("qmgr", "bounce", "--held"))
        rows = wait_for("bounced", lambda: [r for r in suite.accounting() if r["type"] == "b"])
        self.assertEqual([held[2]["recipient"]], [r["rcpt"] for r in rows])
        self.assertEqual([], suite.ctl("qmgr", "messages", "--held"))
        self.assertEqual(0, suite.stop())

    def test_whose_mail_it_is_and_what_its_header_says(self):
        """The evidence in its order, and each of the checks; told by the answer and by the queue's lanes."""
        conf = """
virtual-mtas = ( { name = "a"; }, { name = "b"; }, { name = "fallback"; } );
default-virtual-mta = "fallback"; default-tenant = "rest"; unknown-tenant = "refuse";
tenants = ( { name = "rest"; }, { name = "strict"; check-from = "refuse"; sender-domains = [ "strict.test" ]; },
            { name = "tagged"; check-headers = "tag"; match = { header = "X-Customer"; value = "Seven"; }; },
            { name = "bound"; virtual-mta = "a"; virtual-mtas = [ "a" ]; clients = [ "127.75.0.9" ]; } );
"""
        knot = self.knot({"one.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        suite = self.suite(conf, knot=knot, processes=1, listener="process-x-virtual-mta = true;")
        suite.ctl("qmgr", "pause", "queue", "*")
        s, other = self.client(suite), self.client(suite, "127.75.0.9")
        good = lambda *a, **k: self.assertTrue(self.send(*a, **k).startswith("250"))
        bad = lambda code, *a, **k: self.assertTrue(self.send(*a, **k).startswith(code))
        good(s, "")
        bad("550 5.7.1", s, "nobody")
        good(s, "", sender="x@mail.strict.test", headers="From: Strict <x@strict.test>\r\n")
        bad("550 5.7.1", s, "", sender="x@strict.test", headers="From: x@else.test\r\n")
        bad("550 5.7.1", s, "strict", headers="From: x@strict.test\r\nFrom: y@strict.test\r\n")
        bad("550 5.7.1", s, "strict")
        good(s, "", headers="X-Customer: seven\r\n")
        good(other, "")
        good(other, "", headers="X-Virtual-MTA: a\r\n")
        bad("550 5.7.1", other, "", headers="X-Virtual-MTA: b\r\n")
        good(s, "", headers="X-Virtual-MTA: b\r\n")
        seen = {}
        for m in suite.ctl("qmgr", "messages"):
            seen.setdefault(m["tenant"], []).append(m["queue"].rsplit("/", 1)[1])
        self.assertEqual({"rest": ["b", "fallback"], "strict": ["fallback"], "tagged": ["fallback"],
                          "bound": ["a", "a"]}, {t: sorted(v) for t, v in seen.items()})
        self.assertIn("tenant tagged: tagged: no Date header; no Message-ID header", suite.log())


if __name__ == "__main__":
    unittest.main()

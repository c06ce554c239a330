# SPDX-License-Identifier: ISC
"""What log and accounting say of failures before any message, and of recipients that end together."""
import smtplib
import unittest

from harness import SuiteTest, wait_for

FAST_RETRY = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; retry-after-dns-error = "1s";
              %s } );
"""


class Accounting(SuiteTest):
    NET = 65

    def send(self, suite, rcpts):
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.sendmail("", rcpts, "Subject: test\r\n\r\nhello\r\n")

    def rows(self, suite, kind, count=1):
        def enough():
            rows = [r for r in suite.accounting() if r["type"] == kind]
            return rows if len(rows) >= count else None
        return wait_for("%d accounting rows %s" % (count, kind), enough)

    def zones(self, *names):
        """Domains whose servers nobody has started, but in the test of a greeting."""
        return {name: "@ MX 10 mx\nmx A %s" % self.address(last)
                for name, last in zip(names, range(8, 100))}

    def test_refused_connection_is_told(self):
        suite = self.suite(FAST_RETRY % "", knot=self.knot(self.zones("one.test")))
        self.send(suite, ["b@one.test"])
        suite.wait_log(r"postern/smtp-out\[\d+\]: connect to mx\.one\.test\[%s\]:2525: "
                       r"Connection refused\n" % self.address(8))
        row = self.rows(suite, "tq")[0]
        self.assertEqual("delayed", row["dsnAction"])
        self.assertEqual("4.4.1", row["dsnStatus"])
        self.assertIn("Connection refused", row["dsnDiag"])
        self.assertEqual("mx.one.test (%s)" % self.address(8), row["dsnMta"])
        self.assertEqual(self.address(8), row["dlvDestinationIp"])
        self.assertTrue(row["queue"].endswith("/" + row["vmta"]), row)
        self.assertEqual("", row["messageId"])
        self.assertEqual(row["vmta"], self.rows(suite, "r")[0]["vmta"])
        self.assertTrue(row["vmta"])

    def test_source_that_is_not_local_is_told(self):
        vmta = 'virtual-mtas = ( { name = "away"; sources = ( { address = "192.0.2.7"; } ); } );\n'
        suite = self.suite(vmta + FAST_RETRY % "", knot=self.knot(self.zones("one.test")))
        self.send(suite, ["b@one.test"])
        suite.wait_log(r"source 192\.0\.2\.7 cannot be used on this host: Cannot assign requested address")
        self.assertEqual([], [r for r in suite.accounting() if r["type"] in ("d", "b", "t")])
        self.assertEqual(1, suite.recipients())  # it waits: no connection is tried from there

    def test_421_at_the_greeting_is_told(self):
        import socket
        import threading
        server = socket.create_server((self.address(8), 2525))
        self.addCleanup(server.close)
        self.addCleanup(server.shutdown, socket.SHUT_RDWR)  # ends its accept()

        def refuse():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"421 4.7.0 not you\r\n")
        threading.Thread(target=refuse, daemon=True).start()
        suite = self.suite(FAST_RETRY % "", knot=self.knot(self.zones("one.test")))
        self.send(suite, ["b@one.test"])
        suite.wait_log(r"host mx\.one\.test\[%s\] refused to talk to me: 421 4\.7\.0 not you "
                       r"\(greeting\)" % self.address(8))
        self.assertEqual("4.7.0", self.rows(suite, "tq")[0]["dsnStatus"])

    def test_failing_name_servers_are_told(self):
        suite = self.suite(FAST_RETRY % "")
        self.send(suite, ["b@one.test"])
        suite.wait_log(r"postern/smtp-out\[\d+\]: one\.test: name service error: \S")
        row = self.rows(suite, "tq")[0]
        self.assertEqual("4.4.3", row["dsnStatus"])
        self.assertTrue(row["queue"].startswith("one.test/"), row)

    def test_two_domains_that_expire_together_name_their_queues(self):
        suite = self.suite(FAST_RETRY % 'bounce-after = "3s";',
                           knot=self.knot(self.zones("one.test", "two.test")))
        self.send(suite, ["b@one.test", "b@two.test"])
        for row in self.rows(suite, "b", 2):
            domain = row["rcpt"].split("@")[1]
            self.assertIn(domain, row["queue"])


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""Where mail goes, by configuration: fixed routes, domains without MX, pools; and what the DNS says of our own
addresses. With a real name server (Knot) and the project's receiver.

Run alone: python3 tests/e2e/test_routes.py; BUILD says where the binaries are (default: build).
"""
import os
import smtplib
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import SuiteTest, wait_for  # noqa: E402

NET = 83
ZONES = {
    "t.test": """
fixed MX 10 nowhere
backup MX 10 mx.backup
mx.backup A 127.%(n)d.0.12
implicit A 127.%(n)d.0.11
o1 A 127.%(n)d.0.101
o2 A 127.%(n)d.0.1
""",
    "%(n)d.127.in-addr.arpa": "101.0 PTR o1.t.test.\n102.0 PTR o2.t.test.\n",
    "bl.test": "101.0.%(n)d.127 A 127.0.0.3\n102.0.%(n)d.127 A 127.255.255.254\n",
}
EXTRA = """
dns-blocklists = [ "bl.test" ];
virtual-mtas = (
  { name = "m1"; sources = ( { address = "127.%(n)d.0.101"; host-name = "o1.t.test"; } ); },
  { name = "m2"; sources = ( { address = "127.%(n)d.0.102"; host-name = "o1.t.test"; } ); } );
virtual-mta-pools = ( { name = "bulk"; members = ( { virtual-mta = "m1"; weight = 0; }, { virtual-mta = "m2"; } ); } );
default-virtual-mta = "m1";
domains = (
  { name = "*"; retry-after = "2s"; retry-recipients-after = "0s"; },
  { name = "fixed.t.test"; smtp-hosts = "[127.%(n)d.0.13];lookup-mx:backup.t.test"; },
  { name = "other.t.test"; smtp-hosts = "[127.%(n)d.0.11]:2525"; },
  { name = "strict.t.test"; bounce-upon-no-mx = true; queue-to = "implicit.t.test"; } );
"""


def filled(text):
    return text % {"n": NET}


class Routes(SuiteTest):
    NET = NET

    def start(self, extra=EXTRA):
        knot = self.knot({filled(zone): filled(records) for zone, records in ZONES.items()})
        return self.suite(filled(extra), knot=knot, listener="process-x-virtual-mta = true;")

    def send(self, suite, to, vmta=None):
        text = "From: a@s.test\r\nTo: %s\r\nSubject: s\r\n\r\nx\r\n" % to
        if vmta:
            text = "X-Virtual-MTA: %s\r\n%s" % (vmta, text)
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as smtp:
            smtp.sendmail("a@s.test", [to], text)

    def delivered(self, suite, to):
        rows = wait_for("delivery to " + to, lambda: [r for r in suite.accounting()
                                                      if r["type"] == "d" and r["rcpt"] == to], 40)
        return rows[-1]

    def test_fixed_route_and_its_levels(self):
        """The first level is dead, the second is looked up by its MX; a port of its own; no MX at all."""
        self.sink(12, name="backup")
        self.sink(11, name="eleven")
        suite = self.start()
        for to in ("x@fixed.t.test", "x@other.t.test", "x@implicit.t.test"):
            self.send(suite, to)
        self.assertEqual("127.%d.0.12" % NET, self.delivered(suite, "x@fixed.t.test")["dlvDestinationIp"])
        self.assertEqual("127.%d.0.11" % NET, self.delivered(suite, "x@other.t.test")["dlvDestinationIp"])
        self.assertEqual("127.%d.0.11" % NET, self.delivered(suite, "x@implicit.t.test")["dlvDestinationIp"])

    def test_pool_by_header(self):
        """A pool is taken where a virtual MTA is; a member of weight 0 gets nothing new."""
        self.sink(11)
        suite = self.start()
        for i in range(5):
            self.send(suite, "p%d@other.t.test" % i, vmta="bulk")
        self.send(suite, "d@other.t.test")
        for i in range(5):
            row = self.delivered(suite, "p%d@other.t.test" % i)
            self.assertEqual(("m2", "bulk"), (row["vmta"], row["vmtaPool"]))
            self.assertEqual("127.%d.0.102" % NET, row["dlvSourceIp"])
        self.assertEqual("m1", self.delivered(suite, "d@other.t.test")["vmta"])
        suite.configure(filled(EXTRA).replace('default-virtual-mta = "m1"', 'default-virtual-mta = "bulk"'))
        suite.ctl("master", "reload")
        self.send(suite, "e@other.t.test")
        row = self.delivered(suite, "e@other.t.test")
        self.assertEqual(("m2", "bulk"), (row["vmta"], row["vmtaPool"]))
        with self.assertRaises(smtplib.SMTPDataError) as refused:
            self.send(suite, "x@other.t.test", vmta="nobody")
        self.assertEqual(550, refused.exception.smtp_code)

    def test_names_of_our_addresses(self):
        suite = self.start()

        def checked():
            rows = {r["address"]: r for r in suite.ctl("smtp-out", "check-sources")}
            ours = [rows.get("127.%d.0.%d" % (NET, last)) for last in (101, 102)]
            return all(r and r.get("ptr") for r in ours) and ours
        first, second = wait_for("names", checked, 30)
        self.assertEqual(("o1.t.test", True, True), (first["ptr"], first["confirmed"], first["ehlo_matches"]))
        self.assertEqual("bl.test 127.0.0.3", first["listed"])
        # its name leads elsewhere, its EHLO name too, and the list does not serve us
        self.assertEqual(("o2.t.test", False, False), (second["ptr"], second["confirmed"], second["ehlo_matches"]))
        self.assertIsNone(second["listed"])
        suite.wait_log(r"blocklist bl\.test does not serve this name server")

    def test_a_bad_reload_changes_nothing(self):
        """All problems at once, each with its line; the mail goes on."""
        self.sink(11)
        suite = self.start()
        with open(suite.conf) as f:
            before = len(f.read().splitlines())
        suite.configure(filled(EXTRA) + "providers = ( { name = \"p\"; } );\nmx-connection-limit = ( { mx = \"a*\"; "
                                        "limit = 1; } );\n")
        rows = suite.ctl("master", "reload", check=False)
        text = str(rows) + suite.log() + suite.output()
        self.assertIn("postern.conf:%d: provider \"p\" needs mx" % (before + 1), text)
        self.assertIn("postern.conf:%d: mx: \"a*\" is not a host name" % (before + 2), text)
        self.send(suite, "x@other.t.test")
        self.delivered(suite, "x@other.t.test")


if __name__ == "__main__":
    unittest.main(verbosity=2)

# SPDX-License-Identifier: ISC
"""The provider data as it is shipped: installed beside the sample configuration, and live, with receivers that
answer in the providers' words. A domain is known by its mail hosts alone."""
import os
import re
import shutil
import smtplib
import subprocess
import unittest

from harness import BIN, ROOT, SuiteTest, wait_for
from scripted import ScriptedSink

DATA = os.path.join(ROOT, "conf", "providers")
TENANTS = "tenants = ( { name = \"acme\"; }, { name = \"beta\"; } );\ninclude = [ \"%s/*.conf\" ];\n" % DATA
UNAUTHENTICATED = (
    "550-5.7.26 This mail has been blocked because the sender is unauthenticated.\r\n"
    "550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.\r\n"
    "550 5.7.26 For instructions on setting up authentication, go to x - gsmtp")


class Providers(SuiteTest):
    NET = 79

    def check(self, conf):
        done = subprocess.run([os.path.join(BIN, "postern-master"), "-n", "-c", conf], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertNotIn("providers", done.stderr)  # nor a hint

    def test_install(self):
        root = os.path.join(self.directory, "root")
        etc = os.path.join(root, "etc", "postern")

        def install():
            subprocess.run(["make", "-s", "-C", ROOT, "DESTDIR=" + root, "install-conf"], check=True, timeout=60)
        install()
        shipped = sorted(f for f in os.listdir(DATA) if f.endswith(".conf"))
        self.assertEqual(shipped, sorted(os.listdir(os.path.join(etc, "providers"))))
        with open(os.path.join(etc, "postern.conf")) as f:
            sample = f.read()
        self.assertIn("\n#include = [ \"providers/*.conf\"", sample)
        with open(os.path.join(etc, "postern.conf"), "w") as f:
            f.write(sample.replace("\n#include", "\ninclude"))
        self.check(os.path.join(etc, "postern.conf"))

        # what an operator changed stays; what is gone comes back
        changed, gone = (os.path.join(etc, "providers", n) for n in ("qq.conf", "gmx.conf"))
        with open(changed, "a") as f:
            f.write("# mine\n")
        os.unlink(gone)
        install()
        with open(changed) as f:
            self.assertTrue(f.read().endswith("# mine\n"))
        self.assertTrue(os.path.exists(gone))
        shutil.rmtree(root)

    def start(self):
        hosts = {"mx.google.com": self.address(20, 2), "mx.qq.com": self.address(21, 2),
                 "mx.other.test": self.address(22, 2)}
        zones = {h.split(".", 1)[1]: "mx A " + a for h, a in hosts.items()}
        zones["company.test"] = "@ MX 10 mx.google.com."
        zones["school.test"] = "@ MX 10 mx.google.com."
        zones["mail.test"] = "@ MX 10 mx.qq.com."
        zones["other.test"] += "\n@ MX 10 mx"
        self.google, self.qq = hosts["mx.google.com"], hosts["mx.qq.com"]
        self.sink = ScriptedSink(list(hosts.values()), 2525, self.script)
        self.addCleanup(self.sink.stop)
        self.suite_ = self.suite(TENANTS, knot=self.knot(zones))

    def script(self, stage, ask):
        if stage == "dot" and ask.local == self.google and ask.sender.startswith("a@"):
            return UNAUTHENTICATED
        if stage == "mail" and ask.local == self.qq:
            return "550 Ip frequency limited [x Blocked IP 192.0.2.22]. http://service.mail.qq.com/cgi-bin/help"
        return None

    def send(self, tenant, rcpt):
        with smtplib.SMTP(self.suite_.address, self.suite_.port, timeout=20) as s:
            s.sendmail("%s@%s.test" % (tenant[0], tenant), [rcpt], "X-Tenant: %s\r\nSubject: x\r\n\r\nhello\r\n" % tenant)

    def record(self, kind, rcpt):
        found = []

        def look():
            found[:] = [r for r in self.suite_.accounting() if r["type"] == kind and r.get("rcpt") == rcpt]
            return found
        wait_for("a record %s of %s" % (kind, rcpt), look, 30)
        return found[0]

    def seen(self, at, sender):
        return [e for e in self.sink.events if e.kind == "mail" and e.local == at and e.sender.startswith(sender)]

    def test_live(self):
        self.start()

        # a sender whose authentication fails waits at that provider, and nobody else does
        self.send("acme", "one@company.test")
        row = self.record("b", "one@company.test")
        self.assertEqual("policy-related", row["bounceCat"])
        self.assertEqual("google", row["queue"].split("/")[0])
        self.suite_.wait_log(r"google:[0-9]+ \(%s/google.conf:[0-9]+\)" % re.escape(DATA))
        self.send("acme", "two@school.test")  # another domain of the same provider
        self.send("beta", "three@school.test")
        self.send("acme", "four@other.test")
        self.record("d", "three@school.test")
        self.record("d", "four@other.test")
        self.assertEqual(1, len(self.seen(self.google, "a@")))
        held = self.suite_.ctl("qmgr", "suspensions")
        self.assertEqual(1, len(held), held)
        self.assertIn("acme", str(held[0]))
        self.assertIn("google", str(held[0]))

        # a 550 that is a limit of time: the mail is kept, and the queue goes slowly
        self.send("beta", "five@mail.test")
        row = self.record("t", "five@mail.test")
        self.assertIn("qq:1 (%s/qq.conf:" % DATA, row["rule"])
        queue = next(q for q in self.suite_.ctl("qmgr", "queues") if q["queue"].startswith("qq/"))
        self.assertEqual("backoff", queue["mode"])
        self.assertFalse([r for r in self.suite_.accounting() if r["type"] == "b" and r["rcpt"].startswith("five")])


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: ISC
"""events --follow: each kind arrives as a line of JSON; a reader that looks away, or dies, costs nothing."""
import json
import os
import signal
import smtplib
import socket
import subprocess
import time
import unittest

from harness import BIN, SuiteTest, wait_for

CONF = """
tenants = ( { name = "acme"; }, { name = "beta"; } );
smtp-pattern-lists = ( { name = "replies"; rules = (
    { reply = "not now"; actions = [ "suspend-tenant" ]; for = "1h"; } ); } );
domains = ( { name = "*"; retry-after = "1h"; smtp-pattern-list = "replies"; } );
"""


class Events(SuiteTest):
    NET = 76

    def send(self, suite, tenant, rcpt):
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.sendmail("a@b.test", [rcpt], "X-Tenant: %s\r\nSubject: t\r\n\r\nhello\r\n" % tenant)

    def follow(self, suite):
        follower = subprocess.Popen([os.path.join(BIN, "posternctl"), "-c", suite.conf, "--json", "qmgr", "events",
                                     "--follow"], stdout=subprocess.PIPE, start_new_session=True)
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        return follower

    def test_kinds_arrive_and_dead_or_slow_readers_cost_nothing(self):
        knot = self.knot({"one.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        self.sink(2)
        suite = self.suite(CONF, knot=knot, processes=1)
        self.send(suite, "beta", "u@one.test")
        queue = wait_for("a queue", lambda: suite.ctl("qmgr", "queues"))[0]["queue"]
        follower, dead = self.follow(suite), self.follow(suite)
        os.kill(dead.pid, signal.SIGSTOP)  # looks away, then dies
        self.send(suite, "acme", "defer-x@one.test")
        wait_for("suspended", lambda: suite.ctl("qmgr", "suspensions"))
        suite.ctl("qmgr", "mode", queue, "backoff", "--for=1h")
        suite.ctl("qmgr", "pause", "tenant", "beta")
        suite.ctl("qmgr", "resume", "tenant", "beta")
        seen = {}
        while not {"rule", "mode", "hold", "release"} <= set(seen):
            event = json.loads(follower.stdout.readline())
            seen.setdefault(event["kind"], []).append(event)
        self.assertIn("replies", json.dumps(seen["rule"]))
        self.assertEqual("backoff", seen["mode"][0]["to"])
        self.assertTrue(any(e["rule"] for e in seen["hold"]))  # the rule's suspension
        self.assertIn("tenant beta", json.dumps(seen["release"]))

        # one that never reads: nobody waits for it
        path = os.path.join(suite.directory, "run", "qmgr.0.sock")
        slow = socket.socket(socket.AF_UNIX)
        self.addCleanup(slow.close)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(path)
        slow.sendall(b'{"verb": "events", "args": [], "options": {"follow": "true"}}\n')
        worst = 0.0
        for _ in range(300):
            for verb in ("pause", "resume"):
                begin = time.monotonic()
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(path)
                    s.sendall(json.dumps({"verb": verb, "args": ["tenant", "beta"], "options": {}}).encode() + b"\n")
                    while s.recv(65536):
                        pass
                worst = max(worst, time.monotonic() - begin)
        print("slowest command beside a reader that does not read: %.1f ms" % (worst * 1000), flush=True)
        self.assertLess(worst, 1)
        for _ in range(600):  # all of them came to the one that reads
            json.loads(follower.stdout.readline())
        os.kill(dead.pid, signal.SIGKILL)
        self.send(suite, "beta", "v@one.test")
        wait_for("delivered or waiting", lambda: [
            r for r in suite.accounting() if r["rcpt"] == "v@one.test" and r["type"] == "r"])
        self.assertEqual(0, suite.stop())


if __name__ == "__main__":
    unittest.main()

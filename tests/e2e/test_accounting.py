# SPDX-License-Identifier: ISC
"""What log and accounting say of failures before any message, and of recipients that end together."""
import csv
import glob
import json
import os
import random
import re
import signal
import smtplib
import time
import unittest

from harness import SuiteTest, open_source, read_ledger, wait_for

SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))
RENAMED = re.compile(r"^acct\.(csv|json)(-\d{8}-\d{6}(-\d+)?)?$")

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


class Rotation(SuiteTest):
    NET = 74

    def rotating(self, options, knot):
        """A suite, not started, whose two accounting files have these options."""
        suite = self.suite(FAST_RETRY % "", knot=knot, start=False)
        with open(suite.conf) as f:
            text = f.read()
        for form in ("csv", "json"):
            text = text.replace('format = "%s";' % form, 'format = "%s"; %s' % (form, options))
        with open(suite.conf, "w") as f:
            f.write(text)
        return suite

    def files(self, suite, form):
        names = sorted(glob.glob(os.path.join(suite.directory, "log", "acct.%s*" % form)))
        for name in names:
            self.assertTrue(RENAMED.match(os.path.basename(name)), name)
        return names

    def read(self, suite, form):
        """All rows of all files of that format; every line must be whole."""
        rows = []
        for name in self.files(suite, form):
            with open(name, newline="") as f:
                text = f.read()
            self.assertTrue(text == "" or text.endswith("\n"), name)
            if form == "json":
                rows += [json.loads(line) for line in text.splitlines()]
                continue
            lines = list(csv.reader(text.split("\r\n")[:-1], strict=True))
            self.assertEqual("type", lines[0][0], name)
            for line in lines[1:]:
                self.assertEqual(len(lines[0]), len(line), name)
                self.assertNotEqual("type", line[0], name)
                rows.append(dict(zip(lines[0], line)))
        return rows

    def test_rotation_under_load_with_kills(self):
        print("seed %d" % SEED, flush=True)
        choice = random.Random(SEED)
        knot = self.knot({"kill.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        sink = self.sink(2)
        suite = self.rotating('max-size = "60K";', knot).start()
        sent = os.path.join(self.directory, "sent.ledger")
        source = self.started(open_source(
            self.directory, suite.address, suite.port, "-c", "8", "-m", "100000000", "-b", "500", "-i",
            "-d", "kill.test", "-t", "3600", "-r", "2000", ledger=sent))
        deeds = ["qmgr", "rotate", "all", "qmgr", "rotate", "reload", "master", "qmgr"]
        for deed in deeds + [choice.choice(deeds) for _ in range(6)]:
            before = sink.count()
            if deed in ("rotate", "reload"):
                suite.ctl("master", deed, check=False)
            elif deed == "qmgr":
                for pid in suite.workers("qmgr"):
                    os.kill(pid, signal.SIGKILL)
            else:
                if deed == "all":
                    suite.process.kill_all()
                else:
                    os.kill(suite.process.pid, signal.SIGKILL)
                    suite.process.popen.wait()
                suite.start(wait=False)
            wait_for("mail flows after " + deed, lambda: sink.count() > before + 300, 40)
            time.sleep(choice.random() * 0.2)
        suite.wait_up(30)
        os.kill(source.pid, signal.SIGKILL)
        source.popen.wait()
        suite.wait_empty(120)
        self.assertEqual(0, suite.stop())
        answered = {m.split("-")[1].lstrip("0") or "0" for m in read_ledger(sent)}
        for form in ("csv", "json"):
            rows = [r["rcpt"].split("-")[1].split("@")[0].lstrip("0") or "0"
                    for r in self.read(suite, form) if r["type"] == "d"]
            files = self.files(suite, form)
            print("%s: %d answered, %d delivered rows, %d twice, in %d files" % (
                form, len(answered), len(rows), len(rows) - len(set(rows)), len(files)), flush=True)
            self.assertEqual(set(), answered - set(rows))
            self.assertGreater(len(files), 10)
            for name in files:
                self.assertLess(os.path.getsize(name), 3 << 20, name)

    def test_by_time_by_command_and_kept_count(self):
        knot = self.knot({"one.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        self.sink(2)
        suite = self.rotating('keep = 3;', knot).start()
        for i in range(6):
            with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
                s.sendmail("", ["b%d@one.test" % i], "Subject: test\r\n\r\nhello\r\n")
            wait_for("delivered", lambda: any(
                r["rcpt"] == "b%d@one.test" % i and r["type"] == "d" for r in suite.accounting()))
            rows = suite.ctl("master", "rotate")
            self.assertEqual(["rotated", "rotated"], [r["result"] for r in rows])
            for row in rows:
                self.assertTrue(os.path.exists(os.path.join(suite.directory, "log", row["renamed_to"])))
        self.assertEqual(4, len(self.files(suite, "csv")))
        self.assertEqual({"b3@one.test", "b4@one.test", "b5@one.test"},
                         {r["rcpt"] for r in self.read(suite, "csv") if r["type"] == "d"})
        # nothing in it: nothing to rename
        wait_for("the new file has its header", lambda: os.path.getsize(
            os.path.join(suite.directory, "log", "acct.csv")) > 100)
        self.assertEqual(["empty", "empty"], [r["result"] for r in suite.ctl("master", "rotate")])
        with open(suite.conf) as f:
            text = f.read()
        with open(suite.conf, "w") as f:
            f.write(text.replace("keep = 3;", 'rotate-every = "2s";'))
        suite.ctl("master", "reload")
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.sendmail("", ["c@one.test"], "Subject: test\r\n\r\nhello\r\n")
        wait_for("renamed by time", lambda: len(self.files(suite, "json")) == 5)
        suite.wait_empty()
        rows = [r["rcpt"] for r in self.read(suite, "json") if r["type"] == "d"]
        self.assertEqual(["b3@one.test", "b4@one.test", "b5@one.test", "c@one.test"], sorted(rows))
        self.assertEqual(0, suite.stop())


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: ISC
"""The order of syncs, seen from outside by a trace of system calls; and full disks."""
import os
import re
import signal
import smtplib
import subprocess
import time
import unittest

from harness import BIN, Process, SuiteTest, fill_disk, open_source, read_ledger, wait_for

CONF = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; connection-idle-timeout = "1s"; } );
"""


class SyncOrder(SuiteTest):
    NET = 63

    def test_content_is_synced_before_each_250(self):
        suite = self.suite(CONF, knot=self.knot({"a.test": "@ MX 10 mx\nmx A %s" % self.address(2)}),
                           processes=1)
        pid = next(iter(suite.workers("smtpd")))
        trace = os.path.join(self.directory, "trace")
        strace = self.started(Process(
            ["strace", "-f", "-tt", "-y", "-s", "120", "-e", "trace=write,writev,sendto,sendmsg,fdatasync,fsync",
             "-o", trace, "-p", str(pid)], os.path.join(self.directory, "strace.out")))
        wait_for("strace is attached", lambda: self.traced(pid))
        for _ in range(5):
            with smtplib.SMTP(suite.address, suite.port) as s:
                for _ in range(4):
                    s.sendmail("a@b.test", ["c@a.test"], "Subject: x\r\n\r\nsync me\r\n")
        strace.popen.send_signal(signal.SIGINT)
        strace.popen.wait(10)
        self.check(trace, 20)

    @staticmethod
    def traced(pid):
        with open("/proc/%d/status" % pid) as f:
            return "TracerPid:\t0\n" not in f.read()

    def check(self, trace, messages):
        """Each 250 of a final dot names an id; a sync of the segment must have returned between the write
        of that message's record and the reply."""
        answered = synced = written = 0
        dirty = True
        pending_sync = {}
        with open(trace, errors="replace") as f:
            lines = f.read().splitlines()
        for line in lines:
            thread = line.split()[0]
            if re.search(r"\bwritev?\(\d+<[^>]*segments/", line):
                written += 1
                dirty = True
            if re.search(r"\b(fdatasync|fsync)\(\d+<[^>]*segments/", line):
                if "<unfinished" in line:
                    pending_sync[thread] = True
                elif line.rstrip().endswith("= 0"):
                    synced, dirty = synced + 1, False
            elif thread in pending_sync and re.search(r"<\.\.\. (fdatasync|fsync) resumed>.*= 0", line):
                del pending_sync[thread]
                synced, dirty = synced + 1, False
            for _ in re.finditer(r'250 2\.0\.0 (Ok|ok)', line):
                if re.search(r"\b(write|writev|sendto|sendmsg)\(", line):
                    answered += 1
                    self.assertFalse(dirty, "a 250 left before its sync: " + line)
                    self.assertGreater(synced, 0)
        self.assertEqual(messages, answered)
        self.assertGreater(written, 0)


class FullDisk(SuiteTest):
    """The spool on a file system of 96 MiB of its own (in a mount namespace), filled from outside."""
    NET = 64

    def spool(self, suite):
        return "/proc/%d/root%s/suite/spool" % (suite.process.pid, self.directory)

    def start(self, size, extra=""):
        knot = self.knot({"full.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        suite = self.suite(CONF + extra, knot=knot, start=False)
        spool = os.path.join(suite.directory, "spool")
        os.makedirs(spool, exist_ok=True)
        suite.start(wrapper=("unshare", "-m", "sh", "-c",
                             'mount -t tmpfs -o size=%s tmpfs "$0" && exec "$@"' % size, spool))
        return suite

    def fill(self, suite, leave):
        """Fills the spool's file system up to `leave` bytes; returns the filler's path."""
        return fill_disk(os.path.join(self.spool(suite), "master", "filler"), leave)

    def submit(self, suite, number, size=3000):
        """True when the message was answered 250, False for 4xx; anything else fails."""
        text = "Subject: x\r\nX-Ledger: n%d\r\n\r\n" % number + ("y" * 70 + "\r\n") * (size // 72)
        try:
            with smtplib.SMTP(suite.address, suite.port, timeout=30) as s:
                s.sendmail("a@b.test", ["c@full.test"], text)
            return True
        except smtplib.SMTPResponseException as e:
            self.assertEqual(4, e.smtp_code // 100, e)
        except smtplib.SMTPRecipientsRefused as e:
            for code, _ in e.recipients.values():
                self.assertEqual(4, code // 100, e)
        except smtplib.SMTPServerDisconnected:
            pass
        return False

    def test_full_spool_is_4xx_or_intact_and_recovers(self):
        suite = self.start("96M")
        accepted, number = set(), 0
        for leave in (0, 4096, 8192, 16384, 40000, 65536, 100000, 300000, 1000000):
            filler = self.fill(suite, leave)
            for size in (500, 4000, 30000, 300000):
                number += 1
                if self.submit(suite, number, size):
                    accepted.add("n%d" % number)
            os.unlink(filler)
            number += 1

            def again():
                return self.submit(suite, number)
            wait_for("mail is taken again with space there", again, 20, step=0.2)
            accepted.add("n%d" % number)
        sink = self.sink(2)
        suite.ctl("qmgr", "flush", "*")
        suite.wait_empty(60)
        self.assertEqual(set(), accepted - {row[0] for row in sink.ledger()})

    def test_full_spool_under_load(self):
        suite = self.start("96M")
        sink = self.sink(2)
        sent = os.path.join(self.directory, "sent.ledger")
        source = self.started(open_source(self.directory, suite.address, suite.port, "-c", "8", "-m", "10000000",
                                          "-b", "2000", "-d", "full.test", "-t", "600", "-r", "500", ledger=sent))
        wait_for("load", lambda: sink.count() > 200)
        for leave in (0, 10000, 100000):
            filler = self.fill(suite, leave)
            time.sleep(0.5)  # load against a full disk, for a while
            os.unlink(filler)
            before = sink.count()
            wait_for("mail flows again", lambda: sink.count() > before + 100, 30)
        os.kill(source.pid, signal.SIGKILL)
        source.popen.wait()
        suite.wait_empty(60)
        arrived = {row[0] for row in sink.ledger()}
        self.assertEqual([], [m for m in read_ledger(sent) if m not in arrived][:5])

    def test_full_index_is_4xx_and_recovers(self):
        suite = self.start("400M", 'index-map-size = "2M";')
        accepted, number, refused = set(), 0, 0
        while refused < 3 and number < 60000:
            done = subprocess.run(
                [os.path.join(BIN, "smtp-source"), "-c", "10", "-m", "1000", "-b",
                 "500", "-R", "50", "-d", "full.test", "-t", "3", "-p", "i%d" % number, "-l",
                 os.path.join(self.directory, "index.ledger"), "%s:%d" % (suite.address, suite.port)],
                stdout=subprocess.PIPE)
            refused += done.returncode != 0
            number += 1000
        self.assertGreater(refused, 0, "the index never filled")
        accepted = set(read_ledger(os.path.join(self.directory, "index.ledger")))
        sink = self.sink(2)
        suite.ctl("qmgr", "flush", "*")
        suite.wait_empty(120)
        arrived = {row[0] for row in sink.ledger()}
        self.assertEqual([], [m for m in accepted if m not in arrived][:5])
        wait_for("mail is taken again", lambda: self.submit(suite, 1), 20, step=0.2)


if __name__ == "__main__":
    unittest.main()

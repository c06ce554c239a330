# SPDX-License-Identifier: ISC
"""Processes that misunderstand each other: a broken frame on a channel, in each direction, and a write that
failed before qmgr was killed. Nobody may go on half-dead, and mail flows again."""
import ctypes
import os
import signal
import smtplib
import socket
import unittest

from harness import SuiteTest, fill_disk, wait_for

SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
MASTER_FD = 3
libc = ctypes.CDLL(None, use_errno=True)


def borrow(pid, fd):
    """A duplicate of another process' socket."""
    handle = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    copy = libc.syscall(SYS_PIDFD_GETFD, handle, fd, 0)
    os.close(handle)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return socket.socket(fileno=copy)


def channels(pid):
    """Borrowed sockets of a worker's channels to other workers."""
    found = []
    for name in os.listdir("/proc/%d/fd" % pid):
        if int(name) == MASTER_FD or not os.readlink("/proc/%d/fd/%s" % (pid, name)).startswith("socket:"):
            continue
        s = borrow(pid, int(name))
        if s.family == socket.AF_UNIX and not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(s)
        else:
            s.close()
    return found


@unittest.skipUnless(os.getuid() == 0, "borrowing descriptors and mounting need root")
class Faults(SuiteTest):
    NET = 46

    def start(self, **kwargs):
        knot = self.knot({"fault.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        self.sent = 0
        self.receiver = self.sink(2)
        return self.suite('domains = ( { name = "*"; retry-after = "1s"; retry-after-dns-error = "1s"; } );\n',
                          knot=knot, processes=1, **kwargs)

    def pid(self, suite, name):
        return next(iter(suite.workers(name)), 0)

    def deliver(self, suite):
        """Mail is taken and arrives."""
        suite.wait_up()
        self.sent += 1
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.sendmail("a@b.test", ["c@fault.test"], "X-Ledger: m%d\r\n\r\nx\r\n" % self.sent)
        wait_for("message %d arrives" % self.sent,
                 lambda: any(row[0] == "m%d" % self.sent for row in self.receiver.ledger()), 30)

    def break_channels(self, pid):
        """A frame of no length, as if this process had sent it."""
        for s in channels(pid):
            s.send(b"\0\0\0\0")
            s.close()

    def test_worker_that_breaks_its_channel_is_killed(self):
        suite = self.start()
        self.deliver(suite)
        for name in ("smtpd", "smtp-out", "resolver", "bouncer"):
            with self.subTest(name):
                before = self.pid(suite, name)
                qmgr = self.pid(suite, "qmgr")
                self.break_channels(before)
                wait_for("another " + name, lambda: self.pid(suite, name) not in (0, before))
                suite.wait_log("qmgr says that %s.0 broke the protocol: impossible frame length" % name)
                self.assertEqual(qmgr, self.pid(suite, "qmgr"))
                self.deliver(suite)
        self.assertEqual(0, suite.stop())

    def test_workers_begin_anew_when_qmgr_breaks_the_channel(self):
        suite = self.start()
        self.deliver(suite)
        names = ("smtpd", "smtp-out", "resolver", "bouncer")
        before = {name: self.pid(suite, name) for name in names}
        self.break_channels(self.pid(suite, "qmgr"))
        for name in names:
            wait_for("another " + name, lambda: self.pid(suite, name) not in (0, before[name]))
        suite.wait_log("channel to qmgr: impossible frame length: cannot go on", len(names))
        self.deliver(suite)
        self.assertEqual(0, suite.stop())

    def start_on_a_small_disk(self):
        suite = self.start(start=False)
        spool = os.path.join(suite.directory, "spool")
        os.makedirs(spool, exist_ok=True)
        suite.start(wrapper=("unshare", "-m", "sh", "-c",
                             'mount -t tmpfs -o size=64M tmpfs "$0" && exec "$@"', spool))
        return suite, "/proc/%d/root%s" % (suite.process.pid, spool)

    def test_failed_segment_is_no_lie_to_the_next_qmgr(self):
        """A large message meets a full disk, qmgr deletes its segment and is killed at once: the next one does not
        know the segment, and must take mail from the same smtpd all the same."""
        suite, spool = self.start_on_a_small_disk()
        smtpd, qmgr = self.pid(suite, "smtpd"), self.pid(suite, "qmgr")
        segments = os.path.join(spool, "segments")
        had = set(os.listdir(segments))
        lines = (b"y" * 70 + b"\r\n") * 8000

        def streamed():
            # the stream's own segment; a common one may be made beside it
            return {n for n in set(os.listdir(segments)) - had
                    if os.stat(os.path.join(segments, n)).st_size > 200000}
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.ehlo()
            s.mail("a@b.test", ["SIZE=1000"])
            s.rcpt("c@fault.test")
            self.assertEqual(354, s.docmd("DATA")[0])
            s.send(b"Subject: x\r\n\r\n" + lines)
            failing = wait_for("the stream is on its way", streamed)
            filler = fill_disk(os.path.join(spool, "master", "filler"), 1 << 20)
            s.send(lines * 4 + b".\r\n")
            self.assertEqual(452, s.getreply()[0])
            os.unlink(filler)  # the stream took what was left, and a commit needs some
            wait_for("the failed segment is gone", lambda: not failing & set(os.listdir(segments)), step=0.002)
            os.kill(qmgr, signal.SIGKILL)
        wait_for("another qmgr", lambda: self.pid(suite, "qmgr") not in (0, qmgr))
        self.deliver(suite)
        self.assertEqual(smtpd, self.pid(suite, "smtpd"))
        self.assertNotIn("broke the protocol", suite.log())
        self.assertEqual(0, suite.stop())


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: ISC
"""smtpd over real connections: what the unit tests cannot show, with a real qmgr behind it. Kills, TLS,
slow crowds, descriptors that run out, the log's shapes, and that what is refused leaves nothing behind."""
import os
import random
import signal
import smtplib
import socket
import ssl
import subprocess
import time
import unittest

from harness import SuiteTest, wait_for


class Client:
    """A raw dialogue."""

    def __init__(self, suite, hello=True):
        self.socket = socket.create_connection((suite.address, suite.port), timeout=20)
        self.file = self.socket.makefile("rb")
        if hello:
            self.expect("220 ")
            self.say("EHLO client.test", "250")

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def answer(self):
        lines = []
        while True:
            line = self.file.readline().decode()
            lines.append(line)
            if not line or line[3:4] != "-":
                return "".join(lines)

    def expect(self, start):
        answer = self.answer()
        if not answer.startswith(start):
            raise AssertionError("wanted %r, got %r" % (start, answer))
        return answer

    def say(self, line, start):
        self.send(line + "\r\n")
        return self.expect(start)

    def envelope(self, rcpt="b@rcpt.test"):
        self.say("MAIL FROM:<a@sender.test>", "250 2.1.0")
        self.say("RCPT TO:<%s>" % rcpt, "250 2.1.5")

    def message(self, text=b"Subject: x\r\n\r\nhello\r\n", start="250 2.0.0 Ok: queued as "):
        self.envelope()
        self.say("DATA", "354")
        self.send(text + b".\r\n")
        return self.expect(start).strip().rsplit(" ", 1)[1]

    def closed(self):
        try:
            return self.file.read() == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.file.close()
        self.socket.close()


class Protocol(SuiteTest):
    NET = 41

    def client(self, suite, **options):
        client = Client(suite, **options)
        self.addCleanup(client.close)
        return client

    def waits(self, suite, ident):
        """True when qmgr has the message."""
        return suite.ctl("qmgr", "message", ident, check=False, parse=False).returncode == 0

    def test_smuggling_in_packets(self):
        suite = self.suite(processes=1)
        inside = b"MAIL FROM:<s@x.test>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n"
        rng = random.Random(7)
        for end in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\r.\r\n",
                    b"\n\n.\r\n", b"\r\n.\r\r\n"):
            client = self.client(suite)
            for bdat in (False, True):
                client.envelope()
                text = b"Subject: x\r\n\r\nhello" + end + inside
                if bdat:
                    data = b"BDAT %d LAST\r\n" % len(text) + text
                else:
                    client.say("DATA", "354")
                    data = text + b".\r\n"
                cut = rng.randrange(1, len(data))
                client.send(data[:cut])
                time.sleep(0.002)
                client.send(data[cut:])
                client.expect("550 5.6.0")
            client.message()
            client.say("QUIT", "221")
        self.assertEqual(9, suite.recipients())

    def certificate(self):
        cert, key = (os.path.join(self.directory, name) for name in ("cert.pem", "key.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=mx.test", "-days", "9"],
                       check=True, stderr=subprocess.DEVNULL)
        os.chmod(key, 0o600)
        return 'tls-certificate = "%s"; tls-key = "%s";' % (cert, key)

    def test_starttls(self):
        suite = self.suite(listener=self.certificate())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.starttls(context=context)
            self.assertEqual(503, s.mail("a@b.test")[0])  # EHLO is forgotten
            s.ehlo()
            self.assertNotIn("starttls", s.esmtp_features)
            s.sendmail("a@sender.test", ["b@rcpt.test"], "Subject: tls\r\n\r\n" + ("x" * 90 + "\r\n") * 10000)
        client = self.client(suite)
        client.send("STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
        self.assertTrue(client.closed())
        suite.wait_log(r"plaintext after STARTTLS")
        client = self.client(suite, hello=False)  # TLS on the plain port
        client.expect("220")
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        client.expect("500 5.5.2")
        self.assertTrue(client.closed())
        self.assertEqual(1, suite.recipients())

    def test_utf8_and_parameters(self):
        suite = self.suite()
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.ehlo()
            for feature in ("pipelining", "size", "8bitmime", "enhancedstatuscodes", "chunking", "dsn",
                            "smtputf8"):
                self.assertIn(feature, s.esmtp_features)
            s.sendmail("ä@sender.test", ["ü@rcpt.test"], "Subject: ö\r\n\r\nx".encode(),
                       mail_options=["SMTPUTF8", "BODY=8BITMIME"], rcpt_options=["NOTIFY=SUCCESS"])
        self.assertEqual(1, suite.recipients())

    def test_killed_qmgr(self):
        suite = self.suite(processes=1)
        client, other = self.client(suite), self.client(suite)
        kept = [client.message() for _ in range(20)]
        for _ in range(5):
            other.envelope()
            other.say("DATA", "354")
            pid = wait_for("a qmgr", lambda: list(suite.workers("qmgr")))[0]
            os.kill(pid, signal.SIGKILL)
            other.send("Subject: between\r\n\r\nx\r\n.\r\n")  # under way: taken and kept
            kept.append(other.expect("250 2.0.0").strip().rsplit(" ", 1)[1])
            seen = set()

            def taken():
                client.send("MAIL FROM:<a@sender.test>\r\n")
                answer = client.answer()
                seen.add(answer[:9])
                return answer.startswith("250")
            wait_for("a new qmgr", lambda: [p for p in suite.workers("qmgr") if p != pid])
            wait_for("mail is taken again", taken)
            client.say("RSET", "250")
            self.assertTrue(seen <= {"250 2.1.0", "451 4.3.2", "452 4.3.2"}, seen)
        for ident in kept:
            wait_for("qmgr has " + ident, lambda: self.waits(suite, ident))
        self.assertEqual(len(kept), suite.recipients())

    def test_killed_smtpd(self):
        suite = self.suite(processes=1)
        kept = []
        for _ in range(5):
            client = self.client(suite)
            kept += [client.message() for _ in range(10)]
            (pid, _), = suite.workers("smtpd").items()
            os.kill(pid, signal.SIGKILL)
            self.assertTrue(client.closed())
            wait_for("a new smtpd", suite.greeting)
        for ident in kept:
            wait_for("qmgr has " + ident, lambda: self.waits(suite, ident))
        self.assertEqual(len(kept), suite.recipients())

    def test_large_message(self):
        suite = self.suite(processes=1)
        client = self.client(suite)
        line = b"y" * 998 + b"\r\n"
        (pid, _), = suite.workers("smtpd").items()
        ident = client.message(b"Subject: large\r\n\r\n" + line * 40000)
        wait_for("qmgr has it", lambda: self.waits(suite, ident))
        with open("/proc/%d/status" % pid) as f:
            peak = next(int(l.split()[1]) for l in f if l.startswith("VmHWM"))
        if "ASAN_OPTIONS" not in os.environ:  # its shadow would be counted too
            self.assertLess(peak, 30000)  # KiB: 40 MB went through
        client.message()

    def test_slow_crowd(self):
        """A crowd that sends a byte now and then is dropped; a good client is served at once."""
        suite = self.suite('total-max-smtp-in = 400;\n', processes=2, listener='command-timeout = "1500ms";')
        crowd = [socket.create_connection((suite.address, suite.port)) for _ in range(300)]
        for s in crowd:
            self.addCleanup(s.close)
        began, worst = time.monotonic(), 0.0
        while time.monotonic() < began + 4:
            for s in crowd:
                try:
                    s.send(b"E")
                except OSError:
                    pass
            at = time.monotonic()
            client = self.client(suite)
            client.message()
            client.say("QUIT", "221")
            worst = max(worst, time.monotonic() - at)
        self.assertLess(worst, 1.0)

        def left():
            return sum(row["connections"] for row in self.rows(suite.ctl("smtpd", "status")))
        wait_for("the crowd is gone", lambda: left() == 0)
        suite.wait_log(r"timeout after \S+ from unknown\[127\.", count=300)

    @staticmethod
    def rows(answer):
        return answer if isinstance(answer, list) else [answer]

    def test_too_many(self):
        suite = self.suite('total-max-smtp-in = 5;\n', processes=1)
        held = [self.client(suite) for _ in range(5)]
        more = self.client(suite, hello=False)
        more.expect("421 4.7.0")
        self.assertTrue(more.closed())
        self.assertEqual(5, len(self.rows(suite.ctl("smtpd", "sessions"))))
        held[0].say("QUIT", "221")
        wait_for("room again", suite.greeting)

    def test_log_shapes(self):
        suite = self.suite(processes=1)
        client = self.client(suite)
        ident = client.message(b"Message-ID: <one@sender.test>\r\n\r\n")
        client.say("RCPT TO:<x@y.test>", "503")
        client.say("QUIT", "221")
        pid = list(suite.workers("smtpd"))[0]
        tag = r"postern/smtpd\[%d\]: " % pid
        ip = r"unknown\[127\.0\.0\.1\]"
        suite.wait_log(tag + "connect from " + ip)
        suite.wait_log(tag + ident + ": client=" + ip)
        suite.wait_log(tag + ident + r": message-id=<one@sender\.test>")
        suite.wait_log(tag + "disconnect from " + ip + " ehlo=1 mail=1 rcpt=1/2 data=1 quit=1 commands=5/6")

    def test_relay_refused(self):
        suite = self.suite()
        with open(suite.conf) as f:
            text = f.read().replace('relay-from = [ "127.0.0.0/8" ]', 'relay-from = [ "192.0.2.0/24" ]')
        with open(suite.conf, "w") as f:
            f.write(text)
        before = self.client(suite)  # keeps the settings it began with
        suite.ctl("master", "reload", parse=False)
        after = self.client(suite)
        before.envelope()
        after.say("MAIL FROM:<a@sender.test>", "250")
        after.say("RCPT TO:<b@rcpt.test>", "550 5.7.1")
        suite.wait_log(r"NOQUEUE: reject: RCPT from unknown\[127\.0\.0\.1\]: 550 5\.7\.1 <b@rcpt\.test>: Relay access "
                       r"denied; from=<a@sender\.test> to=<b@rcpt\.test> proto=ESMTP helo=<client\.test>")

    def test_stop_finishes_what_is_under_way(self):
        suite = self.suite(processes=1)
        idle, busy = self.client(suite), self.client(suite)
        busy.envelope()
        busy.say("DATA", "354")
        suite.process.popen.send_signal(signal.SIGTERM)
        idle.expect("421 4.3.2")
        busy.send("Subject: x\r\n\r\nx\r\n.\r\n")
        busy.expect("250 2.0.0")
        self.assertEqual(0, suite.stop())
        suite.start()
        self.assertEqual(1, suite.recipients())

    def test_content_synced_before_the_answer(self):
        """The order of system calls, message by message: writev, fdatasync, and only then the 250."""
        suite = self.suite(processes=1)
        (pid, _), = suite.workers("smtpd").items()
        trace = os.path.join(self.directory, "trace")
        tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), "-e", "trace=writev,fdatasync,sendto", "-o", trace],
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(tracer.kill)

        def attached():
            with open("/proc/%d/status" % pid) as f:
                return "TracerPid:\t0" not in f.read()
        wait_for("strace is attached", attached)
        client = self.client(suite)
        for _ in range(20):
            client.message()
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        state, answers = "none", 0
        with open(trace) as f:
            lines = f.readlines()
        for line in lines:
            if "writev(" in line:
                state = "written"
            elif "fdatasync" in line and "= 0" in line and state == "written":
                state = "synced"
            elif "250 2.0.0 Ok: queued" in line:
                self.assertEqual("synced", state)
                state = "none"
                answers += 1
        self.assertEqual(20, answers)


if __name__ == "__main__":
    unittest.main()

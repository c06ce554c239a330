#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""`./bootstrap demo`: a suite on loopback, a real name server with a test zone, a receiver; mail goes
through, and what an operator would look at is shown. Stops everything it started."""
import os
import smtplib
import socketserver
import sys
import tempfile
import threading
import time
import shutil

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "e2e"))
from harness import Knot, Suite, wait_for  # noqa: E402

NET = "127.80.0.%d"
ZONE = """@ MX 10 mx1
@ MX 20 mx2
slow MX 10 mx1
mx1 A %s
mx2 A %s
""" % (NET % 2, NET % 2)


CONTROLS = """
domains = ( { name = "slow.example.test"; max-smtp-out = 2; max-msg-rate = "2/m burst 1"; } );
smtp-pattern-lists = ( { name = "all"; rules = (
    { name = "full"; reply = "4\\\\.2\\\\.2 .*full"; actions = [ "bounce-recipient" ]; } ); } );
"""


class Receiver(socketserver.StreamRequestHandler):
    """A receiving server of forty lines, so that the demo shows every byte that arrived."""
    messages = []

    def handle(self):
        self.reply("220 mx1.example.test ESMTP")
        good = 0  # recipients accepted: commands come in one go, DATA even when all were refused
        for line in self.rfile:
            verb = line[:4].upper()
            good = {b"MAIL": 0, b"RCPT": good + (b"<nobody@" not in line and b"<busy@" not in line)}.get(verb, good)
            if verb == b"EHLO":
                self.reply("250-mx1.example.test\r\n250 PIPELINING")
            elif verb == b"RCPT" and b"<nobody@" in line:
                self.reply("550 5.1.1 nobody by that name")
            elif verb == b"RCPT" and b"<busy@" in line:
                self.reply("451 4.2.1 mailbox busy, try again later")
            elif verb == b"DATA" and not good:
                self.reply("554 5.5.1 no valid recipients")
            elif verb == b"DATA":
                self.reply("354 go on")
                self.take()
            elif verb == b"QUIT":
                self.reply("221 bye")
                return
            else:
                self.reply("250 ok")

    def take(self):
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                break
            lines.append(line[1:] if line.startswith(b".") else line)
        self.messages.append(b"".join(lines).decode(errors="replace"))
        self.reply("250 2.0.0 taken as number %d" % len(self.messages))

    def reply(self, text):
        self.wfile.write(text.encode() + b"\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def title(text):
    print("\n--- %s %s" % (text, "-" * max(0, 90 - len(text))), flush=True)


def show(directory, suite):
    for who in ("friend", "busy", "nobody"):
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.sendmail("you@example.test", [who + "@example.test"],
                       "From: You <you@example.test>\r\nTo: %s@example.test\r\nSubject: Hello, %s\r\n\r\n"
                       "This went through Postern.\r\n" % (who, who))
    # the message to friend, and the report about nobody, which goes back to you@example.test
    wait_for("two messages at the receiver", lambda: len(Receiver.messages) >= 2)
    suite.wait_log(r"to=<busy@example.test>.*status=deferred")
    suite.wait_log("removed", 3)
    title("the queue: posternctl qmgr queues")
    print(suite.ctl_text("qmgr", "queues"), end="")
    title("what waits in it: posternctl qmgr messages")
    print(suite.ctl_text("qmgr", "messages"), end="")
    for _ in range(3):  # to a domain that may have two recipients a minute
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.sendmail("you@example.test", ["patient@slow.example.test"], "Subject: one at a time\r\n\r\nSoon.\r\n")
    wait_for("the first of three", lambda: len(Receiver.messages) >= 3)
    title("why is this mail waiting? posternctl qmgr why slow.example.test")
    print(suite.ctl_text("qmgr", "why", "slow.example.test"), end="")
    title("what a reply would do: posternctl bouncer match all '452 4.2.2 mailbox is full'")
    print(suite.ctl_text("bouncer", "match", "all", "452 4.2.2 mailbox is full"), end="")
    title("the log")
    print(suite.log(), end="")
    title("the accounting file")
    with open(os.path.join(directory, "log", "acct.csv")) as f:
        print(f.read(), end="")
    for number, text in enumerate(Receiver.messages, 1):
        title("received message %d" % number)
        print(text.replace("\r\n", "\n"), end="")


def main():
    began = time.monotonic()
    directory = tempfile.mkdtemp(prefix="postern-demo-")
    os.chmod(directory, 0o755)
    receiver = Server((NET % 2, 2525), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    knot = suite = None
    try:
        print("==> name server on %s with the zone example.test, receiver on %s, Postern on %s:2525"
              % (NET % 53, NET % 2, NET % 1))
        knot = Knot(directory, NET % 53, {"example.test": ZONE})
        suite = Suite(directory, NET % 1, CONTROLS, nameserver="%s@5353" % (NET % 53))
        suite.start()
        show(directory, suite)
        title("stopping")
        suite.stop()
        print("==> all stopped, nothing left running; %.1f s. The configuration was:\n"
              % (time.monotonic() - began))
        with open(suite.conf) as f:
            print(f.read().strip())
    finally:
        for thing in (suite, knot):
            if thing and thing.process and thing.process.alive():
                thing.process.kill_all()
        receiver.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: ISC
"""A receiver that answers as a script says and writes down everything with its time, for tests of what a
provider sees: connections at once, connects, recipients and bytes in any window, per source address.

It runs in a thread of the test. Closings are handled before new connections, so that a slot that is free
counts as free. The script is a function of (stage, event) that returns None (the usual answer), a reply, or
(reply, seconds to wait before it); it may be replaced at any moment, also while connections are open.
"""
import collections
import selectors
import socket
import threading
import time

Event = collections.namedtuple("Event", "at kind conn client local sender rcpt code n")
# kind: open, close, mail, rcpt, message (n = recipients taken), bytes (n = size of a message)

USUAL = {"greeting": "220 scripted ESMTP", "mail": "250 2.1.0 ok", "rcpt": "250 2.1.5 ok",
         "data": "354 go on", "dot": "250 2.0.0 taken"}


class Ask:
    """What the script is asked about."""

    def __init__(self, conn, sender="", rcpt="", rcpts=(), headers=b""):
        self.conn, self.client, self.local = conn.number, conn.client, conn.local
        self.sender, self.rcpt, self.rcpts, self.headers = sender, rcpt, rcpts, headers
        self.messages = conn.messages


class Connection:
    def __init__(self, sock, number):
        self.sock, self.number = sock, number
        self.client, self.local = sock.getpeername()[0], sock.getsockname()[0]
        self.buffer, self.data, self.in_data = b"", b"", False
        self.sender, self.rcpts, self.messages = "", [], 0
        self.out, self.waits_until, self.quitting, self.open = b"", 0.0, False, True


class ScriptedSink:
    def __init__(self, addresses, port=2525, script=None):
        self.script = script
        self.events, self.selector = [], selectors.DefaultSelector()
        self.conns, self.number, self.stopping = {}, 0, False
        self.open_now, self.listeners = 0, []
        for address in [addresses] if isinstance(addresses, str) else addresses:
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, port))
            s.listen(1024)
            s.setblocking(False)
            self.selector.register(s, selectors.EVENT_READ, None)
            self.listeners.append(s)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # --- the loop

    def run(self):
        while not self.stopping:
            waits = [c.waits_until for c in self.conns.values() if c.waits_until]
            timeout = max(0.0, min(waits) - time.monotonic()) if waits else 0.05
            ready = self.selector.select(min(timeout, 0.05))
            now = time.monotonic()
            for c in [c for c in self.conns.values() if c.waits_until and c.waits_until <= now]:
                c.waits_until = 0.0
                self.send(c)
                self.advance(c)
            for key, _ in ready:
                if key.data is not None:
                    self.read(key.data)
            for key, _ in ready:
                if key.data is None:
                    self.accept(key.fileobj)
        for c in list(self.conns.values()):
            self.close(c)
        for s in self.listeners:
            s.close()
        self.selector.close()

    def note(self, c, kind, code=0, n=0, rcpt=""):
        self.events.append(Event(time.monotonic(), kind, c.number, c.client, c.local, c.sender, rcpt, code, n))

    def accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
                sock.setblocking(False)
                self.number += 1
                c = Connection(sock, self.number)
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.conns[c.number] = c
            self.open_now += 1
            self.selector.register(sock, selectors.EVENT_READ, c)
            self.note(c, "open")
            if self.answer(c, "greeting", Ask(c)) >= 400:
                c.quitting = True
                self.send(c)

    def close(self, c):
        if not c.open:
            return
        c.open = False
        self.note(c, "close")
        self.open_now -= 1
        self.selector.unregister(c.sock)
        c.sock.close()
        self.conns.pop(c.number, None)

    def read(self, c):
        try:
            data = c.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(c)
            return
        c.buffer += data
        self.advance(c)

    def send(self, c):
        if c.waits_until or not c.open:
            return
        try:
            if c.out:
                c.sock.sendall(c.out)
            c.out = b""
        except OSError:
            self.close(c)
            return
        if c.quitting:
            self.close(c)

    def answer(self, c, stage, ask):
        """Queues the answer; returns its code."""
        said = self.script(stage, ask) if self.script else None
        wait = 0
        if isinstance(said, tuple):
            said, wait = said
        text = said or USUAL[stage]
        c.out += text.encode() + b"\r\n"
        if wait:
            c.waits_until = time.monotonic() + wait
        self.send(c)
        code = int(text[:3])
        if code == 421:
            c.quitting = True
            self.send(c)
        return code

    def advance(self, c):
        while c.open and not c.waits_until and not c.quitting:
            if c.in_data:
                end = c.buffer.find(b"\r\n.\r\n")
                if end < 0 and not c.buffer.startswith(b".\r\n"):
                    return
                content, c.buffer = (c.buffer[:end], c.buffer[end + 5:]) if end >= 0 else (b"", c.buffer[3:])
                c.in_data = False
                self.message(c, content)
            else:
                line, found, rest = c.buffer.partition(b"\r\n")
                if not found:
                    return
                c.buffer = rest
                self.command(c, line.decode("utf-8", "replace"))

    def command(self, c, line):
        verb = line[:4].upper()
        if verb in ("EHLO", "HELO"):
            c.out += b"250-scripted\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n"
            self.send(c)
        elif verb == "MAIL":
            c.sender, c.rcpts = line.partition("<")[2].partition(">")[0], []
            code = self.answer(c, "mail", Ask(c, c.sender))
            self.note(c, "mail", code)
            if code >= 300:
                c.sender = ""
        elif verb == "RCPT":
            rcpt = line.partition("<")[2].partition(">")[0]
            code = self.answer(c, "rcpt", Ask(c, c.sender, rcpt))
            self.note(c, "rcpt", code, rcpt=rcpt)
            if code < 300:
                c.rcpts.append(rcpt)
        elif verb == "DATA":
            if not c.rcpts:
                c.out += b"554 5.5.1 no recipients\r\n"
                self.send(c)
            elif self.answer(c, "data", Ask(c, c.sender, rcpts=c.rcpts)) == 354:
                c.in_data = True
        elif verb == "QUIT":
            c.out += b"221 2.0.0 bye\r\n"
            c.quitting = True
            self.send(c)
        else:
            c.out += b"250 2.0.0 ok\r\n" if verb in ("RSET", "NOOP") else b"502 5.5.2 what?\r\n"
            self.send(c)

    def message(self, c, content):
        c.messages += 1
        code = self.answer(c, "dot", Ask(c, c.sender, rcpts=c.rcpts, headers=content[:4096]))
        self.note(c, "bytes", code, len(content))
        self.note(c, "message", code, len(c.rcpts), rcpt=",".join(c.rcpts))
        c.sender, c.rcpts = "", []

    # --- what was seen

    def stop(self):
        self.stopping = True
        self.thread.join(10)

    def seen(self, kind, since=0.0, **fields):
        return [e for e in list(self.events) if e.kind == kind and e.at >= since and
                all(getattr(e, name) == value for name, value in fields.items())]

    def taken(self, **fields):
        """Recipients accepted so far."""
        return sum(e.n for e in self.seen("message", **fields) if e.code < 300)

    def peak(self, key=lambda e: "", since=0.0):
        """{key: most connections open at once}."""
        now, most = collections.Counter(), collections.Counter()
        for e in list(self.events):
            if e.kind == "open":
                now[key(e)] += 1
                if e.at >= since:
                    most[key(e)] = max(most[key(e)], now[key(e)])
            elif e.kind == "close":
                now[key(e)] -= 1
        return most

    def mean_open(self, since, until, key=lambda e: True):
        """Connections open, averaged over time, of those for which key(event) is true."""
        total, count, last = 0.0, 0, since
        for e in sorted((e for e in list(self.events) if e.kind in ("open", "close")), key=lambda e: e.at):
            if e.at > until:
                break
            if e.at > since:
                total += count * (e.at - last)
                last = e.at
            if key(e):
                count += 1 if e.kind == "open" else -1
        return (total + count * (until - last)) / (until - since)


def worst_window(times, weights, window):
    """The most weight that falls into any window of that many seconds (half open)."""
    most = now = start = 0
    for i, at in enumerate(times):
        now += weights[i]
        while at - times[start] >= window:
            now -= weights[start]
            start += 1
        most = max(most, now)
    return most

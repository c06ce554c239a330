#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""`make bench-tenants`: what a command on one tenant costs beside very many.

    tenants.py [--tenants N] [--domains N] [--seconds N] [--rounds N]

Queues one recipient of each of N tenants at each of N domains (10,000 × 100 without options), which limits
hold, lets other mail flow, and asks at the control socket: pause tenant, why, messages, resume, queues.
Prints median and 99th percentile of each, and the flow's rate with and without the asking, in turns; fails
when a percentile is above 10 ms or the rate falls below nine tenths.
"""
import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import Knot, Sink, Suite, open_source, wait_for  # noqa: E402

NET = "127.72.0.%d"
LIMIT_MS = 10.0


def configuration(tenants, domains):
    return """
total-max-smtp-in = 1000;
tenants = ( %s );
domains = ( { name = "*"; max-smtp-out = 20; max-msg-per-connection = 100000; retry-after = "1h"; }, %s );
""" % (", ".join('{ name = "t%d"; }' % i for i in range(tenants)),
       ", ".join('{ name = "d%d.q.test"; max-msg-rate = "1/30d burst 1"; }' % i for i in range(domains)))


def fill(address, port, tenants, domains):
    """A message of each of these tenants to all domains, its commands in one write."""
    with socket.create_connection((address, port), timeout=60) as s:
        lines = s.makefile("rb")
        lines.readline()
        s.sendall(b"EHLO c.test\r\n")
        while lines.readline()[3:4] == b"-":
            pass
        rcpts = b"".join(b"RCPT TO:<r@d%d.q.test>\r\n" % d for d in range(domains))
        for t in tenants:
            while True:
                s.sendall(b"MAIL FROM:<x@t.test>\r\n")
                answer = lines.readline()
                if not answer.startswith(b"45"):
                    break
                time.sleep(0.1)  # it takes a breath
            s.sendall(rcpts + b"DATA\r\n")
            answers = [answer] + [lines.readline() for _ in range(domains + 1)]
            s.sendall(b"X-Tenant: t%d\r\nSubject: t\r\n\r\nhello\r\n.\r\n" % t)
            last = lines.readline()
            if not last.startswith(b"250") or answers[-1][:3] != b"354":
                raise AssertionError("tenant %d: %r %r" % (t, answers[-1], last))


def ask(path, verb, *args, **options):
    """One request: (milliseconds to the last line of its answer, rows)."""
    begin = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(json.dumps({"verb": verb, "args": args, "options": options}).encode() + b"\n")
        data = b""
        while True:
            piece = s.recv(1 << 20)
            if not piece:
                break
            data += piece
    took = (time.perf_counter() - begin) * 1000
    rows = [json.loads(line) for line in data.splitlines()]
    if not rows or rows[-1].get("status") != 0:
        raise AssertionError("%s %s: %s" % (verb, args, rows[-1:]))
    return took, rows[:-1]


class Bench:
    def __init__(self, directory, tenants, domains):
        self.tenants, self.domains = tenants, domains
        records = "\n".join("d%d MX 10 mx.d%d\nmx.d%d A %s" % (i, i, i, NET % 2) for i in range(domains))
        self.knot = Knot(directory, NET % 53, {"q.test": records, "free.test": "@ MX 10 mx\nmx A " + NET % 3})
        self.held, self.free = Sink(directory, NET % 2, 2525), Sink(directory, NET % 3, 2525, name="free")
        self.suite = Suite(os.path.join(directory, "suite"), NET % 1, configuration(tenants, domains),
                           nameserver="%s@5353" % (NET % 53), processes=1)
        self.directory, self.took = directory, {}
        self.suite.start()
        self.path = os.path.join(self.suite.directory, "run", "qmgr.0.sock")

    def load(self):
        begin = time.monotonic()
        parts = [range(i, self.tenants, 4) for i in range(4)]
        failed = []

        def one(part):
            try:
                fill(self.suite.address, self.suite.port, part, self.domains)
            except Exception as e:  # told below, in the main thread
                failed.append(e)
        threads = [threading.Thread(target=one, args=(p,)) for p in parts]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise failed[0]
        want = self.tenants * self.domains - self.domains  # a token of each domain is used
        wait_for("limits hold the rest", lambda: self.status()["recipients"] == want, 120, 0.1)
        return time.monotonic() - begin

    def status(self):
        return ask(self.path, "status")[1][0]

    def timed(self, name, verb, *args, **options):
        took, rows = ask(self.path, verb, *args, **options)
        self.took.setdefault(name, []).append(took)
        return rows

    def round(self, i):
        """All commands on one tenant; what they say is checked too."""
        name = "t%d" % (4 + i * 7919 % (self.tenants - 4))  # the first four have used the tokens
        self.timed("pause tenant", "pause", "tenant", name)
        state = self.timed("why", "why", name)[0]["state"]
        rows = self.timed("messages --tenant", "messages", tenant=name)
        self.timed("resume tenant", "resume", "tenant", name)
        one = self.timed("queues DOMAIN", "queues", "d%d.q.test" % (i % self.domains))
        self.timed("queues", "queues")
        self.timed("why QUEUE", "why", one[0]["queue"])
        if state not in ("paused", "suspended") or not self.domains - 4 <= len(rows) <= self.domains:
            raise AssertionError("%s: %s, %d rows" % (name, state, len(rows)))

    def flow(self, seconds, asking):
        """Recipients a second that arrive meanwhile."""
        before, begin, i = self.free.stats()["messages"], time.monotonic(), 0
        while time.monotonic() - begin < seconds:
            if asking:
                self.round(len(self.took.get("why", ())))
            time.sleep(0.05)
        return (self.free.stats()["messages"] - before) / (time.monotonic() - begin)

    def run(self, seconds, rounds):
        source = open_source(self.directory, self.suite.address, self.suite.port, "-c", "20", "-m", "1000000000",
                             "-d", "free.test", "-t", "3600", "-H", "X-Tenant: t1")
        try:
            wait_for("mail flows", lambda: self.free.stats()["messages"] > 1000)
            self.flow(seconds, False)
            pairs = [(self.flow(seconds, False), self.flow(seconds, True)) for _ in range(rounds)]
        finally:
            source.kill_all()
        return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)

    def percentiles(self):
        """{command: (median, 99th percentile)} in milliseconds."""
        return {name: (statistics.median(v), sorted(v)[min(len(v) - 1, len(v) * 99 // 100)])
                for name, v in self.took.items()}

    def stop(self):
        self.suite.stop()
        for thing in (self.knot, self.held, self.free):
            thing.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tenants", type=int, default=10000)
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="postern-tenants-", dir=os.environ.get("BENCH_DIR"))
    os.chmod(directory, 0o755)
    bench = Bench(directory, args.tenants, args.domains)
    try:
        loaded = bench.load()
        status = bench.status()
        print("tenants %d queues %d recipients %d loaded-seconds %.1f memory-bytes %d" % (
            args.tenants, status["queues"], status["recipients"], loaded, status["memory_bytes"]), flush=True)
        alone, beside = bench.run(args.seconds, args.rounds)
        slow = 0.0
        for name, (median, p99) in sorted(bench.percentiles().items()):
            print("%-18s median-ms %.2f p99-ms %.2f of %d" % (name, median, p99, len(bench.took[name])))
            slow = max(slow, p99)
        print("flow-alone %.0f flow-beside %.0f ratio %.3f" % (alone, beside, beside / alone), flush=True)
        return 0 if slow < LIMIT_MS and beside > 0.9 * alone else 1
    except BaseException:
        usual = ("queue active", "connect from", "status=sent", ": removed", "client=", "message-id=")
        lines = [line for line in bench.suite.log().splitlines() if not any(u in line for u in usual)]
        sys.stderr.write("\n".join(lines[-40:]) + "\n")
        raise
    finally:
        bench.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())

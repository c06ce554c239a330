#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""`make bench-queues`: what very many queues that must wait cost.

    queues.py [--domains N] [--vmtas N] [--free N]

Fills domains × virtual MTAs queues (1,000 × 100 without options), which wait for limits of every kind:
their own message rate, their own connect rate, a budget of their virtual MTA, one of their domain, a pause.
Prints the share of one core that qmgr uses while nothing may be sent, and the rate of mail that is free,
alone and beside all these; fails above 20 % and below nine tenths.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import Knot, Sink, Suite, source, wait_for  # noqa: E402

NET = "127.71.0.%d"
KINDS = ['max-msg-rate = "1/30d burst 1";', 'max-connect-rate = "1/30d burst 1";',
         'budget = { max-msg-rate = "1/30d burst 1"; };', 'source-ip-max-connect-rate = "1/30d burst 1";',
         'max-data-volume-rate = "1/30d burst 1";']
SECONDS = 10


def configuration(args):
    vmtas = ", ".join('{ name = "v%d"; %s }' % (i, 'budget = { max-msg-rate = "1/30d burst 1"; };'
                                                if i % 5 == 3 else "") for i in range(args.vmtas))
    domains = ", ".join('{ name = "d%d.q.test"; %s }' % (i, KINDS[i % 5]) for i in range(args.domains))
    return """
total-max-smtp-in = 5000;
default-virtual-mta = "free";
virtual-mtas = ( { name = "free"; }, %s );
domains = ( { name = "*"; max-smtp-out = 20; max-msg-per-connection = 100000; retry-after = "1h"; }, %s );
""" % (vmtas, domains)


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_rate(suite, sink, messages):
    before, begin = sink.stats()["messages"], time.monotonic()
    source(suite.address, suite.port, "-c", "50", "-m", str(messages), "-d", "free.test")
    wait_for("all of it", lambda: sink.stats()["messages"] - before >= messages, 300)
    return messages / (time.monotonic() - begin)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--vmtas", type=int, default=100)
    parser.add_argument("--free", type=int, default=60000)
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="postern-queues-", dir=os.environ.get("BENCH_DIR"))
    os.chmod(directory, 0o755)
    records = "\n".join("d%d MX 10 mx.d%d\nmx.d%d A %s" % (i, i, i, NET % 2) for i in range(args.domains))
    knot = Knot(directory, NET % 53, {"q.test": records, "free.test": "@ MX 10 mx\nmx A " + NET % 3})
    waiting, free = Sink(directory, NET % 2, 2525), Sink(directory, NET % 3, 2525, name="free")
    suite = Suite(os.path.join(directory, "suite"), NET % 1, configuration(args),
                  nameserver="%s@5353" % (NET % 53), processes=1, listener="process-x-virtual-mta = true;")
    suite.start()
    try:
        free_rate(suite, free, args.free // 4)  # warm
        alone = max(free_rate(suite, free, args.free) for _ in range(3))
        for i in range(args.vmtas):
            if i % 5 == 4:
                suite.ctl("qmgr", "pause", "vmta", "v%d" % i)
            source(suite.address, suite.port, "-c", "20", "-m", str(3 * args.domains), "-b", "600", "-D",
                   str(args.domains), "-d", "q.test", "-H", "X-Virtual-MTA: v%d" % i)
        def quiet():
            before = waiting.stats()["messages"]
            time.sleep(2)
            return waiting.stats()["messages"] == before
        wait_for("nothing more may be sent", quiet, 300)
        status = suite.ctl("qmgr", "status")
        pid = next(iter(suite.workers("qmgr")))
        before = cpu_seconds(pid)
        time.sleep(SECONDS)
        share = (cpu_seconds(pid) - before) / SECONDS
        beside = max(free_rate(suite, free, args.free) for _ in range(3))
        print("queues %d recipients %d idle-core-share %.3f free-alone %.0f free-beside %.0f ratio %.3f" % (
            status["queues"], status["recipients"], share, alone, beside, beside / alone), flush=True)
        return 0 if share < 0.2 and beside > 0.9 * alone else 1
    finally:
        suite.stop()
        for thing in (knot, waiting, free):
            thing.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())

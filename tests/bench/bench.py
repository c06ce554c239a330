#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""`make bench`: rates and memory as ratios of one run, since machines are noisy.

    bench.py [--messages N] [--connections N] [--grow N] [--only-growth] [--peers]

Prints, for 4 KiB and 100 KiB messages of one recipient each: generator straight to sink, acceptance
(nobody takes the mail), end to end (until the sink has the last one), and end to end / generator to
sink. Then acceptance rate and qmgr's anonymous memory from 10,000 to 1,000,000 queued recipients over
10 and 10,000 domains, and the time from a restart to the first delivery. With --peers: the same
end-to-end run through Postfix (see tests/e2e/peers.py).
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import BUILD, Knot, Sink, Suite, source, wait_for  # noqa: E402

CONF = """
total-max-smtp-in = 5000;
domains = ( { name = "*"; max-smtp-out = %d; max-msg-per-connection = 10000; retry-after = "1h"; } );
"""
NET = "127.70.0.%d"


def figures(result, **more):
    result.update(more)
    print("  ".join("%s %s" % (k, ("%.3f" % v) if isinstance(v, float) else v) for k, v in more.items()),
          flush=True)


def straight(directory, messages, size, conns):
    sink = Sink(directory, NET % 3, 2525, name="straight")
    os.unlink(sink.ledger_path)
    rate = source(NET % 3, 2525, "-c", str(conns), "-m", str(messages), "-b", str(size))["rate"]
    sink.stop()
    return rate


class Bench:
    def __init__(self, zones, conns=20):
        self.directory = tempfile.mkdtemp(prefix="postern-bench-", dir=os.environ.get("BENCH_DIR"))
        os.chmod(self.directory, 0o755)
        self.knot = Knot(self.directory, NET % 53, zones)
        self.suite = Suite(os.path.join(self.directory, "suite"), NET % 1, CONF % conns,
                           nameserver="%s@5353" % (NET % 53), processes=int(os.environ.get("PROCESSES", "1")))
        self.sink = None

    def close(self):
        self.suite.stop()
        self.knot.stop()
        if self.sink:
            self.sink.stop()
        shutil.rmtree(self.directory)

    def qmgr_memory(self):
        pid = next(iter(self.suite.workers("qmgr")))
        with open("/proc/%d/status" % pid) as f:
            for line in f:
                if line.startswith("RssAnon"):
                    return int(line.split()[1]) * 1024
        return 0


def delivered(sink):
    return sink.stats()["messages"]


def end_to_end(messages, size, conns):
    bench = Bench({"bench.test": "@ MX 10 mx\nmx A " + NET % 2}, conns)
    bench.sink = Sink(bench.directory, NET % 2, 2525)
    bench.suite.start()
    try:
        source(bench.suite.address, 2525, "-c", "10", "-m", "1000", "-d", "bench.test", "-t", "60")
        wait_for("warm-up", lambda: delivered(bench.sink) == 1000, 60)
        began = time.monotonic()
        accepted = source(bench.suite.address, 2525, "-c", str(conns), "-m", str(messages), "-b", str(size),
                          "-d", "bench.test", "-t", "600")
        wait_for("the last message", lambda: delivered(bench.sink) == 1000 + messages, 600, step=0.005)
        seconds = time.monotonic() - began
    finally:
        bench.close()
    return messages / seconds, accepted["rate"]


def acceptance(messages, size, conns):
    bench = Bench({"bench.test": "@ MX 10 mx\nmx A " + NET % 9})
    bench.suite.start()
    try:
        return source(bench.suite.address, 2525, "-c", str(conns), "-m", str(messages), "-b", str(size),
                      "-d", "bench.test", "-t", "600")["rate"]
    finally:
        bench.close()


def rates(args):
    result = {}
    for label, size, messages in (("4KiB", 4096, args.messages), ("100KiB", 102400, args.messages // 20)):
        print("%s, %d messages, %d connections" % (label, messages, args.connections), flush=True)
        result[label] = r = {}
        alone = straight(tempfile.gettempdir(), messages, size, args.connections)
        figures(r, generator_to_sink=round(alone))
        figures(r, acceptance=round(acceptance(messages, size, args.connections)))
        rate, _ = end_to_end(messages, size, args.connections)
        figures(r, end_to_end=round(rate))
        again = straight(tempfile.gettempdir(), messages, size, args.connections)
        figures(r, generator_to_sink_again=round(again), ratio=rate / ((alone + again) / 2))
    if args.peers:
        from peers import bench_postfix
        rate = bench_postfix(2000, 4096, 20)
        figures(result["4KiB"], postfix=round(rate), times_postfix=result["4KiB"]["end_to_end"] / rate)
    return result


def flushed(suite, pattern):
    """Not yet (False), or whatever it found (True)."""
    return suite.ctl("qmgr", "flush", pattern, check=False, parse=False).returncode in (0, 65)


def growth(args, domains):
    """Queues up to args.grow recipients that nobody takes; then restarts with one domain's MX alive."""
    zone = ["d%d MX 10 mx%d\nmx%d A %s" % (i, i, i, NET % 9) for i in range(1, domains)]
    zone.append("d0 MX 10 mx0\nmx0 A " + NET % 2)
    bench = Bench({"bench.test": "\n".join(zone)})
    result = {}
    bench.suite.start()
    try:
        queued, memory = 0, {}
        for total in [n for n in (10000, 100000, 300000, 1000000) if n <= args.grow]:
            rate = source(bench.suite.address, 2525, "-c", "50", "-m", str(total - queued), "-b", "600",
                          "-D", str(domains), "-d", "bench.test", "-t", "900")["rate"]
            queued = total
            wait_for("all queued", lambda: bench.suite.recipients() == queued, 60, step=0.2)
            memory[total] = bench.qmgr_memory()
            figures(result, **{"domains": domains, "queued": total, "rate": round(rate),
                               "qmgr_anonymous_MiB": round(memory[total] / 2**20, 1)})
        if 100000 in memory and queued > 100000:
            figures(result, bytes_a_recipient=(memory[queued] - memory[100000]) / (queued - 100000))
        bench.suite.stop()
        bench.sink = Sink(bench.directory, NET % 2, 2525)
        began = time.monotonic()
        bench.suite.start(wait=False)
        # The clock of failed connections survives the restart: without a flush d0 would wait for its
        # next retry; and a flush that comes before d0's route is known does not reach the site's clock.
        wait_for("the first delivery", lambda: flushed(bench.suite, "d0.bench.test") and
                 delivered(bench.sink) > 0, 120, step=0.05)
        figures(result, restart_to_first_delivery_s=time.monotonic() - began)
    finally:
        bench.close()
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--grow", type=int, default=1000000, help="0: no growth run")
    parser.add_argument("--only-growth", action="store_true")
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    result = {} if args.only_growth else rates(args)
    if args.grow:
        result["growth"] = [growth(args, 10), growth(args, 10000)]
    with open(os.path.join(BUILD, "bench.json"), "w") as f:
        json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()

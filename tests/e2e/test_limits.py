# SPDX-License-Identifier: ISC
"""Limits are promised at the receiving end, and counted there: connections at once, and messages of one
connection. They hold while smtp-out is killed under load and follow a reload that lowers them."""
import os
import signal
import unittest

from harness import SuiteTest, open_source, source, wait_for

CONF = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "0s"; retry-after-dns-error = "1s";
              connect-timeout = "2s"; %s } );
"""
KILLS = 6


class Limits(SuiteTest):
    NET = 47

    def busy_sink(self, delay_ms):
        """A receiver that is slow to answer the final dot, and does nothing else meanwhile."""
        sink = self.sink(2, "-d", str(delay_ms))
        wait_for("the probes have gone", lambda: sink.stats()["connections"] == 0)
        return sink

    def load(self, suite, *options):
        return self.started(open_source(self.directory, suite.address, suite.port, "-c", "8", "-m",
                                        "100000000", "-b", "1024", "-t", "3600", "-r", "1000", *options))

    def zones(self, count):
        """Domains with hosts of different names, so with queues of their own, on one receiver."""
        return {"d%d.test" % i: "@ MX 10 mx\nmx A %s" % self.address(2) for i in range(count)}

    def kill_workers_under_load(self, suite, sink, limit):
        for i in range(KILLS):
            wait_for("%d connections" % limit, lambda: sink.stats()["connections"] == limit)
            before = sink.stats()["messages"]
            wait_for("mail flows", lambda: sink.stats()["messages"] > before + limit)
            pids = sorted(suite.workers("smtp-out"))
            for pid in pids[:1] if i % 2 else pids:
                os.kill(pid, signal.SIGKILL)
            wait_for("the peer counts fewer", lambda: sink.stats()["connections"] < limit)
        wait_for("%d connections" % limit, lambda: sink.stats()["connections"] == limit)

    def test_max_smtp_out_when_smtp_out_is_killed(self):
        knot, sink = self.knot(self.zones(1)), self.busy_sink(100)
        suite = self.suite(CONF % "max-smtp-out = 6;", knot=knot)
        self.load(suite, "-d", "d0.test")
        self.kill_workers_under_load(suite, sink, 6)
        self.assertEqual(6, sink.stats()["peak"])

    def test_total_max_smtp_out_when_smtp_out_is_killed(self):
        knot, sink = self.knot(self.zones(5)), self.busy_sink(100)
        suite = self.suite(CONF % "max-smtp-out = 6;" + "total-max-smtp-out = 10;\n", knot=knot)
        self.load(suite, "-D", "5", "-d", "test")
        self.kill_workers_under_load(suite, sink, 10)
        self.assertEqual(10, sink.stats()["peak"])

    def test_max_msg_per_connection(self):
        knot, sink = self.knot(self.zones(1)), self.busy_sink(1)
        suite = self.suite(CONF % 'max-smtp-out = 5; max-msg-per-connection = 7; '
                           'connection-idle-timeout = "5m";', knot=knot)
        before = sink.stats()["accepted"]
        self.assertEqual(0, source(suite.address, suite.port, "-c", "4", "-m", "700", "-b", "1024", "-d",
                                   "d0.test")["status"])
        suite.wait_empty()
        wait_for("all counted", lambda: sink.stats()["messages"] == 700)
        # none has had more than seven, and all but the last of each slot had as many
        self.assertGreaterEqual(sink.stats()["accepted"] - before, 100)
        self.assertLessEqual(sink.stats()["accepted"] - before, 100 + 5)
        self.assertLessEqual(sink.stats()["peak"], 5)

    def test_lowered_limits_bind_after_a_reload(self):
        knot, sink = self.knot(self.zones(1)), self.busy_sink(20)
        long_lived = "max-msg-per-connection = 1000000; max-smtp-out = %d;"
        suite = self.suite(CONF % (long_lived % 20), knot=knot)
        self.load(suite, "-d", "d0.test")
        wait_for("20 connections", lambda: sink.stats()["connections"] == 20)
        suite.configure(CONF % (long_lived % 3))
        suite.ctl("master", "reload")
        wait_for("3 connections", lambda: sink.stats()["connections"] == 3)
        suite.configure(CONF % (long_lived % 3) + "total-max-smtp-out = 2;\n")
        suite.ctl("master", "reload")
        wait_for("2 connections", lambda: sink.stats()["connections"] == 2)
        before = sink.stats()["messages"]
        wait_for("mail flows", lambda: sink.stats()["messages"] > before + 20)
        self.assertLessEqual(sink.stats()["connections"], 2)


if __name__ == "__main__":
    unittest.main()

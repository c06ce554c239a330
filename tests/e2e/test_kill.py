# SPDX-License-Identifier: ISC
"""kill -9 of any process, and of all at once, at random moments under load.

The ledgers are outside the suite: the generator writes each message that was answered 250, the sink each
final dot that reached it. Nothing answered may be missing; what arrived twice must have been flagged
uncertain, and may be at most one in a thousand.

KILLS sets their number (default 40; `make check` runs 100, `make check-long` 1000), SEED repeats a run.
"""
import collections
import os
import random
import signal
import time
import unittest

from harness import SuiteTest, open_source, read_ledger, session_members, wait_for

KILLS = int(os.environ.get("KILLS", "40"))
SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))
RATE = int(os.environ.get("KILL_RATE", "3000"))

CONF = """
domains = ( { name = "*"; max-smtp-out = 4; retry-after = "1s"; retry-recipients-after = "0s"; connect-timeout = "2s";
              connection-idle-timeout = "1s"; retry-after-dns-error = "1s"; } );
"""


class Kill(SuiteTest):
    NET = 61

    def kill_one(self, suite, choice, name):
        """Kills the processes of that name; True when the suite must be started again."""
        if name == "all":
            suite.process.kill_all()
            return True
        if name == "postern-master":
            os.kill(suite.process.pid, signal.SIGKILL)
            suite.process.popen.wait()
            return True
        pids = sorted(suite.workers(name))
        if pids:
            try:
                os.kill(choice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                pass
        return False

    def test_random_kills_lose_nothing(self):
        print("seed %d, %d kills" % (SEED, KILLS), flush=True)
        choice = random.Random(SEED)
        knot = self.knot({"kill.test": "@ MX 10 mx\nmx A %s" % self.address(2)})
        sink = self.sink(2)
        suite = self.suite(CONF, knot=knot)
        sent = os.path.join(self.directory, "sent.ledger")
        source = self.started(open_source(
            self.directory, suite.address, suite.port, "-c", "8", "-m", "100000000", "-b", "2048", "-i",
            "-d", "kill.test", "-t", "3600", "-r", str(RATE), ledger=sent))
        wait_for("load", lambda: sink.count() > 100)
        counts = collections.Counter()
        names = ["smtpd", "qmgr", "smtp-out", "resolver", "bouncer", "postern-master", "all"]
        for i in range(KILLS):
            name = names[i % len(names)] if i < 2 * len(names) else choice.choice(names)
            counts[name] += 1
            before = sink.count()
            if self.kill_one(suite, choice, name):
                suite.start(wait=False)
            # random moments: sometimes in the middle of a recovery, mostly under full load again
            if choice.random() < 0.2:
                time.sleep(choice.random() * 0.1)
            else:
                wait_for("mail flows after killing " + name, lambda: sink.count() > before + 50, 30)
                time.sleep(choice.random() * 0.3)
        suite.wait_up(30)
        os.kill(source.pid, signal.SIGKILL)
        source.popen.wait()
        suite.wait_empty(120)
        self.check(suite, sink, sent, counts)
        self.assertEqual(0, suite.stop())
        self.assertEqual([], session_members(suite.process.pid))

    def check(self, suite, sink, sent, counts):
        answered = read_ledger(sent)
        arrived = collections.Counter(row[0] for row in sink.ledger())
        lost = [m for m in answered if m not in arrived]
        twice = [m for m in arrived if arrived[m] > 1]
        uncertain = {r["rcpt"].split("-")[1].split("@")[0].rjust(20, "0")
                     for r in suite.accounting() if r.get("uncertain")}
        unflagged = [m for m in twice if m.split("-")[1] not in uncertain]
        print("answered %d, arrived %d, lost %d, twice %d (%.4f %%), flagged uncertain %d; kills %s" % (
            len(answered), len(arrived), len(lost), len(twice), 100.0 * len(twice) / max(1, len(answered)),
            len(uncertain), dict(counts)), flush=True)
        self.assertEqual([], lost[:10])
        self.assertEqual([], unflagged[:10])
        if len(answered) > 20000:
            self.assertLessEqual(len(twice), len(answered) / 1000)


if __name__ == "__main__":
    unittest.main()

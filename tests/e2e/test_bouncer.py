#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""Reports from the running suite: exactly one for each failure however often the bouncer, or qmgr, is killed;
none where none is asked for. Addresses: 127.43.0.0/16."""
import os
import re
import signal
import smtplib
import unittest

from harness import SuiteTest, wait_for

OPTIONS = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; connection-idle-timeout = "1s";
              retry-after-dns-error = "1s"; } );
"""
MESSAGES = 400


class Bouncer(SuiteTest):
    NET = 43

    def start(self):
        zones = {"good.test": "@ MX 10 mx\nmx A %s" % self.address(2),
                 "sender.test": "@ MX 10 mx\nmx A %s" % self.address(3)}
        knot = self.knot(zones)
        self.sink(2)
        reports = self.sink(3, name="reports")
        return self.suite(OPTIONS, knot=knot), reports

    def session(self, suite):
        s = smtplib.SMTP(suite.address, suite.port, timeout=20)
        self.addCleanup(s.close)
        return s

    def send(self, session, **options):
        def sent():
            try:
                session.sendmail("a@sender.test", ["fail-b@good.test"],
                                 "Subject: x\r\n\r\nhello\r\n", **options)
                return True
            except smtplib.SMTPSenderRefused as refused:
                self.assertEqual(4, refused.smtp_code // 100)
                session.rset()
                return False
        wait_for("a message is accepted", sent)

    def kill(self, suite, name):
        (old,) = suite.workers(name)
        os.kill(old, signal.SIGKILL)
        wait_for("a new " + name, lambda: [p for p in suite.workers(name) if p != old])

    def storm(self, victim):
        suite, reports = self.start()
        session = self.session(suite)
        for i in range(MESSAGES):
            self.send(session)
            if i % 80 == 40:
                self.kill(suite, victim)
        wait_for("a report of each", lambda: reports.count() >= MESSAGES, 60)
        suite.wait_empty()

        def told():
            """{message: its reports}, of the log, which repeats lines after a kill but never makes one up."""
            found = {}
            for m in re.finditer(r": ([0-9a-f]{16}): sender non-delivery notification: ([0-9a-f]{16})",
                                 suite.log()):
                found.setdefault(m.group(1), set()).add(m.group(2))
            return found
        wait_for("the log is complete", lambda: len(told()) == MESSAGES)
        self.assertEqual([], [m for m, reports_of in told().items() if len(reports_of) != 1])
        # A report itself may arrive twice like any mail, when the outcome was lost: flagged, and rare.
        uncertain = set(re.findall(r": ([0-9a-f]{16}): to=<a@sender.test>.* uncertain", suite.log()))
        self.assertLessEqual(reports.count() - MESSAGES, len(uncertain))

    def test_one_report_each_while_the_bouncer_is_killed(self):
        self.storm("bouncer")

    def test_one_report_each_while_qmgr_is_killed(self):
        """A killed qmgr makes deliveries uncertain: a second attempt fails again, but is reported once."""
        self.storm("qmgr")

    def test_notify(self):
        suite, reports = self.start()
        session = self.session(suite)
        self.send(session, rcpt_options=["NOTIFY=NEVER"])
        self.send(session, rcpt_options=["NOTIFY=SUCCESS,DELAY"])
        suite.wait_log("no notification is sent: ", 2)
        self.send(session, rcpt_options=["NOTIFY=FAILURE"], mail_options=["RET=FULL", "ENVID=abc"])
        wait_for("the report", lambda: reports.count() == 1)
        suite.wait_empty()
        (status,) = [suite.ctl("bouncer", "status")]
        status = status[0] if isinstance(status, list) else status
        self.assertEqual((3, 2, 1), (status["requests"], status["none"], status["failed"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)

#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""The golden delivery reports (tests/unit/bouncer/golden) as a mail reader sees them: Python's parser finds the
three parts of RFC 6522, no defects, and the fields of RFC 3464 with their values."""
import email
import email.policy
import glob
import os
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests", "unit", "bouncer", "golden")


def load(name):
    with open(os.path.join(GOLDEN, name + ".eml"), "rb") as f:
        return email.message_from_bytes(f.read(), policy=email.policy.default.clone(utf8=True))


def blocks(part):
    """The groups of fields of a delivery-status part: per message, then per recipient."""
    if part.get_content_type() == "message/delivery-status":
        return part.get_payload()
    text = part.as_bytes().split(b"\n\n", 1)[1]  # message/global-delivery-status: Python knows it not
    return [email.message_from_bytes(b + b"\n", policy=email.policy.default.clone(utf8=True))
            for b in text.split(b"\n\n") if b.strip()]


class Reports(unittest.TestCase):
    def test_structure(self):
        paths = sorted(glob.glob(os.path.join(GOLDEN, "*.eml")))
        self.assertGreaterEqual(len(paths), 6)
        for path in paths:
            name = os.path.basename(path)[:-4]
            with self.subTest(name):
                report = load(name)
                self.assertEqual(report.get_content_type(), "multipart/report")
                self.assertEqual(report.get_param("report-type"), "delivery-status")
                self.assertEqual(report.defects, [])
                parts = list(report.iter_parts())
                self.assertEqual(len(parts), 3)
                self.assertEqual(parts[0].get_content_type(), "text/plain")
                self.assertIn(parts[1].get_content_type(),
                              ("message/delivery-status", "message/global-delivery-status"))
                self.assertEqual(report["Auto-Submitted"], "auto-replied")
                for header in ("Date", "From", "To", "Subject", "Message-ID", "MIME-Version"):
                    self.assertEqual(len(report.get_all(header)), 1, header)
                groups = blocks(parts[1])
                self.assertGreaterEqual(len(groups), 2)
                self.assertEqual(groups[0]["Reporting-MTA"], "dns; out.example.com")
                for group in groups[1:]:
                    for field in ("Final-Recipient", "Action", "Status"):
                        self.assertEqual(len(group.get_all(field)), 1, field)
                with open(path, "rb") as f:
                    raw = f.read()
                self.assertEqual(raw.count(b"\n"), raw.count(b"\r\n"))
                self.assertTrue(all(len(line) <= 998 for line in raw.split(b"\r\n")))

    def test_failed_full(self):
        text, status, original = load("failed-full").iter_parts()
        first, second = blocks(status)[1:]
        self.assertEqual(first["Final-Recipient"], "rfc822; bob@example.net")
        self.assertEqual(first["Original-Recipient"], "rfc822;Bob@Example.NET")
        self.assertEqual(first["Action"], "failed")
        self.assertEqual(first["Remote-MTA"], "dns; mx1.example.net")
        self.assertEqual(" ".join(first["Diagnostic-Code"].split()),
                         "smtp; 550 5.1.1 <bob@example.net>: Recipient address rejected: "
                         "User unknown in virtual mailbox table")
        self.assertEqual(second["Status"], "5.1.2")
        self.assertIn("nowhere.example: no such domain", text.get_content())
        inner = original.get_payload()[0]
        self.assertEqual(inner["Subject"], "lunch")
        self.assertEqual(inner.get_content().replace("\r\n", "\n"), "Shall we?\n.one dot, stuffed\nbye\n")

    def test_headers_only(self):
        report = load("failed-headers")
        original = list(report.iter_parts())[2]
        self.assertEqual(original.get_content_type(), "text/rfc822-headers")
        self.assertNotIn("Shall we", original.get_content())
        self.assertIn("Subject: lunch", original.get_content())
        self.assertEqual(report["From"].addresses[0].addr_spec, "help@example.com")

    def test_kinds(self):
        delayed = blocks(list(load("delayed").iter_parts())[1])[1]
        self.assertEqual(delayed["Action"], "delayed")
        self.assertIn("Will-Retry-Until", delayed)
        success = blocks(list(load("success").iter_parts())[1])[1:]
        self.assertEqual([g["Action"] for g in success], ["delivered", "relayed"])

    def test_utf8(self):
        report = load("utf8")
        _, status, original = report.iter_parts()
        self.assertEqual(status.get_content_type(), "message/global-delivery-status")
        self.assertEqual(original.get_content_type(), "message/global")
        with open(os.path.join(GOLDEN, "utf8.eml"), "rb") as f:
            raw = f.read().decode("utf-8")
        self.assertIn("Final-Recipient: utf-8; 甲@example.net\r\n", raw)


if __name__ == "__main__":
    unittest.main(verbosity=2)

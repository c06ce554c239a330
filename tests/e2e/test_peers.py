# SPDX-License-Identifier: ISC
"""Real peers: Postfix and Exim as receiving servers; swaks and Python's smtplib as clients."""
import os
import smtplib
import subprocess
import unittest

import peers
from harness import SuiteTest, wait_for

CONF = """
domains = ( { name = "*"; retry-after = "1s"; retry-recipients-after = "1s"; connection-idle-timeout = "1s"; } );
"""
AWKWARD = ("From: A <a@sender.test>\r\nTo: b@%s\r\nSubject: awkward\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
           "Message-ID: <1@sender.test>\r\n\r\n.leading dot\r\n..two dots\r\n\r\n.\x2e\r\n"
           "long " + "x" * 900 + "\r\n8-bit: gr\u00fc\u00dfe\r\nlast line\r\n")


def body(raw):
    return raw.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1]


class Peers(SuiteTest):
    NET = 62

    def certificate(self):
        key, cert = (os.path.join(self.directory, n) for n in ("key.pem", "cert.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                        "-subj", "/CN=postfix.test", "-keyout", key, "-out", cert], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(key) as k, open(cert) as c:
            return k.read(), c.read()

    def zones(self):
        return {"postfix.test": "@ MX 10 mx\nmx A %s" % self.address(2),
                "exim.test": "@ MX 10 mx\nmx A %s" % self.address(3)}

    def deliver(self, peer, domain, suite):
        text = AWKWARD % domain
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.sendmail("a@sender.test", ["b@" + domain], text.encode(), mail_options=["BODY=8BITMIME"])
        got = wait_for("arrival at " + domain, peer.messages)[0]
        want = text.encode().replace(b"\r\n", b"\n").split(b"\n\n", 1)[1]
        self.assertEqual(want, body(got))
        return got

    def test_postfix_takes_mail_over_tls(self):
        key, cert = self.certificate()
        peer = self.started(peers.postfix(
            self.directory, self.address(2), main=peers.RECEIVER_CF +
            "smtpd_tls_cert_file=/etc/postfix/cert.pem\nsmtpd_tls_key_file=/etc/postfix/key.pem\n"
            "smtpd_tls_received_header=yes\n",
            files={"postfix/key.pem": key, "postfix/cert.pem": cert}))
        suite = self.suite(CONF, knot=self.knot(self.zones()))
        got = self.deliver(peer, "postfix.test", suite)
        self.assertIn(b"using TLSv1.", got)
        self.assertIn(b"out.example.test", got)
        suite.wait_empty()

    def test_postfix_refuses_an_unknown_user(self):
        peer = self.started(peers.postfix(self.directory, self.address(2), main=peers.RECEIVER_CF.replace(
            "static:box/", "inline:{b@postfix.test=box/}")))
        suite = self.suite(CONF, knot=self.knot(self.zones()))
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.sendmail("", ["nobody@postfix.test", "b@postfix.test"], "Subject: x\r\n\r\nx\r\n")
        suite.wait_log(r"to=<nobody@postfix.test>, relay=mx.postfix.test\[.*dsn=5\.1\.1, status=bounced")
        wait_for("the other recipient's copy", peer.messages)
        suite.wait_empty()

    def test_exim_takes_mail(self):
        peer = self.started(peers.exim(self.directory, self.address(3)))
        suite = self.suite(CONF, knot=self.knot(self.zones()))
        self.deliver(peer, "exim.test", suite)
        suite.wait_empty()

    def test_exim_with_dsn_and_utf8(self):
        peer = self.started(peers.exim(self.directory, self.address(3), extra=(
            "dsn_advertise_hosts = *\nsmtputf8_advertise_hosts = *\n")))
        suite = self.suite(CONF, knot=self.knot(self.zones()))
        with smtplib.SMTP(suite.address, suite.port) as s:
            s.sendmail("a@sender.test", ["b@exim.test"], "Subject: dsn\r\n\r\nx\r\n",
                       mail_options=["RET=HDRS", "ENVID=id+2B1"],
                       rcpt_options=["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;b+2Bx@exim.test"])
        wait_for("arrival", peer.messages)
        suite.wait_empty()

    def test_swaks_is_served(self):
        peer = self.started(peers.exim(self.directory, self.address(3)))
        key, cert = self.certificate()
        for name, text in (("listen-key.pem", key), ("listen-cert.pem", cert)):
            with open(os.path.join(self.directory, name), "w") as f:
                f.write(text)
            os.chmod(os.path.join(self.directory, name), 0o600)
        listener = 'tls-certificate = "%s/listen-cert.pem"; tls-key = "%s/listen-key.pem";' % (
            self.directory, self.directory)
        suite = self.suite(CONF, knot=self.knot(self.zones()), listener=listener)
        for number, options in enumerate(([], ["--pipeline"], ["--tls"], ["--tls", "--pipeline"]), 1):
            done = subprocess.run(
                ["swaks", "--server", "%s:%d" % (suite.address, suite.port), "--from", "a@sender.test", "--to",
                 "b@exim.test,c@exim.test", "--helo", "client.test", *options], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=60)
            self.assertEqual(0, done.returncode, done.stdout.decode())
            wait_for("arrival", lambda: len(peer.messages()) == 2 * number)  # a copy a recipient
        suite.wait_empty()


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""The real resolver under a real master (the other workers are dummies), asked through posternctl, with Knot
as its name server.

Run alone: python3 tests/e2e/test_resolver.py; BUILD says where the binaries are (default: build).
Addresses: 127.0.43.0/24.
"""
import json
import os
import shutil
import socket
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BIN, Knot, Process, session_members, wait_for  # noqa: E402

LARGE = 90  # MX records of one name: more than 1232 bytes, so that the answer comes by TCP
ZONE = """
three MX 20 mx2
three MX 10 mx1
three MX 30 mx3
mx1 A 127.0.43.101
mx1 AAAA 2001:db8:43::1
mx2 A 127.0.43.102
mx3 A 127.0.43.103
null MX 0 .
implicit A 127.0.43.104
alias CNAME three
mxalias MX 10 othername
othername CNAME mx1
nohost MX 10 nothing
empty TXT "no mail here"
literal MX 10 127.0.43.105.
literal MX 20 mx1
self MX 10 h.example.test.
backup MX 10 mx1
backup MX 20 h.example.test.
backup MX 30 mx2
odd MX 10 a\\032b
odd2 MX 10 a\\.b
ring CNAME gnir
gnir CNAME ring
*.wild MX 5 mx3
""" + "".join("large MX %d a-rather-long-host-name-%02d.large\n"
              "a-rather-long-host-name-%02d.large A 127.0.43.200\n" % (i, i, i) for i in range(LARGE))


class Host:
    """master, dummies and the resolver in a directory of their own."""

    def __init__(self, nameservers, options=""):
        self.directory = tempfile.mkdtemp(prefix="postern-resolver-")
        os.chmod(self.directory, 0o755)
        bin_directory = os.path.join(self.directory, "bin")
        os.mkdir(bin_directory)
        for source, name in [("postern-master",) * 2, ("resolver",) * 2] + [
                ("dummy-worker", name) for name in ("smtpd", "qmgr", "smtp-out", "bouncer")]:
            shutil.copy(os.path.join(BIN, source), os.path.join(bin_directory, name))
        self.binary = os.path.join(bin_directory, "postern-master")
        self.conf = os.path.join(self.directory, "postern.conf")
        self.configure(nameservers, options)
        self.process = Process([self.binary, "-c", self.conf], os.path.join(self.directory, "out"))
        wait_for("ready in: " + self.log(), lambda: "ready: " in self.log())

    def configure(self, nameservers, options=""):
        with open(self.conf, "w") as f:
            f.write('host-name = "h.example.test";\nspool-directory = "%s/spool";\nrun-directory = "%s/run";\n'
                    'log-directory = "%s/log";\nnameservers = [ %s ];\nsmtpd-processes = 1;\n'
                    'smtp-out-processes = 1;\n'
                    'listeners = ( { address = "127.0.43.1"; port = 2543; } );\n%s'
                    % (self.directory, self.directory, self.directory,
                       ", ".join('"%s"' % n for n in nameservers), options))

    def log(self):
        with open(os.path.join(self.directory, "out"), errors="replace") as f:
            return f.read()

    def ctl(self, service, verb, *args, **options):
        """(status, rows)"""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(os.path.join(self.directory, "run", ("master" if service == "master" else service + ".0") + ".sock"))
            s.sendall(json.dumps({"verb": verb, "args": list(args), "options": options}).encode() + b"\n")
            data = b"".join(iter(lambda: s.recv(65536), b""))
        rows = [json.loads(line) for line in data.splitlines()]
        return rows.pop()["status"], rows

    def resolve(self, domain, **options):
        """"CLASS PREF HOST ADDRESS …; …" of what resolve answers."""
        _, rows = self.ctl("resolver", "resolve", domain, **options)
        hosts = ["%d %s %s" % (r["preference"], r["host"], " ".join(r["addresses"]))
                 + (":%d" % r["port"] if "port" in r else "") + (" implicit" if "implicit" in r else "")
                 for r in rows if "host" in r]
        return "; ".join([rows[0]["class"]] + hosts)

    def end(self):
        if session_members(self.process.pid):
            self.process.kill_all()
        self.process.popen.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


class Resolver(unittest.TestCase):
    def knot(self, address, zones, port=5343):
        directory = tempfile.mkdtemp(prefix="postern-knot-")
        self.addCleanup(shutil.rmtree, directory, True)
        knot = Knot(directory, address, zones, port=port)
        self.addCleanup(lambda: knot.process.alive() and knot.stop())
        return knot

    def host(self, *args, **kwargs):
        host = Host(*args, **kwargs)
        self.addCleanup(host.end)
        return host

    def test_zone(self):
        self.knot("127.0.43.11", {"z43.test": ZONE})
        host = self.host(["127.0.43.11@5343"])
        mx1 = "mx1.z43.test 127.0.43.101 2001:db8:43::1"
        three = ("ok; 10 %s; 20 mx2.z43.test 127.0.43.102; 30 mx3.z43.test 127.0.43.103" % mx1)
        want = {
            "three.z43.test": three,
            "THREE.Z43.test.": three,
            "alias.z43.test": three,
            "null.z43.test": "null-mx",
            "implicit.z43.test": "ok; 0 implicit.z43.test 127.0.43.104 implicit",
            "mxalias.z43.test": "ok; 10 othername.z43.test 127.0.43.101 2001:db8:43::1",
            "nohost.z43.test": "no-host",
            "empty.z43.test": "no-host",
            "missing.z43.test": "no-domain",
            "literal.z43.test": "ok; 20 " + mx1,
            "self.z43.test": "self",
            "backup.z43.test": "ok; 10 " + mx1,
            "odd.z43.test": "no-host",
            "odd2.z43.test": "no-host",
            "ring.z43.test": "temporary",
            "a.b.wild.z43.test": "ok; 5 mx3.z43.test 127.0.43.103",
            "elsewhere.test": "temporary",  # REFUSED: not this server's
            "[127.0.43.7]": "ok; 0 [127.0.43.7] 127.0.43.7",
            "[127.0.43.777]": "bad-name",
            "a b.test": "bad-name",
            "192.0.2.1": "bad-name",
        }
        got = {domain: host.resolve(domain) for domain in want}
        self.assertEqual(got, want)
        large = host.resolve("large.z43.test").split("; ")
        self.assertEqual(len(large), 1 + LARGE)
        self.assertEqual(large[1], "0 a-rather-long-host-name-00.large.z43.test 127.0.43.200")
        _, (status,) = host.ctl("resolver", "status")
        self.assertGreaterEqual(status["tcp"], 1)
        self.assertEqual(status["in_flight"], 0)
        self.assertEqual(status["routes"]["null-mx"], 1)

    def test_fixed_routes(self):
        self.knot("127.0.43.19", {"z43.test": ZONE})
        host = self.host(["127.0.43.19@5343"])
        mx1 = "mx1.z43.test 127.0.43.101 2001:db8:43::1"
        want = {
            "three.z43.test": "temporary",  # a host's name, and it has no address
            "mx1.z43.test": "ok; 0 " + mx1,
            "mx1.z43.test:2525,[127.0.43.9];mx2.z43.test":
                "ok; 0 [127.0.43.9] 127.0.43.9; 0 %s:2525; 100 mx2.z43.test 127.0.43.102" % mx1,
            "lookup-mx:three.z43.test":
                "ok; 0 %s; 1 mx2.z43.test 127.0.43.102; 2 mx3.z43.test 127.0.43.103" % mx1,
            "[127.0.43.1]:2543": "temporary",  # our own listener
            "lookup-mx:null.z43.test": "temporary",
            "mx2.z43.test;": "temporary",
        }
        got = {spec: host.resolve("any.example", hosts=spec) for spec in want}
        self.assertEqual(got, want)

    def test_private_refused(self):
        self.knot("127.0.43.12", {"z43.test": ZONE})
        host = self.host(["127.0.43.12@5343"], "refuse-private-mx = true;\n")
        self.assertEqual(host.resolve("three.z43.test"), "no-host")
        self.assertEqual(host.resolve("[127.0.43.7]"), "no-host")

    def test_cache_and_flush(self):
        knot = self.knot("127.0.43.13", {"z43.test": "d MX 10 mx\nmx A 127.0.43.101\n"})
        host = self.host(["127.0.43.13@5343"])
        self.assertEqual(host.resolve("d.z43.test"), "ok; 10 mx.z43.test 127.0.43.101")
        _, (before,) = host.ctl("resolver", "status")
        knot.stop()
        self.assertEqual(host.resolve("d.z43.test"), "ok; 10 mx.z43.test 127.0.43.101")
        _, (after,) = host.ctl("resolver", "status")
        self.assertEqual(before["packets_sent"], after["packets_sent"])
        self.assertEqual(host.ctl("resolver", "flush", "d.z43.test"), (0, [{"flushed": 3}]))
        self.assertEqual(host.resolve("d.z43.test"), "temporary")

    def test_reload_changes_the_servers(self):
        self.knot("127.0.43.14", {"z43.test": "d A 127.0.43.101\n"})
        self.knot("127.0.43.15", {"z43.test": "d A 127.0.43.102\n"})
        host = self.host(["127.0.43.14@5343"])
        self.assertEqual(host.resolve("d.z43.test"), "ok; 0 d.z43.test 127.0.43.101 implicit")
        host.configure(["127.0.43.15@5343"])
        self.assertEqual(host.ctl("master", "reload")[0], 0)
        host.ctl("resolver", "flush")
        self.assertEqual(host.resolve("d.z43.test"), "ok; 0 d.z43.test 127.0.43.102 implicit")

    def test_kill_it_a_few_times(self):
        self.knot("127.0.43.16", {"z43.test": "d A 127.0.43.101\n"})
        host = self.host(["127.0.43.16@5343"])

        def pid():
            rows = host.ctl("master", "status")[1]
            return next((r["pid"] for r in rows if r.get("service") == "resolver" and r["state"] == "ready"), None)

        def resolves():
            try:
                return host.resolve("d.z43.test").startswith("ok")
            except (OSError, ValueError, IndexError):
                return False
        for _ in range(3):
            old = pid()
            os.kill(old, 9)
            wait_for("a new resolver", lambda: pid() not in (None, old))
            wait_for("it resolves", resolves)

    def test_dead_server_does_not_stop_mail(self):
        self.knot("127.0.43.17", {"z43.test": "d A 127.0.43.101\n"})
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(silent.close)
        silent.bind(("127.0.43.18", 5343))
        host = self.host(["127.0.43.18@5343", "127.0.43.17@5343"])
        began = time.monotonic()
        self.assertEqual(host.resolve("d.z43.test"), "ok; 0 d.z43.test 127.0.43.101 implicit")
        self.assertLess(time.monotonic() - began, 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)

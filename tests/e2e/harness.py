# SPDX-License-Identifier: ISC
"""What end-to-end tests share: a running suite, a real name server, receivers, ledgers.

Everything a test starts it ends, by process id; everything it writes stands in its own directory below
/tmp. Nothing sleeps for luck: wait_for() polls a condition with a deadline. Each test takes addresses of
127.0.0.0/8 from addresses(), so that tests can run side by side.
"""
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
BIN = os.path.join(BUILD, "bin")
KEEP = os.environ.get("KEEP")  # set: directories of finished tests stay, and logs are shown


def wait_for(what, condition, seconds=20.0, step=0.01):
    """Waits until condition() is true and returns its value; fails with `what` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("waited %.0f s for: %s" % (seconds, what))
        time.sleep(step)


def accepts(address, port):
    """True when something listens there."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((address, port)) == 0


class Process:
    """A child process in its own session, with its output in a file."""

    def __init__(self, argv, log, env=None, **kwargs):
        self.log = log
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          env=env, start_new_session=True, **kwargs)
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def stop(self, seconds=35, signo=signal.SIGTERM):
        """Asks it to end; returns its exit status; kills its whole session when it does not."""
        if self.alive():
            self.popen.send_signal(signo)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError("%s did not end within %d s" % (self.popen.args[0], seconds))

    def kill_all(self):
        """kill -9 of every process of its session."""
        for pid in session_members(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.popen.wait(10)


def session_members(session):
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            pids.append(int(name))
    return pids


class Knot:
    """A real authoritative name server with the zones given as {origin: records text}."""

    def __init__(self, directory, address, zones, port=5353):
        self.address, self.port, self.directory = address, port, os.path.join(directory, "knot")
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(directory, 0o755)
        self.write(zones)
        self.process = Process(["knotd", "-c", os.path.join(self.directory, "knot.conf")],
                               os.path.join(self.directory, "knot.log"))
        wait_for("knotd answers", lambda: all(self.answers(zone) for zone in zones))

    def write(self, zones):
        user = "user: root:root" if os.getuid() == 0 else ""
        conf = ["server:", "  listen: %s@%d" % (self.address, self.port),
                "  rundir: " + self.directory, "  background-workers: 1", "  udp-workers: 1",
                "  tcp-workers: 1", "  " + user, "log:", "  - target: stderr", "    any: warning",
                "database:", "  storage: " + self.directory, "template:", "  - id: default",
                "    storage: " + self.directory, "    zonefile-load: whole", "    journal-content: none",
                "zone:"]
        for zone, records in zones.items():
            conf.append("  - domain: " + zone)
            with open(os.path.join(self.directory, zone + ".zone"), "w") as f:
                f.write("$ORIGIN %s.\n$TTL 300\n@ SOA ns hostmaster %d 3600 600 86400 60\n@ NS ns\n"
                        "ns A %s\n%s\n" % (zone, int(time.time() * 10) % 2**31, self.address, records))
        with open(os.path.join(self.directory, "knot.conf"), "w") as f:
            f.write("\n".join(conf) + "\n")

    def reload(self, zones):
        self.write(zones)
        self.process.popen.send_signal(signal.SIGHUP)

    def answers(self, zone):
        question = b"".join(bytes([len(l)]) + l.encode() for l in zone.split(".")) + b"\0"
        query = struct.pack(">HHHHHH", 77, 0, 1, 0, 0, 0) + question + struct.pack(">HH", 6, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.2)
            try:
                s.connect((self.address, self.port))
                s.send(query)
                reply = s.recv(4096)
            except OSError:
                return False
        return len(reply) > 12 and reply[3] & 15 == 0 and reply[7] > 0

    def stop(self):
        self.process.stop()


class Sink:
    """The project's own fast receiver, with its ledger of what arrived."""

    def __init__(self, directory, address, port, *options, name="sink"):
        self.address, self.port = address, port
        self.ledger_path = os.path.join(directory, name + ".ledger")
        self.stats_path = os.path.join(directory, name + ".stats")
        self.argv = [os.path.join(BIN, "smtp-sink"), "-l", self.ledger_path, "-s", self.stats_path,
                     *options, "%s:%d" % (address, port)]
        self.log = os.path.join(directory, name + ".log")
        self.start()

    def start(self):
        self.process = Process(self.argv, self.log)
        wait_for("the sink listens", lambda: accepts(self.address, self.port) and
                 os.path.exists(self.stats_path))

    def ledger(self):
        """[(X-Ledger value, client address, recipients, microseconds)] in order of arrival."""
        rows = []
        try:
            with open(self.ledger_path) as f:
                for line in f:
                    if line.endswith("\n"):
                        value, client, rcpts, at = line.split()
                        rows.append((value, client, int(rcpts), int(at)))
        except FileNotFoundError:
            pass
        return rows

    def count(self):
        try:
            with open(self.ledger_path, "rb") as f:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: f.read(1 << 20), b""))
        except FileNotFoundError:
            return 0

    def stats(self):
        with open(self.stats_path) as f:
            words = f.read().split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def stop(self):
        self.process.stop()


class Suite:
    """A Postern of its own: configuration, spool, control sockets and log below one directory."""

    DEFAULTS = """
host-name = "out.example.test";
spool-directory = "%(directory)s/spool";
run-directory = "%(directory)s/run";
log-directory = "%(directory)s/log";
log-file = "postern.log";
nameservers = [ "%(nameserver)s" ];
default-smtp-port = %(smtp_port)d;
spool-min-free-space = "1M";
smtpd-processes = %(processes)d;
smtp-out-processes = %(processes)d;
listeners = ( { address = "%(address)s"; port = %(port)d; relay-from = [ "127.0.0.0/8" ]; %(listener)s } );
accounting = ( { file = "acct.csv"; format = "csv"; records = [ "d", "b", "t", "tq", "r" ]; },
               { file = "acct.json"; format = "json"; records = [ "d", "b", "t", "tq", "r" ]; } );
"""

    def __init__(self, directory, address, extra="", nameserver="127.0.0.1@5353", port=2525,
                 smtp_port=2525, processes=2, listener="", env=None):
        self.directory, self.address, self.port = directory, address, port
        self.values = dict(directory=directory, address=address, port=port, nameserver=nameserver,
                           smtp_port=smtp_port, processes=processes, listener=listener)
        self.conf = os.path.join(directory, "postern.conf")
        self.env = dict(os.environ, **(env or {}))
        self.process = None
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)
        self.configure(extra)

    def configure(self, extra, **values):
        self.values.update(values)
        with open(self.conf, "w") as f:
            f.write(self.DEFAULTS % self.values + extra)

    def start(self, wait=True, wrapper=()):
        self.process = Process([*wrapper, os.path.join(BIN, "postern-master"), "-c", self.conf],
                               os.path.join(self.directory, "master.out"), env=self.env)
        if wait:
            self.wait_up()
        return self

    def wait_up(self, seconds=20):
        def up():
            if not self.process.alive():
                raise AssertionError("master ended:\n" + self.output())
            return accepts(self.address, self.port) and self.greeting()
        wait_for("the suite takes mail", up, seconds)

    def greeting(self):
        """True when it takes mail."""
        try:
            with smtplib.SMTP(self.address, self.port, timeout=2) as s:
                s.ehlo()
                return s.mail("")[0] == 250
        except (OSError, smtplib.SMTPException):
            return False

    def stop(self):
        status = self.process.stop()
        left = session_members(self.process.pid)
        if left:
            self.process.kill_all()
            raise AssertionError("left running after stop: %s" % left)
        return status

    def workers(self, name=None):
        """{pid: process name} of this suite's living processes, master as postern-master."""
        found = {}
        for pid in session_members(self.process.pid):
            try:
                with open("/proc/%d/comm" % pid) as f:
                    comm = f.read().strip()
            except OSError:
                continue
            if name is None or comm == name:
                found[pid] = comm
        return found

    def ctl(self, *args, check=True, parse=True):
        """posternctl --json ARGS, parsed."""
        done = subprocess.run([os.path.join(BIN, "posternctl"), "-c", self.conf, "--json", *args],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        if check and done.returncode != 0:
            raise AssertionError("posternctl %s: %d %s%s" % (" ".join(args), done.returncode,
                                                           done.stdout.decode(), done.stderr.decode()))
        if not parse:
            return done
        return json.loads(done.stdout or b"null")

    def ctl_text(self, *args):
        return subprocess.run([os.path.join(BIN, "posternctl"), "-c", self.conf, *args],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60).stdout.decode()

    def log(self):
        try:
            with open(os.path.join(self.directory, "log", "postern.log"), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def output(self):
        try:
            with open(os.path.join(self.directory, "master.out"), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def wait_log(self, pattern, count=1, seconds=20):
        """Waits until the log holds `count` matches of the regular expression; returns them."""
        compiled = re.compile(pattern)

        def found():
            matches = [m for m in compiled.finditer(self.log())]
            return matches if len(matches) >= count else None
        return wait_for("log: " + pattern, found, seconds, step=0.05)

    def accounting(self):
        """The rows of the JSON accounting file."""
        rows = []
        try:
            with open(os.path.join(self.directory, "log", "acct.json")) as f:
                for line in f:
                    if line.endswith("\n"):
                        rows.append(json.loads(line))
        except FileNotFoundError:
            pass
        return rows

    def recipients(self):
        return self.ctl("qmgr", "status")["recipients"]

    def wait_empty(self, seconds=60):
        def empty():
            try:
                return self.recipients() == 0
            except AssertionError:
                return False
        wait_for("the queue is empty", empty, seconds, step=0.1)


def source(address, port, *options, ledger=None, timeout=300):
    """Runs the load generator to its end; returns its figures as a dict."""
    argv = [os.path.join(BIN, "smtp-source"), *options]
    if ledger:
        argv += ["-l", ledger]
    done = subprocess.run(argv + ["%s:%d" % (address, port)], stdout=subprocess.PIPE, timeout=timeout)
    words = done.stdout.decode().split()
    figures = dict(zip(words[::2], map(float, words[1::2])))
    figures["status"] = done.returncode
    return figures


def open_source(directory, address, port, *options, ledger=None, name="source"):
    argv = [os.path.join(BIN, "smtp-source"), *options]
    if ledger:
        argv += ["-l", ledger]
    return Process(argv + ["%s:%d" % (address, port)], os.path.join(directory, name + ".out"))


def fill_disk(path, leave):
    """Writes the file until its file system has about `leave` bytes free; others may take them meanwhile."""
    free = os.statvfs(os.path.dirname(path))
    amount = max(0, free.f_bavail * free.f_frsize - leave)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while amount > 0:
            amount -= os.write(fd, b"x" * min(amount, 65536))
    except OSError:
        pass  # full: as wanted
    finally:
        os.close(fd)
    return path


def read_ledger(path):
    with open(path) as f:
        return [line.strip() for line in f if line.endswith("\n")]


class SuiteTest(unittest.TestCase):
    """A test case with a directory of its own and a block of loopback addresses 127.N.0.0/16."""

    NET = 60  # each test file has its own

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="postern-e2e-")
        os.chmod(self.directory, 0o755)
        self.running = []
        self.addCleanup(self.clean_up)

    def address(self, last, third=0):
        return "127.%d.%d.%d" % (self.NET, third, last)

    def started(self, thing):
        self.running.append(thing)
        return thing

    def clean_up(self):
        failed = any(error for _, error in getattr(self._outcome, "errors", []) if error)
        for thing in reversed(self.running):
            process = thing.process if hasattr(thing, "process") else thing
            if process and session_members(process.pid):
                process.kill_all()
        if failed:
            for name in ("log/postern.log", "master.out"):
                path = os.path.join(self.directory, name)
                if os.path.exists(path):
                    with open(path, errors="replace") as f:
                        lines = f.read().splitlines()[-40:]
                    sys.stderr.write("--- %s\n%s\n" % (name, "\n".join(lines)))
        if KEEP:
            sys.stderr.write("kept: %s\n" % self.directory)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def knot(self, zones, last=53):
        return self.started(Knot(self.directory, self.address(last), zones))

    def sink(self, last, *options, name="sink", port=2525):
        return self.started(Sink(self.directory, self.address(last), port, *options, name=name))

    def suite(self, extra="", last=1, knot=None, start=True, **kwargs):
        nameserver = "%s@%d" % (knot.address, knot.port) if knot else "127.0.0.1@1"
        suite = Suite(os.path.join(self.directory, "suite"), self.address(last), extra,
                      nameserver=nameserver, **kwargs)
        if start:
            suite.start()
        return self.started(suite)

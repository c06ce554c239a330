#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""postern-master with workers that do no work (tests/bench/dummy-worker.c), so that each of its promises can
be seen alone: starts, channels, restarts and their delay, blame, heartbeats, reload, stop, systemd, the lock.

Run alone: python3 tests/e2e/test_master.py; BUILD says where the binaries are (default: build).
Addresses: 127.0.40.0/24.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BIN, Process, session_members, wait_for  # noqa: E402

WORKERS = ("smtpd", "qmgr", "smtp-out", "resolver", "bouncer")
PORTS = iter(range(2600, 2900))


def text_of(path):
    with open(path, errors="replace") as f:
        return f.read()


class Master:
    """A master of its own over dummy workers."""

    def __init__(self, options="", listeners=None, env=None, **ctl):
        self.directory = tempfile.mkdtemp(prefix="postern-master-")
        os.chmod(self.directory, 0o755)
        bin_directory = os.path.join(self.directory, "bin")
        os.mkdir(bin_directory)
        shutil.copy(os.path.join(BIN, "postern-master"), bin_directory)
        for name in WORKERS:
            shutil.copy(os.path.join(BIN, "dummy-worker"), os.path.join(bin_directory, name))
        self.binary = os.path.join(bin_directory, "postern-master")
        self.conf = os.path.join(self.directory, "postern.conf")
        self.spool = os.path.join(self.directory, "spool")
        self.run = os.path.join(self.directory, "run")
        self.logs = os.path.join(self.directory, "log")
        self.out = os.path.join(self.directory, "out")
        self.port = next(PORTS)
        self.env = dict(os.environ, **(env or {}))
        self.process, self.sockets = None, []
        self.configure(options, listeners)

    def configure(self, options="", listeners=None):
        if listeners is None:
            listeners = [self.port]
        entries = ", ".join('{ address = "127.0.40.1"; port = %d; }' % port for port in listeners)
        with open(self.conf, "w") as f:
            f.write('host-name = "h.example.test";\nspool-directory = "%s";\nrun-directory = "%s";\n'
                    'log-directory = "%s";\nnameservers = [ "127.0.0.1" ];\nlisteners = ( %s );\n'
                    'heartbeat-interval = "200ms"; heartbeat-timeout = "1s";\n%s'
                    % (self.spool, self.run, self.logs, entries, options if "processes" in options else
                       "smtpd-processes = 1; smtp-out-processes = 1;\n" + options))

    def start(self, *args, wait=True):
        self.process = Process([self.binary, "-c", self.conf, *args], self.out, env=self.env)
        if wait:
            self.wait_log("ready: ")
        return self

    def log(self):
        with open(self.out, errors="replace") as f:
            return f.read()

    def wait_log(self, pattern, count=1, seconds=15):
        return wait_for("%r in:\n%s" % (pattern, self.log()),
                        lambda: len(re.findall(pattern, self.log())) >= count, seconds)

    def ctl(self, service, verb, *args, seconds=15):
        """(status, rows) of one request; (None, rows) when the peer goes away without an answer."""
        name = "master.sock" if service == "master" else service + ".sock"
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(seconds)
            s.connect(os.path.join(self.run, name))
            s.sendall(json.dumps({"verb": verb, "args": list(args), "options": {}}).encode() + b"\n")
            data = b""
            while True:
                try:
                    piece = s.recv(65536)
                except ConnectionResetError:
                    break
                if not piece:
                    break
                data += piece
        rows = [json.loads(line) for line in data.splitlines()]
        status = rows.pop()["status"] if rows and rows[-1].get("end") else None
        return status, rows

    def status(self):
        status, rows = self.ctl("master", "status")
        assert status == 0
        return {"%s.%d" % (row["service"], row["instance"]): row for row in rows}

    def wait_generation(self, worker, generation, seconds=15):
        wait_for("%s has generation %d" % (worker, generation), lambda: (
            self.status()[worker]["generation"] >= generation and
            self.status()[worker]["state"] == "ready"), seconds)

    def greet(self, port=None):
        s = socket.create_connection(("127.0.40.1", port or self.port), 10)
        self.sockets.append(s)
        return s, s.recv(200).decode()

    def kill(self, worker, signo=signal.SIGKILL):
        os.kill(self.status()[worker]["pid"], signo)

    def stop(self):
        return self.process.stop()

    def end(self):
        for s in self.sockets:
            s.close()
        if self.process and session_members(self.process.pid):
            self.process.kill_all()
        if self.process:
            self.process.popen.wait(10)
            for line in ("runtime error", "ERROR: AddressSanitizer", "ERROR: LeakSanitizer"):
                assert line not in self.log(), self.log()
        shutil.rmtree(self.directory, ignore_errors=True)


class MasterTest(unittest.TestCase):
    def master(self, *args, **kwargs):
        m = Master(*args, **kwargs)
        self.addCleanup(m.end)
        return m


class Start(MasterTest):
    def test_everybody_starts_and_is_linked_to_qmgr(self):
        m = self.master().start()
        for name in ("smtpd", "smtp-out", "resolver", "bouncer"):
            self.assertRegex(m.log(), r"qmgr\[\d+\]: dummy: peer %s\.0\.1" % name)
            self.assertRegex(m.log(), r"%s\[\d+\]: dummy: peer qmgr\.0\.1" % name)
        self.assertNotRegex(m.log(), r"smtpd\[\d+\]: dummy: peer (smtp-out|resolver|bouncer)")
        self.assertRegex(m.log(), r"qmgr\[\d+\]: dummy: start unclean=0 rebuild=0 peers=4")
        self.assertRegex(m.log(), r"smtp-out\[\d+\]: dummy: secret 2\.0 of \d+ bytes before 1\n")
        self.assertEqual({row["state"] for row in m.status().values()}, {"ready"})
        self.assertEqual(m.stop(), 0)

    def test_each_worker_has_its_own_user_root_and_limits(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        m = self.master().start()
        uids = set()
        for name, row in m.status().items():
            proc = "/proc/%d/" % row["pid"]
            with open(proc + "status") as f:
                fields = dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)
            if name == "master.0":
                continue
            root = os.readlink(proc + "root")
            self.assertEqual(root, m.spool if name == "qmgr.0" else os.path.join(m.run, "empty"))
            ids = fields["Uid"].split()
            self.assertEqual(len(set(ids)), 1)
            self.assertNotEqual(ids[0], "0")
            uids.add(ids[0])
            self.assertEqual(fields["Groups"].strip(), "")
            for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(int(fields[caps], 16), 0, name)
            self.assertEqual(fields["NoNewPrivs"], "1")
            descriptors = {int(fd): os.readlink(proc + "fd/" + fd) for fd in os.listdir(proc + "fd")}
            self.assertEqual(descriptors[4], os.path.join(m.spool, "lock"))
            named = [d for d in descriptors.values() if d.startswith(m.directory)]
            self.assertEqual(sorted(set(named)), sorted({m.out, os.path.join(m.spool, "lock")}), name)
            if "SANITIZED" not in os.environ:
                self.assertEqual(fields["Seccomp"], "2")
        self.assertEqual(len(uids), 5)
        self.assertEqual(os.stat(m.spool).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(os.path.join(m.run, "qmgr.0.sock")).st_mode & 0o777, 0o600)

    def test_not_root_keeps_its_user_behind_landlock(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        m = self.master()
        os.chown(m.directory, 65534, 65534)
        m.process = Process(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                             m.binary, "-c", m.conf], m.out)
        m.wait_log("ready: ")
        self.assertEqual(len(re.findall("not root: workers keep user", m.log())), 1)
        self.assertEqual(m.ctl("smtpd.0", "status")[0], 0)
        self.assertEqual(m.stop(), 0)

    def test_every_error_of_the_configuration_at_once(self):
        m = self.master('no-such-option = 1;\nsmtpd-processes = 1000;\ntls-ca-file = "/nonexistent";\n')
        for args in (["-n"], []):
            done = subprocess.run([m.binary, "-c", m.conf, *args], capture_output=True, timeout=20)
            self.assertEqual(done.returncode, 78)
            self.assertIn(b"postern.conf:8: no-such-option", done.stderr)
            self.assertIn(b"postern.conf:9: smtpd-processes", done.stderr)
        m.configure('tls-ca-file = "/nonexistent";\n')
        done = subprocess.run([m.binary, "-c", m.conf, "-n"], capture_output=True, timeout=20)
        self.assertEqual(done.returncode, 78)
        self.assertIn(b"/nonexistent", done.stderr)

    def test_exit_codes_and_printing(self):
        m = self.master()
        run = lambda *args: subprocess.run([m.binary, *args], capture_output=True, timeout=20)
        self.assertEqual(run("-x").returncode, 64)
        self.assertEqual(run("-c", m.conf, "surplus").returncode, 64)
        self.assertEqual(run("-c", "/nonexistent").returncode, 78)
        self.assertEqual(run("-V").returncode, 0)
        self.assertEqual(run("-c", m.conf, "-n").returncode, 0)
        printed = run("-c", m.conf, "-p")
        self.assertEqual(printed.returncode, 0)
        with open(m.conf, "wb") as f:
            f.write(printed.stdout)
        self.assertEqual(run("-c", m.conf, "-p").stdout, printed.stdout)
        worker = os.path.join(os.path.dirname(m.binary), "smtpd")
        self.assertEqual(subprocess.run([worker], capture_output=True).returncode, 64)

    def test_port_in_use(self):
        m = self.master()
        with socket.socket() as s:
            s.bind(("127.0.40.1", m.port))
            s.listen()
            m.start(wait=False)
            self.assertEqual(m.process.popen.wait(10), 78)
        self.assertRegex(m.log(), r"postern.conf:\d+: cannot listen on 127.0.40.1 port \d+: Address already")

    def test_a_refused_first_configuration_ends_the_start(self):
        m = self.master('postmaster = "refuse@bouncer.test";').start(wait=False)
        self.assertEqual(m.process.popen.wait(20), 78)
        self.assertIn("bouncer.0 refuses the configuration: the dummy was told to refuse", m.log())

    def test_entries_put_into_the_spool_by_others_are_not_used(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        for name in ("master", "lock"):
            m = self.master()
            os.mkdir(m.spool, 0o700)
            os.symlink("/tmp", os.path.join(m.spool, name))
            os.chown(m.spool, 70002, 70002)
            m.start(wait=False)
            self.assertEqual(m.process.popen.wait(10), 77)

    def test_a_full_directory_of_others_is_not_given_away(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        m = self.master()
        os.mkdir(m.spool)
        open(os.path.join(m.spool, "precious"), "w").close()
        m.start(wait=False)
        self.assertEqual(m.process.popen.wait(10), 78)
        self.assertEqual(os.stat(m.spool).st_uid, 0)


class Restart(MasterTest):
    def test_a_killed_worker_is_back_at_once_and_linked(self):
        m = self.master().start()
        time.sleep(1.1)  # a healthy life is one of a second
        for worker, other in (("smtpd.0", "qmgr"), ("qmgr.0", "smtpd"), ("smtp-out.0", "qmgr")):
            began = time.monotonic()
            m.kill(worker)
            m.wait_generation(worker, 2)
            self.assertLess(time.monotonic() - began, 1.0)
            name = worker.split(".")[0]
            m.wait_log(r"%s\[\d+\]: dummy: peer %s\.0\.2" % (other, name))
        self.assertRegex(m.log(), r"qmgr.0 \(pid \d+\) was killed by signal 9 \(Killed\); starting it again\n")
        self.assertEqual(m.stop(), 0)

    def test_clients_wait_in_the_queue_while_no_smtpd_lives(self):
        m = self.master().start()
        pid = m.status()["smtpd.0"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        s = socket.create_connection(("127.0.40.1", m.port), 10)
        os.kill(pid, signal.SIGKILL)
        s.settimeout(10)
        self.assertTrue(s.recv(100).startswith(b"220 0.2 "))
        s.close()

    def test_the_delay_doubles_while_it_dies_before_it_is_ready(self):
        m = self.master("default-smtp-port = 99;\n").start(wait=False)
        m.wait_log(r"qmgr.0 .*starting it again in 0.8 s", seconds=10)
        delays = re.findall(r"qmgr.0 .*starting it again in ([\d.]+) s", m.log())
        self.assertEqual(delays[:4], ["0.1", "0.2", "0.4", "0.8"])
        self.assertNotIn("smtpd.0 (pid", m.log())
        self.assertEqual(m.stop(), 0)

    def test_nothing_outlives_a_killed_master(self):
        m = self.master().start()
        os.kill(m.process.pid, signal.SIGKILL)
        m.process.popen.wait(10)
        wait_for("all workers leave", lambda: not session_members(m.process.pid), 5)
        m.start(wait=False)
        m.wait_log("ready: ", 2)
        self.assertEqual(len(re.findall("start unclean=1", m.log())), 0)  # the machine did not go down
        self.assertEqual(m.stop(), 0)

    def test_after_a_loss_of_power_the_start_is_unclean_until_recovered(self):
        m = self.master().start()
        m.process.kill_all()
        mark = os.path.join(m.spool, "master", "boot")
        with open(mark) as f:
            self.assertTrue(f.read().startswith("running "))
        with open(mark, "w") as f:
            f.write("running 00000000-1111-2222-3333-444444444444\n")
        m.start(wait=False)
        m.wait_log(r"qmgr\[\d+\]: dummy: start unclean=1")
        m.wait_log("ready: ", 2)
        m.kill("qmgr.0")
        m.wait_log(r"qmgr\[\d+\]: dummy: start unclean=0", 2)
        self.assertEqual(m.stop(), 0)
        with open(mark) as f:
            self.assertTrue(f.read().startswith("clean "))

    def test_rebuild_is_said_once(self):
        m = self.master().start("--rebuild")
        self.assertRegex(m.log(), r"qmgr\[\d+\]: dummy: start unclean=0 rebuild=1")
        m.kill("qmgr.0")
        m.wait_log(r"qmgr\[\d+\]: dummy: start unclean=0 rebuild=0")


class Blame(MasterTest):
    def crash(self, m, worker, message, signo, generation):
        if message:
            self.assertEqual(m.ctl(worker, "blame", message)[0], 0)
        m.ctl(worker, "crash", str(signo))
        m.wait_generation(worker, generation)

    def test_the_third_death_sets_the_message_aside(self):
        m = self.master().start()
        for i, signo in enumerate((signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)):
            self.crash(m, "smtp-out.0", "0x1234", int(signo), i + 2)
            m.wait_log(r"qmgr\[\d+\]: dummy: poison 0000000000001234 %d" % (i + 1))
        self.assertIn("message 0000000000001234 was in the hands of smtp-out.0 at its death, as at 2 before: "
                      "it is set aside", m.log())
        # a new qmgr is told before START, and so is that of a new master
        m.kill("qmgr.0")
        m.wait_log(r"dummy: poison 0000000000001234 3\n(.*\n)*?.*qmgr\[\d+\]: dummy: start", 1)
        m.wait_log("poison 0000000000001234 3", 2)
        self.assertEqual(m.stop(), 0)
        m.start()
        m.wait_log("poison 0000000000001234 3", 3)

    def test_a_kill_from_outside_does_not_count(self):
        m = self.master().start()
        for i, signo in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL)):
            self.assertEqual(m.ctl("smtp-out.0", "blame", "0x77")[0], 0)
            m.kill("smtp-out.0", signo)
            m.wait_generation("smtp-out.0", i + 2)
        self.assertNotIn("in the hands of", m.log())
        self.assertFalse(os.path.exists(os.path.join(m.spool, "master", "poison")))

    def test_without_a_message_nobody_is_blamed(self):
        m = self.master().start()
        self.crash(m, "smtp-out.0", None, int(signal.SIGSEGV), 2)
        self.assertNotIn("in the hands of", m.log())

    def test_a_forbidden_call_is_visible_and_counts(self):
        if "SANITIZED" in os.environ:
            self.skipTest("the sanitizers' profile is relaxed")
        m = self.master().start()
        for worker in ("smtpd.0", "qmgr.0", "smtp-out.0", "resolver.0", "bouncer.0"):
            m.ctl(worker, "blame", "0x99")
            self.assertEqual(m.ctl(worker, "violate"), (None, []))
            m.wait_log(r"%s \(pid \d+\) made a system call that its filter forbids" % worker)
        m.wait_log("message 0000000000000099 .* set aside")

    def test_a_damaged_poison_file_stops_nothing(self):
        m = self.master().start()
        self.crash(m, "smtp-out.0", "0x55", int(signal.SIGSEGV), 2)
        self.assertEqual(m.stop(), 0)
        with open(os.path.join(m.spool, "master", "poison"), "a") as f:
            f.write("nonsense\n")
        m.start(wait=False)
        m.wait_log("ready: ", 2)
        self.assertIn("the counts begin anew", m.log())


class Heartbeat(MasterTest):
    def test_a_silent_worker_is_killed_and_blamed(self):
        m = self.master().start()
        self.assertEqual(m.ctl("bouncer.0", "blame", "0x42")[0], 0)
        with self.assertRaises(socket.timeout):
            m.ctl("bouncer.0", "hang", seconds=0.3)
        began = time.monotonic()
        m.wait_generation("bouncer.0", 2)
        self.assertLess(time.monotonic() - began, 4)
        self.assertRegex(m.log(), r"killing bouncer.0 \(pid \d+\): it does not answer heartbeats")
        m.wait_log("poison 0000000000000042 1")
        self.assertEqual([r["deaths"] for n, r in sorted(m.status().items()) if n != "bouncer.0"], [0] * 5)

    def test_a_master_that_was_stopped_blames_nobody(self):
        m = self.master().start()
        for _ in range(3):
            os.kill(m.process.pid, signal.SIGSTOP)
            time.sleep(1.6)
            os.kill(m.process.pid, signal.SIGCONT)
            time.sleep(0.4)
        self.assertEqual({r["deaths"] for r in m.status().values()}, {0})
        self.assertNotIn("killing", m.log())


class Reload(MasterTest):
    def test_good_by_signal_and_by_control(self):
        m = self.master().start()
        s, text = m.greet()
        self.assertEqual(text, "220 0.1 config 1\r\n")
        self.assertEqual(m.ctl("master", "reload"), (0, []))
        # The answer comes when every worker was told to switch; it happens a moment later.
        wait_for("smtpd uses it", lambda: m.greet()[1] == "220 0.1 config 2\r\n")
        m.process.popen.send_signal(signal.SIGHUP)
        m.wait_log("configuration 3 is in use")
        wait_for("smtpd uses it", lambda: m.greet()[1] == "220 0.1 config 3\r\n")
        s.settimeout(0.2)
        self.assertRaises(socket.timeout, s.recv, 1)  # the first client's connection lives
        self.assertEqual({r["deaths"] for r in m.status().values()}, {0})
        self.assertEqual(m.stop(), 0)
        self.assertEqual(s.recv(10), b"bye\r\n")

    def test_bad_ones_change_nothing(self):
        m = self.master().start()
        other = next(PORTS)
        bad = {"nonsense = 1;": "nonsense",
               'tls-ca-file = "/nonexistent";': "/nonexistent",
               'worker-uid-base = 80000;': "worker-uid-base cannot change while running",
               'postmaster = "refuse@bouncer.test";': "the dummy was told to refuse",
               'postmaster = "die@bouncer.test";': "died while it looked at the configuration"}
        for text, message in bad.items():
            m.configure(text, [m.port, other])
            status, rows = m.ctl("master", "reload")
            self.assertEqual(status, 78, text)
            self.assertTrue(any(message in row["error"] for row in rows), (text, rows))
            self.assertRaises(ConnectionRefusedError, m.greet, other)
            self.assertRegex(m.greet()[1], r"220 0.\d+ config 1\r\n")
        m.wait_generation("bouncer.0", 2)
        m.configure('postmaster = "hang@bouncer.test";')
        began = time.monotonic()
        status, rows = m.ctl("master", "reload")
        self.assertEqual(status, 78)
        self.assertLess(time.monotonic() - began, 7)
        m.wait_generation("bouncer.0", 3)
        m.configure("", [m.port, other])
        self.assertEqual(m.ctl("master", "reload"), (0, []))
        self.assertIn("config ", m.greet(other)[1])

    def test_listeners_come_and_go_and_the_kept_one_refuses_nobody(self):
        m = self.master().start()
        second = next(PORTS)
        failures, count = [], 0
        for round_ in range(6):
            m.configure("", [second, m.port] if round_ % 2 == 0 else [m.port])
            reload_ = subprocess.Popen([sys.executable, "-c", CTL_RELOAD, os.path.join(m.run, "master.sock")])
            while reload_.poll() is None:
                count += 1
                try:
                    s, text = m.greet()
                    if not text.startswith("220 "):
                        failures.append(text)
                    s.close()
                except OSError as e:
                    failures.append(e)
            self.assertEqual(reload_.returncode, 0)
            if round_ % 2 == 0:
                self.assertIn("config", m.greet(second)[1])
            else:
                self.assertRaises(ConnectionRefusedError, m.greet, second)
        self.assertEqual(failures, [])
        self.assertGreater(count, 6)

    def test_number_of_processes(self):
        m = self.master("smtpd-processes = 1; smtp-out-processes = 2;\n").start()
        m.configure("smtpd-processes = 3; smtp-out-processes = 1;\n")
        self.assertEqual(m.ctl("master", "reload")[0], 0)
        m.wait_generation("smtpd.2", 1)
        wait_for("smtp-out.1 leaves", lambda: "smtp-out.1" not in m.status())
        self.assertFalse(os.path.exists(os.path.join(m.run, "smtp-out.1.sock")))
        m.wait_log(r"qmgr\[\d+\]: dummy: peer smtpd.2.1")
        m.configure("smtpd-processes = 1; smtp-out-processes = 2;\n")
        self.assertEqual(m.ctl("master", "reload")[0], 0)
        m.wait_generation("smtp-out.1", 2)
        wait_for("only one smtpd", lambda: "smtpd.1" not in m.status() and "smtpd.2" not in m.status())
        self.assertEqual({r["deaths"] for r in m.status().values()}, {0})
        self.assertEqual(m.stop(), 0)

    def test_log_and_accounting_are_opened_again(self):
        options = 'log-file = "log"; accounting = ( { file = "acct"; } );\n'
        m = self.master(options).start(wait=False)
        log, acct = os.path.join(m.logs, "log"), os.path.join(m.logs, "acct")
        wait_for("log", lambda: os.path.exists(log) and "ready: " in text_of(log))
        wait_for("accounting", lambda: text_of(acct) == "file 1.0 generation 1\n")
        os.rename(log, log + ".1")
        os.rename(acct, acct + ".1")
        self.assertEqual(m.ctl("master", "reload"), (0, []))
        wait_for("log", lambda: "dummy: use 2" in text_of(log))
        wait_for("accounting", lambda: text_of(acct) == "file 1.0 generation 1\n")
        self.assertNotIn("dummy: use 2", text_of(log + ".1").split("configuration 2")[-1])
        self.assertEqual(m.stop(), 0)
        self.assertIn("stopped", text_of(log))

    def test_the_configuration_in_use(self):
        m = self.master().start()
        status, rows = m.ctl("master", "config")
        self.assertEqual(status, 0)
        with open(m.conf, "w") as f:
            f.write(rows[0]["text"])
        self.assertEqual(m.ctl("master", "reload"), (0, []))
        self.assertEqual(m.ctl("master", "config")[1][0]["text"], rows[0]["text"])


CTL_RELOAD = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"verb": "reload", "args": [], "options": {}}\\n')
sys.exit(0 if b'"status": 0' in s.recv(10000).replace(b'":0', b'": 0') else 1)
"""


class Stop(MasterTest):
    def test_order_and_nothing_left(self):
        m = self.master().start()
        began = time.monotonic()
        self.assertEqual(m.ctl("master", "stop")[0], 0)
        self.assertEqual(m.process.popen.wait(10), 0)
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(session_members(m.process.pid), [])
        order = re.findall(r"postern/(\S+)\[\d+\]: dummy: stop within", m.log())
        self.assertEqual([sorted(order[:2]), sorted(order[2:4]), order[4:]],
                         [["smtp-out", "smtpd"], ["bouncer", "resolver"], ["qmgr"]])
        self.assertEqual(os.listdir(m.run), ["empty"])

    def test_a_signal_to_the_whole_group_stops_in_order(self):
        m = self.master().start()
        os.killpg(m.process.pid, signal.SIGTERM)
        self.assertEqual(m.process.popen.wait(10), 0)
        self.assertNotIn("did not end in order", m.log())

    def test_bounded_even_when_qmgr_never_stops(self):
        if not os.environ.get("LONG"):
            self.skipTest("30 s; LONG=1 runs it")
        m = self.master().start()
        m.configure("default-smtp-port = 99;\n")  # the dummy qmgr does not stop then
        self.assertEqual(m.ctl("master", "reload")[0], 0)
        began = time.monotonic()
        self.assertEqual(m.process.stop(35), 0)
        self.assertLess(time.monotonic() - began, 31)
        self.assertRegex(m.log(), r"killing qmgr.0 \(pid \d+\): it did not stop in time")
        self.assertIn("did not end in order", m.log())
        self.assertEqual(session_members(m.process.pid), [])

    def test_a_second_signal_means_now(self):
        m = self.master().start()
        m.configure("default-smtp-port = 99;\n")
        self.assertEqual(m.ctl("master", "reload")[0], 0)
        m.process.popen.send_signal(signal.SIGTERM)
        m.wait_log(r"qmgr\[\d+\]: dummy: stop within")
        m.process.popen.send_signal(signal.SIGINT)
        self.assertEqual(m.process.popen.wait(5), 0)
        self.assertEqual(session_members(m.process.pid), [])


    def test_a_stop_during_a_reload_drops_the_reload(self):
        m = self.master().start()
        m.configure('postmaster = "hang@bouncer.test";')
        m.process.popen.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        m.process.popen.send_signal(signal.SIGTERM)
        m.process.popen.wait(20)
        self.assertIn("reload: postern-master: the suite is stopping", m.log())
        self.assertEqual(session_members(m.process.pid), [])


class Systemd(MasterTest):
    def receive(self, s, seconds=10):
        s.settimeout(seconds)
        return s.recv(4096).decode()

    def collect(self, s, until, seconds=10):
        seen = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen.append(self.receive(s, seconds))
            if seen[-1].startswith(until):
                return seen
        self.fail("no %s in %r" % (until, seen))

    def life(self, address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind(address)
            name = address.replace("\0", "@")
            m = self.master(env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "600000"}).start()
            self.collect(s, "READY=1")
            self.collect(s, "WATCHDOG=1")
            self.assertIn("5 of 5 workers ready", [x for x in self.collect(s, "STATUS=")][-1])
            for row in m.status().values():
                if row["service"] != "master":
                    with open("/proc/%d/environ" % row["pid"], "rb") as f:
                        self.assertNotIn(b"NOTIFY", f.read())
            m.process.popen.send_signal(signal.SIGTERM)
            self.collect(s, "STOPPING=1")
            self.assertEqual(m.process.popen.wait(10), 0)

    def test_a_path(self):
        directory = tempfile.mkdtemp(prefix="postern-notify-")
        self.addCleanup(shutil.rmtree, directory)
        self.life(os.path.join(directory, "notify"))

    def test_an_abstract_name(self):
        self.life("\0postern-test-%d" % os.getpid())

    def test_a_long_start_asks_for_time(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind("\0postern-test-long-%d" % os.getpid())
            m = self.master("default-smtp-port = 99;\n",
                            env={"NOTIFY_SOCKET": "@postern-test-long-%d" % os.getpid()})
            m.start(wait=False)
            self.collect(s, "EXTEND_TIMEOUT_USEC=30200000")
            m.configure()
            self.assertEqual(m.ctl("master", "reload")[0], 0)
            self.collect(s, "READY=1")
            self.assertEqual(m.stop(), 0)


class Lock(MasterTest):
    def test_a_second_master_waits_for_the_first_to_leave(self):
        m = self.master().start()
        second = Process([m.binary, "-c", m.conf], m.out + "2")
        try:
            wait_for("it waits", lambda: "waiting for the last worker" in text_of(m.out + "2"))
            time.sleep(0.3)
            self.assertTrue(second.alive())
            self.assertEqual(m.ctl("master", "status")[0], 0)
            self.assertEqual(m.greet()[1], "220 0.1 config 1\r\n")
            self.assertEqual(m.stop(), 0)
            wait_for("it takes over", lambda: "ready: " in text_of(m.out + "2"))
            self.assertEqual(m.greet()[1], "220 0.1 config 1\r\n")
            self.assertEqual(second.stop(), 0)
        finally:
            second.kill_all()

    def test_a_worker_that_hangs_holds_the_spool(self):
        m = self.master().start()
        pid = m.status()["smtpd.0"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        os.kill(m.process.pid, signal.SIGKILL)
        m.process.popen.wait(10)
        second = Process([m.binary, "-c", m.conf], m.out + "2")
        try:
            wait_for("it waits", lambda: "waiting for the last worker" in text_of(m.out + "2"))
            time.sleep(0.5)
            self.assertNotIn("ready: ", text_of(m.out + "2"))
            os.kill(pid, signal.SIGCONT)
            wait_for("it takes over", lambda: "ready: " in text_of(m.out + "2"))
            self.assertEqual(second.stop(), 0)
        finally:
            second.kill_all()

    def test_two_suites_do_not_share_a_run_directory(self):
        m = self.master().start()
        other = self.master()
        with open(other.conf) as f:
            text = f.read().replace(other.run, m.run)
        with open(other.conf, "w") as f:
            f.write(text)
        other.start(wait=False)
        self.assertEqual(other.process.popen.wait(10), 75)
        self.assertEqual(m.ctl("master", "status")[0], 0)


if __name__ == "__main__":
    unittest.main()

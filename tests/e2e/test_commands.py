# SPDX-License-Identifier: ISC
"""What an operator can ask qmgr and tell it: every verb against a running suite in which mail waits for
various reasons, and each change over kill -9 of qmgr, kill -9 of everything, and a clean restart."""
import json
import os
import signal
import smtplib
import subprocess
import time
import unittest

from harness import BIN, SuiteTest, open_source, wait_for

VMTAS = 'virtual-mtas = ( { name = "main"; }, { name = "spare"; } );'
CONF = """
default-virtual-mta = "main";
providers = ( { name = "prov"; mx = [ "*.prov.test" ]; budget = { max-msg-rate = "2/h burst 2"; }; },
              { name = "free"; mx = [ "*.free.test" ]; } );
domains = (
  { name = "*"; max-smtp-out = 9; retry-after = "10m"; retry-recipients-after = "10m"; connect-timeout = "2s";
    smtp-pattern-list = "replies"; },
  { name = "rate.test"; max-msg-rate = "1/h burst 1"; max-smtp-out = 7; } );
smtp-pattern-lists = ( { name = "replies"; rules = (
  { reply = "over quota"; trigger = "2/10m"; actions = [ "mode=backoff" ]; for = "1h"; },
  { reply = "4\\\\.7\\\\.1 not now"; actions = [ "defer-recipient" ]; } ); } );
tenants = ( { name = "acme"; campaigns = ( { name = "news"; } ); }, { name = "beta"; } );
"""


class Commands(SuiteTest):
    NET = 66

    def setUp(self):
        super().setUp()
        a = self.address
        self.zones = {
            "dead.test": "@ MX 10 mx\nmx A %s" % a(9),  # nobody listens there
            "twin.test": "@ MX 10 mx.dead.test.",
            "live.test": "@ MX 10 mx\nmx A %s" % a(2),
            "rate.test": "@ MX 10 mx\nmx A %s" % a(2),
            "prov.test": "mx A %s" % a(2),
            "p1.test": "@ MX 10 mx.prov.test.",
            "p2.test": "@ MX 10 mx.prov.test.",
            "free.test": "mx A %s" % a(2),
            "p3.test": "@ MX 10 mx.free.test.",
        }

    def begin(self, vmtas=VMTAS):
        self.suite_ = self.suite(vmtas + CONF, knot=self.knot(self.zones))

    def send(self, rcpts, sender="a@sender.test", **headers):
        suite = self.suite_
        lines = ["%s: %s" % (k.replace("_", "-"), v) for k, v in headers.items()]
        with smtplib.SMTP(suite.address, suite.port, timeout=20) as s:
            s.sendmail(sender, rcpts, "\r\n".join(["Subject: test"] + lines + ["", "hello", ""]))

    def qmgr(self, *words, status=0):
        """posternctl qmgr WORDS: what it says, with that exit status."""
        done = self.suite_.ctl("qmgr", *words, check=False, parse=False)
        self.assertEqual(status, done.returncode, (words, done.stdout, done.stderr))
        return done.stderr.decode() if status else json.loads(done.stdout or b"null")

    def one(self, *words):
        """The only row of a list."""
        rows = self.qmgr(*words)
        self.assertEqual(1, len(rows), (words, rows))
        return rows[0]

    def text(self, *words):
        return self.suite_.ctl_text("qmgr", *words)

    def kill_qmgr(self):
        pid = sorted(self.suite_.workers("qmgr"))[0]
        os.kill(pid, signal.SIGKILL)
        wait_for("another qmgr", lambda: pid not in self.suite_.workers("qmgr"))
        self.wait_serving()

    def wait_serving(self):
        def serving():
            done = self.suite_.ctl("qmgr", "status", check=False, parse=False)
            return done.returncode == 0 and json.loads(done.stdout)["state"] == "running"
        wait_for("qmgr serves", serving)

    def restart(self):
        self.assertEqual(0, self.suite_.stop())
        self.suite_.start()
        self.wait_serving()

    def kill_all(self):
        self.suite_.process.kill_all()
        self.suite_.start()
        self.wait_serving()

    def survives(self, what, condition):
        """It holds now, and after qmgr was killed, after all were, and after a clean restart."""
        wait_for(what, condition)
        for how in (self.kill_qmgr, self.kill_all, self.restart):
            how()
            wait_for("%s after %s" % (what, how.__name__), condition)

    def recipients(self):
        return sorted(r["recipient"] for r in self.qmgr("messages"))

    def mix(self):
        """Eight recipients that wait, of two tenants and a campaign, at two domains of one site."""
        self.send(["u1@dead.test", "u2@dead.test"], X_Tenant="acme", X_Job="news")
        self.send(["u3@dead.test"], X_Tenant="acme")
        self.send(["u4@twin.test"], X_Tenant="beta")
        self.send(["u5@dead.test"], sender="b@other.test")
        self.send(["u6@twin.test"], sender="")
        self.send(["u7@dead.test", "u8@twin.test"])
        wait_for("eight wait", lambda: len(self.qmgr("messages")) == 8)
        self.site = wait_for("one queue for both, with an error", lambda: [
            q for q in self.qmgr("queues") if q["recipients"] == 8 and q["last_error"]])[0]["queue"]


class Mail(Commands):
    def test_filters_choose_what_they_say(self):
        self.begin()
        self.mix()
        for words, n in ((["--tenant=acme"], 3), (["--campaign=news"], 2), (["--tenant=*"], 8),
                         (["--tenant=@*"], 3), (["--tenant="], 1), (["--tenant=acme", "--campaign="], 1),
                         (["--sender=b@other.test"], 1), (["--sender="], 1), (["--recipient=u*@twin.test"], 3),
                         (["--domain=twin.test"], 3), (["--queue=" + self.site], 8),
                         (["--queue=twin.test/main"], 3), (["--queue=%s/acme" % self.site], 3),
                         (["--queue=%s/acme/news" % self.site], 2), (["--queue=*/spare"], 0),
                         (["--older-than=1h"], 0), (["--domain=*.test", "--tenant=beta"], 1)):
            self.assertEqual(n, len(self.qmgr("messages", *words)), words)
            for verb in ("flush", "delete", "bounce"):
                self.assertEqual({"recipients": n, "dry_run": True},
                                 self.qmgr(verb, "--dry-run", *words) if n or words[0][:4] != "--qu" else
                                 {"recipients": 0, "dry_run": True}, (verb, words))
        time.sleep(1.1)
        self.assertEqual(8, len(self.qmgr("messages", "--older-than=1s")))
        self.assertEqual(8, self.qmgr("status")["recipients"])  # nothing of all this did anything

    def test_an_empty_filter_is_refused(self):
        self.begin()
        self.mix()
        for verb in ("flush", "delete", "bounce"):
            self.assertIn("--all", self.qmgr(verb, status=64))
            self.assertIn("--all", self.qmgr(verb, "--dry-run", status=64))
            self.assertIn("takes no value", self.qmgr(verb, "--all=no", status=64))
            self.assertIn("takes no value", self.qmgr(verb, "--all", "--dry-run=yes", status=64))
            self.assertIn("a time", self.qmgr(verb, "--older-than=soon", status=64))
            self.assertIn("no mail waits for none.test", self.qmgr(verb, "none.test", status=65))
        # --all beside a filter widens nothing
        self.assertEqual({"recipients": 3}, self.qmgr("delete", "--all", "twin.test"))
        self.assertEqual(5, self.qmgr("status")["recipients"])
        self.assertEqual({"recipients": 5}, self.qmgr("delete", "--all"))
        self.suite_.wait_empty()

    def test_delete_and_bounce_stay_done(self):
        sink = self.sink(2)
        self.begin()
        self.mix()
        self.assertEqual({"recipients": 2}, self.qmgr("delete", "--campaign=news"))
        self.send(["u9@dead.test"], sender="teller@live.test")
        wait_for("it waits", lambda: self.qmgr("messages", "--sender=teller@live.test"))
        self.assertEqual({"recipients": 1},
                         self.qmgr("bounce", "--sender=teller@live.test", "--text=we gave up: 100 % sure"))
        wait_for("the report arrives", lambda: sink.count() == 1)
        self.suite_.wait_log(r"to=<u9@dead.test>.*dsn=5\.7\.0, status=bounced \(.*we gave up: 100 % sure")
        left = ["u3@dead.test", "u4@twin.test", "u5@dead.test", "u6@twin.test", "u7@dead.test", "u8@twin.test"]
        self.survives("six are left", lambda: self.recipients() == left)
        self.assertEqual(1, sink.count())
        self.assertIn("1 to 300", self.qmgr("bounce", "--all", "--text=" + "x" * 301, status=64))

    def test_flush_makes_due_what_it_names(self):
        self.begin()
        self.mix()
        sink = self.sink(9)
        self.assertEqual({"recipients": 1}, self.qmgr("flush", "--tenant=beta"))
        # the queue's clock is forgotten: all whose turn it is go, and more than that one may
        wait_for("it is delivered", lambda: "u4@twin.test" not in self.recipients())
        self.qmgr("flush", "--all")
        self.suite_.wait_empty()
        self.assertEqual(7, sink.count())  # six messages, one of them to two domains


class Held(Commands):
    def queue(self, name):
        return self.qmgr("queue", name)

    def test_pause_and_resume(self):
        sink = self.sink(2)
        self.begin()
        self.send(["first@live.test"])  # where a domain's mail goes is known then
        self.suite_.wait_empty()
        for scope, name, rcpt, headers in (
                ("queue", "live.test/main", "q@live.test", {}),
                ("tenant", "acme", "t@live.test", {"X_Tenant": "acme"}),
                ("campaign", "acme/news", "c@live.test", {"X_Tenant": "acme", "X_Job": "news"}),
                ("vmta", "main", "v@live.test", {}),
                ("provider", "free", "p@p3.test", {})):
            count = sink.count()
            self.qmgr("pause", scope, name)
            self.send([rcpt], **headers)

            def held():
                rows = self.qmgr("suspensions")
                return [rcpt] == self.recipients() and len(rows) == 1 and rows[0]["scope"] == scope and \
                    rows[0]["kind"] == "pause" and "uid" in rows[0]["who"] and rows[0]["until"] is None
            self.survives("%s is paused" % scope, held)
            self.assertEqual(count, sink.count())
            why = self.one_why(rcpt)
            self.assertEqual(("paused", "%s %s" % (scope, name)), (why["state"], why["binding"].replace(
                "[mx.live.test]", "live.test")))
            self.assertIn("uid", why["who"])
            self.assertEqual(1, self.qmgr("resume", scope, name)["ended"])
            wait_for("%s goes on" % scope, lambda: sink.count() == count + 1)
            self.assertEqual([], self.qmgr("suspensions"))
            self.assertIn("nothing holds", self.qmgr("resume", scope, name, status=69))

    def one_why(self, rcpt):
        row = [r for r in self.qmgr("messages") if r["recipient"] == rcpt][0]
        return self.qmgr("why", "%s/%s" % (row["id"], rcpt))

    def test_a_pause_ends_by_itself(self):
        sink = self.sink(2)
        self.begin()
        self.assertFalse(self.qmgr("pause", "queue", "live.test/*")["known"])
        self.qmgr("resume", "queue", "live.test/*")
        self.send(["first@live.test"])
        self.suite_.wait_empty()
        answer = self.qmgr("pause", "queue", "live.test/*", "--for=3s")
        self.assertTrue(answer["known"])
        self.assertIsNotNone(answer["until"])
        self.send(["q@live.test"])
        wait_for("it waits", lambda: self.recipients() == ["q@live.test"])
        self.kill_qmgr()
        self.assertEqual(1, sink.count())
        wait_for("its time is over", lambda: sink.count() == 2)
        self.assertEqual([], self.qmgr("suspensions"))

    def test_a_tenant_at_one_destination(self):
        sink = self.sink(2)
        self.begin()
        self.qmgr("pause", "tenant", "acme", "--at=live.test")
        self.send(["a@live.test"], X_Tenant="acme")
        self.send(["a@p1.test"], X_Tenant="acme")
        self.send(["b@live.test"], X_Tenant="beta")
        wait_for("the others go", lambda: sink.count() == 2)
        self.assertEqual(["a@live.test"], self.recipients())
        self.assertIn("--at", self.qmgr("resume", "queue", "x/y", "--at=live.test", status=64))
        self.qmgr("resume", "tenant", "acme", "--at=live.test")
        self.suite_.wait_empty()

    def test_wrong_words(self):
        self.begin()
        for words, status in ((("pause", "planet", "x"), 64), (("pause", "queue"), 64),
                              (("pause", "queue", "x/y", "--for=never"), 64),
                              (("pause", "vmta", "nobody"), 69), (("pause", "provider", "nobody"), 69),
                              (("resume", "tenant", "nobody"), 69),
                              (("mode", "x/y", "slow"), 64), (("mode", "none.test/main", "backoff"), 69),
                              (("mode", "none.test/main", "normal", "--for=1h"), 64),
                              (("reset", "none.test/main"), 69), (("reroute", "none.test/main", "spare"), 69),
                              (("reroute", "none.test/main", "nowhere"), 69), (("why", "none.test/main"), 69),
                              (("why", "0123456789abcdef"), 69), (("explain", "live.test/nowhere"), 69),
                              (("rules", "nolist"), 69), (("queue", "none.test/main"), 69),
                              (("queues", "--largest=0"), 64), (("events", "--kin=x"), 64)):
            self.qmgr(*words, status=status)


class Steered(Commands):
    def test_mode(self):
        self.begin()
        self.mix()
        self.assertIsNotNone(self.one("mode", "twin.test/main", "backoff", "--for=2h")["until"])
        self.assertTrue([e for e in self.qmgr("queue", self.site)["events"] if e["kind"] == "mode"])

        def is_backoff():
            q = self.qmgr("queue", self.site)
            return q["mode"] == "backoff" and q["mode_until"] is not None
        self.survives("backoff", is_backoff)
        self.assertEqual([self.site], [q["queue"] for q in self.qmgr("queues", "--mode=backoff")])
        row = [r for r in self.qmgr("suspensions") if r["kind"] == "mode"]
        self.assertEqual([self.site], [r["name"] for r in row])
        self.qmgr("mode", self.site, "normal")
        self.survives("normal", lambda: self.qmgr("queue", self.site)["mode"] != "backoff")

    def test_reset_forgets_the_clock(self):
        self.begin()
        self.mix()
        self.qmgr("mode", self.site, "backoff")
        sink = self.sink(9)
        self.assertGreater(self.qmgr("queue", self.site)["failures"], 0)
        self.qmgr("reset", self.site)
        self.assertEqual("normal", self.qmgr("queue", self.site)["mode"])
        self.suite_.wait_empty()
        self.assertEqual(8, sum(r[2] for r in sink.ledger()))

    def test_reroute_moves_what_is_there(self):
        self.begin()
        self.mix()
        self.qmgr("reroute", self.site, "spare")
        spare = self.site.replace("/main", "/spare")
        self.survives("all have moved", lambda: {(q["queue"], q["recipients"]) for q in self.qmgr("queues")
                                                 if q["recipients"]} == {(spare, 8)})
        self.send(["u9@dead.test"])  # what comes later stays
        wait_for("it is where it belongs", lambda: [
            q for q in self.qmgr("queues") if q["queue"] == self.site and q["recipients"] == 1])


class Sources(Commands):
    def test_disable_and_enable(self):
        a = [self.address(1, 3), self.address(2, 3)]
        sink = self.sink(2)
        self.begin('virtual-mtas = ( { name = "main"; sources = ( { address = "%s"; }, { address = "%s"; } ); } );'
                   % tuple(a))
        self.suite_.ctl("smtp-out", "disable-source", a[0], "--for=2h")

        def disabled():
            rows = [r for r in self.qmgr("suspensions") if r["kind"] == "disable-source"]
            return len(rows) == 1 and rows[0]["name"] == a[0] and "uid" in rows[0]["who"] and rows[0]["until"]
        self.survives("it is disabled", disabled)
        for i in range(4):
            self.send(["u%d@live.test" % i])
        self.suite_.wait_empty()
        self.assertEqual({a[1]}, {row[1] for row in sink.ledger()})
        self.assertEqual([a[0]], [s["name"] for s in self.qmgr("queue", "live.test/main")["disabled_sources"]])
        self.suite_.ctl("smtp-out", "enable-source", a[0])
        self.survives("it is enabled", lambda: not disabled())


class Asked(Commands):
    def test_why(self):
        self.sink(2)
        self.begin()
        self.mix()
        self.send(["r%d@rate.test" % i for i in range(3)])
        self.send(["p%d@p1.test" % i for i in range(3)])
        self.send(["p9@p2.test"])
        wait_for("one is delivered, two wait", lambda: [
            q for q in self.qmgr("queues", "rate.test") if q["recipients"] == 2])
        wait_for("two are delivered, two wait", lambda: [
            q for q in self.qmgr("queues", "prov/main") if q["recipients"] == 2])
        why = self.qmgr("why", "rate.test/main")
        self.assertEqual("limit", why["state"])
        self.assertIn("max-msg-rate", why["binding"])
        self.assertIsNotNone(why["until"])
        binding = [x for x in why["limits"] if x["binding"]][0]
        self.assertEqual(("max-msg-rate", 1, "h", 1), tuple(binding[k] for k in ("name", "limit", "per", "burst")))
        self.assertIn("postern.conf:", binding["origin"])
        for key in ("name", "key", "limit", "used", "frees", "origin"):
            self.assertIn(key, binding)
        why = self.qmgr("why", "p2.test")  # a domain: where its mail is
        self.assertEqual("limit", why["state"])
        self.assertIn("prov", [x for x in why["limits"] if x["binding"]][0]["key"])
        why = self.qmgr("why", self.site)
        self.assertEqual("retry", why["state"])
        self.assertIsNotNone(why["until"])
        row = self.qmgr("messages", "--recipient=u4@twin.test")[0]
        for target in (row["id"], row["id"] + "/u4@twin.test"):
            why = self.qmgr("why", target)
            self.assertEqual(("retry", "u4@twin.test", 1),
                             (why["state"], why["recipient"], why["recipients"]))
        two = self.qmgr("messages", "--recipient=u1@dead.test")[0]["id"]
        self.assertEqual(2, len(self.qmgr("why", two)["recipients_waiting"]))
        self.qmgr("why", row["id"] + "/nobody@twin.test", status=69)
        for target in ("main", "acme", self.site + "/acme", self.site + "/acme/news"):
            self.assertIn("state", self.qmgr("why", target))
        said = self.text("why", "rate.test/main")
        self.assertRegex(said, r"^rate\.test/main waits: max-msg-rate 1/h of .*postern\.conf:\d+\) is used up; "
                               r"one more may go in .*2 recipients wait")
        self.assertIn("<- binds", said)

    def test_explain(self):
        self.sink(2)
        self.begin()
        self.send(["r@rate.test"])
        self.suite_.wait_empty()
        answer = self.qmgr("explain", "rate.test/main")
        values = {v["option"]: v for v in answer["values"]}
        self.assertEqual("7", values["max-smtp-out"]["value"])
        self.assertIn("postern.conf:", values["max-smtp-out"]["origin"])
        over = values["max-smtp-out"]["overrides"][0]
        self.assertEqual("9", over["value"])
        self.assertNotEqual(over["origin"], values["max-smtp-out"]["origin"])
        self.assertEqual("10m", values["retry-after"]["value"])
        self.assertEqual("default", values["smtp-greeting-timeout"]["origin"])
        self.assertEqual(1, answer["arithmetic"]["per_hour"])
        self.assertEqual("max-msg-rate", answer["arithmetic"]["binds"])
        said = self.text("explain", "rate.test")
        self.assertRegex(said, r"\n +over 9 \(.*postern\.conf:\d+\)")
        self.assertIn("1 recipient an hour; max-msg-rate binds", said)

    def test_explain_reckons_with_budgets(self):
        self.sink(2)
        self.begin()
        self.send(["p@p1.test"])
        self.suite_.wait_empty()
        answer = self.qmgr("explain", "p1.test")
        self.assertEqual(("prov", "main"), (answer["destination"], answer["vmta"]))
        self.assertEqual(2, answer["arithmetic"]["per_hour"])
        self.assertEqual("max-msg-rate of provider prov", answer["arithmetic"]["binds"])
        self.assertIn(("provider prov", 2), [(b["key"], b["limit"]) for b in answer["budgets"]])

    def test_limits(self):
        self.sink(2)
        self.begin()
        self.send(["p@p1.test"])
        self.suite_.wait_empty()
        rows = [r for r in self.qmgr("limits") if "prov" in r["key"] and r["name"] == "max-msg-rate"]
        self.assertEqual([(2, "h")], [(r["limit"], r["per"]) for r in rows])

    def test_rules_and_events(self):
        self.sink(2)
        self.begin()
        follower = subprocess.Popen([os.path.join(BIN, "posternctl"), "-c", self.suite_.conf, "--json", "qmgr",
                                     "events", "--follow"], stdout=subprocess.PIPE, start_new_session=True)
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        rules = self.qmgr("rules")
        self.assertEqual([("replies", 1, 0, None), ("replies", 2, 0, None)],
                         [(r["list"], r["index"], r["hits"], r["last_hit"]) for r in rules])
        self.assertEqual("2/10m", rules[0]["trigger"])
        self.assertEqual(["mode=backoff"], rules[0]["actions"])
        self.assertEqual("1h", rules[0]["for"])
        self.assertIn("postern.conf:", rules[0]["origin"])
        self.send(["defer-x@live.test"])  # the sink answers 451 4.7.1 not now
        rule = wait_for("a hit", lambda: [r for r in self.qmgr("rules", "repl*") if r["hits"]])[0]
        self.assertEqual(2, rule["index"])
        self.assertIsNotNone(rule["last_hit"])
        self.qmgr("pause", "vmta", "spare")
        event = None
        while event is None or event["kind"] != "hold":
            event = json.loads(follower.stdout.readline())
        self.assertIn("spare", event["scope"])
        self.assertIn("uid", event["who"])
        kept = self.qmgr("events", "--kind=hold")
        self.assertEqual([event], kept)

    def test_queue_shows_all_of_it(self):
        self.begin()
        self.mix()
        self.qmgr("pause", "queue", self.site)
        self.qmgr("pause", "tenant", "acme", "--at=dead.test")
        row = self.qmgr("queue", "dead.test/main")
        self.assertEqual(self.site, row["queue"])
        self.assertTrue(row["paused"])
        self.assertEqual({"queue", "tenant"}, {h["scope"] for h in row["holds"]})
        self.assertIn("error", {e["kind"] for e in row["events"]})
        self.assertTrue(row["limits"])
        self.assertEqual([self.site], [q["queue"] for q in self.qmgr("queues", "--paused")])
        said = self.text("queue", self.site)
        for word in (self.site + " is paused", "8 ready", "last error:", "held:", "events, the newest first:"):
            self.assertIn(word, said)

    def test_top_and_lists_for_people(self):
        self.begin()
        self.mix()
        self.send(["r@rate.test"])
        wait_for("two queues", lambda: len(self.qmgr("queues")) >= 2)
        self.assertEqual([self.site], [q["queue"] for q in self.qmgr("queues", "--largest=1")])
        picture = self.suite_.ctl("top", "--rows=1")
        self.assertEqual([self.site], [q["queue"] for q in picture["queues"]])
        said = self.suite_.ctl_text("top")
        self.assertIn(self.site, said)
        self.assertNotIn("\033", said)  # not a terminal: one picture, no codes
        for words in (["queues"], ["messages"], ["limits"], ["suspensions"], ["rules"], ["events"],
                      ["why", self.site], ["explain", "dead.test"], ["queue", self.site],
                      ["flush", "--all", "--dry-run"]):
            said = self.text(*words)
            self.assertNotIn("{", said, words)
            self.assertNotIn("posternctl:", said, words)
        self.assertIn("9 recipients would be made due now", self.text("flush", "--all", "--dry-run"))

    def test_who_is_kept(self):
        self.begin()
        env = dict(os.environ, SUDO_USER="mallory)\n(uid 0")
        subprocess.run([os.path.join(BIN, "posternctl"), "-c", self.suite_.conf, "qmgr", "pause", "vmta", "main"],
                       env=env, check=True, stdout=subprocess.DEVNULL)
        if os.getuid() == 0:
            self.assertEqual("malloryuid0 (uid 0)", self.one("suspensions")["who"])

    def test_answers_come_at_once_while_mail_flows(self):
        self.sink(2)
        self.begin()
        self.mix()
        self.started(open_source(self.directory, self.suite_.address, self.suite_.port, "-c", "4", "-m", "1000000",
                                 "-b", "1024", "-d", "live.test", "-t", "60", "-r", "2000"))
        wait_for("mail flows", lambda: self.qmgr("status")["since_start"]["delivered"] > 1000)
        for verb, name in (("queue", self.site), ("why", self.site), ("why", "acme")):
            took = sorted(self.ask_ms(verb, name) for _ in range(21))
            self.assertLess(took[10], 10, (verb, took))

    def ask_ms(self, verb, name):
        """Over the socket itself: starting a program takes longer than the answer."""
        import socket
        with socket.socket(socket.AF_UNIX) as s:
            began = time.monotonic()
            s.connect(os.path.join(self.suite_.directory, "run", "qmgr.0.sock"))
            s.sendall(json.dumps({"verb": verb, "args": [name]}).encode() + b"\n")
            said = b""
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                said += piece
            took = (time.monotonic() - began) * 1000
        self.assertIn(b'"status":0', said)
        return took


if __name__ == "__main__":
    unittest.main()

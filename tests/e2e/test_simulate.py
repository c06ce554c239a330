# SPDX-License-Identifier: ISC
"""posternctl simulate as an operator meets it: the example that is installed, its figures and its plot, and
what is said of a wrong file. No suite runs."""
import json
import os
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as xml

from harness import BIN

EXAMPLE = os.path.join(os.path.dirname(__file__), "../../conf/simulation.conf")


def simulate(*args):
    return subprocess.run([os.path.join(BIN, "posternctl"), "simulate", *args], capture_output=True, text=True)


class Simulate(unittest.TestCase):
    def test_example(self):
        with tempfile.TemporaryDirectory() as d:
            plot = os.path.join(d, "day.svg")
            ran = simulate(EXAMPLE, "--json", "--plot=" + plot)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            r = json.loads(ran.stdout)
            picture = xml.parse(plot).getroot()
            self.assertEqual(simulate(EXAMPLE, "--plot=" + plot).returncode, 73)  # it is there already
            self.assertEqual(simulate(EXAMPLE, "--plot=" + plot, "--force").returncode, 0)
        self.assertEqual(r["accepted"], r["delivered"] + r["bounced"] + r["expired"] + r["left"])
        self.assertEqual(r["left"], 0)
        tenants = {t["tenant"]: t for t in r["tenants"]}
        self.assertEqual(tenants["shop"]["accepted"], 40000)
        receivers = {t["receiver"]: t for t in r["receivers"]}
        # Four were let in from each of two addresses, five were tried: that is what it is for.
        self.assertEqual(receivers["microsoft"]["source_connections_peak"], 4)
        self.assertGreater(receivers["microsoft"]["refused"], 0)
        queues = {q["queue"]: q for q in r["queues"]}
        held = max(queues["google/mta2"]["held"], key=lambda h: h["for"])
        self.assertEqual(held["by"], "max-msg-rate")
        modes = [(e["from"], e["to"]) for e in r["events"] if e["kind"] == "mode" and e["scope"] == "google/mta1"]
        self.assertEqual(modes, [("normal", "backoff"), ("backoff", "recovery"), ("recovery", "normal")])
        self.assertGreater(queues["google/mta1"]["backoff"], 3600)
        self.assertEqual(queues["google/mta2"]["backoff"], 0)
        holds = [e for e in r["events"] if e["kind"] == "hold"]
        self.assertEqual([h["scope"] for h in holds], ["tenant shop at google"])
        self.assertAlmostEqual(holds[0]["until"] - holds[0]["at"], 3 * 3600, delta=1)
        # The bank's mail goes on meanwhile: its longest wait is not the shop's.
        self.assertLess(tenants["bank"]["delay_max"], tenants["shop"]["delay_max"])
        lines = [e for e in picture.iter() if e.tag.endswith("polyline")]
        self.assertEqual(len(lines), 2 * len(receivers))

    def test_people_see_it_too(self):
        ran = simulate(EXAMPLE)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        for word in ("Queues", "google/mta1", "held", "Receivers", "worst minute", "Tenants", "Rules that fired",
                     "backoff > recovery"):
            self.assertIn(word, ran.stdout)

    def test_wrong_files(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write('listeners = ( { port = 25; } );\nsimulation = {\n\tloads = ( { rate = "1/s"; } );\n};\n')
            f.flush()
            ran = simulate(f.name)
            self.assertEqual(ran.returncode, 78)
            self.assertIn(f.name + ":3: a load needs recipients", ran.stderr)
            f.seek(0)
            f.truncate()
            f.write('listeners = ( { port = 25; } );\n')
            f.flush()
            ran = simulate(f.name)
            self.assertEqual((ran.returncode, ran.stdout), (78, ""))
            self.assertIn("no group simulation", ran.stderr)
        self.assertEqual(simulate("/nonexistent.conf").returncode, 78)
        self.assertEqual(simulate().returncode, 64)
        self.assertEqual(simulate(EXAMPLE, "--colour").returncode, 64)


if __name__ == "__main__":
    unittest.main()

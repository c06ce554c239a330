#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""Runs the stages of `make check` (or, with --long, of `make check-long`) and closes with one line
"N passed, N failed" over all kinds of tests. A stage that says no count of its own counts as one test."""
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$")
JOBS = str(os.cpu_count() or 2)


def make(*words, build=BUILD):
    return ["make", "-s", "-j" + JOBS, "-C", ROOT, "BUILD=" + build, *words]


def stages(long):
    seconds = 600 if long else 10
    kills = "1000" if long else "100"
    yield "build with gcc", make("all", "units"), {}
    yield "build with clang", make("all", "units", "CC=clang", build=BUILD + "/clang"), {}
    yield "lint", make("lint"), {}
    yield "manual pages", make("man-lint"), {}
    yield "unit and property tests, as they ship", make("unit"), {}
    yield "unit and property tests, address and undefined-behaviour sanitizers", make(
        "unit", "SAN=address,undefined", build=BUILD + "/asan"), {}
    if long:
        yield "unit and property tests under valgrind", make("unit-valgrind"), {}
    yield "fuzz, %d s a target" % seconds, ["python3", ROOT + "/tests/fuzz.py", str(seconds)], {}
    yield "end to end", ["python3", ROOT + "/tests/e2e/run.py"], dict({"KILLS": kills}, **({"LONG": "1"} if long else {}))
    if long:
        yield "build with sanitizers", make("all", "SAN=address,undefined", build=BUILD + "/asan"), {}
        yield "end to end, sanitizers", ["python3", ROOT + "/tests/e2e/run.py"], {
            "BUILD": BUILD + "/asan", "KILLS": "200", "KILL_RATE": "500",
            "ASAN_OPTIONS": "detect_leaks=0"}


def run(title, argv, env):
    """Streams the stage's output; returns (passed, failed, skipped)."""
    print("=== %s" % title, flush=True)
    began = time.monotonic()
    counts = None
    child = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env=dict(os.environ, BUILD=BUILD, **env)
                             if "BUILD" not in env else dict(os.environ, **env))
    for raw in child.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        match = CLOSING.match(line)
        if match:
            counts = tuple(int(n or 0) for n in match.groups())
            line = "    " + line  # only our own closing line stands alone
        print(line, flush=True)
    status = child.wait()
    if counts is None:
        counts = (int(status == 0), int(status != 0), 0)
    elif status != 0 and counts[1] == 0:
        counts = (counts[0], 1, counts[2])
    print("=== %s: %d s, %s" % (title, time.monotonic() - began, "ok" if status == 0 else "FAILED"),
          flush=True)
    return counts


def main():
    total = [0, 0, 0]
    for title, argv, env in stages("--long" in sys.argv):
        for i, n in enumerate(run(title, argv, env)):
            total[i] += n
    print("%d passed, %d failed%s" % (total[0], total[1], ", %d skipped" % total[2] if total[2] else ""))
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())

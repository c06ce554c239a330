#!/usr/bin/env python3
# SPDX-License-Identifier: ISC
"""Builds every fuzz target and runs each for SECONDS (first argument), two at a time, from its corpus in
tests/fuzz/PROGRAM/corpus/TARGET where there is one. Closes with "N passed, N failed"."""
import concurrent.futures
import glob
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
SECONDS = sys.argv[1] if len(sys.argv) > 1 else "20"


def fuzz(source):
    program, name = source.split(os.sep)[-2], os.path.basename(source)[:-2]
    binary = os.path.join(BUILD, "tests", "fuzz", program, name)
    seeds = os.path.join(ROOT, "tests", "fuzz", program, "corpus", name)
    work = tempfile.mkdtemp(prefix="postern-fuzz-")
    try:
        argv = [binary, "-max_total_time=" + SECONDS, "-timeout=10", "-rss_limit_mb=2048",
                "-print_final_stats=1", "-artifact_prefix=%s/" % work, work]
        if os.path.isdir(seeds):
            argv.append(seeds)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, cwd=work)
        text = done.stdout.decode(errors="replace")
        runs = [l for l in text.splitlines() if "number_of_executed_units" in l]
        found = glob.glob(work + "/crash-*") + glob.glob(work + "/timeout-*") + glob.glob(work + "/oom-*")
        for path in found:
            shutil.copy(path, os.path.join(BUILD, os.path.basename(path) + "." + name))
        return name, done.returncode, (runs or ["?"])[0].split()[-1], text
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    sources = sorted(glob.glob(os.path.join(ROOT, "tests", "fuzz", "*", "fuzz_*.c")))
    built = subprocess.run(["make", "-s", "-j2", "-C", ROOT, "BUILD=" + BUILD, "fuzzers"])
    failed = int(built.returncode != 0)
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        for name, status, runs, text in pool.map(fuzz, sources):
            print("%-28s %s runs %s" % (name, runs, "ok" if status == 0 else "FAILED"), flush=True)
            if status == 0:
                passed += 1
            else:
                failed += 1
                print(text[-6000:])
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

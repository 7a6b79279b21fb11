"""BENCHMARKS.md: medians, goals, and where they come from."""

import dataclasses
import datetime
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys

from corpora import describe
from files import GIB, MIB, count_files
from jobs import KINDS, corpus_of, does, kind_of
from options import ROOT
from systems import SYSTEMS


@dataclasses.dataclass(frozen=True)
class Goal:
    """A limit to gridfs's median of `field` ("seconds", "bytes", or "rate" in GB/s), or to its share of `of`'s."""

    job: str
    field: str
    of: str
    limit: float
    at_least: bool = False


GOALS = [
    Goal("store-L", "seconds", "restic", 0.40),
    Goal("store-L", "seconds", "cp", 0.70),
    Goal("store-L", "bytes", "tar", 1.03),
    Goal("second-L", "seconds", "restic", 0.15),
    Goal("store-T", "bytes", "restic", 0.92),
    Goal("further-L", "bytes", "restic", 1.00),
    Goal("restore-L", "seconds", "restic", 0.40),
    Goal("store-file", "rate", "", 1.0, at_least=True),
    Goal("restore-file", "rate", "", 1.5, at_least=True),
]


SEEN = """\
The commands start in `$TREE` and see no settings or caches but those made for them. `GRID_HOME`, `RESTIC_REPOSITORY`
and `BORG_REPO` are `$REPO`. Cache MB is what may be deleted and is made again when needed: the caches of restic, borg
and casync, which lie beside `$REPO` and are not in MB, and gridfs's index, which lies in `$REPO` and is in MB.
`restic init` and `borg init -e none` are not timed; `gridfs put` makes its own store. gridfs, restic and borg sync by
themselves what they store. restic encrypts, the others don't."""


def table(head, rows):
    """A Markdown table with aligned columns; all but the first two to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    left, right = widths[:2], widths[2:]
    rule = "|".join(["-" * (width + 2) for width in left] + ["-" * (width + 1) + ":" for width in right])

    def line(row):
        cells = [cell.ljust(width) for cell, width in zip(row[:2], left)]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], right)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])


def spread(values, unit=1):
    """Median (minimum-maximum)."""
    if not values:
        return ""
    points = statistics.median(values), min(values), max(values)
    median, least, most = (f"{round(value / unit, 2) + 0.0:,.2f}" for value in points)  # + 0.0: no -0.00
    return median if least == most else f"{median} ({least}-{most})"


def results(bench):
    rows = []
    for job in bench.jobs:
        for system in bench.systems:
            if not does(system, job):
                continue
            if (corpus_of(job), system.name) in bench.failures:
                rows.append([job, system.title, "failed", "", "", ""])
                continue
            seconds = spread(bench.values(job, system.name, "seconds"))
            rate = spread(bench.values(job, system.name, "rate")) if kind_of(job) in ("store", "restore") else ""
            size = spread(bench.values(job, system.name, "bytes"), 1e6)
            cache = spread(bench.values(job, system.name, "cache_bytes"), 1e6)
            rows.append([job, system.title, seconds, rate, size, cache])
    return table(["job", "system", "seconds", "GB/s", "MB", "cache MB"], rows)


def full_size(bench, corpus):
    """The goals for a file are for 1 GiB; a smaller one says too little."""
    return corpus != "file" or bench.plain_bytes[corpus] == GIB


def judged(bench, goal):
    """A goal's row."""
    ours = bench.values(goal.job, "gridfs", goal.field)
    theirs = bench.values(goal.job, goal.of, goal.field) if goal.of else [1.0]
    unit = {"seconds": "time", "bytes": "size", "rate": "GB/s"}[goal.field]
    title = unit + (f" / {next(system.title for system in SYSTEMS if system.name == goal.of)}" if goal.of else "")
    limit = f"{'>=' if goal.at_least else '<='} {goal.limit:.2f}"
    if not ours or not theirs or not statistics.median(theirs):
        return [goal.job, title, "", limit, "not measured"]
    share = statistics.median(ours) / statistics.median(theirs)
    met = share >= goal.limit if goal.at_least else share <= goal.limit
    return [goal.job, title, f"{share:.4f}", limit, "met" if met else "not met"]


def legend(bench):
    """What the jobs and the corpora are, and what each system runs."""
    lines = []
    for job in bench.jobs:
        versions = ", ".join(path.name for path in bench.further)
        lines.append(f"- **{job}**: " + KINDS[kind_of(job)].format(corpus=corpus_of(job), versions=versions))
    for corpus, tree in bench.trees.items():
        sizes = f"files: {count_files(tree):,}, bytes: {bench.plain_bytes[corpus]:,}"
        lines.append(f"- **{corpus}**: {describe(corpus, tree)}; {sizes}")
    rows = []
    for system in bench.systems:
        store, restore = (command.replace("|", "\\|") for command in (system.store, system.restore))
        rows.append(f"| {system.title} | `{store}` | `{restore}` |")
    return "\n".join([*lines, "", "| system | stores with | restores with |", "|---|---|---|", *rows, "", SEEN])


def first_line(command):
    said = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return next(iter((said.stdout + said.stderr).splitlines()), "unknown")


def machine(work):
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.M)
    quoted = shlex.quote(str(work))
    return [
        f"CPU: {cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        f"memory: {int(memory[1]) / MIB:.1f} GiB",
        f"kernel: {platform.system()} {platform.release()}",
        f"file system: {first_line(f'findmnt -no FSTYPE,OPTIONS -T {quoted}')}",
    ]


def circumstances(work, load, systems, path, rounds):
    """Where, when and how it was measured."""
    program = pathlib.Path(sys.argv[0]).resolve().relative_to(ROOT)
    return [
        f"date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        *machine(work),
        f"load average when measuring began: {load:.2f}",
        f"source tree: {first_line(f'git -C {shlex.quote(str(ROOT))} describe --always --dirty')}",
        "programs: " + "; ".join(first_line(f"PATH={shlex.quote(path)} {system.version}") for system in systems),
        f"command: `{shlex.join([str(program), *sys.argv[1:]])}`, rounds: {rounds}",
    ]


def write(path, section):
    """Puts a section, which begins with a title of its own, in place of its elder of the same title, or at the end."""
    old = path.read_text() if path.exists() else ""
    sections = {part.partition("\n")[0]: part.strip() for part in re.split(r"^(?=# Benchmarks)", old, flags=re.M)}
    sections[section.partition("\n")[0]] = section.strip()
    path.write_text("\n\n".join(filter(None, sections.values())) + "\n")


def report(bench, facts):
    """The first section of BENCHMARKS.md: the store."""
    failures = [f"{system}, {reason}" for (_, system), reason in bench.failures.items()]
    goals = [judged(bench, goal) for goal in GOALS if goal.job in bench.jobs and full_size(bench, corpus_of(goal.job))]
    parts = [
        "# Benchmarks",
        "Written by `tests/bench/store`; its `--help` says how to repeat it. Figures are medians; with several rounds"
        " (minimum-maximum) is beside them.",
        "\n".join(f"- {fact}" for fact in facts),
        *(["## Goals", table(["job", "gridfs's", "measured", "goal", "result"], goals)] if goals else []),
        "## Results", results(bench),
        *(["Failed, and left out of that corpus:", "\n".join(["```text", *failures, "```"])] if failures else []),
        "## What the rows mean", legend(bench),
    ]
    return "\n\n".join(parts) + "\n"

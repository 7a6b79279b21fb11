"""What is measured of a mount: how fast one process reads and looks."""

import dataclasses
import mmap
import os
import pathlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable

from files import GIB, MIB
from process import Failed

LOOP_S = 1.0
REPEATS = 5
CALLS = 200
THROUGH_BYTES = 10 * GIB


@dataclasses.dataclass
class View:
    """What a mounted system shows."""

    places: dict  # of the corpora
    results: list  # small files that are known
    grid: object  # the system itself if it is gridfs
    loops: object
    round: int
    run_ms: float = 0.0  # the module's own, in the calls of "pending"


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def read_whole(path, buffer):
    """Reads a file in pieces of `buffer`'s size; answers its bytes."""
    total = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total


def read_tree(root):
    """Reads all files below `root`; answers how many, their bytes, and the seconds taken."""
    buffer = memoryview(bytearray(MIB))
    files, total, started = 0, 0, time.perf_counter()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                total += read_whole(path, buffer)
                files += 1
    return files, total, time.perf_counter() - started


def map_whole(path, _):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped[:: mmap.PAGESIZE]


def file_rate(path, how, times):
    size, buffer = path.stat().st_size, memoryview(bytearray(MIB))
    return statistics.median(size / seconds(lambda: how(path, buffer)) / 1e9 for _ in range(times))


def open_read_close(path):
    file = os.open(path, os.O_RDONLY)
    os.read(file, MIB)
    os.close(file)


def first_calls(view):
    """Median milliseconds until a result is there that was never asked for, of a module that is loaded, less what the
    module itself takes."""
    warm, *calls = view.grid.calls(f"round {view.round}", CALLS + 1)
    open_read_close(warm)
    before = runs(view)
    took = statistics.median(seconds(lambda: open_read_close(call)) for call in calls)
    count, own = (after - before for after, before in zip(runs(view), before))
    if count != CALLS:
        raise Failed(f"{count:.0f} runs for {CALLS} calls")
    view.run_ms = own / count * 1e3
    return took * 1e3 - view.run_ms


def runs(view):
    """Runs of modules so far, and the seconds that they took."""
    metrics = dict(line.rsplit(" ", 1) for line in (view.grid.mnt / ".grid/metrics").read_text().splitlines())
    return [float(metrics[f"gridfs_{name}_total"]) for name in ("runs", "run_seconds")]


class Loops:
    """Opens or looks at many files in turn: compiled if there is a C compiler, else in Python, which costs about 2 us
    more each time."""

    def __init__(self, work):
        self.program = None
        if compiler := shutil.which("cc"):
            self.program = work / "loops"
            source = pathlib.Path(__file__).with_name("loops.c")
            subprocess.run([compiler, "-O2", "-o", self.program, source], check=True, timeout=60)
        self.how = "loops.c" if self.program else "Python, for want of cc"

    def rate(self, kind, paths):
        if not self.program:
            return self.in_python(kind, paths)
        command = [self.program, kind, str(LOOP_S)]
        ran = subprocess.run(command, input="".join(f"{path}\n" for path in paths), capture_output=True, text=True)
        if ran.returncode != 0:
            raise Failed(f"loops {kind}: {ran.stderr.strip()}")
        return float(ran.stdout)

    @staticmethod
    def in_python(kind, paths):
        done, started = 0, time.perf_counter()
        while (now := time.perf_counter()) < started + LOOP_S:
            for path in paths[:64]:
                os.stat(path) if kind == "stat" else open_read_close(path)
                done += 1
        return done / (now - started)


def memory(view):
    """The most resident memory in MiB that the daemon had so far, after reads that neither the page cache nor a plain copy
    answered: how a file is read is settled when it is opened."""
    buffer, left = memoryview(bytearray(MIB)), THROUGH_BYTES
    with open(view.places["file"], "rb", buffering=0) as file:
        while left > 0:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            while count := file.readinto(buffer):
                left -= count
    status = pathlib.Path(f"/proc/{view.grid.pid()}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@dataclasses.dataclass(frozen=True)
class Probe:
    name: str
    of: str  # the corpus; "grid" for what only gridfs does
    unit: str
    measure: Callable[[View], float]
    meaning: str


def mb_per_s(root):
    _, total, taken = read_tree(root)
    return total / taken / 1e6


def files_per_s(root):
    files, _, taken = read_tree(root)
    return files / taken


PROBES = [
    Probe(
        "read-T", "T", "MB/s", lambda view: mb_per_s(view.places["T"]),
        "T is read, file by file, for the first time since it was mounted",
    ),
    Probe(
        "read-fs", "fs", "files/s", lambda view: files_per_s(view.places["fs"]),
        "the same with the directory fs of L",
    ),
    Probe(
        "read-file", "file", "GB/s", lambda view: file_rate(view.places["file"], read_whole, 1),
        "random bytes are read, 1 MiB at a time, for the first time since they were mounted",
    ),
    Probe(
        "memory", "grid", "MiB", memory,
        f"the most memory that the daemon had, after {THROUGH_BYTES // GIB} GiB more were read through it",
    ),
    Probe(
        "again", "file", "GB/s", lambda view: file_rate(view.places["file"], read_whole, REPEATS),
        f"the same file again, by gridfs after the reads of memory, which leave a plain copy; median of {REPEATS}",
    ),
    Probe(
        "mmap", "file", "GB/s", lambda view: file_rate(view.places["file"], map_whole, REPEATS),
        f"the same file mapped, and a byte of every page looked at; median of {REPEATS}",
    ),
    Probe(
        "open", "small", "per s", lambda view: view.loops.rate("open", view.results),
        "open, read and close of small files in turn: results of wc that are known",
    ),
    Probe(
        "stat", "small", "per s", lambda view: view.loops.rate("stat", view.results),
        "stat of the same paths in turn",
    ),
    Probe(
        "pending", "grid", "ms", first_calls,
        f"what gridfs adds to open, read and close of a result of wc that is not known yet, of a file of 1 KiB: median of"
        f" {CALLS}, less run",
    ),
    Probe(
        "run", "grid", "ms", lambda view: view.run_ms,
        "how long the module itself ran, from instantiation to its result put into the store: mean of the same calls",
    ),
]

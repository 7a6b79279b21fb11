"""Measuring: rounds of jobs, each with every system."""

import dataclasses
import os
import time

from files import apparent_bytes, remove
from jobs import corpus_of, does, kind_of
from process import Failed, clean, run, say

REST_S = 65
VERIFY = """\
diff -rq --no-dereference "$TREE" "$OUT"
executables() { cd "$1" && find . -type f -perm -u+x | sort; }
if [ -d "$TREE" ]; then diff <(executables "$TREE") <(executables "$OUT"); fi"""


@dataclasses.dataclass
class Sample:
    round: int
    job: str
    system: str
    seconds: float
    bytes: int | None
    cache_bytes: int | None


class Trial:
    """One system at one corpus in one round, from the empty repository on. Each job answers seconds and, if it stores,
    what that added to the repository and to the system's cache."""

    def __init__(self, work, system, corpus, tree, further, checked):
        self.system = system
        self.tree = tree
        self.versions = further
        self.checked = checked  # the kinds of job whose outcome is compared with the tree
        self.work = work
        home = work / f"{corpus}.{system.name}"
        self.home = home
        self.repo = home / "repo"
        self.cache = home / "cache"
        self.outs = 0

    def store(self):
        self.home.mkdir()
        self.repo.mkdir()
        self.cache.mkdir()
        if self.system.init:
            self.run(self.system.init, self.tree, "")
        seconds, _, _ = self.add(self.tree, "first", "store" in self.checked)
        return seconds, *self.sizes()

    def second(self):
        return self.add(self.tree, "second", "second" in self.checked)

    def further(self):
        check = "further" in self.checked
        added = [self.add(tree, f"further-{tree.name}", check) for tree in self.versions]
        return tuple(map(sum, zip(*added)))

    def restore(self):
        return self.restored(self.tree, "first", "restore" in self.checked), None, None

    def add(self, tree, name, check):
        repo, cache = self.sizes()
        seconds = self.timed(self.system.store, tree, name)
        repo_after, cache_after = self.sizes()
        if check:
            self.restored(tree, name, check)
        return seconds, repo_after - repo, cache_after - cache

    def sizes(self):
        """Of the repository, and of the cache wherever it is."""
        inside = [self.repo / name for name in self.system.caches_inside]
        return apparent_bytes(self.repo), sum(map(apparent_bytes, [self.cache, *inside]))

    def restored(self, tree, name, check):
        """Restores what was stored as `name`, to a place of its own; answers the seconds."""
        self.outs += 1
        seconds = self.timed(self.system.restore, tree, name)
        if check:
            self.run(VERIFY, tree, name)
        return seconds

    def timed(self, command, tree, name):
        # Not `tar -cf /dev/null`, which reads no file.
        self.run('tar -cf - "$TREE" "$REPO" | cat >/dev/null', tree, name)
        os.sync()
        return self.run(command, tree, name)

    def run(self, command, tree, name):
        return run(command, self.environment(tree, name), tree if tree.is_dir() else self.work, self.work / "log")

    def environment(self, tree, name):
        """All that a command sees: nothing of the user's own settings, caches or repositories."""
        return {
            **clean(self.work),
            "TREE": str(tree),
            "REPO": str(self.repo),
            "CACHE": str(self.cache),
            "NAME": name,
            "OUT": str(self.home / f"out.{self.outs}"),
            "GRID_HOME": str(self.repo),
            "RESTIC_REPOSITORY": str(self.repo),
            "RESTIC_CACHE_DIR": str(self.cache),
            "RESTIC_PASSWORD": "benchmark",
            "BORG_REPO": str(self.repo),
            "BORG_BASE_DIR": str(self.cache),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def clear(self):
        remove(self.home)


class Bench:
    """A run: what was measured, and who failed. A system that failed at a corpus is left out there from then on."""

    def __init__(self, work, systems, jobs, trees, further):
        self.work = work
        self.systems = systems
        self.jobs = jobs
        self.trees = trees
        self.plain_bytes = {corpus: apparent_bytes(tree) for corpus, tree in trees.items()}
        self.further = further
        self.samples = []
        self.failures = {}

    def round(self, number):
        """Nothing is deleted before the end of the round, and then the disk rests: ext4 is slow to create files for a
        minute after many were deleted, because it passes over each inode that was in use a minute ago."""
        turn = (number - 1) % len(self.systems)
        order = self.systems[turn:] + self.systems[:turn]
        trials = []
        if number > 1:
            time.sleep(REST_S)
        try:
            for corpus, tree in self.trees.items():
                checked = self.checked(corpus) if number == 1 else set()
                here = [
                    Trial(self.work, system, corpus, tree, self.further, checked)
                    for system in order
                    if corpus in system.corpora
                ]
                trials += here
                for job in (job for job in self.jobs if corpus_of(job) == corpus):
                    for trial in here:
                        self.measure(number, job, trial)
        finally:
            for trial in trials:
                trial.clear()
            os.sync()

    def checked(self, corpus):
        """A store needs no comparison of its own if what it stored is restored and compared anyway."""
        return {"second", "further", "restore" if f"restore-{corpus}" in self.jobs else "store"}

    def measure(self, number, job, trial):
        kind, corpus, name = kind_of(job), corpus_of(job), trial.system.name
        if (corpus, name) in self.failures or not does(trial.system, job):
            return
        where = f"round {number}  {job:12}  {name:8}"
        try:
            seconds, size, cache = getattr(trial, kind)()
        except Failed as error:
            self.failures[corpus, name] = f"{job}: {error}"
            say(f"{where}  FAILED: {error}")
            return
        self.samples.append(Sample(number, job, name, seconds, size, cache))
        say(f"{where}  {seconds:8.2f} s" + (f"  {size:14,} B" if size is not None else ""))

    def values(self, job, system, field):
        """The samples of a field; none if the system failed. "rate" is in GB/s of the corpus's plain bytes."""
        if (corpus_of(job), system) in self.failures:
            return []
        samples = [sample for sample in self.samples if (sample.job, sample.system) == (job, system)]
        if field == "rate":
            size = self.plain_bytes[corpus_of(job)]
            return [size / sample.seconds / 1e9 for sample in samples]
        return [value for sample in samples if (value := getattr(sample, field)) is not None]

"""The file systems that are measured: how they take in the corpora, are mounted, and show them."""

import dataclasses
import os
import shlex
import socket
import struct

from files import remove
from process import Failed, clean, run

KIB = 1 << 10


@dataclasses.dataclass(frozen=True)
class Mountable:
    """A program under measurement. Its commands are bash; they see $REPO (a directory) and $MNT (an empty one);
    {sources} stands for what to store."""

    name: str
    title: str
    programs: tuple
    package: str
    version: str
    store: str
    mount: str
    shown: str = ""  # where below $MNT it shows {source}, of base name {name}


NATIVE = Mountable("native", "ext4", ("true",), "", "echo Linux $(uname -r)", ":", ":")
# restic stays in the foreground; `kill -0` fails the command if it ends before the mount answers.
MOUNTABLES = [
    Mountable(
        "gridfs", "gridfs", ("gridfs",), "", "gridfs --version",
        store='for source in {sources}; do gridfs put --name "$(basename "$source")" "$source"; done',
        mount='gridfs mount "$MNT"',
        shown="local/cas/{name}",
    ),
    NATIVE,
    Mountable(
        "restic", "restic mount", ("restic", "fusermount3"), "restic fuse3", "restic version",
        store="restic init -q; restic backup -q {sources}",
        mount='restic mount --no-lock "$MNT" & '
        'until mountpoint -q "$MNT" && [ -e "$MNT/snapshots" ]; do kill -0 $!; sleep 0.1; done',
        shown="snapshots/latest{source}",
    ),
    *(
        Mountable(
            program, program, ("mksquashfs", program, "fusermount3"), "squashfs-tools squashfuse fuse3",
            f"{program} --help 2>&1 | grep -m1 ^squashfuse",
            store='mksquashfs {sources} "$REPO/img" -comp zstd -Xcompression-level 3 -quiet -no-progress',
            mount=f'{program} "$REPO/img" "$MNT"',
            shown="{name}",
        )
        for program in ("squashfuse", "squashfuse_ll")
    ),
]


class Mounted:
    """One system with the corpora in its repository, mounted or not."""

    def __init__(self, work, system):
        self.system = system
        self.work = work
        self.repo = work / f"repo.{system.name}"
        self.mnt = work / f"mnt.{system.name}"
        self.log = work / f"{system.name}.log"
        self.repo.mkdir()
        self.mnt.mkdir()

    def store(self, sources):
        self.run(self.system.store.format(sources=shlex.join(map(str, sources))))

    def mount(self, sources):
        """Mounts with everything that it reads from in the page cache."""
        read = shlex.join(map(str, sources if self.system is NATIVE else [self.repo]))
        self.run(f"tar -cf - {read} 2>/dev/null | cat >/dev/null")
        self.run(self.system.mount)

    def unmount(self):
        if os.path.ismount(self.mnt):
            self.run('gridfs umount "$MNT"' if self.system.name == "gridfs" else 'fusermount3 -u "$MNT"')

    def shown(self, source):
        """Where it shows what was stored from `source`."""
        if self.system is NATIVE:
            return source
        return (self.mnt / self.system.shown.format(source=source, name=source.name)).resolve()

    def run(self, command):
        environment = {
            **clean(self.work),
            "REPO": str(self.repo),
            "MNT": str(self.mnt),
            "GRID_HOME": str(self.repo),
            "RESTIC_REPOSITORY": str(self.repo),
            "RESTIC_CACHE_DIR": str(self.work / "cache"),
            "RESTIC_PASSWORD": "benchmark",
        }
        run(command, environment, self.work, self.log)

    def remove(self):
        """Unmounts and deletes, whatever state it is in."""
        try:
            self.unmount()
        except Failed:
            self.run('umount -l "$MNT"')
        remove(self.repo)
        self.mnt.rmdir()


class Grid(Mounted):
    """gridfs, which also computes."""

    def pid(self):
        """The daemon's."""
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(str(self.repo / "run/socket"))
            return struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]

    def calls(self, salt, count):
        """Paths of so many calls of wc that were never made, over files that are stored."""
        inputs = self.work / "inputs"
        inputs.mkdir()
        for number in range(count):
            text = f"{salt} {number}\n".encode()
            (inputs / str(number)).write_bytes((text * KIB)[:KIB])
        self.run(f"gridfs put {shlex.quote(str(inputs))}/*")
        cids = [line.split()[0] for line in self.log.read_text().splitlines() if line.startswith("baf")]
        remove(inputs)
        if len(set(cids)) != count:
            raise Failed(f"gridfs put printed {len(set(cids))} CIDs for {count} files; see {self.log}")
        module = (self.mnt / "local/wc").resolve()
        return [module / cid for cid in cids]


def keep_results(calls, mnt, place):
    """Copies results to `place`, under the paths that they have below the mount."""
    for call in calls:
        copy = place / call.relative_to(mnt)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(call.read_bytes())
    return place

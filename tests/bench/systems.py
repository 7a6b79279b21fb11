"""The programs that are measured, and what they run.

A store ends when the data is on disk: those that don't see to that themselves are followed by `sync -f`. zstd's level 3
is what gridfs and restic use; squashfs's own default is 15."""

import dataclasses
import shutil


@dataclasses.dataclass(frozen=True)
class System:
    """A program under measurement. Its commands are bash; they see $TREE (what to store; also where they start),
    $REPO (an empty directory at first), $NAME (of what is stored) and $OUT (where to restore; not there yet)."""

    name: str
    title: str
    programs: tuple
    package: str
    version: str
    store: str
    restore: str
    init: str = ""  # untimed
    caches_inside: tuple = ()  # what of $REPO may be deleted, as what is in $CACHE may
    corpora: tuple = ("L", "T")
    finds_old: bool = True  # else a second store would only be the first again, and is not measured


SYSTEMS = [
    System(
        "gridfs", "gridfs", ("gridfs",), "", "gridfs --version",
        store='gridfs put "$TREE" >"$REPO.$NAME.cid"',
        restore='read -r cid _ <"$REPO.$NAME.cid" && gridfs get "$cid" "$OUT"',
        caches_inside=("cache/index", "code"),
        corpora=("L", "T", "file"),
    ),
    System(
        "cp", "cp -r + sync", ("cp",), "coreutils", "cp --version",
        store='cp -r "$TREE" "$REPO/$NAME" && sync -f "$REPO"',
        restore='cp -r "$REPO/$NAME" "$OUT"',
        finds_old=False,
    ),
    System(
        "tar", "tar, zstd -1", ("tar", "zstd"), "zstd", "echo zstd $(zstd -qV)",
        store='tar -cf - . | zstd -q -1 -T2 -o "$REPO/$NAME.tar.zst" && sync -f "$REPO"',
        restore='mkdir "$OUT" && zstd -q -dc "$REPO/$NAME.tar.zst" | tar -xf - -C "$OUT"',
        finds_old=False,
    ),
    System(
        "restic", "restic", ("restic",), "restic", "restic version",
        init="restic init -q",
        store='restic backup -q --tag "$NAME" .',
        restore='restic restore -q latest --tag "$NAME" --target "$OUT"',
    ),
    System(
        "borg", "borg, lz4", ("borg",), "borgbackup", "borg --version",
        init="borg init -e none",
        store='borg create -C lz4 "::$NAME" .',
        restore='mkdir "$OUT" && cd "$OUT" && borg extract "::$NAME"',
    ),
    System(
        "casync", "casync, zstd", ("casync",), "casync", "casync --version",
        store='casync make --compression=zstd --cache="$CACHE" --store="$REPO/store" "$REPO/$NAME.caidx" "$TREE"'
        ' && sync -f "$REPO"',
        restore='casync extract --store="$REPO/store" "$REPO/$NAME.caidx" "$OUT"',
    ),
    System(
        "squashfs", "squashfs, zstd -3", ("mksquashfs", "unsquashfs"), "squashfs-tools", "mksquashfs -version",
        store='mksquashfs "$TREE" "$REPO/$NAME.img" -comp zstd -Xcompression-level 3 -quiet -no-progress'
        ' && sync -f "$REPO"',
        restore='unsquashfs -q -n -d "$OUT" "$REPO/$NAME.img"',
        finds_old=False,
    ),
    System(
        "dd", "dd; cp", ("dd", "cp"), "coreutils", "dd --version",
        store='dd if="$TREE" of="$REPO/$NAME" bs=1M conv=fdatasync status=none',
        restore='cp "$REPO/$NAME" "$OUT"',
        corpora=("file",),
    ),
]


def present(systems, path, leave_out):
    """Those whose programs are on `path`."""
    found = []
    for system in systems:
        missing = [program for program in system.programs if not shutil.which(program, path=path)]
        if not missing:
            found.append(system)
        else:
            leave_out(f"{system.name}: {missing[0]} is missing: apt-get install {system.package}")
    return found

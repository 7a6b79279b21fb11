"""Trees and files on the disk."""

import os
import shutil

MIB = 1 << 20
GIB = 1 << 30


def apparent_bytes(path):
    """The lengths of all files in `path`, or of the file `path`; 0 if there is nothing."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names
    )


def remove(path):
    """Removes a tree or a file, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def count_files(tree):
    return sum(len(names) for _, _, names in os.walk(tree)) if tree.is_dir() else 1

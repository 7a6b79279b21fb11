"""What is stored: fetched from packages, or used where it lies."""

import os
import pathlib
import re
import shlex
import shutil

from files import MIB, remove
from process import Failed, run, say

L_PACKAGE = "linux-source-6.1"
T_VERSIONS = ["5.0.4", "5.1.6", "5.2.2", "5.3.3", "5.4.5", "5.5.4", "5.6.3"]


class Unavailable(Exception):
    """A corpus can't be had here."""


class Corpora:
    """Trees to store, in `home`. What is there is used; what isn't is fetched, and there is either whole or not."""

    def __init__(self, home, scratch, file_bytes):
        self.home = home
        self.scratch = scratch
        self.file_bytes = file_bytes

    def get(self, corpus):
        """The path of "L", "T" or "file"."""
        if corpus == "file":
            return self.place(f"random-{self.file_bytes // MIB}MiB", self.random)
        path = self.place(corpus, {"L": self.linux, "T": self.typescript}[corpus])
        if corpus == "L":
            linux_release(path)
        return path

    def further(self):
        """The paths of the further versions of L."""
        found = [path.resolve() for path in (self.home / "further").glob("*") if path.suffix != ".part"]
        if not found:
            version = self.other_version()
            found = [self.place(f"further/{version}", lambda to: self.linux_version(to, version))]
        return sorted(found)

    def place(self, name, build):
        path, part = self.home / name, self.home / (name + ".part")
        if not path.exists():
            say(f"making {path}")
            remove(part)
            part.parent.mkdir(parents=True, exist_ok=True)
            build(part)
            part.rename(path)
        return path.resolve()

    def linux(self, to):
        installed = pathlib.Path(f"/usr/src/{L_PACKAGE}.tar.xz")
        to.mkdir()
        if installed.exists():
            self.command(f"tar -xJf {installed}", to)
        else:
            self.download(to, L_PACKAGE)

    def linux_version(self, to, version):
        to.mkdir()
        self.download(to, f"{L_PACKAGE}={version}")

    def download(self, to, package):
        self.command(
            f"apt-get -q download {package} && dpkg-deb -x ./*.deb deb && tar -xJf deb/usr/src/{L_PACKAGE}.tar.xz"
            " && rm -r deb ./*.deb",
            to,
        )

    def other_version(self):
        """The newest version that apt offers and that is another release of the kernel than L."""
        here = linux_release(self.get("L"))
        listing = self.command(f"apt-cache madison {L_PACKAGE}", self.home)
        offered = [line.split("|")[1].strip() for line in listing.splitlines() if line.count("|") == 2]
        others = [version for version in offered if version.split("-")[0] != here]
        if not others:
            raise Unavailable(f"apt offers no other release of {L_PACKAGE} than {here}: {', '.join(offered) or 'none'}")
        return others[0]

    def typescript(self, to):
        if not shutil.which("npm"):
            raise Unavailable("npm is missing: apt-get install npm")
        to.mkdir()
        names = " ".join(f"typescript@{version}" for version in T_VERSIONS)
        unpack = "".join(
            f" && mkdir {version} && tar -xzf typescript-{version}.tgz -C {version}" for version in T_VERSIONS
        )
        cache = shlex.quote(str(self.scratch / "npm"))
        self.command(f"npm pack --silent --cache {cache} {names}{unpack} && rm ./*.tgz", to)

    def random(self, to):
        with open(to, "wb") as file:
            for _ in range(self.file_bytes // MIB):
                file.write(os.urandom(MIB))

    def command(self, command, cwd):
        log = self.scratch / "fetch.log"
        try:
            run(command, None, cwd, log)
        except Failed as error:
            raise Unavailable(str(error)) from error
        return log.read_text()


def linux_release(tree):
    """Which release of the kernel the tree is, from its Makefile."""
    makefile = "".join(path.read_text() for path in tree.glob("*/Makefile"))
    numbers = [re.search(rf"^{key} = (\d+)$", makefile, re.M) for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if not all(numbers):
        raise Unavailable(f"{tree} is not the source of one kernel: remove it, or choose another --corpora")
    return ".".join(number[1] for number in numbers)


def describe(corpus, tree):
    if corpus == "L":
        return f"Debian's {L_PACKAGE}, {linux_release(tree)}"
    return {"T": f"npm's typescript {', '.join(T_VERSIONS)}", "file": "random bytes"}[corpus]

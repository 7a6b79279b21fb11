"""Running commands, bounded in time, and saying how it goes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

LIMIT_S = 1800


class Failed(Exception):
    """A command failed, took too long, or gave a wrong answer."""


def run(command, env, cwd, log):
    """Runs bash on `command` and returns the seconds it took. Its output goes to `log`. Whatever it started and left
    behind is ended when it takes too long or we are interrupted."""
    with open(log, "wb") as out:
        started = time.monotonic()
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0,
        )
        try:
            status = child.wait(timeout=LIMIT_S)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"took more than {LIMIT_S} s: {command}") from error
            raise
        seconds = time.monotonic() - started
    if status != 0:
        said = pathlib.Path(log).read_bytes()[-1000:].decode(errors="replace").strip()
        raise Failed(f"exit status {status}: {command}\n{said}")
    return seconds


def say(text):
    print(text, file=sys.stderr, flush=True)


def clean(work):
    """An environment without anything of the user's own settings; programs in `work`/bin go first."""
    return {
        "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
        "LC_ALL": "C.UTF-8",
    }

"""What the same programs take in wasmtime with its own WASI; printed by `cargo bench --bench engine`."""

import pathlib
import statistics
import sys
import tempfile
import time

from wasmtime import Config, Engine, ExitTrap, Linker, Module, Store, WasiConfig

CALLS = 500
MODULES = 30


def run(engine, linker, module, arguments, directory):
    wasi = WasiConfig()
    wasi.argv = ["module", *arguments]
    wasi.stdout_file = str(directory / "out")
    wasi.preopen_dir(str(directory / "in"), "/in")
    store = Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, module)
    try:
        instance.exports(store)["_start"](store)
    except ExitTrap as end:
        assert end.code == 0


def unseen(wasm, number):
    name = b"%08d" % number
    return wasm + bytes([0, len(name) + 1, len(name)]) + name


def median_us(times):
    return statistics.median(times) * 1e6


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def figures(path, arguments, directory):
    wasm = path.read_bytes()
    engine = Engine(Config())
    linker = Linker(engine)
    linker.define_wasi()
    one = lambda module: run(engine, linker, module, arguments, directory)
    module = Module(engine, wasm)
    code = module.serialize()
    return (
        median_us([timed(lambda: one(module)) for _ in range(CALLS)]),
        median_us([timed(lambda: one(Module.deserialize(engine, code))) for _ in range(CALLS)]),
        median_us([timed(lambda: one(Module(engine, unseen(wasm, number)))) for number in range(MODULES)]),
    )


def main():
    echo, wc = map(pathlib.Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        (directory / "in").mkdir()
        (directory / "in" / "1").write_bytes(b"two lines\nof words\n")
        small = figures(echo, ["hello"], directory)
        large = figures(wc, ["/in/1"], directory)
        assert (directory / "out").read_bytes().split()[:3] == [b"2", b"4", b"19"]
    for what, one, other in zip(("warm call", "from compiled code", "first call"), small, large):
        print(f"{'wasmtime from Python, ' + what:<34} {one:>12.1f} {other:>12.1f}")


main()

#!/usr/bin/env python3
"""convert.py [--rounds N]: phi3v convert -q against mlx_vlm.convert -q, in turn, on Phi-3.5-vision's shape with random weights.

Makes what it needs below target/bench and target/slow (15 GB). Files are read once before each run, so that they are in
the system's cache; times end when the new ones are on the disk, which phi3v waits for by itself.
Prints a table in Markdown: medians of seconds, the most memory, and the ratio of the seconds.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from run import PHI3V, ROOT, WORK, python, run


def checkpoint():
    out = ROOT / "target/slow/phi-3.5-vision-32"
    if not (out / "complete").exists():
        shutil.rmtree(out, ignore_errors=True)
        options = ["--shape", "phi-3.5-vision", "--tokenizer", "tests/golden/phi3v-tiny"]
        run("cargo", "run", "--release", "--quiet", "--example", "random_checkpoint", "--", *options, out, cwd=ROOT)
        (out / "complete").touch()
    return out


def measure(source, command):
    """Seconds, and the most memory of the process in bytes."""
    target = WORK / "converted"
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    for file in source.glob("*.safetensors"):
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass
    started = time.monotonic()
    child = subprocess.Popen([str(part) for part in command] + ["--hf-path", str(source), "--mlx-path", str(target)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    os.sync()
    seconds = time.monotonic() - started
    assert status == 0, command
    shutil.rmtree(target)
    return seconds, 1024 * usage.ru_maxrss


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    run("cargo", "build", "--release", "--quiet", cwd=ROOT)
    WORK.mkdir(parents=True, exist_ok=True)
    source, venv = checkpoint(), python("venv-mlx-vlm", "mlx-vlm==0.7.10", "mlx[cpu]")
    commands = {"phi3v": [PHI3V, "convert", "-q"], "mlx-vlm": [venv, "-m", "mlx_vlm", "convert", "-q"]}
    found = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(measure(source, command))
            print(name, found[name][-1], file=sys.stderr)
    print("| | seconds | memory, MB |\n|---|---|---|")
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in found.items()}
    for name, runs in found.items():
        print(f"| {name} | {medians[name]:.1f} | {max(memory for _, memory in runs) / 1e6:.0f} |")
    print(f"| ratio | {medians['mlx-vlm'] / medians['phi3v']:.1f} | |")


if __name__ == "__main__":
    main()

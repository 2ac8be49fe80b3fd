#!/usr/bin/env python3
"""run.py [--rounds N]: phi3v against llama.cpp and mlx-lm on this CPU, in turn, with random weights of the real shapes.

Makes what it needs below target/bench (about 9 GB, and 20 minutes the first time): llama.cpp from the sdist of
llama-cpp-python, built for this machine and for AVX2, and checkpoints with random weights. Needs cargo, a C++ compiler
and python3 with pip. Prints a table in Markdown: medians, and the ratio of those.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/bench"
HERE = Path(__file__).parent
PHI3V = ROOT / "target/release/phi3v"
LLAMA = "llama-cpp-python==0.3.36"


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def python(name, *packages):
    """A virtual environment with these packages, and its Python."""
    python, done = WORK / name / "bin/python", WORK / name / "complete"
    if not done.exists():
        run(sys.executable, "-m", "venv", "--clear", WORK / name)
        run(python, "-m", "pip", "install", "--quiet", *packages)
        done.touch()
    return python


def llama(name, *flags):
    """llama-bench, built with these flags of CMake."""
    binary = WORK / f"llama-{name}/bin/llama-bench"
    if not binary.exists():
        venv = python("venv-llama", "cmake", "ninja", "gguf", "numpy", "scikit-build-core")
        sources = WORK / "llama-sources"
        if not sources.exists():
            options = ["--no-deps", "--no-binary", "llama-cpp-python", "--no-build-isolation"]
            path = f"{venv.parent}:{os.environ['PATH']}"
            run(venv, "-m", "pip", "download", *options, "-d", WORK, LLAMA, env={**os.environ, "PATH": path})
            with tarfile.open(next(WORK.glob("llama_cpp_python-*.tar.gz"))) as archive:
                archive.extractall(sources)
        folder = next(sources.glob("*/vendor/llama.cpp"))
        off = ["LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER", "BUILD_SHARED_LIBS"]
        settings = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{name}=OFF" for name in off), *flags]
        ninja = f"-DCMAKE_MAKE_PROGRAM={venv.parent}/ninja"
        run(venv.parent / "cmake", "-G", "Ninja", ninja, "-S", folder, "-B", WORK / f"llama-{name}", *settings)
        run(venv.parent / "ninja", "-C", WORK / f"llama-{name}", "llama-bench")
    return binary


def checkpoint(shape, layers=32):
    out = WORK / f"{shape}-4bit{'' if layers == 32 else f'-{layers}layers'}"
    if not (out / "model.safetensors.index.json").exists():
        options = ["--shape", shape, "--q-bits", "4", "--num-hidden-layers", layers, "--tokenizer", "tests/golden/phi3v-tiny"]
        run("cargo", "run", "--release", "--quiet", "--example", "random_checkpoint", "--", *options, out, cwd=ROOT)
    return out


def phi3v(model, prompt_tokens, tokens, *options, level=None):
    words = " ".join(("the cat sat on a mat and the dog ran".split() * prompt_tokens)[:prompt_tokens])
    command = [PHI3V, "generate", "-m", model, "--prompt", words, "--max-tokens", tokens + 1, "--json", "--quiet", *options]
    if "--image" not in options:
        command.append("--ignore-chat-template")
    environment = {**os.environ, **({"PHI3V_CPU": level} if level else {})}
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, env=environment).stdout
    return json.loads(output)


def llama_speed(binary, model, prompt_tokens, tokens):
    threads = os.environ.get("THREADS", str(len(os.sched_getaffinity(0))))
    command = [binary, "-m", model, "-t", threads, "-p", prompt_tokens, "-n", tokens, "-r", "1", "-o", "json"]
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    results = json.loads(output.stdout)
    return {"prompt_tps" if result["n_prompt"] else "generation_tps": result["avg_ts"] for result in results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    WORK.mkdir(parents=True, exist_ok=True)
    run("cargo", "build", "--release", "--quiet", cwd=ROOT)
    native = llama("native", "-DGGML_NATIVE=ON")
    on = ["-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]
    avx2 = llama("avx2", "-DGGML_NATIVE=OFF", *on)
    gguf = WORK / "phi-3.5-mini-q4_0.gguf"
    if not gguf.exists():
        run(WORK / "venv-llama/bin/python", HERE / "gguf_random.py", gguf)
    mini, vision, short = checkpoint("phi-3.5-mini"), checkpoint("phi-3.5-vision"), checkpoint("phi-3.5-mini", 2)

    rows = {}

    def record(what, ours, theirs=None):
        rows.setdefault(what, []).append((ours, theirs))

    for _ in range(rounds):
        for name, binary, level in ("native", native, None), ("AVX2", avx2, "avx2"):
            for prompt_tokens in (512, 2048) if binary == native else (512,):
                ours, theirs = phi3v(mini, prompt_tokens, 0, level=level), llama_speed(binary, gguf, prompt_tokens, 0)
                what = f"prefill of {prompt_tokens}, {name}, tok/s, against llama.cpp Q4_0"
                record(what, ours["prompt_tps"], theirs["prompt_tps"])
                if binary == native:
                    record(f"peak memory with {prompt_tokens} tokens, GiB", ours["peak_memory"] / 2**30)
                    record("load, warm, s", ours["load_seconds"])
            ours, theirs = phi3v(mini, 4, 64, level=level), llama_speed(binary, gguf, 0, 64)
            what = f"decode from the start, {name}, tok/s, against llama.cpp Q4_0"
            record(what, ours["generation_tps"], theirs["generation_tps"])
        for crops in 4, 16:
            ours = phi3v(vision, 8, 1, "--image", ROOT / "demo/cat.jpg", "--num-crops", crops)
            seconds = ours["image_seconds"] + ours["encoder_seconds"] + ours["prefill_seconds"]
            record(f"photo to first token, {crops} crops, s", seconds)
            record(f"of these, vision tower, {crops} crops, s", ours["encoder_seconds"])
    venv = python("venv-mlx", "mlx-lm==0.32.0", "mlx[cpu]==0.32.2")
    output = subprocess.run([venv, HERE / "mlx_lm_speed.py", short, "8", "2"], check=True, stdout=subprocess.PIPE).stdout
    theirs, ours = json.loads(output), phi3v(short, 512, 32)
    record("prefill, two layers, tok/s, against mlx-lm on mlx-cpu (8 tokens)", ours["prompt_tps"], theirs["prompt_tps"])
    record("decode, two layers, tok/s, against mlx-lm on mlx-cpu", ours["generation_tps"], theirs["generation_tps"])

    print("| | phi3v | peer | ratio |\n|---|---|---|---|")
    for what, pairs in rows.items():
        ours = statistics.median(ours for ours, _ in pairs)
        theirs = [theirs for _, theirs in pairs if theirs is not None]
        peer = f"{statistics.median(theirs):.2f} | {ours / statistics.median(theirs):.2f}" if theirs else "– | –"
        print(f"| {what} | {ours:.2f} | {peer} |")


if __name__ == "__main__":
    main()

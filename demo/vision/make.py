"""Makes the demo model from nothing: fetches pictures, makes rows of them, trains, measures, and writes the model's folder.

    python3 demo/vision/make.py

What is done already is not done again; --out is where everything goes meanwhile.
"""
import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Held-out rows are looked at in the end only: of several times, the best one would be kept, and what was learnt after it lost.
TRAINING = ["--fine-tune-type", "full", "--dtype", "bfloat16", "--optimizer", "muon", "--steps-per-report", "25",
            "--steps-per-eval", "100000", "--save-every", "200", "--train-projector", "--train-vision", "--epochs", "1",
            "--batch-size", "64", "--freeze", "vision_model.embeddings"]
# What is learnt after what: the kind of rows, how many, of how many tiles at most, the first and the last learning rate.
STAGES = [
    ("color_row", 12800, 1, 3e-3, 2e-3),
    ("few_row", 12800, 2, 3e-3, 2.5e-3),
    ("letter_row", 9600, 2, 3e-3, 2.5e-3),
    ("word_row", 12800, 2, 3e-3, 2.5e-3),
    ("line_row", 12800, 2, 3e-3, 2.5e-3),
    ("twin_row", 12800, 2, 3e-3, 2.5e-3),
    ("wide_row", 32000, 2, 3e-3, 2e-3),
    ("turns_row", 64000, 2, 2.2e-3, 1.4e-3),
    ("one_tile_row", 12800, 1, 2e-3, 1.5e-3),
    ("last_row", 300000, 2, 2e-3, 0),
]
VALID_ROWS = 160


def in_environment(out):
    """Runs this again where the packages of requirements.txt are."""
    folder = out / "venv"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if Path(sys.prefix).resolve() == folder.resolve():
        return
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
    raise SystemExit(subprocess.run([python, __file__, *sys.argv[1:]]).returncode)


def run(*command):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "target/demo")
    parser.add_argument("--share", type=float, default=1.0, help="of the pictures to train with")
    parser.add_argument("--ship", action="store_true", help="put the model, pictures for its tests and one for README into the checkout")
    parser.add_argument("--phi3v", type=Path, default=ROOT / "target/release/phi3v")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    in_environment(args.out.resolve())
    build = "cargo", "build", "--release", "--manifest-path", ROOT / "Cargo.toml"
    if not args.phi3v.exists():
        run(*build)
    make(args.out.resolve(), args.share, args.phi3v.resolve())
    if args.ship:
        import ship
        import terminal
        ship.ship(args.out.resolve())
        run(*build)
        terminal.draw(ROOT / "target/release/phi3v", ROOT, ship.PICTURE)


def make(out, share, phi3v):
    import card
    import drawings
    import fetch
    import fresh
    import rows

    packages = out / "packages"
    fetch.fetch(packages)
    drawings.prepare(packages)
    for kind, count, *_ in STAGES:
        if not (out / kind / "valid.jsonl").exists():
            rows.training(getattr(rows, kind), packages, out / kind, round(share * count), VALID_ROWS)
    held_out, model = out / "held-out", out / "start"
    if not (held_out / "test.jsonl").exists():
        rows.testing(packages, held_out)
    if not (model / "config.json").exists():
        fresh.write(model, rows.texts(packages))
    for stage in STAGES:
        model = train(phi3v, out, model, out / ("model" if stage is STAGES[-1] else f"after-{stage[0]}"), stage)
    for bits in (8, 4):
        if not (quantized := out / f"model-{bits}bit").exists():
            run(phi3v, "convert", "--hf-path", model, "-q", "--q-bits", bits, "--mlx-path", quantized)
    card.measure(phi3v, out)
    card.write(out)


def train(phi3v, out, before, after, stage):
    """Trains a model with a stage's rows, and makes a folder of it."""
    kind, _, num_crops, first, last = stage
    run_folder = out / f"run-{kind}"
    if not (after / "config.json").exists():
        resume = ["--resume"] if (run_folder / "training.safetensors").exists() else ["--force"]
        run(phi3v, "lora", "--model", before, "--data", out / kind, "-o", run_folder, *TRAINING,
            "--num-crops", num_crops, "--learning-rate", first, "--min-learning-rate", last, *resume)
        dtype = ["--dtype", "bfloat16"] if after.name == "model" else []
        run(phi3v, "lora", "fuse", "--model", before, "--adapter", run_folder, "-o", after, *dtype)
    return after


if __name__ == "__main__":
    main()

"""Measures the model with phi3v and writes its card."""
import json
import subprocess
from pathlib import Path

import drawings
import fetch

# What is measured: the model's folder, the rows, and what the card calls it.
MEASURED = {
    "bfloat16": ("model", "test.jsonl"),
    "8 bits": ("model-8bit", "test.jsonl"),
    "4 bits": ("model-4bit", "test.jsonl"),
    "another picture": ("model", "test-other-pictures.jsonl"),
}
SKILLS = {
    "naming": "which of {} things it is, alone or at a place of a scene",
    "color": "of 12, of a shape, a text or the background",
    "counting": "1 to 4 of a thing among others, or of all",
    "position": "left, right, above, below; or the place in the picture",
    "presence": "whether a thing is there",
    "reading": "words and numbers that were not among the training's, in a font that was not; or which of both it is",
    "comparison": "of two pictures",
    "multi-turn": "a short second question, such as “And on the right?”",
    "easy-vqa": "[easy-VQA](https://github.com/vzhou842/easy-VQA)'s own test pictures, one question each",
}


def measure(phi3v, out):
    results = out / "results"
    results.mkdir(exist_ok=True)
    for name, (model, rows) in MEASURED.items():
        path = results / f"{name}.json"
        if path.exists():
            continue
        command = [phi3v, "eval", "vqa", "--model", out / model, "--data", out / "held-out" / rows, "--max-tokens", "8",
                   "-o", results / f"{name}.jsonl", "--force", "--json"]
        print("+", *command, flush=True)
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        path.write_text(done.stdout)


def figures(out):
    """By name and skill: the share that is right, and its 95 % interval."""
    def read(name):
        found = json.loads((out / "results" / f"{name}.json").read_text())["figures"]
        return {figure.get("group", "all"): (figure["value"], *figure["interval"], figure["rows"]) for figure in found}
    return {name: read(name) for name in MEASURED}


def table(measured):
    lines = ["| skill | rows | right | 8 bits | 4 bits | with another picture |", "|---|---|---|---|---|---|"]
    percent = lambda value: f"{100 * value:.1f} %"
    for skill, what in SKILLS.items():
        value, low, high, rows = measured["bfloat16"][skill]
        others = [percent(measured[name][skill][0]) for name in ("8 bits", "4 bits", "another picture")]
        what = what.format(len(drawings.objects()))
        lines.append(f"| **{skill}**: {what} | {rows} | **{percent(value)}** ({100 * low:.1f} to {100 * high:.1f}) | " + " | ".join(others) + " |")
    return "\n".join(lines)


def sources():
    line = "| {what} | `{name}` {version} ({index}) | {license} |"
    rows = [line.format(**{"index": "npm", **package}) for package in fetch.PACKAGES]
    return "\n".join(["| what | package | licence |", "|---|---|---|", *rows])


def write(out):
    template = (Path(__file__).parent / "card.md").read_text()
    names = ", ".join(sorted(drawings.objects()))
    # Two bytes each, and a header.
    parameters = (out / "model/model.safetensors").stat().st_size / 2
    filled = {"TABLE": table(figures(out)), "SOURCES": sources(), "NAMES": names, "PARAMETERS": f"{parameters / 1e6:.1f} million"}
    for key, value in filled.items():
        template = template.replace(f"{{{key}}}", value)
    (out / "model/README.md").write_text(template)
    print(filled["TABLE"])

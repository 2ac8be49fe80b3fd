#!/usr/bin/env python3
"""lora.py [--rounds N] [--tokens N]: training of rank-8 adapters on all linear maps of Phi-3.5-mini's shape, one row a step:
`phi3v lora` on the 4-bit model that run.py makes, and PEFT with torch in bfloat16, in turn. Needs a release build, the model
below target/bench, and target/slow/peft (made by `cargo test --release --test slow -- adapter`)."""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "target/bench/phi-3.5-mini-4bit"
PYTHON = ROOT / "target/slow/peft/bin/python"


def ours(tokens, steps, checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        # A row of one-token words, the end and the beginning included.
        (Path(folder) / "rows.jsonl").write_text(json.dumps({"text": " the" * (tokens - 2)}) + "\n")
        command = [ROOT / "target/release/phi3v", "lora", "--model", MODEL, "--data", f"{folder}/rows.jsonl", "-o",
                   f"{folder}/out", "--iters", str(steps), "--batch-size", "1", "--steps-per-report", "1", "--quiet"]
        if checkpoint:
            command.append("--grad-checkpoint")
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in open(f"{folder}/out/metrics.jsonl")]
        positions = lines[0]["tokens"]
        # The first step pays for memory that the others have.
        seconds = [after["seconds"] - before["seconds"] for before, after in zip(lines, lines[1:])]
        return {"tps": positions / statistics.median(seconds), "peak_gb": lines[-1]["peak_memory"] / 1e9, "tokens": positions}


def peft(tokens, steps, checkpoint):
    out = subprocess.run([str(PYTHON), __file__, "--peft", str(tokens), str(steps), str(int(checkpoint))],
                         check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout.splitlines()[-1])


def peft_here(tokens, steps, checkpoint):
    import resource

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = Phi3Config(hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=32,
                        num_key_value_heads=32, vocab_size=32064, pad_token_id=0, use_cache=False)
    # Random numbers are slow to make; which they are does not matter.
    with torch.device("meta"):
        model = Phi3ForCausalLM(config)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter.data, 0.01)
    model.model.rotary_emb.__init__(config)
    torch.set_default_dtype(torch.float32)
    if checkpoint:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(3, 32000, (1, tokens))
    seconds = []
    for _ in range(steps):
        start = time.time()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tps": tokens / statistics.median(seconds[1:]), "peak_gb": peak / 1e9, "tokens": tokens}))


def main():
    if sys.argv[1:2] == ["--peft"]:
        return peft_here(*map(int, sys.argv[2:5]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    for _ in range(args.rounds):
        for checkpoint in (False, True):
            a = ours(args.tokens, args.steps, checkpoint)
            b = peft(args.tokens, args.steps, checkpoint)
            print(json.dumps({"checkpointing": checkpoint, "phi3v": a, "peft": b, "ratio": a["tps"] / b["tps"]}), flush=True)


main()

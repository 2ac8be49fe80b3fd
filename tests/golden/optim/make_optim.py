"""Writes the JSON files beside this one: what five steps of each optimizer make of fixed parameters and gradients.

    pip install numpy "mlx[cpu]" && python make_optim.py

The published formulas in float64, in the form that torch.optim (2.13) and, for Adafactor, transformers (5.23) give them.
Each result is compared with mlx.optimizers (float32), which was written by others, where that has the same settings.
"""

import json
import math
from pathlib import Path

import numpy as np

SHAPES = {"vector": [5], "scalar": [], "wide": [3, 6], "tall": [7, 4], "stack": [2, 3, 4]}
LEARNING_RATES = [0.05, 0.1, 0.1, 0.07, 0.02]


def adamw(state, p, g, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    """torch.optim.adamw._single_tensor_adamw"""
    m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g * g
    p = p * (1 - lr * weight_decay)
    return p - lr / (1 - beta1**t) * m / (np.sqrt(v) / math.sqrt(1 - beta2**t) + eps)


def sgd(state, p, g, t, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """torch.optim.sgd._single_tensor_sgd"""
    g = g + weight_decay * p
    if momentum > 0:
        state["b"] = momentum * state["b"] + g if "b" in state else g
        g = g + momentum * state["b"] if nesterov else state["b"]
    return p - lr * g


def adafactor(state, p, g, t, lr, clip_threshold=1.0, decay_rate=-0.8, weight_decay=0.0):
    """transformers.optimization.Adafactor.step with scale_parameter=False, relative_step=False"""
    beta = 1 - t**decay_rate
    update = g * g + 1e-30
    if g.ndim >= 2:
        row = state["row"] = beta * state.get("row", 0) + (1 - beta) * update.mean(-1)
        col = state["col"] = beta * state.get("col", 0) + (1 - beta) * update.mean(-2)
        r = 1 / np.sqrt(row / row.mean(-1, keepdims=True))
        update = r[..., None] * (1 / np.sqrt(col))[..., None, :] * g
    else:
        state["v"] = beta * state.get("v", 0) + (1 - beta) * update
        update = g / np.sqrt(state["v"])
    update = update / max(1.0, np.sqrt(np.mean(update**2)) / clip_threshold)
    return p - weight_decay * lr * p - lr * update


def lion(state, p, g, t, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Chen et al. 2023, algorithm 2"""
    m = state.get("m", np.zeros_like(g))
    update = np.sign(beta1 * m + (1 - beta1) * g)
    state["m"] = beta2 * m + (1 - beta2) * g
    return p - lr * (update + weight_decay * p)


def muon(state, p, g, t, lr, momentum=0.95, nesterov=True, iterations=5, weight_decay=0.1, match_rms_adamw=False):
    """torch.optim._muon._single_tensor_muon with both values of adjust_lr_fn, but the iteration is not in bfloat16"""
    if p.ndim != 2:
        return adamw(state, p, g, t, lr)
    b = state["b"] = momentum * state.get("b", 0) + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * b if nesterov else b
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if tall else x
    original = math.sqrt(max(1, p.shape[0] / p.shape[1]))
    rate = lr * (0.2 * math.sqrt(max(p.shape)) if match_rms_adamw else original)
    return p * (1 - lr * weight_decay) - rate * x


RULES = {"adamw": adamw, "sgd": sgd, "adafactor": adafactor, "lion": lion, "muon": muon}
CASES = {
    "adamw": [{}, {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.3}, {"weight_decay": 0.0}],
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"weight_decay": 0.2},
    ],
    "adafactor": [{}, {"weight_decay": 0.1}, {"clip_threshold": 0.5, "decay_rate": -0.5}],
    "lion": [{}, {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.5}],
    "muon": [
        {},
        {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        {"iterations": 3, "weight_decay": 0.0},
        {"match_rms_adamw": True},
    ],
}


def run(rule, parameters, gradients, settings):
    """The parameters after each step."""
    states, steps = {name: {} for name in parameters}, []
    for t, (lr, g) in enumerate(zip(LEARNING_RATES, gradients), 1):
        parameters = {name: rule(states[name], p, g[name], t, lr, **settings) for name, p in parameters.items()}
        steps.append(parameters)
    return steps


def run_mlx(kind, parameters, gradients, settings):
    """The same by mlx.optimizers; nothing where that has another rule."""
    import mlx.core as mx
    import mlx.optimizers as optim

    s = dict(settings)
    if kind == "adamw":
        betas = [s.pop("beta1", 0.9), s.pop("beta2", 0.999)]
        optimizer = optim.AdamW(0.0, betas=betas, bias_correction=True, **s)
    elif kind == "sgd":
        optimizer = optim.SGD(0.0, **s)
    elif kind == "adafactor":
        optimizer = optim.Adafactor(0.0, scale_parameter=False, relative_step=False, **s)
    elif kind == "lion":
        optimizer = optim.Lion(0.0, betas=[s.pop("beta1", 0.9), s.pop("beta2", 0.99)], **s)
    elif s.get("weight_decay", 0.1) > 0 or s.get("match_rms_adamw"):
        # It adds the decay to the gradient, and knows one rate only.
        return []
    else:
        s["ns_steps"] = s.pop("iterations", 5)
        optimizer = optim.Muon(0.0, **s)
        # Its rule for other parameters is another one.
        parameters = {name: p for name, p in parameters.items() if p.ndim == 2}
    parameters = {name: mx.array(p.astype(np.float32)) for name, p in parameters.items()}
    steps = []
    for lr, g in zip(LEARNING_RATES, gradients):
        optimizer.learning_rate = lr
        g = {name: mx.array(g[name].astype(np.float32)) for name in parameters}
        parameters = optimizer.apply_gradients(g, parameters)
        steps.append({name: np.array(p) for name, p in parameters.items()})
    return steps


def plain(arrays):
    return {name: [float(x) for x in a.ravel()] for name, a in arrays.items()}


def main():
    random = np.random.default_rng(20250101)
    # Numbers that float32 holds: only the steps are rounded.
    draw = lambda scale: {
        name: (scale * random.standard_normal(shape)).astype(np.float32).astype(np.float64)
        for name, shape in SHAPES.items()
    }
    parameters = draw(1.0)
    gradients = [draw(scale) for scale in (0.5, 0.1, 2.0, 0.02, 0.3)]
    folder = Path(__file__).parent
    for kind, cases in CASES.items():
        recorded = []
        for settings in cases:
            steps = run(RULES[kind], parameters, gradients, settings)
            others = run_mlx(kind, parameters, gradients, settings)
            differences = [
                np.max(np.abs(step[name] - other[name])) for step, other in zip(steps, others) for name in other
            ]
            print(f"{kind:10} {settings}:", f"differs by at most {max(differences):.1e}" if others else "not compared")
            assert max(differences, default=0) < 3e-6
            recorded.append({"settings": {"kind": kind, **settings}, "steps": [plain(step) for step in steps]})
        record = {
            "learning_rates": LEARNING_RATES,
            "shapes": SHAPES,
            "parameters": plain(parameters),
            "gradients": [plain(g) for g in gradients],
            "cases": recorded,
        }
        (folder / f"{kind}.json").write_text(json.dumps(record) + "\n")


main()

"""lm-eval's log-likelihoods of the options of questions, and of texts, by a checkpoint in float32.

    python lm_eval_peer.py MODEL QUESTIONS.jsonl TEXTS.jsonl OUT.json
"""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

model, questions, texts, out = sys.argv[1:]
lm = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=1)


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def ask(kind, arguments):
    requests = [Instance(kind, {}, args, at) for at, args in enumerate(arguments)]
    return getattr(lm, kind)(requests, disable_tqdm=True)


# As tasks/arc has it: "Question: {{question}}\nAnswer:" and " {{option}}".
options = [
    (f"Question: {row['question']}\nAnswer:", " " + option) for row in lines(questions) for option in row["choices"]
]
with open(out, "w") as file:
    json.dump(
        {
            "options": [result[0] for result in ask("loglikelihood", options)],
            "texts": ask("loglikelihood_rolling", [(row["text"],) for row in lines(texts)]),
        },
        file,
    )

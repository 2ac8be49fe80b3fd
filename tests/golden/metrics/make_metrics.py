"""Writes metrics.json beside this file: what the published implementations make of a few answers and captions.

    pip install lm-eval==0.4.13 transformers==4.57.1 anls==0.0.2 sacrebleu==2.6.0 rouge-score==0.1.2 \
        pycocoevalcap==1.2 statsmodels==0.15.0 loguru
    pip install --no-deps lmms-eval==0.7.3
    python make_metrics.py      # Java 17 for pycocoevalcap's tokenizer

    exact, f1   transformers' squad_metrics, which is the evaluation of SQuAD 2
    relaxed     lm-eval's RelaxedCorrectness (tasks/chartqa), of texts without white space around them
    vqa         lmms-eval's vqav2_process_results
    anls        anls.anls_score
    regex       re.search
    bleu        sacrebleu.BLEU (13a, exp, mixed case); of a row with effective_order
    rouge_l     rouge_score's rougeL, use_stemmer=False
    cider       pycocoevalcap's Cider of PTBTokenizer's tokens, which are recorded, too
    choice      lm-eval's ConfigurableTask.process_results and mean_stderr
    paired      statsmodels' mcnemar(exact=True)
    wilson      statsmodels' proportion_confint(method="wilson")
"""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

# Their own __init__ imports every task.
tasks = ModuleType("lmms_eval.tasks")
tasks.__path__ = [str(Path(find_spec("lmms_eval").origin).parent / "tasks")]
sys.modules["lmms_eval.tasks"] = tasks

from anls import anls_score
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.chartqa.utils import RelaxedCorrectness
from lmms_eval.tasks.vqav2.utils import vqav2_process_results
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import BLEU
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

ANSWERS = [
    ("Yes.", ["yes"]),
    ("yes\n", ["Yes", "no"]),
    ("No, it is not", ["no"]),
    ("", ["yes"]),
    ("", [""]),
    ("A", [""]),
    ("The", ["A"]),
    ("B.", ["B"]),
    ("C", ["Copper"]),
    ("Copper", ["C"]),
    ("a red car", ["the red car", "red truck"]),
    ("an apple or a pear", ["apple or the pear"]),
    ("Red  car, blue car; red car!", ["red blue red green"]),
    ("dont know", ["don't know"]),
    ("It's the dog's bowl.", ["its the dogs bowl"]),
    ("two", ["2"]),
    ("14", ["14.5"]),
    ("14", ["15"]),
    ("14.24", ["15"]),
    ("95", ["100"]),
    ("-3", ["3"]),
    ("0", ["0"]),
    ("0.001", ["0"]),
    ("50%", ["0.5"]),
    ("50 %", ["50"]),
    ("0.52", ["50%"]),
    ("12.5%", ["12.1%"]),
    ("$1,234.50", ["1234.5", "1,300"]),
    ("£20", ["20"]),
    ("1e3.", ["1,000"]),
    ("3/4", ["0.75"]),
    ("2,5", ["25"]),
    ("1.000,5", ["1000.5"]),
    ("inf", ["inf"]),
    ("12 apples.", ["12 Apples"]),
    ("12 apples", ["12 Apples."]),
    ('"Quoted"', ["quoted"]),
    ("U.S.", ["U.S."]),
    ("Washington, D.C.", ["washington dc", "Washington D.C"]),
    ("ÉCOLE", ["école", "ecole"]),
    ("Straße", ["strasse"]),
    ("ΣΊΣΥΦΟΣ", ["σίσυφος"]),
    ("東京 タワー", ["東京タワー"]),
    ("naïve “quote” – dash", ["naive quote dash"]),
    ("university  of   california", ["University of California San Diego", "UC"]),
    ("  Invoice\tNo. 4711 ", ["invoice no. 4712", "4711"]),
    ("abcd", ["abxy"]),
    ("abcde", ["abcxy"]),
    ("itc", ["ITC Limited", "ITC Ltd."]),
]

# Ten people's answers each, except where it is about their number.
VQA = [
    ("yes", ["yes"] * 10),
    ("Yes.", ["yes"] * 10),
    ("no", ["yes"] * 10),
    ("blue", ["blue", "Blue", "blue.", "light blue"] + ["green"] * 6),
    ("blue", ["blue"] + ["green"] * 9),
    ("blue", ["blue"] * 2 + ["green"] * 8),
    ("blue", ["blue"] * 3 + ["green"] * 7),
    ("two", ["2"] * 5 + ["two"] * 5),
    ("none", ["0", "zero", "None", "nothing"] + ["1"] * 6),
    ("the dog", ["dog", "a dog", "an dog", "Dog"] + ["cat"] * 6),
    ("dont walk", ["don't walk", "dont walk", "don’t walk", "do not walk"] + ["walk"] * 6),
    ("Its o'clock", ["it's oclock", "its oclock"] + ["Its O'Clock"] * 3),
    ("1,000", ["1000", "1,000", "1, 000", "1 000"] + ["1000"] * 6),
    ("black/white", ["black and white", "black white", "black / white", "black/white"] + ["black-white"] * 6),
    ("3.5 ft.", ["3.5 ft", "3.5ft", "3.5 Ft."] + ["35 ft"] * 7),
    ("well-lit, (mostly)", ["well lit mostly", "well-lit mostly", "welllit mostly"] + ["well-lit (mostly)"] * 7),
    ("what?!", ["what", "what ?!", "what!"] + ["WHAT"] * 7),
    ("a", ["the", "an", ""] + ["b"] * 7),
    ("", ["nothing"] * 10),
    ("x-ray hot-\ndog\t", ["xray hot dog"] * 4 + ["cold"] * 6),
    ("It's 5:30 a.m.", ["its 530 am", "it's 5:30 am"] * 5),
    ("café", ["Café", "CAFÉ", "cafe"] + ["bar"] * 7),
    ("someones hat", ["someone's hat"] * 4 + ["somebodys hat"] * 6),
    ("yes", ["yes"]),
    ("yes", ["yes", "yes", "no"]),
    ("yes", ["yes"] * 4),
]

REGEX = [
    ("The answer is 42.", [r"\b42\b"]),
    ("The answer is 421.", [r"\b42\b"]),
    ("RED", ["red", "(?i)red$"]),
    ("", ["^$"]),
    ("naïve", [r"^\w{5}$"]),
]

CAPTIONS = [
    (
        "A man riding a wave on top of a surfboard.",
        [
            "A man is riding a surfboard on a wave.",
            "A surfer rides a large wave in the ocean.",
            "Man on a surfboard riding a wave near the shore",
            "A person surfing on a wave, seen from the beach.",
            "The surfer is on top of the wave.",
        ],
    ),
    (
        "Two dogs are playing with a red-and-white frisbee in the grass",
        [
            "Two dogs play with a frisbee in a field of grass.",
            "A pair of dogs chasing a red-and-white frisbee.",
            "Dogs playing in the grass; one has a frisbee.",
            "Two dogs are playing with a frisbee.",
            "The dogs' toy is a frisbee, and they're having fun!",
        ],
    ),
    (
        "The sign says \"STOP\" and there isn't a car.",
        [
            "A red stop sign at the corner of 5th Ave. and Main St.",
            "A sign that says 'STOP' on a street without cars.",
            "There's a stop sign; no car can be seen.",
            "A stop sign (red) in front of a house...",
            "It's a stop sign -- the street isn't busy.",
        ],
    ),
    (
        "A plate of food costs $12.50 with 20% off.",
        [
            "A plate with food that costs $12.50",
            "Food for $12.50, now 20% off!",
            "A $12.50 plate of food at 10:30 a.m. in the U.S.",
            "The price of a plate is £9.99 and/or €11.",
            "A menu: 1,000 dishes, 3.5 stars and 1/2 a lemon",
        ],
    ),
    (
        "a cat sitting on a couch next to a cat sitting on a couch next to a cat",
        [
            "A cat sits on a couch.",
            "A gray cat is sitting on a couch next to a pillow.",
            "Cat on sofa.",
            "A cat sitting on a couch",
            "The cat's eyes are closed",
        ],
    ),
    (
        "",
        [
            "A kitchen with a stove and a refrigerator.",
            "A small kitchen.",
            "Kitchen that cannot be called large; someone's gonna cook.",
            "A kitchen with white cabinets",
            "An empty kitchen at AT&T's office.",
        ],
    ),
    (
        "a bird",
        [
            "A small bird perched on a tree branch with its beak open.",
            "Bird on a branch",
            "A bird sitting in a tree.",
            "A little bird sings at 8 o'clock",
            "a bird",
        ],
    ),
    (
        "Café terrace in Zürich, with naïve “art” – and people’s bikes…",
        [
            "The terrace of a café in Zürich",
            "People sit outside a café.",
            "Bikes and people at a café; there’s art, too.",
            "A street café — with “art” on its walls",
            "Outdoor café in the city w/ bikes",
        ],
    ),
    (
        "A train at the station, A train at the station?! Yes!!",
        ["A train is at the station.", "Train 7 in the station", "Mr. Smith's #1 train, I'd've thought"],
    ),
    (
        "Six pizzas &amp; three drinks on the table [photo] {1990s} & more",
        ["Six pizzas on a table", "Pizzas and drinks (three) on tables."],
    ),
    (
        "A group of people standing around a table in the kitchen.",
        ["A group of people standing around a table in the kitchen."],
    ),
    ("purple elephants dance quietly", ["A bus parked by the curb.", "A double-decker bus stands at the curb"]),
    ("日本の 猫 が 寝ている", ["猫 が 寝ている", "a cat sleeps"]),
    (
        "In the picture, there is a tall building with a clock at its top, and in front of it many people are walking "
        "with umbrellas because it rains; the street is wet and the traffic light's red is reflected in it.",
        [
            "People with umbrellas walk in front of a clock tower on a rainy day.",
            "Many people are walking with umbrellas in front of a tall building with a clock at its top.",
            "A rainy street with people, umbrellas and a traffic light that's red, in front of a building.",
            "A wet street reflects the red of a traffic light.",
            "There is a tall building with a clock, and there are many people walking in the rain.",
        ],
    ),
]

# Options with their log-likelihoods, and which one is right.
CHOICES = [
    ([("yes", -1.5), ("no", -1.2)], 1),
    ([("a", -2.0), ("a much longer option", -9.0), ("short", -4.0)], 1),
    ([("cat", -3.0), ("dog", -3.0), ("cow", -3.5)], 0),
    ([("cat", -3.0), ("dog", -3.0), ("cow", -3.5)], 1),
    ([("über", -4.1), ("uber!", -5.0), ("ubers", -5.2)], 1),
    ([("東京", -3.0), ("Kyoto", -4.5), ("Osaka", -9.0)], 1),
    ([("New York City", -6.5), ("Rome", -2.4), ("Paris, France", -8.0), ("Oslo", -30.25)], 0),
    ([("1", -0.5), ("10", -0.9), ("100", -1.6)], 2),
    ([("left", -0.01), ("right", -7.3)], 0),
    ([("left", -0.75), ("right", -0.8)], 1),
]

PAIRED = [
    ("1101101110", "1001101010"),
    ("1111111111", "0000000000"),
    ("1010101010", "1010101010"),
    ("110010101110011011110101", "010111011010111010110111"),
    ("1" * 30 + "0" * 20, "1" * 18 + "0" * 12 + "1" * 3 + "0" * 17),
]

WILSON = [(0, 10), (10, 10), (1, 3), (7, 20), (50, 100), (433, 1000), (1, 100000)]


def answer_row(answer, references):
    return {
        "answer": answer,
        "references": references,
        "exact": max(compute_exact(reference, answer) for reference in references),
        "f1": max(compute_f1(reference, answer) for reference in references),
        "relaxed": RelaxedCorrectness().score(answer.strip(), [reference.strip() for reference in references]),
        "anls": anls_score(answer, references),
    }


def vqa_row(answer, references):
    people = [{"answer": text, "answer_id": at} for at, text in enumerate(references)]
    score = vqav2_process_results({"answers": people, "question_id": 0}, [answer])["exact_match"]
    return {"answer": answer, "references": references, "vqa": score}


def regex_row(answer, references):
    found = any(re.search(reference, answer) for reference in references)
    return {"answer": answer, "references": references, "regex": float(found)}


def caption_rows():
    texts = {
        (row, at): [{"caption": text}]
        for row, (answer, refs) in enumerate(CAPTIONS)
        for at, text in enumerate([answer, *refs])
    }
    tokens = PTBTokenizer().tokenize(texts)
    tokens = [[tokens[row, at][0] for at in range(len(refs) + 1)] for row, (_, refs) in enumerate(CAPTIONS)]
    corpus, rows = Cider().compute_score(
        {row: texts[1:] for row, texts in enumerate(tokens)}, {row: texts[:1] for row, texts in enumerate(tokens)}
    )
    bleu, sentence = BLEU(), BLEU(effective_order=True)
    most = max(len(refs) for _, refs in CAPTIONS)
    streams = [[refs[at] if at < len(refs) else None for _, refs in CAPTIONS] for at in range(most)]
    result = []
    for (answer, refs), texts, cider in zip(CAPTIONS, tokens, rows):
        length, closest, *counts = bleu._extract_corpus_statistics([answer], [[ref] for ref in refs])[0]
        result.append(
            {
                "answer": answer,
                "references": refs,
                "bleu_parts": [*counts, length, closest],
                "bleu": sentence.sentence_score(answer, refs).score,
                "rouge_l": RougeScorer(["rougeL"]).score_multi(refs, answer)["rougeL"].fmeasure,
                "tokens": texts,
                "cider": cider,
            }
        )
    score = bleu.corpus_score([answer for answer, _ in CAPTIONS], streams)
    return {"rows": result, "bleu": score.score, "cider": corpus}


def choice_rows():
    rows = []
    for options, gold in CHOICES:
        task = SimpleNamespace(
            OUTPUT_TYPE="multiple_choice",
            config=SimpleNamespace(process_results=None),
            _metric_fn_list={"acc": None, "acc_norm": None},
            multiple_input=0,
            multiple_target=0,
            doc_to_choice=lambda doc: [text for text, _ in options],
            doc_to_target=lambda doc: gold,
        )
        scores = ConfigurableTask.process_results(task, {}, [(value, False) for _, value in options])
        texts, values = zip(*options)
        rows.append({"options": texts, "log_likelihoods": values, "right": gold, **scores})
    result = {"rows": rows}
    for name in ("acc", "acc_norm"):
        scores = [row[name] for row in rows]
        result[name] = {"mean": mean(scores), "stderr": mean_stderr(scores)}
    return result


def paired_row(a, b):
    a, b = ([int(digit) for digit in scores] for scores in (a, b))
    table = [[sum(x == i and y == j for x, y in zip(a, b)) for j in (1, 0)] for i in (1, 0)]
    return {"a": a, "b": b, "mcnemar_p": mcnemar(table, exact=True).pvalue}


def wilson_row(k, n):
    low, high = proportion_confint(k, n, alpha=0.05, method="wilson")
    return {"k": k, "n": n, "low": low, "high": high}


result = {
    "answers": [answer_row(*row) for row in ANSWERS],
    "vqa": [vqa_row(*row) for row in VQA],
    "regex": [regex_row(*row) for row in REGEX],
    "captions": caption_rows(),
    "choice": choice_rows(),
    "paired": [paired_row(*row) for row in PAIRED],
    "wilson": [wilson_row(*row) for row in WILSON],
}
text = json.dumps(result, indent=1, ensure_ascii=False, default=float)
(Path(__file__).parent / "metrics.json").write_text(text + "\n", encoding="utf-8")

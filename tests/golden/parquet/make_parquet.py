"""Data sets as the Hugging Face Hub ships them, written by its own library, and the JSON lines that they stand for.

    pip install datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
    python make_parquet.py
"""

import base64
import datetime
import decimal
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow


def picture(level, format):
    stream = io.BytesIO()
    Pillow.new("RGB", (3, 2), (level, 255 - level, 7)).save(stream, format)
    return stream.getvalue()


def uri(contents, format):
    return f"data:image/{format.lower()};base64,{base64.b64encode(contents).decode()}"


# Image features, of bytes and of a path, alone and in a list; strings, a list, ARC's struct of lists, an int, nulls.
PICTURES = Features({
    "id": Value("string"),
    "image": Image(),
    "images": List(Image()),
    "options": List(Value("string")),
    "choices": {"text": List(Value("string")), "label": List(Value("string"))},
    "answer": Value("int64"),
    "hint": Value("string"),
    "score": Value("float64"),
})
png, jpeg = picture(40, "PNG"), picture(200, "JPEG")
rows, lines = [], []
for at in range(5):
    row = {
        "id": f"row-{at}",
        "image": [{"bytes": png, "path": "a.png"}, {"bytes": None, "path": "b.jpg"}, None][at % 3],
        "images": [{"bytes": jpeg, "path": None}] * at,
        "options": [f"one \"{at}\"", "zwei ä", "三"][: at % 4],
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
        "answer": [at, None][at == 3],
        "hint": [None, "", "look"][at % 3],
        "score": [0.5, None, float("nan"), -1e300, 2.0][at],
    }
    rows.append(row)
    lines.append(row | {
        "image": [uri(png, "PNG"), "b.jpg", None][at % 3],
        "images": [uri(jpeg, "JPEG")] * at,
        "score": [0.5, None, None, -1e300, 2.0][at],
    })
dataset = Dataset.from_list(rows, features=PICTURES)
# Two row groups, so that a reader has to go from one to the next.
dataset.to_parquet("pictures-snappy.parquet", batch_size=3)
pq.write_table(dataset.data.table, "pictures-zstd.parquet", row_group_size=3, compression="zstd")
with open("pictures.jsonl", "w") as file:
    file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

# Other types, as pyarrow writes them.
moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 250000)
table = pa.table({
    "small": pa.array([-1, 2], pa.int8()),
    "large": pa.array([2**64 - 1, 0], pa.uint64()),
    "single": pa.array([0.1, -2.5], pa.float32()),
    "flag": pa.array([True, None]),
    "binary": pa.array([b"\x00\xff", b""]),
    "price": pa.array([decimal.Decimal("12.30"), decimal.Decimal("-0.05")], pa.decimal128(9, 2)),
    "day": pa.array([moment.date(), None]),
    "moment": pa.array([moment, None], pa.timestamp("us")),
    "nested": pa.array([[[1, 2], []], [None, [3]]], pa.list_(pa.list_(pa.int32()))),
    "structs": pa.array([[{"a": 1, "b": {"c": "d"}}], []]),
    "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())),
})
pq.write_table(table, "types.parquet", compression="gzip")
with open("types.jsonl", "w") as file:
    for line in [
        {"small": -1, "large": 2**64 - 1, "single": 0.1, "flag": True, "binary": "AP8=", "price": "12.30",
         "day": "2024-02-29", "moment": "2024-02-29 12:30:15.250000 +00:00", "nested": [[1, 2], []],
         "structs": [{"a": 1, "b": {"c": "d"}}], "map": {"k": 1}},
        {"small": 2, "large": 0, "single": -2.5, "flag": None, "binary": "", "price": "-0.05", "day": None,
         "moment": None, "nested": [None, [3]], "structs": [], "map": {}},
    ]:
        file.write(json.dumps(line) + "\n")

# Written by others: lz4, and brotli, which is not read.
pq.write_table(table.select(["small"]), "lz4.parquet", compression="lz4")
pq.write_table(table.select(["small"]), "brotli.parquet", compression="brotli")

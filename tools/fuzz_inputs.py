"""Damaged and hostile inputs for fuzz.py, drawn by hypothesis: each strategy starts from a valid file and spoils it."""

import copy
import io
import json
import math
import struct
import tarfile
import zipfile

import torch
from hypothesis import strategies as st
from safetensors.torch import save

EDGES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**36 - 1, 2**62, 2**64 - 1)

DEEP = "[" * 20_000  # JSON that no parser can follow

ODD = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1e308,
    math.nan,
    math.inf,
    "",
    "x",
    "../x",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    [None],
)

CELLS = (
    "",
    "x",
    "nan",
    "-inf",
    "1e999",
    "-1",
    "\0",
    '"',
    "[]",
    "{}",
    "null",
    DEEP,
    "9" * 5000,
    "x" * 200_000,
    "../x.wav",
)

ESCAPES = ("../escaped", "/escaped", "a/../../escaped", "..\\escaped", "C:/escaped")

integers = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)


@st.composite
def damaged(draw, files: list[bytes], head: int = 64) -> bytes:
    """A file, or one that was cut, has other bits, or claims other sizes; most changes fall into its first bytes."""
    data = bytearray(draw(st.sampled_from(files)))
    for kind in draw(st.lists(st.sampled_from(("cut", "flip", "number", "number", "number", "copy")), max_size=3)):
        place = draw(st.integers(0, min(head, len(data))) | st.integers(0, len(data)))
        if kind == "cut":
            del data[place:]
        elif kind == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
            data[place : place + width] = (draw(integers) % 256**width).to_bytes(width, order)
        elif kind == "copy":
            data[place:place] = data[: draw(st.integers(0, 64))]
    return bytes(data)


@st.composite
def odd_json(draw, value) -> str:
    """JSON text of a value in which entries are missing, added, or of another type."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        here, path = value, []
        while isinstance(here, dict | list) and here and (not path or draw(st.booleans())):
            path.append((here, draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))))
            here = path[-1][0][path[-1][1]]
        if not path:
            return json.dumps(draw(st.sampled_from(ODD)))
        parent, key = path[-1]
        if draw(st.booleans()) and draw(st.booleans()):
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    text = json.dumps(value)
    return draw(st.sampled_from((text, text, text, text, text, text[:-1], "", "\0", DEEP)))


@st.composite
def odd_tensors(draw, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of which one may be missing, or have another shape, type or content."""
    tensors = dict(tensors)
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(tensors)))
        whole = tensors.pop(name)
        kind = draw(st.sampled_from(("gone", "flat", "short", "empty", "scalar", "type", "nan", "renamed")))
        kind = kind if whole.ndim else "gone"
        if kind == "type":
            tensors[name] = whole.to(draw(st.sampled_from((torch.bool, torch.uint8, torch.float64, torch.bfloat16))))
        elif kind != "gone":
            one = torch.full_like(whole, -1 if not whole.is_floating_point() else math.nan)
            new = {"flat": whole.flatten(), "short": whole[:-1], "empty": whole[:0], "scalar": whole.sum(), "nan": one}
            tensors["x" if kind == "renamed" else name] = new.get(kind, whole).contiguous()
    return tensors


@st.composite
def safetensors_files(draw, tensors: dict[str, torch.Tensor], metadata: dict[str, object]) -> bytes:
    """A safetensors file with odd tensors, odd metadata (a value that is no string is stored as JSON) or odd bytes."""
    kind = draw(st.sampled_from(("bytes", "header", "tensors", "metadata")))
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    if kind == "tensors":
        return save(draw(odd_tensors(tensors)), texts)
    if kind == "metadata" and metadata:
        key = draw(st.sampled_from(sorted(metadata)))
        texts[key] = draw(st.sampled_from(("", "x", "-1", "9" * 5000)) | odd_json(metadata[key]))
        if draw(st.integers(0, 9)) == 0:
            del texts[key]
    file = save(tensors, texts or None)
    if kind == "header":
        size = struct.unpack("<Q", file[:8])[0]
        text = draw(odd_json(json.loads(file[8 : 8 + size]))).encode()
        return struct.pack("<Q", len(text)) + text + file[8 + size :]
    return draw(damaged([file], head=200)) if kind == "bytes" else file


@st.composite
def tables(draw, rows: list[dict[str, object]]) -> bytes:
    """A table with tabs: odd cells, other or double columns, short or long rows, bytes that are no text."""
    names = list(rows[0])
    cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
    for kind in draw(st.lists(st.sampled_from(("cell", "cell", "cell", "json", "name", "drop", "longer")), max_size=3)):
        row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(names) - 1))
        if kind == "cell" and column < len(cells[row]):
            cells[row][column] = draw(st.sampled_from(CELLS) | st.text(st.characters(codec="utf-8"), max_size=9))
        elif kind == "json" and column < len(cells[row]):
            cells[row][column] = draw(odd_json(list(rows[row].values())[min(column, len(rows[row]) - 1)]))
        elif kind == "name":
            names[column] = draw(st.sampled_from(("", "x", names[0], "\ufeff" + names[column])))
        elif kind == "drop":
            del cells[row][column:]
        elif kind == "longer":
            cells[row] += ["x"] * 3
    data = "".join("\t".join(line) + "\n" for line in [names, *cells]).encode()
    return draw(damaged([data])) if draw(st.integers(0, 4)) == 0 else data


@st.composite
def archives(draw, wanted: tuple[str, ...]) -> tuple[str, bytes]:
    """(file name, bytes) of a wheel or an sdist with wanted members, names that lead elsewhere, links and devices."""
    names = st.sampled_from(wanted + ESCAPES)
    members = draw(
        st.lists(st.tuples(names, st.sampled_from(("file", "file", "link", "hard", "fifo", "folder"))), max_size=6)
    )
    file = io.BytesIO()
    if draw(st.booleans()):
        with zipfile.ZipFile(file, "w") as wheel:
            for name, kind in dict(members).items():
                wheel.writestr(name + "/" * (kind == "folder"), b"data")
        return "a.whl", file.getvalue()
    kinds = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=file, mode="w") as sdist:
        for name, kind in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kinds.get(kind, tarfile.DIRTYPE), draw(st.sampled_from(ESCAPES + wanted))
            entry.size = 4 if kind == "file" else 0
            sdist.addfile(entry, io.BytesIO(b"data"))
    return "a.tar.gz", file.getvalue()

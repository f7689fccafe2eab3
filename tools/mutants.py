"""Mutation testing of four pieces that everything stands on: does a test fail when one operator or number changes?

    python tools/mutants.py [--sample N] [--only NAME]      writes results/full/mutants.json

One mutant is one changed spot: a comparison, an operator, a number, a truth value, a condition that is negated, a call
whose result nobody uses left out. Messages of errors, docstrings and annotations stay. mutmut leaves decorated
functions alone (`generate` is one) and cosmic-ray starts a process per mutant, which here is mostly the import of
torch; so this tool forks itself once torch is there. A mutant is killed by a failing test, a crash, or CPU time.
--sample N: N spots per piece, drawn with a fixed seed. EQUIVALENT lists mutants that no test can tell from the
original, each with the reason; they are left out of the rate.
"""

import argparse
import ast
import copy
import importlib.util
import json
import os
import random
import resource
import sys
from collections import Counter
from pathlib import Path

from taste_min import repro  # before transformers, see taste_min/_torchaudio.py

ROOT = Path(__file__).resolve().parents[1]
# piece -> functions that are mutated (a class stands for all its methods) and the tests that should notice
PIECES = {
    "quantizer": (("Codebook", "ResidualVQ", "rename_original"), "test_quantizer.py"),
    "aggregator": (("pool_words",), "test_aggregator.py"),
    "taslm_layout": (("layout", "collate"), "test_taslm_layout.py"),
    "generate": (("Prompt", "Generation", "Machine", "generate", "_embed_prompt", "_choose_codes", "_result"),)
    + ("test_generate.py",),
}
SWAPS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Break: ast.Continue, ast.Continue: ast.Break},
}
LAST, ZIPPED = "the last axis of a matrix is axis 1", "what is zipped always has the same length"
ZERO, STRICT = "a label that is 0 becomes 0", "truth: True -> False"
EQUALLY_LONG = "all fields of a layout have the same length"
NEAREST = "squared = x.square().sum(-1, keepdim=True) + self.embed.square().sum(-1) - 2 * x @ self.embed.T"
POSITIONS = "positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -n_new:]"
PADDED = (
    "fields = [pad_sequence(list(rows), batch_first=True, padding_value=IGNORE) for rows in zip(*layouts, strict=True)]"
)
SPURIOUS = "text_labels[mask & labelled & (text_labels < 0)] = 0"
EMBEDDED = "embedded, pending = zip(*(_embed_prompt(model, prompt) for prompt in prompts), strict=True)"
RESULTS = "[_result(trace, machine, next_codes.shape[2]) for trace, machine in zip(traces, machines, strict=True)]"
EQUIVALENT = {
    f"{change} | {line}": reason
    for change, line, reason in (
        ("sign: -1 -> 1", NEAREST, LAST),
        ("sign: -1 -> 1", f"{NEAREST} #2", LAST),
        ("sign: -1 -> 1", "return squared.clamp(min=0).sqrt().argmin(dim=-1)", LAST),
        ("sign: -1 -> 1", "return torch.stack(codes, dim=-1).reshape(*z.shape[:-1], -1)  # (..., R)", LAST),
        ("number: 1 -> 2", "words = torch.cat([torch.full((delay,), -1), word_ids])", "below -1 all is -1 in the end"),
        (STRICT, f"{PADDED} #2", ZIPPED),
        ("number: 0 -> 1", "mask = torch.arange(fields[0].shape[1]) < n_positions[:, None]  # (B, N)", EQUALLY_LONG),
        ("compare: text_labels < 0 -> text_labels <= 0", SPURIOUS, ZERO),
        ("number: 0 -> 1", SPURIOUS, ZERO),
        (STRICT, "use_cache: bool = True,", "without the cache the same comes out later"),
        ("operator: mask.cumsum(1) - 1 -> mask.cumsum(1) + 1", POSITIONS, "only distances of rotary positions count"),
        (STRICT, EMBEDDED, ZIPPED),
        (STRICT, f"return {RESULTS}", ZIPPED),
    )
}
CPU_SECONDS = 60  # of one mutant; an endless loop ends here


def variants(node: ast.AST):
    """(what was done, function that does it to a copy of the node and returns the new one) for one node."""

    def replaced(**fields):
        def change(new):
            for name, value in fields.items():
                setattr(new, name, value)
            return new

        return change

    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            ops = [SWAPS[type(op)]() if i == j else other for j, other in enumerate(node.ops)]
            yield "compare", replaced(ops=ops)
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        yield "operator", replaced(op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield "sign", lambda new: new.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "truth", replaced(value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "number", replaced(value=node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.Constant):
        yield "condition", lambda new: replaced(test=ast.UnaryOp(ast.Not(), new.test))(new)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call left out", lambda new: ast.Pass()
    elif isinstance(node, ast.Break | ast.Continue):
        yield "loop", lambda new: SWAPS[type(new)]()


def spots(tree: ast.AST, names: tuple[str, ...]):
    """Every (node, field, index) inside the named functions, without messages, annotations and docstrings."""

    def walk(node):
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise | ast.JoinedStr):
                continue
            for index, child in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(child, ast.AST):
                    yield node, field, index if isinstance(value, list) else None, child
                    yield from walk(child)

    for top in tree.body:
        if getattr(top, "name", None) in names:
            yield from walk(top)


def mutants(source: str, names: tuple[str, ...]):
    """(description, changed tree) of every mutant."""
    tree, lines, seen = ast.parse(source), source.splitlines(), Counter()
    for parent, field, index, node in list(spots(tree, names)):
        for kind, change in variants(node):
            new = ast.copy_location(change(copy.deepcopy(node)), node)
            holder = getattr(parent, field)
            if index is None:
                setattr(parent, field, new)
            else:
                holder[index] = new
            whole = ast.fix_missing_locations(copy.deepcopy(tree))
            if index is None:
                setattr(parent, field, node)
            else:
                holder[index] = node
            text = f"{ast.unparse(node)} -> {ast.unparse(new)}" if not isinstance(node, ast.stmt) else ast.unparse(node)
            name = f"{kind}: {text.splitlines()[0]} | {lines[node.lineno - 1].strip()}"
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name} #{seen[name]}", whole


def survives(name: str, tree: ast.AST | None, test: str) -> bool:
    """Run the tests of a piece in a forked process in which the module is `tree`; None = as it is."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        if tree is not None:
            spec = importlib.util.find_spec(f"taste_min.{name}")
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            exec(compile(tree, spec.origin, "exec"), module.__dict__)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / test)])))
    except BaseException:
        os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many mutants of each piece (default: all)")
    parser.add_argument("--only", choices=PIECES, help="one piece, printed and not recorded")
    args = parser.parse_args()
    import hypothesis  # noqa: F401  what the tests import, once for all forks
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import transformers.models.whisper.modeling_whisper  # noqa: F401

    result = {}
    for name, (names, test) in PIECES.items():
        if args.only not in (None, name):
            continue
        if not survives(name, None, test):
            raise SystemExit(f"the tests of {name} fail without any mutant")
        found = list(mutants((ROOT / "taste_min" / f"{name}.py").read_text(encoding="utf-8"), names))
        chosen = random.Random(0).sample(found, min(args.sample or len(found), len(found)))
        alive = []
        for text, tree in chosen:
            if text not in EQUIVALENT and survives(name, tree, test):
                alive.append(text)
                print(f"{name}: {text}", flush=True)
        equal = [text for text, _ in chosen if text in EQUIVALENT]
        counted = len(chosen) - len(equal)
        result[name] = {"mutants": len(found), "tried": counted, "killed": counted - len(alive), "survivors": alive}
        result[name]["equivalent"] = {text: EQUIVALENT[text] for text in equal}
        print(f"{name}: {counted - len(alive)} of {counted} killed", flush=True)
    if not args.only:
        record = {"sample": args.sample, "commit": repro.commit(), "versions": repro.versions(), "pieces": result}
        path = repro.results_dir() / "full" / "mutants.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

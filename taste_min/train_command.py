"""`taste-min train`: units and features first, then the stages of stages.py.

Importing this module does not import torch, because the command line reads its options.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

from .errors import TasteError
from .repro import commit

UNITS_FILE = "units.safetensors"
FIT_SECONDS = 3000  # speech that the units are clustered on


def command(args) -> int:
    """Run one stage of the training; see `taste-min train --help`."""
    run = {"units": train_units, "features": cache_features}.get(args.stage, train_stage)
    facts = run(args)
    if facts and args.json:
        print(json.dumps(facts, indent=2))
    elif facts:
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in facts.get("dev", {}).items())
        print(f"{args.stage}: done in {facts['hours']:.2f} h{'; dev: ' + numbers if numbers else ''}")
    return 0


def train_units(args) -> dict:
    """Cluster speech of the training split: RUN_DIR/units.safetensors."""
    from .audio import SAMPLE_RATE, read_audio
    from .export import write_manifest
    from .frame_labels import sound_parts
    from .manifest import read_manifest
    from .units import MiniUnits

    _mini_only(args)
    started = time.monotonic()
    utterances = [u for u in read_manifest(args.data) if u.split == "train"]
    if not utterances:
        raise TasteError(f"the manifest in {args.data} has no utterance with split train.")
    # every n-th utterance, so that all voices take part however the manifest is sorted
    seconds = sum(u.seconds for u in utterances)
    chosen = utterances[:: max(1, round(seconds / FIT_SECONDS))]
    wavs = [read_audio(u.audio, SAMPLE_RATE, convert=True) for u in chosen]
    units = MiniUnits.fit(wavs, sounds=lambda i, n: sound_parts(wavs[i], chosen[i].text, n), seed=args.seed)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    target = Path(args.export) if args.export else folder
    target.mkdir(parents=True, exist_ok=True)
    units.save(target / UNITS_FILE)
    facts = {
        "preset": args.preset,
        "seed": args.seed,
        "data_hours": round(sum(u.seconds for u in chosen) / 3600, 3),
        "utterances": len(chosen),
        "commit": commit(),
        "device": "cpu",
        "hours": round((time.monotonic() - started) / 3600, 4),
    }
    return write_manifest(target, "units", facts, [UNITS_FILE])


def cache_features(args) -> dict | None:
    """Write the features of a whole corpus to RUN_DIR; processes share the files."""
    from accelerate import Accelerator

    from .features import FeatureExtractor, build, with_takes
    from .manifest import read_manifest
    from .units import MiniUnits

    _mini_only(args)
    started, accelerator = time.monotonic(), Accelerator(cpu=True)
    units = MiniUnits.load(_starts(args, ("units",))[0] / UNITS_FILE)
    extractor = FeatureExtractor.mini(units, args.layers)
    main = accelerator.is_main_process
    utterances = with_takes(read_manifest(args.data), args.takes)
    written = build(
        utterances, extractor, Path(args.out), accelerator.process_index, accelerator.num_processes, progress=main
    )
    return {"files_written": written, "hours": (time.monotonic() - started) / 3600} if main else None


def train_stage(args) -> dict | None:
    """Train one of the stages in stages.py and export its weights."""
    import torch
    from accelerate import Accelerator

    from .data import FeatureStore
    from .export import write_manifest, write_parts
    from .objectives_taslm import LanguageObjective
    from .sharding import whole_weights
    from .stages import STAGES
    from .train import Run, build_objective, holds_run, run_stage
    from .transformer import RelativeTransformer

    stage = STAGES[args.stage]
    config = stage.settings[args.preset]
    changes = {"steps": args.steps, "lr": args.lr, "micro_batches": args.micro_batches, "eval_every": args.eval_every}
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    folder = Path(args.out)
    if holds_run(folder) and not args.resume:
        raise TasteError(f"{folder} already holds a run; add --resume to continue it or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(args.data)
    data = data / "features" if (data / "features").is_dir() else data
    train, dev = FeatureStore(data, "train"), FeatureStore(data, "dev")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    objective = build_objective(stage, args.preset, args.seed, _starts(args, stage.after))
    for module in objective.modules():
        if isinstance(module, RelativeTransformer):
            module.checkpointing = args.checkpointing
    run = Run(stage, args.preset, config, args.seed, folder, train, dev, accelerator, objective, args.shard)
    dev_numbers = run_stage(run, args.resume)
    target = Path(args.export) if args.export else folder / "export"
    with run.averaged_weights():
        weights = whole_weights(objective) if args.shard else None  # of all processes
        if not accelerator.is_main_process:
            return None
        if args.shard:
            objective = build_objective(stage, args.preset, args.seed)
            objective.load_state_dict(weights)
        files = write_parts(target, objective.exports())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} cpu thread(s)"
    facts = {
        **run.identity,
        "data_hours": round(train.hours, 3),
        "utterances": len(train),
        "processes": accelerator.num_processes,
        "started_from": [Path(path).name for path in args.init or stage.after],
        "commit": commit(),
        "device": gpu,
        "hours": round(run.seconds / 3600, 4),
        "dev_utterances": len(dev),
        "dev": dev_numbers,
    }
    if isinstance(run.objective, LanguageObjective):
        facts |= run.objective.facts(run.order, config.steps * config.micro_batches, run.seconds)
    return write_manifest(target, stage.name, facts, files)


def _starts(args, names: tuple[str, ...]) -> list[Path]:
    """Folders of the runs to start from: --init, else the neighbours of RUN_DIR that have these names."""
    return [Path(path) for path in args.init or ()] or [Path(args.out).parent / name for name in names]


def _mini_only(args) -> None:
    if args.preset != "mini":
        raise TasteError(f"{args.stage} are made with the networks of the mini preset; --preset must be mini.")


def add_arguments(parser) -> None:
    """The options of `taste-min train`."""
    stages = ("units", "features", "text_only", "no_vq", "vq", "flow", "vocoder", "vocoder_flow")  # see stages.py
    stages += ("taslm_token", "taslm_embedding", "unit_lm", "taslm_text", "taslm_codes", "taslm_no_kl")
    parser.add_argument("stage", choices=stages, help="what to train; features caches what the later ones read")
    parser.add_argument(
        "--data",
        required=True,
        help="corpus folder with manifest.tsv (and features/), or what `extract` wrote",
    )
    parser.add_argument("--out", required=True, help="folder of this run: checkpoint, metrics.jsonl, export")
    parser.add_argument("--preset", choices=("mini", "tiny"), default="mini", help="sizes (default: mini)")
    parser.add_argument("--init", nargs="+", help="runs or exports to start from (default: beside --out)")
    parser.add_argument("--export", help="folder for the weights (default: OUT/export)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out if there is one")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order and noise (default: 0)")
    parser.add_argument("--steps", type=int, help="updates (default: the stage's)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: the stage's)")
    parser.add_argument("--micro-batches", type=int, help="micro-batches per update, shared out over the processes")
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute activations twice instead of keeping them: less memory"
    )
    parser.add_argument(
        "--shard", action="store_true", help="spread weights and optimiser over the processes (FSDP): less memory"
    )
    parser.add_argument("--eval-every", type=int, help="updates between two evaluations on the dev split")
    parser.add_argument("--layers", type=int, nargs="+", help="features: encoder layers to keep (default: the tap)")
    parser.add_argument(
        "--takes", type=int, default=1, help="features: how often a training recording is stored, shifted (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest entry as JSON")

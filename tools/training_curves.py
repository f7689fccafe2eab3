"""Put the losses of training runs beside the shipped weights, for chapter 5 and for whoever trains.

    python tools/training_curves.py runs/text_only runs/no_vq vq=runs/vq-longer [-o FILE]

The name of a run folder is its stage, unless it is given as STAGE=FOLDER. STAGE=FOLDER,FOLDER are runs of which each
went on from the one before. Stages that are not named keep their curves.
"""

import argparse
from pathlib import Path

from taste_min.curves import SHIPPED, read_curve, write_curves
from taste_min.stages import STAGES


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="FOLDER or STAGE=FOLDER[,FOLDER], made by `taste-min train`")
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED)
    args = parser.parse_args(arguments)
    curves = {}
    for run in args.runs:
        stage, _, folder = run.rpartition("=")
        stage = stage or Path(folder).name
        if stage not in STAGES:
            parser.error(f"{stage} is no stage; write STAGE=FOLDER with one of {', '.join(STAGES)}")
        curves[stage] = read_curve(*folder.split(","))
    write_curves(curves, args.out)
    for stage, curve in curves.items():
        print(f"{stage}: {curve['train'][-1][0]} steps, {len(curve['train'])} + {len(curve['dev'])} points")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fits how probable it is that what a text speaks of is in a picture or a video.

    calibrate.py --package DIR --media DIR --quernd FILE

``--media`` is what ``models/media/make_media.py`` has made, all kinds; ``--quernd`` is the server.
Asks for what is in a picture or a video and for what is not: in scenes, for their absent things, also in relation to
what is there; in mosaics and videos, for what the next one shows. The features (``engine/fine/presence.h``) are the
server's own: of six copies of the package each has a calibration that is one feature alone, so that its logit of
presence is that feature.

Fits a ridge-penalised logistic regression for pictures and one for videos, on the features whose cross-validated log
loss is least. Writes ``calibration.json`` beside this folder, puts it into ``model.json`` there, and prints what
cross-validation measured.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np

FOLDER = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(FOLDER.parent.parent / "proto"))
protos, services = grpc.protos_and_services("quern/v1/grounding.proto")
FEATURES = ("peak", "mean", "deviation", "best", "inside", "pooled")
REQUIRED = FEATURES[:3]  # In a package; the others may be left out.
MOSAICS = ("mosaics-2x2", "mosaics-3x3", "mosaics-irregular")
VIDEOS = ("videos", "sequences")
RELATION = re.compile(" (left of|right of|above|below) ")
FOLDS = 5
RIDGE = 1.0  # Of standardised features.
THRESHOLD = 0.5


class Case(NamedTuple):
    kind: str
    file: Path
    text: str
    is_there: bool


class Table(NamedTuple):
    """What is fitted on, a row a case."""
    kinds: np.ndarray
    inputs: np.ndarray  # [cases, FEATURES]
    labels: np.ndarray  # 1 where the text's thing is there, else 0.
    folds: np.ndarray   # A file's cases are in one.


def pictures(media: Path, names: tuple[str, ...]) -> list[Case]:
    cases = []
    for name in names:
        kind = name.partition("-")[0]
        cases += [Case(kind, media / kind / entry["file_name"], entry["sentences"][0]["sent"], entry["bbox"] is not None)
                  for entry in json.loads((media / f"{name}.json").read_text(encoding="utf-8"))]
    return cases


def scenes(media: Path) -> list[Case]:
    """Relations, which make_scene() has of what is there alone, also of what is not: they are to tell nothing."""
    cases = pictures(media, ("scenes",))
    absent = {case.file: case.text.split(" ", 1)[1] for case in cases if not case.is_there}
    related = [(case, relation) for case in cases if (relation := RELATION.search(case.text))]
    return cases + [case._replace(text=f"the {absent[case.file]}{case.text[relation.start():]}", is_there=False)
                    for case, relation in related if case.file in absent]


def videos(media: Path, kind: str) -> list[Case]:
    lines = (media / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Case(kind, media / kind / f"{entry['vid']}.mp4", entry["query"], True) for entry in map(json.loads, lines)]


def by_file(cases: list[Case]) -> dict[Path, list[Case]]:
    groups: dict[Path, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.file, []).append(case)
    return groups


def with_absent(cases: list[Case]) -> list[Case]:
    """Each file also with what the next one shows."""
    groups = list(by_file(cases).values())
    return cases + [Case(here[0].kind, here[0].file, case.text, False)
                    for here, following in zip(groups, groups[1:] + groups[:1]) for case in following]


def write_copy(package: Path, feature: str, folder: Path) -> None:
    """The package, named and calibrated by the feature alone."""
    shutil.copytree(package, folder)
    description = json.loads((package / "model.json").read_text(encoding="utf-8"))
    weights = {name: float(name == feature) for name in FEATURES} | {"bias": 0, "threshold": 0}
    description |= {"name": feature, "calibration": {"regions": weights, "segments": weights}}
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")


@contextmanager
def serve(quernd: Path, package: Path) -> Iterator[str]:
    """A server with a model per feature; gives its address."""
    with tempfile.TemporaryDirectory() as work:
        copies = [Path(work) / feature for feature in FEATURES]
        for copy in copies:
            write_copy(package, copy.name, copy)
        config = {"server": {"address": "127.0.0.1:0"}, "metrics": {"address": ""}, "log": {"level": "warning"},
                  "storage": {"path": f"{work}/data"}, "models": {"paths": [str(copy) for copy in copies]}}
        (Path(work) / "quernd.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML.
        with subprocess.Popen([quernd, "--config", f"{work}/quernd.yaml"],
                              stdout=subprocess.PIPE, text=True) as server:
            try:
                ready = re.search("address=([^ ]+)", server.stdout.readline())
                if ready is None:
                    raise SystemExit(f"{quernd} did not start; it said why above")
                yield ready.group(1)
            finally:
                server.terminate()


def ask(stub, cases: list[Case]) -> np.ndarray:
    """The features of one file's cases, [cases, FEATURES]."""
    content, texts = cases[0].file.read_bytes(), [case.text for case in cases]
    columns = []
    for feature in FEATURES:
        if cases[0].kind in VIDEOS:
            answers = stub.GroundSegments(protos.GroundSegmentsRequest(
                model=feature, video={"content": content}, sentences=texts, max_segments=1)).sentences
        else:
            answers = stub.GroundRegions(protos.GroundRegionsRequest(
                model=feature, image={"content": content}, phrases={"phrases": texts}, max_regions=1)).phrases
        columns.append([answer.presence for answer in answers])
    presence = np.array(columns, dtype=float).T
    return np.log(presence / (1 - presence))


def tabulate(stub, cases: list[Case]) -> Table:
    groups = list(by_file(cases).values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inputs = list(pool.map(lambda group: ask(stub, group), groups))
    ordered = [(case, number % FOLDS) for number, group in enumerate(groups) for case in group]
    return Table(np.array([case.kind for case, _ in ordered]), np.concatenate(inputs),
                 np.array([case.is_there for case, _ in ordered], dtype=float),
                 np.array([fold for _, fold in ordered]))


def fit(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Slopes and bias by Newton's method on the penalised log-likelihood of standardised features."""
    middle, spread = inputs.mean(0), inputs.std(0)
    design = np.column_stack([(inputs - middle) / spread, np.ones(len(inputs))])
    penalty = np.diag([RIDGE] * len(middle) + [0.0])
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        probability = 1 / (1 + np.exp(-design @ weights))
        curvature = (design.T * (probability * (1 - probability))) @ design + penalty
        weights -= np.linalg.solve(curvature, design.T @ (probability - labels) + penalty @ weights)
    slopes = weights[:-1] / spread
    return slopes, float(weights[-1] - slopes @ middle)


def cross_validated(table: Table, chosen: list[int]) -> np.ndarray:
    """The probability of each case by a fit on the other folds."""
    probability = np.empty(len(table.labels))
    for fold in range(FOLDS):
        held_out = table.folds == fold
        slopes, bias = fit(table.inputs[~held_out][:, chosen], table.labels[~held_out])
        probability[held_out] = 1 / (1 + np.exp(-(table.inputs[held_out][:, chosen] @ slopes + bias)))
    return probability


def log_loss(probability: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(np.where(labels == 1, probability, 1 - probability)).mean())


def average_precision(probability: np.ndarray, labels: np.ndarray) -> float:
    labels = labels[np.argsort(-probability, kind="stable")]
    precision = labels.cumsum() / np.arange(1, len(labels) + 1)
    return float((precision * labels).sum() / labels.sum())


def choose(table: Table) -> list[int]:
    """Of sets without both ``peak`` and ``best``: fitted on the difference of the two, of a picture's boxes those
    away from its best cell would be the more probable."""
    subsets = [list(subset) for size in range(1, len(FEATURES)) for subset in combinations(range(len(FEATURES)), size)
               if not {FEATURES.index("peak"), FEATURES.index("best")} <= set(subset)]
    return min(subsets, key=lambda subset: log_loss(cross_validated(table, subset), table.labels))


def report(table: Table, probability: np.ndarray) -> None:
    for kind in dict.fromkeys(table.kinds):
        mine = table.kinds == kind
        labels, guesses = table.labels[mine], probability[mine]
        print(f"{kind}: n = {len(labels)}, {labels.sum():.0f} there; average precision "
              f"{average_precision(guesses, labels):.3f}, log loss {log_loss(guesses, labels):.3f}, "
              f"at the threshold {100 * (guesses[labels == 1] >= THRESHOLD).mean():.0f} % of what is there is kept, "
              f"{100 * (guesses[labels == 0] < THRESHOLD).mean():.0f} % of what is not is dropped")


def calibrate(table: Table) -> dict[str, float]:
    chosen = choose(table)
    report(table, cross_validated(table, chosen))
    slopes, bias = fit(table.inputs[:, chosen], table.labels)
    weights = dict.fromkeys(REQUIRED, 0.0) | {FEATURES[i]: slope for i, slope in zip(chosen, slopes)}
    values = {"bias": bias} | {name: weights[name] for name in FEATURES if name in weights}
    return {name: round(float(value), 2) for name, value in values.items()} | {"threshold": THRESHOLD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--quernd", type=Path, required=True)
    arguments = parser.parse_args()
    cases = {"regions": scenes(arguments.media) + with_absent(pictures(arguments.media, MOSAICS)),
             "segments": [case for kind in VIDEOS for case in with_absent(videos(arguments.media, kind))]}
    with serve(arguments.quernd, arguments.package) as address, grpc.insecure_channel(address) as channel:
        stub = services.GroundingStub(channel)
        tables = {name: tabulate(stub, found) for name, found in cases.items()}
    calibration = {name: calibrate(table) for name, table in tables.items()}
    (FOLDER / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
    description = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
    description["calibration"] = calibration
    (FOLDER / "model.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

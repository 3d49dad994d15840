#!/usr/bin/env python3
"""Makes test media for grounding from photographs, with exact annotations.

    make_media.py --photos DIR --captions FILE.tsv --stamps DIR --output DIR

    scenes/       scenes.json    stamps on photographs: phrases, relations, absent things
                  scenes-relation.json   the relations alone
    mosaics/      mosaics-2x2.json, mosaics-3x3.json, mosaics-irregular.json
    videos/       videos.jsonl (as QVHighlights), videos.txt (as Charades-STA)
    sequences/    sequences.jsonl, sequences.txt: likewise, of the plain kind

Lists are read by `quern eval grounding` and `quern eval moments`. Each item is drawn from
the seed, its kind and its number alone: equal seeds, sources and versions give equal bytes,
whatever --count and --jobs are. Needs numpy, Pillow and, for videos, FFmpeg with libx264.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mosaics import LAYOUTS, make_mosaic
from scenes import make_scene
from sources import Sources, read_sources
from videos import encode, plan_sequence, plan_video, saliency

KINDS = ("scenes", "mosaics", "videos", "sequences")
PLANS = {"videos": plan_video, "sequences": plan_sequence}
JPEG = {"quality": 95, "subsampling": 0}


class Task(NamedTuple):
    sources: Sources
    seed: int
    output: Path
    ffmpeg: str


def generator(task: Task, kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng([task.seed, KINDS.index(kind), number])


def reference(number: int, file_name: str, size: tuple[int, int], box, kind: str, sentence: str) -> dict[str, Any]:
    return {"ref_id": number, "file_name": file_name, "width": size[0], "height": size[1],
            "bbox": None if box is None else list(box), "kind": kind,
            "sentences": [{"sent_id": number, "sent": sentence}]}


def scene(task: Task, number: int) -> list[dict[str, Any]]:
    made = make_scene(generator(task, "scenes", number), task.sources)
    name = f"{number:06}.jpg"
    made.image.save(task.output / "scenes" / name, **JPEG)
    return [reference(100 * number + i, name, made.image.size, phrase.box, phrase.kind, phrase.text)
            for i, phrase in enumerate(made.phrases)]


def mosaic(task: Task, number: int) -> list[dict[str, Any]]:
    layout = LAYOUTS[number % len(LAYOUTS)]
    made = make_mosaic(generator(task, "mosaics", number), task.sources, layout)
    name = f"{number:06}.jpg"
    made.image.save(task.output / "mosaics" / name, **JPEG)
    return [reference(number, name, made.image.size, made.box, layout, made.phrase)]


def video(task: Task, kind: str, number: int) -> list[dict[str, Any]]:
    plan = PLANS[kind](generator(task, kind, number), task.sources)
    name = f"{number:06}"
    encode(plan, task.output / kind / f"{name}.mp4", task.ffmpeg)
    lines = []
    for i, query in enumerate(plan.queries):
        clips, scores = saliency(query.windows, plan.seconds)
        lines.append({"qid": 100 * number + i, "query": query.sentence, "duration": plan.seconds, "vid": name,
                      "relevant_windows": [list(window) for window in query.windows],
                      "relevant_clip_ids": clips, "saliency_scores": scores})
    return lines


def write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_references(path: Path, references: list[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in references)
    write(path, f"[\n{lines}\n]\n")


def write_lists(output: Path, kind: str, entries: list[dict[str, Any]]) -> None:
    if kind == "scenes":
        write_references(output / "scenes.json", entries)
        write_references(output / "scenes-relation.json", [e for e in entries if e["kind"] == "relation"])
    elif kind == "mosaics":
        for layout in LAYOUTS:
            write_references(output / f"mosaics-{layout}.json", [e for e in entries if e["kind"] == layout])
    else:
        write(output / f"{kind}.jsonl", "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries))
        single = [e for e in entries if len(e["relevant_windows"]) == 1]
        write(output / f"{kind}.txt", "".join(
            "{} {} {}##{}\n".format(e["vid"], *e["relevant_windows"][0], e["query"]) for e in single))


def make(task: Task, kind: str, count: int, jobs: int) -> int:
    (task.output / kind).mkdir(parents=True, exist_ok=True)
    one = partial(video, task, kind) if kind in PLANS else partial({"scenes": scene, "mosaics": mosaic}[kind], task)
    if jobs == 1:
        made = [one(number) for number in range(count)]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            made = list(pool.map(one, range(count), chunksize=8))
    entries = [entry for part in made for entry in part]
    write_lists(task.output, kind, entries)
    return len(entries)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--captions", type=Path, required=True, help="lines of file, tab, caption")
    parser.add_argument("--stamps", type=Path, help="folder that tools/stamps.py filled; needed for scenes")
    parser.add_argument("--half", type=int, choices=(1, 2),
                        help="every other stamp alone, from the first or the second on (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the media and their lists")
    parser.add_argument("--count", type=int, default=1000, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="0 or more (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the program (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.seed < 0 or arguments.jobs < 1:
        parser.error("--count and --jobs must be 1 or more, --seed 0 or more")
    if "scenes" in arguments.kinds and arguments.stamps is None:
        parser.error("scenes need --stamps")
    if not PLANS.keys().isdisjoint(arguments.kinds) and shutil.which(arguments.ffmpeg) is None:
        parser.error(f"{arguments.ffmpeg}: no such program; install ffmpeg or name it by --ffmpeg")
    return arguments


def main() -> int:
    arguments = parse()
    try:
        sources = read_sources(arguments.photos, arguments.captions, arguments.stamps)
        if arguments.half:
            sources = sources._replace(stamps=sources.stamps[arguments.half - 1::2])
        task = Task(sources, arguments.seed, arguments.output, arguments.ffmpeg)
        for kind in arguments.kinds:
            entries = make(task, kind, arguments.count, arguments.jobs)
            print(f"{kind}: {arguments.count}, with {entries} sentences", flush=True)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"make_media.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

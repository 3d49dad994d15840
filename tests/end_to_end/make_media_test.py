"""Makes test media from pictures of flat colours and measures them again.

The oracle is the finished file: its colours, decoded, tell where each thing is. Needs the
packages of models/media/requirements.txt, which scripts/setup does not install, and FFmpeg;
without them the test is skipped (exit status 77).
"""

import colorsys
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77


def skip(reason: str) -> None:
    print(f"Skipped: {reason}. models/media/README.md tells what is needed.")
    sys.exit(SKIPPED)


def enter_environment() -> None:
    """Goes on in a Python that has the packages."""
    python = os.environ.get("QUERN_MEDIA_PYTHON", str(Path(os.environ["QUERN_CACHE"]) / "export-venv/bin/python"))
    if shutil.which("ffmpeg") is None:
        skip("ffmpeg is not there")
    try:
        for name in ("numpy", "PIL"):
            importlib.import_module(name)
    except ImportError as error:
        if not os.access(python, os.X_OK) or sys.executable == python:
            skip(str(error))
        os.execv(python, [python, *sys.argv])


enter_environment()

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

COUNT = 3
FRAMES_PER_SECOND = 10
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
LEVELS = {f"shade {number}": 30 + 18 * i for i, number in enumerate(NUMBERS)}
# 24 things, each of a colour of its own.
THINGS = {f"a {kind}{number}": colorsys.hsv_to_rgb(i / 24, 1, 1)
          for i, (kind, number) in enumerate((k, n) for k in ("box", "jar") for n in NUMBERS)}


def write_sources(folder: Path) -> None:
    """Grey photographs whose captions tell their level, and ellipses of one colour."""
    (folder / "photos").mkdir()
    lines = []
    for name, level in LEVELS.items():
        Image.new("RGB", (64, 48), (level,) * 3).save(folder / "photos" / f"{level}.png")
        lines.append(f"{level}.png\t{name}\n")
    (folder / "captions.tsv").write_text("".join(lines))
    lines = []
    for i, (phrase, colour) in enumerate(THINGS.items()):
        stamp = Image.new("RGBA", (60 + i, 90 - 2 * i))
        fill = (*(round(255 * c) for c in colour), 255)
        ImageDraw.Draw(stamp).ellipse((5, 7, stamp.width - 9, stamp.height - 4), fill=fill)
        name = f"stamps/c{i % 6}/{i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        stamp.save(folder / name)
        lines.append(f"c{i % 6}/{i}.png\tA{phrase[1:]}.\n")
    (folder / "stamps/captions.tsv").write_text("".join(lines))


def make(folder: Path, output: str, *more: str) -> Path:
    subprocess.run([sys.executable, "-B", ROOT / "models/media/make_media.py", "--photos", folder / "photos",
                    "--captions", folder / "captions.tsv", "--stamps", folder / "stamps",
                    "--output", folder / output, *more], check=True)
    return folder / output


def near(image: np.ndarray, colour, distance: float) -> np.ndarray:
    return np.linalg.norm(image.astype(float) - np.array(colour), axis=-1) <= distance


def solid(mask: np.ndarray) -> np.ndarray:
    """What is set with its four neighbours: not the lines where two colours meet, which may
    look like a third."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def extent(mask: np.ndarray) -> list[int]:
    """Left, top, width and height of what is set, lines left out."""
    core = solid(mask)
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    return [int(columns[0]) - 1, int(rows[0]) - 1,
            int(columns[-1] - columns[0]) + 3, int(rows[-1] - rows[0]) + 3]


class MakeMediaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        write_sources(cls.folder)
        cls.media = make(cls.folder, "media", "--count", str(COUNT), "--jobs", "1")

    def read(self, name: str) -> list[dict]:
        return json.loads((self.media / name).read_text())

    def picture(self, folder: str, reference: dict) -> np.ndarray:
        with Image.open(self.media / folder / reference["file_name"]) as image:
            self.assertEqual(image.size, (reference["width"], reference["height"]))
            return np.asarray(image.convert("RGB"))

    def assert_box(self, mask: np.ndarray, box: list[int]) -> None:
        for measured, said in zip(extent(mask), box):
            self.assertAlmostEqual(measured, said, delta=2)

    def colour(self, phrase: str):
        return 255 * np.array(THINGS[phrase])

    def test_scenes_show_what_their_boxes_say(self) -> None:
        # More than of the rest, so that both arrangements come up.
        scenes = make(self.folder, "scenes", "--count", "12", "--kinds", "scenes", "--jobs", "1")
        self.addCleanup(setattr, self, "media", self.media)
        self.media = scenes
        kinds = set()
        for reference in self.read("scenes.json"):
            sentence, kind = reference["sentences"][0]["sent"], reference["kind"]
            kinds.add(kind)
            image = self.picture("scenes", reference)
            if kind == "plain":
                self.assert_box(near(image, self.colour(sentence), 30), reference["bbox"])
            elif kind == "absent":
                self.assertIsNone(reference["bbox"])
                self.assertFalse(solid(near(image, self.colour(sentence), 30)).any())
            else:
                self.check_relation(image, sentence, reference["bbox"])
        self.assertEqual(kinds, {"plain", "relation", "absent"})

    def test_a_half_has_every_other_stamp(self) -> None:
        for half in (1, 2):
            media = make(self.folder, f"half-{half}", "--count", "12", "--kinds", "scenes", "--half", str(half),
                         "--jobs", "1")
            asked = {reference["sentences"][0]["sent"] for reference in json.loads((media / "scenes.json").read_text())
                     if reference["kind"] != "relation"}
            self.assertTrue(asked)
            self.assertLessEqual(asked, set(list(THINGS)[half - 1::2]))

    def check_relation(self, image: np.ndarray, sentence: str, box: list[int]) -> None:
        one, relation, anchor = next(sentence.partition(f" {r} ") for r in ("left of", "right of", "above", "below")
                                     if f" {r} " in sentence)
        rows, columns = np.indices(image.shape[:2])
        along = columns if relation.strip() in ("left of", "right of") else rows
        middle = np.median(along[near(image, self.colour("a" + anchor[3:]), 30)])
        side = along < middle if relation.strip() in ("left of", "above") else along > middle
        mask = near(image, self.colour("a" + one[3:]), 30)
        self.assert_box(mask & side, box)
        self.assertTrue((mask & ~side).any())

    def test_mosaics_show_the_photo_of_the_caption(self) -> None:
        for layout in ("2x2", "3x3", "irregular"):
            (reference,) = self.read(f"mosaics-{layout}.json")
            level = LEVELS[reference["sentences"][0]["sent"]]
            self.assert_box(near(self.picture("mosaics", reference), (level,) * 3, 6), reference["bbox"])

    def levels_of(self, video: str, kind: str = "videos") -> np.ndarray:
        """The median brightness of each frame: the photo's, whatever is pasted on it."""
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", self.media / kind / f"{video}.mp4", "-f", "rawvideo",
                              "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
        frames = np.frombuffer(raw, np.uint8).reshape(-1, 240 * 320 * 3)
        return np.median(frames, axis=1)

    def test_videos_change_where_their_spans_say(self) -> None:
        queries = [json.loads(line) for line in (self.media / "videos.jsonl").read_text().splitlines()]
        for video in sorted({query["vid"] for query in queries}):
            levels = self.levels_of(video)
            spans = sorted((*window, query["query"]) for query in queries if query["vid"] == video
                           for window in query["relevant_windows"])
            self.assertEqual(spans[0][0], 0)
            self.assertEqual(spans[-1][1] * FRAMES_PER_SECOND, len(levels))
            middles = []
            for start, end, sentence in spans:
                middles.append(levels[int((start + end) / 2 * FRAMES_PER_SECOND)])
                self.assertAlmostEqual(middles[-1], LEVELS.get(sentence, middles[-1]), delta=6)
            for i in range(1, len(spans)):
                self.assertEqual(spans[i - 1][1], spans[i][0])
                first = round(spans[i][0] * FRAMES_PER_SECOND)
                before, after = levels[first - 1], levels[first]
                self.assertLess(abs(before - middles[i - 1]), abs(before - middles[i]))
                self.assertLess(abs(after - middles[i]), abs(after - middles[i - 1]))

    def test_sequences_show_one_photo_a_span_unsteadily(self) -> None:
        queries = [json.loads(line) for line in (self.media / "sequences.jsonl").read_text().splitlines()]
        self.assertEqual({query["vid"] for query in queries}, {f"{number:06}" for number in range(COUNT)})
        for query in queries:
            levels = self.levels_of(query["vid"], "sequences")
            self.assertEqual(query["duration"] * FRAMES_PER_SECOND, len(levels))
            ((start, end),) = query["relevant_windows"]
            inside = levels[round(start * FRAMES_PER_SECOND):round(end * FRAMES_PER_SECOND)]
            gains = inside / LEVELS[query["query"]]
            self.assertTrue(((gains > 0.85) & (gains < 1.15)).all(), query)
            self.assertGreater(gains.std(), 0.02)

    def test_clips_are_those_in_the_spans(self) -> None:
        for line in (self.media / "videos.jsonl").read_text().splitlines():
            query = json.loads(line)
            inside = [clip for clip in range(int(query["duration"] / 2))
                      if any(start <= 2 * clip + 1 <= end for start, end in query["relevant_windows"])]
            self.assertEqual(query["relevant_clip_ids"], inside)
            self.assertEqual(len(query["saliency_scores"]), len(inside))

    def test_equal_seeds_give_equal_bytes(self) -> None:
        again = make(self.folder, "again", "--count", str(COUNT), "--jobs", "2")
        other = make(self.folder, "other", "--count", str(COUNT), "--jobs", "2", "--seed", "2", "--kinds", "mosaics")
        files = sorted(p.relative_to(self.media) for p in self.media.rglob("*") if p.is_file())
        self.assertEqual(len(files), 4 * COUNT + 9)
        for file in files:
            self.assertEqual((self.media / file).read_bytes(), (again / file).read_bytes(), file)
        name = "mosaics/000000.jpg"
        self.assertNotEqual((self.media / name).read_bytes(), (other / name).read_bytes())


if __name__ == "__main__":
    unittest.main()

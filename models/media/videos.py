"""Videos: shots of photographs and scenes under a moving camera.

Shots follow each other by hard cuts or by cross-fades. A shot begins and ends where a cut
is, or in the middle of a fade, where both pictures weigh the same. Sometimes a shot comes
back later, and its sentence then has two spans.

Sequences are the plain kind: photographs alone, filmed by an unsteady hand, with hard cuts.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from scenes import Canvas, place_anywhere
from sources import Sources, cover, open_photo

WIDTH, HEIGHT = 320, 240
FRAMES_PER_SECOND = 10
CLIP_SECONDS = 2
# The camera sees this share of the picture, at least.
CLOSEST = 0.7
# An unsteady one, at least, and how far its brightness wanders.
STEADIEST = 0.85
FLICKER = 0.1


class View(NamedTuple):
    """What the camera sees: the middle and the extent, in shares of the picture."""
    x: float
    y: float
    extent: float


class Shot(NamedTuple):
    picture: Image.Image  # Larger than a frame by 1 / CLOSEST.
    sentence: str
    frames: int
    start: View
    end: View
    fade: int  # Frames of the cross-fade into the next shot, even; 0: a cut.
    # Of an unsteady camera: what it sees, frame by frame, and how bright; then it does not
    # go from `start` to `end`.
    views: tuple[View, ...] = ()
    gains: tuple[float, ...] = ()


class Query(NamedTuple):
    sentence: str
    windows: list[tuple[float, float]]  # In seconds.


class Video(NamedTuple):
    shots: list[Shot]
    frames: int
    queries: list[Query]

    @property
    def seconds(self) -> float:
        return self.frames / FRAMES_PER_SECOND


def choose_view(rng: np.random.Generator, extent: float) -> View:
    half = extent / 2
    return View(rng.uniform(half, 1 - half), rng.uniform(half, 1 - half), extent)


def choose_motion(rng: np.random.Generator) -> tuple[View, View]:
    """Still, a pan or a zoom."""
    kind = rng.choice(["still", "pan", "zoom"])
    if kind == "pan":
        return choose_view(rng, CLOSEST), choose_view(rng, CLOSEST)
    near, whole = choose_view(rng, CLOSEST), View(0.5, 0.5, 1.0)
    if kind == "still":
        return whole, whole
    return (near, whole) if rng.random() < 0.5 else (whole, near)


def choose_pictures(rng: np.random.Generator, sources: Sources, count: int) -> list[tuple[Image.Image, str]]:
    """Different photographs with a caption, a third of them with a stamp as the sentence."""
    size = (int(WIDTH / CLOSEST), int(HEIGHT / CLOSEST))
    photos = rng.choice(len(sources.photos), count, replace=False)
    stamps = rng.permutation(len(sources.stamps))
    pictures = []
    for i, index in enumerate(photos):
        photo = sources.photos[index]
        canvas = Canvas(cover(open_photo(photo), *size))
        if i < len(stamps) and rng.random() < 1 / 3:
            stamp = sources.stamps[stamps[i]]
            if place_anywhere(rng, canvas, stamp):
                pictures.append((canvas.image, stamp.phrase))
                continue
        pictures.append((canvas.image, photo.captions[rng.integers(len(photo.captions))]))
    return pictures


def plan_video(rng: np.random.Generator, sources: Sources) -> Video:
    pictures = choose_pictures(rng, sources, int(rng.integers(3, 7)))
    if rng.random() < 0.2:
        pictures.append(pictures[0])
    shots = []
    for i, (picture, sentence) in enumerate(pictures):
        frames = int(rng.integers(2 * FRAMES_PER_SECOND, 12 * FRAMES_PER_SECOND))
        last = i == len(pictures) - 1
        fade = 0 if last or rng.random() < 0.5 else 2 * int(rng.integers(2, 6))
        shots.append(Shot(picture, sentence, frames, *choose_motion(rng), fade))
    windows: dict[str, list[tuple[float, float]]] = {}
    begin = 0
    for shot in shots:
        span = (begin / FRAMES_PER_SECOND, (begin + shot.frames) / FRAMES_PER_SECOND)
        windows.setdefault(shot.sentence, []).append(span)
        begin += shot.frames
    return Video(shots, begin, [Query(sentence, spans) for sentence, spans in windows.items()])


def plan_sequence(rng: np.random.Generator, sources: Sources) -> Video:
    size = (int(WIDTH / STEADIEST), int(HEIGHT / STEADIEST))
    shots, queries, begin = [], [], 0
    for index in rng.choice(len(sources.photos), int(rng.integers(3, 7)), replace=False):
        photo = sources.photos[index]
        frames = int(rng.integers(2 * FRAMES_PER_SECOND, 12 * FRAMES_PER_SECOND))
        views = tuple(choose_view(rng, rng.uniform(STEADIEST, 1)) for _ in range(frames))
        gains = tuple(rng.uniform(1 - FLICKER, 1 + FLICKER, frames))
        sentence = photo.captions[rng.integers(len(photo.captions))]
        shots.append(Shot(cover(open_photo(photo), *size), sentence, frames, views[0], views[-1], 0, views, gains))
        span = (begin / FRAMES_PER_SECOND, (begin + frames) / FRAMES_PER_SECOND)
        queries.append(Query(sentence, [span]))
        begin += frames
    return Video(shots, begin, queries)


def view_at(shot: Shot, frame: float) -> tuple[float, ...]:
    if shot.views:
        return shot.views[int(frame)]
    share = min(max(frame / max(1, shot.frames - 1), 0.0), 1.0)
    return tuple(a + (b - a) * share for a, b in zip(shot.start, shot.end))


def see(shot: Shot, frame: float) -> np.ndarray:
    """The shot's frame, HEIGHT x WIDTH x 3; outside its span the camera stands still."""
    x, y, extent = view_at(shot, frame)
    width, height = shot.picture.size
    left, top = (x - extent / 2) * width, (y - extent / 2) * height
    box = (max(0.0, left), max(0.0, top),
           min(float(width), left + extent * width), min(float(height), top + extent * height))
    seen = np.asarray(shot.picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box), np.float32)
    return np.minimum(seen * shot.gains[int(frame)], 255) if shot.gains else seen


def frames_of(video: Video) -> Iterator[np.ndarray]:
    """Every frame in order, HEIGHT x WIDTH x 3 bytes."""
    before: Shot | None = None
    for number, shot in enumerate(video.shots):
        after = video.shots[number + 1] if number + 1 < len(video.shots) else None
        for i in range(shot.frames):
            pixels = see(shot, i)
            # A fade of n frames is half in this shot and half in the next: the weight of
            # the newer picture rises from 1/(2n) by 1/n a frame.
            if before is not None and i < before.fade // 2:
                weight = (before.fade / 2 + i + 0.5) / before.fade
                pixels = (1 - weight) * see(before, before.frames + i) + weight * pixels
            if after is not None and shot.frames - i <= shot.fade // 2:
                weight = (i - (shot.frames - shot.fade / 2) + 0.5) / shot.fade
                pixels = (1 - weight) * pixels + weight * see(after, i - shot.frames)
            yield np.rint(pixels).astype(np.uint8)
        before = shot


def encode(video: Video, output: Path, ffmpeg: str) -> None:
    """H.264 in MP4, by one thread and without dates, so that equal frames give equal bytes."""
    part = output.with_name(output.name + ".part")
    command = [ffmpeg, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}",
               "-r", str(FRAMES_PER_SECOND), "-i", "-", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23",
               "-pix_fmt", "yuv420p", "-threads", "1", "-map_metadata", "-1", "-fflags", "+bitexact",
               "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4", str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            for frame in frames_of(video):
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # FFmpeg has said why on stderr; its status follows.
    if process.returncode != 0:
        raise RuntimeError(f"{ffmpeg} failed on {output.name}")
    part.replace(output)


def saliency(windows: list[tuple[float, float]], seconds: float) -> tuple[list[int], list[list[int]]]:
    """The clips half of which or more lie in a window, and their scores: 4 for whole ones,
    3 from three quarters on, else 2; the same by all three annotators."""
    clips, scores = [], []
    for clip in range(int(seconds / CLIP_SECONDS)):
        start, end = clip * CLIP_SECONDS, (clip + 1) * CLIP_SECONDS
        share = sum(max(0.0, min(end, b) - max(start, a)) for a, b in windows) / CLIP_SECONDS
        if share >= 0.5:
            clips.append(clip)
            scores.append([4 if share > 0.999 else 3 if share >= 0.75 else 2] * 3)
    return clips, scores

#!/usr/bin/env python3
"""Writes tests/data/videos: drawn clips, and what FFmpeg's programs see in them.

    apt-get install ffmpeg && python3 tests/data/make_videos.py

Every frame is 96 x 64 pixels: above, its number in binary, eight bits from left to
right, black and white; below, four patches of colour. frames.tsv has a line for each
frame of each whole clip: clip, number, microseconds from the first frame (as ffprobe
counts them). golden/CLIP_NUMBER.png is a frame as the ffmpeg program shows it.
"""

import json
import shutil
import struct
import subprocess
from pathlib import Path

WIDTH, HEIGHT = 96, 64
FRAMES = 60
PATCHES = [(200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 200, 60)]
FOLDER = Path(__file__).parent / "videos"
EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact",
         "-map_metadata", "-1", "-threads", "1"]
X264 = ["-c:v", "libx264", "-preset", "veryslow", "-crf", "18", "-g", "12", "-bf", "2",
        "-sc_threshold", "0", "-pix_fmt", "yuv420p", "-x264-params", "threads=1"]


def run(*command: str, data: bytes | None = None) -> bytes:
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def draw(number: int) -> bytes:
    bits = b"".join(bytes([255 if number >> (7 - bit) & 1 else 0] * 3) * (WIDTH // 8)
                    for bit in range(8))
    patches = b"".join(bytes(colour) * (WIDTH // 4) for colour in PATCHES)
    return bits * (HEIGHT // 2) + patches * (HEIGHT // 2)


def encode(name: str, *options: str, rate: str = "25", frames: int = FRAMES,
           inputs: tuple[str, ...] = ()) -> None:
    raw = b"".join(draw(number) for number in range(frames))
    run("ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
        f"{WIDTH}x{HEIGHT}", "-r", rate, "-i", "-", *inputs, *options, *EXACT,
        str(FOLDER / name), data=raw)


def copy(source: str, name: str, *options: str) -> None:
    run("ffmpeg", "-v", "error", "-y", "-i", str(FOLDER / source), "-c", "copy", *options,
        *EXACT, str(FOLDER / name))


def change(source: str, name: str, edit) -> None:
    content = bytearray((FOLDER / source).read_bytes())
    (FOLDER / name).write_bytes(bytes(edit(content) or content))


def after(content: bytes, box: bytes) -> int:
    """Where the contents of the last MP4 box of that name begin."""
    return content.rindex(box) + 4


def make_whole_clips() -> None:
    encode("h264.mp4", *X264, "-movflags", "+faststart")
    encode("h264_open_gop.mkv", *X264[:-1], "threads=1:open-gop=1:b-adapt=0")
    encode("h264.flv", *X264)
    # Slow, so that there is something to seek over.
    encode("h264_slow.ts", *X264, rate="1/2")
    encode("h264_slow.mkv", *X264, rate="1/2")
    encode("h264_one_key.mp4", *X264, "-g", "1000")
    encode("h264_bt709.mp4", *X264, "-vf", "scale=out_color_matrix=bt709:out_range=tv",
           "-colorspace", "bt709", "-color_range", "tv")
    encode("h264_full_range.mp4", *X264, "-vf", "scale=out_color_matrix=bt709:out_range=pc",
           "-colorspace", "bt709", "-color_range", "pc")
    encode("h264_422.mp4", *X264, "-pix_fmt", "yuv422p")
    encode("h264_444_10bit.mp4", *X264, "-pix_fmt", "yuv444p10le")
    encode("h264_interlaced.mp4", *X264[:-1], "threads=1:tff=1")
    encode("h264_wide_pixels.mp4", *X264, "-aspect", "3:1")
    encode("hevc_10bit.mp4", "-c:v", "libx265", "-crf", "18", "-pix_fmt", "yuv420p10le",
           "-tag:v", "hvc1", "-x265-params",
           "log-level=error:pools=none:frame-threads=1:keyint=12:open-gop=1:info=0")
    encode("vp8.webm", "-c:v", "libvpx", "-b:v", "300k", "-g", "12", "-auto-alt-ref", "1",
           "-lag-in-frames", "10")
    encode("vp9.webm", "-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-g", "12")
    encode("av1.mp4", "-c:v", "libaom-av1", "-crf", "20", "-cpu-used", "6", "-g", "12",
           "-pix_fmt", "yuv420p")
    encode("mpeg4.avi", "-c:v", "mpeg4", "-q:v", "3", "-g", "12", "-bf", "2")
    encode("mpeg2.ts", "-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-bf", "2")
    encode("mpeg2.mpg", "-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-bf", "2", "-f", "vob")
    encode("mjpeg.mov", "-c:v", "mjpeg", "-q:v", "5", "-pix_fmt", "yuvj420p", frames=20)
    # Frame n appears at n (n + 1) / 2 hundredths of a second.
    for name in ("vfr.mkv", "vfr.mp4"):
        encode(name, *X264, "-vf", "settb=1/1000,setpts=5*N*(N+1)", "-fps_mode", "vfr",
               "-enc_time_base", "1:1000", frames=30)
    encode("with_audio.mp4", *X264, "-c:a", "aac", "-b:a", "32k", "-shortest",
           inputs=("-f", "lavfi", "-i", "sine=frequency=440:duration=2.4"))
    encode("one_frame.mp4", *X264, frames=1)
    for degrees in (90, 180, 270):
        copy("h264.mp4", f"rotated_{degrees}.mp4", "-metadata:s:v", f"rotate={degrees}",
             "-t", "0.4")


def make_broken_clips() -> None:
    # "mdat" comes last in h264.mp4: the index is whole.
    change("h264.mp4", "cut.mp4", lambda content: content[:len(content) * 8 // 10])
    change("h264_open_gop.mkv", "cut.mkv", lambda content: content[:len(content) * 6 // 10])
    change("h264_slow.ts", "cut.ts", lambda content: content[:len(content) * 6 // 10])

    def scribble(content: bytearray) -> None:
        begin = len(content) * 65 // 100
        content[begin:begin + len(content) // 10] = bytes([0x5A]) * (len(content) // 10)

    change("h264.mp4", "corrupt_middle.mp4", scribble)
    change("mpeg2.ts", "corrupt_middle.ts", scribble)

    def blank(content: bytearray) -> None:
        begin = after(content, b"mdat")
        content[begin:] = bytes(len(content) - begin)

    change("h264.mp4", "no_frame_decodes.mp4", blank)
    run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "sine=duration=0.2", "-c:a", "aac",
        *EXACT, str(FOLDER / "audio_only.mp4"))
    # A header, and not one frame.
    encode("no_frames.mp4", *X264, "-movflags", "+empty_moov+frag_keyframe", "-frames:v", "1")
    change("no_frames.mp4", "no_frames.mp4",
           lambda content: content[:content.index(b"moof") - 4])

    def enlarge_header(content: bytearray) -> None:
        struct.pack_into(">HH", content, after(content, b"avc1") + 24, 16000, 16000)

    change("h264.mp4", "header_16000.mp4", enlarge_header)

    def enlarge_frames(content: bytearray) -> None:
        size = struct.pack(">HH", HEIGHT, WIDTH)
        at = content.find(b"\xff\xc0")
        while at >= 0:
            if content[at + 5:at + 9] == size:
                struct.pack_into(">HH", content, at + 5, 16000, 16000)
            at = content.find(b"\xff\xc0", at + 1)

    change("mjpeg.mov", "frames_16000.mov", enlarge_frames)

    def lengthen(content: bytearray) -> None:
        at = after(content, b"stts")
        entries, count, _ = struct.unpack_from(">III", content, at + 4)
        assert (entries, count) == (1, FRAMES)
        at_media = after(content, b"mdhd")
        scale = struct.unpack_from(">I", content, at_media + 12)[0]
        struct.pack_into(">I", content, at + 12, 36_000 * scale // FRAMES)
        struct.pack_into(">I", content, at_media + 16, 36_000 * scale)
        content[:] = content.replace(b"edts", b"free")

    # Ten minutes a frame.
    encode("ten_hours.mp4", *X264, "-bf", "0", "-movflags", "+faststart")
    change("ten_hours.mp4", "ten_hours.mp4", lengthen)


def frame_times(clip: Path) -> list[int]:
    report = json.loads(run("ffprobe", "-v", "error", "-select_streams", "v", "-of", "json",
                            "-show_entries", "frame=best_effort_timestamp:stream=time_base",
                            str(clip)))
    over, under = map(int, report["streams"][0]["time_base"].split("/"))
    ticks: list[int] = []
    for frame in report["frames"]:
        # The last frames of some containers have no time: they follow at the same pace.
        guess = 2 * ticks[-1] - ticks[-2] if len(ticks) > 1 else 0
        ticks.append(int(frame.get("best_effort_timestamp", guess)))
    return [round((tick - ticks[0]) * over * 1_000_000 / under) for tick in ticks]


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    golden = FOLDER / "golden"
    golden.mkdir(parents=True)
    make_whole_clips()
    lines = []
    for clip in sorted(path for path in FOLDER.iterdir() if path.is_file()):
        times = frame_times(clip)
        lines += [f"{clip.name}\t{number}\t{time}\n" for number, time in enumerate(times)]
        for number in (0, len(times) // 2 + 1):
            if number >= len(times):
                continue
            run("ffmpeg", "-v", "error", "-y", "-i", str(clip), "-vf",
                f"select=eq(n\\,{number}),scale=flags=bicubic+accurate_rnd+full_chroma_int,"
                "format=rgb24", "-fps_mode", "passthrough", "-frames:v", "1", "-pix_fmt", "rgb24",
                *EXACT, str(golden / f"{clip.name}_{number}.png"))
    make_broken_clips()
    (FOLDER / "frames.tsv").write_text("".join(lines))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/data/pictures: one drawn picture in many encodings, good and bad.

    python3 -m venv venv && venv/bin/pip install pillow==13.0.0
    apt-get install libheif-examples
    venv/bin/python tests/data/make_pictures.py
"""

import struct
import subprocess
import zlib
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "pictures"
SIZE = (64, 48)
BOMB_BYTES = 32 << 20

# EXIF orientation -> how to turn the upright picture into the stored one.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def draw() -> Image.Image:
    image = Image.new("RGB", SIZE)
    for y in range(SIZE[1]):
        for x in range(SIZE[0]):
            image.putpixel((x, y), (4 * x, 5 * y, 255 - 4 * x))
    pen = ImageDraw.Draw(image)
    pen.ellipse((6, 6, 26, 22), fill=(250, 240, 30))
    pen.rectangle((40, 28, 58, 42), fill=(20, 120, 60))
    return image


def transparent(image: Image.Image) -> Image.Image:
    """Opaque on the left, half transparent in the middle, clear on the right."""
    alpha = Image.new("L", image.size)
    for x in range(image.width):
        for y in range(image.height):
            alpha.putpixel((x, y), 255 if x < 20 else 128 if x < 40 else 0)
    result = image.copy()
    result.putalpha(alpha)
    return result


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes,
        extra: bytes = b"") -> bytes:
    """A PNG of raw rows, each without its filter byte; they may be too few."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    stride = max(1, width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8)
    lines = b"".join(b"\0" + rows[i:i + stride] for i in range(0, len(rows), stride))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
            + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))


def wide(image: Image.Image) -> bytes:
    """16 bits a value, big-endian, the low byte a copy of the high one."""
    return b"".join(bytes((value, value)) for value in image.tobytes())


def swapped_profile() -> bytes:
    """An sRGB-like ICC profile whose red and green primaries are exchanged."""
    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(*values)

    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"swapped\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0" + b"none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"gXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma,
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    header = (struct.pack(">I4sI", 128 + len(table) + len(body), b"none", 0x02100000)
              + b"mntrRGB XYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
              + bytes(28) + fixed(0.9642, 1.0, 0.8249))
    return header + bytes(128 - len(header)) + table + body


def write(name: str, data: bytes) -> None:
    (FOLDER / name).write_bytes(data)


def write_encodings(photo: Image.Image) -> None:
    sharp = {"quality": 95, "subsampling": 0}
    photo.save(FOLDER / "photo.png", optimize=True)
    photo.save(FOLDER / "photo.jpg", **sharp)
    photo.save(FOLDER / "progressive.jpg", progressive=True, **sharp)
    photo.convert("L").save(FOLDER / "grey.jpg", quality=95)
    photo.convert("CMYK").save(FOLDER / "cmyk.jpg", quality=95)
    photo.save(FOLDER / "photo.webp", lossless=True)
    photo.save(FOLDER / "photo.tiff", compression="tiff_lzw")
    photo.save(FOLDER / "photo.avif", quality=95, subsampling="4:4:4")
    subprocess.run(["heif-enc", "-q", "95", "-p", "chroma=444", str(FOLDER / "photo.png"), "-o",
                    str(FOLDER / "photo.heic")], check=True, stdout=subprocess.DEVNULL)
    flat = photo.quantize(64)
    flat.convert("RGB").save(FOLDER / "first_frame.png", optimize=True)
    flat.save(FOLDER / "animated.gif", save_all=True,
              append_images=[Image.new("P", SIZE, 3)], loop=0)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = photo.transpose(STORED_AS[orientation]) if orientation > 1 else photo
        stored.save(FOLDER / f"orientation_{orientation}.jpg", exif=exif, **sharp)
    for suffix in ("png", "jpg", "gif", "webp"):
        Image.new("RGB", (1, 1), (200, 100, 50)).save(FOLDER / f"one_pixel.{suffix}", quality=95)


def write_alpha(photo: Image.Image) -> None:
    clear = transparent(photo)
    clear.save(FOLDER / "alpha.png", optimize=True)
    white = Image.new("RGBA", SIZE, (255, 255, 255, 255))
    Image.alpha_composite(white, clear).convert("RGB").save(FOLDER / "alpha_on_white.png",
                                                           optimize=True)
    clear.save(FOLDER / "alpha.webp", lossless=True, exact=True)
    clear.convert("LA").save(FOLDER / "grey_alpha.png", optimize=True)
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 100, 50, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    palette.save(FOLDER / "palette_alpha.png", transparency=bytes((255, 0)))
    write("16bit.png", png(*SIZE, 16, 2, wide(photo)))
    write("16bit_alpha.png", png(*SIZE, 16, 6, wide(clear)))
    write("16bit_grey.png", png(*SIZE, 16, 0, wide(photo.convert("L"))))


def write_profiles(photo: Image.Image) -> None:
    profile = swapped_profile()
    photo.save(FOLDER / "swapped_profile.png", icc_profile=profile, optimize=True)
    photo.save(FOLDER / "broken_profile.png", icc_profile=b"no profile at all" * 20,
               optimize=True)
    photo.convert("L").save(FOLDER / "misfit_profile.jpg", icc_profile=profile, quality=95)


def write_bombs() -> None:
    write("header_30000.png", png(30000, 30000, 8, 2, bytes(30)))
    write("bomb_12000.png", png(12000, 12000, 1, 0, bytes(12000 * 12000 // 8)))
    zeros = zlib.compress(bytes(BOMB_BYTES), 9)
    pixel = bytes((200, 100, 50))
    write("text_bomb.png", png(1, 1, 8, 2, pixel, chunk(b"zTXt", b"Comment\0\0" + zeros)))
    write("profile_bomb.png", png(1, 1, 8, 2, pixel, chunk(b"iCCP", b"icc\0\0" + zeros)))
    screen = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    write("bomb.gif", b"GIF89a" + screen + frame + b"\x02\x02\x4c\x01\x00;")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    photo = draw()
    write_encodings(photo)
    write_alpha(photo)
    write_profiles(photo)
    write_bombs()


if __name__ == "__main__":
    main()

#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"
#include <arpa/inet.h>

#include "engine/media/image.h"
#include "engine/media/image_writer.h"
#include "zlib.h"

namespace quern {

// One colour all over.
inline Image PlainImage(int64_t width, int64_t height, uint8_t red,
                        uint8_t green, uint8_t blue) {
  Image image{.width = width, .height = height};
  image.rgb.reserve(width * height * 3);
  for (int64_t i = 0; i < width * height; ++i) {
    image.rgb.push_back(red);
    image.rgb.push_back(green);
    image.rgb.push_back(blue);
  }
  return image;
}

inline std::string PngChunk(absl::string_view type, absl::string_view data) {
  const uint32_t length = htonl(data.size());
  std::string body(type);
  body.append(data.data(), data.size());
  const uint32_t checksum =
      htonl(crc32(0, reinterpret_cast<const Bytef*>(body.data()), body.size()));
  std::string chunk(reinterpret_cast<const char*>(&length), 4);
  chunk += body;
  chunk.append(reinterpret_cast<const char*>(&checksum), 4);
  return chunk;
}

// A PNG of black 8-bit grey pixels; without its data it is a header that says
// how large it is, and hardly more.
inline std::string BlackPng(uint32_t width, uint32_t height, bool with_data) {
  std::string header(13, '\0');
  const uint32_t sides[2] = {htonl(width), htonl(height)};
  std::memcpy(header.data(), sides, 8);
  header[8] = 8;  // Bits a sample; the colour type, 0, is grey.
  std::string png = "\x89PNG\r\n\x1a\n" + PngChunk("IHDR", header);
  if (with_data) {
    const std::string rows((width + 1) * static_cast<size_t>(height), '\0');
    uLongf size = compressBound(rows.size());
    std::string compressed(size, '\0');
    compress(reinterpret_cast<Bytef*>(compressed.data()), &size,
             reinterpret_cast<const Bytef*>(rows.data()), rows.size());
    compressed.resize(size);
    png += PngChunk("IDAT", compressed);
  } else {
    png += PngChunk("IDAT", "x\x9c");  // How a zlib stream begins.
  }
  return png + PngChunk("IEND", "");
}

}  // namespace quern

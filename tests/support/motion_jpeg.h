#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "engine/base/little_endian.h"

namespace quern {

// A chunk of a RIFF file, padded to an even length.
inline std::string RiffChunk(absl::string_view name, absl::string_view data) {
  std::string chunk(name);
  AppendNumber(static_cast<uint32_t>(data.size()), chunk);
  chunk.append(data.data(), data.size());
  if (data.size() % 2 != 0) chunk.push_back('\0');
  return chunk;
}

inline std::string RiffList(absl::string_view kind, absl::string_view data) {
  return RiffChunk("LIST", std::string(kind) + std::string(data));
}

// An AVI file that shows the JPEGs one after the other ("AVI RIFF File
// Reference", Microsoft, with its index of version 1). All are of width x
// height pixels.
inline std::string MotionJpegAvi(const std::vector<std::string>& jpegs,
                                 uint32_t width, uint32_t height,
                                 uint32_t frames_per_second) {
  constexpr uint32_t kHasIndex = 0x10;
  constexpr uint32_t kKeyFrame = 0x10;
  const auto append = [](std::initializer_list<uint32_t> numbers,
                         std::string& to) {
    for (const uint32_t number : numbers) AppendNumber(number, to);
  };
  const auto count = static_cast<uint32_t>(jpegs.size());
  uint32_t largest = 0;
  std::string frames;
  std::string index;
  for (const std::string& jpeg : jpegs) {
    const auto size = static_cast<uint32_t>(jpeg.size());
    largest = std::max(largest, size);
    index += "00dc";
    // Counted from the word "movi".
    append({kKeyFrame, static_cast<uint32_t>(4 + frames.size()), size}, index);
    frames += RiffChunk("00dc", jpeg);
  }
  std::string main_header;
  append({1'000'000 / frames_per_second, largest * frames_per_second, 0,
          kHasIndex, count, 0, 1, largest, width, height, 0, 0, 0, 0},
         main_header);
  std::string stream_header = "vidsMJPG";
  append({0, 0, 0, 1, frames_per_second, 0, count, largest, 0, 0, 0, 0},
         stream_header);
  std::string format;
  append({40, width, height, 1 | 24 << 16}, format);
  format += "MJPG";
  append({width * height * 3, 0, 0, 0, 0}, format);
  const std::string headers =
      RiffChunk("avih", main_header) +
      RiffList("strl",
               RiffChunk("strh", stream_header) + RiffChunk("strf", format));
  return RiffChunk("RIFF", "AVI " + RiffList("hdrl", headers) +
                               RiffList("movi", frames) +
                               RiffChunk("idx1", index));
}

}  // namespace quern

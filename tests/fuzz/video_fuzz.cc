#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/base/clock.h"
#include "engine/media/ffmpeg_video_decoder.h"

// Decodes the bytes as a video within small limits. What must hold of any
// bytes: frames in the order of time, no more of them than asked for, each with
// its pixels; or an error about the input.

namespace quern {
namespace {

constexpr VideoSampling kSampling = {.frames_per_second = 4, .max_frames = 6};

void Require(bool condition) {
  if (!condition) std::abort();
}

const FfmpegVideoDecoder& Decoder() {
  static const RealClock clock;
  static const auto decoder = [] {
    FfmpegVideoDecoder::Options options;
    options.limits.max_bytes = 1 << 20;
    options.limits.max_pixels = 1 << 18;
    options.limits.max_decoded_bytes = 32 << 20;
    options.limits.max_decode_time = absl::Seconds(5);
    options.min_seek_bytes = 0;
    return *FfmpegVideoDecoder::Create(options, &clock);
  }();
  return *decoder;
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using quern::Require;
  int64_t frames = 0;
  absl::Duration last = -absl::InfiniteDuration();
  const auto info = quern::Decoder().Decode(
      {.content = {reinterpret_cast<const char*>(data), size}},
      quern::kSampling, 16, 16, [] { return absl::OkStatus(); },
      [&](quern::VideoFrame frame) {
        Require(frame.time > last);
        Require(frame.samples >= 1);
        Require(
            frame.image.rgb.size() ==
            static_cast<size_t>(frame.image.width * frame.image.height * 3));
        last = frame.time;
        ++frames;
        return absl::OkStatus();
      });
  Require(frames <= quern::kSampling.max_frames);
  if (info.ok()) {
    Require(frames >= 1 && info->frames == frames);
    Require(info->duration >= last);
  } else {
    Require(absl::IsInvalidArgument(info.status()));
  }
  return 0;
}

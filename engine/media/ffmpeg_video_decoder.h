#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "engine/base/clock.h"
#include "engine/media/video.h"

namespace quern {

// Decodes H.264, HEVC, VP8, VP9, AV1, MPEG-1/2/4 and MJPEG video in MP4/MOV,
// Matroska/WebM, AVI, MPEG-TS, MPEG-PS, FLV and Ogg with FFmpeg's libraries.
//
// The file is read through this process's own reader: nothing that a file
// refers to is opened. Only what the sampled frames depend on is decoded: of a
// group of pictures (a key frame and what depends on it) nothing when no sample
// lies in it, and no picture that nothing depends on, unless it is sampled.
// Stretches of the file that hold no sample are skipped by seeking.
//
// Rotation and mirroring by the display matrix are applied when they are
// multiples of 90 degrees. Colours follow the stream's matrix and range; an
// untagged stream is BT.709 from 720 lines on and BT.601 below. Interlaced
// pictures are taken as they are, HDR is not tone-mapped, and of several video
// streams the default one, else the largest, is taken.
//
// Keeps no state between calls. Thread-safe.
class FfmpegVideoDecoder final : public VideoDecoder {
 public:
  struct Options {
    VideoLimits limits;
    // Threads of one call's codec, besides the calling one; 1..64. Frames of
    // fewer than 640 x 360 pixels are decoded by one.
    int threads = 1;
    // A part of the file without samples is skipped by seeking rather than read
    // when it is at least this long; >= 0.
    int64_t min_seek_bytes = 1 << 20;
  };

  // `clock` measures max_decode_time and must outlive the decoder.
  // Errors: kInvalidArgument for an option out of range.
  static absl::StatusOr<std::unique_ptr<FfmpegVideoDecoder>> Create(
      Options options, const Clock* clock);

  absl::StatusOr<VideoInfo> Decode(
      const VideoSource& source, const VideoSampling& sampling,
      int64_t hint_width, int64_t hint_height,
      absl::FunctionRef<absl::Status()> check,
      absl::FunctionRef<absl::Status(VideoFrame)> on_frame) const override;

 private:
  FfmpegVideoDecoder(Options options, const Clock* clock)
      : options_(options), clock_(clock) {}

  const Options options_;
  const Clock* const clock_;
};

}  // namespace quern

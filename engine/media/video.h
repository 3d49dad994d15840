#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/media/image.h"

namespace quern {

// Exactly one of the two is set.
struct VideoSource {
  absl::string_view content;  // The file's bytes; must outlive the call.
  // A regular file. Whether the caller may read it is checked by whoever passes
  // it on: the decoder opens what it is given.
  std::string path;
};

// Frames are asked for at 0, s, 2s, ... seconds from the first frame, as long
// as the video is shown. s is 1 / frames_per_second, or longer when the whole
// video would give more than max_frames: then they are spread evenly over it.
struct VideoSampling {
  double frames_per_second = 2;  // (0, 60].
  int64_t max_frames = 256;      // 1..4096.
};

// Applied as early as the value is known: to the header where it has it, and to
// what is decoded in any case.
struct VideoLimits {
  int64_t max_bytes = int64_t{4} << 30;  // Encoded size; >= 1.
  int64_t max_pixels = 36'000'000;       // Width x height of a frame; >= 1.
  absl::Duration max_duration = absl::Hours(4);  // Above 0, up to 10,000 hours.
  // All frames that had to be decoded, sampled or not, at 3 bytes a pixel;
  // >= 1.
  int64_t max_decoded_bytes = int64_t{256} << 30;
  // Wall time of one call without the time spent in `on_frame`; > 0.
  absl::Duration max_decode_time = absl::Minutes(5);
};

// A frame that is shown at one or more of the times asked for.
struct VideoFrame {
  // When it appears, counted from the first frame; exact to half a tick of the
  // container's clock. Rises from frame to frame.
  absl::Duration time;
  // At how many of the times asked for it is shown; >= 1. More than one where
  // the video has fewer frames than were asked for: a weight for averages.
  int64_t samples = 1;
  Image image;  // Upright.
};

struct VideoInfo {
  // From the first frame to the end of the last one, as the header says; of a
  // truncated video, the part that could be used.
  absl::Duration duration;
  int64_t width = 0;   // Pixels, upright, not reduced.
  int64_t height = 0;  // Pixels, upright, not reduced.
  // Width of a pixel over its height, upright. Frames are given as stored, so
  // to be shown they must be stretched by it.
  double pixel_aspect = 1;
  std::string codec;   // "h264", "hevc", "vp9", ...
  int64_t frames = 0;  // How many were given to `on_frame`.
  // The file ends too early, or its tail is broken; what came before was used.
  bool is_truncated = false;
  // Something in the middle could not be decoded and was passed over.
  bool is_damaged = false;
};

// Decodes videos. Thread-safe.
class VideoDecoder {
 public:
  virtual ~VideoDecoder() = default;

  // Calls `on_frame` on this thread with each sampled frame in the order of
  // time as soon as it is decoded, so that whoever takes it can work on it
  // meanwhile; the decoder keeps no frame that it has handed out. `check` is
  // called between packets and frames. The first error of either ends the call
  // and is returned as it is.
  //
  // `hint_width` and `hint_height` are as for ImageDecoder::Decode().
  //
  // Errors:
  //   kInvalidArgument  not a video, without a frame that can be decoded (with
  //                     the decoder's reason), beyond a limit (with value and
  //                     limit), or a sampling out of range
  //   kNotFound, kPermissionDenied  `path` cannot be opened
  virtual absl::StatusOr<VideoInfo> Decode(
      const VideoSource& source, const VideoSampling& sampling,
      int64_t hint_width, int64_t hint_height,
      absl::FunctionRef<absl::Status()> check,
      absl::FunctionRef<absl::Status(VideoFrame)> on_frame) const = 0;
};

}  // namespace quern

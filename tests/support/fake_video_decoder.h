#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_split.h"

#include "engine/media/video.h"

namespace quern {

// Takes "red blue red" for a video of three plain frames of 16 x 16 pixels,
// half a second each. "endless" never runs out of red frames, "broken" is
// damaged after its first. Thread-safe.
class FakeVideoDecoder final : public VideoDecoder {
 public:
  absl::StatusOr<VideoInfo> Decode(
      const VideoSource& source, const VideoSampling& sampling,
      int64_t /*hint_width*/, int64_t /*hint_height*/,
      absl::FunctionRef<absl::Status()> check,
      absl::FunctionRef<absl::Status(VideoFrame)> on_frame) const override {
    const std::string text =
        source.path.empty() ? std::string(source.content) : "red";
    const bool is_endless = text == "endless";
    std::vector<std::string> colors = absl::StrSplit(text, ' ');
    if (is_endless || text == "broken") colors = {"red"};
    VideoInfo info{.width = 16, .height = 16};
    while (info.frames < sampling.max_frames || is_endless) {
      if (!is_endless && info.frames == static_cast<int64_t>(colors.size())) {
        break;
      }
      if (absl::Status status = check(); !status.ok()) return status;
      VideoFrame frame{.time = info.frames * absl::Milliseconds(500)};
      frame.image = Plain(is_endless ? "red" : colors[info.frames]);
      if (frame.image.rgb.empty()) {
        return absl::InvalidArgumentError("not a video");
      }
      if (absl::Status status = on_frame(std::move(frame)); !status.ok()) {
        return status;
      }
      ++info.frames;
      if (text == "broken") return absl::InvalidArgumentError("damaged");
    }
    info.duration = info.frames * absl::Milliseconds(500);
    return info;
  }

 private:
  static Image Plain(const std::string& color) {
    Image image{.width = 16, .height = 16};
    std::vector<uint8_t> rgb;
    if (color == "red") rgb = {255, 0, 0};
    if (color == "blue") rgb = {0, 0, 255};
    for (int i = 0; !rgb.empty() && i < 16 * 16; ++i) {
      image.rgb.insert(image.rgb.end(), rgb.begin(), rgb.end());
    }
    return image;
  }
};

}  // namespace quern

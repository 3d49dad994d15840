#include "client/cli/thumbnail.h"

#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include <vips/vips.h>

#include "engine/base/clock.h"
#include "engine/media/ffmpeg_video_decoder.h"
#include "engine/media/image_writer.h"

namespace quern::cli {
namespace {

constexpr int kSide = 320;
constexpr int kQuality = 82;
constexpr double kWhite = 255;

struct Unref {
  void operator()(VipsImage* image) const { g_object_unref(image); }
};
using OwnedImage = std::unique_ptr<VipsImage, Unref>;

// Loaders that were never meant for files of strangers stay off.
bool StartVips() {
  if (VIPS_INIT("quern") != 0) return false;
  vips_block_untrusted_set(TRUE);
  // Its warnings would land in the middle of the command's output.
  g_log_set_handler(
      "VIPS", G_LOG_LEVEL_WARNING,
      [](const gchar*, GLogLevelFlags, const gchar*, gpointer) {}, nullptr);
  return true;
}

absl::Status VipsError() {
  const std::string reason(absl::StripAsciiWhitespace(vips_error_buffer()));
  vips_error_clear();
  return absl::InvalidArgumentError(
      absl::StrCat("is no picture that can be read: ", reason));
}

}  // namespace

absl::StatusOr<Thumbnail> MakeThumbnail(absl::string_view picture) {
  static const bool started = StartVips();
  if (!started) return absl::InternalError("libvips does not start");

  VipsImage* output = nullptr;
  // libvips takes the buffer as writable but does not write to it.
  if (vips_thumbnail_buffer(const_cast<char*>(picture.data()), picture.size(),
                            &output, kSide, "height", kSide, "size",
                            VIPS_SIZE_DOWN, "export_profile", "srgb",
                            nullptr) != 0) {
    return VipsError();
  }
  OwnedImage image(output);
  if (vips_image_hasalpha(image.get()) != 0) {
    VipsArrayDouble* white = vips_array_double_newv(1, kWhite);
    const int failed =
        vips_flatten(image.get(), &output, "background", white, nullptr);
    vips_area_unref(VIPS_AREA(white));
    if (failed != 0) return VipsError();
    image.reset(output);
  }
  void* bytes = nullptr;
  size_t size = 0;
  if (vips_jpegsave_buffer(image.get(), &bytes, &size, "Q", kQuality, "strip",
                           TRUE, nullptr) != 0) {
    return VipsError();
  }
  Thumbnail thumbnail{std::string(static_cast<const char*>(bytes), size),
                      vips_image_get_width(image.get()),
                      vips_image_get_height(image.get())};
  g_free(bytes);
  return thumbnail;
}

absl::StatusOr<Thumbnail> VideoThumbnail(const std::filesystem::path& file,
                                         absl::Duration time) {
  constexpr int kFrameQuality = 95;  // It is compressed once more.
  constexpr double kMaxRate = 60;    // Frames per second.
  static const RealClock clock;
  const auto decoder = FfmpegVideoDecoder::Create({}, &clock);
  if (!decoder.ok()) return decoder.status();
  // Frames are asked for at 0 and at `time`, and the second ends it.
  VideoSampling sampling{.max_frames = 1};
  if (time >= absl::Seconds(1) / kMaxRate) {
    sampling = {.frames_per_second = 1 / absl::ToDoubleSeconds(time),
                .max_frames = 4096};
  }
  Image frame;
  bool is_found = false;
  const auto info = (*decoder)->Decode(
      {.path = file.string()}, sampling, kSide, kSide,
      [] { return absl::OkStatus(); },
      [&](VideoFrame next) {
        is_found = !frame.rgb.empty();
        frame = std::move(next.image);
        return is_found ? absl::CancelledError("found") : absl::OkStatus();
      });
  if (!info.ok() && !is_found) return info.status();
  const auto jpeg = EncodeJpeg(frame, kFrameQuality);
  if (!jpeg.ok()) return jpeg.status();
  return MakeThumbnail(*jpeg);
}

}  // namespace quern::cli

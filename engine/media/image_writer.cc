#include "engine/media/image_writer.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include <vips/vips.h>

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/media/vips_runtime.h"

namespace quern {
namespace {

constexpr int kBands = 3;

struct Unreference {
  void operator()(VipsImage* image) const { g_object_unref(image); }
};
using VipsImagePtr = std::unique_ptr<VipsImage, Unreference>;

absl::Status CheckShape(const Image& image) {
  const bool shaped = image.width >= 1 && image.height >= 1 &&
                      image.rgb.size() == static_cast<size_t>(image.width) *
                                              image.height * kBands;
  if (shaped) return absl::OkStatus();
  return InvalidField("image", absl::StrCat(image.width, " x ", image.height,
                                            " pixels do not match ",
                                            image.rgb.size(), " values"));
}

// A view of `image`, which must outlive it.
absl::StatusOr<VipsImagePtr> Borrow(const Image& image) {
  QUERN_RETURN_IF_ERROR(CheckShape(image));
  QUERN_RETURN_IF_ERROR(StartVips());
  VipsImagePtr raw(vips_image_new_from_memory(
      image.rgb.data(), image.rgb.size(), static_cast<int>(image.width),
      static_cast<int>(image.height), kBands, VIPS_FORMAT_UCHAR));
  if (raw == nullptr) return absl::InternalError(TakeVipsError());
  VipsImage* srgb = nullptr;
  if (vips_copy(raw.get(), &srgb, "interpretation", VIPS_INTERPRETATION_sRGB,
                nullptr) != 0) {
    return absl::InternalError(TakeVipsError());
  }
  return VipsImagePtr(srgb);
}

// Runs `save(image, &buffer, &size)`.
template <typename Save>
absl::StatusOr<std::string> Encode(const Image& image, Save save) {
  QUERN_ASSIGN_OR_RETURN(const VipsImagePtr borrowed, Borrow(image));
  void* buffer = nullptr;
  size_t size = 0;
  if (save(borrowed.get(), &buffer, &size) != 0) {
    return absl::InternalError(
        absl::StrCat("the picture cannot be encoded: ", TakeVipsError()));
  }
  const std::unique_ptr<void, decltype(&g_free)> owned(buffer, &g_free);
  return std::string(static_cast<const char*>(buffer), size);
}

}  // namespace

absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality) {
  if (quality < 1 || quality > 100) {
    return InvalidField("quality", absl::StrCat(quality, " is not in 1..100"));
  }
  return Encode(image, [quality](VipsImage* in, void** buffer, size_t* size) {
    return vips_jpegsave_buffer(in, buffer, size, "Q", quality, nullptr);
  });
}

absl::StatusOr<std::string> EncodePng(const Image& image) {
  return Encode(image, [](VipsImage* in, void** buffer, size_t* size) {
    return vips_pngsave_buffer(in, buffer, size, nullptr);
  });
}

}  // namespace quern

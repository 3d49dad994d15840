#include "engine/media/vips_image_decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include <vips/vips.h>

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/media/vips_runtime.h"

namespace quern {
namespace {

constexpr int kBands = 3;

// Rows pulled through the pipeline at a time.
constexpr int kStripRows = 64;

// From this EXIF orientation on, width and height are swapped.
constexpr int kFirstSwappedOrientation = 5;

struct Unreference {
  void operator()(void* object) const { g_object_unref(object); }
};
using VipsImagePtr = std::unique_ptr<VipsImage, Unreference>;
using VipsRegionPtr = std::unique_ptr<VipsRegion, Unreference>;

absl::Status Damaged() {
  return absl::InvalidArgumentError(
      absl::StrCat("damaged picture: ", TakeVipsError()));
}

absl::Status CheckAtLeastOne(absl::string_view field, int64_t value) {
  if (value >= 1) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(value, " is less than 1"));
}

absl::Status CheckEncodedSize(absl::string_view encoded,
                              const ImageLimits& limits) {
  if (encoded.empty()) {
    return absl::InvalidArgumentError("the picture is empty");
  }
  if (static_cast<int64_t>(encoded.size()) <= limits.max_bytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the picture has ", encoded.size(),
                   " bytes, over the limit of ", limits.max_bytes));
}

absl::Status CheckDimensions(const VipsImage* header,
                             const ImageLimits& limits) {
  const int64_t width = vips_image_get_width(header);
  const int64_t height = vips_image_get_height(header);
  if (std::max(width, height) > limits.max_side) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the picture is ", width, " x ", height, " pixels, over the limit of ",
        limits.max_side, " pixels a side"));
  }
  if (width * height > limits.max_pixels) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the picture is ", width, " x ", height, " = ", width * height,
        " pixels, over the limit of ", limits.max_pixels, " pixels"));
  }
  return absl::OkStatus();
}

bool IsJpeg(absl::string_view encoded) {
  return absl::StartsWith(encoded, "\xFF\xD8\xFF");
}

bool IsPng(absl::string_view encoded) {
  return absl::StartsWith(encoded, "\x89PNG\r\n\x1A\n");
}

bool IsWebp(absl::string_view encoded) {
  return absl::StartsWith(encoded, "RIFF") &&
         absl::StartsWith(absl::ClippedSubstr(encoded, 8), "WEBP");
}

bool IsGif(absl::string_view encoded) {
  return absl::StartsWith(encoded, "GIF87a") ||
         absl::StartsWith(encoded, "GIF89a");
}

// Classic and BigTIFF, in both byte orders.
bool IsTiff(absl::string_view encoded) {
  const absl::string_view magic = encoded.substr(0, 4);
  return magic == absl::string_view("II*\0", 4) ||
         magic == absl::string_view("MM\0*", 4) ||
         magic == absl::string_view("II+\0", 4) ||
         magic == absl::string_view("MM\0+", 4);
}

// ISO base media files with the brand of a still picture. Videos have others.
bool IsHeif(absl::string_view encoded) {
  if (!absl::StartsWith(absl::ClippedSubstr(encoded, 4), "ftyp")) return false;
  const absl::string_view brand = absl::ClippedSubstr(encoded, 8, 4);
  for (absl::string_view known :
       {"heic", "heix", "heim", "heis", "mif1", "msf1", "avif", "avis"}) {
    if (brand == known) return true;
  }
  return false;
}

// Formats are told apart here rather than by libvips, which asks every loader
// that it has, untrusted ones too, and takes half a millisecond to do so.
struct Format {
  bool (*matches)(absl::string_view encoded);
  int (*load)(void* encoded, size_t size, VipsImage** image, ...);
};

constexpr Format kFormats[] = {
    {IsJpeg, vips_jpegload_buffer}, {IsPng, vips_pngload_buffer},
    {IsWebp, vips_webpload_buffer}, {IsGif, vips_gifload_buffer},
    {IsTiff, vips_tiffload_buffer}, {IsHeif, vips_heifload_buffer},
};

// Reads the header; pixels follow when they are asked for. The result reads
// from `encoded` as long as it lives.
absl::StatusOr<VipsImagePtr> Open(absl::string_view encoded) {
  for (const Format& format : kFormats) {
    if (!format.matches(encoded)) continue;
    VipsImage* image = nullptr;
    if (format.load(const_cast<char*>(encoded.data()), encoded.size(), &image,
                    "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                    VIPS_FAIL_ON_ERROR, nullptr) != 0) {
      return Damaged();
    }
    return VipsImagePtr(image);
  }
  return absl::InvalidArgumentError(
      "not a picture in a known format (JPEG, PNG, WebP, GIF, TIFF, HEIF, "
      "AVIF)");
}

// As Open(), each side divided by `shrink` (2, 4 or 8) while decoding.
absl::StatusOr<VipsImagePtr> OpenJpegShrunk(absl::string_view encoded,
                                            int shrink) {
  VipsImage* image = nullptr;
  if (vips_jpegload_buffer(const_cast<char*>(encoded.data()), encoded.size(),
                           &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                           VIPS_FAIL_ON_ERROR, "shrink", shrink,
                           nullptr) != 0) {
    return Damaged();
  }
  return VipsImagePtr(image);
}

// The largest factor that JPEG can shrink by while decoding that leaves both
// upright sides twice as long as the hints.
int JpegShrink(const VipsImage* header, int64_t hint_width,
               int64_t hint_height) {
  if (hint_width <= 0 || hint_height <= 0) return 1;
  if (vips_image_get_orientation(const_cast<VipsImage*>(header)) >=
      kFirstSwappedOrientation) {
    std::swap(hint_width, hint_height);
  }
  for (int shrink : {8, 4, 2}) {
    if (vips_image_get_width(header) / shrink >= 2 * hint_width &&
        vips_image_get_height(header) / shrink >= 2 * hint_height) {
      return shrink;
    }
  }
  return 1;
}

bool HasProfile(const VipsImage* image) {
  return vips_image_get_typeof(image, VIPS_META_ICC_NAME) != 0;
}

// Calls a libvips operation that makes one image of another and lets go of its
// input.
template <typename Operation>
absl::StatusOr<VipsImagePtr> Apply(VipsImagePtr image, Operation operation) {
  VipsImage* result = nullptr;
  if (operation(image.get(), &result) != 0) return Damaged();
  return VipsImagePtr(result);
}

// Through the embedded profile; null when it does not fit the picture.
VipsImagePtr FromProfile(VipsImage* image) {
  VipsImage* result = nullptr;
  if (vips_icc_transform(image, &result, "srgb", "embedded", TRUE, "depth", 8,
                         nullptr) != 0) {
    vips_error_clear();
    return nullptr;
  }
  return VipsImagePtr(result);
}

absl::StatusOr<VipsImagePtr> ToSrgb(VipsImagePtr image) {
  if (HasProfile(image.get())) {
    if (VipsImagePtr converted = FromProfile(image.get())) return converted;
  }
  if (vips_image_get_interpretation(image.get()) == VIPS_INTERPRETATION_sRGB) {
    return image;
  }
  return Apply(std::move(image), [](VipsImage* in, VipsImage** out) {
    return vips_colourspace(in, out, VIPS_INTERPRETATION_sRGB, nullptr);
  });
}

absl::StatusOr<VipsImagePtr> ToBytes(VipsImagePtr image) {
  if (vips_image_get_format(image.get()) == VIPS_FORMAT_UCHAR) return image;
  return Apply(std::move(image), [](VipsImage* in, VipsImage** out) {
    return vips_cast_uchar(in, out, nullptr);
  });
}

absl::StatusOr<VipsImagePtr> Upright(VipsImagePtr image) {
  if (vips_image_get_orientation(image.get()) <= 1) return image;
  // Turning reads pixels out of order, which a sequential source cannot serve.
  VipsImagePtr in_memory(vips_image_copy_memory(image.get()));
  if (in_memory == nullptr) return Damaged();
  return Apply(std::move(in_memory), [](VipsImage* in, VipsImage** out) {
    return vips_autorot(in, out, nullptr);
  });
}

// 8-bit bands of upright sRGB, three or, with alpha, four. For the plain JPEG
// or PNG each step passes the picture through.
absl::StatusOr<VipsImagePtr> Normalise(VipsImagePtr image) {
  QUERN_ASSIGN_OR_RETURN(image, ToSrgb(std::move(image)));
  QUERN_ASSIGN_OR_RETURN(image, ToBytes(std::move(image)));
  const int colours = vips_image_get_bands(image.get()) -
                      (vips_image_hasalpha(image.get()) ? 1 : 0);
  if (colours != kBands) {
    return absl::InvalidArgumentError(
        absl::StrCat("the picture has ", colours,
                     " colour channels, which is no known colour space"));
  }
  return Upright(std::move(image));
}

// `rgba` on white, rounded to the nearest: vips_flatten() rounds down.
void PutOnWhite(absl::Span<const uint8_t> rgba, uint8_t* rgb) {
  for (size_t i = 0; i < rgba.size(); i += kBands + 1) {
    const int alpha = rgba[i + kBands];
    for (int band = 0; band < kBands; ++band) {
      *rgb++ = (rgba[i + band] * alpha + 255 * (255 - alpha) + 127) / 255;
    }
  }
}

// Runs the pipeline from top to bottom, on this thread.
absl::StatusOr<Image> ReadPixels(VipsImage* source) {
  const int width = vips_image_get_width(source);
  const int height = vips_image_get_height(source);
  const bool has_alpha = vips_image_get_bands(source) > kBands;
  const size_t row_bytes = static_cast<size_t>(width) * kBands;
  Image image{.width = width, .height = height, .rgb = {}};
  image.rgb.resize(row_bytes * height);
  const VipsRegionPtr region(vips_region_new(source));
  for (int top = 0; top < height; top += kStripRows) {
    const VipsRect strip = {.left = 0,
                            .top = top,
                            .width = width,
                            .height = std::min(kStripRows, height - top)};
    if (vips_region_prepare(region.get(), &strip) != 0) return Damaged();
    for (int y = top; y < top + strip.height; ++y) {
      const uint8_t* pixels = VIPS_REGION_ADDR(region.get(), 0, y);
      uint8_t* row = image.rgb.data() + row_bytes * y;
      if (has_alpha) {
        PutOnWhite({pixels, row_bytes / kBands * (kBands + 1)}, row);
      } else {
        std::memcpy(row, pixels, row_bytes);
      }
    }
  }
  return image;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VipsImageDecoder>> VipsImageDecoder::Create(
    Options options) {
  const ImageLimits& limits = options.limits;
  QUERN_RETURN_IF_ERROR(CheckAtLeastOne("limits.max_bytes", limits.max_bytes));
  QUERN_RETURN_IF_ERROR(
      CheckAtLeastOne("limits.max_pixels", limits.max_pixels));
  QUERN_RETURN_IF_ERROR(CheckAtLeastOne("limits.max_side", limits.max_side));
  QUERN_RETURN_IF_ERROR(StartVips());
  return std::unique_ptr<VipsImageDecoder>(new VipsImageDecoder(options));
}

absl::StatusOr<Image> VipsImageDecoder::DoDecode(absl::string_view encoded,
                                                 int64_t hint_width,
                                                 int64_t hint_height) const {
  QUERN_RETURN_IF_ERROR(CheckEncodedSize(encoded, options_.limits));
  QUERN_ASSIGN_OR_RETURN(VipsImagePtr image, Open(encoded));
  QUERN_RETURN_IF_ERROR(CheckDimensions(image.get(), options_.limits));
  int64_t original_width = vips_image_get_width(image.get());
  int64_t original_height = vips_image_get_height(image.get());
  if (vips_image_get_orientation(image.get()) >= kFirstSwappedOrientation) {
    std::swap(original_width, original_height);
  }
  if (IsJpeg(encoded)) {
    const int shrink = JpegShrink(image.get(), hint_width, hint_height);
    if (shrink > 1) {
      QUERN_ASSIGN_OR_RETURN(image, OpenJpegShrunk(encoded, shrink));
    }
  }
  QUERN_ASSIGN_OR_RETURN(image, Normalise(std::move(image)));
  QUERN_ASSIGN_OR_RETURN(Image pixels, ReadPixels(image.get()));
  pixels.original_width = original_width;
  pixels.original_height = original_height;
  return pixels;
}

}  // namespace quern

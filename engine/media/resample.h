#pragma once

#include <cstdint>

#include "engine/media/image.h"
#include "engine/media/preprocess.h"

namespace quern {

// A window of a resized picture.
struct Window {
  int64_t left = 0;
  int64_t top = 0;
  int64_t width = 0;
  int64_t height = 0;
};

// Resizes `image` to `width` x `height` and returns `window` of the result,
// which must lie inside it. Only what the window needs is computed, so that a
// window of an enormous picture costs no more memory than the window does.
Image ResizeWindow(const Image& image, int64_t width, int64_t height,
                   const Window& window, ResizeFilter filter);

}  // namespace quern

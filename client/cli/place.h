#pragma once

#include <optional>
#include <string>

#include "quern/v1/common.pb.h"
#include "quern/v1/grounding.pb.h"
#include "quern/v1/items.pb.h"
#include "quern/v1/retrieval.pb.h"

// Where in its item a hit is.

namespace quern::cli {

// `box` of a picture of `width` x `height` pixels, both 1 or more: its edges
// rounded, never empty, never outside.
v1::PixelBox ToPixels(const v1::Box& box, int width, int height);

// "120,40 300x200": left, top and size in pixels of the upright original, in
// percent where its size is not known; "0:01.5-0:03.0"; "-" for the whole item.
std::string PlaceText(const v1::Hit& hit);

// The pixels of a hit's box; null where it has none, or the item's size is not
// known.
std::optional<v1::PixelBox> PixelsOf(const v1::Hit& hit);

}  // namespace quern::cli

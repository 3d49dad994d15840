#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quern/v1/collections.pb.h"

namespace quern::cli {

// A table of collections, and below it what is to be known of their states; or
// a sentence when there are none. `width` as in Table::Format().
std::string FormatCollections(const std::vector<v1::Collection>& collections,
                              int width);

// 512 B, 1.5 KiB, 20.0 MiB, ...
std::string FormatBytes(int64_t bytes);

// An enumerator's name without its prefix, in lower case: "ready".
std::string FormatState(v1::CollectionStatus::State state);

}  // namespace quern::cli

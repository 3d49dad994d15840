#pragma once

#include <bit>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

// Numbers in records on disk: little-endian, one after the other.

namespace quern {

static_assert(std::endian::native == std::endian::little,
              "records on disk are little-endian");

template <typename Number>
void AppendNumber(Number number, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

// Takes a number off the front. `bytes` must be long enough.
template <typename Number>
Number TakeNumber(absl::string_view& bytes) {
  Number number;
  std::memcpy(&number, bytes.data(), sizeof(number));
  bytes.remove_prefix(sizeof(number));
  return number;
}

}  // namespace quern

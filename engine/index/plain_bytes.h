#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

// Values one after the other, as they lie in memory (little-endian).

namespace quern {

template <typename T>
void AppendValues(const T* values, size_t count, std::string* bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  bytes->append(reinterpret_cast<const char*>(values), count * sizeof(T));
}
template <typename T>
void AppendValue(const T& value, std::string* bytes) {
  AppendValues(&value, 1, bytes);
}

inline absl::Span<const uint8_t> BytesOf(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Reads what the functions above wrote. Not thread-safe.
class PlainReader {
 public:
  explicit PlainReader(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  // False, before any memory is taken, when fewer are left.
  template <typename T>
  bool Read(uint64_t count, std::vector<T>* values) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count > bytes_.size() / sizeof(T)) return false;
    values->resize(count);
    if (count > 0) {
      std::memcpy(values->data(), bytes_.data(), count * sizeof(T));
    }
    bytes_.remove_prefix(count * sizeof(T));
    return true;
  }
  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (sizeof(T) > bytes_.size()) return false;
    std::memcpy(value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return true;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  absl::Span<const uint8_t> bytes_;
};

}  // namespace quern

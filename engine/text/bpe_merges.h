#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace quern {

// The merges of a byte-pair encoding over token ids. Thread-safe once filled.
class BpeMerges {
 public:
  // Makes `left` and `right` side by side become `merged`; earlier ones go
  // first. False if the pair is there already.
  bool Add(int32_t left, int32_t right, int32_t merged);

  // Merges until nothing more can be: of all neighbours those with the earliest
  // merge, of equal ones the leftmost. Returns how many candidates it looked
  // at, at most 3 per symbol, which bounds the time to n log n.
  int64_t Apply(std::vector<int32_t>& symbols) const;

  size_t size() const { return merges_.size(); }

 private:
  struct Merge {
    int32_t rank;
    int32_t merged;
  };

  const Merge* Find(int32_t left, int32_t right) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;  // Key: left << 32 | right.
};

}  // namespace quern

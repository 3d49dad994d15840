#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "tests/query/fake_collection.h"

namespace quern {

// A store whose items cannot be listed, so that nothing is made from them.
class UnlistedItemStore final : public ForwardingItemStore {
 public:
  using ForwardingItemStore::ForwardingItemStore;

  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override {
    if (!parts.payload && !parts.embedding) {
      return absl::DataLossError("a damaged file");
    }
    return ForwardingItemStore::Scan(after_id, parts, visit);
  }
};

}  // namespace quern

#include "engine/store/item_store.h"

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"

namespace quern {
namespace {

constexpr size_t kMaxIdBytes = 512;

}  // namespace

absl::Status CheckIdSize(absl::string_view id) {
  if (id.empty() || id.size() > kMaxIdBytes) {
    return InvalidField(
        "id", absl::StrCat("has ", id.size(), " bytes; it must have 1 to ",
                           kMaxIdBytes));
  }
  return absl::OkStatus();
}

}  // namespace quern

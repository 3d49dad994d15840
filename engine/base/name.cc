#include "engine/base/name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"

namespace quern {
namespace {

constexpr size_t kMaxNameBytes = 63;

}  // namespace

absl::Status CheckName(absl::string_view name, absl::string_view kind,
                       absl::string_view field) {
  const auto is_inner = [](char c) {
    return absl::ascii_isdigit(c) || absl::ascii_islower(c) || c == '_' ||
           c == '-';
  };
  const bool good = !name.empty() && name.size() <= kMaxNameBytes &&
                    name[0] != '_' && name[0] != '-' &&
                    std::all_of(name.begin(), name.end(), is_inner);
  if (good) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat(Quoted(name), " is not a ", kind, "'s name: 1 to ",
                          kMaxNameBytes,
                          " of a-z, 0-9, - and _, beginning with a letter or "
                          "a digit"));
}

}  // namespace quern

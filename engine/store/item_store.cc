#include "engine/store/item_store.h"

#include "absl/strings/numbers.h"
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

std::string EtagOf(uint64_t sequence) {
  return absl::StrCat(absl::Hex(sequence));
}

absl::StatusOr<uint64_t> SequenceOf(absl::string_view etag) {
  uint64_t sequence = 0;
  if (absl::SimpleHexAtoi(etag, &sequence) && EtagOf(sequence) == etag) {
    return sequence;
  }
  return absl::AbortedError(absl::StrCat(
      "etag: ", Quoted(etag), " is not an item's etag: read the item again"));
}

absl::Status CheckIfSequence(const Item& item, std::optional<uint64_t> stored) {
  if (!item.if_sequence.has_value() || item.if_sequence == stored) {
    return absl::OkStatus();
  }
  return absl::AbortedError(absl::StrCat(
      "etag: item ", Quoted(item.id), " is asked for as ",
      Quoted(EtagOf(*item.if_sequence)), ", and ",
      stored.has_value() ? absl::StrCat("is ", Quoted(EtagOf(*stored)))
                         : "does not exist",
      ": read it again"));
}

}  // namespace quern

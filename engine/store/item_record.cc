#include "engine/store/item_record.h"

#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "engine/base/little_endian.h"

namespace quern {
namespace {

constexpr size_t kFixedHeaderBytes =
    sizeof(int32_t) + 2 * sizeof(int64_t) + sizeof(uint32_t);
// Sequence and time of expiry, behind the URI.
constexpr size_t kTailBytes = sizeof(uint64_t) + sizeof(int64_t);
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
// Keys are in the order of unsigned numbers; times may lie before 1970.
constexpr uint64_t kSignBit = uint64_t{1} << 63;

absl::Status WrongSize(absl::string_view record, size_t bytes,
                       size_t expected) {
  return absl::DataLossError(absl::StrCat("its record \"", record, "\" has ",
                                          bytes, " bytes instead of ",
                                          expected));
}

}  // namespace

std::string EncodeHeader(const Item& item, absl::Time create_time,
                         uint64_t sequence) {
  std::string bytes;
  bytes.reserve(kFixedHeaderBytes + item.media_uri.size() + kTailBytes);
  AppendNumber<int32_t>(item.modality, bytes);
  AppendNumber<int64_t>(absl::ToUnixNanos(create_time), bytes);
  AppendNumber<int64_t>(absl::ToUnixNanos(item.update_time), bytes);
  AppendNumber<uint32_t>(item.media_uri.size(), bytes);
  bytes.append(item.media_uri);
  AppendNumber<uint64_t>(sequence, bytes);
  AppendNumber<int64_t>(item.expire_time.has_value()
                            ? absl::ToUnixNanos(*item.expire_time)
                            : kNever,
                        bytes);
  return bytes;
}

absl::StatusOr<Item> DecodeHeader(absl::string_view bytes) {
  const size_t total_bytes = bytes.size();
  if (total_bytes < kFixedHeaderBytes) {
    return WrongSize("items", total_bytes, kFixedHeaderBytes);
  }
  Item item;
  item.modality = TakeNumber<int32_t>(bytes);
  item.create_time = absl::FromUnixNanos(TakeNumber<int64_t>(bytes));
  item.update_time = absl::FromUnixNanos(TakeNumber<int64_t>(bytes));
  const size_t uri_bytes = TakeNumber<uint32_t>(bytes);
  const bool has_tail = bytes.size() != uri_bytes;  // Not in format 1.
  if (has_tail && bytes.size() != uri_bytes + kTailBytes) {
    return WrongSize("items", total_bytes,
                     kFixedHeaderBytes + uri_bytes + kTailBytes);
  }
  item.media_uri.assign(bytes.data(), uri_bytes);
  if (!has_tail) return item;
  bytes.remove_prefix(uri_bytes);
  item.sequence = TakeNumber<uint64_t>(bytes);
  const auto expire_nanos = TakeNumber<int64_t>(bytes);
  if (expire_nanos != kNever) {
    item.expire_time = absl::FromUnixNanos(expire_nanos);
  }
  return item;
}

std::string EncodeChangeKey(uint64_t sequence, absl::string_view id) {
  std::string key;
  key.reserve(sizeof(sequence) + id.size());
  AppendNumber(__builtin_bswap64(sequence), key);
  key.append(id.data(), id.size());
  return key;
}

absl::StatusOr<uint64_t> TakeChangeSequence(absl::string_view& key) {
  if (key.size() < sizeof(uint64_t)) {
    return absl::DataLossError("a key of the change log is too short");
  }
  return __builtin_bswap64(TakeNumber<uint64_t>(key));
}

std::string EncodeExpiryKey(absl::Time time, absl::string_view id) {
  return EncodeChangeKey(
      static_cast<uint64_t>(absl::ToUnixNanos(time)) ^ kSignBit, id);
}

absl::StatusOr<absl::Time> TakeExpiryTime(absl::string_view& key) {
  absl::StatusOr<uint64_t> number = TakeChangeSequence(key);
  if (!number.ok()) {
    return absl::DataLossError("a key of the expiries is too short");
  }
  return absl::FromUnixNanos(static_cast<int64_t>(*number ^ kSignBit));
}

std::string EncodeVector(absl::Span<const float> embedding) {
  return std::string(reinterpret_cast<const char*>(embedding.data()),
                     embedding.size() * sizeof(float));
}

absl::Status DecodeVector(absl::string_view bytes,
                          absl::Span<float> embedding) {
  const size_t expected = embedding.size() * sizeof(float);
  if (bytes.size() != expected) {
    return WrongSize("vectors", bytes.size(), expected);
  }
  std::memcpy(embedding.data(), bytes.data(), expected);
  return absl::OkStatus();
}

std::string EncodeCount(int64_t count) {
  std::string bytes;
  AppendNumber(count, bytes);
  return bytes;
}

absl::StatusOr<int64_t> DecodeCount(absl::string_view bytes) {
  if (bytes.size() != sizeof(int64_t)) {
    return WrongSize("item_count", bytes.size(), sizeof(int64_t));
  }
  return TakeNumber<int64_t>(bytes);
}

}  // namespace quern

#include "engine/store/item_record.h"

#include <bit>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the records are little-endian");

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

constexpr size_t kFixedHeaderBytes =
    sizeof(int32_t) + 2 * sizeof(int64_t) + sizeof(uint32_t);

absl::Status WrongSize(absl::string_view record, size_t bytes,
                       size_t expected) {
  return absl::DataLossError(absl::StrCat("its record \"", record, "\" has ",
                                          bytes, " bytes instead of ",
                                          expected));
}

}  // namespace

std::string EncodeHeader(const Item& item, absl::Time create_time) {
  std::string bytes;
  bytes.reserve(kFixedHeaderBytes + item.media_uri.size());
  AppendNumber<int32_t>(item.modality, bytes);
  AppendNumber<int64_t>(absl::ToUnixNanos(create_time), bytes);
  AppendNumber<int64_t>(absl::ToUnixNanos(item.update_time), bytes);
  AppendNumber<uint32_t>(item.media_uri.size(), bytes);
  bytes.append(item.media_uri);
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
  const auto uri_bytes = TakeNumber<uint32_t>(bytes);
  if (bytes.size() != uri_bytes) {
    return WrongSize("items", total_bytes, kFixedHeaderBytes + uri_bytes);
  }
  item.media_uri.assign(bytes.data(), bytes.size());
  return item;
}

std::string EncodeVector(absl::Span<const float> embedding) {
  return std::string(reinterpret_cast<const char*>(embedding.data()),
                     embedding.size() * sizeof(float));
}

absl::StatusOr<std::vector<float>> DecodeVector(absl::string_view bytes,
                                                int64_t dimension) {
  const size_t expected = dimension * sizeof(float);
  if (bytes.size() != expected) {
    return WrongSize("vectors", bytes.size(), expected);
  }
  std::vector<float> embedding(dimension);
  std::memcpy(embedding.data(), bytes.data(), expected);
  return embedding;
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

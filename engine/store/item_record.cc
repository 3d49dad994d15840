#include "engine/store/item_record.h"

#include <algorithm>
#include <bit>
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

// Of a float.
constexpr int kMantissaBits = 23;
// What four bits say of an exponent that is so far below the highest, or more.
constexpr uint32_t kFarBelow = 15;

uint32_t ExponentOf(uint32_t bits) { return (bits >> kMantissaBits) & 0xFF; }

// Where a record "vectors" has what.
struct VectorLayout {
  explicit VectorLayout(size_t values)
      : half((values + 1) / 2),
        low(1 + half),
        high(low + values * sizeof(uint16_t)),
        fixed_bytes(high + values) {}

  size_t half;  // Bytes of the exponents.
  size_t low;
  size_t high;
  size_t fixed_bytes;  // What is far below comes behind.
};

// Half of the values; their exponents are the bits of a byte from kShift on.
// Loops that the compiler makes vectors of.
template <int kShift>
void EncodeValues(const float* values, size_t count, uint32_t highest,
                  uint8_t* __restrict below, uint8_t* __restrict low,
                  uint8_t* __restrict high) {
  for (size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    below[i] |= static_cast<uint8_t>(
        std::min(highest - ExponentOf(bits), kFarBelow) << kShift);
    const auto lowest = static_cast<uint16_t>(bits);
    std::memcpy(low + i * sizeof(lowest), &lowest, sizeof(lowest));
    high[i] =
        static_cast<uint8_t>(((bits >> 24) & 0x80) | ((bits >> 16) & 0x7F));
  }
}

// Returns how many are far below: their exponents are still to be had.
template <int kShift>
uint32_t DecodeValues(const uint8_t* below, const uint8_t* low,
                      const uint8_t* high, size_t count, uint32_t highest,
                      float* __restrict values) {
  uint32_t far_below = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t less = (below[i] >> kShift) & kFarBelow;
    far_below += static_cast<uint32_t>(less == kFarBelow);
    uint16_t lowest = 0;
    std::memcpy(&lowest, low + i * sizeof(lowest), sizeof(lowest));
    const uint32_t more = high[i];
    values[i] = std::bit_cast<float>(
        lowest | (more & 0x7F) << 16 | (more & 0x80) << 24 |
        ((highest - less) & 0xFF) << kMantissaBits);
  }
  return far_below;
}

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
  const VectorLayout layout(embedding.size());
  std::string bytes(layout.fixed_bytes, '\0');
  auto* const out = reinterpret_cast<uint8_t*>(bytes.data());
  uint32_t highest = 0;
  for (const float value : embedding) {
    highest = std::max(highest, ExponentOf(std::bit_cast<uint32_t>(value)));
  }
  out[0] = static_cast<uint8_t>(highest);
  const size_t rest = embedding.size() - layout.half;
  EncodeValues<0>(embedding.data(), layout.half, highest, out + 1,
                  out + layout.low, out + layout.high);
  EncodeValues<4>(embedding.data() + layout.half, rest, highest, out + 1,
                  out + layout.low + layout.half * sizeof(uint16_t),
                  out + layout.high + layout.half);
  for (const float value : embedding) {
    const uint32_t exponent = ExponentOf(std::bit_cast<uint32_t>(value));
    if (highest - exponent >= kFarBelow) {
      bytes.push_back(static_cast<char>(exponent));
    }
  }
  if (bytes.size() < embedding.size() * sizeof(float)) return bytes;
  return std::string(reinterpret_cast<const char*>(embedding.data()),
                     embedding.size() * sizeof(float));
}

absl::Status DecodeVector(absl::string_view bytes,
                          absl::Span<float> embedding) {
  const size_t plain_bytes = embedding.size() * sizeof(float);
  if (bytes.size() == plain_bytes) {
    std::memcpy(embedding.data(), bytes.data(), plain_bytes);
    return absl::OkStatus();
  }
  const VectorLayout layout(embedding.size());
  if (bytes.size() < layout.fixed_bytes || bytes.size() > plain_bytes) {
    return WrongSize("vectors", bytes.size(), plain_bytes);
  }
  const auto* const in = reinterpret_cast<const uint8_t*>(bytes.data());
  const size_t rest = embedding.size() - layout.half;
  const uint32_t far_below =
      DecodeValues<0>(in + 1, in + layout.low, in + layout.high, layout.half,
                      in[0], embedding.data()) +
      DecodeValues<4>(in + 1, in + layout.low + layout.half * sizeof(uint16_t),
                      in + layout.high + layout.half, rest, in[0],
                      embedding.data() + layout.half);
  if (bytes.size() != layout.fixed_bytes + far_below) {
    return WrongSize("vectors", bytes.size(), layout.fixed_bytes + far_below);
  }
  if (far_below == 0) return absl::OkStatus();
  const uint8_t* exponent = in + layout.fixed_bytes;
  for (size_t i = 0; i < embedding.size(); ++i) {
    const uint8_t both = in[1 + i % layout.half];
    if ((i < layout.half ? both & kFarBelow : both >> 4) != kFarBelow) continue;
    const auto bits = std::bit_cast<uint32_t>(embedding[i]);
    embedding[i] =
        std::bit_cast<float>((bits & ~(uint32_t{0xFF} << kMantissaBits)) |
                             uint32_t{*exponent++} << kMantissaBits);
  }
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

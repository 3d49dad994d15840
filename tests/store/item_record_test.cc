#include "engine/store/item_record.h"

#include <bit>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

// Byte by byte as README.md says: a change here is a new format version.
TEST(ItemRecordTest, HeaderHasTheDocumentedBytes) {
  Item item;
  item.modality = 2;
  item.update_time = absl::FromUnixNanos(-1);
  item.media_uri = "ab";
  const absl::Time create_time = absl::FromUnixNanos(0x0102030405060708);
  const std::string format_1 =
      "02000000"
      "0807060504030201"
      "ffffffffffffffff"
      "02000000"
      "6162";
  EXPECT_EQ(absl::BytesToHexString(EncodeHeader(item, create_time, 0x0a0b)),
            format_1 + "0b0a000000000000" + "ffffffffffffff7f");
  item.expire_time = absl::FromUnixNanos(3);
  EXPECT_EQ(absl::BytesToHexString(EncodeHeader(item, create_time, 0x0a0b)),
            format_1 + "0b0a000000000000" + "0300000000000000");
  const Item old = ValueOrDie(DecodeHeader(absl::HexStringToBytes(format_1)));
  EXPECT_EQ(old.media_uri, "ab");
  EXPECT_EQ(old.create_time, create_time);
  EXPECT_EQ(old.sequence, 0u);
  EXPECT_FALSE(old.expire_time.has_value());
}

TEST(ItemRecordTest, KeysHaveTheDocumentedBytesAndSortByNumberAndTime) {
  EXPECT_EQ(absl::BytesToHexString(EncodeChangeKey(0x0102, "ab")),
            "0000000000000102"
            "6162");
  EXPECT_EQ(
      absl::BytesToHexString(EncodeExpiryKey(absl::FromUnixNanos(2), "a")),
      "8000000000000002"
      "61");
  EXPECT_LT(EncodeExpiryKey(absl::FromUnixNanos(-1), "z"),
            EncodeExpiryKey(absl::FromUnixNanos(0), "a"));

  const std::string change = EncodeChangeKey(uint64_t{1} << 40, "id");
  absl::string_view key = change;
  EXPECT_EQ(ValueOrDie(TakeChangeSequence(key)), uint64_t{1} << 40);
  EXPECT_EQ(key, "id");
  const absl::Time time = absl::FromUnixNanos(-123'456'789'012);
  const std::string expiry = EncodeExpiryKey(time, "id");
  key = expiry;
  EXPECT_EQ(ValueOrDie(TakeExpiryTime(key)), time);
  EXPECT_EQ(key, "id");
  key = "short";
  EXPECT_THAT(TakeChangeSequence(key), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(TakeExpiryTime(key), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(ItemRecordTest, VectorAndCountHaveTheDocumentedBytes) {
  EXPECT_EQ(absl::BytesToHexString(EncodeVector({1.0F, -2.0F})),
            "0000803f"
            "000000c0");
  // 3f8ccccd, c059999a, 3c23d70a, 0, 3f000001: exponents 127, 128, 120, 0, 126.
  EXPECT_EQ(absl::BytesToHexString(EncodeVector(
                {1.1F, -3.4F, 0.01F, 0, 0x1.000002p-1F, 1.1F, 1.1F, 1.1F})),
            "80"
            "2110181f"
            "cdcc9a990ad700000100cdcccdcccdcc"
            "0cd92300000c0c0c"
            "00");
  EXPECT_EQ(absl::BytesToHexString(EncodeCount(-2)), "feffffffffffffff");
}

TEST(ItemRecordTest, DecodesWhatWasEncoded) {
  Item item;
  item.modality = -7;
  item.update_time = absl::FromUnixNanos(1'700'000'000'999'999'999);
  item.media_uri = std::string("file:///\0é", 11);
  item.expire_time = absl::FromUnixNanos(-1);
  const absl::Time create_time = absl::FromUnixNanos(-5);

  const Item decoded =
      ValueOrDie(DecodeHeader(EncodeHeader(item, create_time, 77)));

  EXPECT_EQ(decoded.modality, item.modality);
  EXPECT_EQ(decoded.create_time, create_time);
  EXPECT_EQ(decoded.update_time, item.update_time);
  EXPECT_EQ(decoded.media_uri, item.media_uri);
  EXPECT_EQ(decoded.sequence, 77u);
  EXPECT_EQ(decoded.expire_time, item.expire_time);
  const std::vector<float> embedding = {0, -1.5F, 3e38F};
  std::vector<float> decoded_embedding(3);
  EXPECT_THAT(
      DecodeVector(EncodeVector(embedding), absl::MakeSpan(decoded_embedding)),
      IsOk());
  EXPECT_EQ(decoded_embedding, embedding);
  EXPECT_EQ(ValueOrDie(DecodeCount(EncodeCount(1LL << 40))), 1LL << 40);
}

TEST(ItemRecordTest, VectorsKeepEveryBit) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const std::vector<uint32_t> odd = {0,          0x80000000, 1,
                                     0x807FFFFF, 0x7F800000, 0xFF800000,
                                     0x7FC00001, 0x00800000, 0x7F7FFFFF};
  for (const size_t dimension : {1, 2, 3, 4, 5, 31, 64, 512, 4096}) {
    SCOPED_TRACE(dimension);
    // Like an embedding; with some of everything; any bits.
    for (const int kind : {0, 1, 2}) {
      std::vector<float> values(dimension);
      for (float& value : values) {
        value = normal(random);
        if (kind == 2 || (kind == 1 && random() % 16 == 0)) {
          value = std::bit_cast<float>(random() % 2 == 0
                                           ? odd[random() % odd.size()]
                                           : static_cast<uint32_t>(random()));
        }
      }
      const std::string bytes = EncodeVector(values);
      EXPECT_LE(bytes.size(), dimension * sizeof(float));
      if (kind == 0 && dimension >= 64) {
        EXPECT_LT(bytes.size(), dimension * 3.6);
      }
      std::vector<float> decoded(dimension);
      ASSERT_THAT(DecodeVector(bytes, absl::MakeSpan(decoded)), IsOk());
      EXPECT_EQ(
          std::memcmp(decoded.data(), values.data(), dimension * sizeof(float)),
          0);
    }
  }
}

TEST(ItemRecordTest, EveryWrongLengthIsDataLoss) {
  Item item;
  item.media_uri = "file:///x";
  const std::string header = EncodeHeader(item, absl::UnixEpoch(), 1);
  const size_t format_1_bytes = header.size() - 16;
  for (size_t bytes = 0; bytes < header.size(); ++bytes) {
    if (bytes == format_1_bytes) continue;
    EXPECT_THAT(DecodeHeader(header.substr(0, bytes)),
                StatusIs(absl::StatusCode::kDataLoss));
  }
  EXPECT_THAT(DecodeHeader(header + "x"),
              StatusIs(absl::StatusCode::kDataLoss));
  std::vector<float> three(3);
  EXPECT_THAT(DecodeVector(EncodeVector({1, 2}), absl::MakeSpan(three)),
              StatusIs(absl::StatusCode::kDataLoss));
  const std::vector<float> values(64, 0.5F);
  const std::string packed = EncodeVector(values);
  std::vector<float> decoded(64);
  for (size_t bytes = 0; bytes < packed.size(); ++bytes) {
    EXPECT_THAT(DecodeVector(packed.substr(0, bytes), absl::MakeSpan(decoded)),
                StatusIs(absl::StatusCode::kDataLoss));
  }
  EXPECT_THAT(DecodeVector(packed + "x", absl::MakeSpan(decoded)),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeCount("seven b"), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace quern

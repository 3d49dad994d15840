#include "engine/store/item_record.h"

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
  EXPECT_EQ(absl::BytesToHexString(
                EncodeHeader(item, absl::FromUnixNanos(0x0102030405060708))),
            "02000000"
            "0807060504030201"
            "ffffffffffffffff"
            "02000000"
            "6162");
}

TEST(ItemRecordTest, VectorAndCountHaveTheDocumentedBytes) {
  EXPECT_EQ(absl::BytesToHexString(EncodeVector({1.0F, -2.0F})),
            "0000803f"
            "000000c0");
  EXPECT_EQ(absl::BytesToHexString(EncodeCount(-2)), "feffffffffffffff");
}

TEST(ItemRecordTest, DecodesWhatWasEncoded) {
  Item item;
  item.modality = -7;
  item.update_time = absl::FromUnixNanos(1'700'000'000'999'999'999);
  item.media_uri = std::string("file:///\0é", 11);
  const absl::Time create_time = absl::FromUnixNanos(-5);

  const Item decoded =
      ValueOrDie(DecodeHeader(EncodeHeader(item, create_time)));

  EXPECT_EQ(decoded.modality, item.modality);
  EXPECT_EQ(decoded.create_time, create_time);
  EXPECT_EQ(decoded.update_time, item.update_time);
  EXPECT_EQ(decoded.media_uri, item.media_uri);
  const std::vector<float> embedding = {0, -1.5F, 3e38F};
  EXPECT_EQ(ValueOrDie(DecodeVector(EncodeVector(embedding), 3)), embedding);
  EXPECT_EQ(ValueOrDie(DecodeCount(EncodeCount(1LL << 40))), 1LL << 40);
}

TEST(ItemRecordTest, EveryWrongLengthIsDataLoss) {
  Item item;
  item.media_uri = "file:///x";
  const std::string header = EncodeHeader(item, absl::UnixEpoch());
  for (size_t bytes = 0; bytes < header.size(); ++bytes) {
    EXPECT_THAT(DecodeHeader(header.substr(0, bytes)),
                StatusIs(absl::StatusCode::kDataLoss));
  }
  EXPECT_THAT(DecodeHeader(header + "x"),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeVector(EncodeVector({1, 2}), 3),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeCount("seven b"), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace quern

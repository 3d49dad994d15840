#include "engine/index/binary_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/matrix.h"
#include "engine/base/sha256.h"
#include "engine/index/delta.h"
#include "engine/index/huge_buffer.h"
#include "engine/index/segment_builder.h"
#include "tests/index/clustered_vectors.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::ElementsAreArray;
using testing::SizeIs;

constexpr auto kBlock = static_cast<int64_t>(kBinaryBlockRows);
constexpr float kSigmas = 5;

// Vectors and their codes.
class BinaryCodesTest : public testing::Test {
 protected:
  void Encode(Matrix vectors) {
    vectors_ = std::move(vectors);
    coder_.emplace(vectors_.columns());
    const int64_t blocks = vectors_.rows() / kBlock;
    bytes_ = ValueOrDie(HugeBuffer::Create(
        std::max<size_t>(blocks * coder_->block_bytes(), 1)));
    for (int64_t i = 0; i < blocks * kBlock; ++i) {
      coder_->Encode(vectors_.row(i), i % kBlock,
                     bytes_.data() + i / kBlock * coder_->block_bytes());
    }
  }

  std::vector<uint32_t> MayReach(absl::Span<const float> query,
                                 float threshold) const {
    const BinaryQuery binary(*coder_, query);
    std::vector<uint32_t> list(vectors_.rows());
    list.resize(binary.MayReach(threshold, kSigmas, rows(), 0, list.size(),
                                list.data()));
    return list;
  }

  BinaryRows rows() const {
    return {.block_bytes = coder_->block_bytes(), .blocks = bytes_.data()};
  }

  // The share of the rows that are left out where their own product is asked
  // for.
  double ShareLeftOut(absl::Span<const float> query, float sigmas) const {
    const BinaryQuery binary(*coder_, query);
    const std::vector<float> products = Products(query);
    std::vector<uint32_t> list(kBlock);
    int64_t left_out = 0;
    for (uint32_t i = 0; i < products.size(); ++i) {
      const uint32_t block = i / kBlock * kBlock;
      const size_t listed = binary.MayReach(products[i], sigmas, rows(), block,
                                            kBlock, list.data());
      left_out +=
          std::binary_search(list.begin(), list.begin() + listed, i) ? 0 : 1;
    }
    return static_cast<double>(left_out) / static_cast<double>(products.size());
  }

  std::vector<float> Products(absl::Span<const float> query) const {
    std::vector<float> products;
    for (int64_t i = 0; i < vectors_.rows(); ++i) {
      const auto row = vectors_.row(i);
      products.push_back(static_cast<float>(
          std::inner_product(row.begin(), row.end(), query.begin(), 0.0)));
    }
    return products;
  }

  // Of one row, at the row's own product: does the code keep it?
  void ExpectEachReachesItsProduct(absl::Span<const float> query) const {
    const std::vector<float> products = Products(query);
    for (size_t i = 0; i < products.size(); ++i) {
      const std::vector<uint32_t> list = MayReach(query, products[i]);
      EXPECT_TRUE(std::binary_search(list.begin(), list.end(), i))
          << "row " << i << ", product " << products[i];
    }
  }

  Matrix vectors_;
  std::optional<BinaryCoder> coder_;
  HugeBuffer bytes_;
};

TEST_F(BinaryCodesTest, TheNearestAreListedAndMostOthersAreNot) {
  for (const int64_t dimension : {384, 512, 513, 768, 4096}) {
    SCOPED_TRACE(dimension);
    constexpr int64_t kRows = 250 * kBlock;
    Encode(ClusteredVectors(kRows, dimension, 200, 2));
    const Matrix queries = ClusteredVectors(10, dimension, 200, 3);
    for (int64_t q = 0; q < queries.rows(); ++q) {
      const std::vector<float> products = Products(queries.row(q));
      std::vector<float> best = products;
      std::nth_element(best.begin(), best.begin() + 9, best.end(),
                       std::greater<>());
      const std::vector<uint32_t> list = MayReach(queries.row(q), best[9]);
      EXPECT_EQ(
          std::count_if(list.begin(), list.end(),
                        [&](uint32_t row) { return products[row] >= best[9]; }),
          10);
      EXPECT_LT(list.size(), kRows / 40);
    }
  }
}

// The errors are normal: one side of their distribution.
TEST_F(BinaryCodesTest, ABoundIsExceededAsOftenAsItsSigmasSay) {
  Encode(ClusteredVectors(1000 * kBlock, 512, 200, 2));
  const Matrix query = ClusteredVectors(1, 512, 200, 3);
  EXPECT_NEAR(ShareLeftOut(query.row(0), 1), 0.159, 0.02);
  EXPECT_NEAR(ShareLeftOut(query.row(0), 2), 0.023, 0.005);
  EXPECT_LT(ShareLeftOut(query.row(0), ErrorSigmas(0.99F)), 0.0006);
  EXPECT_EQ(ShareLeftOut(query.row(0), ErrorSigmas(0.999F)), 0);
}

TEST_F(BinaryCodesTest, ItsOwnProductIsWithinReachOfEveryRow) {
  for (const int64_t dimension : {1, 2, 7, 64, 512, 1000}) {
    SCOPED_TRACE(dimension);
    Encode(ClusteredVectors(4 * kBlock, dimension, 7, 2));
    const Matrix queries = ClusteredVectors(5, dimension, 7, 3);
    for (int64_t q = 0; q < queries.rows(); ++q) {
      ExpectEachReachesItsProduct(queries.row(q));
    }
  }
}

// What a turn that is not random enough would give itself away by.
TEST_F(BinaryCodesTest, VectorsOfFewOrEqualValuesAreNoWorse) {
  constexpr int64_t kDimension = 512;
  std::mt19937 random(5);
  Matrix vectors(4 * kBlock, kDimension);
  for (int64_t i = 0; i < vectors.rows(); ++i) {
    const auto row = vectors.row(i);
    if (i % 4 == 0) {
      row[i] = 1;
    } else if (i % 4 == 1) {
      for (int n = 0; n < 3; ++n) row[random() % kDimension] = 1;
    } else if (i % 4 == 2) {
      std::fill(row.begin(), row.end(), i % 8 == 2 ? 1.0F : -1.0F);
    } else {
      for (float& value : row) value = (random() & 1) != 0 ? 1.0F : -1.0F;
    }
  }
  const Matrix queries = vectors;
  Encode(std::move(vectors));
  for (const int64_t q : {0, 1, 2, 3, 6, 64, 65}) {
    ExpectEachReachesItsProduct(queries.row(q));
  }
}

TEST_F(BinaryCodesTest, ErrorsAreInProportionToTheNorms) {
  for (const float norm : {1e-18F, 1e-3F, 1.0F, 1e9F, 1e18F}) {
    SCOPED_TRACE(norm);
    Matrix vectors = ClusteredVectors(4 * kBlock, 512, 40, 2);
    std::for_each_n(vectors.data(), vectors.rows() * vectors.columns(),
                    [norm](float& value) { value *= norm; });
    Encode(std::move(vectors));
    const Matrix queries = ClusteredVectors(2, 512, 40, 3);
    for (int64_t q = 0; q < queries.rows(); ++q) {
      ExpectEachReachesItsProduct(queries.row(q));
      // Five times the error of one bit a value is a sixth of the norms.
      EXPECT_THAT(MayReach(queries.row(q), 1.5F * norm), SizeIs(0));
    }
  }
}

TEST_F(BinaryCodesTest, NothingAndEverything) {
  Matrix vectors = ClusteredVectors(2 * kBlock, 100, 3, 2);
  const auto zero = vectors.row(5);
  std::fill(zero.begin(), zero.end(), 0.0F);
  Encode(std::move(vectors));
  std::vector<uint32_t> all(vectors_.rows());
  std::iota(all.begin(), all.end(), 0);
  const Matrix query = ClusteredVectors(1, 100, 3, 3);
  EXPECT_THAT(MayReach(query.row(0), -std::numeric_limits<float>::infinity()),
              ElementsAreArray(all));
  EXPECT_THAT(MayReach(query.row(0), 2), SizeIs(0));
  // Of rows without a direction the product is known.
  const std::vector<uint32_t> listed = MayReach(query.row(0), 1e-3F);
  EXPECT_FALSE(std::binary_search(listed.begin(), listed.end(), 5));
  const std::vector<uint32_t> with_zero = MayReach(query.row(0), 0);
  EXPECT_TRUE(std::binary_search(with_zero.begin(), with_zero.end(), 5));
  // As it is of queries without one, which all rows are as near to.
  EXPECT_THAT(MayReach(std::vector<float>(100), 0), ElementsAreArray(all));
}

// Files have them: another turn would find nothing in those of today.
TEST_F(BinaryCodesTest, CodesStayAsTheyAre) {
  Matrix vectors(kBlock, 8);
  for (int64_t i = 0; i < vectors.rows(); ++i) {
    for (int64_t j = 0; j < 8; ++j) {
      vectors.row(i)[j] =
          static_cast<float>((i * 7919 + j * 104729) % 1009 - 504);
    }
  }
  Encode(std::move(vectors));
  EXPECT_EQ(Sha256Hex({reinterpret_cast<const char*>(bytes_.data()),
                       coder_->groups() * kBinaryBlockRows / 2}),
            "d9ba7e2bd1ff2743f04f8089b949bdeaa9927cc35bcf24ed0891299f6deaa01e");
}

// Where others have their graph; files of older servers have nothing there.
TEST_F(BinaryCodesTest, AnExactSegmentHasThemUnlessItIsOfAnOlderServer) {
  constexpr int64_t kDimension = 16;
  constexpr int64_t kRows = 3 * kBlock + 1;
  const Matrix vectors = ClusteredVectors(kRows, kDimension, 5, 2);
  const auto delta = std::make_shared<Delta>(
      kDimension, std::make_shared<const BinaryCoder>(kDimension), 0);
  for (int64_t i = 0; i < kRows; ++i) {
    delta->Append(absl::StrCat(i), static_cast<uint32_t>(i), vectors.row(i));
  }
  const IndexPart part{.delta = delta, .rows = kRows};
  const auto segment =
      ValueOrDie(BuildSegment({.dimension = kDimension,
                               .storage = VectorStorage::kFp32,
                               .kind = IndexKind::kExact},
                              {&part, 1}, {}, nullptr, absl::OkStatus));
  const size_t bytes = 3 * BinaryCoder::BlockBytes(kDimension);
  ASSERT_EQ(segment->header().sections[SegmentHeader::kAnn].size, bytes);
  EXPECT_EQ(std::memcmp(segment->binary_rows().blocks,
                        delta->binary_rows(0).blocks, bytes),
            0);
  const auto with_size = [&](uint64_t size) {
    HugeBuffer image = ValueOrDie(HugeBuffer::Create(segment->image().size()));
    std::memcpy(image.data(), segment->image().data(), image.size());
    SegmentHeader header = segment->header();
    header.sections[SegmentHeader::kAnn].size = size;
    std::memcpy(image.data(), &header, sizeof(header));
    return Segment::Parse(std::move(image));
  };
  EXPECT_EQ(ValueOrDie(with_size(0))->binary_rows().blocks, nullptr);
  EXPECT_THAT(with_size(bytes - 64), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(BinaryCodesTest, RowsOfABlockThatIsNotWholeAreListed) {
  Encode(ClusteredVectors(kBlock + 3, 100, 3, 2));
  const Matrix query = ClusteredVectors(1, 100, 3, 3);
  EXPECT_THAT(MayReach(query.row(0), 2),
              ElementsAreArray({kBlock, kBlock + 1, kBlock + 2}));
}

}  // namespace
}  // namespace quern

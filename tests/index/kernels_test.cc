#include "engine/index/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/index/huge_buffer.h"
#include "engine/index/vector_codes.h"
#include "tests/index/clustered_vectors.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int64_t kRows = 37;  // Of no block of a kernel a multiple.

// Rows of one storage, and queries.
class KernelsTest : public testing::TestWithParam<VectorStorage> {
 protected:
  void Fill(int64_t dimension) {
    vectors_ = ClusteredVectors(kRows, dimension, 5, 2);
    const size_t row_bytes = RowBytes(GetParam(), dimension);
    codes_ = ValueOrDie(HugeBuffer::Create(row_bytes * kRows));
    scales_.resize(kRows);
    rows_ = {.storage = GetParam(),
             .row_bytes = row_bytes,
             .codes = codes_.data(),
             .scales =
                 GetParam() == VectorStorage::kFp32 ? nullptr : scales_.data()};
    for (int64_t i = 0; i < kRows; ++i) {
      EncodeRow(GetParam(), vectors_.row(i), codes_.data() + i * row_bytes,
                &scales_[i]);
    }
    const Matrix queries = ClusteredVectors(kQueriesTogether, dimension, 5, 3);
    queries_.clear();
    for (int64_t q = 0; q < queries.rows(); ++q) {
      queries_.emplace_back(queries.row(q));
    }
  }

  Matrix vectors_;
  HugeBuffer codes_;
  std::vector<CodeScale> scales_;
  CodeRows rows_;
  std::vector<EncodedQuery> queries_;
};

TEST_P(KernelsTest, ScoresAreWithinTheirErrorOfTheProducts) {
  for (const int64_t dimension : {1, 16, 24, 100, 512, 513}) {
    SCOPED_TRACE(dimension);
    Fill(dimension);
    std::vector<float> scores(kRows);
    for (const EncodedQuery& query : queries_) {
      ScoreRows(query.codes(), rows_, nullptr, 0, kRows, scores.data());
      for (int64_t i = 0; i < kRows; ++i) {
        double product = 0;
        for (int64_t j = 0; j < dimension; ++j) {
          product +=
              static_cast<double>(query.vector()[j]) * vectors_.row(i)[j];
        }
        const float error = query.ErrorBound(rows_, i, /*unit_norm=*/true);
        EXPECT_NEAR(scores[i], product, error + 1e-5);
      }
    }
  }
}

TEST_P(KernelsTest, ListedRowsScoreAsInARow) {
  Fill(100);
  const std::vector<uint32_t> list = {36, 0, 5, 5, 17, 2};
  std::vector<float> all(kRows);
  std::vector<float> listed(list.size());
  ScoreRows(queries_[0].codes(), rows_, nullptr, 0, kRows, all.data());
  ScoreRows(queries_[0].codes(), rows_, list.data(), 0, list.size(),
            listed.data());
  for (size_t i = 0; i < list.size(); ++i) EXPECT_EQ(listed[i], all[list[i]]);
}

// To the bit: what is found must not depend on what else was asked.
TEST_P(KernelsTest, FourQueriesScoreAsEachAlone) {
  for (const int64_t dimension : {1, 16, 24, 48, 100, 512, 513}) {
    Fill(dimension);
    for (const uint32_t first : {0u, 3u}) {
      for (const size_t count : {0, 1, 2, 3, 5, 8, 34}) {
        SCOPED_TRACE(absl::StrCat(dimension, " from ", first, ", ", count));
        // One more, which must stay as it is.
        std::vector<std::vector<float>> scores(
            kQueriesTogether, std::vector<float>(count + 1, -7.0F));
        const QueryCodes* codes[kQueriesTogether];
        float* at[kQueriesTogether];
        for (size_t q = 0; q < kQueriesTogether; ++q) {
          codes[q] = &queries_[q].codes();
          at[q] = scores[q].data();
        }
        ScoreRowsOfFour(codes, rows_, first, count, at);
        for (size_t q = 0; q < kQueriesTogether; ++q) {
          std::vector<float> alone(count + 1, -7.0F);
          ScoreRows(*codes[q], rows_, nullptr, first, count, alone.data());
          EXPECT_THAT(scores[q], testing::ElementsAreArray(alone));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Storages, KernelsTest,
                         testing::Values(VectorStorage::kFp32,
                                         VectorStorage::kFp16,
                                         VectorStorage::kInt8),
                         [](const auto& info) -> std::string {
                           switch (info.param) {
                             case VectorStorage::kFp32:
                               return "Fp32";
                             case VectorStorage::kFp16:
                               return "Fp16";
                             case VectorStorage::kInt8:
                               return "Int8";
                           }
                           return "";
                         });

// With no error at all, a row may have exactly the products up to its own.
TEST(BlockMayReachTest, SumsTheBytesThatBitsChoose) {
  for (const size_t groups : {128, 256, 512, 1024}) {
    SCOPED_TRACE(groups);
    std::mt19937 random(static_cast<unsigned>(groups));
    std::vector<uint8_t> tables(groups * 16);
    // The largest of a group of four steps of 31 either way, or any.
    for (uint8_t& entry : tables) {
      entry = static_cast<uint8_t>(random() % 3 == 0 ? random() % 249 : 248);
    }
    std::vector<uint8_t> block(groups * 16 +
                               2 * kBinaryBlockRows * sizeof(float));
    for (size_t i = 0; i < groups * 16; ++i) {
      block[i] = static_cast<uint8_t>(random());
    }
    auto* const factors = reinterpret_cast<float*>(&block[groups * 16]);
    std::fill_n(factors, kBinaryBlockRows, 1.0F);
    std::vector<int> sums(kBinaryBlockRows);
    for (size_t row = 0; row < kBinaryBlockRows; ++row) {
      for (size_t g = 0; g < groups; ++g) {
        const uint8_t byte = block[g * 16 + row % 16];
        sums[row] += tables[g * 16 + (row < 16 ? byte & 15 : byte >> 4)];
      }
    }
    BinaryProbe probe{.tables = tables.data(), .groups = groups};
    for (const int sum : sums) {
      for (const int least : {sum, sum + 1}) {
        probe.least = static_cast<float>(least);
        uint32_t expected = 0;
        for (size_t row = 0; row < kBinaryBlockRows; ++row) {
          expected |= static_cast<uint32_t>(sums[row] >= least) << row;
        }
        EXPECT_EQ(BlockMayReach(probe, block.data()), expected);
      }
    }
  }
}

TEST(SquaredNormTest, IsTheSumOfSquaresAndFiniteIfAllValuesAre) {
  for (const int64_t count : {0, 1, 15, 16, 17, 100, 512}) {
    Matrix vector = ClusteredVectors(1, std::max<int64_t>(count, 1), 1, 4);
    float* const values = vector.data();
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      sum += static_cast<double>(values[i]) * values[i];
    }
    EXPECT_NEAR(SquaredNorm(values, count), sum, 1e-14 * sum);
    for (int64_t i = 0; i < count; ++i) {
      const float kept = std::exchange(values[i], 3e38F);
      EXPECT_TRUE(std::isfinite(SquaredNorm(values, count)));
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        values[i] = bad;
        EXPECT_FALSE(std::isfinite(SquaredNorm(values, count)));
      }
      values[i] = kept;
    }
  }
}

TEST(QueryCodesTest, IntegersAreTheNearestStepsWhateverTheSize) {
  for (const float size : {1.0F, 1e-30F, 1e-36F, 1e17F, 0.0F}) {
    SCOPED_TRACE(size);
    Matrix vector = ClusteredVectors(1, 100, 1, 4);
    for (float& value : vector.row(0)) value *= size;
    const EncodedQuery query(vector.row(0));
    double squares = 0;
    double lost = 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < 100; ++i) {
      const double value = vector.row(0)[i];
      const int8_t step = query.codes().integers[i];
      const double kept = static_cast<double>(query.codes().scale) * step;
      EXPECT_LE(std::abs(step), 127);
      EXPECT_LE(std::abs(value - kept), 0.501 * query.codes().scale);
      squares += value * value;
      lost += (value - kept) * (value - kept);
      sum += step;
    }
    EXPECT_EQ(query.codes().offset, 128 * sum);
    EXPECT_NEAR(query.norm(), std::sqrt(squares), 1e-5 * std::sqrt(squares));
    // The bound on a row that lost nothing is what the query lost.
    const CodeScale nothing{.scale = 1, .error = 0};
    const float bound = query.ErrorBound(
        {.storage = VectorStorage::kInt8, .scales = &nothing}, 0,
        /*unit_norm=*/true);
    EXPECT_GE(bound, std::sqrt(lost));
    EXPECT_LE(bound, std::sqrt(lost) + 3e-6 * std::sqrt(squares));
  }
}

}  // namespace
}  // namespace quern

#include "engine/index/query_sample.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/index/plain_bytes.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Queries {first, 0}, {first + 1, 0}, ...
Matrix Numbers(int64_t first, int64_t count) {
  Matrix queries(count, 2);
  for (int64_t i = 0; i < count; ++i) {
    queries.row(i)[0] = static_cast<float>(first + i);
  }
  return queries;
}

// The first values of each source's queries.
std::vector<std::vector<float>> NumbersOf(const QuerySample& sample) {
  std::vector<std::vector<float>> numbers;
  for (const Matrix& queries : sample.Queries()) {
    std::vector<float>& of_source = numbers.emplace_back();
    for (int64_t i = 0; i < queries.rows(); ++i) {
      of_source.push_back(queries.row(i)[0]);
    }
  }
  return numbers;
}

TEST(QuerySampleTest, KeepsSourcesApartAndEqualQueriesOnce) {
  QuerySample sample(2);
  EXPECT_THAT(sample.Queries(), IsEmpty());
  EXPECT_EQ(sample.largest(), 0u);
  sample.Add(QuerySource::kMedia, Numbers(5, 1));
  sample.Add(QuerySource::kText, Numbers(1, 3));
  const uint64_t version = sample.version();
  sample.Add(QuerySource::kText, Numbers(2, 2));
  EXPECT_EQ(sample.version(), version);
  sample.Add(QuerySource::kText, Numbers(2, 3));
  EXPECT_GT(sample.version(), version);
  EXPECT_THAT(NumbersOf(sample),
              ElementsAre(ElementsAre(1, 2, 3, 4), ElementsAre(5)));
  EXPECT_EQ(sample.largest(), 4u);
}

TEST(QuerySampleTest, TheLatestStay) {
  QuerySample sample(2);
  sample.Add(QuerySource::kMedia, Numbers(7, 1));
  for (int64_t i = 0; i < 300; ++i) {
    sample.Add(QuerySource::kText, Numbers(i, 1));
  }
  sample.Add(QuerySource::kText, Numbers(1000, 500));
  // One that was dropped may come again.
  sample.Add(QuerySource::kText, Numbers(3, 1));
  const auto numbers = NumbersOf(sample);
  ASSERT_THAT(numbers, SizeIs(2));
  ASSERT_THAT(numbers[0], SizeIs(QuerySample::kKept));
  EXPECT_EQ(numbers[0].front(), 1245);
  EXPECT_EQ(numbers[0][254], 1499);
  EXPECT_EQ(numbers[0].back(), 3);
  EXPECT_THAT(numbers[1], ElementsAre(7));
}

TEST(QuerySampleTest, ReadsWhatItWrote) {
  QuerySample sample(2);
  sample.Add(QuerySource::kText, Numbers(0, 300));
  sample.Add(QuerySource::kEmbedding, Numbers(9, 2));
  const std::string bytes = sample.Bytes();
  QuerySample read(2);
  read.Add(QuerySource::kMedia, Numbers(0, 1));
  ASSERT_THAT(read.Parse(BytesOf(bytes)), IsOk());
  EXPECT_EQ(NumbersOf(read), NumbersOf(sample));
  EXPECT_EQ(read.Bytes(), bytes);
  // It goes on from there.
  sample.Add(QuerySource::kText, Numbers(1000, 1));
  read.Add(QuerySource::kText, Numbers(1000, 1));
  EXPECT_EQ(read.Bytes(), sample.Bytes());
}

TEST(QuerySampleTest, WhatIsNoSampleChangesNothing) {
  QuerySample sample(2);
  sample.Add(QuerySource::kText, Numbers(0, 3));
  const std::string good = sample.Bytes();
  const auto refused = [&](const std::string& bytes) {
    return absl::IsDataLoss(sample.Parse(BytesOf(bytes))) &&
           sample.Bytes() == good;
  };
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_TRUE(refused(good.substr(0, size))) << size;
  }
  EXPECT_TRUE(refused(good + "x"));
  EXPECT_TRUE(refused(QuerySample(3).Bytes()));
  std::string bad = good;
  bad[8] = 2;  // The version.
  EXPECT_TRUE(refused(bad));
  QuerySample infinite(2);
  Matrix query = Numbers(1, 1);
  query.row(0)[1] = std::numeric_limits<float>::infinity();
  infinite.Add(QuerySource::kText, query);
  EXPECT_TRUE(refused(infinite.Bytes()));
}

}  // namespace
}  // namespace quern

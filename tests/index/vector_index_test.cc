#include <memory>

#include "gtest/gtest.h"

#include "engine/index/faiss_index.h"
#include "tests/contract/vector_index_contract.h"
#include "tests/support/fake_vector_index.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

std::unique_ptr<VectorIndex> CreateFaiss(int64_t dimension, Metric metric) {
  return ValueOrDie(
      FaissIndex::Create({.dimension = dimension, .metric = metric}));
}

std::unique_ptr<VectorIndex> CreateFake(int64_t dimension, Metric metric) {
  return std::make_unique<FakeVectorIndex>(dimension, metric);
}

INSTANTIATE_TEST_SUITE_P(
    Backends, VectorIndexContract,
    testing::Values(VectorIndexBackend{"Faiss", CreateFaiss},
                    VectorIndexBackend{"Fake", CreateFake}),
    [](const auto& info) { return info.param.name; });

TEST(FaissIndexTest, RefusesADimensionBelowOne) {
  EXPECT_THAT(FaissIndex::Create({.dimension = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quern

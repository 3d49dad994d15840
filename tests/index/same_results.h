#pragma once

#include <vector>

#include "gtest/gtest.h"

#include "engine/index/vector_index.h"

namespace quern {

// The same ids in the same order, with the same scores to the bit.
inline void ExpectSameResults(
    const std::vector<std::vector<ScoredId>>& found,
    const std::vector<std::vector<ScoredId>>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t q = 0; q < found.size(); ++q) {
    ASSERT_EQ(found[q].size(), expected[q].size()) << "query " << q;
    for (size_t i = 0; i < found[q].size(); ++i) {
      ASSERT_EQ(found[q][i].id, expected[q][i].id) << "query " << q;
      ASSERT_EQ(found[q][i].score, expected[q][i].score) << "query " << q;
    }
  }
}

}  // namespace quern

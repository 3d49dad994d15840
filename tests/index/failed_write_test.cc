#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/index/sharded_index.h"
#include "tests/support/status_matchers.h"

namespace {

bool g_out_of_memory = false;

}  // namespace

// Rows of a delta are in blocks of these.
void* operator new[](size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<size_t>(alignment);
  void* const block =
      g_out_of_memory
          ? nullptr
          : std::aligned_alloc(unit, (size + unit - 1) / unit * unit);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete[](void* block, std::align_val_t /*alignment*/) noexcept {
  std::free(block);
}

namespace quern {
namespace {

class FailedWriteTest : public testing::Test {
 protected:
  // Ids `first` to `last` - 1, with vectors that point up (1) or down (-1).
  absl::Status Write(int64_t first, int64_t last, float direction) {
    std::vector<std::string> ids;
    for (int64_t i = first; i < last; ++i) ids.push_back(absl::StrCat(i));
    Matrix vectors(last - first, 2);
    for (int64_t i = 0; i < vectors.rows(); ++i) vectors.row(i)[0] = direction;
    return index_->Upsert(ids, vectors.view());
  }

  // The ids found in order, those that point up first.
  std::vector<std::string> Found() const {
    const RealClock clock;
    const RequestContext context(&clock, "test");
    const std::vector<float> up = {1, 0};
    const auto found = ValueOrDie(index_->Search(
        context, {.data = up.data(), .rows = 1, .columns = 2}, {.k = 5000}));
    std::vector<std::string> ids;
    for (const ScoredId& hit : found[0]) ids.push_back(hit.id);
    return ids;
  }

  const std::unique_ptr<ShardedIndex> index_ =
      ValueOrDie(ShardedIndex::Create({.dimension = 2}));
};

using Ids = std::vector<std::string>;

TEST_F(FailedWriteTest, TheFirstWriteAfterItIsSeen) {
  g_out_of_memory = true;
  EXPECT_THAT(Write(0, 3, 1), StatusIs(absl::StatusCode::kResourceExhausted));
  g_out_of_memory = false;
  EXPECT_THAT(Write(3, 5, 1), IsOk());
  EXPECT_EQ(index_->size(), 2);
  EXPECT_EQ(Found(), (Ids{"3", "4"}));
}

TEST_F(FailedWriteTest, NothingOfItIsSeenLater) {
  ASSERT_THAT(Write(0, 3, 1), IsOk());
  g_out_of_memory = true;
  EXPECT_THAT(Write(0, Delta::kChunkRows, -1),
              StatusIs(absl::StatusCode::kResourceExhausted));
  g_out_of_memory = false;
  EXPECT_EQ(Found(), (Ids{"0", "1", "2"}));
  ASSERT_THAT(Write(1, 2, -1), IsOk());
  ASSERT_THAT(Write(9, 10, 1), IsOk());
  EXPECT_EQ(index_->size(), 4);
  EXPECT_EQ(Found(), (Ids{"0", "2", "9", "1"}));
  ASSERT_THAT(index_->Remove({"2"}), IsOk());
  EXPECT_EQ(Found(), (Ids{"0", "9", "1"}));
}

}  // namespace
}  // namespace quern

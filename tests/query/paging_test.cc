// Pages over a graph, which finds more the further it looks.

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/query/engine.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/random_rows.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

constexpr int kItems = 4000;
constexpr int kDimension = 48;
constexpr int64_t kPageSize = 5;

class NoDecoder final : public ImageDecoder {
  absl::StatusOr<Image> DoDecode(absl::string_view, int64_t,
                                 int64_t) const override {
    return absl::InvalidArgumentError("is not a picture");
  }
};

CollectionFactories GraphFactories() {
  CollectionFactories factories = RocksdbFactories();
  factories.create_index =
      [](const v1::Collection& record, const std::string& directory,
         ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
    return ShardedIndex::Create({.dimension = record.dimension(),
                                 .kind = IndexKind::kHnsw,
                                 .target_recall = 0.6F,
                                 .directory = directory,
                                 .oldest_sequence = store->trimmed_sequence(),
                                 .newest_sequence = store->last_sequence(),
                                 .min_ann_rows = 100});
  };
  return factories;
}

// Vectors without structure, of which a narrow walk misses many.
class PagingTest : public testing::Test {
 protected:
  PagingTest() {
    Open();
    ValueOrDie(engine_->CreateCollection(Record("c", kDimension)));
    std::vector<Item> items;
    items.reserve(kItems);
    for (int i = 0; i < kItems; ++i) {
      items.push_back(MakeItem(absl::StrCat("a/", i), Row(rows_, i)));
    }
    EXPECT_THAT(collection()->Upsert(items), IsOk());
  }

  void Open() {
    engine_.reset();
    catalog_.reset();
    catalog_ = ValueOrDie(Catalog::Open({.path = directory_.File("data"),
                                         .factories = GraphFactories(),
                                         .clock = &clock_}));
    engine_ = std::make_unique<Engine>(EngineLimits{}, &embedder_, &models_,
                                       catalog_.get());
  }

  std::shared_ptr<Collection> collection() const {
    return ValueOrDie(catalog_->Get("c"));
  }

  void BuildGraph() {
    RequestContext context(&clock_, "test");
    EXPECT_THAT(collection()->mutable_index().Optimize(context, [](float) {}),
                IsOk());
  }

  static std::vector<float> Row(const Matrix& rows, int64_t i) {
    return {rows.row(i).begin(), rows.row(i).end()};
  }

  SearchQuery First(int64_t number) const {
    return {.collection = "c",
            .parts = {{EmbeddingInput{Row(queries_, number)}}},
            .k = kPageSize};
  }

  absl::StatusOr<SearchResult> Search(const SearchQuery& query) {
    RequestContext context(&clock_, "test");
    return Await<absl::StatusOr<SearchResult>>(
        [&](const auto& done) { engine_->Search(context, query, done); });
  }

  static void TurnPage(const SearchResult& result, SearchQuery& query) {
    query.offset = result.next_offset;
    query.after = result.last;
    query.page_state = result.page_state;
  }

  RealClock clock_;
  NoDecoder decoder_;
  FakeVideoDecoder videos_;
  ModelRegistry models_;
  TemporaryDirectory directory_;
  const Matrix rows_ = RandomRows(kItems, kDimension, 1);
  const Matrix queries_ = RandomRows(20, kDimension, 2);
  ThreadPool calls_{{.name = "calls"}};
  Embedder embedder_{{}, &decoder_, &videos_, &calls_};
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(PagingTest, NoHitComesTwiceAndAllComeInOrder) {
  BuildGraph();
  int64_t missed = 0;
  for (int64_t number = 0; number < queries_.rows(); ++number) {
    SearchQuery query = First(number);
    std::set<std::string> seen;
    std::optional<ScoredId> last;
    for (int page = 0; page < 20; ++page) {
      const SearchResult result = ValueOrDie(Search(query));
      ASSERT_TRUE(result.has_more);
      for (const SearchHit& hit : result.hits) {
        EXPECT_TRUE(seen.insert(hit.item.id).second) << hit.item.id;
        if (last.has_value()) {
          EXPECT_LE(hit.score, last->score);
        }
        last = ScoredId{.id = hit.item.id, .score = hit.score};
      }
      TurnPage(result, query);
    }
    SearchQuery at_once = First(number);
    at_once.k = 20 * kPageSize;
    for (const SearchHit& hit : ValueOrDie(Search(at_once)).hits) {
      missed += seen.contains(hit.item.id) ? 0 : 1;
    }
  }
  // Or the pages would have had nothing to get wrong.
  EXPECT_GT(missed, 0);
}

TEST_F(PagingTest, AGraphThatIsBuiltBetweenPagesChangesNothing) {
  SearchQuery query = First(0);
  const SearchResult first = ValueOrDie(Search(query));
  BuildGraph();
  TurnPage(first, query);
  const SearchResult second = ValueOrDie(Search(query));
  ASSERT_FALSE(second.hits.empty());
  for (const SearchHit& hit : second.hits) {
    EXPECT_LT(hit.score, first.hits.back().score);
  }
}

TEST_F(PagingTest, ARestartTellsAStateFromAnother) {
  SearchQuery query = First(0);
  TurnPage(ValueOrDie(Search(query)), query);
  Open();
  EXPECT_THAT(Search(query), IsOk());
  ASSERT_THAT(collection()->Upsert({MakeItem("a/1", Row(rows_, 2))}), IsOk());
  Open();
  EXPECT_THAT(Search(query), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("older state")));
}

}  // namespace
}  // namespace quern

// Several searches of one request: what they share, and what each has alone.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/query/engine.h"
#include "tests/query/fake_collection.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// What an index and a store were asked.
struct Asked {
  absl::Mutex mutex;
  std::vector<int64_t> queries ABSL_GUARDED_BY(mutex);  // Of each search.
  std::vector<size_t> ids ABSL_GUARDED_BY(mutex);       // Of each read.
  bool index_fails ABSL_GUARDED_BY(mutex) = false;  // Where rows are several.
  bool store_fails ABSL_GUARDED_BY(mutex) = false;  // Likewise, ids.

  std::vector<int64_t> TakeQueries() {
    absl::MutexLock lock(&mutex);
    return std::exchange(queries, {});
  }
  std::vector<size_t> TakeIds() {
    absl::MutexLock lock(&mutex);
    return std::exchange(ids, {});
  }
};

class CountingVectorIndex final : public FakeVectorIndex {
 public:
  CountingVectorIndex(int64_t dimension, Asked* asked)
      : FakeVectorIndex(dimension), asked_(asked) {}

  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options, SearchStats* stats) const override {
    {
      absl::MutexLock lock(&asked_->mutex);
      asked_->queries.push_back(queries.rows);
      if (asked_->index_fails && queries.rows > 1) {
        return absl::ResourceExhaustedError("too many");
      }
    }
    return FakeVectorIndex::Search(context, queries, options, stats);
  }

 private:
  Asked* const asked_;
};

class CountingItemStore final : public ForwardingItemStore {
 public:
  CountingItemStore(std::shared_ptr<ItemStore> store, Asked* asked)
      : ForwardingItemStore(std::move(store)), asked_(asked) {}

  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    {
      absl::MutexLock lock(&asked_->mutex);
      asked_->ids.push_back(ids.size());
      if (asked_->store_fails && ids.size() > 3) {
        return absl::DataLossError("too many");
      }
    }
    return ForwardingItemStore::Get(ids, parts);
  }

 private:
  Asked* const asked_;
};

class NoDecoder final : public ImageDecoder {
  absl::StatusOr<Image> DoDecode(absl::string_view, int64_t,
                                 int64_t) const override {
    return absl::InvalidArgumentError("is not a picture");
  }
};

// Ten points on a quarter of a circle: 0 is at the angle 0, and so on.
class SearchTogetherTest : public testing::Test {
 protected:
  // Of some seventy hits.
  static constexpr int64_t kAnswerBytes = 1000;

  SearchTogetherTest()
      : catalog_(ValueOrDie(Catalog::Open(
            {.path = directory_.File("data"),
             .factories = {
                 .open_store = [this](const std::string& path,
                                      const v1::Collection& record)
                     -> absl::StatusOr<std::unique_ptr<ItemStore>> {
                   return std::make_unique<CountingItemStore>(
                       std::make_shared<FakeItemStore>(record.dimension(),
                                                       nullptr, path),
                       &asked_);
                 },
                 .create_index = [this](const v1::Collection& record,
                                        const std::string&, ItemStore*)
                     -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
                   return std::make_unique<CountingVectorIndex>(
                       record.dimension(), &asked_);
                 }},
             .clock = &clock_}))),
        embedder_({}, &decoder_, &videos_, &calls_),
        engine_({.max_answer_bytes = kAnswerBytes}, &embedder_, &models_,
                catalog_.get()) {
    ValueOrDie(engine_.CreateCollection(Record("points", 2)));
    std::vector<Item> items;
    for (int i = 0; i < 10; ++i) {
      items.push_back(MakeItem(absl::StrCat(i), At(i)));
    }
    EXPECT_THAT(ValueOrDie(catalog_->Get("points"))->Upsert(items), IsOk());
    asked_.TakeIds();
  }

  static std::vector<float> At(double number) {
    return {static_cast<float>(std::cos(0.1 * number)),
            static_cast<float>(std::sin(0.1 * number))};
  }

  static SearchQuery Near(double number, int64_t k = 2) {
    return {.collection = "points",
            .parts = {{EmbeddingInput{At(number)}}},
            .k = k};
  }

  // Each result's ids, or its error.
  std::vector<absl::StatusOr<std::vector<std::string>>> Search(
      const std::vector<SearchQuery>& queries) {
    const RequestContext parent(&clock_, "test");
    std::vector<std::unique_ptr<RequestContext>> contexts;
    std::vector<absl::StatusOr<std::vector<std::string>>> results(
        queries.size());
    absl::BlockingCounter left(static_cast<int>(queries.size()));
    std::vector<Engine::BatchedSearch> searches;
    for (size_t i = 0; i < queries.size(); ++i) {
      contexts.push_back(
          std::make_unique<RequestContext>(RequestContext::PartOf{&parent}));
      searches.push_back({.context = contexts.back().get(),
                          .query = &queries[i],
                          .done = [&, i](absl::StatusOr<SearchResult> result) {
                            results[i] = IdsOf(result);
                            left.DecrementCount();
                          }});
    }
    engine_.SearchTogether(std::move(searches));
    left.Wait();
    return results;
  }

  static absl::StatusOr<std::vector<std::string>> IdsOf(
      const absl::StatusOr<SearchResult>& result) {
    if (!result.ok()) return result.status();
    std::vector<std::string> ids;
    for (const SearchHit& hit : result->hits) ids.push_back(hit.item.id);
    return ids;
  }

  RealClock clock_;
  NoDecoder decoder_;
  FakeVideoDecoder videos_;
  ModelRegistry models_;
  TemporaryDirectory directory_;
  Asked asked_;
  std::unique_ptr<Catalog> catalog_;
  ThreadPool calls_{{.name = "calls"}};
  Embedder embedder_;
  Engine engine_;
};

TEST_F(SearchTogetherTest, AskTheIndexAndTheStoreOnce) {
  const auto results = Search({Near(0), Near(4.1), Near(8)});
  EXPECT_THAT(ValueOrDie(results[0]), ElementsAre("0", "1"));
  EXPECT_THAT(ValueOrDie(results[1]), ElementsAre("4", "5"));
  EXPECT_THAT(ValueOrDie(results[2])[0], "8");
  EXPECT_THAT(asked_.TakeQueries(), ElementsAre(3));
  EXPECT_THAT(asked_.TakeIds(), ElementsAre(6));
}

TEST_F(SearchTogetherTest, OnlyThoseThatWantTheSame) {
  SearchQuery exact = Near(2);
  exact.exact = true;
  SearchQuery recall = Near(2);
  recall.recall = 0.5F;
  SearchQuery images = Near(2);
  images.modalities = {1};
  SearchQuery explained = Near(2);
  explained.explain = true;
  SearchQuery other_items = Near(2);
  other_items.read = {.payload = false};
  const auto results = Search({Near(0), Near(0, 3), exact, recall, images,
                               explained, other_items, Near(1, 3)});
  for (const auto& result : results) EXPECT_THAT(result, IsOk());
  EXPECT_THAT(asked_.TakeQueries(), UnorderedElementsAre(2, 2, 1, 1, 1, 1));
  // The explained one's by itself, then those with payload, then the other.
  EXPECT_THAT(asked_.TakeIds(), ElementsAre(2, 12, 2));
}

TEST_F(SearchTogetherTest, ABadOneFailsAlone) {
  SearchQuery elsewhere = Near(1);
  elsewhere.collection = "nowhere";
  SearchQuery text = Near(1);
  text.parts = {{TextInput{"red"}}};
  SearchQuery nothing = Near(1);
  nothing.parts.push_back({EmbeddingInput{{-At(1)[0], -At(1)[1]}}});
  SearchQuery itself = Near(1);
  itself.parts = {{StoredItemInput{"5"}}};
  const auto results =
      Search({Near(3), elsewhere, text, Near(1, 0), nothing, itself, Near(9)});
  EXPECT_THAT(results[0], IsOk());
  EXPECT_THAT(results[1], StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(results[2], StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(results[3], StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(results[4], StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ValueOrDie(results[5]), UnorderedElementsAre("4", "6"));
  EXPECT_THAT(ValueOrDie(results[6]), ElementsAre("9", "8"));
}

TEST_F(SearchTogetherTest, WhatFailsTogetherIsTriedAlone) {
  {
    absl::MutexLock lock(&asked_.mutex);
    asked_.index_fails = true;
    asked_.store_fails = true;
  }
  const auto results = Search({Near(0), Near(6), Near(9)});
  EXPECT_THAT(ValueOrDie(results[0]), ElementsAre("0", "1"));
  EXPECT_THAT(ValueOrDie(results[2]), ElementsAre("9", "8"));
  EXPECT_THAT(asked_.TakeQueries(), ElementsAre(3, 1, 1, 1));
  EXPECT_THAT(asked_.TakeIds(), ElementsAre(6, 2, 2, 2));
}

TEST_F(SearchTogetherTest, HitsThatNoAnswerHoldsAreNotReadToTheEnd) {
  EXPECT_THAT(Search({Near(0, 10)})[0], IsOk());
  asked_.TakeIds();
  const auto results = Search(std::vector<SearchQuery>(1000, Near(0, 10)));
  for (const auto& result : results) {
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                                 HasSubstr("smaller pages")));
  }
  EXPECT_THAT(asked_.TakeIds(), ElementsAre(256));
}

TEST_F(SearchTogetherTest, NoneAreNothing) {
  engine_.SearchTogether({});
  EXPECT_THAT(asked_.TakeQueries(), IsEmpty());
}

TEST_F(SearchTogetherTest, CallersWhoHaveGoneAreNotSearchedFor) {
  RequestContext parent(&clock_, "test");
  parent.Cancel();
  RequestContext context(RequestContext::PartOf{&parent});
  const SearchQuery query = Near(1);
  const auto result =
      Await<absl::StatusOr<SearchResult>>([&](const auto& done) {
        engine_.SearchTogether(
            {{.context = &context, .query = &query, .done = done}});
      });
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(asked_.TakeQueries(), IsEmpty());
}

}  // namespace
}  // namespace quern

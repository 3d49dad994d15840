#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/index/vector_index.h"
#include "engine/query/collection.h"
#include "engine/query/read_hits.h"

namespace quern {

// What a search wants of an index. Where all of it is equal, two searches are
// rows of one VectorIndex::Search().
struct IndexQuestion {
  const Collection* collection = nullptr;
  int64_t k = 0;
  absl::string_view filter;
  absl::Span<const int32_t> modalities;
  bool exact = false;
  std::optional<float> recall;
  std::optional<QuerySource> source;

  friend bool operator==(const IndexQuestion&, const IndexQuestion&) = default;
};

// The stages of one search, as a SearchLot drives them: Encode(), then Begin(),
// then either GoOn(), or TakeCoarse(), Choose() and AddHits(), with an End()
// after whatever fails. One thread at a time.
class StagedSearch {
 public:
  virtual ~StagedSearch() = default;

  // Calls `ready`, now or from another thread, once the query's vectors are
  // there, or with why they are not.
  virtual void Encode(std::function<void(absl::Status)> ready) = 0;
  // After Encode() went well: sums the query up.
  virtual absl::Status Begin() = 0;
  // All that is left, alone; with what TakeCoarse() was given, if it was.
  virtual void GoOn() = 0;

  // After Begin(): whether others may ask the index for it, and what for.
  virtual bool can_share() const = 0;
  virtual IndexQuestion question() const = 0;
  virtual const VectorSearchOptions& index_options() = 0;  // Of question().
  virtual absl::Span<const float> query_vector() const = 0;
  // What the index answered, and the time that this took.
  virtual void TakeCoarse(std::vector<ScoredId> found, const SearchStats& stats,
                          absl::Duration time) = 0;

  // Whether the next stage runs elsewhere, so that only GoOn() is left.
  virtual bool leaves_thread() const = 0;
  // The hits, by id; after it, chosen() has them.
  virtual absl::Status Choose() = 0;
  virtual absl::Span<const ScoredId> chosen() const = 0;
  virtual ItemParts read() const = 0;  // Of the hits' items.
  // One per hit, and the time that it took to read them.
  virtual void AddHits(absl::Span<std::optional<Item>> items,
                       absl::Duration time) = 0;
  // Gives the result, or the error, to the caller.
  virtual void End(absl::Status status) = 0;

  virtual RequestContext& context() = 0;
};

// Searches of one request that go on together once all of them are encoded:
// those that want the same of the index ask it at once, and the items of all
// hits come in one read. Each ends alone, with what it would give by itself.
class SearchLot final : public std::enable_shared_from_this<SearchLot> {
 public:
  // `budget` is of the hits of all.
  static void Start(std::vector<std::shared_ptr<StagedSearch>> searches,
                    std::shared_ptr<AnswerBudget> budget);

 private:
  SearchLot(std::vector<std::shared_ptr<StagedSearch>> searches,
            std::shared_ptr<AnswerBudget> budget);

  // After the last one was encoded.
  void Run();
  // Of those, the ones that are left to go on with others.
  std::vector<StagedSearch*> BeginAll();
  static void AskTogether(absl::Span<StagedSearch* const> searches);
  void FetchTogether(absl::Span<StagedSearch* const> searches) const;

  const std::vector<std::shared_ptr<StagedSearch>> searches_;
  const std::shared_ptr<AnswerBudget> budget_;
  std::vector<absl::Status> encoded_;
  std::atomic<size_t> encoding_;
};

}  // namespace quern

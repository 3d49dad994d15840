#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "google/protobuf/field_mask.pb.h"

#include "engine/base/request_context.h"
#include "engine/embed/embedder.h"
#include "engine/model/model_registry.h"
#include "engine/query/catalog.h"
#include "engine/query/fine_stage.h"
#include "engine/query/part_search.h"
#include "engine/query/rerank.h"
#include "quern/v1/items.pb.h"

// The pipeline of a request. This and upsert_session.h are the only files that
// know the order of the stages.

namespace quern {

struct EmbeddingInput {
  std::vector<float> values;
};
struct StoredItemInput {
  std::string id;
};

struct QueryPart {
  std::variant<TextInput, ImageInput, VideoInput, EmbeddingInput,
               StoredItemInput>
      input;
  float weight = 1;
};

// The state of a collection that a page of hits was taken from.
struct PageState {
  std::string folder;  // Of the collection: names are used again.
  int64_t index_version = 0;
  int64_t item_count = 0;

  friend bool operator==(const PageState&, const PageState&) = default;
};

struct SearchQuery {
  std::string collection;
  std::vector<QueryPart> parts;
  // What a hit is. With kRegion and kSegment the texts of positive weight are
  // looked for in the first `rerank->depth` items.
  Granularity granularity = Granularity::kItem;
  int64_t k = 10;
  // Hits of the pages before, the last of them, and the state that they were
  // taken from; nullopt for the first page. Of a search for parts, and where
  // no hit came before, `after` is null.
  int64_t offset = 0;
  std::optional<ScoredId> after;
  std::optional<PageState> page_state;
  // A path into the payload: at most `group_size` hits of each value there, and
  // none without one. Of a search for parts, "id" is the item itself. Empty:
  // hits are not grouped.
  std::string group_by;
  int64_t group_size = 1;
  std::optional<float> min_score;  // Of the final score.
  // Parts that are less probably there are left out, [0, 1]; null: none is.
  std::optional<double> min_probability;
  std::optional<RerankOptions> rerank;
  ItemParts read;      // What comes with the hits.
  std::string filter;  // In the language of engine/filter; empty: everything.
  std::vector<int32_t> modalities;  // Only of these; empty: all.
  bool exact = false;               // Compare with every vector.
  std::optional<float> recall;      // Null: the collection's target.
  bool explain = false;             // SearchResult::index.plan is wanted.
};

struct StageScore {
  std::string stage;
  float score = 0;
};

struct SearchHit {
  Item item;
  float score = 0;
  // Of a search in several stages, in their order.
  std::vector<StageScore> stage_scores = {};
  std::vector<Evidence> evidence = {};
  std::optional<float> probability = std::nullopt;
};

struct SearchResult {
  std::vector<SearchHit> hits;  // Best first.
  // The model of the collection; empty strings for one without.
  std::string model_name;
  std::string model_version;
  std::string model_fingerprint;
  int64_t index_version = 0;
  int64_t item_count = 0;
  bool query_truncated = false;
  // Hits go on behind these: ask with this offset, last hit and state. Hits
  // beyond EngineLimits::max_page_size are not to be had.
  bool has_more = false;
  int64_t next_offset = 0;
  std::optional<ScoredId> last;
  PageState page_state;
  SearchStats index;  // What the index did.
  // Why the hits may not be the best, a sentence each.
  std::vector<std::string> degraded_reasons;
};

// What an upsert says of one item.
struct UpsertInput {
  std::string id;
  std::variant<TextInput, ImageInput, VideoInput, EmbeddingInput> content;
  std::string payload;  // A serialised google.protobuf.Struct.
  std::string media_uri;
  std::string model_fingerprint;  // Empty: not checked.
  std::string etag;               // The item's expected one. Empty: any.
  std::optional<absl::Duration> ttl = std::nullopt;  // Null: the collection's.
};

// One item, ready to be stored.
struct PreparedItem {
  Item item;
  bool truncated = false;
  std::vector<StageTime> stages;
};

struct EngineLimits {
  int64_t max_page_size = 10'000;
  int64_t max_payload_bytes = 65'536;
  int64_t max_answer_bytes = int64_t{64} << 20;  // Of all hits of a call.
};

// What reranks beyond what is in the engine itself. All must outlive it.
struct EngineScoring {
  FineStage* stage = nullptr;      // Null: neither MATCH nor REMOTE is there.
  FineStage* grounding = nullptr;  // Null: parts are looked for on the call's.
  const Scorer* remote = nullptr;  // Null: REMOTE is not.
  int64_t max_media_bytes = int64_t{48} << 20;  // Shown to a scorer at once.
};

// Thread-safe. A call that needs a model or a scorer calls back from another
// thread, one that does not before it returns; no thread waits.
// RequestContext::Check() runs between the stages, and its errors are among
// those of every call.
class Engine {
 public:
  // All must outlive the engine.
  Engine(EngineLimits limits, Embedder* embedder, ModelRegistry* models,
         Catalog* catalog, EngineScoring scoring = {})
      : limits_(limits),
        embedder_(embedder),
        models_(models),
        catalog_(catalog),
        scoring_(scoring) {}

  using SearchDone = std::function<void(absl::StatusOr<SearchResult>)>;
  using PrepareDone = std::function<void(absl::StatusOr<PreparedItem>)>;

  // Finds the best items of a collection, or parts of them. Stages: decode,
  // encode, search, rerank or ground, fetch. `context`, whose stage times it
  // writes, and `query` must live until `done` is called, once. Errors:
  //   kNotFound            no such collection; a stored item of the query
  //   kInvalidArgument     a part, the number of parts, k, recall, the filter,
  //                        group_by, or a page whose state has passed (with
  //                        field paths as in quern.v1.SearchRequest); also
  //                        those of PlanParts()
  //   kFailedPrecondition  the collection's model is not loaded, is another
  //                        version, or lacks the tower or the match head; the
  //                        collection keeps no parts to rerank by or to look
  //                        for; no scorers are configured
  void Search(RequestContext& context, const SearchQuery& query,
              SearchDone done) const;

  // One of several searches: what Search() takes.
  struct BatchedSearch {
    RequestContext* context;
    const SearchQuery* query;
    SearchDone done;
  };

  // Searches of one request, whose contexts end together, each with the result
  // that Search() would give it, or an error of its own. They are searched once
  // all are encoded: those that want the same number of candidates by the same
  // filter, recall and so on as rows of one search of the index, which is
  // cheaper. Give tens at once rather than hundreds: a turn is checked for its
  // deadline as a whole, and runs on one thread.
  void SearchTogether(std::vector<BatchedSearch> searches) const;

  // Checks and encodes one item; nothing is stored. `context`, `collection` and
  // `input` must live until `done` is called, once.
  void PrepareItem(const RequestContext& context, const Collection& collection,
                   const UpsertInput& input, PrepareDone done) const;

  // Completes a record that a caller wants created: model, fingerprint,
  // dimension and metric; then creates it. Errors: kInvalidArgument with field
  // paths as in quern.v1.Collection, kNotFound for an unknown model, and those
  // of Catalog::Create().
  absl::StatusOr<v1::Collection> CreateCollection(v1::Collection wanted) const;

  // Changes what `mask` names. Errors: kInvalidArgument with field paths as in
  // quern.v1.UpdateCollectionRequest, and those of Catalog::Update().
  absl::StatusOr<v1::Collection> UpdateCollection(
      const v1::Collection& wanted,
      const google::protobuf::FieldMask& mask) const;

  // Changes what `mask` names of the item `given.id()`; nothing is encoded.
  // Errors: those of ItemUpdate and Collection::Update().
  absl::StatusOr<Item> UpdateItem(
      const RequestContext& context, Collection& collection,
      const v1::Item& given, const google::protobuf::FieldMask& mask) const;
  // Whether the collection's `parts` are in range and its model makes them; for
  // one that is made or changed. Errors: kInvalidArgument with field paths as
  // in quern.v1.Collection; kFailedPrecondition naming the capability and the
  // cure; kNotFound when the model is not loaded.
  absl::Status CheckPartsOf(const v1::Collection& record) const;

  // Takes a model out of service; calls under way finish. Errors: kNotFound;
  // kFailedPrecondition while it is the default, or, unless `force`, while a
  // collection needs it.
  absl::Status UnloadModel(absl::string_view name, bool force) const;

  // The model that encodes for a collection, checked against its fingerprint.
  absl::StatusOr<std::shared_ptr<const Model>> ModelOf(
      const Collection& collection) const;

  Catalog& catalog() const { return *catalog_; }
  ModelRegistry& models() const { return *models_; }
  Embedder& embedder() const { return *embedder_; }
  const EngineLimits& limits() const { return limits_; }

 private:
  absl::Status CheckUpsert(const Collection& collection,
                           const UpsertInput& input) const;
  // The bytes of what is embedded.
  absl::StatusOr<std::string> MediaOf(const EmbedInput& input) const;

  class SearchCall;

  const EngineLimits limits_;
  Embedder* const embedder_;
  ModelRegistry* const models_;
  Catalog* const catalog_;
  const EngineScoring scoring_;
};

// Errors: kInvalidArgument on "id" unless it is UTF-8 of 1 to 512 bytes.
absl::Status CheckItemId(absl::string_view id);

}  // namespace quern

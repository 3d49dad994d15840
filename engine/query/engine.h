#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/base/thread_pool.h"
#include "engine/media/image.h"
#include "engine/model/model_registry.h"
#include "engine/query/catalog.h"

// The pipeline of a request. This and upsert_session.h are the only files that
// know the order of the stages.

namespace quern {

// Views point into the caller's request, which outlives the call.
struct TextInput {
  absl::string_view text;
};
struct ImageInput {
  absl::string_view encoded;  // The file's bytes.
};
struct EmbeddingInput {
  std::vector<float> values;
};
struct StoredItemInput {
  std::string id;
};

struct QueryPart {
  std::variant<TextInput, ImageInput, EmbeddingInput, StoredItemInput> input;
  float weight = 1;
};

struct SearchQuery {
  std::string collection;
  std::vector<QueryPart> parts;
  int64_t k = 10;
  std::optional<float> min_score;
  ItemParts read;  // What comes with the hits.
};

struct SearchHit {
  Item item;
  float score = 0;
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
};

struct Embedded {
  std::vector<float> embedding;  // [dimension], L2-normalised.
  bool truncated = false;        // A text was longer than the model reads.
  int64_t tokens = 0;            // 0 for a picture.
};

// What an upsert says of one item.
struct UpsertInput {
  std::string id;
  std::variant<TextInput, ImageInput, EmbeddingInput> content;
  std::string payload;  // A serialised google.protobuf.Struct.
  std::string media_uri;
  std::string model_fingerprint;  // Empty: not checked.
};

struct EngineLimits {
  int64_t max_text_bytes = 65'536;
  int64_t max_page_size = 10'000;
  int64_t max_payload_bytes = 65'536;
};

// Thread-safe. Every call works on the caller's thread; RequestContext::Check()
// runs between the stages, and its errors are among those of every call.
class Engine {
 public:
  // All must outlive the engine.
  Engine(EngineLimits limits, const ImageDecoder* decoder,
         const ModelRegistry* models, Catalog* catalog)
      : limits_(limits),
        decoder_(decoder),
        models_(models),
        catalog_(catalog) {}

  // Finds the best items of a collection. Stages: decode, encode, search,
  // fetch. Errors:
  //   kNotFound            no such collection; a stored item of the query
  //   kInvalidArgument     a part, the number of parts or k (with field paths
  //   as
  //                        in quern.v1.SearchRequest)
  //   kFailedPrecondition  the collection's model is not loaded, is another
  //                        version, or lacks the tower
  absl::StatusOr<SearchResult> Search(RequestContext& context,
                                      const SearchQuery& query) const;

  // Stages: decode, encode. Errors as in Model, with no field path before
  // "text" or "image.content".
  absl::StatusOr<Embedded> EmbedText(RequestContext& context,
                                     const Model& model,
                                     absl::string_view text) const;
  absl::StatusOr<Embedded> EmbedImage(RequestContext& context,
                                      const Model& model,
                                      absl::string_view encoded) const;

  // Checks and encodes one item; nothing is stored. `truncated` may be null.
  absl::StatusOr<Item> PrepareItem(RequestContext& context,
                                   const Collection& collection,
                                   const UpsertInput& input,
                                   bool* truncated) const;

  // Completes a record that a caller wants created: model, fingerprint,
  // dimension and metric; then creates it. Errors: kInvalidArgument with field
  // paths as in quern.v1.Collection, kNotFound for an unknown model, and those
  // of Catalog::Create().
  absl::StatusOr<v1::Collection> CreateCollection(v1::Collection wanted) const;

  Catalog& catalog() const { return *catalog_; }
  const ModelRegistry& models() const { return *models_; }
  const EngineLimits& limits() const { return limits_; }

 private:
  // The model that encodes for a collection, checked against its fingerprint.
  absl::StatusOr<std::shared_ptr<const Model>> ModelOf(
      const Collection& collection) const;

  // The weighted sum of the parts' vectors. `excluded` takes the ids of stored
  // items among the parts.
  absl::StatusOr<std::vector<float>> EncodeQuery(
      RequestContext& context, const Collection& collection,
      absl::Span<const QueryPart> parts, std::vector<std::string>& excluded,
      bool& truncated) const;

  const EngineLimits limits_;
  const ImageDecoder* const decoder_;
  const ModelRegistry* const models_;
  Catalog* const catalog_;
};

// Errors: kInvalidArgument on "id" unless it is UTF-8 of 1 to 512 bytes.
absl::Status CheckItemId(absl::string_view id);

}  // namespace quern

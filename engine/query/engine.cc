#include "engine/query/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

constexpr size_t kMaxQueryParts = 16;
constexpr float kMaxPartWeight = 10;
constexpr int64_t kMaxDimension = 4096;
constexpr size_t kMaxDescriptionBytes = 1024;
// The model of a collection of ready-made embeddings.
constexpr absl::string_view kNoModel = "none";

template <typename... Cases>
struct Visitor : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Visitor(Cases...) -> Visitor<Cases...>;

absl::Status CheckText(absl::string_view text, int64_t max_bytes) {
  if (text.empty()) {
    return InvalidField("text", "is empty; give at least one byte");
  }
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return InvalidField(
        "text", absl::StrCat("has ", text.size(),
                             " bytes; limits.max_text_bytes is ", max_bytes));
  }
  if (!IsValidUtf8(text)) return InvalidField("text", "is not valid UTF-8");
  return absl::OkStatus();
}

absl::Status CheckQuery(const SearchQuery& query, int64_t max_page_size) {
  if (query.parts.empty() || query.parts.size() > kMaxQueryParts) {
    return InvalidField("query.parts",
                        absl::StrCat("there are ", query.parts.size(),
                                     "; give 1 to ", kMaxQueryParts));
  }
  if (query.k < 1 || query.k > max_page_size) {
    return InvalidField(
        "page_size",
        absl::StrCat("is ", query.k, "; it must be 1 to ", max_page_size));
  }
  for (size_t i = 0; i < query.parts.size(); ++i) {
    const float weight = query.parts[i].weight;
    if (!(std::abs(weight) <= kMaxPartWeight) || weight == 0) {
      return InvalidField(
          absl::StrCat("query.parts[", i, "].weight"),
          absl::StrCat("is ", weight, "; it must be -10 to 10 and not 0"));
    }
  }
  return absl::OkStatus();
}

void Normalise(std::vector<float>& vector) {
  double squares = 0;
  for (float value : vector) squares += static_cast<double>(value) * value;
  if (squares == 0) return;
  const double scale = 1 / std::sqrt(squares);
  for (float& value : vector) value = static_cast<float>(value * scale);
}

void AddScaled(absl::Span<const float> vector, float weight,
               std::vector<float>& sum) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * vector[i];
}

}  // namespace

absl::Status CheckItemId(absl::string_view id) {
  QUERN_RETURN_IF_ERROR(CheckIdSize(id));
  if (!IsValidUtf8(id)) return InvalidField("id", "is not valid UTF-8");
  return absl::OkStatus();
}

absl::StatusOr<Embedded> Engine::EmbedText(RequestContext& context,
                                           const Model& model,
                                           absl::string_view text) const {
  QUERN_RETURN_IF_ERROR(CheckText(text, limits_.max_text_bytes));
  QUERN_RETURN_IF_ERROR(context.Check("encode"));
  StageTimer timer(context, "encode");
  QUERN_ASSIGN_OR_RETURN(Model::TextEmbedding embedded, model.EmbedText(text));
  return Embedded{.embedding = std::move(embedded.embedding),
                  .truncated = embedded.truncated,
                  .tokens = embedded.tokens};
}

absl::StatusOr<Embedded> Engine::EmbedImage(RequestContext& context,
                                            const Model& model,
                                            absl::string_view encoded) const {
  QUERN_RETURN_IF_ERROR(context.Check("decode"));
  Image image;
  {
    StageTimer timer(context, "decode");
    absl::StatusOr<Image> decoded = decoder_->Decode(
        encoded, model.preprocessing().width, model.preprocessing().height);
    if (absl::IsInvalidArgument(decoded.status())) {
      return InvalidField("image.content", decoded.status().message());
    }
    QUERN_RETURN_IF_ERROR(decoded.status());
    image = *std::move(decoded);
  }
  QUERN_RETURN_IF_ERROR(context.Check("encode"));
  StageTimer timer(context, "encode");
  QUERN_ASSIGN_OR_RETURN(std::vector<float> embedding, model.EmbedImage(image));
  return Embedded{.embedding = std::move(embedding)};
}

absl::StatusOr<std::shared_ptr<const Model>> Engine::ModelOf(
    const Collection& collection) const {
  const v1::Collection& record = collection.record();
  if (record.model() == kNoModel) {
    return absl::FailedPreconditionError(absl::StrCat(
        "collection ", Quoted(record.name()),
        " has no model: it takes and is searched with embeddings only"));
  }
  absl::StatusOr<std::shared_ptr<const Model>> model =
      models_->Get(record.model());
  if (absl::IsNotFound(model.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection ", Quoted(record.name()), " needs model ",
                     Quoted(record.model()),
                     ", which is not loaded: add its package to models.paths"));
  }
  QUERN_RETURN_IF_ERROR(model.status());
  const std::string& fingerprint = (*model)->info().fingerprint;
  if (fingerprint != record.model_fingerprint()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "collection ", Quoted(record.name()), " was made with model ",
        Quoted(record.model()), " of fingerprint ",
        record.model_fingerprint().substr(0, 16), ", but ",
        fingerprint.substr(0, 16),
        " is loaded: load the old package, or index the collection again"));
  }
  return model;
}

absl::StatusOr<std::vector<float>> Engine::EncodeQuery(
    RequestContext& context, const Collection& collection,
    absl::Span<const QueryPart> parts, std::vector<std::string>& excluded,
    bool& truncated) const {
  const auto encode_stored =
      [&](const StoredItemInput& input) -> absl::StatusOr<std::vector<float>> {
    excluded.push_back(input.id);
    QUERN_ASSIGN_OR_RETURN(
        std::vector<std::optional<Item>> items,
        collection.store().Get({input.id},
                               {.payload = false, .embedding = true}));
    if (!items.front().has_value()) return NotFound("item", input.id);
    return std::move(items.front()->embedding);
  };
  const auto encode_embedding =
      [&](const EmbeddingInput& input) -> absl::StatusOr<std::vector<float>> {
    const absl::Status status =
        CheckVector(input.values, collection.dimension(), collection.metric());
    if (!status.ok()) return InvalidField("embedding", status.message());
    return input.values;
  };
  const auto encode_text =
      [&](const TextInput& input) -> absl::StatusOr<std::vector<float>> {
    QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                           ModelOf(collection));
    QUERN_ASSIGN_OR_RETURN(Embedded embedded,
                           EmbedText(context, *model, input.text));
    truncated = truncated || embedded.truncated;
    return std::move(embedded.embedding);
  };
  const auto encode_image =
      [&](const ImageInput& input) -> absl::StatusOr<std::vector<float>> {
    QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                           ModelOf(collection));
    QUERN_ASSIGN_OR_RETURN(Embedded embedded,
                           EmbedImage(context, *model, input.encoded));
    return std::move(embedded.embedding);
  };

  std::vector<float> sum(collection.dimension());
  for (size_t i = 0; i < parts.size(); ++i) {
    absl::StatusOr<std::vector<float>> vector = std::visit(
        Visitor{encode_text, encode_image, encode_embedding, encode_stored},
        parts[i].input);
    if (absl::IsInvalidArgument(vector.status())) {
      return InField(vector.status(), absl::StrCat("query.parts[", i, "]"));
    }
    QUERN_RETURN_IF_ERROR(vector.status());
    if (parts.size() > 1 && collection.metric() == Metric::kCosine) {
      Normalise(*vector);
    }
    AddScaled(*vector, parts[i].weight, sum);
  }
  const absl::Status status =
      CheckVector(sum, collection.dimension(), collection.metric());
  if (!status.ok()) {
    return InvalidField("query.parts",
                        absl::StrCat("their sum: ", status.message()));
  }
  return sum;
}

absl::StatusOr<SearchResult> Engine::Search(RequestContext& context,
                                            const SearchQuery& query) const {
  QUERN_RETURN_IF_ERROR(CheckQuery(query, limits_.max_page_size));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         catalog_->Get(query.collection));
  SearchResult result;
  result.model_name = collection->record().model();
  result.model_fingerprint = collection->record().model_fingerprint();
  if (absl::StatusOr<std::shared_ptr<const Model>> model =
          models_->Get(result.model_name);
      model.ok()) {
    result.model_version = (*model)->info().version;
  }
  result.index_version = collection->index_version();
  result.item_count = collection->index().size();

  std::vector<std::string> excluded;
  QUERN_ASSIGN_OR_RETURN(const std::vector<float> vector,
                         EncodeQuery(context, *collection, query.parts,
                                     excluded, result.query_truncated));

  QUERN_RETURN_IF_ERROR(context.Check("search"));
  std::vector<ScoredId> found;
  {
    StageTimer timer(context, "search");
    const MatrixView queries{
        .data = vector.data(), .rows = 1, .columns = collection->dimension()};
    QUERN_ASSIGN_OR_RETURN(
        std::vector<std::vector<ScoredId>> lists,
        collection->index().Search(
            context, queries,
            {.k = query.k + static_cast<int64_t>(excluded.size())}));
    found = std::move(lists.front());
  }
  std::erase_if(found, [&](const ScoredId& hit) {
    return std::find(excluded.begin(), excluded.end(), hit.id) !=
               excluded.end() ||
           (query.min_score.has_value() && hit.score < *query.min_score);
  });
  if (static_cast<int64_t>(found.size()) > query.k) found.resize(query.k);

  QUERN_RETURN_IF_ERROR(context.Check("fetch"));
  StageTimer timer(context, "fetch");
  std::vector<std::string> ids;
  ids.reserve(found.size());
  for (const ScoredId& hit : found) ids.push_back(hit.id);
  QUERN_ASSIGN_OR_RETURN(std::vector<std::optional<Item>> items,
                         collection->store().Get(ids, query.read));
  result.hits.reserve(found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    // One that was deleted since the index was searched is left out.
    if (!items[i].has_value()) continue;
    result.hits.push_back(
        {.item = *std::move(items[i]), .score = found[i].score});
  }
  return result;
}

absl::StatusOr<Item> Engine::PrepareItem(RequestContext& context,
                                         const Collection& collection,
                                         const UpsertInput& input,
                                         bool* truncated) const {
  QUERN_RETURN_IF_ERROR(CheckItemId(input.id));
  if (static_cast<int64_t>(input.payload.size()) > limits_.max_payload_bytes) {
    return InvalidField("payload",
                        absl::StrCat("has ", input.payload.size(),
                                     " bytes; limits.max_payload_bytes is ",
                                     limits_.max_payload_bytes));
  }
  if (!input.model_fingerprint.empty() &&
      input.model_fingerprint != collection.record().model_fingerprint()) {
    return absl::FailedPreconditionError(
        absl::StrCat("model_fingerprint: ", Quoted(input.model_fingerprint),
                     " is not that of collection ", Quoted(collection.name()),
                     ", ", Quoted(collection.record().model_fingerprint(), 64),
                     ": make the embedding with the collection's model"));
  }
  Item item{
      .id = input.id, .payload = input.payload, .media_uri = input.media_uri};
  const auto take = [&](absl::StatusOr<Embedded> embedded,
                        v1::Modality modality) -> absl::Status {
    QUERN_RETURN_IF_ERROR(embedded.status());
    item.embedding = std::move(embedded->embedding);
    item.modality = modality;
    if (truncated != nullptr) *truncated = embedded->truncated;
    return absl::OkStatus();
  };
  const auto prepare_text = [&](const TextInput& text) -> absl::Status {
    QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                           ModelOf(collection));
    return take(EmbedText(context, *model, text.text), v1::MODALITY_TEXT);
  };
  const auto prepare_image = [&](const ImageInput& image) -> absl::Status {
    QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                           ModelOf(collection));
    return take(EmbedImage(context, *model, image.encoded), v1::MODALITY_IMAGE);
  };
  const auto prepare_embedding =
      [&](const EmbeddingInput& embedding) -> absl::Status {
    const absl::Status status = CheckVector(
        embedding.values, collection.dimension(), collection.metric());
    if (!status.ok()) return InvalidField("embedding", status.message());
    item.embedding = embedding.values;
    item.modality = v1::MODALITY_EMBEDDING;
    return absl::OkStatus();
  };
  QUERN_RETURN_IF_ERROR(std::visit(
      Visitor{prepare_text, prepare_image, prepare_embedding}, input.content));
  item.create_time = item.update_time = context.clock().Now();
  return item;
}

absl::StatusOr<v1::Collection> Engine::CreateCollection(
    v1::Collection wanted) const {
  QUERN_RETURN_IF_ERROR(
      InField(CheckCollectionName(wanted.name()), "collection"));
  if (wanted.description().size() > kMaxDescriptionBytes) {
    return InvalidField(
        "collection.description",
        absl::StrCat("has ", wanted.description().size(),
                     " bytes; the limit is ", kMaxDescriptionBytes));
  }
  wanted.clear_status();
  wanted.clear_model_fingerprint();
  if (wanted.metric() == v1::METRIC_UNSPECIFIED) {
    wanted.set_metric(v1::METRIC_COSINE);
  }
  if (wanted.model() == kNoModel) {
    if (wanted.dimension() < 1 || wanted.dimension() > kMaxDimension) {
      return InvalidField(
          "collection.dimension",
          absl::StrCat("is ", wanted.dimension(),
                       "; without a model it must be 1 to ", kMaxDimension));
    }
  } else {
    QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                           models_->Get(wanted.model()));
    const ModelInfo& info = model->info();
    if (wanted.dimension() != 0 && wanted.dimension() != info.dimension) {
      return InvalidField(
          "collection.dimension",
          absl::StrCat("is ", wanted.dimension(), "; model ", Quoted(info.name),
                       " makes ", info.dimension));
    }
    wanted.set_model(info.name);
    wanted.set_model_fingerprint(info.fingerprint);
    wanted.set_dimension(static_cast<int32_t>(info.dimension));
  }
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         catalog_->Create(std::move(wanted)));
  return collection->Describe();
}

}  // namespace quern

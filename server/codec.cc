#include "server/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"

#include "engine/base/error.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/fine/item_parts.h"
#include "engine/query/item_update.h"
#include "server/grpc_status.h"

namespace quern {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;

constexpr int64_t kDefaultHits = 10;
constexpr int32_t kMaxShards = 64;
constexpr absl::string_view kPageTokenVersion = "1";
constexpr size_t kRequestHashCharacters = 32;
constexpr size_t kCheckDigits = 8;

absl::Status CheckShare(float share, absl::string_view field) {
  if (share > 0 && share <= 1) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("is ", share, "; it must be above 0 and at most 1"));
}

google::protobuf::Duration EncodeDuration(absl::Duration duration) {
  google::protobuf::Duration out;
  absl::Duration rest;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return out;
}

std::vector<float> DecodeVector(const v1::Vector& vector) {
  return {vector.values().begin(), vector.values().end()};
}

absl::StatusOr<QueryPart> DecodePart(const v1::QueryPart& part,
                                     const std::string& field) {
  QueryPart out;
  if (part.has_weight()) out.weight = part.weight();
  switch (part.part_case()) {
    case v1::QueryPart::kText:
      out.input = TextInput{part.text()};
      return out;
    case v1::QueryPart::kImage: {
      QUERN_ASSIGN_OR_RETURN(
          out.input,
          DecodeMedia<ImageInput>(part.image(), absl::StrCat(field, ".image")));
      return out;
    }
    case v1::QueryPart::kVideo: {
      QUERN_ASSIGN_OR_RETURN(
          out.input,
          DecodeMedia<VideoInput>(part.video(), absl::StrCat(field, ".video")));
      return out;
    }
    case v1::QueryPart::kEmbedding:
      out.input = EmbeddingInput{DecodeVector(part.embedding())};
      return out;
    case v1::QueryPart::kItemId:
      out.input = StoredItemInput{part.item_id()};
      return out;
    case v1::QueryPart::kAudio:
      return NotInThisVersion(absl::StrCat(field, ".audio"));
    case v1::QueryPart::PART_NOT_SET:
      break;
  }
  return NothingGiven(field, "text, image, video, embedding, item_id");
}

constexpr absl::string_view kSearchScope = "search.2";

// Equal for equal requests but for their page tokens.
std::string HashOf(const v1::SearchRequest& request) {
  std::string bytes;
  if (request.page_token().empty()) {
    request.SerializeToString(&bytes);
  } else {
    v1::SearchRequest first_page = request;
    first_page.clear_page_token();
    first_page.SerializeToString(&bytes);
  }
  return Sha256Hex(bytes).substr(0, kRequestHashCharacters);
}

std::string CheckDigits(absl::string_view place) {
  return Sha256Hex(place).substr(0, kCheckDigits);
}

std::string EncodeSearchToken(const v1::SearchRequest& request,
                              const SearchResult& result) {
  const PageState& state = result.page_state;
  std::string place = absl::StrJoin(
      {HashOf(request), state.folder, absl::StrCat(state.index_version),
       absl::StrCat(state.item_count), absl::StrCat(result.next_offset)},
      "/");
  if (result.last.has_value()) {
    const auto bits = std::bit_cast<uint32_t>(result.last->score);
    absl::StrAppend(&place, "/", bits, "/", result.last->id);
  }
  return EncodePageToken(kSearchScope, absl::StrCat(CheckDigits(place), place));
}

absl::Status DecodeSearchToken(const v1::SearchRequest& request,
                               SearchQuery& query) {
  if (request.page_token().empty()) return absl::OkStatus();
  QUERN_ASSIGN_OR_RETURN(const std::string token,
                         DecodePageToken(request.page_token(), kSearchScope));
  absl::string_view place = token;
  place.remove_prefix(std::min(kCheckDigits, place.size()));
  // An id may have slashes.
  const std::vector<absl::string_view> parts =
      absl::StrSplit(place, absl::MaxSplits('/', 6));
  PageState state;
  uint32_t score_bits = 0;
  const bool has_last = parts.size() == 7;
  if (!absl::StartsWith(token, CheckDigits(place)) ||
      (parts.size() != 5 && !has_last) ||
      !absl::SimpleAtoi(parts[2], &state.index_version) ||
      !absl::SimpleAtoi(parts[3], &state.item_count) ||
      !absl::SimpleAtoi(parts[4], &query.offset) ||
      (has_last && !absl::SimpleAtoi(parts[5], &score_bits))) {
    return InvalidField("page_token", "is damaged");
  }
  if (parts[0] != HashOf(request)) {
    return InvalidField("page_token",
                        "is of another query or collection: send it with an "
                        "otherwise equal request");
  }
  state.folder = std::string(parts[1]);
  query.page_state = std::move(state);
  if (has_last) {
    query.after = ScoredId{.id = std::string(parts[6]),
                           .score = std::bit_cast<float>(score_bits)};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> DecodeModalities(
    const google::protobuf::RepeatedField<int>& modalities) {
  for (int i = 0; i < modalities.size(); ++i) {
    if (modalities[i] != v1::MODALITY_UNSPECIFIED &&
        v1::Modality_IsValid(modalities[i])) {
      continue;
    }
    return InvalidField(
        absl::StrCat("modalities[", i, "]"),
        absl::StrCat("is ", modalities[i], "; it must name a kind of item"));
  }
  return std::vector<int32_t>(modalities.begin(), modalities.end());
}

absl::StatusOr<RerankOptions> DecodeRerank(const v1::Rerank& rerank) {
  RerankOptions options;
  switch (rerank.method()) {
    case v1::Rerank::METHOD_UNSPECIFIED:
      options.method = RerankMethod::kBest;
      break;
    case v1::Rerank::METHOD_LATE_INTERACTION:
      options.method = RerankMethod::kLateInteraction;
      break;
    case v1::Rerank::METHOD_MATCH:
      options.method = RerankMethod::kMatch;
      break;
    case v1::Rerank::METHOD_REMOTE:
      options.method = RerankMethod::kRemote;
      break;
    case v1::Rerank::METHOD_BEST_PART:
      options.method = RerankMethod::kBestPart;
      break;
    default:
      return InvalidField(
          "rerank.method",
          absl::StrCat("is ", static_cast<int>(rerank.method()),
                       "; it must be LATE_INTERACTION, MATCH, REMOTE or "
                       "BEST_PART"));
  }
  if (rerank.has_depth()) options.depth = rerank.depth();
  if (rerank.has_weight()) options.weight = rerank.weight();
  return options;
}

absl::StatusOr<Granularity> DecodeGranularity(v1::Granularity granularity) {
  switch (granularity) {
    case v1::GRANULARITY_UNSPECIFIED:
    case v1::GRANULARITY_ITEM:
      return Granularity::kItem;
    case v1::GRANULARITY_REGION:
      return Granularity::kRegion;
    case v1::GRANULARITY_SEGMENT:
      return Granularity::kSegment;
    default:
      return InvalidField("granularity",
                          absl::StrCat("is ", static_cast<int>(granularity),
                                       "; it must be ITEM, REGION or SEGMENT"));
  }
}

absl::Status DecodeMinProbability(const v1::SearchRequest& request,
                                  SearchQuery& query) {
  if (!request.has_min_probability()) return absl::OkStatus();
  const float probability = request.min_probability();
  if (!(probability >= 0 && probability <= 1)) {
    return InvalidField("min_probability", absl::StrCat("is ", probability,
                                                        "; it must be 0 to 1"));
  }
  if (query.granularity == Granularity::kItem) {
    return absl::UnimplementedError(
        "min_probability: not available in this version with granularity "
        "ITEM: leave it out, or ask for REGION or SEGMENT");
  }
  query.min_probability = probability;
  return absl::OkStatus();
}

void EncodeEvidence(const Evidence& evidence, v1::Evidence* out) {
  out->set_score(evidence.score);
  if (evidence.probability.has_value()) {
    out->set_probability(*evidence.probability);
  }
  if (evidence.box.has_value()) {
    out->mutable_box()->set_left(evidence.box->left);
    out->mutable_box()->set_top(evidence.box->top);
    out->mutable_box()->set_right(evidence.box->right);
    out->mutable_box()->set_bottom(evidence.box->bottom);
  }
  if (evidence.span.has_value()) {
    *out->mutable_span()->mutable_start() =
        EncodeDuration(absl::Seconds(evidence.span->start));
    *out->mutable_span()->mutable_end() =
        EncodeDuration(absl::Seconds(evidence.span->end));
  }
}

// Of bytes that the store keeps; nothing for none.
absl::Status EncodePartsInfo(const Item& item, v1::Item* out) {
  if (item.parts.empty()) return absl::OkStatus();
  const absl::StatusOr<PartsShape> shape = DecodePartsShape(item.parts);
  if (!shape.ok()) {
    return absl::DataLossError(
        absl::StrCat("item ", Quoted(item.id), ": ", shape.status().message()));
  }
  v1::PartsInfo& info = *out->mutable_parts();
  info.set_grid_height(static_cast<int32_t>(shape->grid_height));
  info.set_grid_width(static_cast<int32_t>(shape->grid_width));
  info.set_frame_count(static_cast<int32_t>(shape->frames));
  if (shape->frames > 0) {
    *info.mutable_duration() = EncodeDuration(shape->duration);
  }
  info.set_width(static_cast<int32_t>(shape->width));
  info.set_height(static_cast<int32_t>(shape->height));
  return absl::OkStatus();
}

absl::Status RefuseUnknownSearchFields(const v1::SearchRequest& request) {
  QUERN_RETURN_IF_ERROR(RefuseFields(request, {"category"}));
  return RefuseFields(request.query(), {"feedback"}, "query.");
}

}  // namespace

absl::Status NotInThisVersion(absl::string_view field) {
  return absl::UnimplementedError(
      absl::StrCat(field, ": not available in this version"));
}

absl::Status NothingGiven(absl::string_view field, absl::string_view choices) {
  return InvalidField(field, absl::StrCat("is empty; give one of: ", choices));
}

absl::Status RefuseFields(const Message& message,
                          std::initializer_list<absl::string_view> fields,
                          absl::string_view prefix) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  for (absl::string_view name : fields) {
    const FieldDescriptor& field =
        *message.GetDescriptor()->FindFieldByName(std::string(name));
    const bool is_set = field.is_repeated()
                            ? reflection.FieldSize(message, &field) > 0
                            : reflection.HasField(message, &field);
    if (is_set) return NotInThisVersion(absl::StrCat(prefix, name));
  }
  return absl::OkStatus();
}

absl::Status RequireName(absl::string_view name, absl::string_view field) {
  return name.empty() ? InvalidField(field, "is empty; it must be given")
                      : absl::OkStatus();
}

absl::StatusOr<int64_t> CheckedPageSize(int64_t page_size, int64_t max) {
  if (page_size >= 1 && page_size <= max) return page_size;
  return InvalidField(
      "page_size", absl::StrCat("is ", page_size, "; it must be 1 to ", max));
}

std::string EncodePageToken(absl::string_view scope, absl::string_view last) {
  return absl::WebSafeBase64Escape(
      absl::StrCat(kPageTokenVersion, absl::string_view("\0", 1), scope,
                   absl::string_view("\0", 1), last));
}

std::string PageScope(absl::string_view scope, absl::string_view filter) {
  if (filter.empty()) return std::string(scope);
  // FNV-1a (Fowler, Noll, Vo): the same in every run, as tokens outlive one.
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : filter) {
    hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  }
  return absl::StrCat(scope, "?", absl::Hex(hash));
}

absl::StatusOr<std::string> DecodePageToken(absl::string_view token,
                                            absl::string_view scope) {
  if (token.empty()) return "";
  const std::string expected =
      absl::StrCat(kPageTokenVersion, absl::string_view("\0", 1), scope,
                   absl::string_view("\0", 1));
  std::string decoded;
  absl::string_view rest;
  if (absl::WebSafeBase64Unescape(token, &decoded)) rest = decoded;
  if (!absl::ConsumePrefix(&rest, expected)) {
    return InvalidField("page_token",
                        "is not the next_page_token of an equal request");
  }
  return std::string(rest);
}

absl::StatusOr<ItemMask> ItemMask::FromPaths(
    const google::protobuf::FieldMask& mask) {
  ItemMask out;
  if (mask.paths().empty()) {
    out.fields_.set();
    out.fields_.reset(v1::Item::kEmbeddingFieldNumber);
    return out;
  }
  for (const std::string& path : mask.paths()) {
    const FieldDescriptor* field =
        v1::Item::descriptor()->FindFieldByName(path);
    if (path == "*") {
      out.fields_.set();
    } else if (field != nullptr) {
      out.fields_.set(field->number());
    } else {
      return InvalidField(
          "read_mask", absl::StrCat(Quoted(path), " is not a field of Item"));
    }
  }
  return out;
}

ItemParts ItemMask::parts() const {
  return {.payload = Has(v1::Item::kPayloadFieldNumber),
          .embedding = Has(v1::Item::kEmbeddingFieldNumber),
          .parts = Has(v1::Item::kPartsFieldNumber)};
}

ItemParts ItemMask::hit_parts() const {
  ItemParts read = parts();
  read.header = fields_.count() > 1 || !Has(v1::Item::kIdFieldNumber);
  return read;
}

absl::Status EncodeItem(const Item& item, const ItemMask& mask, v1::Item* out) {
  if (mask.Has(v1::Item::kIdFieldNumber)) out->set_id(item.id);
  if (mask.Has(v1::Item::kPayloadFieldNumber) &&
      !out->mutable_payload()->ParseFromString(item.payload)) {
    return absl::DataLossError(
        absl::StrCat("the payload of item ", Quoted(item.id), " is damaged"));
  }
  if (mask.Has(v1::Item::kModalityFieldNumber)) {
    out->set_modality(static_cast<v1::Modality>(item.modality));
  }
  if (mask.Has(v1::Item::kMediaUriFieldNumber)) {
    out->set_media_uri(item.media_uri);
  }
  if (mask.Has(v1::Item::kEmbeddingFieldNumber)) {
    out->mutable_embedding()->mutable_values()->Add(item.embedding.begin(),
                                                    item.embedding.end());
  }
  if (mask.Has(v1::Item::kCreateTimeFieldNumber)) {
    *out->mutable_create_time() = EncodeTime(item.create_time);
  }
  if (mask.Has(v1::Item::kUpdateTimeFieldNumber)) {
    *out->mutable_update_time() = EncodeTime(item.update_time);
  }
  if (mask.Has(v1::Item::kEtagFieldNumber)) {
    out->set_etag(EtagOf(item.sequence));
  }
  if (mask.Has(v1::Item::kExpireTimeFieldNumber) &&
      item.expire_time.has_value()) {
    *out->mutable_expire_time() = EncodeTime(*item.expire_time);
  }
  if (mask.Has(v1::Item::kPartsFieldNumber)) {
    QUERN_RETURN_IF_ERROR(EncodePartsInfo(item, out));
  }
  return absl::OkStatus();
}

google::protobuf::Timestamp EncodeTime(absl::Time time) {
  google::protobuf::Timestamp out;
  absl::Duration rest;
  // Rounds towards the past, as Timestamp wants it also before 1970.
  out.set_seconds(absl::ToUnixSeconds(time));
  rest = time - absl::FromUnixSeconds(out.seconds());
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return out;
}

v1::ModelVersion EncodeModelVersion(const ModelInfo& info) {
  v1::ModelVersion out;
  out.set_name(info.name);
  out.set_version(info.version);
  out.set_fingerprint(info.fingerprint);
  return out;
}

void EncodeStages(const RequestContext& context,
                  google::protobuf::RepeatedPtrField<v1::StageTime>* out) {
  for (const StageTime& stage : context.stage_times()) {
    v1::StageTime& time = *out->Add();
    time.set_stage(stage.stage);
    *time.mutable_duration() = EncodeDuration(stage.duration);
  }
}

absl::StatusOr<EmbedInput> DecodeInput(const v1::Input& input) {
  switch (input.input_case()) {
    case v1::Input::kText:
      return TextInput{input.text()};
    case v1::Input::kImage:
      return DecodeMedia<ImageInput>(input.image(), "image");
    case v1::Input::kVideo:
      return DecodeMedia<VideoInput>(input.video(), "video");
    case v1::Input::kAudio:
      return NotInThisVersion("audio");
    case v1::Input::INPUT_NOT_SET:
      break;
  }
  return NothingGiven("input", "text, image, video");
}

absl::StatusOr<VideoSampling> DecodeSampling(const v1::VideoSampling& sampling,
                                             absl::string_view field) {
  constexpr float kMaxFramesPerSecond = 60;
  constexpr int32_t kMaxFrames = 4096;
  VideoSampling out;
  if (sampling.has_frames_per_second()) {
    const float rate = sampling.frames_per_second();
    if (!(rate > 0 && rate <= kMaxFramesPerSecond)) {
      return InvalidField(
          absl::StrCat(field, ".frames_per_second"),
          absl::StrCat("is ", rate, "; it must be above 0 and at most ",
                       kMaxFramesPerSecond));
    }
    out.frames_per_second = rate;
  }
  if (sampling.has_max_frames()) {
    const int32_t frames = sampling.max_frames();
    if (frames < 1 || frames > kMaxFrames) {
      return InvalidField(
          absl::StrCat(field, ".max_frames"),
          absl::StrCat("is ", frames, "; it must be 1 to ", kMaxFrames));
    }
    out.max_frames = frames;
  }
  return out;
}

absl::StatusOr<EmbedOptions> DecodeEmbedOptions(
    const google::protobuf::RepeatedField<int>& outputs,
    const v1::VideoSampling& sampling) {
  EmbedOptions options;
  options.embedding = outputs.empty();
  for (int i = 0; i < outputs.size(); ++i) {
    switch (outputs[i]) {
      case v1::EMBEDDING_OUTPUT_UNSPECIFIED:
      case v1::EMBEDDING_OUTPUT_GLOBAL:
        options.embedding = true;
        break;
      case v1::EMBEDDING_OUTPUT_DENSE:
        options.dense = true;
        break;
      case v1::EMBEDDING_OUTPUT_TOKENS:
        options.tokens = true;
        break;
      default:
        return InvalidField(
            absl::StrCat("outputs[", i, "]"),
            absl::StrCat("is ", outputs[i],
                         "; it must be GLOBAL, DENSE or TOKENS"));
    }
  }
  QUERN_ASSIGN_OR_RETURN(options.video, DecodeSampling(sampling, "video"));
  return options;
}

void EncodeEmbedded(const Embedded& embedded, const EmbedOptions& options,
                    int64_t dimension, v1::EmbedResult* out) {
  if (options.embedding) {
    out->mutable_embedding()->mutable_values()->Add(embedded.embedding.begin(),
                                                    embedded.embedding.end());
  }
  if (options.dense) {
    v1::DenseFeatures& dense = *out->mutable_dense();
    dense.set_grid_height(static_cast<int32_t>(embedded.dense.grid_height));
    dense.set_grid_width(static_cast<int32_t>(embedded.dense.grid_width));
    dense.set_dimension(static_cast<int32_t>(dimension));
    dense.mutable_values()->Add(embedded.dense.values.begin(),
                                embedded.dense.values.end());
    for (const absl::Duration time : embedded.times) {
      *dense.add_times() = EncodeDuration(time);
    }
  }
  if (options.tokens) {
    v1::TokenFeatures& tokens = *out->mutable_tokens();
    tokens.set_dimension(static_cast<int32_t>(dimension));
    tokens.mutable_ids()->Add(embedded.token_ids.begin(),
                              embedded.token_ids.end());
    const Matrix& features = embedded.token_features;
    tokens.mutable_values()->Add(
        features.data(),
        features.data() + features.rows() * features.columns());
  }
  out->set_truncated(embedded.truncated);
  out->set_token_count(static_cast<int32_t>(embedded.tokens));
}

absl::StatusOr<SearchQuery> DecodeSearch(const v1::SearchRequest& request,
                                         const EngineLimits& limits,
                                         const ItemMask& mask) {
  QUERN_RETURN_IF_ERROR(RefuseUnknownSearchFields(request));
  QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
  SearchQuery query{.collection = request.collection(),
                    .read = mask.hit_parts()};
  QUERN_ASSIGN_OR_RETURN(query.granularity,
                         DecodeGranularity(request.granularity()));
  QUERN_RETURN_IF_ERROR(DecodeMinProbability(request, query));
  QUERN_ASSIGN_OR_RETURN(query.k,
                         PageSize(request, kDefaultHits, limits.max_page_size));
  QUERN_RETURN_IF_ERROR(DecodeSearchToken(request, query));
  if (request.has_group_by()) {
    query.group_by = request.group_by().field();
    QUERN_RETURN_IF_ERROR(RequireName(query.group_by, "group_by.field"));
    if (request.group_by().has_size()) {
      query.group_size = request.group_by().size();
    }
  }
  if (request.has_min_score()) {
    if (std::isnan(request.min_score())) {
      return InvalidField("min_score", "is not a number");
    }
    query.min_score = request.min_score();
  }
  if (request.has_rerank()) {
    QUERN_ASSIGN_OR_RETURN(query.rerank, DecodeRerank(request.rerank()));
  }
  if (request.has_recall()) {
    QUERN_RETURN_IF_ERROR(CheckShare(request.recall(), "recall"));
    query.recall = request.recall();
  }
  query.filter = request.filter();
  query.exact = request.exact();
  query.explain = request.explain();
  QUERN_ASSIGN_OR_RETURN(query.modalities,
                         DecodeModalities(request.modalities()));
  query.parts.reserve(request.query().parts_size());
  for (int i = 0; i < request.query().parts_size(); ++i) {
    QUERN_ASSIGN_OR_RETURN(QueryPart part,
                           DecodePart(request.query().parts(i),
                                      absl::StrCat("query.parts[", i, "]")));
    query.parts.push_back(std::move(part));
  }
  return query;
}

absl::Status EncodeSearch(const SearchResult& result,
                          const v1::SearchRequest& request,
                          const ItemMask& mask, const RequestContext& context,
                          v1::SearchResponse* response) {
  response->mutable_hits()->Reserve(static_cast<int>(result.hits.size()));
  for (const SearchHit& hit : result.hits) {
    v1::Hit& out = *response->add_hits();
    out.set_score(hit.score);
    QUERN_RETURN_IF_ERROR(EncodeItem(hit.item, mask, out.mutable_item()));
    for (const StageScore& stage : hit.stage_scores) {
      v1::StageScore& score = *out.add_stage_scores();
      score.set_stage(stage.stage);
      score.set_score(stage.score);
    }
    if (hit.probability.has_value()) out.set_probability(*hit.probability);
    for (const Evidence& evidence : hit.evidence) {
      EncodeEvidence(evidence, out.add_evidence());
    }
  }
  if (result.has_more) {
    response->set_next_page_token(EncodeSearchToken(request, result));
  }
  v1::SearchReport& report = *response->mutable_report();
  report.mutable_model()->set_name(result.model_name);
  report.mutable_model()->set_version(result.model_version);
  report.mutable_model()->set_fingerprint(result.model_fingerprint);
  report.set_shards_asked(result.index.shards_asked);
  report.set_shards_answered(result.index.shards_answered);
  report.set_explanation(result.index.plan);
  report.set_index_version(result.index_version);
  report.set_item_count(result.item_count);
  report.set_query_truncated(result.query_truncated);
  for (const auto* reasons :
       {&result.index.degraded_reasons, &result.degraded_reasons}) {
    for (const std::string& reason : *reasons) {
      report.add_degraded_reasons(reason);
    }
  }
  report.set_degraded(report.degraded_reasons_size() > 0);
  EncodeStages(context, report.mutable_stages());
  return absl::OkStatus();
}

absl::StatusOr<UpsertInput> DecodeUpsert(const v1::UpsertRequest& request) {
  QUERN_RETURN_IF_ERROR(RefuseFields(request, {"audio"}));
  QUERN_RETURN_IF_ERROR(CheckMediaUri(request.media_uri()));
  UpsertInput input{.id = request.id(),
                    .payload = request.payload().SerializeAsString(),
                    .media_uri = request.media_uri(),
                    .model_fingerprint = request.model_fingerprint(),
                    .etag = request.etag()};
  if (request.has_ttl()) {
    QUERN_ASSIGN_OR_RETURN(input.ttl, DecodeTtl(request.ttl(), "ttl"));
  }
  switch (request.content_case()) {
    case v1::UpsertRequest::kText:
      input.content = TextInput{request.text()};
      return input;
    case v1::UpsertRequest::kImage: {
      QUERN_ASSIGN_OR_RETURN(input.content,
                             DecodeMedia<ImageInput>(request.image(), "image"));
      return input;
    }
    case v1::UpsertRequest::kVideo: {
      QUERN_ASSIGN_OR_RETURN(input.content,
                             DecodeMedia<VideoInput>(request.video(), "video"));
      return input;
    }
    case v1::UpsertRequest::kEmbedding:
      input.content = EmbeddingInput{DecodeVector(request.embedding())};
      return input;
    default:
      return NothingGiven("content", "text, image, video, embedding");
  }
}

void EncodeUpsert(const UpsertResult& result, v1::UpsertResponse* response) {
  response->set_index(result.index);
  response->set_id(result.id);
  *response->mutable_status() = ToRpcStatus(result.status);
  if (!result.status.ok()) return;
  response->set_created(result.created);
  response->set_etag(EtagOf(result.sequence));
  response->set_truncated(result.truncated);
}

void EncodeSnapshot(const SnapshotInfo& snapshot, v1::Snapshot* out) {
  out->set_name(snapshot.name);
  out->set_collection(snapshot.collection);
  if (!snapshot.error.ok()) {
    out->set_error(std::string(snapshot.error.message()));
    return;
  }
  out->set_item_count(snapshot.item_count);
  out->set_size_bytes(snapshot.size_bytes);
  *out->mutable_create_time() = EncodeTime(snapshot.create_time);
  out->set_model_fingerprint(snapshot.model_fingerprint);
}

absl::Status CheckNewCollection(const v1::Collection& collection) {
  const v1::IndexConfig& index = collection.index();
  if (!v1::IndexConfig::Kind_IsValid(index.kind())) {
    return InvalidField("collection.index.kind",
                        absl::StrCat("is ", static_cast<int>(index.kind()),
                                     "; it must be EXACT, HNSW or IVF_PQ"));
  }
  if (!v1::IndexConfig::Storage_IsValid(index.storage())) {
    return InvalidField("collection.index.storage",
                        absl::StrCat("is ", static_cast<int>(index.storage()),
                                     "; it must be FP32, FP16 or INT8"));
  }
  if (index.has_shards() &&
      (index.shards() < 1 || index.shards() > kMaxShards)) {
    return InvalidField(
        "collection.index.shards",
        absl::StrCat("is ", index.shards(), "; it must be 1 to ", kMaxShards));
  }
  if (index.has_target_recall()) {
    QUERN_RETURN_IF_ERROR(
        CheckShare(index.target_recall(), "collection.index.target_recall"));
  }
  return absl::OkStatus();
}

}  // namespace quern

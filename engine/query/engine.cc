#include "engine/query/engine.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"
#include "engine/embed/frame_pooling.h"
#include "engine/query/group_key.h"
#include "engine/query/item_update.h"
#include "engine/query/match_scorer.h"
#include "engine/query/parts_settings.h"
#include "engine/query/read_hits.h"
#include "engine/query/search_lot.h"

namespace quern {
namespace {

constexpr size_t kMaxQueryParts = 16;
constexpr int64_t kMaxGroupSize = 100;
// Of a grouped search: hits looked at first, and by how much more then.
constexpr int64_t kGroupOversampling = 4;
// And at most, and payloads read at once.
constexpr int64_t kMaxGroupCandidates = 100'000;
constexpr size_t kGroupKeysAtOnce = 1024;
// Hits that a page allows the pages before to have missed.
constexpr int64_t kMissedBefore = 16;
constexpr float kMaxPartWeight = 10;
constexpr int64_t kMaxRerankDepth = 10'000;
constexpr int64_t kMaxDimension = 4096;
// Of a file that the store is to keep.
constexpr int64_t kMaxKeptBytes = int64_t{2} << 30;
// Groups the hits of a search for parts by their items.
constexpr absl::string_view kItemGroup = "id";
// The model of a collection of ready-made embeddings.
constexpr absl::string_view kNoModel = "none";

template <typename... Cases>
struct Visitor : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>
Visitor(Cases...) -> Visitor<Cases...>;

absl::Status CheckRerank(const RerankOptions& rerank) {
  if (rerank.depth < 1 || rerank.depth > kMaxRerankDepth) {
    return InvalidField("rerank.depth",
                        absl::StrCat("is ", rerank.depth, "; it must be 1 to ",
                                     kMaxRerankDepth));
  }
  const float weight = rerank.weight.value_or(0);
  if (!(weight >= 0 && weight <= 1)) {
    return InvalidField("rerank.weight",
                        absl::StrCat("is ", weight, "; it must be 0 to 1"));
  }
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
  if (query.offset < 0 || query.offset >= max_page_size) {
    return InvalidField("page_token", "is damaged");
  }
  if (!query.group_by.empty()) {
    const absl::Status path = CheckGroupPath(query.group_by);
    if (!path.ok()) return InvalidField("group_by.field", path.message());
    if (query.group_size < 1 || query.group_size > kMaxGroupSize) {
      return InvalidField("group_by.size",
                          absl::StrCat("is ", query.group_size,
                                       "; it must be 1 to ", kMaxGroupSize));
    }
  }
  if (query.rerank.has_value()) {
    QUERN_RETURN_IF_ERROR(CheckRerank(*query.rerank));
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

template <typename Input>
bool Has(absl::Span<const QueryPart> parts) {
  return std::any_of(parts.begin(), parts.end(), [](const QueryPart& part) {
    return std::holds_alternative<Input>(part.input);
  });
}

std::optional<QuerySource> SourceOf(absl::Span<const QueryPart> parts) {
  if (Has<TextInput>(parts)) return QuerySource::kText;
  if (Has<ImageInput>(parts) || Has<VideoInput>(parts)) {
    return QuerySource::kMedia;
  }
  if (Has<EmbeddingInput>(parts)) return QuerySource::kEmbedding;
  return std::nullopt;
}

double Length(absl::Span<const float> vector) {
  double squares = 0;
  for (float value : vector) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

void Normalise(std::vector<float>& vector) {
  const double length = Length(vector);
  if (length == 0) return;
  const double scale = 1 / length;
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
        " is loaded: load the old package, or index the collection again "
        "(Collections.Reindex)"));
  }
  return model;
}

// One search: the parts' vectors, those that need the model from the embedder,
// then their sum, the index, and the hits' items.
class Engine::SearchCall final
    : public StagedSearch,
      public std::enable_shared_from_this<SearchCall> {
 public:
  SearchCall(const Engine& engine, RequestContext& context,
             const SearchQuery& query, std::shared_ptr<AnswerBudget> budget,
             SearchDone done)
      : engine_(engine),
        context_(context),
        query_(query),
        budget_(std::move(budget)),
        done_(std::move(done)),
        vectors_(query.parts.size()) {}

  static void Start(const std::shared_ptr<SearchCall>& call) {
    call->Encode([call](absl::Status status) {
      if (status.ok()) status = call->Begin();
      if (status.ok()) {
        call->GoOn();
      } else {
        call->End(std::move(status));
      }
    });
  }

  void Encode(std::function<void(absl::Status)> ready) override {
    const absl::Status status = Prepare();
    if (!status.ok() || inputs_.empty()) return ready(status);
    AddThings();
    engine_.embedder_->Embed(
        context_, model_, inputs_, {.tokens = uses_tokens_},
        [self = shared_from_this(), ready = std::move(ready)](
            std::vector<absl::StatusOr<Embedded>> embedded) {
          ready(self->TakeEmbedded(std::move(embedded)));
        });
  }

  absl::Status Begin() override {
    QUERN_ASSIGN_OR_RETURN(query_vector_, QueryVector());
    QUERN_RETURN_IF_ERROR(context_.Check("search"));
    result_.page_state = CurrentState();
    return CheckPageState();
  }

  void GoOn() override {
    if (!leaves_thread()) return End(SearchAndFetch());
    absl::Status status = FindsParts() ? StartGrounding() : StartStage();
    if (!status.ok()) End(std::move(status));
  }

  // The plan of a search that is explained is its own; one by parts asks
  // another index.
  bool can_share() const override {
    return !query_.explain && !FindsItemsByParts();
  }

  IndexQuestion question() const override {
    return {.collection = collection_.get(),
            .k = FirstK() + static_cast<int64_t>(excluded_.size()),
            .filter = query_.filter,
            .modalities = options_.modalities,
            .exact = query_.exact,
            .recall = query_.recall,
            .source = options_.source};
  }

  const VectorSearchOptions& index_options() override {
    options_.k = question().k;
    return options_;
  }

  absl::Span<const float> query_vector() const override {
    return query_vector_;
  }

  void TakeCoarse(std::vector<ScoredId> found, const SearchStats& stats,
                  absl::Duration time) override {
    context_.AddStageTime("search", time);
    result_.index = stats;
    coarse_k_ = FirstK();
    coarse_ = WithoutExcluded(std::move(found), coarse_k_);
  }

  bool leaves_thread() const override { return UsesStage() || FindsParts(); }

  absl::Status Choose() override {
    QUERN_RETURN_IF_ERROR(context_.Check("search"));
    const std::vector<float>& vector = query_vector_;
    const int64_t wanted = Wanted();
    QUERN_ASSIGN_OR_RETURN(chosen_, query_.group_by.empty()
                                        ? Candidates(vector, wanted)
                                        : GroupedCandidates(vector, wanted));
    QUERN_RETURN_IF_ERROR(CheckPageState());
    TakePageBehind(wanted);
    return absl::OkStatus();
  }

  absl::Span<const ScoredId> chosen() const override { return chosen_; }
  ItemParts read() const override { return query_.read; }

  void AddHits(absl::Span<std::optional<Item>> items,
               absl::Duration time) override {
    context_.AddStageTime("fetch", time);
    result_.hits.reserve(chosen_.size());
    for (size_t i = 0; i < chosen_.size(); ++i) {
      // One that was deleted since the index was searched is left out.
      if (!items[i].has_value()) continue;
      result_.hits.push_back(
          {.item = *std::move(items[i]), .score = chosen_[i].score});
      AddStages(result_.hits.back());
    }
  }

  void End(absl::Status status) override {
    if (status.ok()) {
      done_(std::move(result_));
    } else {
      done_(std::move(status));
    }
  }

  RequestContext& context() override { return context_; }

 private:
  absl::Status Prepare() {
    QUERN_RETURN_IF_ERROR(CheckQuery(query_, engine_.limits_.max_page_size));
    QUERN_ASSIGN_OR_RETURN(collection_,
                           engine_.catalog_->Get(query_.collection));
    const v1::Collection& record = collection_->record();
    result_.model_name = record.model();
    result_.model_fingerprint = record.model_fingerprint();
    if (absl::StatusOr<std::shared_ptr<const Model>> model =
            engine_.models_->Get(result_.model_name);
        model.ok()) {
      result_.model_version = (*model)->info().version;
    }
    options_ = {.recall = query_.recall,
                .exact = query_.exact,
                .modalities = query_.modalities,
                .explain = query_.explain,
                .source = SourceOf(query_.parts)};
    QUERN_ASSIGN_OR_RETURN(
        options_.filter,
        ParseFilter(query_.filter, collection_->index_fields()));
    result_.index_version = collection_->index_version();
    result_.item_count = collection_->index().size();
    for (size_t i = 0; i < query_.parts.size(); ++i) {
      const absl::Status status =
          std::visit([&](const auto& input) { return PreparePart(input, i); },
                     query_.parts[i].input);
      QUERN_RETURN_IF_ERROR(OfPart(i, status));
    }
    if (FindsParts()) return PrepareParts();
    return query_.rerank.has_value() ? PrepareRerank() : absl::OkStatus();
  }

  bool FindsParts() const { return query_.granularity != Granularity::kItem; }
  bool FindsItemsByParts() const {
    return plan_.has_value() && plan_->index != nullptr;
  }

  absl::Status PrepareParts() {
    PartRequest request{
        .granularity = query_.granularity,
        .modalities = query_.modalities,
        .rerank = query_.rerank.has_value() ? &*query_.rerank : nullptr,
        .min_probability = query_.min_probability};
    for (size_t i = 0; i < query_.parts.size(); ++i) {
      const auto* text = std::get_if<TextInput>(&query_.parts[i].input);
      if (text == nullptr || query_.parts[i].weight < 0) continue;
      request.texts.emplace_back(i, text->text);
    }
    QUERN_ASSIGN_OR_RETURN(plan_,
                           PlanParts(request, *collection_, model_.get()));
    options_.modalities = {plan_->modality};
    uses_tokens_ = plan_->asks_head;
    return absl::OkStatus();
  }

  // Has the things of a phrase with words of place embedded, too.
  void AddThings() {
    if (!plan_.has_value() ||
        plan_->phrase.relation == SpatialRelation::kNone) {
      return;
    }
    for (const SpatialPhrase* thing = &plan_->phrase; thing != nullptr;
         thing = thing->object.get()) {
      inputs_.push_back(TextInput{thing->subject});
    }
  }

  // What is looked for, of embeddings that AddThings() asked for.
  absl::Status TakeThings(absl::Span<absl::StatusOr<Embedded>> embedded) {
    if (!plan_.has_value()) return absl::OkStatus();
    if (embedded.empty()) {
      std::vector<float> text(collection_->dimension());
      for (const size_t part : plan_->texts) {
        std::vector<float> vector = vectors_[part];
        Normalise(vector);
        AddScaled(vector, query_.parts[part].weight, text);
      }
      Normalise(text);
      things_.push_back({.embedding = std::move(text)});
      return absl::OkStatus();
    }
    const SpatialPhrase* thing = &plan_->phrase;
    for (absl::StatusOr<Embedded>& one : embedded) {
      if (!one.ok()) return OfPart(plan_->texts.front(), one.status());
      Normalise(one->embedding);
      things_.push_back({.embedding = std::move(one->embedding),
                         .relation = thing->relation});
      thing = thing->object.get();
    }
    return absl::OkStatus();
  }

  // Chooses the method. What it needs of the query, the model and the
  // collection is there, or this fails.
  absl::Status PrepareRerank() {
    const auto is_text = [](const EmbedInput& input) {
      return std::holds_alternative<TextInput>(input);
    };
    const bool has_texts_alone =
        !inputs_.empty() && inputs_.size() == query_.parts.size() &&
        std::all_of(inputs_.begin(), inputs_.end(), is_text);
    if (query_.rerank->method == RerankMethod::kMatch) {
      return PrepareMatch(has_texts_alone);
    }
    if (query_.rerank->method == RerankMethod::kRemote) {
      return PrepareRemote(has_texts_alone);
    }
    QUERN_ASSIGN_OR_RETURN(const PartsSettings settings,
                           PartsSettingsOf(collection_->settings()->record));
    if (!settings.keeps_any()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "rerank: collection ", Quoted(collection_->name()),
          " keeps no features of its items' parts: set its `parts`, and index "
          "its items again"));
    }
    if (query_.rerank->method == RerankMethod::kBestPart) {
      return absl::OkStatus();
    }
    if (query_.rerank->method == RerankMethod::kBest) {
      uses_tokens_ = has_texts_alone && model_->info().Has("text.tokens");
      return absl::OkStatus();
    }
    if (!has_texts_alone) {
      return InvalidField("rerank.method",
                          "is LATE_INTERACTION, which takes a query of texts "
                          "alone; use BEST_PART");
    }
    uses_tokens_ = true;
    return Annotate(model_->Require("text.tokens"),
                    "rerank.method LATE_INTERACTION");
  }

  absl::Status PrepareMatch(bool has_texts_alone) {
    QUERN_ASSIGN_OR_RETURN(model_, engine_.ModelOf(*collection_));
    QUERN_RETURN_IF_ERROR(
        Annotate(model_->Require("match"), "rerank.method MATCH"));
    if (!has_texts_alone) {
      return InvalidField("rerank.method",
                          "is MATCH, which takes a query of texts alone; use "
                          "BEST_PART");
    }
    if (engine_.scoring_.stage == nullptr) return NoStage("MATCH");
    match_ =
        std::make_shared<MatchScorer>(model_, &engine_.embedder_->images());
    return absl::OkStatus();
  }

  absl::Status PrepareRemote(bool has_texts_alone) {
    if (engine_.scoring_.stage == nullptr ||
        engine_.scoring_.remote == nullptr) {
      return NoStage("REMOTE");
    }
    uses_tokens_ = has_texts_alone && model_->info().Has("text.tokens");
    return absl::OkStatus();
  }

  static absl::Status NoStage(absl::string_view method) {
    return absl::FailedPreconditionError(
        absl::StrCat("rerank.method ", method,
                     ": this server has no scorers: name them in its "
                     "scoring.remote, or use BEST_PART"));
  }

  static std::string PathOfPart(size_t i) {
    return absl::StrCat("query.parts[", i, "]");
  }

  static absl::Status OfPart(size_t i, const absl::Status& status) {
    if (!absl::IsInvalidArgument(status)) return status;
    return InField(status, PathOfPart(i));
  }

  absl::Status PreparePart(const StoredItemInput& input, size_t i) {
    excluded_.push_back(input.id);
    QUERN_ASSIGN_OR_RETURN(
        std::vector<std::optional<Item>> items,
        collection_->store().Get({input.id},
                                 {.payload = false, .embedding = true}));
    if (!items.front().has_value()) return NotFound("item", input.id);
    vectors_[i] = std::move(items.front()->embedding);
    return absl::OkStatus();
  }

  absl::Status PreparePart(const EmbeddingInput& input, size_t i) {
    const absl::Status status = CheckVector(
        input.values, collection_->dimension(), collection_->metric());
    if (!status.ok()) return InvalidField("embedding", status.message());
    vectors_[i] = input.values;
    return absl::OkStatus();
  }

  template <typename MediaInput>
  absl::Status PreparePart(const MediaInput& input, size_t i) {
    if (model_ == nullptr) {
      QUERN_ASSIGN_OR_RETURN(model_, engine_.ModelOf(*collection_));
    }
    inputs_.push_back(input);
    part_of_input_.push_back(i);
    return absl::OkStatus();
  }

  absl::Status TakeEmbedded(std::vector<absl::StatusOr<Embedded>> all) {
    const auto embedded = absl::MakeSpan(all).first(part_of_input_.size());
    for (size_t i = 0; i < embedded.size(); ++i) {
      const size_t part = part_of_input_[i];
      if (!embedded[i].ok()) {
        return absl::IsPermissionDenied(embedded[i].status()) ||
                       absl::IsNotFound(embedded[i].status())
                   ? InField(embedded[i].status(), PathOfPart(part))
                   : OfPart(part, embedded[i].status());
      }
      for (const StageTime& stage : embedded[i]->stages) {
        context_.AddStageTime(stage.stage, stage.duration);
      }
      result_.query_truncated |= embedded[i]->truncated;
      vectors_[part] = std::move(embedded[i]->embedding);
      if (uses_tokens_ && query_.parts[part].weight > 0) {
        const Matrix& tokens = embedded[i]->token_features;
        token_values_.insert(token_values_.end(), tokens.data(),
                             tokens.data() + tokens.rows() * tokens.columns());
      }
    }
    QUERN_RETURN_IF_ERROR(
        TakeThings(absl::MakeSpan(all).subspan(part_of_input_.size())));
    return WeighFramesByTexts(embedded);
  }

  // A video beside a text is taken for what of it the text is about.
  absl::Status WeighFramesByTexts(
      absl::Span<const absl::StatusOr<Embedded>> embedded) {
    std::vector<float> text(collection_->dimension());
    bool has_text = false;
    for (size_t i = 0; i < embedded.size(); ++i) {
      if (!std::holds_alternative<TextInput>(inputs_[i])) continue;
      const size_t part = part_of_input_[i];
      if (query_.parts[part].weight < 0) continue;
      AddScaled(vectors_[part], query_.parts[part].weight, text);
      has_text = true;
    }
    if (!has_text) return absl::OkStatus();
    Normalise(text);
    for (size_t i = 0; i < embedded.size(); ++i) {
      if (!std::holds_alternative<VideoInput>(inputs_[i])) continue;
      const size_t part = part_of_input_[i];
      absl::StatusOr<std::vector<float>> pooled =
          PoolFramesForQuery(embedded[i]->frames(), embedded[i]->samples, text);
      if (!pooled.ok()) {
        return InvalidField(absl::StrCat(PathOfPart(part), ".video"),
                            pooled.status().message());
      }
      vectors_[part] = *std::move(pooled);
    }
    return absl::OkStatus();
  }

  bool UsesStage() const {
    return query_.rerank.has_value() &&
           (query_.rerank->method == RerankMethod::kMatch ||
            query_.rerank->method == RerankMethod::kRemote);
  }

  // Has the short list scored on the stage's threads, and goes on when that is
  // done, or late.
  absl::Status StartStage() {
    QUERN_ASSIGN_OR_RETURN(const std::vector<ScoredId> found,
                           SearchIndex(query_vector_, FirstK()));
    QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const ShortList> list,
                           MakeShortList(found));
    // The work may outlive this call; what it points to outlives the stage.
    const Scorer* const remote = engine_.scoring_.remote;
    FineStage::Work work = [list, match = match_,
                            remote](const RequestContext& context) {
      return ScoreShortList(context, match != nullptr ? *match : *remote,
                            *list);
    };
    const absl::Time start = context_.clock().Now();
    engine_.scoring_.stage->Run(
        context_, std::move(work),
        [call = shared_from_this(), start](absl::StatusOr<FineScores> scores) {
          call->context_.AddStageTime("rerank",
                                      call->context_.clock().Now() - start);
          call->stage_scores_ = std::move(scores);
          call->End(call->SearchAndFetch());
        });
    return absl::OkStatus();
  }

  // Has the items that are found coarsely looked into, and goes on when that is
  // done, or late.
  absl::Status StartGrounding() {
    if (FindsItemsByParts()) {
      QUERN_RETURN_IF_ERROR(AskPartIndex());
    } else {
      QUERN_RETURN_IF_ERROR(SearchIndex(query_vector_, plan_->depth).status());
    }
    std::vector<std::string> ids;
    ids.reserve(coarse_.size());
    for (const ScoredId& hit : coarse_) ids.push_back(hit.id);
    auto list =
        std::make_shared<const PartList>(PartList{.collection = collection_,
                                                  .ids = std::move(ids),
                                                  .grounder = MakeGrounder()});
    const absl::Time start = context_.clock().Now();
    GroundShortList(
        engine_.scoring_.grounding, context_, list,
        [call = shared_from_this(), start](absl::StatusOr<FineScores> scores) {
          call->context_.AddStageTime("ground",
                                      call->context_.clock().Now() - start);
          call->End(scores.ok() ? call->FetchParts(*scores) : scores.status());
        });
    return absl::OkStatus();
  }

  PartGrounder MakeGrounder() {
    const PartGrounderOptions options{.max_parts = kMaxPartsOfItem,
                                      .calibration = plan_->calibration};
    if (query_.granularity == Granularity::kRegion) {
      return PartGrounder::Regions(std::move(things_), options);
    }
    if (!plan_->asks_head) {
      return PartGrounder::Segments(std::move(things_.front().embedding),
                                    options);
    }
    const int64_t rows = TokenRows().rows;
    return PartGrounder::SegmentsByHead(
        model_,
        Matrix(rows, collection_->dimension(), std::move(token_values_)),
        options);
  }

  absl::Status AskPartIndex() {
    StageTimer timer(context_, "search");
    const auto excluded = static_cast<int64_t>(excluded_.size());
    QUERN_ASSIGN_OR_RETURN(
        ItemsByParts found,
        FindByParts(context_, *plan_, *collection_, query_vector_,
                    options_.filter, plan_->depth + excluded));
    coarse_ = WithoutExcluded(std::move(found.items), plan_->depth);
    part_stats_ = found.stats;
    result_.index = {.shards_asked = 1, .shards_answered = 1};
    if (query_.explain) {
      result_.index.plan = ExplainByParts(*plan_, part_stats_);
    }
    return absl::OkStatus();
  }

  // Ranks the parts of the items on the short list, and fetches a page of them.
  absl::Status FetchParts(const FineScores& scores) {
    QUERN_RETURN_IF_ERROR(context_.Check("ground"));
    QUERN_RETURN_IF_ERROR(CheckPageState());
    const PartRanking ranking{.weight = plan_->weight,
                              .min_score = query_.min_score,
                              .min_probability = query_.min_probability};
    QUERN_ASSIGN_OR_RETURN(
        result_.degraded_reasons,
        PartsMissing(*plan_, ranking, coarse_, scores, part_stats_));
    QUERN_ASSIGN_OR_RETURN(const std::vector<float> cosines, CoarseCosines());
    std::vector<FoundPart> parts = RankParts(ranking, coarse_, cosines, scores);
    if (query_.explain) {
      absl::StrAppend(&result_.index.plan, " Looked into ",
                      scores.scores.size(), " of ", coarse_.size(),
                      " items that were found; ", parts.size(),
                      " parts of them may be hits.");
    }
    if (!query_.group_by.empty()) QUERN_RETURN_IF_ERROR(GroupParts(parts));
    TakePage(parts, query_.offset);
    return AddPartHits(parts);
  }

  // The coarse scores as cosines.
  absl::StatusOr<std::vector<float>> CoarseCosines() const {
    std::vector<float> cosines;
    std::vector<std::string> ids;
    for (const ScoredId& hit : coarse_) {
      cosines.push_back(hit.score);
      ids.push_back(hit.id);
    }
    if (collection_->metric() == Metric::kCosine) return cosines;
    QUERN_RETURN_IF_ERROR(collection_->store().GetEmbeddings(
        ids, [&](size_t i, absl::Span<const float> embedding) {
          const double length = Length(embedding) * Length(query_vector_);
          cosines[i] = length > 0 ? static_cast<float>(cosines[i] / length) : 0;
        }));
    return cosines;
  }

  absl::Status GroupParts(std::vector<FoundPart>& parts) {
    const bool is_by_item = query_.group_by == kItemGroup;
    if (!is_by_item) {
      std::vector<std::string> ids;
      ids.reserve(parts.size());
      for (const FoundPart& part : parts) ids.push_back(part.id);
      QUERN_RETURN_IF_ERROR(ReadGroupKeys(std::move(ids)));
    }
    absl::flat_hash_map<std::string, int64_t> taken;
    std::erase_if(parts, [&](const FoundPart& part) {
      const std::optional<std::string>& key =
          is_by_item ? part.id : group_keys_[part.id];
      return !key.has_value() || ++taken[*key] > query_.group_size;
    });
    return absl::OkStatus();
  }

  absl::Status AddPartHits(const std::vector<FoundPart>& parts) {
    StageTimer timer(context_, "fetch");
    std::vector<std::string> ids;
    absl::flat_hash_map<std::string, size_t> place_of;
    for (const FoundPart& part : parts) {
      if (place_of.emplace(part.id, ids.size()).second) ids.push_back(part.id);
    }
    QUERN_ASSIGN_OR_RETURN(
        const std::vector<std::optional<Item>> items,
        ReadHits(context_, collection_->store(), ids, query_.read, *budget_));
    result_.hits.reserve(parts.size());
    for (const FoundPart& part : parts) {
      const std::optional<Item>& item = items[place_of[part.id]];
      // One that was deleted since the index was searched is left out.
      if (!item.has_value()) continue;
      SearchHit& hit = result_.hits.emplace_back(
          SearchHit{.item = *item, .score = part.score});
      hit.stage_scores.push_back({"coarse", part.coarse});
      if (part.fine.has_value()) {
        hit.stage_scores.push_back({"ground", *part.fine});
      }
      hit.evidence.push_back(part.evidence);
      hit.probability = part.evidence.probability;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const ShortList>> MakeShortList(
      absl::Span<const ScoredId> found) const {
    const auto list = std::make_shared<ShortList>();
    list->collection = collection_;
    for (const ScoredId& hit : found) {
      if (static_cast<int64_t>(list->ids.size()) == query_.rerank->depth) break;
      list->ids.push_back(hit.id);
    }
    const Embedder* const embedder = engine_.embedder_;
    const int64_t max_bytes = engine_.scoring_.max_media_bytes;
    list->read_media = [embedder, max_bytes](absl::string_view uri) {
      return embedder->ReadMedia(uri, max_bytes);
    };
    list->max_media_bytes = max_bytes;
    list->request.model_name = result_.model_name;
    list->request.model_version = result_.model_version;
    list->request.model_fingerprint = result_.model_fingerprint;
    ScoreQuery& query = list->request.query;
    query.embedding = query_vector_;
    for (const QueryPart& part : query_.parts) {
      if (part.weight < 0) continue;
      if (const auto* text = std::get_if<TextInput>(&part.input)) {
        absl::StrAppend(&query.text, query.text.empty() ? "" : "\n",
                        text->text);
      } else if (const auto* image = std::get_if<ImageInput>(&part.input)) {
        query.image = std::string(image->encoded);
        if (!image->uri.empty()) {
          QUERN_ASSIGN_OR_RETURN(query.image,
                                 embedder->ReadMedia(image->uri, max_bytes));
        }
      }
    }
    if (!token_values_.empty()) {
      query.tokens = QuantizeUnitRows(TokenRows());
    }
    return list;
  }

  MatrixView TokenRows() const {
    return {.data = token_values_.data(),
            .rows = static_cast<int64_t>(token_values_.size()) /
                    collection_->dimension(),
            .columns = collection_->dimension()};
  }

  // The weighted sum of the parts' vectors.
  absl::StatusOr<std::vector<float>> QueryVector() {
    std::vector<float> sum(collection_->dimension());
    for (size_t i = 0; i < vectors_.size(); ++i) {
      if (vectors_.size() > 1 && collection_->metric() == Metric::kCosine) {
        Normalise(vectors_[i]);
      }
      AddScaled(vectors_[i], query_.parts[i].weight, sum);
    }
    const absl::Status status =
        CheckVector(sum, collection_->dimension(), collection_->metric());
    if (!status.ok()) {
      return InvalidField("query.parts",
                          absl::StrCat("their sum: ", status.message()));
    }
    return sum;
  }

  absl::Status SearchAndFetch() {
    QUERN_RETURN_IF_ERROR(Choose());
    const absl::Time start = context_.clock().Now();
    std::vector<std::string> ids;
    ids.reserve(chosen_.size());
    for (const ScoredId& hit : chosen_) ids.push_back(hit.id);
    QUERN_ASSIGN_OR_RETURN(
        std::vector<std::optional<Item>> items,
        ReadHits(context_, collection_->store(), ids, query_.read, *budget_));
    AddHits(absl::MakeSpan(items), context_.clock().Now() - start);
    return absl::OkStatus();
  }

  int64_t PageEnd() const {
    return std::min(query_.offset + query_.k, engine_.limits_.max_page_size);
  }

  // How many of the best hits tell the page, and whether another one follows.
  // A search for more looks further, and may find what the pages before have
  // missed: so it asks for some more than those.
  int64_t Wanted() const {
    return PageEnd() + 1 + (query_.after.has_value() ? kMissedBefore : 0);
  }

  // Leaves in `chosen_`, the best `wanted` hits or all that there are, the page
  // that was asked for: what comes behind the last hit of the page before.
  void TakePageBehind(int64_t wanted) {
    const bool is_all = static_cast<int64_t>(chosen_.size()) < wanted;
    if (const auto& after = query_.after; after.has_value()) {
      std::erase_if(chosen_, [&after](const ScoredId& hit) {
        return hit.score > after->score ||
               (hit.score == after->score && hit.id <= after->id);
      });
      TakePage(chosen_, /*before=*/0, !is_all);
    } else {
      TakePage(chosen_, query_.offset, !is_all);
    }
    result_.last = chosen_.empty() ? query_.after : chosen_.back();
  }

  // Leaves what is on the page that was asked for, which begins behind `before`
  // of those found; `more` than those may be there.
  template <typename Found>
  void TakePage(std::vector<Found>& found, int64_t before, bool more = false) {
    const auto count = static_cast<int64_t>(found.size());
    const int64_t first = std::min(before, count);
    const int64_t end = std::min(before + PageEnd() - query_.offset, count);
    result_.has_more =
        (more || count > end) && PageEnd() < engine_.limits_.max_page_size;
    result_.next_offset = PageEnd();
    found.erase(found.begin() + end, found.end());
    found.erase(found.begin(), found.begin() + first);
  }

  PageState CurrentState() const {
    return {
        .folder =
            std::filesystem::path(collection_->directory()).filename().string(),
        .index_version = collection_->index_version(),
        .item_count = collection_->index().size()};
  }

  // Pages of one search are taken from one state, or their hits would overlap.
  absl::Status CheckPageState() const {
    if (!query_.page_state.has_value() ||
        *query_.page_state == CurrentState()) {
      return absl::OkStatus();
    }
    return InvalidField(
        "page_token",
        absl::StrCat("is of an older state of collection ",
                     Quoted(collection_->name()),
                     ", which was written to since (index version ",
                     query_.page_state->index_version, ", now ",
                     collection_->index_version(),
                     "): begin with the first page again"));
  }

  // Coarse hits that the best `k` are chosen from.
  int64_t CoarseK(int64_t k) const {
    return query_.rerank.has_value() ? std::max(k, query_.rerank->depth) : k;
  }

  // What the index is asked for first.
  int64_t FirstK() const {
    if (FindsParts()) return plan_->depth;
    if (UsesStage()) return CoarseK(Wanted());
    return CoarseK(query_.group_by.empty() ? Wanted()
                                           : kGroupOversampling * Wanted());
  }

  // The coarse stage: the best `k` besides the query's own items.
  absl::StatusOr<std::vector<ScoredId>> SearchIndex(
      const std::vector<float>& vector, int64_t k) {
    if (k > coarse_k_) {
      QUERN_ASSIGN_OR_RETURN(coarse_, AskIndex(vector, k));
      coarse_k_ = k;
    }
    const auto count = std::min(k, static_cast<int64_t>(coarse_.size()));
    return std::vector<ScoredId>(coarse_.begin(), coarse_.begin() + count);
  }

  absl::StatusOr<std::vector<ScoredId>> AskIndex(
      const std::vector<float>& vector, int64_t k) {
    StageTimer timer(context_, "search");
    const MatrixView queries{
        .data = vector.data(), .rows = 1, .columns = collection_->dimension()};
    options_.k = k + static_cast<int64_t>(excluded_.size());
    QUERN_ASSIGN_OR_RETURN(std::vector<std::vector<ScoredId>> lists,
                           collection_->index().Search(
                               context_, queries, options_, &result_.index));
    return WithoutExcluded(std::move(lists.front()), k);
  }

  std::vector<ScoredId> WithoutExcluded(std::vector<ScoredId> found,
                                        int64_t k) const {
    std::erase_if(found, [&](const ScoredId& hit) {
      return std::find(excluded_.begin(), excluded_.end(), hit.id) !=
             excluded_.end();
    });
    if (static_cast<int64_t>(found.size()) > k) found.resize(k);
    return found;
  }

  // The best `k` that the query may find, best first, after all stages.
  absl::StatusOr<std::vector<ScoredId>> Candidates(
      const std::vector<float>& vector, int64_t k) {
    QUERN_ASSIGN_OR_RETURN(std::vector<ScoredId> found,
                           SearchIndex(vector, CoarseK(k)));
    if (query_.rerank.has_value()) {
      QUERN_RETURN_IF_ERROR(RerankFound(vector, k, found));
    }
    std::erase_if(found, [&](const ScoredId& hit) {
      return query_.min_score.has_value() && hit.score < *query_.min_score;
    });
    if (static_cast<int64_t>(found.size()) > k) found.resize(k);
    return found;
  }

  // Likewise, `wanted` of them with at most `group_size` of each value. Looks
  // at ever more until there are enough, or no more, or too many.
  absl::StatusOr<std::vector<ScoredId>> GroupedCandidates(
      const std::vector<float>& vector, int64_t wanted) {
    for (int64_t k = kGroupOversampling * wanted;; k *= kGroupOversampling) {
      k = std::min(k, kMaxGroupCandidates);
      QUERN_RETURN_IF_ERROR(context_.Check("search"));
      QUERN_ASSIGN_OR_RETURN(const std::vector<ScoredId> candidates,
                             Candidates(vector, k));
      QUERN_ASSIGN_OR_RETURN(std::vector<ScoredId> grouped,
                             Group(candidates, wanted));
      if (static_cast<int64_t>(grouped.size()) == wanted ||
          static_cast<int64_t>(candidates.size()) < k) {
        return grouped;
      }
      if (k == kMaxGroupCandidates) {
        result_.degraded_reasons.push_back(absl::StrCat(
            "only the best ", k, " items were looked at for groups by ",
            query_.group_by, ", which has few values among them"));
        return grouped;
      }
    }
  }

  absl::StatusOr<std::vector<ScoredId>> Group(
      const std::vector<ScoredId>& candidates, int64_t wanted) {
    StageTimer timer(context_, "group");
    std::vector<std::string> ids;
    ids.reserve(candidates.size());
    for (const ScoredId& hit : candidates) ids.push_back(hit.id);
    QUERN_RETURN_IF_ERROR(ReadGroupKeys(std::move(ids)));
    absl::flat_hash_map<std::string, int64_t> taken;
    std::vector<ScoredId> grouped;
    for (const ScoredId& hit : candidates) {
      const std::optional<std::string>& key = group_keys_[hit.id];
      if (!key.has_value() || ++taken[*key] > query_.group_size) continue;
      grouped.push_back(hit);
      if (static_cast<int64_t>(grouped.size()) == wanted) break;
    }
    return grouped;
  }

  absl::Status ReadGroupKeys(std::vector<std::string> ids) {
    std::erase_if(ids, [this](const std::string& id) {
      return !group_keys_.emplace(id, std::nullopt).second;
    });
    absl::Span<const std::string> left = ids;
    while (!left.empty()) {
      QUERN_RETURN_IF_ERROR(context_.Check("group"));
      const auto some = left.subspan(0, kGroupKeysAtOnce);
      left.remove_prefix(some.size());
      QUERN_ASSIGN_OR_RETURN(const std::vector<std::optional<Item>> items,
                             collection_->store().Get(
                                 some, {.payload = true, .embedding = false}));
      for (size_t i = 0; i < some.size(); ++i) {
        if (!items[i].has_value()) continue;
        QUERN_ASSIGN_OR_RETURN(group_keys_[some[i]],
                               GroupKey(items[i]->payload, query_.group_by));
      }
    }
    return absl::OkStatus();
  }

  // Puts `found` in its final order, with its final scores; what the stages
  // said is kept of the first `kept` only.
  absl::Status RerankFound(const std::vector<float>& query, int64_t kept,
                           std::vector<ScoredId>& found) {
    StageTimer timer(context_, "rerank");
    QUERN_ASSIGN_OR_RETURN(Reranked reranked,
                           UsesStage()
                               ? RerankBy(*query_.rerank, stage_scores_, found)
                               : RerankByParts(query, found));
    result_.degraded_reasons = std::move(reranked.degraded_reasons);
    found.clear();
    candidates_.clear();
    for (Candidate& candidate : reranked.candidates) {
      found.push_back({candidate.id, candidate.score});
      if (static_cast<int64_t>(candidates_.size()) < kept) {
        std::string id = candidate.id;
        candidates_.emplace(std::move(id), std::move(candidate));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Reranked> RerankByParts(const std::vector<float>& query,
                                         const std::vector<ScoredId>& found) {
    absl::StatusOr<PartScorer> scorer =
        uses_tokens_ ? PartScorer::ByTokens(TokenRows(), query)
                     : PartScorer::BestPart(query);
    if (!scorer.ok()) {
      return InvalidField("query.parts", scorer.status().message());
    }
    scorer_ = *std::move(scorer);
    return Rerank(context_, *query_.rerank, *scorer_, collection_->store(),
                  found);
  }

  // What the stages said of a hit that was reranked.
  void AddStages(SearchHit& hit) const {
    const auto known = candidates_.find(hit.item.id);
    if (known == candidates_.end()) return;
    const Candidate& candidate = known->second;
    hit.stage_scores.push_back({"coarse", candidate.coarse});
    if (!candidate.fine.has_value()) return;
    const absl::string_view by_parts =
        scorer_.has_value() ? scorer_->stage() : "";
    const absl::string_view by_stage = match_ != nullptr ? "match" : "remote";
    hit.stage_scores.push_back(
        {std::string(UsesStage() ? by_stage : by_parts), *candidate.fine});
    hit.evidence = candidate.evidence;
    hit.probability = candidate.probability;
  }

  const Engine& engine_;
  RequestContext& context_;
  const SearchQuery& query_;
  const std::shared_ptr<AnswerBudget> budget_;  // Of all searches of the call.
  const SearchDone done_;

  std::shared_ptr<Collection> collection_;
  std::shared_ptr<const Model> model_;       // Null when no part needs one.
  std::vector<std::vector<float>> vectors_;  // One per part.
  std::vector<std::string> excluded_;        // Stored items of the query.
  std::vector<EmbedInput> inputs_;           // Parts that need the model.
  std::vector<size_t> part_of_input_;
  // Of a grouped search, by id; no value for an item that has none.
  absl::flat_hash_map<std::string, std::optional<std::string>> group_keys_;
  VectorSearchOptions options_;
  std::vector<float> query_vector_;
  std::vector<ScoredId> coarse_;  // The best `coarse_k_` that the index has.
  int64_t coarse_k_ = 0;
  std::vector<ScoredId> chosen_;  // The hits.
  // Of a search for parts.
  std::optional<PartPlan> plan_;
  PartIndexStats part_stats_;  // Of a search that finds items by their parts.
  std::vector<PlacedThing> things_;  // What is looked for.
  // Of a search that is reranked.
  bool uses_tokens_ = false;
  std::vector<float> token_values_;      // [tokens x dimension]
  std::shared_ptr<const Scorer> match_;  // Null: not by the match head.
  absl::StatusOr<FineScores> stage_scores_ = FineScores();
  std::optional<PartScorer> scorer_;
  std::map<std::string, Candidate> candidates_;  // The hits, by id.
  SearchResult result_;
};

void Engine::Search(RequestContext& context, const SearchQuery& query,
                    SearchDone done) const {
  SearchCall::Start(std::make_shared<SearchCall>(
      *this, context, query,
      std::make_shared<AnswerBudget>(limits_.max_answer_bytes),
      std::move(done)));
}

void Engine::SearchTogether(std::vector<BatchedSearch> searches) const {
  std::vector<std::shared_ptr<StagedSearch>> calls;
  calls.reserve(searches.size());
  const auto budget = std::make_shared<AnswerBudget>(limits_.max_answer_bytes);
  for (BatchedSearch& search : searches) {
    calls.push_back(std::make_shared<SearchCall>(
        *this, *search.context, *search.query, budget, std::move(search.done)));
  }
  SearchLot::Start(std::move(calls), budget);
}

void Engine::PrepareItem(const RequestContext& context,
                         const Collection& collection, const UpsertInput& input,
                         PrepareDone done) const {
  absl::Status status = CheckUpsert(collection, input);
  if (!status.ok()) return done(std::move(status));
  PreparedItem prepared{.item = {.id = input.id,
                                 .payload = input.payload,
                                 .media_uri = input.media_uri,
                                 .create_time = context.clock().Now()}};
  prepared.item.update_time = prepared.item.create_time;
  const std::optional<absl::Duration> ttl =
      input.ttl.has_value() ? input.ttl : collection.settings()->ttl;
  if (ttl.has_value()) {
    prepared.item.expire_time = prepared.item.create_time + *ttl;
  }
  if (!input.etag.empty()) {
    absl::StatusOr<uint64_t> sequence = SequenceOf(input.etag);
    if (!sequence.ok()) return done(sequence.status());
    prepared.item.if_sequence = *sequence;
  }
  if (const auto* embedding = std::get_if<EmbeddingInput>(&input.content)) {
    status = CheckVector(embedding->values, collection.dimension(),
                         collection.metric());
    if (!status.ok()) return done(InvalidField("embedding", status.message()));
    prepared.item.embedding = embedding->values;
    prepared.item.modality = v1::MODALITY_EMBEDDING;
    return done(std::move(prepared));
  }
  absl::StatusOr<std::shared_ptr<const Model>> model = ModelOf(collection);
  if (!model.ok()) return done(model.status());
  const EmbedInput media = std::visit(
      Visitor{[&](const TextInput& text) -> EmbedInput {
                prepared.item.modality = v1::MODALITY_TEXT;
                return text;
              },
              [&](const ImageInput& image) -> EmbedInput {
                prepared.item.modality = v1::MODALITY_IMAGE;
                return image;
              },
              [&](const VideoInput& video) -> EmbedInput {
                prepared.item.modality = v1::MODALITY_VIDEO;
                return video;
              },
              [](const EmbeddingInput&) -> EmbedInput { return TextInput(); }},
      input.content);
  const absl::StatusOr<PartsSettings> kept =
      PartsSettingsOf(collection.settings()->record);
  if (!kept.ok()) return done(kept.status());
  embedder_->Embed(context, *std::move(model), {media},
                   EmbedOptionsFor(*kept, media),
                   [this, prepared = std::move(prepared), kept = *kept, media,
                    done = std::move(done)](
                       std::vector<absl::StatusOr<Embedded>> results) mutable {
                     absl::StatusOr<Embedded>& embedded = results.front();
                     if (!embedded.ok()) return done(embedded.status());
                     if (kept.keep_media) {
                       absl::StatusOr<std::string> bytes = MediaOf(media);
                       if (!bytes.ok()) return done(bytes.status());
                       prepared.item.media = *std::move(bytes);
                     }
                     prepared.item.embedding = std::move(embedded->embedding);
                     prepared.item.parts = PartsOf(kept, media, *embedded);
                     prepared.truncated = embedded->truncated;
                     prepared.stages = std::move(embedded->stages);
                     done(std::move(prepared));
                   });
}

absl::StatusOr<std::string> Engine::MediaOf(const EmbedInput& input) const {
  const auto bytes_of =
      [this](const auto& media) -> absl::StatusOr<std::string> {
    if (media.uri.empty()) return std::string(media.encoded);
    return embedder_->ReadMedia(media.uri, kMaxKeptBytes);
  };
  return std::visit(
      Visitor{[](const TextInput& text) -> absl::StatusOr<std::string> {
                return std::string(text.text);
              },
              [&](const ImageInput& image) { return bytes_of(image); },
              [&](const VideoInput& video) { return bytes_of(video); }},
      input);
}

absl::Status Engine::CheckUpsert(const Collection& collection,
                                 const UpsertInput& input) const {
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
  return absl::OkStatus();
}

absl::StatusOr<v1::Collection> Engine::UpdateCollection(
    const v1::Collection& wanted,
    const google::protobuf::FieldMask& mask) const {
  return catalog_->Update(wanted.name(), [&](v1::Collection& record) {
    QUERN_RETURN_IF_ERROR(MergeSettings(wanted, mask, record));
    if (absl::c_linear_search(mask.paths(), "parts")) {
      QUERN_RETURN_IF_ERROR(CheckPartsOf(record));
    }
    return InField(SettingsOf(record).status(), "collection");
  });
}

absl::StatusOr<Item> Engine::UpdateItem(
    const RequestContext& context, Collection& collection,
    const v1::Item& given, const google::protobuf::FieldMask& mask) const {
  QUERN_RETURN_IF_ERROR(InField(CheckItemId(given.id()), "item"));
  QUERN_ASSIGN_OR_RETURN(
      const ItemUpdate update,
      ItemUpdate::Create(given, mask, context.clock().Now()));
  return collection.Update(given.id(), [&](Item& item) {
    return update.Apply(limits_.max_payload_bytes, item);
  });
}

absl::Status Engine::UnloadModel(absl::string_view name, bool force) const {
  if (!force) {
    for (const v1::Collection& collection :
         catalog_->List("", std::numeric_limits<int64_t>::max())) {
      if (collection.model() != name) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "collection ", Quoted(collection.name()), " needs model ",
          Quoted(name), ": delete it, or unload with force"));
    }
  }
  return models_->Remove(name);
}

absl::Status Engine::CheckPartsOf(const v1::Collection& record) const {
  QUERN_ASSIGN_OR_RETURN(const PartsSettings settings, PartsSettingsOf(record));
  std::shared_ptr<const Model> model;
  if (record.model() != kNoModel) {
    QUERN_ASSIGN_OR_RETURN(model, models_->Get(record.model()));
  }
  return CheckParts(settings, model.get());
}

absl::StatusOr<v1::Collection> Engine::CreateCollection(
    v1::Collection wanted) const {
  QUERN_RETURN_IF_ERROR(
      InField(CheckCollectionName(wanted.name()), "collection"));
  QUERN_RETURN_IF_ERROR(InField(SettingsOf(wanted).status(), "collection"));
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
  QUERN_RETURN_IF_ERROR(CheckPartsOf(wanted));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         catalog_->Create(std::move(wanted)));
  return collection->Describe();
}

}  // namespace quern

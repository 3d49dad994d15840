#include "engine/query/grounding.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/region_grounder.h"
#include "engine/fine/segment_grounder.h"
#include "engine/fine/spatial_relations.h"
#include "engine/query/crop_scores.h"
#include "engine/query/moment_head.h"
#include "quern/v1/common.pb.h"

namespace quern {
namespace {

constexpr absl::string_view kDecodedAgain =
    "The store keeps no features of the item: its media was decoded again.";

absl::string_view KindOf(int32_t modality) {
  switch (modality) {
    case v1::MODALITY_TEXT:
      return "a text";
    case v1::MODALITY_IMAGE:
      return "a picture";
    case v1::MODALITY_VIDEO:
      return "a video";
    case v1::MODALITY_EMBEDDING:
      return "an embedding";
    default:
      return "of another kind";
  }
}

absl::Status NothingToLookAt(const ItemTarget& item, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(
      "item: ", Quoted(item.id), " of collection ", Quoted(item.collection),
      " has no stored features", why,
      ": send its media along, keep features in the collection (its `parts`), "
      "or upsert it with a media_uri below one of media.roots"));
}

absl::Status NothingToCut(const ItemTarget& item) {
  return absl::FailedPreconditionError(absl::StrCat(
      "crop_depth: item ", Quoted(item.id), " of collection ",
      Quoted(item.collection),
      " has no media_uri, and crops are cut out of media: send its media "
      "along, leave crop_depth out, or upsert it with a media_uri below one of "
      "media.roots"));
}

// What the store keeps of a picture or a video, as the embedder gives it.
absl::StatusOr<Embedded> EmbeddedOf(absl::string_view parts) {
  QUERN_ASSIGN_OR_RETURN(PartFeatures kept, DecodeParts(parts));
  const PartsShape& shape = kept.shape;
  Matrix features = Dequantize(kept.features);
  Embedded embedded;
  embedded.width = shape.width;
  embedded.height = shape.height;
  embedded.duration = shape.duration;
  embedded.times = std::move(kept.times);
  embedded.samples = std::move(kept.samples);
  const bool is_video = shape.frames > 0;
  embedded.dense = {
      .rows = is_video ? shape.frames : 1,
      .grid_height = is_video ? 1 : shape.grid_height,
      .grid_width = is_video ? 1 : shape.grid_width,
      .dimension = features.columns(),
      .values = {features.data(),
                 features.data() + features.rows() * features.columns()}};
  return embedded;
}

// The model and the media that a query is about.
struct Target {
  std::shared_ptr<const Model> model;
  std::optional<Embedded> kept;  // What the store keeps; then no media is read.
  EmbedInput media;
  std::string media_uri;  // Of a stored item; `media` points into it.
  bool is_decoded_again = false;
};

// What a call needs besides its algorithm: the media, unless its features are
// kept, and the texts, embedded. It lives until both are.
class EmbedBoth {
 public:
  struct Result {
    std::vector<Embedded> texts;
    Embedded media;
  };
  using Done = std::function<void(absl::StatusOr<Result>)>;

  static void Start(const Engine& engine, const RequestContext& context,
                    const std::vector<EmbedInput>& texts,
                    const EmbedOptions& text_options, Target& target,
                    const EmbedOptions& options, Done done) {
    const std::shared_ptr<const Model>& model = target.model;
    const auto both = std::make_shared<EmbedBoth>(std::move(done));
    engine.embedder().Embed(
        context, model, texts, text_options,
        [both](std::vector<absl::StatusOr<Embedded>> results) {
          both->texts_ = std::move(results);
          both->FinishOne();
        });
    if (target.kept.has_value()) {
      both->media_ = *std::move(target.kept);
      both->FinishOne();
      return;
    }
    engine.embedder().Embed(
        context, model, {target.media}, options,
        [both](std::vector<absl::StatusOr<Embedded>> results) {
          both->media_ = std::move(results.front());
          both->FinishOne();
        });
  }

  explicit EmbedBoth(Done done) : done_(std::move(done)) {}

 private:
  void FinishOne() {
    if (--unfinished_ == 0) done_(Take());
  }

  absl::StatusOr<Result> Take() {
    Result result;
    result.texts.reserve(texts_.size());
    QUERN_RETURN_IF_ERROR(media_.status());
    result.media = *std::move(media_);
    for (absl::StatusOr<Embedded>& text : texts_) {
      QUERN_RETURN_IF_ERROR(text.status());
      result.texts.push_back(*std::move(text));
    }
    return result;
  }

  const Done done_;
  std::atomic<int> unfinished_ = 2;
  std::vector<absl::StatusOr<Embedded>> texts_;
  absl::StatusOr<Embedded> media_ = absl::UnknownError("not done");
};

// `modality` is the kind of item that is wanted. With `needs_pixels` kept
// features do not do.
template <typename MediaInput, typename Query>
absl::Status FindTarget(const Engine& engine, const Query& query,
                        v1::Modality modality, bool needs_pixels,
                        Target& target) {
  const auto* item = std::get_if<ItemTarget>(&query.target);
  if (item == nullptr) {
    target.media = std::get<MediaInput>(query.target);
    QUERN_ASSIGN_OR_RETURN(target.model, engine.models().Get(query.model));
    return absl::OkStatus();
  }
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         engine.catalog().Get(item->collection));
  QUERN_ASSIGN_OR_RETURN(
      const std::vector<std::optional<Item>> items,
      collection->store().Get(
          {item->id}, {.payload = false, .embedding = false, .parts = true}));
  if (!items.front().has_value()) return NotFound("item", item->id);
  const Item& stored = *items.front();
  if (stored.modality != modality) {
    return absl::FailedPreconditionError(
        absl::StrCat("item: ", Quoted(item->id), " of collection ",
                     Quoted(item->collection), " is ", KindOf(stored.modality),
                     "; this call looks at ", KindOf(modality), ": name one"));
  }
  const bool is_of_other_model =
      !query.model.empty() && query.model != collection->record().model();
  if (is_of_other_model) {
    QUERN_ASSIGN_OR_RETURN(target.model, engine.models().Get(query.model));
  } else {
    QUERN_ASSIGN_OR_RETURN(target.model, engine.ModelOf(*collection));
  }
  const bool is_kept = !stored.parts.empty() && !is_of_other_model;
  if (is_kept && !needs_pixels) {
    QUERN_ASSIGN_OR_RETURN(target.kept, EmbeddedOf(stored.parts));
    return absl::OkStatus();
  }
  if (stored.media_uri.empty()) {
    if (is_kept) return NothingToCut(*item);
    return NothingToLookAt(*item, is_of_other_model
                                      ? " of that model and no media_uri"
                                      : " and no media_uri");
  }
  target.is_decoded_again = !is_kept;
  target.media_uri = stored.media_uri;
  target.media = MediaInput{.uri = target.media_uri};
  return absl::OkStatus();
}

// Of a stored item, media that cannot be read is no mistake of the request.
template <typename Query>
absl::Status OfTarget(const Query& query, const absl::Status& status) {
  const auto* item = std::get_if<ItemTarget>(&query.target);
  if (item == nullptr) return status;
  if (absl::IsPermissionDenied(status) || absl::IsNotFound(status) ||
      absl::IsInvalidArgument(status)) {
    return NothingToLookAt(*item,
                           absl::StrCat(", and its media cannot be read (",
                                        status.message(), ")"));
  }
  return status;
}

// Turns what a grounder found, best first, into hits, and says how probable the
// best is. What has no probability is a hit.
template <typename Found, typename Visit>
std::optional<double> KeepProbable(
    const std::vector<Found>& found,
    const std::optional<PresenceCalibration>& calibration,
    const std::optional<double>& min_probability, Visit visit) {
  const double least = min_probability.value_or(
      calibration.has_value() ? calibration->threshold : 0);
  std::optional<double> presence;
  for (const Found& one : found) {
    const std::optional<double> probability = ProbabilityOf(one, calibration);
    if (probability.has_value()) {
      presence = std::max(presence.value_or(0), *probability);
      if (*probability < least) continue;
    }
    visit(one, probability);
  }
  return presence;
}

void TellOfTruncation(const std::vector<Embedded>& texts,
                      std::vector<std::string>& reasons) {
  for (const Embedded& text : texts) {
    if (!text.truncated) continue;
    reasons.push_back(
        "A text is longer than the model reads: its end did not count.");
    return;
  }
}

void AddStages(const Embedded& embedded, RequestContext& context) {
  for (const StageTime& stage : embedded.stages) {
    context.AddStageTime(stage.stage, stage.duration);
  }
}

class RegionCall {
 public:
  using Done = std::function<void(absl::StatusOr<RegionResult>)>;

  RegionCall(const Engine& engine, RequestContext& context,
             const RegionQuery& query, Done done)
      : engine_(engine),
        context_(context),
        query_(query),
        done_(std::move(done)) {}

  static void Start(const std::shared_ptr<RegionCall>& call) {
    const absl::Status status = call->Prepare();
    if (!status.ok()) return call->done_(status);
    EmbedBoth::Start(
        call->engine_, call->context_, call->texts_, {}, call->target_,
        {.embedding = false,
         .dense = true,
         .whole_picture = true,
         .picture = call->query_.crop_depth > 0},
        [call](absl::StatusOr<EmbedBoth::Result> embedded) {
          if (!embedded.ok()) {
            return call->done_(OfTarget(call->query_, embedded.status()));
          }
          call->embedded_ = *std::move(embedded);
          call->AddCrops(call);
        });
  }

 private:
  absl::Status Prepare() {
    QUERN_RETURN_IF_ERROR(FindTarget<ImageInput>(
        engine_, query_, v1::MODALITY_IMAGE, query_.crop_depth > 0, target_));
    QUERN_RETURN_IF_ERROR(target_.model->Require("image.dense"));
    if (query_.crop_depth > 0) {
      QUERN_RETURN_IF_ERROR(target_.model->Require("image.global"));
    }
    QUERN_RETURN_IF_ERROR(target_.model->Require("text.global"));
    QUERN_ASSIGN_OR_RETURN(
        calibration_,
        CheckedCalibration(*target_.model, target_.model->info().regions,
                           query_.min_probability));
    for (const GroundText& phrase : query_.phrases) {
      if (query_.ignore_relations) {
        phrases_.push_back({.subject = phrase.text});
      } else {
        phrases_.push_back(ParseSpatialPhrase(phrase.text));
      }
    }
    for (const SpatialPhrase& phrase : phrases_) {
      for (const SpatialPhrase* part = &phrase; part != nullptr;
           part = part->object.get()) {
        texts_.push_back(TextInput{part->subject});
      }
    }
    return absl::OkStatus();
  }

  // Then grounds.
  void AddCrops(const std::shared_ptr<RegionCall>& call) {
    AddStages(embedded_.media, context_);
    const DenseMaps& grid = embedded_.media.dense;
    grounder_.emplace(
        GridView{.cells = {.data = grid.values.data(),
                           .rows = grid.grid_height * grid.grid_width,
                           .columns = grid.dimension},
                 .height = grid.grid_height,
                 .width = grid.grid_width});
    if (query_.crop_depth == 0) return done_(Ground());
    for (const SpatialPhrase& phrase : phrases_) {
      const bool is_related = phrase.relation != SpatialRelation::kNone;
      for (const SpatialPhrase* part = &phrase; part != nullptr;
           part = part->object.get()) {
        const std::vector<float>& embedding =
            embedded_.texts[proposals_.size()].embedding;
        proposals_.push_back(
            {.embedding = embedding,
             .regions = grounder_->Propose(embedding, is_related)});
      }
    }
    const absl::Time start = context_.clock().Now();
    AddCropScores(engine_, context_, target_.model, embedded_.media.picture,
                  query_.crop_depth, proposals_,
                  [call, start](const absl::Status& status) {
                    RequestContext& context = call->context_;
                    context.AddStageTime("crops",
                                         context.clock().Now() - start);
                    if (!status.ok()) return call->done_(status);
                    call->done_(call->Ground());
                  });
  }

  absl::StatusOr<RegionResult> Ground() {
    QUERN_RETURN_IF_ERROR(context_.Check("ground"));
    StageTimer timer(context_, "ground");
    RegionResult result = {.width = embedded_.media.width,
                           .height = embedded_.media.height,
                           .model = target_.model};
    if (target_.is_decoded_again)
      result.degraded_reasons.emplace_back(kDecodedAgain);
    TellOfTruncation(embedded_.texts, result.degraded_reasons);
    size_t next_text = 0;
    for (const SpatialPhrase& phrase : phrases_) {
      QUERN_RETURN_IF_ERROR(context_.Check("ground"));
      result.phrases.push_back(GroundPhrase(phrase, next_text));
    }
    return result;
  }

  // Takes the embeddings of the phrase's parts from `next_text` on.
  PhraseRegions GroundPhrase(const SpatialPhrase& phrase,
                             size_t& next_text) const {
    std::deque<PhraseQuery> parts;  // Does not move what it holds.
    for (const SpatialPhrase* part = &phrase; part != nullptr;
         part = part->object.get()) {
      const size_t text = next_text++;
      parts.push_back({.embedding = embedded_.texts[text].embedding,
                       .relation = part->relation,
                       .proposals = proposals_.empty()
                                        ? nullptr
                                        : &proposals_[text].regions});
      if (parts.size() > 1) parts[parts.size() - 2].object = &parts.back();
    }
    PhraseRegions result;
    result.presence = KeepProbable(
        grounder_->Ground(parts.front(), query_.max_regions, query_.nms_iou),
        calibration_, query_.min_probability,
        [&](const GroundedRegion& region, std::optional<double> probability) {
          result.regions.push_back({.box = region.box,
                                    .score = region.score,
                                    .probability = probability});
        });
    return result;
  }

  const Engine& engine_;
  RequestContext& context_;
  const RegionQuery& query_;
  const Done done_;

  Target target_;
  std::optional<PresenceCalibration> calibration_;
  std::vector<SpatialPhrase> phrases_;
  std::vector<EmbedInput> texts_;  // Point into `phrases_`.
  EmbedBoth::Result embedded_;
  std::optional<RegionGrounder> grounder_;  // Points into `embedded_`.
  std::vector<TextProposals> proposals_;    // One per text, or none.
};

class SegmentCall {
 public:
  using Done = std::function<void(absl::StatusOr<SegmentResult>)>;

  SegmentCall(const Engine& engine, RequestContext& context,
              const SegmentQuery& query, Done done)
      : engine_(engine),
        context_(context),
        query_(query),
        done_(std::move(done)) {}

  static void Start(const std::shared_ptr<SegmentCall>& call) {
    const absl::Status status = call->Prepare();
    if (!status.ok()) return call->done_(status);
    const bool has_head = call->HasHead();
    EmbedBoth::Start(call->engine_, call->context_, call->texts_,
                     {.embedding = !has_head, .tokens = has_head},
                     call->target_, {.video = call->query_.sampling},
                     [call](absl::StatusOr<EmbedBoth::Result> embedded) {
                       call->done_(embedded.ok() ? call->Ground(*embedded)
                                                 : OfTarget(call->query_,
                                                            embedded.status()));
                     });
  }

 private:
  absl::Status Prepare() {
    QUERN_RETURN_IF_ERROR(
        FindTarget<VideoInput>(engine_, query_, v1::MODALITY_VIDEO,
                               /*needs_pixels=*/false, target_));
    QUERN_RETURN_IF_ERROR(
        target_.model->Require(HasHead() ? "text.tokens" : "text.global"));
    // A head's probabilities are its own.
    QUERN_ASSIGN_OR_RETURN(
        calibration_,
        CheckedCalibration(*target_.model, target_.model->info().segments,
                           HasHead() ? std::nullopt : query_.min_probability));
    texts_.reserve(query_.sentences.size());
    for (const GroundText& sentence : query_.sentences) {
      texts_.push_back(TextInput{sentence.text});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<SegmentResult> Ground(const EmbedBoth::Result& embedded) {
    AddStages(embedded.media, context_);
    QUERN_RETURN_IF_ERROR(context_.Check("ground"));
    StageTimer timer(context_, "ground");
    SegmentResult result = {.times = embedded.media.times,
                            .duration = embedded.media.duration,
                            .model = target_.model};
    if (target_.is_decoded_again)
      result.degraded_reasons.emplace_back(kDecodedAgain);
    TellOfTruncation(embedded.texts, result.degraded_reasons);
    std::vector<double> seconds;
    seconds.reserve(result.times.size());
    for (const absl::Duration time : result.times) {
      seconds.push_back(absl::ToDoubleSeconds(time));
    }
    QUERN_ASSIGN_OR_RETURN(
        std::vector<GroundedMoments> found,
        Find(embedded.texts,
             {.frames = embedded.media.frames(),
              .times = seconds,
              .duration = absl::ToDoubleSeconds(result.duration)}));
    for (GroundedMoments& moments : found) {
      result.sentences.push_back(Keep(std::move(moments)));
    }
    return result;
  }

  // What a package has been trained for goes before what needs no training.
  bool HasHead() const { return target_.model->info().Has("moments"); }

  absl::StatusOr<std::vector<GroundedMoments>> Find(
      const std::vector<Embedded>& texts, const FramesView& video) const {
    const SegmentOptions options = {
        .max_segments = query_.max_segments,
        .nms_iou = query_.nms_iou,
        .min_duration = absl::ToDoubleSeconds(query_.min_duration)};
    if (HasHead()) {
      std::vector<MatrixView> tokens;
      tokens.reserve(texts.size());
      for (const Embedded& text : texts) {
        tokens.push_back(text.token_features.view());
      }
      return GroundByHead(*target_.model, tokens, video, options);
    }
    const SegmentGrounder grounder(video);
    std::vector<GroundedMoments> found;
    found.reserve(texts.size());
    for (const Embedded& text : texts) {
      QUERN_RETURN_IF_ERROR(context_.Check("ground"));
      found.push_back(grounder.Ground(text.embedding, options));
    }
    return found;
  }

  SentenceSegments Keep(GroundedMoments moments) const {
    SentenceSegments result;
    result.presence = KeepProbable(
        moments.segments, calibration_, query_.min_probability,
        [&](const GroundedSegment& segment, std::optional<double> probability) {
          result.segments.push_back({.span = segment.span,
                                     .score = segment.score,
                                     .probability = probability});
        });
    result.saliency = std::move(moments.saliency);
    return result;
  }

  const Engine& engine_;
  RequestContext& context_;
  const SegmentQuery& query_;
  const Done done_;

  Target target_;
  std::optional<PresenceCalibration> calibration_;
  std::vector<EmbedInput> texts_;  // Point into `query_`.
};

}  // namespace

PresenceCalibration CalibrationOf(const CalibrationSpec& spec) {
  return {.bias = spec.bias,
          .peak = spec.peak,
          .mean = spec.mean,
          .deviation = spec.deviation,
          .best = spec.best,
          .inside = spec.inside,
          .pooled = spec.pooled,
          .threshold = spec.threshold};
}

absl::StatusOr<std::optional<PresenceCalibration>> CheckedCalibration(
    const Model& model, const std::optional<CalibrationSpec>& spec,
    const std::optional<double>& min_probability) {
  if (spec.has_value()) return CalibrationOf(*spec);
  if (!min_probability.has_value() || *min_probability == 0) {
    return std::optional<PresenceCalibration>();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "min_probability: model ", Quoted(model.info().name),
      " has no calibration in its package: leave min_probability out, or fit "
      "one (models/quern_lite/tools/calibrate.py)"));
}

void GroundRegions(const Engine& engine, RequestContext& context,
                   const RegionQuery& query,
                   std::function<void(absl::StatusOr<RegionResult>)> done) {
  RegionCall::Start(
      std::make_shared<RegionCall>(engine, context, query, std::move(done)));
}

void GroundSegments(const Engine& engine, RequestContext& context,
                    const SegmentQuery& query,
                    std::function<void(absl::StatusOr<SegmentResult>)> done) {
  SegmentCall::Start(
      std::make_shared<SegmentCall>(engine, context, query, std::move(done)));
}

}  // namespace quern

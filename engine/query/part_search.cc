#include "engine/query/part_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/item_parts.h"
#include "engine/query/dot.h"
#include "engine/query/grounding.h"
#include "engine/query/parts_settings.h"
#include "engine/store/item_store.h"
#include "quern/v1/common.pb.h"

namespace quern {
namespace {

// Read from the store at once, and between two looks at the clock.
constexpr size_t kItemsPerRead = 16;
// Items worth a thread of their own.
constexpr size_t kItemsPerThread = 8;
// Of the stage's time: what is left is for handing over what there is.
constexpr double kShareOfTime = 0.9;

struct KindOfPart {
  absl::string_view name;     // As in quern.v1.Granularity.
  absl::string_view items;    // What has such parts.
  absl::string_view feature;  // What is kept of them.
  absl::string_view setting;  // That keeps it.
  v1::Modality modality;
};

const KindOfPart& KindOf(Granularity granularity) {
  static constexpr KindOfPart kRegions = {"REGION", "pictures", "grid",
                                          "parts.dense", v1::MODALITY_IMAGE};
  static constexpr KindOfPart kSegments = {"SEGMENT", "videos", "frames",
                                           "parts.frames_per_second",
                                           v1::MODALITY_VIDEO};
  return granularity == Granularity::kRegion ? kRegions : kSegments;
}

absl::Status CheckRequest(const PartRequest& request, const KindOfPart& kind) {
  if (request.texts.empty()) {
    return InvalidField(
        "query.parts",
        absl::StrCat("have no text of positive weight; with granularity ",
                     kind.name, " it is what is looked for"));
  }
  if (request.rerank != nullptr &&
      request.rerank->method != RerankMethod::kBest &&
      request.rerank->method != RerankMethod::kBestPart) {
    return InvalidField("rerank.method",
                        absl::StrCat("must be left out with granularity ",
                                     kind.name, ", or be BEST_PART"));
  }
  const auto& wanted = request.modalities;
  if (!wanted.empty() &&
      std::find(wanted.begin(), wanted.end(), kind.modality) == wanted.end()) {
    return InvalidField("modalities",
                        absl::StrCat("leave out ", kind.items, "; granularity ",
                                     kind.name, " looks into nothing else"));
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const Model& model, Granularity granularity,
                        bool asks_head) {
  QUERN_RETURN_IF_ERROR(model.Require("text.global"));
  if (asks_head) QUERN_RETURN_IF_ERROR(model.Require("text.tokens"));
  return model.Require(granularity == Granularity::kRegion ? "image.dense"
                                                           : "image.global");
}

absl::Status CheckKept(const Collection& collection, Granularity granularity,
                       const KindOfPart& kind) {
  QUERN_ASSIGN_OR_RETURN(const PartsSettings settings,
                         PartsSettingsOf(collection.settings()->record));
  const bool are_kept = granularity == Granularity::kRegion
                            ? settings.keeps_grids()
                            : settings.keeps_frames();
  if (are_kept) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "granularity ", kind.name, ": collection ", Quoted(collection.name()),
      " keeps no ", kind.feature, " of its ", kind.items, ": set its ",
      kind.setting, ", and index its items again"));
}

absl::Status NoneKept(const KindOfPart& kind, int64_t count) {
  return absl::FailedPreconditionError(
      absl::StrCat("granularity ", kind.name, ": none of the ", count, " ",
                   kind.items, " that were found keeps its ", kind.feature,
                   ": they were written before the collection's ", kind.setting,
                   " was set: index them again"));
}

// `found` with the scores of the whole items, as the index of these gives them;
// without those that are gone.
absl::StatusOr<std::vector<ScoredId>> ScoreWhole(
    const Collection& collection, absl::Span<const float> query,
    const std::vector<ScoredId>& found) {
  std::vector<std::string> ids;
  ids.reserve(found.size());
  for (const ScoredId& item : found) ids.push_back(item.id);
  const bool is_cosine = collection.metric() == Metric::kCosine;
  const double squares = Dot(query, query);
  std::vector<ScoredId> items;
  items.reserve(found.size());
  QUERN_RETURN_IF_ERROR(collection.store().GetEmbeddings(
      ids, [&](size_t i, absl::Span<const float> embedding) {
        double score = Dot(query, embedding);
        if (is_cosine) score /= std::sqrt(squares * Dot(embedding, embedding));
        items.push_back({ids[i], static_cast<float>(score)});
      }));
  return items;
}

// Looks into every `step`th item from `first` on.
absl::StatusOr<FineScores> GroundShare(const RequestContext& context,
                                       const PartList& list, size_t first,
                                       size_t step) {
  const absl::Time now = context.clock().Now();
  const absl::Time late = now + (context.deadline() - now) * kShareOfTime;
  FineScores result;
  std::vector<std::string> ids;
  for (size_t next = first; next < list.ids.size();) {
    ids.clear();
    for (; next < list.ids.size() && ids.size() < kItemsPerRead; next += step) {
      ids.push_back(list.ids[next]);
    }
    QUERN_ASSIGN_OR_RETURN(
        const std::vector<std::optional<Item>> items,
        list.collection->store().Get(ids, {.payload = false, .parts = true}));
    for (size_t i = 0; i < ids.size(); ++i) {
      QUERN_RETURN_IF_ERROR(context.Check("ground"));
      if (context.clock().Now() > late) return result;
      if (!items[i].has_value()) {
        result.gone.push_back(ids[i]);
        continue;
      }
      const absl::StatusOr<PartFeatures> parts = DecodeParts(items[i]->parts);
      CandidateScore found;
      if (parts.ok()) found = list.grounder.Ground(*parts);
      if (!found.status.ok() && !absl::IsInvalidArgument(found.status)) {
        return found.status;
      }
      if (!parts.ok() || !found.status.ok()) {
        result.without_parts.push_back(ids[i]);
        continue;
      }
      result.scores[ids[i]] = {.score = found.score,
                               .is_video = parts->shape.frames > 0,
                               .probability = found.probability,
                               .evidence = std::move(found.evidence)};
    }
  }
  return result;
}

// Whether a search goes on without what has this status.
bool IsLate(const absl::Status& status) {
  return absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status) || absl::IsUnavailable(status) ||
         absl::IsCancelled(status);
}

// Puts the shares of a list together.
class Shares {
 public:
  Shares(size_t count, std::function<void(absl::StatusOr<FineScores>)> done)
      : unfinished_(count), done_(std::move(done)) {}

  void Add(absl::StatusOr<FineScores> share) {
    absl::StatusOr<FineScores> all;
    {
      absl::MutexLock lock(&mutex_);
      Merge(std::move(share));
      if (--unfinished_ > 0) return;
      if (error_.ok()) {
        all = std::move(all_);
      } else {
        all = error_;
      }
    }
    done_(std::move(all));
  }

 private:
  void Merge(absl::StatusOr<FineScores> share)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!share.ok()) {
      if (!IsLate(share.status())) {
        error_.Update(share.status());
      } else if (all_.degraded_reasons.empty() &&
                 absl::IsResourceExhausted(share.status())) {
        all_.degraded_reasons.push_back(
            absl::StrCat("ground: ", share.status().message()));
      }
      return;
    }
    all_.scores.merge(share->scores);
    const auto append = [](std::vector<std::string>& from,
                           std::vector<std::string>& to) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(share->gone, all_.gone);
    append(share->without_parts, all_.without_parts);
  }

  absl::Mutex mutex_;
  size_t unfinished_ ABSL_GUARDED_BY(mutex_);
  FineScores all_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  const std::function<void(absl::StatusOr<FineScores>)> done_;
};

}  // namespace

absl::StatusOr<PartPlan> PlanParts(const PartRequest& request,
                                   const Collection& collection,
                                   const Model* model) {
  const KindOfPart& kind = KindOf(request.granularity);
  QUERN_RETURN_IF_ERROR(CheckRequest(request, kind));
  const bool is_region = request.granularity == Granularity::kRegion;
  PartPlan plan{.granularity = request.granularity,
                .modality = kind.modality,
                .asks_head = !is_region && model->info().Has("moments")};
  QUERN_RETURN_IF_ERROR(
      Annotate(CheckModel(*model, request.granularity, plan.asks_head),
               absl::StrCat("granularity ", kind.name)));
  QUERN_RETURN_IF_ERROR(CheckKept(collection, request.granularity, kind));
  QUERN_ASSIGN_OR_RETURN(
      plan.calibration,
      CheckedCalibration(
          *model, is_region ? model->info().regions : model->info().segments,
          // A head's probabilities are its own.
          plan.asks_head ? std::nullopt : request.min_probability));
  for (const auto& [place, text] : request.texts) plan.texts.push_back(place);
  if (is_region && request.texts.size() == 1) {
    plan.phrase = ParseSpatialPhrase(request.texts.front().second);
  }
  if (request.rerank != nullptr) {
    plan.depth = request.rerank->depth;
    plan.weight = request.rerank->weight.value_or(plan.weight);
  }
  plan.index = collection.part_index();
  if (plan.index != nullptr) plan.index_missing = plan.index->missing();
  if (!plan.index_missing.empty()) plan.index = nullptr;
  return plan;
}

absl::StatusOr<ItemsByParts> FindByParts(const RequestContext& context,
                                         const PartPlan& plan,
                                         const Collection& collection,
                                         absl::Span<const float> query,
                                         std::shared_ptr<const Filter> filter,
                                         int64_t k) {
  std::vector<float> unit(query.begin(), query.end());
  const double length = std::sqrt(Dot(query, query));
  if (length > 0) {
    for (float& value : unit) value = static_cast<float>(value / length);
  }
  ItemsByParts result;
  QUERN_ASSIGN_OR_RETURN(
      const std::vector<ScoredId> found,
      plan.index->Search(context, unit,
                         {.k = k,
                          .filter = std::move(filter),
                          .modalities = absl::MakeConstSpan(&plan.modality, 1)},
                         &result.stats));
  if (result.stats.items > 0 &&
      result.stats.without_parts == result.stats.items) {
    return NoneKept(KindOf(plan.granularity), result.stats.items);
  }
  QUERN_ASSIGN_OR_RETURN(result.items, ScoreWhole(collection, query, found));
  return result;
}

std::string ExplainByParts(const PartPlan& plan, const PartIndexStats& stats) {
  return absl::StrCat("Compared the ", stats.parts, " parts of ",
                      stats.items - stats.without_parts, " ",
                      KindOf(plan.granularity).items,
                      " one by one in the index of parts.");
}

void GroundShortList(FineStage* stage, const RequestContext& context,
                     const std::shared_ptr<const PartList>& list,
                     std::function<void(absl::StatusOr<FineScores>)> done) {
  if (stage == nullptr) return done(GroundShare(context, *list, 0, 1));
  const auto count = std::clamp<size_t>(list->ids.size() / kItemsPerThread, 1,
                                        static_cast<size_t>(stage->threads()));
  const auto shares = std::make_shared<Shares>(count, std::move(done));
  for (size_t i = 0; i < count; ++i) {
    stage->Run(
        context,
        [list, i, count](const RequestContext& share_context) {
          return GroundShare(share_context, *list, i, count);
        },
        [shares](absl::StatusOr<FineScores> share) {
          shares->Add(std::move(share));
        });
  }
}

std::vector<FoundPart> RankParts(const PartRanking& ranking,
                                 absl::Span<const ScoredId> found,
                                 absl::Span<const float> cosines,
                                 const FineScores& scores) {
  std::vector<FoundPart> parts;
  const float weight = ranking.weight;
  const auto add = [&](FoundPart part) {
    const std::optional<float>& probability = part.evidence.probability;
    if (part.score < ranking.min_score.value_or(part.score)) return;
    if (probability.value_or(0) < ranking.min_probability.value_or(0)) return;
    parts.push_back(std::move(part));
  };
  absl::flat_hash_set<absl::string_view> left_out(scores.gone.begin(),
                                                  scores.gone.end());
  left_out.insert(scores.without_parts.begin(), scores.without_parts.end());
  for (size_t i = 0; i < found.size(); ++i) {
    const ScoredId& hit = found[i];
    const auto known = scores.scores.find(hit.id);
    if (known == scores.scores.end()) {
      if (left_out.contains(hit.id)) continue;
      add({.id = hit.id,
           .coarse = hit.score,
           .score = cosines[i],
           .evidence = {.score = cosines[i]}});
      continue;
    }
    for (const Evidence& evidence : known->second.evidence) {
      add({.id = hit.id,
           .coarse = hit.score,
           .fine = evidence.score,
           .score = (1 - weight) * cosines[i] + weight * evidence.score,
           .evidence = evidence});
    }
  }
  std::stable_sort(
      parts.begin(), parts.end(), [](const FoundPart& a, const FoundPart& b) {
        return a.score != b.score ? a.score > b.score : a.id < b.id;
      });
  return parts;
}

absl::StatusOr<std::vector<std::string>> PartsMissing(
    const PartPlan& plan, const PartRanking& ranking,
    absl::Span<const ScoredId> found, const FineScores& scores,
    const PartIndexStats& stats) {
  const KindOfPart& kind = KindOf(plan.granularity);
  const size_t bare = scores.without_parts.size();
  if (bare > 0 && bare == found.size() - scores.gone.size()) {
    return NoneKept(kind, static_cast<int64_t>(bare));
  }
  std::vector<std::string> reasons = scores.degraded_reasons;
  const auto left_out = [&](absl::string_view stage, int64_t lacking,
                            int64_t all) {
    if (lacking == 0) return;
    reasons.push_back(absl::StrCat(stage, ": of ", all, " ", kind.items, ", ",
                                   lacking, " keep no ", kind.feature,
                                   " and are left out: index them again"));
  };
  if (!plan.index_missing.empty()) {
    reasons.push_back(absl::StrCat("search: ", plan.index_missing, "; ",
                                   kind.items,
                                   " are found as a whole meanwhile"));
  }
  left_out("search", stats.without_parts, stats.items);
  left_out("ground", static_cast<int64_t>(bare),
           static_cast<int64_t>(found.size()));
  const size_t late =
      found.size() - scores.scores.size() - scores.gone.size() - bare;
  if (late > 0) {
    reasons.push_back(absl::StrCat(
        "ground: ", late, " of ", found.size(), " ", kind.items,
        " were not looked into",
        scores.degraded_reasons.empty() ? " for lack of time" : "",
        "; they are ",
        ranking.min_probability.value_or(0) > 0 ? "left out"
                                                : "given as a whole"));
  }
  return reasons;
}

}  // namespace quern

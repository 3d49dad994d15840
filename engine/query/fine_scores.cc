#include "engine/query/fine_scores.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/item_parts.h"
#include "engine/store/item_store.h"
#include "quern/v1/common.pb.h"

namespace quern {
namespace {

// How many have no score, and why the first has not.
class Misses {
 public:
  void Add(const std::string& id, absl::string_view why) {
    if (count_++ == 0) first_ = absl::StrCat(Quoted(id), ": ", why);
  }
  void TellOf(size_t all, std::vector<std::string>& reasons) const {
    if (count_ == 0) return;
    reasons.push_back(absl::StrCat("rerank: of ", all, " candidates, ", count_,
                                   " got no score and keep their coarse ones "
                                   "(",
                                   first_, count_ > 1 ? ", ..." : "", ")"));
  }

 private:
  int64_t count_ = 0;
  std::string first_;
};

// Fills in what is read of `item`. Errors: why the candidate cannot be scored.
absl::Status ReadCandidate(const ShortList& list, const ScoreNeeds& needs,
                           Item item, int64_t& media_bytes,
                           ScoreCandidate& candidate) {
  candidate.id = std::move(item.id);
  candidate.modality = item.modality;
  candidate.embedding = std::move(item.embedding);
  if (!item.parts.empty()) {
    QUERN_ASSIGN_OR_RETURN(candidate.parts, DecodeParts(item.parts));
  }
  if (!needs.media) return absl::OkStatus();
  if (item.media_uri.empty()) {
    return absl::FailedPreconditionError(
        "it has no media_uri by which the scorer could be shown it");
  }
  QUERN_ASSIGN_OR_RETURN(candidate.media, list.read_media(item.media_uri));
  media_bytes += static_cast<int64_t>(candidate.media.size());
  if (media_bytes > list.max_media_bytes) {
    media_bytes -= static_cast<int64_t>(candidate.media.size());
    return absl::ResourceExhaustedError(
        absl::StrCat("the media of those before it fills a request of ",
                     list.max_media_bytes, " bytes"));
  }
  return absl::OkStatus();
}

// What the scorer is sent, of as many as it takes.
absl::StatusOr<ScoreRequest> ReadShortList(const RequestContext& context,
                                           const ShortList& list,
                                           const ScorerInfo& info,
                                           Misses& misses) {
  const ScoreNeeds& needs = info.needs;
  if (needs.text && list.request.query.text.empty()) {
    return InvalidField("query.parts",
                        absl::StrCat("scorer ", info.name,
                                     " reads the query's text, and there is "
                                     "none"));
  }
  const auto taken = std::min<size_t>(
      list.ids.size(),
      info.max_candidates > 0 ? info.max_candidates : kMaxScoreCandidates);
  for (size_t i = taken; i < list.ids.size(); ++i) {
    misses.Add(list.ids[i], absl::StrCat("scorer ", info.name, " takes ", taken,
                                         " candidates at once"));
  }
  QUERN_ASSIGN_OR_RETURN(
      std::vector<std::optional<Item>> items,
      list.collection->store().Get(absl::MakeConstSpan(list.ids).first(taken),
                                   {.payload = false,
                                    .embedding = needs.embedding,
                                    .parts = needs.grid || needs.frames}));
  ScoreRequest request = list.request;
  request.candidates.reserve(items.size());
  int64_t media_bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    // One that was deleted since the index was searched is no hit.
    if (!items[i].has_value()) continue;
    QUERN_RETURN_IF_ERROR(context.Check("rerank"));
    ScoreCandidate candidate;
    const absl::Status status = ReadCandidate(list, needs, *std::move(items[i]),
                                              media_bytes, candidate);
    if (status.ok()) {
      request.candidates.push_back(std::move(candidate));
    } else {
      misses.Add(list.ids[i], status.message());
    }
  }
  return request;
}

}  // namespace

absl::StatusOr<FineScores> ScoreShortList(const RequestContext& context,
                                          const Scorer& scorer,
                                          const ShortList& list) {
  QUERN_ASSIGN_OR_RETURN(const ScorerInfo info, scorer.Describe(context));
  Misses misses;
  QUERN_ASSIGN_OR_RETURN(const ScoreRequest request,
                         ReadShortList(context, list, info, misses));
  QUERN_ASSIGN_OR_RETURN(std::vector<CandidateScore> scores,
                         scorer.Score(context, request));
  FineScores result;
  for (size_t i = 0; i < scores.size(); ++i) {
    const ScoreCandidate& candidate = request.candidates[i];
    if (!scores[i].status.ok()) {
      misses.Add(candidate.id, scores[i].status.message());
      continue;
    }
    result.scores[candidate.id] = {
        .score = scores[i].score,
        .is_video = candidate.modality == v1::MODALITY_VIDEO,
        .probability = scores[i].probability,
        .evidence = std::move(scores[i].evidence)};
  }
  misses.TellOf(list.ids.size(), result.degraded_reasons);
  return result;
}

}  // namespace quern

#include "engine/query/rerank.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/status_macros.h"
#include "engine/embed/frame_pooling.h"

namespace quern {
namespace {

// Between two looks at the clock.
constexpr size_t kCandidatesPerCheck = 32;
// Of the time left to the call, what the stage may take.
constexpr double kShareOfDeadline = 0.8;

// How much each part counts in the mean: PoolFramesForQuery()'s rule.
std::vector<float> WeightsOf(const PartsView& parts,
                             absl::Span<const float> cosines) {
  const float best = *std::max_element(cosines.begin(), cosines.end());
  std::vector<float> weights(cosines.size());
  for (size_t row = 0; row < weights.size(); ++row) {
    weights[row] =
        std::exp((cosines[row] - best) / static_cast<float>(kFrameTemperature));
    if (!parts.samples.empty()) {
      weights[row] *= static_cast<float>(parts.samples[row]);
    }
  }
  return weights;
}

// The cosine of `query` with PoolFramesForQuery() of the rows.
absl::StatusOr<float> PooledCosine(const PartsView& parts,
                                   absl::Span<const float> cosines,
                                   absl::Span<const float> query) {
  const std::vector<float> sum = WeightedRows(parts, WeightsOf(parts, cosines));
  double product = 0;
  double squares = 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    product += double{sum[i]} * query[i];
    squares += double{sum[i]} * sum[i];
  }
  if (!(squares > 0)) {
    return absl::InvalidArgumentError("the features cancel out");
  }
  return static_cast<float>(product / std::sqrt(squares));
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

template <typename Value>
Moments MomentsOf(absl::Span<Candidate* const> candidates, Value value) {
  Moments moments;
  const auto count = static_cast<double>(candidates.size());
  for (const Candidate* candidate : candidates) {
    moments.mean += value(*candidate) / count;
  }
  double squares = 0;
  for (const Candidate* candidate : candidates) {
    const double difference = value(*candidate) - moments.mean;
    squares += difference * difference;
  }
  moments.deviation = std::sqrt(squares / count);
  return moments;
}

void BlendKind(float weight, absl::Span<Candidate* const> candidates) {
  if (candidates.empty()) return;
  const Moments coarse =
      MomentsOf(candidates, [](const Candidate& c) { return c.coarse; });
  const Moments fine =
      MomentsOf(candidates, [](const Candidate& c) { return *c.fine; });
  // Rounding alone must not be blown up to an opinion.
  constexpr double kSmallestDeviation = 1e-6;
  if (fine.deviation < kSmallestDeviation) return;
  const double scale = coarse.deviation / fine.deviation;
  for (Candidate* candidate : candidates) {
    const double moved = coarse.mean + (*candidate->fine - fine.mean) * scale;
    candidate->score =
        static_cast<float>((1.0 - weight) * candidate->coarse + weight * moved);
  }
}

std::vector<Candidate> CandidatesOf(absl::Span<const ScoredId> found) {
  std::vector<Candidate> candidates;
  candidates.reserve(found.size());
  for (const ScoredId& hit : found) {
    candidates.push_back(
        {.id = hit.id, .coarse = hit.score, .score = hit.score});
  }
  return candidates;
}

// The first that are scored.
absl::Span<Candidate> PoolOf(const RerankOptions& options,
                             std::vector<Candidate>& candidates) {
  return absl::MakeSpan(candidates)
      .first(std::min<size_t>(options.depth, candidates.size()));
}

void SortByScore(std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) {
              return a.score != b.score ? a.score > b.score : a.id < b.id;
            });
}

// Errors: kDeadlineExceeded when `late` has come.
absl::Status CheckTime(const RequestContext& context, absl::Time late) {
  QUERN_RETURN_IF_ERROR(context.Check("rerank"));
  if (context.clock().Now() <= late) return absl::OkStatus();
  return absl::DeadlineExceededError("rerank");
}

// What cannot be read or compared stays without a fine score.
void ScoreOne(const PartScorer& scorer, const absl::StatusOr<PartsView>& parts,
              Candidate& candidate) {
  if (!parts.ok()) return;
  candidate.is_video = parts->shape.frames > 0;
  const absl::StatusOr<PartScorer::Found> found = scorer.Find(*parts);
  if (!found.ok()) return;
  candidate.fine = found->score;
  candidate.evidence = {found->evidence};
}

// Scores what has parts; returns how many of `candidates` have none.
// Errors: kDeadlineExceeded when `late` has come; those of the store.
absl::StatusOr<int64_t> ScoreAll(const RequestContext& context, absl::Time late,
                                 const PartScorer& scorer,
                                 const ItemStore& store,
                                 absl::Span<Candidate> candidates) {
  std::vector<std::string> ids;
  ids.reserve(candidates.size());
  for (const Candidate& candidate : candidates) ids.push_back(candidate.id);
  PartsReader reader;
  size_t scored = 0;
  absl::Status status = CheckTime(context, late);
  QUERN_RETURN_IF_ERROR(status);
  QUERN_RETURN_IF_ERROR(
      store.VisitParts(ids, [&](size_t i, absl::string_view bytes) {
        if (++scored % kCandidatesPerCheck == 0) {
          status = CheckTime(context, late);
          if (!status.ok()) return false;
        }
        ScoreOne(scorer, reader.Read(bytes), candidates[i]);
        return true;
      }));
  QUERN_RETURN_IF_ERROR(status);
  return std::count_if(
      candidates.begin(), candidates.end(),
      [](const Candidate& candidate) { return !candidate.fine.has_value(); });
}

}  // namespace

absl::StatusOr<PartScorer> PartScorer::BestPart(std::vector<float> query) {
  PartScorer scorer;
  double squares = 0;
  for (const float value : query) squares += double{value} * value;
  if (!(squares > 0)) return absl::InvalidArgumentError("the query is zero");
  for (float& value : query) {
    value = static_cast<float>(value / std::sqrt(squares));
  }
  scorer.cosines_ = PartCosines(query);
  scorer.query_ = std::move(query);
  return scorer;
}

absl::StatusOr<PartScorer> PartScorer::ByTokens(MatrixView tokens,
                                                std::vector<float> query) {
  QUERN_ASSIGN_OR_RETURN(PartScorer scorer, BestPart(std::move(query)));
  QUERN_ASSIGN_OR_RETURN(scorer.tokens_, LateInteraction::Create(tokens));
  return scorer;
}

absl::string_view PartScorer::stage() const {
  return tokens_.has_value() ? "late_interaction" : "best_part";
}

float PartScorer::default_weight() const {
  return tokens_.has_value() ? kDefaultLateInteractionWeight
                             : kDefaultBestPartWeight;
}

absl::StatusOr<PartScorer::Found> PartScorer::Find(
    const PartsView& parts) const {
  thread_local std::vector<float> cosines;
  if (parts.features.columns != cosines_.dimension()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the features have ", parts.features.columns,
                     " dimensions; the query has ", cosines_.dimension()));
  }
  cosines_.Of(parts, cosines);
  Found found;
  if (!tokens_.has_value()) {
    QUERN_ASSIGN_OR_RETURN(found.score, PooledCosine(parts, cosines, query_));
  } else if (parts.compressed != nullptr) {
    found.score = tokens_->Score(*parts.compressed);
  } else {
    found.score = tokens_->Score(parts.features);
  }
  const auto best = std::max_element(cosines.begin(), cosines.end());
  // Of numbers that are finite, though nothing that was written.
  if (!std::isfinite(found.score) || !std::isfinite(*best)) {
    return absl::InvalidArgumentError("the features are too large");
  }
  found.evidence = EvidenceOf(parts, best - cosines.begin());
  found.evidence.score = *best;
  return found;
}

absl::StatusOr<float> PartScorer::Score(const PartsView& parts) const {
  QUERN_ASSIGN_OR_RETURN(const Found found, Find(parts));
  return found.score;
}

Evidence PartScorer::BestEvidence(const PartsView& parts) const {
  const absl::StatusOr<Found> found = Find(parts);
  return found.ok() ? found->evidence : Evidence();
}

void BlendScores(float weight, absl::Span<Candidate> candidates) {
  std::vector<Candidate*> pictures;
  std::vector<Candidate*> videos;
  for (Candidate& candidate : candidates) {
    candidate.score = candidate.coarse;
    if (!candidate.fine.has_value()) continue;
    (candidate.is_video ? videos : pictures).push_back(&candidate);
  }
  BlendKind(weight, pictures);
  BlendKind(weight, videos);
}

absl::StatusOr<Reranked> Rerank(const RequestContext& context,
                                const RerankOptions& options,
                                const PartScorer& scorer,
                                const ItemStore& store,
                                absl::Span<const ScoredId> found) {
  const absl::Time now = context.clock().Now();
  const absl::Time late = now + (context.deadline() - now) * kShareOfDeadline;
  Reranked result{.candidates = CandidatesOf(found)};
  const absl::Span<Candidate> pool = PoolOf(options, result.candidates);
  const absl::StatusOr<int64_t> missing =
      ScoreAll(context, late, scorer, store, pool);
  if (absl::IsDeadlineExceeded(missing.status())) {
    for (Candidate& candidate : pool) {
      candidate.fine.reset();
      candidate.evidence.clear();
    }
    result.degraded_reasons.push_back(
        "rerank: there was no time for it; the hits are those of the coarse "
        "search");
    return result;
  }
  QUERN_RETURN_IF_ERROR(missing.status());
  if (*missing > 0) {
    result.degraded_reasons.push_back(absl::StrCat(
        "rerank: of ", pool.size(), " candidates, ", *missing,
        " have no features of their parts and keep their coarse scores: index "
        "them again"));
  }
  BlendScores(options.weight.value_or(scorer.default_weight()), pool);
  SortByScore(result.candidates);
  return result;
}

Reranked RerankBy(const RerankOptions& options,
                  const absl::StatusOr<FineScores>& scores,
                  absl::Span<const ScoredId> found) {
  Reranked result{.candidates = CandidatesOf(found)};
  if (!scores.ok()) {
    result.degraded_reasons.push_back(absl::StrCat(
        "rerank: ",
        scores.status().ToString(absl::StatusToStringMode::kWithNoExtraData),
        "; the hits are those of the coarse search"));
    return result;
  }
  result.degraded_reasons = scores->degraded_reasons;
  const absl::Span<Candidate> pool = PoolOf(options, result.candidates);
  for (Candidate& candidate : pool) {
    const auto known = scores->scores.find(candidate.id);
    if (known == scores->scores.end()) continue;
    candidate.fine = known->second.score;
    candidate.is_video = known->second.is_video;
    candidate.probability = known->second.probability;
    candidate.evidence = known->second.evidence;
  }
  BlendScores(options.weight.value_or(kDefaultScorerWeight), pool);
  SortByScore(result.candidates);
  return result;
}

}  // namespace quern

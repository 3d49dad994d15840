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

// Within 0.005: `query` is quantised too, since sums of integers, unlike those
// of floats, may be added up in any order and so several at a time.
std::vector<float> RowCosines(const QuantizedFeatures& features,
                              const QuantizedFeatures& query) {
  std::vector<float> cosines(features.rows);
  for (int64_t row = 0; row < features.rows; ++row) {
    const int8_t* const values = features.row(row).data();
    const int8_t* const others = query.values.data();
    int32_t sum = 0;
    for (int64_t i = 0; i < features.columns; ++i) {
      sum += int32_t{values[i]} * int32_t{others[i]};
    }
    cosines[row] =
        features.scales[row] * query.scales[0] * static_cast<float>(sum);
  }
  return cosines;
}

// The cosine of `query` with PoolFramesForQuery() of the rows.
absl::StatusOr<float> PooledCosine(const QuantizedFeatures& features,
                                   absl::Span<const int64_t> samples,
                                   absl::Span<const float> cosines,
                                   absl::Span<const float> query) {
  const float best = *std::max_element(cosines.begin(), cosines.end());
  std::vector<float> sum(features.columns);
  for (int64_t row = 0; row < features.rows; ++row) {
    float weight =
        features.scales[row] *
        std::exp((cosines[row] - best) / static_cast<float>(kFrameTemperature));
    if (!samples.empty()) weight *= static_cast<float>(samples[row]);
    const int8_t* const values = features.row(row).data();
    for (int64_t i = 0; i < features.columns; ++i) {
      sum[i] += weight * static_cast<float>(values[i]);
    }
  }
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

// Scores what has parts; returns how many of the first `depth` have none.
// Errors: kDeadlineExceeded when `late` has come.
absl::StatusOr<int64_t> ScoreAll(const RequestContext& context, absl::Time late,
                                 const PartScorer& scorer,
                                 absl::Span<Candidate> candidates) {
  int64_t missing = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (i % kCandidatesPerCheck == 0) {
      QUERN_RETURN_IF_ERROR(context.Check("rerank"));
      if (context.clock().Now() > late) {
        return absl::DeadlineExceededError("rerank");
      }
    }
    Candidate& candidate = candidates[i];
    const absl::StatusOr<PartFeatures> parts = DecodeParts(candidate.parts);
    if (parts.ok()) {
      candidate.is_video = parts->shape.frames > 0;
      if (const auto score = scorer.Score(*parts); score.ok()) {
        candidate.fine = *score;
      }
    }
    if (!candidate.fine.has_value()) ++missing;
  }
  return missing;
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
  scorer.quantized_ =
      QuantizeUnitRows({.data = query.data(),
                        .rows = 1,
                        .columns = static_cast<int64_t>(query.size())});
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

absl::StatusOr<float> PartScorer::Score(const PartFeatures& parts) const {
  if (parts.features.columns != static_cast<int64_t>(query_.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the features have ", parts.features.columns,
                     " dimensions; the query has ", query_.size()));
  }
  if (tokens_.has_value()) return tokens_->Score(parts.features);
  return PooledCosine(parts.features, parts.samples,
                      RowCosines(parts.features, quantized_), query_);
}

Evidence PartScorer::BestEvidence(const PartFeatures& parts) const {
  const std::vector<float> cosines = RowCosines(parts.features, quantized_);
  const auto best = std::max_element(cosines.begin(), cosines.end());
  Evidence evidence = EvidenceOf(parts, best - cosines.begin());
  evidence.score = *best;
  return evidence;
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
  std::vector<std::string> ids;
  ids.reserve(pool.size());
  for (const Candidate& candidate : pool) ids.push_back(candidate.id);
  QUERN_ASSIGN_OR_RETURN(std::vector<std::optional<Item>> items,
                         store.Get(ids, {.payload = false, .parts = true}));
  for (size_t i = 0; i < pool.size(); ++i) {
    if (items[i].has_value()) pool[i].parts = std::move(items[i]->parts);
  }
  const absl::StatusOr<int64_t> missing = ScoreAll(context, late, scorer, pool);
  if (absl::IsDeadlineExceeded(missing.status())) {
    for (Candidate& candidate : pool) candidate.fine.reset();
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

#include "engine/query/feature_scorer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/presence.h"
#include "engine/query/grounding.h"
#include "engine/query/part_grounder.h"
#include "engine/query/rerank.h"

namespace quern {
namespace {

// Between two looks at the deadline: about a millisecond of cosines.
constexpr size_t kCandidatesPerCheck = 32;

using ScoreOne = std::function<CandidateScore(const ScoreCandidate&)>;

CandidateScore NoScore(absl::Status status) {
  CandidateScore score;
  score.status = std::move(status);
  return score;
}

CandidateScore Lacks(absl::string_view feature) {
  return NoScore(
      InvalidField(feature, "is missing; what is asked for needs it"));
}

// `embedding` with the length one.
std::vector<float> Unit(std::vector<float> embedding) {
  double squares = 0;
  for (const float value : embedding) squares += double{value} * value;
  for (float& value : embedding) {
    value = static_cast<float>(value / std::sqrt(squares));
  }
  return embedding;
}

ScoreOne ByEmbedding(const std::vector<float>& query) {
  return [query = Unit(query)](const ScoreCandidate& candidate) {
    if (candidate.embedding.empty()) return Lacks("embedding");
    if (candidate.embedding.size() != query.size()) {
      return NoScore(InvalidField(
          "embedding",
          absl::StrCat("has ", candidate.embedding.size(),
                       " values; the query's has ", query.size())));
    }
    double product = 0;
    double squares = 0;
    for (size_t i = 0; i < query.size(); ++i) {
      product += double{query[i]} * candidate.embedding[i];
      squares += double{candidate.embedding[i]} * candidate.embedding[i];
    }
    if (!std::isfinite(squares) || squares == 0) {
      return NoScore(InvalidField("embedding", "is zero or not finite"));
    }
    CandidateScore score;
    score.score =
        static_cast<float>(std::clamp(product / std::sqrt(squares), -1.0, 1.0));
    return score;
  };
}

ScoreOne ByParts(PartScorer scorer) {
  return [scorer = std::move(scorer)](const ScoreCandidate& candidate) {
    if (!candidate.parts.has_value()) return Lacks("grid or frames");
    const absl::StatusOr<PartScorer::Found> found =
        scorer.Find(*candidate.parts);
    if (!found.ok()) return NoScore(found.status());
    CandidateScore score;
    score.score = found->score;
    score.evidence.push_back(found->evidence);
    return score;
  };
}

absl::StatusOr<ScoreOne> Reranker(const ScoreRequest& request) {
  const ScoreQuery& query = request.query;
  if (query.tokens.rows > 0) {
    const Matrix tokens = Dequantize(query.tokens);
    absl::StatusOr<PartScorer> scorer =
        PartScorer::ByTokens(tokens.view(), query.embedding);
    if (!scorer.ok()) {
      return InvalidField("query.tokens", scorer.status().message());
    }
    return ByParts(*std::move(scorer));
  }
  const bool has_parts =
      std::any_of(request.candidates.begin(), request.candidates.end(),
                  [](const ScoreCandidate& candidate) {
                    return candidate.parts.has_value();
                  });
  if (!has_parts) return ByEmbedding(query.embedding);
  QUERN_ASSIGN_OR_RETURN(PartScorer scorer,
                         PartScorer::BestPart(query.embedding));
  return ByParts(std::move(scorer));
}

// REGIONS or SEGMENTS. A candidate without parts lacks `feature`.
ScoreOne PartFinder(PartGrounder grounder, absl::string_view feature) {
  return [grounder = std::move(grounder),
          feature](const ScoreCandidate& candidate) {
    if (!candidate.parts.has_value()) return Lacks(feature);
    return grounder.Ground(*candidate.parts);
  };
}

// That of the loaded model which made the features.
std::optional<PresenceCalibration> CalibrationFor(
    const ModelRegistry* models, const std::string& fingerprint,
    std::optional<CalibrationSpec> ModelInfo::*kind) {
  if (models == nullptr || fingerprint.empty()) return std::nullopt;
  for (const std::shared_ptr<const Model>& model : models->List()) {
    const ModelInfo& info = model->info();
    if (info.fingerprint != fingerprint) continue;
    if ((info.*kind).has_value()) return CalibrationOf(*(info.*kind));
  }
  return std::nullopt;
}

PartGrounderOptions OptionsFor(
    const ScoreRequest& request, const ModelRegistry* models,
    std::optional<CalibrationSpec> ModelInfo::*kind) {
  return {
      .max_parts = request.max_evidence,
      .nms_iou = request.nms_iou,
      .calibration = CalibrationFor(models, request.model_fingerprint, kind)};
}

}  // namespace

absl::StatusOr<ScorerInfo> FeatureScorer::Describe(
    const RequestContext& /*context*/) const {
  ScorerInfo info{
      .name = "quern",
      .version = version_,
      .tasks = {ScoreTask::kRerank, ScoreTask::kRegions, ScoreTask::kSegments},
      .needs = {.embedding = true, .grid = true, .frames = true}};
  if (models_ != nullptr) {
    for (const std::shared_ptr<const Model>& model : models_->List()) {
      info.needs.tokens |= model->info().Has("text.tokens");
    }
  }
  return info;
}

absl::StatusOr<std::vector<CandidateScore>> FeatureScorer::Score(
    const RequestContext& context, const ScoreRequest& request) const {
  QUERN_RETURN_IF_ERROR(context.Check("scoring"));
  std::vector<CandidateScore> scores;
  if (request.candidates.empty()) return scores;
  if (request.query.embedding.empty()) {
    return InvalidField("query.embedding", "is missing; this scorer needs it");
  }
  ScoreOne score_one;
  switch (request.task) {
    case ScoreTask::kRerank: {
      QUERN_ASSIGN_OR_RETURN(score_one, Reranker(request));
      break;
    }
    case ScoreTask::kRegions:
      score_one =
          PartFinder(PartGrounder::Regions(
                         {{.embedding = Unit(request.query.embedding)}},
                         OptionsFor(request, models_, &ModelInfo::regions)),
                     "grid");
      break;
    case ScoreTask::kSegments:
      score_one =
          PartFinder(PartGrounder::Segments(
                         Unit(request.query.embedding),
                         OptionsFor(request, models_, &ModelInfo::segments)),
                     "frames");
      break;
  }
  scores.reserve(request.candidates.size());
  for (const ScoreCandidate& candidate : request.candidates) {
    if (scores.size() % kCandidatesPerCheck == kCandidatesPerCheck - 1) {
      QUERN_RETURN_IF_ERROR(context.Check("scoring"));
    }
    scores.push_back(score_one(candidate));
  }
  return scores;
}

}  // namespace quern

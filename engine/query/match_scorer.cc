#include "engine/query/match_scorer.h"

#include <cmath>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/media/preprocess.h"

namespace quern {
namespace {

// As many as share the cost of a pass; more would only be later.
constexpr size_t kPicturesPerPass = 8;

}  // namespace

absl::StatusOr<ScorerInfo> MatchScorer::Describe(
    const RequestContext& /*context*/) const {
  return ScorerInfo{.name = model_->info().name,
                    .version = model_->info().version,
                    .tasks = {ScoreTask::kRerank},
                    .needs = {.media = true, .text = true}};
}

absl::StatusOr<std::vector<float>> MatchScorer::Pixels(
    const ScoreCandidate& candidate) const {
  if (candidate.media.empty()) {
    return InvalidField("media", "is missing; a match head looks at pictures");
  }
  const ImagePreprocessing& preprocessing = model_->preprocessing();
  QUERN_ASSIGN_OR_RETURN(Image image,
                         images_->Decode(candidate.media, preprocessing.width,
                                         preprocessing.height));
  std::vector<float> pixels(3 * preprocessing.height * preprocessing.width);
  Normalise(Fit(std::move(image), preprocessing).rgb, preprocessing,
            absl::MakeSpan(pixels));
  return pixels;
}

absl::StatusOr<std::vector<CandidateScore>> MatchScorer::Score(
    const RequestContext& context, const ScoreRequest& request) const {
  if (request.task != ScoreTask::kRerank) {
    return absl::UnimplementedError("task: a match head does RERANK only");
  }
  if (request.query.text.empty()) {
    return InvalidField("query.text", "is empty; a match head reads it");
  }
  const Tokens text = model_->tokenizer()->Tokenize(request.query.text);
  std::vector<CandidateScore> scores(request.candidates.size());
  size_t next = 0;
  while (next < scores.size()) {
    QUERN_RETURN_IF_ERROR(context.Check("scoring"));
    PixelBatch batch{.height = model_->preprocessing().height,
                     .width = model_->preprocessing().width};
    std::vector<size_t> rows;  // Of the batch, in `scores`.
    for (; next < scores.size() && rows.size() < kPicturesPerPass; ++next) {
      absl::StatusOr<std::vector<float>> pixels =
          Pixels(request.candidates[next]);
      if (!pixels.ok()) {
        scores[next].status = pixels.status();
        continue;
      }
      batch.values.insert(batch.values.end(), pixels->begin(), pixels->end());
      rows.push_back(next);
    }
    if (rows.empty()) continue;
    batch.rows = static_cast<int64_t>(rows.size());
    QUERN_ASSIGN_OR_RETURN(
        const std::vector<float> logits,
        model_->encoder().Match(batch, std::vector<Tokens>(rows.size(), text)));
    for (size_t i = 0; i < rows.size(); ++i) scores[rows[i]].score = logits[i];
  }
  return scores;
}

}  // namespace quern

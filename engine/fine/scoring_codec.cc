#include "engine/fine/scoring_codec.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr int kMaxDimension = 4096;
constexpr size_t kMaxTextBytes = 65'536;
constexpr size_t kMaxIdBytes = 512;
constexpr int kMaxRows = 65'536;  // Cells, frames or tokens.
constexpr int64_t kMaxSamples = 1 << 20;
constexpr int64_t kMaxSeconds = 315'576'000'000;  // As protobuf allows.
constexpr int kMaxStatusCode = 16;
// A span may end this much behind the video's end: clients round.
constexpr absl::Duration kSpanTolerance = absl::Milliseconds(1);

bool IsShare(float value) { return value >= 0 && value <= 1; }

google::protobuf::Duration EncodeDuration(absl::Duration duration) {
  google::protobuf::Duration out;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return out;
}

// Null for what is no duration of 0 or more.
std::optional<absl::Duration> DecodeDuration(
    const google::protobuf::Duration& duration) {
  constexpr int32_t kNanosPerSecond = 1'000'000'000;
  if (duration.seconds() < 0 || duration.seconds() > kMaxSeconds ||
      duration.nanos() < 0 || duration.nanos() >= kNanosPerSecond) {
    return std::nullopt;
  }
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

void EncodeVector(const std::vector<float>& values, v1::Vector* out) {
  out->mutable_values()->Assign(values.begin(), values.end());
}

void EncodeMatrix(const QuantizedFeatures& features, v1::QuantizedMatrix* out) {
  out->set_rows(static_cast<int32_t>(features.rows));
  out->set_columns(static_cast<int32_t>(features.columns));
  out->set_values(reinterpret_cast<const char*>(features.values.data()),
                  features.values.size());
  out->mutable_scales()->Assign(features.scales.begin(), features.scales.end());
}

void EncodeCandidate(const ScoreCandidate& candidate, const ScoreNeeds& needs,
                     v1::ScoringCandidate* out) {
  out->set_id(candidate.id);
  out->set_modality(static_cast<v1::Modality>(candidate.modality));
  if (needs.embedding && !candidate.embedding.empty()) {
    EncodeVector(candidate.embedding, out->mutable_embedding());
  }
  if (needs.media && !candidate.media.empty()) {
    out->mutable_media()->set_content(candidate.media);
  }
  if (!candidate.parts.has_value()) return;
  const PartFeatures& parts = *candidate.parts;
  if (parts.shape.frames == 0) {
    if (!needs.grid) return;
    EncodeMatrix(parts.features, out->mutable_grid());
    out->set_grid_height(static_cast<int32_t>(parts.shape.grid_height));
    out->set_grid_width(static_cast<int32_t>(parts.shape.grid_width));
    return;
  }
  *out->mutable_duration() = EncodeDuration(parts.shape.duration);
  if (!needs.frames) return;
  EncodeMatrix(parts.features, out->mutable_frames());
  for (const absl::Duration time : parts.times) {
    *out->add_frame_times() = EncodeDuration(time);
  }
}

v1::ScoringTask EncodeTask(ScoreTask task) {
  switch (task) {
    case ScoreTask::kRegions:
      return v1::SCORING_TASK_REGIONS;
    case ScoreTask::kSegments:
      return v1::SCORING_TASK_SEGMENTS;
    case ScoreTask::kRerank:
      break;
  }
  return v1::SCORING_TASK_RERANK;
}

std::optional<ScoreTask> DecodeTask(int task) {
  switch (task) {
    case v1::SCORING_TASK_UNSPECIFIED:
    case v1::SCORING_TASK_RERANK:
      return ScoreTask::kRerank;
    case v1::SCORING_TASK_REGIONS:
      return ScoreTask::kRegions;
    case v1::SCORING_TASK_SEGMENTS:
      return ScoreTask::kSegments;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<std::vector<float>> DecodeVector(const v1::Vector& vector,
                                                absl::string_view field) {
  const auto& values = vector.values();
  if (values.empty() || values.size() > kMaxDimension) {
    return InvalidField(
        field, absl::StrCat("has ", values.size(), " values; give 1 to ",
                            kMaxDimension));
  }
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  // Squares of floats cannot overflow a double.
  if (!std::isfinite(squares)) {
    return InvalidField(field, "has a value that is not finite");
  }
  if (squares == 0) return InvalidField(field, "is zero");
  return std::vector<float>(values.begin(), values.end());
}

absl::StatusOr<QuantizedFeatures> DecodeMatrix(
    const v1::QuantizedMatrix& matrix, absl::string_view field) {
  const auto check = [&](absl::string_view name, int value, int max) {
    if (value >= 1 && value <= max) return absl::OkStatus();
    return InvalidField(absl::StrCat(field, ".", name),
                        absl::StrCat("is ", value, "; it must be 1 to ", max));
  };
  QUERN_RETURN_IF_ERROR(check("rows", matrix.rows(), kMaxRows));
  QUERN_RETURN_IF_ERROR(check("columns", matrix.columns(), kMaxDimension));
  const size_t size = size_t{1} * matrix.rows() * matrix.columns();
  if (matrix.values().size() != size) {
    return InvalidField(absl::StrCat(field, ".values"),
                        absl::StrCat("has ", matrix.values().size(),
                                     " bytes; rows times columns is ", size));
  }
  if (matrix.scales_size() != matrix.rows()) {
    return InvalidField(
        absl::StrCat(field, ".scales"),
        absl::StrCat("has ", matrix.scales_size(), " values; there are ",
                     matrix.rows(), " rows"));
  }
  for (const float scale : matrix.scales()) {
    if (!(scale >= 0 && scale <= std::numeric_limits<float>::max())) {
      return InvalidField(
          absl::StrCat(field, ".scales"),
          absl::StrCat("has ", scale, "; they must be finite, 0 or more"));
    }
  }
  const auto* values = reinterpret_cast<const int8_t*>(matrix.values().data());
  QuantizedFeatures features{
      .rows = matrix.rows(),
      .columns = matrix.columns(),
      .values = {values, values + size},
      .scales = {matrix.scales().begin(), matrix.scales().end()}};
  // The kernels negate values.
  if (std::find(features.values.begin(), features.values.end(),
                std::numeric_limits<int8_t>::min()) != features.values.end()) {
    return InvalidField(absl::StrCat(field, ".values"),
                        "has a -128; they must be -127 to 127");
  }
  return features;
}

// How often each frame is shown, in the shortest time between two.
std::vector<int64_t> SamplesOf(const std::vector<absl::Duration>& times,
                               absl::Duration duration) {
  std::vector<int64_t> samples(times.size(), 1);
  absl::Duration shortest = absl::InfiniteDuration();
  for (size_t i = 1; i < times.size(); ++i) {
    const absl::Duration shown = times[i] - times[i - 1];
    if (shown > absl::ZeroDuration()) shortest = std::min(shortest, shown);
  }
  if (shortest == absl::InfiniteDuration()) return samples;
  for (size_t i = 0; i < times.size(); ++i) {
    const absl::Duration end =
        i + 1 < times.size() ? times[i + 1] : std::max(times[i], duration);
    const double shown = absl::FDivDuration(end - times[i], shortest);
    samples[i] = std::clamp<int64_t>(
        std::llround(std::min(shown, static_cast<double>(kMaxSamples))), 1,
        kMaxSamples);
  }
  return samples;
}

absl::StatusOr<PartFeatures> DecodeGrid(const v1::ScoringCandidate& candidate) {
  PartFeatures parts;
  QUERN_ASSIGN_OR_RETURN(parts.features,
                         DecodeMatrix(candidate.grid(), "grid"));
  parts.shape.grid_height = candidate.grid_height();
  parts.shape.grid_width = candidate.grid_width();
  if (candidate.grid_height() < 1 || candidate.grid_width() < 1 ||
      parts.shape.grid_height * parts.shape.grid_width != parts.features.rows) {
    return InvalidField("grid", absl::StrCat("has ", parts.features.rows,
                                             " rows; grid_height x grid_width "
                                             "is ",
                                             candidate.grid_height(), " x ",
                                             candidate.grid_width()));
  }
  return parts;
}

absl::StatusOr<PartFeatures> DecodeFrames(
    const v1::ScoringCandidate& candidate) {
  PartFeatures parts;
  QUERN_ASSIGN_OR_RETURN(parts.features,
                         DecodeMatrix(candidate.frames(), "frames"));
  parts.shape.frames = parts.features.rows;
  if (candidate.frame_times_size() != parts.features.rows) {
    return InvalidField(
        "frame_times",
        absl::StrCat("has ", candidate.frame_times_size(),
                     " values; there are ", parts.features.rows, " frames"));
  }
  for (const google::protobuf::Duration& given : candidate.frame_times()) {
    const std::optional<absl::Duration> time = DecodeDuration(given);
    if (!time.has_value() ||
        (!parts.times.empty() && *time < parts.times.back())) {
      return InvalidField(
          absl::StrCat("frame_times[", parts.times.size(), "]"),
          "is negative, no duration, or before the frame before it");
    }
    parts.times.push_back(*time);
  }
  parts.shape.duration = parts.times.back();
  if (candidate.has_duration()) {
    const std::optional<absl::Duration> duration =
        DecodeDuration(candidate.duration());
    if (!duration.has_value()) {
      return InvalidField("duration", "is negative or no duration");
    }
    parts.shape.duration = std::max(parts.shape.duration, *duration);
  }
  parts.samples = SamplesOf(parts.times, parts.shape.duration);
  return parts;
}

absl::StatusOr<ScoreCandidate> DecodeCandidate(
    const v1::ScoringCandidate& message) {
  if (message.id().empty() || message.id().size() > kMaxIdBytes) {
    return InvalidField("id", absl::StrCat("has ", message.id().size(),
                                           " bytes; give 1 to ", kMaxIdBytes));
  }
  ScoreCandidate candidate{.id = message.id(), .modality = message.modality()};
  if (message.has_embedding()) {
    QUERN_ASSIGN_OR_RETURN(candidate.embedding,
                           DecodeVector(message.embedding(), "embedding"));
  }
  if (message.has_grid() && message.has_frames()) {
    return InvalidField("frames", "come together with a grid; give one");
  }
  if (message.has_grid()) {
    QUERN_ASSIGN_OR_RETURN(candidate.parts, DecodeGrid(message));
  }
  if (message.has_frames()) {
    QUERN_ASSIGN_OR_RETURN(candidate.parts, DecodeFrames(message));
  }
  return candidate;
}

absl::Status CheckDimensions(const ScoreRequest& request) {
  const auto dimension = static_cast<int64_t>(request.query.embedding.size());
  const auto check = [&](int64_t columns, absl::string_view field) {
    if (columns == 0 || dimension == 0 || columns == dimension) {
      return absl::OkStatus();
    }
    return InvalidField(
        field, absl::StrCat("has ", columns,
                            " dimensions; query.embedding has ", dimension));
  };
  QUERN_RETURN_IF_ERROR(check(request.query.tokens.columns, "query.tokens"));
  for (size_t i = 0; i < request.candidates.size(); ++i) {
    const ScoreCandidate& candidate = request.candidates[i];
    const std::string path = absl::StrCat("candidates[", i, "].");
    QUERN_RETURN_IF_ERROR(
        check(static_cast<int64_t>(candidate.embedding.size()),
              absl::StrCat(path, "embedding")));
    if (!candidate.parts.has_value()) continue;
    QUERN_RETURN_IF_ERROR(
        check(candidate.parts->features.columns,
              absl::StrCat(path, candidate.parts->shape.frames > 0 ? "frames"
                                                                   : "grid")));
  }
  return absl::OkStatus();
}

absl::Status DecodeOptions(const v1::ScoreRequest& message,
                           ScoreRequest& request) {
  const std::optional<ScoreTask> task = DecodeTask(message.task());
  if (!task.has_value()) {
    return InvalidField("task", absl::StrCat("is ", int{message.task()},
                                             "; it must be RERANK, REGIONS or "
                                             "SEGMENTS"));
  }
  request.task = *task;
  if (message.has_max_evidence()) {
    request.max_evidence = message.max_evidence();
    if (request.max_evidence < 1 || request.max_evidence > kMaxScoreEvidence) {
      return InvalidField(
          "max_evidence",
          absl::StrCat("is ", request.max_evidence, "; it must be 1 to ",
                       kMaxScoreEvidence));
    }
  }
  if (message.has_nms_iou()) {
    request.nms_iou = message.nms_iou();
    if (!(request.nms_iou > 0 && request.nms_iou <= 1)) {
      return InvalidField("nms_iou",
                          absl::StrCat("is ", message.nms_iou(),
                                       "; it must be above 0, at most 1"));
    }
  }
  request.model_name = message.model().name();
  request.model_version = message.model().version();
  request.model_fingerprint = message.model().fingerprint();
  return absl::OkStatus();
}

// What a scorer must not answer.
absl::Status Nonsense(absl::string_view field, absl::string_view message) {
  return absl::DataLossError(absl::StrCat(field, " ", message));
}

absl::StatusOr<Evidence> DecodeEvidence(const ScoreCandidate& candidate,
                                        const v1::Evidence& message,
                                        const std::string& path) {
  Evidence evidence{.score = message.score()};
  if (!std::isfinite(message.score())) {
    return Nonsense(absl::StrCat(path, ".score"), "is not finite");
  }
  if (message.has_probability()) {
    if (!IsShare(message.probability())) {
      return Nonsense(
          absl::StrCat(path, ".probability"),
          absl::StrCat("is ", message.probability(), ", not 0 to 1"));
    }
    evidence.probability = message.probability();
  }
  if (message.has_box()) {
    const v1::Box& box = message.box();
    if (!IsShare(box.left()) || !IsShare(box.top()) || !IsShare(box.right()) ||
        !IsShare(box.bottom()) || box.left() > box.right() ||
        box.top() > box.bottom()) {
      return Nonsense(absl::StrCat(path, ".box"),
                      absl::StrCat("is (", box.left(), ", ", box.top(), ", ",
                                   box.right(), ", ", box.bottom(),
                                   "), which lies outside of the picture"));
    }
    evidence.box = Box{.left = box.left(),
                       .top = box.top(),
                       .right = box.right(),
                       .bottom = box.bottom()};
  }
  if (message.has_span()) {
    const std::optional<absl::Duration> start =
        DecodeDuration(message.span().start());
    const std::optional<absl::Duration> end =
        DecodeDuration(message.span().end());
    const bool is_video =
        candidate.parts.has_value() && candidate.parts->shape.frames > 0;
    if (!start.has_value() || !end.has_value() || *start > *end ||
        (is_video && *end > candidate.parts->shape.duration + kSpanTolerance)) {
      return Nonsense(absl::StrCat(path, ".span"),
                      "lies outside of the video, or ends before it starts");
    }
    evidence.span = TimeSpan{.start = absl::ToDoubleSeconds(*start),
                             .end = absl::ToDoubleSeconds(*end)};
  }
  return evidence;
}

absl::StatusOr<CandidateScore> DecodeScore(const ScoreRequest& request,
                                           const ScoreCandidate& candidate,
                                           const v1::CandidateScore& message,
                                           const std::string& path) {
  if (message.id() != candidate.id) {
    return Nonsense(absl::StrCat(path, ".id"),
                    absl::StrCat("is ", Quoted(message.id()), " where ",
                                 Quoted(candidate.id), " was asked about"));
  }
  CandidateScore score;
  const int code = message.status().code();
  if (code < 0 || code > kMaxStatusCode) {
    return Nonsense(absl::StrCat(path, ".status.code"),
                    absl::StrCat("is ", code, ", which is none"));
  }
  if (code != 0) {
    score.status = absl::Status(static_cast<absl::StatusCode>(code),
                                Quoted(message.status().message(), 200));
    return score;
  }
  if (!std::isfinite(message.score())) {
    return Nonsense(absl::StrCat(path, ".score"), "is not finite");
  }
  score.score = message.score();
  if (message.has_probability()) {
    if (!IsShare(message.probability())) {
      return Nonsense(
          absl::StrCat(path, ".probability"),
          absl::StrCat("is ", message.probability(), ", not 0 to 1"));
    }
    score.probability = message.probability();
  }
  if (message.evidence_size() > request.max_evidence) {
    return Nonsense(absl::StrCat(path, ".evidence"),
                    absl::StrCat("has ", message.evidence_size(), " where ",
                                 request.max_evidence, " was asked for"));
  }
  for (int i = 0; i < message.evidence_size(); ++i) {
    QUERN_ASSIGN_OR_RETURN(
        Evidence evidence,
        DecodeEvidence(candidate, message.evidence(i),
                       absl::StrCat(path, ".evidence[", i, "]")));
    score.evidence.push_back(std::move(evidence));
  }
  return score;
}

struct Feature {
  v1::ScoringFeature feature;
  bool ScoreNeeds::*need;
};
constexpr Feature kFeatures[] = {
    {v1::SCORING_FEATURE_EMBEDDING, &ScoreNeeds::embedding},
    {v1::SCORING_FEATURE_GRID, &ScoreNeeds::grid},
    {v1::SCORING_FEATURE_FRAMES, &ScoreNeeds::frames},
    {v1::SCORING_FEATURE_TOKENS, &ScoreNeeds::tokens},
    {v1::SCORING_FEATURE_MEDIA, &ScoreNeeds::media},
    {v1::SCORING_FEATURE_TEXT, &ScoreNeeds::text},
};

}  // namespace

v1::ScoreRequest EncodeScoreRequest(const ScoreRequest& request,
                                    const ScoreNeeds& needs) {
  v1::ScoreRequest message;
  message.set_task(EncodeTask(request.task));
  v1::ScoringQuery& query = *message.mutable_query();
  if (needs.text) query.set_text(request.query.text);
  if (needs.embedding && !request.query.embedding.empty()) {
    EncodeVector(request.query.embedding, query.mutable_embedding());
  }
  if (needs.tokens && request.query.tokens.rows > 0) {
    EncodeMatrix(request.query.tokens, query.mutable_tokens());
  }
  if (needs.media && !request.query.image.empty()) {
    query.mutable_image()->set_content(request.query.image);
  }
  message.mutable_candidates()->Reserve(
      static_cast<int>(request.candidates.size()));
  for (const ScoreCandidate& candidate : request.candidates) {
    EncodeCandidate(candidate, needs, message.add_candidates());
  }
  message.mutable_model()->set_name(request.model_name);
  message.mutable_model()->set_version(request.model_version);
  message.mutable_model()->set_fingerprint(request.model_fingerprint);
  message.set_max_evidence(static_cast<int32_t>(request.max_evidence));
  message.set_nms_iou(static_cast<float>(request.nms_iou));
  return message;
}

absl::StatusOr<ScoreRequest> DecodeScoreRequest(
    const v1::ScoreRequest& message) {
  ScoreRequest request;
  QUERN_RETURN_IF_ERROR(DecodeOptions(message, request));
  const v1::ScoringQuery& query = message.query();
  if (query.text().size() > kMaxTextBytes) {
    return InvalidField("query.text",
                        absl::StrCat("has ", query.text().size(),
                                     " bytes; the limit is ", kMaxTextBytes));
  }
  request.query.text = query.text();
  if (query.has_embedding()) {
    QUERN_ASSIGN_OR_RETURN(request.query.embedding,
                           DecodeVector(query.embedding(), "query.embedding"));
  }
  if (query.has_tokens()) {
    QUERN_ASSIGN_OR_RETURN(request.query.tokens,
                           DecodeMatrix(query.tokens(), "query.tokens"));
  }
  if (message.candidates().empty() ||
      message.candidates_size() > kMaxScoreCandidates) {
    return InvalidField("candidates",
                        absl::StrCat("there are ", message.candidates_size(),
                                     "; give 1 to ", kMaxScoreCandidates));
  }
  request.candidates.reserve(message.candidates_size());
  for (const v1::ScoringCandidate& given : message.candidates()) {
    absl::StatusOr<ScoreCandidate> candidate = DecodeCandidate(given);
    if (!candidate.ok()) {
      return InField(
          candidate.status(),
          absl::StrCat("candidates[", request.candidates.size(), "]"));
    }
    request.candidates.push_back(*std::move(candidate));
  }
  QUERN_RETURN_IF_ERROR(CheckDimensions(request));
  return request;
}

void EncodeScores(const ScoreRequest& request,
                  const std::vector<CandidateScore>& scores,
                  const ScorerInfo& scorer, v1::ScoreResponse* message) {
  message->set_scorer(absl::StrCat(scorer.name, " ", scorer.version));
  message->mutable_scores()->Reserve(static_cast<int>(scores.size()));
  for (size_t i = 0; i < scores.size(); ++i) {
    v1::CandidateScore& out = *message->add_scores();
    out.set_id(request.candidates[i].id);
    if (!scores[i].status.ok()) {
      out.mutable_status()->set_code(scores[i].status.raw_code());
      out.mutable_status()->set_message(
          std::string(scores[i].status.message()));
      continue;
    }
    out.set_score(scores[i].score);
    if (scores[i].probability.has_value()) {
      out.set_probability(*scores[i].probability);
    }
    for (const Evidence& evidence : scores[i].evidence) {
      v1::Evidence& found = *out.add_evidence();
      found.set_score(evidence.score);
      if (evidence.probability.has_value()) {
        found.set_probability(*evidence.probability);
      }
      if (evidence.box.has_value()) {
        found.mutable_box()->set_left(evidence.box->left);
        found.mutable_box()->set_top(evidence.box->top);
        found.mutable_box()->set_right(evidence.box->right);
        found.mutable_box()->set_bottom(evidence.box->bottom);
      }
      if (evidence.span.has_value()) {
        *found.mutable_span()->mutable_start() =
            EncodeDuration(absl::Seconds(evidence.span->start));
        *found.mutable_span()->mutable_end() =
            EncodeDuration(absl::Seconds(evidence.span->end));
      }
    }
  }
}

absl::StatusOr<std::vector<CandidateScore>> DecodeScores(
    const ScoreRequest& request, const v1::ScoreResponse& message) {
  const auto expected = static_cast<int>(request.candidates.size());
  if (message.scores_size() != expected) {
    return Nonsense("scores",
                    absl::StrCat("has ", message.scores_size(), " entries for ",
                                 expected, " candidates"));
  }
  std::vector<CandidateScore> scores;
  scores.reserve(expected);
  for (int i = 0; i < expected; ++i) {
    QUERN_ASSIGN_OR_RETURN(
        CandidateScore score,
        DecodeScore(request, request.candidates[i], message.scores(i),
                    absl::StrCat("scores[", i, "]")));
    scores.push_back(std::move(score));
  }
  return scores;
}

void EncodeScorerInfo(const ScorerInfo& info, v1::ScorerDescription* message) {
  message->set_name(info.name);
  message->set_version(info.version);
  for (const ScoreTask task : info.tasks) message->add_tasks(EncodeTask(task));
  for (const Feature& feature : kFeatures) {
    if (info.needs.*feature.need) {
      message->add_required_features(feature.feature);
    }
  }
  for (const std::string& fingerprint : info.model_fingerprints) {
    message->add_model_fingerprints(fingerprint);
  }
  message->set_max_candidates(static_cast<int32_t>(info.max_candidates));
}

absl::StatusOr<ScorerInfo> DecodeScorerInfo(
    const v1::ScorerDescription& message) {
  ScorerInfo info{.name = Quoted(message.name()),
                  .version = Quoted(message.version()),
                  .model_fingerprints = {message.model_fingerprints().begin(),
                                         message.model_fingerprints().end()},
                  .max_candidates = message.max_candidates()};
  for (const int task : message.tasks()) {
    const std::optional<ScoreTask> known = DecodeTask(task);
    if (known.has_value()) info.tasks.push_back(*known);
  }
  for (const int wanted : message.required_features()) {
    const auto* feature =
        std::find_if(std::begin(kFeatures), std::end(kFeatures),
                     [&](const Feature& one) { return one.feature == wanted; });
    if (feature == std::end(kFeatures)) {
      return Nonsense(
          "required_features",
          absl::StrCat("has ", wanted, ", which this version does not know"));
    }
    info.needs.*feature->need = true;
  }
  if (info.max_candidates < 0) {
    return Nonsense("max_candidates", absl::StrCat("is ", info.max_candidates));
  }
  info.max_candidates = std::min(info.max_candidates, kMaxScoreCandidates);
  return info;
}

}  // namespace quern

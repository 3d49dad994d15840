#include "server/grounding_codec.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"
#include "engine/fine/noun_phrases.h"
#include "server/codec.h"

namespace quern {
namespace {

constexpr int kMaxTexts = 64;
constexpr size_t kMaxTextBytes = 10'000;
constexpr int64_t kMaxResults = 100;
constexpr int64_t kDefaultResults = 5;
constexpr double kDefaultNmsIou = 0.5;
constexpr int32_t kMaxCropDepth = 64;

absl::Status CheckText(absl::string_view text, absl::string_view field) {
  if (text.size() > kMaxTextBytes) {
    return InvalidField(
        field, absl::StrCat("has ", text.size(), " bytes; the limit is ",
                            kMaxTextBytes, ": shorten it"));
  }
  if (!IsValidUtf8(text)) return InvalidField(field, "is not valid UTF-8");
  if (absl::StripAsciiWhitespace(text).empty()) {
    return InvalidField(field, "is empty; say what to look for");
  }
  return absl::OkStatus();
}

template <typename Texts>
absl::StatusOr<std::vector<GroundText>> DecodeTexts(const Texts& texts,
                                                    absl::string_view field) {
  if (texts.empty() || texts.size() > kMaxTexts) {
    return InvalidField(field, absl::StrCat("there are ", texts.size(),
                                            "; give 1 to ", kMaxTexts));
  }
  std::vector<GroundText> decoded;
  for (const std::string& text : texts) {
    QUERN_RETURN_IF_ERROR(
        CheckText(text, absl::StrCat(field, "[", decoded.size(), "]")));
    decoded.push_back({.text = text});
  }
  return decoded;
}

absl::StatusOr<std::vector<GroundText>> DecodeSentence(
    const std::string& sentence) {
  QUERN_RETURN_IF_ERROR(CheckText(sentence, "sentence"));
  std::vector<GroundText> phrases;
  for (const TextSpan& span : NounPhrases(sentence, kMaxTexts)) {
    phrases.push_back(
        {.text = sentence.substr(span.begin, span.end - span.begin),
         .begin = span.begin,
         .end = span.end});
  }
  if (phrases.empty()) {
    return InvalidField("sentence",
                        "has no noun phrase that is found by English rules; "
                        "give the phrases in `phrases`");
  }
  return phrases;
}

absl::StatusOr<std::vector<GroundText>> DecodePhrases(
    const v1::GroundRegionsRequest& request) {
  switch (request.text_case()) {
    case v1::GroundRegionsRequest::kPhrases:
      return DecodeTexts(request.phrases().phrases(), "phrases.phrases");
    case v1::GroundRegionsRequest::kSentence:
      return DecodeSentence(request.sentence());
    case v1::GroundRegionsRequest::TEXT_NOT_SET:
      break;
  }
  return NothingGiven("text", "phrases, sentence");
}

absl::StatusOr<int64_t> DecodeCount(bool is_given, int32_t count,
                                    absl::string_view field) {
  if (!is_given) return kDefaultResults;
  if (count < 1 || count > kMaxResults) {
    return InvalidField(
        field, absl::StrCat("is ", count, "; it must be 1 to ", kMaxResults));
  }
  return count;
}

// Of the fields that both requests have.
template <typename Request, typename Query>
absl::Status DecodeThresholds(const Request& request, Query& query) {
  if (request.has_min_probability()) {
    const float probability = request.min_probability();
    if (!(probability >= 0 && probability <= 1)) {
      return InvalidField(
          "min_probability",
          absl::StrCat("is ", probability, "; it must be 0 to 1"));
    }
    query.min_probability = probability;
  }
  query.nms_iou = kDefaultNmsIou;
  if (!request.has_nms_iou()) return absl::OkStatus();
  if (!(request.nms_iou() > 0 && request.nms_iou() <= 1)) {
    return InvalidField("nms_iou",
                        absl::StrCat("is ", request.nms_iou(),
                                     "; it must be above 0, at most 1"));
  }
  query.nms_iou = request.nms_iou();
  return absl::OkStatus();
}

absl::StatusOr<ItemTarget> DecodeItem(const v1::ItemReference& item) {
  QUERN_RETURN_IF_ERROR(RequireName(item.collection(), "item.collection"));
  const absl::Status status = CheckItemId(item.id());
  if (!status.ok()) return InField(status, "item");
  return ItemTarget{.collection = item.collection(), .id = item.id()};
}

template <typename Response, typename Result>
void EncodeReport(const Result& result, const RequestContext& context,
                  Response* response) {
  *response->mutable_model() = EncodeModelVersion(result.model->info());
  EncodeStages(context, response->mutable_stages());
  response->set_degraded(!result.degraded_reasons.empty());
  for (const std::string& reason : result.degraded_reasons) {
    response->add_degraded_reasons(reason);
  }
}

google::protobuf::Duration EncodeSpanTime(double seconds) {
  google::protobuf::Duration out;
  out.set_seconds(static_cast<int64_t>(seconds));
  constexpr double kNanos = 1e9;
  out.set_nanos(static_cast<int32_t>(
      (seconds - static_cast<double>(out.seconds())) * kNanos));
  return out;
}

}  // namespace

v1::PixelBox ToPixels(const Box& box, int64_t width, int64_t height) {
  const auto pixel = [](float share, int64_t side) {
    return static_cast<int64_t>(
        std::lround(double{share} * static_cast<double>(side)));
  };
  const int64_t left =
      std::clamp<int64_t>(pixel(box.left, width), 0, width - 1);
  const int64_t top =
      std::clamp<int64_t>(pixel(box.top, height), 0, height - 1);
  v1::PixelBox pixels;
  pixels.set_left(static_cast<int32_t>(left));
  pixels.set_top(static_cast<int32_t>(top));
  pixels.set_width(static_cast<int32_t>(
      std::clamp<int64_t>(pixel(box.right, width) - left, 1, width - left)));
  pixels.set_height(static_cast<int32_t>(
      std::clamp<int64_t>(pixel(box.bottom, height) - top, 1, height - top)));
  return pixels;
}

absl::StatusOr<RegionQuery> DecodeGroundRegions(
    const v1::GroundRegionsRequest& request) {
  RegionQuery query;
  query.model = request.model();
  switch (request.target_case()) {
    case v1::GroundRegionsRequest::kImage: {
      QUERN_ASSIGN_OR_RETURN(query.target,
                             DecodeMedia<ImageInput>(request.image(), "image"));
      break;
    }
    case v1::GroundRegionsRequest::kItem: {
      QUERN_ASSIGN_OR_RETURN(query.target, DecodeItem(request.item()));
      break;
    }
    case v1::GroundRegionsRequest::TARGET_NOT_SET:
      return NothingGiven("target", "image, item");
  }
  QUERN_ASSIGN_OR_RETURN(query.phrases, DecodePhrases(request));
  QUERN_ASSIGN_OR_RETURN(query.max_regions,
                         DecodeCount(request.has_max_regions(),
                                     request.max_regions(), "max_regions"));
  QUERN_RETURN_IF_ERROR(DecodeThresholds(request, query));
  if (request.crop_depth() < 0 || request.crop_depth() > kMaxCropDepth) {
    return InvalidField("crop_depth",
                        absl::StrCat("is ", request.crop_depth(),
                                     "; it must be 0 to ", kMaxCropDepth));
  }
  query.crop_depth = request.crop_depth();
  query.ignore_relations = request.ignore_relations();
  return query;
}

void EncodeRegions(const RegionQuery& query, const RegionResult& result,
                   const RequestContext& context,
                   v1::GroundRegionsResponse* response) {
  response->set_width(static_cast<int32_t>(result.width));
  response->set_height(static_cast<int32_t>(result.height));
  for (size_t i = 0; i < result.phrases.size(); ++i) {
    v1::GroundedPhrase& phrase = *response->add_phrases();
    phrase.set_phrase(query.phrases[i].text);
    phrase.set_begin(static_cast<int32_t>(query.phrases[i].begin));
    phrase.set_end(static_cast<int32_t>(query.phrases[i].end));
    if (result.phrases[i].presence.has_value()) {
      phrase.set_presence(static_cast<float>(*result.phrases[i].presence));
    }
    for (const RegionHit& hit : result.phrases[i].regions) {
      v1::Region& region = *phrase.add_regions();
      region.mutable_box()->set_left(hit.box.left);
      region.mutable_box()->set_top(hit.box.top);
      region.mutable_box()->set_right(hit.box.right);
      region.mutable_box()->set_bottom(hit.box.bottom);
      *region.mutable_pixels() = ToPixels(hit.box, result.width, result.height);
      region.set_score(static_cast<float>(hit.score));
      if (hit.probability.has_value()) {
        region.set_probability(static_cast<float>(*hit.probability));
      }
    }
  }
  EncodeReport(result, context, response);
}

absl::StatusOr<SegmentQuery> DecodeGroundSegments(
    const v1::GroundSegmentsRequest& request) {
  SegmentQuery query;
  query.model = request.model();
  switch (request.target_case()) {
    case v1::GroundSegmentsRequest::kVideo: {
      QUERN_ASSIGN_OR_RETURN(query.target,
                             DecodeMedia<VideoInput>(request.video(), "video"));
      break;
    }
    case v1::GroundSegmentsRequest::kItem: {
      QUERN_ASSIGN_OR_RETURN(query.target, DecodeItem(request.item()));
      break;
    }
    case v1::GroundSegmentsRequest::TARGET_NOT_SET:
      return NothingGiven("target", "video, item");
  }
  QUERN_ASSIGN_OR_RETURN(query.sentences,
                         DecodeTexts(request.sentences(), "sentences"));
  QUERN_ASSIGN_OR_RETURN(query.max_segments,
                         DecodeCount(request.has_max_segments(),
                                     request.max_segments(), "max_segments"));
  QUERN_RETURN_IF_ERROR(DecodeThresholds(request, query));
  if (request.has_min_duration()) {
    query.min_duration = absl::Seconds(request.min_duration().seconds()) +
                         absl::Nanoseconds(request.min_duration().nanos());
    if (query.min_duration < absl::ZeroDuration()) {
      return InvalidField("min_duration", "is negative; it must be 0 or more");
    }
  }
  QUERN_ASSIGN_OR_RETURN(query.sampling,
                         DecodeSampling(request.sampling(), "sampling"));
  return query;
}

void EncodeSegments(const SegmentQuery& query, const SegmentResult& result,
                    bool with_saliency, const RequestContext& context,
                    v1::GroundSegmentsResponse* response) {
  *response->mutable_duration() =
      EncodeSpanTime(absl::ToDoubleSeconds(result.duration));
  for (size_t i = 0; i < result.sentences.size(); ++i) {
    const SentenceSegments& found = result.sentences[i];
    v1::GroundedSentence& sentence = *response->add_sentences();
    sentence.set_sentence(query.sentences[i].text);
    if (found.presence.has_value()) {
      sentence.set_presence(static_cast<float>(*found.presence));
    }
    for (const SegmentHit& hit : found.segments) {
      v1::Segment& segment = *sentence.add_segments();
      v1::TimeSpan& span = *segment.mutable_span();
      *span.mutable_start() = EncodeSpanTime(hit.span.start);
      *span.mutable_end() = EncodeSpanTime(hit.span.end);
      segment.set_score(static_cast<float>(hit.score));
      if (hit.probability.has_value()) {
        segment.set_probability(static_cast<float>(*hit.probability));
      }
    }
    if (!with_saliency) continue;
    for (const absl::Duration time : result.times) {
      *sentence.mutable_saliency()->add_times() =
          EncodeSpanTime(absl::ToDoubleSeconds(time));
    }
    sentence.mutable_saliency()->mutable_values()->Add(found.saliency.begin(),
                                                       found.saliency.end());
  }
  EncodeReport(result, context, response);
}

}  // namespace quern

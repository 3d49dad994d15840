#include "client/cli/eval_rerank.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "client/cli/progress.h"

namespace quern::cli {
namespace {

constexpr int kDefaultDepth = 100;
constexpr int kMaxPage = 1000;
constexpr int kLargestK = 10;  // Of the recalls.

float CoarseScore(const v1::Hit& hit) {
  return hit.stage_scores().empty() ? hit.score() : hit.stage_scores(0).score();
}

v1::SearchRequest MakeRequest(const std::string& collection,
                              const RerankFlags& flags,
                              const std::string& text) {
  v1::SearchRequest request;
  request.set_collection(collection);
  request.set_page_size(
      std::clamp(flags.depth.value_or(kDefaultDepth), kLargestK, kMaxPage));
  request.mutable_read_mask()->add_paths("id");
  request.mutable_query()->add_parts()->set_text(text);
  SetRerank(flags, request);
  return request;
}

}  // namespace

RerankRanks RanksOf(const std::string& id, const v1::SearchResponse& response) {
  const int64_t last = std::max<int64_t>(response.report().item_count(),
                                         response.hits_size() + 1);
  const auto own =
      std::find_if(response.hits().begin(), response.hits().end(),
                   [&id](const v1::Hit& hit) { return hit.item().id() == id; });
  if (own == response.hits().end()) return {last, last};
  RerankRanks ranks;
  for (const v1::Hit& hit : response.hits()) {
    ranks.coarse += CoarseScore(hit) >= CoarseScore(*own) ? 1 : 0;
    ranks.reranked += hit.score() >= own->score() ? 1 : 0;
  }
  return ranks;
}

absl::StatusOr<RerankEvaluation> EvaluateRerank(const std::string& collection,
                                                const RerankFlags& flags,
                                                const CaptionSet& set,
                                                Client& client,
                                                Console& console) {
  RerankEvaluation evaluation;
  std::vector<int64_t> coarse;
  std::vector<int64_t> reranked;
  int64_t found = 0;
  Progress progress(&console, "Searching",
                    static_cast<int64_t>(set.captions.size()));
  for (const CaptionSet::Caption& caption : set.captions) {
    if (console.interrupt.stop_requested()) {
      return absl::CancelledError("interrupted");
    }
    const auto response =
        client.Search(MakeRequest(collection, flags, caption.text));
    if (!response.ok()) return response.status();
    const RerankRanks ranks =
        RanksOf(set.images[static_cast<size_t>(caption.image)], *response);
    coarse.push_back(ranks.coarse);
    reranked.push_back(ranks.reranked);
    found += ranks.reranked <= response->hits_size() ? 1 : 0;
    evaluation.degraded += response->report().degraded() ? 1 : 0;
    evaluation.model = response->report().model();
    for (const v1::Hit& hit : response->hits()) {
      if (hit.stage_scores_size() < 2) continue;
      evaluation.stage = hit.stage_scores(1).stage();
      break;
    }
    progress.Add(/*failed=*/false);
  }
  if (found == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "collection \"", collection,
        "\" has none of the pictures: index their folder into it, so that an "
        "item's id is its file's name in the captions"));
  }
  evaluation.coarse = Summarize(std::move(coarse));
  evaluation.reranked = Summarize(std::move(reranked));
  return evaluation;
}

}  // namespace quern::cli

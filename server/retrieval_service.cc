#include "server/retrieval_service.h"

#include <memory>
#include <utility>

#include "server/batch_search.h"
#include "server/codec.h"

namespace quern {

RetrievalService::RetrievalService(const RpcEnvironment* environment,
                                   const Engine* engine, int64_t max_searches)
    : RpcService(v1::SearchRequest::descriptor()->file()->FindServiceByName(
                     "Retrieval"),
                 environment),
      engine_(engine),
      max_searches_(max_searches) {
  Handle("Search", this, &RetrievalService::Search);
  StayOnThread("Search");
  Handle("BatchSearch", this, &RetrievalService::BatchSearch);
}

void RetrievalService::Search(RequestContext& context,
                              const v1::SearchRequest& request,
                              v1::SearchResponse* response, Done done) const {
  const absl::StatusOr<ItemMask> mask =
      ItemMask::FromPaths(request.read_mask());
  if (!mask.ok()) return done(mask.status());
  absl::StatusOr<SearchQuery> query =
      DecodeSearch(request, engine_->limits(), *mask);
  if (!query.ok()) return done(query.status());
  const auto kept = std::make_shared<const SearchQuery>(*std::move(query));
  engine_->Search(
      context, *kept,
      [&context, &request, response, kept, mask = *mask,
       done = std::move(done)](absl::StatusOr<SearchResult> result) {
        done(result.ok()
                 ? EncodeSearch(*result, request, mask, context, response)
                 : result.status());
      });
}

void RetrievalService::BatchSearch(RequestContext& context,
                                   const v1::BatchSearchRequest& request,
                                   v1::BatchSearchResponse* response,
                                   Done done) const {
  quern::BatchSearch::Start(engine_, environment().pool, max_searches_, context,
                            request, response, std::move(done));
}

}  // namespace quern

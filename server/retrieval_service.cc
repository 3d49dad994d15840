#include "server/retrieval_service.h"

#include <memory>
#include <utility>

#include "server/codec.h"

namespace quern {

RetrievalService::RetrievalService(const RpcEnvironment* environment,
                                   const Engine* engine)
    : RpcService(v1::SearchRequest::descriptor()->file()->FindServiceByName(
                     "Retrieval"),
                 environment),
      engine_(engine) {
  Handle("Search", this, &RetrievalService::Search);
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
      [&context, response, kept, mask = *mask,
       done = std::move(done)](absl::StatusOr<SearchResult> result) {
        done(result.ok() ? EncodeSearch(*result, mask, context, response)
                         : result.status());
      });
}

}  // namespace quern

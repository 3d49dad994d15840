#include "server/retrieval_service.h"

#include "engine/base/status_macros.h"
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

absl::Status RetrievalService::Search(RequestContext& context,
                                      const v1::SearchRequest& request,
                                      v1::SearchResponse* response) const {
  QUERN_ASSIGN_OR_RETURN(const ItemMask mask,
                         ItemMask::FromPaths(request.read_mask()));
  QUERN_ASSIGN_OR_RETURN(const SearchQuery query,
                         DecodeSearch(request, engine_->limits(), mask));
  QUERN_ASSIGN_OR_RETURN(const SearchResult result,
                         engine_->Search(context, query));
  return EncodeSearch(result, mask, context, response);
}

}  // namespace quern

#include "server/collections_service.h"

#include <string>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "server/codec.h"

namespace quern {
namespace {

constexpr int64_t kDefaultPageSize = 100;
constexpr int64_t kMaxPageSize = 1000;
constexpr absl::string_view kPageScope = "collections";

}  // namespace

CollectionsService::CollectionsService(const RpcEnvironment* environment,
                                       const Engine* engine)
    : RpcService(v1::Collection::descriptor()->file()->FindServiceByName(
                     "Collections"),
                 environment),
      engine_(engine) {
  Handle("Create", this, &CollectionsService::Create);
  Handle("Get", this, &CollectionsService::Get);
  Handle("List", this, &CollectionsService::List);
  Handle("Delete", this, &CollectionsService::Delete);
}

absl::Status CollectionsService::Create(
    RequestContext& /*context*/, const v1::CreateCollectionRequest& request,
    v1::Collection* response) const {
  QUERN_RETURN_IF_ERROR(CheckNewCollection(request.collection()));
  QUERN_ASSIGN_OR_RETURN(*response,
                         engine_->CreateCollection(request.collection()));
  return absl::OkStatus();
}

absl::Status CollectionsService::Get(RequestContext& /*context*/,
                                     const v1::GetCollectionRequest& request,
                                     v1::Collection* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_ASSIGN_OR_RETURN(*response,
                         engine_->catalog().Describe(request.name()));
  return absl::OkStatus();
}

absl::Status CollectionsService::List(
    RequestContext& /*context*/, const v1::ListCollectionsRequest& request,
    v1::ListCollectionsResponse* response) const {
  QUERN_ASSIGN_OR_RETURN(const int64_t page_size,
                         PageSize(request, kDefaultPageSize, kMaxPageSize));
  QUERN_ASSIGN_OR_RETURN(const std::string after_name,
                         DecodePageToken(request.page_token(), kPageScope));
  // One more than the page tells whether another follows.
  std::vector<v1::Collection> found =
      engine_->catalog().List(after_name, page_size + 1);
  const bool has_more = static_cast<int64_t>(found.size()) > page_size;
  if (has_more) found.pop_back();
  for (v1::Collection& collection : found) {
    *response->add_collections() = std::move(collection);
  }
  if (has_more) {
    response->set_next_page_token(
        EncodePageToken(kPageScope, response->collections().rbegin()->name()));
  }
  return absl::OkStatus();
}

absl::Status CollectionsService::Delete(
    RequestContext& /*context*/, const v1::DeleteCollectionRequest& request,
    v1::DeleteCollectionResponse* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted,
                         engine_->catalog().Delete(request.name()));
  response->set_deleted_item_count(deleted);
  return absl::OkStatus();
}

}  // namespace quern

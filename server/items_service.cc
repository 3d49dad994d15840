#include "server/items_service.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/upsert_call.h"

namespace quern {
namespace {

constexpr int64_t kDefaultPageSize = 100;
constexpr int64_t kMaxPageSize = 1000;
constexpr int kMaxDeletedIds = 10'000;

// A token of a collection is no token of a later one of the same name.
std::string ItemsScope(const Collection& collection, absl::string_view filter) {
  return PageScope(absl::StrCat("items/", collection.name(), "/",
                                collection.record().create_time().seconds(),
                                ".", collection.record().create_time().nanos()),
                   filter);
}

absl::StatusOr<std::vector<std::string>> DecodeIds(
    const v1::DeleteItemsRequest& request) {
  if (request.ids_size() < 1 || request.ids_size() > kMaxDeletedIds) {
    return InvalidField(
        "ids", absl::StrCat("there are ", request.ids_size(), "; give 1 to ",
                            kMaxDeletedIds, ", or a filter"));
  }
  for (int i = 0; i < request.ids_size(); ++i) {
    const absl::Status status = CheckItemId(request.ids(i));
    if (!status.ok()) return InField(status, absl::StrCat("ids[", i, "]"));
  }
  return std::vector<std::string>(request.ids().begin(), request.ids().end());
}

absl::StatusOr<std::shared_ptr<Collection>> FindCollection(
    const Engine& engine, const std::string& name) {
  QUERN_RETURN_IF_ERROR(RequireName(name, "collection"));
  return engine.catalog().Get(name);
}

}  // namespace

ItemsService::ItemsService(const RpcEnvironment* environment,
                           const Engine* engine, int64_t stream_window)
    : RpcService(v1::Item::descriptor()->file()->FindServiceByName("Items"),
                 environment),
      engine_(engine) {
  Handle("Get", this, &ItemsService::Get);
  Handle("List", this, &ItemsService::List);
  Handle("Update", this, &ItemsService::Update);
  Handle("Delete", this, &ItemsService::Delete);
  HandleStream("Upsert", [environment, engine, stream_window](
                             const std::string& method,
                             grpc::CallbackServerContext* server_context) {
    return UpsertCall::Start(*environment, method, server_context, engine,
                             stream_window);
  });
}

absl::Status ItemsService::Get(RequestContext& context,
                               const v1::GetItemRequest& request,
                               v1::Item* response) const {
  QUERN_ASSIGN_OR_RETURN(const ItemMask mask,
                         ItemMask::FromPaths(request.read_mask()));
  QUERN_RETURN_IF_ERROR(CheckItemId(request.id()));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         FindCollection(*engine_, request.collection()));
  StageTimer timer(context, "fetch");
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::optional<Item>> items,
                         collection->store().Get({request.id()}, mask.parts()));
  if (!items.front().has_value()) return NotFound("item", request.id());
  return EncodeItem(*items.front(), mask, response);
}

absl::Status ItemsService::List(RequestContext& context,
                                const v1::ListItemsRequest& request,
                                v1::ListItemsResponse* response) const {
  QUERN_ASSIGN_OR_RETURN(const ItemMask mask,
                         ItemMask::FromPaths(request.read_mask()));
  QUERN_ASSIGN_OR_RETURN(const int64_t page_size,
                         PageSize(request, kDefaultPageSize, kMaxPageSize));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         FindCollection(*engine_, request.collection()));
  QUERN_ASSIGN_OR_RETURN(
      const std::shared_ptr<const Filter> filter,
      ParseFilter(request.filter(), collection->settings()->fields));
  const std::string scope = ItemsScope(*collection, request.filter());
  QUERN_ASSIGN_OR_RETURN(const std::string after_id,
                         DecodePageToken(request.page_token(), scope));

  StageTimer timer(context, "fetch");
  const auto max_page_bytes =
      static_cast<size_t>(environment().max_message_bytes / 2);
  size_t page_bytes = 0;
  std::string last_id;
  absl::Status status;
  QUERN_RETURN_IF_ERROR(collection->Scan(
      context, after_id, mask.parts(), filter.get(), [&](const Item& item) {
        if (response->items_size() == page_size ||
            page_bytes > max_page_bytes) {
          response->set_next_page_token(EncodePageToken(scope, last_id));
          return false;
        }
        v1::Item& out = *response->add_items();
        status = EncodeItem(item, mask, &out);
        page_bytes += out.ByteSizeLong();
        last_id = item.id;
        return status.ok();
      }));
  return status;
}

absl::Status ItemsService::Update(RequestContext& context,
                                  const v1::UpdateItemRequest& request,
                                  v1::Item* response) const {
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         FindCollection(*engine_, request.collection()));
  StageTimer timer(context, "store");
  QUERN_ASSIGN_OR_RETURN(
      const Item item, engine_->UpdateItem(context, *collection, request.item(),
                                           request.update_mask()));
  QUERN_ASSIGN_OR_RETURN(const ItemMask mask, ItemMask::FromPaths({}));
  return EncodeItem(item, mask, response);
}

absl::Status ItemsService::Delete(RequestContext& context,
                                  const v1::DeleteItemsRequest& request,
                                  v1::DeleteItemsResponse* response) const {
  if (!request.filter().empty())
    return DeleteByFilter(context, request, response);
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                         DecodeIds(request));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         FindCollection(*engine_, request.collection()));
  StageTimer timer(context, "store");
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted, collection->Delete(ids));
  response->set_deleted_count(deleted);
  return absl::OkStatus();
}

absl::Status ItemsService::DeleteByFilter(
    RequestContext& context, const v1::DeleteItemsRequest& request,
    v1::DeleteItemsResponse* response) const {
  if (request.ids_size() > 0) {
    return InvalidField("filter", "is given beside ids; give one of the two");
  }
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         FindCollection(*engine_, request.collection()));
  QUERN_ASSIGN_OR_RETURN(
      const std::shared_ptr<const Filter> filter,
      ParseFilter(request.filter(), collection->settings()->fields));
  if (filter == nullptr) {
    return InvalidField("filter",
                        "is blank and matches every item; to remove them all, "
                        "delete the collection");
  }
  StageTimer timer(context, "store");
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted,
                         collection->DeleteMatching(context, *filter));
  response->set_deleted_count(deleted);
  return absl::OkStatus();
}

}  // namespace quern

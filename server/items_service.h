#pragma once

#include <cstdint>

#include "absl/status/status.h"

#include "engine/query/engine.h"
#include "quern/v1/items.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Items. Thread-safe.
class ItemsService final : public RpcService {
 public:
  // Both must outlive the service. `stream_window` is server.stream_window.
  ItemsService(const RpcEnvironment* environment, const Engine* engine,
               int64_t stream_window);

 private:
  absl::Status Get(RequestContext& context, const v1::GetItemRequest& request,
                   v1::Item* response) const;
  // A page ends early where a full one would be too long for one message.
  absl::Status List(RequestContext& context,
                    const v1::ListItemsRequest& request,
                    v1::ListItemsResponse* response) const;
  absl::Status Update(RequestContext& context,
                      const v1::UpdateItemRequest& request,
                      v1::Item* response) const;
  absl::Status Delete(RequestContext& context,
                      const v1::DeleteItemsRequest& request,
                      v1::DeleteItemsResponse* response) const;
  absl::Status DeleteByFilter(RequestContext& context,
                              const v1::DeleteItemsRequest& request,
                              v1::DeleteItemsResponse* response) const;

  const Engine* const engine_;
};

}  // namespace quern

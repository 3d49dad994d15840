#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"

#include "engine/base/thread_pool.h"
#include "engine/query/engine.h"
#include "quern/v1/retrieval.pb.h"
#include "server/codec.h"

namespace quern {

// One call of Retrieval.BatchSearch: its searches are dealt out in lots, which
// run side by side on the pool, in the bulk lane. Those of a lot go on together
// (Engine::SearchTogether()), and each fails or succeeds alone. Texts and
// pictures of all of them share batches of the model.
class BatchSearch final : public std::enable_shared_from_this<BatchSearch> {
 public:
  // `done` is called once, when every search has its result. `engine`, `pool`,
  // `context`, `request` and `response` must live until then. Errors:
  // kInvalidArgument for a number of requests out of range or no collection.
  static void Start(const Engine* engine, ThreadPool* pool,
                    int64_t max_requests, const RequestContext& context,
                    const v1::BatchSearchRequest& request,
                    v1::BatchSearchResponse* response,
                    std::function<void(absl::Status)> done);

 private:
  struct Search;

  BatchSearch(const Engine* engine, const RequestContext& context,
              const v1::BatchSearchRequest& request,
              v1::BatchSearchResponse* response,
              std::function<void(absl::Status)> done);

  // Searches `begin` to `end` - 1.
  void RunLot(int begin, int end);
  void Finish(int index, const absl::Status& status);

  const Engine* const engine_;
  const RequestContext& context_;
  const v1::BatchSearchRequest& request_;
  v1::BatchSearchResponse* const response_;
  const std::function<void(absl::Status)> done_;
  std::vector<std::unique_ptr<Search>> searches_;
  std::atomic<int> unfinished_;
};

}  // namespace quern

#include "server/batch_search.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/grpc_status.h"

namespace quern {
namespace {

absl::Status CheckBatch(const v1::BatchSearchRequest& request,
                        int64_t max_requests) {
  QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
  if (request.requests_size() >= 1 && request.requests_size() <= max_requests) {
    return absl::OkStatus();
  }
  return InvalidField(
      "requests",
      absl::StrCat("there are ", request.requests_size(), "; give 1 to ",
                   max_requests, " (limits.max_inputs)"));
}

}  // namespace

// One of the searches.
struct BatchSearch::Search {
  explicit Search(const RequestContext& parent)
      : context(RequestContext::PartOf{&parent}) {}

  absl::Status Decode(const std::string& collection,
                      const EngineLimits& limits) {
    if (!request.collection().empty() && request.collection() != collection) {
      return InvalidField(
          "collection",
          absl::StrCat("is ", Quoted(request.collection()),
                       "; this batch is for ", Quoted(collection)));
    }
    request.set_collection(collection);
    QUERN_ASSIGN_OR_RETURN(mask, ItemMask::FromPaths(request.read_mask()));
    QUERN_ASSIGN_OR_RETURN(query, DecodeSearch(request, limits, mask));
    return absl::OkStatus();
  }

  RequestContext context;
  v1::SearchRequest request;
  absl::Status status;  // Of Decode().
  ItemMask mask;
  SearchQuery query;
};

void BatchSearch::Start(const Engine* engine, ThreadPool* pool,
                        int64_t max_requests, const RequestContext& context,
                        const v1::BatchSearchRequest& request,
                        v1::BatchSearchResponse* response,
                        std::function<void(absl::Status)> done) {
  absl::Status status = CheckBatch(request, max_requests);
  if (!status.ok()) return done(std::move(status));
  const std::shared_ptr<BatchSearch> batch = absl::WrapUnique(
      new BatchSearch(engine, request, response, std::move(done)));
  for (const v1::SearchRequest& one : request.requests()) {
    auto search = std::make_unique<Search>(context);
    search->request = one;
    search->status = search->Decode(request.collection(), engine->limits());
    batch->searches_.push_back(std::move(search));
  }
  for (int i = 0; i < request.requests_size(); ++i) {
    const absl::Status submitted =
        pool->Submit([batch, i] { batch->Run(i); }, Lane::kBulk);
    // A full queue slows a batch down, and fails none of it.
    if (!submitted.ok()) batch->Run(i);
  }
}

BatchSearch::BatchSearch(const Engine* engine,
                         const v1::BatchSearchRequest& request,
                         v1::BatchSearchResponse* response,
                         std::function<void(absl::Status)> done)
    : engine_(engine),
      response_(response),
      done_(std::move(done)),
      unfinished_(request.requests_size()) {
  for (int i = 0; i < request.requests_size(); ++i) response->add_results();
}

void BatchSearch::Run(int index) {
  Search& search = *searches_[index];
  if (!search.status.ok()) return Finish(index, search.status);
  engine_->Search(
      search.context, search.query,
      [self = shared_from_this(), &search,
       index](const absl::StatusOr<SearchResult>& result) {
        self->Finish(index,
                     result.ok()
                         ? EncodeSearch(*result, search.request, search.mask,
                                        search.context,
                                        self->response_->mutable_results(index)
                                            ->mutable_response())
                         : result.status());
      });
}

void BatchSearch::Finish(int index, const absl::Status& status) {
  v1::BatchSearchResult& result = *response_->mutable_results(index);
  if (!status.ok()) result.clear_response();
  *result.mutable_status() = ToRpcStatus(status);
  if (--unfinished_ == 0) done_(absl::OkStatus());
}

}  // namespace quern

#include "server/batch_search.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/grpc_status.h"

namespace quern {
namespace {

// Searches of a lot. More would let the deadline pass unnoticed and keep other
// threads from helping; fewer share less.
constexpr int kMaxLot = 64;
constexpr int kMinLot = 8;

// So that each thread of the pool has some, where there are enough.
int LotSize(int searches, int threads) {
  const int share = (searches + threads - 1) / threads;
  return std::clamp(share, kMinLot, kMaxLot);
}

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
  Search(const RequestContext& parent, const v1::SearchRequest& one)
      : context(RequestContext::PartOf{&parent}), request(one) {}

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
      new BatchSearch(engine, context, request, response, std::move(done)));
  const int count = request.requests_size();
  const int lot = LotSize(count, pool->threads());
  for (int begin = 0; begin < count; begin += lot) {
    const int end = std::min(count, begin + lot);
    const absl::Status submitted = pool->Submit(
        [batch, begin, end] { batch->RunLot(begin, end); }, Lane::kBulk);
    // A full queue slows a batch down, and fails none of it.
    if (!submitted.ok()) batch->RunLot(begin, end);
  }
}

BatchSearch::BatchSearch(const Engine* engine, const RequestContext& context,
                         const v1::BatchSearchRequest& request,
                         v1::BatchSearchResponse* response,
                         std::function<void(absl::Status)> done)
    : engine_(engine),
      context_(context),
      request_(request),
      response_(response),
      done_(std::move(done)),
      searches_(request.requests_size()),
      unfinished_(request.requests_size()) {
  for (int i = 0; i < request.requests_size(); ++i) response->add_results();
}

void BatchSearch::RunLot(int begin, int end) {
  std::vector<Engine::BatchedSearch> lot;
  std::vector<std::pair<int, absl::Status>> refused;
  for (int i = begin; i < end; ++i) {
    searches_[i] = std::make_unique<Search>(context_, request_.requests(i));
    Search& search = *searches_[i];
    absl::Status status =
        search.Decode(request_.collection(), engine_->limits());
    if (!status.ok()) {
      refused.emplace_back(i, std::move(status));
      continue;
    }
    lot.push_back(
        {.context = &search.context,
         .query = &search.query,
         .done = [self = shared_from_this(), &search,
                  i](const absl::StatusOr<SearchResult>& result) {
           self->Finish(
               i, result.ok() ? EncodeSearch(*result, search.request,
                                             search.mask, search.context,
                                             self->response_->mutable_results(i)
                                                 ->mutable_response())
                              : result.status());
         }});
  }
  // The last Finish() ends the call, and with it the request.
  for (const auto& [i, status] : refused) Finish(i, status);
  if (!lot.empty()) engine_->SearchTogether(std::move(lot));
}

void BatchSearch::Finish(int index, const absl::Status& status) {
  v1::BatchSearchResult& result = *response_->mutable_results(index);
  if (!status.ok()) result.clear_response();
  *result.mutable_status() = ToRpcStatus(status);
  if (--unfinished_ == 0) done_(absl::OkStatus());
}

}  // namespace quern

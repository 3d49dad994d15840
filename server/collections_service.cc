#include "server/collections_service.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/query/reindex.h"
#include "server/codec.h"
#include "server/snapshot_export_call.h"

namespace quern {
namespace {

constexpr int64_t kDefaultPageSize = 100;
constexpr int64_t kMaxPageSize = 1000;
constexpr absl::string_view kPageScope = "collections";
constexpr int kSnapshotThreads = 4;
constexpr size_t kMaxQueuedSnapshotCalls = 64;

std::string SnapshotScope(const v1::ListSnapshotsRequest& request) {
  return absl::StrCat("snapshots/", request.collection());
}

// Where a list of snapshots, newest first, goes on.
std::string PlaceOf(const SnapshotInfo& snapshot) {
  return absl::StrCat(absl::ToUnixNanos(snapshot.create_time), "/",
                      snapshot.collection, "/", snapshot.name);
}

// The first snapshot behind `place`, which need not be there any more.
absl::StatusOr<std::vector<SnapshotInfo>::const_iterator> FindPlace(
    const std::vector<SnapshotInfo>& snapshots, const std::string& place) {
  if (place.empty()) return snapshots.begin();
  const std::vector<std::string> parts = absl::StrSplit(place, '/');
  int64_t nanos = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &nanos)) {
    return InvalidField("page_token", "is damaged");
  }
  const absl::Time time = absl::FromUnixNanos(nanos);
  return std::find_if(
      snapshots.begin(), snapshots.end(), [&](const SnapshotInfo& snapshot) {
        return std::tie(time, snapshot.collection, snapshot.name) >
               std::tie(snapshot.create_time, parts[1], parts[2]);
      });
}

}  // namespace

CollectionsService::CollectionsService(const RpcEnvironment* environment,
                                       const Engine* engine,
                                       Snapshots* snapshots, Jobs* jobs)
    : RpcService(v1::Collection::descriptor()->file()->FindServiceByName(
                     "Collections"),
                 environment),
      engine_(engine),
      snapshots_(snapshots),
      jobs_(jobs),
      workers_(std::make_unique<ThreadPool>(
          ThreadPoolOptions{.name = "snapshots",
                            .threads = kSnapshotThreads,
                            .max_queue = kMaxQueuedSnapshotCalls})) {
  Handle("Create", this, &CollectionsService::Create);
  Handle("Get", this, &CollectionsService::Get);
  Handle("List", this, &CollectionsService::List);
  Handle("Update", this, &CollectionsService::Update);
  Handle("Delete", this, &CollectionsService::Delete);
  Handle("Optimize", this, &CollectionsService::Optimize);
  Handle("Reindex", this, &CollectionsService::Reindex);
  Handle("GetJob", this, &CollectionsService::GetJob);
  Handle("CreateSnapshot", this, &CollectionsService::CreateSnapshot);
  Handle("ListSnapshots", this, &CollectionsService::ListSnapshots);
  Handle("DeleteSnapshot", this, &CollectionsService::DeleteSnapshot);
  Handle("RestoreSnapshot", this, &CollectionsService::RestoreSnapshot);
  HandleStream("ExportSnapshot", [this](const std::string& method,
                                        grpc::CallbackServerContext* context) {
    return SnapshotExportCall::Start(this->environment(), method, context,
                                     snapshots_, workers_.get());
  });
  imports_.snapshots = snapshots;
  imports_.workers = workers_.get();
  imports_.max_imports = kSnapshotThreads / 2;
  HandleStream("ImportSnapshot", [this](const std::string& method,
                                        grpc::CallbackServerContext* context) {
    return SnapshotImportCall::Start(this->environment(), method, context,
                                     &imports_);
  });
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
  AddJobs(response);
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
    AddJobs(&collection);
    *response->add_collections() = std::move(collection);
  }
  if (has_more) {
    response->set_next_page_token(
        EncodePageToken(kPageScope, response->collections().rbegin()->name()));
  }
  return absl::OkStatus();
}

absl::Status CollectionsService::Update(
    RequestContext& /*context*/, const v1::UpdateCollectionRequest& request,
    v1::Collection* response) const {
  QUERN_RETURN_IF_ERROR(
      RequireName(request.collection().name(), "collection.name"));
  QUERN_ASSIGN_OR_RETURN(
      *response,
      engine_->UpdateCollection(request.collection(), request.update_mask()));
  AddJobs(response);
  return absl::OkStatus();
}

absl::Status CollectionsService::Delete(
    RequestContext& /*context*/, const v1::DeleteCollectionRequest& request,
    v1::DeleteCollectionResponse* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted,
                         engine_->catalog().Delete(request.name()));
  jobs_->EndDropped();
  response->set_deleted_item_count(deleted);
  return absl::OkStatus();
}

absl::Status CollectionsService::Optimize(
    RequestContext& /*context*/, const v1::OptimizeCollectionRequest& request,
    v1::Job* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_RETURN_IF_ERROR(engine_->catalog().CheckWritable());
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         engine_->catalog().Get(request.name()));
  QUERN_ASSIGN_OR_RETURN(*response, jobs_->Optimize(collection));
  return absl::OkStatus();
}

absl::Status CollectionsService::Reindex(
    RequestContext& /*context*/, const v1::ReindexCollectionRequest& request,
    v1::Job* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_RETURN_IF_ERROR(RequireName(request.model(), "model"));
  QUERN_RETURN_IF_ERROR(engine_->catalog().CheckWritable());
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         engine_->catalog().Get(request.name()));
  QUERN_ASSIGN_OR_RETURN(
      const std::shared_ptr<quern::Reindex> reindex,
      quern::Reindex::Create(engine_, collection, request.model()));
  QUERN_ASSIGN_OR_RETURN(
      *response,
      jobs_->Start(collection, {.kind = JobKind::kReindex,
                                .subject = request.model(),
                                .doing = "looks at the items",
                                .run = [reindex](RequestContext& job,
                                                 const JobReport& report) {
                                  return reindex->Run(job, report);
                                }}));
  return absl::OkStatus();
}

absl::Status CollectionsService::GetJob(RequestContext& /*context*/,
                                        const v1::GetJobRequest& request,
                                        v1::Job* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.id(), "id"));
  QUERN_ASSIGN_OR_RETURN(*response, jobs_->Get(request.id()));
  return absl::OkStatus();
}

void CollectionsService::AddJobs(v1::Collection* collection) const {
  for (v1::Job& job : jobs_->Unfinished(collection->name())) {
    *collection->mutable_status()->add_jobs() = std::move(job);
  }
}

void CollectionsService::Work(Done done,
                              std::function<absl::Status()> work) const {
  const auto shared_done = std::make_shared<const Done>(std::move(done));
  const absl::Status submitted = workers_->Submit(
      [shared_done, work = std::move(work)] { (*shared_done)(work()); });
  if (!submitted.ok()) (*shared_done)(submitted);
}

void CollectionsService::CreateSnapshot(
    RequestContext& context, const v1::CreateSnapshotRequest& request,
    v1::Snapshot* response, Done done) const {
  Work(std::move(done), [this, &context, &request, response]() -> absl::Status {
    QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
    QUERN_ASSIGN_OR_RETURN(
        const SnapshotInfo snapshot,
        snapshots_->Create(context, request.collection(), request.name()));
    EncodeSnapshot(snapshot, response);
    return absl::OkStatus();
  });
}

void CollectionsService::ListSnapshots(RequestContext& /*context*/,
                                       const v1::ListSnapshotsRequest& request,
                                       v1::ListSnapshotsResponse* response,
                                       Done done) const {
  Work(std::move(done), [this, &request, response]() -> absl::Status {
    QUERN_ASSIGN_OR_RETURN(const int64_t page_size,
                           PageSize(request, kDefaultPageSize, kMaxPageSize));
    const std::string scope = SnapshotScope(request);
    QUERN_ASSIGN_OR_RETURN(const std::string place,
                           DecodePageToken(request.page_token(), scope));
    QUERN_ASSIGN_OR_RETURN(const std::vector<SnapshotInfo> snapshots,
                           snapshots_->List(request.collection()));
    QUERN_ASSIGN_OR_RETURN(auto next, FindPlace(snapshots, place));
    for (; next != snapshots.end() && response->snapshots_size() < page_size;
         ++next) {
      EncodeSnapshot(*next, response->add_snapshots());
    }
    if (next != snapshots.end()) {
      response->set_next_page_token(
          EncodePageToken(scope, PlaceOf(*std::prev(next))));
    }
    return absl::OkStatus();
  });
}

void CollectionsService::DeleteSnapshot(
    RequestContext& /*context*/, const v1::DeleteSnapshotRequest& request,
    v1::DeleteSnapshotResponse* /*response*/, Done done) const {
  Work(std::move(done), [this, &request]() -> absl::Status {
    QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
    QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
    return snapshots_->Delete(request.collection(), request.name());
  });
}

void CollectionsService::RestoreSnapshot(
    RequestContext& context, const v1::RestoreSnapshotRequest& request,
    v1::Collection* response, Done done) const {
  Work(std::move(done), [this, &context, &request, response]() -> absl::Status {
    QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
    QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
    QUERN_RETURN_IF_ERROR(
        RequireName(request.new_collection(), "new_collection"));
    QUERN_ASSIGN_OR_RETURN(
        *response,
        snapshots_->Restore(context, request.collection(), request.name(),
                            request.new_collection()));
    return absl::OkStatus();
  });
}

}  // namespace quern

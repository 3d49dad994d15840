#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"

#include "engine/base/thread_pool.h"
#include "engine/query/engine.h"
#include "engine/query/jobs.h"
#include "engine/query/snapshots.h"
#include "quern/v1/collections.pb.h"
#include "server/rpc_service.h"
#include "server/snapshot_import_call.h"

namespace quern {

// quern.v1.Collections. Thread-safe.
class CollectionsService final : public RpcService {
 public:
  // All must outlive the service.
  CollectionsService(const RpcEnvironment* environment, const Engine* engine,
                     Snapshots* snapshots, Jobs* jobs);

 private:
  absl::Status Create(RequestContext& context,
                      const v1::CreateCollectionRequest& request,
                      v1::Collection* response) const;
  absl::Status Get(RequestContext& context,
                   const v1::GetCollectionRequest& request,
                   v1::Collection* response) const;
  absl::Status List(RequestContext& context,
                    const v1::ListCollectionsRequest& request,
                    v1::ListCollectionsResponse* response) const;
  absl::Status Update(RequestContext& context,
                      const v1::UpdateCollectionRequest& request,
                      v1::Collection* response) const;
  absl::Status Delete(RequestContext& context,
                      const v1::DeleteCollectionRequest& request,
                      v1::DeleteCollectionResponse* response) const;
  absl::Status Optimize(RequestContext& context,
                        const v1::OptimizeCollectionRequest& request,
                        v1::Job* response) const;
  absl::Status Reindex(RequestContext& context,
                       const v1::ReindexCollectionRequest& request,
                       v1::Job* response) const;
  absl::Status GetJob(RequestContext& context, const v1::GetJobRequest& request,
                      v1::Job* response) const;
  // Adds the jobs that have not ended to the collection's status.
  void AddJobs(v1::Collection* collection) const;

  void CreateSnapshot(RequestContext& context,
                      const v1::CreateSnapshotRequest& request,
                      v1::Snapshot* response, Done done) const;
  void ListSnapshots(RequestContext& context,
                     const v1::ListSnapshotsRequest& request,
                     v1::ListSnapshotsResponse* response, Done done) const;
  void DeleteSnapshot(RequestContext& context,
                      const v1::DeleteSnapshotRequest& request,
                      v1::DeleteSnapshotResponse* response, Done done) const;
  void RestoreSnapshot(RequestContext& context,
                       const v1::RestoreSnapshotRequest& request,
                       v1::Collection* response, Done done) const;
  // Ends a call with what `work` returns, on a thread of the snapshots' own.
  void Work(Done done, std::function<absl::Status()> work) const;

  const Engine* const engine_;
  Snapshots* const snapshots_;
  Jobs* const jobs_;
  ImportEnvironment imports_;
  // Long work on files: the calls' threads go on serving meanwhile.
  const std::unique_ptr<ThreadPool> workers_;
};

}  // namespace quern

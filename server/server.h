#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"

#include "engine/base/thread_pool.h"
#include "engine/fine/remote_scorer.h"
#include "engine/query/catalog.h"
#include "engine/query/engine.h"
#include "engine/query/expiry_sweep.h"
#include "engine/query/feature_scorer.h"
#include "engine/query/fine_stage.h"
#include "engine/query/jobs.h"
#include "engine/query/replica.h"
#include "engine/query/snapshots.h"
#include "quern/v1/config.pb.h"
#include "server/active_calls.h"
#include "server/backends.h"
#include "server/call_scope.h"
#include "server/metrics.h"
#include "server/rpc_service.h"

namespace quern {

// A running server: everything from the data folder to the ports. Thread-safe.
class Server {
 public:
  // Opens the collections, then listens; returns a server that serves.
  // `config` is complete (see DefaultConfig()). Errors, each a sentence for
  // whoever started the server: those of Catalog::Open(), and kUnavailable for
  // a port that cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Create(
      const v1::Config& config, Backends backends);

  // Shutdown(), unless it was called.
  ~Server();

  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // host:port, with the port that was taken for 0. The metrics' is empty when
  // they are off.
  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }

  // Says NOT_SERVING, refuses new calls, lets those under way finish for at
  // most server.drain_timeout, cancels the rest and stops. Called once.
  void Shutdown();

  // Cancels all calls, so that a Shutdown() under way ends soon.
  void CancelCalls();

 private:
  Server(const v1::Config& config, Backends backends);

  absl::Status Start();
  bool IsScorer() const;
  void StartPool();
  absl::Status OpenCollections();
  absl::Status StartEngine();
  absl::Status OpenSnapshots();
  absl::Status Listen();
  void AddServices();
  ServerGauges ReadGauges() const;
  void AddModelGauges(ServerGauges& gauges) const;

  const v1::Config config_;
  const absl::Duration drain_timeout_;
  const Backends backends_;

  const std::shared_ptr<CallSlots> slots_;

  std::string address_;
  std::string metrics_address_;

  // Each may use those above it, and ends before them. A scorer has none of
  // catalog, replica, snapshots, sweep, jobs, embedder, stage and engine.
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Replica> replica_;  // Null unless storage.replica_of is set.
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<ExpirySweep> sweep_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<ThreadPool> streams_;
  std::unique_ptr<Embedder> embedder_;
  std::unique_ptr<FeatureScorer> scorer_;
  std::unique_ptr<RemoteScorer> remote_;  // Null without scoring.remote.
  std::unique_ptr<FineStage> stage_;
  std::unique_ptr<FineStage> grounding_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Jobs> jobs_;
  ActiveCalls calls_;
  std::unique_ptr<Metrics> metrics_;
  RpcEnvironment environment_;
  std::vector<std::unique_ptr<RpcService>> services_;
  std::unique_ptr<grpc::Server> grpc_server_;
};

}  // namespace quern

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"
#include "engine/batch/batcher.h"

namespace quern {

// What a finished call is measured by.
struct CallRecord {
  std::string method;  // "quern.v1.Retrieval/Search"
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::Duration duration;
  std::vector<StageTime> stages;
  int64_t received_bytes = 0;
  int64_t sent_bytes = 0;
};

// What is read at the moment of a scrape.
struct CollectionGauges {
  std::string name;
  int64_t items = 0;
  int64_t disk_bytes = 0;
  int64_t memory_bytes = 0;
};
struct TextCacheGauges {
  int64_t hits = 0;
  int64_t misses = 0;
  int64_t entries = 0;
  int64_t bytes = 0;
};
struct VectorCacheGauges {
  int64_t hits = 0;
  int64_t misses = 0;
  int64_t bytes = 0;
};
struct ModelMemory {
  std::string name;
  int64_t bytes = 0;
};
struct TowerGauges {
  std::string model;
  std::string tower;  // "text" or "image".
  BatcherStats batches;
};
struct ScorerGauges {
  std::string endpoint;
  int64_t breaker = 0;  // 0: closed; 1: half open; 2: open.
};
struct ServerGauges {
  int64_t queued_short_lists = 0;
  std::vector<ScorerGauges> scorers;
  int64_t queued_requests = 0;
  int64_t queued_decodes = 0;
  int64_t calls_in_flight = 0;
  TextCacheGauges text_cache;
  VectorCacheGauges vector_cache;
  std::vector<ModelMemory> model_memory;
  std::vector<TowerGauges> towers;
  std::vector<CollectionGauges> collections;
};

// The Prometheus metrics of a server. Labels are bounded: methods and codes by
// the contract, stages by the code, collections by limits.max_collections.
// Thread-safe.
class Metrics {
 public:
  // `gauges` is called at each scrape, from the exporter's threads.
  explicit Metrics(std::function<ServerGauges()> gauges);
  ~Metrics();

  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void RecordCall(const CallRecord& call);
  // One item of an upsert stream.
  void RecordUpsert(absl::StatusCode code);

  // One call of a scorer elsewhere.
  void RecordScoring(const std::string& endpoint, absl::StatusCode code,
                     absl::Duration duration, bool is_hedge);

  // Serves GET /metrics until the end of this object; returns the host:port,
  // with the port taken for 0. Errors: kUnavailable.
  absl::StatusOr<std::string> Serve(const std::string& address);

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace quern

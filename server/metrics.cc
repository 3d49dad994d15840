#include "server/metrics.h"

#include <fstream>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include <unistd.h>

#include "engine/base/guard.h"
#include "server/address.h"
#include "server/grpc_status.h"
#include "server/version.h"

namespace quern {
namespace {

constexpr absl::Duration kKnockInterval = absl::Milliseconds(5);

// Seconds: three a decade, from what an embedding search takes to what a large
// video takes.
const prometheus::Histogram::BucketBoundaries& LatencyBuckets() {
  static const auto* const buckets =
      new prometheus::Histogram::BucketBoundaries{
          0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
          0.1,    0.2,    0.5,   1,     2,     5,    10,   30};
  return *buckets;
}

// 0 where /proc is not there.
int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

prometheus::MetricFamily GaugeFamily(const std::string& name,
                                     const std::string& help) {
  return {.name = name,
          .help = help,
          .type = prometheus::MetricType::Gauge,
          .metric = {}};
}

prometheus::MetricFamily CounterFamily(const std::string& name,
                                       const std::string& help) {
  return {.name = name,
          .help = help,
          .type = prometheus::MetricType::Counter,
          .metric = {}};
}

using Labels = std::vector<prometheus::ClientMetric::Label>;

void AddValue(prometheus::MetricFamily& family, int64_t value,
              Labels labels = {}) {
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  metric.label = std::move(labels);
  if (family.type == prometheus::MetricType::Counter) {
    metric.counter.value = static_cast<double>(value);
  } else {
    metric.gauge.value = static_cast<double>(value);
  }
}

// Gauges whose truth lies elsewhere, read when asked for.
class ScrapedGauges final : public prometheus::Collectable {
 public:
  explicit ScrapedGauges(std::function<ServerGauges()> gauges)
      : gauges_(std::move(gauges)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    const ServerGauges gauges = gauges_();
    std::vector<prometheus::MetricFamily> families;
    AddServer(gauges, families);
    AddEncoding(gauges, families);
    AddVectorCache(gauges.vector_cache, families);
    AddScoring(gauges, families);
    AddCollections(gauges, families);
    return families;
  }

 private:
  using Families = std::vector<prometheus::MetricFamily>;

  static void AddServer(const ServerGauges& gauges, Families& families) {
    const auto add = [&](const char* name, const char* help, int64_t value) {
      families.push_back(GaugeFamily(name, help));
      AddValue(families.back(), value);
    };
    add("quern_pool_queue_depth", "Requests waiting for a thread.",
        gauges.queued_requests);
    add("quern_decode_queue_depth",
        "Pictures and videos waiting for a decoder.", gauges.queued_decodes);
    add("quern_calls_in_flight", "Calls that have not ended.",
        gauges.calls_in_flight);
    add("process_resident_memory_bytes", "Resident memory of the process.",
        ResidentBytes());
  }

  static void AddVectorCache(const VectorCacheGauges& cache,
                             Families& families) {
    auto lookups = CounterFamily("quern_vector_cache_lookups_total",
                                 "Vectors looked up in the vector cache.");
    AddValue(lookups, cache.hits, {{"result", "hit"}});
    AddValue(lookups, cache.misses, {{"result", "miss"}});
    families.push_back(std::move(lookups));
    families.push_back(
        GaugeFamily("quern_vector_cache_bytes",
                    "Bytes of memory the vector cache holds, roughly."));
    AddValue(families.back(), cache.bytes);
  }

  static void AddEncoding(const ServerGauges& gauges, Families& families) {
    auto lookups = CounterFamily("quern_text_cache_lookups_total",
                                 "Texts looked up in the text cache.");
    AddValue(lookups, gauges.text_cache.hits, {{"result", "hit"}});
    AddValue(lookups, gauges.text_cache.misses, {{"result", "miss"}});
    auto entries =
        GaugeFamily("quern_text_cache_entries", "Texts in the text cache.");
    AddValue(entries, gauges.text_cache.entries);
    auto bytes = GaugeFamily("quern_text_cache_bytes",
                             "Bytes of memory the text cache holds, roughly.");
    AddValue(bytes, gauges.text_cache.bytes);
    auto memory = GaugeFamily("quern_model_memory_bytes",
                              "Bytes that a model's parameters hold.");
    for (const ModelMemory& model : gauges.model_memory) {
      AddValue(memory, model.bytes, {{"model", model.name}});
    }
    auto queued = GaugeFamily("quern_tower_queued_rows",
                              "Rows admitted to a tower that do not run yet.");
    auto rows =
        CounterFamily("quern_tower_rows_total", "Rows that a tower has run.");
    auto batches = CounterFamily("quern_tower_batches_total",
                                 "Batches that a tower has run.");
    auto dropped =
        CounterFamily("quern_tower_dropped_rows_total",
                      "Rows nobody waited for any more when their turn came.");
    auto refused = CounterFamily("quern_tower_refused_rows_total",
                                 "Rows refused because of overload.");
    for (const TowerGauges& tower : gauges.towers) {
      const Labels labels = {{"model", tower.model}, {"tower", tower.tower}};
      AddValue(queued, tower.batches.queued_rows, labels);
      AddValue(rows, tower.batches.rows, labels);
      AddValue(batches, tower.batches.batches, labels);
      AddValue(dropped, tower.batches.dropped_rows, labels);
      AddValue(refused, tower.batches.refused_rows, labels);
    }
    families.insert(families.end(), {lookups, entries, bytes, memory, queued,
                                     rows, batches, dropped, refused});
  }

  static void AddScoring(const ServerGauges& gauges, Families& families) {
    auto queued = GaugeFamily("quern_scoring_queue_depth",
                              "Short lists waiting to be scored.");
    AddValue(queued, gauges.queued_short_lists);
    auto breakers = GaugeFamily("quern_scorer_breaker_state",
                                "Of the circuit to a scorer: 0 closed, 1 half "
                                "open, 2 open.");
    for (const ScorerGauges& scorer : gauges.scorers) {
      AddValue(breakers, scorer.breaker, {{"endpoint", scorer.endpoint}});
    }
    families.insert(families.end(), {queued, breakers});
  }

  static void AddCollections(const ServerGauges& gauges, Families& families) {
    auto items =
        GaugeFamily("quern_collection_items", "Items that a search can find.");
    auto disk =
        GaugeFamily("quern_collection_disk_bytes", "Bytes on disk, roughly.");
    auto memory = GaugeFamily("quern_collection_memory_bytes",
                              "Bytes of memory the index holds, roughly.");
    for (const CollectionGauges& collection : gauges.collections) {
      const Labels labels = {{"collection", collection.name}};
      AddValue(items, collection.items, labels);
      AddValue(disk, collection.disk_bytes, labels);
      AddValue(memory, collection.memory_bytes, labels);
    }
    families.insert(families.end(), {items, disk, memory});
  }

  const std::function<ServerGauges()> gauges_;
};

}  // namespace

struct Metrics::State {
  explicit State(std::function<ServerGauges()> read_gauges)
      : registry(std::make_shared<prometheus::Registry>()),
        gauges(std::make_shared<ScrapedGauges>(std::move(read_gauges))),
        requests(Counters("quern_requests_total",
                          "Finished calls by method and status code.")),
        received(Counters("quern_received_bytes_total",
                          "Bytes of request messages by method.")),
        sent(Counters("quern_sent_bytes_total",
                      "Bytes of response messages by method.")),
        upserts(Counters("quern_upserted_items_total",
                         "Items of upsert streams by status code.")),
        scorings(Counters("quern_scorer_requests_total",
                          "Calls of scorers by endpoint and status code; "
                          "DATA_LOSS: nonsense, CANCELLED: not needed.")),
        hedges(Counters("quern_scorer_hedges_total",
                        "Of those, second calls for slow ones.")),
        scoring_latency(Histograms("quern_scorer_seconds",
                                   "Time that a scorer took to answer.")),
        latency(Histograms("quern_request_seconds",
                           "Time from a call's arrival to its answer.")),
        stages(Histograms("quern_stage_seconds",
                          "Time a call spent in a stage.")) {
    prometheus::BuildGauge()
        .Name("quern_build_info")
        .Help("1, labelled with the server's version.")
        .Register(*registry)
        .Add({{"version", kVersion}})
        .Set(1);
  }

  // What calls of one method count in. To find these by their labels takes a
  // search as long as its log line.
  struct Method {
    prometheus::Histogram* latency = nullptr;
    prometheus::Counter* received = nullptr;
    prometheus::Counter* sent = nullptr;
    absl::flat_hash_map<absl::StatusCode, prometheus::Counter*> requests;
    absl::flat_hash_map<std::string, prometheus::Histogram*> stages;
  };

  Method& MethodOf(const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Method& method = methods[name];
    if (method.latency == nullptr) {
      const prometheus::Labels label = {{"method", name}};
      method.latency = &latency.Add(label, LatencyBuckets());
      method.received = &received.Add(label);
      method.sent = &sent.Add(label);
    }
    return method;
  }

  prometheus::Family<prometheus::Counter>& Counters(const std::string& name,
                                                    const std::string& help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
  }
  prometheus::Family<prometheus::Histogram>& Histograms(
      const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(
        *registry);
  }

  const std::shared_ptr<prometheus::Registry> registry;
  const std::shared_ptr<ScrapedGauges> gauges;
  prometheus::Family<prometheus::Counter>& requests;
  prometheus::Family<prometheus::Counter>& received;
  prometheus::Family<prometheus::Counter>& sent;
  prometheus::Family<prometheus::Counter>& upserts;
  prometheus::Family<prometheus::Counter>& scorings;
  prometheus::Family<prometheus::Counter>& hedges;
  prometheus::Family<prometheus::Histogram>& scoring_latency;
  prometheus::Family<prometheus::Histogram>& latency;
  prometheus::Family<prometheus::Histogram>& stages;
  absl::Mutex mutex;
  absl::flat_hash_map<std::string, Method> methods ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<absl::StatusCode, prometheus::Counter*> upserts_by_code
      ABSL_GUARDED_BY(mutex);
  std::unique_ptr<prometheus::Exposer> exposer;  // Null when not serving.
  std::string address;                           // The exposer's.
};

Metrics::Metrics(std::function<ServerGauges()> gauges)
    : state_(std::make_unique<State>(std::move(gauges))) {}

// The exporter looks whether it shall end at each connection, and otherwise
// only every two seconds.
Metrics::~Metrics() {
  absl::Notification ended;
  std::thread ends([this, &ended] {
    state_->exposer.reset();
    ended.Notify();
  });
  while (!ended.WaitForNotificationWithTimeout(kKnockInterval)) {
    Knock(state_->address);
  }
  ends.join();
}

void Metrics::RecordCall(const CallRecord& call) {
  State& state = *state_;
  absl::MutexLock lock(&state.mutex);
  State::Method& method = state.MethodOf(call.method);
  prometheus::Counter*& requests = method.requests[call.code];
  if (requests == nullptr) {
    requests = &state.requests.Add(
        {{"method", call.method}, {"code", std::string(CodeName(call.code))}});
  }
  requests->Increment();
  method.latency->Observe(absl::ToDoubleSeconds(call.duration));
  method.received->Increment(static_cast<double>(call.received_bytes));
  method.sent->Increment(static_cast<double>(call.sent_bytes));
  for (const StageTime& stage : call.stages) {
    prometheus::Histogram*& times = method.stages[stage.stage];
    if (times == nullptr) {
      times = &state.stages.Add(
          {{"method", call.method}, {"stage", stage.stage}}, LatencyBuckets());
    }
    times->Observe(absl::ToDoubleSeconds(stage.duration));
  }
}

void Metrics::RecordUpsert(absl::StatusCode code) {
  absl::MutexLock lock(&state_->mutex);
  prometheus::Counter*& counter = state_->upserts_by_code[code];
  if (counter == nullptr) {
    counter = &state_->upserts.Add({{"code", std::string(CodeName(code))}});
  }
  counter->Increment();
}

void Metrics::RecordScoring(const std::string& endpoint, absl::StatusCode code,
                            absl::Duration duration, bool is_hedge) {
  const prometheus::Labels label = {{"endpoint", endpoint}};
  state_->scorings
      .Add({{"endpoint", endpoint}, {"code", std::string(CodeName(code))}})
      .Increment();
  if (is_hedge) state_->hedges.Add(label).Increment();
  state_->scoring_latency.Add(label, LatencyBuckets())
      .Observe(absl::ToDoubleSeconds(duration));
}

absl::StatusOr<std::string> Metrics::Serve(const std::string& address) {
  const absl::Status status = Guard("prometheus-cpp", [&] {
    state_->exposer = std::make_unique<prometheus::Exposer>(address);
    state_->exposer->RegisterCollectable(state_->registry);
    state_->exposer->RegisterCollectable(state_->gauges);
  });
  if (!status.ok()) {
    return absl::UnavailableError(absl::StrCat(
        "cannot serve metrics on ", address, ": ", ListenError(address)));
  }
  const std::vector<int> ports = state_->exposer->GetListeningPorts();
  state_->address = ports.empty() ? address : WithPort(address, ports.front());
  return state_->address;
}

}  // namespace quern

// What a search costs in a real quernd, beside the quickest index of a library
// in a process of its own at the same recall and a server that only sends bytes
// back: processor time, latency, batches, filters, searches beside writes,
// start, memory and disk. A table, each ratio from rounds that alternate within
// one run. tests/bench/search/run.sh makes the data and calls it.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "nlohmann/json.hpp"

#include "tests/bench/bare_server.h"
#include "tests/bench/bench.h"
#include "tests/bench/child_process.h"
#include "tests/bench/load_client.h"
#include "tests/bench/npy.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kK = 10;
constexpr int64_t kBatch = 64;
constexpr float kTargets[] = {0.95F, 0.99F};
// Filters choose by `bucket`, the row's number modulo kBuckets.
constexpr int64_t kBuckets = 2000;
constexpr int64_t kBounds[] = {1000, 100, 10, 1};
constexpr size_t kCalibrationQueries = 256;
constexpr size_t kWarmUpQueries = 100;
constexpr int64_t kMaxLiveItems = 100'000;
constexpr double kWarmUpSeconds = 0.3;
constexpr absl::Duration kMaxSealing = absl::Minutes(10);
constexpr double kIngestGoal = 20'000;  // Items a second.
constexpr double kPace = 21'000;
// Items that a paced writer sends at once.
constexpr int64_t kPacedTogether = 20;
// Seconds of searches before calls of a bare server have a quarter of that.
constexpr double kStep = 0.4;
constexpr int kIdleSteps = 20;
constexpr char kCollection[] = "bench";
constexpr char kSearchMethod[] = "/quern.v1.Retrieval/Search";
constexpr char kBatchMethod[] = "/quern.v1.Retrieval/BatchSearch";

struct Options {
  std::string data;
  std::string server_data;
  std::vector<std::string> baseline;
  std::vector<std::string> kinds = {"hnsw_fp32", "hnsw_int8"};
  std::vector<std::string> only;
  std::vector<std::string> settings;
  std::string json;
  int rounds = 5;
  double seconds = 2;

  bool Wants(const std::string& section) const {
    return only.empty() || absl::c_linear_search(only, section);
  }
};

v1::IndexConfig IndexOf(const std::string& kind) {
  v1::IndexConfig config;
  config.set_kind(absl::StartsWith(kind, "exact") ? v1::IndexConfig::KIND_EXACT
                  : absl::StartsWith(kind, "hnsw")
                      ? v1::IndexConfig::KIND_HNSW
                      : v1::IndexConfig::KIND_IVF_PQ);
  config.set_storage(
      absl::EndsWith(kind, "int8")   ? v1::IndexConfig::STORAGE_INT8
      : absl::EndsWith(kind, "fp16") ? v1::IndexConfig::STORAGE_FP16
                                     : v1::IndexConfig::STORAGE_FP32);
  return config;
}

grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message) {
  const grpc::Slice bytes(message.SerializeAsString());
  return {&bytes, 1};
}

double FileMebibytes(const std::string& folder) {
  double bytes = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file())
      bytes += static_cast<double>(entry.file_size());
  }
  return bytes / (1 << 20);
}

// What one side of a comparison did in one round.
struct Cost {
  double cpu_us = 0;  // Of processor time, a query.
  double p50_ms = 0;
  double per_second = 0;
};

// Writes rows `begin` to `end` - 1 through one stream, at most `rate` of them a
// second; 0: as fast as the server takes them.
void Fill(const NpyFile<float>& vectors,
          const std::shared_ptr<grpc::Channel>& channel,
          const std::string& collection, int64_t begin, int64_t end,
          double rate) {
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(channel)->Upsert(&context);
  std::thread writer([&] {
    const absl::Time start = absl::Now();
    for (int64_t row = begin; row < end; ++row) {
      if (rate > 0 && (row - begin) % kPacedTogether == 0) {
        const absl::Time due =
            start + absl::Seconds(static_cast<double>(row - begin) / rate);
        absl::SleepFor(due - absl::Now());
      }
      const absl::Span<const float> vector = vectors.row(row);
      v1::UpsertRequest request = EmbeddingUpsert(
          collection, absl::StrCat(row), {vector.begin(), vector.end()});
      (*request.mutable_payload()->mutable_fields())["bucket"].set_number_value(
          static_cast<double>(row % kBuckets));
      stream->Write(request);
    }
    stream->WritesDone();
  });
  v1::UpsertResponse response;
  while (stream->Read(&response)) {
    if (response.status().code() == 0) continue;
    std::cerr << response.status().message() << "\n";
    std::exit(1);
  }
  writer.join();
  Check(stream->Finish());
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        vectors_(options.data + "/vectors.npy"),
        queries_(options.data + "/queries.npy"),
        calibration_(options.data + "/calibration.npy"),
        truth_(options.data + "/truth.npy") {
    if (!options.baseline.empty()) {
      std::vector<std::string> command = options.baseline;
      command.insert(command.end(), {"--data", options.data});
      baseline_.emplace(std::move(command));
    }
  }

  std::vector<Row> Run() {
    for (const std::string& kind : options_.kinds) MeasureKind(kind);
    return std::move(rows_);
  }

 private:
  void Add(const std::string& measure, double value, const std::string& unit,
           double goal = 0, bool higher_is_better = false) {
    rows_.push_back(
        {kind_ + ": " + measure, value, unit, goal, higher_is_better});
    Print({rows_.back()});
    std::cout.flush();
    std::fflush(stdout);
  }

  double raw_mebibytes() const {
    return static_cast<double>(vectors_.rows() * vectors_.columns() *
                               sizeof(float)) /
           (1 << 20);
  }

  // --- what is asked ---

  v1::SearchRequest Search(absl::Span<const float> query,
                           std::optional<float> recall) const {
    v1::SearchRequest request =
        EmbeddingSearch(kCollection, {query.begin(), query.end()});
    request.set_page_size(kK);
    // As much as the library gives.
    request.mutable_read_mask()->add_paths("id");
    if (recall.has_value()) request.set_recall(*recall);
    return request;
  }

  std::vector<v1::SearchRequest> Searches(
      const NpyFile<float>& queries, std::optional<float> recall,
      const std::string& filter = "") const {
    std::vector<v1::SearchRequest> requests;
    for (int64_t q = 0; q < queries.rows(); ++q) {
      requests.push_back(Search(queries.row(q), recall));
      requests.back().set_filter(filter);
    }
    return requests;
  }

  static std::vector<grpc::ByteBuffer> Bytes(
      const std::vector<v1::SearchRequest>& requests) {
    std::vector<grpc::ByteBuffer> bytes;
    for (const v1::SearchRequest& request : requests) {
      bytes.push_back(ToByteBuffer(request));
    }
    return bytes;
  }

  std::vector<grpc::ByteBuffer> Batches(float recall) const {
    std::vector<grpc::ByteBuffer> bytes;
    for (int64_t q = 0; q + kBatch <= queries_.rows(); q += kBatch) {
      v1::BatchSearchRequest batch;
      batch.set_collection(kCollection);
      for (int64_t i = q; i < q + kBatch; ++i) {
        *batch.add_requests() = Search(queries_.row(i), recall);
      }
      bytes.push_back(ToByteBuffer(batch));
    }
    return bytes;
  }

  // --- filling ---

  void CreateCollection(Api& api, const std::string& name) const {
    v1::CreateCollectionRequest request;
    v1::Collection& collection = *request.mutable_collection();
    collection.set_name(name);
    collection.set_model("none");
    collection.set_dimension(static_cast<int32_t>(vectors_.columns()));
    *collection.mutable_index() = IndexOf(kind_);
    v1::PayloadField& field = *collection.add_payload_fields();
    field.set_path("bucket");
    field.set_type(v1::PayloadField::TYPE_NUMBER);
    grpc::ClientContext context;
    v1::Collection response;
    Check(v1::Collections::NewStub(api.channel())
              ->Create(&context, request, &response));
  }

  static void Optimize(Api& api, const std::string& name) {
    auto stub = v1::Collections::NewStub(api.channel());
    v1::OptimizeCollectionRequest request;
    request.set_name(name);
    v1::Job job;
    {
      grpc::ClientContext context;
      Check(stub->Optimize(&context, request, &job));
    }
    while (job.state() == v1::Job::STATE_PENDING ||
           job.state() == v1::Job::STATE_RUNNING) {
      absl::SleepFor(absl::Milliseconds(100));
      v1::GetJobRequest get;
      get.set_id(job.id());
      grpc::ClientContext context;
      Check(stub->GetJob(&context, get, &job));
    }
    if (job.state() == v1::Job::STATE_SUCCEEDED) return;
    std::cerr << job.message() << "\n";
    std::exit(1);
  }

  // The collection with all vectors, as a user would have it after a while of
  // searching: what is asked tunes the index, and is not what is measured.
  void Build(const std::string& folder) {
    QuerndProcess server(folder, options_.settings);
    Api api(server);
    v1::Collection present;
    if (!api.GetCollection(kCollection, &present).ok()) {
      CreateCollection(api, kCollection);
    }
    if (present.status().item_count() != vectors_.rows()) {
      const double seconds = SecondsOf([&] {
        Fill(vectors_, api.channel(), kCollection, 0, vectors_.rows(), 0);
      });
      Add("ingest, one stream", static_cast<double>(vectors_.rows()) / seconds,
          "items/s", 0, true);
      const std::vector<v1::SearchRequest> asked =
          Searches(calibration_, std::nullopt);
      for (size_t i = 0; i < asked.size() && i < kCalibrationQueries; ++i) {
        v1::SearchResponse response;
        Check(api.Search(asked[i], &response));
      }
      Add("optimize", SecondsOf([&] { Optimize(api, kCollection); }), "s");
    }
    Check(api.GetCollection(kCollection, &present));
    const v1::ShardStatus& shard = present.status().shards(0);
    Add("recall@10 in its status", shard.measured_recall(), "");
    Add("index's memory in its status",
        static_cast<double>(present.status().memory_bytes()) / (1 << 20) /
            raw_mebibytes(),
        "of fp32");
    if (!shard.message().empty()) std::cerr << shard.message() << "\n";
    server.Terminate();
  }

  void MeasureKind(const std::string& kind) {
    kind_ = kind;
    const TemporaryDirectory scratch;
    const std::string folder = options_.server_data.empty()
                                   ? scratch.File("data")
                                   : options_.server_data + "/" + kind;
    Build(folder);
    if (options_.Wants("start")) MeasureStart(folder);
    QuerndProcess server(folder, options_.settings);
    Api api(server);
    if (options_.Wants("search")) {
      for (const float target : kTargets) MeasureSearch(server, api, target);
    }
    if (options_.Wants("batch")) {
      for (const float target : kTargets) MeasureBatches(server, target);
    }
    if (options_.Wants("filter")) {
      for (const int64_t bound : kBounds) MeasureFilter(server, api, bound);
    }
    if (options_.Wants("ingest")) MeasureIngest(server, api);
    server.Terminate();
  }

  // --- start, memory, disk ---

  void MeasureStart(const std::string& folder) {
    double empty = 0;
    {
      const TemporaryDirectory nothing;
      QuerndProcess server(nothing.File("data"), options_.settings);
      empty = ResidentMebibytes(server.pid());
      server.Terminate();
    }
    std::vector<double> seconds;
    double resident = 0;
    for (int round = 0; round < 3; ++round) {
      const absl::Time start = absl::Now();
      QuerndProcess server(folder, options_.settings);
      seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
      Api api(server);
      const std::vector<v1::SearchRequest> asked =
          Searches(queries_, std::nullopt);
      for (size_t i = 0; i < asked.size() && i < kWarmUpQueries; ++i) {
        v1::SearchResponse response;
        Check(api.Search(asked[i], &response));
      }
      resident = ResidentMebibytes(server.pid());
      server.Terminate();
    }
    Add("start to READY", Median(seconds), "s", 3);
    Add("resident memory", resident, "MiB");
    Add("- over that of an empty server", (resident - empty) / raw_mebibytes(),
        "of fp32", absl::EndsWith(kind_, "int8") ? 0.35 : 0);
    Add("disk over raw bytes", FileMebibytes(folder) / raw_mebibytes(), "",
        1.3);
  }

  // --- search ---

  // Calls of `per_call` queries, one at a time.
  Cost Load(const QuerndProcess& server, const char* method,
            const std::vector<grpc::ByteBuffer>& requests, int64_t per_call) {
    LoadClient client(server.Channel(), method);
    return CostOf(client, requests, server.pid(), per_call);
  }

  Cost CostOf(LoadClient& client, const std::vector<grpc::ByteBuffer>& requests,
              pid_t pid, int64_t per_call) const {
    const LoadReport report =
        client.Run(requests, {.in_flight = 1,
                              .warm_up_seconds = kWarmUpSeconds,
                              .seconds = options_.seconds,
                              .server = pid});
    for (const CallOutcome& call : report.calls) {
      if (call.code == grpc::StatusCode::OK) continue;
      std::cerr << "a call ended with code " << call.code << "\n";
      std::exit(1);
    }
    const double queries = report.OkRate() * (report.end - report.begin) *
                           static_cast<double>(per_call);
    return {.cpu_us = 1e6 * report.server_cpu_seconds / queries,
            .p50_ms = Median(report.SentLatenciesMs(grpc::StatusCode::OK)),
            .per_second = report.OkRate() * static_cast<double>(per_call)};
  }

  Cost LoadEcho(ChildProcess& echo, const std::string& address,
                const std::vector<grpc::ByteBuffer>& requests,
                int64_t per_call) const {
    LoadClient client(
        grpc::CreateChannel(address, grpc::InsecureChannelCredentials()),
        kSearchMethod);
    return CostOf(client, requests, echo.pid(), per_call);
  }

  static ChildProcess StartEcho(size_t response_bytes) {
    return ChildProcess(
        {"/proc/self/exe", "--serve-bytes", absl::StrCat(response_bytes)});
  }

  Cost AskBaseline(const std::string& what, float target) {
    const auto answer =
        nlohmann::json::parse(baseline_->Ask(absl::StrCat(what, " ", target)));
    return {.cpu_us = answer["cpu_us"],
            .p50_ms = answer.value("p50_ms", 0.0),
            .per_second = answer["per_second"]};
  }

  double Recall(Api& api, const std::vector<v1::SearchRequest>& requests,
                const NpyFile<int64_t>& truth, size_t* response_bytes) const {
    int64_t right = 0;
    for (int64_t q = 0; q < truth.rows(); ++q) {
      v1::SearchResponse response;
      Check(api.Search(requests[q], &response));
      *response_bytes = response.ByteSizeLong();
      const auto nearest = truth.row(q).subspan(0, kK);
      for (const v1::Hit& hit : response.hits()) {
        int64_t row = -1;
        if (!absl::SimpleAtoi(hit.item().id(), &row)) continue;
        right += absl::c_count(nearest, row);
      }
    }
    return static_cast<double>(right) /
           static_cast<double>(truth.rows() * std::min(kK, truth.columns()));
  }

  void MeasureSearch(const QuerndProcess& server, Api& api, float target) {
    const std::string name = absl::StrCat("at ", target);
    const std::vector<v1::SearchRequest> requests = Searches(queries_, target);
    size_t response_bytes = 0;
    Add(name + ", recall@10", Recall(api, requests, truth_, &response_bytes),
        "", target, true);
    const std::vector<grpc::ByteBuffer> bytes = Bytes(requests);
    ChildProcess echo = StartEcho(response_bytes);
    const std::string address = echo.ReadLine();
    Tune(target, name);
    std::vector<double> cpu, p50, echo_cpu, echo_p50, alone_cpu, alone_p50,
        cpu_ratio, added;
    for (int round = 0; round < options_.rounds; ++round) {
      const Cost own = Load(server, kSearchMethod, bytes, 1);
      const Cost bare = LoadEcho(echo, address, bytes, 1);
      cpu.push_back(own.cpu_us);
      p50.push_back(own.p50_ms);
      echo_cpu.push_back(bare.cpu_us);
      echo_p50.push_back(bare.p50_ms);
      if (!baseline_.has_value()) continue;
      const Cost alone = AskBaseline("single", target);
      alone_cpu.push_back(alone.cpu_us);
      alone_p50.push_back(alone.p50_ms);
      cpu_ratio.push_back(own.cpu_us / (alone.cpu_us + bare.cpu_us));
      added.push_back(own.p50_ms - alone.p50_ms);
    }
    Add(name + ", processor time a query", Median(cpu), "us");
    Add(name + ", of a bare gRPC server", Median(echo_cpu), "us");
    Add(name + ", p50, one client", Median(p50), "ms");
    Add(name + ", p50 of a bare gRPC server", Median(echo_p50), "ms");
    if (!baseline_.has_value()) return;
    Add(name + ", processor time of the library", Median(alone_cpu), "us");
    Add(name + ", over the library and a bare server", Median(cpu_ratio), "",
        1);
    Add(name + ", p50 of the library", Median(alone_p50), "ms");
    Add(name + ", p50 more than the library's", Median(added), "ms", 0.4);
  }

  void Tune(float target, const std::string& name) {
    if (!baseline_.has_value()) return;
    const auto answer =
        nlohmann::json::parse(baseline_->Ask(absl::StrCat("tune ", target)));
    std::cout << name << ", the library: " << answer.dump() << std::endl;
  }

  void MeasureBatches(const QuerndProcess& server, float target) {
    const std::string name = absl::StrCat("batches of 64 at ", target);
    const std::vector<grpc::ByteBuffer> batches = Batches(target);
    if (batches.empty()) return;
    Tune(target, name);
    std::vector<double> rate, cpu, alone_rate, alone_cpu, share, cpu_share;
    for (int round = 0; round < options_.rounds; ++round) {
      const Cost own = Load(server, kBatchMethod, batches, kBatch);
      rate.push_back(own.per_second);
      cpu.push_back(own.cpu_us);
      if (!baseline_.has_value()) continue;
      const Cost alone = AskBaseline("batch", target);
      alone_rate.push_back(alone.per_second);
      alone_cpu.push_back(alone.cpu_us);
      share.push_back(own.per_second / alone.per_second);
      cpu_share.push_back(alone.cpu_us / own.cpu_us);
    }
    Add(name + ", rate", Median(rate), "queries/s", 0, true);
    Add(name + ", processor time", Median(cpu), "us");
    if (!baseline_.has_value()) return;
    Add(name + ", the library's rate", Median(alone_rate), "queries/s", 0,
        true);
    Add(name + ", the library's processor time", Median(alone_cpu), "us");
    Add(name + ", rate over the library's", Median(share), "", 0.9, true);
    Add(name + ", the same by processor time", Median(cpu_share), "", 0.9,
        true);
  }

  // --- filters ---

  void MeasureFilter(const QuerndProcess& server, Api& api, int64_t bound) {
    const NpyFile<int64_t> truth(
        absl::StrCat(options_.data, "/filtered-", bound, ".npy"));
    const std::string name = absl::StrCat(
        "filter of ", 100.0 * static_cast<double>(bound) / kBuckets, " %");
    const std::string filter = absl::StrCat("bucket < ", bound);
    const std::vector<v1::SearchRequest> requests =
        Searches(queries_, std::nullopt, filter);
    size_t ignored = 0;
    Add(name + ", recall@10", Recall(api, requests, truth, &ignored), "", 0.95,
        true);
    std::vector<v1::SearchRequest> exact_requests = requests;
    for (v1::SearchRequest& request : exact_requests) request.set_exact(true);
    const std::vector<grpc::ByteBuffer> bytes = Bytes(requests);
    const std::vector<grpc::ByteBuffer> exact_bytes = Bytes(exact_requests);
    std::vector<double> cpu, exact, ratio;
    for (int round = 0; round < options_.rounds; ++round) {
      cpu.push_back(Load(server, kSearchMethod, bytes, 1).cpu_us);
      exact.push_back(Load(server, kSearchMethod, exact_bytes, 1).cpu_us);
      ratio.push_back(cpu.back() / exact.back());
    }
    Add(name + ", processor time", Median(cpu), "us");
    Add(name + ", exact", Median(exact), "us");
    Add(name + ", over exact", Median(ratio), "", 1);
  }

  // --- searches beside writes ---

  static void Append(const std::vector<double>& more,
                     std::vector<double>* all) {
    all->insert(all->end(), more.begin(), more.end());
  }

  static LoadReport CallFor(const std::shared_ptr<grpc::Channel>& channel,
                            const std::vector<grpc::ByteBuffer>& requests,
                            double seconds, pid_t server) {
    LoadClient client(channel, kSearchMethod);
    return client.Run(requests,
                      {.in_flight = 1, .seconds = seconds, .server = server});
  }

  // A collection of its own, which is written by a process of its own while it
  // is searched, until the background has nothing left to do: at the rate that
  // is asked for, then as fast as it goes. Calls of a bare server take turns
  // with the searches: what those wait, no search can avoid.
  void MeasureIngest(const QuerndProcess& server, Api& api) {
    const std::string name = "live";
    const int64_t items = std::min(vectors_.rows(), kMaxLiveItems);
    const int64_t part = items / 4;
    CreateCollection(api, name);
    Fill(vectors_, api.channel(), name, 0, items - 2 * part, 0);
    Optimize(api, name);
    std::vector<v1::SearchRequest> searches = Searches(queries_, std::nullopt);
    for (v1::SearchRequest& search : searches) search.set_collection(name);
    const std::vector<grpc::ByteBuffer> requests = Bytes(searches);
    v1::SearchResponse sample;
    Check(api.Search(searches.front(), &sample));
    ChildProcess echo = StartEcho(sample.ByteSizeLong());
    const auto bare = grpc::CreateChannel(echo.ReadLine(),
                                          grpc::InsecureChannelCredentials());
    struct Latencies {
      std::vector<double> search, bare;
    };
    // Returns the processor time of a second of searches.
    const auto measure = [&](Latencies& all) {
      const LoadReport searched =
          CallFor(server.Channel(), requests, kStep, server.pid());
      Append(searched.SentLatenciesMs(grpc::StatusCode::OK), &all.search);
      Append(CallFor(bare, requests, kStep / 4, echo.pid())
                 .SentLatenciesMs(grpc::StatusCode::OK),
             &all.bare);
      return searched.server_cpu_seconds / kStep;
    };
    Latencies idle;
    measure(idle);  // Warms up.
    idle = {};
    double idle_cpu = 0;
    for (int i = 0; i < kIdleSteps; ++i) idle_cpu += measure(idle) / kIdleSteps;
    const double idle_ms = Quantile(idle.search, 0.99);
    const double idle_bare_ms = Quantile(idle.bare, 0.99);
    Add("search p99, idle", idle_ms, "ms");
    Add("- of a bare server", idle_bare_ms, "ms");
    ChildProcess writer({"/proc/self/exe", "--data", options_.data,
                         "--write-to", server.address()});
    writer.ReadLine();
    for (const double rate : {kPace, 0.0}) {
      const int64_t begin = rate > 0 ? items - 2 * part : items - part;
      std::atomic<bool> written = false;
      const absl::Time start = absl::Now();
      double seconds = 0;
      std::thread waiter([&] {
        writer.Ask(
            absl::StrCat(name, " ", begin, " ", begin + part, " ", rate));
        seconds = absl::ToDoubleSeconds(absl::Now() - start);
        written = true;
      });
      Latencies ingesting, sealing;
      while (absl::Now() - start < kMaxSealing) {
        const bool is_written = written;
        const double cpu = measure(is_written ? sealing : ingesting);
        // A single thread of the background would take all of its core;
        // searches of more items take a little more than before.
        if (is_written && cpu < idle_cpu + 0.5) break;
      }
      waiter.join();
      Add(absl::StrCat("ingest, ", rate > 0 ? "paced" : "as fast as it goes"),
          static_cast<double>(part) / seconds, "items/s", kIngestGoal, true);
      const auto add = [&](const std::string& when, const Latencies& all) {
        const double ms = Quantile(all.search, 0.99);
        const double bare_ms = Quantile(all.bare, 0.99);
        Add("- search p99 " + when, ms, "ms");
        Add("- - over idle", ms / idle_ms, "", 2.5);
        Add("- of a bare server", bare_ms, "ms");
        Add("- - over idle", bare_ms / idle_bare_ms, "");
      };
      add("meanwhile", ingesting);
      add("while it is sealed", sealing);
    }
    v1::DeleteCollectionRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    v1::DeleteCollectionResponse response;
    Check(v1::Collections::NewStub(api.channel())
              ->Delete(&context, request, &response));
  }

  const Options options_;
  const NpyFile<float> vectors_;
  const NpyFile<float> queries_;
  const NpyFile<float> calibration_;
  const NpyFile<int64_t> truth_;
  std::optional<ChildProcess> baseline_;
  std::string kind_;
  std::vector<Row> rows_;
};

// The bare server in a process of its own, whose processor time can be told.
[[noreturn]] void ServeBytes(int64_t bytes) {
  BareServer server([] {});
  server.SetAnswer(std::string(bytes, 'x'));
  std::cout << "127.0.0.1:" << server.port() << std::endl;
  for (;;) pause();
}

// Writes what lines on standard input ask for, COLLECTION BEGIN END RATE, and
// answers each when it is done.
void WriteAsAsked(const Options& options, const std::string& address) {
  const NpyFile<float> vectors(options.data + "/vectors.npy");
  const auto channel =
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  std::cout << "ready" << std::endl;
  std::string collection;
  int64_t begin = 0, end = 0;
  double rate = 0;
  while (std::cin >> collection >> begin >> end >> rate) {
    Fill(vectors, channel, collection, begin, end, rate);
    std::cout << "done" << std::endl;
  }
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Searches of a quernd beside a library and a bare server");
  quern::Options options;
  int64_t serve_bytes = -1;
  std::string write_to;
  app.add_option("--data", options.data, "Folder that make_vectors.py filled");
  app.add_option("--server-data", options.server_data,
                 "Folder for the servers' data, which is kept: a later run "
                 "builds nothing. Default: a temporary one");
  app.add_option("--baseline", options.baseline,
                 "Command of the library's process")
      ->expected(1, 8);
  app.add_option("--kind", options.kinds, "Kinds of index; repeatable")
      ->check(
          CLI::IsMember({"exact_fp32", "exact_fp16", "exact_int8", "hnsw_fp32",
                         "hnsw_fp16", "hnsw_int8", "ivf_pq_int8"}))
      ->take_all();
  app.add_option("--only", options.only, "Leave out the rest; repeatable")
      ->check(CLI::IsMember(
          {"start", "search", "batch", "filter", "ingest", "none"}))
      ->take_all();
  app.add_option("--set", options.settings,
                 "Settings of the server: key=value; repeatable")
      ->take_all();
  app.add_option("--rounds", options.rounds, "Rounds; the median counts")
      ->check(CLI::Range(1, 1000));
  app.add_option("--seconds", options.seconds, "Of each measurement")
      ->check(CLI::Range(0.1, 600.0));
  app.add_option("--json", options.json, "File to write the rows to");
  app.add_option("--serve-bytes", serve_bytes)->group("");
  app.add_option("--write-to", write_to)->group("");
  CLI11_PARSE(app, argc, argv);
  if (serve_bytes >= 0) quern::ServeBytes(serve_bytes);
  if (options.data.empty()) {
    std::cerr << "give --data, or call scripts/bench search\n";
    return 2;
  }
  if (!write_to.empty()) {
    quern::WriteAsAsked(options, write_to);
    return 0;
  }
  std::vector<std::string> settings;
  for (const std::string& setting : options.settings) {
    settings.insert(settings.end(), {"--set", setting});
  }
  options.settings = settings;
  const std::vector<quern::Row> rows = quern::Bench(options).Run();
  if (!options.json.empty()) quern::WriteJson(rows, options.json);
  return 0;
}

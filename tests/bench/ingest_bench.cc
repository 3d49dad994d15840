// How many ready-made embeddings a second one Upsert stream brings into a
// server that syncs every batch, what an item costs either side in processor
// time, and when it can be found: an answer means that it is.
//
//   ingest_bench [--items N] [--dimension N] [--payload] [--slices N]
//                [--callers N] [--set KEY=VALUE]...
//
// --callers: so many streams instead, each of which waits for an item's answer
// before it sends the next.

#include <algorithm>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include <unistd.h>

#include "tests/bench/bench.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

struct Settings {
  int items = 50'000;
  int dimension = 512;
  bool payload = false;
  int slices = 1;
  int callers = 0;  // 0: one stream that does not wait.
};

// One after the other, so that a run's length does not cost memory: `window`
// different vectors are enough for what an item costs.
class Requests {
 public:
  Requests(const Settings& settings, uint64_t seed)
      : settings_(settings), random_(seed) {
    std::normal_distribution<float> normal;
    vectors_.resize(kVectors);
    for (std::vector<float>& vector : vectors_) {
      vector.resize(settings.dimension);
      for (float& value : vector) value = normal(random_);
    }
  }

  v1::UpsertRequest Next() {
    std::vector<float>& vector = vectors_[number_ % kVectors];
    vector[number_ / kVectors % vector.size()] += 0.5F;
    // Ids come in no order.
    v1::UpsertRequest request =
        EmbeddingUpsert("", absl::StrCat(absl::Hex(random_())), vector);
    if (number_ == 0) request.set_collection("bench");
    if (settings_.payload) {
      auto& fields = *request.mutable_payload()->mutable_fields();
      fields["title"].set_string_value(absl::StrCat("picture ", number_));
      fields["year"].set_number_value(1950 + number_ % 70);
    }
    ++number_;
    return request;
  }

 private:
  static constexpr int kVectors = 4096;

  const Settings settings_;
  std::mt19937_64 random_;
  std::vector<std::vector<float>> vectors_;
  int number_ = 0;
};

struct Slice {
  double seconds = 0;
  double server_cpu = 0;
  double client_cpu = 0;
};

// `milliseconds` gets, of each item, the time from its Write() to its answer.
std::vector<Slice> Ingest(const QuerndProcess& server, const Api& api,
                          const Settings& settings,
                          std::vector<double>& milliseconds) {
  Requests requests(settings, 1);
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
  std::vector<absl::Time> sent(settings.items);
  std::vector<Slice> slices;
  const int per_slice = std::max(1, settings.items / settings.slices);
  absl::Time last = absl::Now();
  Slice used{.server_cpu = CpuSeconds(server.pid()),
             .client_cpu = CpuSeconds(getpid())};
  std::thread writer([&] {
    for (int i = 0; i < settings.items; ++i) {
      const v1::UpsertRequest request = requests.Next();
      sent[i] = absl::Now();
      stream->Write(request);
    }
    stream->WritesDone();
  });
  v1::UpsertResponse response;
  for (int i = 0; stream->Read(&response); ++i) {
    if (response.status().code() != 0) {
      std::cerr << response.status().message() << "\n";
    }
    const absl::Time now = absl::Now();
    milliseconds.push_back(absl::ToDoubleMilliseconds(now - sent[i]));
    if ((i + 1) % per_slice != 0) continue;
    const Slice total{.server_cpu = CpuSeconds(server.pid()),
                      .client_cpu = CpuSeconds(getpid())};
    slices.push_back({absl::ToDoubleSeconds(now - last),
                      total.server_cpu - used.server_cpu,
                      total.client_cpu - used.client_cpu});
    last = now;
    used = total;
  }
  writer.join();
  Check(stream->Finish());
  return slices;
}

// Of all callers: items a second, and the time from a Write() to its answer.
void CallSideBySide(const Api& api, const Settings& settings) {
  const int per_caller = settings.items / settings.callers;
  std::vector<std::vector<double>> milliseconds(settings.callers);
  std::vector<std::thread> callers;
  const absl::Time start = absl::Now();
  for (int caller = 0; caller < settings.callers; ++caller) {
    callers.emplace_back([&, caller] {
      Requests requests(settings, caller);
      grpc::ClientContext context;
      auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
      v1::UpsertResponse response;
      for (int i = 0; i < per_caller; ++i) {
        const absl::Time sent = absl::Now();
        stream->Write(requests.Next());
        if (!stream->Read(&response) || response.status().code() != 0) break;
        milliseconds[caller].push_back(
            absl::ToDoubleMilliseconds(absl::Now() - sent));
      }
      stream->WritesDone();
      Check(stream->Finish());
    });
  }
  for (std::thread& caller : callers) caller.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::vector<double> all;
  for (const std::vector<double>& of_one : milliseconds) {
    all.insert(all.end(), of_one.begin(), of_one.end());
  }
  absl::PrintF(
      "%d callers, an item at a time: %.0f items/s; median %.2f ms, 99%% %.2f "
      "ms\n",
      settings.callers, static_cast<double>(all.size()) / seconds, Median(all),
      Quantile(all, 0.99));
}

void Report(const Settings& settings, const std::vector<Slice>& slices,
            const std::vector<double>& milliseconds) {
  const int items = settings.items / static_cast<int>(slices.size());
  for (const Slice& slice : slices) {
    absl::PrintF(
        "%d items of dimension %d in %.2f s: %.0f items/s; processor time an "
        "item: server %.1f us, client %.1f us\n",
        items, settings.dimension, slice.seconds, items / slice.seconds,
        1e6 * slice.server_cpu / items, 1e6 * slice.client_cpu / items);
  }
  absl::PrintF(
      "from sent to searchable: median %.1f ms, 99%% %.1f ms, all "
      "%.1f ms\n",
      Median(milliseconds), Quantile(milliseconds, 0.99),
      Quantile(milliseconds, 1));
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  using namespace quern;  // NOLINT(google-build-using-namespace)
  Settings settings;
  std::vector<std::string> server_settings;
  CLI::App app("Ingest of ready-made embeddings");
  app.add_option("--items", settings.items, "Items of the stream");
  app.add_option("--dimension", settings.dimension, "Values of an embedding");
  app.add_flag("--payload", settings.payload, "Two payload fields an item");
  app.add_option("--slices", settings.slices,
                 "Lines of the report, one after the other in time")
      ->check(CLI::PositiveNumber);
  app.add_option("--callers", settings.callers,
                 "Streams that wait for each answer")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--set", server_settings, "Settings of the server: key=value");
  CLI11_PARSE(app, argc, argv);
  TemporaryDirectory data;
  std::vector<std::string> arguments;
  for (const std::string& setting : server_settings) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  const QuerndProcess server(data.File("data"), arguments);
  Api api(server);
  Check(api.CreateCollection("bench", settings.dimension));
  if (settings.callers > 0) {
    CallSideBySide(api, settings);
    return 0;
  }
  std::vector<double> milliseconds;
  const std::vector<Slice> slices = Ingest(server, api, settings, milliseconds);
  Report(settings, slices, milliseconds);
  return 0;
}

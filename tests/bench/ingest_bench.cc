// How many ready-made embeddings a second one Upsert stream brings into a
// server that syncs every batch.
//
//   ingest_bench [--items N] [--dimension N] [--set KEY=VALUE]...

#include <algorithm>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

#include "tests/bench/bench.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

std::vector<v1::UpsertRequest> MakeRequests(int items, int dimension) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<v1::UpsertRequest> requests;
  requests.reserve(items);
  std::vector<float> vector(dimension);
  for (int i = 0; i < items; ++i) {
    for (float& value : vector) value = normal(random);
    requests.push_back(EmbeddingUpsert("bench", absl::StrCat(i), vector));
  }
  // Ids come in no order.
  std::shuffle(requests.begin(), requests.end(), random);
  return requests;
}

double Ingest(Api& api, const std::vector<v1::UpsertRequest>& requests) {
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
  return SecondsOf([&] {
    std::thread writer([&] {
      for (const v1::UpsertRequest& request : requests) stream->Write(request);
      stream->WritesDone();
    });
    v1::UpsertResponse response;
    while (stream->Read(&response)) {
      if (response.status().code() != 0) {
        std::cerr << response.status().message() << "\n";
      }
    }
    writer.join();
    Check(stream->Finish());
  });
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  using namespace quern;  // NOLINT(google-build-using-namespace)
  int items = 50'000;
  int dimension = 512;
  std::vector<std::string> settings;
  CLI::App app("Ingest of ready-made embeddings");
  app.add_option("--items", items, "Items of the stream");
  app.add_option("--dimension", dimension, "Values of an embedding");
  app.add_option("--set", settings, "Settings of the server: key=value");
  CLI11_PARSE(app, argc, argv);
  TemporaryDirectory data;
  std::vector<std::string> arguments;
  for (const std::string& setting : settings) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  const QuerndProcess server(data.File("data"), arguments);
  Api api(server);
  Check(api.CreateCollection("bench", dimension));
  const auto requests = MakeRequests(items, dimension);
  const double seconds = Ingest(api, requests);
  std::cout << items << " items of dimension " << dimension << " in " << seconds
            << " s: " << static_cast<int>(items / seconds) << " items/s\n";
  return 0;
}

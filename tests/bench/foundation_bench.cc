// What the server costs beside what it is made of: a table, each ratio from
// rounds that alternate within one run.
//
//   foundation_bench [--images DIR] [--json FILE]

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

#include "engine/index/sharded_index.h"
#include "engine/media/vips_image_decoder.h"
#include "engine/model/load_model.h"
#include "tests/bench/bare_server.h"
#include "tests/bench/bench.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int kDimension = 512;
constexpr int kItems = 10'000;
constexpr int kRounds = 5;
constexpr int kSearchesPerRound = 300;
constexpr int kPicturesPerRound = 200;

// Directions of a mixture of 100 normals, so that neighbours exist.
std::vector<float> MakeVectors(int rows, uint32_t seed) {
  std::mt19937 centres_random(1);
  std::normal_distribution<float> normal;
  std::vector<float> centres(100 * kDimension);
  for (float& value : centres) value = normal(centres_random);
  std::mt19937 random(seed);
  std::vector<float> vectors(static_cast<size_t>(rows) * kDimension);
  for (int row = 0; row < rows; ++row) {
    const size_t centre = random() % 100;
    for (int d = 0; d < kDimension; ++d) {
      vectors[row * kDimension + d] =
          centres[centre * kDimension + d] + normal(random);
    }
  }
  return vectors;
}

std::vector<float> RowOf(const std::vector<float>& vectors, int row) {
  return {vectors.begin() + row * kDimension,
          vectors.begin() + (row + 1) * kDimension};
}

void Fill(const QuerndProcess& server, const std::vector<float>& vectors) {
  Api api(server);
  Check(api.CreateCollection("bench", kDimension));
  std::vector<v1::UpsertRequest> requests;
  for (int i = 0; i < kItems; ++i) {
    requests.push_back(
        EmbeddingUpsert("bench", absl::StrCat(i), RowOf(vectors, i)));
    if (requests.size() < 1000) continue;
    grpc::Status status;
    api.Upsert(requests, &status);
    Check(status);
    requests.clear();
  }
}

// The p50 of one client's searches, ms; `response` is that of the last.
double SearchMs(const std::shared_ptr<grpc::Channel>& channel,
                const std::vector<v1::SearchRequest>& requests,
                v1::SearchResponse& response) {
  auto stub = v1::Retrieval::NewStub(channel);
  std::vector<double> ms;
  for (const v1::SearchRequest& request : requests) {
    response.Clear();
    ms.push_back(1e3 * SecondsOf([&] {
                   grpc::ClientContext call;
                   Check(stub->Search(&call, request, &response));
                 }));
  }
  return Median(ms);
}

double StageMs(const v1::SearchResponse& response, absl::string_view stage) {
  for (const v1::StageTime& time : response.report().stages()) {
    if (time.stage() == stage) return 1e-6 * time.duration().nanos();
  }
  return 0;
}

// One client's search by embedding against the index alone, and against a bare
// server that only searches that index.
void MeasureSearch(const QuerndProcess& server,
                   const std::vector<float>& vectors, std::vector<Row>& rows) {
  const std::unique_ptr<VectorIndex> index =
      ValueOrDie(ShardedIndex::Create({.dimension = kDimension}));
  std::vector<std::string> ids;
  for (int i = 0; i < kItems; ++i) ids.push_back(absl::StrCat(i));
  (void)index->Upsert(
      ids, {.data = vectors.data(), .rows = kItems, .columns = kDimension});
  const std::vector<float> queries = MakeVectors(kSearchesPerRound, 3);
  std::vector<v1::SearchRequest> requests;
  for (int i = 0; i < kSearchesPerRound; ++i) {
    requests.push_back(EmbeddingSearch("bench", RowOf(queries, i)));
  }
  const RealClock clock;
  const RequestContext context(&clock, "bench");
  const std::shared_ptr<grpc::Channel> channel = server.Channel();
  int next = 0;
  const auto search = [&] {
    const MatrixView query{
        .data = queries.data() + (next++ % kSearchesPerRound) * kDimension,
        .rows = 1,
        .columns = kDimension};
    (void)index->Search(context, query, {.k = 10});
  };
  BareServer bare_server(search);
  std::vector<double> alone, served, bare, added, own, fetch, queue;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<double> alone_ms;
    for (int i = 0; i < kSearchesPerRound; ++i) {
      alone_ms.push_back(1e3 * SecondsOf(search));
    }
    alone.push_back(Median(alone_ms));
    v1::SearchResponse response;
    served.push_back(SearchMs(channel, requests, response));
    fetch.push_back(StageMs(response, "fetch"));
    queue.push_back(StageMs(response, "queue"));
    bare_server.SetAnswer(response.SerializeAsString());
    bare.push_back(SearchMs(bare_server.channel(), requests, response));
    added.push_back(served.back() - alone.back());
    own.push_back(served.back() - bare.back());
  }
  rows.push_back({"search of 10,000, index alone, p50", Median(alone), "ms"});
  rows.push_back({"search of 10,000, one client, p50", Median(served), "ms"});
  rows.push_back({"  added to the index alone", Median(added), "ms", 0.3});
  rows.push_back(
      {"a bare gRPC server over the same index, p50", Median(bare), "ms"});
  rows.push_back({"  added to the bare gRPC server", Median(own), "ms"});
  rows.push_back({"  of which fetching the hits' items", Median(fetch), "ms"});
  rows.push_back({"  of which waiting for a thread", Median(queue), "ms"});
}

// Pictures a second with as many threads as cores, from pixels in memory.
double BareRate(const Model& model,
                const std::vector<std::vector<float>>& pixels) {
  std::atomic<size_t> next = 0;
  const double seconds = SecondsOf([&] {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
      threads.emplace_back([&] {
        for (size_t at = next++; at < pixels.size(); at = next++) {
          (void)ValueOrDie(model.encoder().EncodeImages(
              {.rows = 1,
               .height = model.preprocessing().height,
               .width = model.preprocessing().width,
               .values = pixels[at]}));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  return static_cast<double>(pixels.size()) / seconds;
}

double IndexingRate(const QuerndProcess& server, const std::string& collection,
                    const std::vector<std::string>& pictures) {
  Api api(server);
  Check(api.CreateCollection(collection));
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
  const double seconds = SecondsOf([&] {
    std::thread writer([&] {
      for (size_t i = 0; i < pictures.size(); ++i) {
        stream->Write(ImageUpsert(collection, absl::StrCat(i), pictures[i]));
      }
      stream->WritesDone();
    });
    v1::UpsertResponse response;
    while (stream->Read(&response)) {
      if (response.status().code() != 0) {
        std::cerr << response.status().message() << "\n";
        std::exit(1);
      }
    }
    writer.join();
    Check(stream->Finish());
  });
  return static_cast<double>(pictures.size()) / seconds;
}

void MeasureIndexing(const QuerndProcess& server, const std::string& folder,
                     std::vector<Row>& rows) {
  const std::shared_ptr<const Model> model =
      ValueOrDie(LoadModel({.path = absl::StrCat(std::getenv("QUERN_CACHE"),
                                                 "/models/quern-lite")}));
  const auto decoder = ValueOrDie(VipsImageDecoder::Create({}));
  const std::vector<std::string> pictures =
      ReadPictures(folder, kPicturesPerRound);
  const ImagePreprocessing& wanted = model->preprocessing();
  std::vector<std::vector<float>> pixels;
  for (const std::string& picture : pictures) {
    pixels.emplace_back(3 * wanted.height * wanted.width);
    Normalise(
        Fit(ValueOrDie(decoder->Decode(picture, wanted.width, wanted.height)),
            wanted)
            .rgb,
        wanted, absl::MakeSpan(pixels.back()));
  }
  std::vector<double> bare, indexed, ratios;
  for (int round = 0; round < kRounds; ++round) {
    bare.push_back(BareRate(*model, pixels));
    indexed.push_back(
        IndexingRate(server, absl::StrCat("pictures-", round), pictures));
    ratios.push_back(indexed.back() / bare.back());
  }
  rows.push_back({"image tower alone, pixels in memory", Median(bare),
                  "pictures/s", 0, true});
  rows.push_back({"indexing pictures through the server", Median(indexed),
                  "pictures/s", 0, true});
  rows.push_back(
      {"indexing / image tower alone", Median(ratios), "", 0.85, true});
}

int Run(const std::string& images, const std::string& json) {
  std::vector<Row> rows;
  TemporaryDirectory data;
  const std::vector<float> vectors = MakeVectors(kItems, 2);
  {
    QuerndProcess server(data.path());
    Fill(server, vectors);
    server.Terminate();
  }
  std::vector<double> starts;
  for (int round = 0; round < kRounds; ++round) {
    starts.push_back(
        SecondsOf([&] { QuerndProcess(data.path()).Terminate(); }));
  }
  QuerndProcess server(data.path());
  rows.push_back(
      {"start to READY and stop again, 10,000 items", Median(starts), "s", 3});
  rows.push_back({"resident memory when idle, 10,000 items",
                  ResidentMebibytes(server.pid()), "MiB", 700});
  MeasureSearch(server, vectors, rows);
  MeasureIndexing(server, images, rows);
  Print(rows);
  if (!json.empty()) WriteJson(rows, json);
  return server.Terminate();
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("What the server costs beside what it is made of");
  std::string images =
      absl::StrCat(std::getenv("QUERN_CACHE"), "/samples/pictures");
  std::string json;
  app.add_option("--images", images, "Folder of .jpg and .png pictures");
  app.add_option("--json", json, "File to write the rows to");
  CLI11_PARSE(app, argc, argv);
  return quern::Run(images, json);
}

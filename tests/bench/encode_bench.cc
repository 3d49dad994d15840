// What the server makes of the encoder: throughput, latency and behaviour under
// load of Embed, beside the same encoder called in this process, and beside
// what LibTorch makes of the towers at its best. A table, each ratio from
// rounds that alternate within one run.
//
//   encode_bench [--images DIR] [--json FILE] [--rounds N] [--seconds S]
//                [--requests N] [--only NAME]...

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "grpcpp/support/byte_buffer.h"

#include "engine/media/image_writer.h"
#include "engine/media/vips_image_decoder.h"
#include "engine/model/load_model.h"
#include "engine/text/tokenizer.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "tests/bench/bare_tower.h"
#include "tests/bench/bench.h"
#include "tests/bench/load_client.h"
#include "tests/support/quernd_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int kSentences = 2000;
constexpr int kPictures = 120;
constexpr int kBatchSizes[] = {1, 2, 4, 8, 16, 32};
constexpr int kInputsPerGroup = 16;
constexpr double kWarmUpSeconds = 0.4;
constexpr char kEmbedMethod[] = "/quern.v1.Embedding/Embed";

struct Options {
  std::string images;
  std::string json;
  int rounds = 5;
  double seconds = 2;       // Of each measurement of a round.
  int64_t requests = 2000;  // Of the memory row, then ten times as many.
  std::vector<std::string> only;
  bool print_sentences = false;

  // Of the inputs and of the measurements, those that are named; all where none
  // is.
  bool Wants(const std::string& name) const {
    const auto is_input = [](const std::string& text) {
      return text == "text" || text == "image";
    };
    bool has_named = false;
    for (const std::string& named : only) {
      if (named == name) return true;
      has_named = has_named || is_input(named) == is_input(name);
    }
    return !has_named;
  }
};

std::string Pick(std::mt19937& random,
                 const std::vector<const char*>& choices) {
  return choices[random() % choices.size()];
}

// Captions of 6 to 26 words, 13 on average, none twice.
std::vector<std::string> MakeSentences() {
  std::mt19937 random(7);
  const auto thing = [&] {
    return absl::StrCat(
        Pick(random, {"a ", "the ", "one ", "some "}),
        Pick(random, {"", "", "small ", "young ", "old ", "brown ", "white ",
                      "black and white ", "very large ", "wet ", "striped "}),
        Pick(random,
             {"dog",      "cat",       "horse",           "child",
              "woman",    "man",       "cyclist",         "surfer",
              "musician", "bird",      "football player", "elephant",
              "climber",  "fisherman", "motorcyclist",    "skateboarder",
              "crowd",    "puppy",     "toddler",         "street vendor"}));
  };
  std::set<std::string> sentences;
  while (sentences.size() < kSentences) {
    std::string sentence = absl::StrCat(
        thing(),
        Pick(random, {" runs", " is jumping", " stands", " is sitting",
                      " plays", " is looking at the camera", " is waiting",
                      " walks slowly", " rests", " leaps"}),
        Pick(random, {" across", " near", " in front of", " beside",
                      " on top of", " behind", " along"}),
        Pick(random,
             {" a fence", " the snowy mountain", " a busy street", " the ocean",
              " a wooden bench", " the red brick building", " a muddy field",
              " a swimming pool", " the finish line", " a parked car"}));
    if (random() % 2 == 0) {
      absl::StrAppend(&sentence, Pick(random, {" while ", " and ", " as "}),
                      thing(),
                      Pick(random, {" watches", " follows closely", " sleeps",
                                    " eats", " throws a ball"}));
    }
    if (random() % 3 == 0) {
      absl::StrAppend(&sentence,
                      Pick(random, {" at night", " on a sunny day",
                                    " in the rain", " during a race"}));
    }
    sentences.insert(sentence + ".");
  }
  std::vector<std::string> list(sentences.begin(), sentences.end());
  // Not by std::shuffle, whose order is the library's own affair.
  for (size_t i = list.size() - 1; i > 0; --i) {
    std::swap(list[i], list[random() % (i + 1)]);
  }
  return list;
}

// JPEG bytes: those of the folder, and what else it holds in one of four sizes.
std::vector<std::string> MakePictures(const ImageDecoder& decoder,
                                      const std::string& folder) {
  constexpr int64_t kSizes[][2] = {
      {224, 224}, {320, 240}, {480, 360}, {640, 480}};
  std::vector<std::string> pictures = ReadPictures(folder, kPictures);
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (absl::StartsWith(pictures[i], "\xff\xd8")) continue;
    const auto& [width, height] = kSizes[i % std::size(kSizes)];
    pictures[i] =
        ValueOrDie(EncodeJpeg(Resize(ValueOrDie(decoder.Decode(pictures[i])),
                                     width, height, ResizeFilter::kBicubic),
                              85));
  }
  if (pictures.empty()) {
    std::cerr << folder << " holds no .jpg or .png: give --images\n";
    std::exit(1);
  }
  return pictures;
}

grpc::ByteBuffer ToByteBuffer(const google::protobuf::Message& message) {
  const grpc::Slice bytes(message.SerializeAsString());
  return {&bytes, 1};
}

// One kind of input, as the server and as the bare encoder take it.
struct Workload {
  std::string name;  // "text"
  size_t size = 0;   // Distinct inputs.
  int batch = 1;     // Rows of the server's full batch.
  std::function<void(size_t index, v1::Input& input)> fill;
  // All that lies between the request's bytes and the embedding, for `rows`
  // inputs from `first` on. Thread-safe.
  std::function<void(size_t first, int rows)> encode;
  // The same with inputs of similar size side by side, as only who knows all of
  // them beforehand can have them. Null: they are all alike.
  std::function<void(size_t first, int rows)> encode_sorted;
  // The tower alone, likewise.
  std::function<void(size_t first, int rows)> run_tower;
  std::string tower_file;  // TorchScript.
  // encode(), with LibTorch's own way to run that file.
  std::function<void(const BareTower&, size_t first, int rows)> encode_bare;

  std::vector<grpc::ByteBuffer> Requests(int inputs_per_call) const {
    std::vector<grpc::ByteBuffer> requests;
    for (size_t first = 0; first + inputs_per_call <= size;
         first += inputs_per_call) {
      v1::EmbedRequest request;
      for (int i = 0; i < inputs_per_call; ++i) {
        fill(first + i, *request.add_inputs());
      }
      requests.push_back(ToByteBuffer(request));
    }
    return requests;
  }
};

Workload TextWorkload(const std::shared_ptr<const Model>& model,
                      const std::string& folder) {
  const auto sentences =
      std::make_shared<const std::vector<std::string>>(MakeSentences());
  const auto shortest_first =
      std::make_shared<std::vector<std::string>>(*sentences);
  const auto token_count = [&model](const std::string& sentence) {
    return model->tokenizer()->Tokenize(sentence).ids.size();
  };
  absl::c_stable_sort(*shortest_first,
                      [&](const std::string& a, const std::string& b) {
                        return token_count(a) < token_count(b);
                      });
  const auto all_tokens = std::make_shared<std::vector<Tokens>>();
  for (const std::string& sentence : *shortest_first) {
    all_tokens->push_back(model->tokenizer()->Tokenize(sentence));
  }
  const auto tokenize = [model](const std::vector<std::string>& from,
                                size_t first, int rows) {
    std::vector<Tokens> tokens;
    tokens.reserve(rows);
    for (int i = 0; i < rows; ++i) {
      tokens.push_back(
          model->tokenizer()->Tokenize(from[(first + i) % from.size()]));
    }
    return tokens;
  };
  const auto encode = [model, tokenize](const std::vector<std::string>& from,
                                        size_t first, int rows) {
    (void)ValueOrDie(model->encoder().EncodeText(tokenize(from, first, rows)));
  };
  // Short and long batches in turns.
  const auto scatter = [](size_t first, int rows, size_t size) {
    const size_t batches = size / rows;
    return first / rows * 611 % batches * rows;
  };
  Workload work;
  work.name = "text";
  work.size = sentences->size();
  work.batch = static_cast<int>(model->encoder().tuning().text_rows);
  work.fill = [sentences](size_t index, v1::Input& input) {
    input.set_text((*sentences)[index]);
  };
  work.encode = [encode, sentences](size_t first, int rows) {
    encode(*sentences, first, rows);
  };
  work.encode_sorted = [encode, scatter, shortest_first](size_t first,
                                                         int rows) {
    encode(*shortest_first, scatter(first, rows, shortest_first->size()), rows);
  };
  work.run_tower = [model, scatter, all_tokens](size_t first, int rows) {
    first = scatter(first, rows, all_tokens->size());
    (void)ValueOrDie(model->encoder().EncodeText(
        {all_tokens->data() + first, static_cast<size_t>(rows)}));
  };
  work.tower_file = folder + "/text.ts";
  work.encode_bare = [tokenize, sentences](const BareTower& tower, size_t first,
                                           int rows) {
    tower.Run(tokenize(*sentences, first, rows));
  };
  return work;
}

Workload ImageWorkload(const std::shared_ptr<const Model>& model,
                       const std::string& folder,
                       const std::string& picture_folder) {
  const std::shared_ptr<const ImageDecoder> decoder =
      ValueOrDie(VipsImageDecoder::Create({}));
  const auto pictures = std::make_shared<const std::vector<std::string>>(
      MakePictures(*decoder, picture_folder));
  Workload work;
  work.name = "image";
  work.size = pictures->size();
  work.batch = static_cast<int>(model->encoder().tuning().image_rows);
  work.fill = [pictures](size_t index, v1::Input& input) {
    input.mutable_image()->set_content((*pictures)[index]);
  };
  // Decodes nothing where the pixels of an earlier call will do.
  const ImagePreprocessing wanted = model->preprocessing();
  const size_t values = 3 * wanted.width * wanted.height;
  const auto preprocess = [decoder, pictures, wanted](size_t index,
                                                      absl::Span<float> out) {
    const Image picture =
        Fit(ValueOrDie(decoder->Decode((*pictures)[index % pictures->size()],
                                       wanted.width, wanted.height)),
            wanted);
    Normalise(picture.rgb, wanted, out);
  };
  // `fill_row` gives each row's pixels, `encode` takes them all.
  const auto run = [wanted, values](int rows, const auto& fill_row,
                                    const auto& encode) {
    thread_local PixelBatch pixels;
    pixels.rows = rows;
    pixels.height = wanted.height;
    pixels.width = wanted.width;
    pixels.values.resize(rows * values);
    for (int i = 0; i < rows; ++i) {
      fill_row(i, absl::MakeSpan(pixels.values).subspan(i * values, values));
    }
    encode(pixels);
  };
  const auto encode = [model](const PixelBatch& pixels) {
    (void)ValueOrDie(model->encoder().EncodeImages(pixels));
  };
  work.encode = [run, preprocess, encode](size_t first, int rows) {
    run(
        rows, [&](int i, absl::Span<float> out) { preprocess(first + i, out); },
        encode);
  };
  work.tower_file = folder + "/image.ts";
  work.encode_bare = [run, preprocess](const BareTower& tower, size_t first,
                                       int rows) {
    run(
        rows, [&](int i, absl::Span<float> out) { preprocess(first + i, out); },
        [&](const PixelBatch& pixels) { tower.Run(pixels); });
  };
  auto ready = std::make_shared<std::vector<std::vector<float>>>();
  for (size_t i = 0; i < 32; ++i) {
    preprocess(i, absl::MakeSpan(ready->emplace_back(values)));
  }
  work.run_tower = [run, ready, encode](size_t first, int rows) {
    run(
        rows,
        [&](int i, absl::Span<float> out) {
          absl::c_copy((*ready)[(first + i) % ready->size()], out.begin());
        },
        encode);
  };
  return work;
}

struct Rate {
  double inputs_per_second = 0;
  double cpu_ms = 0;  // Per input.
};

int Cores() { return static_cast<int>(std::thread::hardware_concurrency()); }

// On `callers` threads, as many as the server has, each with batches of `rows`.
Rate BareRate(const std::function<void(size_t, int)>& encode, int rows,
              double seconds, int callers = Cores()) {
  std::atomic<size_t> next = 0;
  std::atomic<int64_t> total = 0;
  std::atomic<double> rate = 0;
  const double cpu = CpuSeconds(getpid());
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i) {
    threads.emplace_back([&] {
      const absl::Time start = absl::Now();
      int64_t count = 0;
      double elapsed = 0;
      while (elapsed < seconds) {
        encode(next.fetch_add(rows), rows);
        count += rows;
        elapsed = absl::ToDoubleSeconds(absl::Now() - start);
      }
      total += count;
      rate += static_cast<double>(count) / elapsed;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return {.inputs_per_second = rate,
          .cpu_ms =
              1e3 * (CpuSeconds(getpid()) - cpu) / static_cast<double>(total)};
}

// The batch size that gives the highest rate; prints what each gives.
int FindBestBatch(const std::string& what,
                  const std::function<void(size_t, int)>& encode,
                  double seconds) {
  absl::PrintF("%s, inputs/s of %u threads at batch", what,
               std::thread::hardware_concurrency());
  int best = 1;
  double best_rate = 0;
  for (const int rows : kBatchSizes) {
    const double rate = BareRate(encode, rows, seconds).inputs_per_second;
    absl::PrintF("  %d: %.1f", rows, rate);
    if (rate > best_rate) {
      best_rate = rate;
      best = rows;
    }
  }
  absl::PrintF("\n");
  std::fflush(stdout);
  return best;
}

// What LibTorch makes of a tower, set up as fits it best.
struct BareCeiling {
  BareTowerOptions options;
  int batch = 1;

  int callers() const { return Cores() / options.threads; }
  std::string description() const {
    return absl::StrCat(options.bf16 ? "bf16" : "fp32",
                        options.optimized
                            ? ", frozen and optimized for inference"
                            : ", as exported",
                        ", ", callers(), " passes of ", options.threads,
                        " threads at a time, batches of ", batch);
  }
};

// Runs batches of `work` on `tower`.
auto EncodeBare(const Workload& work, const BareTower& tower) {
  return [&](size_t first, int rows) { work.encode_bare(tower, first, rows); };
}

// The way that gives the highest rate; prints the best batch of each.
BareCeiling FindBareCeiling(const Workload& work, double seconds) {
  BareCeiling best;
  double best_rate = 0;
  for (const bool bf16 : {false, true}) {
    for (const bool optimized : {false, true}) {
      for (const int threads : std::set<int>{1, Cores()}) {
        BareCeiling way = {{optimized, bf16, threads}};
        const BareTower tower(work.tower_file, way.options);
        double rate = 0;
        for (const int rows : kBatchSizes) {
          const double found =
              BareRate(EncodeBare(work, tower), rows, seconds, way.callers())
                  .inputs_per_second;
          if (found <= rate) continue;
          rate = found;
          way.batch = rows;
        }
        absl::PrintF("%s, LibTorch, %s: %.1f inputs/s\n", work.name,
                     way.description(), rate);
        std::fflush(stdout);
        if (rate <= best_rate) continue;
        best_rate = rate;
        best = way;
      }
    }
  }
  return best;
}

// Saturation: closed loops against the encoder alone and against LibTorch
// alone.
void MeasureThroughput(const Workload& work, const QuerndProcess& server,
                       const Options& options, int batch,
                       std::vector<Row>& rows) {
  struct Load {
    int in_flight = 0;
    int inputs = 0;
    std::vector<grpc::ByteBuffer> requests;
    std::vector<double> rates, ratios, torch_ratios, cpu_ms, cpu_ratios,
        client_ms;
  };
  std::vector<Load> loads = {
      {32, 1, work.Requests(1)},
      {64, 1, work.Requests(1)},
      {8, kInputsPerGroup, work.Requests(kInputsPerGroup)}};
  LoadClient client(server.Channel(), kEmbedMethod);
  const BareCeiling torch = FindBareCeiling(work, options.seconds / 3);
  const BareTower tower(work.tower_file, torch.options);
  std::vector<double> bare, bare_cpu, sorted, bare_torch;
  for (int round = 0; round < options.rounds; ++round) {
    for (Load& load : loads) {
      const Rate ceiling = BareRate(work.encode, batch, options.seconds);
      bare.push_back(ceiling.inputs_per_second);
      bare_cpu.push_back(ceiling.cpu_ms);
      bare_torch.push_back(BareRate(EncodeBare(work, tower), torch.batch,
                                    options.seconds, torch.callers())
                               .inputs_per_second);
      const LoadReport report =
          client.Run(load.requests, {.in_flight = load.in_flight,
                                     .warm_up_seconds = kWarmUpSeconds,
                                     .seconds = options.seconds,
                                     .server = server.pid()});
      const double rate = report.OkRate() * load.inputs;
      const double inputs = rate * (report.end - report.begin);
      load.rates.push_back(rate);
      load.ratios.push_back(rate / bare.back());
      load.torch_ratios.push_back(rate / bare_torch.back());
      load.cpu_ms.push_back(1e3 * report.server_cpu_seconds / inputs);
      load.cpu_ratios.push_back(load.cpu_ms.back() / bare_cpu.back());
      load.client_ms.push_back(1e3 * report.client_cpu_seconds / inputs);
    }
    if (work.encode_sorted) {
      sorted.push_back(BareRate(work.encode_sorted, batch, options.seconds)
                           .inputs_per_second);
    }
  }
  rows.push_back(
      {absl::StrCat(work.name, ", LibTorch alone: ", torch.description()),
       Median(bare_torch), "inputs/s", 0, true});
  rows.push_back(
      {absl::StrCat(work.name, ", encoder alone, batches of ", batch),
       Median(bare), "inputs/s", 0, true});
  rows.push_back({absl::StrCat(work.name, ", encoder alone, processor time"),
                  Median(bare_cpu), "ms/input"});
  if (work.encode_sorted) {
    rows.push_back({absl::StrCat(work.name, ", encoder alone, all sorted"),
                    Median(sorted), "inputs/s", 0, true});
  }
  for (const Load& load : loads) {
    const std::string name = absl::StrCat(work.name, ", ", load.in_flight,
                                          " calls of ", load.inputs);
    rows.push_back({name, Median(load.rates), "inputs/s", 0, true});
    rows.push_back({absl::StrCat(name, " / LibTorch alone"),
                    Median(load.torch_ratios), "", 0.95, true});
    rows.push_back({absl::StrCat(name, " / encoder alone"), Median(load.ratios),
                    "", 0.95, true});
    rows.push_back({absl::StrCat(name, ", server's processor time"),
                    Median(load.cpu_ms), "ms/input"});
    rows.push_back({absl::StrCat(name, ", the same / encoder alone"),
                    Median(load.cpu_ratios), ""});
    rows.push_back({absl::StrCat(name, ", client's processor time"),
                    Median(load.client_ms), "ms/input"});
  }
}

// One client and nobody else, against one forward pass.
void MeasureLatency(const Workload& work, const QuerndProcess& server,
                    const Options& options, std::vector<Row>& rows) {
  // In turns, but not so short that each finds the other's weights in the
  // processor's caches.
  constexpr int kCallsPerTurn = 25;
  const std::vector<grpc::ByteBuffer> requests = work.Requests(1);
  LoadClient client(server.Channel(), kEmbedMethod);
  std::vector<double> bare, served;
  size_t next = 0;
  for (int turn = 0; turn < 2 * options.rounds; ++turn) {
    for (int i = 0; i < kCallsPerTurn; ++i) {
      bare.push_back(1e3 * SecondsOf([&] { work.encode(next++, 1); }));
    }
    const LoadReport report =
        client.Run(requests, {.in_flight = 1, .max_calls = kCallsPerTurn});
    for (const double ms : report.LatenciesMs(grpc::StatusCode::OK)) {
      served.push_back(ms);
    }
  }
  rows.push_back(
      {absl::StrCat(work.name, ", one forward pass, p50"), Median(bare), "ms"});
  rows.push_back({absl::StrCat(work.name, ", one client, p50"), Median(served),
                  "ms", 1.15 * Median(bare) + 0.5});
}

LoadReport Saturate(LoadClient& client,
                    const std::vector<grpc::ByteBuffer>& requests,
                    const Options& options) {
  return client.Run(requests, {.in_flight = 64,
                               .warm_up_seconds = kWarmUpSeconds,
                               .seconds = options.seconds});
}

// 80 % of saturation, calls at random times.
void MeasurePoisson(const Workload& work, const QuerndProcess& server,
                    const Options& options, std::vector<Row>& rows) {
  const std::vector<grpc::ByteBuffer> requests = work.Requests(1);
  LoadClient client(server.Channel(), kEmbedMethod);
  std::vector<double> batch_ms, p50, p99, ratios;
  for (int round = 0; round < options.rounds; ++round) {
    batch_ms.push_back(1e3 * work.batch * Cores() /
                       BareRate(work.encode, work.batch, options.seconds / 2)
                           .inputs_per_second);
    const double saturation = Saturate(client, requests, options).OkRate();
    const LoadReport report =
        client.Run(requests, {.rate = 0.8 * saturation,
                              .seed = static_cast<uint32_t>(round) + 1,
                              .warm_up_seconds = kWarmUpSeconds,
                              .seconds = 1.5 * options.seconds});
    const std::vector<double> ms = report.LatenciesMs(grpc::StatusCode::OK);
    p50.push_back(Median(ms));
    p99.push_back(Quantile(ms, 0.99));
    ratios.push_back(p99.back() / batch_ms.back());
  }
  rows.push_back({absl::StrCat(work.name, ", a full batch of ", work.batch),
                  Median(batch_ms), "ms"});
  const std::string name = absl::StrCat(work.name, ", 80 % of saturation");
  rows.push_back({name + ", p50", Median(p50), "ms"});
  rows.push_back({name + ", p99", Median(p99), "ms"});
  rows.push_back({name + ", p99 / full batch", Median(ratios), "", 3});
}

// The most memory that a process had resident since the last call.
double PeakMebibytes(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  double peak = 0;
  for (std::string word; status >> word;) {
    if (word == "VmHWM:" && status >> peak) break;
  }
  std::ofstream(absl::StrCat("/proc/", pid, "/clear_refs")) << "5";
  return peak / 1024;
}

// Three times what it can do, every call with a deadline.
void MeasureOverload(const Workload& work, const QuerndProcess& patient,
                     const QuerndProcess& server, const Options& options,
                     std::vector<Row>& rows) {
  constexpr grpc::StatusCode kRefused = grpc::StatusCode::RESOURCE_EXHAUSTED;
  const std::vector<grpc::ByteBuffer> requests = work.Requests(1);
  LoadClient patient_client(patient.Channel(), kEmbedMethod);
  LoadClient client(server.Channel(), kEmbedMethod);
  double saturation = Saturate(patient_client, requests, options).OkRate();
  // Not of a server that has still to make its kernels.
  Saturate(client, requests, options);
  const double before = ResidentMebibytes(server.pid());
  PeakMebibytes(server.pid());
  const LoadReport report =
      client.Run(requests, {.rate = 3 * saturation,
                            // Until the queue is as long as it gets.
                            .warm_up_seconds = 2,
                            .seconds = 4 * options.seconds,
                            .deadline = absl::Seconds(2)});
  const double peak = PeakMebibytes(server.pid());
  const double after = ResidentMebibytes(server.pid());
  // Around it, so that a machine that slows down does not count.
  saturation += Saturate(patient_client, requests, options).OkRate();
  saturation /= 2;
  int64_t due = 0, refused = 0, with_retry_info = 0, late = 0;
  for (const CallOutcome& call : report.calls) {
    if (call.due < report.begin || call.due > report.end) continue;
    ++due;
    late += call.code == grpc::StatusCode::DEADLINE_EXCEEDED;
    refused += call.code == kRefused;
    with_retry_info += call.code == kRefused && call.has_retry_info;
  }
  const auto share = [](int64_t part, int64_t whole) {
    return whole == 0 ? 0
                      : static_cast<double>(part) / static_cast<double>(whole);
  };
  const std::string name = absl::StrCat(work.name, ", 300 % of saturation");
  rows.push_back({name + ", goodput / saturation", report.OkRate() / saturation,
                  "", 0.9, true});
  rows.push_back({name + ", refused", share(refused, due), ""});
  rows.push_back({name + ", past the deadline", share(late, due), ""});
  if (refused > 0) {
    rows.push_back({name + ", refused with RetryInfo",
                    share(with_retry_info, refused), "", 1, true});
    rows.push_back({name + ", refused after, p99",
                    Quantile(report.SentLatenciesMs(kRefused), 0.99), "ms", 5});
  }
  rows.push_back({name + ", p99 of the answered",
                  Quantile(report.LatenciesMs(grpc::StatusCode::OK), 0.99),
                  "ms"});
  rows.push_back({name + ", memory after / before", after / before, "", 1.05});
  rows.push_back({name + ", memory peak / before", peak / before, ""});
}

// Many inputs over one stream.
void MeasureStream(const Workload& work, const QuerndProcess& server,
                   const Options& options, int batch, std::vector<Row>& rows) {
  const auto stub = v1::Embedding::NewStub(server.Channel());
  std::vector<v1::EmbedStreamRequest> requests(work.size);
  for (size_t i = 0; i < work.size; ++i) {
    work.fill(i, *requests[i].mutable_input());
  }
  std::vector<double> rates, ratios;
  for (int round = 0; round < options.rounds; ++round) {
    const double bare =
        BareRate(work.encode, batch, options.seconds).inputs_per_second;
    grpc::ClientContext context;
    const auto stream = stub->EmbedStream(&context);
    std::atomic<bool> is_over = false;
    std::thread writer([&] {
      for (size_t i = 0; !is_over && stream->Write(requests[i % work.size]);
           ++i) {
      }
      stream->WritesDone();
    });
    v1::EmbedStreamResponse response;
    int64_t count = 0;
    absl::Time begin, end;
    const absl::Time start = absl::Now();
    while (stream->Read(&response)) {
      const absl::Time now = absl::Now();
      if (now - start < absl::Seconds(kWarmUpSeconds)) continue;
      if (count == 0) begin = now;
      if (now - begin > absl::Seconds(options.seconds)) {
        is_over = true;
        continue;
      }
      end = now;
      ++count;
    }
    is_over = true;
    writer.join();
    const grpc::Status status = stream->Finish();
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
      absl::PrintF("%s, one stream: left out: %s\n", work.name,
                   status.error_message());
      return;
    }
    Check(status);
    rates.push_back(static_cast<double>(count - 1) /
                    absl::ToDoubleSeconds(end - begin));
    ratios.push_back(rates.back() / bare);
  }
  const std::string name = work.name + ", one stream";
  rows.push_back({name, Median(rates), "inputs/s", 0, true});
  rows.push_back({name + " / encoder alone", Median(ratios), "", 0.95, true});
}

// Whether a server's memory settles.
void MeasureMemory(const Workload& text, const Workload& image,
                   const std::vector<std::string>& arguments,
                   const Options& options, std::vector<Row>& rows) {
  TemporaryDirectory data;
  QuerndProcess server(data.path(), arguments);
  // Every 20th a picture.
  std::vector<grpc::ByteBuffer> requests = text.Requests(1);
  const std::vector<grpc::ByteBuffer> pictures = image.Requests(1);
  for (size_t i = 0; i < requests.size(); i += 20) {
    requests[i] = pictures[i / 20 % pictures.size()];
  }
  LoadClient client(server.Channel(), kEmbedMethod);
  const auto resident_after = [&](int64_t calls) {
    client.Run(requests, {.in_flight = 32, .max_calls = calls});
    return ResidentMebibytes(server.pid());
  };
  const double early = resident_after(options.requests);
  const double late = resident_after(9 * options.requests);
  rows.push_back({absl::StrCat("memory after ", options.requests, " requests"),
                  early, "MiB"});
  rows.push_back({absl::StrCat("memory after ", 10 * options.requests,
                               " / after ", options.requests),
                  late / early, "", 1.02});
}

// Sentences that the server has seen before.
void MeasureCache(const Workload& work, const Options& options,
                  std::vector<Row>& rows) {
  TemporaryDirectory data;
  QuerndProcess server(data.path());
  const std::vector<grpc::ByteBuffer> requests = work.Requests(1);
  LoadClient client(server.Channel(), kEmbedMethod);
  client.Run(requests, {.in_flight = 32,
                        .max_calls = static_cast<int64_t>(requests.size())});
  const LoadReport report =
      client.Run(requests, {.in_flight = 32,
                            .warm_up_seconds = kWarmUpSeconds,
                            .seconds = options.seconds,
                            .server = server.pid()});
  rows.push_back({"text from the cache, 32 calls of 1", report.OkRate(),
                  "inputs/s", 0, true});
  rows.push_back({"text from the cache, server's processor time",
                  1e3 * report.server_cpu_seconds /
                      (report.OkRate() * (report.end - report.begin)),
                  "ms/input"});
  const std::vector<double> ms =
      client.Run(requests, {.in_flight = 1, .max_calls = 500})
          .LatenciesMs(grpc::StatusCode::OK);
  rows.push_back({"text from the cache, one client, p50", Median(ms), "ms"});
}

void MeasureWorkload(const Workload& work, const QuerndProcess& patient,
                     const QuerndProcess& server, const Options& options,
                     std::vector<Row>& rows) {
  const double search_seconds = options.seconds / 3;
  int batch = 1;
  if (options.Wants("throughput") || options.Wants("stream")) {
    batch = FindBestBatch(work.name, work.encode, search_seconds);
  }
  if (options.Wants("throughput")) {
    const int tower_batch = FindBestBatch(work.name + ", tower alone",
                                          work.run_tower, search_seconds);
    rows.push_back(
        {absl::StrCat(work.name, ", tower alone, batches of ", tower_batch),
         BareRate(work.run_tower, tower_batch, options.seconds)
             .inputs_per_second,
         "inputs/s", 0, true});
    MeasureThroughput(work, patient, options, batch, rows);
  }
  if (options.Wants("latency")) MeasureLatency(work, patient, options, rows);
  if (options.Wants("poisson")) {
    MeasurePoisson(work, patient, options, rows);
  }
  if (options.Wants("overload"))
    MeasureOverload(work, patient, server, options, rows);
  if (options.Wants("stream")) {
    MeasureStream(work, patient, options, batch, rows);
  }
}

int Run(const Options& options) {
  const std::string package =
      absl::StrCat(std::getenv("QUERN_CACHE"), "/models/quern-lite");
  const std::shared_ptr<const Model> model =
      ValueOrDie(LoadModel({.path = package}));
  const Workload text = TextWorkload(model, package);
  const Workload image = ImageWorkload(model, package, options.images);
  // Sentences come around again: answers from the cache would not tell what
  // the encoder does.
  const std::vector<std::string> uncached = {"--set", "cache.text_bytes=0"};
  // Closed loops need a server that lets them wait.
  std::vector<std::string> patient_arguments = uncached;
  patient_arguments.insert(patient_arguments.end(),
                           {"--set", "batching.max_wait=60s"});
  std::vector<Row> rows;
  {
    TemporaryDirectory data, patient_data;
    const QuerndProcess patient(patient_data.path(), patient_arguments);
    const QuerndProcess server(data.path(), uncached);
    if (!patient.ready() || !server.ready()) {
      std::cerr << patient.Log() << server.Log();
      return 1;
    }
    if (options.Wants("text")) {
      MeasureWorkload(text, patient, server, options, rows);
    }
    if (options.Wants("image")) {
      MeasureWorkload(image, patient, server, options, rows);
    }
  }
  if (options.Wants("memory")) {
    MeasureMemory(text, image, patient_arguments, options, rows);
  }
  if (options.Wants("cache")) MeasureCache(text, options, rows);
  Print(rows);
  if (!options.json.empty()) WriteJson(rows, options.json);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("What the server makes of the encoder");
  quern::Options options;
  options.images =
      absl::StrCat(std::getenv("QUERN_CACHE"), "/samples/pictures");
  app.add_option("--images", options.images, "Folder of .jpg and .png pictures")
      ->capture_default_str();
  app.add_option("--json", options.json, "File to write the rows to");
  app.add_option("--rounds", options.rounds, "Rounds of each measurement")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "Length of one measurement")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--requests", options.requests,
                 "Requests before memory is read first")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  app.add_option("--only", options.only, "Leave out the rest; repeatable")
      ->check(
          CLI::IsMember({"text", "image", "throughput", "latency", "poisson",
                         "overload", "stream", "memory", "cache"}));
  app.add_flag("--print-sentences", options.print_sentences,
               "Print the sentences that are embedded, and do nothing else");
  CLI11_PARSE(app, argc, argv);
  if (options.print_sentences) {
    for (const std::string& sentence : quern::MakeSentences()) {
      std::cout << sentence << "\n";
    }
    return 0;
  }
  return quern::Run(options);
}

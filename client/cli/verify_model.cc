#include "client/cli/verify_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "client/cli/files.h"
#include "client/cpp/rpc_status.h"

namespace quern::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr std::array<int, 3> kInputsPerCall = {1, 4, 16};

absl::StatusOr<std::string> ReadPackageFile(const fs::path& file) {
  absl::StatusOr<std::string> contents = ReadFile(file, kMaxFileBytes);
  if (contents.ok()) return contents;
  return absl::Status(
      contents.status().code(),
      absl::StrCat(file.string(), " ", contents.status().message(),
                   ": export the package again"));
}

absl::StatusOr<json> ReadJson(const fs::path& file) {
  absl::StatusOr<std::string> text = ReadPackageFile(file);
  if (!text.ok()) return text.status();
  json document = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (document.is_object()) return document;
  return absl::InvalidArgumentError(absl::StrCat(
      file.string(), " is not a JSON object: export the package again"));
}

// What the server has checked already: throws where the format is broken.
StoredOutputs ParseCanary(const json& canary, const fs::path& folder,
                          absl::Status& status) {
  StoredOutputs stored{.tolerance = canary.at("tolerance").get<double>()};
  for (const json& text : canary.value("texts", json::array())) {
    StoredOutput& output = stored.texts.emplace_back();
    output.input.set_text(text.at("text").get<std::string>());
    output.embedding = text.at("embedding").get<std::vector<float>>();
  }
  for (const json& picture : canary.value("images", json::array())) {
    absl::StatusOr<std::string> content =
        ReadPackageFile(folder / picture.at("file").get<std::string>());
    if (!content.ok()) {
      status = content.status();
      return stored;
    }
    StoredOutput& output = stored.pictures.emplace_back();
    output.input.mutable_image()->set_content(*std::move(content));
    output.embedding = picture.at("embedding").get<std::vector<float>>();
  }
  return stored;
}

double LargestDifference(const v1::Vector& actual,
                         const std::vector<float>& expected) {
  constexpr double kNoMatch = std::numeric_limits<double>::infinity();
  if (actual.values_size() != static_cast<int>(expected.size())) {
    return kNoMatch;
  }
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference =
        std::abs(double{actual.values(static_cast<int>(i))} - expected[i]);
    // A NaN is beyond any tolerance.
    if (std::isnan(difference)) return kNoMatch;
    largest = std::max(largest, difference);
  }
  return largest;
}

absl::StatusOr<Parity> Compare(Client& client, const std::string& name,
                               const std::vector<StoredOutput>& stored) {
  v1::EmbedRequest request;
  for (const StoredOutput& output : stored) {
    *request.add_inputs() = output.input;
  }
  const absl::StatusOr<v1::EmbedResponse> response = client.Embed(request);
  if (!response.ok()) return response.status();
  Parity parity{.name = name, .count = static_cast<int64_t>(stored.size())};
  if (response->results_size() != static_cast<int>(stored.size())) {
    return absl::InternalError(absl::StrCat(response->results_size(),
                                            " results came for ", stored.size(),
                                            " ", name));
  }
  for (size_t i = 0; i < stored.size(); ++i) {
    const v1::EmbedResult& result = response->results(static_cast<int>(i));
    absl::Status status = client::FromRpcStatus(result.status());
    if (!status.ok()) return status;
    parity.largest_difference =
        std::max(parity.largest_difference,
                 LargestDifference(result.embedding(), stored[i].embedding));
  }
  return parity;
}

// Makes the next input of a row, never the same text again.
using MakeInput = std::function<v1::Input()>;

absl::StatusOr<Speed> MeasureRow(Client& client, const std::string& name,
                                 int inputs_per_call, const MakeInput& make,
                                 const SpeedOptions& options) {
  const auto call = [&]() -> absl::Status {
    if (options.interrupt.stop_requested()) {
      return absl::CancelledError("interrupted");
    }
    v1::EmbedRequest request;
    for (int i = 0; i < inputs_per_call; ++i) *request.add_inputs() = make();
    return client.Embed(request).status();
  };
  if (absl::Status warm_up = call(); !warm_up.ok()) return warm_up;
  int calls = 0;
  const absl::Time begin = options.now();
  absl::Duration spent;
  do {
    if (absl::Status status = call(); !status.ok()) return status;
    ++calls;
    spent = options.now() - begin;
  } while (spent < options.time_per_row);
  const double seconds = std::max(absl::ToDoubleSeconds(spent), 1e-9);
  return Speed{.name = name,
               .inputs_per_call = inputs_per_call,
               .milliseconds_per_call = 1e3 * seconds / calls,
               .inputs_per_second = calls * inputs_per_call / seconds};
}

v1::Input TextInput(std::string text) {
  v1::Input input;
  input.set_text(std::move(text));
  return input;
}

}  // namespace

absl::StatusOr<StoredOutputs> ReadStoredOutputs(const fs::path& folder) {
  const absl::StatusOr<json> model = ReadJson(folder / "model.json");
  if (!model.ok()) return model.status();
  const json file = model->value("/canary/file"_json_pointer, json());
  if (!file.is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat((folder / "model.json").string(),
                     " names no canary.file: export the package again"));
  }
  const fs::path canary_path = folder / file.get<std::string>();
  const absl::StatusOr<json> canary = ReadJson(canary_path);
  if (!canary.ok()) return canary.status();
  absl::Status status;
  try {
    StoredOutputs stored =
        ParseCanary(*canary, canary_path.parent_path(), status);
    if (!status.ok()) return status;
    return stored;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(canary_path.string(), ": ", error.what(),
                     "; export the package again"));
  }
}

absl::StatusOr<std::vector<Parity>> MeasureParity(Client& client,
                                                  const StoredOutputs& stored) {
  std::vector<Parity> parities;
  for (const auto& [name, outputs] :
       {std::pair("texts", &stored.texts),
        std::pair("pictures", &stored.pictures)}) {
    if (outputs->empty()) continue;
    absl::StatusOr<Parity> parity = Compare(client, name, *outputs);
    if (!parity.ok()) return parity.status();
    parities.push_back(*std::move(parity));
  }
  return parities;
}

absl::StatusOr<std::vector<Speed>> MeasureSpeed(Client& client,
                                                const StoredOutputs& stored,
                                                const SpeedOptions& options) {
  int64_t said = 0;
  const MakeInput short_text = [&said] {
    return TextInput(absl::StrCat("a photo of ", ++said, " dogs"));
  };
  // A word is a token at least.
  std::string filler;
  for (int64_t i = 0; i < options.max_tokens; ++i) filler += " and snow";
  const MakeInput long_text = [&said, &filler] {
    return TextInput(absl::StrCat("a photo of ", ++said, " dogs", filler));
  };
  size_t next = 0;
  const MakeInput picture = [&next, &stored] {
    return stored.pictures[next++ % stored.pictures.size()].input;
  };
  std::vector<std::pair<std::string, MakeInput>> kinds;
  if (!stored.texts.empty()) {
    kinds = {{"short text", short_text}, {"long text", long_text}};
  }
  if (!stored.pictures.empty()) kinds.emplace_back("picture", picture);

  std::vector<Speed> speeds;
  for (const auto& [name, make] : kinds) {
    for (const int inputs : kInputsPerCall) {
      absl::StatusOr<Speed> speed =
          MeasureRow(client, name, inputs, make, options);
      if (!speed.ok()) return speed.status();
      speeds.push_back(*std::move(speed));
    }
  }
  return speeds;
}

}  // namespace quern::cli

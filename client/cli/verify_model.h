#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/cpp/client.h"

// Holds what a server answers against what a package's exporter saw, and
// measures how fast it answers.

namespace quern::cli {

// An input of the canary with the embedding that the package stores for it.
struct StoredOutput {
  v1::Input input;
  std::vector<float> embedding;
};

// What a package's canary holds for a client to check.
struct StoredOutputs {
  std::vector<StoredOutput> texts;
  std::vector<StoredOutput> pictures;
  double tolerance = 0;  // Largest difference of any value.
};

// Reads model.json and the canary in `folder`. The format's rules are the
// server's to check. NOT_FOUND or INVALID_ARGUMENT with the file and the cure.
absl::StatusOr<StoredOutputs> ReadStoredOutputs(
    const std::filesystem::path& folder);

struct Parity {
  std::string name;  // "texts" or "pictures".
  int64_t count = 0;
  double largest_difference = 0;  // Of any value; infinite for NaN.
};

// Embeds all inputs with the default model and compares. One entry per kind of
// input that there is.
absl::StatusOr<std::vector<Parity>> MeasureParity(Client& client,
                                                  const StoredOutputs& stored);

struct Speed {
  std::string name;  // "short text", "long text" or "picture".
  int inputs_per_call = 0;
  double milliseconds_per_call = 0;  // Mean.
  double inputs_per_second = 0;
};

struct SpeedOptions {
  int64_t max_tokens = 0;           // Of the model; long texts fill them.
  absl::Duration time_per_row;      // How long each row is measured.
  std::function<absl::Time()> now;  // Monotonic.
  std::stop_token interrupt;        // CANCELLED once requested.
};

// Calls one after another, with 1, 4 and 16 inputs each. No text is said twice,
// so that no cache answers.
absl::StatusOr<std::vector<Speed>> MeasureSpeed(Client& client,
                                                const StoredOutputs& stored,
                                                const SpeedOptions& options);

}  // namespace quern::cli

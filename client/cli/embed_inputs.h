#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/progress.h"
#include "client/cpp/client.h"

namespace quern::cli {

struct EmbedInputsOptions {
  std::string model;                   // Empty: the server's default.
  int batch = 16;                      // Inputs per call; >= 1.
  int64_t max_batch_bytes = 16 << 20;  // A call holds one input at least.
  int calls = 4;                       // In flight; >= 1.
};

struct EmbeddedInputs {
  int64_t dimension = 0;    // 0 when every input failed.
  std::vector<float> rows;  // inputs x dimension; zeros where one failed.
  // One per input, in order: OK, or why it has no embedding.
  std::vector<absl::Status> statuses;
  int64_t truncated = 0;  // Texts longer than the model reads.
  v1::ModelVersion model;
};

// Embeds `count` inputs, several calls in flight. `make_input(i)` is called on
// several threads, once or twice per input; its error fails that input only.
// Each result is added to `progress`. An error of the server that is not an
// input's fails the whole.
absl::StatusOr<EmbeddedInputs> EmbedInputs(
    Client& client, const EmbedInputsOptions& options, int64_t count,
    const std::function<absl::StatusOr<v1::Input>(int64_t)>& make_input,
    Progress& progress);

}  // namespace quern::cli

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "engine/model/model.h"

namespace quern {

struct LoadModelOptions {
  std::string path;            // A package's folder.
  std::string device = "cpu";  // "cpu" or "cuda:N".
  // Of both towers. Zero for `max_rows` takes what is fastest, for `threads`
  // one per core, or one on a GPU.
  BatchOptions batching = {.max_rows = 0, .threads = 0};
};

// Reads a package, builds its parts and has them repeat the canary: the
// tokeniser must give the stored ids, the towers the stored embeddings within
// the package's tolerance. A model that comes back is warm and known to compute
// what its exporter saw. Errors, all naming the package:
//   kNotFound            no such folder
//   kInvalidArgument     the package breaks a rule of its format
//   kFailedPrecondition  a file is missing, or no such device
//   kDataLoss            a file is damaged, or the canary came out differently
absl::StatusOr<std::shared_ptr<const Model>> LoadModel(
    const LoadModelOptions& options);

}  // namespace quern

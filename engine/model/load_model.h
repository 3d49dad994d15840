#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "engine/model/model.h"

namespace quern {

struct LoadModelOptions {
  std::string path;            // A package's folder.
  std::string device = "cpu";  // "cpu" or "cuda:N".
  // kAuto: kBf16 where the CPU has it and the canary passes, else kFp32.
  Precision precision = Precision::kAuto;
  // Of both towers. Zero for `max_rows` takes what is fastest, for `threads`
  // one per core, or one on a GPU.
  BatchOptions batching = {.max_rows = 0, .threads = 0};
};

// A canary's embedding and its stored one, when the precision is below fp32:
// smallest cosine. Of 1,000 photos and 5,000 captions bf16 moves the default
// model's worst to 0.983; one wrong layer gives less than 0.9.
inline constexpr double kMinReducedCosine = 0.97;

// Reads a package, builds its parts and has them repeat the canary: the
// tokeniser must give the stored ids, the towers the stored embeddings within
// the package's tolerance. They do so in fp32 first; in a precision below it,
// the cosine counts. A model that comes back is warm and known to compute what
// its exporter saw. Errors, all naming the package:
//   kNotFound            no such folder
//   kInvalidArgument     the package breaks a rule of its format
//   kFailedPrecondition  a file is missing, no such device, or a precision that
//                        the device lacks or the towers do not stand
//   kDataLoss            a file is damaged, or the canary came out differently
absl::StatusOr<std::shared_ptr<const Model>> LoadModel(
    const LoadModelOptions& options);

}  // namespace quern

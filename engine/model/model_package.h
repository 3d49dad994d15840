#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "engine/model/model_json.h"

namespace quern {

// A model package on disk, checked but not yet loaded:
//
//   model.json          what it is; see ModelSpec
//   *.ts                TorchScript towers and match head
//   vocab.txt           the tokeniser's data: vocab.txt, or vocab.json and
//                       merges.txt, or spiece.model
//   canary/canary.json  inputs with the outputs they must give
//
// File names are free but for model.json. None may lead out of the folder,
// through a symbolic link neither.
struct ModelPackage {
  std::string folder;
  ModelSpec spec;
  CanarySpec canary;
  std::string canary_folder;  // Relative to `folder`; canary files are in it.
  // Hex SHA-256 over model.json and every file that it or the canary names, one
  // line per file in byte order of the relative paths, each path once:
  // "<path> NUL <size in decimal> NUL <hex SHA-256 of the contents> LF".
  std::string fingerprint;

  // `file` as the specs write it.
  std::string PathOf(const std::string& file) const;
  std::string CanaryPathOf(const std::string& file) const;
};

// Errors:
//   kNotFound            no such folder
//   kInvalidArgument     model.json or the canary breaks a rule: file, key,
//   value
//                        and what is allowed
//   kFailedPrecondition  a file is missing or outside of the folder
//   and those of ReadFile()
absl::StatusOr<ModelPackage> ReadModelPackage(const std::string& folder);

}  // namespace quern

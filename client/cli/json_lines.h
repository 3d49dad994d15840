#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

// Reading test sets and predictions, of which any line may be wrong.

namespace quern::cli {

// Calls `read` with the object of each line and the line's number, from 1.
// Blank lines are skipped. INVALID_ARGUMENT lists the lines that hold no JSON
// object or that `read` refuses, with its reasons; also when there is no line.
absl::Status ReadJsonLines(
    const std::filesystem::path& path,
    const std::function<absl::Status(const nlohmann::json&, int line)>& read);

// One JSON value that is the whole file. INVALID_ARGUMENT when it is not JSON.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& path);

// The fields of a line. INVALID_ARGUMENT names `key` where it is missing or of
// another type.

absl::StatusOr<std::string> StringField(const nlohmann::json& object,
                                        const std::string& key);
// A whole number or a text, as JSON: 7 and "7" differ.
absl::StatusOr<std::string> IdField(const nlohmann::json& object,
                                    const std::string& key);
absl::StatusOr<double> NumberField(const nlohmann::json& object,
                                   const std::string& key);
// A list of numbers.
absl::StatusOr<std::vector<double>> NumbersField(const nlohmann::json& object,
                                                 const std::string& key);
// A list of lists of `least` to `most` numbers each.
absl::StatusOr<std::vector<std::vector<double>>> RowsField(
    const nlohmann::json& object, const std::string& key, size_t least,
    size_t most);

}  // namespace quern::cli

#include "client/cli/json_lines.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "client/cli/captions.h"

namespace quern::cli {
namespace {

using nlohmann::json;

// Deeper than any format that is read here.
constexpr int kMaxDepth = 16;

// Discarded when `text` is not JSON or nests too deep.
json Parse(absl::string_view text) {
  bool too_deep = false;
  const auto check = [&too_deep](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  json value =
      json::parse(text.begin(), text.end(), check, /*allow_exceptions=*/false);
  return too_deep ? json(json::value_t::discarded) : value;
}

absl::StatusOr<const json*> Field(const json& object, const std::string& key) {
  const auto found = object.find(key);
  if (found == object.end()) {
    return absl::InvalidArgumentError(absl::StrCat("has no \"", key, "\""));
  }
  return &*found;
}

absl::Status NotA(const std::string& key, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", key, "\" is not ", what));
}

// False when `list` is not a list of numbers.
bool ReadNumbers(const json& list, std::vector<double>& numbers) {
  if (!list.is_array()) return false;
  numbers.reserve(list.size());
  for (const json& element : list) {
    if (!element.is_number()) return false;
    numbers.push_back(element.get<double>());
  }
  return true;
}

}  // namespace

absl::Status ReadJsonLines(
    const std::filesystem::path& path,
    const std::function<absl::Status(const json&, int line)>& read) {
  std::ifstream file(path);
  if (!file) return absl::ErrnoToStatus(errno, path.string());
  std::vector<std::string> problems;
  bool is_empty = true;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    is_empty = false;
    const json object = Parse(text);
    if (!object.is_object()) {
      problems.push_back(absl::StrCat("line ", line, " is not a JSON object"));
      continue;
    }
    if (const absl::Status status = read(object, line); !status.ok()) {
      problems.push_back(absl::StrCat("line ", line, " ", status.message()));
    }
  }
  if (file.bad()) return absl::ErrnoToStatus(EIO, path.string());
  if (is_empty) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is empty"));
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ": ", ListProblems(problems)));
}

absl::StatusOr<json> ReadJsonFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return absl::ErrnoToStatus(errno, path.string());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) return absl::ErrnoToStatus(EIO, path.string());
  json value = Parse(text);
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is not JSON"));
  }
  return value;
}

absl::StatusOr<std::string> StringField(const json& object,
                                        const std::string& key) {
  const auto field = Field(object, key);
  if (!field.ok()) return field.status();
  if (!(*field)->is_string()) return NotA(key, "a text");
  return (*field)->get<std::string>();
}

absl::StatusOr<std::string> IdField(const json& object,
                                    const std::string& key) {
  const auto field = Field(object, key);
  if (!field.ok()) return field.status();
  if (!(*field)->is_string() && !(*field)->is_number_integer()) {
    return NotA(key, "a whole number or a text");
  }
  return (*field)->dump();
}

absl::StatusOr<double> NumberField(const json& object, const std::string& key) {
  const auto field = Field(object, key);
  if (!field.ok()) return field.status();
  if (!(*field)->is_number()) return NotA(key, "a number");
  return (*field)->get<double>();
}

absl::StatusOr<std::vector<double>> NumbersField(const json& object,
                                                 const std::string& key) {
  const auto field = Field(object, key);
  if (!field.ok()) return field.status();
  std::vector<double> numbers;
  if (!ReadNumbers(**field, numbers)) return NotA(key, "a list of numbers");
  return numbers;
}

absl::StatusOr<std::vector<std::vector<double>>> RowsField(
    const json& object, const std::string& key, size_t least, size_t most) {
  const auto field = Field(object, key);
  if (!field.ok()) return field.status();
  if (!(*field)->is_array()) return NotA(key, "a list");
  std::vector<std::vector<double>> rows;
  for (const json& element : **field) {
    std::vector<double> row;
    if (!ReadNumbers(element, row) || row.size() < least || row.size() > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", key, "\" has something else than ", least,
                       least == most ? "" : " or more", " numbers at place ",
                       rows.size() + 1));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace quern::cli

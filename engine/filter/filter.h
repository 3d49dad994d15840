#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

// Conditions on items' payload fields: a subset of AIP-160. The language and
// its semantics are described in README.md beside this file.

namespace quern {

enum class FieldType { kString, kNumber, kBool, kTimestamp };

// A payload field that filters may name.
struct FieldDeclaration {
  std::string path;  // Dotted: "camera.model".
  FieldType type = FieldType::kString;
  bool repeated = false;  // It holds a list of values.
};

// One value; the alternatives are in the order of FieldType. Numbers are not
// NaN; times are whole nanoseconds within the years 1 to 9999.
using FieldValue = std::variant<std::string, double, bool, absl::Time>;

enum class FilterOp {
  kAnd,           // All children; two or more.
  kOr,            // Some child; two or more.
  kNot,           // Not the one child. "a != 1" is kNot of kEqual.
  kEqual,         // Some value of `field` is values[0].
  kLess,          // Some value of `field` is below values[0], and so on.
  kLessEqual,     //
  kGreater,       //
  kGreaterEqual,  //
  kPrefix,        // Some value of `field` begins with values[0], a string.
  kIn,            // Some value of `field` is one of values.
  kPresent,       // `field` has a value.
};

// A node of the tree. Comparisons of a field without a value are false.
struct FilterNode {
  FilterOp op = FilterOp::kPresent;
  std::vector<FilterNode> children;  // Of kAnd, kOr and kNot only.
  size_t field = 0;                  // Of the others: index in fields().
  // One value of the field's type; kIn: two or more, rising; kPresent: none.
  std::vector<FieldValue> values;

  friend bool operator==(const FilterNode&, const FilterNode&) = default;
};

inline constexpr size_t kMaxFilterBytes = 65536;
// Levels of parentheses, and levels of AND, OR and NOT in the tree.
inline constexpr int kMaxFilterDepth = 64;
inline constexpr size_t kMaxFilterComparisons = 256;
// Values compared with, in all comparisons together.
inline constexpr size_t kMaxFilterValues = 4096;

// A parsed filter. Immutable, so safe to share between threads.
class Filter {
 public:
  // What ParseFilter() makes of a text. Made by hand, the tree must be as the
  // comments of FilterNode say.
  Filter(std::vector<FieldDeclaration> fields, FilterNode root)
      : fields_(std::move(fields)), root_(std::move(root)) {}

  // What it was parsed with.
  const std::vector<FieldDeclaration>& fields() const { return fields_; }
  const FilterNode& root() const { return root_; }

  // The canonical text: ParseFilter() of it gives an equal tree, as long as it
  // is within the limits (escapes may make it longer than what was parsed).
  std::string DebugString() const;

 private:
  const std::vector<FieldDeclaration> fields_;
  const FilterNode root_;
};

// Reads a filter. Nothing but white space gives null: everything matches.
// Errors, all of them InvalidField() about "filter", with the column (in
// characters, from 1) and the byte (from 0) where it goes wrong: a text beyond
// the limits above or not of the language; a field that is not declared; a
// value that is not of the field's type.
absl::StatusOr<std::shared_ptr<const Filter>> ParseFilter(
    absl::string_view text, absl::Span<const FieldDeclaration> fields);

// RFC 3339 text ("2024-05-01T12:00:00.5+02:00") as a time, cut to nanoseconds;
// nothing for other text and for times outside the years 1 to 9999 (UTC).
std::optional<absl::Time> ParseTimestamp(absl::string_view text);

// "a string", "a number", ...
absl::string_view FieldTypeName(FieldType type);

}  // namespace quern

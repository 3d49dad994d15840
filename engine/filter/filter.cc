#include "engine/filter/filter.h"

#include <array>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "engine/filter/filter_scanner.h"

namespace quern {
namespace {

std::string PrintPath(absl::string_view path) {
  return absl::StrJoin(absl::StrSplit(path, '.'), ".",
                       [](std::string* out, absl::string_view part) {
                         absl::StrAppend(out, IsPlainName(part)
                                                  ? std::string(part)
                                                  : QuoteForFilter(part));
                       });
}

std::string PrintNumber(double number) {
  std::array<char, 32> text;
  // The shortest text that reads back as the same number.
  const auto end =
      std::to_chars(text.data(), text.data() + text.size(), number);
  return {text.data(), end.ptr};
}

std::string PrintValue(const FieldValue& value) {
  switch (static_cast<FieldType>(value.index())) {
    case FieldType::kString:
      return QuoteForFilter(std::get<std::string>(value));
    case FieldType::kNumber:
      return PrintNumber(std::get<double>(value));
    case FieldType::kBool:
      return std::get<bool>(value) ? "true" : "false";
    case FieldType::kTimestamp:
      return absl::StrCat(
          "\"",
          absl::FormatTime("%E4Y-%m-%dT%H:%M:%E*SZ",
                           std::get<absl::Time>(value), absl::UTCTimeZone()),
          "\"");
  }
  return "";
}

class Printer {
 public:
  explicit Printer(const Filter& filter) : filter_(filter) {}

  std::string Print(const FilterNode& node) const {
    switch (node.op) {
      case FilterOp::kAnd:
        return Join(node, " AND ");
      case FilterOp::kOr:
        return Join(node, " OR ");
      case FilterOp::kNot:
        return Not(node.children[0]);
      default:
        return Comparison(node, Equals(node));
    }
  }

 private:
  static bool IsComparison(const FilterNode& node) {
    return node.children.empty();
  }

  // A list is asked whether it has a value, a single value is compared.
  absl::string_view Equals(const FilterNode& node) const {
    return filter_.fields()[node.field].repeated ? ":" : " = ";
  }

  // OR would bind tighter than AND without them; with them nobody has to know.
  std::string InParentheses(const FilterNode& node) const {
    const bool bare = IsComparison(node) || node.op == FilterOp::kNot;
    return bare ? Print(node) : absl::StrCat("(", Print(node), ")");
  }

  std::string Join(const FilterNode& node, absl::string_view separator) const {
    return absl::StrJoin(node.children, separator,
                         [this](std::string* out, const FilterNode& child) {
                           absl::StrAppend(out, InParentheses(child));
                         });
  }

  std::string Not(const FilterNode& child) const {
    if (child.op == FilterOp::kNot) {
      return absl::StrCat("NOT (", Print(child), ")");
    }
    if ((child.op == FilterOp::kEqual || child.op == FilterOp::kPrefix) &&
        !filter_.fields()[child.field].repeated) {
      return Comparison(child, " != ");
    }
    return absl::StrCat("NOT ", InParentheses(child));
  }

  // `equals` stands for kEqual and kPrefix.
  std::string Comparison(const FilterNode& node,
                         absl::string_view equals) const {
    const std::string path = PrintPath(filter_.fields()[node.field].path);
    switch (node.op) {
      case FilterOp::kEqual:
        return absl::StrCat(path, equals, PrintValue(node.values[0]));
      case FilterOp::kLess:
        return absl::StrCat(path, " < ", PrintValue(node.values[0]));
      case FilterOp::kLessEqual:
        return absl::StrCat(path, " <= ", PrintValue(node.values[0]));
      case FilterOp::kGreater:
        return absl::StrCat(path, " > ", PrintValue(node.values[0]));
      case FilterOp::kGreaterEqual:
        return absl::StrCat(path, " >= ", PrintValue(node.values[0]));
      case FilterOp::kPrefix: {
        std::string prefix = PrintValue(node.values[0]);
        prefix.insert(prefix.size() - 1, "*");
        return absl::StrCat(path, equals, prefix);
      }
      case FilterOp::kIn:
        return absl::StrCat(
            path, " IN (",
            absl::StrJoin(node.values, ", ",
                          [](std::string* out, const FieldValue& value) {
                            absl::StrAppend(out, PrintValue(value));
                          }),
            ")");
      default:
        return absl::StrCat(path, ":*");
    }
  }

  const Filter& filter_;
};

}  // namespace

std::string Filter::DebugString() const { return Printer(*this).Print(root_); }

absl::string_view FieldTypeName(FieldType type) {
  switch (type) {
    case FieldType::kString:
      return "a string";
    case FieldType::kNumber:
      return "a number";
    case FieldType::kBool:
      return "a bool";
    case FieldType::kTimestamp:
      return "a timestamp";
  }
  return "";
}

}  // namespace quern

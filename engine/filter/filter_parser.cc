#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"
#include "engine/filter/filter.h"
#include "engine/filter/filter_scanner.h"

namespace quern {
namespace {

// Declared fields that an error lists.
constexpr size_t kMaxListedFields = 20;

struct Tree {
  FilterNode node;
  int depth = 0;  // Levels of AND, OR and NOT.
};

// A value as it was written.
struct Literal {
  size_t position = 0;
  bool quoted = false;
  std::string text;
  bool star = false;  // As in QuotedText.
};

std::optional<double> ParseNumber(absl::string_view text) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() ||
      !std::isfinite(number)) {
    return std::nullopt;
  }
  return number;
}

std::string ListFields(absl::Span<const FieldDeclaration> fields) {
  if (fields.empty()) return "the collection declares no payload fields";
  const auto listed = fields.first(std::min(fields.size(), kMaxListedFields));
  return absl::StrCat(
      "declared are ",
      absl::StrJoin(listed, ", ",
                    [](std::string* out, const FieldDeclaration& field) {
                      absl::StrAppend(out, Quoted(field.path, 256));
                    }),
      listed.size() < fields.size()
          ? absl::StrCat(" and ", fields.size() - listed.size(), " more")
          : "");
}

FilterOp OrderOp(absl::string_view comparator) {
  if (comparator == "<") return FilterOp::kLess;
  if (comparator == "<=") return FilterOp::kLessEqual;
  if (comparator == ">") return FilterOp::kGreater;
  return FilterOp::kGreaterEqual;
}

// A descent of one method per rule of the grammar (README.md). Each call of
// Expression() is a level of parentheses, so the limit on them bounds the
// stack.
class Parser {
 public:
  Parser(absl::string_view text, absl::Span<const FieldDeclaration> fields)
      : scanner_(text), fields_(fields) {}

  absl::StatusOr<FilterNode> Parse() {
    QUERN_ASSIGN_OR_RETURN(Tree tree, Expression(0));
    if (!scanner_.AtEnd()) {
      return scanner_.Unexpected(
          "expected AND, OR or the end (operators are written in capitals)");
    }
    return std::move(tree.node);
  }

 private:
  absl::StatusOr<Tree> Expression(int parentheses) {
    return Chain(FilterOp::kAnd, "AND", parentheses);
  }

  absl::StatusOr<Tree> Factor(int parentheses) {
    return Chain(FilterOp::kOr, "OR", parentheses);
  }

  // Operands of AND are chains of OR, those of OR are terms.
  absl::StatusOr<Tree> Chain(FilterOp op, absl::string_view keyword,
                             int parentheses) {
    const size_t position = scanner_.Position();
    Tree chain{.node = {.op = op}};
    do {
      QUERN_ASSIGN_OR_RETURN(Tree operand, op == FilterOp::kAnd
                                               ? Factor(parentheses)
                                               : Term(parentheses));
      chain.depth = std::max(chain.depth, operand.depth);
      chain.node.children.push_back(std::move(operand.node));
    } while (scanner_.TakeKeyword(keyword));
    if (chain.node.children.size() == 1) {
      FilterNode only = std::move(chain.node.children[0]);
      return Tree{.node = std::move(only), .depth = chain.depth};
    }
    QUERN_RETURN_IF_ERROR(Deepen(position, chain));
    return chain;
  }

  absl::StatusOr<Tree> Term(int parentheses) {
    const size_t position = scanner_.Position();
    if (!scanner_.TakeKeyword("NOT") && !scanner_.Take("-")) {
      return Simple(parentheses);
    }
    QUERN_ASSIGN_OR_RETURN(Tree operand, Simple(parentheses));
    return Negated(position, std::move(operand));
  }

  absl::StatusOr<Tree> Simple(int parentheses) {
    const size_t position = scanner_.Position();
    if (!scanner_.Take("(")) return Comparison();
    if (parentheses == kMaxFilterDepth) return TooDeep(position);
    QUERN_ASSIGN_OR_RETURN(Tree inner, Expression(parentheses + 1));
    if (!scanner_.Take(")")) {
      return scanner_.Unexpected("expected AND, OR or \")\"");
    }
    return inner;
  }

  absl::StatusOr<Tree> Comparison() {
    const size_t position = scanner_.Position();
    QUERN_RETURN_IF_ERROR(CountComparison(position));
    QUERN_ASSIGN_OR_RETURN(const size_t field, Field());
    if (scanner_.TakeKeyword("IN")) return In(field);
    const size_t at_comparator = scanner_.Position();
    const absl::string_view comparator = scanner_.TakeComparator();
    if (comparator.empty()) {
      return scanner_.Unexpected(
          absl::StrCat("expected = != < <= > >= : or IN behind the field ",
                       Quoted(fields_[field].path, 256)));
    }
    QUERN_RETURN_IF_ERROR(
        CheckComparator(at_comparator, comparator, fields_[field]));
    QUERN_ASSIGN_OR_RETURN(const Literal literal, ReadLiteral());
    QUERN_RETURN_IF_ERROR(CountValue(literal.position));
    FilterNode node{.op = FilterOp::kEqual, .field = field};
    if (comparator == ":" && !literal.quoted && literal.text == "*") {
      node.op = FilterOp::kPresent;
      return Tree{.node = std::move(node)};
    }
    QUERN_ASSIGN_OR_RETURN(FieldValue value, Typed(literal, fields_[field]));
    node.values.push_back(std::move(value));
    const bool equality =
        comparator == "=" || comparator == ":" || comparator == "!=";
    if (!equality) node.op = OrderOp(comparator);
    if (literal.star) {
      if (!equality) return StarError(literal, "behind =, != and :");
      node.op = FilterOp::kPrefix;
    }
    Tree tree{.node = std::move(node)};
    if (comparator != "!=") return tree;
    return Negated(position, std::move(tree));
  }

  absl::StatusOr<Tree> In(size_t field) {
    if (!scanner_.Take("(")) {
      return scanner_.Unexpected("expected \"(\" behind IN");
    }
    FilterNode node{.op = FilterOp::kIn, .field = field};
    do {
      QUERN_ASSIGN_OR_RETURN(const Literal literal, ReadLiteral());
      QUERN_RETURN_IF_ERROR(CountValue(literal.position));
      if (literal.star) return StarError(literal, "behind =, != and :");
      QUERN_ASSIGN_OR_RETURN(FieldValue value, Typed(literal, fields_[field]));
      node.values.push_back(std::move(value));
    } while (scanner_.Take(","));
    if (!scanner_.Take(")")) {
      return scanner_.Unexpected("expected \",\" or \")\"");
    }
    std::sort(node.values.begin(), node.values.end());
    node.values.erase(std::unique(node.values.begin(), node.values.end()),
                      node.values.end());
    if (node.values.size() == 1) node.op = FilterOp::kEqual;
    return Tree{.node = std::move(node)};
  }

  // The index of the field whose path is next.
  absl::StatusOr<size_t> Field() {
    const size_t position = scanner_.Position();
    std::string path;
    do {
      QUERN_ASSIGN_OR_RETURN(const std::string part, PathPart());
      absl::StrAppend(&path, path.empty() ? "" : ".", part);
    } while (scanner_.Take("."));
    for (size_t i = 0; i < fields_.size(); ++i) {
      if (fields_[i].path == path) return i;
    }
    return scanner_.Error(
        position, absl::StrCat("there is no payload field ", Quoted(path), "; ",
                               ListFields(fields_)));
  }

  absl::StatusOr<std::string> PathPart() {
    const size_t position = scanner_.Position();
    if (scanner_.AtQuote()) {
      QUERN_ASSIGN_OR_RETURN(QuotedText part, scanner_.Quoted());
      if (part.star) part.text.push_back('*');
      return std::move(part.text);
    }
    const absl::string_view part = scanner_.Name();
    if (part.empty()) return scanner_.Unexpected("expected a field");
    if (!IsPlainName(part)) {
      return scanner_.Error(
          position, absl::StrCat("expected a field, not ", Quoted(part),
                                 "; a field of that name stands in quotes"));
    }
    return std::string(part);
  }

  absl::StatusOr<Literal> ReadLiteral() {
    Literal literal{.position = scanner_.Position()};
    literal.quoted = scanner_.AtQuote();
    if (literal.quoted) {
      QUERN_ASSIGN_OR_RETURN(QuotedText quoted, scanner_.Quoted());
      literal.text = std::move(quoted.text);
      literal.star = quoted.star;
      return literal;
    }
    literal.text = std::string(scanner_.Value());
    if (literal.text.empty()) return scanner_.Unexpected("expected a value");
    return literal;
  }

  absl::StatusOr<FieldValue> Typed(const Literal& literal,
                                   const FieldDeclaration& field) const {
    switch (field.type) {
      case FieldType::kString:
        return Text(literal, field);
      case FieldType::kNumber:
        if (const auto number = ParseNumber(literal.text);
            !literal.quoted && number.has_value()) {
          return FieldValue(*number);
        }
        return TypeError(literal, field,
                         "write a finite decimal number without quotes");
      case FieldType::kBool:
        if (!literal.quoted &&
            (literal.text == "true" || literal.text == "false")) {
          return FieldValue(literal.text == "true");
        }
        return TypeError(literal, field, "write true or false, without quotes");
      case FieldType::kTimestamp:
        if (const auto time = ParseTimestamp(literal.text);
            time.has_value() && !literal.star) {
          return FieldValue(*time);
        }
        return TypeError(
            literal, field,
            "write RFC 3339 with a time zone, as in \"2024-05-01T12:00:00Z\"");
    }
    return absl::InternalError("unknown field type");
  }

  // A word without quotes is text too, unless it reads as another type.
  absl::StatusOr<FieldValue> Text(const Literal& literal,
                                  const FieldDeclaration& field) const {
    if (literal.quoted) return FieldValue(literal.text);
    if (ParseNumber(literal.text).has_value() || literal.text == "true" ||
        literal.text == "false") {
      return TypeError(literal, field, "write it in quotes if it is text");
    }
    if (literal.text.find_first_of("*\\") != std::string::npos) {
      return TypeError(literal, field,
                       "write a text with \"*\" or \"\\\" in quotes");
    }
    return FieldValue(literal.text);
  }

  absl::Status CheckComparator(size_t position, absl::string_view comparator,
                               const FieldDeclaration& field) const {
    if (comparator == ":") return absl::OkStatus();
    if (field.repeated) {
      return scanner_.Error(
          position, absl::StrCat("the field ", Quoted(field.path, 256),
                                 " is a list: ask with \":\" whether it has a "
                                 "value, with IN whether it has one of some"));
    }
    if (field.type == FieldType::kBool && comparator != "=" &&
        comparator != "!=") {
      return scanner_.Error(
          position,
          absl::StrCat("the field ", Quoted(field.path, 256),
                       " is a bool, which has no order: use = or !="));
    }
    return absl::OkStatus();
  }

  absl::Status TypeError(const Literal& literal, const FieldDeclaration& field,
                         absl::string_view cure) const {
    return scanner_.Error(
        literal.position,
        absl::StrCat(
            "the field ", Quoted(field.path, 256), " is ",
            FieldTypeName(field.type), ", which cannot be compared with ",
            literal.quoted ? "the text " : "",
            Quoted(absl::StrCat(literal.text, literal.star ? "*" : "")), "; ",
            cure));
  }

  absl::Status StarError(const Literal& literal,
                         absl::string_view where) const {
    return scanner_.Error(
        literal.position,
        absl::StrCat("a text that ends in \"*\" can only stand ", where,
                     "; write \\* for the character"));
  }

  absl::Status TooDeep(size_t position) const {
    return scanner_.Error(
        position, absl::StrCat("nested deeper than ", kMaxFilterDepth,
                               " levels; a AND (b AND c) is a AND b AND c, and "
                               "many values of one field go into IN"));
  }

  absl::Status Deepen(size_t position, Tree& tree) const {
    if (tree.depth == kMaxFilterDepth) return TooDeep(position);
    ++tree.depth;
    return absl::OkStatus();
  }

  absl::StatusOr<Tree> Negated(size_t position, Tree operand) const {
    Tree negation{.node = {.op = FilterOp::kNot}, .depth = operand.depth};
    QUERN_RETURN_IF_ERROR(Deepen(position, negation));
    negation.node.children.push_back(std::move(operand.node));
    return negation;
  }

  absl::Status CountComparison(size_t position) {
    if (++comparisons_ <= kMaxFilterComparisons) return absl::OkStatus();
    return scanner_.Error(
        position, absl::StrCat("more than ", kMaxFilterComparisons,
                               " comparisons; many values of one field go into "
                               "IN"));
  }

  absl::Status CountValue(size_t position) {
    if (++values_ <= kMaxFilterValues) return absl::OkStatus();
    return scanner_.Error(position,
                          absl::StrCat("more than ", kMaxFilterValues,
                                       " values are compared with; split the "
                                       "call or add a field that groups them"));
  }

  FilterScanner scanner_;
  const absl::Span<const FieldDeclaration> fields_;
  size_t comparisons_ = 0;
  size_t values_ = 0;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Filter>> ParseFilter(
    absl::string_view text, absl::Span<const FieldDeclaration> fields) {
  if (text.size() > kMaxFilterBytes) {
    return InvalidField("filter",
                        absl::StrCat("has ", text.size(), " bytes, at most ",
                                     kMaxFilterBytes, " are allowed"));
  }
  if (!IsValidUtf8(text)) return InvalidField("filter", "is not UTF-8");
  if (FilterScanner(text).AtEnd()) return nullptr;
  QUERN_ASSIGN_OR_RETURN(FilterNode root, Parser(text, fields).Parse());
  return std::make_shared<const Filter>(
      std::vector<FieldDeclaration>(fields.begin(), fields.end()),
      std::move(root));
}

std::optional<absl::Time> ParseTimestamp(absl::string_view text) {
  // absl::ParseTime() alone takes more: "infinite-future", years of any length.
  constexpr absl::string_view kShape = "dddd-dd-ddTdd:dd:dd";
  if (text.size() <= kShape.size() || text.size() > 64) return std::nullopt;
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool fits =
        kShape[i] == 'd'
            ? absl::ascii_isdigit(static_cast<unsigned char>(text[i]))
            : absl::ascii_toupper(static_cast<unsigned char>(text[i])) ==
                  kShape[i];
    if (!fits) return std::nullopt;
  }
  const std::string upper = absl::AsciiStrToUpper(text);
  absl::Time time;
  if (!absl::ParseTime(absl::RFC3339_full, upper, &time, nullptr)) {
    return std::nullopt;
  }
  const absl::CivilSecond civil =
      absl::ToCivilSecond(time, absl::UTCTimeZone());
  if (civil.year() < 1 || civil.year() > 9999) return std::nullopt;
  return absl::UnixEpoch() +
         absl::Floor(time - absl::UnixEpoch(), absl::Nanoseconds(1));
}

}  // namespace quern

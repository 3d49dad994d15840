#include "engine/filter/filter_scanner.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr absl::string_view kSpace = " \t\r\n";
constexpr absl::string_view kNameEnd = " \t\r\n()\",'<>=!:.";

void AppendUtf8(uint32_t code_point, std::string& text) {
  if (code_point < 0x80) {
    text.push_back(static_cast<char>(code_point));
    return;
  }
  const int continuations = code_point < 0x800     ? 1
                            : code_point < 0x10000 ? 2
                                                   : 3;
  constexpr std::array<uint32_t, 4> kLead = {0, 0xC0, 0xE0, 0xF0};
  text.push_back(static_cast<char>(kLead[continuations] |
                                   (code_point >> (6 * continuations))));
  for (int i = continuations - 1; i >= 0; --i) {
    text.push_back(static_cast<char>(0x80 | ((code_point >> (6 * i)) & 0x3F)));
  }
}

}  // namespace

bool IsPlainName(absl::string_view word) {
  return !word.empty() && word.front() != '-' && word != "AND" &&
         word != "OR" && word != "NOT" && word != "IN" &&
         word.find_first_of(kNameEnd) == absl::string_view::npos;
}

std::string QuoteForFilter(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\' || c == '*') {
      quoted.push_back('\\');
      quoted.push_back(c);
    } else if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      quoted.push_back(c);
    }
  }
  quoted.push_back('"');
  return quoted;
}

size_t FilterScanner::Position() {
  position_ =
      std::min(text_.find_first_not_of(kSpace, position_), text_.size());
  return position_;
}

bool FilterScanner::Take(absl::string_view symbol) {
  if (!absl::StartsWith(text_.substr(Position()), symbol)) return false;
  position_ += symbol.size();
  return true;
}

bool FilterScanner::TakeKeyword(absl::string_view keyword) {
  if (PeekWord(kNameEnd) != keyword) return false;
  position_ += keyword.size();
  return true;
}

absl::string_view FilterScanner::TakeComparator() {
  for (absl::string_view comparator : {"!=", "<=", ">=", "=", "<", ">", ":"}) {
    if (Take(comparator)) return comparator;
  }
  return "";
}

bool FilterScanner::AtQuote() {
  const absl::string_view rest = text_.substr(Position());
  return !rest.empty() && (rest.front() == '"' || rest.front() == '\'');
}

absl::StatusOr<QuotedText> FilterScanner::Quoted() {
  const size_t opening = Position();
  const char quote = text_[opening];
  QuotedText quoted;
  for (++position_; position_ < text_.size();) {
    const char c = text_[position_];
    if (c == quote) {
      ++position_;
      return quoted;
    }
    if (quoted.star) {
      return Error(position_ - 1,
                   "\"*\" can only be at the end of a text, where it matches "
                   "any rest; write \\* for the character");
    }
    if (c == '\\') {
      QUERN_RETURN_IF_ERROR(Escape(opening, quoted.text));
      continue;
    }
    if (c == '*') {
      quoted.star = true;
    } else {
      quoted.text.push_back(c);
    }
    ++position_;
  }
  return Error(opening, "the text that begins here has no closing quote");
}

// `position_` is at the backslash; goes behind the escape.
absl::Status FilterScanner::Escape(size_t opening, std::string& text) {
  const size_t escape = position_;
  if (escape + 1 == text_.size()) {
    return Error(opening, "the text that begins here has no closing quote");
  }
  const char c = text_[escape + 1];
  position_ += 2;
  switch (c) {
    case 'n':
      text.push_back('\n');
      return absl::OkStatus();
    case 'r':
      text.push_back('\r');
      return absl::OkStatus();
    case 't':
      text.push_back('\t');
      return absl::OkStatus();
    case '\\':
    case '"':
    case '\'':
    case '*':
      text.push_back(c);
      return absl::OkStatus();
    case 'u':
      return UnicodeEscape(escape, 4, text);
    case 'U':
      return UnicodeEscape(escape, 8, text);
    default:
      return Error(escape,
                   "unknown escape; there are \\\\ \\\" \\' \\* \\n \\r \\t "
                   "\\uXXXX and \\UXXXXXXXX");
  }
}

absl::Status FilterScanner::UnicodeEscape(size_t escape, size_t digits,
                                          std::string& text) {
  const absl::string_view number = text_.substr(position_, digits);
  const bool hexadecimal =
      number.size() == digits &&
      std::all_of(number.begin(), number.end(),
                  [](unsigned char c) { return absl::ascii_isxdigit(c); });
  uint32_t code_point = 0;
  if (!hexadecimal || !absl::SimpleHexAtoi(number, &code_point) ||
      code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) {
    return Error(escape,
                 absl::StrCat("expected ", digits,
                              " hexadecimal digits of a character behind \\",
                              digits == 4 ? "u" : "U",
                              "; halves of surrogate pairs are none"));
  }
  AppendUtf8(code_point, text);
  position_ += digits;
  return absl::OkStatus();
}

absl::string_view FilterScanner::PeekWord(absl::string_view end_characters) {
  const absl::string_view rest = text_.substr(Position());
  return rest.substr(0, rest.find_first_of(end_characters));
}

absl::string_view FilterScanner::Word(absl::string_view end_characters) {
  const absl::string_view word = PeekWord(end_characters);
  position_ += word.size();
  return word;
}

absl::Status FilterScanner::Error(size_t position,
                                  absl::string_view message) const {
  const absl::string_view before = text_.substr(0, position);
  const auto column =
      1 + std::count_if(before.begin(), before.end(),
                        [](char c) { return (c & 0xC0) != 0x80; });
  return InvalidField("filter", absl::StrCat("column ", column, " (byte ",
                                             position, "): ", message));
}

absl::Status FilterScanner::Unexpected(absl::string_view message) {
  const size_t position = Position();
  if (position == text_.size()) {
    return Error(position, absl::StrCat(message, ", not the end"));
  }
  absl::string_view next = PeekWord(kNameEnd);
  // A symbol: it alone, and not half a character.
  if (next.empty()) next = text_.substr(position, 1);
  return Error(position,
               absl::StrCat(message, ", not ", quern::Quoted(next, 40)));
}

}  // namespace quern

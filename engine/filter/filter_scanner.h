#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The words of the filter language. What a word is depends on where it stands:
// "2024-05-01T12:00:00Z" is one value, but no name. So the parser says which
// kind it wants next. Every method skips white space first.

namespace quern {

// A quoted text without its quotes and escapes.
struct QuotedText {
  std::string text;
  bool star = false;  // It ended in a "*" without a backslash; not in `text`.
};

// Whether `word` can be a part of a path without quotes.
bool IsPlainName(absl::string_view word);

// `text` in quotes, such that FilterScanner::Quoted() gives it back.
std::string QuoteForFilter(absl::string_view text);

// Not thread-safe; `text` must outlive it, and be UTF-8.
class FilterScanner {
 public:
  explicit FilterScanner(absl::string_view text) : text_(text) {}

  // The byte of the next word, or the size of the text.
  size_t Position();
  bool AtEnd() { return Position() == text_.size(); }

  // Takes `symbol` if it is next.
  bool Take(absl::string_view symbol);
  // Takes `keyword` if it is the next word.
  bool TakeKeyword(absl::string_view keyword);
  // Takes the longest of = != < <= > >= : that is next; "" if there is none.
  absl::string_view TakeComparator();

  bool AtQuote();
  absl::StatusOr<QuotedText> Quoted();

  // A part of a path; empty if none is next.
  absl::string_view Name() { return Word(" \t\r\n()\",'<>=!:."); }
  // A value without quotes; empty if none is next.
  absl::string_view Value() { return Word(" \t\r\n()\",'<>=!"); }

  // An error at byte `position`.
  absl::Status Error(size_t position, absl::string_view message) const;
  // The same where the scanner stands: "<message>, not <next word>".
  absl::Status Unexpected(absl::string_view message);

 private:
  absl::string_view PeekWord(absl::string_view end_characters);
  absl::string_view Word(absl::string_view end_characters);
  absl::Status Escape(size_t opening, std::string& text);
  absl::Status UnicodeEscape(size_t escape, size_t digits, std::string& text);

  const absl::string_view text_;
  size_t position_ = 0;
};

}  // namespace quern

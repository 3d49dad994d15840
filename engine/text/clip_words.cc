#include "engine/text/clip_words.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/types/span.h"
#include <utf8proc.h>

#include "engine/text/unicode.h"

namespace quern {
namespace {

using CodePoints = absl::Span<const int32_t>;

// A text is worked on in pieces of about this size, cut before white space,
// where no word and no composition goes on.
constexpr size_t kChunkBytes = 4096;

// Words end where one of these begins or ends.
constexpr absl::string_view kNames[] = {"<|startoftext|>", "<|endoftext|>"};
constexpr absl::string_view kContractions[] = {"'s", "'t",  "'re", "'ve",
                                               "'m", "'ll", "'d"};

enum class CharacterClass { kSpace, kLetter, kNumber, kOther };

struct Range {
  int32_t first;
  int32_t last;
};

// Letters and numbers of Unicode 16 that Debian 12's utf8proc does not know.
constexpr Range kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},
    {0x105C0, 0x105F3}, {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85},
    {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C},
    {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0},
    {0x2EBF0, 0x2EE5D}};
constexpr Range kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3},
                                 {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                 {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
                                 {0x1E5F1, 0x1E5FA}};

bool IsIn(absl::Span<const Range> ranges, int32_t code_point) {
  const auto range =
      std::partition_point(ranges.begin(), ranges.end(),
                           [&](const Range& r) { return r.last < code_point; });
  return range != ranges.end() && range->first <= code_point;
}

CharacterClass ClassOf(int32_t code_point) {
  if (code_point < 0x80) {
    const unsigned char c = static_cast<unsigned char>(code_point);
    if (absl::ascii_isalpha(c)) return CharacterClass::kLetter;
    if (absl::ascii_isdigit(c)) return CharacterClass::kNumber;
    return absl::ascii_isspace(c) ? CharacterClass::kSpace
                                  : CharacterClass::kOther;
  }
  if (IsUnicodeSpace(code_point)) return CharacterClass::kSpace;
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::kNumber;
    case UTF8PROC_CATEGORY_CN:
      if (IsIn(kNewLetters, code_point)) return CharacterClass::kLetter;
      if (IsIn(kNewNumbers, code_point)) return CharacterClass::kNumber;
      return CharacterClass::kOther;
    default:
      return CharacterClass::kOther;
  }
}

size_t ChunkEnd(absl::string_view text) {
  for (size_t i = kChunkBytes; i < text.size(); ++i) {
    if (absl::ascii_isspace(static_cast<unsigned char>(text[i]))) return i;
  }
  return text.size();
}

// Whether all that could change is case.
bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c & 0x80) == 0; });
}

bool StartsWith(CodePoints text, absl::string_view ascii) {
  return text.size() >= ascii.size() &&
         std::equal(ascii.begin(), ascii.end(), text.begin());
}

size_t RunLength(CodePoints text, CharacterClass character_class) {
  const auto end = std::find_if(text.begin(), text.end(), [&](int32_t c) {
    return ClassOf(c) != character_class;
  });
  return static_cast<size_t>(std::distance(text.begin(), end));
}

// How many code points of `text` its first word, and those after, may use.
size_t NameLength(CodePoints text) {
  for (absl::string_view name : kNames) {
    if (StartsWith(text, name)) return name.size();
  }
  return text.size();
}

// How many code points the word at the start of `text` has; 0 for white space.
size_t WordLength(CodePoints text) {
  for (absl::string_view contraction : kContractions) {
    if (StartsWith(text, contraction)) return contraction.size();
  }
  const CharacterClass character_class = ClassOf(text.front());
  switch (character_class) {
    case CharacterClass::kSpace:
      return 0;
    case CharacterClass::kNumber:
      return 1;
    default:
      return RunLength(text, character_class);
  }
}

// Whether `visit` wants more.
bool ForEachWordIn(CodePoints text,
                   absl::FunctionRef<bool(absl::string_view word)> visit) {
  std::string word;
  while (!text.empty()) {
    const size_t name_length = NameLength(text);
    if (name_length < text.size()) {
      if (!ForEachWordIn(text.first(name_length), visit)) return false;
      text.remove_prefix(name_length);
      continue;
    }
    const size_t length = WordLength(text);
    if (length > 0) {
      word.clear();
      for (int32_t c : text.first(length)) AppendUtf8(c, word);
      if (!visit(word)) return false;
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return true;
}

}  // namespace

void ForEachClipWord(absl::string_view text,
                     absl::FunctionRef<bool(absl::string_view word)> visit) {
  std::vector<int32_t> code_points;
  std::vector<int32_t> lower;
  while (!text.empty()) {
    const absl::string_view chunk = text.substr(0, ChunkEnd(text));
    text.remove_prefix(chunk.size());
    DecodeUtf8(chunk, code_points);
    if (!IsAscii(chunk)) ComposeCanonically(code_points);
    lower.clear();
    for (int32_t c : code_points) AppendLowercase(c, lower);
    if (!ForEachWordIn(lower, visit)) return;
  }
}

}  // namespace quern

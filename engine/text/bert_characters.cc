#include "engine/text/bert_characters.h"

#include <algorithm>
#include <iterator>

#include <utf8proc.h>

namespace quern {
namespace {

struct Range {
  int32_t first;
  int32_t last;  // Inclusive.
};

// Where utf8proc knows a mark, a punctuation or a format character that the
// reference does not know as one, because Unicode assigned it after version 8.
// Ranges span characters of other categories too: those are never looked up.
constexpr Range kUnknownToReference[] = {
    {0x061D, 0x061D},   {0x07FD, 0x07FD},   {0x0890, 0x08E2},
    {0x09FD, 0x09FE},   {0x0A76, 0x0A76},   {0x0AFA, 0x0AFF},
    {0x0B55, 0x0B55},   {0x0C04, 0x0C3C},   {0x0C77, 0x0C77},
    {0x0C84, 0x0C84},   {0x0D00, 0x0D00},   {0x0D3B, 0x0D3C},
    {0x0D81, 0x0D81},   {0x0EBA, 0x0EBA},   {0x0ECE, 0x0ECE},
    {0x180F, 0x1886},   {0x1ABF, 0x1ACE},   {0x1B7D, 0x1B7E},
    {0x1DF6, 0x1DFB},   {0x2E43, 0x2E5D},   {0xA82C, 0xA82C},
    {0xA8C5, 0xA8C5},   {0xA8FF, 0xA8FF},   {0xA9BD, 0xA9BD},
    {0x10D24, 0x10F89}, {0x11070, 0x11074}, {0x110C2, 0x110CD},
    {0x111C9, 0x111C9}, {0x111CF, 0x111CF}, {0x1123E, 0x11241},
    {0x1133B, 0x1133B}, {0x11438, 0x1145E}, {0x11660, 0x1166C},
    {0x116B9, 0x116B9}, {0x1182F, 0x11FFF}, {0x12FF1, 0x13455},
    {0x16E97, 0x16F4F}, {0x16FE2, 0x16FE4}, {0x1CF00, 0x1CF46},
    {0x1E000, 0x1E4EF}, {0x1E944, 0x1E95F},
};

constexpr Range kIdeographs[] = {
    {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
    {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F},
    {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F},
};

// Characters whose category changed after Unicode 8.
constexpr int32_t kHanunooPamudpod = 0x1734;           // Was Mn, is Mc.
constexpr int32_t kCanadianSyllabicsChiSign = 0x166D;  // Was Po, is So.
constexpr int32_t kSharadaSandhiMark = 0x111C9;        // Was Po, is Mn.

constexpr int32_t kCapitalIWithDot = 0x0130;

template <size_t size>
bool Contains(const Range (&ranges)[size], int32_t code_point) {
  const Range* range = std::lower_bound(
      std::begin(ranges), std::end(ranges), code_point,
      [](const Range& r, int32_t value) { return r.last < value; });
  return range != std::end(ranges) && range->first <= code_point;
}

bool IsAscii(int32_t code_point) { return code_point < 0x80; }

bool IsKnown(int32_t code_point) {
  return !Contains(kUnknownToReference, code_point);
}

}  // namespace

bool IsBertDropped(int32_t code_point) {
  if (IsAscii(code_point)) {
    const bool spacing =
        code_point == '\t' || code_point == '\n' || code_point == '\r';
    return (code_point < 0x20 && !spacing) || code_point == 0x7F;
  }
  if (code_point == 0xFFFD) return true;
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CO:
      return true;
    case UTF8PROC_CATEGORY_CF:
      return IsKnown(code_point);
    default:
      return false;
  }
}

bool IsBertWhitespace(int32_t code_point) {
  if (IsAscii(code_point)) {
    return code_point == ' ' || (code_point >= '\t' && code_point <= '\r');
  }
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return true;
    default:
      return code_point == 0x85;
  }
}

bool IsBertPunctuation(int32_t code_point) {
  if (IsAscii(code_point)) {
    const bool visible = code_point > ' ' && code_point < 0x7F;
    const bool digit = code_point >= '0' && code_point <= '9';
    const int32_t folded = code_point | 0x20;
    return visible && !digit && !(folded >= 'a' && folded <= 'z');
  }
  if (code_point == kCanadianSyllabicsChiSign ||
      code_point == kSharadaSandhiMark) {
    return true;
  }
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return IsKnown(code_point);
    default:
      return false;
  }
}

bool IsBertIdeograph(int32_t code_point) {
  return code_point >= kIdeographs[0].first &&
         Contains(kIdeographs, code_point);
}

bool IsBertAccent(int32_t code_point) {
  if (IsAscii(code_point)) return false;
  if (code_point == kHanunooPamudpod) return true;
  return utf8proc_category(code_point) == UTF8PROC_CATEGORY_MN &&
         IsKnown(code_point);
}

MappedCharacter Decompose(int32_t code_point) {
  MappedCharacter mapped;
  int last_boundary_class = 0;
  const utf8proc_ssize_t size = utf8proc_decompose_char(
      code_point, mapped.values.data(), kMaxMappedCodePoints,
      UTF8PROC_DECOMPOSE, &last_boundary_class);
  mapped.size = static_cast<int>(size);
  return mapped;
}

MappedCharacter Lowercase(int32_t code_point) {
  // The one character whose lower case is longer than itself.
  if (code_point == kCapitalIWithDot) {
    return {.values = {'i', 0x0307}, .size = 2};
  }
  return {.values = {utf8proc_tolower(code_point)}, .size = 1};
}

}  // namespace quern

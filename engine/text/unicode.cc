#include "engine/text/unicode.h"

#include <algorithm>
#include <array>

#include "absl/strings/string_view.h"
#include <utf8proc.h>

namespace quern {
namespace {

constexpr int32_t kCapitalIWithDot = 0x0130;
constexpr int32_t kCombiningDotAbove = 0x0307;
constexpr int32_t kCapitalSigma = 0x03A3;
constexpr int32_t kFinalSigma = 0x03C2;

constexpr int kMaxDecomposed = 8;

int CombiningClass(int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void AppendDecomposed(int32_t code_point, std::vector<int32_t>& out) {
  std::array<utf8proc_int32_t, kMaxDecomposed> parts;
  int boundary = 0;
  const utf8proc_ssize_t size = utf8proc_decompose_char(
      code_point, parts.data(), kMaxDecomposed,
      static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE),
      &boundary);
  if (size < 1 || size > kMaxDecomposed) {
    out.push_back(code_point);
    return;
  }
  out.insert(out.end(), parts.begin(), parts.begin() + size);
}

// Capitals that came after Debian 12's utf8proc: {first, last, distance}.
struct CasePairs {
  int32_t first;
  int32_t last;
  int32_t distance;
};
constexpr CasePairs kNewPairs[] = {
    {0x1C89, 0x1C89, 1},      {0xA7CB, 0xA7CB, 0x264 - 0xA7CB},
    {0xA7CC, 0xA7CC, 1},      {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
    {0xA7DA, 0xA7DA, 1},      {0xA7DC, 0xA7DC, 0x19B - 0xA7DC},
    {0x10D50, 0x10D65, 0x20}, {0x16EA0, 0x16EB8, 0x1B}};

// Unicode's Cased, as far as Final_Sigma asks.
bool IsCased(int32_t code_point) {
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      break;
  }
  // Other_Lowercase and Other_Uppercase: letters and signs that look like
  // cased letters.
  struct Range {
    int32_t first;
    int32_t last;
  };
  static constexpr Range kOther[] = {
      {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},
      {0x2C0, 0x2C1},     {0x2E0, 0x2E4},     {0x345, 0x345},
      {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},
      {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},
      {0x2090, 0x209C},   {0x2160, 0x217F},   {0x24B6, 0x24E9},
      {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},
      {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},   {0x10780, 0x10780},
      {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA},
      {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
  return std::any_of(std::begin(kOther), std::end(kOther), [&](const Range& r) {
    return r.first <= code_point && code_point <= r.last;
  });
}

// Unicode's Case_Ignorable: marks, format characters, modifiers, and the
// punctuation that stands inside of words.
bool IsCaseIgnorable(int32_t code_point) {
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      break;
  }
  switch (code_point) {
    case '\'':
    case '.':
    case ':':
    case 0xB7:
    case 0x387:
    case 0x55F:
    case 0x5F4:
    case 0x2018:
    case 0x2019:
    case 0x2024:
    case 0x2027:
    case 0xFE13:
    case 0xFE52:
    case 0xFE55:
    case 0xFF07:
    case 0xFF0E:
    case 0xFF1A:
      return true;
    default:
      return false;
  }
}

}  // namespace

void DecodeUtf8(absl::string_view text, std::vector<int32_t>& code_points) {
  code_points.clear();
  code_points.reserve(text.size());
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
        static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    if (length <= 0) break;
    code_points.push_back(code_point);
    text.remove_prefix(length);
  }
}

void AppendUtf8(int32_t code_point, std::string& text) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size = utf8proc_encode_char(code_point, bytes);
  text.append(reinterpret_cast<const char*>(bytes), size);
}

bool IsUnicodeSpace(int32_t code_point) {
  if (code_point >= 0x2000 && code_point <= 0x200A) return true;
  switch (code_point) {
    case '\t':
    case '\n':
    case '\v':
    case '\f':
    case '\r':
    case ' ':
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
      return true;
    default:
      return false;
  }
}

void ComposeCanonically(std::vector<int32_t>& code_points) {
  std::vector<int32_t> parts;
  parts.reserve(code_points.size());
  for (int32_t c : code_points) {
    if (c < 0x80) {
      parts.push_back(c);
    } else {
      AppendDecomposed(c, parts);
    }
  }
  const auto is_starter = [](int32_t c) { return CombiningClass(c) == 0; };
  for (auto begin = parts.begin(); begin != parts.end();) {
    const auto end = std::find_if(begin, parts.end(), is_starter);
    std::stable_sort(begin, end, [](int32_t a, int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    begin = std::find_if_not(end, parts.end(), is_starter);
  }
  const utf8proc_ssize_t size = utf8proc_normalize_utf32(
      parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  parts.resize(std::max<utf8proc_ssize_t>(size, 0));
  code_points.swap(parts);
}

void AppendLowercase(int32_t code_point, std::vector<int32_t>& lower) {
  if (code_point == kCapitalIWithDot) {
    lower.insert(lower.end(), {'i', kCombiningDotAbove});
    return;
  }
  for (const CasePairs& pairs : kNewPairs) {
    if (pairs.first <= code_point && code_point <= pairs.last) {
      lower.push_back(code_point + pairs.distance);
      return;
    }
  }
  lower.push_back(utf8proc_tolower(code_point));
}

void LowercaseWithContext(std::vector<int32_t>& code_points) {
  std::vector<int32_t> lower;
  lower.reserve(code_points.size());
  // Of what stands before, the last that is not ignorable: is it cased?
  bool after_cased = false;
  for (size_t i = 0; i < code_points.size(); ++i) {
    const int32_t c = code_points[i];
    if (c == kCapitalSigma && after_cased) {
      const auto next = std::find_if_not(code_points.begin() + i + 1,
                                         code_points.end(), IsCaseIgnorable);
      const bool ends_word = next == code_points.end() || !IsCased(*next);
      lower.push_back(ends_word ? kFinalSigma : utf8proc_tolower(c));
    } else {
      AppendLowercase(c, lower);
    }
    if (!IsCaseIgnorable(c)) after_cased = IsCased(c);
  }
  code_points.swap(lower);
}

}  // namespace quern

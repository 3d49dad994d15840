#include "client/cli/text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include <utf8proc.h>

namespace quern::cli {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";
constexpr absl::string_view kEllipsis = "\xE2\x80\xA6";

struct CodePoint {
  utf8proc_int32_t value;   // Negative: the byte at this place is not UTF-8.
  absl::string_view bytes;  // One byte when not UTF-8.
};

// The first character of `text`, which must not be empty.
CodePoint First(absl::string_view text) {
  utf8proc_int32_t value = -1;
  const utf8proc_ssize_t length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &value);
  if (length <= 0) return {-1, text.substr(0, 1)};
  return {value, text.substr(0, static_cast<size_t>(length))};
}

// Calls `visit` for each character of `text`.
template <typename Visit>
void ForEachCodePoint(absl::string_view text, const Visit& visit) {
  while (!text.empty()) {
    const CodePoint point = First(text);
    visit(point);
    text.remove_prefix(point.bytes.size());
  }
}

bool IsLineSpace(utf8proc_int32_t value) {
  return value == '\t' || value == '\n' || value == '\r' || value == 0x2028 ||
         value == 0x2029;
}

// Control characters, and those of category Cf that turn the direction of what
// follows (U+061C, U+200E-F, U+202A-E, U+2066-9). Joiners stay: scripts need
// them.
bool IsUnsafe(utf8proc_int32_t value) {
  return utf8proc_category(value) == UTF8PROC_CATEGORY_CC || value == 0x061C ||
         value == 0x200E || value == 0x200F ||
         (value >= 0x202A && value <= 0x202E) ||
         (value >= 0x2066 && value <= 0x2069);
}

absl::string_view HtmlEntity(utf8proc_int32_t value) {
  switch (value) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return {};
  }
}

}  // namespace

std::string ValidUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  ForEachCodePoint(text, [&](const CodePoint& point) {
    absl::StrAppend(&valid, point.value < 0 ? kReplacement : point.bytes);
  });
  return valid;
}

bool IsValidUtf8(absl::string_view text) {
  bool valid = true;
  ForEachCodePoint(
      text, [&](const CodePoint& point) { valid = valid && point.value >= 0; });
  return valid;
}

std::string TerminalSafe(absl::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  ForEachCodePoint(text, [&](const CodePoint& point) {
    if (point.value < 0) {
      absl::StrAppend(&safe, kReplacement);
    } else if (IsLineSpace(point.value)) {
      absl::StrAppend(&safe, " ");
    } else if (IsUnsafe(point.value)) {
      absl::StrAppendFormat(&safe, "\\u{%x}", point.value);
    } else {
      absl::StrAppend(&safe, point.bytes);
    }
  });
  return safe;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  ForEachCodePoint(text, [&](const CodePoint& point) {
    width += point.value < 0 ? 1 : utf8proc_charwidth(point.value);
  });
  return width;
}

std::string CutToWidth(absl::string_view text, int width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width <= 0) return {};
  // End of the last whole grapheme cluster that leaves a column for the
  // ellipsis.
  size_t end = 0;
  size_t offset = 0;
  int columns = 0;
  utf8proc_int32_t previous = -1;
  utf8proc_int32_t state = 0;
  while (offset < text.size()) {
    const CodePoint point = First(text.substr(offset));
    if (previous < 0 || point.value < 0 ||
        utf8proc_grapheme_break_stateful(previous, point.value, &state)) {
      end = offset;
    }
    columns += point.value < 0 ? 1 : utf8proc_charwidth(point.value);
    if (columns > width - 1) break;
    offset += point.bytes.size();
    previous = point.value;
  }
  return absl::StrCat(text.substr(0, end), kEllipsis);
}

std::string EscapeHtml(absl::string_view text) {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 8);
  ForEachCodePoint(text, [&](const CodePoint& point) {
    const absl::string_view entity = HtmlEntity(point.value);
    if (!entity.empty()) {
      absl::StrAppend(&escaped, entity);
    } else if (point.value < 0 ||
               (IsUnsafe(point.value) && !IsLineSpace(point.value))) {
      absl::StrAppend(&escaped, kReplacement);
    } else {
      absl::StrAppend(&escaped, point.bytes);
    }
  });
  return escaped;
}

}  // namespace quern::cli

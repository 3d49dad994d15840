#pragma once

#include <string>

#include "absl/strings/string_view.h"

// Text of unknown origin (payloads, file names, server messages), made fit for
// a terminal, for JSON and for HTML.

namespace quern::cli {

// Bytes that are not UTF-8 become U+FFFD, one per byte.
std::string ValidUtf8(absl::string_view text);

bool IsValidUtf8(absl::string_view text);

// Valid UTF-8 on one line without anything that a terminal obeys: tabs and line
// ends become a space, other control and direction-changing characters \u{hex}.
std::string TerminalSafe(absl::string_view text);

// Columns that `text` takes on a terminal; East Asian wide characters take two,
// combining ones none. `text` must be TerminalSafe().
int DisplayWidth(absl::string_view text);

// `text` cut to `width` columns, the last one an ellipsis when something was
// cut; never within a grapheme cluster. `text` must be TerminalSafe().
std::string CutToWidth(absl::string_view text, int width);

// Text or attribute value of an HTML document: & < > " ' are escaped, bytes
// that are not UTF-8 and control characters replaced by U+FFFD.
std::string EscapeHtml(absl::string_view text);

}  // namespace quern::cli

#include "engine/base/guard.h"

#include <new>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "engine/base/utf8.h"

namespace quern {
namespace {

// LibTorch appends a stack trace of a hundred lines to what().
constexpr size_t kMaxWhatBytes = 400;

// What an exception says may quote broken bytes, and a status may be sent.
std::string FirstParagraph(absl::string_view what) {
  what = what.substr(0, what.find("\nException raised from"));
  if (what.size() > kMaxWhatBytes) {
    size_t end = kMaxWhatBytes;
    // A continuation byte after the cut: it goes through a character.
    while (end > 0 && (what[end] & 0xC0) == 0x80) --end;
    what = what.substr(0, end);
  }
  return IsValidUtf8(what) ? std::string(what) : absl::CHexEscape(what);
}

}  // namespace

absl::Status CurrentExceptionStatus(absl::string_view library) {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat(library, ": out of memory"));
  } catch (const std::exception& exception) {
    return absl::InternalError(
        absl::StrCat(library, ": ", FirstParagraph(exception.what())));
  } catch (...) {
    return absl::InternalError(absl::StrCat(library, ": unknown exception"));
  }
}

}  // namespace quern

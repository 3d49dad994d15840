#include "engine/base/guard.h"

#include <new>

#include "absl/strings/str_cat.h"

namespace quern {
namespace {

// LibTorch appends a stack trace of a hundred lines to what().
constexpr size_t kMaxWhatBytes = 400;

absl::string_view FirstParagraph(absl::string_view what) {
  what = what.substr(0, what.find("\nException raised from"));
  return what.substr(0, kMaxWhatBytes);
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

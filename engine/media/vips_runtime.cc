#include "engine/media/vips_runtime.h"

#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include <vips/vips.h>

namespace quern {
namespace {

constexpr size_t kMaxReasonBytes = 200;

constexpr const char* kAllowedLoaders[] = {
    "VipsForeignLoadJpeg",  "VipsForeignLoadPng",  "VipsForeignLoadWebp",
    "VipsForeignLoadNsgif", "VipsForeignLoadTiff", "VipsForeignLoadHeif",
};

void BlockLoaders() {
  vips_block_untrusted_set(TRUE);
  vips_operation_block_set("VipsForeignLoad", TRUE);
  for (const char* loader : kAllowedLoaders) {
    vips_operation_block_set(loader, FALSE);
  }
}

// Drops libvips' warnings about single pictures: what matters is in the error.
void IgnoreLog(const char* /*domain*/, GLogLevelFlags /*level*/,
               const char* /*message*/, void* /*user_data*/) {}

absl::Status Start() {
  if (VIPS_INIT("quernd") != 0) {
    return absl::InternalError(
        absl::StrCat("libvips does not start: ", TakeVipsError()));
  }
  g_log_set_handler(
      "VIPS",
      static_cast<GLogLevelFlags>(G_LOG_LEVEL_WARNING | G_LOG_LEVEL_INFO |
                                  G_LOG_LEVEL_MESSAGE),
      IgnoreLog, nullptr);
  vips_concurrency_set(1);
  vips_cache_set_max(0);
  BlockLoaders();
  return absl::OkStatus();
}

}  // namespace

absl::Status StartVips() {
  static const absl::Status status = Start();
  return status;
}

std::string TakeVipsError() {
  const std::unique_ptr<char, decltype(&g_free)> buffer(
      vips_error_buffer_copy(), &g_free);
  absl::string_view reason = absl::StripAsciiWhitespace(buffer.get());
  reason = reason.substr(0, reason.find('\n')).substr(0, kMaxReasonBytes);
  if (reason.empty()) return "the decoder gave no reason";
  return absl::Utf8SafeCHexEscape(reason);
}

}  // namespace quern

#include "client/cli/failure.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr absl::string_view kUsagePayload = "quern/usage";

// UNAVAILABLE because nobody listens, in gRPC's words.
bool IsNoServer(const absl::Status& status) {
  return absl::IsUnavailable(status) &&
         (absl::StrContains(status.message(), "connect") ||
          absl::StrContains(status.message(), "DNS resolution"));
}

std::string Sentence(const absl::Status& status, absl::string_view address) {
  if (IsNoServer(status)) {
    return absl::StrCat("no server at ", address,
                        ": start quernd, or use --local");
  }
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return absl::StrCat("no answer from ", address,
                          " in time: try a longer --timeout (",
                          status.message(), ")");
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("the server at ", address,
                          " does not offer this: is it quernd, and of this "
                          "version? (",
                          status.message(), ")");
    case absl::StatusCode::kCancelled:
      return "interrupted";
    default:
      return std::string(status.message());
  }
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) {
  return status.GetPayload(kUsagePayload).has_value();
}

std::string Explain(const absl::Status& status, absl::string_view address) {
  return TerminalSafe(Sentence(status, address));
}

}  // namespace quern::cli

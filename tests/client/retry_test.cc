#include "client/cpp/retry.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include <gtest/gtest.h>

#include "client/cpp/rpc_status.h"

namespace quern::client {
namespace {

absl::Status WithRetryInfo(absl::StatusCode code, int64_t seconds) {
  google::rpc::Status status;
  status.set_code(static_cast<int>(code));
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(seconds);
  status.add_details()->PackFrom(info);
  return FromRpcStatus(status);
}

TEST(RetryTest, BacksOffExponentiallyUpToTheLimit) {
  const RetryOptions options{.max_attempts = 10,
                             .initial_backoff = absl::Milliseconds(100),
                             .max_backoff = absl::Milliseconds(350)};
  const absl::Status down = absl::UnavailableError("down");
  EXPECT_EQ(NextDelay(options, 1, down, 0), absl::Milliseconds(100));
  EXPECT_EQ(NextDelay(options, 2, down, 0), absl::Milliseconds(200));
  EXPECT_EQ(NextDelay(options, 3, down, 0), absl::Milliseconds(350));
  EXPECT_EQ(NextDelay(options, 1, down, 1), absl::Milliseconds(75));
}

TEST(RetryTest, GivesUpAfterTheLastAttempt) {
  const RetryOptions options{.max_attempts = 3};
  const absl::Status down = absl::UnavailableError("down");
  EXPECT_TRUE(NextDelay(options, 2, down, 0).has_value());
  EXPECT_FALSE(NextDelay(options, 3, down, 0).has_value());
}

TEST(RetryTest, WaitsAsLongAsTheServerAsks) {
  const absl::Status overloaded =
      WithRetryInfo(absl::StatusCode::kResourceExhausted, 7);
  EXPECT_EQ(NextDelay({}, 1, overloaded, 0), absl::Seconds(7));
}

TEST(RetryTest, DoesNotRepeatWhatWouldFailAgain) {
  for (const auto& status :
       {absl::InvalidArgumentError("bad"), absl::NotFoundError("none"),
        absl::DeadlineExceededError("late"), absl::CancelledError("gone"),
        absl::ResourceExhaustedError("message larger than max")}) {
    EXPECT_FALSE(NextDelay({}, 1, status, 0).has_value()) << status;
  }
}

}  // namespace
}  // namespace quern::client

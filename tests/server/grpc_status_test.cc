#include "server/grpc_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/base/utf8.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int kLastCode = 16;

template <typename Detail>
Detail DetailOf(const grpc::Status& status) {
  google::rpc::Status rpc_status;
  EXPECT_TRUE(rpc_status.ParseFromString(status.error_details()));
  Detail detail;
  for (const auto& any : rpc_status.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  ADD_FAILURE() << "no " << detail.GetTypeName();
  return detail;
}

// The names are those of the gRPC specification.
TEST(GrpcStatusTest, MapsAllCodesBothWays) {
  const char* const names[] = {"OK",
                               "CANCELLED",
                               "UNKNOWN",
                               "INVALID_ARGUMENT",
                               "DEADLINE_EXCEEDED",
                               "NOT_FOUND",
                               "ALREADY_EXISTS",
                               "PERMISSION_DENIED",
                               "RESOURCE_EXHAUSTED",
                               "FAILED_PRECONDITION",
                               "ABORTED",
                               "OUT_OF_RANGE",
                               "UNIMPLEMENTED",
                               "INTERNAL",
                               "UNAVAILABLE",
                               "DATA_LOSS",
                               "UNAUTHENTICATED"};
  for (int code = 0; code <= kLastCode; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status sent = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(sent.error_code()), code);
    EXPECT_EQ(sent.error_message(), code == 0 ? "" : "why");
    EXPECT_EQ(sent.error_details(), "");
    EXPECT_EQ(FromGrpcStatus(sent), status);
    EXPECT_EQ(CodeName(status.code()), names[code]);
  }
}

TEST(GrpcStatusTest, UnknownCodesBecomeUnknown) {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(static_cast<grpc::StatusCode>(31), "odd"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnknown, "odd"));
  EXPECT_EQ(status.raw_code(), static_cast<int>(absl::StatusCode::kUnknown));
}

TEST(GrpcStatusTest, InvalidFieldBecomesBadRequest) {
  const auto detail = DetailOf<google::rpc::BadRequest>(
      ToGrpcStatus(InvalidField("query.parts[0].text", "is empty")));
  ASSERT_EQ(detail.field_violations_size(), 1);
  EXPECT_EQ(detail.field_violations(0).field(), "query.parts[0].text");
  EXPECT_EQ(detail.field_violations(0).description(),
            "query.parts[0].text: is empty");
}

TEST(GrpcStatusTest, NotFoundBecomesResourceInfo) {
  const auto detail = DetailOf<google::rpc::ResourceInfo>(
      ToGrpcStatus(NotFound("collection", "photos")));
  EXPECT_EQ(detail.resource_type(), "collection");
  EXPECT_EQ(detail.resource_name(), "photos");
}

TEST(GrpcStatusTest, OverloadedBecomesRetryInfo) {
  const auto detail = DetailOf<google::rpc::RetryInfo>(
      ToGrpcStatus(Overloaded("busy", absl::Milliseconds(1250))));
  EXPECT_EQ(detail.retry_delay().seconds(), 1);
  EXPECT_EQ(detail.retry_delay().nanos(), 250'000'000);
}

TEST(GrpcStatusTest, DetailsSurviveARoundTrip) {
  const grpc::Status sent = ToGrpcStatus(NotFound("item", "a"));
  const grpc::Status again = ToGrpcStatus(FromGrpcStatus(sent));
  EXPECT_EQ(again.error_details(), sent.error_details());
}

TEST(GrpcStatusTest, BrokenDetailsAreDropped) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::NOT_FOUND, "gone", "\xff\xff"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, "gone"));
}

TEST(GrpcStatusTest, MessagesAreUtf8AndShort) {
  const std::string long_text = absl::StrCat(std::string(3000, 'x'), "ü");
  for (const std::string& message :
       {std::string("caf\xe9"), long_text, std::string(5000, '\xff')}) {
    const grpc::Status sent = ToGrpcStatus(InvalidField(message, message));
    EXPECT_TRUE(IsValidUtf8(sent.error_message()));
    EXPECT_LE(sent.error_message().size(), kMaxErrorMessageBytes);
    EXPECT_LT(sent.error_details().size(), 3000U);
    const auto detail = DetailOf<google::rpc::BadRequest>(sent);
    EXPECT_TRUE(IsValidUtf8(detail.field_violations(0).field()));
  }
}

TEST(GrpcStatusTest, CutsBetweenCharacters) {
  std::string message;
  while (message.size() < 2 * kMaxErrorMessageBytes) message += "é";
  for (int shift = 0; shift < 2; ++shift) {
    const grpc::Status sent =
        ToGrpcStatus(absl::InternalError(std::string(shift, 'x') + message));
    EXPECT_TRUE(IsValidUtf8(sent.error_message()));
  }
}

}  // namespace
}  // namespace quern

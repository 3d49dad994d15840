#include "client/cpp/rpc_status.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"
#include <gtest/gtest.h>

namespace quern::client {
namespace {

grpc::Status WithDetails(const std::string& message,
                         const google::protobuf::Message& detail) {
  google::rpc::Status rich;
  rich.set_code(grpc::StatusCode::INVALID_ARGUMENT);
  rich.set_message(message);
  rich.add_details()->PackFrom(detail);
  return {grpc::StatusCode::INVALID_ARGUMENT, message,
          rich.SerializeAsString()};
}

google::rpc::BadRequest Violation(const std::string& field,
                                  const std::string& why) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(why);
  return bad_request;
}

TEST(RpcStatusTest, EveryCodeIsKept) {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status(static_cast<grpc::StatusCode>(code), "why");
    EXPECT_EQ(static_cast<int>(FromGrpcStatus(status).code()), code);
    EXPECT_EQ(FromGrpcStatus(status).message(), "why");
  }
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(RpcStatusTest, CodesOfTheFutureAreUnknown) {
  google::rpc::Status status;
  status.set_code(99);
  EXPECT_EQ(FromRpcStatus(status).code(), absl::StatusCode::kUnknown);
}

TEST(RpcStatusTest, FieldViolationsAreInTheMessage) {
  const grpc::Status status =
      WithDetails("bad request", Violation("page_size", "is 0; at least 1"));
  EXPECT_EQ(FromGrpcStatus(status).message(),
            "bad request (page_size: is 0; at least 1)");
}

TEST(RpcStatusTest, FieldViolationsAreNotSaidTwice) {
  const grpc::Status status = WithDetails("page_size: is 0; at least 1",
                                          Violation("page_size", "is 0"));
  EXPECT_EQ(FromGrpcStatus(status).message(), "page_size: is 0; at least 1");
}

TEST(RpcStatusTest, RetryInfoIsKept) {
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(2);
  info.mutable_retry_delay()->set_nanos(500'000'000);
  EXPECT_EQ(RetryDelay(FromGrpcStatus(WithDetails("busy", info))),
            absl::Seconds(2.5));
  EXPECT_FALSE(RetryDelay(absl::UnavailableError("down")).has_value());
}

TEST(RpcStatusTest, BrokenDetailsDoNotHideTheError) {
  const grpc::Status status(grpc::StatusCode::NOT_FOUND, "none", "\xff\xff");
  EXPECT_EQ(FromGrpcStatus(status), absl::NotFoundError("none"));
}

}  // namespace
}  // namespace quern::client

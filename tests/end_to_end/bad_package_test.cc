// Packages that pass their canary and go wrong later. The server lives on.

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/api.h"
#include "tests/model/package_writer.h"
#include "tests/model/tiny_towers.h"
#include "tests/model/torchscript_writer.h"
#include "tests/support/quernd_process.h"

namespace quern {
namespace {

using testing::HasSubstr;

// quernd with the tiny package, whose text tower is `tower`: it must give
// (0.6, 0.8) for the canary's text "a b".
class BadPackageTest : public testing::Test {
 protected:
  void Start(const std::string& tower) {
    WriteTinyPackage(folder_.path());
    WriteTorchScript(folder_.PathOf("image.ts"), kTinyImageTower,
                     {0.4F, -0.3F, 0.5F, 0.5F, 0, 0}, 3, 2);
    WriteTorchScript(folder_.PathOf("text.ts"), tower);
    server_ = std::make_unique<QuerndProcess>(
        data_.path(), std::vector<std::string>{
                          "--set", "models.precision=fp32", "--set",
                          absl::StrCat("models.paths=[", folder_.path(), "]")});
    ASSERT_TRUE(server_->ready()) << server_->Log();
    stub_ = v1::Embedding::NewStub(server_->Channel());
  }

  grpc::Status Embed(const std::vector<std::string>& texts,
                     v1::EmbedResponse* response) {
    v1::EmbedRequest request;
    for (const std::string& text : texts) request.add_inputs()->set_text(text);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(60));
    return stub_->Embed(&context, request, response);
  }

  TemporaryDirectory data_;
  TemporaryFolder folder_;
  std::unique_ptr<QuerndProcess> server_;
  std::unique_ptr<v1::Embedding::Stub> stub_;
};

// The tiny vocabulary has the words "a" and "b"; any other is token 1, which
// the canary does not have: the calls before the server is ready do not count.
TEST_F(BadPackageTest, ATowerThatThrowsAtItsHundredthCallFailsThatCallOnly) {
  Start(R"(
def forward(self, ids, mask):
    if bool((ids == 1).any()):
        self.weight += 1
        assert int(self.weight[0][0]) != 100, 'call 100'
    return torch.tensor([[0.6, 0.8]]).expand(ids.size(0), 2)
)");
  std::vector<grpc::Status> failures;
  constexpr int kCalls = 150;
  for (int call = 0; call < kCalls; ++call) {
    v1::EmbedResponse response;
    // A text of its own each, so that no cache answers.
    const grpc::Status status = Embed({absl::StrCat("a ", call)}, &response);
    if (!status.ok()) failures.push_back(status);
  }
  ASSERT_EQ(failures.size(), 1U);
  EXPECT_EQ(failures[0].error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(failures[0].error_message(), HasSubstr("call 100"));
  EXPECT_EQ(server_->Terminate(), 0) << server_->Log();
}

TEST_F(BadPackageTest, ATextThatGivesNaNFailsAlone) {
  Start(R"(
def forward(self, ids, mask):
    known = (ids != 1).all(1).to(self.weight.dtype).unsqueeze(1)
    return torch.tensor([[0.6, 0.8]]) * known / known
)");
  v1::EmbedResponse response;
  const grpc::Status alone = Embed({"poison"}, &response);
  EXPECT_EQ(alone.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(alone.error_message(), HasSubstr("finite"));

  const grpc::Status mixed = Embed({"a", "more poison", "b"}, &response);
  ASSERT_TRUE(mixed.ok()) << mixed.error_message();
  ASSERT_EQ(response.results_size(), 3);
  EXPECT_EQ(response.results(0).status().code(), 0);
  EXPECT_EQ(response.results(1).status().code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(response.results(2).status().code(), 0);
  EXPECT_FLOAT_EQ(response.results(2).embedding().values(1), 0.8F);
  EXPECT_EQ(server_->Terminate(), 0) << server_->Log();
}

// Refused at the start, by name, with the cure.
TEST(BadPackageStartTest, ACanaryOfNaNIsRefused) {
  const TemporaryFolder folder;
  nlohmann::json canary = TinyCanaryJson();
  canary["texts"][0]["embedding"][0] = std::numeric_limits<double>::quiet_NaN();
  WriteTinyPackage(folder.path(), TinyModelJson(), canary);
  TemporaryDirectory data;
  QuerndProcess server(
      data.path(),
      {"--set", absl::StrCat("models.paths=[", folder.path(), "]")});
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Log(), HasSubstr("texts[0].embedding[0]"));
  EXPECT_THAT(server.Log(), HasSubstr("must be a finite number"));
}

}  // namespace
}  // namespace quern

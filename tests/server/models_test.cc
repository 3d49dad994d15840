#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ModelsTest : public ServerTest {
 protected:
  ModelsTest() {
    for (const char* name : {"fake", "other", "damaged"}) {
      std::filesystem::create_directory(packages_.File(name));
    }
    config_.mutable_models()->add_roots(packages_.path());
    StartServer();
  }

  grpc::Status Load(const std::string& path, v1::Model* model) {
    v1::LoadModelRequest request;
    request.set_path(path);
    return Call(v1::Models::NewStub(channel_), &v1::Models::Stub::Load, request,
                model);
  }

  grpc::Status Unload(const std::string& name, bool force = false) {
    v1::UnloadModelRequest request;
    request.set_name(name);
    request.set_force(force);
    v1::UnloadModelResponse response;
    return Call(v1::Models::NewStub(channel_), &v1::Models::Stub::Unload,
                request, &response);
  }

  grpc::Status SetDefault(const std::string& name, v1::Model* model) {
    v1::SetDefaultModelRequest request;
    request.set_name(name);
    return Call(v1::Models::NewStub(channel_), &v1::Models::Stub::SetDefault,
                request, model);
  }

  std::vector<std::string> Names() {
    v1::ListModelsResponse response;
    EXPECT_TRUE(Call(v1::Models::NewStub(channel_), &v1::Models::Stub::List,
                     v1::ListModelsRequest(), &response)
                    .ok());
    std::vector<std::string> names;
    for (const v1::Model& model : response.models()) {
      names.push_back(absl::StrCat(model.name(), " ",
                                   v1::Model::State_Name(model.state()),
                                   model.is_default() ? " default" : ""));
    }
    return names;
  }

  const TemporaryDirectory packages_;
};

TEST_F(ModelsTest, AModelIsLoadedMadeTheDefaultAndUnloaded) {
  v1::Model model;
  ASSERT_TRUE(Load(packages_.File("other"), &model).ok());
  EXPECT_EQ(model.name(), "other");
  EXPECT_EQ(model.state(), v1::Model::STATE_READY);
  EXPECT_FALSE(model.is_default());
  EXPECT_THAT(Names(),
              ElementsAre("fake STATE_READY default", "other STATE_READY"));

  EXPECT_EQ(Unload("fake").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(SetDefault("other", &model).ok());
  EXPECT_TRUE(model.is_default());
  ASSERT_TRUE(Unload("fake").ok());
  EXPECT_THAT(Names(), ElementsAre("other STATE_READY default"));
  EXPECT_EQ(Unload("fake").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(SetDefault("fake", &model).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(ModelsTest, WhatACollectionNeedsIsUnloadedByForceOnly) {
  v1::Model model;
  ASSERT_TRUE(Load("other", &model).ok());
  ASSERT_TRUE(SetDefault("other", &model).ok());
  v1::Collection collection;
  collection.set_name("c");
  collection.set_model("fake");
  ASSERT_TRUE(Create(collection).ok());
  const grpc::Status status = Unload("fake");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("collection \"c\""));
  ASSERT_TRUE(Unload("fake", /*force=*/true).ok());
  v1::SearchResponse response;
  EXPECT_EQ(Search(TextSearch("c", "red"), &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(Load("fake", &model).ok());
  EXPECT_TRUE(Search(TextSearch("c", "red"), &response).ok());
}

TEST_F(ModelsTest, AFailedLoadKeepsTheOldModel) {
  v1::Model model;
  EXPECT_EQ(Load("damaged", &model).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(Names(), ElementsAre("fake STATE_READY default"));
}

TEST_F(ModelsTest, OnlyWhatLiesBelowTheRootsIsLoaded) {
  v1::Model model;
  EXPECT_EQ(Load("/", &model).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Load("../..", &model).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Load("nobody", &model).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Load("", &model).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ModelsTest, UnderTrafficNoCallFails) {
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&, i] {
      for (int j = 0; !stop; ++j) {
        v1::EmbedRequest request;
        request.add_inputs()->set_text(absl::StrCat("text ", i, " ", j));
        request.add_inputs()->mutable_image()->set_content("red");
        v1::EmbedResponse response;
        const grpc::Status status = Embed(request, &response);
        ASSERT_TRUE(status.ok()) << status.error_message();
        for (const auto& result : response.results()) {
          ASSERT_EQ(result.status().code(), 0) << result.status().message();
        }
        ++answered;
      }
    });
  }
  v1::Model model;
  for (int i = 0; i < 20; ++i) {
    const int before = answered;
    ASSERT_TRUE(Load("fake", &model).ok());
    ASSERT_TRUE(Load("other", &model).ok());
    ASSERT_TRUE(SetDefault("other", &model).ok());
    ASSERT_TRUE(Unload("fake").ok());
    ASSERT_TRUE(Load("fake", &model).ok());
    ASSERT_TRUE(SetDefault("fake", &model).ok());
    while (answered == before) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace quern

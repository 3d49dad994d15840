#include "engine/model/model_registry.h"

#include <thread>

#include "gtest/gtest.h"

#include "tests/support/fake_encoder.h"

namespace quern {
namespace {

TEST(ModelRegistryTest, GivesTheFirstModelForTheEmptyName) {
  ModelRegistry registry;
  EXPECT_EQ(registry.Get("").status().code(),
            absl::StatusCode::kFailedPrecondition);
  registry.Put(MakeFakeModel("b"));
  registry.Put(MakeFakeModel("a"));
  EXPECT_EQ((*registry.Get(""))->info().name, "b");
  EXPECT_EQ((*registry.Get("a"))->info().name, "a");
  EXPECT_EQ(registry.Get("c").status().code(), absl::StatusCode::kNotFound);
}

TEST(ModelRegistryTest, ListsByName) {
  ModelRegistry registry;
  registry.Put(MakeFakeModel("b"));
  registry.Put(MakeFakeModel("a"));
  ASSERT_EQ(registry.List().size(), 2U);
  EXPECT_EQ(registry.List()[0]->info().name, "a");
}

TEST(ModelRegistryTest, KeepsAReplacedModelForWhoHoldsIt) {
  ModelRegistry registry;
  registry.Put(MakeFakeModel("a", 8));
  const std::shared_ptr<const Model> held = *registry.Get("a");
  registry.Put(MakeFakeModel("a", 16));
  EXPECT_EQ(held->EmbedText("x")->embedding.size(), 8U);
  EXPECT_EQ((*registry.Get("a"))->info().dimension, 16);
  EXPECT_EQ(held.use_count(), 1);
}

TEST(ModelRegistryTest, DoesNotRemoveTheDefault) {
  ModelRegistry registry;
  registry.Put(MakeFakeModel("a"));
  registry.Put(MakeFakeModel("b"));
  EXPECT_EQ(registry.Remove("a").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(registry.SetDefault("c").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(registry.SetDefault("b").ok());
  EXPECT_EQ(registry.default_name(), "b");
  EXPECT_TRUE(registry.Remove("a").ok());
  EXPECT_EQ(registry.Remove("a").code(), absl::StatusCode::kNotFound);
}

TEST(ModelRegistryTest, SwapsUnderReaders) {
  ModelRegistry registry;
  registry.Put(MakeFakeModel("a"));
  std::thread writer([&] {
    for (int i = 0; i < 1000; ++i) registry.Put(MakeFakeModel("a"));
  });
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ((*registry.Get(""))->info().name, "a");
  }
  writer.join();
}

}  // namespace
}  // namespace quern

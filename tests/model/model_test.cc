#include "engine/model/model.h"

#include <memory>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/fake_encoder.h"

namespace quern {
namespace {

using testing::HasSubstr;

TEST(ModelTest, ReportsWhatATextCameTo) {
  const std::shared_ptr<const Model> model = MakeFakeModel();
  const absl::StatusOr<Model::TextEmbedding> short_text =
      model->EmbedText("two words");
  ASSERT_TRUE(short_text.ok()) << short_text.status();
  EXPECT_EQ(short_text->tokens, 3);
  EXPECT_FALSE(short_text->truncated);
  EXPECT_EQ(static_cast<int64_t>(short_text->embedding.size()),
            model->info().dimension);

  const absl::StatusOr<Model::TextEmbedding> long_text = model->EmbedText(
      std::string(100, 'a') + " b c d e f g h i j k l m n o p");
  ASSERT_TRUE(long_text.ok()) << long_text.status();
  EXPECT_TRUE(long_text->truncated);
  EXPECT_EQ(long_text->tokens, FakeTokenizer().max_tokens());
}

TEST(ModelTest, RejectsTextThatIsNotUtf8) {
  const absl::Status status = MakeFakeModel()->EmbedText("caf\xE9").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("UTF-8"));
}

TEST(ModelTest, NamesTheCapabilityThatIsMissing) {
  const Model model({.name = "blind", .capabilities = {"text.tokens"}}, {},
                    std::make_unique<FakeTokenizer>(),
                    std::make_unique<FakeEncoder>());
  const Image image{.width = 1, .height = 1, .rgb = {1, 2, 3}};
  for (const absl::Status& status :
       {model.EmbedText("x").status(), model.EmbedImage(image).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr("\"blind\""));
    EXPECT_THAT(status.message(), HasSubstr(".global"));
  }
}

}  // namespace
}  // namespace quern

#include "engine/base/error.h"

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

TEST(ErrorTest, InvalidFieldCarriesPathAndMessage) {
  const absl::Status status = InvalidField("query.parts[2].text", "is empty");

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               "query.parts[2].text: is empty"));
  EXPECT_EQ(GetField(status), "query.parts[2].text");
  EXPECT_EQ(GetResource(status), std::nullopt);
  EXPECT_EQ(GetRetryDelay(status), std::nullopt);
}

TEST(ErrorTest, InFieldExtendsThePath) {
  const absl::Status status =
      InField(InvalidField("embedding", "has 3 values"), "items[7]");

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               "items[7].embedding: has 3 values"));
  EXPECT_EQ(GetField(status), "items[7].embedding");
}

TEST(ErrorTest, InFieldAnnotatesOtherErrors) {
  const absl::Status status = InField(absl::InternalError("broke"), "items[7]");

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, "items[7]: broke"));
  EXPECT_EQ(GetField(status), std::nullopt);
}

TEST(ErrorTest, ResourceNamesMayHoldAnyCharacter) {
  const std::string name = "two\nlines";
  const absl::Status missing = NotFound("collection", name);
  const absl::Status present = AlreadyExists("collection", name);

  EXPECT_THAT(missing, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(present, StatusIs(absl::StatusCode::kAlreadyExists));
  for (const absl::Status& status : {missing, present}) {
    ASSERT_TRUE(GetResource(status).has_value());
    EXPECT_EQ(GetResource(status)->type, "collection");
    EXPECT_EQ(GetResource(status)->name, name);
  }
}

TEST(ErrorTest, OverloadedCarriesTheDelay) {
  const absl::Status status = Overloaded("full", absl::Milliseconds(1500));

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, "full"));
  EXPECT_EQ(GetRetryDelay(status), absl::Milliseconds(1500));
}

TEST(ErrorTest, AnnotateKeepsCodeAndDetails) {
  const absl::Status status =
      Annotate(Overloaded("full", absl::Seconds(1)), "the encoder");

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               "the encoder: full"));
  EXPECT_EQ(GetRetryDelay(status), absl::Seconds(1));
  EXPECT_THAT(Annotate(absl::OkStatus(), "the encoder"), IsOk());
}

TEST(ErrorTest, QuotedCutsAtACharacterBoundary) {
  EXPECT_EQ(Quoted("owl", 3), "\"owl\"");
  EXPECT_EQ(Quoted("owls", 3), "\"owl…\"");
  EXPECT_EQ(Quoted("aéé", 3), "\"aé…\"");
  EXPECT_EQ(Quoted("aéé", 2), "\"a…\"");
}

TEST(ErrorTest, QuotedEscapesBrokenUtf8) {
  EXPECT_EQ(Quoted("caf\xe9"), "\"caf\\xe9\"");
}

TEST(ErrorTest, QuotedEscapesControlCharacters) {
  EXPECT_EQ(Quoted("a\nb\x01"), "\"a\\nb\\x01\"");
  EXPECT_EQ(Quoted("say \"hi\""), "\"say \\\"hi\\\"\"");
}

}  // namespace
}  // namespace quern

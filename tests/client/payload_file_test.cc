#include "client/cli/payload_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;

absl::StatusOr<std::map<std::string, FilePayload>> Read(
    const std::string& text) {
  const TempFolder folder;
  return ReadPayloadFile(folder.Write("payload.jsonl", text));
}

TEST(PayloadFileTest, ReadsFieldsByFile) {
  const auto payloads = Read(
      "{\"file\":\"a.jpg\",\"id\":\"wren\",\"n\":2,\"tags\":[\"x\"]}\n"
      "\n"
      "{\"file\":\"b/c.jpg\",\"nested\":{\"ok\":true}}");
  ASSERT_TRUE(payloads.ok()) << payloads.status();
  ASSERT_EQ(payloads->size(), 2);
  const FilePayload& first = payloads->at("a.jpg");
  EXPECT_EQ(first.id, "wren");
  EXPECT_EQ(first.line, 1);
  EXPECT_EQ(first.fields.fields_size(), 2);
  EXPECT_EQ(first.fields.fields().at("n").number_value(), 2);
  EXPECT_EQ(payloads->at("b/c.jpg").line, 3);
  EXPECT_EQ(payloads->at("b/c.jpg").id, "");
}

TEST(PayloadFileTest, NamesTheLineThatCannotBeUsed) {
  const std::string good = "{\"file\":\"a.jpg\"}\n";
  EXPECT_THAT(Read(good + "{nonsense").status().message(),
              HasSubstr("line 2: is not JSON"));
  EXPECT_THAT(Read(good + "[1]").status().message(),
              HasSubstr("line 2: is not a JSON object"));
  EXPECT_THAT(Read(good + "{\"id\":\"x\"}").status().message(),
              HasSubstr("line 2: has no \"file\""));
  EXPECT_THAT(Read("{\"file\":7}").status().message(),
              HasSubstr("\"file\" is not a text"));
  EXPECT_THAT(Read("{\"file\":\"\xff\"}").status().message(),
              HasSubstr("line 1: is not JSON"));
}

TEST(PayloadFileTest, RefusesDuplicates) {
  EXPECT_THAT(Read("{\"file\":\"a\"}\n{\"file\":\"a\",\"id\":\"b\"}")
                  .status()
                  .message(),
              HasSubstr("line 2: \"a\" is line 1's already"));
  EXPECT_THAT(Read("{\"file\":\"a\",\"id\":\"x\"}\n"
                   "{\"file\":\"b\",\"id\":\"x\"}")
                  .status()
                  .message(),
              HasSubstr("line 2: the id \"x\" is line 1's already"));
}

TEST(PayloadFileTest, RefusesWhatIsNestedWithoutEnd) {
  const std::string deep = "{\"file\":\"a\",\"x\":" + std::string(100000, '[');
  EXPECT_FALSE(Read(deep).ok());
  std::string closed = "{\"file\":\"a\",\"x\":" + std::string(200, '[') +
                       std::string(200, ']') + "}";
  EXPECT_FALSE(Read(closed).ok());
}

}  // namespace
}  // namespace quern::cli

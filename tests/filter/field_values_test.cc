#include "engine/filter/field_values.h"

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"

namespace quern {
namespace {

const std::vector<FieldDeclaration>& Fields() {
  static const auto* fields = new std::vector<FieldDeclaration>{
      {"lang", FieldType::kString},
      {"year", FieldType::kNumber},
      {"public", FieldType::kBool},
      {"taken", FieldType::kTimestamp},
      {"tags", FieldType::kString, /*repeated=*/true},
      {"camera.model", FieldType::kString},
      {"objects.label", FieldType::kString, /*repeated=*/true},
  };
  return *fields;
}

std::string Payload(const std::string& json) {
  google::protobuf::Struct payload;
  const auto status =
      google::protobuf::util::JsonStringToMessage(json, &payload);
  EXPECT_TRUE(status.ok()) << json << ": " << status.message();
  return payload.SerializeAsString();
}

FieldValues Read(const std::string& json) {
  auto values = ReadFields(Payload(json), 1, Fields());
  EXPECT_TRUE(values.ok()) << values.status();
  return *std::move(values);
}

bool Matches(const std::string& json, absl::string_view text) {
  const auto filter = ParseFilter(text, Fields());
  EXPECT_TRUE(filter.ok()) << filter.status();
  return filter.ok() && Matches(**filter, Read(json));
}

TEST(FieldValuesTest, ReadsDeclaredFieldsOfTheirType) {
  const FieldValues values = Read(R"({
    "lang": "de", "year": 2020, "public": false, "other": 1,
    "taken": "2024-05-01T12:00:00+02:00", "tags": ["b", "a"],
    "camera": {"model": "X", "year": 1},
    "objects": [{"label": "cat"}, {"label": "dog"}, {"size": 1}]})");
  ASSERT_EQ(values.entries.size(), 9u);
  EXPECT_EQ(values.modality, 1);
  EXPECT_EQ(values.entries[0].value, FieldValue(std::string("de")));
  EXPECT_EQ(values.entries[1].value, FieldValue(2020.0));
  EXPECT_EQ(values.entries[2].value, FieldValue(false));
  EXPECT_EQ(values.entries[3].value,
            FieldValue(absl::FromUnixSeconds(1714557600)));
  EXPECT_EQ(values.entries[4].value, FieldValue(std::string("b")));
  EXPECT_EQ(values.entries[5].value, FieldValue(std::string("a")));
  EXPECT_EQ(values.entries[6].value, FieldValue(std::string("X")));
  EXPECT_EQ(values.entries[7].value, FieldValue(std::string("cat")));
  EXPECT_EQ(values.entries[8].value, FieldValue(std::string("dog")));
  EXPECT_EQ(values.entries[8].field, 6u);
}

TEST(FieldValuesTest, LeavesOutWhatIsOfAnotherType) {
  for (const absl::string_view json :
       {R"({})", R"({"lang": null})", R"({"lang": 1})", R"({"lang": ["de"]})",
        R"({"lang": {"de": 1}})", R"({"year": "2020"})", R"({"public": 1})",
        R"({"taken": "yesterday"})", R"({"taken": 1714557600})",
        R"({"taken": "infinite-past"})", R"({"tags": []})",
        R"({"tags": [1, null, ["a"], {"a": "b"}]})", R"({"camera": "X"})",
        R"({"camera": [{"model": "X"}]})", R"({"camera.model": "X"})",
        R"({"objects": "cat"})"}) {
    EXPECT_TRUE(Read(std::string(json)).entries.empty()) << json;
  }
  google::protobuf::Struct payload;
  (*payload.mutable_fields())["year"].set_number_value(
      std::numeric_limits<double>::quiet_NaN());
  (*payload.mutable_fields())["lang"];  // A Value without a kind.
  EXPECT_TRUE(
      ReadFields(payload.SerializeAsString(), 0, Fields())->entries.empty());
}

TEST(FieldValuesTest, SingleValueOfARepeatedFieldIsAListOfOne) {
  EXPECT_TRUE(Matches(R"({"tags": "sea"})", "tags:sea"));
  EXPECT_TRUE(Matches(R"({"objects": {"label": "cat"}})", "objects.label:cat"));
}

TEST(FieldValuesTest, RefusesWhatIsNoStruct) {
  const auto values = ReadFields("\x0A\xFF", 0, Fields());
  EXPECT_EQ(values.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetField(values.status()), "payload");
  EXPECT_TRUE(ReadFields("", 0, Fields())->entries.empty());
}

TEST(FieldValuesTest, ComparesByType) {
  const std::string item = R"({"lang": "de", "year": 2020, "public": true,
    "taken": "2024-05-01T12:00:00+02:00", "tags": ["sea", "beach"],
    "camera": {"model": "X100"}})";
  for (const absl::string_view yes : {"year = 2020",
                                      "year >= 2020",
                                      "year < 2020.5",
                                      "year > -1e300",
                                      "year != 2021",
                                      "year IN (1, 2020)",
                                      "lang = de",
                                      "lang > \"dd\"",
                                      "lang < \"dea\"",
                                      "lang > \"D\"",
                                      "lang = \"d*\"",
                                      "lang != \"e*\"",
                                      "lang:*",
                                      "public = true",
                                      "public != false",
                                      "camera.model = \"X1*\"",
                                      "taken = \"2024-05-01T10:00:00Z\"",
                                      "taken > 2024-05-01T09:59:59.999Z",
                                      "tags:sea",
                                      "tags:\"b*\"",
                                      "tags IN (x, beach)",
                                      "NOT tags:mountain",
                                      "year = 1 OR lang = de AND public = true",
                                      "NOT (year = 1 OR year = 2)"}) {
    EXPECT_TRUE(Matches(item, yes)) << yes;
  }
  for (const absl::string_view no :
       {"year < 2020", "year != 2020", "year IN (1, 2)", "lang = DE",
        "lang = \"de \"", "lang = \"dex*\"", "public = false",
        "taken < 2024-05-01T12:00:00+02:00", "tags:se", "tags IN (a, b)",
        "lang = de AND year = 1", "year = 1 AND lang = de OR public = true"}) {
    EXPECT_FALSE(Matches(item, no)) << no;
  }
}

TEST(FieldValuesTest, ComparisonWithAMissingFieldIsFalse) {
  for (const absl::string_view json : {R"({})", R"({"year": "text"})"}) {
    const std::string item(json);
    for (const absl::string_view no :
         {"year = 1", "year < 1", "year >= 1", "year IN (1, 2)", "year:*",
          "tags:a", "lang = \"*\""}) {
      EXPECT_FALSE(Matches(item, no)) << no;
      EXPECT_TRUE(Matches(item, absl::StrCat("NOT ", no))) << no;
    }
    EXPECT_TRUE(Matches(item, "year != 1"));
    EXPECT_TRUE(Matches(item, "lang != \"a*\""));
    EXPECT_FALSE(Matches(item, "year:* AND year != 1"));
  }
}

TEST(FieldValuesTest, ComparesTextByteByByte) {
  EXPECT_TRUE(Matches("{\"lang\": \"größe\"}", "lang = \"gr\\u00f6*\""));
  // The same letter in another normal form is another text.
  EXPECT_FALSE(Matches("{\"lang\": \"größe\"}", "lang = \"gro\\u0308ße\""));
  EXPECT_TRUE(Matches("{\"lang\": \"é\"}", "lang > \"z\""));
}

}  // namespace
}  // namespace quern

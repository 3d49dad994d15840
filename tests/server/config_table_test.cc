#include "server/config_table.h"

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"

#include "server/config.h"
#include "server/config_yaml.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::testing::HasSubstr;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The "default" column of a key's row.
std::string DocumentedDefault(const std::string& table,
                              const std::string& path) {
  const std::string start = absl::StrCat("| `", path, "` | ");
  const size_t begin = table.find(start);
  if (begin == std::string::npos) return absl::StrCat("no row for ", path);
  const size_t value = begin + start.size();
  return table.substr(value, table.find(" |", value) - value);
}

// Defaults that depend on the machine or on other values.
const std::set<std::string>& DescribedInWords() {
  static const auto* const keys = new std::set<std::string>{
      "models.paths", "models.default_model", "models.roots",
      "media.roots",  "storage.replica_of",   "scoring.remote",
      "index.devices"};
  return *keys;
}

void ExpectDocumented(const std::string& table, const Message& message,
                      const std::string& path) {
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string key = absl::StrCat(path, field.name());
    const bool is_section =
        field.message_type() != nullptr &&
        field.message_type()->file() == message.GetDescriptor()->file();
    if (is_section) {
      ExpectDocumented(table,
                       message.GetReflection()->GetMessage(message, &field),
                       key + ".");
    } else if (DescribedInWords().contains(key)) {
      EXPECT_NE(DocumentedDefault(table, key), "") << key;
    } else {
      EXPECT_EQ(absl::AsciiStrToLower(DocumentedDefault(table, key)),
                ScalarText(message, field))
          << key;
    }
  }
}

TEST(ConfigTableTest, DocumentedDefaultsAreTheDefaults) {
  const std::string table = ValueOrDie(ConfigTable(BuiltInDescriptorSet()));
  ExpectDocumented(table, DefaultConfig(), "");
}

TEST(ConfigTableTest, BuiltInSetIsTheOneThatWasGenerated) {
  EXPECT_EQ(BuiltInDescriptorSet(), ReadAll(QUERN_DESCRIPTOR_SET));
}

TEST(ConfigTableTest, RefusesWhatIsNoDescriptorSet) {
  EXPECT_THAT(ConfigTable("nonsense"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ConfigTableTest, ReadmeHasTheTable) {
  EXPECT_THAT(
      ReadAll("README.md"),
      HasSubstr(absl::StrCat("<!-- config table -->\n",
                             ValueOrDie(ConfigTable(BuiltInDescriptorSet())),
                             "<!-- end of config table -->\n")))
      << "put the output of quernd --config-table between the markers";
}

}  // namespace
}  // namespace quern

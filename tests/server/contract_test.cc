// The contract keeps its word: what was released stays as it was, and
// everything in it is documented. `contract_test --update` adds what is new to
// the list of released fields; it never takes a line out.

#include <fstream>
#include <functional>
#include <iostream>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::EnumDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::FileDescriptor;
using ::google::protobuf::ServiceDescriptor;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The contract with its comments.
class Contract {
 public:
  Contract() {
    google::protobuf::FileDescriptorSet set;
    set.ParseFromString(ReadAll(QUERN_DESCRIPTOR_SET));
    for (const auto& file : set.file()) {
      const FileDescriptor* built = pool_.BuildFile(file);
      if (absl::StartsWith(file.name(), "quern/")) files_.push_back(built);
    }
  }

  const std::vector<const FileDescriptor*>& files() const { return files_; }

 private:
  google::protobuf::DescriptorPool pool_;
  std::vector<const FileDescriptor*> files_;
};

std::string TypeName(const FieldDescriptor& field) {
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

std::string Label(const FieldDescriptor& field) {
  if (field.is_repeated()) return "repeated";
  if (field.real_containing_oneof() != nullptr) {
    return absl::StrCat("oneof:", field.real_containing_oneof()->name());
  }
  return field.has_optional_keyword() ? "optional" : "singular";
}

void AddEnum(const EnumDescriptor& descriptor, std::set<std::string>& lines) {
  for (int i = 0; i < descriptor.value_count(); ++i) {
    lines.insert(absl::StrCat(descriptor.full_name(), ".",
                              descriptor.value(i)->name(), " ",
                              descriptor.value(i)->number(), " value"));
  }
}

void AddMessage(const Descriptor& message, std::set<std::string>& lines) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    lines.insert(absl::StrCat(field.full_name(), " ", field.number(), " ",
                              TypeName(field), " ", Label(field)));
  }
  for (int i = 0; i < message.enum_type_count(); ++i) {
    AddEnum(*message.enum_type(i), lines);
  }
  for (int i = 0; i < message.nested_type_count(); ++i) {
    AddMessage(*message.nested_type(i), lines);
  }
}

void AddService(const ServiceDescriptor& service,
                std::set<std::string>& lines) {
  for (int i = 0; i < service.method_count(); ++i) {
    const auto& method = *service.method(i);
    lines.insert(absl::StrCat(method.full_name(), " ",
                              method.client_streaming() ? "stream " : "",
                              method.input_type()->full_name(), " -> ",
                              method.server_streaming() ? "stream " : "",
                              method.output_type()->full_name(), " method"));
  }
}

std::set<std::string> CurrentLines() {
  const Contract contract;
  std::set<std::string> lines;
  for (const FileDescriptor* file : contract.files()) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      AddMessage(*file->message_type(i), lines);
    }
    for (int i = 0; i < file->enum_type_count(); ++i) {
      AddEnum(*file->enum_type(i), lines);
    }
    for (int i = 0; i < file->service_count(); ++i) {
      AddService(*file->service(i), lines);
    }
  }
  return lines;
}

std::set<std::string> ReleasedLines() {
  std::ifstream file(QUERN_RELEASED_FIELDS);
  std::set<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.insert(line);
  return lines;
}

TEST(ContractTest, NothingReleasedChanges) {
  const std::set<std::string> current = CurrentLines();
  const std::set<std::string> released = ReleasedLines();
  ASSERT_FALSE(released.empty());
  for (const std::string& line : released) {
    EXPECT_TRUE(current.contains(line))
        << "released, but gone or changed: " << line;
  }
  for (const std::string& line : current) {
    EXPECT_TRUE(released.contains(line))
        << "new: run contract_test --update: " << line;
  }
}

template <typename Element>
void ExpectComment(const Element& element) {
  google::protobuf::SourceLocation location;
  EXPECT_TRUE(element.GetSourceLocation(&location) &&
              !location.leading_comments.empty())
      << element.full_name() << " has no comment";
}

void ExpectComments(const EnumDescriptor& descriptor) {
  ExpectComment(descriptor);
  for (int i = 0; i < descriptor.value_count(); ++i) {
    ExpectComment(*descriptor.value(i));
  }
}

void ExpectComments(const Descriptor& message) {
  ExpectComment(message);
  for (int i = 0; i < message.field_count(); ++i) {
    ExpectComment(*message.field(i));
  }
  for (int i = 0; i < message.real_oneof_decl_count(); ++i) {
    ExpectComment(*message.oneof_decl(i));
  }
  for (int i = 0; i < message.enum_type_count(); ++i) {
    ExpectComments(*message.enum_type(i));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) {
    ExpectComments(*message.nested_type(i));
  }
}

TEST(ContractTest, EverythingHasAComment) {
  const Contract contract;
  ASSERT_FALSE(contract.files().empty());
  for (const FileDescriptor* file : contract.files()) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      ExpectComments(*file->message_type(i));
    }
    for (int i = 0; i < file->enum_type_count(); ++i) {
      ExpectComments(*file->enum_type(i));
    }
    for (int i = 0; i < file->service_count(); ++i) {
      ExpectComment(*file->service(i));
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        ExpectComment(*file->service(i)->method(j));
      }
    }
  }
}

TEST(ContractTest, EnumsStartUnspecified) {
  const Contract contract;
  for (const FileDescriptor* file : contract.files()) {
    for (int i = 0; i < file->enum_type_count(); ++i) {
      EXPECT_TRUE(
          absl::EndsWith(file->enum_type(i)->value(0)->name(), "_UNSPECIFIED"));
    }
  }
}

void Update() {
  std::set<std::string> lines = ReleasedLines();
  lines.merge(CurrentLines());
  std::ofstream file(QUERN_RELEASED_FIELDS);
  for (const std::string& line : lines) file << line << "\n";
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 2 && std::string(argv[1]) == "--update") {
    quern::Update();
    return 0;
  }
  return RUN_ALL_TESTS();
}

#include "server/config_table.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"

namespace quern {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;

constexpr absl::string_view kDefaultMark = "Default: ";

// A field's comment on one line.
std::string Comment(const FieldDescriptor& field) {
  google::protobuf::SourceLocation location;
  if (!field.GetSourceLocation(&location)) return "";
  std::string comment =
      absl::StrReplaceAll(location.leading_comments, {{"\n", " "}});
  absl::RemoveExtraAsciiWhitespace(&comment);
  return comment;
}

// The comment without its last sentence, "Default: X.", and X.
std::pair<std::string, std::string> SplitDefault(absl::string_view comment) {
  const size_t mark = comment.rfind(kDefaultMark);
  if (mark == absl::string_view::npos) return {std::string(comment), ""};
  const absl::string_view value =
      absl::StripSuffix(comment.substr(mark + kDefaultMark.size()), ".");
  return {
      std::string(absl::StripTrailingAsciiWhitespace(comment.substr(0, mark))),
      std::string(value)};
}

void AppendRows(const Descriptor& message, const std::string& path,
                std::string& table) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string field_path = absl::StrCat(path, field.name());
    const bool is_section = field.message_type() != nullptr &&
                            field.message_type()->file() == message.file();
    if (is_section) {
      AppendRows(*field.message_type(), absl::StrCat(field_path, "."), table);
      continue;
    }
    const auto [meaning, fallback] = SplitDefault(Comment(field));
    absl::StrAppend(&table, "| `", field_path, "` | ", fallback, " | ", meaning,
                    " |\n");
  }
}

}  // namespace

absl::StatusOr<std::string> ConfigTable(absl::string_view descriptor_set) {
  google::protobuf::FileDescriptorSet files;
  google::protobuf::DescriptorPool pool;
  if (files.ParseFromArray(descriptor_set.data(),
                           static_cast<int>(descriptor_set.size()))) {
    for (const auto& file : files.file()) pool.BuildFile(file);
  }
  const Descriptor* config = pool.FindMessageTypeByName("quern.v1.Config");
  if (config == nullptr) {
    return absl::InvalidArgumentError(
        "the descriptor set has no quern.v1.Config");
  }
  std::string table = "| key | default | meaning |\n|---|---|---|\n";
  AppendRows(*config, "", table);
  return table;
}

}  // namespace quern

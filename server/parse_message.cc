#include "server/parse_message.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::internal::WireFormatLite;
using ::google::protobuf::io::CodedInputStream;

// As deep as the parser goes.
constexpr int kMaxDepth = 100;

absl::Status Malformed(size_t offset, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("malformed message at byte ", offset, ": ", why));
}

// The longest beginning of `text` that is UTF-8.
size_t ValidUtf8Prefix(absl::string_view text) {
  constexpr size_t kMaxCharacterBytes = 4;
  size_t valid = 0;
  while (valid < text.size()) {
    size_t length = 1;
    while (length <= kMaxCharacterBytes &&
           !IsValidUtf8(text.substr(valid, length))) {
      ++length;
    }
    if (length > kMaxCharacterBytes) break;
    valid += length;
  }
  return valid;
}

// Walks the wire format along the descriptor until something is wrong.
class WireWalker {
 public:
  explicit WireWalker(absl::string_view bytes) : bytes_(bytes) {}

  // Bytes [begin, end) are a message of this type at `path`, which is empty or
  // ends in a dot.
  absl::Status Walk(size_t begin, size_t end, const Descriptor& descriptor,
                    const std::string& path, int depth) const {
    if (depth > kMaxDepth) return Malformed(begin, "nested too deeply");
    CodedInputStream input(
        reinterpret_cast<const uint8_t*>(bytes_.data()) + begin,
        static_cast<int>(end - begin));
    std::map<int, int> seen;  // Occurrences by field number.
    while (static_cast<size_t>(input.CurrentPosition()) < end - begin) {
      const size_t tag_offset = begin + input.CurrentPosition();
      uint32_t tag = 0;
      if (!input.ReadVarint32(&tag) ||
          WireFormatLite::GetTagFieldNumber(tag) == 0) {
        return Malformed(tag_offset, "not a field");
      }
      if (WireFormatLite::GetTagWireType(tag) !=
          WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        if (!WireFormatLite::SkipField(&input, tag)) {
          return Malformed(tag_offset, "the field breaks off");
        }
        continue;
      }
      uint32_t length = 0;
      if (!input.ReadVarint32(&length)) {
        return Malformed(tag_offset, "the field has no length");
      }
      const size_t value = begin + input.CurrentPosition();
      if (length > end - value) {
        return Malformed(tag_offset, absl::StrCat("the field says ", length,
                                                  " bytes, but only ",
                                                  end - value, " follow"));
      }
      const int number = WireFormatLite::GetTagFieldNumber(tag);
      const FieldDescriptor* field = descriptor.FindFieldByNumber(number);
      if (field != nullptr) {
        QUERN_RETURN_IF_ERROR(WalkField(value, value + length, *field, path,
                                        seen[number]++, depth));
      }
      input.Skip(static_cast<int>(length));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status WalkField(size_t begin, size_t end, const FieldDescriptor& field,
                         const std::string& parent_path, int position,
                         int depth) const {
    std::string path = absl::StrCat(parent_path, field.name());
    if (field.is_repeated()) absl::StrAppend(&path, "[", position, "]");
    if (field.type() == FieldDescriptor::TYPE_MESSAGE) {
      return Walk(begin, end, *field.message_type(), absl::StrCat(path, "."),
                  depth + 1);
    }
    if (field.type() != FieldDescriptor::TYPE_STRING) return absl::OkStatus();
    const absl::string_view text = bytes_.substr(begin, end - begin);
    const size_t valid = ValidUtf8Prefix(text);
    if (valid == text.size()) return absl::OkStatus();
    return InvalidField(
        path, absl::StrCat("is not valid UTF-8 at its byte ", valid, " (byte ",
                           begin + valid, " of the message)"));
  }

  const absl::string_view bytes_;
};

std::string Joined(grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string joined;
  if (!bytes.Dump(&slices).ok()) return joined;
  joined.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) {
    joined.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return joined;
}

}  // namespace

absl::Status ParseMessage(grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message) {
  if (!bytes.Valid()) {
    return absl::InvalidArgumentError("the call carried no message");
  }
  grpc::ProtoBufferReader reader(&bytes);
  if (!reader.status().ok()) {
    return absl::InvalidArgumentError("the message cannot be decompressed");
  }
  if (message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return ExplainBadMessage(Joined(bytes), *message.GetDescriptor());
}

absl::Status ExplainBadMessage(absl::string_view bytes,
                               const Descriptor& descriptor) {
  QUERN_RETURN_IF_ERROR(
      WireWalker(bytes).Walk(0, bytes.size(), descriptor, "", 0));
  return absl::InvalidArgumentError(
      absl::StrCat("malformed message: not a ", descriptor.full_name()));
}

}  // namespace quern

#include "server/parse_message.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "quern/v1/items.pb.h"
#include "quern/v1/retrieval.pb.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

// A field with a length: key, length, bytes. For numbers below 16 and fewer
// than 128 bytes.
std::string Field(int number, const std::string& bytes) {
  std::string field(1, static_cast<char>(number << 3 | 2));
  field += static_cast<char>(bytes.size());
  return field + bytes;
}

// In pieces, as gRPC delivers long messages.
grpc::ByteBuffer InPieces(const std::string& bytes, size_t piece_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += piece_bytes) {
    slices.emplace_back(bytes.substr(i, piece_bytes));
  }
  return {slices.data(), slices.size()};
}

absl::Status Parse(const std::string& bytes,
                   google::protobuf::Message&& message) {
  grpc::ByteBuffer buffer = InPieces(bytes, 3);
  return ParseMessage(buffer, message);
}

TEST(ParseMessageTest, ParsesWhatComesInPieces) {
  v1::SearchRequest request;
  request.set_collection("photos");
  request.mutable_query()->add_parts()->set_text("Bücher");
  grpc::ByteBuffer buffer = InPieces(request.SerializeAsString(), 2);
  v1::SearchRequest parsed;
  ASSERT_THAT(ParseMessage(buffer, parsed), IsOk());
  EXPECT_EQ(parsed.query().parts(0).text(), "Bücher");
}

TEST(ParseMessageTest, AnEmptyMessageIsAMessage) {
  grpc::Slice empty;
  grpc::ByteBuffer buffer(&empty, 1);
  v1::SearchRequest parsed;
  EXPECT_THAT(ParseMessage(buffer, parsed), IsOk());
}

TEST(ParseMessageTest, ACallWithoutAMessageIsRefused) {
  grpc::ByteBuffer buffer;
  v1::SearchRequest parsed;
  EXPECT_THAT(ParseMessage(buffer, parsed),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ParseMessageTest, NamesTheTextThatIsNotUtf8) {
  // collection "c", query { parts { text: "ok" } parts { text: "caf\xe9!" } }.
  const std::string bytes =
      Field(1, "c") +
      Field(2, Field(1, Field(1, "ok")) + Field(1, Field(1, "caf\xe9!")));
  const absl::Status status = Parse(bytes, v1::SearchRequest());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("not valid UTF-8 at its byte 3 (byte "
                                         "18 of the message)")));
  EXPECT_EQ(bytes[18], '\xe9');
  EXPECT_EQ(GetField(status), "query.parts[1].text");
}

TEST(ParseMessageTest, NamesBrokenTextOfManyKinds) {
  for (const char* bad : {"\xc3", "\xed\xa0\x80", "\xc0\xaf",
                          "\xf5\x80\x80\x80", "a\x80", "\xe2\x82"}) {
    const absl::Status status = Parse(Field(1, bad), v1::SearchRequest());
    EXPECT_EQ(GetField(status), "collection");
  }
}

TEST(ParseMessageTest, NamesRepeatedTextAndMapKeys) {
  EXPECT_EQ(GetField(Parse(Field(2, "a") + Field(2, "\xff"),
                           v1::DeleteItemsRequest())),
            "ids[1]");
  // payload { fields { key: "\xff" } }.
  EXPECT_EQ(GetField(Parse(Field(8, Field(1, Field(1, "\xff"))),
                           v1::UpsertRequest())),
            "payload.fields[0].key");
}

TEST(ParseMessageTest, BytesNeedNotBeUtf8) {
  // image { content: "\xff\xd8" }.
  EXPECT_THAT(Parse(Field(4, Field(1, "\xff\xd8")), v1::UpsertRequest()),
              IsOk());
}

TEST(ParseMessageTest, ReportsWhereAMessageBreaksOff) {
  const std::string whole = Field(1, "c") + Field(2, Field(1, Field(1, "ok")));
  EXPECT_THAT(Parse(whole.substr(0, whole.size() - 1), v1::SearchRequest()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("malformed message at byte 3: the field says "
                                 "6 bytes, but only 5 follow")));
}

TEST(ParseMessageTest, RefusesGarbage) {
  const std::string cases[] = {
      std::string("\0\0", 2),      // Field number 0.
      "\x0f",                      // Wire type 7.
      "\x0b",                      // A group that does not end.
      "\x08",                      // A number without its value.
      "\x0a\xff\xff\xff\xff\x0f",  // 4 GiB of text.
      std::string(20, '\xff'),
  };
  for (const std::string& bytes : cases) {
    EXPECT_THAT(Parse(bytes, v1::SearchRequest()),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("malformed message")));
  }
}

TEST(ParseMessageTest, RefusesNestingWithoutEnd) {
  std::string deep = "x";
  // Hand-made: field 6 (list_value) of Value holds field 1 (values), again and
  // again, with lengths of two bytes.
  for (int i = 0; i < 120; ++i) {
    for (const char key : {'\x0a', '\x32'}) {
      std::string length;
      size_t size = deep.size();
      while (size >= 0x80) {
        length += static_cast<char>(size | 0x80);
        size >>= 7;
      }
      length += static_cast<char>(size);
      deep = key + length + deep;
    }
  }
  EXPECT_THAT(ExplainBadMessage(deep, *google::protobuf::Value::descriptor()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quern

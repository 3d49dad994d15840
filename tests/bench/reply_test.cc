#include "tests/bench/reply.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

using namespace std::string_literals;

// A search's answer, as Redis Stack 7.4 sends it: a count and ids.
constexpr char kFound[] = "*3\r\n:2\r\n$2\r\n17\r\n$1\r\n4\r\n";

// A message of PostgreSQL's protocol.
std::string Message(char type, const std::string& body) {
  const size_t length = body.size() + 4;
  return absl::StrCat(std::string(1, type),
                      std::string({'\0', '\0', static_cast<char>(length >> 8),
                                   static_cast<char>(length)}),
                      body);
}

TEST(RedisReplyTest, EndsWithItsLastValueWhereverItIsCut) {
  const std::string replies = absl::StrCat("+OK\r\n", kFound);
  for (size_t size = 0; size < replies.size(); ++size) {
    EXPECT_FALSE(FindRedisReply(replies.substr(0, size), 2).has_value())
        << size;
  }
  const auto reply = FindRedisReply(absl::StrCat(replies, "+NEXT\r\n"), 2);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->size, replies.size());
  EXPECT_FALSE(reply->failed);
}

TEST(RedisReplyTest, TakesNullsAndBytesThatLookLikeLineEnds) {
  const std::string value = "*3\r\n$-1\r\n*-1\r\n$4\r\n\r\n-x\r\n";
  const auto reply = FindRedisReply(value, 1);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->size, value.size());
  EXPECT_FALSE(reply->failed);
}

TEST(RedisReplyTest, FailsWithAnErrorAtAnyDepth) {
  EXPECT_TRUE(FindRedisReply("-LOADING Redis is loading\r\n", 1)->failed);
  // EXEC of a transaction whose second command failed.
  EXPECT_TRUE(FindRedisReply("*2\r\n:1\r\n-ERR wrong\r\n", 1)->failed);
  // The replies after an error belong to it, too.
  EXPECT_FALSE(FindRedisReply("-ERR one\r\n", 2).has_value());
  EXPECT_EQ(FindRedisReply("-ERR one\r\n:2\r\n", 2)->size, 14);
}

TEST(RedisReplyTest, FailsOnWhatIsNotItsProtocol) {
  EXPECT_TRUE(FindRedisReply("HTTP/1.1 400 Bad Request\r\n", 1)->failed);
  EXPECT_TRUE(FindRedisReply("*x\r\n", 1)->failed);
}

TEST(RedisReplyTest, CountsTheCommandsOfAPipeline) {
  EXPECT_EQ(CountRedisValues("*1\r\n$5\r\nMULTI\r\n"
                             "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"
                             "*1\r\n$4\r\nEXEC\r\n"),
            3);
  EXPECT_EQ(CountRedisValues(""), 0);
}

TEST(PostgresReplyTest, EndsWhenTheServerIsReadyWhereverItIsCut) {
  // BindComplete, a row that holds the letter of ReadyForQuery, the end of the
  // command, ReadyForQuery outside of a transaction.
  const std::string reply =
      absl::StrCat(Message('2', ""), Message('D', std::string(300, 'Z')),
                   Message('C', "SELECT 1\0"s), Message('Z', "I"));
  for (size_t size = 0; size < reply.size(); ++size) {
    EXPECT_FALSE(FindPostgresReply(reply.substr(0, size)).has_value()) << size;
  }
  const auto found = FindPostgresReply(absl::StrCat(reply, Message('Z', "I")));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->size, reply.size());
  EXPECT_FALSE(found->failed);
}

TEST(PostgresReplyTest, FailsWithAnError) {
  const auto reply = FindPostgresReply(
      absl::StrCat(Message('E', "SERROR\0\0"s), Message('Z', "I")));
  ASSERT_TRUE(reply.has_value());
  EXPECT_TRUE(reply->failed);
}

}  // namespace
}  // namespace quern

#include "engine/embed/text_cache.h"

#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quern {
namespace {

TextCache::Entry EntryOf(float value) {
  return {.embedding = {value}, .truncated = value > 5, .tokens = 3};
}

TEST(TextCacheTest, GivesBackWhatWasPut) {
  TextCache cache(1'000'000);
  EXPECT_FALSE(cache.Get("a").has_value());
  cache.Put("a", EntryOf(7));
  const auto entry = cache.Get("a");
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->embedding, std::vector<float>{7});
  EXPECT_TRUE(entry->truncated);
  EXPECT_EQ(entry->tokens, 3);
  EXPECT_EQ(cache.stats().hits, 1);
  EXPECT_EQ(cache.stats().misses, 1);
  EXPECT_EQ(cache.stats().entries, 1);

  cache.Put("a", EntryOf(8));
  EXPECT_EQ(cache.Get("a")->embedding.front(), 8);
  EXPECT_EQ(cache.stats().entries, 1);
}

TEST(TextCacheTest, ForgetsWhatWasUnusedLongestToStayWithinItsBytes) {
  TextCache measure(1'000'000);
  measure.Put("a", EntryOf(1));
  const int64_t entry_bytes = measure.stats().bytes;
  TextCache cache(2 * entry_bytes);
  cache.Put("a", EntryOf(1));
  cache.Put("b", EntryOf(2));
  EXPECT_TRUE(cache.Get("a").has_value());
  cache.Put("c", EntryOf(3));
  EXPECT_TRUE(cache.Get("a").has_value());
  EXPECT_FALSE(cache.Get("b").has_value());
  EXPECT_TRUE(cache.Get("c").has_value());
  EXPECT_EQ(cache.stats().bytes, 2 * entry_bytes);

  cache.Put(std::string(1000, 'x'), EntryOf(4));
  EXPECT_EQ(cache.stats().entries, 2);
}

TEST(TextCacheTest, OfNoBytesKeepsAndCountsNothing) {
  TextCache cache(0);
  cache.Put("a", EntryOf(1));
  EXPECT_FALSE(cache.Get("a").has_value());
  EXPECT_EQ(cache.stats().misses, 0);
  EXPECT_EQ(cache.stats().entries, 0);
}

TEST(TextCacheTest, KeysTellModelsAndTextsApart) {
  EXPECT_NE(TextCache::KeyOf("ab", "c"), TextCache::KeyOf("a", "bc"));
  EXPECT_NE(TextCache::KeyOf("1", "2:3"), TextCache::KeyOf("1:2", "3"));
}

TEST(TextCacheTest, ServesManyThreadsWithinItsBytes) {
  TextCache cache(2000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&cache, i] {
      for (int j = 0; j < 2000; ++j) {
        const std::string key = std::to_string((i + j) % 20);
        const auto entry = cache.Get(key);
        if (entry.has_value()) {
          EXPECT_EQ(entry->embedding.front(), std::stof(key));
        } else {
          cache.Put(key, EntryOf(std::stof(key)));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache.stats().bytes, 2000);
  EXPECT_EQ(cache.stats().hits + cache.stats().misses, 8000);
}

}  // namespace
}  // namespace quern

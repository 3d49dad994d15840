#include "engine/index/vector_cache.h"

#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quern {
namespace {

constexpr size_t kValues = 64;

// What the cache has of a row; empty: nothing.
std::vector<float> Found(VectorCache& cache, VectorCache::Key key) {
  const VectorCache::Values values = cache.Find({key}).front();
  if (values == nullptr) return {};
  return {values.get(), values.get() + kValues};
}

std::vector<float> Vector(float value) {
  return std::vector<float>(kValues, value);
}

TEST(VectorCacheTest, FindsWhatWasPut) {
  VectorCache cache(1 << 20);
  cache.Put({.segment = 1, .row = 7}, Vector(17));
  cache.Put({.segment = 7, .row = 1}, Vector(71));
  cache.Put({.segment = 1, .row = 7}, Vector(0));  // It is there.
  const std::vector<VectorCache::Values> found =
      cache.Find({{.segment = 7, .row = 1},
                  {.segment = 1, .row = 1},
                  {.segment = 1, .row = 7}});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0][kValues - 1], 71);
  EXPECT_EQ(found[1], nullptr);
  EXPECT_EQ(found[2][0], 17);
  const VectorCache::Stats stats = cache.stats();
  EXPECT_EQ(stats.hits, 2);
  EXPECT_EQ(stats.misses, 1);
  EXPECT_EQ(stats.vectors, 2);
  EXPECT_GT(stats.bytes, static_cast<int64_t>(2 * kValues * sizeof(float)));
}

TEST(VectorCacheTest, ZeroKeepsNothing) {
  VectorCache cache(0);
  cache.Put({.segment = 1, .row = 7}, Vector(17));
  EXPECT_EQ(Found(cache, {.segment = 1, .row = 7}), std::vector<float>());
  EXPECT_EQ(cache.stats().bytes, 0);
}

TEST(VectorCacheTest, StaysWithinItsBytesAndKeepsWhatIsAskedFor) {
  constexpr int64_t kMaxBytes = 1 << 20;
  VectorCache cache(kMaxBytes);
  const VectorCache::Key hot = {.segment = 3, .row = 0};
  cache.Put(hot, Vector(42));
  for (uint32_t row = 1; row < 50'000; ++row) {
    cache.Put({.segment = 3, .row = row}, Vector(static_cast<float>(row)));
    if (row % 100 != 0) continue;
    ASSERT_EQ(Found(cache, hot), Vector(42)) << row;
  }
  const VectorCache::Stats stats = cache.stats();
  EXPECT_LE(stats.bytes, kMaxBytes);
  EXPECT_GT(stats.bytes, kMaxBytes / 2);
  EXPECT_EQ(Found(cache, {.segment = 3, .row = 1}), std::vector<float>());
  EXPECT_EQ(Found(cache, {.segment = 3, .row = 49'999}), Vector(49'999));
}

// Where everything is asked for all the time, something goes all the same.
TEST(VectorCacheTest, NothingStaysForEver) {
  VectorCache cache(1 << 20);
  for (uint32_t row = 0; row < 50'000; ++row) {
    const VectorCache::Key key = {.segment = 3, .row = row};
    cache.Put(key, Vector(static_cast<float>(row)));
    ASSERT_EQ(Found(cache, key), Vector(static_cast<float>(row)));
  }
  EXPECT_EQ(Found(cache, {.segment = 3, .row = 0}), std::vector<float>());
}

TEST(VectorCacheTest, AVectorLargerThanItsShareIsNotKept) {
  VectorCache cache(16 << 10);  // In 16 parts.
  cache.Put({.segment = 1, .row = 1}, std::vector<float>(1024));
  EXPECT_EQ(cache.stats().vectors, 0);
  cache.Put({.segment = 1, .row = 1}, std::vector<float>(128));
  EXPECT_EQ(cache.stats().vectors, 1);
}

TEST(VectorCacheTest, ManyThreadsReadWhatOthersPut) {
  VectorCache cache(256 << 10);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, t] {
      for (uint32_t i = 0; i < 20'000; ++i) {
        const uint32_t row = (i * 7919 + static_cast<uint32_t>(t)) % 2000;
        const VectorCache::Key key = {.segment = i % 3, .row = row};
        const auto expected = static_cast<float>(key.segment * 10'000 + row);
        const std::vector<float> found = Found(cache, key);
        if (found.empty()) {
          cache.Put(key, Vector(expected));
        } else {
          ASSERT_EQ(found, Vector(expected));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache.stats().bytes, 256 << 10);
}

}  // namespace
}  // namespace quern

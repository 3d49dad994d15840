#include "engine/index/vector_cache.h"

#include <algorithm>

#include "absl/hash/hash.h"

namespace quern {
namespace {

// What an entry takes beside its values: its places in the table and among the
// turns, and the allocation.
constexpr int64_t kEntryBytes = 128;
// That one Put() gives; then what is next goes.
constexpr int kChances = 16;

}  // namespace

VectorCache::Stripe& VectorCache::StripeOf(const Key& key) {
  return stripes_[absl::HashOf(key.row, key.segment) % kStripes];
}

std::vector<VectorCache::Values> VectorCache::Find(absl::Span<const Key> keys) {
  // Few of the tables' lines are in the processor's cache: they come while
  // others are asked for.
  for (const Key& key : keys) {
    Stripe& stripe = StripeOf(key);
    absl::MutexLock lock(&stripe.mutex);
    stripe.entries.prefetch(key);
  }
  std::vector<Values> found;
  found.reserve(keys.size());
  for (const Key& key : keys) {
    Stripe& stripe = StripeOf(key);
    absl::MutexLock lock(&stripe.mutex);
    const auto entry = stripe.entries.find(key);
    if (entry == stripe.entries.end()) {
      ++stripe.misses;
      found.emplace_back();
      continue;
    }
    ++stripe.hits;
    entry->second.asked = true;
    found.push_back(entry->second.values);
  }
  return found;
}

void VectorCache::MakeRoom(Stripe& stripe, int64_t bytes) {
  int chances = kChances;
  while (stripe.bytes > bytes) {
    const Key next = stripe.turns.front();
    stripe.turns.pop_front();
    const auto entry = stripe.entries.find(next);
    if (entry->second.asked && chances > 0) {
      --chances;
      entry->second.asked = false;
      stripe.turns.push_back(next);
      continue;
    }
    stripe.bytes -= entry->second.bytes;
    stripe.entries.erase(entry);
  }
}

void VectorCache::Put(const Key& key, absl::Span<const float> values) {
  const int64_t bytes =
      kEntryBytes + static_cast<int64_t>(values.size() * sizeof(float));
  if (bytes > max_stripe_bytes_) return;
  const std::shared_ptr<float[]> copy =
      std::make_shared_for_overwrite<float[]>(values.size());
  std::copy(values.begin(), values.end(), copy.get());
  Stripe& stripe = StripeOf(key);
  absl::MutexLock lock(&stripe.mutex);
  if (stripe.entries.contains(key)) return;
  MakeRoom(stripe, max_stripe_bytes_ - bytes);
  stripe.entries.emplace(key, Entry{.values = copy, .bytes = bytes});
  stripe.turns.push_back(key);
  stripe.bytes += bytes;
}

VectorCache::Stats VectorCache::stats() const {
  Stats stats;
  for (const Stripe& stripe : stripes_) {
    absl::MutexLock lock(&stripe.mutex);
    stats.hits += stripe.hits;
    stats.misses += stripe.misses;
    stats.vectors += static_cast<int64_t>(stripe.entries.size());
    stats.bytes += stripe.bytes;
  }
  return stats;
}

}  // namespace quern

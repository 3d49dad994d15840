#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace quern {

// Embeddings of texts, those used last, within a bound of bytes. Thread-safe.
class TextCache {
 public:
  struct Entry {
    std::vector<float> embedding;  // [dimension], L2-normalised.
    bool truncated = false;        // The text was longer than the model reads.
    int64_t tokens = 0;
  };

  struct Stats {
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t entries = 0;
    int64_t bytes = 0;  // Keys, embeddings and what holds them.
  };

  // Zero keeps nothing and counts nothing.
  explicit TextCache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // `model` says how the embedding is computed: fingerprint, precision, device.
  static std::string KeyOf(absl::string_view model, absl::string_view text);

  std::optional<Entry> Get(absl::string_view key);
  // Replaces; forgets the entries unused longest. One that alone exceeds the
  // bound is not kept.
  void Put(std::string key, Entry entry);

  Stats stats() const;

 private:
  struct Node {
    std::string key;
    Entry entry;
  };
  using Nodes = std::list<Node>;

  static int64_t BytesOf(const Node& node);
  void Remove(Nodes::iterator node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t max_bytes_;

  mutable absl::Mutex mutex_;
  Nodes nodes_ ABSL_GUARDED_BY(mutex_);  // Used last first.
  // Keys are views of the nodes'.
  absl::flat_hash_map<absl::string_view, Nodes::iterator> places_
      ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern

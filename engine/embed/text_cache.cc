#include "engine/embed/text_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace quern {
namespace {

// A list node, a hash slot and two heap blocks, roughly.
constexpr int64_t kOverheadBytes = 160;

}  // namespace

std::string TextCache::KeyOf(absl::string_view model, absl::string_view text) {
  // The length keeps a model and a text apart whatever is in them.
  return absl::StrCat(model.size(), ":", model, text);
}

std::optional<TextCache::Entry> TextCache::Get(absl::string_view key) {
  if (max_bytes_ == 0) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  const auto place = places_.find(key);
  if (place == places_.end()) {
    ++stats_.misses;
    return std::nullopt;
  }
  ++stats_.hits;
  nodes_.splice(nodes_.begin(), nodes_, place->second);
  return place->second->entry;
}

void TextCache::Put(std::string key, Entry entry) {
  Node node{.key = std::move(key), .entry = std::move(entry)};
  const int64_t bytes = BytesOf(node);
  if (bytes > max_bytes_) return;
  absl::MutexLock lock(&mutex_);
  const auto old = places_.find(node.key);
  if (old != places_.end()) Remove(old->second);
  while (stats_.bytes + bytes > max_bytes_) Remove(std::prev(nodes_.end()));
  nodes_.push_front(std::move(node));
  places_.emplace(nodes_.front().key, nodes_.begin());
  stats_.bytes += bytes;
  ++stats_.entries;
}

TextCache::Stats TextCache::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

int64_t TextCache::BytesOf(const Node& node) {
  return kOverheadBytes + static_cast<int64_t>(node.key.size()) +
         static_cast<int64_t>(node.entry.embedding.size() * sizeof(float));
}

void TextCache::Remove(Nodes::iterator node) {
  stats_.bytes -= BytesOf(*node);
  --stats_.entries;
  places_.erase(node->key);
  nodes_.erase(node);
}

}  // namespace quern

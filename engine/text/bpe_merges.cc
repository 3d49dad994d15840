#include "engine/text/bpe_merges.h"

#include <queue>
#include <tuple>

namespace quern {
namespace {

uint64_t KeyOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 |
         static_cast<uint32_t>(right);
}

// A symbol of the word being merged, in a doubly linked list over positions.
struct Link {
  int32_t symbol;  // kGone once it is part of the one before.
  int32_t previous;
  int32_t next;
};
constexpr int32_t kGone = -1;
constexpr int32_t kNone = -1;

struct Candidate {
  int32_t rank;
  int32_t position;  // Of the left symbol.

  // For a queue whose top is the smallest.
  bool operator<(const Candidate& other) const {
    return std::tie(other.rank, other.position) < std::tie(rank, position);
  }
};

}  // namespace

bool BpeMerges::Add(int32_t left, int32_t right, int32_t merged) {
  const Merge merge = {static_cast<int32_t>(merges_.size()), merged};
  return merges_.emplace(KeyOf(left, right), merge).second;
}

const BpeMerges::Merge* BpeMerges::Find(int32_t left, int32_t right) const {
  const auto merge = merges_.find(KeyOf(left, right));
  return merge == merges_.end() ? nullptr : &merge->second;
}

int64_t BpeMerges::Apply(std::vector<int32_t>& symbols) const {
  const int32_t count = static_cast<int32_t>(symbols.size());
  std::vector<Link> links(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    links[i] = {symbols[i], i - 1, i + 1 < count ? i + 1 : kNone};
  }
  int64_t looked_at = 0;
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t position) {
    if (position == kNone || links[position].next == kNone) return;
    ++looked_at;
    const Merge* merge =
        Find(links[position].symbol, links[links[position].next].symbol);
    if (merge != nullptr) queue.push({merge->rank, position});
  };
  for (int32_t i = 0; i < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Link& left = links[candidate.position];
    if (left.symbol == kGone || left.next == kNone) continue;
    Link& right = links[left.next];
    const Merge* merge = Find(left.symbol, right.symbol);
    // Another merge has changed this pair since.
    if (merge == nullptr || merge->rank != candidate.rank) continue;
    left.symbol = merge->merged;
    right.symbol = kGone;
    left.next = right.next;
    if (left.next != kNone) links[left.next].previous = candidate.position;
    consider(left.previous);
    consider(candidate.position);
  }
  symbols.clear();
  for (const Link& link : links) {
    if (link.symbol != kGone) symbols.push_back(link.symbol);
  }
  return looked_at;
}

}  // namespace quern

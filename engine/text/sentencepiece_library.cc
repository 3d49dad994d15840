#include "engine/text/sentencepiece_library.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <sentencepiece_model.pb.h>
#include <sentencepiece_processor.h>

namespace quern {
namespace {

using ::sentencepiece::ModelProto;
using ::sentencepiece::SentencePieceProcessor;

using Piece = ModelProto::SentencePiece;

constexpr int kMaxPieces = 1 << 22;
// Scores are log probabilities, or minus the rank: sums must stay finite.
constexpr float kMaxScore = 1e9F;
// The library keeps the matches of a search in arrays of these sizes.
constexpr int kMaxCharsMapMatches = 32;
constexpr size_t kMaxUserDefinedMatches = 64;

// The double array of darts-clone, as stored: little-endian units of 4 bytes.
// A node's children lie at its base XOR their first byte.
class CharsMapWalker {
 public:
  explicit CharsMapWalker(std::string_view charsmap) {
    uint32_t trie_bytes = 0;
    if (charsmap.size() <= sizeof(trie_bytes)) return;
    std::memcpy(&trie_bytes, charsmap.data(), sizeof(trie_bytes));
    charsmap.remove_prefix(sizeof(trie_bytes));
    if (trie_bytes == 0 || trie_bytes % sizeof(uint32_t) != 0 ||
        trie_bytes >= charsmap.size()) {
      return;
    }
    units_.resize(trie_bytes / sizeof(uint32_t));
    std::memcpy(units_.data(), charsmap.data(), trie_bytes);
    strings_ = charsmap.substr(trie_bytes);
  }

  bool IsSound() {
    if (units_.empty() || strings_.back() != '\0') return false;
    matches_below_.assign(units_.size(), kUnseen);
    // The root is not a match itself.
    return Walk(0, 0) && matches_below_[0] <= kMaxCharsMapMatches;
  }

 private:
  static constexpr int kUnseen = -1;
  static constexpr int kUnderWay = -2;
  // Keys are a few characters; deeper is no normalisation rule.
  static constexpr int kMaxDepth = 512;
  static constexpr uint32_t kIsLeaf = uint32_t{1} << 31;

  // Fills matches_below_ for the node: the most matches on a way down from it.
  bool Walk(uint32_t node, int depth) {
    if (matches_below_[node] == kUnderWay || depth > kMaxDepth) return false;
    if (matches_below_[node] != kUnseen) return true;
    matches_below_[node] = kUnderWay;
    const uint32_t unit = units_[node];
    const uint32_t base = node ^ (unit >> 10 << ((unit & 1U << 9) >> 6));
    constexpr uint32_t kMaxByte = 0xFF;
    if ((base | kMaxByte) >= units_.size()) return false;
    const bool is_match = node != 0 && (unit >> 8 & 1U) != 0;
    if (is_match && (units_[base] & ~kIsLeaf) >= strings_.size()) return false;
    int most = 0;
    for (uint32_t byte = 0; byte <= kMaxByte; ++byte) {
      const uint32_t child = base ^ byte;
      if ((units_[child] & (kIsLeaf | kMaxByte)) != byte) continue;
      // What is not used is zero: from there a NUL leads nowhere.
      if (units_[child] == 0) continue;
      if (!Walk(child, depth + 1)) return false;
      most = std::max(most, matches_below_[child]);
    }
    matches_below_[node] = most + (is_match ? 1 : 0);
    return true;
  }

  std::vector<uint32_t> units_;
  std::string_view strings_;
  std::vector<int> matches_below_;
};

// Whether no text can start with more of the user's pieces at once than the
// library has room for.
bool HaveFewPrefixes(std::vector<std::string_view> pieces) {
  std::sort(pieces.begin(), pieces.end());
  std::vector<std::string_view> prefixes;  // Of the piece, itself included.
  for (std::string_view piece : pieces) {
    while (!prefixes.empty() &&
           piece.substr(0, prefixes.back().size()) != prefixes.back()) {
      prefixes.pop_back();
    }
    prefixes.push_back(piece);
    if (prefixes.size() > kMaxUserDefinedMatches) return false;
  }
  return true;
}

// What is wrong with the pieces; empty if nothing is.
std::string CheckPieces(const ModelProto& model) {
  if (model.pieces_size() < 1 || model.pieces_size() > kMaxPieces) {
    return "it has " + std::to_string(model.pieces_size()) +
           " pieces; it must have 1 to " + std::to_string(kMaxPieces);
  }
  std::vector<std::string_view> user_defined;
  for (int i = 0; i < model.pieces_size(); ++i) {
    const Piece& piece = model.pieces(i);
    const std::string which = "piece " + std::to_string(i);
    if (piece.piece().find('\0') != std::string::npos) {
      return which + " has a NUL in it";
    }
    if (!(std::abs(piece.score()) <= kMaxScore)) {
      return which + " has a score that is not a number from -1e9 to 1e9";
    }
    if (piece.type() == Piece::USER_DEFINED) {
      user_defined.push_back(piece.piece());
    }
  }
  return HaveFewPrefixes(std::move(user_defined))
             ? ""
             : "too many of its user-defined pieces start alike";
}

}  // namespace

SentencePieceLibrary::SentencePieceLibrary()
    : processor_(std::make_unique<SentencePieceProcessor>()) {}

SentencePieceLibrary::~SentencePieceLibrary() = default;

std::unique_ptr<SentencePieceLibrary> SentencePieceLibrary::Load(
    std::string_view bytes, std::string& error) {
  auto model = std::make_unique<ModelProto>();
  if (bytes.empty() ||
      !model->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    error = "it is damaged, or something else";
    return nullptr;
  }
  error = CheckPieces(*model);
  if (!error.empty()) return nullptr;
  const std::string& charsmap = model->normalizer_spec().precompiled_charsmap();
  if (!charsmap.empty() && !IsSoundCharsMap(charsmap)) {
    error = "its normalisation rules are damaged";
    return nullptr;
  }
  // Not needed here: for the way back, and for the library's own tests.
  model->clear_denormalizer_spec();
  model->clear_self_test_data();
  std::unique_ptr<SentencePieceLibrary> library(new SentencePieceLibrary());
  const auto status = library->processor_->Load(std::move(model));
  if (!status.ok()) {
    error = status.message();
    return nullptr;
  }
  return library;
}

std::vector<int32_t> SentencePieceLibrary::Encode(std::string_view text) const {
  std::vector<int> ids;
  if (!processor_->Encode(text, &ids).ok()) ids.clear();
  return ids;
}

int32_t SentencePieceLibrary::bos_id() const { return processor_->bos_id(); }

int32_t SentencePieceLibrary::eos_id() const { return processor_->eos_id(); }

const std::string& SentencePieceLibrary::unknown_piece() const {
  return processor_->IdToPiece(processor_->unk_id());
}

bool IsSoundCharsMap(std::string_view charsmap) {
  return CharsMapWalker(charsmap).IsSound();
}

}  // namespace quern

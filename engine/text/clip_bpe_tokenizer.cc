#include "engine/text/clip_bpe_tokenizer.h"

#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/text/clip_words.h"
#include "engine/text/unicode.h"

namespace quern {
namespace {

using Json = nlohmann::json;
using Vocabulary = absl::flat_hash_map<std::string, int32_t>;

constexpr absl::string_view kStart = "<|startoftext|>";
constexpr absl::string_view kEnd = "<|endoftext|>";
constexpr absl::string_view kEndOfWord = "</w>";
constexpr absl::string_view kVersionLine = "#version";

constexpr int64_t kMinTokens = 3;

absl::Status BadVocabulary(absl::string_view message) {
  return InvalidField("vocabulary", message);
}

// Token by token while the parser reads, so that repeated ones are noticed and
// nothing nested is built.
class VocabularyReader {
 public:
  absl::StatusOr<Vocabulary> Read(absl::string_view json) {
    const absl::Status parsed = Guard("json", [&] {
      const Json rest = Json::parse(
          json.begin(), json.end(),
          [this](int depth, Json::parse_event_t event, Json& value) {
            return Take(depth, event, value);
          });
    });
    QUERN_RETURN_IF_ERROR(status_);
    if (absl::IsResourceExhausted(parsed)) return parsed;
    if (!parsed.ok()) return BadVocabulary(parsed.message());
    return std::move(vocabulary_);
  }

 private:
  // Returns whether the parser keeps what it has read: never, but the object
  // itself, as it would otherwise not look into it.
  bool Take(int depth, Json::parse_event_t event, const Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
        if (depth == 0) return true;
        Fail("holds an object");
        return false;
      case Json::parse_event_t::array_start:
        Fail("holds an array");
        return false;
      case Json::parse_event_t::key:
        token_ = value.get<std::string>();
        return true;
      case Json::parse_event_t::value:
        Add(value);
        return false;
      default:
        return true;
    }
  }

  void Add(const Json& id) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      Fail(absl::StrCat("has the token ", Quoted(token_),
                        " whose id is no whole number, 0 to 2^31 - 1"));
      return;
    }
    const int32_t number = id.get<int32_t>();
    if (!vocabulary_.emplace(token_, number).second) {
      Fail(absl::StrCat("repeats the token ", Quoted(token_)));
    } else if (!ids_.insert(number).second) {
      Fail(absl::StrCat("gives the token ", Quoted(token_), " the id ", number,
                        ", which another one has"));
    }
  }

  void Fail(absl::string_view message) {
    status_.Update(BadVocabulary(message));
  }

  Vocabulary vocabulary_;
  absl::flat_hash_set<int32_t> ids_;
  std::string token_;
  absl::Status status_;
};

absl::StatusOr<int32_t> IdOf(const Vocabulary& vocabulary,
                             absl::string_view token) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) {
    return BadVocabulary(absl::StrCat("lacks the token ", Quoted(token)));
  }
  return found->second;
}

// The character that stands for a byte in a token: the byte itself where
// Latin-1 shows it, else the next from U+0100 on.
std::array<int32_t, 256> ByteCharacters() {
  std::array<int32_t, 256> characters;
  int32_t next = 0x100;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool is_shown = (byte >= '!' && byte <= '~') ||
                          (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = is_shown ? byte : next++;
  }
  return characters;
}

absl::Status BadMerge(int64_t line, absl::string_view message) {
  return InvalidField("merges", absl::StrCat("line ", line, " ", message));
}

absl::Status AddMerge(absl::string_view text, int64_t line,
                      const Vocabulary& vocabulary, BpeMerges& merges) {
  const std::pair<absl::string_view, absl::string_view> pair =
      absl::StrSplit(text, absl::MaxSplits(' ', 1));
  const auto [left, right] = pair;
  if (left.empty() || right.empty() || absl::StrContains(right, ' ')) {
    return BadMerge(
        line, absl::StrCat("is ", Quoted(text), "; it must be two tokens"));
  }
  const auto left_id = vocabulary.find(left);
  const auto right_id = vocabulary.find(right);
  const auto merged_id = vocabulary.find(absl::StrCat(left, right));
  if (left_id == vocabulary.end() || right_id == vocabulary.end() ||
      merged_id == vocabulary.end()) {
    return BadMerge(line, absl::StrCat("is ", Quoted(text),
                                       "; one of the two, or what they merge "
                                       "into, is not in the vocabulary"));
  }
  if (!merges.Add(left_id->second, right_id->second, merged_id->second)) {
    return BadMerge(line, absl::StrCat("repeats ", Quoted(text)));
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(absl::string_view text, const Vocabulary& vocabulary,
                        BpeMerges& merges) {
  int64_t line_number = 0;
  for (absl::string_view line :
       absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    ++line_number;
    line = absl::StripSuffix(line, "\r");
    if (absl::StartsWith(line, kVersionLine)) continue;
    QUERN_RETURN_IF_ERROR(AddMerge(line, line_number, vocabulary, merges));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ClipBpeTokenizer>> ClipBpeTokenizer::Create(
    const Options& options) {
  if (options.max_tokens < kMinTokens) {
    return InvalidField(
        "max_tokens",
        absl::StrCat(options.max_tokens, " is less than ", kMinTokens));
  }
  QUERN_ASSIGN_OR_RETURN(const Vocabulary vocabulary,
                         VocabularyReader().Read(options.vocabulary));
  std::unique_ptr<ClipBpeTokenizer> tokenizer(
      new ClipBpeTokenizer(options.max_tokens));
  QUERN_ASSIGN_OR_RETURN(tokenizer->start_id_, IdOf(vocabulary, kStart));
  QUERN_ASSIGN_OR_RETURN(tokenizer->end_id_, IdOf(vocabulary, kEnd));
  const std::array<int32_t, kBytes> characters = ByteCharacters();
  for (int byte = 0; byte < kBytes; ++byte) {
    std::string token;
    AppendUtf8(characters[byte], token);
    QUERN_ASSIGN_OR_RETURN(tokenizer->byte_ids_[byte], IdOf(vocabulary, token));
    QUERN_ASSIGN_OR_RETURN(tokenizer->last_byte_ids_[byte],
                           IdOf(vocabulary, absl::StrCat(token, kEndOfWord)));
  }
  QUERN_RETURN_IF_ERROR(
      ReadMerges(options.merges, vocabulary, tokenizer->merges_));
  return tokenizer;
}

Tokens ClipBpeTokenizer::Tokenize(absl::string_view text) const {
  const size_t room = max_tokens_ - 1;  // The last one comes on top.
  Tokens tokens;
  tokens.ids.push_back(start_id_);
  std::vector<int32_t> symbols;
  ForEachClipWord(text, [&](absl::string_view word) {
    symbols.clear();
    for (char c : word) {
      symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    }
    symbols.back() = last_byte_ids_[static_cast<unsigned char>(word.back())];
    merges_.Apply(symbols);
    tokens.ids.insert(tokens.ids.end(), symbols.begin(), symbols.end());
    return tokens.ids.size() <= room;
  });
  if (tokens.ids.size() > room) {
    tokens.truncated = true;
    tokens.ids.resize(room);
  }
  tokens.ids.push_back(end_id_);
  return tokens;
}

}  // namespace quern

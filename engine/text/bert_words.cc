#include "engine/text/bert_words.h"

#include <string>

#include <utf8proc.h>

#include "engine/text/bert_characters.h"

namespace quern {
namespace {

using Visitor = absl::FunctionRef<bool(absl::string_view word, int characters)>;

// The word being collected. Methods that may deliver a word return whether the
// visitor wants more.
class WordSink {
 public:
  WordSink(int max_characters, Visitor visit)
      : max_characters_(max_characters), visit_(visit) {}

  bool Append(int32_t code_point) {
    if (IsBertWhitespace(code_point)) return EndWord();
    if (IsBertPunctuation(code_point)) return AppendAlone(code_point);
    AppendToWord(code_point);
    return true;
  }

  bool EndWord() {
    if (characters_ == 0) return true;
    const bool more = visit_(word_, characters_);
    word_.clear();
    characters_ = 0;
    return more;
  }

 private:
  bool AppendAlone(int32_t code_point) {
    if (!EndWord()) return false;
    AppendToWord(code_point);
    return EndWord();
  }

  void AppendToWord(int32_t code_point) {
    if (characters_ > max_characters_) return;
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t size = utf8proc_encode_char(code_point, bytes);
    word_.append(reinterpret_cast<const char*>(bytes), size);
    ++characters_;
  }

  const int max_characters_;
  const Visitor visit_;
  std::string word_;
  int characters_ = 0;
};

bool AppendCased(int32_t code_point, bool lowercase, WordSink& sink) {
  if (!lowercase) return sink.Append(code_point);
  if (code_point < 0x80) {
    const bool capital = code_point >= 'A' && code_point <= 'Z';
    return sink.Append(capital ? code_point | 0x20 : code_point);
  }
  const MappedCharacter lower = Lowercase(code_point);
  for (int32_t part : lower.span()) {
    if (!sink.Append(part)) return false;
  }
  return true;
}

bool AppendNormalised(int32_t code_point, const BertWordOptions& options,
                      WordSink& sink) {
  if (code_point < 0x80 || !options.strip_accents) {
    return AppendCased(code_point, options.lowercase, sink);
  }
  const MappedCharacter decomposed = Decompose(code_point);
  for (int32_t part : decomposed.span()) {
    if (IsBertAccent(part)) continue;
    if (!AppendCased(part, options.lowercase, sink)) return false;
  }
  return true;
}

bool AppendCharacter(int32_t code_point, const BertWordOptions& options,
                     WordSink& sink) {
  if (IsBertDropped(code_point)) return true;
  if (!IsBertIdeograph(code_point)) {
    return AppendNormalised(code_point, options, sink);
  }
  return sink.EndWord() && AppendNormalised(code_point, options, sink) &&
         sink.EndWord();
}

}  // namespace

void ForEachBertWord(absl::string_view text, const BertWordOptions& options,
                     Visitor visit) {
  WordSink sink(options.max_characters, visit);
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
        static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    if (length <= 0) break;  // Not UTF-8: the caller broke the contract.
    if (!AppendCharacter(code_point, options, sink)) return;
    text.remove_prefix(length);
  }
  sink.EndWord();
}

}  // namespace quern

#include "engine/fine/noun_phrases.h"

#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quern {
namespace {

using WordSet = absl::flat_hash_set<std::string>;

const WordSet& Determiners() {
  static const auto& words = *new WordSet{
      "a",   "an",   "the",   "this",  "that",    "these",   "those", "some",
      "any", "each", "both",  "every", "another", "several", "many",  "his",
      "her", "its",  "their", "my",    "your",    "our"};
  return words;
}

// Words that end a phrase and are in none.
const WordSet& FunctionWords() {
  static const auto& words = *new WordSet{
      // Prepositions and adverbs of place.
      "about", "above", "across", "after", "against", "along", "alongside",
      "amid", "among", "around", "as", "at", "atop", "away", "back", "before",
      "behind", "below", "beneath", "beside", "besides", "between", "beyond",
      "by", "down", "during", "for", "forward", "from", "in", "inside", "into",
      "like", "near", "nearby", "next", "of", "off", "on", "onto", "out",
      "outdoors", "outside", "over", "past", "through", "to", "together",
      "toward", "towards", "under", "underneath", "up", "upon", "via", "with",
      "within", "without",
      // Conjunctions and adverbs.
      "and", "or", "but", "nor", "so", "yet", "while", "when", "where", "who",
      "which", "whose", "if", "because", "than", "then", "there", "here",
      "very", "not", "also", "just", "too", "again",
      // Pronouns.
      "i", "you", "he", "she", "it", "we", "they", "him", "them", "me", "us",
      "himself", "herself", "itself", "themselves", "someone", "something",
      "everyone", "everything", "each", "other", "others",
      // Auxiliary verbs.
      "is", "are", "was", "were", "be", "been", "being", "am", "has", "have",
      "had", "do", "does", "did", "can", "could", "will", "would", "may",
      "might", "must", "shall", "should", "get", "gets", "got"};
  return words;
}

// "jump", "jumps", "jumped", "jumping" of common verbs; irregular forms as
// they are.
const WordSet& Verbs() {
  static const auto& words = *[] {
    auto* forms = new WordSet{
        "ran",    "sat",  "stood",   "held",  "rode",  "threw", "caught",
        "ate",    "wore", "swam",    "took",  "made",  "went",  "came",
        "gone",   "worn", "thrown",  "held",  "slept", "drank", "drove",
        "driven", "fell", "fallen",  "flew",  "flown", "gave",  "given",
        "hung",   "kept", "laid",    "led",   "left",  "lay",   "lain",
        "lies",   "met",  "put",     "puts",  "read",  "reads", "said",
        "saw",    "seen", "sang",    "shook", "shown", "spoke", "stuck",
        "swung",  "told", "thought", "won",   "wrote", "goes",  "does"};
    for (const char* verb :
         {"appear", "attempt",  "balance",   "bark",    "bite",   "blow",
          "bounce", "break",    "bring",     "brush",   "build",  "call",
          "carry",  "catch",    "celebrate", "chase",   "cheer",  "chew",
          "clap",   "clean",    "climb",     "close",   "come",   "compete",
          "cook",   "cover",    "crawl",     "cross",   "crouch", "cut",
          "dance",  "dig",      "display",   "dive",    "drag",   "dress",
          "drink",  "drive",    "eat",       "embrace", "emerge", "enjoy",
          "enter",  "examine",  "fall",      "feed",    "fight",  "fill",
          "fix",    "float",    "fly",       "follow",  "gather", "give",
          "go",     "grab",     "grind",     "hang",    "help",   "hike",
          "hit",    "hold",     "hop",       "hug",     "jog",    "jump",
          "keep",   "kick",     "kiss",      "kneel",   "laugh",  "lay",
          "lead",   "leap",     "lean",      "lick",    "lie",    "lift",
          "listen", "look",     "make",      "march",   "move",   "open",
          "pass",   "perform",  "play",      "point",   "pose",   "prepare",
          "pull",   "push",     "race",      "raise",   "reach",  "relax",
          "rest",   "ride",     "roll",      "run",     "sail",   "see",
          "sell",   "shake",    "share",     "show",    "sing",   "sit",
          "skate",  "ski",      "sleep",     "slide",   "smell",  "smile",
          "speak",  "splash",   "stand",     "stare",   "stick",  "stretch",
          "surf",   "surround", "swim",      "swing",   "take",   "talk",
          "throw",  "touch",    "travel",    "try",     "turn",   "use",
          "wade",   "wait",     "walk",      "wash",    "watch",  "wear",
          "work",   "write"}) {
      const std::string base = verb;
      const bool ends_in_e = absl::EndsWith(base, "e");
      const bool hisses = absl::EndsWith(base, "s") ||
                          absl::EndsWith(base, "sh") ||
                          absl::EndsWith(base, "ch") || base == "go";
      forms->insert(base);
      forms->insert(absl::StrCat(base, hisses ? "es" : "s"));
      forms->insert(absl::StrCat(base, ends_in_e ? "d" : "ed"));
      if (absl::EndsWith(base, "y")) {
        const std::string stem = base.substr(0, base.size() - 1);
        forms->insert(absl::StrCat(stem, "ies"));
        forms->insert(absl::StrCat(stem, "ied"));
      }
      if (!ends_in_e && base.size() > 2) {
        // "hugged"; whatever is no word does no harm.
        forms->insert(absl::StrCat(base, base.substr(base.size() - 1), "ed"));
      }
    }
    return forms;
  }();
  return words;
}

bool IsGerund(absl::string_view word) {
  constexpr size_t kShortest = 5;  // "sting" would be one, "ring" is none.
  return word.size() >= kShortest && absl::EndsWith(word, "ing") &&
         word != "building" && word != "railing" && word != "clothing" &&
         word != "ceiling" && word != "wedding" && word != "painting" &&
         word != "string" && word != "morning" && word != "evening";
}

bool IsWordByte(char c) {
  // Whatever is not ASCII is a letter here.
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '\'' ||
         c == '-' || (static_cast<unsigned char>(c) & 0x80) != 0;
}

class Chunker {
 public:
  Chunker(absl::string_view sentence, size_t max_phrases)
      : sentence_(sentence), max_phrases_(max_phrases) {}

  std::vector<TextSpan> Run() {
    size_t at = 0;
    while (at < sentence_.size() && phrases_.size() < max_phrases_) {
      size_t end = at;
      while (end < sentence_.size() && IsWordByte(sentence_[end])) ++end;
      if (end > at) {
        AddWord({.begin = at, .end = end});
        at = end;
        continue;
      }
      // Anything but a space between two words ends a phrase.
      if (!absl::ascii_isspace(static_cast<unsigned char>(sentence_[at]))) {
        Close();
      }
      ++at;
    }
    Close();
    return std::move(phrases_);
  }

 private:
  void AddWord(TextSpan span) {
    const std::string word = absl::AsciiStrToLower(
        sentence_.substr(span.begin, span.end - span.begin));
    if (Determiners().contains(word)) {
      Close();
      Extend(span, /*is_noun=*/false);
      return;
    }
    const bool is_behind_determiner = is_open_ && !has_noun_;
    const bool is_verb = Verbs().contains(word) || IsGerund(word);
    if (FunctionWords().contains(word) || (is_verb && !is_behind_determiner)) {
      Close();
      return;
    }
    Extend(span, /*is_noun=*/true);
  }

  void Extend(TextSpan span, bool is_noun) {
    if (!is_open_) open_ = span;
    open_.end = span.end;
    is_open_ = true;
    has_noun_ |= is_noun;
  }

  void Close() {
    if (is_open_ && has_noun_ && phrases_.size() < max_phrases_) {
      phrases_.push_back(open_);
    }
    is_open_ = false;
    has_noun_ = false;
  }

  const absl::string_view sentence_;
  const size_t max_phrases_;
  std::vector<TextSpan> phrases_;
  TextSpan open_;
  bool is_open_ = false;
  bool has_noun_ = false;  // Something beside determiners.
};

}  // namespace

std::vector<TextSpan> NounPhrases(absl::string_view sentence,
                                  size_t max_phrases) {
  return Chunker(sentence, max_phrases).Run();
}

}  // namespace quern

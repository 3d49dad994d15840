#include "engine/fine/spatial_relations.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "engine/fine/overlap.h"

namespace quern {
namespace {

using Words = std::vector<std::string>;
using WordSpan = absl::Span<const std::string>;

struct Pattern {
  absl::string_view words;  // One space apart.
  SpatialRelation relation;
};

// Between a subject and its object; longer ones before their beginnings.
constexpr Pattern kBetween[] = {
    {"to the left side of", SpatialRelation::kLeft},
    {"on the left side of", SpatialRelation::kLeft},
    {"at the left side of", SpatialRelation::kLeft},
    {"to the right side of", SpatialRelation::kRight},
    {"on the right side of", SpatialRelation::kRight},
    {"at the right side of", SpatialRelation::kRight},
    {"to the left of", SpatialRelation::kLeft},
    {"on the left of", SpatialRelation::kLeft},
    {"at the left of", SpatialRelation::kLeft},
    {"to the right of", SpatialRelation::kRight},
    {"on the right of", SpatialRelation::kRight},
    {"at the right of", SpatialRelation::kRight},
    {"left of", SpatialRelation::kLeft},
    {"right of", SpatialRelation::kRight},
    {"on top of", SpatialRelation::kAbove},
    {"bigger than", SpatialRelation::kBigger},
    {"larger than", SpatialRelation::kBigger},
    {"smaller than", SpatialRelation::kSmaller},
    {"inside of", SpatialRelation::kInside},
    {"inside", SpatialRelation::kInside},
    {"within", SpatialRelation::kInside},
    {"above", SpatialRelation::kAbove},
    {"over", SpatialRelation::kAbove},
    {"below", SpatialRelation::kBelow},
    {"beneath", SpatialRelation::kBelow},
    {"underneath", SpatialRelation::kBelow},
    {"under", SpatialRelation::kBelow},
};

// Before the noun.
constexpr Pattern kBefore[] = {
    {"left", SpatialRelation::kLeft},
    {"leftmost", SpatialRelation::kLeft},
    {"right", SpatialRelation::kRight},
    {"rightmost", SpatialRelation::kRight},
    {"top", SpatialRelation::kAbove},
    {"upper", SpatialRelation::kAbove},
    {"topmost", SpatialRelation::kAbove},
    {"bottom", SpatialRelation::kBelow},
    {"lower", SpatialRelation::kBelow},
    {"bottommost", SpatialRelation::kBelow},
    {"bigger", SpatialRelation::kBigger},
    {"biggest", SpatialRelation::kBigger},
    {"larger", SpatialRelation::kBigger},
    {"largest", SpatialRelation::kBigger},
    {"smaller", SpatialRelation::kSmaller},
    {"smallest", SpatialRelation::kSmaller},
};

// At the end, after "on", "at", "to" or "in" and "the".
constexpr Pattern kAtEnd[] = {
    {"left", SpatialRelation::kLeft},
    {"right", SpatialRelation::kRight},
    {"top", SpatialRelation::kAbove},
    {"bottom", SpatialRelation::kBelow},
    {"far left", SpatialRelation::kLeft},
    {"far right", SpatialRelation::kRight},
};

bool IsOneOf(absl::string_view word,
             std::initializer_list<absl::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool IsDeterminer(absl::string_view word) {
  return IsOneOf(word, {"the", "a", "an", "this", "that", "these", "those"});
}

bool IsPartOfBody(absl::string_view word) {
  return IsOneOf(word, {"hand",  "hands", "arm",  "arms",     "foot", "feet",
                        "leg",   "legs",  "eye",  "eyes",     "ear",  "ears",
                        "knee",  "wrist", "lip",  "shoulder", "paw",  "wing",
                        "cheek", "ankle", "side", "corner",   "half", "edge"});
}

// The word for comparisons: lower case, without punctuation round it.
std::string Plain(absl::string_view word) {
  while (!word.empty() && absl::ascii_ispunct(word.front())) {
    word.remove_prefix(1);
  }
  while (!word.empty() && absl::ascii_ispunct(word.back())) {
    word.remove_suffix(1);
  }
  return absl::AsciiStrToLower(word);
}

// Words of the phrase, as written and for comparisons.
struct Phrase {
  Words written;
  Words plain;

  size_t size() const { return plain.size(); }
  Phrase Part(size_t begin, size_t end) const {
    const auto part = [&](const Words& words) {
      const WordSpan span =
          absl::MakeConstSpan(words).subspan(begin, end - begin);
      return Words(span.begin(), span.end());
    };
    return {part(written), part(plain)};
  }
  std::string Text() const { return absl::StrJoin(written, " "); }
};

// How many words `pattern` takes of `words` from `begin` on; 0: it is not
// there.
size_t MatchAt(const Words& words, size_t begin, absl::string_view pattern) {
  size_t at = begin;
  for (const absl::string_view word : absl::StrSplit(pattern, ' ')) {
    if (at == words.size() || words[at] != word) return 0;
    ++at;
  }
  return at - begin;
}

// Relations that are followed, one in the other's object; what comes after is
// taken as it stands.
constexpr int kMaxDepth = 4;

SpatialPhrase Parse(const Phrase& phrase, int depth);

// "X left of Y": the first relation with something on both sides.
bool ParseBetween(const Phrase& phrase, int depth, SpatialPhrase& result) {
  for (size_t begin = 1; begin < phrase.size(); ++begin) {
    for (const Pattern& pattern : kBetween) {
      const size_t length = MatchAt(phrase.plain, begin, pattern.words);
      if (length == 0 || begin + length == phrase.size()) continue;
      size_t subject_end = begin;
      // "the man who is left of", "the dog standing over".
      while (subject_end > 1 &&
             IsOneOf(phrase.plain[subject_end - 1],
                     {"is", "are", "that", "which", "who", "directly", "just",
                      "standing", "sitting", "lying"})) {
        --subject_end;
      }
      if (subject_end == 1 && IsDeterminer(phrase.plain[0])) continue;
      result.subject = phrase.Part(0, subject_end).Text();
      result.relation = pattern.relation;
      result.object = std::make_unique<SpatialPhrase>(
          Parse(phrase.Part(begin + length, phrase.size()), depth + 1));
      return true;
    }
  }
  return false;
}

// "X on the left (side)".
bool ParseAtEnd(const Phrase& phrase, SpatialPhrase& result) {
  size_t end = phrase.size();
  if (end > 1 && phrase.plain[end - 1] == "side") --end;
  for (const Pattern& pattern : kAtEnd) {
    const size_t length = absl::StrContains(pattern.words, ' ') ? 2 : 1;
    if (end < length + 3) continue;
    const size_t begin = end - length;
    if (MatchAt(phrase.plain, begin, pattern.words) != length ||
        phrase.plain[begin - 1] != "the" ||
        !IsOneOf(phrase.plain[begin - 2], {"on", "at", "to", "in"})) {
      continue;
    }
    result.subject = phrase.Part(0, begin - 2).Text();
    result.relation = pattern.relation;
    return true;
  }
  return false;
}

// "the left X".
bool ParseBefore(const Phrase& phrase, SpatialPhrase& result) {
  const size_t at = !phrase.plain.empty() && IsDeterminer(phrase.plain[0]);
  if (at + 1 >= phrase.size() || IsPartOfBody(phrase.plain[at + 1])) {
    return false;
  }
  for (const Pattern& pattern : kBefore) {
    if (phrase.plain[at] != pattern.words) continue;
    Phrase rest = phrase;
    rest.written.erase(rest.written.begin() + static_cast<ptrdiff_t>(at));
    result.subject = rest.Text();
    result.relation = pattern.relation;
    return true;
  }
  return false;
}

SpatialPhrase Parse(const Phrase& phrase, int depth) {
  SpatialPhrase result;
  if (depth < kMaxDepth &&
      (ParseBetween(phrase, depth, result) || ParseAtEnd(phrase, result) ||
       ParseBefore(phrase, result))) {
    return result;
  }
  result.subject = phrase.Text();
  return result;
}

double Logistic(double x) { return 1 / (1 + std::exp(-x)); }

double CentreX(const Box& box) { return (double{box.left} + box.right) / 2; }
double CentreY(const Box& box) { return (double{box.top} + box.bottom) / 2; }

}  // namespace

SpatialPhrase ParseSpatialPhrase(absl::string_view phrase) {
  Phrase words;
  words.written = absl::StrSplit(phrase, absl::ByAnyChar(" \t\r\n"),
                                 absl::SkipWhitespace());
  for (const std::string& word : words.written) {
    words.plain.push_back(Plain(word));
  }
  return Parse(words, 0);
}

double RelationHolds(SpatialRelation relation, const Box& a, const Box& b) {
  constexpr double kPlaceScale = 0.03;  // Of the picture's side.
  constexpr double kSizeScale = 0.2;    // Of the areas' natural logarithm.
  const auto place = [](double before, double behind) {
    return Logistic((behind - before) / kPlaceScale);
  };
  const auto size = [](const Box& smaller, const Box& bigger) {
    constexpr double kMinArea = 1e-9;
    return Logistic(
        std::log((Area(bigger) + kMinArea) / (Area(smaller) + kMinArea)) /
        kSizeScale);
  };
  switch (relation) {
    case SpatialRelation::kNone:
      return 1;
    case SpatialRelation::kLeft:
      return place(CentreX(a), CentreX(b));
    case SpatialRelation::kRight:
      return place(CentreX(b), CentreX(a));
    case SpatialRelation::kAbove:
      return place(CentreY(a), CentreY(b));
    case SpatialRelation::kBelow:
      return place(CentreY(b), CentreY(a));
    case SpatialRelation::kBigger:
      return size(b, a);
    case SpatialRelation::kSmaller:
      return size(a, b);
    case SpatialRelation::kInside:
      return Area(a) > 0 ? Intersection(a, b) / Area(a) : 0;
  }
  return 1;
}

std::vector<double> RelationSupport(SpatialRelation relation,
                                    absl::Span<const Box> subjects,
                                    absl::Span<const PlaceCandidate> objects) {
  constexpr double kSamePlace = 0.5;  // IoU.
  std::vector<double> support;
  support.reserve(subjects.size());
  for (const Box& subject : subjects) {
    double sum = 0;
    for (const PlaceCandidate& object : objects) {
      if (Iou(subject, object.box) > kSamePlace) continue;
      sum += RelationHolds(relation, subject, object.box) * object.probability;
    }
    support.push_back(sum);
  }
  return support;
}

}  // namespace quern

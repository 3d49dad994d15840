#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/fine/evidence.h"

// "The dog left of the man": which words say what, and which where. Encoders of
// pictures and texts hardly tell left from right (methods below: near chance),
// so what a phrase says of places is taken out of it, and decided by geometry.
//
// Subramanian et al., "ReCLIP: A strong zero-shot baseline for referring
// expression comprehension", 2022, section 3.2.

namespace quern {

enum class SpatialRelation {
  kNone,
  kLeft,
  kRight,
  kAbove,
  kBelow,
  kBigger,
  kSmaller,
  kInside,
};

// A phrase taken apart. "The dog left of the man above the car": subject "the
// dog", kLeft, and as its object "the man", kAbove, "the car".
struct SpatialPhrase {
  std::string subject;  // What is looked for, without the words of place.
  SpatialRelation relation = SpatialRelation::kNone;
  // What the relation is to. Null with a relation: to the others of its kind
  // ("the left dog", "the biggest dog", "the dog on the left").
  std::unique_ptr<SpatialPhrase> object;
};

// Understands, in English and in any case of letters:
//   X (to | on | at the) left | right (side) of Y,  X above | over | on top of
//   | below | under | beneath | underneath Y,  X inside (of) | within Y, X
//   bigger | larger | smaller than Y, the left | right | leftmost | rightmost |
//   top | upper | topmost | bottom | lower | bottommost | bigger | biggest |
//   larger | largest | smaller | smallest X,  X on | at | to | in the left |
//   right | top | bottom (side).
// Of several relations the first is the outermost; the rest is the object's, up
// to four of them.
// Whatever else a phrase says stays in its subject. It does not understand
// "in", "on" or "near" (not places that boxes tell), negation, or "second from
// the left"; "left" before a part of a body ("the left hand") is no place.
SpatialPhrase ParseSpatialPhrase(absl::string_view phrase);

// How far it is true that `a` stands in `relation` to `b`, in [0, 1]: a
// logistic function of the difference of the centres (or of the logarithm of
// the areas), 0.5 where they are equal; for kInside the share of `a` within
// `b`; 1 for kNone.
double RelationHolds(SpatialRelation relation, const Box& a, const Box& b);

// A place where something may be, and how probable it is there. Of one phrase
// they add up to 1 or less.
struct PlaceCandidate {
  Box box;
  double probability = 0;  // >= 0.
};

// How far each subject stands in `relation` to one of `objects`: the sum over j
// of r(i, j) p(j), in [0, 1], to be multiplied with the subject's own
// probability (ReCLIP). An object that lies on its subject (IoU above 0.5) is
// no other thing and is left out.
std::vector<double> RelationSupport(SpatialRelation relation,
                                    absl::Span<const Box> subjects,
                                    absl::Span<const PlaceCandidate> objects);

}  // namespace quern

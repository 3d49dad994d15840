#include "engine/fine/presence.h"

#include <cmath>

namespace quern {

double PresenceCalibration::Probability(
    const PresenceFeatures& features) const {
  const double logit = bias + peak * features.peak + mean * features.mean +
                       deviation * features.deviation + best * features.best +
                       inside * features.inside + pooled * features.pooled;
  return 1 / (1 + std::exp(-logit));
}

}  // namespace quern

#pragma once

#include <string>
#include <vector>

// Towers small enough to be worked out by hand: each maps a mean linearly.

namespace quern {

// weight: 3 x dimension. Cells are 4 x 4 pixels.
inline constexpr char kTinyImageTower[] = R"(
def forward(self, x):
    return torch.matmul(x.mean([2, 3]), self.weight)

def dense(self, x):
    cells = torch.avg_pool2d(x, [4, 4]).permute([0, 2, 3, 1])
    return torch.matmul(cells, self.weight)
)";

// weight: vocabulary x dimension.
inline constexpr char kTinyTextTower[] = R"(
def forward(self, ids, mask):
    present = mask.to(self.weight.dtype).unsqueeze(-1)
    rows = torch.embedding(self.weight, ids) * present
    return rows.sum(1) / present.sum(1)

def tokens(self, ids, mask):
    return torch.embedding(self.weight, ids) * 2

def packed(self, ids, positions, segments, texts: int):
    own = (torch.arange(texts).unsqueeze(-1) == segments).to(self.weight.dtype)
    rows = torch.matmul(own, torch.embedding(self.weight, ids))
    return rows / own.sum(1, keepdim=True)
)";

// Needs no weight: the mean of the pixels and the sum of the ids.
inline constexpr char kTinyMatchHead[] = R"(
def forward(self, x, ids, mask):
    return x.mean([1, 2, 3]) + (ids * mask).sum(1)
)";

// Needs no weight either. A frame's saliency is its product with the mean
// token. Of two spans the first is the last frame, the second the whole video,
// which is as much for as against.
inline constexpr char kTinyMomentsHead[] = R"(
def forward(self, text, mask, video):
    present = mask.unsqueeze(-1)
    query = (text * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
    saliency = (video[:, :, :-2] * query).sum(-1)
    last = video[:, -1:, -2:]
    width = last[:, :, 1:] - last[:, :, :1]
    first = torch.cat([last.mean(-1, keepdim=True), width], -1)
    whole = torch.cat([torch.ones_like(width) * 0.5, torch.ones_like(width)], -1)
    most = saliency.amax([1], keepdim=True).unsqueeze(-1)
    logits = torch.cat([torch.cat([most, -most], -1), torch.cat([most, most], -1)], 1)
    return logits, torch.cat([first, whole], 1), saliency
)";

}  // namespace quern

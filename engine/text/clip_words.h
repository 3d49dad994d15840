#pragma once

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace quern {

// Normalises `text` (UTF-8) and splits it as CLIP does: canonical composition
// (NFC), lower case character by character, then runs of letters, single
// numbers, the contractions 's 't 're 've 'm 'll 'd, and runs of anything else
// but white space. A word ends where <|startoftext|> or <|endoftext|> begins or
// ends. Calls `visit` with each word in UTF-8, never empty, in order, until it
// returns false. Time is linear in the bytes read; little is read past the
// point where `visit` has had enough if the text has white space.
//
// Equal to Hugging Face's CLIPTokenizer (tokenizers 0.23.3, Unicode 16) but for
// compositions that Unicode added after version 15. OpenAI's SimpleTokenizer
// and open_clip's first run ftfy and html.unescape over a text, which is not
// done here: straight quotes for curly ones, ASCII for full-width letters,
// broken encodings repaired, "&" for "&amp;".
void ForEachClipWord(absl::string_view text,
                     absl::FunctionRef<bool(absl::string_view word)> visit);

}  // namespace quern

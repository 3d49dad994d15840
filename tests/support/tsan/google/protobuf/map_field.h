#pragma once

// Protobuf's map fields have two more members under ThreadSanitizer. Debian's
// library is built without them, and what both lay out must be alike: only
// builds of the preset tsan see this header, in front of protobuf's own.
#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include_next <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")

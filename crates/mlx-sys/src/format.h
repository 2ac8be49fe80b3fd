// Force-included before every mlx-c source: std::format for standard libraries without <format> (GCC before 13).
// mlx-c uses it for error messages only, with plain "{}" places.
#pragma once

#if !__has_include(<format>)
#include <sstream>
#include <string>
#include <string_view>

namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  auto put = [&](const auto& arg) {
    auto place = pattern.find("{}");
    out << pattern.substr(0, place) << arg;
    pattern.remove_prefix(place == string_view::npos ? pattern.size() : place + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif

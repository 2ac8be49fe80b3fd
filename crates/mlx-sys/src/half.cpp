// Element access for 16-bit floats, which mlx-c compiles on Arm only. The bits go out as uint16_t.
#include <cstdint>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

// As mlx-c's own: 0, or 1 after the error handler was told.
template <typename T>
int item(uint16_t* res, mlx_array arr) {
  static_assert(sizeof(T) == sizeof(*res));
  try {
    T value = mlx_array_get_(arr).item<T>();
    *res = *reinterpret_cast<const uint16_t*>(&value);
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

template <typename T>
const uint16_t* data(mlx_array arr) {
  try {
    return reinterpret_cast<const uint16_t*>(mlx_array_get_(arr).data<T>());
  } catch (std::exception& e) {
    mlx_error(e.what());
    return nullptr;
  }
}

} // namespace

using mlx::core::bfloat16_t;
using mlx::core::float16_t;

extern "C" int mlx_array_item_float16(uint16_t* res, mlx_array arr) { return item<float16_t>(res, arr); }
extern "C" int mlx_array_item_bfloat16(uint16_t* res, mlx_array arr) { return item<bfloat16_t>(res, arr); }
extern "C" const uint16_t* mlx_array_data_float16(mlx_array arr) { return data<float16_t>(arr); }
extern "C" const uint16_t* mlx_array_data_bfloat16(mlx_array arr) { return data<bfloat16_t>(arr); }

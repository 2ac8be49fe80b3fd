// An MLX array over memory that somebody else keeps.
#include <memory>
#include <optional>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/device.h"

namespace mx = mlx::core;

// The array, or null where this build of MLX cannot borrow memory. `drop(owner)` is called when nobody needs the memory any
// more, and at once if null is returned. `dtype` has the numbers of mlx_dtype.
extern "C" mx::array* mlx_mmap_borrow(
    void* data,
    const int32_t* shape,
    size_t ndim,
    int dtype,
    void* owner,
    void (*drop)(void*)) noexcept {
  try {
    std::shared_ptr<void> owned(owner, drop);
    // Without a GPU, a buffer is the address of eight bytes with its size, and the data follow. Only MLX's allocator reads
    // those, and it never gets to see this buffer.
    if (mx::is_available(mx::Device::gpu)) {
      return nullptr;
    }
    mx::allocator::Buffer buffer(static_cast<char*>(data) - sizeof(size_t));
    if (buffer.raw_ptr() != data) {
      return nullptr;
    }
    static const mx::Dtype all[] = {
        mx::bool_, mx::uint8, mx::uint16, mx::uint32, mx::uint64, mx::int8, mx::int16,
        mx::int32, mx::int64, mx::float16, mx::float32, mx::float64, mx::bfloat16, mx::complex64};
    return new mx::array(
        buffer, mx::Shape(shape, shape + ndim), all[dtype], [owned](mx::allocator::Buffer) mutable { owned.reset(); });
  } catch (...) {
    return nullptr;
  }
}

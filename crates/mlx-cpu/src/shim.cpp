// One MLX primitive for all kernels of this crate: it asks MLX for memory and hands pointers to Rust.
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

extern "C" {

// Mirrored in ffi.rs.
struct Tensor {
  void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t ndim;
  int dtype;
};

struct Vtable {
  const char* name;
  void (*run)(const void* kernel, const Tensor* inputs, size_t n_inputs, const Tensor* outputs, size_t n_outputs);
  // Arrays go in and out as owned pointers to mx::array, which is what mlx-c's handles are. False on failure.
  bool (*vjp)(
      const void* kernel,
      mx::array** primals,
      size_t n_primals,
      mx::array** cotangents,
      size_t n_cotangents,
      mx::array** gradients);
  void (*drop)(void* kernel);
};
}

namespace {

std::vector<Tensor> describe(const std::vector<mx::array>& arrays) {
  std::vector<Tensor> tensors;
  for (const auto& a : arrays) {
    tensors.push_back(
        {const_cast<char*>(a.data<char>()), a.shape().data(), a.strides().data(), a.ndim(), (int)a.dtype().val()});
  }
  return tensors;
}

// MLX takes fresh memory for every array, and a large one spends longer in page faults, and its readers in misses of the
// TLB, than a kernel takes to fill it. Only a hint: where it is not taken, nothing is lost.
void ask_for_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t size) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) / page * page;
  if (begin < end) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

std::vector<mx::array*> handles(const std::vector<mx::array>& arrays) {
  std::vector<mx::array*> out;
  for (const auto& a : arrays) {
    out.push_back(new mx::array(a));
  }
  return out;
}

class Kernel : public mx::Primitive {
 public:
  Kernel(mx::Stream stream, std::shared_ptr<void> kernel, const Vtable* vtable)
      : mx::Primitive(stream), kernel_(std::move(kernel)), vtable_(vtable) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> weak;
    for (auto& out : outputs) {
      out.set_data(mx::allocator::malloc(out.nbytes()));
      ask_for_large_pages(out.data<char>(), out.nbytes());
      weak.push_back(mx::array::unsafe_weak_copy(out));
    }
    // The task holds the kernel and the inputs; of the outputs it must not be an owner.
    mx::cpu::get_command_encoder(stream()).dispatch(
        [kernel = kernel_, vtable = vtable_, inputs = inputs, outputs = std::move(weak)]() {
          auto in = describe(inputs), out = describe(outputs);
          vtable->run(kernel.get(), in.data(), in.size(), out.data(), out.size());
        });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string(vtable_->name) + " is a kernel for the CPU");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<mx::array>& outputs) override {
    // Other primitives may hand back gradients of other types.
    std::vector<mx::array> typed;
    for (size_t i = 0; i < cotangents.size(); i++) {
      typed.push_back(mx::astype(cotangents[i], outputs[i].dtype(), stream()));
    }
    auto in = handles(primals), ct = handles(typed);
    std::vector<mx::array*> gradients(primals.size(), nullptr);
    bool ok = vtable_->vjp(kernel_.get(), in.data(), in.size(), ct.data(), ct.size(), gradients.data());
    std::vector<std::unique_ptr<mx::array>> owned(gradients.begin(), gradients.end());
    std::vector<mx::array> wanted;
    for (int i : argnums) {
      if (!ok || !owned[i]) {
        throw std::invalid_argument(
            std::string(vtable_->name) + " has no gradient with respect to its input " + std::to_string(i));
      }
      wanted.push_back(*owned[i]);
    }
    return wanted;
  }

  const char* name() const override {
    return vtable_->name;
  }

 private:
  std::shared_ptr<void> kernel_;
  const Vtable* vtable_;
};

} // namespace

extern "C" bool mlx_cpu_apply(
    void* kernel,
    const Vtable* vtable,
    mx::array* const* inputs,
    size_t n_inputs,
    const Tensor* outputs, // shapes and types, no data
    size_t n_outputs,
    const mx::Stream* stream,
    mx::array** results) noexcept {
  try {
    std::shared_ptr<void> owned(kernel, vtable->drop);
    std::vector<mx::array> in;
    for (size_t i = 0; i < n_inputs; i++) {
      in.push_back(*inputs[i]);
    }
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (size_t i = 0; i < n_outputs; i++) {
      shapes.emplace_back(outputs[i].shape, outputs[i].shape + outputs[i].ndim);
      // A type with the values of mlx_dtype, which are those of MLX's own enumeration.
      static const mx::Dtype all[] = {
          mx::bool_, mx::uint8, mx::uint16, mx::uint32, mx::uint64, mx::int8, mx::int16,
          mx::int32, mx::int64, mx::float16, mx::float32, mx::float64, mx::bfloat16, mx::complex64};
      dtypes.push_back(all[outputs[i].dtype]);
    }
    auto primitive = std::make_shared<Kernel>(*stream, std::move(owned), vtable);
    auto arrays = mx::array::make_arrays(std::move(shapes), dtypes, primitive, in);
    for (size_t i = 0; i < n_outputs; i++) {
      results[i] = new mx::array(std::move(arrays[i]));
    }
    return true;
  } catch (...) {
    return false;
  }
}

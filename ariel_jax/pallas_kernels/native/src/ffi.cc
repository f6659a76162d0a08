// The doors through which XLA calls the kernels.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace ariel {
namespace {

const Kernels& kernels() {
  static const Kernels* best = [] {
    for (const Kernels* k : {avx512_kernels(), avx2_kernels()})
      if (k && k->runs_here()) return k;
    return generic_kernels();
  }();
  return *best;
}

// A thread's own memory for one call at a time; it grows to the largest call.
float* scratch_of(int64_t n) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < n) memory.resize(n);
  return memory.data();
}

bool type_of(ffi::DataType type, Type* found) {
  switch (type) {
    case ffi::DataType::F32: *found = Type::F32; return true;
    case ffi::DataType::BF16: *found = Type::BF16; return true;
    case ffi::DataType::S8: *found = Type::I8; return true;
    case ffi::DataType::U8: *found = Type::I4; return true;
    default: return false;
  }
}

const float* as_float(const void* p, Type type, int64_t n, std::vector<float>* kept) {
  if (type == Type::F32) return static_cast<const float*>(p);
  kept->resize(n);
  const uint16_t* from = static_cast<const uint16_t*>(p);
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = uint32_t(from[i]) << 16;
    std::memcpy(kept->data() + i, &bits, 4);
  }
  return kept->data();
}

ffi::Error LinearCall(ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer scale, ffi::AnyBuffer bias,
                      ffi::Result<ffi::AnyBuffer> y) {
  Linear a{};
  Type x_type, bias_type;
  if (!type_of(x.element_type(), &x_type) || !type_of(w.element_type(), &a.w_type) ||
      !type_of(y->element_type(), &a.y_type) || !type_of(bias.element_type(), &bias_type))
    return ffi::Error::InvalidArgument("linear: a dtype that the native kernel does not know");
  const auto xs = x.dimensions(), ws = w.dimensions(), ss = scale.dimensions();
  a.k = xs.back();
  a.n = ws[0];
  a.m = 1;
  for (size_t i = 0; i + 1 < xs.size(); i++) a.m *= xs[i];
  a.w = w.untyped_data();
  a.y = y->untyped_data();
  a.scale = static_cast<const float*>(scale.untyped_data());
  a.group = ss.size() == 2 && ss[1] > 0 ? a.k / ss[1] : a.k;
  std::vector<float> x_kept, bias_kept;
  a.x = as_float(x.untyped_data(), x_type, a.m * a.k, &x_kept);
  a.bias = bias.element_count() ? as_float(bias.untyped_data(), bias_type, a.n, &bias_kept) : nullptr;
  const Kernels& use = kernels();
  // Enough work in a part to pay for handing it out.
  const int64_t least = std::max<int64_t>(16, 32768 / std::max<int64_t>(a.k, 1));
  const int64_t step = std::min<int64_t>(std::max<int64_t>(least, a.n / (4 * pool_size())), a.n);
  const int64_t even = (step + 15) / 16 * 16, parts = (a.n + even - 1) / even;
  parallel(parts, [&](int64_t i) { use.linear(a, i * even, std::min(a.n, (i + 1) * even)); });
  return ffi::Error::Success();
}

ffi::Error AttendCall(ffi::Buffer<ffi::F32> q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                      ffi::Buffer<ffi::S32> length, ffi::Buffer<ffi::S32> q_positions,
                      ffi::Buffer<ffi::U32> seen, ffi::Result<ffi::Buffer<ffi::F32>> out,
                      ffi::Result<ffi::Buffer<ffi::F32>> lse, float scale, float softcap,
                      int64_t window) {
  Attention a{};
  if (!type_of(k.element_type(), &a.kv_type) || k.element_type() != v.element_type())
    return ffi::Error::InvalidArgument("decode_attention: keys and values must be float32 or bfloat16");
  const auto qs = q.dimensions(), ks = k.dimensions();
  a.batch = qs[0], a.t = qs[1], a.n_heads = qs[2], a.h = qs[3];
  a.n_kv = ks[1], a.capacity = ks[2];
  a.q = q.typed_data(), a.k = k.untyped_data(), a.v = v.untyped_data();
  a.length = length.typed_data(), a.q_positions = q_positions.typed_data();
  a.seen = seen.element_count() ? seen.typed_data() : nullptr;
  a.scale = scale, a.softcap = softcap, a.window = window;
  const Kernels& use = kernels();
  const int64_t need = use.attend_scratch(a), heads = a.batch * a.n_kv, G = a.n_heads / a.n_kv;
  const int64_t Q = G * a.t, H = a.h;
  int64_t longest = 0;
  for (int64_t b = 0; b < a.batch; b++) longest = std::max<int64_t>(longest, a.length[b]);
  longest = std::min(longest, a.capacity);
  // With fewer heads than threads could share evenly, the rows of a head are shared too.
  const int64_t wanted = (3 * pool_size() + heads - 1) / heads, most = longest / 128;
  const int64_t splits = pool_size() == 1 ? 1 : std::max<int64_t>(1, std::min(wanted, most));
  const int64_t rows = (longest + splits - 1) / splits;
  std::vector<float> part_out(heads * splits * Q * H), part_lse(heads * splits * Q);
  parallel(heads * splits, [&](int64_t i) {
    const int64_t head = i / splits, from = i % splits * rows;
    use.attend(a, head / a.n_kv, head % a.n_kv, from, std::min(from + rows, a.capacity),
               scratch_of(need), part_out.data() + i * Q * H, part_lse.data() + i * Q);
  });
  for (int64_t head = 0; head < heads; head++)
    for (int64_t q = 0; q < Q; q++) {
      const int64_t b = head / a.n_kv, n = head % a.n_kv * G + q / a.t, t = q % a.t;
      const float* lses = part_lse.data() + head * splits * Q + q;
      const float* outs = part_out.data() + (head * splits * Q + q) * H;
      float top = lses[0];
      for (int64_t s = 1; s < splits; s++) top = std::max(top, lses[s * Q]);
      float total = 0;
      for (int64_t s = 0; s < splits; s++) total += std::exp(lses[s * Q] - top);
      float* to = out->typed_data() + ((b * a.t + t) * a.n_heads + n) * H;
      for (int64_t i = 0; i < H; i++) to[i] = 0;
      for (int64_t s = 0; s < splits; s++) {
        const float weight = std::exp(lses[s * Q] - top) / total;
        for (int64_t i = 0; i < H; i++) to[i] += weight * outs[s * Q * H + i];
      }
      const bool has_key = top > -5e29f;
      lse->typed_data()[(b * a.n_heads + n) * a.t + t] = has_key ? top + std::log(total) : -1e30f;
    }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace ariel

XLA_FFI_DEFINE_HANDLER_SYMBOL(ariel_linear, ariel::LinearCall,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ariel_attend, ariel::AttendCall,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap")
                                  .Attr<int64_t>("window"));

extern "C" {
const char* ariel_kernel_name() { return ariel::kernels().name; }
int ariel_threads() { return ariel::pool_size(); }
void ariel_set_threads(int n) { ariel::set_pool_size(n); }
}

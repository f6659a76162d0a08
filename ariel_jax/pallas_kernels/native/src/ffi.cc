// The doors through which XLA calls the kernels.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bitset.h"
#include "kernels.h"
#include "pool.h"
#include "sharing.h"
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

constexpr int64_t MOST_ROWS = 32;  // of the kernels that read weights once for a few rows

// Whether the tiled product of many bfloat16 rows takes this one.
bool many_rows(const Linear& a) {
  return a.m > MOST_ROWS && a.x16 && a.w_type == Type::BF16 && bf16_many_rows();
}

// What the arguments of a product say. With `keeps_many`, x is not widened where `many_rows`; `kept`
// and `bias_kept` hold what had to be converted.
struct Call {
  Linear a{};
  std::vector<float> kept, bias_kept;
  const Products* by = nullptr;

  // Lays x out for the products that take it.
  void pack() {
    by = bf16_products(a);
    if (!by) by = whole_products(a);
    if (!by) by = &kernels().products;
    a.packed = by->pack(a, scratch_of(by->packed_floats(a)));
  }
};

ffi::Error read_product(ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer scale, ffi::AnyBuffer bias,
                        bool keeps_many, Call* call) {
  Linear& a = call->a;
  Type x_type, bias_type;
  if (!type_of(x.element_type(), &x_type) || !type_of(w.element_type(), &a.w_type) ||
      !type_of(bias.element_type(), &bias_type) || (bias_type != Type::F32 && bias_type != Type::BF16) ||
      (x_type != Type::F32 && x_type != Type::BF16))
    return ffi::Error::InvalidArgument("linear: a dtype that the native kernel does not know");
  const auto xs = x.dimensions(), ws = w.dimensions(), ss = scale.dimensions();
  a.k = xs.back();
  a.n = ws[0];
  a.m = 1;
  for (size_t i = 0; i + 1 < xs.size(); i++) a.m *= xs[i];
  a.w = w.untyped_data();
  a.scale = static_cast<const float*>(scale.untyped_data());
  a.group = ss.size() == 2 && ss[1] > 0 ? a.k / ss[1] : a.k;
  const bool scaled = a.w_type == Type::I8 || a.w_type == Type::I4;
  if (scaled != (scale.element_count() > 0) || (a.w_type == Type::I4 ? 2 * ws[1] : ws[1]) != a.k ||
      a.k % a.group || (a.group < a.k && a.group % 32) || (a.w_type == Type::I4 && a.k % 32))
    return ffi::Error::InvalidArgument("linear: shapes that the native kernel cannot take");
  a.y_stride = a.n;
  if (x_type == Type::BF16) {
    a.x16 = static_cast<const uint16_t*>(x.untyped_data());
    if (!(keeps_many && many_rows(a)) && !bf16_products(a)) a.x = as_float(x.untyped_data(), x_type, a.m * a.k, &call->kept);
  } else {
    a.x = static_cast<const float*>(x.untyped_data());
  }
  if (bias.element_count()) a.bias = as_float(bias.untyped_data(), bias_type, a.n, &call->bias_kept);
  return ffi::Error::Success();
}

// Columns that one part takes, a multiple of 16: enough work to pay for handing it out, and parts of nearly
// one size, because a narrow layer has only two.
int64_t columns_of_part(const Linear& a) {
  const int64_t least = std::max<int64_t>(16, 32768 / (a.k * (1 + a.m / 4) + 1));
  const int64_t most = std::min<int64_t>(std::max<int64_t>(least, a.n / (4 * pool_size())), a.n);
  const int64_t parts = (a.n + most - 1) / most;
  return ((a.n + parts - 1) / parts + 15) / 16 * 16;
}

ffi::Error LinearCall(ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer scale, ffi::AnyBuffer bias,
                      ffi::Result<ffi::AnyBuffer> y) {
  Call call;
  Linear& a = call.a;
  if (auto wrong = read_product(x, w, scale, bias, true, &call); wrong.failure()) return wrong;
  if (!type_of(y->element_type(), &a.y_type) || (a.y_type != Type::F32 && a.y_type != Type::BF16))
    return ffi::Error::InvalidArgument("linear: a dtype that the native kernel does not know");
  a.y = y->untyped_data();
  if (many_rows(a)) {
    multiply(*bf16_many_rows(), a);
    return ffi::Error::Success();
  }
  if (a.m > MOST_ROWS) return ffi::Error::InvalidArgument("linear: too many rows");
  call.pack();
  const int64_t step = columns_of_part(a), parts = (a.n + step - 1) / step;
  parallel(parts, [&](int64_t i) { call.by->linear(a, i * step, std::min(a.n, (i + 1) * step)); });
  return ffi::Error::Success();
}

ffi::Error Top1Call(ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer scale, ffi::AnyBuffer bias,
                    ffi::Result<ffi::Buffer<ffi::S32>> index, ffi::Result<ffi::Buffer<ffi::F32>> top,
                    ffi::Result<ffi::Buffer<ffi::F32>> lse, float softcap) {
  Call call;
  Linear& a = call.a;
  if (auto wrong = read_product(x, w, scale, bias, false, &call); wrong.failure()) return wrong;
  call.pack();
  // Of one size whatever the rows and threads are: sums of parts are rounded.
  const int64_t step = std::max<int64_t>(64, 262144 / a.k / 64 * 64), parts = (a.n + step - 1) / step;
  std::vector<Top> found(parts * a.m);
  parallel(parts, [&](int64_t i) {
    kernels().top1(a, *call.by, softcap, i * step, std::min(a.n, (i + 1) * step), found.data() + i * a.m);
  });
  for (int64_t row = 0; row < a.m; row++) {
    Top all = found[row];
    for (int64_t i = 1; i < parts; i++) {
      all.add(found[i * a.m + row]);
    }
    index->typed_data()[row] = all.index;
    top->typed_data()[row] = all.sum != all.sum ? NAN : all.top;
    lse->typed_data()[row] = all.top + std::log(all.sum);
  }
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
  attend(kernels(), a, out->typed_data(), lse->typed_data());
  return ffi::Error::Success();
}

// Copies rows into a cache that the result shares its memory with; other row numbers drop theirs.
ffi::Error WriteRowsCall(ffi::AnyBuffer leaf, ffi::AnyBuffer rows_new, ffi::Buffer<ffi::S32> rows,
                         ffi::Result<ffi::AnyBuffer> out) {
  const auto ls = leaf.dimensions(), ns = rows_new.dimensions();
  if (leaf.element_type() != rows_new.element_type() || ls.size() != 4 || ns.size() != 4)
    return ffi::Error::InvalidArgument("write_rows: new rows must have the dtype of the cache");
  const int64_t K = ls[1], C = ls[2], T = ns[1];
  const size_t row_bytes = leaf.element_count() ? leaf.size_bytes() / (ls[0] * K * C) : 0;
  char* to = static_cast<char*>(out->untyped_data());
  const char* from = static_cast<const char*>(rows_new.untyped_data());
  if (to != leaf.untyped_data()) std::memcpy(to, leaf.untyped_data(), leaf.size_bytes());
  for (int64_t b = 0; b < ls[0]; b++)
    for (int64_t t = 0; t < T; t++) {
      const int64_t row = rows.typed_data()[b * T + t];
      if (row < 0 || row >= C) continue;
      for (int64_t k = 0; k < K; k++)
        std::memcpy(to + ((b * K + k) * C + row) * row_bytes, from + ((b * T + t) * K + k) * row_bytes, row_bytes);
    }
  return ffi::Error::Success();
}

ffi::Error BitsetJudgeCall(ffi::Buffer<ffi::U32> table, ffi::Buffer<ffi::S32> rows,
                           ffi::Buffer<ffi::U32> approving, ffi::Buffer<ffi::U32> denying,
                           ffi::Result<ffi::Buffer<ffi::S32>> n_approving,
                           ffi::Result<ffi::Buffer<ffi::S32>> n_denying,
                           ffi::Result<ffi::Buffer<ffi::S32>> first_approving,
                           ffi::Result<ffi::Buffer<ffi::S32>> first_denying) {
  static const JudgeBits best = avx512_judge_bits() ? avx512_judge_bits() : judge_bits;
  const auto ts = table.dimensions(), rs = rows.dimensions();
  if (ts.size() != 3 || rs.size() != 2 || rs[1] != ts[0] || ts[0] > MOST_SLOTS || ts[2] > MOST_WORDS ||
      int64_t(approving.element_count()) != ts[2] || int64_t(denying.element_count()) != ts[2])
    return ffi::Error::InvalidArgument("bitset_judge: shapes that the native kernel cannot take");
  const Bits a{table.typed_data(),       rows.typed_data(),         approving.typed_data(),
               denying.typed_data(),     n_approving->typed_data(), n_denying->typed_data(),
               first_approving->typed_data(), first_denying->typed_data(), ts[0], ts[1], ts[2]};
  const int64_t step = std::max<int64_t>(64, 65536 / (a.slots * a.words)), parts = (rs[0] + step - 1) / step;
  parallel(parts, [&](int64_t i) { best(a, i * step, std::min(rs[0], (i + 1) * step)); });
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
XLA_FFI_DEFINE_HANDLER_SYMBOL(ariel_top1, ariel::Top1Call,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("softcap"));
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

XLA_FFI_DEFINE_HANDLER_SYMBOL(ariel_write_rows, ariel::WriteRowsCall,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(ariel_bitset_judge, ariel::BitsetJudgeCall,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());

extern "C" {
const char* ariel_kernel_name() { return ariel::kernels().name; }
bool ariel_has_bf16_matmul() { return ariel::bf16_many_rows() != nullptr; }
bool ariel_has_tiles() { return ariel::amx_many_rows() != nullptr; }
bool ariel_has_whole_products() { return ariel::has_whole_products(); }
int ariel_threads() { return ariel::pool_size(); }
}

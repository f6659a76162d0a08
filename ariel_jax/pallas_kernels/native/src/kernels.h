// What the kernels of every instruction set offer: plain functions over raw memory, no XLA types.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace ariel {

enum class Type : int32_t { F32 = 0, BF16 = 1, I8 = 2, I4 = 3 };

// The instructions that may be used, where the processor has them: ARIEL_JAX_INSTRUCTIONS, or all of them.
// AVX512_VNNI adds VNNI and BF16, ALL the tiles of AMX.
enum class Level { GENERIC, AVX2, AVX512, AVX512_VNNI, ALL };
inline bool may_use(Level wanted) {
  static const Level most = [] {
    const char* text = std::getenv("ARIEL_JAX_INSTRUCTIONS");
    if (text && !std::strcmp(text, "generic")) return Level::GENERIC;
    if (text && !std::strcmp(text, "avx2")) return Level::AVX2;
    if (text && !std::strcmp(text, "avx512")) return Level::AVX512;
    if (text && !std::strcmp(text, "avx512_vnni")) return Level::AVX512_VNNI;
    return Level::ALL;
  }();
  return wanted <= most;
}

inline uint16_t to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);  // stays NaN
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to nearest, ties to even
}

// y[m, n] = sum_k x[m, k] * w[n, k] * scale[n, k / group] + bias[n]
struct Linear {
  const float* x;        // [m, k]
  const uint16_t* x16;   // the same in bfloat16, or null
  const float* packed;   // x as `pack` of the products that are taken lays it out
  const void* w;         // [n, k]; I4: [n, k / 2], in blocks of 32: low nibbles 0..15, high 16..31
  const float* scale;    // [n, k / group], for I8 and I4
  const float* bias;     // [n], or null
  void* y;               // [m, y_stride], its first column is output y_from
  int64_t m, k, n, group;
  int64_t y_stride, y_from;
  int64_t row_from;      // of the packed rows, the first that counts here
  Type w_type, y_type;
};

// Where weights are fetched from ahead of their use, while a few outputs at a time go along their rows.
// Short rows, which lie one behind the other, are fetched in the order of memory, whatever the order in
// which they are used, and those of the next outputs before their turn; long ones each for itself.
struct Fetch {
  const char* at;
  int64_t per_step, per_output;

  // The rows of n outputs from `base` on; a step reads `step` bytes of each. In the order of memory up
  // to `most` bytes of all.
  Fetch(const void* base, int64_t row_bytes, int64_t n, int64_t step, int64_t most)
      : at(static_cast<const char*>(base)), per_step(step), per_output(row_bytes) {
    const int64_t bytes = n * row_bytes;
    at += bytes > 65536 ? 1024 : bytes > most ? bytes : (4096 + bytes - 1) / bytes * bytes;
    if (bytes <= most) per_step = n * step, per_output = step;
  }
  void next(int64_t n) {
    for (int64_t o = 0; o < n; o++) __builtin_prefetch(at + o * per_output);
    at += per_step;
  }
};

// Keeps one result, its bias added.
inline void store(const Linear& a, int64_t row, int64_t column, float value) {
  if (a.bias) value += a.bias[column];
  if (a.y_type == Type::F32)
    static_cast<float*>(a.y)[row * a.y_stride + column - a.y_from] = value;
  else
    static_cast<uint16_t*>(a.y)[row * a.y_stride + column - a.y_from] = to_bf16(value);
}

// Of one row of logits: the largest, the first place that has it, and sum_j exp(logit_j - top), which is
// 0 where all are minus infinity and 1 where one is infinity. A NaN among them makes `sum` NaN.
struct Top {
  float top, sum;
  int32_t index;

  // Takes in those of later places.
  void add(const Top& later) {
    if (later.top == -INFINITY && later.sum == 0) return;
    const bool wrong = sum != sum || later.sum != later.sum;
    if (later.top > top) {
      *this = {later.top, later.sum + (sum > 0 ? sum * std::exp(top - later.top) : 0), later.index};
    } else if (top < INFINITY) {
      sum += later.sum * std::exp(later.top - top);
    }
    if (wrong) sum = NAN;
  }
};

// Rows of one cache head against the queries that read it.
struct Attention {
  const float* q;        // [batch, t, n_heads, h]
  const void* k;         // [batch, n_kv, capacity, h]
  const void* v;
  const int32_t* length; // [batch]
  const int32_t* q_positions;  // [batch, t]
  const uint32_t* seen;  // [t] bits of the new rows that a query sees, or null: order by position
  int64_t batch, t, n_heads, n_kv, capacity, h;
  float scale, softcap;  // softcap 0: none
  int64_t window;        // 0: none
  Type kv_type;
};

// One way to multiply a few rows: x is laid out once, then columns are made from it by any thread.
struct Products {
  int64_t (*packed_floats)(const Linear&);
  // Where x lies for `linear`: in `to`, or where it was.
  const float* (*pack)(const Linear&, float* to);
  void (*linear)(const Linear&, int64_t n0, int64_t n1);  // output columns [n0, n1)
};

// Rows of a cache head are worked on in blocks, whose sums are added in order: the result is the same
// however the blocks are shared between threads.
constexpr int64_t BLOCK_ROWS = 128;
struct Blocks {
  int64_t from, to;
};

struct Kernels {
  const char* name;
  bool (*runs_here)();
  Products products;  // for rows of float32
  // `by.linear` of columns [n0, n1), of which only `out` [m] is kept; softcap 0: none. y is not used.
  void (*top1)(const Linear&, const Products& by, float softcap, int64_t n0, int64_t n1, Top* out);
  // Attention of one cache head c of batch row b, in three steps: all scores first, so that the
  // weights of all rows have one top. `scratch` holds what one head keeps between them.
  int64_t (*attend_scratch)(const Attention&);  // in floats
  void (*attend_scores)(const Attention&, int64_t b, int64_t c, Blocks some, float* scratch);
  void (*attend_values)(const Attention&, int64_t b, int64_t c, Blocks some, float* scratch);
  // out [batch, t, n_heads, h] and lse [batch, n_heads, t]: those of the queries of this head.
  void (*attend_finish)(const Attention&, int64_t b, int64_t c, float* scratch, float* out, float* lse);
};

// Many rows of bfloat16 by bfloat16 weights, sums in float32.
struct ManyRows {
  int64_t (*packed_floats)(const Linear&);  // of `packed`, 0: x is read where it lies
  void (*pack)(const Linear&, int64_t group, float* to);  // the group'th `group_rows` of x
  int64_t group_rows;
  void (*matmul)(const Linear&, int64_t n0, int64_t n1);  // output columns [n0, n1) of all rows
};
// By tiles or by registers; null where the processor has no such products.
const ManyRows* amx_many_rows();
const ManyRows* avx512_many_rows();
inline const ManyRows* bf16_many_rows() {
  const ManyRows* tiles = amx_many_rows();
  return tiles ? tiles : avx512_many_rows();
}

// Of a few rows of bfloat16 with bfloat16 weights, and of rows with int8 or int4 weights in whole
// numbers; null where the processor or the arguments are none for it.
const Products* bf16_products(const Linear&);
const Products* whole_products(const Linear&);
// What these two choose from: tiles, where there are, else registers.
const Products* avx512_bf16_products(const Linear&);
const Products* vnni_products(const Linear&);
const Products* amx_products();
const Products* amx_whole_products(const Linear&);
bool has_whole_products();

const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace ariel

// Products of bfloat16 for processors with AVX512-BF16: of a few rows, and of the many of a prompt.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__) && defined(__AVX512BF16__)
#include "vec512.h"

#include "body.h"

namespace ariel {
namespace {

// ---- a few rows: two inputs are one number of the other kernels, an instruction adds both products ----

struct RowPairs {
  static constexpr int STEP = W;
  const uint16_t* p;
  int64_t k;
  RowPairs(const Linear& a, int64_t j) : p(static_cast<const uint16_t*>(a.w) + j * a.k), k(a.k) {}
  static int64_t inputs(const Linear& a) { return (a.k + 1) / 2; }
  static Vec fma(Vec x, Vec w, Vec sum) {
    // Written down, because the compiler copies the sums before and after the intrinsic.
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(w.v));
    return sum;
  }
  void at(int64_t i, Vec* out) const { out[0] = Vec::load(reinterpret_cast<const float*>(p + 2 * i)); }
  Vec tail(int64_t i, int64_t n) const {
    const int64_t some = std::min(2 * n, k - 2 * i);
    const __m512i raw = _mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << some) - 1), p + 2 * i);
    return {_mm512_castsi512_ps(raw)};
  }
  const void* place(int64_t i) const { return p + 2 * i; }
};

int64_t pairs_floats(const Linear& a) { return a.m * up_to_width(RowPairs::inputs(a)); }

const float* pack_pairs(const Linear& a, float* to) {
  const int64_t width = up_to_width(RowPairs::inputs(a));
  if (a.m == 1 && 2 * width == a.k) return reinterpret_cast<const float*>(a.x16);
  for (int64_t row = 0; row < a.m;) {
    const int64_t M = group_of(a.m - row);
    for (int64_t i = 0; i < M; i++)
      for (int64_t p = 0; p < width; p += W) {
        const int64_t n = std::min<int64_t>(2 * W, a.k - 2 * p);
        char* block = reinterpret_cast<char*>(to + row * width + p * M + i * W);
        std::memcpy(block, a.x16 + (row + i) * a.k + 2 * p, n * 2);
        std::memset(block + 2 * n, 0, (2 * W - n) * 2);
      }
    row += M;
  }
  return to;
}

// ---- many rows ----

constexpr int64_t STRIP = 1024;   // inputs at a time: 4 rows of x and 4 of w lie in the first cache

inline __m512bh load(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline __m512bh load_some(const uint16_t* p, int64_t n) {
  return (__m512bh)_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p);
}

// Four rows by four outputs over k inputs. Rows and outputs that do not exist repeat the last one.
inline __m512 tile(const uint16_t* const x[4], const uint16_t* const w[4], int64_t k) {
  __m512 total[16];
  for (auto& t : total) t = _mm512_setzero_ps();
  int64_t p = 0;
  for (; p + 32 <= k; p += 32) {
    const __m512bh w0 = load(w[0] + p), w1 = load(w[1] + p), w2 = load(w[2] + p), w3 = load(w[3] + p);
    for (int i = 0; i < 4; i++) {
      const __m512bh xi = load(x[i] + p);
      total[4 * i] = _mm512_dpbf16_ps(total[4 * i], xi, w0);
      total[4 * i + 1] = _mm512_dpbf16_ps(total[4 * i + 1], xi, w1);
      total[4 * i + 2] = _mm512_dpbf16_ps(total[4 * i + 2], xi, w2);
      total[4 * i + 3] = _mm512_dpbf16_ps(total[4 * i + 3], xi, w3);
    }
  }
  if (p < k)
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 4; j++)
        total[4 * i + j] = _mm512_dpbf16_ps(total[4 * i + j], load_some(x[i] + p, k - p), load_some(w[j] + p, k - p));
  return sums_of_sixteen([&](int i) { return total[i]; });
}

void matmul(const Linear& a, int64_t n0, int64_t n1) {
  static thread_local std::vector<float> kept;
  const int64_t padded = (a.m + 3) / 4 * 4;
  if (int64_t(kept.size()) < padded * COLUMNS) kept.resize(padded * COLUMNS);
  float* sum = kept.data();
  const uint16_t* weights = static_cast<const uint16_t*>(a.w);
  for (int64_t from = n0; from < n1; from += COLUMNS) {
    const int64_t to = std::min(n1, from + COLUMNS);
    for (int64_t p = 0; p < a.k; p += STRIP) {
      const int64_t some = std::min(STRIP, a.k - p);
      for (int64_t row = 0; row < a.m; row += 4) {
        const uint16_t *x[4], *w[4];
        for (int64_t i = 0; i < 4; i++) x[i] = a.x16 + std::min(row + i, a.m - 1) * a.k + p;
        for (int64_t j = from; j < to; j += 4) {
          for (int64_t o = 0; o < 4; o++) w[o] = weights + std::min(j + o, to - 1) * a.k + p;
          // One tile in one register: four lanes of four outputs.
          float* at = sum + (row / 4 * (COLUMNS / 4) + (j - from) / 4) * 16;
          const __m512 new_sum = tile(x, w, some);
          _mm512_storeu_ps(at, p ? _mm512_add_ps(new_sum, _mm512_loadu_ps(at)) : new_sum);
        }
      }
    }
    for (int64_t row = 0; row < a.m; row++)
      for (int64_t j = from; j < to; j++)
        store(a, row, j, sum[(row / 4 * (COLUMNS / 4) + (j - from) / 4) * 16 + row % 4 * 4 + (j - from) % 4]);
  }
}

}  // namespace

bool multiplies_here() {
  return may_use(Level::AVX512_VNNI) && __builtin_cpu_supports("avx512bf16") && avx512_kernels()->runs_here();
}
const ManyRows* avx512_many_rows() {
  static const ManyRows many = {[](const Linear&) { return int64_t(0); }, nullptr, 1, matmul};
  return multiplies_here() ? &many : nullptr;
}
const Products* avx512_bf16_products(const Linear& a) {
  static const Products products = {pairs_floats, pack_pairs, linear_of<RowPairs, Scaled::NO>};
  // With one input left over in the last of a register's pairs, `at` would read the next row's first.
  const bool even_or_tail = a.k % (2 * W) != 2 * W - 1;
  return a.x16 && a.w_type == Type::BF16 && even_or_tail && multiplies_here() ? &products : nullptr;
}
const Products* bf16_products(const Linear& a) {
  const Products* tiles = a.x16 && a.w_type == Type::BF16 ? amx_products() : nullptr;
  return tiles ? tiles : avx512_bf16_products(a);
}

}  // namespace ariel
#else
namespace ariel {
const ManyRows* avx512_many_rows() { return nullptr; }
const Products* bf16_products(const Linear&) { return nullptr; }
const Products* avx512_bf16_products(const Linear&) { return nullptr; }
}  // namespace ariel
#endif

// Products with int8 and int4 weights for processors with AVX512-VNNI, in whole numbers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__) && defined(__AVX512VNNI__)
#include <immintrin.h>

#include "digits.h"

namespace ariel {
namespace {

constexpr int64_t STRIP = 2048;   // inputs of int8 weights whose sums stay whole numbers
constexpr int64_t BYTES = 64;     // of a register: 64 int8 weights or 128 int4 weights
constexpr int64_t SOME_ROWS = 32; // whose sums are held at a time
constexpr int64_t MOST_AHEAD = 8192;  // bytes: the first cache holds digits too

inline int64_t ceiling(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i load_some(const void* p, int64_t n) {
  return n >= BYTES ? load(p) : _mm512_maskz_loadu_epi8(__mmask64((uint64_t(1) << n) - 1), p);
}
// Written down, because the compiler copies the sums before and after the intrinsic.
inline __m512i add(__m512i sum, __m512i positive, __m512i q) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(positive), "v"(q));
  return sum;
}
inline void keep(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

// Rows are taken a few at a time. What a group of M rows needs lies together, M times what one needs:
// a register with the sizes of each; then for each piece of inputs what the digits add up to with the offset
// that makes weights positive (to begin with, so that it drops out) and the digits, rows side by side.
int64_t chunks_of(const Linear& a) { return ceiling(a.k, a.w_type == Type::I8 ? BYTES : 2 * BYTES); }
int64_t bytes_of_row(const Linear& a) {
  const int64_t chunks = chunks_of(a);
  return BYTES * (a.w_type == Type::I8 ? 1 + 3 * (chunks + ceiling(a.k, STRIP)) : 1 + 7 * chunks);
}
int64_t packed_floats(const Linear& a) { return a.m * bytes_of_row(a) / 4; }
int64_t group_of(const Linear& a, int64_t left) {
  return a.w_type == Type::I4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

inline __m512i minus(__m512i v) { return _mm512_sub_epi32(_mm512_setzero_si512(), v); }

const float* pack(const Linear& a, float* to) {
  static thread_local std::vector<int8_t> kept;
  const int64_t chunks = chunks_of(a), width = chunks * (a.w_type == Type::I8 ? BYTES : 2 * BYTES);
  if (int64_t(kept.size()) < 3 * width) kept.resize(3 * width);
  int8_t* const some[3] = {kept.data(), kept.data() + width, kept.data() + 2 * width};
  for (int64_t row = 0; row < a.m;) {
    const int64_t M = group_of(a, a.m - row);
    char* group = reinterpret_cast<char*>(to) + row * bytes_of_row(a);
    for (int64_t i = 0; i < M; i++) {
      const float* x = a.x + (row + i) * a.k;
      reinterpret_cast<Size*>(group)[i] = digits(x, a.k, width, some[0], some[1], some[2]);
      char* at = group + M * BYTES;
      if (a.w_type == Type::I8) {
        const __m512i offset = _mm512_set1_epi8(char(128));
        for (int64_t begin = 0; begin < width; begin += STRIP) {
          const int64_t end = std::min(width, begin + STRIP);
          for (int d = 0; d < 3; d++) {
            __m512i sum = _mm512_setzero_si512();
            for (int64_t p = begin; p < end; p += BYTES) {
              const __m512i q = load(some[d] + p);
              sum = _mm512_dpbusd_epi32(sum, offset, q);
              keep(at + M * BYTES * 3 * (1 + (p - begin) / BYTES) + (i * 3 + d) * BYTES, q);
            }
            keep(at + (i * 3 + d) * BYTES, minus(sum));
          }
          at += M * BYTES * 3 * (1 + (end - begin) / BYTES);
        }
      } else {
        const __m512i offset = _mm512_set1_epi8(8);
        for (int64_t p = 0; p < width; p += 2 * BYTES, at += M * 7 * BYTES) {
          __m512i sum = _mm512_setzero_si512();
          char* here = at + i * 7 * BYTES;
          for (int d = 0; d < 3; d++) {
            for (int half = 0; half < 2; half++)
              for (int block = 0; block < 4; block++)
                std::memcpy(here + (1 + 2 * d + half) * BYTES + 16 * block, some[d] + p + 32 * block + 16 * half, 16);
            sum = _mm512_slli_epi32(sum, d ? 8 : 0);
            for (int half = 0; half < 2; half++)
              sum = _mm512_dpbusd_epi32(sum, offset, load(here + (1 + 2 * d + half) * BYTES));
          }
          keep(here, sum);
        }
      }
    }
    row += M;
  }
  return to;
}

// ---- int8, a scale for each output ----

// Sums of M rows and N outputs over one strip, `x` at its begin.
template <int M, int N>
inline void strip8(const char* x, const int8_t* w, int64_t k, int64_t left, Fetch& fetch, float (*total)[N]) {
  __m512i sum[M][N][3];
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++)
      for (int d = 0; d < 3; d++) sum[i][o][d] = load(x + (i * 3 + d) * BYTES);
  const __m512i offset = _mm512_set1_epi8(char(128));
  const char* digits = x + M * 3 * BYTES;
  const int64_t end = std::min(left, STRIP);
  __mmask64 there = ~__mmask64(0);
  for (int64_t p = 0; p < end; p += BYTES, digits += M * 3 * BYTES) {
    if (end - p < BYTES) there = (uint64_t(1) << (end - p)) - 1;
    __m512i wv[N];
    for (int o = 0; o < N; o++) wv[o] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, w + o * k + p), offset);
    fetch.next(N);
    for (int i = 0; i < M; i++)
      for (int d = 0; d < 3; d++) {
        const __m512i q = load(digits + (i * 3 + d) * BYTES);
        for (int o = 0; o < N; o++) sum[i][o][d] = add(sum[i][o][d], wv[o], q);
      }
  }
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++) {
      const __m512 low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][o][1]), _mm512_set1_ps(256.f), _mm512_cvtepi32_ps(sum[i][o][2]));
      const Vec all = {_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][o][0]), _mm512_set1_ps(65536.f), low)};
      total[i][o] += all.sum();
    }
}

template <int N>
void tile8(const Linear& a, int64_t from, int64_t j) {
  const int64_t m = std::min<int64_t>(SOME_ROWS, a.m - from);
  const int8_t* w = static_cast<const int8_t*>(a.w) + j * a.k;
  const int64_t size = bytes_of_row(a);
  const char* x = reinterpret_cast<const char*>(a.packed) + (a.row_from + from) * size;
  float total[SOME_ROWS][N] = {};
  for (int64_t begin = 0, at = 0; begin < a.k; begin += STRIP, at += 3 * (BYTES + STRIP)) {
    Fetch fetch(w, a.k, N, BYTES, MOST_AHEAD);
    fetch.at += begin / BYTES * fetch.per_step;
    for (int64_t row = 0; row < m; row += 2) {
      const int64_t M = std::min<int64_t>(2, m - row);
      const char* digits = x + row * size + M * (BYTES + at);
      if (M == 2)
        strip8<2, N>(digits, w + begin, a.k, a.k - begin, fetch, total + row);
      else
        strip8<1, N>(digits, w + begin, a.k, a.k - begin, fetch, total + row);
    }
  }
  for (int64_t row = 0; row < m; row++) {
    const Size whole = reinterpret_cast<const Size*>(x + row / 2 * 2 * size)[row % 2];
    for (int o = 0; o < N; o++) store(a, from + row, j + o, whole.of(total[row][o], a.scale[j + o]));
  }
}

void linear8(const Linear& a, int64_t n0, int64_t n1) {
  for (int64_t from = 0; from < a.m; from += SOME_ROWS) {
    int64_t j = n0;
    for (; j + 4 <= n1; j += 4) tile8<4>(a, from, j);
    for (; j < n1; j++) tile8<1>(a, from, j);
  }
}

// ---- int4, scales for groups of 32, of 64, of a multiple of 128, or of all inputs ----

template <int M, int N>
inline void tile4(const Linear& a, const char* x, int64_t row, int64_t j) {
  const int64_t groups = a.k / a.group, stride = a.k / 2;
  const uint8_t* w = static_cast<const uint8_t*>(a.w) + j * stride;
  Fetch fetch(w, stride, N, BYTES, MOST_AHEAD);
  // Which of the scales from the first of a chunk on each block of 32 inputs has.
  const int each = a.group == 32 ? 1 : a.group == 64 ? 2 : 4;  // blocks that share one
  __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  lane = each == 1 ? lane : each == 2 ? _mm512_srli_epi32(lane, 1) : _mm512_setzero_si512();
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 total[M][N];
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++) total[i][o] = _mm512_setzero_ps();
  const char* digits = x + M * BYTES;
  const float* scales = a.scale + j * groups;
  const int64_t chunks_of_group = ceiling(a.group, 2 * BYTES);
  const int64_t most = 4 / each;  // scales that a chunk has
  __mmask64 there = ~__mmask64(0);
  __mmask16 scaled = __mmask16((1u << most) - 1);
  int64_t since = 0;
  for (int64_t p = 0; p < stride; p += BYTES, digits += M * 7 * BYTES) {
    if (stride - p < BYTES) {
      there = (uint64_t(1) << (stride - p)) - 1;
      if (a.group < 2 * BYTES) scaled = __mmask16((1u << (2 * (stride - p) / a.group)) - 1);
    }
    __m512i low[N], high[N];
    __m512 scale[N];
    for (int o = 0; o < N; o++) {
      const __m512i raw = _mm512_maskz_loadu_epi8(there, w + o * stride + p);
      low[o] = _mm512_and_si512(raw, nibble);
      high[o] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
      scale[o] = _mm512_permutexvar_ps(lane, _mm512_maskz_loadu_ps(scaled, scales + o * groups));
    }
    fetch.next(N);
    for (int i = 0; i < M; i++) {
      const char* at = digits + i * 7 * BYTES;
      __m512i sum[N];
      for (int o = 0; o < N; o++) sum[o] = _mm512_setzero_si512();
      for (int d = 0; d < 3; d++) {
        const __m512i q = load(at + (1 + 2 * d) * BYTES), r = load(at + (2 + 2 * d) * BYTES);
        for (int o = 0; o < N; o++) {
          if (d) sum[o] = _mm512_slli_epi32(sum[o], 8);
          sum[o] = add(sum[o], low[o], q);
        }
        for (int o = 0; o < N; o++) sum[o] = add(sum[o], high[o], r);
      }
      const __m512i offsets = load(at);
      for (int o = 0; o < N; o++)
        total[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum[o], offsets)), scale[o], total[i][o]);
    }
    if (++since == chunks_of_group) scales += most, since = 0;
  }
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++)
      store(a, row + i, j + o, reinterpret_cast<const Size*>(x)[i].of(Vec{total[i][o]}.sum(), 1.f));
}

template <int N>
void tiles4(const Linear& a, int64_t j) {
  const int64_t size = bytes_of_row(a);
  const char* x = reinterpret_cast<const char*>(a.packed) + a.row_from * size;
  for (int64_t row = 0; row < a.m; row += group_of(a, a.m - row)) {
    const char* group = x + row * size;
    switch (group_of(a, a.m - row)) {
      case 4: tile4<4, N>(a, group, row, j); break;
      case 2: tile4<2, N>(a, group, row, j); break;
      default: tile4<1, N>(a, group, row, j);
    }
  }
}

void linear4(const Linear& a, int64_t n0, int64_t n1) {
  int64_t j = n0;
  for (; j + 4 <= n1; j += 4) tiles4<4>(a, j);
  for (; j < n1; j++) tiles4<1>(a, j);
}

bool fits4(const Linear& a) {
  return a.group == 32 || a.group == 64 || a.group == a.k || a.group % (2 * BYTES) == 0;
}

}  // namespace

bool has_whole_products() {
  static const bool here =
      may_use(Level::AVX512_VNNI) && __builtin_cpu_supports("avx512vnni") && avx512_kernels()->runs_here();
  return here;
}

const Products* vnni_products(const Linear& a) {
  static const Products eight = {packed_floats, pack, linear8}, four = {packed_floats, pack, linear4};
  if (!has_whole_products() || !a.x) return nullptr;
  if (a.w_type == Type::I8 && a.group == a.k) return &eight;
  if (a.w_type == Type::I4 && fits4(a)) return &four;
  return nullptr;
}
const Products* whole_products(const Linear& a) {
  const Products* tiles = amx_whole_products(a);
  return tiles ? tiles : vnni_products(a);
}

}  // namespace ariel
#else
namespace ariel {
const Products* whole_products(const Linear&) { return nullptr; }
const Products* vnni_products(const Linear&) { return nullptr; }
bool has_whole_products() { return false; }
}  // namespace ariel
#endif

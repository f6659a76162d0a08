// Products of bfloat16 for processors with AMX: a tile is 16 rows of 64 bytes, an instruction multiplies two
// of them, 16 by 16 by 32, and adds to a third of 16 by 16 floats. A sum goes through its inputs in order,
// whatever rows are beside it: a row has the same bits among few and among many.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ariel {
namespace {

constexpr int64_t SIDE = 16;            // rows, and floats of a row
constexpr int64_t INPUTS = 32;          // of a row of bfloat16 in a tile
constexpr int64_t TILE = SIDE * INPUTS; // numbers in one
constexpr int64_t STRIP = 64;           // outputs whose weights a thread holds at a time
// Bytes by which few rows fetch weights ahead, in the order of memory, into the second cache: measured,
// half and twice as many are slower.
constexpr int64_t AHEAD = 16384;
constexpr int64_t SOME = 8;             // steps between two looks ahead

int64_t ceiling(int64_t n, int64_t by) { return (n + by - 1) / by; }
int64_t steps_of(const Linear& a) { return ceiling(a.k, INPUTS); }

struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  Config() {
    for (int i = 0; i < 8; i++) bytes[i] = 64, rows[i] = SIDE;
  }
};

// The sixteen registers are a square of 32-bit numbers: turned about its diagonal.
inline void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 4; i++) {
      t[8 * half + i] = _mm512_shuffle_i32x4(r[8 * half + i], r[8 * half + 4 + i], 0x88);
      t[8 * half + 4 + i] = _mm512_shuffle_i32x4(r[8 * half + i], r[8 * half + 4 + i], 0xdd);
    }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
  }
}

// Up to 16 rows of up to 32 inputs, zeros for the others.
inline void load_rows(const uint16_t* from, int64_t stride, int64_t rows, int64_t inputs, __m512i* r) {
  const __mmask32 some = inputs >= INPUTS ? ~__mmask32(0) : __mmask32((uint64_t(1) << inputs) - 1);
  for (int64_t i = 0; i < SIDE; i++)
    r[i] = i < rows ? _mm512_maskz_loadu_epi16(some, from + i * stride) : _mm512_setzero_si512();
}

// ---- x: a tile holds 16 pairs of inputs of 16 rows, the rows side by side ----

int64_t packed_floats(const Linear& a) { return ceiling(a.m, SIDE) * steps_of(a) * TILE / 2; }

void pack(const Linear& a, int64_t group, float* to) {
  const int64_t steps = steps_of(a), row = group * SIDE;
  uint16_t* tile = reinterpret_cast<uint16_t*>(to) + group * steps * TILE;
  for (int64_t s = 0; s < steps; s++, tile += TILE) {
    __m512i r[SIDE];
    load_rows(a.x16 + row * a.k + s * INPUTS, a.k, a.m - row, a.k - s * INPUTS, r);
    transpose(r);
    for (int64_t i = 0; i < SIDE; i++) _mm512_storeu_si512(tile + i * INPUTS, r[i]);
  }
}

// ---- weights: a tile holds 32 inputs of 16 outputs as they lie ----

void pack_weights(const Linear& a, int64_t j, int64_t n, uint16_t* tile) {
  const uint16_t* w = static_cast<const uint16_t*>(a.w);
  for (; n > 0; j += SIDE, n -= SIDE)
    for (int64_t s = 0; s < steps_of(a); s++, tile += TILE) {
      __m512i r[SIDE];
      load_rows(w + j * a.k + s * INPUTS, a.k, n, a.k - s * INPUTS, r);
      for (int64_t i = 0; i < SIDE; i++) _mm512_store_si512(tile + i * INPUTS, r[i]);
    }
}

// Rounds to bfloat16 as `to_bf16` does.
inline __m256i rounded(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16));
}

// Keeps a tile of sums, 16 outputs of 16 rows.
void keep(const Linear& a, const float* sums, int64_t row, int64_t j, int64_t n) {
  __m512i r[SIDE];
  for (int64_t i = 0; i < SIDE; i++) r[i] = _mm512_load_si512(sums + i * SIDE);
  transpose(r);
  const __mmask16 some = n >= SIDE ? __mmask16(0xffff) : __mmask16((1u << n) - 1u);
  const __m512 bias = a.bias ? _mm512_maskz_loadu_ps(some, a.bias + j) : _mm512_setzero_ps();
  for (int64_t i = 0; i < std::min(SIDE, a.m - row); i++) {
    __m512 v = _mm512_castsi512_ps(r[i]);
    if (a.bias) v = _mm512_add_ps(v, bias);
    const int64_t at = (row + i) * a.y_stride + j - a.y_from;
    if (a.y_type == Type::F32)
      _mm512_mask_storeu_ps(static_cast<float*>(a.y) + at, some, v);
    else
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(a.y) + at, some, rounded(v));
  }
}

// Where a tile of weights lies: packed ones one behind the other, others a row of weights apart.
struct Tiles {
  const uint16_t* at;
  int64_t stride_bytes, next_step, next_outputs;
};

// OUTPUTS by ROWS tiles of sums over some of the steps, after what `sums` holds of earlier ones.
template <int OUTPUTS, int ROWS>
inline void products(Tiles w, const uint16_t* x, int64_t next_rows, int64_t steps, bool first, float* sums) {
  constexpr int BYTES = 64, SQUARE = SIDE * SIDE;
  if (first) {
    _tile_zero(0);
    if (ROWS > 1) _tile_zero(1);
    if (OUTPUTS > 1) _tile_zero(2);
    if (OUTPUTS > 1 && ROWS > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, BYTES);
    if (ROWS > 1) _tile_loadd(1, sums + SQUARE, BYTES);
    if (OUTPUTS > 1) _tile_loadd(2, sums + 2 * SQUARE, BYTES);
    if (OUTPUTS > 1 && ROWS > 1) _tile_loadd(3, sums + 3 * SQUARE, BYTES);
  }
  for (int64_t s = 0; s < steps; s++, w.at += w.next_step, x += TILE) {
    _tile_loadd(4, w.at, w.stride_bytes);
    _tile_loadd(6, x, BYTES);
    _tile_dpbf16ps(0, 4, 6);
    if (ROWS > 1) {
      _tile_loadd(7, x + next_rows, BYTES);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (OUTPUTS > 1) {
      _tile_loadd(5, w.at + w.next_outputs, w.stride_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if (ROWS > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, BYTES);
  if (ROWS > 1) _tile_stored(1, sums + SQUARE, BYTES);
  if (OUTPUTS > 1) _tile_stored(2, sums + 2 * SQUARE, BYTES);
  if (OUTPUTS > 1 && ROWS > 1) _tile_stored(3, sums + 3 * SQUARE, BYTES);
}

// ---- a few rows: weights are multiplied where they lie ----

const float* pack_few(const Linear& a, float* to) {
  for (int64_t group = 0; group * SIDE < a.m; group++) pack(a, group, to);
  return to;
}

template <int ROWS>
void few_rows(const Linear& a, int64_t group, int64_t n0, int64_t n1) {
  const Config config;
  _tile_loadconfig(&config);
  alignas(64) float sums[4 * SIDE * SIDE];
  alignas(64) uint16_t last[TILE];
  const int64_t steps = steps_of(a), whole = a.k / INPUTS, next_rows = steps * TILE;
  const uint16_t* x = reinterpret_cast<const uint16_t*>(a.packed) + (a.row_from / SIDE + group) * next_rows;
  const uint16_t* w = static_cast<const uint16_t*>(a.w);
  for (int64_t j = n0; j < n1; j += SIDE) {
    const int64_t n = std::min(SIDE, n1 - j);
    const uint16_t* at = w + j * a.k;
    const int64_t in_place = n == SIDE ? whole : 0;  // what is left is copied, with zeros
    const char* ahead = reinterpret_cast<const char*>(at) + AHEAD;
    for (int64_t s = 0; s < in_place; s += SOME) {
      const int64_t some = std::min(SOME, in_place - s);
      for (int64_t line = 0; line < some * SIDE; line++) __builtin_prefetch(ahead + line * 64, 0, 2);
      ahead += some * SIDE * 64;
      products<1, ROWS>({at + s * INPUTS, a.k * 2, INPUTS, 0}, x + s * TILE, next_rows, some, s == 0, sums);
    }
    for (int64_t s = in_place; s < steps; s++) {
      __m512i r[SIDE];
      load_rows(at + s * INPUTS, a.k, n, a.k - s * INPUTS, r);
      for (int64_t i = 0; i < SIDE; i++) _mm512_store_si512(last + i * INPUTS, r[i]);
      asm volatile("" ::: "memory");
      products<1, ROWS>({last, 64, 0, 0}, x + s * TILE, next_rows, 1, s == 0, sums);
    }
    for (int r = 0; r < ROWS; r++) keep(a, sums + r * SIDE * SIDE, (group + r) * SIDE, j, n);
  }
  _tile_release();
}

void linear(const Linear& a, int64_t n0, int64_t n1) {
  for (int64_t group = 0; group * SIDE < a.m; group += 2)
    if ((group + 1) * SIDE < a.m) few_rows<2>(a, group, n0, n1);
    else few_rows<1>(a, group, n0, n1);
}

// ---- many rows: each thread packs the weights of some outputs ----

void matmul(const Linear& a, int64_t n0, int64_t n1) {
  static thread_local std::vector<uint16_t> kept;
  const int64_t steps = steps_of(a), groups = ceiling(a.m, SIDE), next = steps * TILE, line = 64 / sizeof(uint16_t);
  if (int64_t(kept.size()) < STRIP / SIDE * steps * TILE + line) kept.resize(STRIP / SIDE * steps * TILE + line);
  uint16_t* weights = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(kept.data()) + 63) / 64 * 64);
  const uint16_t* x = reinterpret_cast<const uint16_t*>(a.packed);
  const Config config;
  _tile_loadconfig(&config);
  alignas(64) float sums[4 * SIDE * SIDE];
  for (int64_t from = n0; from < n1; from += STRIP) {
    const int64_t to = std::min(n1, from + STRIP);
    pack_weights(a, from, to - from, weights);
    asm volatile("" ::: "memory");  // to the compiler the tiles' loads read no memory
    for (int64_t g = 0; g < groups; g += 2)
      for (int64_t j = from; j < to; j += 2 * SIDE) {
        const uint16_t* rows = x + g * next;
        const Tiles w = {weights + (j - from) / SIDE * next, 64, TILE, next};
        const bool two_outputs = j + SIDE < to, two_rows = g + 1 < groups;
        if (two_outputs && two_rows) products<2, 2>(w, rows, next, steps, true, sums);
        else if (two_outputs) products<2, 1>(w, rows, next, steps, true, sums);
        else if (two_rows) products<1, 2>(w, rows, next, steps, true, sums);
        else products<1, 1>(w, rows, next, steps, true, sums);
        for (int o = 0; o <= two_outputs; o++)
          for (int r = 0; r <= two_rows; r++)
            keep(a, sums + (2 * o + r) * SIDE * SIDE, (g + r) * SIDE, j + o * SIDE, to - j - o * SIDE);
      }
  }
  _tile_release();
}

// Whether the processor has it and Linux lets this process use its registers.
bool may_use_tiles() {
  static const bool may = [] {
    constexpr unsigned TILES = 1u << 24, BF16 = 1u << 22;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILES) == 0 || (d & BF16) == 0) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  }();
  return may && may_use(Level::ALL) && avx512_kernels()->runs_here();
}

}  // namespace

const Products* amx_products() {
  static const Products products = {packed_floats, pack_few, linear};
  return may_use_tiles() ? &products : nullptr;
}

const ManyRows* amx_many_rows() {
  static const ManyRows many = {packed_floats, pack, SIDE, matmul};
  return may_use_tiles() ? &many : nullptr;
}

}  // namespace ariel
#else
namespace ariel {
const ManyRows* amx_many_rows() { return nullptr; }
const Products* amx_products() { return nullptr; }
}  // namespace ariel
#endif

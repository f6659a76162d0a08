// Products for processors with AMX: a tile is 16 rows of 64 bytes, an instruction multiplies two of them, 16
// by 16 by 32 numbers of bfloat16 or by 64 bytes, and adds to a third of 16 by 16 sums. A sum goes through its
// inputs in order, whatever rows are beside it: a row has the same bits among few and among many.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "digits.h"

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

inline void configure() {
  const Config config;
  asm volatile("" ::"m"(config));  // to the compiler the instruction reads its first bytes only
  _tile_loadconfig(&config);
}

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

// The begin of a part, which nothing has fetched ahead.
inline void fetch_begin(const void* at, int64_t bytes) {
  for (int64_t i = 0; i < std::min(bytes, AHEAD); i += 64) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 2);
}

template <int ROWS>
void few_rows(const Linear& a, int64_t group, int64_t n0, int64_t n1) {
  configure();
  alignas(64) float sums[4 * SIDE * SIDE];
  alignas(64) uint16_t last[TILE];
  const int64_t steps = steps_of(a), whole = a.k / INPUTS, next_rows = steps * TILE;
  const uint16_t* x = reinterpret_cast<const uint16_t*>(a.packed) + (a.row_from / SIDE + group) * next_rows;
  const uint16_t* w = static_cast<const uint16_t*>(a.w);
  fetch_begin(w + n0 * a.k, (n1 - n0) * a.k * 2);
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

// ---- int8 weights with a scale for each output, by rows in three digits ----

constexpr int64_t BYTES = 64;              // of a row of a tile
constexpr int64_t NUMBERS = SIDE * BYTES;  // in a tile
constexpr int64_t MOST_INPUTS = 131072;    // whose products of two bytes add up to less than 2^31

// The columns of sums are rows times digits. Up to 5 rows have all digits in one tile, up to 8 two of them in
// one and the third in another, up to 16 each digit in a tile of its own.
int64_t tiles_for(int64_t rows) { return rows <= 5 ? 1 : rows <= 8 ? 2 : 3; }
constexpr int64_t SHARE[4] = {0, 5, 8, 16};  // columns of a digit

// Before the tiles of 16 rows: what their sums are multiplied with, and how many tiles a step has.
struct Head {
  float s[SIDE], last[SIDE];
  int64_t tiles, unused[7];
};
int64_t steps8(const Linear& a) { return ceiling(a.k, BYTES); }
int64_t bytes_of_group(const Linear& a, int64_t tiles) { return sizeof(Head) + steps8(a) * tiles * NUMBERS; }
int64_t packed_floats8(const Linear& a) { return ceiling(a.m, SIDE) * bytes_of_group(a, tiles_for(a.m)) / 4; }

const float* pack8(const Linear& a, float* to) {
  static thread_local std::vector<int8_t> kept;
  const int64_t width = steps8(a) * BYTES, tiles = tiles_for(a.m), share = SHARE[tiles];
  if (int64_t(kept.size()) < 3 * SIDE * width) kept.resize(3 * SIDE * width);
  for (int64_t first = 0; first < a.m; first += SIDE) {
    char* group = reinterpret_cast<char*>(to) + first / SIDE * bytes_of_group(a, tiles);
    Head head = {};
    head.tiles = tiles;
    const int64_t rows = std::min(SIDE, a.m - first);
    for (int64_t i = 0; i < rows; i++) {
      int8_t* at = kept.data() + i * width;
      const Size s = digits(a.x + (first + i) * a.k, a.k, width, at, at + SIDE * width, at + 2 * SIDE * width);
      head.s[i] = s.s, head.last[i] = s.last;
    }
    std::memcpy(group, &head, sizeof head);
    char* tile = group + sizeof(Head);
    for (int64_t s = 0; s < steps8(a); s++)
      for (int64_t t = 0; t < tiles; t++, tile += NUMBERS) {
        __m512i r[SIDE];
        for (int64_t c = 0; c < SIDE; c++) {
          const int64_t digit = t * (SIDE / share) + c / share, row = c % share;
          r[c] = digit < 3 && row < rows ? _mm512_loadu_si512(kept.data() + (digit * SIDE + row) * width + s * BYTES)
                                         : _mm512_setzero_si512();
        }
        transpose(r);
        for (int64_t i = 0; i < SIDE; i++) _mm512_storeu_si512(tile + i * BYTES, r[i]);
      }
  }
  return to;
}

// Adds the products of a tile of weights with TILES tiles of digits, of one group of rows or of two.
template <int TILES>
inline void add_digits(const void* w, int64_t stride, const char* x, int64_t next_group) {
  _tile_loadd(6, w, stride);
  _tile_loadd(7, x, BYTES);
  _tile_dpbssd(0, 6, 7);
  if (TILES > 1) {
    _tile_loadd(7, x + NUMBERS, BYTES);
    _tile_dpbssd(1, 6, 7);
  }
  if (TILES > 2) {
    _tile_loadd(7, x + 2 * NUMBERS, BYTES);
    _tile_dpbssd(2, 6, 7);
  }
  if (TILES > 3) {
    _tile_loadd(7, x + next_group, BYTES);
    _tile_dpbssd(3, 6, 7);
    _tile_loadd(7, x + next_group + NUMBERS, BYTES);
    _tile_dpbssd(4, 6, 7);
    _tile_loadd(7, x + next_group + 2 * NUMBERS, BYTES);
    _tile_dpbssd(5, 6, 7);
  }
}

template <int TILES>
inline void clear_sums() {
  _tile_zero(0);
  if (TILES > 1) _tile_zero(1);
  if (TILES > 2) _tile_zero(2);
  if (TILES > 3) {
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
  }
}

template <int TILES>
inline void store_sums(int32_t* sums) {
  constexpr int64_t SQUARE = SIDE * SIDE;
  _tile_stored(0, sums, BYTES);
  if (TILES > 1) _tile_stored(1, sums + SQUARE, BYTES);
  if (TILES > 2) _tile_stored(2, sums + 2 * SQUARE, BYTES);
  if (TILES > 3) {
    _tile_stored(3, sums + 3 * SQUARE, BYTES);
    _tile_stored(4, sums + 4 * SQUARE, BYTES);
    _tile_stored(5, sums + 5 * SQUARE, BYTES);
  }
}

// What 16 outputs of a group of rows come to, from the sums of their digits.
inline void keep_digits(const Linear& a, const int32_t* sums, const Head& head, int64_t row, int64_t j, int64_t n) {
  alignas(64) float all[SIDE * SIDE];
  const __m512 s = _mm512_loadu_ps(head.s), last = _mm512_loadu_ps(head.last);
  for (int64_t o = 0; o < SIDE; o++) {
    const __m512 scale = _mm512_set1_ps(o < n ? a.scale[j + o] : 0.f);
    const __m512i first = _mm512_load_si512(sums + o * SIDE);
    const int32_t* next = sums + SIDE * SIDE + o * SIDE;
    __m512i second, third;
    if (head.tiles == 1) {
      second = _mm512_alignr_epi32(first, first, 5), third = _mm512_alignr_epi32(first, first, 10);
    } else if (head.tiles == 2) {
      second = _mm512_alignr_epi32(first, first, 8), third = _mm512_load_si512(next);
    } else {
      second = _mm512_load_si512(next), third = _mm512_load_si512(next + SIDE * SIDE);
    }
    const __m512 low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second), _mm512_set1_ps(256.f), _mm512_cvtepi32_ps(third));
    const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first), _mm512_set1_ps(65536.f), low);
    _mm512_store_ps(all + o * SIDE, _mm512_mul_ps(_mm512_mul_ps(sum, _mm512_mul_ps(s, scale)), last));
  }
  keep(a, all, row, j, n);
}

template <int TILES>
void few_rows8(const Linear& a, const char* packed, int64_t group, int64_t n0, int64_t n1) {
  configure();
  alignas(64) int32_t sums[6 * SIDE * SIDE];
  alignas(64) int8_t copied[NUMBERS];
  constexpr int64_t EACH = TILES > 3 ? 3 : TILES;
  const int64_t steps = steps8(a), whole = a.k / BYTES, next_group = bytes_of_group(a, EACH);
  packed += group * next_group;
  const char* x = packed + sizeof(Head);
  const int8_t* w = static_cast<const int8_t*>(a.w);
  fetch_begin(w + n0 * a.k, (n1 - n0) * a.k);
  for (int64_t j = n0; j < n1; j += SIDE) {
    const int64_t n = std::min(SIDE, n1 - j);
    const int8_t* at = w + j * a.k;
    const int64_t in_place = n == SIDE ? whole : 0;
    const char* ahead = reinterpret_cast<const char*>(at) + AHEAD;
    clear_sums<TILES>();
    for (int64_t s = 0; s < in_place; s++, ahead += NUMBERS) {
      for (int64_t line = 0; line < SIDE; line++) __builtin_prefetch(ahead + line * 64, 0, 2);
      add_digits<TILES>(at + s * BYTES, a.k, x + s * EACH * NUMBERS, next_group);
    }
    for (int64_t s = in_place; s < steps; s++) {
      const int64_t left = a.k - s * BYTES;
      const __mmask64 some = left >= BYTES ? ~__mmask64(0) : __mmask64((uint64_t(1) << left) - 1);
      for (int64_t i = 0; i < SIDE; i++)
        _mm512_store_si512(copied + i * BYTES, i < n ? _mm512_maskz_loadu_epi8(some, at + i * a.k + s * BYTES) : _mm512_setzero_si512());
      asm volatile("" ::: "memory");
      add_digits<TILES>(copied, BYTES, x + s * EACH * NUMBERS, next_group);
      asm volatile("" ::: "memory");
    }
    store_sums<TILES>(sums);
    for (int64_t g = 0; g < (TILES > 3 ? 2 : 1); g++) {
      const Head& head = *reinterpret_cast<const Head*>(packed + g * next_group);
      keep_digits(a, sums + g * 3 * SIDE * SIDE, head, (group + g) * SIDE, j, n);
    }
  }
  _tile_release();
}

void linear8(const Linear& a, int64_t n0, int64_t n1) {
  const char* packed = reinterpret_cast<const char*>(a.packed);
  const int64_t tiles = reinterpret_cast<const Head*>(packed)->tiles;
  packed += a.row_from / SIDE * bytes_of_group(a, tiles);
  for (int64_t group = 0; group * SIDE < a.m; group += 2)
    if ((group + 1) * SIDE < a.m) few_rows8<6>(a, packed, group, n0, n1);
    else if (tiles == 1) few_rows8<1>(a, packed, group, n0, n1);
    else if (tiles == 2) few_rows8<2>(a, packed, group, n0, n1);
    else few_rows8<3>(a, packed, group, n0, n1);
}

// ---- many rows: each thread packs the weights of some outputs ----

void matmul(const Linear& a, int64_t n0, int64_t n1) {
  static thread_local std::vector<uint16_t> kept;
  const int64_t steps = steps_of(a), groups = ceiling(a.m, SIDE), next = steps * TILE, line = 64 / sizeof(uint16_t);
  if (int64_t(kept.size()) < STRIP / SIDE * steps * TILE + line) kept.resize(STRIP / SIDE * steps * TILE + line);
  uint16_t* weights = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(kept.data()) + 63) / 64 * 64);
  const uint16_t* x = reinterpret_cast<const uint16_t*>(a.packed);
  configure();
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
  // Asked for last: Linux then gives every thread room for the tiles.
  static const bool may = may_use(Level::ALL) && avx512_kernels()->runs_here() && [] {
    constexpr unsigned TILES = 1u << 24, BF16 = 1u << 22, INT8 = 1u << 25, ALL = TILES | BF16 | INT8;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  }();
  return may;
}

}  // namespace

const Products* amx_products() {
  static const Products products = {packed_floats, pack_few, linear};
  return may_use_tiles() ? &products : nullptr;
}

const Products* amx_whole_products(const Linear& a) {
  static const Products products = {packed_floats8, pack8, linear8};
  const bool fits = a.x && a.w_type == Type::I8 && a.group == a.k && a.k <= MOST_INPUTS;
  return fits && may_use_tiles() ? &products : nullptr;
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
const Products* amx_whole_products(const Linear&) { return nullptr; }
}  // namespace ariel
#endif

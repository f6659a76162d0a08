// The kernels in terms of `Vec`, a register of floats; included once per instruction set, after it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace ariel {
namespace {

constexpr int W = Vec::width;
constexpr int64_t TOP_ROWS = 32;  // whose logits of a few columns `top1` holds at a time
constexpr int64_t COLUMNS = 64;   // weights of so many outputs stay in cache between groups of rows

// Weights of one output as registers of floats. `STEP` inputs are read at a time.
struct Floats {
  static int64_t inputs(const Linear& a) { return a.k; }
  static Vec fma(Vec x, Vec w, Vec sum) { return Vec::fma(x, w, sum); }
};
struct RowF32 : Floats {
  static constexpr int STEP = W;
  const float* p;
  RowF32(const Linear& a, int64_t j) : p(static_cast<const float*>(a.w) + j * a.k) {}
  void at(int64_t i, Vec* out) const { out[0] = Vec::load(p + i); }
  Vec tail(int64_t i, int64_t n) const { return Vec::load_some(p + i, n); }
  const void* place(int64_t i) const { return p + i; }
};
struct RowBF16 : Floats {
  static constexpr int STEP = W;
  const uint16_t* p;
  RowBF16(const Linear& a, int64_t j) : p(static_cast<const uint16_t*>(a.w) + j * a.k) {}
  void at(int64_t i, Vec* out) const { out[0] = Vec::load_bf16(p + i); }
  Vec tail(int64_t i, int64_t n) const {
    uint16_t some[W] = {};
    std::memcpy(some, p + i, n * 2);
    return Vec::load_bf16(some);
  }
  const void* place(int64_t i) const { return p + i; }
};
struct RowI8 : Floats {
  static constexpr int STEP = W;
  const int8_t* p;
  RowI8(const Linear& a, int64_t j) : p(static_cast<const int8_t*>(a.w) + j * a.k) {}
  void at(int64_t i, Vec* out) const { out[0] = Vec::load_i8(p + i); }
  Vec tail(int64_t i, int64_t n) const {
    int8_t some[W] = {};
    std::memcpy(some, p + i, n);
    return Vec::load_i8(some);
  }
  const void* place(int64_t i) const { return p + i; }
};
struct RowI4 : Floats {  // k and groups are multiples of 32, which is one block
  static constexpr int STEP = 32;
  const uint8_t* p;
  RowI4(const Linear& a, int64_t j) : p(static_cast<const uint8_t*>(a.w) + j * (a.k / 2)) {}
  void at(int64_t i, Vec* out) const { Vec::load_i4(p + i / 2, out); }
  Vec tail(int64_t, int64_t) const { return Vec::zero(); }  // there is none
  const void* place(int64_t i) const { return p + i / 2; }
};

// Rows are taken eight at a time, what is left four, two and one at a time. Of such a group the rows
// lie side by side, W inputs of each, with zeros behind the last: rows at a distance of a power of two
// would fall on the same few lines of the first cache.
int64_t up_to_width(int64_t n) { return (n + W - 1) / W * W; }
int64_t packed_floats(const Linear& a) { return a.m * up_to_width(a.k); }

int64_t group_of(int64_t left) { return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

const float* pack(const Linear& a, float* to) {
  const int64_t width = up_to_width(a.k);
  if (a.m == 1 && width == a.k) return a.x;  // one whole row lies as it would be packed
  for (int64_t row = 0; row < a.m;) {
    const int64_t M = group_of(a.m - row);
    for (int64_t i = 0; i < M; i++)
      for (int64_t p = 0; p < width; p += W) {
        const int64_t n = std::min<int64_t>(W, a.k - p);
        float* block = to + row * width + p * M + i * W;
        std::memcpy(block, a.x + (row + i) * a.k + p, n * 4);
        std::memset(block + n, 0, (W - n) * 4);
      }
    row += M;
  }
  return to;
}

enum class Scaled { NO, ROW, GROUPS };

// Adds the products of M packed rows of x with N outputs over the inputs [begin, end).
template <int M, int N, class Row>
inline void add_products(const float* x, const Row* w, Fetch& fetch, int64_t begin, int64_t end, Vec (*total)[N]) {
  constexpr int STEP = Row::STEP, PARTS = STEP / W;
  int64_t p = begin;
  for (; p + STEP <= end; p += STEP) {
    Vec wv[N][PARTS];
    for (int o = 0; o < N; o++) w[o].at(p, wv[o]);
    fetch.next(N);
    for (int part = 0; part < PARTS; part++)
      for (int i = 0; i < M; i++) {
        const Vec xv = Vec::load(x + (p + part * W) * M + i * W).pinned();
        for (int o = 0; o < N; o++) total[i][o] = Row::fma(xv, wv[o][part], total[i][o]);
      }
  }
  if (p < end)
    for (int o = 0; o < N; o++) {
      const Vec wv = w[o].tail(p, end - p);
      for (int i = 0; i < M; i++)
        total[i][o] = Row::fma(Vec::load(x + p * M + i * W), wv, total[i][o]);
    }
}

// M rows of x against N outputs from column j on, over some of the inputs. The order of a sum depends
// on nothing but k, so that a row has the same bits whatever rows stand beside it.
template <int M, int N, class Row, Scaled SCALED>
inline void add_tile(const Linear& a, int64_t row, int64_t j, int64_t begin, int64_t end, Vec (*total)[N]) {
  const int64_t inputs = Row::inputs(a);
  const float* x = a.packed + (a.row_from + row) * up_to_width(inputs);
  const Row w[4] = {Row(a, j), Row(a, j + (N > 1)), Row(a, j + 2 * (N > 2)), Row(a, j + 3 * (N > 2))};
  const char* base = static_cast<const char*>(w[0].place(0));
  const int64_t row_bytes = static_cast<const char*>(w[0].place(inputs)) - base;
  // Many rows of x need the first cache for themselves.
  const int64_t most = M >= 8 ? 4096 : 16384;
  Fetch fetch(base, row_bytes, N, static_cast<const char*>(w[0].place(Row::STEP)) - base, most);
  fetch.at += fetch.per_step * (begin / Row::STEP);
  if constexpr (SCALED == Scaled::GROUPS) {
    const int64_t groups = a.k / a.group;
    for (int64_t g = begin / a.group; g < end / a.group; g++) {
      Vec part[M][N];
      for (int i = 0; i < M; i++)
        for (int o = 0; o < N; o++) part[i][o] = Vec::zero();
      add_products<M, N>(x, w, fetch, g * a.group, (g + 1) * a.group, part);
      for (int o = 0; o < N; o++) {
        const Vec s = Vec::all(a.scale[(j + o) * groups + g]);
        for (int i = 0; i < M; i++) total[i][o] = Vec::fma(part[i][o], s, total[i][o]);
      }
    }
  } else {
    add_products<M, N>(x, w, fetch, begin, end, total);
  }
}

template <int M, int N, Scaled SCALED>
inline void finish(const Linear& a, int64_t row, int64_t j, Vec (*total)[N]) {
  if constexpr (SCALED == Scaled::ROW)
    for (int o = 0; o < N; o++) {
      const Vec s = Vec::all(a.scale[j + o]);
      for (int i = 0; i < M; i++) total[i][o] = Vec::mul(total[i][o], s);
    }
  float sums[M * N];
  Vec::sums<M * N>(&total[0][0], sums);
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++) store(a, row + i, j + o, sums[i * N + o]);
}

template <int M, int N, class Row, Scaled SCALED>
inline void tile(const Linear& a, int64_t row, int64_t j) {
  Vec total[M][N];
  for (int i = 0; i < M; i++)
    for (int o = 0; o < N; o++) total[i][o] = Vec::zero();
  add_tile<M, N, Row, SCALED>(a, row, j, 0, Row::inputs(a), total);
  finish<M, N, SCALED>(a, row, j, total);
}

template <int M, class Row, Scaled SCALED>
void columns(const Linear& a, int64_t row, int64_t n0, int64_t n1) {
  constexpr int N = M > 4 ? 2 : 4;  // as many sums as there are registers for
  constexpr int64_t SOME = 16;      // outputs whose unfinished sums are kept between strips
  // Where all inputs of M rows would take more than a quarter of the first cache, so many at a time: the
  // sums go on.
  const int64_t most = 2048 / M, strip = SCALED == Scaled::GROUPS ? std::max(most / a.group, int64_t(1)) * a.group : most;
  const int64_t inputs = Row::inputs(a);
  int64_t j = n0;
  if (M >= 4 && inputs > strip * 3 / 2)
    for (; j + SOME <= n1; j += SOME) {
      Vec kept[SOME / N][M][N];
      for (int64_t begin = 0; begin < inputs; begin += strip)
        for (int64_t t = 0; t < SOME / N; t++) {
          Vec total[M][N];
          for (int i = 0; i < M; i++)
            for (int o = 0; o < N; o++) total[i][o] = begin ? kept[t][i][o] : Vec::zero();
          const int64_t end = std::min(inputs, begin + strip);
          add_tile<M, N, Row, SCALED>(a, row, j + t * N, begin, end, total);
          if (end < inputs) {
            for (int i = 0; i < M; i++)
              for (int o = 0; o < N; o++) kept[t][i][o] = total[i][o];
          } else {
            finish<M, N, SCALED>(a, row, j + t * N, total);
          }
        }
    }
  for (; j + N <= n1; j += N) tile<M, N, Row, SCALED>(a, row, j);
  for (; j < n1; j++) tile<M, 1, Row, SCALED>(a, row, j);
}

template <class Row, Scaled SCALED>
void linear_of(const Linear& a, int64_t n0, int64_t n1) {
  for (int64_t from = n0; from < n1; from += COLUMNS) {
    const int64_t to = std::min(n1, from + COLUMNS);
    for (int64_t row = 0; row < a.m; row += group_of(a.m - row)) switch (group_of(a.m - row)) {
        case 8: columns<8, Row, SCALED>(a, row, from, to); break;
        case 4: columns<4, Row, SCALED>(a, row, from, to); break;
        case 2: columns<2, Row, SCALED>(a, row, from, to); break;
        default: columns<1, Row, SCALED>(a, row, from, to);
      }
  }
}

void linear(const Linear& a, int64_t n0, int64_t n1) {
  const bool groups = a.group < a.k;
  switch (a.w_type) {
    case Type::F32: return linear_of<RowF32, Scaled::NO>(a, n0, n1);
    case Type::BF16: return linear_of<RowBF16, Scaled::NO>(a, n0, n1);
    case Type::I8:
      return groups ? linear_of<RowI8, Scaled::GROUPS>(a, n0, n1) : linear_of<RowI8, Scaled::ROW>(a, n0, n1);
    case Type::I4:
      return groups ? linear_of<RowI4, Scaled::GROUPS>(a, n0, n1) : linear_of<RowI4, Scaled::ROW>(a, n0, n1);
  }
}

// ---- logits of which only the largest and the log-sum-exp are wanted ----

void top1(const Linear& a, const Products& by, float softcap, int64_t n0, int64_t n1, Top* out) {
  float logits[TOP_ROWS * COLUMNS];
  for (int64_t i = 0; i < a.m; i++) out[i] = {-INFINITY, 0.f, int32_t(n0)};
  Linear part = a;
  part.y = logits, part.y_stride = COLUMNS, part.y_type = Type::F32;
  for (int64_t from = n0; from < n1; from += COLUMNS) {
    const int64_t n = std::min(COLUMNS, n1 - from), even = (n + W - 1) / W * W;
    part.y_from = from;
    for (int64_t row = 0; row < a.m; row += TOP_ROWS) {
      part.row_from = row, part.m = std::min(TOP_ROWS, a.m - row);
      by.linear(part, from, from + n);
      for (int64_t i = 0; i < part.m; i++) {
        float* s = logits + i * COLUMNS;
        if (softcap > 0)
          for (int64_t j = 0; j < n; j++) s[j] = softcap * std::tanh(s[j] / softcap);
        for (int64_t j = n; j < even; j++) s[j] = -INFINITY;
        int64_t at = 0;
        bool wrong = false;
        for (int64_t j = 0; j < n; j++) {
          if (s[j] > s[at]) at = j;
          wrong |= s[j] != s[j];
        }
        Top some = {s[at], 0.f, int32_t(from + at)};
        if (wrong) {
          some.sum = NAN;
        } else if (std::isinf(some.top)) {
          some.sum = some.top > 0;
        } else {
          Vec sum = Vec::zero();
          for (int64_t j = 0; j < even; j += W)
            sum = Vec::add(sum, Vec::exp(Vec::sub(Vec::load(s + j), Vec::all(some.top))));
          some.sum = sum.sum();
        }
        out[row + i].add(some);
      }
    }
  }
}

}  // namespace
}  // namespace ariel

#include "attention.h"

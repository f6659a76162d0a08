// Attention of a few queries over the rows of one cache head, in terms of `Vec`; follows body.h.
#pragma once

namespace ariel {
namespace {

// Rows of keys or values of one head.
struct HeadF32 {
  static constexpr bool NARROW = false;
  const float* p;
  int64_t h;
  HeadF32(const void* base, int64_t row0, int64_t h) : p(static_cast<const float*>(base) + row0 * h), h(h) {}
  Vec at(int64_t row, int64_t i) const { return Vec::load(p + row * h + i); }
  Vec tail(int64_t row, int64_t i, int64_t n) const { return Vec::load_some(p + row * h + i, n); }
};
struct HeadBF16 {
  static constexpr bool NARROW = true;
  const uint16_t* p;
  int64_t h;
  HeadBF16(const void* base, int64_t row0, int64_t h) : p(static_cast<const uint16_t*>(base) + row0 * h), h(h) {}
  Vec at(int64_t row, int64_t i) const { return Vec::load_bf16(p + row * h + i); }
  Vec tail(int64_t row, int64_t i, int64_t n) const {
    uint16_t some[W] = {};
    std::memcpy(some, p + row * h + i, n * 2);
    return Vec::load_bf16(some);
  }
};

constexpr float NO_KEY = -1e30f;

// Rows that query `t` of batch row b sees: all of [low, high), and among the last rows (nodes of a
// tree, from `tree` on) those with their bit set.
struct Sight {
  int64_t low, high, tree;
  uint32_t bits;
};
inline Sight sight(const Attention& a, int64_t b, int64_t t) {
  const int64_t length = a.length[b], position = a.q_positions[b * a.t + t];
  const int64_t old = a.seen ? length - a.t : length;
  Sight s;
  s.low = a.window ? std::max<int64_t>(0, position - a.window + 1) : 0;
  s.high = std::max<int64_t>(0, std::min(old, position + 1));
  s.tree = std::max<int64_t>(0, old);
  s.bits = a.seen ? a.seen[t] : 0;
  return s;
}

// What is known of a head, and where its scratch lies: all by block and query.
struct Head {
  int64_t T, G, Q, H, width, row0, first, last;  // rows [first, last) are seen by some query
  float *scores, *outs, *tops, *common, *sums;   // `common` is the top of all blocks

  Head(const Attention& a, int64_t b, int64_t c, float* scratch) : T(a.t), G(a.n_heads / a.n_kv), H(a.h) {
    Q = G * T, width = (H + W - 1) / W * W, row0 = (b * a.n_kv + c) * a.capacity;
    last = std::min<int64_t>(std::max<int64_t>(a.length[b], 0), a.capacity);
    first = last;
    for (int64_t t = 0; t < T; t++) first = std::min(first, sight(a, b, t).low);
    const int64_t blocks = (a.capacity + BLOCK_ROWS - 1) / BLOCK_ROWS;
    scores = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
    outs = scores + blocks * Q * BLOCK_ROWS;
    tops = outs + blocks * Q * width;
    common = tops + blocks * Q;
    sums = common + blocks * Q;
  }
  // Those of `some` in which there is a row to read.
  Blocks seen(Blocks some) const {
    return {std::max(some.from, first / BLOCK_ROWS), std::min(some.to, (last + BLOCK_ROWS - 1) / BLOCK_ROWS)};
  }
  Blocks seen() const { return seen({0, last / BLOCK_ROWS + 1}); }
};

// A multiple of a cache line, and room to begin at one.
int64_t attend_scratch(const Attention& a) {
  const int64_t Q = a.n_heads / a.n_kv * a.t, blocks = (a.capacity + BLOCK_ROWS - 1) / BLOCK_ROWS;
  return (blocks * Q * (BLOCK_ROWS + a.h + W + 3) + 31) / 16 * 16;
}

// M queries against W / M rows from `row` on; SIZE is the head's, or 0 for any. The sum of a product is
// the same whatever M.
template <class Rows, int SIZE, int M>
__attribute__((flatten)) inline void dots(const float* const* q, const Rows& keys, int64_t row, int64_t last, float* to) {
  constexpr int N = W / M;
  const int64_t H = SIZE ? SIZE : keys.h, full = H / W * W;
  Vec sum[M][N];
  for (int n = 0; n < N; n++) {
    const int64_t at = std::min(row + n, last - 1);  // beyond the last it is read again, and hidden later
    for (int m = 0; m < M; m++) sum[m][n] = Vec::zero();
    for (int64_t p = 0; p < full; p += W) {
      const Vec key = keys.at(at, p);
      for (int m = 0; m < M; m++) sum[m][n] = Vec::fma(Vec::load(q[m] + p), key, sum[m][n]);
    }
    if (!SIZE && full < H) {
      const Vec key = keys.tail(at, full, H - full);
      for (int m = 0; m < M; m++) sum[m][n] = Vec::fma(Vec::load_some(q[m] + full, H - full), key, sum[m][n]);
    }
  }
  float found[W];
  Vec::sums<W>(&sum[0][0], found);
  for (int m = 0; m < M; m++) std::memcpy(to + m * BLOCK_ROWS, found + m * N, N * 4);
}

// Hides from query t what it does not see of rows [begin, end), which lie from s on; returns the top.
inline float mask(const Attention& a, int64_t b, int64_t t, int64_t last, int64_t begin, int64_t end, float* s) {
  const Sight seen = sight(a, b, t);
  const Vec scale = Vec::all(a.scale);
  for (int64_t i = 0; i < end - begin; i += W) Vec::mul(Vec::load(s + i), scale).save(s + i);
  if (a.softcap > 0)
    for (int64_t i = 0; i < end - begin; i++) s[i] = a.softcap * std::tanh(s[i] / a.softcap);
  for (int64_t row = begin; row < std::min({seen.low, seen.high, end}); row++) s[row - begin] = NO_KEY;
  for (int64_t row = std::max(begin, std::min(seen.high, last)); row < end; row++) {
    const bool visible = a.seen && row >= seen.tree && row < last && ((seen.bits >> (row - seen.tree)) & 1u);
    if (!visible) s[row - begin] = NO_KEY;
  }
  Vec top = Vec::all(NO_KEY);
  for (int64_t i = 0; i < end - begin; i += W) top = Vec::max(top, Vec::load(s + i));
  return top.largest();
}

constexpr int64_t MANY_QUERIES = 4;  // from which on narrow rows are widened once for all of them

// Products of all queries with keys [begin, end), in groups of W rows; those of a query lie BLOCK_ROWS
// apart.
template <class Rows, int SIZE>
inline void dots_of(const Attention& a, int64_t b, int64_t c, const Head& head, const Rows& keys, int64_t begin,
                    int64_t end, int64_t last, float* s) {
  const float* from = a.q + (b * head.T * a.n_heads + c * head.G) * head.H;
  for (int64_t row = begin; row < end; row += W) {
    float* to = s + row - begin;
    auto all = [&](const auto& rows, int64_t first, int64_t stop) {
      using Read = std::decay_t<decltype(rows)>;
      int64_t q = 0, t = 0, g = 0;
      auto query = [&] {
        const float* at = from + (t * a.n_heads + g) * head.H;
        if (++t == head.T) t = 0, g++;
        return at;
      };
      for (; q + 2 <= head.Q; q += 2) {
        const float* two[2] = {query(), query()};
        dots<Read, SIZE, 2>(two, rows, first, stop, to + q * BLOCK_ROWS);
        dots<Read, SIZE, 2>(two, rows, first + W / 2, stop, to + q * BLOCK_ROWS + W / 2);
      }
      if (q == head.Q) return;
      const float* one[1] = {query()};
      dots<Read, SIZE, 1>(one, rows, first, stop, to + q * BLOCK_ROWS);
    };
    if constexpr (Rows::NARROW && SIZE > 0) {
      if (head.Q >= MANY_QUERIES) {
        alignas(64) float wide[W * SIZE];
        for (int64_t i = 0; i < W; i++)
          for (int64_t p = 0; p < SIZE; p += W) keys.at(std::min(row + i, last - 1), p).save(wide + i * SIZE + p);
        all(HeadF32(wide, 0, SIZE), 0, W);
        continue;
      }
    }
    all(keys, row, last);
  }
}

template <class Rows, int SIZE>
void scores_of(const Attention& a, int64_t b, int64_t c, Blocks some, float* scratch) {
  const Head head(a, b, c, scratch);
  const Rows keys(a.k, head.row0, head.H);
  const Blocks seen = head.seen(some);
  for (int64_t block = seen.from; block < seen.to; block++) {
    const int64_t start = block * BLOCK_ROWS, begin = std::max(start, head.first / W * W);
    const int64_t last = std::min(start + BLOCK_ROWS, head.last), end = begin + (last - begin + W - 1) / W * W;
    float* s = head.scores + block * head.Q * BLOCK_ROWS + begin - start;
    dots_of<Rows, SIZE>(a, b, c, head, keys, begin, end, last, s);
    for (int64_t q = 0; q < head.Q; q++)
      head.tops[block * head.Q + q] = mask(a, b, q % head.T, head.last, begin, end, s + q * BLOCK_ROWS);
  }
}

// exp(score - top) of one query and block, in place, rounded as the product with the values takes them;
// returns their sum, which is not rounded.
template <class Rows>
inline float weights(float top, int64_t n, float* s) {
  Vec sum = Vec::zero();
  for (int64_t i = 0; i < n; i += W) {
    const Vec e = Vec::exp(Vec::sub(Vec::load(s + i), Vec::all(top)));
    sum = Vec::add(sum, e);
    e.save(s + i);
  }
  if (Rows::NARROW)
    for (int64_t i = 0; i < n; i++) {
      uint32_t bits;
      std::memcpy(&bits, s + i, 4);
      bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
      std::memcpy(s + i, &bits, 4);
    }
  return sum.sum();
}

// Sums over rows [from, to) of weight times value, for M queries and C registers of columns from p on.
// The weight of row i is w[i - from].
template <class Rows, int M, int C>
inline void weigh(const float* w, const Rows& values, int64_t from, int64_t to, int64_t p, float* out, int64_t width) {
  Vec sum[M][C];
  for (int m = 0; m < M; m++)
    for (int c = 0; c < C; c++) sum[m][c] = Vec::zero();
  for (int64_t row = from; row < to; row++) {
    Vec value[C];
    for (int c = 0; c < C; c++) value[c] = M > 1 ? values.at(row, p + c * W).pinned() : values.at(row, p + c * W);
    for (int m = 0; m < M; m++) {
      const Vec weight = Vec::all(w[m * BLOCK_ROWS + row - from]);
      for (int c = 0; c < C; c++) sum[m][c] = Vec::fma(weight, value[c], sum[m][c]);
    }
  }
  for (int m = 0; m < M; m++)
    for (int c = 0; c < C; c++) sum[m][c].save(out + m * width + p + c * W);
}

template <class Rows, int M>
inline void weigh_columns(const float* w, const Rows& values, int64_t from, int64_t to, float* out, int64_t width) {
  constexpr int MOST = (W == 16 ? 16 : 8) / M;  // registers for sums, and some are left for values
  const int64_t H = values.h;
  int64_t p = 0;
  if constexpr (MOST >= 8)
    for (; p + 8 * W <= H; p += 8 * W) weigh<Rows, M, 8>(w, values, from, to, p, out, width);
  if constexpr (MOST >= 4)
    for (; p + 4 * W <= H; p += 4 * W) weigh<Rows, M, 4>(w, values, from, to, p, out, width);
  if constexpr (MOST >= 2)
    for (; p + 2 * W <= H; p += 2 * W) weigh<Rows, M, 2>(w, values, from, to, p, out, width);
  for (; p + W <= H; p += W) weigh<Rows, M, 1>(w, values, from, to, p, out, width);
  if (p == H) return;
  for (int m = 0; m < M; m++) {
    Vec sum = Vec::zero();
    for (int64_t row = from; row < to; row++)
      sum = Vec::fma(Vec::all(w[m * BLOCK_ROWS + row - from]), values.tail(row, p, H - p), sum);
    sum.save(out + m * width + p);  // there is room for a whole register
  }
}

template <class Rows>
inline void weigh_all(const Head& head, const float* w, const Rows& values, int64_t from, int64_t to, float* out) {
  int64_t q = 0;
  for (; q + 4 <= head.Q; q += 4)
    weigh_columns<Rows, 4>(w + q * BLOCK_ROWS, values, from, to, out + q * head.width, head.width);
  for (; q + 2 <= head.Q; q += 2)
    weigh_columns<Rows, 2>(w + q * BLOCK_ROWS, values, from, to, out + q * head.width, head.width);
  if (q < head.Q) weigh_columns<Rows, 1>(w + q * BLOCK_ROWS, values, from, to, out + q * head.width, head.width);
}

template <class Rows>
void values_of(const Attention& a, int64_t b, int64_t c, Blocks some, float* scratch) {
  const Head head(a, b, c, scratch);
  const Rows values(a.v, head.row0, head.H);
  const Blocks all = head.seen(), seen = head.seen(some);
  if (seen.from >= seen.to) return;
  float* top = head.common + seen.from * head.Q;  // this part's own copy
  for (int64_t q = 0; q < head.Q; q++) {
    top[q] = NO_KEY / 2;  // so that without a visible row every weight is zero
    for (int64_t block = all.from; block < all.to; block++) top[q] = std::max(top[q], head.tops[block * head.Q + q]);
  }
  for (int64_t block = seen.from; block < seen.to; block++) {
    const int64_t start = block * BLOCK_ROWS, begin = std::max(start, head.first / W * W);
    const int64_t last = std::min(start + BLOCK_ROWS, head.last), end = begin + (last - begin + W - 1) / W * W;
    float* s = head.scores + block * head.Q * BLOCK_ROWS + begin - start;
    float* out = head.outs + block * head.Q * head.width;
    for (int64_t q = 0; q < head.Q; q++)
      head.sums[block * head.Q + q] = weights<Rows>(top[q], end - begin, s + q * BLOCK_ROWS);
    const int64_t from = std::max(begin, head.first);
    weigh_all(head, s + from - begin, values, from, last, out);
  }
}

void attend_scores(const Attention& a, int64_t b, int64_t c, Blocks some, float* scratch) {
  const bool wide = a.kv_type == Type::F32;
  if (a.h == 64) return wide ? scores_of<HeadF32, 64>(a, b, c, some, scratch) : scores_of<HeadBF16, 64>(a, b, c, some, scratch);
  if (a.h == 128) return wide ? scores_of<HeadF32, 128>(a, b, c, some, scratch) : scores_of<HeadBF16, 128>(a, b, c, some, scratch);
  return wide ? scores_of<HeadF32, 0>(a, b, c, some, scratch) : scores_of<HeadBF16, 0>(a, b, c, some, scratch);
}

void attend_values(const Attention& a, int64_t b, int64_t c, Blocks some, float* scratch) {
  return a.kv_type == Type::F32 ? values_of<HeadF32>(a, b, c, some, scratch) : values_of<HeadBF16>(a, b, c, some, scratch);
}

void attend_finish(const Attention& a, int64_t b, int64_t c, float* scratch, float* out, float* lse) {
  const Head head(a, b, c, scratch);
  const Blocks seen = head.seen();
  for (int64_t q = 0; q < head.Q; q++) {
    const int64_t n = c * head.G + q / head.T, t = q % head.T;
    float top = NO_KEY, total = 0;
    for (int64_t block = seen.from; block < seen.to; block++) {
      top = std::max(top, head.tops[block * head.Q + q]);
      total += head.sums[block * head.Q + q];
    }
    lse[(b * a.n_heads + n) * head.T + t] = total > 0 ? top + std::log(total) : NO_KEY;
    float* to = out + ((b * head.T + t) * a.n_heads + n) * head.H;
    for (int64_t p = 0; p < head.H; p++) to[p] = 0;
    for (int64_t block = seen.from; block < seen.to; block++) {
      const float* part = head.outs + (block * head.Q + q) * head.width;
      for (int64_t p = 0; p < head.H; p++) to[p] += part[p];
    }
    const float safe = total > 0 ? total : 1.f;
    for (int64_t p = 0; p < head.H; p++) to[p] /= safe;
  }
}

}  // namespace
}  // namespace ariel

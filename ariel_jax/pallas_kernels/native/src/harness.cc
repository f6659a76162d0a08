// Runs the kernels without Python: against plain loops (also under sanitizers), and timed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "bitset.h"
#include "kernels.h"
#include "pool.h"
#include "sharing.h"

using namespace ariel;

namespace {

std::mt19937 rng(1);
int failures = 0;
int64_t compared = 0, flips = 0, taken[3];

float draw() { return std::normal_distribution<float>()(rng); }
std::vector<float> draws(int64_t n) {
  std::vector<float> some(n);
  for (auto& v : some) v = draw();
  return some;
}
float from_bf16(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

void expect(double ours, double want, double tolerance, const char* what, const char* name, int64_t a, int64_t b, int64_t c) {
  if (std::fabs(ours - want) <= tolerance) return;  // a NaN fails
  if (failures++ < 5)
    std::printf("%s %s %ld %ld %ld: %g for %g\n", name, what, long(a), long(b), long(c), ours, want);
}

int64_t bytes_of(Type type, int64_t n) {
  return type == Type::F32 ? 4 * n : type == Type::BF16 ? 2 * n : type == Type::I8 ? n : n / 2;
}

// Weights of one type, exactly as many bytes as there are: a sanitizer sees a read beyond them (but for those
// of tiles, which it cannot see).
struct Weights {
  std::vector<uint8_t> raw;
  std::vector<float> scale;
  std::vector<double> exact;
  Weights(Type type, int64_t n, int64_t k, int64_t group) : raw(bytes_of(type, n * k)), exact(n * k) {
    for (int64_t i = 0; i < n * (k / group); i++) scale.push_back(0.01f + std::fabs(draw()) * 0.01f);
    for (int64_t j = 0; j < n; j++)
      for (int64_t p = 0; p < k; p++) {
        const int64_t at = j * k + p;
        const float w = draw();
        const double s = scale[j * (k / group) + p / group];
        if (type == Type::F32) std::memcpy(&raw[at * 4], &w, 4), exact[at] = w;
        if (type == Type::BF16) {
          const uint16_t h = to_bf16(w);
          std::memcpy(&raw[at * 2], &h, 2), exact[at] = from_bf16(h);
        }
        if (type == Type::I8) {
          const int q = int(w * 40) % 128;
          raw[at] = uint8_t(int8_t(q)), exact[at] = q * s;
        }
        if (type == Type::I4) {
          const int q = ((int(w * 4) % 8) + 8) % 16;
          uint8_t& byte = raw[j * (k / 2) + p / 32 * 16 + p % 16];
          byte = p % 32 < 16 ? uint8_t(q) : uint8_t(byte | (q << 4));
          exact[at] = (q - 8) * s;
        }
      }
  }
};

// By the products that every instruction set has, or by those that are taken instead where there are.
enum class By { PLAIN, REGISTERS, TILES };
void check_products(const Kernels& kernels, By which, Type type, int64_t m, int64_t k, int64_t n, int64_t group) {
  auto x = draws(m * k);
  const auto bias = draws(n);
  std::vector<uint16_t> x16;
  if (which != By::PLAIN && type == Type::BF16)
    for (auto& v : x) x16.push_back(to_bf16(v)), v = from_bf16(x16.back());
  const Weights w(type, n, k, group);
  std::vector<float> y(m * n);
  Linear a{};
  a.x = x.data(), a.w = w.raw.data(), a.scale = w.scale.data(), a.bias = bias.data(), a.y = y.data();
  a.m = m, a.k = k, a.n = a.y_stride = n, a.group = group, a.w_type = type, a.y_type = Type::F32;
  a.x16 = x16.empty() ? nullptr : x16.data();
  const Products* by = &kernels.products;
  if (which == By::REGISTERS) by = type == Type::BF16 ? avx512_bf16_products(a) : vnni_products(a);
  if (which == By::TILES) by = type == Type::BF16 ? amx_products() : amx_whole_products(a);
  if (!by) return;
  taken[int(which)]++;
  std::vector<float> packed(by->packed_floats(a));
  a.packed = by->pack(a, packed.data());
  parallel((n + 15) / 16, [&](int64_t i) { by->linear(a, i * 16, std::min(n, i * 16 + 16)); });
  std::vector<double> want(m * n);
  double scale = 1;
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < k; p++) {
        sum += double(x[i * k + p]) * w.exact[j * k + p];
        size += std::fabs(double(x[i * k + p]) * w.exact[j * k + p]);
      }
      want[i * n + j] = sum + bias[j];
      scale = std::max(scale, size);
      expect(y[i * n + j], sum + bias[j], 1e-5 * (1 + size), "linear", kernels.name, m, k, n);
    }
  std::vector<Top> top(m);
  kernels.top1(a, *by, 0.f, 0, n, top.data());
  for (int64_t i = 0; i < m; i++) {
    double most = want[i * n], sum = 0;
    for (int64_t j = 0; j < n; j++) most = std::max(most, want[i * n + j]);
    for (int64_t j = 0; j < n; j++) sum += std::exp(want[i * n + j] - most);
    expect(top[i].top, most, 1e-5 * scale, "top", kernels.name, m, k, n);
    expect(top[i].top + std::log(top[i].sum), most + std::log(sum), 2e-5 * scale, "lse", kernels.name, m, k, n);
    expect(want[i * n + top[i].index], most, 2e-5 * scale, "index", kernels.name, m, k, n);
  }
}

void check_many_rows(const ManyRows& use, const char* name, int64_t m, int64_t k, int64_t n) {
  const auto bias = draws(n);
  const Weights w(Type::BF16, n, k, k);
  std::vector<uint16_t> x(m * k);
  for (auto& v : x) v = to_bf16(draw());
  std::vector<float> y(m * n);
  Linear a{};
  a.x16 = x.data(), a.w = w.raw.data(), a.bias = bias.data(), a.y = y.data();
  a.m = m, a.k = k, a.n = a.y_stride = n, a.w_type = Type::BF16, a.y_type = Type::F32;
  multiply(use, a);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = bias[j], size = 0;
      for (int64_t p = 0; p < k; p++) {
        sum += double(from_bf16(x[i * k + p])) * w.exact[j * k + p];
        size += std::fabs(double(from_bf16(x[i * k + p])) * w.exact[j * k + p]);
      }
      expect(y[i * n + j], sum, 1e-5 * (1 + size), "many rows", name, m, k, n);
    }
  // In bfloat16: the same sums, rounded.
  std::vector<uint16_t> y16(m * n);
  a.y = y16.data(), a.y_type = Type::BF16;
  multiply(use, a);
  for (int64_t i = 0; i < m * n; i++) expect(y16[i], to_bf16(y[i]), 0, "many rows rounded", name, m, k, n);
}

struct Case {
  int64_t t, heads, kv_heads, h, capacity, length, window;
  float softcap;
  bool tree;
};

// The queries of a case, and what they attend to.
struct Attended {
  Weights keys, values;
  std::vector<float> q, out, lse;
  std::vector<int32_t> positions;
  std::vector<uint32_t> bits;
  int32_t length;
  Attention a;

  Attended(Type type, const Case& c)
      : keys(type, c.kv_heads * c.capacity, c.h, c.h), values(type, c.kv_heads * c.capacity, c.h, c.h),
        q(draws(c.t * c.heads * c.h)), out(q.size()), lse(c.t * c.heads), positions(c.t), bits(c.t), length(int32_t(c.length)) {
    for (int64_t i = 0; i < c.t; i++)
      positions[i] = int32_t(c.length - c.t + i), bits[i] = i % 2 ? (1u << i) | 1u : 1u << i;
    a = {q.data(), keys.raw.data(), values.raw.data(), &length, positions.data(), c.tree ? bits.data() : nullptr,
         1, c.t, c.heads, c.kv_heads, c.capacity, c.h, 0.3f, c.softcap, c.window, type};
  }
};

// The scores that query `at` of head n sees; minus infinity where it sees nothing.
std::vector<double> scores_of(const Attended& x, int64_t n, int64_t at) {
  const Attention& a = x.a;
  std::vector<double> score(x.length, -INFINITY);
  for (int64_t row = 0; row < x.length; row++) {
    const bool old = row < (a.seen ? x.length - a.t : x.length) && row <= x.positions[at];
    const bool seen = a.seen && row >= x.length - a.t && ((x.bits[at] >> (row - x.length + a.t)) & 1u);
    const bool near = !a.window || row > x.positions[at] - a.window;
    if (!((old && near) || seen)) continue;
    const int64_t key = (n / (a.n_heads / a.n_kv) * a.capacity + row) * a.h;
    double s = 0;
    for (int64_t p = 0; p < a.h; p++) s += double(x.q[(at * a.n_heads + n) * a.h + p]) * x.keys.exact[key + p];
    s *= 0.3f;
    score[row] = a.softcap > 0 ? a.softcap * std::tanh(s / a.softcap) : s;
  }
  return score;
}

void check_attention(const Kernels& kernels, Type type, const Case& c) {
  Attended x(type, c);
  const Attention& a = x.a;
  attend(kernels, a, x.out.data(), x.lse.data());
  // Of bfloat16 values the weights are rounded; one beside the middle of two numbers may go the other way.
  const double flip = type == Type::BF16 ? 1. / 128 : 0;
  for (int64_t n = 0; n < a.n_heads; n++)
    for (int64_t at = 0; at < a.t; at++) {
      const auto score = scores_of(x, n, at);
      double top = -INFINITY, total = 0;
      for (double s : score) top = std::max(top, s);
      std::vector<double> weight;
      for (double s : score) {
        const double w = std::exp(s - top);
        total += w;
        weight.push_back(type == Type::BF16 ? from_bf16(to_bf16(float(w))) : w);
      }
      expect(x.lse[n * a.t + at], top + std::log(total), 1e-4, "attention lse", kernels.name, a.t, a.h, a.capacity);
      for (int64_t p = 0; p < a.h; p++) {
        double sum = 0, most = 0;
        for (int64_t row = 0; row < x.length; row++) {
          const double part = weight[row] / total * x.values.exact[(n / (a.n_heads / a.n_kv) * a.capacity + row) * a.h + p];
          sum += part, most = std::max(most, std::fabs(part));
        }
        const double error = std::fabs(x.out[(at * a.n_heads + n) * a.h + p] - sum);
        if (error > 2e-5) flips++;
        expect(error, 0, 2e-5 + flip * most, "attention", kernels.name, a.t, a.h, a.capacity);
        compared++;
      }
    }
  // In parts, and each query alone: the same bits.
  std::vector<float> scratch(kernels.attend_scratch(a)), out(x.out.size()), lse(x.lse.size());
  const int64_t blocks = (c.capacity + BLOCK_ROWS - 1) / BLOCK_ROWS;
  for (int64_t head = 0; head < a.n_kv; head++) {
    for (auto step : {kernels.attend_scores, kernels.attend_values})
      for (int64_t i = blocks - 1; i >= 0; i--) step(a, 0, head, {i, i + 1}, scratch.data());
    kernels.attend_finish(a, 0, head, scratch.data(), out.data(), lse.data());
  }
  expect(out == x.out && lse == x.lse, true, 0, "parts", kernels.name, a.t, a.h, a.capacity);
  if (c.tree) return;  // a query alone would be another tree
  for (int64_t at = 0; at < a.t; at++) {
    Attention one = a;
    one.t = 1, one.q = a.q + at * a.n_heads * a.h, one.q_positions = a.q_positions + at;
    attend(kernels, one, out.data(), lse.data());
    bool same = std::equal(out.begin(), out.begin() + a.n_heads * a.h, x.out.begin() + at * a.n_heads * a.h);
    for (int64_t n = 0; n < a.n_heads; n++) same &= lse[n] == x.lse[n * a.t + at];
    expect(same, true, 0, "alone", kernels.name, a.t, a.h, a.capacity);
  }
}

void check_attentions(const Kernels& kernels) {
  compared = flips = 0;
  for (Type type : {Type::F32, Type::BF16})
    for (int64_t t : {1, 2, 5, 8})
      for (int64_t h : {1, 9, 16, 40, 64, 128})
        for (int64_t capacity : {8, 17, 100, 300})
          for (int64_t window : {0, 3, 140})
            for (bool tree : {false, true}) {
              if (h < 40 && capacity == 300) continue;
              const int64_t length = std::max<int64_t>(t, capacity == 300 ? 300 : capacity * 2 / 3);
              check_attention(kernels, type, {t, 6, 2, h, capacity, length, window, window == 3 ? 5.f : 0.f, tree});
              if (window == 0) check_attention(kernels, type, {t, 2, 2, h, capacity, length, 0, 0.f, tree});
            }
  expect(double(flips) / double(compared), 0, 0.01, "weights rounded the other way", kernels.name, flips, compared, 0);
}

// Memory that begins at a cache line, as XLA's does.
template <class T>
struct Lines {
  std::vector<T> all;
  T* at;
  Lines(size_t n, T value) : all(n + 64 / sizeof(T), value) {
    at = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(all.data()) + 63) / 64 * 64);
  }
};

double seconds_of(int rounds, const std::function<void()>& work) {
  double best = 1e9;
  for (int round = 0; round < rounds; round++) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

void time_products(const Kernels& kernels, Type type, int64_t m, int64_t k, int64_t n) {
  const double bytes = double(bytes_of(type, n * k));
  const int copies = int(3e8 / bytes) + 1;
  Lines<uint8_t> w(size_t(bytes) * copies, 1);
  Lines<float> x(m * k, 1.f), packed((m + 16) * (4 * k + 1024), 0.f), scale(n * k / 32, 1.f), y(m * n, 0.f);
  const Lines<uint16_t> x16(m * k, 0x3f80);
  const double s = seconds_of(5, [&] {
    for (int c = 0; c < copies; c++) {
      Linear a{};
      a.x = x.at, a.w = w.at + size_t(bytes) * c, a.scale = scale.at, a.y = y.at;
      a.m = m, a.k = k, a.n = a.y_stride = n, a.group = type == Type::I4 ? 64 : k, a.w_type = type;
      a.x16 = type == Type::BF16 ? x16.at : nullptr;
      const Products* by = bf16_products(a);
      if (!by) by = whole_products(a);
      if (!by) by = &kernels.products;
      a.packed = by->pack(a, packed.at);
      parallel((n + 63) / 64, [&](int64_t i) { by->linear(a, i * 64, std::min(n, i * 64 + 64)); });
    }
  }) / copies;
  std::printf("%ldx%ld type %d m=%ld: %.3f ms %.1f GB/s\n", long(k), long(n), int(type), long(m), s * 1e3, bytes / s / 1e9);
}

// A small product while the helpers still look for work, and after they have fallen asleep.
void time_states(const Kernels& kernels) {
  constexpr int64_t k = 256, n = 768, calls = 400;
  Lines<float> x(k, 1.f), w(n * k, 1.f), y(n, 0.f);
  Linear a{};
  a.x = x.at, a.w = w.at, a.y = y.at, a.m = 1, a.k = k, a.n = a.y_stride = n, a.group = k;
  a.w_type = a.y_type = Type::F32;
  a.packed = kernels.products.pack(a, nullptr);
  for (int64_t pause_us : {0, 1000}) {
    std::vector<double> seconds;
    for (int64_t call = 0; call < calls; call++) {
      if (pause_us) std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
      seconds.push_back(seconds_of(1, [&] {
        parallel(n / 64, [&](int64_t i) { kernels.products.linear(a, i * 64, i * 64 + 64); });
      }));
    }
    std::sort(seconds.begin(), seconds.end());
    std::printf("%ldx%ld float32 m=1, helpers %s: median %.1f us, 9 of 10 below %.1f us\n", long(k), long(n),
                pause_us ? "asleep" : "awake", seconds[calls / 2] * 1e6, seconds[calls * 9 / 10] * 1e6);
  }
}

void time_many_rows(const ManyRows& use, const char* name, int64_t m, int64_t k, int64_t n) {
  Lines<uint16_t> x(m * k, 0x3f80), w(n * k, 0x3f80), y(m * n, 0);
  const double s = seconds_of(5, [&] {
    Linear a{};
    a.x16 = x.at, a.w = w.at, a.y = y.at;
    a.m = m, a.k = k, a.n = a.y_stride = n, a.w_type = a.y_type = Type::BF16;
    multiply(use, a);
  });
  std::printf("%ldx%ld bf16 %s m=%ld: %.3f ms %.0f GFLOP/s\n", long(k), long(n), name, long(m), s * 1e3, 2.0 * m * n * k / s / 1e9);
}

// Caches of several layers one after the other, as a step of decoding reads them; only valid rows are
// touched, so that they cost no memory beyond.
void time_attention(const Kernels& kernels, Type type, int64_t t, int64_t heads, int64_t kv_heads, int64_t capacity, int64_t valid) {
  const int64_t h = 64, size = bytes_of(type, 1);
  const size_t leaf = size_t(kv_heads * capacity * h * size);
  const double bytes = 2. * double(kv_heads * valid * h * size);
  const int layers = std::max(2, std::min(int(1.5e8 / bytes) + 1, 200));
  std::unique_ptr<uint8_t[]> memory(new uint8_t[leaf * 2 * layers + 64]);
  uint8_t* at = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
  for (int64_t i = 0; i < 2 * layers * kv_heads; i++)
    std::memset(at + i * capacity * h * size, 0x3d, size_t(valid * h * size));
  Lines<float> q(t * heads * h, 0.1f), out(t * heads * h, 0.f), lse(t * heads, 0.f);
  const int32_t length = int32_t(valid);
  std::vector<int32_t> positions(t);
  for (int64_t i = 0; i < t; i++) positions[i] = int32_t(valid - t + i);
  const double s = seconds_of(7, [&] {
    for (int i = 0; i < layers; i++) {
      const Attention a{q.at, at + 2 * i * leaf, at + (2 * i + 1) * leaf, &length, positions.data(), nullptr,
                        1, t, heads, kv_heads, capacity, h, 0.125f, 0.f, 0, type};
      attend(kernels, a, out.at, lse.at);
    }
  }) / layers;
  std::printf("attention %ld/%ld heads, %ld of %ld rows, type %d t=%ld: %.3f ms %.1f GB/s %.0f GFLOP/s\n", long(heads),
              long(kv_heads), long(valid), long(capacity), int(type), long(t), s * 1e3, bytes / s / 1e9,
              4. * double(t * heads * valid * h) / s / 1e9);
}

void time_attentions(const Kernels& kernels) {
  for (auto heads : {std::pair<int64_t, int64_t>{12, 12}, {3, 3}, {32, 8}})
    for (Type type : {Type::F32, Type::BF16})
      for (int64_t t : {1, 8})
        for (auto rows : {std::pair<int64_t, int64_t>{320, 300}, {4096, 300}, {1024, 900}, {4096, 3584}})
          time_attention(kernels, type, t, heads.first, heads.second, rows.first, rows.second);
}

}  // namespace

// Premises as bits, one bit at a time.
void check_bits(JudgeBits judge, const char* name) {
  for (int64_t slots : {1, 3, 4, 6, 7})
    for (int64_t words : {1, 2, 5, 16, 17, 32, 40, 64, 65, 130}) {
      const int64_t rows = 5, n = 40;
      std::vector<uint32_t> table(slots * rows * words), yes(words), no(words);
      std::vector<int32_t> asked(n * slots), found(4 * n);
      for (auto& x : table) x = std::rand() | std::rand() << 1;
      for (auto& x : yes) x = std::rand(), no[&x - yes.data()] = ~x & std::rand();
      if (words % 2)  // kinds side by side, the second in front
        for (int64_t w = 0; w < words; w++) (w < words / 2 ? yes : no)[w] = 0;
      for (auto& x : asked) x = std::rand() % (rows + 1) - (std::rand() % 9 == 0);
      const Bits a{table.data(), asked.data(), yes.data(), no.data(), &found[0], &found[n], &found[2 * n], &found[3 * n], slots, rows, words};
      judge(a, 0, n / 2), judge(a, n / 2, n);
      for (int64_t i = 0; i < n; i++) {
        int32_t expected[4] = {0, 0, -1, -1};
        for (int32_t bit = 0; bit < words * 32; bit++) {
          bool covers = true;
          for (int64_t k = 0; k < slots; k++) {
            const int32_t row = asked[i * slots + k];
            covers = covers && row >= 0 && row < rows && table[(k * rows + row) * words + bit / 32] >> (bit % 32) & 1;
          }
          for (int kind = 0; kind < 2; kind++)
            if (covers && (kind ? no : yes)[bit / 32] >> (bit % 32) & 1) {
              expected[kind]++;
              if (expected[2 + kind] < 0) expected[2 + kind] = bit;
            }
        }
        for (int j = 0; j < 4; j++)
          if (found[j * n + i] != expected[j]) {
            std::printf("%s: bits of request %ld, %ld slots, %ld words: %d, not %d\n", name, long(i), long(slots), long(words), found[j * n + i], expected[j]);
            failures++;
          }
      }
    }
  std::printf("bits by %s checked, %d failures\n", name, failures);
}

int main(int argc, char**) {
  for (const Kernels* kernels : {generic_kernels(), avx2_kernels(), avx512_kernels()}) {
    if (!kernels || !kernels->runs_here()) continue;
    for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
      for (int64_t m : {1, 2, 3, 5, 8, 17, 32, 33, 40})
        for (int64_t k : {1, 7, 31, 32, 37, 63, 96, 128, 160, 1696, 2112})
          for (int64_t n : {1, 2, 7, 67, 130}) {
            if (type == Type::I4 && k % 32) continue;
            for (By by : {By::PLAIN, By::REGISTERS, By::TILES}) {
              if (by != By::PLAIN && kernels != avx512_kernels()) continue;
              check_products(*kernels, by, type, m, k, n, k);
              for (int64_t group : {32, 64, 128})
                if ((type == Type::I4 || type == Type::I8) && k % group == 0) check_products(*kernels, by, type, m, k, n, group);
            }
          }
    check_attentions(*kernels);
    std::printf("%s checked, %d failures; products in registers %ld, by tiles %ld\n", kernels->name, failures,
                long(taken[1]), long(taken[2]));
  }
  const std::pair<const char*, const ManyRows*> many[] = {{"avx512", avx512_many_rows()}, {"amx", amx_many_rows()}};
  for (auto [name, use] : many) {
    if (!use) continue;
    for (int64_t m : {1, 33, 40, 65})
      for (int64_t k : {1, 31, 32, 100, 1024, 1100})
        for (int64_t n : {1, 3, 64, 67, 130}) check_many_rows(*use, name, m, k, n);
    std::printf("many rows by %s checked, %d failures\n", name, failures);
  }
  check_bits(judge_bits, "any processor");
  if (avx512_judge_bits()) check_bits(avx512_judge_bits(), "avx512");
  if (argc > 1) {
    time_states(*avx512_kernels());
    time_attentions(*avx512_kernels());
    for (auto shape : {std::pair<int64_t, int64_t>{2048, 8192}, {8192, 2048}, {768, 3072}, {256, 768}}) {
      for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
        for (int64_t m : {1, 2, 4, 8}) time_products(*avx512_kernels(), type, m, shape.first, shape.second);
      for (auto [name, use] : many)
        for (int64_t m : {16, 32, 512})
          if (use) time_many_rows(*use, name, m, shape.first, shape.second);
    }
  }
  return failures != 0;
}

// Runs the kernels without Python: against plain loops (also under sanitizers), and timed.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels.h"
#include "pool.h"

using namespace ariel;

namespace {

std::mt19937 rng(1);
int failures = 0;

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

// Weights of one type, exactly as many bytes as there are: a sanitizer sees a read beyond them.
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

// `fast`: by the products that are taken instead where the processor has them.
void check_products(const Kernels& kernels, bool fast, Type type, int64_t m, int64_t k, int64_t n, int64_t group) {
  auto x = draws(m * k);
  const auto bias = draws(n);
  std::vector<uint16_t> x16;
  if (fast && type == Type::BF16)
    for (auto& v : x) x16.push_back(to_bf16(v)), v = from_bf16(x16.back());
  const Weights w(type, n, k, group);
  std::vector<float> y(m * n);
  Linear a{};
  a.x = x.data(), a.w = w.raw.data(), a.scale = w.scale.data(), a.bias = bias.data(), a.y = y.data();
  a.m = m, a.k = k, a.n = a.y_stride = n, a.group = group, a.w_type = type, a.y_type = Type::F32;
  a.x16 = x16.empty() ? nullptr : x16.data();
  const Products* by = fast ? bf16_products(a) : &kernels.products;
  if (!by) by = whole_products(a);
  if (!by) return;
  std::vector<float> packed(by->packed_floats(a));
  a.packed = by->pack(a, packed.data());
  if (!a.packed) return void(failures++);
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

void check_many_rows(int64_t m, int64_t k, int64_t n) {
  const Matmul matmul = bf16_matmul();
  if (!matmul) return;
  const auto bias = draws(n);
  const Weights w(Type::BF16, n, k, k);
  std::vector<uint16_t> x(m * k);
  for (auto& v : x) v = to_bf16(draw());
  std::vector<float> y(m * n);
  Linear a{};
  a.x16 = x.data(), a.w = w.raw.data(), a.bias = bias.data(), a.y = y.data();
  a.m = m, a.k = k, a.n = a.y_stride = n, a.w_type = Type::BF16, a.y_type = Type::F32;
  parallel((n + 63) / 64, [&](int64_t i) { matmul(a, i * 64, std::min(n, i * 64 + 64)); });
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = bias[j], size = 0;
      for (int64_t p = 0; p < k; p++) {
        sum += double(from_bf16(x[i * k + p])) * w.exact[j * k + p];
        size += std::fabs(double(from_bf16(x[i * k + p])) * w.exact[j * k + p]);
      }
      expect(y[i * n + j], sum, 1e-5 * (1 + size), "many rows", "bf16", m, k, n);
    }
}

void check_attention(const Kernels& kernels, Type type, int64_t t, int64_t h, int64_t capacity, int64_t window, float softcap, bool tree) {
  const int64_t N = 6, K = 2, G = N / K;
  const Weights keys(type, K * capacity, h, h), values(type, K * capacity, h, h);
  const auto q = draws(t * N * h);
  const int32_t length = int32_t(std::max<int64_t>(t, capacity * 2 / 3));
  std::vector<int32_t> positions(t);
  std::vector<uint32_t> bits(t);
  for (int64_t i = 0; i < t; i++) positions[i] = int32_t(length - t + i), bits[i] = i % 2 ? (1u << i) | 1u : 1u << i;
  Attention a{q.data(), keys.raw.data(), values.raw.data(), &length, positions.data(), tree ? bits.data() : nullptr,
              1, t, N, K, capacity, h, 0.3f, softcap, window, type};
  std::vector<float> scratch(kernels.attend_scratch(a)), out(G * t * h), lse(G * t);
  for (int64_t c = 0; c < K; c++) {
    kernels.attend(a, 0, c, 0, capacity, scratch.data(), out.data(), lse.data());
    for (int64_t i = 0; i < G * t; i++) {
      const int64_t n = c * G + i / t, at = i % t;
      std::vector<double> score(length, -INFINITY);
      double top = -INFINITY, total = 0;
      for (int64_t row = 0; row < length; row++) {
        const bool old = row < (tree ? length - t : length) && row <= positions[at];
        const bool seen = tree && row >= length - t && ((bits[at] >> (row - length + t)) & 1u);
        const bool near = !window || row > positions[at] - window;
        if (!((old && near) || seen)) continue;
        double s = 0;
        for (int64_t p = 0; p < h; p++) s += double(q[(at * N + n) * h + p]) * keys.exact[(c * capacity + row) * h + p];
        s *= 0.3f;
        if (softcap > 0) s = softcap * std::tanh(s / softcap);
        score[row] = s, top = std::max(top, s);
      }
      for (double s : score) total += std::exp(s - top);
      expect(lse[i], top + std::log(total), 1e-3, "attention lse", kernels.name, t, h, capacity);
      for (int64_t p = 0; p < h; p++) {
        double sum = 0;
        for (int64_t row = 0; row < length; row++)
          sum += std::exp(score[row] - top) / total * values.exact[(c * capacity + row) * h + p];
        expect(out[i * h + p], sum, 1e-3, "attention", kernels.name, t, h, capacity);
      }
    }
  }
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
  Lines<float> x(m * k, 1.f), packed(m * (4 * k + 1024), 0.f), scale(n * k / 32, 1.f), y(m * n, 0.f);
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

void time_many_rows(int64_t m, int64_t k, int64_t n) {
  const Matmul matmul = bf16_matmul();
  if (!matmul) return;
  Lines<uint16_t> x(m * k, 0x3f80), w(n * k, 0x3f80), y(m * n, 0);
  const double s = seconds_of(5, [&] {
    Linear a{};
    a.x16 = x.at, a.w = w.at, a.y = y.at;
    a.m = m, a.k = k, a.n = a.y_stride = n, a.w_type = a.y_type = Type::BF16;
    parallel((n + 63) / 64, [&](int64_t i) { matmul(a, i * 64, std::min(n, i * 64 + 64)); });
  });
  std::printf("%ldx%ld bf16 m=%ld: %.3f ms %.0f GFLOP/s\n", long(k), long(n), long(m), s * 1e3, 2.0 * m * n * k / s / 1e9);
}

}  // namespace

int main(int argc, char**) {
  for (const Kernels* kernels : {generic_kernels(), avx2_kernels(), avx512_kernels()}) {
    if (!kernels || !kernels->runs_here()) continue;
    for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
      for (int64_t m : {1, 2, 3, 5, 8, 17, 32, 33})
        for (int64_t k : {1, 7, 32, 37, 96, 128, 160, 1696, 2112})
          for (int64_t n : {1, 2, 7, 67, 130}) {
            if (type == Type::I4 && k % 32) continue;
            for (bool fast : {false, true}) {
              if (fast && kernels != avx512_kernels()) continue;
              check_products(*kernels, fast, type, m, k, n, k);
              for (int64_t group : {32, 64, 128})
                if ((type == Type::I4 || type == Type::I8) && k % group == 0) check_products(*kernels, fast, type, m, k, n, group);
            }
          }
    for (Type type : {Type::F32, Type::BF16})
      for (int64_t t : {1, 2, 5, 8})
        for (int64_t h : {1, 9, 16, 40, 64})
          for (int64_t capacity : {8, 17, 100})
            for (int64_t window : {0, 3})
              for (bool tree : {false, true})
                check_attention(*kernels, type, t, h, capacity, window, window ? 5.f : 0.f, tree);
    std::printf("%s checked, %d failures\n", kernels->name, failures);
  }
  for (int64_t m : {1, 33, 40, 65})
    for (int64_t k : {1, 31, 32, 100, 1024, 1100})
      for (int64_t n : {1, 3, 64, 67, 130}) check_many_rows(m, k, n);
  std::printf("many rows checked, %d failures\n", failures);
  if (argc > 1) {
    for (auto shape : {std::pair<int64_t, int64_t>{2048, 8192}, {8192, 2048}, {768, 3072}, {256, 768}}) {
      for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
        for (int64_t m : {1, 2, 4, 8}) time_products(*avx512_kernels(), type, m, shape.first, shape.second);
      time_many_rows(512, shape.first, shape.second);
    }
  }
  return failures != 0;
}

// Premises as bits: how many cover a request, and the first that does.
#pragma once
#include <cstdint>

namespace ariel {

// Bit n of row r of slot k says that premise n covers it there.
struct Bits {
  const uint32_t* table;      // [slots, rows, words]
  const int32_t* asked;       // [requests, slots]; a row outside [0, rows) is covered by nothing
  const uint32_t* approving;  // [words]
  const uint32_t* denying;
  int32_t *n_approving, *n_denying;          // [requests]
  int32_t *first_approving, *first_denying;  // [requests], -1: none
  int64_t slots, rows, words;

  // Where the rows of a request lie; false if there is none for a slot. SLOTS: 0 where it is not known.
  template <int SLOTS>
  bool find(int64_t request, const uint32_t** to) const {
    const int64_t n = SLOTS ? SLOTS : slots;
    const int32_t* row = asked + request * n;
    bool known = true;
    for (int64_t k = 0; k < n; k++) {
      const bool inside = uint32_t(row[k]) < uint64_t(rows);
      known &= inside;
      to[k] = table + (k * rows + (inside ? row[k] : 0)) * words;
    }
    return known;
  }
  void nothing(int64_t request) const {
    n_approving[request] = n_denying[request] = 0;
    first_approving[request] = first_denying[request] = -1;
  }
};

constexpr int64_t MOST_SLOTS = 16;
constexpr int64_t MOST_WORDS = 2047;  // two counts share 32 bits

using JudgeBits = void (*)(const Bits&, int64_t from, int64_t to);  // requests [from, to)
void judge_bits(const Bits&, int64_t from, int64_t to);  // for any processor
JudgeBits avx512_judge_bits();                            // null where it has no such instructions

}  // namespace ariel

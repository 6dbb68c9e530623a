// Sums and maxima over the rows of a matrix, of which the threads of a block hold some each.
#pragma once

#include "gpu/threads.cuh"

namespace jaxqr {

// The first 32 bits of a magnitude as an integer, which is in the order of magnitudes: zero for
// zero alone, and largest for what is not finite. A maximum of integers is cheap and keeps a NaN.
JAXQR_FN int magnitude_word(float x) {
  union {
    float number;
    unsigned word;
  } bits = {x};
  return static_cast<int>(bits.word & 0x7fffffff);
}
JAXQR_FN int magnitude_word(double x) {
  union {
    double number;
    unsigned long long word;
  } bits = {x};
  const int low = static_cast<unsigned>(bits.word) != 0;
  return (static_cast<int>(bits.word >> 32) & 0x7fffffff) | low;
}
template <class R>
JAXQR_FN int magnitude_word(Complex<R> x) {
  const int re = magnitude_word(x.re), im = magnitude_word(x.im);
  return re > im ? re : im;
}

template <class R>
constexpr int kWordMantissa = Bits<R>::kMantissa % 32;

template <class R>
JAXQR_FN bool is_finite_word(int word) {
  return word >> kWordMantissa<R> <= 2 * Bits<R>::kBias;
}
// The exponent of a power of two near 1 / x, for the word of x; like its reciprocal it is a normal
// number, also for zero.
template <class R>
JAXQR_FN int inverse_exponent_of_word(int word) {
  constexpr int kBias = Bits<R>::kBias, kMost = 2 * kBias - 1;
  const int biased = word >> kWordMantissa<R>;
  return kBias - (biased < 1 ? 1 : biased > kMost ? kMost : biased);
}

struct Plus {
  template <class V>
  JAXQR_FN V operator()(V x, V y) const {
    return x + y;
  }
};
struct Larger {
  template <class V>
  JAXQR_FN V operator()(V x, V y) const {
    return larger(x, y);
  }
};

// Combine COUNT values over the lanes of a warp. Afterwards values[0] of a lane is the combination
// of the values with number lane / (32 / COUNT).
//
// In a round, a lane gives half of its values to its partner and gets the partner's other half;
// when one is left, both combine it. (A loop over the rounds would not be unrolled by NVRTC, and
// the values would go to memory, as registers have no indices.)
template <int COUNT, int MASK = 16, class V, class Combine>
JAXQR_FN void combine_in_warp(V* values, const Combine& combine) {
  if constexpr (COUNT > 1) {
    const bool upper = threadIdx.x & MASK;
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) {
      const V kept = upper ? values[i + COUNT / 2] : values[i];
      const V given = upper ? values[i] : values[i + COUNT / 2];
      values[i] = combine(kept, take_across(given, MASK));
    }
  } else {
    values[0] = combine(values[0], take_across(values[0], MASK));
  }
  if constexpr (MASK > 1) combine_in_warp<(COUNT > 1 ? COUNT / 2 : 1), MASK / 2>(values, combine);
}

// Where the warps of a block exchange what they know of NP columns, and a row of the matrix.
//
// There are two places, used in turn, so that one barrier for each exchange is enough: what was
// exchanged may be read until the barrier of the next exchange, and only behind that barrier can
// another thread write to the same place. A number for all threads goes through a place of its own,
// as what was exchanged before is still to be read then.
//
// Each place has a part for each warp, and parts of zeros up to a power of two: so fewer questions
// are to be asked about the number of warps.
template <class T, int NP>
class ColumnExchange {
 public:
  static constexpr int kMostWarps = 8;

  JAXQR_FN static constexpr int bytes(int warps) {
    const int parts = count_parts(warps);
    return 2 * place_bytes(parts) + parts * kNumberBytes;
  }

  JAXQR_FN explicit ColumnExchange(unsigned char* memory)
      : memory_(memory), parts_(count_parts(warps_of_block())) {}

  // Before the first exchange; who had the memory before must be done.
  JAXQR_FN void clear() const {
    const int warps = warps_of_block();
    for (int e = thread_of_block(); e < (parts_ - warps) * NP; e += threads_of_block()) {
      for (int turn = 0; turn < 2; ++turn) part<T>(place(turn), warps)[e] = number<T>(0);
    }
    if (thread_of_block() < parts_ - warps) {
      *number_of(warps + thread_of_block()) = 0;
    }
  }

  // A row of NP entries: one thread writes it before an exchange of columns, all read it after.
  JAXQR_FN T* row() const { return reinterpret_cast<T*>(place(turn_)); }

  // Combine value(c) of all threads for each column c < count. A lane gets the result of column
  // lane % NP, which is of no use if that is not below `count`. To combine zero changes nothing.
  //
  // As many columns at a time as take 32 registers: of more, few exchanges less would be needed.
  template <class V, class Value, class Combine>
  JAXQR_FN V combine_columns(int count, const Value& value, const Combine& combine) {
    constexpr int kMost = sizeof(T) == 16 ? 8 : 16;
    constexpr int kTogether = NP < kMost ? NP : kMost, kLanes = 32 / kTogether;
    const int lane = lane_of_warp();
    unsigned char* const at = place(turn_);
#pragma unroll
    for (int first = 0; first < NP; first += kTogether) {
      if (first < count) {
        V values[kTogether];
#pragma unroll
        for (int c = 0; c < kTogether; ++c) values[c] = value(first + c);
        combine_in_warp<kTogether>(values, combine);
        if (lane % kLanes == 0) part<V>(at, warp_of_block())[first + lane / kLanes] = values[0];
      }
    }
    __syncthreads();
    turn_ ^= 1;
    return combine_parts([&](int which) { return part<V>(at, which)[lane % NP]; }, combine);
  }

  // Combine one number of each thread. There must be an exchange of columns before the next time.
  template <class Combine>
  JAXQR_FN int combine_threads(int value, const Combine& combine) const {
    combine_in_warp<1>(&value, combine);
    if (lane_of_warp() == 0) *number_of(warp_of_block()) = value;
    __syncthreads();
    return combine_parts([&](int which) { return *number_of(which); }, combine);
  }

 private:
  static constexpr int kPartBytes = NP * static_cast<int>(sizeof(T)), kNumberBytes = 16;

  JAXQR_FN static constexpr int count_parts(int warps) {
    return warps > 4 ? kMostWarps : warps > 2 ? 4 : warps;
  }
  JAXQR_FN static constexpr int place_bytes(int parts) { return (parts + 1) * kPartBytes; }

  JAXQR_FN unsigned char* place(int turn) const { return memory_ + turn * place_bytes(parts_); }
  template <class V>
  JAXQR_FN static V* part(unsigned char* place, int which) {
    return reinterpret_cast<V*>(place + (which + 1) * kPartBytes);
  }
  JAXQR_FN int* number_of(int warp) const {
    return reinterpret_cast<int*>(place(2) + warp * kNumberBytes);
  }

  template <class Get, class Combine>
  JAXQR_FN auto combine_parts(const Get& get, const Combine& combine) const {
    auto result = get(0);
    if (parts_ > 1) result = combine(result, get(1));
    if (parts_ > 2) result = combine(result, combine(get(2), get(3)));
    if (parts_ > 4) {
      result = combine(result, combine(combine(get(4), get(5)), combine(get(6), get(7))));
    }
    return result;
  }

  unsigned char* memory_;
  int parts_, turn_ = 0;
};

}  // namespace jaxqr

// Householder's method on a matrix in the registers of a block, plain or pivoted.
//
// Columns take turns in register 0: one that is done goes to the end and the others move down by
// one, so that all registers have constant indices. A *slot* is such a register: after j steps,
// column j + s is in slot s, and reflector i in slot NP - j + i. What all warps know of the column
// in slot s is on lane s of each.
#pragma once

#include "gpu/reflector.cuh"
#include "gpu/row_matrix.cuh"
#include "gpu/row_pivots.cuh"

namespace jaxqr {

template <class T, int NP, int RP, bool PIVOTED>
class RowElimination {
 public:
  using R = Real<T>;

  // Only the first `free` columns are pivoted. Without `compact`, what T and Q are computed from is
  // not kept.
  JAXQR_FN RowElimination(RowMatrix<T, NP, RP>& a, const RowMemory<T, NP>& memory, int free,
                          bool compact)
      : a_(a),
        memory_(memory),
        exchange_(memory.exchange()),
        pivots_(a.n, free),
        compact_(compact) {}

  // Take the rows from `first` on, each column multiplied by a power of two that brings its largest
  // entry near one, or by NaN if an entry of the matrix is not finite.
  JAXQR_FN void take(const T* from, bool transposed) {
    if (transposed) {
      load_by_columns(from, a_.first, a_.m, a_.n, a_.x);
    } else {
      load_by_rows(from, a_.m, a_.n, memory_.piece(), a_.x);
    }
    __syncthreads();
    exchange_.clear();
    const auto find_largest_word = [&](int c) {
      int largest = 0;
#pragma unroll
      for (int s = 0; s < RP; ++s) largest = Larger()(largest, magnitude_word(a_.x[s][c]));
      return largest;
    };
    const int word = exchange_.template combine_columns<int>(a_.n, find_largest_word, Larger());
    const bool exists = slot_ < a_.n;
    const bool finite = !__any_sync(kWarp, exists && !is_finite_word<R>(word));
    const int exponent = exists ? inverse_exponent_of_word<R>(word) : 0;
    const R scale = finite || !exists ? power_of_two<R>(exponent) : not_a_number<R>();
    if constexpr (PIVOTED) {
      pivots_.set_exponent(exponent);
    } else {
      keep_inverse(exponent);
    }
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      const R scale_of_column = take_from(scale, c);
#pragma unroll
      for (int s = 0; s < RP; ++s) a_.x[s][c] = scale_by(a_.x[s][c], scale_of_column);
    }
  }

  JAXQR_FN void factor() {
#pragma unroll 1
    for (int j = 0; j < a_.n; ++j) eliminate(j);
    if constexpr (PIVOTED) keep_inverse(pivots_.exponent());
    __syncthreads();
  }

  // The place of the column of this lane's number.
  JAXQR_FN int place() const { return PIVOTED ? pivots_.place() : lane_of_warp(); }

 private:
  // The column of the lane's number was multiplied by 2^exponent.
  JAXQR_FN void keep_inverse(int exponent) const {
    if (thread_of_block() >= a_.n) return;
    memory_.inverses()[place() + a_.offset()] = power_of_two<R>(-exponent);
  }

  // Compute the norms that pivots are chosen by, from row j of the diagonal on: of columns that are
  // multiplied by powers of two of their own, so that no square is too small.
  JAXQR_FN void compute_norms(int j) {
    const int first = a_.first + j, count = a_.n - j;
    int exponent = 0;
    if (j > 0) {  // before, take() has seen to it
      const auto find_largest_entry = [&](int c) {
        R largest = 0;
#pragma unroll
        for (int s = 0; s < RP; ++s) {
          largest = larger(largest, row_of(s) >= first ? magnitude(a_.x[s][c]) : R(0));
        }
        return largest;
      };
      const R largest = exchange_.template combine_columns<R>(count, find_largest_entry, Larger());
      if (slot_ < count) exponent = inverse_exponent(largest);
    }
    const R power = power_of_two<R>(exponent);
    const auto add_squares = [&](int c) {
      const R power_of_column = take_from(power, c);
      R sum = 0;
#pragma unroll
      for (int s = 0; s < RP; ++s) {
        const T entry = row_of(s) >= first ? a_.x[s][c] : number<T>(0);
        sum = add_square(sum, scale_by(entry, power_of_column));
      }
      return sum;
    };
    const R square = exchange_.template combine_columns<R>(count, add_squares, Plus());
    const int slot = pivots_.slot(j);
    pivots_.set(take_from(square, slot), take_from(exponent, slot));
  }

  JAXQR_FN void eliminate(int j) {
    const int diagonal = a_.first + j;
    if constexpr (PIVOTED) {
      if (j == 0 || pivots_.any_in_doubt(j)) compute_norms(j);
      const int slot = pivots_.exchange_with_largest(j) - j;
      if (slot > 0) exchange_columns(slot);
    }
    Reflector<T> h = {number<T>(0), number<T>(0), R(0)};
    T weight = number<T>(0), product = number<T>(0);  // v^H times the column of the lane's slot
    const T* row = nullptr;
    if (diagonal < a_.m) {
      h = make_reflector_of_first(diagonal, compact_ ? NP : a_.n - j, row, product);
      product = add_conjugate_product(row[slot_], h.scale, product);
      if (slot_ > 0 && slot_ < NP - j) weight = conjugate(h.tau) * product;
    } else {
      __syncwarp();  // the weights of the step before have been read
    }
    if (thread_of_block() < NP) keep_products(j, h.tau, product);
    if (lane_of_warp() < NP) memory_.weights()[slot_] = weight;
    __syncwarp();
    reflect(diagonal, h);
    if constexpr (PIVOTED) {
      const int slot = pivots_.slot(j);
      pivots_.take_off(row[slot] - memory_.weights()[slot]);
    }
  }

  // Exchange slot 0 with another, which is found by halving. What registers get by a branch is only
  // the column that is to come to slot 0: branches that change more would make copies of all.
  JAXQR_FN void exchange_columns(int slot) {
    T found[RP];
    find_column<1, NP>(slot, found);
#pragma unroll
    for (int c = 1; c < NP; ++c) {
#pragma unroll
      for (int s = 0; s < RP; ++s) a_.x[s][c] = c == slot ? a_.x[s][0] : a_.x[s][c];
    }
#pragma unroll
    for (int s = 0; s < RP; ++s) a_.x[s][0] = found[s];
  }

  template <int BEGIN, int END>
  JAXQR_FN void find_column(int slot, T (&found)[RP]) const {
    if constexpr (END - BEGIN == 1) {
#pragma unroll
      for (int s = 0; s < RP; ++s) found[s] = a_.x[s][BEGIN];
    } else {
      constexpr int kMiddle = (BEGIN + END) / 2;
      if (slot < kMiddle) {
        find_column<BEGIN, kMiddle>(slot, found);
      } else {
        find_column<kMiddle, END>(slot, found);
      }
    }
  }

  // Make the reflector of the column in slot 0. `row` is that of the diagonal, and the lane gets
  // the product of the column under it with that of its slot. Where squares underflow, the column
  // is multiplied by a power of two of its own, which changes neither tau nor v.
  JAXQR_FN Reflector<T> make_reflector_of_first(int diagonal, int count, const T*& row,
                                                T& product) {
    int exponent = 0;
#pragma unroll 1
    for (;;) {
      row = exchange_.row();
      product = multiply_by_first(diagonal, count);
      const T alpha = row[0];
      const R below = take_from(real_part(product), 0);
      const bool small = add_square(below, alpha) < kLeastSum<R>;
      bool trivial = false;
      if (small || below == 0) {
        const int word = find_largest_word_below(diagonal);
        trivial = word == 0 && imaginary_part(alpha) == 0;
        if (small && !trivial) {
          exponent = inverse_exponent_of_word<R>(Larger()(word, magnitude_word(alpha)));
#pragma unroll
          for (int s = 0; s < RP; ++s) {
            const R power = power_of_two<R>(row_of(s) >= diagonal ? exponent : 0);
            a_.x[s][0] = scale_by(a_.x[s][0], power);
          }
          continue;
        }
      }
      Reflector<T> h = make_reflector(alpha, below, trivial);
      h.beta *= power_of_two<R>(-exponent);
      return h;
    }
  }

  JAXQR_FN T multiply_by_first(int diagonal, int count) {
    T below[RP];
    bool in_warp = false;  // of which most have nothing to write
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      below[s] = row_of(s) > diagonal ? a_.x[s][0] : number<T>(0);
      in_warp = in_warp | ((row_of(s) ^ diagonal) < 32);
    }
    if (in_warp) {
#pragma unroll
      for (int s = 0; s < RP; ++s) {
        if (row_of(s) == diagonal) write_words<NP>(a_.x[s], exchange_.row());
      }
    }
    const auto multiply = [&](int c) {
      T sum = number<T>(0);
#pragma unroll
      for (int s = 0; s < RP; ++s) sum = add_conjugate_product(sum, below[s], a_.x[s][c]);
      return sum;
    };
    return exchange_.template combine_columns<T>(count, multiply, Plus());
  }

  JAXQR_FN int find_largest_word_below(int diagonal) {
    int largest = 0;
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      if (row_of(s) > diagonal) largest = Larger()(largest, magnitude_word(a_.x[s][0]));
    }
    return exchange_.combine_threads(largest, Larger());
  }

  // Keep tau and the products of the reflector with those before it, which are in the last slots: a
  // column of V^H V, zero in the rows that do not exist.
  JAXQR_FN void keep_products(int j, T tau, T product) {
    if (thread_of_block() == 0) memory_.taus()[j + a_.offset()] = tau;
    if (!compact_) return;
    const int place = slot_ + j - a_.n, row = place < 0 ? place + NP : place;
    memory_.square()[(j + a_.offset()) * Square<T, NP>::kLead + row] =
        slot_ >= NP - j ? conjugate(product) : number<T>(0);
  }

  // Apply H^H to the columns that are left. All columns move down by one, and that of the
  // reflector, with v in the place of its zeros, goes to the end.
  JAXQR_FN void reflect(int diagonal, const Reflector<T>& h) {
    constexpr int kWords = Words<T>::kCount;
    T v[RP], done[RP];
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      const bool below = row_of(s) > diagonal, on = row_of(s) == diagonal;
      v[s] = below ? a_.x[s][0] * h.scale : number<T>(on);
      done[s] = below ? v[s] : on ? number<T>(h.beta) : a_.x[s][0];
    }
    const T* const of_columns = memory_.weights();
#pragma unroll
    for (int c = 0; c < NP; c += kWords) {
      T weight[kWords];
      read_words<kWords>(of_columns + c, weight);
#pragma unroll
      for (int u = 0; u < kWords; ++u) {
        if (c + u == 0) continue;
#pragma unroll
        for (int s = 0; s < RP; ++s) {
          a_.x[s][c + u - 1] = subtract_product(a_.x[s][c + u], v[s], weight[u]);
        }
      }
    }
#pragma unroll
    for (int s = 0; s < RP; ++s) a_.x[s][NP - 1] = done[s];
  }

  RowMatrix<T, NP, RP>& a_;
  RowMemory<T, NP> memory_;
  ColumnExchange<T, NP> exchange_;
  RowPivots<R> pivots_;
  bool compact_;
  int slot_ = lane_of_warp() % NP;
};

}  // namespace jaxqr

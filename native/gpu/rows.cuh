// QR of matrices of n <= NP <= 32 columns and m >= n rows, plain or pivoted, and of panels of larger
// matrices: a matrix on a block of 32 to 256 threads, each of which has RP rows in registers (thread t
// rows t, t + blockDim.x, ...).
//
// Columns take turns in register 0: one that is done goes to the end and the others move down by one,
// so that all registers have constant indices. The products of a new reflector with those before it
// come with those with the columns that are left, and T of the compact form follows from them. So
// Q = I - V T V^H takes one more product for each row, without any exchange.
//
// data: 0 a (m, n), 1 q (m, n), 2 r (n, n), 3 h (m, n), 4 tau (n), 5 p (n), 6 t (n, n), 7 first (1).
// sizes: 0 m, 1 n, 2 transposed, 3 panel, 4 how many columns, the first ones, are pivoted.
// A panel is n columns of a larger matrix, which lie by columns, though T lies by rows. The diagonal
// begins in row `first`, and the rows before are left as they are; reflectors that would begin behind
// the last row are trivial. Of a panel, only h, tau and t are computed.
#pragma once

#include "gpu/arguments.h"
#include "gpu/compact_wy.cuh"
#include "gpu/reflector.cuh"
#include "gpu/row_pivots.cuh"
#include "gpu/row_sums.cuh"
#include "gpu/tiles.cuh"

namespace jaxqr {

// How the shared memory of a block is divided, in bytes from its beginning.
template <class T, int NP>
struct RowsMemory {
  static constexpr int kInverses = Square<T, NP>::kBytes;
  static constexpr int kTaus = kInverses + NP * static_cast<int>(sizeof(Real<T>));
  // What is here has other uses before and after the columns are eliminated.
  static constexpr int kScratch = kTaus + NP * static_cast<int>(sizeof(T));

  // The weights come behind what columns are exchanged by.
  JAXQR_FN static constexpr int weights(int warps) {
    return kScratch + ColumnExchange<T, NP>::bytes(warps);
  }
  JAXQR_FN static constexpr int bytes(int warps) {
    const int eliminating = weights(warps) + warps * NP * static_cast<int>(sizeof(T));
    const int copying = kScratch + warps * RowPiece<T>::kBytes;
    const int solving = kScratch + Square<T, NP>::kBytes;
    const int more = eliminating > copying ? eliminating : copying;
    return more > solving ? more : solving;
  }
};

template <class T, int NP, int RP, bool PIVOTED>
class RowQr {
 public:
  using R = Real<T>;
  using Memory = RowsMemory<T, NP>;

  // Without `compact`, what T and Q are computed from is not kept.
  JAXQR_FN RowQr(int m, int n, int first, int free, bool compact)
      : memory_(warp_memory<unsigned char>(0)), m_(m), n_(n), first_(first), offset_(NP - n),
        compact_(compact), exchange_(memory_ + Memory::kScratch), pivots_(n, free) {}

  // Take the rows from `first` on, each column multiplied by a power of two that brings its largest
  // entry near one, or by NaN if an entry of the matrix is not finite.
  JAXQR_FN void take(const T* a, bool transposed) {
    if (transposed) {
      load_by_columns(a, first_, m_, n_, x_);
    } else {
      load_by_rows(a, m_, n_, piece(), x_);
    }
    __syncthreads();
    const int word = find_largest_words(0, n_);
    const bool exists = slot_ < n_;
    const bool finite = !__any_sync(kWarp, exists && !is_finite_word<R>(word));
    exponent_ = exists ? inverse_exponent_of_word<R>(word) : 0;
    const R scale = finite || !exists ? power_of_two<R>(exponent_) : not_a_number<R>();
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      const R scale_of_column = take_from(scale, c);
#pragma unroll
      for (int s = 0; s < RP; ++s) x_[s][c] = scale_by(x_[s][c], scale_of_column);
    }
  }

  JAXQR_FN void factor() {
    if constexpr (PIVOTED) {
      pivots_.set_exponent(exponent_);
      compute_norms(0);
    }
#pragma unroll 1
    for (int j = 0; j < n_; ++j) eliminate(j);
    if (threadIdx.x < n_) {
      const int place = PIVOTED ? pivots_.place() : threadIdx.x;
      inverses()[place + offset_] = power_of_two<R>(-exponent_);
    }
    __syncthreads();
  }

  // Rows before `first` are those of `a`.
  JAXQR_FN void put_h(const T* a, T* h, bool transposed) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < first_; i += blockDim.x) {
      for (int c = 0; c < n_; ++c) h[c * m_ + i] = a[c * m_ + i];
    }
    put<RP>(h, m_, transposed, [&](int s, int c) {
      const T entry = x_[s][c];
      return row_of(s) <= c - offset_ + first_ ? scale_by(entry, inverses()[c]) : entry;
    });
  }

  JAXQR_FN void put_r(T* r, bool transposed) const {
    put<1>(r, n_, transposed, [&](int, int c) {
      return row_of(0) <= c - offset_ ? scale_by(x_[0][c], inverses()[c]) : number<T>(0);
    });
  }

  JAXQR_FN void put_tau(T* tau) const {
    if (threadIdx.x < n_) tau[threadIdx.x] = taus()[threadIdx.x + offset_];
  }

  JAXQR_FN void put_p(int* p) const {
    if (threadIdx.x < n_) p[pivots_.place()] = threadIdx.x;
  }

  // From here on the registers hold V, with its ones and zeros, and not R.
  JAXQR_FN void keep_reflectors() {
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      const int diagonal = c - offset_;
      if (row_of(0) <= diagonal) x_[0][c] = number<T>(row_of(0) == diagonal);
    }
  }

  // Compute T or W = T V_1^H, with the leading square V_1 of V, for put_t() or put_q().
  JAXQR_FN void compute_t(bool times_v) {
    __syncthreads();
    if (threadIdx.x < 32) {
      const auto right = [&](int l) {
        const T one = number<T>(threadIdx.x + offset_ == l);
        return times_v ? conjugate(x_[0][l]) : one;
      };
      T* const solution = times_v ? square() : scratch();
      solve_with_inverse_of_t<T, NP>(square(), taus(), offset_, right, solution);
    }
    __syncthreads();
  }

  JAXQR_FN void put_t(T* t, bool transposed) const {
    const int lane = threadIdx.x % 32;
    if (lane >= n_) return;
    for (int other = threadIdx.x / 32; other < n_; other += blockDim.x / 32) {
      const int i = transposed ? lane : other, c = transposed ? other : lane;
      const T entry = scratch()[(c + offset_) * kLead + i + offset_];
      t[other * n_ + lane] = i <= c ? entry : number<T>(0);
    }
  }

  JAXQR_FN void put_q(T* q, bool transposed) {
    subtract_from_identity<NP>(square(), offset_, x_);
    put<RP>(q, m_, transposed, [&](int s, int c) { return x_[s][c]; });
  }

 private:
  static constexpr int kLead = Square<T, NP>::kLead;

  // By columns, in order of the columns of the result: products V^H V, then W.
  JAXQR_FN T* square() const { return reinterpret_cast<T*>(memory_); }
  JAXQR_FN R* inverses() const { return reinterpret_cast<R*>(memory_ + Memory::kInverses); }
  JAXQR_FN T* taus() const { return reinterpret_cast<T*>(memory_ + Memory::kTaus); }
  JAXQR_FN T* scratch() const { return reinterpret_cast<T*>(memory_ + Memory::kScratch); }
  JAXQR_FN RowPiece<T> piece() const { return RowPiece<T>(memory_ + Memory::kScratch); }
  // What a column is to get of the reflector's vector, for each: the same in all warps.
  JAXQR_FN T* weights() const {
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    return reinterpret_cast<T*>(memory_ + Memory::weights(warps)) + warp * NP;
  }

  template <int COUNT, class Value>
  JAXQR_FN void put(T* to, int rows, bool transposed, const Value& value) const {
    if (transposed) {
      store_by_columns<COUNT, NP>(to, first_, rows, offset_, value);
    } else {
      store_by_rows<COUNT, NP>(to, rows, offset_, piece(), value);
    }
  }

  // Of the first `count` columns, from row `first` on: the largest magnitude of the lane's column.
  JAXQR_FN int find_largest_words(int first, int count) {
    const auto find_largest_word = [&](int c) {
      int largest = 0;
#pragma unroll
      for (int s = 0; s < RP; ++s) {
        const int word = row_of(s) >= first ? magnitude_word(x_[s][c]) : 0;
        largest = Maximum()(largest, word);
      }
      return largest;
    };
    return exchange_.template combine_columns<int>(count, find_largest_word, Maximum());
  }

  // Compute the norms that pivots are chosen by, from row j of the diagonal on. Where squares are too
  // small, columns are multiplied by powers of two of their own.
  JAXQR_FN void compute_norms(int j) {
    const int first = first_ + j, count = n_ - j;
    int exponent = 0;
    R square = 0;
#pragma unroll 1
    for (int round = 0;; ++round) {
      const R power = power_of_two<R>(exponent);
      const auto add_squares = [&](int c) {
        const R power_of_column = take_from(power, c);
        R sum = 0;
#pragma unroll
        for (int s = 0; s < RP; ++s) {
          const T entry = row_of(s) >= first ? x_[s][c] : number<T>(0);
          sum = add_square(sum, scale_by(entry, power_of_column));
        }
        return sum;
      };
      square = exchange_.template combine_columns<R>(count, add_squares, Plus());
      if (round > 0 || !__any_sync(kWarp, slot_ < count && square < kLeastSum<R>)) break;
      const int word = find_largest_words(first, count);
      exponent = slot_ < count ? inverse_exponent_of_word<R>(word) : 0;
    }
    const int slot = pivots_.slot(j);
    pivots_.set(take_from(square, slot), take_from(exponent, slot));
  }

  JAXQR_FN void eliminate(int j) {
    const int diagonal = first_ + j;
    if constexpr (PIVOTED) {
      const int slot = pivots_.exchange_with_largest(j) - j;
      if (slot > 0) exchange_columns<1, NP>(slot);
    }
    Reflector<T> h = {number<T>(0), number<T>(0), R(0)};
    T weight = number<T>(0), product = number<T>(0);  // v^H times the column of the lane's slot
    const T* row = nullptr;
    if (diagonal < m_) {
      h = make_reflector_of_first(diagonal, compact_ ? NP : n_ - j, row, product);
      product = add_conjugate_product(row[slot_], h.scale, product);
      if (slot_ > 0 && slot_ < NP - j) weight = conjugate(h.tau) * product;
    }
    if (threadIdx.x < NP) keep_products(j, h.tau, product);
    if (threadIdx.x % 32 < NP) weights()[slot_] = weight;
    __syncwarp();
    reflect(diagonal, h);
    if constexpr (PIVOTED) {
      const int slot = pivots_.slot(j);
      pivots_.take_off(row[slot] - weights()[slot]);
      if (pivots_.any_in_doubt(j + 1)) compute_norms(j + 1);
    }
  }

  template <int BEGIN, int END>
  JAXQR_FN void exchange_columns(int slot) {
    if constexpr (END - BEGIN == 1) {
#pragma unroll
      for (int s = 0; s < RP; ++s) {
        const T entry = x_[s][0];
        x_[s][0] = x_[s][BEGIN];
        x_[s][BEGIN] = entry;
      }
    } else {
      constexpr int kMiddle = (BEGIN + END) / 2;
      if (slot < kMiddle) {
        exchange_columns<BEGIN, kMiddle>(slot);
      } else {
        exchange_columns<kMiddle, END>(slot);
      }
    }
  }

  // Make the reflector of the column in slot 0. `row` is that of the diagonal, and the lane gets the
  // product of the column under it with that of its slot. Where squares underflow, the column is
  // multiplied by a power of two of its own, which changes neither tau nor v.
  JAXQR_FN Reflector<T> make_reflector_of_first(int diagonal, int count, const T*& row,
                                                T& product) {
    R inverse = 1;
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
          const int exponent =
              inverse_exponent_of_word<R>(Maximum()(word, magnitude_word(alpha)));
#pragma unroll
          for (int s = 0; s < RP; ++s) {
            const R power = power_of_two<R>(row_of(s) >= diagonal ? exponent : 0);
            x_[s][0] = scale_by(x_[s][0], power);
          }
          inverse = power_of_two<R>(-exponent);
          continue;
        }
      }
      Reflector<T> h = make_reflector(alpha, below, trivial);
      h.beta *= inverse;
      return h;
    }
  }

  JAXQR_FN T multiply_by_first(int diagonal, int count) {
    T below[RP];
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      below[s] = row_of(s) > diagonal ? x_[s][0] : number<T>(0);
      if (row_of(s) == diagonal) write_words<NP>(x_[s], exchange_.row());
    }
    const auto multiply = [&](int c) {
      T sum = number<T>(0);
#pragma unroll
      for (int s = 0; s < RP; ++s) sum = add_conjugate_product(sum, below[s], x_[s][c]);
      return sum;
    };
    return exchange_.template combine_columns<T>(count, multiply, Plus());
  }

  JAXQR_FN int find_largest_word_below(int diagonal) {
    int largest = 0;
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      if (row_of(s) > diagonal) largest = Maximum()(largest, magnitude_word(x_[s][0]));
    }
    return exchange_.combine_threads(largest, Maximum());
  }

  // Keep tau and the products of the reflector with those before it, which are in the last slots: a
  // column of V^H V, zero in the rows that do not exist.
  JAXQR_FN void keep_products(int j, T tau, T product) {
    if (threadIdx.x == 0) taus()[j + offset_] = tau;
    if (!compact_) return;
    const int place = slot_ + j - n_, row = place < 0 ? place + NP : place;
    square()[(j + offset_) * kLead + row] = slot_ >= NP - j ? conjugate(product) : number<T>(0);
  }

  // Apply H^H to the columns that are left. All columns move down by one, and that of the reflector,
  // with v in the place of its zeros, goes to the end.
  JAXQR_FN void reflect(int diagonal, const Reflector<T>& h) {
    constexpr int kWords = Words<T>::kCount;
    T v[RP], done[RP];
#pragma unroll
    for (int s = 0; s < RP; ++s) {
      const bool below = row_of(s) > diagonal, on = row_of(s) == diagonal;
      v[s] = below ? x_[s][0] * h.scale : number<T>(on);
      done[s] = below ? v[s] : on ? number<T>(h.beta) : x_[s][0];
    }
    const T* const of_columns = weights();
#pragma unroll
    for (int c = 0; c < NP; c += kWords) {
      T weight[kWords];
      read_words<kWords>(of_columns + c, weight);
#pragma unroll
      for (int u = 0; u < kWords; ++u) {
        if (c + u == 0) continue;
#pragma unroll
        for (int s = 0; s < RP; ++s) {
          x_[s][c + u - 1] = subtract_product(x_[s][c + u], v[s], weight[u]);
        }
      }
    }
#pragma unroll
    for (int s = 0; s < RP; ++s) x_[s][NP - 1] = done[s];
  }

  T x_[RP][NP];
  unsigned char* memory_;
  int m_, n_, first_;
  int offset_;  // of columns in the registers, when all are eliminated
  bool compact_;
  int exponent_ = 0;  // the column that began in the lane's slot was multiplied by 2^exponent
  int slot_ = threadIdx.x % NP;
  ColumnExchange<T, NP> exchange_;
  RowPivots<R> pivots_;
};

template <class T, int NP, int RP, bool PIVOTED>
JAXQR_FN void rows(const Arguments& arguments) {
  const long long which = blockIdx.x;
  const int m = arguments.sizes[0], n = arguments.sizes[1];
  const bool transposed = arguments.sizes[2], panel = arguments.sizes[3];
  const auto data = [&](int slot, int entries) {
    T* const all = static_cast<T*>(arguments.data[slot]);
    return all ? all + which * entries : nullptr;
  };
  T *const a = data(0, m * n), *const q = data(1, m * n), *const r = data(2, n * n),
          *const h = data(3, m * n), *const tau = data(4, n), *const t = data(6, n * n);
  const int first = panel ? static_cast<const int*>(arguments.data[7])[which] : 0;

  RowQr<T, NP, RP, PIVOTED> qr(m, n, first, arguments.sizes[4], q || t);
  qr.take(a, transposed);
  qr.factor();
  if (h) qr.put_h(a, h, transposed);
  if (r) qr.put_r(r, transposed);
  if (tau) qr.put_tau(tau);
  if constexpr (PIVOTED) {
    if (arguments.data[5]) qr.put_p(static_cast<int*>(arguments.data[5]) + which * n);
  }
  if (!q && !t) return;
  if (q) qr.keep_reflectors();
#pragma unroll 1
  for (int for_q = t ? 0 : 1; for_q < (q ? 2 : 1); ++for_q) {
    qr.compute_t(for_q);
    if (!for_q) qr.put_t(t, transposed && !panel);
  }
  if (q) qr.put_q(q, transposed);
}

}  // namespace jaxqr

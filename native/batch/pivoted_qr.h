// QR with column pivoting on packed matrices, as LAPACK's laqp2: every lane has its own pivots.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "batch/sweeps.h"

namespace jaxqr {

template <class S>
class BatchPivotedQr {
 public:
  using T = RealOf<S>;

  // Room for 2 n squares of norms, n powers of two and, in every lane, n column numbers. In a
  // careful attempt `scales` are the powers of two that the columns were multiplied by.
  BatchPivotedQr(const BatchReflectors<S>& h, long n, Vector<T>* squares, Vector<T>* powers,
                 Vector<T>* scales, int32_t* p, Rescue<T>& rescue)
      : h_(h),
        n_(n),
        left_(squares),
        exact_(squares + n),
        powers_(powers),
        scales_(scales),
        p_(p),
        rescue_(rescue) {}

  void run() {
    for (long c = 0; c < n_; ++c) {
      powers_[c] = broadcast(T(1));
      left_[c] = exact_[c] = column_squares(0, c, ~Mask<T>{});
      for (int l = 0; l < kWidth<T>; ++l) p_[l * n_ + c] = static_cast<int32_t>(c);
    }
    for (long j = 0; j < h_.count; ++j) {
      exchange(j, rescue_.careful ? find_true_pivot(j) : find_pivot(j));
      eliminate(j);
      for (long c = j + 1; c < n_; ++c) downdate(j, c);
    }
    fill_gram(h_);
  }

 private:
  long rows() const { return h_.v.rows; }

  // The square of column c's norm from row i on, for the lanes `asked`. Where it is too small, the
  // norm is multiplied by a power of two, which is kept.
  Vector<T> column_squares(long i, long c, Mask<T> asked) {
    const Pack<S>* x = h_.v.at(i, c);
    const Vector<T> squares = sum_of_squares<S>(x, rows() - i);
    Mask<T> small = small_squares<T>(squares) & asked;
    if (rescue_.careful) powers_[c] = asked ? broadcast(T(1)) : powers_[c];
    if (!any<T>(small)) return squares;
    small &= nonzero<S>(x, rows() - i);
    if (!rescue_.careful) {
      rescue_.lost |= small;
      return squares;
    }
    const Vector<T> largest = largest_entry<S>(x, rows() - i);
    for (int l = 0; l < kWidth<T>; ++l) {
      if (small[l]) powers_[c][l] = power_for<T>(largest[l]);
    }
    Vector<T> anew{};
    for (long row = 0; row < rows() - i; ++row) {
      anew += abs2(scale(x[row * kPanelColumns<S>], powers_[c]));
    }
    return small ? anew : squares;
  }

  // In every lane the first of the columns with the largest norm.
  Mask<T> find_pivot(long j) const {
    using Index = typename VectorType<T>::Integer;
    Vector<T> best = left_[j];
    Mask<T> pivot = Mask<T>{} + static_cast<Index>(j);
    for (long c = j + 1; c < n_; ++c) {
      const auto better = left_[c] > best;
      best = better ? left_[c] : best;
      pivot = better ? Mask<T>{} + static_cast<Index>(c) : pivot;
    }
    return pivot;
  }

  // The same where the columns, and their norms, are multiplied by powers of two.
  Mask<T> find_true_pivot(long j) const {
    Mask<T> pivot{};
    for (int l = 0; l < kWidth<T>; ++l) {
      long best = j;
      ScaledSquare<T> largest(left_[j][l], powers_[j][l], scales_[j][l]);
      for (long c = j + 1; c < n_; ++c) {
        const ScaledSquare<T> square(left_[c][l], powers_[c][l], scales_[c][l]);
        if (!largest.is_less_than(square)) continue;
        best = c;
        largest = square;
      }
      pivot[l] = best;
    }
    return pivot;
  }

  void exchange(long j, Mask<T> pivot) {
    for (int l = 0; l < kWidth<T>; ++l) {
      const long c = pivot[l];
      if (c == j) continue;
      exchange_lane(h_.v.at(0, j), h_.v.at(0, c), l);
      std::swap(p_[l * n_ + j], p_[l * n_ + c]);
      left_[c][l] = left_[j][l];
      exact_[c][l] = exact_[j][l];
      if (!rescue_.careful) continue;
      const T power = powers_[c][l], own = scales_[c][l];
      powers_[c][l] = powers_[j][l];
      scales_[c][l] = scales_[j][l];
      powers_[j][l] = power;
      scales_[j][l] = own;
    }
  }

  void exchange_lane(Pack<S>* x, Pack<S>* y, int lane) const {
    constexpr int parts = kParts<S>, stride = kPanelColumns<S> * parts * kWidth<T>;
    T *a = reinterpret_cast<T*>(x) + lane, *b = reinterpret_cast<T*>(y) + lane;
    for (long i = 0; i < rows(); ++i, a += stride, b += stride) {
      for (int part = 0; part < parts; ++part) std::swap(a[part * kWidth<T>], b[part * kWidth<T>]);
    }
  }

  // Annihilate column j below the diagonal, and apply its reflector to the columns after it.
  void eliminate(long j) {
    const long length = rows() - j;
    Pack<S>* x = h_.v.at(j, j);
    const Vector<T> below = sum_of_squares<S>(x + kPanelColumns<S>, length - 1);
    Inspection<S> found{{}, below + abs2(*x), broadcast(T(1))};
    if (any<T>((below == 0) | small_squares<T>(found.square))) {
      found = inspect_column<S>(x, length, found.square, rescue_);
    }
    const PackReflector<S> reflector = make_reflector<S>(*x, found.square, found.trivial);
    h_.tau[j] = reflector.tau;
    *x = from_real<S>(reflector.beta * found.inverse);
    for (long i = 1; i < length; ++i)
      x[i * kPanelColumns<S>] = x[i * kPanelColumns<S>] * reflector.inverse;
    for (long c = j + 1, end; c < n_; c = end) {
      end = std::min(n_, (c / kPanelColumns<S> + 1) * kPanelColumns<S>);
      with_width<kPanelColumns<S>>(end - c, [&](auto width) {
        apply_together<S, true, 1, decltype(width)::value>(x, h_.tau + j, nullptr, length,
                                                           h_.v.at(j, c));
      });
    }
  }

  // Take row j off the norm of column c. This cancels: where less than the square root of the
  // rounding unit is left of the norm that was last computed, it is computed anew (Drmac and
  // Bujanovic, LAPACK working note 176). On squares this takes neither roots nor quotients.
  void downdate(long j, long c) {
    const T tolerance = std::sqrt(std::numeric_limits<T>::epsilon() / 2);
    const Pack<S> taken = *h_.v.at(j, c);
    const Vector<T> square = rescue_.careful ? abs2(scale(taken, powers_[c])) : abs2(taken);
    left_[c] = maximum<T>(left_[c] - square, Vector<T>{});
    const Mask<T> unreliable = (left_[c] <= tolerance * exact_[c]) & (exact_[c] != 0);
    if (!any<T>(unreliable)) return;
    const Vector<T> again = column_squares(j + 1, c, unreliable);
    left_[c] = unreliable ? again : left_[c];
    exact_[c] = unreliable ? again : exact_[c];
  }

  BatchReflectors<S> h_;
  long n_;
  // Squares of the norms of what is left of the columns: downdated, and as they were last computed.
  Vector<T>*left_, *exact_;
  Vector<T>*powers_, *scales_;  // of two, in a careful attempt: of the norms, and of the columns
  int32_t* p_;
  Rescue<T>& rescue_;
};

}  // namespace jaxqr

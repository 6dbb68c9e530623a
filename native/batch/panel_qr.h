// Householder's method on packed matrices, one matrix in each lane: the reflectors of a panel.
//
// Scalars here are Packs: every branch is on shapes, never on values, except for columns whose
// squares are zero or leave the range of the type.
#pragma once

#include <algorithm>

#include "batch/panels.h"

namespace jaxqr {

// ------------------------------------------------------------------- one reflector, as larfg

template <class S>
struct PackReflector {
  Pack<S> tau, inverse;  // v = inverse x below the diagonal
  Vector<RealOf<S>> beta;
};

template <class T>
JAXQR_INLINE Vector<T> with_opposite_sign(Vector<T> x, Vector<T> of) {
  const Mask<T> sign = reinterpret_cast<Mask<T>>(broadcast(-T(0)));
  const Mask<T> opposite = ~reinterpret_cast<Mask<T>>(of) & sign;
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Mask<T>>(x) | opposite);
}

// The reflector of a column with `alpha` on the diagonal; `square` is that of its norm from there
// on. It is the identity in the `trivial` lanes, in which there is nothing to annihilate.
template <class S>
JAXQR_INLINE PackReflector<S> make_reflector(Pack<S> alpha, Vector<RealOf<S>> square,
                                             Mask<RealOf<S>> trivial) {
  using T = RealOf<S>;
  const Vector<T> norm = square_root<T>(square);
  const Vector<T> beta = trivial ? alpha.re : with_opposite_sign<T>(norm, alpha.re);
  Pack<S> d = alpha;  // alpha - beta
  d.re -= beta;
  const Vector<T> one = broadcast(T(1));
  Pack<S> tau, inverse;
  if constexpr (kIsComplex<S>) {
    tau = scale(-d, one / beta);
    inverse = scale(conj(d), one / abs2(d));
  } else {
    tau = {-d.re / beta};
    inverse = {one / d.re};
  }
  const Pack<S> zero = Pack<S>::zero();
  return {select(trivial, zero, tau), select(trivial, zero, inverse), beta};
}

// ------------------------------------------------------------------- the reflectors of a panel

// Factors P columns that lie side by side, from the panel's diagonal down. A column's products with
// all others are gathered while the reflector before it is applied, so that every reflector takes
// a single pass over the panel:
//   products[c] = x_C^H x_c over the rows below C's diagonal, x_C being the next to eliminate.
// Products with later columns give their projections, those with earlier ones the Gram matrix.
template <class S, int P>
class BatchPanelQr {
 public:
  using T = RealOf<S>;

  BatchPanelQr(Pack<S>* x, long rows, Pack<S>* tau, Pack<S>* gram, Rescue<T>& rescue)
      : x_(x), rows_(rows), tau_(tau), gram_(gram), rescue_(rescue) {}

  // Eliminate `count` of the columns.
  JAXQR_INLINE void run(long count) {
    clear();
    add_rows(1, [&](long i) { gather<0>(row(i)); });
    eliminate<0>(count);
  }

 private:
  Pack<S>* row(long i) const { return x_ + i * kPanelColumns<S>; }

  JAXQR_INLINE void clear() {
    JAXQR_UNROLL
    for (int c = 0; c < P; ++c) products_[c] = Pack<S>::zero();
  }

  // Call add(i), which adds to the products, for the rows from i on. Many rows are added up in
  // parts.
  template <class Add>
  JAXQR_INLINE void add_rows(long i, const Add& add) {
    if (rows_ - i <= kSumTerms) {
      for (; i < rows_; ++i) add(i);
      return;
    }
    Pack<S> totals[P];
    std::fill(totals, totals + P, Pack<S>::zero());
    while (i < rows_) {
      const long end = std::min(rows_, i + kSumTerms);
      for (; i < end; ++i) add(i);
      JAXQR_UNROLL
      for (int c = 0; c < P; ++c) totals[c] = totals[c] + products_[c];
      clear();
    }
    JAXQR_UNROLL
    for (int c = 0; c < P; ++c) products_[c] = totals[c];
  }

  template <int C>
  JAXQR_INLINE void gather(const Pack<S>* x) {
    JAXQR_UNROLL
    for (int c = 0; c < P; ++c) {
      if (c == C) {
        products_[c].re += abs2(x[c]);
      } else {
        add_adjoint_product(products_[c], x[C], x[c]);
      }
    }
  }

  template <int C>
  JAXQR_INLINE void eliminate(long count) {
    if (C >= count) return;
    Pack<S>* top = row(C);
    Vector<T> square = products_[C].re + abs2(top[C]), inverse = broadcast(T(1));
    Mask<T> trivial = products_[C].re == 0;
    const bool nothing_below = !kIsComplex<S> && C + 1 == rows_;
    if (!nothing_below && __builtin_expect(any<T>(trivial | small_squares<T>(square)), false)) {
      const Inspection<S> found = inspect<C>(top, square);
      trivial = found.trivial;
      square = found.square;
      inverse = found.inverse;
    }
    const PackReflector<S> reflector = make_reflector<S>(top[C], square, trivial);
    tau_[C] = reflector.tau;
    top[C] = from_real<S>(reflector.beta * inverse);
    const Pack<S> adjoint_inverse = conj(reflector.inverse);
    Pack<S> w[P];
    JAXQR_UNROLL
    for (int c = 0; c < P; ++c) {
      if (c == C) continue;
      w[c] = top[c];
      add_product(w[c], adjoint_inverse, products_[c]);
      if (c < C) {
        gram_[C * kPanelColumns<S> + c] = w[c];
      } else {
        w[c] = conj(reflector.tau) * w[c];
        top[c] = top[c] - w[c];
      }
    }
    clear();
    if (C + 1 < rows_) reflect<C>(row(C + 1), reflector.inverse, w);
    add_rows(C + 2, [&](long i) {
      reflect<C>(row(i), reflector.inverse, w);
      if constexpr (C + 1 < P) gather<C + 1>(row(i));
    });
    if constexpr (C + 1 < P) eliminate<C + 1>(count);
  }

  // Look at column C, which begins at row `top`, where its squares are zero or too small.
  template <int C>
  JAXQR_INLINE Inspection<S> inspect(Pack<S>* top, Vector<T> square) {
    const Inspection<S> found = inspect_column<S>(top + C, rows_ - C, square, rescue_);
    const Mask<T> changed = found.inverse != 1;
    if (any<T>(changed)) {
      Pack<S> products[P];
      std::copy(products_, products_ + P, products);
      multiply_anew(top, rows_ - C, C, changed, products);
      std::copy(products, products + P, products_);
    }
    return found;
  }

  // The products of a column that was multiplied, where it was. This object must stay in registers,
  // so nothing that is not inlined may know it.
  static __attribute__((noinline)) void multiply_anew(const Pack<S>* x, long rows, int column,
                                                      Mask<T> changed, Pack<S> (&products)[P]) {
    Pack<S> anew[P];
    std::fill(anew, anew + P, Pack<S>::zero());
    for (long i = 1; i < rows; ++i) {
      const Pack<S>* row = x + i * kPanelColumns<S>;
      for (int c = 0; c < P; ++c) add_adjoint_product(anew[c], row[column], row[c]);
    }
    for (int c = 0; c < P; ++c) products[c] = select(changed, anew[c], products[c]);
  }

  template <int C>
  JAXQR_INLINE void reflect(Pack<S>* x, Pack<S> inverse, const Pack<S> (&w)[P]) {
    x[C] = x[C] * inverse;
    JAXQR_UNROLL
    for (int c = C + 1; c < P; ++c) subtract_product(x[c], x[C], w[c]);
  }

  Pack<S>* x_;
  long rows_;
  Pack<S>*tau_, *gram_;
  Pack<S> products_[P];
  Rescue<T>& rescue_;
};

template <class S, int P>
__attribute__((noinline)) void factor_batch_panel(Pack<S>* x, long rows, long count, Pack<S>* tau,
                                                  Pack<S>* gram, Rescue<RealOf<S>>& rescue) {
  BatchPanelQr<S, P>(x, rows, tau, gram, rescue).run(count);
}

}  // namespace jaxqr

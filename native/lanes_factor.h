// The factorization of a batch, group by group: packing, scaling, the results, and the matrices
// that lanes cannot serve.
#pragma once

#include <algorithm>
#include <limits>

#include "blas.h"
#include "lanes.h"
#include "lanes_kernels.h"
#include "lanes_pivoted.h"
#include "lanes_places.h"
#include "range.h"
#include "workspace.h"

namespace jaxqr {

// Pack, and find in each lane the bits of the largest magnitude. Those of magnitudes are ordered as
// these are, infinity and then NaN above all numbers.
template <class T>
Mask<T> pack_largest(const T* from, long length, int count, const Place* place, long readable,
                     Vector<T>* to) {
  const Mask<T> magnitude = ~reinterpret_cast<Mask<T>>(broadcast(-T(0)));
  Mask<T> largest{};
  each_packed<T>(from, length, count, place, readable, [&](Place at, Vector<T> x) {
    to[at] = x;
    const Mask<T> size = reinterpret_cast<Mask<T>>(x) & magnitude;
    largest = size > largest ? size : largest;
  });
  return largest;
}

// What the matrices of a group are multiplied by: powers of two, or NaN if one is not finite.
template <class T>
struct Scales {
  explicit Scales(Vector<T> largest) : factors(broadcast(T(1))) {
    constexpr T kSafe = sizeof(T) == 8 ? T(0x1p200) : T(0x1p20);
    const Mask<T> ordinary = (largest >= 1 / kSafe) & (largest <= kSafe);
    needed = any<T>(~(ordinary | (largest == 0)));
    for (int l = 0; needed && l < kWidth<T>; ++l) factors[l] = scale_for<T>(largest[l]);
  }

  bool finite(int lane) const { return factors[lane] == factors[lane]; }

  Vector<T> factors;
  bool needed;
};

// The tables of a factorization, the same for all of its groups.
template <class S>
struct QrPlaces {
  const Place *a, *r, *q, *q_full, *tau;

  static size_t bytes(const QrProblem<S>& p) {
    return places_bytes<S>(p.m, p.n) + places_bytes<S>(p.k(), p.n) + places_bytes<S>(p.m, p.k()) +
           places_bytes<S>(p.q_full ? p.m : 0, p.m) + places_bytes<S>(1, p.k());
  }

  QrPlaces(const QrProblem<S>& p, Workspace& memory) {
    const long zero = Panels<S>::size(p.m, p.n);  // the spare Pack of A
    const auto table = [&](bool wanted, long rows, long cols, Part part) {
      if (!wanted) return static_cast<const Place*>(nullptr);
      return panel_places<S>(rows, cols, p.order, part, p.m, zero, memory);
    };
    a = table(true, p.m, p.n, Part::kAll);
    r = table(p.r, p.k(), p.n, Part::kUpper);
    q = table(p.q, p.m, p.k(), Part::kAll);
    q_full = table(p.q_full, p.m, p.m, Part::kAll);
    tau = vector_places<S>(p.k(), memory);
  }
};

// Factors the groups of a block, one after the other in the same memory.
template <class S>
class QrBlock {
 public:
  using T = RealOf<S>;

  QrBlock(const QrProblem<S>& block, const QrPlaces<S>& places)
      : block_(block), places_(places), q_cols_(block.q_full ? block.m : block.q ? block.k() : 0),
        memory_(bytes()) {
    const long m = block.m, n = block.n, k = block.k();
    const long size = Panels<S>::size(m, n);
    Pack<S>* a = memory_.take<Pack<S>>(size + 1);
    a[size] = Pack<S>::zero();
    q_ = {memory_.take<Pack<S>>(Panels<S>::size(m, q_cols_)), m};
    Pack<S>* tau = memory_.take<Pack<S>>(k);
    h_ = {{a, m}, k, tau, memory_.take<Pack<S>>(k * kPanel<S>)};
    if (!block.pivoted()) return;
    squares_ = memory_.take<Vector<T>>(2 * n);
    p_ = memory_.take<int32_t>(n * kWidth<T>);
  }

  void run() {
    for (long b = 0; b < block_.batch; b += kWidth<T>) {
      factor_group(block_.slice(b, block_.batch - b));
    }
  }

 private:
  size_t bytes() const {
    const long m = block_.m, n = block_.n, k = block_.k(), pivoted = block_.pivoted() ? n : 0;
    return Workspace::size<Pack<S>>(Panels<S>::size(m, n) + 1) +
           Workspace::size<Pack<S>>(Panels<S>::size(m, q_cols_)) + Workspace::size<Pack<S>>(k) +
           Workspace::size<Pack<S>>(k * kPanel<S>) + Workspace::size<Vector<T>>(2 * pivoted) +
           Workspace::size<int32_t>(kWidth<T> * pivoted);
  }

  // Factor the first group of `rest`, which is what is left of the block.
  void factor_group(const QrProblem<S>& rest) {
    const long m = rest.m, n = rest.n, length = m * n * kParts<S>;
    const int count = group_count<T>(rest.batch);
    const Mask<T> largest = pack_largest<T>(reals(rest.a), length, count, places_.a,
                                            rest.batch * length, vectors(h_.v.data));
    const Scales<T> scales(reinterpret_cast<Vector<T>>(largest));
    if (scales.needed) multiply_rows(scales.factors, m);
    const Mask<T> lost = rest.pivoted()
                             ? PivotedFactor<S>(h_, n, squares_, p_).run()
                             : factor_packed<S>(h_, n);
    form_packed<S>(h_, q_cols_, q_);
    if (scales.needed) multiply_rows(1 / scales.factors, 0);
    write(rest, count, scales);
    for (int l = 0; l < count; ++l) {
      if (!scales.finite(l)) {
        fill_nan(rest.slice(l, 1));
      } else if (lost[l]) {
        factor_lapack(rest.slice(l, 1));
      }
    }
  }

  // Multiply the upper triangle, and `below` more rows of every column.
  void multiply_rows(Vector<T> by, long below) {
    for (long j = 0; j < block_.n; ++j) {
      for (long i = 0; i < std::min(block_.m, j + 1 + below); ++i) {
        *h_.v.at(i, j) = scale(*h_.v.at(i, j), by);
      }
    }
  }

  // Nothing that is written here, or for a later group, lies in an earlier group's matrices; so
  // matrices that need it may be written anew after this.
  void write(const QrProblem<S>& to, int count, const Scales<T>& scales) const {
    const long m = to.m, n = to.n, k = to.k();
    const auto put = [&](const Pack<S>* from, const Place* place, long entries, S* out) {
      if (!out) return;
      const long length = entries * kParts<S>;
      unpack<T>(vectors(from), length, count, place, to.batch * length, reals(out));
    };
    put(q_.data, places_.q, m * k, to.q);
    put(q_.data, places_.q_full, m * m, to.q_full);
    put(h_.v.data, places_.r, k * n, to.r);
    put(h_.v.data, places_.a, m * n, to.h);
    put(h_.tau, places_.tau, k, to.tau);
    if (to.p) std::copy(p_, p_ + count * n, to.p);
    for (int l = 0; to.scale && l < count; ++l) to.scale[l] = scales.factors[l];
  }

  const QrProblem<S> block_;
  const QrPlaces<S>& places_;
  const long q_cols_;
  Workspace memory_;
  Reflectors<S> h_;
  Panels<S> q_;
  Vector<T>* squares_ = nullptr;
  int32_t* p_ = nullptr;
};

}  // namespace jaxqr

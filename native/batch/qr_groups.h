// The factorization of a batch, group by group: packing, scaling, and the results.
#pragma once

#include <algorithm>
#include <limits>

#include "batch/packing.h"
#include "batch/pivoted_qr.h"
#include "batch/places.h"
#include "batch/sweeps.h"
#include "common/fill_nan.h"
#include "common/range.h"
#include "common/workspace.h"

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

// The tables of a factorization, the same for all of its groups.
template <class S>
struct QrPlaces {
  const Place *a, *r, *q, *q_full, *tau;

  static size_t bytes(const QrProblem<S>& p) {
    return places_bytes<S>(p.m, p.n) + places_bytes<S>(p.k(), p.n) + places_bytes<S>(p.m, p.k()) +
           places_bytes<S>(p.q_full ? p.m : 0, p.m) + places_bytes<S>(1, p.k());
  }

  QrPlaces(const QrProblem<S>& p, Workspace& memory) {
    const long zero = BatchPanels<S>::size(p.m, p.n);  // the spare Pack of A
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
class QrGroups {
 public:
  using T = RealOf<S>;

  QrGroups(const QrProblem<S>& block, const QrPlaces<S>& places)
      : block_(block),
        places_(places),
        q_cols_(block.q_full ? block.m
                : block.q    ? block.k()
                             : 0),
        memory_(bytes()) {
    const long m = block.m, n = block.n, k = block.k();
    const long size = BatchPanels<S>::size(m, n);
    Pack<S>* a = memory_.take<Pack<S>>(size + 1);
    a[size] = Pack<S>::zero();
    q_ = {memory_.take<Pack<S>>(BatchPanels<S>::size(m, q_cols_)), m};
    Pack<S>* tau = memory_.take<Pack<S>>(k);
    h_ = {{a, m}, k, tau, memory_.take<Pack<S>>(k * kPanelColumns<S>)};
    scales_ = memory_.take<Vector<T>>(n);
    if (!block.pivoted()) return;
    squares_ = memory_.take<Vector<T>>(2 * n);
    powers_ = memory_.take<Vector<T>>(n);
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
    return Workspace::size<Pack<S>>(BatchPanels<S>::size(m, n) + 1) +
           Workspace::size<Pack<S>>(BatchPanels<S>::size(m, q_cols_)) +
           Workspace::size<Pack<S>>(k) + Workspace::size<Pack<S>>(k * kPanelColumns<S>) +
           Workspace::size<Vector<T>>(n) + Workspace::size<Vector<T>>(2 * pivoted) +
           Workspace::size<Vector<T>>(pivoted) + Workspace::size<int32_t>(kWidth<T> * pivoted);
  }

  // Factor the first group of `rest`, which is what is left of the block. Where the squares of a
  // column of one of its matrices leave the range of the type, all is done again with columns that
  // are brought near one; that changes nothing for the other matrices.
  void factor_group(const QrProblem<S>& rest) {
    const int count = filled_lanes<T>(rest.batch);
    const Vector<T> largest = reinterpret_cast<Vector<T>>(load(rest, count));
    Rescue<T> rescue;
    if (!any<T>(~(largest <= kOrdinary<T>))) {
      factor(rescue);
      if (!any<T>(rescue.lost)) {
        form_packed<S>(h_, q_cols_, q_);
        return write(rest, count);
      }
      load(rest, count);
    }
    rescue.careful = true;
    const Mask<T> finite = scale_columns();
    factor(rescue);
    form_packed<S>(h_, q_cols_, q_);
    unscale_columns();
    write(rest, count);
    for (int l = 0; l < count; ++l) {
      if (!finite[l]) fill_nan(rest.slice(l, 1));
    }
  }

  Mask<T> load(const QrProblem<S>& rest, int count) {
    const long length = rest.m * rest.n * kParts<S>;
    return pack_largest<T>(reals(rest.a), length, count, places_.a, rest.batch * length,
                           vectors(h_.v.data));
  }

  void factor(Rescue<T>& rescue) {
    if (!block_.pivoted()) return factor_packed<S>(h_, block_.n, rescue);
    BatchPivotedQr<S>(h_, block_.n, squares_, powers_, scales_, p_, rescue).run();
  }

  // Multiply the columns by powers of two. Returns the lanes whose matrix is finite; in the others
  // the powers are 1, as nothing depends on them.
  Mask<T> scale_columns() {
    Mask<T> finite = ~Mask<T>{};
    for (long j = 0; j < block_.n; ++j) {
      const Vector<T> largest = largest_entry<S>(h_.v.at(0, j), block_.m);
      for (int l = 0; l < kWidth<T>; ++l) {
        const T own = scale_for<T>(largest[l]);
        if (own != own) finite[l] = 0;
        scales_[j][l] = own != own ? 1 : own;
      }
      scale_column<S>(h_.v.at(0, j), block_.m, scales_[j]);
    }
    return finite;
  }

  // Divide the columns of R, which pivoting has permuted with their powers.
  void unscale_columns() {
    for (long j = 0; j < block_.n; ++j) {
      scale_column<S>(h_.v.at(0, j), std::min(block_.m, j + 1), 1 / scales_[j]);
    }
  }

  // Nothing that is written here, or for a later group, lies in an earlier group's matrices; so
  // matrices that need it may be written anew after this.
  void write(const QrProblem<S>& to, int count) const {
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
  }

  const QrProblem<S> block_;
  const QrPlaces<S>& places_;
  const long q_cols_;
  Workspace memory_;
  BatchReflectors<S> h_;
  BatchPanels<S> q_;
  Vector<T>* scales_;  // of the columns, where they had to be multiplied
  Vector<T>*squares_ = nullptr, *powers_ = nullptr;
  int32_t* p_ = nullptr;
};

}  // namespace jaxqr

// Q from given reflectors, and products with it, group by group.
#pragma once

#include <algorithm>

#include "batch/packing.h"
#include "batch/places.h"
#include "batch/sweeps.h"
#include "common/workspace.h"

namespace jaxqr {

// The tables of k reflectors that are given below the diagonal of an m x cols matrix, the same for
// all groups.
template <class S>
struct ReflectorPlaces {
  const Place *v, *tau;

  static size_t bytes(long m, long cols, long k) {
    return places_bytes<S>(m, cols) + places_bytes<S>(1, k);
  }

  ReflectorPlaces(long m, long cols, long k, Order order, Workspace& memory) {
    const long unread = BatchPanels<S>::size(m, cols);
    v = panel_places<S>(m, cols, order, Part::kStrictlyLower, m, unread, memory);
    tau = vector_places<S>(k, memory);
  }
};

// Memory for the reflectors of a group of matrices.
template <class S>
class ReflectorBuffer {
 public:
  static size_t bytes(long m, long cols, long k) {
    return Workspace::size<Pack<S>>(BatchPanels<S>::size(m, cols) + 1) +
           Workspace::size<Pack<S>>(k) + Workspace::size<Pack<S>>(k * kPanelColumns<S>);
  }

  ReflectorBuffer(long m, long cols, long k, Workspace& memory)
      : cols_(cols),
        h_{{memory.take<Pack<S>>(BatchPanels<S>::size(m, cols) + 1), m},
           k,
           memory.take<Pack<S>>(k),
           memory.take<Pack<S>>(k * kPanelColumns<S>)} {}

  // Load the first group of `rest` matrices: its reflectors, or those of Q's complex conjugate.
  const BatchReflectors<S>& load(const S* v, const S* tau, long rest,
                                 const ReflectorPlaces<S>& places, bool conjugate) {
    using T = RealOf<S>;
    const int count = filled_lanes<T>(rest);
    const long length = h_.v.rows * cols_ * kParts<S>, k = h_.count * kParts<S>;
    pack<T>(reals(v), length, count, places.v, rest * length, vectors(h_.v.data));
    pack<T>(reals(tau), k, count, places.tau, rest * k, vectors(h_.tau));
    if (kIsComplex<S> && conjugate) {
      const long size = BatchPanels<S>::size(h_.v.rows, cols_);
      for (long i = 0; i < size; ++i) h_.v.data[i] = conj(h_.v.data[i]);
      for (long j = 0; j < h_.count; ++j) h_.tau[j] = conj(h_.tau[j]);
    }
    fill_gram(h_);
    return h_;
  }

 private:
  long cols_;
  BatchReflectors<S> h_;
};

template <class S>
void form_groups(const FormProblem<S>& block, const ReflectorPlaces<S>& places,
                 const Place* q_places) {
  using T = RealOf<S>;
  const long m = block.m, n = block.n, size = BatchPanels<S>::size(m, n),
             length = m * n * kParts<S>;
  Workspace memory(ReflectorBuffer<S>::bytes(m, n, block.k) + Workspace::size<Pack<S>>(size));
  ReflectorBuffer<S> buffer(m, n, block.k, memory);
  const BatchPanels<S> q{memory.take<Pack<S>>(size), m};
  for (long b = 0; b < block.batch; b += kWidth<T>) {
    const FormProblem<S> rest = block.slice(b, block.batch - b);
    form_packed<S>(buffer.load(rest.h, rest.tau, rest.batch, places, false), n, q);
    unpack<T>(vectors(q.data), length, filled_lanes<T>(rest.batch), q_places, rest.batch * length,
              reals(rest.q));
  }
}

// Products from the right are products of the transposes from the left, C Q^H that of conj(Q) and
// C^T: `c_places` transpose C where needed.
template <class S>
void apply_groups(const ApplyProblem<S>& block, const ReflectorPlaces<S>& places,
                  const Place* c_places) {
  using T = RealOf<S>;
  const long m = block.m, cols = block.left ? block.cols : block.rows;
  const long size = BatchPanels<S>::size(m, cols), length = m * cols * kParts<S>;
  Workspace memory(ReflectorBuffer<S>::bytes(m, block.k, block.k) + Workspace::size<Pack<S>>(size));
  ReflectorBuffer<S> buffer(m, block.k, block.k, memory);
  const BatchPanels<S> c{memory.take<Pack<S>>(size), m};
  for (long b = 0; b < block.batch; b += kWidth<T>) {
    const ApplyProblem<S> rest = block.slice(b, block.batch - b);
    const int count = filled_lanes<T>(rest.batch);
    const BatchReflectors<S>& h = buffer.load(rest.h, rest.tau, rest.batch, places, !block.left);
    pack<T>(reals(rest.c), length, count, c_places, rest.batch * length, vectors(c.data));
    apply_packed<S>(h, block.adjoint == block.left, cols, c);
    unpack<T>(vectors(c.data), length, count, c_places, rest.batch * length, reals(rest.out));
  }
}

}  // namespace jaxqr

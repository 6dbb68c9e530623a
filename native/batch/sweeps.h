// Factorization, formation and application of Q on packed matrices, panel by panel.
#pragma once

#include <algorithm>
#include <type_traits>

#include "batch/reflect.h"

namespace jaxqr {

template <int N>
using Count = std::integral_constant<int, N>;

// Call body(Count<width>) for the width 1 <= width <= Most; nothing to do for none.
template <int Most, class Body>
JAXQR_INLINE void with_width(long width, const Body& body) {
  if (width == Most) return body(Count<Most>{});
  if constexpr (Most > 1) with_width<Most - 1>(width, body);
}

// Call body(Count<R>, j) for the reflectors j, ..., j + R - 1 that are applied together, of the
// first `count`: from the first to the last, or from the last to the first.
template <class S, class Body>
JAXQR_INLINE void each_forward(long count, const Body& body) {
  constexpr int most = kTogether<S>;
  const long last = count / most * most;
  for (long j = 0; j < last; j += most) body(Count<most>{}, j);
  with_width<most - 1>(count - last, [&](auto together) { body(together, last); });
}

template <class S, class Body>
JAXQR_INLINE void each_backward(long count, const Body& body) {
  constexpr int most = kTogether<S>;
  const long last = count / most * most;
  with_width<most - 1>(count - last, [&](auto together) { body(together, last); });
  for (long j = last - most; j >= 0; j -= most) body(Count<most>{}, j);
}

// Apply the first `count` reflectors, or their product's adjoint, to P columns of a panel.
template <class S, bool kAdjoint, int P>
void apply_to_panel(const BatchReflectors<S>& h, long count, Pack<S>* c) {
  const auto apply = [&](auto together, long j) {
    apply_together<S, kAdjoint, decltype(together)::value, P>(
        h.v.at(j, j), h.tau + j, h.gram_from(j), h.v.rows - j, c + j * kPanelColumns<S>);
  };
  if constexpr (kAdjoint) {
    each_forward<S>(count, apply);
  } else {
    each_backward<S>(count, apply);
  }
}

// Mark the lanes in which the square of a column's norm is too small to be trusted, among the
// columns from `first` on of a matrix.
template <class S>
void mark_small_columns(const BatchPanels<S>& v, long first, long n, Rescue<RealOf<S>>& rescue) {
  using T = RealOf<S>;
  for (long j = first; j < n; ++j) {
    // the last entry alone is mostly large enough
    if (!any<T>(small_squares<T>(abs2(*v.at(v.rows - 1, j))))) continue;
    const Mask<T> small = small_squares<T>(sum_of_squares<S>(v.at(0, j), v.rows));
    if (any<T>(small)) rescue.lost |= small & nonzero<S>(v.at(0, j), v.rows);
  }
}

// Factor n columns in place.
template <class S>
void factor_packed(const BatchReflectors<S>& h, long n, Rescue<RealOf<S>>& rescue) {
  for (long j = 0; j < n; j += kPanelColumns<S>) {
    with_width<kPanelColumns<S>>(std::min<long>(kPanelColumns<S>, n - j), [&](auto width) {
      constexpr int P = decltype(width)::value;
      apply_to_panel<S, true, P>(h, std::min(j, h.count), h.v.at(0, j));
      if (j >= h.count) return;
      factor_batch_panel<S, P>(h.v.at(j, j), h.v.rows - j, std::min<long>(P, h.count - j),
                               h.tau + j, h.gram + j * kPanelColumns<S>, rescue);
    });
  }
  // the other columns have met a reflector of their own, and been looked at
  const long reflected = std::min(h.count, h.v.rows - 1);
  if (!rescue.careful) mark_small_columns<S>(h.v, reflected, n, rescue);
}

// Fill in h.gram from the vectors.
template <class S>
void fill_gram(const BatchReflectors<S>& h) {
  for (long j = 0; j < h.count; j += kPanelColumns<S>) {
    with_width<kPanelColumns<S>>(std::min<long>(kPanelColumns<S>, h.count - j), [&](auto width) {
      compute_panel_gram<S, decltype(width)::value>(h.v.at(j, j), h.v.rows - j,
                                                    h.gram + j * kPanelColumns<S>);
    });
  }
}

// Form the columns j, ..., j + P - 1 of Q: zero above row j until the earlier reflectors act.
template <class S, int P>
void form_panel(const BatchReflectors<S>& h, const BatchPanels<S>& q, long j) {
  const long own = std::max(0L, std::min<long>(P, h.count - j));
  for (long i = 0; i < q.rows; ++i) {
    for (long p = i < j + own ? 0 : own; p < P; ++p) *q.at(i, j + p) = spread(S(i == j + p));
  }
  each_backward<S>(own, [&](auto together, long i) {
    constexpr int R = decltype(together)::value;
    const long first = j + i, rows = h.v.rows - first;
    const Pack<S>*v = h.v.at(first, first), *tau = h.tau + first, *gram = h.gram_from(first);
    with_width<kPanelColumns<S>>(P - i - R, [&](auto width) {
      apply_together<S, false, R, decltype(width)::value>(v, tau, gram, rows,
                                                          q.at(first, first + R));
    });
    form_together<S, R>(v, tau, gram, rows, q.at(first, first));
  });
  apply_to_panel<S, false, P>(h, std::min(j, h.count), q.at(0, j));
}

// Form the leading n columns of Q.
template <class S>
void form_packed(const BatchReflectors<S>& h, long n, const BatchPanels<S>& q) {
  for (long j = 0; j < n; j += kPanelColumns<S>) {
    with_width<kPanelColumns<S>>(std::min<long>(kPanelColumns<S>, n - j), [&](auto width) {
      form_panel<S, decltype(width)::value>(h, q, j);
    });
  }
}

// Multiply n columns by Q or its adjoint.
template <class S>
void apply_packed(const BatchReflectors<S>& h, bool adjoint, long n, const BatchPanels<S>& c) {
  for (long j = 0; j < n; j += kPanelColumns<S>) {
    with_width<kPanelColumns<S>>(std::min<long>(kPanelColumns<S>, n - j), [&](auto width) {
      constexpr int P = decltype(width)::value;
      if (adjoint) {
        apply_to_panel<S, true, P>(h, h.count, c.at(0, j));
      } else {
        apply_to_panel<S, false, P>(h, h.count, c.at(0, j));
      }
    });
  }
}

}  // namespace jaxqr

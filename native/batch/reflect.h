// Several reflectors at a time on several columns of packed matrices.
#pragma once

#include "batch/panel_qr.h"

namespace jaxqr {

// Reflectors that are applied together: as many as the registers have room for. A row of C is then
// loaded and stored once for all of them.
template <class S>
constexpr int kTogether = kIsComplex<S> || JAXQR_VECTOR_BYTES < 64 ? 2 : 4;

// The Gram matrix of the P reflectors of a panel, where they were not just made.
template <class S, int P>
__attribute__((noinline)) void compute_panel_gram(const Pack<S>* v, long rows, Pack<S>* gram) {
  Pack<S> products[P][P];
  const auto add_row = [&](const Pack<S>* row, int reflectors) {
    JAXQR_UNROLL
    for (int j = 0; j < reflectors; ++j) {
      JAXQR_UNROLL
      for (int l = 0; l < j; ++l) add_adjoint_product(products[j][l], row[j], row[l]);
    }
  };
  JAXQR_UNROLL
  for (int i = 0; i < P; ++i) {  // v_i begins here, with a one
    const Pack<S>* row = v + i * kPanelColumns<S>;
    JAXQR_UNROLL
    for (int l = 0; l < i; ++l) products[i][l] = row[l];
    add_row(row, i);
  }
  for (long i = P; i < rows; ++i) add_row(v + i * kPanelColumns<S>, P);
  JAXQR_UNROLL
  for (int j = 0; j < P; ++j) {
    JAXQR_UNROLL
    for (int l = 0; l < j; ++l) gram[j * kPanelColumns<S> + l] = products[j][l];
  }
}

// (H_1 ... H_R)^H C = C - V W and H_1 ... H_R C = C - V W with W = T^H V^H C and W = T V^H C, T as
// in (4.2); W is found by substitution. V is unit lower trapezoidal, its row stride that of C.

// W += V^H C over the rows from `begin` on, where V has no zeros.
template <class S, int R, int P>
JAXQR_INLINE void add_rows(const Pack<S>* v, const Pack<S>* c, long begin, long end,
                           Pack<S> (&w)[R][P]) {
  for (long i = begin; i < end; ++i) {
    const Pack<S>*v_row = v + i * kPanelColumns<S>, *c_row = c + i * kPanelColumns<S>;
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      JAXQR_UNROLL
      for (int l = 0; l < R; ++l) add_adjoint_product(w[l][p], v_row[l], c_row[p]);
    }
  }
}

// The same for many rows: sums are made of sums.
template <class S, int R, int P>
__attribute__((noinline)) void add_many_rows(const Pack<S>* v, const Pack<S>* c, long begin,
                                             long end, Pack<S> (&w)[R][P]) {
  for (long i = begin; i < end; i += kSumTerms) {
    Pack<S> part[R][P];
    for (int e = 0; e < R * P; ++e) part[e / P][e % P] = Pack<S>::zero();
    add_rows(v, c, i, std::min(end, i + kSumTerms), part);
    for (int e = 0; e < R * P; ++e) w[e / P][e % P] = w[e / P][e % P] + part[e / P][e % P];
  }
}

// W = V^H C.
template <class S, int R, int P>
JAXQR_INLINE void project(const Pack<S>* v, const Pack<S>* c, long rows, Pack<S> (&w)[R][P]) {
  JAXQR_UNROLL
  for (int i = 0; i < R; ++i) {
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      w[i][p] = c[i * kPanelColumns<S> + p];
      JAXQR_UNROLL
      for (int l = 0; l < i; ++l)
        add_adjoint_product(w[l][p], v[i * kPanelColumns<S> + l], w[i][p]);
    }
  }
  if (rows - R <= kSumTerms) return add_rows(v, c, R, rows, w);
  Pack<S> sums[R][P];  // in memory, as w must stay in registers
  std::copy(&w[0][0], &w[0][0] + R * P, &sums[0][0]);
  add_many_rows(v, c, R, rows, sums);
  std::copy(&sums[0][0], &sums[0][0] + R * P, &w[0][0]);
}

// W = T^H W or T W: each reflector sees what is left by those that act before it.
template <class S, bool kAdjoint, int R, int P>
JAXQR_INLINE void substitute(const Pack<S>* tau, const Pack<S>* gram, Pack<S> (&w)[R][P]) {
  JAXQR_UNROLL
  for (int step = 0; step < R; ++step) {
    const int i = kAdjoint ? step : R - 1 - step;
    const Pack<S> factor = kAdjoint ? conj(tau[i]) : tau[i];
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      JAXQR_UNROLL
      for (int l = 0; l < R; ++l) {
        if (kAdjoint && l < i) subtract_product(w[i][p], gram[i * kPanelColumns<S> + l], w[l][p]);
        if (!kAdjoint && l > i) {
          subtract_adjoint_product(w[i][p], gram[l * kPanelColumns<S> + i], w[l][p]);
        }
      }
      w[i][p] = factor * w[i][p];
    }
  }
}

// C = C - V W, or E - V W with the leading columns E of an identity.
template <class S, bool kIdentity, int R, int P>
JAXQR_INLINE void subtract(const Pack<S>* v, const Pack<S> (&w)[R][P], long rows, Pack<S>* c) {
  JAXQR_UNROLL
  for (int i = 0; i < R; ++i) {
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      Pack<S> x = kIdentity ? spread(S(i == p)) : c[i * kPanelColumns<S> + p];
      JAXQR_UNROLL
      for (int l = 0; l < i; ++l) subtract_product(x, v[i * kPanelColumns<S> + l], w[l][p]);
      c[i * kPanelColumns<S> + p] = x - w[i][p];
    }
  }
  for (long i = R; i < rows; ++i) {
    Pack<S> v_row[R];  // loaded once: for all the compiler knows, C might be V
    JAXQR_UNROLL
    for (int l = 0; l < R; ++l) v_row[l] = v[i * kPanelColumns<S> + l];
    Pack<S>* c_row = c + i * kPanelColumns<S>;
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      Pack<S> x = kIdentity ? Pack<S>::zero() : c_row[p];
      JAXQR_UNROLL
      for (int l = 0; l < R; ++l) subtract_product(x, v_row[l], w[l][p]);
      c_row[p] = x;
    }
  }
}

// C = (H_1 ... H_R)^H C or H_1 ... H_R C.
template <class S, bool kAdjoint, int R, int P>
__attribute__((noinline)) void apply_together(const Pack<S>* v, const Pack<S>* tau,
                                              const Pack<S>* gram, long rows, Pack<S>* c) {
  Pack<S> w[R][P];
  project<S>(v, c, rows, w);
  substitute<S, kAdjoint>(tau, gram, w);
  subtract<S, false>(v, w, rows, c);
}

// C = the leading R columns of H_1 ... H_R.
template <class S, int R>
__attribute__((noinline)) void form_together(const Pack<S>* v, const Pack<S>* tau,
                                             const Pack<S>* gram, long rows, Pack<S>* c) {
  Pack<S> w[R][R];  // V^H E, the adjoint of V's top
  JAXQR_UNROLL
  for (int l = 0; l < R; ++l) {
    JAXQR_UNROLL
    for (int p = 0; p < R; ++p) {
      w[l][p] = l < p ? conj(v[p * kPanelColumns<S> + l]) : spread(S(l == p));
    }
  }
  substitute<S, false>(tau, gram, w);
  subtract<S, true>(v, w, rows, c);
}

}  // namespace jaxqr

// The kernels that dispatch.cc chooses from. Every one makes a matrix with a NaN or an infinity
// NaN, and multiplies columns whose squares might leave the range of the type by powers of two
// (range.h).
#pragma once

#include "common/problems.h"

namespace jaxqr {

// Small matrices, many at a time: lanes_qr.cc, lanes_derivatives.cc.
template <class S>
void factor_batch(const QrProblem<S>& problem, Pool& pool);
template <class S>
void form_batch(const FormProblem<S>& problem, Pool& pool);
template <class S>
void apply_batch(const ApplyProblem<S>& problem, Pool& pool);
template <class S>
void compute_tangent_batch(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void compute_cotangent_batch(const DerivativeProblem<S>& problem, Pool& pool);

// Few columns: a panel, or row blocks reduced in a tree; n <= kTallColumns, m >= n; tall.cc.
constexpr long kTallColumns = 64;
template <class S>
void factor_tall(const QrProblem<S>& problem, Pool& pool);

// Many more rows than columns, n <= kTallColumns; tall_derivatives.cc.
template <class S>
void compute_tangent_tall(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void compute_cotangent_tall(const DerivativeProblem<S>& problem, Pool& pool);

// Q from the left on at most kFewColumns columns, by rows (problem.batch is 1); few_columns.cc.
constexpr long kFewColumns = 4;
template <class S>
void apply_few_columns(const ApplyProblem<S>& problem, Pool& pool);

// One matrix of any shape (problem.batch is 1): blocked.cc, pivoted.cc, derivatives.cc.
template <class S>
void factor_blocked(const QrProblem<S>& problem, Pool& pool);
template <class S>
void factor_pivoted(const QrProblem<S>& problem, Pool& pool);
template <class S>
void factor_randomized(const QrProblem<S>& problem, Pool& pool);
template <class S>
void form_blocked(const FormProblem<S>& problem, Pool& pool);
template <class S>
void apply_blocked(const ApplyProblem<S>& problem, Pool& pool);
template <class S>
void compute_tangent_blocked(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void compute_cotangent_blocked(const DerivativeProblem<S>& problem, Pool& pool);

}  // namespace jaxqr

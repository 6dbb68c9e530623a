// The kernels that dispatch.cc chooses from. Every one makes a matrix with a NaN or an infinity
// NaN, and multiplies columns whose squares might leave the range of the type by powers of two
// (range.h).
#pragma once

#include "common/problems.h"

namespace jaxqr {

// Many small matrices at a time: batch/qr.cc and derivatives/batch.cc.
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

// Matrices of few columns (n <= kTallColumns, m >= n) as one panel, or as blocks of rows whose
// triangles are stacked and factored in turn: tall/tall_qr.cc.
constexpr long kTallColumns = 64;
template <class S>
void factor_tall(const QrProblem<S>& problem, Pool& pool);

// Derivatives of matrices with many more rows than columns (n <= kTallColumns):
// derivatives/tall.cc.
template <class S>
void compute_tangent_tall(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void compute_cotangent_tall(const DerivativeProblem<S>& problem, Pool& pool);

// Q applied from the left to at most kFewColumns columns, which lie by rows. problem.batch must be
// 1: blocked/few_columns.cc.
constexpr long kFewColumns = 4;
template <class S>
void apply_few_columns(const ApplyProblem<S>& problem, Pool& pool);

// One matrix of any shape. problem.batch must be 1: blocked/blocked_qr.cc, pivoted/pivoted_qr.cc
// and derivatives/blocked.cc.
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

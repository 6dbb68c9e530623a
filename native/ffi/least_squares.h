// The custom calls of least squares.
#pragma once

#include "ffi/call.h"

namespace jaxqr {

// Fill in the arrays of a decomposition, results or operands, by the names that
// jaxqr/_lstsq/decomposition.py gives them: those that there are. `take` gets the buffers of other
// names, and says whether it knows the name.
template <class S, class Remaining, class Take>
void fill_decomposition(Call& call, CodProblem<S>& cod, const Remaining& buffers,
                        const std::string& names, const Take& take) {
  const long m = call.rows(), n = call.cols();
  if (m < n) call.fail("a decomposition needs a deep matrix, got " + describe(call.first()));
  cod = {call.batch(), m, n, 0};
  int outer = 0, inner = 0, revealing = 0;  // how many arrays there are of each kind
  for_named(call, buffers, names, [&](std::string_view name, const Buffer& buffer) {
    if (name == "h") {
      cod.h = call.matrix<S>("h", buffer, m, n), ++outer;
    } else if (name == "tau") {
      cod.tau = call.vector<S>("tau", buffer, n), ++outer;
    } else if (name == "h1") {
      cod.h1 = call.matrix<S>("h1", buffer, n, n), ++inner;
    } else if (name == "tau1") {
      cod.tau1 = call.vector<S>("tau1", buffer, n), ++inner;
    } else if (name == "p") {
      cod.p = call.data<int32_t>("p", buffer, ffi::S32, {n}), ++revealing;
    } else if (name == "rank") {
      cod.rank = call.data<int32_t>("rank", buffer, ffi::S32, {}), ++revealing;
    } else if (name == "hz") {
      cod.hz = call.matrix<S>("hz", buffer, n, n), ++revealing;
    } else if (name == "tauz") {
      cod.tauz = call.vector<S>("tauz", buffer, n), ++revealing;
    } else if (!take(name, buffer)) {
      call.fail("unknown factor " + std::string(name));
    }
  });
  if (outer != 2 || inner % 2 || revealing % 4 || (inner && !revealing)) {
    call.fail("no decomposition has just the factors " + names);
  }
}

inline ffi::Error decompose_handler(ffi::ThreadPool pool, Buffer a, ffi::RemainingRets results,
                                    double rcond, std::string_view factors) {
  Call call(a);
  const auto fill = [&](auto& cod) {
    const auto take_none = [](std::string_view, const Buffer&) { return false; };
    fill_decomposition(call, cod, results, std::string(factors), take_none);
    cod.rcond = rcond;
    cod.a = call.first_data<JAXQR_SCALAR_OF(cod)>();
  };
  return run<CodProblem>(call, pool, fill, [](const auto& p, Pool& pool) { decompose(p, pool); });
}

inline Operation operation_of(Call& call, std::string_view name) {
  if (name == "solve") return Operation::kSolve;
  if (name == "solve_adjoint") return Operation::kSolveAdjoint;
  if (name == "gram") return Operation::kGram;
  if (name != "null") call.fail("unknown operation " + std::string(name));
  return Operation::kNull;
}

// Its operands are A, the factors and V.
inline ffi::Error pseudoinverse_handler(ffi::ThreadPool pool, Buffer a,
                                        ffi::RemainingArgs operands, ffi::Result<Buffer> out,
                                        std::string_view operation, std::string_view factors) {
  Call call(a);
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    std::optional<Buffer> v;
    const auto take_v = [&](std::string_view name, const Buffer& buffer) {
      if (name == "v") v = buffer;
      return name == "v";
    };
    fill_decomposition(call, problem.cod, operands, std::string(factors) + ",v", take_v);
    if (!v) return;
    problem.s = last_dimension(*v, 0);
    problem.operation = operation_of(call, operation);
    problem.v = call.matrix<S>("v", *v, problem.rows_in(), problem.s);
    problem.out = call.matrix<S>("out", *out, problem.rows_out(), problem.s);
  };
  return run<PseudoinverseProblem>(call, pool, fill,
                                   [](const auto& p, Pool& pool) { apply_pseudoinverse(p, pool); });
}

inline ffi::Error lstsq_handler(ffi::ThreadPool pool, Buffer a, Buffer b, ffi::Result<Buffer> x,
                                ffi::Result<Buffer> residuals, ffi::Result<Buffer> rank,
                                double rcond, bool pivoting) {
  Call call(a);
  const long m = call.rows(), n = call.cols(), s = last_dimension(b, 0);
  if (m < n) call.fail("lstsq needs a deep matrix, got " + describe(a));
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem = {call.batch(), m, n, s, pivoting, rcond};
    problem.a = call.first_data<S>();
    problem.b = call.matrix<S>("b", b, m, s);
    problem.x = call.matrix<S>("x", *x, n, s);
    problem.residuals = call.vector<RealOf<S>>("residuals", *residuals, s);
    problem.rank = call.data<int32_t>("rank", *rank, ffi::S32, {});
  };
  return run<LstsqProblem>(call, pool, fill,
                           [](const auto& p, Pool& pool) { solve_least_squares(p, pool); });
}

inline ffi::Error solve_handler(ffi::ThreadPool pool, Buffer t, Buffer b, ffi::Result<Buffer> x,
                                bool left, bool lower, bool transpose, bool conjugate, bool unit) {
  Call call(t);
  const Dimensions dims = b.dimensions();
  const long n = call.rows(), cols = last_dimension(b, 0);
  const long rows = dims.size() < 2 ? -1 : static_cast<long>(dims[dims.size() - 2]);
  if (call.cols() != n || (left ? rows : cols) != n) {
    call.fail("a triangle must be square and match, got " + describe(t) + " for " + describe(b));
  }
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem = {call.batch(), n, rows, cols, left, lower, transpose, conjugate, unit};
    problem.t = call.first_data<S>();
    problem.b = call.matrix<S>("b", b, rows, cols);
    problem.x = call.matrix<S>("x", *x, rows, cols);
  };
  return run<SolveProblem>(call, pool, fill,
                           [](const auto& p, Pool& pool) { solve_triangles(p, pool); });
}

}  // namespace jaxqr

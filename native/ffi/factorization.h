// The custom calls of factorizations, reflectors and their derivatives.
#pragma once

#include "ffi/call.h"

namespace jaxqr {

inline Pivoting pivoting_of(Call& call, std::string_view name) {
  if (name == "exact") return Pivoting::kExact;
  if (name == "randomized") return Pivoting::kRandomized;
  if (name != "none") call.fail("unknown pivoting " + std::string(name));
  return Pivoting::kNone;
}

inline ffi::Error factor_leading(ffi::ThreadPool pool, Buffer a, ffi::RemainingRets results,
                                 std::string_view outputs, std::string_view pivoting,
                                 bool transposed, long most) {
  Call call(a, transposed);
  const long m = call.rows(), n = call.cols(), k = std::min({m, n, most});
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem.batch = call.batch();
    problem.m = m;
    problem.n = n;
    problem.order = order_of(transposed);
    problem.pivoting = pivoting_of(call, pivoting);
    problem.most = most;
    problem.a = call.first_data<S>();
    for_named(call, results, outputs, [&](std::string_view name, const Buffer& to) {
      if (name == "q") {
        problem.q = call.matrix<S>("q", to, m, k);
      } else if (name == "q_full") {
        problem.q_full = call.matrix<S>("q_full", to, m, m);
      } else if (name == "r") {
        problem.r = call.matrix<S>("r", to, k, n);
      } else if (name == "h") {
        problem.h = call.matrix<S>("h", to, m, n);
      } else if (name == "tau") {
        problem.tau = call.vector<S>("tau", to, k);
      } else if (name == "p" && problem.pivoted()) {
        problem.p = call.data<int32_t>("p", to, ffi::S32, {n});
      } else {
        call.fail("unknown output " + std::string(name));
      }
    });
  };
  return run<QrProblem>(call, pool, fill, [](const auto& p, Pool& pool) { factor(p, pool); });
}

inline ffi::Error factor_handler(ffi::ThreadPool pool, Buffer a, ffi::RemainingRets results,
                                 std::string_view outputs, std::string_view pivoting,
                                 bool transposed) {
  return factor_leading(pool, a, results, outputs, pivoting, transposed,
                        std::numeric_limits<long>::max());
}

// The same for as many pivots as `steps` says.
inline ffi::Error leading_handler(ffi::ThreadPool pool, Buffer a, ffi::RemainingRets results,
                                  std::string_view outputs, std::string_view pivoting,
                                  int64_t steps, bool transposed) {
  if (steps < 0 || pivoting == "none" || outputs.find('h') != std::string_view::npos) {
    return ffi::Error::InvalidArgument("jaxqr: leading pivots need pivoting, and give no h");
  }
  return factor_leading(pool, a, results, outputs, pivoting, transposed, steps);
}

inline ffi::Error form_handler(ffi::ThreadPool pool, Buffer h, Buffer tau, ffi::Result<Buffer> q) {
  Call call(h);
  const long m = call.rows(), n = call.cols(), k = last_dimension(tau, -1);
  if (n > m || k > n) call.fail("form needs k <= n <= m, got h " + describe(h));
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem = {call.batch(), m, n, k, Order::kRows};
    problem.h = call.first_data<S>();
    problem.tau = call.vector<S>("tau", tau, k);
    problem.q = call.matrix<S>("q", *q, m, n);
  };
  return run<FormProblem>(call, pool, fill, [](const auto& p, Pool& pool) { form(p, pool); });
}

inline ffi::Error apply_handler(ffi::ThreadPool pool, Buffer h, Buffer tau, Buffer c,
                                ffi::Result<Buffer> out, bool left, bool adjoint) {
  Call call(h);
  const long m = call.rows(), k = call.cols();
  const Dimensions dims = c.dimensions();
  if (dims.size() < 2 || dims[dims.size() - (left ? 2 : 1)] != m || k > m) {
    call.fail("apply needs k <= m and c to match, got h " + describe(h) + ", c " + describe(c));
    return call.error();
  }
  const long rows = dims[dims.size() - 2], cols = dims[dims.size() - 1];
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem = {call.batch(), m, k, rows, cols, Order::kRows, left, adjoint};
    problem.h = call.first_data<S>();
    problem.tau = call.vector<S>("tau", tau, k);
    problem.c = call.matrix<S>("c", c, rows, cols);
    problem.out = call.matrix<S>("out", *out, rows, cols);
  };
  return run<ApplyProblem>(call, pool, fill,
                           [](const auto& p, Pool& pool) { jaxqr::apply(p, pool); });
}

// Fill in the problem of either derivative: Q and R, the matrix like A, and those of the tangents
// or cotangents of Q and R that are among `names`.
template <class S, class Remaining>
void fill_derivative(Call& call, DerivativeProblem<S>& problem, const Buffer& r,
                     const Buffer& like_a, const Remaining& like_qr, std::string_view names,
                     bool pivoted, bool transposed) {
  const long m = call.rows(), k = call.cols();
  const Dimensions dims = r.dimensions();
  const long n = dims.size() < 2 ? -1 : dims[dims.size() - (transposed ? 2 : 1)];
  if (k != std::min(m, n)) call.fail("r does not match q, got " + describe(r));
  problem = {call.batch(), m, n, order_of(transposed), pivoted};
  problem.q = call.first_data<S>();
  problem.r = call.matrix<S>("r", r, k, n);
  problem.da = call.matrix<S>("a's (co)tangent", like_a, m, n);
  for_named(call, like_qr, names, [&](std::string_view name, const Buffer& buffer) {
    if (name == "q") {
      problem.dq = call.matrix<S>("q's (co)tangent", buffer, m, k);
    } else if (name == "r") {
      problem.dr = call.matrix<S>("r's (co)tangent", buffer, k, n);
    } else {
      call.fail("unknown name " + std::string(name));
    }
  });
}

inline ffi::Error tangent_handler(ffi::ThreadPool pool, Buffer q, Buffer r, Buffer da,
                                  ffi::RemainingRets results, std::string_view outputs,
                                  bool pivoted, bool transposed) {
  Call call(q, transposed);
  const auto fill = [&](auto& problem) {
    fill_derivative(call, problem, r, da, results, outputs, pivoted, transposed);
  };
  return run<DerivativeProblem>(call, pool, fill,
                                [](const auto& p, Pool& pool) { compute_tangent(p, pool); });
}

inline ffi::Error cotangent_handler(ffi::ThreadPool pool, Buffer q, Buffer r,
                                    ffi::RemainingArgs cotangents, ffi::Result<Buffer> abar,
                                    std::string_view inputs, bool pivoted, bool transposed) {
  Call call(q, transposed);
  const auto fill = [&](auto& problem) {
    fill_derivative(call, problem, r, *abar, cotangents, inputs, pivoted, transposed);
  };
  return run<DerivativeProblem>(call, pool, fill,
                                [](const auto& p, Pool& pool) { compute_cotangent(p, pool); });
}

}  // namespace jaxqr

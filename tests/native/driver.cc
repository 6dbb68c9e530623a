// The kernels without XLA: plain functions that a test calls, on a pool of threads of its own.
#include <atomic>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/pool.h"
#include "common/problems.h"
#include "common/workspace.h"

namespace jaxqr {
namespace {

class Threads : public Pool {
 public:
  ~Threads() override {
    for (std::thread& thread : started_) thread.join();
  }
  long threads() const override { return 3; }
  void schedule(std::function<void()> task) override { started_.emplace_back(std::move(task)); }

 private:
  std::vector<std::thread> started_;
};

// Takes a task, which runs when it is told to, and refuses all others.
class Refusing : public Pool {
 public:
  long threads() const override { return 4; }
  void schedule(std::function<void()> task) override {
    if (task_) throw std::bad_alloc();
    task_ = std::move(task);
  }
  void run() { task_(); }

 private:
  std::function<void()> task_;
};

// Call body(S{}) for the scalar type that the letter of NumPy's dtype names.
template <class Body>
void for_letter(char letter, Body body) {
  switch (letter) {
    case 'f':
      return body(float{});
    case 'd':
      return body(double{});
    case 'F':
      return body(std::complex<float>{});
    case 'D':
      return body(std::complex<double>{});
  }
}

Order order_of(bool transposed) { return transposed ? Order::kColumns : Order::kRows; }

template <class S>
CodProblem<S> decomposition(long batch, long m, long n, double rcond, const void* a, void* h,
                            void* tau, void* h1, void* tau1, int32_t* p, int32_t* rank, void* hz,
                            void* tauz) {
  CodProblem<S> cod{batch, m, n, rcond};
  cod.a = static_cast<const S*>(a);
  cod.h = static_cast<S*>(h);
  cod.tau = static_cast<S*>(tau);
  cod.h1 = static_cast<S*>(h1);
  cod.tau1 = static_cast<S*>(tau1);
  cod.p = p;
  cod.rank = rank;
  cod.hz = static_cast<S*>(hz);
  cod.tauz = static_cast<S*>(tauz);
  return cod;
}

}  // namespace
}  // namespace jaxqr

using namespace jaxqr;
#pragma GCC visibility push(default)

extern "C" void test_factor(char letter, long batch, long m, long n, bool transposed, int pivoting,
                            long most, const void* a, void* q, void* q_full, void* r, void* h, void* tau,
                            int32_t* p) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    QrProblem<S> problem{batch, m, n, order_of(transposed), static_cast<Pivoting>(pivoting)};
    problem.most = most;
    problem.a = static_cast<const S*>(a);
    problem.q = static_cast<S*>(q);
    problem.q_full = static_cast<S*>(q_full);
    problem.r = static_cast<S*>(r);
    problem.h = static_cast<S*>(h);
    problem.tau = static_cast<S*>(tau);
    problem.p = p;
    Threads pool;
    factor(problem, pool);
  });
}

extern "C" void test_solve(char letter, long batch, long n, long rows, long cols, bool left,
                           bool lower, bool transpose, bool conjugate, bool unit, const void* t,
                           const void* b, void* x) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    SolveProblem<S> problem{batch, n, rows, cols, left, lower, transpose, conjugate, unit};
    problem.t = static_cast<const S*>(t);
    problem.b = static_cast<const S*>(b);
    problem.x = static_cast<S*>(x);
    Threads pool;
    solve_triangles(problem, pool);
  });
}

extern "C" void test_form(char letter, long batch, long m, long n, long k, const void* h,
                          const void* tau, void* q) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    FormProblem<S> problem{batch, m, n, k, Order::kRows};
    problem.h = static_cast<const S*>(h);
    problem.tau = static_cast<const S*>(tau);
    problem.q = static_cast<S*>(q);
    Threads pool;
    form(problem, pool);
  });
}

extern "C" void test_apply(char letter, long batch, long m, long k, long rows, long cols, bool left,
                           bool adjoint, const void* h, const void* tau, const void* c, void* out) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    ApplyProblem<S> problem{batch, m, k, rows, cols, Order::kRows, left, adjoint};
    problem.h = static_cast<const S*>(h);
    problem.tau = static_cast<const S*>(tau);
    problem.c = static_cast<const S*>(c);
    problem.out = static_cast<S*>(out);
    Threads pool;
    jaxqr::apply(problem, pool);
  });
}

extern "C" void test_derivative(char letter, long batch, long m, long n, bool transposed,
                                bool pivoted, bool forward, const void* q, const void* r, void* da,
                                void* dq, void* dr) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    DerivativeProblem<S> problem{batch, m, n, order_of(transposed), pivoted};
    problem.q = static_cast<const S*>(q);
    problem.r = static_cast<const S*>(r);
    problem.da = static_cast<S*>(da);
    problem.dq = static_cast<S*>(dq);
    problem.dr = static_cast<S*>(dr);
    Threads pool;
    if (forward) {
      compute_tangent(problem, pool);
    } else {
      compute_cotangent(problem, pool);
    }
  });
}

extern "C" void test_decompose(char letter, long batch, long m, long n, double rcond, const void* a,
                               void* h, void* tau, void* h1, void* tau1, int32_t* p, int32_t* rank,
                               void* hz, void* tauz) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    Threads pool;
    decompose(decomposition<S>(batch, m, n, rcond, a, h, tau, h1, tau1, p, rank, hz, tauz), pool);
  });
}

extern "C" void test_pseudoinverse(char letter, long batch, long m, long n, long s, int operation,
                                   void* h, void* tau, void* h1, void* tau1, int32_t* p,
                                   int32_t* rank, void* hz, void* tauz, const void* v, void* out) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    PseudoinverseProblem<S> problem{
        decomposition<S>(batch, m, n, 0, nullptr, h, tau, h1, tau1, p, rank, hz, tauz), s,
        static_cast<Operation>(operation)};
    problem.v = static_cast<const S*>(v);
    problem.out = static_cast<S*>(out);
    Threads pool;
    apply_pseudoinverse(problem, pool);
  });
}

extern "C" void test_least_squares(char letter, long batch, long m, long n, long s, bool pivoting,
                                   double rcond, const void* a, const void* b, void* x,
                                   void* residuals, int32_t* rank) {
  for_letter(letter, [&](auto scalar) {
    using S = decltype(scalar);
    LstsqProblem<S> problem{batch, m, n, s, pivoting, rcond};
    problem.a = static_cast<const S*>(a);
    problem.b = static_cast<const S*>(b);
    problem.x = static_cast<S*>(x);
    problem.residuals = static_cast<RealOf<S>*>(residuals);
    problem.rank = rank;
    Threads pool;
    solve_least_squares(problem, pool);
  });
}

// How many bodies of `count` are done on a pool that refuses tasks. One that it took runs after the
// bodies have ended.
extern "C" long test_refusing_pool(long count) {
  std::atomic<long> done{0};
  Refusing pool;
  {
    const auto body = [&](long) { ++done; };
    parallel_for(pool, count, body);
  }
  pool.run();
  return done;
}

// How many bodies of `count` are done if one throws and the caller hears of it; -1 if it does not.
extern "C" long test_throwing_body(long count) {
  std::atomic<long> done{0};
  try {
    Threads pool;
    parallel_for(pool, count, [&](long i) {
      if (i == count / 2) throw std::invalid_argument("this one");
      ++done;
    });
  } catch (const std::invalid_argument&) {
    return done;
  }
  return -1;
}

// The bytes that `count` threads keep together after each has had three nested workspaces of
// `bytes` while all others had theirs.
extern "C" long test_kept_bytes(long count, long bytes) {
  std::atomic<long> full{0}, idle{0}, kept{-1};
  const auto work = [&] {
    {
      Workspace first(bytes), second(bytes), third(bytes);
      ++full;
      while (full < count) std::this_thread::yield();
    }
    ++idle;
    while (kept < 0) std::this_thread::yield();  // what a thread keeps ends with it
  };
  std::vector<std::thread> threads;
  for (long i = 0; i < count; ++i) threads.emplace_back(work);
  while (idle < count) std::this_thread::yield();
  kept = static_cast<long>(Workspace::bytes_in_blocks());
  for (std::thread& thread : threads) thread.join();
  return kept;
}

// A pool of threads, as the kernels see it.
#pragma once

#include <functional>

namespace jaxqr {

class Pool {
 public:
  virtual ~Pool() = default;
  virtual long threads() const = 0;
  virtual void schedule(std::function<void()> task) = 0;
};

}  // namespace jaxqr

// Loops over a pool of threads. All of them are compiled once, in parallel.cc: a loop over a pool
// is much to compile, and many kernels have several.
#pragma once

namespace jaxqr {

class Pool;  // common/pool.h

// A reference to a callable object, which must live as long as this does. Unlike a std::function it
// copies nothing and needs no memory.
template <class... Arguments>
class BodyRef {
 public:
  template <class Body>
  BodyRef(const Body& body)
      : body_(&body), call_([](const void* object, Arguments... arguments) {
          (*static_cast<const Body*>(object))(arguments...);
        }) {}

  void operator()(Arguments... arguments) const { call_(body_, arguments...); }

 private:
  const void* body_;
  void (*call_)(const void*, Arguments...);
};

using IndexBody = BodyRef<long>;        // of an index
using RangeBody = BodyRef<long, long>;  // of a range's begin and end, or first and count

// The threads that a loop may use.
long thread_count(const Pool& pool);

// A pool without threads, for computations within a thread of another pool.
Pool& serial_pool();

// Run body(i) for every i in [0, count), in any order, on the pool and on the calling thread.
//
// The caller works through the indices itself and waits for those that were begun, never for a
// scheduled task to start: so it cannot deadlock, however busy the pool is.
// What a body throws is thrown here, once all bodies are done. A pool that refuses a task, by an
// exception, leaves the work to the tasks that it took before and to the caller.
void parallel_for(Pool& pool, long count, IndexBody body);

// Run body(begin, end) over ranges of [0, count), on the pool where they are work enough.
// `cost` is the number of entries that one index stands for.
void for_ranges(Pool& pool, long count, long cost, RangeBody body);

// Run body(first, count) over ranges of a batch: whole groups of `width`, but for the last, and
// work enough to be worth a thread's while. `cost` is that of a group, in tenths of a nanosecond or
// so.
void for_groups(Pool& pool, long batch, long width, double cost, RangeBody body);

}  // namespace jaxqr
